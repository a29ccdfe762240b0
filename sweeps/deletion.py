"""Remove a sweep or a search everywhere: its runs and files in MLflow, its folder, a search's studies. It cannot be undone."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fishernet import interrupts
from fishernet.commands import hide_password
from fishernet.flags import Parser
from fishernet.plan import PlanError
from fishernet.services import mlflow_deletion, mlflow_store, schema
from fishernet.services.mlflow_store import TrackingError, check_uri, client_of, sentences
from fishernet.spelling import did_you_mean
from fishernet.surroundings import entry_point
from sweeps.flags import UsageError, add_store_flags, checked_store
from sweeps.listing import KINDS, folder_of, in_words, size_of
from sweeps.lock import LOCK, hold_lock
from sweeps.space import DATABASE

if TYPE_CHECKING:
    from fishernet.services.mlflow_store import Experiment, Run


def make_parser() -> Parser:
    """Of ``fishernet delete``."""
    parser = Parser(name="delete", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="the sweep or search; `fishernet list` lists them")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_store_flags(parser)
    return parser


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 it is deleted, 1 the answer was no, 2 it cannot be, 130 interrupted: the same command deletes the rest."""
    parser = make_parser()
    args = parser.parse_args(argv)
    uri, storage = checked_store(parser, args)
    try:
        check_uri(uri, make=False)
        mlflow_store.prepare_mlflow()  # an interrupt amid imports would leave them half done
        interrupts.raise_keyboard_interrupt()
        return delete(args.name, uri, storage, yes=args.yes)
    except (TrackingError, PlanError, UsageError) as error:
        where = f"{mlflow_store.uri_source(args.tracking_uri)}: " if isinstance(error, TrackingError) else ""
        print(f"error: {where}{error}", file=sys.stderr)
        return 2
    except OSError as error:
        reason = error.strerror or error
        print(f"error: {error.filename} cannot be deleted: {reason}; the same command tries again", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command deletes the rest", file=sys.stderr)
        return 130


def delete(name: str, uri: str, storage: Path, *, yes: bool) -> int:
    """Under the lock of its folder: the question, the folder's content, the studies, MLflow's records, at last the lock.

    The record in MLflow goes last, so that what is left of an interrupted deletion is found by its name again. Raises
    TrackingError, UsageError, OSError, and PlanError where a driver holds the lock; what forbids it is found before all else.
    """
    with sentences(uri):
        client = client_of(uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None or schema.KIND not in experiment.tags:
            known = [one.name for kind in KINDS for one, _ in mlflow_store.sweeps(client, kind)]
            raise UsageError(
                f"there is no sweep and no search named {name} in {hide_password(uri)}{did_you_mean(name, known)}"
            )
        runs = mlflow_deletion.own_runs(client, experiment)
        parents = [run for run in runs if run.data.tags.get(schema.ROLE) == "sweep"]
    folder = folder_of(storage, parents[-1], experiment) if parents else storage / schema.folder_name(name)
    made = not folder.exists()
    with hold_lock(folder, name):
        try:
            _check_elsewhere(parents, uri, folder, name)
            with sentences(uri):
                mlflow_deletion.check_registered(client, runs)
            if not yes and not _agreed(name, uri, folder, experiment, len(runs) - len(parents)):
                print("nothing was deleted")
                return 1
            _empty(folder)
            _forget_studies(storage, experiment, parents)
            with sentences(uri):
                said = mlflow_deletion.forget(uri, client, experiment, storage)
        finally:
            if made or not any(path.name != LOCK for path in folder.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)
    print(f"{name} is deleted{said}")
    return 0


def _check_elsewhere(parents: Sequence[Run], uri: str, folder: Path, name: str) -> None:
    """Raises UsageError where MLflow has it with another storage path, and it runs, as the lock that is held is not its own.

    Also where that path is on this machine and the store is not beside ``folder``: the one of that name is another sweep's then.
    """
    storage, path = folder.parent, mlflow_store.sqlite_path(uri)
    beside = path is not None and os.path.realpath(path.parent) == str(storage)  # so it may be a copy
    for run in parents:
        with suppress(schema.SchemaError):
            place = (schema.plan_of(run.data.tags) or {}).get("storage_path")
            if not place or os.path.realpath(place) == str(storage):
                continue
            if run.info.status == "RUNNING":
                raise UsageError(
                    f"MLflow has {name} as running, with its files in {place}; stop it, or give that folder as --storage-path. "
                    "Where its driver was killed, --resume and Ctrl-C close its books"
                )
            if not beside and (Path(place) / folder.name).is_dir():
                raise UsageError(f"the files of {name} are in {place}, not in {storage}; give that as --storage-path")


def _agreed(name: str, uri: str, folder: Path, experiment: Experiment, n_runs: int) -> bool:
    """Ask; raises UsageError where nobody can answer."""
    files = mlflow_store.files_folder(uri, experiment)
    places = [place for place in (folder, files) if place is not None and place.is_dir()]
    print(f"{name}: {n_runs} runs in {hide_password(uri)}")
    for place in places:
        print(f"  {place} ({in_words(size_of(place))})")
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on; --yes deletes without asking")
    try:
        return input("Delete all of it for good? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _empty(folder: Path) -> None:
    """Delete all in the folder but its lock, which is held."""
    for path in folder.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _forget_studies(storage: Path, experiment: Experiment, parents: Sequence[Run]) -> None:
    """A search's studies, which are in Optuna's storage under the name that the search was begun with."""
    if experiment.tags.get(schema.KIND) != "search" or not (storage / DATABASE).exists():
        return
    from sweeps import studies

    begun_as = {run.data.tags.get(schema.SWEEP) or experiment.name for run in parents}
    try:
        with studies.sentences(storage):
            studies.forget(storage, begun_as)
    except studies.StudiesError as error:
        raise UsageError(str(error)) from None
