"""Cohorts -> Ray Tune -> MLflow: the one launcher of every driver. Only the driver's callback writes to MLflow."""

import functools
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ray import tune
from ray.tune.experiment import Trial

from fishernet.config import TrialConfig
from fishernet.plan import Json, SweepPlan
from fishernet.progress import Progress
from fishernet.services import ray_cluster
from fishernet.training import DIVERGED
from sweeps.checkpoints import RECORDS_FOLDER, Members, remove_checkpoints, remove_staging
from sweeps.planning import Devices
from sweeps.tracking import SweepTracking, TrackedRun
from sweeps.trial import train_cohort

# A trial that dies (worker killed, node lost, out of memory) is started again from its checkpoint this many times.
RETRIES = 3


@dataclass(frozen=True)
class Job:
    """One cohort to train: what one of Tune's trials is given."""

    members: Members
    checkpoints: tuple[str, ...] = ()  # state files to continue from, the most advanced first

    @functools.cached_property
    def id(self) -> str:
        """Readable, and the same for the same members: ``FisherNet-d02-s0-to-FisherNet-d20-s4-1a2b3c4d``."""
        text = json.dumps([c.to_dict() for c in self.members])
        names = list(dict.fromkeys([self.members[0].run_name, self.members[-1].run_name]))
        return f"{'-to-'.join(names)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def to_dict(self, devices: Devices, data_dir: str | None, checkpoint_every: int, folder: Path) -> Json:
        """What reaches its trial; ``folder`` is the sweep's."""
        return {
            "id": self.id,
            "members": [c.to_dict() for c in self.members],
            "checkpoints": list(self.checkpoints),
            "data_dir": data_dir,
            "gpu": bool(devices.gpus),
            "threads": devices.cpus_per_trial,
            "checkpoint_every": checkpoint_every,
            "staging": str(folder / "ray"),
        }


@dataclass
class Launched:
    """How a launch ended."""

    finished: list[TrialConfig] = field(default_factory=list)
    stopped: dict[TrialConfig, str] = field(default_factory=dict)  # before their last epoch, on purpose
    failed: dict[TrialConfig, str] = field(default_factory=dict)
    interrupted: bool = False
    error: str = ""  # why Ray itself gave up, where it did

    @property
    def resumable(self) -> bool:
        """Whether a run did not end that would not diverge again."""
        return bool(self.error) or any(not reason.startswith(DIVERGED) for reason in self.failed.values())


class Jobs(Protocol):
    """Where Tune's trials come from: a list of jobs, or a search that makes them as it goes."""

    by_id: dict[str, Job]  # those handed out so far
    stops: dict[str, str]  # Tune's trial id -> why it was stopped before its last epoch
    keep_models: bool  # whether weights and pictures of a finished run go to MLflow
    finished: Set[TrialConfig]  # members that were finished before and train along with their cohort: not counted again
    failed: dict[TrialConfig, str]  # those that failed before for a reason that stays, which is said
    n_runs: int  # to train, and their epochs; no run: all have ended
    n_epochs: int
    cohort_sizes: Sequence[int]  # of the jobs to train
    ended: str  # what was trained before: "4 runs are finished"
    left: str  # what is left: "2 to train, 1 cohorts from checkpoints"
    resumes: bool  # whether anything was trained before

    def tune_arguments(self) -> tuple[Json, Json]:
        """Tuner's param_space, and what of TuneConfig makes and stops its trials."""

    def tags(self, trial: Trial) -> dict[str, str]:
        """What MLflow is told of the trial's runs beside their parameters, as the trial stands."""


