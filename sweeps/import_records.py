"""Import the records of runs trained without MLflow: fishernet import FOLDER --name SWEEP.

FOLDER is what ``fishernet train`` wrote: plan.json, and a sub-folder per run with record.json and its
files. Importing again adds what is new and changes nothing else.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file, from any folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fishernet import interrupts
from fishernet.config import TrialConfig
from fishernet.families import trial_config
from fishernet.flags import Parser
from fishernet.plan import Json, PlanError, SweepPlan
from fishernet.services import schema
from fishernet.services.mlflow_store import (
    TrackingError,
    check_uri,
    default_artifact_root,
    default_tracking_uri,
    prepare_mlflow,
    uri_source,
)
from fishernet.surroundings import entry_point
from sweeps.flags import add_store_flags, name_problem, storage_problem
from sweeps.lock import hold_lock
from sweeps.tracking import SweepTracking
from sweeps.tracking_queue import Epoch

# Nobody trains an imported run any further, so that one "running" ends where its record does.
STATUSES = {"finished": "FINISHED", "failed": "FAILED", "running": "KILLED"}
LATEST = 253402300800  # the year 10000, where dates end
UNFINISHED = "its record was imported before it had finished"


class RecordError(ValueError):
    """What is wrong with which file, as a sentence."""


@dataclass(frozen=True)
class RecordFile:
    """One run as its record.json tells it."""

    folder: Path
    config: TrialConfig
    status: str  # FINISHED, FAILED or KILLED
    reason: str | None
    epochs: list[Epoch]

    @property
    def last_epoch(self) -> int:
        return max((epoch["epoch"] for epoch in self.epochs), default=0)


@dataclass(frozen=True)
class PlanFile:
    """The sweep as its plan.json tells it."""

    plan: SweepPlan
    pca_test_mse: list[tuple[int, float]]  # (latent dimension, mean squared error)
    data_fingerprint: str
    held_out: str  # the images the runs were scored on: test or validation
    command: str
    provenance: dict[str, str]  # tags


def read_folder(folder: Path) -> tuple[PlanFile, list[RecordFile]]:
    """The plan and every record below folder, all of them valid; raises RecordError."""
    if not folder.is_dir():
        raise RecordError(f"the folder {folder} does not exist")
    with _blaming(folder / "plan.json") as data:
        plan = _plan_file(data)
    records: dict[TrialConfig, RecordFile] = {}
    for path in sorted(folder.glob("*/record.json")):
        with _blaming(path) as data:
            record = _record_file(path.parent, data)
        first = records.setdefault(record.config, record)
        if first is not record:
            raise RecordError(f"{first.folder} and {record.folder} hold the same trial config; remove one")
    if not records:
        raise RecordError(f"{folder} holds no records: none of its sub-folders has a record.json")
    return plan, list(records.values())


@contextmanager
def _blaming(path: Path) -> Iterator[Any]:
    """The parsed file; what goes wrong with it becomes a RecordError that names it."""
    try:
        yield json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path} does not exist; `fishernet train` writes it") from None
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        raise RecordError(f"{path} is damaged or of another version: {reason}; nothing was imported") from error


def _plan_file(data: Json) -> PlanFile:
    plan = SweepPlan.from_dict({"configs": data["configs"]})
    if not plan.configs:
        raise ValueError("it plans no runs")
    pca_test_mse = [(int(d), float(mse)) for d, mse in data["pca_test_mse"].items()]
    if problem := next((d for d, _ in pca_test_mse if not 0 <= d < 2**31), None):
        raise ValueError(f"pca_test_mse has no latent dimension {problem}")
    return PlanFile(
        plan=plan,
        pca_test_mse=pca_test_mse,
        data_fingerprint=str(data["data_fingerprint"]),
        held_out=str(data.get("held_out", "test")),
        command=str(data["command"]),
        provenance={
            tag: json.dumps(data[key]) for key, tag in (("versions", schema.VERSIONS), ("machine", schema.MACHINE))
        },
    )


def _record_file(folder: Path, data: Json) -> RecordFile:
    epochs: list[Epoch] = [
        {
            "epoch": int(epoch["epoch"]),
            "time": float(epoch["time"]),
            "metrics": {str(name): float(value) for name, value in epoch["metrics"].items()},
        }
        for epoch in data["epochs"]
    ]
    config = trial_config(data["config"])
    if not all(1 <= epoch["epoch"] <= config.epochs for epoch in epochs):
        raise ValueError(f"its epochs must count from 1 to the {config.epochs} of its config")
    if not all(0 <= epoch["time"] < LATEST for epoch in epochs):
        raise ValueError("the time of its epochs must be in seconds since 1970")
    if data["status"] not in STATUSES:
        raise ValueError(f"its status must be one of {', '.join(STATUSES)}; got {data['status']!r}")
    reason = data["reason"] or (UNFINISHED if data["status"] == "running" else None)
    return RecordFile(folder, config, STATUSES[data["status"]], reason, epochs)


def import_records(file: PlanFile, records: list[RecordFile], tracking: SweepTracking) -> tuple[int, str]:
    """Queue what the sweep does not hold yet; how many records that are, and the sweep's status with them."""
    plan = _describe(file, tracking)
    held = tracking.runs()
    status = {config: run.status for config, run in held.items()}
    new = 0
    for record in records:
        run = held.get(record.config)
        if run and run.status in ("FINISHED", record.status) and run.last_epoch >= record.last_epoch:
            continue
        new += 1
        status[record.config] = record.status
        times = [epoch["time"] for epoch in record.epochs]
        tracking.ensure(record.config, start=min(times, default=None))
        tracking.log_epochs(record.config, record.epochs)
        folder = record.folder if record.status == "FINISHED" else None
        tracking.finish(record.config, record.status, record.reason, folder, end=max(times, default=None))
    if all(status.get(config) == "FINISHED" for config in plan.configs):
        return new, "FINISHED"
    return new, "FAILED" if "FAILED" in status.values() else "KILLED"


