"""A real SQLite store with sweeps of known numbers, in the schema sweeps write; made once, in seconds."""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fishernet.config import TrialConfig
from fishernet.families import trial_config
from fishernet.plan import SweepPlan
from tests.analysis.browser import BROWSERS, Browser

EPOCHS = 4
SEEDS = (0, 1)
DIMS = (2, 5, 10)
SCALE = {"FisherNet": 0.04, "VAE": 0.05, "CVAE": 0.06, "AE": 0.03}
SEED_STEP = 1e-4
PCA = {d: 0.06 / d for d in range(1, 21)}
MEAN_IMAGE = 0.07


def mse(config: TrialConfig, epoch: int = EPOCHS) -> float:
    """The closed form every curve of the store follows."""
    return SCALE[config.model] / config.latent_dim * (1 + 1 / epoch) + SEED_STEP * config.seed


class Store:
    """Writes sweeps into one SQLite file by MlflowClient alone, in the schema of the sweeps' driver."""

    def __init__(self, folder: Path, empty_store: Path) -> None:
        from mlflow import MlflowClient

        self.path = shutil.copy(empty_store, folder / "mlflow.db")
        self.uri = f"sqlite:///{self.path.as_posix()}"
        self.client = MlflowClient(tracking_uri=self.uri)
        self.artifacts = (folder / "artifacts").as_uri()

    def sweep(
        self,
        name: str,
        plan: Mapping[str, Any],
        start: int,
        held_out: str = "test",
        tag_length: int = 10**6,
    ) -> tuple[str, str]:
        """A parent run with its plan and PCA; returns the ids of experiment and parent."""
        experiment = self.client.create_experiment(name, self.artifacts, tags={"fishernet.kind": "sweep"})
        text = json.dumps({**plan, "held_out": held_out, "data_fingerprint": "0"})
        pieces = [text[i : i + tag_length] for i in range(0, len(text), tag_length)]
        tags = {f"fishernet.plan.{i}" if i else "fishernet.plan": piece for i, piece in enumerate(pieces)}
        # what a longer plan of the same sweep would have left
        tags |= {"fishernet.role": "sweep", f"fishernet.plan.{len(pieces)}": '{"left": "over"}'}
        parent = self.client.create_run(experiment, start_time=start, tags=tags, run_name=name).info.run_id
        for d, value in {0: MEAN_IMAGE, **PCA}.items():
            self.client.log_metric(parent, "pca/test_mse", value, step=d)
        return experiment, parent

    def trial(
        self,
        sweep: tuple[str, str],
        config: TrialConfig,
        *,
        status: str = "FINISHED",
        epochs: int = EPOCHS,
        reason: str | None = None,
        params: bool = True,
        held_out: str = "test",
        curve: Callable[[TrialConfig, int], float] = mse,
    ) -> str:
        """A child run with ``epochs`` epochs of the closed form; returns its id."""
        from mlflow.entities import Metric, Param

        experiment, parent = sweep
        tags = {
            "fishernet.role": "trial",
            "mlflow.parentRunId": parent,
            "fishernet.config": json.dumps(config.to_dict()),
        }
        tags |= {"fishernet.reason": reason} if reason else {}
        run_id = self.client.create_run(experiment, tags=tags, run_name=config.run_name).info.run_id
        texts: Mapping[str, Any] = config.to_dict() if params else {}
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, factor * curve(config, epoch), now + epoch, epoch)
            for epoch in range(1, epochs + 1)
            for name, factor in ((f"{held_out}/mse", 1.0), (f"{held_out}/mse_sample", 2.0), ("train/loss", 1000.0))
        ]
        self.client.log_batch(run_id, params=[Param(k, str(v)) for k, v in texts.items()], metrics=metrics)
        if status != "RUNNING":
            self.client.set_terminated(run_id, status)
        return run_id


def cells(models: Iterable[str], dims: Iterable[int], seeds: Iterable[int] = SEEDS) -> list[TrialConfig]:
    dims, seeds = tuple(dims), tuple(seeds)
    return [trial_config(model=m, latent_dim=d, seed=s, epochs=EPOCHS) for m in models for d in dims for s in seeds]


