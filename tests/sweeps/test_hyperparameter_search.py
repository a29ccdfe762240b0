"""The search as a user runs it: real Ray trials, a real MLflow store, a real Optuna storage, real signals."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState

from fishernet.families import trial_config

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "sweeps" / "hyperparameter_search.py")
SEARCH = ("--dataset=digits", "--latent-dims=2", "--seeds=2", "--hidden-width=8", "--hidden-layers=1", "--batch-size=64",
          "--gpus=0", "--cpus-per-trial=1")  # fmt: skip
STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
WORDS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def run(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *argv], cwd=folder, env=environment(), capture_output=True, text=True, timeout=900, check=False
    )  # fmt: skip


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_", "TUNE_"))}


@pytest.fixture
def here(monkeypatch, capsys):
    """The command in this process, where nothing is trained: (exit status, standard output, standard error)."""
    from sweeps.hyperparameter_search import main

    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)

    def ran(folder: Path, *argv: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        capsys.readouterr()
        return main([*argv]), *capsys.readouterr()

    return ran


def study(folder: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder / 'fishernet-results' / 'optuna.db'}")


def children(folder: Path, name: str) -> list[object]:
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'fishernet-results' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(name)
    assert experiment.tags["fishernet.kind"] == "search"
    return list(client.search_runs([experiment.experiment_id], "tags.`fishernet.role` = 'trial'", max_results=1000))


def check_books(folder: Path, name: str, n_trials: int) -> None:
    """Optuna and MLflow tell the same of every trial of ``AE-d02``, and every value that was suggested was trained."""
    trials = study(folder, f"{name}/AE-d02").get_trials()
    assert [t.number for t in trials] == list(range(n_trials))
    assert {t.state for t in trials} <= set(STATUS)
    runs = children(folder, name)
    assert len({r.info.run_name for r in runs}) == len(runs) == 2 * n_trials
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'fishernet-results' / 'mlflow.db'}")
    for trial in trials:
        own = [r for r in runs if r.data.tags["fishernet.search.trial"] == str(trial.number)]
        configs = [trial_config(r.data.params) for r in own]
        assert sorted(c.seed for c in configs) == [0, 1]
        assert {r.info.status for r in own} == {STATUS[trial.state]}
        assert {r.data.tags["fishernet.search.state"] for r in own} == {WORDS[trial.state]}
        for config in configs:
            assert trial.params == {field: getattr(config, field) for field in trial.params}
            assert (config.setting, config.validation_size) == (f"t{trial.number:03d}", 200)
        if trial.state == TrialState.FAIL:
            continue
        histories = [client.get_metric_history(r.info.run_id, "validation/mse") for r in own]
        for history in histories:
            assert [m.step for m in history] == list(range(1, trial.last_step + 1))
        for step, mean in trial.intermediate_values.items():
            assert mean == pytest.approx(sum(h[step - 1].value for h in histories) / 2, rel=1e-12)


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """One finished search of eight trials; one learning rate in three makes every run diverge."""
    folder = tmp_path_factory.mktemp("search")
    argv = [*SEARCH, "--models=AE", "--trials=8", "--epochs=4", "--first-rung=1", "--validation-size=200",
            "--learning-rate=1e-3,1e-2,1e38", "--sampler-seed=3", "--name=found"]  # fmt: skip
    return folder, argv, run(folder, *argv)


@pytest.mark.timeout(1200)
def test_pruned_failed_and_completed_trials_are_counted_alike_in_optuna_in_mlflow_and_on_the_terminal(search):
    folder, _, done = search
    counts = Counter(t.state for t in study(folder, "found/AE-d02").get_trials())
    assert set(counts) == set(STATUS), "the search should hold all three kinds"
    assert done.returncode == 1, done.stderr  # some runs failed
    check_books(folder, "found", 8)
    assert (
        f"AE-d02: 8 trials, {counts[TrialState.COMPLETE]} complete, {counts[TrialState.PRUNED]} stopped early, "
        f"{counts[TrialState.FAIL]} failed; best validation MSE" in done.stdout
    )
    assert re.search(r"AE-t00\d-d02-s0: diverged: ", done.stdout)
    assert "optuna-dashboard sqlite:///" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_best_setting_stands_beside_the_usual_one_in_a_plan_that_the_sweep_takes(search):
    from fishernet.plan import SweepPlan

    folder, _, _ = search
    plan = SweepPlan.read(folder / "fishernet-results" / "found" / "best.json").configs
    best = study(folder, "found/AE-d02").best_trial
    assert [c.run_name for c in plan] == ["AE-d02-s2", "AE-d02-s3", "AE-tuned-d02-s2", "AE-tuned-d02-s3"]
    assert all(getattr(plan[2], field) == value for field, value in best.params.items())
    usual = {**trial_config(model="AE", dataset="digits", epochs=4).to_dict(), "seed": 2}
    assert plan[0].to_dict() == usual
    assert {c.validation_size for c in plan} == {0}


def test_the_figures_are_drawn_and_the_checkpoints_are_gone(search):
    folder, _, done = search
    place = folder / "fishernet-results" / "found"
    for stem in ("search_history", "parallel_coordinates_AE-d02", "slices_AE-d02"):
        assert (place / "figures" / f"{stem}.png").stat().st_size > 5000
        assert f"{stem}.csv" in done.stdout
    assert (place / "figures" / "best_settings.csv").exists()
    assert not (place / "ray").exists()


def test_the_same_command_again_trains_nothing(search):
    folder, argv, _ = search
    before = {r.info.run_name: r.info.end_time for r in children(folder, "found")}
    again = run(folder, *argv)
    assert again.returncode == 1
    assert "nothing to train" in again.stdout
    assert {r.info.run_name: r.info.end_time for r in children(folder, "found")} == before
    other = run(folder, *[word.replace("1e38", "1e37") for word in argv])
    assert other.returncode == 2
    assert "learning_rate of AE-d02 is 0.001,0.01,1e+38 there and 0.001,0.01,1e+37 here" in other.stderr


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_after_kill_9_no_trial_is_lost_or_repeated_and_the_search_is_the_undisturbed_one(tmp_path):
    """One worker, so that the undisturbed search is the same at every start."""
    n_cores = len(os.sched_getaffinity(0))
    argv = ["--dataset=digits", "--latent-dims=2", "--seeds=2", "--hidden-width=8", "--hidden-layers=1", "--models=AE",
            "--trials=14", "--epochs=9", "--first-rung=3", "--validation-size=200", "--gpus=0",
            f"--cpus-per-trial={n_cores}", "--name=s"]  # fmt: skip
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = run(tmp_path / "whole", *argv)
    assert whole.returncode == 0, whole.stderr
    # Each epoch is drawn out, so that the kill falls between trials that begin and end slowly enough to be seen.
    paused = environment() | {"PYTHONPATH": str(ROOT / "tests" / "chaos" / "inside"), "CHAOS_PAUSE": "0.2"}
    database = tmp_path / "killed" / "fishernet-results" / "optuna.db"
    for n_ended in (2, 11):  # among the random trials, and where the sampler has learned from them
        process = subprocess.Popen(
            [sys.executable, SCRIPT, *argv], cwd=tmp_path / "killed", env=paused,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            if database.exists() and n_trials_ended(tmp_path / "killed") >= n_ended:
                break
            time.sleep(0.05)
        process.kill()
        process.communicate()
    assert n_trials_ended(tmp_path / "killed") < 14, "the search ended before it was killed"
    resumed = run(tmp_path / "killed", "--resume=s", "--gpus=0", f"--cpus-per-trial={n_cores}")
    assert resumed.returncode == 0, resumed.stderr
    assert "trials have ended" in resumed.stdout
    check_books(tmp_path / "killed", "s", 14)
    books = [
        [(t.state, t.values, t.params, t.intermediate_values) for t in study(tmp_path / name, "s/AE-d02").get_trials()]
        for name in ("whole", "killed")
    ]
    assert books[0] == books[1]


def n_trials_ended(folder: Path) -> int:
    try:
        return sum(t.state.is_finished() for t in study(folder, "s/AE-d02").get_trials())
    except Exception:  # the storage is being made
        return 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--gpus", "7"], "--gpus 7 asks for 7 GPUs, but this machine has"),
        (["--name", "optuna.db"], "--name is the search's name"),
        (["--resume", "x", "--trials", "3"], "--resume finishes a search as it was planned, so --trials"),
        (["--resume", "nowhere"], "there is no search named nowhere"),
        (["--learning-rate", "2..1"], "--learning-rate: a range goes upwards"),
        (["--validation-size", "0"], "--validation-size is a whole number.*at least 1"),
        (["--validation-size", "5000"], "--validation-size|--train-size|validation_size"),
        (["--test-seeds", "x"], "--test-seeds"),
        (
            ["--test-seeds", "0-2"],
            "--test-seeds are of the runs that show .*, and seeds 0 help to choose these settings",
        ),
        (["--bogus"], "unrecognized"),
    ],
)
def test_bad_usage_is_a_sentence_and_status_2_and_leaves_nothing_behind(argv, words, tmp_path, monkeypatch, capsys):
    from sweeps.hyperparameter_search import main

    monkeypatch.chdir(tmp_path)
    defaults = [] if "--resume" in argv else ["--dataset=digits", "--models", "VAE", "--seeds=1"]
    try:
        status = main([*defaults, *argv])
    except SystemExit as error:  # argparse's own way out
        status = error.code
    message = capsys.readouterr().err
    assert status == 2
    assert re.search(words, message), message
    assert "Traceback" not in message
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "mlflow.db"], "files were left behind"


def test_a_dry_run_says_what_would_happen_and_writes_nothing(tmp_path, here):
    status, said, why = here(tmp_path, *SEARCH, "--models", "VAE", "AE", "--trials=5", "--epochs=9", "--dry-run")
    assert status == 0, why
    assert "VAE-d02, AE-d02 on digits: 5 trials each of seeds 0-1, 9 epochs, rungs after 1, 3; tpe" in said
    assert re.search(
        r"time +about .* if nothing else computes.* by a measured step .*; .* if no trial were stopped early", said
    )
    assert not list(tmp_path.iterdir())


def test_the_plan_file_is_what_the_search_writes(search):
    """A JSON list of complete trial configs, as every plan file."""
    rows = json.loads((search[0] / "fishernet-results" / "found" / "best.json").read_text())
    assert all(trial_config(row).to_dict() == row for row in rows)
