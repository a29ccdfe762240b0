"""The command as a user runs it: real Ray trials, a real MLflow store, real signals."""

import contextlib
import gzip
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from fishernet.cohort import Cohort, load_model
from fishernet.config import TrialConfig
from fishernet.data.loading import load_data
from fishernet.families import trial_config
from fishernet.training import train

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "sweeps" / "latent_sweep.py")
BEFORE = ROOT / "tests" / "fixtures" / "before"
SETTINGS = {"dataset": "digits", "hidden_width": 8, "hidden_layers": 1, "batch_size": 64, "learning_rate": 1e-3}


def command(*argv: str, **settings: object) -> list[str]:
    """The command line with the settings of a tiny network as flags."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in (SETTINGS | settings).items()]
    return [sys.executable, SCRIPT, *argv, *words, "--gpus=0"]


def run(folder: Path, argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=folder, env=environment(), capture_output=True, text=True, timeout=500, check=False)


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_", "TUNE_"))}


@pytest.fixture
def here(monkeypatch, capsys):
    """The command in this process, where nothing is trained: (exit status, standard output, standard error)."""
    from sweeps.latent_sweep import main

    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)

    def ran(folder: Path, argv: list[str]) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        capsys.readouterr()
        return main(argv[2:]), *capsys.readouterr()

    return ran


class Store:
    """What a test asks of the MLflow store below a folder."""

    def __init__(self, folder: Path) -> None:
        self.client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'fishernet-results' / 'mlflow.db'}")

    def children(self, name: str) -> dict[str, object]:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            return {}
        found = self.client.search_runs([experiment.experiment_id], "tags.`fishernet.role` = 'trial'", max_results=1000)
        assert len({run.info.run_name for run in found}) == len(found), "a run was recorded twice"
        return {run.info.run_name: run for run in found}

    def parent(self, name: str) -> object:
        experiment = self.client.get_experiment_by_name(name)
        found = self.client.search_runs([experiment.experiment_id], "tags.`fishernet.role` = 'sweep'")
        assert len(found) == 1
        return found[0]

    def history(self, run: object, metric: str) -> list[tuple[int, float]]:
        return [(m.step, m.value) for m in self.client.get_metric_history(run.info.run_id, metric)]


def undisturbed(config: TrialConfig) -> list[tuple[int, float]]:
    """The test MSE by epoch of the run trained here, without Ray or MLflow, on one thread as a trial is."""
    data, threads = load_data(config.dataset), torch.get_num_threads()
    torch.set_num_threads(1)
    history = [records[0] for records in train(Cohort([config], data.image_shape, len(data.train)), data)]
    torch.set_num_threads(threads)
    return [(record["epoch"], record["metrics"]["test/mse"]) for record in history]


def wait_until(condition, process: subprocess.Popen[str], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the sweep ended early: {process.communicate()}")
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError(f"nothing happened in {seconds} s")


def n_epochs_recorded(folder: Path, name: str) -> int:
    if not (folder / "fishernet-results" / "mlflow.db").exists():
        return 0
    store = Store(folder)
    try:
        return sum(len(store.history(run, "test/mse")) for run in store.children(name).values())
    except Exception:  # the store is being made
        return 0


def paused(seconds: float) -> dict[str, str]:
    """An environment in which each epoch is drawn out, so that what a test does falls between epochs on any machine."""
    return environment() | {"PYTHONPATH": str(ROOT / "tests" / "chaos" / "inside"), "CHAOS_PAUSE": str(seconds)}


def begun(pid: int) -> str:
    """When a living process began, in clock ticks; empty where there is none of that number, or a zombie."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return "" if fields[0] == b"Z" else fields[19].decode()
    return ""


def descendants(pid: int) -> dict[int, str]:
    """Process id -> command line of what the process has started, and that has."""
    found = {}
    with contextlib.suppress(OSError):  # one has ended meanwhile
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, children.read_text().split()):
                line = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
                found |= {child: line} | descendants(child)
    return found


def workers(driver: int) -> dict[int, str]:
    """The processes that train for a driver, and when each began: a number may be given again."""
    return {pid: begun(pid) for pid, line in descendants(driver).items() if line.startswith("ray::ImplicitFunc")}