def _describe(file: PlanFile, tracking: SweepTracking) -> SweepPlan:
    """Add the plan to the one the sweep has, from another machine's records for instance; both together."""
    held = tracking.plan
    if held and held["data_fingerprint"] != file.data_fingerprint:
        raise RecordError(
            f"the sweep {tracking.name} was trained on data with fingerprint {held['data_fingerprint']}, these "
            f"records on data with {file.data_fingerprint}; import them under another --name"
        )
    there = SweepPlan.from_dict(held) if held else None
    plan = there.joined(file.plan) if there else file.plan
    if plan != there:
        about = {"data_fingerprint": file.data_fingerprint, "held_out": file.held_out}
        note = f"Imported from records of `fishernet train`.\n\n{plan.describe()}"
        tracking.log_parent_metrics([(schema.PCA, mse, d) for d, mse in file.pca_test_mse])
        tracking.describe(plan.to_dict() | about, plan.shared, file.command, note, file.provenance)
    return plan


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 all is imported, 1 some is not, 2 bad usage, 130 interrupted."""
    interrupts.exit_at_once()
    try:
        return _main(argv)
    except KeyboardInterrupt:
        print("interrupted; the same command imports the rest", file=sys.stderr)
        return 130
    finally:
        interrupts.ignore() if argv is None else interrupts.raise_keyboard_interrupt()


def make_parser() -> Parser:
    """Of ``fishernet import``."""
    parser = Parser(
        name="import",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="what `fishernet train` wrote")
    parser.add_argument("--name", required=True, help="name of the sweep in MLflow; made where it is missing")
    add_store_flags(parser)
    return parser


def _main(argv: Sequence[str] | None) -> int:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if problem := name_problem("--name", "sweep", arguments.name) or storage_problem(arguments.storage_path):
        parser.error(problem)
    uri = arguments.tracking_uri or default_tracking_uri(arguments.storage_path)
    try:
        plan, records = read_folder(arguments.folder)
        check_uri(uri)
        prepare_mlflow()  # an interrupt amid imports would leave them half done
        interrupts.raise_keyboard_interrupt()
        # A driver that trains the sweep holds it as well: two writers would not know of each other's runs.
        with hold_lock(Path(os.path.realpath(arguments.storage_path)) / arguments.name, arguments.name):
            root = default_artifact_root(arguments.storage_path)
            tracking = SweepTracking.open(arguments.name, uri, artifact_root=root, create=True)
            return _import(plan, records, tracking)
    except (RecordError, TrackingError, PlanError) as error:
        where = f"{uri_source(arguments.tracking_uri)}: " if isinstance(error, TrackingError) else ""
        print(f"{parser.prog}: error: {where}{error}", file=sys.stderr)
        return 2


def _import(plan: PlanFile, records: list[RecordFile], tracking: SweepTracking) -> int:
    try:
        new, status = import_records(plan, records, tracking)
        done = tracking.close(status)
    except KeyboardInterrupt:
        tracking.drop()  # all of it was put at once, and writing thousands of runs takes long
        tracking.close("KILLED", patience_seconds=5)
        raise
    print(f"{new} of {len(records)} records are new to the sweep {tracking.name}, which is now {status}")
    return 0 if done and not tracking.refused else 1


if __name__ == "__main__":
    sys.exit(main())
