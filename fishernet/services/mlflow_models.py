"""The best run of each line as a model of MLflow's, loaded by ``mlflow.pyfunc.load_model``, and in its registry on request."""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fishernet.provenance import versions
from fishernet.services import schema
from fishernet.services.mlflow_store import children, files_of, pages

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run
    from mlflow.tracking import MlflowClient

WEIGHTS = "weights.safetensors"


def best_runs(client: MlflowClient, experiment_id: str, held_out: str) -> list[Run]:
    """Of each line the finished run with the least mean squared error, the best of all first."""
    found: dict[str, Run] = {}
    score = f"{held_out}/mse"
    for run in children(client, experiment_id, "attributes.status = 'FINISHED'"):
        line = run.data.tags.get(schema.VARIANT, "")
        mse = run.data.metrics.get(score, float("nan"))
        if mse == mse and (line not in found or mse < found[line].data.metrics[score]):
            found[line] = run
    return sorted(found.values(), key=lambda run: run.data.metrics[score])


def log_models(
    uri: str, client: MlflowClient, experiment_id: str, parent_id: str, held_out: str, register: str | None = None
) -> None:
    """Have a model of the best run of each line, and the best of all as the newest version of ``register``.

    They are outputs of their runs and of the parent. What is there already stays, so calling it again changes nothing.
    """
    from mlflow.entities import LoggedModelStatus

    made = pages(client.search_logged_models, experiment_ids=[experiment_id])
    there = {model.source_run_id: model for model in made if model.status == LoggedModelStatus.READY}
    best = best_runs(client, experiment_id, held_out)
    for run in best:
        if run.info.run_id not in there:
            there[run.info.run_id] = _log_model(uri, client, run, parent_id)
    if register and best:
        _register(client, there[best[0].info.run_id], register)


def _log_model(uri: str, client: MlflowClient, run: Run, parent_id: str) -> LoggedModel:
    import numpy as np
    from mlflow import pyfunc
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model, ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from safetensors import safe_open

    run_id, line = run.info.run_id, run.data.tags.get(schema.VARIANT, "model")
    with tempfile.TemporaryDirectory(prefix="fishernet-") as scratch:
        weights = Path(files_of(uri, run_id).download_artifacts(WEIGHTS, scratch))
        with safe_open(weights, framework="np") as file:
            about = file.metadata()
        d = json.loads(about["config"])["latent_dim"]
        shape = (-1, *json.loads(about["image_shape"]))
        signature = ModelSignature(
            inputs=Schema([TensorSpec(np.dtype("uint8"), shape)]),
            outputs=Schema([TensorSpec(np.dtype("float32"), (-1, d))]),
            params=ParamSchema([ParamSpec("method", DataType.string, "encode")]),
        )
        made = client.create_logged_model(
            run.info.experiment_id,
            re.sub(r"[^\w.-]+", "-", line),
            run_id,
            params=run.data.params,
            model_type="autoencoder",
        )
        needed = {
            name: version for name, version in versions().items() if name in ("fishernet", "torch", "numpy", "mlflow")
        }
        with warnings.catch_warnings(action="ignore"):  # that it has no example of an input
            pyfunc.save_model(
                Path(scratch) / "model",
                python_model=str(Path(__file__).with_name("pyfunc_model.py")),
                artifacts={"weights": str(weights)},
                signature=signature,
                pip_requirements=[f"{name}=={version}" for name, version in needed.items()],
                mlflow_model=Model(run_id=run_id, model_id=made.model_id),
            )
        client.log_model_artifacts(made.model_id, str(Path(scratch) / "model"))
    for of in (run_id, parent_id):
        client.log_outputs(of, [LoggedModelOutput(made.model_id, schema.last_epoch(run))])
    return client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)


def _register(client: MlflowClient, model: LoggedModel, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    of_run = pages(client.search_model_versions, filter_string=f"run_id = '{model.source_run_id}'")
    if not any(version.name == name for version in of_run):  # a filter by name would trip over a quote in it
        # The place, as models:/ID would be looked for in the store of the whole process, not in the client's.
        client.create_model_version(
            name, model.artifact_location, model.source_run_id, model_id=model.model_id, await_creation_for=0
        )


@contextmanager
def system_metrics(uri: str, run_id: str) -> Iterator[None]:
    """Meanwhile MLflow's own monitor writes what this machine's processors, memory, disk and network do to the run."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
