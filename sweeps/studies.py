"""Optuna's studies as a searcher and an early stopper of Ray Tune; both keep all they know in Optuna's storage.

Ray's own OptunaSearch and ASHAScheduler are not used: the first stores a trial that was stopped early as complete, with its
early value, counts reports where we count epochs, and draws the first numbers again when it is started again; the second
forgets its rungs with its process. Here a trial that is stopped is PRUNED, each value is drawn with a seed of its own, and a
rung compares the scores that the study holds (asynchronous successive halving: Li et al. 2020). Optuna's pruner notes that a
trial has passed a rung before it says so, so a driver killed in between would let it go on.
"""

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from sqlalchemy.exc import SQLAlchemyError

from analysis.studies import best_trial
from fishernet.config import TrialConfig
from fishernet.families import all_fields
from fishernet.plan import Json
from fishernet.services import schema
from fishernet.services.mlflow_store import create_whole, reason_of
from fishernet.training import DIVERGED
from sweeps.checkpoints import Members
from sweeps.launch import Job
from sweeps.space import DATABASE, Choices, Domain, SearchPlan, StudyPlan, Value, storage_url, suggestions
from sweeps.tracking import TrackedRun

STOPPED_EARLY = "stopped early: "  # how the reason begins of a trial that others of its rung left behind
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
PATIENCE_SECONDS = 60  # for a storage that another process has locked: SQLite's own 5 are soon over
RETRY_OF, REASON = "retry_of", "reason"  # Optuna's user attributes of a trial

optuna.logging.set_verbosity(optuna.logging.WARNING)


class StudiesError(RuntimeError):
    """Why the studies cannot be had, as a sentence."""


def _storage(database: Path) -> optuna.storages.RDBStorage:
    patience = {"timeout": PATIENCE_SECONDS}
    return optuna.storages.RDBStorage(f"sqlite:///{database.as_posix()}", engine_kwargs={"connect_args": patience})


@contextmanager
def sentences(storage_path: Path, *others: type[Exception]) -> Iterator[None]:
    """What goes wrong with the storage, and ``others``, become a StudiesError."""
    errors: tuple[type[Exception], ...] = (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError, *others)
    try:
        yield
    except errors as error:
        url = storage_url(storage_path)
        raise StudiesError(f"{url} cannot be used as Optuna's storage: {reason_of(error)}") from None


def open_storage(storage_path: Path) -> optuna.storages.RDBStorage:
    """The storage of all searches of one storage path; made where it is missing."""
    database = storage_path / DATABASE
    if not database.exists():
        create_whole(database, lambda draft: _storage(draft).engine.dispose())
    return _storage(database)


def forget(storage_path: Path, searches: Collection[str]) -> None:
    """Delete the studies of the searches that were begun under these names."""
    storage = open_storage(storage_path)
    for study in optuna.get_all_study_names(storage):
        if study.rpartition("/")[0] in searches:
            optuna.delete_study(study_name=study, storage=storage)


