"""Flags that the drivers share, and what is wrong with them: where trials run, and what is recorded."""

import argparse
import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path

from fishernet.commands import absolute_uri
from fishernet.flags import checkpoint_interval
from fishernet.services import schema
from fishernet.services.mlflow_store import DEFAULT_STORAGE, default_tracking_uri, sqlite_path
from sweeps.planning import plan_flags_given

ADDRESS = r"auto|(ray://)?([\w.-]+|\[[\da-fA-F:.]+\]):([1-9]\d{0,4})"
EXIT_STATUS = "exit status: 0 all runs finished, 1 some failed, 2 bad usage, 130 interrupted"


class UsageError(ValueError):
    """A flag that cannot be followed; the message names it."""


def add_place_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """The group of flags that say on what the trials run."""
    place = parser.add_argument_group("where it runs")
    place.add_argument("--gpus", type=int, metavar="N", help="GPUs to use; 0 is the CPU (default: all there are)")
    place.add_argument(
        "--gpus-per-trial", type=float, default=1.0, metavar="F", help="1, or 1/k for k trials a GPU (default: 1)"
    )
    place.add_argument("--cpus-per-trial", type=int, default=1, metavar="N", help="CPU cores of a trial (default: 1)")
    place.add_argument(
        "--address",
        metavar="ADDRESS",
        help="an existing Ray cluster: auto or HOST:PORT (default: a private Ray)",
    )
    return place


def add_record_flags(parser: argparse.ArgumentParser, kind: str, extended_by: str) -> argparse._ArgumentGroup:
    """The group of flags that say what is recorded and where; ``kind`` is sweep or search."""
    record = parser.add_argument_group("what is recorded, and where")
    record.add_argument(
        "--name", help=f"the {kind}'s name; an existing one is extended by {extended_by} (default: DATASET-DATE)"
    )
    record.add_argument("--resume", metavar="NAME", help=f"finish the {kind} of that name as it was planned")
    add_store_flags(record)
    record.add_argument(
        "--data-dir",
        type=os.path.expanduser,
        metavar="FOLDER",
        help="where the data sets are (default: $FISHERNET_DATA_DIR, else ~/.cache/fishernet)",
    )
    record.add_argument(
        "--checkpoint-every", type=checkpoint_interval, default=0, metavar="N",
        help="epochs between checkpoints; auto writes them as often as takes 2%% of the time (default: auto)",
    )  # fmt: skip
    record.add_argument(
        "--system-metrics", action="store_true",
        help="record also the use of this machine's processors, memory, disk and network, every 10 s; needs the package psutil",
    )  # fmt: skip
    record.add_argument(
        "--dry-run", action="store_true", help="print the plan and an estimate of its time; start nothing"
    )
    return record


def add_store_flags(parser: argparse._ActionsContainer) -> None:
    """Where files and records are."""
    parser.add_argument(
        "--storage-path", type=Path, default=Path(DEFAULT_STORAGE), metavar="FOLDER",
        help=f"checkpoints and, without a server, MLflow's files; on a cluster a folder that every node sees "
        f"(default: {DEFAULT_STORAGE})",
    )  # fmt: skip
    parser.add_argument(
        "--tracking-uri", metavar="URI",
        help="MLflow: http://HOST:PORT or sqlite:////PATH (default: $MLFLOW_TRACKING_URI, else mlflow.db in the storage path)",
    )  # fmt: skip


def checked_store(parser: argparse.ArgumentParser, args: argparse.Namespace) -> tuple[str, Path]:
    """The tracking URI and the storage path that ``add_store_flags`` names; ends with a sentence where they can be none."""
    if problem := storage_problem(args.storage_path):
        parser.error(problem)
    storage = Path(os.path.realpath(args.storage_path))
    return absolute_uri(args.tracking_uri or default_tracking_uri(storage)), storage