def wait_until_ended(processes: dict[int, str], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := [pid for pid, when in processes.items() if when and begun(pid) == when]:
        assert time.monotonic() < deadline, f"left running: {left}"
        time.sleep(0.1)


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes as Linux lists them")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """One finished sweep, one trial per run: two models, two dimensions, one seed."""
    folder = tmp_path_factory.mktemp("sweep")
    argv = command(
        "--name=one", "--models", "FisherNet", "VAE", "--latent-dims=2,3", "--seeds=1", "--cohort-size=1", epochs=3
    )
    return folder, run(folder, argv)


CONFIGS = [
    trial_config(model=m, latent_dim=d, seed=0, epochs=3, **SETTINGS) for m in ("FisherNet", "VAE") for d in (2, 3)
]


def test_a_sweep_ends_with_its_table_its_figure_and_how_to_look_at_it(sweep):
    folder, done = sweep
    assert done.returncode == 0, done.stderr
    assert "4 cohorts of 1 member," in done.stdout
    assert "training on the CPU" in done.stdout
    assert "-m mlflow ui --backend-store-uri" in done.stdout
    assert "Test MSE per pixel" in done.stdout
    figures = folder / "fishernet-results" / "one" / "figures"
    assert str(figures / "mse_curves.png") in done.stdout
    assert (figures / "mse_curves.png").stat().st_size > 10_000
    assert "Traceback" not in done.stderr
    assert "\r" not in done.stderr  # no live line where the output is no terminal


def test_every_swept_value_reaches_its_trial_and_its_numbers_are_those_of_a_solo_run(sweep):
    """Each child's parameters are its config, and its curve is bit for bit that of the config trained without Ray."""
    store = Store(sweep[0])
    children = store.children("one")
    assert set(children) == {c.run_name for c in CONFIGS}
    for config in CONFIGS:
        child = children[config.run_name]
        assert trial_config(child.data.params) == config
        assert child.info.status == "FINISHED"
        assert store.history(child, "test/mse") == undisturbed(config)


def test_the_parent_says_what_was_planned_and_where_it_ran(sweep):
    parent = Store(sweep[0]).parent("one")
    assert parent.info.status == "FINISHED"
    assert json.loads(parent.data.tags["fishernet.plan"])["base"]["dataset"] == "digits"
    assert "fishernet sweep --name=one" in parent.data.tags["fishernet.command"]
    assert {"python", "torch", "ray"} <= set(json.loads(parent.data.tags["fishernet.versions"]))
    assert json.loads(parent.data.tags["fishernet.machine"])["hostname"]
    floors = Store(sweep[0]).history(parent, "pca/test_mse")
    assert [d for d, _ in floors] == [0, 2, 3]  # 0: the mean image
    assert floors[1][1] == pytest.approx(0.05207866, rel=1e-5)  # PCA of scikit-learn's digits with two components


def test_the_artifacts_of_a_run_reopen_it(sweep):
    from safetensors.torch import load_file

    store, config = Store(sweep[0]), CONFIGS[0]
    child = store.children("one")[config.run_name]
    names = {f.path for f in store.client.list_artifacts(child.info.run_id)}
    assert {"weights.safetensors", "config.json", "latents.npz", "reconstructions.png"} <= names
    folder = Path(store.client.download_artifacts(child.info.run_id, ""))
    assert trial_config(json.loads((folder / "config.json").read_text())) == config
    data = load_data("digits")
    model = load_model(config, data.image_shape, len(data.train), load_file(folder / "weights.safetensors"))
    x = data.test.flatten(1).float()[None] / 255
    mse = (x - model.reconstruct(model.posterior_mean(x))).square().mean().item()
    assert mse == pytest.approx(store.history(child, "test/mse")[-1][1], rel=1e-5)


def test_a_finished_sweep_leaves_no_checkpoints_behind(sweep):
    assert {p.name for p in (sweep[0] / "fishernet-results" / "one").iterdir()} == {"figures", "lock"}


def test_a_second_call_trains_nothing_and_another_setting_is_refused(sweep, here):
    folder, _ = sweep
    before = {name: run.info.end_time for name, run in Store(folder).children("one").items()}
    # As a driver leaves it that dies after its last run and before its end.
    left = folder / "fishernet-results" / "one" / "ray"
    (left / "staging-x").mkdir(parents=True)
    part = ["--name=one", "--models", "VAE", "--latent-dims=2", "--seeds=1"]
    status, said, _ = here(folder, command(*part, epochs=3))
    assert status == 0
    assert "all 4 runs are finished; nothing to train" in said
    assert not left.exists()
    assert {name: run.info.end_time for name, run in Store(folder).children("one").items()} == before
    status, _, why = here(folder, command(*part, epochs=4))
    assert status == 2
    assert "epochs is 3 there and 4 here" in why


@pytest.mark.long
def test_extending_trains_only_what_is_missing(sweep):
    folder, _ = sweep
    before = {name: run.info.end_time for name, run in Store(folder).children("one").items()}
    done = run(folder, command("--name=one", "--models", "VAE", "--latent-dims=2-4", "--seeds=1", epochs=3))
    assert done.returncode == 0, done.stderr
    assert "4 runs are finished; 1 to train" in done.stdout
    after = {name: run.info.end_time for name, run in Store(folder).children("one").items()}
    assert set(after) - set(before) == {"VAE-d04-s0"}
    assert {name: after[name] for name in before} == before


@pytest.mark.long
def test_a_sweep_of_an_earlier_version_is_extended_by_a_seed(tmp_path):
    """Its store and its weights, as that version left them in another folder; what was trained then is not trained again."""
    results = tmp_path / "fishernet-results"
    shutil.copytree(BEFORE / "artifacts", results / "artifacts")
    (results / "mlflow.db").write_bytes(gzip.decompress((BEFORE / "mlflow.db.gz").read_bytes()))
    before = {name: run.info.end_time for name, run in Store(tmp_path).children("before").items()}
    lines = ["FisherNet", "VAE", "VAE:likelihood=gaussian-learned", "CVAE", "AE"]
    argv = ["--name=before", "--models", *lines, "--latent-dims=2", "--seeds=2", "--train-size=200"]
    done = run(tmp_path, command(*argv, epochs=2, learning_rate=1e-4))
    assert done.returncode == 0, done.stderr
    assert "the results folder was moved" in done.stdout
    assert "5 runs are finished; 5 to train" in done.stdout
    children = Store(tmp_path).children("before")
    assert set(children) - set(before) == {name.replace("-s0", "-s1") for name in before}
    assert {name: children[name].info.end_time for name in before} == before
    assert {child.info.status for child in children.values()} == {"FINISHED"}
    assert (results / "before" / "figures" / "mse_curves.png").exists()


@linux
@pytest.mark.timeout(1200)  # four starts of Ray: a minute on an idle machine, far longer on a busy one
def test_after_kill_9_of_a_worker_and_of_the_driver_nothing_is_lost_or_doubled_and_the_report_is_made(tmp_path):
    config = trial_config(model="VAE", latent_dim=2, seed=0, epochs=60, **SETTINGS)
    argv = command("--name=killed", "--model=VAE", "--latent-dim=2", "--seeds=1", epochs=60)
    process = subprocess.Popen(
        argv, cwd=tmp_path, env=paused(0.5), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: n_epochs_recorded(tmp_path, "killed") >= 3, process)
    first = workers(process.pid)
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    reached = n_epochs_recorded(tmp_path, "killed")
    wait_until(lambda: n_epochs_recorded(tmp_path, "killed") > reached + 1, process)
    second = workers(process.pid)
    process.kill()
    process.communicate()
    assert n_epochs_recorded(tmp_path, "killed") < 60, "the sweep ended before it was killed"
    resumed = run(tmp_path, [sys.executable, SCRIPT, "--resume=killed", "--gpus=0", "--report"])
    assert resumed.returncode == 0, resumed.stderr
    assert "1 cohorts from checkpoints" in resumed.stdout
    store = Store(tmp_path)
    child = store.children("killed")[config.run_name]
    assert child.info.status == "FINISHED"
    assert store.history(child, "test/mse") == undisturbed(config)
    assert first
    assert set(second) - set(first), "no worker took the place of the one that was killed"
    wait_until_ended(first | second, 30)
    folder = tmp_path / "fishernet-results" / "killed"
    assert {p.name for p in folder.iterdir()} == {"figures", "lock", "report"}
    assert str(folder / "report" / "report.html") in resumed.stdout
    logged = store.client.list_artifacts(store.parent("killed").info.run_id, "report")
    assert "report/report.html" in [artifact.path for artifact in logged]


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_cohort_that_runs_out_of_memory_is_split_and_after_kill_9_goes_on_as_if_nothing_had_been(tmp_path):
    # 157: out of memory from this cohort's third epoch on.
    env = paused(0.2) | {"CHAOS_FULL": "157"}
    argv = command(
        "--name=full",
        "--models=VAE",
        "--latent-dims=2",
        "--seeds=4",
        "--cohort-size=4",
        "--checkpoint-every=2",
        epochs=60,
    )
    process = subprocess.Popen(argv, cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: n_epochs_recorded(tmp_path, "full") >= 4 * 10, process)
    process.kill()
    assert "split into cohorts of 2 and 2" in process.communicate()[1]
    store = Store(tmp_path)
    assert max(len(store.history(run, "test/mse")) for run in store.children("full").values()) < 60, "killed too late"
    resume = [sys.executable, SCRIPT, "--resume=full", "--gpus=0", "--cohort-size=4", "--checkpoint-every=2"]
    done = subprocess.run(
        resume, cwd=tmp_path, env=env | {"CHAOS_PAUSE": "0"}, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 cohorts from checkpoints" in done.stdout
    assert "split into cohorts of 2 and 2" in done.stderr
    for seed in range(4):
        config = trial_config(model="VAE", latent_dim=2, seed=seed, epochs=60, **SETTINGS)
        run_ = store.children("full")[config.run_name]
        history = store.history(run_, "test/mse")
        assert run_.info.status == "FINISHED"
        assert [step for step, _ in history] == list(range(1, 61))
        # A cohort of another size sums in another order.
        assert [mse for _, mse in history] == pytest.approx([mse for _, mse in undisturbed(config)], rel=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_cleanly_and_prints_the_command_that_resumes(number, tmp_path):
    argv = command(
        "--name=stopped", "--models", "VAE", "AE", "--latent-dim=2", "--seeds=1", "--cpus-per-trial=2", epochs=80
    )
    process = subprocess.Popen(
        argv, cwd=tmp_path, env=paused(0.3), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: n_epochs_recorded(tmp_path, "stopped") >= 3, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    words = shlex.split(out.rpartition("resume with: ")[2])
    folder = tmp_path / "fishernet-results"
    assert words[-8:] == ["--resume", "stopped", "--storage-path", str(folder), "--gpus", "0", "--cpus-per-trial", "2"]
    assert [run.info.status for run in Store(tmp_path).children("stopped").values()] == ["KILLED"]
    assert Store(tmp_path).parent("stopped").info.status == "KILLED"
    done = run(tmp_path, [sys.executable, SCRIPT, "--resume=stopped", "--gpus=0", "--cpus-per-trial=2"])
    assert done.returncode == 0, done.stderr
    children = Store(tmp_path).children("stopped")
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    assert all("fishernet.reason" not in run.data.tags for run in children.values())
    for run_ in children.values():
        assert [step for step, _ in Store(tmp_path).history(run_, "test/mse")] == list(range(1, 81))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_amid_imports_ends_at_once_with_a_sentence(number, tmp_path):
    argv = command("--name=early", "--models=VAE", "--latent-dim=2", "--seeds=1", epochs=1)
    process = subprocess.Popen(
        argv, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whatever started the tests
    )  # fmt: skip
    maps = Path(f"/proc/{process.pid}/maps")
    wait_until(lambda: "libtorch" in maps.read_text(), process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted before anything was started\n")


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_an_interrupt_amid_the_start_of_ray_ends_at_once_and_leaves_no_process(number, tmp_path):
    argv = command("--name=early", "--models=VAE", "--latent-dim=2", "--seeds=1", epochs=1)
    process = subprocess.Popen(
        argv, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    wait_until(lambda: "DashboardAgent" in str(descendants(process.pid)), process)  # the raylet's child
    started = {pid: begun(pid) for pid in descendants(process.pid)}
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted before anything was started\n")
    wait_until_ended(started, 10)  # a killed process is dead a little later


def test_sigterm_ends_a_sweep_whose_ctrl_c_a_shell_has_switched_off(tmp_path):
    """As ``sh -c 'command &'`` does."""
    argv = command("--name=background", "--models=VAE", "--latent-dim=2", "--seeds=1", epochs=1)
    process = subprocess.Popen(
        argv, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    maps = Path(f"/proc/{process.pid}/maps")
    wait_until(lambda: "libtorch" in maps.read_text(), process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.terminate()
    assert process.wait(60) == 130


@pytest.mark.long
def test_a_member_that_diverges_fails_alone_with_its_reason(tmp_path):
    models = ["AE", "VAE:learning_rate=1e30"]
    done = run(tmp_path, command("--name=diverged", "--models", *models, "--latent-dims=2", "--seeds=1", epochs=2))
    assert done.returncode == 1, done.stderr
    assert "VAE-d02-s0: diverged: the loss became nan in epoch 1" in done.stdout
    children = Store(tmp_path).children("diverged")
    assert {name: run.info.status for name, run in children.items()} == {
        "AE-d02-s0": "FINISHED",
        "VAE-d02-s0": "FAILED",
    }
    assert "the loss became" in children["VAE-d02-s0"].data.tags["fishernet.reason"]
    again = run(tmp_path, [sys.executable, SCRIPT, "--resume=diverged", "--gpus=0"])
    assert again.returncode == 1  # training it again would only diverge again
    assert "nothing to train" in again.stdout


def test_a_second_driver_of_the_same_sweep_is_refused(tmp_path, here):
    from sweeps.lock import hold_lock

    (tmp_path / "fishernet-results").mkdir()
    with hold_lock(tmp_path / "fishernet-results" / "busy", "busy"):
        status, _, why = here(tmp_path, command("--name=busy", "--model=VAE", "--latent-dim=2", "--seeds=1", epochs=1))
    assert status == 2
    assert "the sweep busy is being trained or imported already" in why


def test_a_dry_run_says_what_would_happen_and_writes_nothing(tmp_path, here):
    argv = command("--dry-run", "--models", "VAE", "FisherNet", "--latent-dims", "2-4", "64", "--seeds=2", epochs=3)
    status, said, why = here(tmp_path, argv)
    assert status == 0, why
    assert "VAE, FisherNet x d = 2-4,64 x seeds 0-1 on digits, 3 epochs: 16 runs" in said
    assert "caution    d = 64 is no fewer than the 64 numbers of an image" in said
    assert "2 CPU cores" in said or "CPU cores" in said
    assert re.search(r"time       about \d+ (s|minutes) if nothing else computes( \(the load is .* now\))?, by ", said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--gpus", "7"], "--gpus 7 asks for 7 GPUs, but this machine has"),
        (["--gpus", "-1"], "--gpus is how many GPUs"),
        (["--gpus-per-trial", "0.3"], "--gpus-per-trial is the share of a GPU"),
        (["--cpus-per-trial", "5000", "--gpus", "0"], "--cpus-per-trial 5000 is more than"),
        (["--cpus-per-trial", "0"], "at least 1; got 0"),
        (["--cohort-size", "none"], "--cohort-size is auto or"),
        (["--name", "a/b"], "--name is the sweep's name"),
        (["--resume", "x", "--epochs", "3"], "--resume finishes a sweep as it was planned, so --epochs"),
        (["--resume", "nowhere"], "there is no sweep named nowhere"),
        (["--storage-path", "s3://bucket/x"], "--storage-path is a folder"),
        (["--tracking-uri", "http://127.0.0.1:9"], "no tracking server answers"),
        (["--tracking-uri", "mlruns"], "plain folder"),
        (["--dataset", "cifar"], "cifar"),
        (["--train-size", "5000"], "train_size|--train-size"),
        (["--latent-dims", "2-1"], "--latent-dims: a range goes upwards"),
    ],
)
def test_bad_usage_is_a_sentence_and_status_2_and_leaves_nothing_behind(argv, words, tmp_path, monkeypatch, capsys):
    import re

    from sweeps.latent_sweep import main

    monkeypatch.chdir(tmp_path)
    defaults = (
        []
        if "--resume" in argv
        else ["--dataset=digits", "--models", "VAE", "--latent-dims=2", "--seeds=1", "--epochs=1"]
    )
    try:
        status = main([*defaults, *argv])
    except SystemExit as error:  # argparse's own way out
        status = error.code
    message = capsys.readouterr().err
    assert status == 2
    assert re.search(words, message), message
    assert "Traceback" not in message
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "lock"]
