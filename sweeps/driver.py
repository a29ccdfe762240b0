"""What the drivers share: flags that say where trials run and what is recorded, and one call from there to the exit status."""

import argparse
import os
import re
import shlex
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from analysis.parts import Failures
from fishernet import commands, interrupts
from fishernet.commands import COMMAND_VARIABLE, hide_password
from fishernet.config import TrialConfig
from fishernet.data import DataError, check_dataset
from fishernet.flags import checkpoint_interval
from fishernet.plan import PlanError
from fishernet.services import schema
from fishernet.services.mlflow_store import (
    DEFAULT_STORAGE,
    TrackingError,
    check_uri,
    default_artifact_root,
    default_tracking_uri,
    prepare_mlflow,
    reason_of,
    sqlite_path,
    uri_source,
)
from fishernet.surroundings import settle_private_ray
from sweeps.planning import Devices, flagged, plan_flags_given, usable_cpus

ADDRESS = r"auto|(ray://)?([\w.-]+|\[[\da-fA-F:.]+\]):([1-9]\d{0,4})"
EXIT_STATUS = "exit status: 0 all runs finished, 1 some failed, 2 bad usage, 130 interrupted"
# For a tracking server that is away at the end; docker-compose.yml gives the driver half a minute more than the second.
PATIENCE_SECONDS, PATIENCE_INTERRUPTED_SECONDS = 600, 60
UI_VARIABLE = "FISHERNET_UI"  # where a browser finds MLflow, where a driver runs in a container


class UsageError(ValueError):
    """A flag that cannot be followed; the message names it."""


def add_place_flags(parser: argparse.ArgumentParser) -> Any:
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


def add_record_flags(parser: argparse.ArgumentParser, kind: str, extended_by: str) -> Any:
    """The group of flags that say what is recorded and where; ``kind`` is sweep or search."""
    record = parser.add_argument_group("what is recorded, and where")
    record.add_argument(
        "--name", help=f"the {kind}'s name; an existing one is extended by {extended_by} (default: DATASET-DATE)"
    )
    record.add_argument("--resume", metavar="NAME", help=f"finish the {kind} of that name as it was planned")
    record.add_argument(
        "--storage-path", type=Path, default=Path(DEFAULT_STORAGE), metavar="FOLDER",
        help=f"checkpoints and, without a server, MLflow's files; on a cluster a folder that every node sees "
        f"(default: {DEFAULT_STORAGE})",
    )  # fmt: skip
    record.add_argument(
        "--tracking-uri", metavar="URI",
        help="MLflow: http://HOST:PORT or sqlite:////PATH (default: $MLFLOW_TRACKING_URI, else mlflow.db in the storage path)",
    )  # fmt: skip
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
        "--dry-run", action="store_true", help="print the plan and an estimate of its time; start nothing"
    )
    return record


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


