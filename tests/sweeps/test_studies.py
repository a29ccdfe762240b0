"""The studies against known functions: Tune's part is played by hand; Optuna, its SQLite and the searcher are the real ones."""

import itertools
import math
import multiprocessing
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.engine import Engine

from fishernet.config import TrialConfig
from sweeps import studies
from sweeps.flags import UsageError
from sweeps.hyperparameter_search import HyperparameterSearch, _parse, best_plan, plan_from_flags
from sweeps.launch import Job
from sweeps.space import SearchPlan
from sweeps.studies import STOPPED_EARLY, StudiesError, StudySearcher, open_studies, population_size
from sweeps.tracking import TrackedRun

FLAGS = ("--dataset", "digits", "--models=AE", "--seeds", "2", "--epochs", "9", "--first-rung", "1", "--trials", "30",
         "--fix", "hidden_layers=1", "--fix", "batch_size=32", "--fix", "weight_decay=0", "--activation", "relu,elu,tanh",
         "--hidden-width", "8", "--learning-rate", "1e-5..1e-1:log")  # fmt: skip


def plan_of(*argv: str) -> SearchPlan:
    return plan_from_flags(_parse([*FLAGS, *argv]), 10)


def bowl(config: TrialConfig, epoch: int) -> float:
    """Lowest, 0.01 + 1/(10 epoch), at learning rate 1e-3 with elu; the seed adds a thousandth."""
    distance = (math.log10(config.learning_rate) + 3) ** 2 + (config.activation != "elu")
    return 0.01 + 0.1 * distance + 0.1 / epoch + 0.001 * config.seed


class Killed(Exception):
    """The driver is gone."""


@dataclass
class Player:
    """Tune's part with one worker, and what MLflow would hold."""

    folder: Path
    plan: SearchPlan
    score: Callable[[TrialConfig, int], float] = bowl
    runs: dict[TrialConfig, TrackedRun] = field(default_factory=dict)
    kill_at: tuple[int, int] | None = None  # (trial, epoch): after its report
    failures: dict[tuple[int, int], str] = field(default_factory=dict)  # (trial, epoch) -> reason of seed 1
    deaths: set[int] = field(default_factory=set)  # trials of this launch whose worker dies
    loses_the_end: bool = False  # MLflow does not hear how trials end
    trained: list[TrialConfig] = field(default_factory=list)

    def search(self, name: str = "s") -> StudySearcher:
        studies = open_studies(self.plan, name, self.folder, known=True, trained=False)
        return StudySearcher(studies, self.runs, {}, lambda job: {"members": job.members}, "validation")

    def play(self) -> StudySearcher:
        search = self.search()
        for i in itertools.count():
            suggested = search.suggest(str(i))
            if suggested == "FINISHED":
                break
            self._train(search, str(i), suggested["job"]["members"], i)
        return search

    def _train(self, search: StudySearcher, trial_id: str, members: tuple[TrialConfig, ...], i: int) -> None:
        number = int(search.tags(Trial(trial_id))["fishernet.search.trial"])
        self.trained.append(members[0])
        reason = ""
        for epoch in range(1, self.plan.epochs + 1):
            if i in self.deaths and epoch == 2:
                search.on_trial_complete(trial_id, error=True)
                self._record(members, "FAILED", "the trial died")
                return
            result = {f"epochs/{c.run_name}": [self._epoch(c, epoch)] for c in members}
            if failure := self.failures.get((number, epoch)):
                result |= {f"failures/{members[1].run_name}": failure}
            reason = search.reason_to_stop(trial_id, result)
            if self.kill_at == (number, epoch):
                raise Killed
            if reason:
                break
        search.on_trial_complete(trial_id, {})
        status = "FINISHED" if not reason else "KILLED" if reason.startswith(STOPPED_EARLY) else "FAILED"
        if not self.loses_the_end:
            self._record(members, status, reason)

    def _epoch(self, config: TrialConfig, epoch: int) -> dict[str, Any]:
        mse = self.score(config, epoch)
        kl = 10 / (0.01 + mse)
        metrics = {"validation/mse": mse, "validation/log_likelihood": 5.0, "validation/elbo": 5.0 - kl}
        # None of these may count.
        metrics |= {f"{images}/mse": -mse for images in ("train", "test")} | {"validation/mse_sample": -mse}
        return {"epoch": epoch, "metrics": metrics}

    def _record(self, members: tuple[TrialConfig, ...], status: str, reason: str) -> None:
        self.runs |= {c: TrackedRun("", c, status, 0, reason) for c in members}


@dataclass
class Trial:
    """All that ``StudySearcher.tags`` asks of one of Tune's trials."""

    trial_id: str


