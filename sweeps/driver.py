"""One call of a driver's command, from the checked flags to the exit status: what a sweep and a search have in common."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, Self, TypeVar

import fishernet
from analysis.parts import Failures
from fishernet import commands, interrupts
from fishernet.commands import COMMAND_VARIABLE, hide_password
from fishernet.config import TrialConfig
from fishernet.data import DataError, check_dataset
from fishernet.plan import Json, PlanError, check_images, flagged
from fishernet.progress import Progress
from fishernet.provenance import count_gpus, usable_cpus
from fishernet.services import ray_cluster, schema
from fishernet.services.mlflow_store import (
    TrackingError,
    check_uri,
    default_artifact_root,
    default_tracking_uri,
    prepare_mlflow,
    sqlite_path,
    uri_source,
)
from fishernet.services.ray_cluster import ClusterError
from fishernet.wording import grouped
from sweeps.checkpoints import remove_checkpoints
from sweeps.flags import UsageError
from sweeps.lock import hold_lock
from sweeps.planning import Devices
from sweeps.tracking import SweepTracking

if TYPE_CHECKING:
    from fishernet.data.images import ImageData
    from sweeps.launch import Job, Jobs

# For a tracking server that is away at the end; docker-compose.yml gives the driver half a minute more than the second.
PATIENCE_SECONDS, PATIENCE_INTERRUPTED_SECONDS = 600, 60
UI_VARIABLE = "FISHERNET_UI"  # where a browser finds MLflow, where a driver runs in a container


class Plan(Protocol):
    """What a driver asks of its kind of plan: ``fishernet.plan.SweepPlan``, ``sweeps.space.SearchPlan``."""

    @property
    def example(self) -> TrialConfig:
        """A trial config of the plan: all see the same images."""

    @property
    def configs(self) -> Iterable[TrialConfig]:
        """One of every kind that its runs may have, as far as images ask."""

    @property
    def n_runs(self) -> int:
        """How many runs there are once all is trained."""

    @property
    def shared(self) -> Json:
        """The parent run's parameters."""

    def to_dict(self) -> Json:
        """As MLflow holds it."""

    @classmethod
    def from_dict(cls, plan: Json) -> Self:
        """The plan of ``to_dict``."""

    def extended(self, asked: Self, name: str) -> Self:
        """With what is asked for besides; raises PlanError where the two could not be compared."""

    def describe(self) -> str:
        """In a line."""


P = TypeVar("P", bound=Plan)