class JobList:
    """What of a plan is left to train, each job to its end: cohorts that were interrupted as they were, the rest in new ones.

    ``runs`` is what MLflow holds, ``checkpoints`` are those of cohorts; ``in_cohorts`` forms new ones.
    """

    keep_models = True

    def __init__(
        self, plan: SweepPlan, runs: Mapping[TrialConfig, TrackedRun], checkpoints: Mapping[Members, Sequence[str]],
        in_cohorts: Callable[[Sequence[TrialConfig]], Sequence[Sequence[TrialConfig]]],
        to_dict: Callable[[Job], Json],
    ) -> None:  # fmt: skip
        self._to_dict = to_dict
        self.stops = dict[str, str]()
        self.finished: Set[TrialConfig] = {c for c in plan.configs if c in runs and runs[c].status == "FINISHED"}
        self.failed = {c: r.reason for c, r in runs.items() if r.status == "FAILED" and r.reason.startswith(DIVERGED)}
        missing = [c for c in plan.configs if c not in self.finished and c not in self.failed]
        left, jobs = set(missing), []
        for members, paths in checkpoints.items():
            # A member that is finished already trains along: without it the cohort would be another, and not go on bit for bit.
            if left & set(members):
                jobs.append(Job(members, tuple(paths)))
                left -= set(members)
        n_continued = len(jobs)
        if left:
            jobs += [Job(tuple(cohort)) for cohort in in_cohorts([c for c in missing if c in left])]
        self.by_id = {job.id: job for job in jobs}
        self.cohort_sizes: Sequence[int] = [len(job.members) for job in jobs]
        self.n_runs, self.n_epochs = sum(self.cohort_sizes), sum(c.epochs for job in jobs for c in job.members)
        self.resumes = bool(self.finished or self.failed or n_continued)
        self.ended = f"{len(self.finished)} runs are finished" + (
            f", {len(self.failed)} diverged" if self.failed else ""
        )
        self.left = f"{len(missing)} to train, {n_continued} cohorts from checkpoints"

    def tune_arguments(self) -> tuple[Json, Json]:
        return {"job": tune.grid_search([self._to_dict(job) for job in self.by_id.values()])}, {}

    def tags(self, trial: Trial) -> dict[str, str]:
        return {}


def launch(
    jobs: Jobs, *, devices: Devices, tracking: SweepTracking, folder: Path, progress: Progress,
    beside: Callable[[], object],
) -> Launched:  # fmt: skip
    """Train the jobs as Ray Tune trials until all have ended or the user interrupts; Ray must be connected.

    ``beside`` is called in a thread of its own, once Tune answers interrupts: it may import.
    """
    remove_staging(folder)
    launched = Launched()
    callback = Recorder(launched, jobs, tracking, progress, folder)
    resources = tune.PlacementGroupFactory([{k.upper(): v for k, v in devices.resources.items() if v}])
    ray_cluster.keep_workers()
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a traceback per lost worker; Recorder says it in a line
    try:
        param_space, search = jobs.tune_arguments()
        tuner = tune.Tuner(
            tune.with_resources(train_cohort, resources),
            param_space=param_space,
            tune_config=tune.TuneConfig(
                reuse_actors=True,  # 0.04 s a trial instead of 8
                max_concurrent_trials=devices.slots,
                trial_dirname_creator=lambda trial: trial.config["job"]["id"],
                trial_name_creator=lambda trial: trial.config["job"]["id"],
                **search,
            ),
            run_config=tune.RunConfig(
                name=time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}",
                storage_path=str(folder / "ray"),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=2),  # the one before, should the last be damaged
                callbacks=[callback],
            ),
        )
        threading.Thread(target=beside).start()
        tuner.fit()  # returns normally after Ctrl-C, so what ended is counted by the callback
    except KeyboardInterrupt:
        launched.interrupted = True
    except (
        Exception
    ) as error:  # whatever Ray dies of (a full disk, a lost head), the books are closed and it can be resumed
        launched.error = " ".join(str(error).split())[:300] or type(error).__name__
    done = {*launched.finished, *launched.stopped, *launched.failed}
    for config in (c for job in jobs.by_id.values() for c in job.members if c not in done and c not in jobs.finished):
        launched.interrupted = not launched.error
        if config in callback.started:
            tracking.finish(config, "KILLED", f"{launched.error or 'interrupted'}; resuming the sweep continues it")
    return launched