def told(search: StudySearcher) -> list[Any]:
    """Everything that Optuna holds of the trials."""
    return [
        (study.name, t.number, t.state, t.values, t.params, t.intermediate_values, t.user_attrs)
        for study in search.studies
        for t in study.trials()
    ]


@pytest.mark.parametrize(("sampler", "decades"), [("tpe", 0.25), ("random", 0.6), ("cma-es", 0.4)])
def test_on_a_known_function_the_search_finds_its_optimum(sampler, decades, tmp_path):
    if sampler == "cma-es":
        pytest.importorskip("cmaes")
    search = Player(tmp_path, plan_of("--sampler", sampler)).play()
    best = search.studies[0].best()
    assert best.params["activation"] == "elu"
    assert abs(math.log10(best.params["learning_rate"]) + 3) < decades
    learned, paper = {}, {}
    for config in best_plan(search.plan, search.studies, None).configs:
        (learned if config.setting else paper)[config.seed] = config
    assert set(learned) == set(paper) == {2, 3}  # seeds the search has not seen
    assert learned[2].learning_rate == best.params["learning_rate"]
    assert (paper[2].learning_rate, paper[2].activation, paper[2].hidden_width) == (1e-4, "relu", 448)
    assert {c.validation_size for c in [*learned.values(), *paper.values()]} == {0}


def test_two_objectives_are_both_minimised(tmp_path):
    """The divergence falls where the error grows, so every learning rate on one side is a compromise and all are kept."""
    plan = plan_of("--sampler", "nsga-ii", "--models", "VAE")
    search = Player(tmp_path, plan).play()
    (study,) = search.studies
    trials = study.trials()
    assert all(t.state == TrialState.COMPLETE and len(t.values) == 2 for t in trials)
    front = study.study.best_trials
    best = study.best()
    low = min(t.values[0] for t in front), min(t.values[1] for t in front)
    assert low[0] < best.values[0]  # neither end of the front
    assert low[1] < best.values[1]