class Driver(ABC, Generic[P]):
    """One call of a driver's command. A subclass says what is planned, how it becomes jobs, and what is drawn at the end."""

    kind: ClassVar[str]  # sweep or search: the experiment's tag fishernet.kind, and the command's name
    plan_class: type[P]
    # Flags that count again when the command is resumed, with their defaults.
    kept_flags: ClassVar[Mapping[str, object]] = MappingProxyType({
        "gpus": None, "gpus_per_trial": 1.0, "cpus_per_trial": 1, "cohort_size": "auto",
        "address": None, "data_dir": None, "checkpoint_every": 0, "report": False, "register": None, "system_metrics": False,
    })  # fmt: skip

    def __init__(self, args: argparse.Namespace, argv: Sequence[str]) -> None:
        self.args, self.argv = args, argv
        self.storage = Path(os.path.realpath(args.storage_path))
        self.uri = commands.absolute_uri(args.tracking_uri or default_tracking_uri(self.storage))
        self.name = ""  # once it has begun to be recorded
        self.folder = self.storage  # the sweep's own, once that is known
        self.page = ""  # of MLflow's pages the experiment's
        self.parts = Failures(passing=(OSError, UsageError))  # of its end
        self.args.data_dir = args.data_dir and os.path.realpath(args.data_dir)  # workers may run elsewhere
        self._connected: Devices | None = None

    @property
    def paper(self) -> str:
        """The key of the paper whose preset was asked for; empty where it was none's."""
        return ""

    @abstractmethod
    def asked(self) -> P:
        """What the flags ask for; raises PlanError."""

    def suited(self, asked: P, images: ImageData) -> P:
        """What was asked for, with what follows from the images where no flag says it."""
        return asked

    @abstractmethod
    def cohorts(self, plan: P, devices: Devices, images: ImageData) -> Sequence[Sequence[TrialConfig]]:
        """All that the plan trains, as it would be trained: for an estimate of its time."""

    @abstractmethod
    def jobs(self, plan: P, tracking: SweepTracking, images: ImageData) -> Jobs:
        """What of the plan is left to train; raises UsageError."""

    @abstractmethod
    def draw(self, name: str) -> None:
        """Print tables and draw figures of what is finished; raises AnalysisError where nothing is."""

    def details(self, plan: P) -> list[str]:
        """Lines on the plan, beside the one that it describes itself with."""
        return []

    def cautions(self, plan: P, images: ImageData) -> list[str]:
        """A sentence each on what can be trained and may not be meant."""
        return [images.caution] if images.caution else []

    def say_time(self, plan: P, seconds: float, images: ImageData) -> str:
        """How long it takes where its cohorts take so many seconds in all."""
        return f"about {duration(seconds)}{self.on_an_idle_machine()}, by a measured step of each model"

    def on_an_idle_machine(self) -> str:
        """What a time is said under, and whether this machine is so."""
        load = 0.0 if self.args.address or not hasattr(os, "getloadavg") else os.getloadavg()[0]
        return " if nothing else computes" + (f" (the load is {load:.1f} now)" if load > 1 else "")

    def places(self) -> dict[str, str]:
        """Where the records are, for the plan in MLflow."""
        return {"storage_path": str(self.storage)}

    def note_images(self, plan: P, tracking: SweepTracking, images: ImageData) -> None:
        """Write to MLflow what is computed of the images alone."""

    def main(self, *, last: bool = False) -> int:
        """Exit status 0 all runs finished, 1 some failed, 2 bad usage, 130 interrupted; ``last``: the process ends with it."""
        interrupts.exit_at_once()
        try:
            # Torch, Ray and MLflow take seconds to import, so what can be wrong without them is said first.
            try:
                asked = None if self.args.resume else self.asked()
                self.check_places(asked)
                return self.run(asked)
            except (PlanError, DataError, TrackingError, UsageError, ClusterError) as error:
                print(f"error: {self.with_flag(error)}", file=sys.stderr)
                return 2
        except KeyboardInterrupt:
            print(f"interrupted{self.how_to_go_on()}", file=sys.stderr)
            return 130
        finally:
            with suppress(KeyboardInterrupt):  # how it ended is decided
                ray_cluster.stop()
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

    def check_places(self, asked: P | None) -> None:
        """Raises where images, records or cores named by the flags are not there, as far as a look at the machine tells."""
        if getattr(self.args, "write_plan", None):
            return
        if asked is not None:
            check_dataset(asked.example.dataset)
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

    def run(self, asked: P | None) -> int:
        """Plan, dry run or training; ``asked`` is None where a stored plan is resumed."""
        if asked is None:
            return self.train(self.args.resume, None)
        stem = re.sub(r"[^\w-]+", "-", Path(asked.example.dataset).stem).strip("-")[:60] or "images"
        name = self.args.name or f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.folder = self.storage / name
        return self.dry_run(name, asked) if self.args.dry_run else self.train(name, asked)

    def devices(self, nodes: Sequence[Mapping[str, float]] | None = None) -> Devices:
        """What the trials get: of this machine, or of the cluster with these nodes' resources; raises UsageError."""
        if nodes is None:
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

    def images_of(self, plan: P) -> ImageData:
        """The images that the plan asks for; raises DataError, and PlanError where a config does not go with them."""
        images = fishernet.load_data(data_dir=self.args.data_dir, **plan.example.data)
        check_images(plan.configs, images.image_shape)
        return images

    def connect(self) -> Devices:
        """What Ray has to give. A private one is started, or the cluster joined, at the first call.

        Raises ClusterError and UsageError.
        """
        if self._connected is None:
            if self.args.address:
                nodes = ray_cluster.join(self.args.address, gpus=self.args.gpus or 0)
            else:
                here = self.devices()
                needed = here.slots * here.cpus_per_trial
                nodes = ray_cluster.start(gpus=here.gpus, cpus=needed if here.gpus and needed < here.cpus else None)
            self._connected = self.devices(nodes)
        return self._connected

    def dry_run(self, name: str, plan: P) -> int:
        """Print what would happen; returns the exit status."""
        from sweeps.estimate import estimate_or_say_why_not

        images = self.images_of(plan)
        plan = self.suited(plan, images)
        devices = self.connect() if self.args.address else self.devices()
        cohorts = self.cohorts(plan, devices, images)
        self.print_plan(name, plan, [len(cohort) for cohort in cohorts], devices, images)
        if (seconds := estimate_or_say_why_not(cohorts, devices, images)) is not None:
            print(f"time       {self.say_time(plan, seconds, images)}")
        print("nothing was started or written (--dry-run)")
        return 0

    def print_plan(
        self, name: str, plan: P, cohort_sizes: Collection[int], devices: Devices, images: ImageData
    ) -> None:
        """Print what is trained on what, and where it is recorded."""
        n, least, most = len(cohort_sizes), min(cohort_sizes), max(cohort_sizes)
        sizes = f"{least}" if least == most else f"{least} to {most}"
        print(f"{self.kind:<10} {name}: {plan.describe()}")
        for line in self.details(plan):
            print(line)
        print(f"images     {images}")
        for caution in self.cautions(plan, images):
            print(f"caution    {caution}")
        print(f"trials     {n} cohort{'s' * (n > 1)} of {sizes} member{'s' * (most > 1)}, on {devices}")
        print(f"tracking   {hide_password(self.uri)}")
        print(f"storage    {self.folder}")

    def train(self, name: str, asked: P | None) -> int:
        """Under the lock of the folder ``name``, with its record in MLflow open: what is stored and what is asked, launched."""
        if sys.flags.optimize > 1:  # Ray Tune cannot be imported then
            raise UsageError(
                "Python runs without docstrings, which Ray reads; start it without -OO and PYTHONOPTIMIZE=2"
            )
        importlib.import_module("torch")  # before Ray starts
        ray_cluster.prepare(private=not self.args.address)
        if not self.args.address:
            self.devices()  # more GPUs than exist is said before anything is made
        images = None
        if asked is not None:
            images = self.images_of(asked)
            asked = self.suited(asked, images)
        interrupts.exit_at_once(ray_cluster.end_processes)
        check_storage(self.storage)
        self.folder = folder = self.storage / schema.folder_name(name)
        artifact_root = default_artifact_root(self.storage)
        unfinished = not folder.exists() or (folder / "ray").exists()
        importing = threading.Thread(target=import_all)
        importing.start()
        if self.args.address:
            self.connect()
        if asked is None and not folder.exists():  # no folder is made for a name that is not there
            importing.join()
            SweepTracking.open(name, self.uri, artifact_root=artifact_root, create=False, kind=self.kind).close(
                "KILLED", patience_seconds=0
            )
        with ExitStack() as locks:
            locks.enter_context(hold_lock(folder, name))
            if unfinished:
                self.connect()  # as long as the imports, beside which it goes
            importing.join()
            interrupts.raise_keyboard_interrupt()
            tracking = SweepTracking.open(
                name, self.uri, artifact_root=artifact_root, create=asked is not None, kind=self.kind
            )
            before = tracking.status if tracking.plan else "FAILED"
            self.name = name
            # MLflow 3 opens with its pages for language models, whatever the experiment's kind, unless asked for the others.
            self.page = f"/#/experiments/{tracking.experiment_id}/runs?workflowType=machine_learning"
            try:
                if (begun := self.storage / schema.folder_name(tracking.begun_as)) != folder and begun.is_dir():
                    folder = begun  # it was renamed in MLflow, and its checkpoints were not
                    locks.enter_context(hold_lock(folder, tracking.begun_as))
                self.folder = folder
                stored = tracking.plan
                if stored is not None:
                    there = self.plan_class.from_dict(stored)
                    plan = there if asked is None else there.extended(asked, name)
                elif asked is not None:
                    plan = asked
                else:
                    raise UsageError(
                        f"--resume {name}: that {self.kind} holds no plan; start it again with --name {name} and its flags"
                    )
                images = images or self.images_of(plan)
                if stored is not None and stored.get("data_fingerprint") != images.fingerprint:
                    raise UsageError(
                        f"the {self.kind} {name} was trained on other images under the same name {plan.example.dataset} "
                        f"(fingerprint {stored.get('data_fingerprint')}, now {images.fingerprint}); choose another --name"
                    )
                return self.launch(plan, tracking, images)
            except BaseException as error:
                stopped = isinstance(error, KeyboardInterrupt)
                tracking.close("KILLED" if stopped else before, patience_seconds=5)
                raise

    def launch(self, plan: P, tracking: SweepTracking, images: ImageData) -> int:
        """Train what is missing and close the books; returns the exit status."""
        from sweeps.launch import launch

        name, jobs = self.name, self.jobs(plan, tracking, images)
        self.describe(tracking, plan, images)
        for config, reason in jobs.failed.items():  # where a driver died before it had told MLflow
            if config not in tracking.found or tracking.found[config].status != "FAILED":
                tracking.finish(config, "FAILED", reason)
        if not jobs.n_runs:
            print(f"{self.kind:<10} {name}: all {jobs.ended}; nothing to train")
            self.note_images(plan, tracking, images)
            return self.conclude(name, plan.n_runs, jobs.failed, tracking, interrupted=False)
        devices = self.connect()
        self.print_plan(name, plan, jobs.cohort_sizes, devices, images)
        if not devices.gpus:
            print("device     training on the CPU" + ("" if self.args.gpus == 0 else ", as no GPU was found"))
        if jobs.resumes:
            print(f"resuming   {jobs.ended}; {jobs.left}")
        self.note_images(plan, tracking, images)
        starting = "starting workers (half a minute the first time)"
        with Progress(jobs.n_runs, jobs.n_epochs, images.held_out, note=starting) as progress:
            tracking.say = progress.say
            with self.watched(tracking):
                launched = launch(
                    jobs,
                    devices=devices,
                    tracking=tracking,
                    folder=self.folder,
                    progress=progress,
                    beside=import_drawing,
                )
        if launched.error:
            print(f"Ray stopped: {launched.error}", file=sys.stderr)
        return self.conclude(
            name, plan.n_runs, {**jobs.failed, **launched.failed}, tracking,
            interrupted=launched.interrupted, resumable=launched.resumable,
        )  # fmt: skip

    def watched(self, tracking: SweepTracking) -> AbstractContextManager[None]:
        """With --system-metrics, what this machine does, in the sweep's own run."""
        if not self.args.system_metrics:
            return nullcontext()
        from fishernet.services.mlflow_models import system_metrics

        return system_metrics(self.uri, tracking.parent_run_id)

    def note_best(self, tracking: SweepTracking) -> None:
        """Write to MLflow what is worth keeping of the best runs, once all are recorded."""

    def job_fields(self, job: Job) -> Json:
        """What reaches the job's trial."""
        return job.to_dict(self.connect(), self.args.data_dir, self.args.checkpoint_every, self.folder)

    def describe(self, tracking: SweepTracking, plan: P, images: ImageData) -> None:
        """Write to MLflow what is planned, and by which command."""
        command = shlex.join([*self.program(), *(hide_password(word) for word in self.argv)])
        shapes = {"training": [*images.train.shape], images.held_out: [*images.test.shape]}
        known = {"data_fingerprint": images.fingerprint, "held_out": images.held_out, "images": shapes}
        note = f"{plan.describe()}\n\n    {command}\n"
        tracking.describe({**plan.to_dict(), **known, **self.places()}, plan.shared, command, note, paper=self.paper)

    def conclude(
        self, name: str, n_runs: int, failed: Mapping[TrialConfig, str], tracking: SweepTracking, *,
        interrupted: bool, resumable: bool = False,
    ) -> int:  # fmt: skip
        """Close the books, print table, failures, how to look and how to go on; returns the exit status.

        Checkpoints are removed once nothing is left that could need them, also those of a driver that died just before this.
        """
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
                self.note_best(tracking)
            except (OSError, UsageError) as error:  # such as a full disk
                drawn = False
                print(f"the table and the figures cannot be made: {error}", file=sys.stderr)
        written = tracking.close("KILLED" if interrupted else "FAILED" if failed or resumable else "FINISHED", patience)
        written = written and drawn and not tracking.refused
        if failed:
            print(f"{len(failed)} of {n_runs} runs failed:")
            for names, reason in grouped((config.run_name, reason) for config, reason in failed.items()):
                print(f"  {names}: {reason}")
        print(f"look at the runs: {self.ui_command()}")
        if interrupted or resumable or not written:
            print(f"{'interrupted; ' if interrupted else ''}resume with: {self.resume_command(name)}")
        else:
            remove_checkpoints(self.folder)
        return 130 if interrupted else int(bool(failed) or resumable or not written or self.parts.n > 0)

    def ui_command(self) -> str:
        if self.uri.startswith("http"):
            return f"{(os.environ.get(UI_VARIABLE) or hide_password(self.uri)).rstrip('/')}{self.page} in a browser"
        command = commands.python("-m", "mlflow", "ui", "--backend-store-uri", hide_password(self.uri))
        return f"http://127.0.0.1:5000{self.page} in a browser, after\n  {command}"

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
        """The command itself, to be typed in any folder and shell: on another day, too."""
        return commands.driver(self.kind) if os.environ.get(COMMAND_VARIABLE) else [*commands.program(), self.kind]


def import_all() -> None:
    """What takes seconds to import: beside Ray's start."""
    with suppress(Exception):  # said where it is imported again
        prepare_mlflow()
        importlib.import_module("sweeps.launch")  # Ray Tune


def import_drawing() -> None:
    """What figures are drawn with, a second more: beside the training."""
    importlib.import_module("analysis.exhibits")  # pandas and matplotlib


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