class Recorder(tune.Callback):
    """From Tune's reports to MLflow's queue and the live line. An exception here would stop every trial: none is raised."""

    def __init__(
        self, launched: Launched, jobs: Jobs, tracking: SweepTracking, progress: Progress, folder: Path
    ) -> None:
        self.launched, self.jobs, self.tracking, self.progress, self.folder = launched, jobs, tracking, progress, folder
        self.started: set[TrialConfig] = set()
        self._counted: dict[TrialConfig, int] = {}

    def __getstate__(self) -> dict[str, object]:
        return {}  # Tune pickles its callbacks; this one belongs to the driver that made it

    def _members(self, trial: Trial) -> Members:
        return tuple(c for c in self.jobs.by_id[trial.config["job"]["id"]].members if c not in self.jobs.finished)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        for config in self._members(trial):
            self.started.add(config)
            self.tracking.ensure(config)
            self._tag(config, trial)

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: Json, **info: object) -> None:
        for config in self._members(trial):
            if epochs := result["epochs"].get(config.run_name):
                self.tracking.log_epochs(config, epochs)
                before = self._counted.get(config, 0)
                self._counted[config] = max(before, epochs[-1]["epoch"])
                mse = epochs[-1]["metrics"].get(f"{self.progress.held_out}/mse")
                # A search has as many variants as trials; the best of each model is what one wants to see.
                line = config.variant if self.jobs.keep_models else config.model
                self.progress.advance(line, self._counted[config] - before, mse)
        for note in result["notes"]:
            self.progress.say(note)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        # Not at the last result: Tune takes note of that result's checkpoint only after it.
        if reason := self.jobs.stops.get(trial.trial_id):
            self._stop(trial, reason)
            return
        failures = trial.last_result.get("failures", {})
        records = Path(trial.checkpoint.path) / RECORDS_FOLDER if trial.checkpoint else None
        if records is None or not trial.last_result.get("finished"):
            self._fail_unended(trial, "the trial ended before its last epoch without an error")
            return
        for config, then in self._with_clean_up(trial):
            artifacts = records / config.run_name if self.jobs.keep_models else None
            self._tag(config, trial)
            if reason := failures.get(config.run_name):
                self._fail(config, reason, artifacts, then)
            else:
                self.launched.finished.append(config)
                self.progress.leave_out(config.epochs - self._counted.get(config, 0))  # of one that stopped early
                self.tracking.finish(config, "FINISHED", artifacts=artifacts, then=then)
                self.progress.runs_done += 1

    def _with_clean_up(self, trial: Trial) -> Iterable[tuple[TrialConfig, Callable[[], None]]]:
        """Each member with what to call once MLflow holds it; after the last one the cohort's checkpoints have served."""
        members = self._members(trial)
        unwritten = set(members)

        def written(config: TrialConfig) -> None:
            unwritten.discard(config)
            if not unwritten:
                remove_checkpoints(self.folder, trial.config["job"]["id"])

        return [(config, functools.partial(written, config)) for config in members]

    def _stop(self, trial: Trial, reason: str) -> None:
        """End the members of a trial that was stopped before its last epoch: early, or because one of them diverged."""
        for config, then in self._with_clean_up(trial):
            self._tag(config, trial)
            self.progress.leave_out(config.epochs - self._counted.get(config, 0))
            if reason.startswith(DIVERGED):
                self._fail(config, reason, then=then)
            else:
                self.launched.stopped[config] = reason
                self.tracking.finish(config, "KILLED", reason, then=then)
                self.progress.stopped_early += 1

    def _tag(self, config: TrialConfig, trial: Trial) -> None:
        if tags := self.jobs.tags(trial):
            self.tracking.tag(config, tags)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        lines = [line.strip() for line in str(trial.get_error()).splitlines() if line.strip()]
        self._fail_unended(trial, lines[-1] if lines else "the trial died without a message")

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        names = ", ".join(config.run_name for config in self._members(trial))
        self.progress.say(
            f"the process or node that trained {names} is lost; it goes on elsewhere from its last checkpoint"
        )

    def _fail_unended(self, trial: Trial, reason: str) -> None:
        for config in self._members(trial):
            if config not in self.launched.finished and config not in self.launched.failed:
                self._tag(config, trial)
                self._fail(config, reason)

    def _fail(
        self, config: TrialConfig, reason: str, artifacts: Path | None = None, then: Callable[[], None] | None = None
    ) -> None:
        self.launched.failed[config] = reason
        self.tracking.finish(config, "FAILED", reason, artifacts=artifacts, then=then)
        self.progress.failed += 1
        self.progress.say(f"{config.run_name} failed: {reason}")
