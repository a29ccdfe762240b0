"""What is a sweep's own in MLflow, deleted for good; `mlflow gc` would empty the trash of all other experiments with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fishernet.services.mlflow_store import (
    PARENTS,
    TRIALS,
    TrackingError,
    default_artifact_root,
    files_folder,
    follow_files,
    imported_mlflow,
    pages,
)

if TYPE_CHECKING:
    from mlflow.entities import Experiment, LoggedModel, Run
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking import MlflowClient

# What of MLflow is private and used here, as `mlflow gc` uses it; tests/test_boundaries.py fails when one of them is gone.
PRIVATE = ("_hard_delete_experiment", "_hard_delete_logged_model", "_hard_delete_run", "_get_deleted_logged_models")


def own_runs(client: MlflowClient, experiment: Experiment) -> list[Run]:
    """The runs of a sweep in its experiment, those in the trash too, the ones that hold its plan last."""
    query = {"experiment_ids": [experiment.experiment_id], "run_view_type": imported_mlflow().entities.ViewType.ALL}
    return [run for role in (TRIALS, PARENTS) for run in pages(client.search_runs, filter_string=role, **query)]


def forget(uri: str, client: MlflowClient, experiment: Experiment, storage: Path) -> str:
    """Delete a sweep's runs with their files and models, and the experiment where no run of somebody else is in it.

    Returns what is left, as the end of a sentence: a server's trash keeps the names of what was deleted. What is cut short is
    deleted by the next call. What forbids it, ``check_registered`` says before.
    """
    number, served = experiment.experiment_id, uri.startswith("http")
    if experiment.lifecycle_stage == "deleted" and served:
        client.restore_experiment(number)  # else it can be neither searched nor renamed
    if not served:
        follow_files(uri, client, experiment, default_artifact_root(storage))  # of a copy, not of the original
        experiment = client.get_experiment(number)
    own = own_runs(client, experiment)
    ids = {run.info.run_id for run in own}
    mlflow = imported_mlflow()
    open_store = mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore
    store = None if served else open_store(uri, default_artifact_root(storage))
    models = [m for m in _models(client, number, store) if m.source_run_id in ids]
    everything = pages(client.search_runs, experiment_ids=[number], run_view_type=mlflow.entities.ViewType.ALL)
    n_others = sum(run.info.run_id not in ids for run in everything)
    if not n_others and store and experiment.lifecycle_stage != "deleted":
        client.delete_experiment(number)  # into the trash at once: no list has half of it
    for model in models:
        _delete_files(model.artifact_location, uri)
        if not store:
            client.delete_logged_model(model.model_id)
        if store:
            store._hard_delete_logged_model(model.model_id)
    for run in own:
        _delete_files(run.info.artifact_uri, uri)
        if run.info.lifecycle_stage != "deleted" and (n_others or not store):
            client.delete_run(run.info.run_id)
        if store:
            store._hard_delete_run(run.info.run_id)
    if n_others:
        return f"; its experiment stays, with {n_others} runs that are not its own"
    folder = files_folder(uri, experiment)
    if store:
        store._hard_delete_experiment(number)
        store.engine.dispose()
    else:
        client.rename_experiment(number, f"{experiment.name} (deleted {number})")
        client.delete_experiment(number)
    if folder is not None:
        _remove_empty(folder)
    return (
        ""
        if store
        else "; its files are gone, and the server's trash keeps the names of its runs: `mlflow gc` there empties it"
    )


def check_registered(client: MlflowClient, runs: Sequence[Run]) -> None:
    """Raises TrackingError where a registered model is one of these runs'."""
    ids = {run.info.run_id for run in runs}
    versions = [version for version in pages(client.search_model_versions) if version.run_id in ids]
    if versions:
        names = ", ".join(sorted({f"{version.name} version {version.version}" for version in versions}))
        raise TrackingError(
            f"models of this sweep are registered ({names}), and would be lost; delete these versions first"
        )


def _models(client: MlflowClient, number: str, store: SqlAlchemyStore | None) -> list[LoggedModel]:
    """The experiment's models, those in the trash too, where that can be looked into."""
    found = list(pages(client.search_logged_models, experiment_ids=[number]))
    if store:
        trash = (store.get_logged_model(model, allow_deleted=True) for model in store._get_deleted_logged_models())
        found += [model for model in trash if model.experiment_id == number]
    return found


def _delete_files(place: str, uri: str) -> None:
    registry = imported_mlflow().store.artifact.artifact_repository_registry
    with suppress(FileNotFoundError):
        registry.get_artifact_repository(place, tracking_uri=uri).delete_artifacts()


def _remove_empty(folder: Path) -> None:
    """The folder of an experiment's files, where nothing but empty folders is in it."""
    for path, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # somebody else's file is in it
            Path(path).rmdir()