class Driver(ABC):
    """One call of a driver's command, from the checked flags to the exit status.

    A subclass says what is planned, how it becomes jobs and what is drawn at the end; ``Plan`` stands for its kind of plan.
    """

    kind: str  # sweep or search: the experiment's tag fishernet.kind
    installed: str  # and as an installed command
    # Flags that count again when the command is resumed, with their defaults.
    kept_flags: Mapping[str, Any] = MappingProxyType({
        "gpus": None, "gpus_per_trial": 1.0, "cpus_per_trial": 1, "cohort_size": "auto",
        "address": None, "data_dir": None, "checkpoint_every": 0, "report": False,
    })  # fmt: skip

    def __init__(self, args: argparse.Namespace, argv: Sequence[str]) -> None:
        self.args, self.argv = args, argv
        self.storage = Path(os.path.realpath(args.storage_path))
        self.uri = commands.absolute_uri(args.tracking_uri or default_tracking_uri(self.storage))
        self.name = ""  # once it has begun to be recorded
        self.folder = self.storage  # the sweep's own, once that is known
        self.parts = Failures(passing=(OSError, UsageError))  # of its end
        self.args.data_dir = args.data_dir and os.path.realpath(args.data_dir)  # workers may run elsewhere

    @abstractmethod
    def asked(self) -> Any:
        """What the flags ask for; raises PlanError."""

    @abstractmethod
    def stored(self, plan: dict[str, Any]) -> Any:
        """What MLflow holds as the plan."""

    @abstractmethod
    def extended(self, plan: dict[str, Any], asked: Any, name: str) -> Any:
        """The stored plan with what was asked for besides; raises PlanError where the two could not be compared."""

    @abstractmethod
    def example(self, plan: Any) -> TrialConfig:
        """A trial config of the plan: all see the same images."""

    @abstractmethod
    def dry_run(self, name: str, plan: Any) -> int:
        """Print what would happen; returns the exit status."""

    @abstractmethod
    def launch(self, name: str, plan: Any, tracking: Any, folder: Path, data: Any, devices: Devices | None) -> int:
        """Train what is missing and close the books; returns the exit status."""

    @abstractmethod
    def draw(self, name: str) -> None:
        """Print tables and draw figures of what is finished; raises AnalysisError where nothing is."""

    def main(self, *, last: bool = False) -> int:
        """Exit status 0 all runs finished, 1 some failed, 2 bad usage, 130 interrupted; ``last``: the process ends with it."""
        interrupts.exit_at_once()
        try:
            # Torch, Ray and MLflow take seconds to import, so what can be wrong without them is said first.
            try:
                asked = None if self.args.resume else self.asked()
                self.check_places(asked)
                return self.run(asked)
            except (PlanError, DataError, TrackingError, UsageError) as error:
                print(f"error: {self.with_flag(error)}", file=sys.stderr)
                return 2
        except KeyboardInterrupt:
            print(f"interrupted{self.how_to_go_on()}", file=sys.stderr)
            return 130
        finally:
            if ray := sys.modules.get("ray"):
                with suppress(KeyboardInterrupt):  # how it ended is decided
                    ray.shutdown()
            interrupts.ignore() if last else interrupts.raise_keyboard_interrupt()

    def with_flag(self, error: Exception) -> str:
        """The error's sentence, which names a flag."""
        text, plan = str(error), getattr(self.args, "plan", None)
        if isinstance(error, DataError):
            text = f"--plan {plan}: {text}" if plan else flagged(text)
            return text if text.startswith("--") else f"--dataset: {text}"
        if isinstance(error, TrackingError):
            where = uri_source(self.args.tracking_uri)
            return f"--resume, {where}: {text}" if self.args.resume else f"{where}: {text}"
        return flagged(text)

    def check_places(self, asked: Any | None) -> None:
        """Raises where images, records or cores named by the flags are not there, as far as a look at the machine tells."""
        if getattr(self.args, "write_plan", None):
            return
        if asked is not None:
            check_dataset(self.example(asked).dataset)
        check_uri(self.uri)
        if self.args.resume and (store := sqlite_path(self.uri)) and not store.exists():
            raise TrackingError(
                f"there is no {self.kind} named {self.args.resume} in {hide_password(self.uri)}; that store does not exist yet"
            )
        if not self.args.address:
            self.check_cpus(usable_cpus())

    def check_cpus(self, cpus: int) -> None:
        if self.args.cpus_per_trial > cpus:
            where = "the cluster" if self.args.address else "this machine"
            raise UsageError(
                f"--cpus-per-trial {self.args.cpus_per_trial} is more than the {cpus} CPU cores that {where} has"
            )

    def run(self, asked: Any | None) -> int:
        """Plan, dry run or training; ``asked`` is None where a stored plan is resumed."""
        if asked is None:
            return self.train(self.args.resume, None)
        stem = re.sub(r"[^\w-]+", "-", Path(self.example(asked).dataset).stem).strip("-")[:60] or "images"
        name = self.args.name or f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.folder = self.storage / name
        return self.dry_run(name, asked) if self.args.dry_run else self.train(name, asked)

    def load_data(self, config: TrialConfig) -> Any:
        from fishernet.data.loading import images_of

        return images_of(config, self.args.data_dir)

    def devices(self, nodes: Sequence[Mapping[str, float]] | None = None) -> Devices:
        """What the trials get: of this machine, or of the cluster with these nodes' resources; raises UsageError."""
        if nodes is None:
            from fishernet.provenance import count_gpus

            try:
                nodes = [{"CPU": usable_cpus(), "GPU": 0 if self.args.gpus == 0 else count_gpus()}]
            except RuntimeError as error:
                raise UsageError(f"{error}; --gpus 0 trains on the CPU") from None
        sizes = tuple((int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes)  # a driver's is (0, 0)
        cpus, there = (sum(column) for column in zip(*sizes, strict=True))
        where = "the cluster" if self.args.address else "this machine"
        gpus = there if self.args.gpus is None else self.args.gpus
        if gpus > there:
            hint = f"--gpus {there}" if there else "--gpus 0 to train on the CPU"
            raise UsageError(f"--gpus {gpus} asks for {gpus} GPUs, but {where} has {there or 'none'}; try {hint}")
        self.check_cpus(cpus)
        devices = Devices(gpus, self.args.gpus_per_trial, cpus, self.args.cpus_per_trial, sizes)
        if not devices.slots:  # Ray would wait for such a node for ever
            raise UsageError(
                f"--cpus-per-trial {self.args.cpus_per_trial}: no node of the cluster has as many CPU cores"
                f"{' beside a GPU' if gpus else ''}; they have {', '.join(f'{c} ({g} GPUs)' for c, g in sorted(sizes) if c or g)}"
            )
        return devices

    def connect(self) -> Devices:
        from sweeps import cluster

        try:
            if self.args.address:
                return cluster.connect(self.args.address, self.devices, gpus=self.args.gpus or 0)
            here = self.devices()
            cpus = here.slots * here.cpus_per_trial if here.gpus else None
            return cluster.connect(None, self.devices, gpus=here.gpus, cpus=cpus)
        except cluster.ClusterError as error:
            raise UsageError(str(error)) from None

    def train(self, name: str, asked: Any | None) -> int:
        """Under the lock of the folder ``name``, with its record in MLflow open: what is stored and what is asked, launched."""
        if sys.flags.optimize > 1:  # Ray Tune cannot be imported then
            raise UsageError(
                "Python runs without docstrings, which Ray reads; start it without -OO and PYTHONOPTIMIZE=2"
            )
        import torch  # noqa: F401

        if not self.args.address:
            try:
                settle_private_ray()
            except OSError as error:
                raise UsageError(f"Ray cannot be started on this machine: {error}") from None
        try:
            from sweeps import cluster
        except Exception as error:  # by a variable of Ray's
            raise UsageError(f"Ray cannot be imported here: {reason_of(error)}") from error
        from sweeps.lock import hold_lock
        from sweeps.tracking import SweepTracking

        if not self.args.address:
            self.devices()  # more GPUs than exist is said before anything is made
        data = None if asked is None else self.load_data(self.example(asked))
        interrupts.exit_at_once(cluster.end_processes)
        check_storage(self.storage)
        self.folder = folder = self.storage / schema.folder_name(name)
        artifact_root = default_artifact_root(self.storage)
        unfinished = not folder.exists() or (folder / "ray").exists()
        importing = threading.Thread(target=import_all, kwargs={"digits": asked is None})
        importing.start()
        devices = self.connect() if self.args.address else None
        if asked is None and not folder.exists():  # no folder is made for a name that is not there
            importing.join()
            SweepTracking.open(name, self.uri, artifact_root=artifact_root, create=False, kind=self.kind).close(
                "KILLED", patience_seconds=0
            )
        with ExitStack() as locks:
            locks.enter_context(hold_lock(folder, name))
            if devices is None and unfinished:
                devices = self.connect()  # as long as the imports, beside which it goes
            importing.join()
            interrupts.raise_keyboard_interrupt()
            tracking = SweepTracking.open(
                name, self.uri, artifact_root=artifact_root, create=asked is not None, kind=self.kind
            )
            before = tracking.status if tracking.plan else "FAILED"
            self.name = name
            try:
                if (begun := self.storage / schema.folder_name(tracking.begun_as)) != folder and begun.is_dir():
                    folder = begun  # it was renamed in MLflow, and its checkpoints were not
                    locks.enter_context(hold_lock(folder, tracking.begun_as))
                self.folder = folder
                stored = tracking.plan
                if stored is None and asked is None:
                    raise UsageError(
                        f"--resume {name}: that {self.kind} holds no plan; start it again with --name {name} and its flags"
                    )
                plan = asked
                if stored is not None:
                    plan = self.stored(stored) if asked is None else self.extended(stored, asked, name)
                config = self.example(plan)
                data = data or self.load_data(config)
                if stored is not None and stored.get("data_fingerprint") != data.fingerprint:
                    raise UsageError(
                        f"the {self.kind} {name} was trained on other images under the same name {config.dataset} "
                        f"(fingerprint {stored.get('data_fingerprint')}, now {data.fingerprint}); choose another --name"
                    )
                return self.launch(name, plan, tracking, folder, data, devices)
            except BaseException as error:
                stopped = isinstance(error, KeyboardInterrupt)
                tracking.close("KILLED" if stopped else before, patience_seconds=5)
                raise

    def estimate(self, cohorts: Sequence[Sequence[TrialConfig]], devices: Devices, data: Any) -> float | None:
        """Seconds of wall time the cohorts will take; None, after a line, where that cannot be measured here."""
        import torch

        from fishernet.splitting import is_out_of_memory
        from sweeps.estimate import estimate_seconds

        if devices.gpus and not torch.cuda.is_available():
            print("time       unknown: the cluster's GPUs are not on this machine, where a step would be measured")
            return None
        try:
            return estimate_seconds(cohorts, devices, data)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            print("time       unknown: a cohort does not fit the memory here; training would halve it until it fits")
            return None

    def describe(self, tracking: Any, plan: dict[str, Any], params: Mapping[str, Any], summary: str, data: Any) -> None:
        """Write to MLflow what is planned, and by which command."""
        command = shlex.join([*self.program(), *(hide_password(word) for word in self.argv)])
        plan = {
            **plan,
            "data_fingerprint": data.fingerprint,
            "held_out": data.held_out,
            "storage_path": str(self.storage),
        }
        tracking.describe(plan, params, command, f"{summary}\n\n    {command}\n")

    def conclude(
        self, name: str, n_runs: int, failed: Mapping[TrialConfig, str], tracking: Any, *,
        interrupted: bool, resumable: bool = False,
    ) -> int:  # fmt: skip
        """Close the books, print table, failures, how to look and how to go on; returns the exit status.

        Checkpoints are removed once nothing is left that could need them, also those of a driver that died just before this.
        """
        from sweeps import launch

        if tracking.backlog:
            print(f"writing {tracking.backlog} records to MLflow", file=sys.stderr)
        patience = PATIENCE_INTERRUPTED_SECONDS if interrupted else PATIENCE_SECONDS
        drawn = True
        self.parts = Failures(self.folder / "figures", passing=(OSError, UsageError))
        if not tracking.flush(patience):
            patience = 0  # it was waited for
        else:
            try:
                with self.parts.part("figures", lambda why: print(f"no figure: {why}\n")):
                    self.draw(name)
                    tracking.log_parent_artifacts(self.folder / "figures")  # seen in MLflow without a chart to set up
            except (OSError, UsageError) as error:  # such as a full disk
                drawn = False
                print(f"the table and the figures cannot be made: {error}", file=sys.stderr)
        written = tracking.close("KILLED" if interrupted else "FAILED" if failed or resumable else "FINISHED", patience)
        written = written and drawn and not tracking.refused
        if failed:
            print(f"{len(failed)} of {n_runs} runs failed:")
            for config, reason in failed.items():
                print(f"  {config.run_name}: {reason}")
        print(f"look at the runs: {self.ui_command()}")
        if interrupted or resumable or not written:
            print(f"{'interrupted; ' if interrupted else ''}resume with: {self.resume_command(name)}")
        else:
            launch.remove_checkpoints(self.folder)
        return 130 if interrupted else int(bool(failed) or resumable or not written or self.parts.n > 0)

    def ui_command(self) -> str:
        if self.uri.startswith("http"):
            return f"{os.environ.get(UI_VARIABLE) or hide_password(self.uri)} in a browser"
        command = commands.python("-m", "mlflow", "ui", "--backend-store-uri", hide_password(self.uri))
        return f"http://127.0.0.1:5000 in a browser, after\n  {command}"

    def how_to_go_on(self) -> str:
        return f"; resume with: {self.resume_command(self.name)}" if self.name else " before anything was started"

    def resume_command(self, name: str) -> str:
        return shlex.join([*self.program(), "--resume", name, *self.kept_words()])

    def kept_words(self, leave_out: Collection[str] = ()) -> list[str]:
        """The flags that another command on the same records needs as well, without those of ``leave_out``."""
        words = []
        if os.environ.get(COMMAND_VARIABLE):
            leave_out = {*leave_out, "address", "report"}
            words += ["--tracking-uri", hide_password(self.uri)] if self.args.tracking_uri else []
        else:  # whatever the current folder and the variables are then
            words += ["--storage-path", str(self.storage)]
            own = self.uri == f"sqlite:///{(self.storage / 'mlflow.db').as_posix()}"
            secret = not self.args.tracking_uri and self.uri != hide_password(self.uri)  # it stays in its variable
            words += [] if own or secret else ["--tracking-uri", hide_password(self.uri)]
        for flag, default in self.kept_flags.items():
            if flag not in leave_out and (value := getattr(self.args, flag, default)) != default:
                words += [f"--{flag.replace('_', '-')}", *([] if value is True else [str(value)])]
        return words

    def program(self) -> list[str]:
        """The command itself as one would type it here."""
        if Path(sys.argv[0]).name == self.installed and not os.environ.get(COMMAND_VARIABLE):
            return [str(Path(sys.argv[0]).absolute())]
        return commands.driver(self.kind)


def import_all(*, digits: bool) -> None:
    """What takes seconds to import: beside Ray's start."""
    with suppress(Exception):  # said where it is imported again
        if digits:
            import sklearn.datasets  # noqa: F401

        prepare_mlflow()
        from sweeps import launch  # noqa: F401  (Ray Tune)


def import_drawing() -> None:
    """What figures are drawn with, a second more: beside the training."""
    from analysis import exhibits, style  # noqa: F401  (matplotlib)


def check_storage(storage: Path) -> None:
    """Raises UsageError where --storage-path is no folder that can be made and written to."""
    try:
        storage.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--storage-path {storage} cannot be made a folder: {error.strerror}") from None
    if not os.access(storage, os.W_OK):
        raise UsageError(f"--storage-path {storage} cannot be written to")


def duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 120:
        return f"{max(1, seconds):.0f} s"
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{hours:.1f} hours"