def listed(*configs: TrialConfig) -> dict[str, Any]:
    """A plan as the import of records writes it; ``SweepPlan.to_dict`` is the form of sweeps."""
    return {"base": {}, "configs": [config.to_dict() for config in configs]}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file in which MLflow has made its tables, which takes seconds: a store begins with a copy."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    assert len(MlflowClient(f"sqlite:///{path.as_posix()}").search_experiments()) == 1
    return path


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> SimpleNamespace:
    """Four sweeps: ``curves`` (three models, three d, two seeds, and four cells that did not finish),
    ``unfinished``, ``odd`` (variants, a config run twice, a value not finite) and ``validated``, the latest.
    """
    store = Store(tmp_path_factory.mktemp("store"), empty_store)

    finished = cells(("VAE", "AE", "FisherNet"), DIMS)
    never, running, failed, killed = (
        trial_config(model="FisherNet", latent_dim=20, seed=0, epochs=EPOCHS),
        trial_config(model="FisherNet", latent_dim=20, seed=1, epochs=EPOCHS),
        trial_config(model="VAE", latent_dim=20, seed=0, epochs=EPOCHS),
        trial_config(model="AE", latent_dim=20, seed=1, epochs=EPOCHS),
    )
    # Full configs of 22 runs are longer than one tag may be.
    curves = store.sweep("curves", listed(*finished, never, running, failed, killed), start=2000, tag_length=5000)
    for config in finished:
        store.trial(curves, config)
    store.trial(curves, running, status="RUNNING", epochs=2)
    store.trial(curves, failed, status="FAILED", epochs=3, reason="the loss is not finite")
    store.trial(curves, killed, status="KILLED", epochs=1)

    (alone,) = cells(["VAE"], [3], [0])
    unfinished = store.sweep("unfinished", SweepPlan((alone,)).to_dict(), start=1000)
    store.trial(unfinished, alone, status="FAILED", epochs=1)

    plain, twin = cells(["VAE"], [2])
    learned = trial_config(model="VAE", likelihood="gaussian-learned", latent_dim=2, epochs=EPOCHS)
    fast = [
        trial_config(model="CVAE", latent_dim=2, seed=s, learning_rate=r, epochs=EPOCHS)
        for r in (1e-4, 1e-3)
        for s in SEEDS
    ]
    unbounded = trial_config(model="AE", latent_dim=2, epochs=EPOCHS)
    odd = store.sweep("odd", listed(plain, twin, learned, *fast, unbounded), start=3000)
    kept = store.trial(odd, plain, curve=lambda c, e: 2 * mse(c, e))
    store.trial(odd, plain, status="FAILED", epochs=EPOCHS, curve=lambda c, e: 3 * mse(c, e))
    store.trial(odd, twin, params=False)
    for config in (learned, *fast):
        store.trial(odd, config)
    store.trial(odd, unbounded, curve=lambda c, e: float("nan"))
    store.client.log_metric(kept, "test/mse", 0.5, timestamp=int(time.time() * 1000) + 60_000, step=2)

    validated = store.sweep("validated", SweepPlan((alone,)).to_dict(), start=4000, held_out="validation")
    store.trial(validated, alone, held_out="validation")

    store.client.create_experiment("not a sweep", store.artifacts)
    return SimpleNamespace(
        uri=store.uri, mse=mse, pca=PCA, mean_image=MEAN_IMAGE, finished=finished, never=never, running=running, failed=failed,
        killed=killed, kept=kept, seed_step=SEED_STEP, epochs=EPOCHS,
    )  # fmt: skip


@pytest.fixture(scope="session")
def curves(store: SimpleNamespace) -> Any:
    from analysis.frame import find_sweep

    return find_sweep("curves", store.uri)


@pytest.fixture(scope="session")
def runs(curves: Any) -> Any:
    from analysis.frame import load_runs

    return load_runs(curves)


def exhibits_of(module: Any, stored: Any, *given: Any, **arguments: Any) -> list[Any]:
    """Everything that a module of ``analysis.figures`` shows of a sweep; raises what its parts raise."""
    from analysis.parts import all_of

    return list(all_of(module.parts(stored, *given, **arguments)))


TRAINED_DIMS = (2, 5)
TRAINED_VARIANTS = ("FisherNet", "VAE", "VAE gaussian-learned", "CVAE", "AE")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Any:
    """The sweep ``trained``, really trained for two epochs on 8x8 digits, its weights and latents in a real store.

    Variants TRAINED_VARIANTS, d in TRAINED_DIMS, seeds 0 and 1; as a StoredSweep.
    """
    from analysis.frame import find_sweep
    from analysis.stored import StoredSweep
    from fishernet.__main__ import main as train_plan
    from sweeps.import_records import main as import_records

    folder = tmp_path_factory.mktemp("trained")
    settings: dict[str, Any] = {"dataset": "digits", "epochs": 2, "hidden_width": 16, "learning_rate": 1e-3}
    models: list[dict[str, Any]] = [
        {"model": "FisherNet", "noise_start": -4.0},
        {"model": "VAE"},
        {"model": "VAE", "likelihood": "gaussian-learned", "noise_start": -4.0},
        {"model": "CVAE"},
        {"model": "AE"},
    ]
    plan = [
        trial_config(**model, **settings, latent_dim=d, seed=s).to_dict()
        for model in models
        for d in TRAINED_DIMS
        for s in SEEDS
    ]
    (folder / "plan.json").write_text(json.dumps(plan))
    assert train_plan(["--plan", str(folder / "plan.json"), "--out", str(folder / "records"), "--device", "cpu"]) == 0
    uri = f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db').as_posix()}"
    arguments = ["--name", "trained", "--tracking-uri", uri, "--storage-path", str(folder)]
    assert import_records([str(folder / "records"), *arguments]) == 0
    return StoredSweep(find_sweep("trained", uri))


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def report_arguments(trained: Any, folder: Path) -> list[str]:
    return [
        "report", "--name", "trained", "--tracking-uri", trained.sweep.uri, "--out", str(folder),
        "--cache", str(folder / "cache"), "--features", "classifier", "--images", "reconstruction", "prior", "mixture",
        "--paper", "fishernet",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def reported(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on the sweep ``trained``, for which one Ray computed its scores. For what only reads them."""
    from analysis.__main__ import main as analyse
    from fishernet.services import ray_cluster

    folder, start, started = tmp_path_factory.mktemp("report"), ray_cluster.start, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.scores.features.LEAST_STEPS", 40)  # no test asks how well its classifier has learned
        patch.setattr(ray_cluster, "start", lambda **given: (started.append(given), start(**given))[1])
        assert analyse(report_arguments(trained, folder)) == 0
    assert started == [{"gpus": 0, "cpus": None}]  # once for all scores
    trained.reload()
    return folder


@pytest.fixture
def scored(reported: Path, trained: Any) -> Any:
    """The sweep ``trained`` with its cluster, ellipse and classifier scores, made by Ray tasks."""
    return trained


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> SimpleNamespace:
    """Uri of MLflow's and url of Optuna's books of the search ``found`` (VAE-d02: eight complete, one pruned, one failed; a
    second study of two objectives) and of the sweep ``tuned``.
    """
    from tests.analysis.made_search import make_search

    folder = tmp_path_factory.mktemp("searched")
    shutil.copy(empty_store, folder)
    return make_search(folder)