def test_the_same_seed_gives_the_same_suggestions_and_another_seed_others(tmp_path):
    suggested = []
    for i, seed in enumerate(("3", "3", "4")):
        folder = tmp_path / str(i)
        folder.mkdir()
        (study,) = Player(folder, plan_of("--sampler-seed", seed, "--trials", "14")).play().studies
        suggested.append([trial.params for trial in study.trials()])
    first, again, other = suggested
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("kill_at", [(0, 1), (0, 4), (5, 1), (13, 9)])
def test_a_killed_search_goes_on_as_if_it_had_not_been_killed(kill_at, tmp_path):
    """No trial lost, none repeated, and every later suggestion the same: also after the tenth, where the sampler learns."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    plan = plan_of("--trials", "15", "--first-rung", "9" if kill_at[1] == 9 else "2")
    whole = Player(tmp_path / "whole", plan).play()
    player = Player(tmp_path / "killed", plan, kill_at=kill_at)
    with pytest.raises(Killed):
        player.play()
    player.kill_at = None
    assert told(player.play()) == told(whole)


@contextmanager
def killed_at_write(n: int) -> Iterator[None]:
    """The driver dies in place of its nth write about trials to Optuna's storage."""
    count = itertools.count(1)

    def die(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if re.match(r"(INSERT INTO|UPDATE) trial", statement) and next(count) == n:
            raise Killed

    event.listen(Engine, "before_cursor_execute", die)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", die)


@pytest.mark.parametrize("sampler", ["tpe", "nsga-ii"])
def test_a_search_killed_after_any_of_its_writes_is_the_undisturbed_one(sampler, tmp_path):
    """Also between two values of one suggestion, and between a score and what the rung decides from it."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    plan = plan_of("--models=VAE", "--sampler", sampler, "--trials", "5", "--epochs", "3", "--first-rung", "1",
                   "--reduction-factor", "2", "--noise-start=-3..0", "--fix", "noise_learning_rate=0")  # fmt: skip
    whole = told(Player(tmp_path / "whole", plan).play())
    assert len({state for _, _, state, *_ in whole}) == (1 if plan.multi_objective else 2)
    player = Player(tmp_path / "killed", plan)
    for n_kills in range(200):
        try:
            with killed_at_write(2 + n_kills % 5):  # some writes are done again at each start
                search = player.play()
            break
        except Killed:
            pass
    assert n_kills > 10
    assert told(search) == whole


def test_a_trial_that_falls_behind_is_pruned_with_its_reason_and_the_rest_are_complete(tmp_path):
    player = Player(tmp_path, plan_of("--sampler", "random"))
    (study,) = player.play().studies
    states = Counter(t.state for t in study.trials())
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    assert (
        states[TrialState.PRUNED] > states[TrialState.COMPLETE]
    )  # two of three at each of two rungs, but for the first
    assert len(study.trials()) == 30
    for trial in study.trials():
        if trial.state == TrialState.PRUNED:
            assert trial.last_step in (1, 3)
            assert trial.user_attrs["reason"].startswith(
                f"stopped early: after epoch {trial.last_step} its mean validation MSE"
            )
        else:
            assert trial.last_step == 9  # a rung at the last epoch would stop what is done
            (mean,) = trial.values
            assert mean == pytest.approx(sum(bowl(c, 9) for c in study.members(trial)) / 2, rel=1e-12)
    assert (
        f"30 trials, {states[TrialState.COMPLETE]} complete, {states[TrialState.PRUNED]} stopped early"
        in study.summary()
    )


def test_no_trial_is_stopped_where_the_first_rung_is_the_last_epoch(tmp_path):
    (study,) = Player(tmp_path, plan_of("--first-rung", "9", "--trials", "8")).play().studies
    assert {t.state for t in study.trials()} == {TrialState.COMPLETE}


def test_a_trial_goes_on_where_it_is_among_the_best_third_of_those_that_came_to_its_rung(tmp_path):
    """Of n so far the best n // 3, one at least; what equals the last of these goes on as well."""
    scores = [5, 7, 3, 4, 3, 9, 1, 2, 2, 8, 1.5, 6, 2, 0.5, 3.5]
    player = Player(
        tmp_path, plan_of("--trials", "15"), score=lambda config, epoch: scores[int(config.setting.removeprefix("t"))]
    )
    (study,) = player.play().studies
    rungs = {1: [], 3: []}

    def last_epoch(score: float) -> int:
        for epoch, before in rungs.items():
            before.append(score)
            if score > sorted(before)[max(1, len(before) // 3) - 1]:
                return epoch
        return 9

    expected = [last_epoch(score) for score in scores]
    assert [trial.last_step for trial in study.trials()] == expected
    assert set(expected) == {1, 3, 9}


def test_a_trials_value_is_its_score_at_the_last_epoch_also_where_an_earlier_one_was_better(tmp_path):
    def score(config: TrialConfig, epoch: int) -> float:
        return bowl(config, 9) + 0.01 * (epoch - 5) ** 2

    (study,) = Player(tmp_path, plan_of("--first-rung", "9", "--trials", "3"), score).play().studies
    for trial in study.trials():
        (value,) = trial.values
        assert value == pytest.approx(sum(score(config, 9) for config in study.members(trial)) / 2, rel=1e-12)
        assert value > 1.01 * min(trial.intermediate_values.values())


def test_no_two_fields_trials_or_studies_draw_the_same_number(tmp_path):
    """As places within their ranges, of which a stream in common would repeat."""
    plan = plan_of("--models", "AE", "VAE", "--trials", "3", "--sampler", "random", "--first-rung", "9", "--likelihood",
                   "gaussian-learned", "--noise-start=-3..0", "--noise-learning-rate", "1e-4..1e-1:log")  # fmt: skip
    ranges = {"learning_rate": (-5, -1), "noise_learning_rate": (-4, -1), "noise_start": (-3, 0)}
    places = []
    for study in Player(tmp_path, plan).play().studies:
        for trial in study.trials():
            for name, (low, high) in ranges.items():
                value = trial.params[name]
                places.append(((value if name == "noise_start" else math.log10(value)) - low) / (high - low))
    assert len({round(place, 9) for place in places}) == len(places) == 2 * 3 * 3


def test_one_diverged_seed_fails_its_trial_and_the_search_goes_on(tmp_path):
    player = Player(tmp_path, plan_of("--trials", "6"), failures={(2, 1): "diverged: the loss became nan in epoch 1"})
    search = player.play()
    (study,) = search.studies
    assert study.trials()[2].state == TrialState.FAIL
    assert study.trials()[2].user_attrs["reason"] == "diverged: of AE-t002-d10-s1, the loss became nan in epoch 1"
    assert len(study.trials()) == 6
    assert {c.run_name for c in search.failures()} == {"AE-t002-d10-s0", "AE-t002-d10-s1"}
    assert "1 failed" in study.summary()
    assert player.search().n_left() == 0  # it would only diverge again


def test_a_trial_that_died_is_tried_again_at_the_next_start_and_counts_once(tmp_path):
    player = Player(tmp_path, plan_of("--trials", "4"), deaths={1})
    search = player.play()
    assert [t.state for t in search.studies[0].trials()].count(TrialState.FAIL) == 1
    assert search.n_left() == 0
    player.deaths = set()
    again = player.play()
    trials = again.studies[0].trials()
    assert len(trials) == 5
    assert trials[4].params == trials[1].params
    assert trials[4].state in (TrialState.COMPLETE, TrialState.PRUNED)
    assert again.studies[0].n_asked() == 4
    assert player.search().n_left() == 0


def test_a_trial_that_died_and_its_retry_stand_in_a_rung_once(tmp_path):
    """Of six at the rung two pass: the trial of 0.45 beside one of 0.4, which counted twice would take both places."""
    scores = {"t000": 0.5, "t001": 0.4, "t002": 0.6, "t003": 0.7, "t004": 0.8, "t005": 0.4, "t006": 0.45}

    def score(config: TrialConfig, epoch: int) -> float:
        return scores[config.setting] / epoch

    player = Player(tmp_path, plan_of("--trials", "5"), score=score, deaths={1})
    player.play()
    player.deaths, player.plan = set(), plan_of("--trials", "6")
    trials = player.play().studies[0].trials()
    assert trials[5].user_attrs["retry_of"] == 1
    assert trials[6].last_step > 1


def test_a_trial_whose_worker_dies_after_the_last_epoch_has_no_record_and_is_tried_again(tmp_path):
    player = Player(tmp_path, plan_of("--first-rung", "9", "--trials", "1"))
    search = player.search()
    members = search.suggest("0")["job"]["members"]
    for epoch in range(1, 10):
        assert search.reason_to_stop("0", {f"epochs/{c.run_name}": [player._epoch(c, epoch)] for c in members}) == ""
    search.on_trial_complete("0", error=True)
    (trial,) = search.studies[0].trials()
    assert trial.state == TrialState.FAIL
    assert player.search().n_left() == 1


def test_what_ended_in_optuna_and_not_in_mlflow_is_trained_again_and_told_once(tmp_path):
    """The driver may die between the two: then MLflow gets the end as well, and Optuna keeps what it has."""
    player = Player(tmp_path, plan_of("--trials", "6"), loses_the_end=True)
    before = told(player.play())
    assert not player.runs
    player.loses_the_end, player.trained = False, []
    after = player.play()
    assert told(after) == before
    assert [c.setting for c in player.trained] == [f"t{number:03d}" for number in range(6)]
    for trial in after.studies[0].trials():
        status = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED"}[trial.state]
        assert {player.runs[c].status for c in after.studies[0].members(trial)} == {status}
    assert player.search().n_left() == 0


def test_a_trial_that_was_stopped_early_and_is_trained_again_stops_at_the_same_epoch(tmp_path):
    player = Player(tmp_path, plan_of("--sampler", "random", "--trials", "8"), loses_the_end=True)
    trials = player.play().studies[0].trials()
    epochs, score = Counter(), player.score
    player.score = lambda config, epoch: (epochs.update([config.setting]), score(config, epoch))[1]
    player.play()
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert epochs == {f"t{trial.number:03d}": 2 * trial.last_step for trial in trials}  # of two seeds


def test_a_trial_whose_run_was_killed_for_another_reason_is_trained_again(tmp_path):
    """MLflow says the same as Optuna of a trial that was stopped early alone where it gives that reason."""
    player = Player(tmp_path, plan_of("--sampler", "random", "--trials", "8"))
    (study,) = player.play().studies
    pruned = next(trial for trial in study.trials() if trial.state == TrialState.PRUNED)
    for config in study.members(pruned):
        player.runs[config] = TrackedRun("", config, "KILLED", 0, "the driver was interrupted")
    assert player.search().n_left() == 1


def test_an_integer_is_searched_on_the_scale_that_was_asked_for(tmp_path):
    plan = plan_of("--sampler", "random", "--hidden-width", "1..4096:log")
    (study,) = open_studies(plan, "s", tmp_path, known=True, trained=False)
    widths = [study.members(study.ask())[0].hidden_width for _ in range(24)]
    # Half of the logarithm's range is below 64, of the range itself a sixty-fourth: of 24 draws five and more are
    # with 99.9%, and with 10^-6.
    assert sum(width < 64 for width in widths) >= 5


def test_a_genetic_search_has_about_five_generations_of_four_trials_or_more():
    assert [population_size(n) for n in (1, 8, 20, 30, 100, 250, 1000)] == [4, 4, 4, 6, 20, 50, 50]


def test_studies_take_turns_and_get_equal_budgets(tmp_path):
    player = Player(tmp_path, plan_of("--models", "AE", "VAE", "--trials", "5", "--noise-start", "-3..0"))
    search = player.play()
    assert [c.model for c in player.trained] == ["AE", "VAE"] * 5
    assert [len(study.trials()) for study in search.studies] == [5, 5]


def test_every_suggested_value_is_a_field_of_every_member_and_all_else_is_as_planned(tmp_path):
    player = Player(
        tmp_path, plan_of("--models", "VAE", "--trials", "8", "--latent-dims", "2..6", "--noise-start", "-3..0")
    )
    (study,) = player.play().studies
    varied = set()
    for trial in study.trials():
        members = study.members(trial)
        assert [c.seed for c in members] == [0, 1]
        varied |= set(trial.params)
        for config in members:
            expected = {
                **study.plan.base.to_dict(),
                **trial.params,
                "seed": config.seed,
                "setting": f"t{trial.number:03d}",
            }
            assert config.to_dict() == expected
            assert config in player.runs
    assert varied == set(dict(study.plan.space))


def test_more_trials_go_on_where_the_search_ended(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    player = Player(tmp_path / "a", plan_of("--trials", "6"))
    player.play()
    player.plan = plan_of("--trials", "12")
    extended = player.play()
    assert told(extended) == told(Player(tmp_path / "b", plan_of("--trials", "12")).play())


def test_a_storage_that_tells_of_another_search_is_a_sentence(tmp_path):
    plan = plan_of("--trials", "1")
    Player(tmp_path, plan).play()
    with pytest.raises(
        StudiesError, match="of a search s already, and MLflow has no plan of that name; --resume s goes on"
    ):
        open_studies(plan, "s", tmp_path, known=False, trained=False)
    with pytest.raises(StudiesError, match=r"MLflow knows the search other, but .*optuna\.db holds no study of it"):
        open_studies(plan, "other", tmp_path, known=True, trained=True)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "optuna.db").write_text("no database, but long enough to be taken for the head of one" * 20)
    with pytest.raises(StudiesError, match="cannot be used as Optuna's storage"):
        open_studies(plan, "s", tmp_path / "text", known=False, trained=False)


@contextmanager
def locked(folder: Path) -> Iterator[sqlite3.Connection]:
    """Another process amid a write to the storage."""
    with closing(sqlite3.connect(folder / "optuna.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("begin exclusive")
        yield other


def test_a_storage_that_is_locked_for_seconds_is_waited_for(tmp_path):
    plan = plan_of("--trials", "1")
    open_studies(plan, "s", tmp_path, known=False, trained=False)
    with locked(tmp_path) as other:
        release = threading.Timer(7, other.rollback)
        release.start()
        (study,) = open_studies(plan, "s", tmp_path, known=True, trained=False)
        release.join()
    assert study.ask().number == 0


def test_a_storage_that_stays_locked_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "PATIENCE_SECONDS", 0.1)
    plan = plan_of("--trials", "1")
    opened = open_studies(plan, "s", tmp_path, known=False, trained=False)
    argv = [f"--storage-path={tmp_path}", "--tracking-uri=sqlite:////s.db"]
    search = HyperparameterSearch(_parse(argv), argv)
    search.opened, search.plan = opened, plan
    sentence = r"optuna\.db cannot be used as Optuna's storage: database is locked$"
    with locked(tmp_path):
        with pytest.raises(StudiesError, match=sentence):
            open_studies(plan, "s", tmp_path, known=True, trained=False)
        with pytest.raises(StudiesError, match=sentence), studies.sentences(tmp_path):
            StudySearcher(opened, {}, {}, Job.to_dict, "validation")
        with pytest.raises(UsageError, match=sentence):
            search.draw("s")


def open_at_once(meeting: threading.Barrier, folders: list[Path], name: str) -> int:
    plan, n_trials = plan_of("--trials", "1"), 0
    for folder in folders:
        meeting.wait(60)
        n_trials += len(open_studies(plan, name, folder, known=False, trained=False)[0].trials())
    return n_trials


@pytest.mark.long
def test_searches_that_make_their_storage_at_the_same_instant_each_have_it_whole(tmp_path):
    folders = [tmp_path / str(i) for i in range(5)]
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(3, spawn) as pool:
        meeting = manager.Barrier(3)
        assert list(pool.map(open_at_once, [meeting] * 3, [folders] * 3, "abc")) == [0, 0, 0]
    for folder in folders:
        assert [path.name for path in folder.iterdir()] == ["optuna.db"]
        assert sorted(optuna.get_all_study_names(f"sqlite:///{folder / 'optuna.db'}")) == [
            "a/AE-d10",
            "b/AE-d10",
            "c/AE-d10",
        ]
