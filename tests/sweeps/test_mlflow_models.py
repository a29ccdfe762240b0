"""What MLflow's users expect of its records: data sets as inputs, models that load and refuse wrong input, the registry."""

import contextlib
import json
import time

import numpy as np
import pytest

from fishernet import load
from fishernet.cohort import Cohort
from fishernet.data.loading import load_data
from fishernet.families import trial_config
from fishernet.plan import SweepPlan
from fishernet.records import write_records
from fishernet.services.mlflow_models import system_metrics
from sweeps.deletion import delete
from sweeps.tracking import SweepTracking
from tests.mlflow_server import Server

SMALL = {"dataset": "digits", "train_size": 40, "hidden_width": 8, "hidden_layers": 1, "epochs": 1}
LINES = {"VAE": {"model": "VAE"}, "VAE gaussian": {"model": "VAE", "likelihood": "gaussian"}}
CONFIGS = [trial_config(**SMALL, **line, latent_dim=d) for line in LINES.values() for d in (2, 3)]


@pytest.fixture(scope="module")
def images():
    return load_data("digits", train_size=40)


@pytest.fixture(scope="module")
def records(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("records")
    for config in CONFIGS:
        write_records(folder, Cohort([config], images.image_shape, len(images.train)), images)
    return folder


def record(name, uri, storage, records, images, register=None):
    """A sweep of two lines at two dimensions, recorded as a driver does it: the second dimension is the better one."""
    tracking = SweepTracking.open(name, uri, artifact_root=str(storage / "artifacts"), create=True)
    shapes = {"training": [*images.train.shape], "test": [*images.test.shape]}
    known = {"data_fingerprint": images.fingerprint, "held_out": "test", "images": shapes}
    tracking.describe(SweepPlan(tuple(CONFIGS)).to_dict() | known, {"dataset": "digits"}, "command", "note", {})
    for i, config in enumerate(CONFIGS):
        tracking.log_epochs(
            config, [{"epoch": 1, "time": 1e9, "metrics": {"test/mse": 1 / (i + 1), "train/loss": 1.0}}]
        )
        tracking.finish(config, "FINISHED", artifacts=records / config.run_name)
    assert tracking.flush(60)
    tracking.log_models(register)
    assert tracking.close("FINISHED", 60)
    assert not tracking.refused


def found(uri, name):
    """The client, the experiment's id, its runs by name and its models by line."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    number = client.get_experiment_by_name(name).experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([number])}
    return client, number, runs, {model.name: model for model in client.search_logged_models([number])}


@pytest.fixture(scope="module")
def store(tmp_path_factory, records, images):
    storage = tmp_path_factory.mktemp("results")
    uri = f"sqlite:///{storage}/mlflow.db"
    record("s", uri, storage, records, images)
    return storage, uri


def check_inputs(runs, images):
    for name in ("s", *(config.run_name for config in CONFIGS)):
        inputs = {i.tags[0].value: i.dataset for i in runs[name].inputs.dataset_inputs}
        assert {context: (d.name, d.digest) for context, d in inputs.items()} == {
            "training": ("digits", images.fingerprint), "test": ("digits (test)", images.fingerprint)
        }  # fmt: skip
        assert json.loads(inputs["training"].profile)["features_shape"] == [40, 1, 8, 8]
        assert json.loads(inputs["test"].profile)["features_shape"] == [360, 1, 8, 8]


def check_models(uri, runs, models, images, records, monkeypatch):
    import mlflow

    assert {*models} == {"VAE", "VAE-gaussian"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert {o.model_id for o in runs["s"].outputs.model_outputs} == {model.model_id for model in models.values()}
    for name, line in (("VAE", "VAE"), ("VAE-gaussian", "VAE gaussian")):
        best = max((c for c in CONFIGS if c.variant == line), key=lambda c: c.latent_dim)
        assert models[name].source_run_id == runs[best.run_name].info.run_id
        assert [o.model_id for o in runs[best.run_name].outputs.model_outputs] == [models[name].model_id]
        opened, model = load(records / best.run_name), mlflow.pyfunc.load_model(f"models:/{models[name].model_id}")
        x = images.test.numpy()
        assert np.array_equal(model.predict(x), opened.encode(x))
        assert np.array_equal(model.predict(x, params={"method": "reconstruct"}), opened.reconstruct(x))
        z = np.zeros((2, best.latent_dim), dtype=np.float32)
        assert np.array_equal(model.unwrap_python_model().model.decode(z), opened.decode(z))
        for wrong in (x[:, :, :4], x[:, 0], x / 255, x.astype(np.int64) * 1000, "images", z):
            with pytest.raises(mlflow.MlflowException, match=r"schema|shape|type"):
                model.predict(wrong)
        with pytest.raises(ValueError, match="method is encode or reconstruct; got 'decode'"):
            model.predict(x, params={"method": "decode"})


def test_each_run_has_its_data_set_as_inputs_with_the_fingerprint_as_digest(store, images):
    check_inputs(found(store[1], "s")[2], images)


def test_the_schema_of_the_images_is_one_that_mlflow_reads(store):
    from mlflow.data.schema import TensorDatasetSchema

    run = next(iter(found(store[1], "s")[2][CONFIGS[0].run_name].inputs.dataset_inputs))
    schema = TensorDatasetSchema.from_dict(json.loads(run.dataset.schema))
    (spec,) = schema.features.inputs
    assert (spec.type, spec.shape) == (np.dtype("uint8"), (-1, 1, 8, 8))


def test_the_best_run_of_each_line_is_a_model_that_loads_and_refuses_wrong_input(store, images, records, monkeypatch):
    _, _, runs, models = found(store[1], "s")
    check_models(store[1], runs, models, images, records, monkeypatch)


def test_a_model_holds_no_pickle_and_says_what_it_needs(store):
    files = {path.name for path in (store[0] / "artifacts").rglob("*") if "models" in path.parts and path.is_file()}
    assert {"MLmodel", "pyfunc_model.py", "weights.safetensors", "requirements.txt"} <= files
    assert not [name for name in files if name.endswith(("pkl", "pickle", "pt", "bin"))]
    (needs, *_) = (store[0] / "artifacts").rglob("requirements.txt")
    assert {line.partition("==")[0] for line in needs.read_text().split()} == {"fishernet", "torch", "numpy", "mlflow"}


def test_logging_again_adds_nothing_and_the_best_is_registered_once(store, records, images):
    storage, uri = store
    import mlflow

    for name in ("digits", "digits", "today's"):
        record("s", uri, storage, records, images, register=name)
    client, number, runs, models = found(uri, "s")
    assert len(client.search_logged_models([number])) == 2
    version, quoted = sorted(client.search_model_versions(), key=lambda version: version.name)
    assert (version.name, quoted.name) == ("digits", "today's")
    loaded = mlflow.pyfunc.load_model(version.source).predict(images.test.numpy())
    assert np.array_equal(loaded, load(records / CONFIGS[3].run_name).encode(images.test))
    assert version.run_id == runs[CONFIGS[3].run_name].info.run_id == models["VAE-gaussian"].source_run_id
    check_inputs(runs, images)


def test_a_deleted_sweep_takes_its_models_and_data_sets_with_it(tmp_path, store, records, images):
    import sqlite3

    storage, uri = store
    record("gone", uri, storage, records, images)
    number = found(uri, "gone")[1]
    assert delete("gone", uri, storage, yes=True) == 0
    assert not (storage / "artifacts" / "gone").exists()
    with contextlib.closing(sqlite3.connect(storage / "mlflow.db")) as database:
        for table in ("experiments", "runs", "logged_models", "datasets"):
            assert database.execute(f"select count(*) from {table} where experiment_id = {number}").fetchone() == (
                0,
            ), table
    assert {*found(uri, "s")[3]} == {"VAE", "VAE-gaussian"}


@pytest.mark.long
def test_a_server_takes_models_and_system_metrics_as_a_file_does(tmp_path, records, images, monkeypatch):
    pytest.importorskip("psutil", reason="system metrics need psutil")
    with Server(f"sqlite:///{tmp_path}/server.db", tmp_path / "served") as server:
        uri = server.uri
        record("s", uri, tmp_path, records, images, register="digits")
        client, _, runs, models = found(uri, "s")
        check_inputs(runs, images)
        check_models(uri, runs, models, images, records, monkeypatch)
        (version,) = client.search_model_versions("name = 'digits'")
        assert int(version.version) == 1
        client.update_run(runs["s"].info.run_id, status="RUNNING")
        monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.5")
        with system_metrics(uri, runs["s"].info.run_id):
            for _ in range(120):
                time.sleep(0.5)
                if any(name.startswith("system/") for name in client.get_run(runs["s"].info.run_id).data.metrics):
                    break
        metrics = client.get_run(runs["s"].info.run_id).data.metrics
        assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= {*metrics}