def check_shared_flags(
    parser: argparse.ArgumentParser, args: argparse.Namespace, kind: str, given: Callable[[], list[str]] | None = None
) -> None:
    """End with a sentence and status 2 where a flag of the two groups cannot be followed.

    ``given`` lists the flags that plan something and were typed; --resume goes without them.
    """
    if args.resume and args.name:
        parser.error(f"--resume NAME already names the {kind}; leave --name out")
    if args.resume and (args.dry_run or getattr(args, "write_plan", None)):
        parser.error(
            f"--{'dry-run' if args.dry_run else 'write-plan'} is about what flags ask for, so it goes without --resume"
        )
    if args.resume and (flags := (given or (lambda: plan_flags_given(args)))()):
        parser.error(
            f"--resume finishes a {kind} as it was planned, so {', '.join(flags)} cannot change it; "
            f"to extend it, use --name {args.resume} instead"
        )
    if args.system_metrics and importlib.util.find_spec("psutil") is None:
        parser.error("--system-metrics needs the package psutil, which is not installed here: pip install psutil")
    if args.gpus is not None and args.gpus < 0:
        parser.error(f"--gpus is how many GPUs to use, 0 for the CPU; got {args.gpus}")
    share = args.gpus_per_trial
    if not 1e-3 <= share <= 1 or abs(1 / share - round(1 / share)) > 1e-6:
        parser.error(
            f"--gpus-per-trial is the share of a GPU one trial takes: 1, or 1/k such as 0.5 or 0.25; got {args.gpus_per_trial}"
        )
    if args.cpus_per_trial < 1:
        parser.error(f"--cpus-per-trial is a number of CPU cores of one trial, at least 1; got {args.cpus_per_trial}")
    if args.name is not None and (problem := name_problem("--name", kind, args.name)):
        parser.error(problem)
    if args.resume is not None and not args.resume.strip():
        parser.error(f"--resume takes the {kind}'s name in MLflow; got {args.resume!r}")
    store = sqlite_path(args.tracking_uri or default_tracking_uri(args.storage_path))
    name = schema.folder_name(args.resume or args.name or "-")
    if store and store.parent == Path(os.path.realpath(args.storage_path)) and schema.begins_as(name, store.name):
        parser.error(
            f"--{'resume' if args.resume else 'name'} {name}: the {kind}'s folder would stand where the tracking store {store} "
            "or what SQLite writes beside it does; choose another name"
        )
    if problem := storage_problem(args.storage_path):
        parser.error(problem)
    if args.address is not None and not re.fullmatch(ADDRESS, args.address):
        parser.error(f"--address is auto, or HOST:PORT of a running Ray cluster's head; got {args.address!r}")
    if args.address and args.address.startswith("ray://"):
        parser.error(
            f"--address {args.address}: through Ray Client the driver would run in a process of the cluster, without this "
            "machine's records; run the command on a node of the cluster with --address auto, or send it with `ray job submit`"
        )
    if re.match(r"\w{2,}:/", str(args.storage_path)):  # Path has made one slash of two
        parser.error(
            f"--storage-path is a folder that every node sees, such as a shared mount; got the URL {args.storage_path}"
        )


def name_problem(flag: str, kind: str, name: str) -> str:
    """Why a sweep or search cannot have that name, as a sentence; empty where it can."""
    if schema.is_name(name):
        return ""
    files, folders = " or ".join(schema.DATABASES), " or ".join(schema.FOLDERS)
    return (
        f"{flag} is the {kind}'s name in MLflow and the name of its folder: up to 100 letters, digits and ._-+=,@ "
        f"beginning with a letter or digit, not with {files}, and not {folders}; got {name!r}"
    )


def storage_problem(folder: Path) -> str:
    """Why MLflow's records cannot be kept below that folder, as a sentence; empty where they can."""
    path = os.path.realpath(folder)
    if any(letter in "#%?" or "\ud800" <= letter <= "\udfff" for letter in path):
        return f"--storage-path becomes part of a database URL, so it goes without # % ? and is text in UTF-8; it is {path!r}"
    return ""
