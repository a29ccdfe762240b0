"""The sweeps and searches that MLflow holds, a line each: ``fishernet list``."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fishernet.commands import hide_password
from fishernet.flags import Parser
from fishernet.plan import Json, SweepPlan
from fishernet.services import mlflow_store, schema
from fishernet.services.mlflow_store import TrackingError, check_uri, children, client_of, sentences
from fishernet.surroundings import entry_point
from sweeps.flags import add_store_flags, checked_store
from sweeps.lock import is_held
from sweeps.space import SearchPlan

if TYPE_CHECKING:
    from fishernet.services.mlflow_store import Experiment, Run

KINDS = ("sweep", "search")


@dataclass(frozen=True)
class Recorded:
    """A sweep or search as MLflow and its folder tell it."""

    name: str
    kind: str
    dataset: str  # empty where its plan cannot be read, as of another version
    planned: int
    runs: Counter[str]  # by status
    running: bool  # a driver is at it
    began: int  # milliseconds since 1970
    folders: tuple[Path, ...]  # of this machine: its own, and that of its files in MLflow

    def __str__(self) -> str:
        finished, failed, other = self.runs["FINISHED"], self.runs["FAILED"], self.runs["KILLED"] + self.runs["RUNNING"]
        said = f"{finished} of {self.planned or self.runs.total()} finished"
        said += f", {failed} failed" if failed else ""
        said += f", {other} {'under way' if self.running else 'stopped'}" if other else ""
        return said

    @property
    def size(self) -> int:
        """Bytes on this machine's disk."""
        return sum(size_of(folder) for folder in self.folders)


def recorded(uri: str, storage: Path) -> list[Recorded]:
    """All of them, the one begun last first; raises TrackingError."""
    check_uri(uri, make=False)
    found = []
    with sentences(uri):
        client = client_of(uri)
        for kind in KINDS:
            for experiment, parent in mlflow_store.sweeps(client, kind):
                statuses = Counter(run.info.status for run in children(client, experiment.experiment_id))
                found.append(_recorded(uri, storage, kind, experiment, parent, statuses))
    return sorted(found, key=lambda one: one.began, reverse=True)


def _recorded(
    uri: str, storage: Path, kind: str, experiment: Experiment, parent: Run, statuses: Counter[str]
) -> Recorded:
    try:
        plan: Json = schema.plan_of(parent.data.tags) or {}
        planned = (SearchPlan if kind == "search" else SweepPlan).from_dict(plan)
        dataset, n_runs = planned.example.dataset, planned.n_runs
    except (schema.SchemaError, KeyError, TypeError, ValueError, IndexError):
        dataset, n_runs = "", 0
    folder = folder_of(storage, parent, experiment)
    files = mlflow_store.files_folder(uri, experiment)
    there = tuple(place for place in (folder, files) if place is not None and place.is_dir())
    return Recorded(
        experiment.name, kind, dataset, n_runs, statuses, is_held(folder), parent.info.start_time or 0, there
    )


def folder_of(storage: Path, parent: Run, experiment: Experiment) -> Path:
    """The folder below ``storage`` that belongs to a sweep: its name is the one that the sweep was begun under."""
    return storage / schema.folder_name(parent.data.tags.get(schema.SWEEP) or experiment.name)


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder; what goes meanwhile counts as nothing."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size  # noqa: PTH118 (of many thousand files)
            except OSError:
                continue
    return total


def in_words(n_bytes: int) -> str:
    """``3.1 MB``."""
    size, units = float(n_bytes), ["TB", "GB", "MB", "kB", "B"]
    while size >= 999.5 and len(units) > 1:  # which three digits would round to 1e+03
        size, _ = size / 1000, units.pop()
    return f"{size:.3g} {units[-1]}"


def make_parser() -> Parser:
    """Of ``fishernet list``."""
    parser = Parser(name="list", description=__doc__)
    add_store_flags(parser)
    return parser


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 where there is no such store, or 130 interrupted."""
    parser = make_parser()
    args = parser.parse_args(argv)
    uri, storage = checked_store(parser, args)
    try:
        found = recorded(uri, storage)
    except TrackingError as error:
        print(f"error: {mlflow_store.uri_source(args.tracking_uri)}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if not found:
        print(f"no sweeps and no searches in {hide_password(uri)}")
        return 0
    rows = [("name", "kind", "data set", "runs", "size", "begun")]
    for one in found:
        begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.began / 1000))
        rows.append((one.name, one.kind, Path(one.dataset).name or "?", str(one), in_words(one.size), begun))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0