def make_sampler(plan: SearchPlan, seed: int) -> optuna.samplers.BaseSampler:
    """Raises StudiesError where the sampler's package is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if plan.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if plan.sampler == "nsga-ii":
            return optuna.samplers.NSGAIISampler(population_size=population_size(plan.n_trials), seed=seed)
        if plan.sampler == "cma-es":
            try:
                return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
            except ImportError:
                raise StudiesError(
                    "--sampler cma-es needs the package cmaes; install it (pip install cmaes), or choose tpe"
                ) from None
        return optuna.samplers.TPESampler(seed=seed)


def population_size(n_trials: int) -> int:
    """About five generations, as few as two of four."""
    return min(50, max(4, n_trials // 5))


class Study:
    """One study of the plan with its trials in the storage."""

    def __init__(self, plan: StudyPlan, search: SearchPlan, name: str, storage: optuna.storages.BaseStorage) -> None:
        self.plan, self.search, self.name = plan, search, f"{name}/{plan.name}"
        self.study = optuna.create_study(
            study_name=self.name, storage=storage, load_if_exists=True,
            directions=["minimize"] * (2 if search.multi_objective else 1),
        )  # fmt: skip

    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def scores(self) -> list[dict[int, float]]:
        """Score by epoch of each suggestion: a trial that died and its retries, which have its values, are one."""
        first: dict[int, int] = {}  # trial -> the one it is, at last, a retry of
        merged: dict[int, dict[int, float]] = {}
        for trial in self.trials():
            first[trial.number] = first.get(trial.user_attrs.get(RETRY_OF, -1), trial.number)
            merged.setdefault(first[trial.number], {}).update(trial.intermediate_values)
        return list(merged.values())

    def n_asked(self) -> int:
        """How much of the budget is spent; a trial that died and its retry count once."""
        trials = self.trials()
        return len(trials) - sum(RETRY_OF in trial.user_attrs for trial in trials)

    def ask(self) -> optuna.Trial:
        """The next suggestion; the same for the same trials before it, also in another process."""
        return self.again(self.study.ask().number)

    def again(self, number: int) -> optuna.Trial:
        """A trial that has begun and not ended; values it lacks are those it would have had."""
        trial_id = self.trials()[number]._trial_id
        # Twice: a genetic sampler selects parents, stores them and from then on reads them in another order.
        for _ in range(2):
            self._seed(number)
            trial = optuna.Trial(self.study, trial_id)
            trial.relative_params  # noqa: B018  (drawn together, when first asked for)
        return trial

    def _seed(self, number: int, name: str = "") -> None:
        # A sampler that went on with one generator would draw its first numbers again in the next process; with one seed for
        # all fields, a kill in the midst of a suggestion would give the next field the numbers of the first.
        digest = hashlib.sha256(f"{self.search.sampler_seed}/{self.name}/{number}/{name}".encode()).digest()
        self.study.sampler = make_sampler(self.search, int.from_bytes(digest[:4], "little"))

    def members(self, trial: optuna.Trial | FrozenTrial) -> Members:
        """The trial's configs, one a seed; of a trial that is being made, its values are suggested here."""
        if isinstance(trial, FrozenTrial):
            return self.search.members(self.plan, trial.params, trial.number)

        def value(name: str, domain: Domain) -> Value:
            self._seed(trial.number, name)
            return suggest(trial, name, domain)

        return self.search.members(self.plan, dict(suggestions(self.plan, value)), trial.number)

    def best(self) -> FrozenTrial | None:
        return best_trial(self.study)

    def summary(self) -> str:
        """How its trials ended, and the best setting."""
        counts = Counter(STATES.get(trial.state, "unfinished") for trial in self.trials())
        words = {"complete": "complete", "pruned": "stopped early", "failed": "failed", "unfinished": "unfinished"}
        ended = ", ".join(f"{counts[state]} {word}" for state, word in words.items() if counts[state])
        line = f"{self.plan.name}: {len(self.trials())} trials, {ended or 'none begun'}"
        if (best := self.best()) is None:
            return line
        values = ", ".join(f"{name} {value:.5g}" for name, value in zip(self.objectives, best.values, strict=True))
        settings = ", ".join(f"{k} {f'{v:.4g}' if isinstance(v, float) else v}" for k, v in best.params.items())
        return f"{line}; best {values} (trial {best.number}): {settings}"

    @property
    def objectives(self) -> tuple[str, ...]:
        return ("validation MSE", "KL divergence")[: 1 + self.search.multi_objective]

    def retry_dead_trials(self) -> None:
        """Enqueue again, with their values, the trials that died of something other than their values."""
        trials = self.trials()
        retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        for trial in trials:
            reason = trial.user_attrs.get(REASON, DIVERGED)
            if trial.state == TrialState.FAIL and trial.number not in retried and not reason.startswith(DIVERGED):
                self.study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})


def open_studies(plan: SearchPlan, name: str, storage_path: Path, *, known: bool, trained: bool) -> list[Study]:
    """The plan's studies in the storage of that path; made where they are missing.

    Raises StudiesError where the storage cannot be used, or tells of another search than MLflow: ``known``, MLflow has its
    plan, and ``trained``, it has runs.
    """
    url = storage_url(storage_path)
    with sentences(storage_path, RuntimeError):  # of another version of Optuna
        storage = open_storage(storage_path)
        there = {s.study_name for s in optuna.get_all_study_summaries(storage, include_best_trial=False)}
    ours = [study_name for study_name in there if study_name.startswith(f"{name}/")]
    if ours and not known:
        raise StudiesError(
            f"{url} holds studies of a search {name} already, and MLflow has no plan of that name; --resume {name} goes on where "
            "its run was deleted in MLflow; otherwise choose another --name, or "
            f"delete them: optuna delete-study --storage {url} --study-name {ours[0]}"
        )
    if trained and not ours:
        raise StudiesError(
            f"MLflow knows the search {name}, but {url} holds no study of it; name the --storage-path it was started with"
        )
    with sentences(storage_path):
        return [Study(study, plan, name, storage) for study in plan.studies]


def suggest(trial: optuna.Trial, name: str, domain: Domain) -> Value:
    """The trial's value for a field, drawn now or when it was first asked for."""
    if isinstance(domain, Choices):
        value: Value = trial.suggest_categorical(name, domain.values)  # type: ignore[assignment]  # its stub adds None
        return value
    if isinstance(all_fields()[name].default, int):
        step = 1 if domain.step is None else int(domain.step)
        return trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log, step=step)
    return trial.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step)


@dataclass
class Attempt:
    """One trial of Optuna's as it is trained by one of Tune's."""

    study: Study
    trial: optuna.Trial | FrozenTrial
    members: Members
    ended: FrozenTrial | None = None  # told before, in a process that died before MLflow held it all
    values: dict[int, tuple[float, ...]] = field(
        default_factory=dict
    )  # epoch -> what is minimised, means over the seeds
    told: TrialState | None = None

    def tell(self, state: TrialState, reason: str = "") -> None:
        if self.told is None and self.ended is None:
            if reason:
                self.trial.set_user_attr(REASON, reason)
            values = list(self.values[self.study.search.epochs]) if state == TrialState.COMPLETE else None
            self.study.study.tell(self.trial.number, values, state=state)
        self.told = self.told or (self.ended.state if self.ended else state)


class StudySearcher(Searcher):
    """All studies as one source of Tune's trials (``sweeps.launch.Jobs``): whichever has had fewest suggestions is asked next.

    Trials that were begun and not ended come first, with the values they had. A trial that ended in Optuna's storage while
    MLflow lacks the end of a run is trained again from its checkpoint, so that both tell the same.
    """

    keep_models = False
    finished: Set[TrialConfig] = frozenset()  # a trial goes on with all of its runs

    def __init__(
        self, studies: Sequence[Study], runs: Mapping[TrialConfig, TrackedRun],
        checkpoints: Mapping[Members, Sequence[str]], to_dict: Callable[[Job], Json], held_out: str,
    ) -> None:  # fmt: skip
        super().__init__(metric=None, mode=None)
        self.studies, self.plan, self.by_id, self.stops = studies, studies[0].search, dict[str, Job](), dict[str, str]()
        self._runs, self._checkpoints, self._to_dict, self._held_out = runs, checkpoints, to_dict, held_out
        self._attempts: dict[str, Attempt] = {}  # Tune's trial id -> what it trains
        for study in studies:
            study.retry_dead_trials()
        self.begun = [
            (study, trial) for study in studies for trial in study.trials() if not self._settled(study, trial)
        ]
        self.failed = self.failures()
        n_left, n_seeds = self.n_left(), len(self.plan.seeds)
        self.cohort_sizes: Sequence[int] = [n_seeds] * n_left
        self.n_runs = n_left * n_seeds
        self.n_epochs = self.n_runs * self.plan.epochs
        n_ended = len(studies) * self.plan.n_trials - n_left
        self.resumes = bool(n_ended or self.begun)
        self.ended = f"{n_ended} trials have ended"
        self.left = f"{n_left} to train, {len(self.begun)} of them begun before"

    def __getstate__(self) -> dict[str, object]:
        return {}  # Tune pickles its searcher; this one belongs to the driver that made it

    def failures(self) -> dict[TrialConfig, str]:
        """The runs of the trials that failed before."""
        return {
            config: trial.user_attrs.get(REASON, "")
            for study in self.studies
            for trial in study.trials()
            if trial.state == TrialState.FAIL
            for config in study.members(trial)
        }

    def n_left(self) -> int:
        """How many trials are to be trained yet."""
        asked = sum(study.n_asked() for study in self.studies)
        return len(self.begun) + len(self.studies) * self.plan.n_trials - asked

    def tune_arguments(self) -> tuple[Json, Json]:
        return {}, {"search_alg": self, "scheduler": EarlyStopper(self), "num_samples": self.n_left()}

    def tags(self, trial: Trial) -> dict[str, str]:
        attempt = self._attempts[trial.trial_id]
        return {
            schema.STUDY: attempt.study.plan.name,
            schema.TRIAL: str(attempt.trial.number),
            schema.STATE: "running" if attempt.told is None else STATES[attempt.told],
        }

    # What Tune calls, in the driver's one thread.

    def suggest(self, trial_id: str) -> Any:
        """The next trial's job, or that there is none."""
        attempt = self._next()
        if attempt is None:
            return str(Searcher.FINISHED)
        self._attempts[trial_id] = attempt
        job = Job(attempt.members, tuple(self._checkpoints.get(attempt.members, ())))
        self.by_id[job.id] = job
        return {"job": self._to_dict(job)}

    def on_trial_result(self, trial_id: str, result: Json) -> None:
        """Everything happens in ``reason_to_stop``, which comes first."""

    def on_trial_complete(self, trial_id: str, result: Json | None = None, error: bool = False) -> None:
        attempt = self._attempts[trial_id]
        if trial_id in self.stops:
            return
        if not error and self.plan.epochs in attempt.values:
            attempt.tell(TrialState.COMPLETE)
        else:
            attempt.tell(TrialState.FAIL, "the trial died")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: all is in the storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: all is in the storage."""

    def reason_to_stop(self, trial_id: str, result: Json) -> str:
        """Take note of what Tune's trial reports, keys flattened by Tune; why it is to be stopped, else empty."""
        attempt = self._attempts[trial_id]
        reason = self._why(attempt, result)
        if reason:
            attempt.tell(TrialState.FAIL if reason.startswith(DIVERGED) else TrialState.PRUNED, reason)
            self.stops[trial_id] = reason
        return reason

    def _why(self, attempt: Attempt, result: Json) -> str:
        for config in attempt.members:
            if reason := result.get(f"failures/{config.run_name}"):
                # The mean over the others would not be comparable, so the trial fails as a whole.
                reason = reason.removeprefix(DIVERGED)
                return f"{DIVERGED}of {config.run_name}, {reason}" if len(attempt.members) > 1 else DIVERGED + reason
        records = [result.get(f"epochs/{config.run_name}", []) for config in attempt.members]
        for same_epoch in zip(*records, strict=True):
            epoch = same_epoch[0]["epoch"]
            scores = [self._scores(record["metrics"]) for record in same_epoch]
            attempt.values[epoch] = tuple(math.fsum(column) / len(scores) for column in zip(*scores, strict=True))
            if attempt.ended is not None:
                if attempt.ended.state == TrialState.PRUNED and epoch >= (attempt.ended.last_step or 0):
                    return str(attempt.ended.user_attrs[REASON])
            elif not self.plan.multi_objective and self._falls_behind(attempt, epoch):
                return (
                    f"{STOPPED_EARLY}after epoch {epoch} its mean {self._held_out} MSE {attempt.values[epoch][0]:.6g} was not "
                    f"among the best 1/{self.plan.reduction_factor} of the trials that came so far"
                )
        return ""

    def _falls_behind(self, attempt: Attempt, epoch: int) -> bool:
        """Take note of the score; whether it is not among the best of those known at this rung.

        Decided from the storage alone, so that a driver killed at any moment decides the same when it is started again.
        """
        known = attempt.study.trials()[attempt.trial.number].intermediate_values
        if epoch not in known:
            attempt.trial.report(attempt.values[epoch][0], epoch)
        if epoch not in self.plan.rungs or max(known, default=0) > epoch:  # no rung, or one it has passed
            return False
        scores = sorted(values[epoch] for values in attempt.study.scores() if epoch in values)
        return attempt.values[epoch][0] > scores[max(0, len(scores) // self.plan.reduction_factor - 1)]

    def _scores(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """What is minimised: the MSE, and where two things are, the KL divergence of the posterior from the prior besides."""
        mse = metrics[f"{self._held_out}/mse"]
        if not self.plan.multi_objective:
            return (mse,)
        # ELBO = ln p(x given z) - KL, exactly or by one sample an image.
        return mse, metrics[f"{self._held_out}/log_likelihood"] - metrics[f"{self._held_out}/elbo"]

    def _next(self) -> Attempt | None:
        if self.begun:
            study, frozen = self.begun.pop(0)
            if frozen.state == TrialState.WAITING:
                trial = study.ask()
                return Attempt(study, trial, study.members(trial))
            if frozen.state.is_finished():
                return Attempt(study, frozen, study.members(frozen), ended=frozen)
            trial = study.again(frozen.number)
            return Attempt(study, trial, study.members(trial))
        study = min(self.studies, key=lambda study: study.n_asked())
        if study.n_asked() >= self.plan.n_trials:
            return None
        trial = study.ask()
        return Attempt(study, trial, study.members(trial))

    def _settled(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether Optuna's trial has ended and MLflow says the same of each of its runs."""
        if not trial.state.is_finished():
            return False
        return trial.state == TrialState.FAIL or all(
            _ended_as(trial.state, self._runs.get(config)) for config in study.members(trial)
        )


def _ended_as(state: TrialState, run: TrackedRun | None) -> bool:
    if run is None:
        return False
    if state == TrialState.COMPLETE:
        return run.status == "FINISHED"
    return run.status == "KILLED" and run.reason.startswith(STOPPED_EARLY)


class EarlyStopper(FIFOScheduler):
    """Tune's scheduler: first come, first served, and stops what the search gives a reason to stop."""

    def __init__(self, search: StudySearcher) -> None:
        super().__init__()
        self._search = search

    def __getstate__(self) -> dict[str, object]:
        return {}

    def on_trial_result(self, tune_controller: object, trial: Trial, result: Json) -> str:
        stop = self._search.reason_to_stop(trial.trial_id, result)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)
