"""MLflow's records of one sweep as tidy DataFrames: one row per run, or one row per run, epoch and metric.

The sweep's driver writes one experiment per sweep: a parent run, which holds the plan, and a child run per
TrialConfig. This module only reads. Types come back through TrialConfig, as MLflow keeps parameters as text.
"""

import difflib
import json
import math
import os
import re
import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from fishernet.config import MODEL_NAMES, TrialConfig
from fishernet.plan import expand

CONFIG_FIELDS = tuple(f.name for f in fields(TrialConfig))
CURVE = ["variant", "model", "latent_dim"]  # what a point of a curve is: the mean over seeds of these
SCORES_TAG = "fishernet.scores."  # and a group: what made that group's scores of a run
DRIVERS = {"sweep": "latent_sweep.py", "search": "hyperparameter_search.py"}  # kinds of experiments and what makes them
PAGE = 1000
THREADS = 8  # a server answers one history in about 20 ms, nearly all of it waiting


class AnalysisError(RuntimeError):
    """What was asked for cannot be drawn; the message is a sentence for whoever typed the command."""


@dataclass(frozen=True)
class Sweep:
    """One sweep as its parent run describes it.

    ``plan`` is what the sweep set out to train, ``pca`` the MSE per pixel of principal component analysis by
    number of components, on the images the sweep was scored on, ``tags`` what else the parent run says of itself.
    """

    name: str
    experiment_id: str
    parent_run_id: str
    plan: dict[str, Any]
    pca: dict[int, float]
    uri: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def held_out(self) -> str:
        """The images the runs were scored on: ``test``, or ``validation``, held out of training."""
        return str(self.plan.get("held_out", "test"))

    def score(self, name: str) -> str:
        """The metric of that name on the held-out images, such as ``test/mse``."""
        return f"{self.held_out}/{name}"

    @cached_property
    def configs(self) -> tuple[TrialConfig, ...]:
        """Every planned trial config, from the plan's list ``configs`` or from its compact form."""
        try:
            if "configs" in self.plan:
                return tuple(TrialConfig.from_dict(values) for values in self.plan["configs"])
            return tuple(expand(self.plan))
        except (KeyError, TypeError, ValueError) as error:
            raise AnalysisError(
                f"The plan of sweep {self.name} cannot be read; another version wrote it: {error}."
            ) from error


def default_tracking_uri() -> str:
    """$MLFLOW_TRACKING_URI, else the SQLite store that sweeps make below the current folder."""
    store = (Path.cwd() / "fishernet-results" / "mlflow.db").as_posix()
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store}"


def find_sweep(name: str | None, uri: str, kind: str = "sweep") -> Sweep:
    """The sweep (or the search, by ``kind``) of that name in the tracking store, or the one started last where name is None.

    Raises AnalysisError when there is no store, no sweep, or none of that name; it lists those known.
    """
    _check_store(uri)
    try:
        client = MlflowClient(tracking_uri=uri)
        experiments = _pages(client.search_experiments, filter_string=f"tags.`fishernet.kind` = '{kind}'")
        names = {experiment.experiment_id: experiment.name for experiment in experiments}
        parents = _runs(client, list(names), "tags.`fishernet.role` = 'sweep'") if names else []
        newest_first = sorted(parents, key=lambda run: run.info.start_time, reverse=True)
        known = list(dict.fromkeys(names[run.info.experiment_id] for run in newest_first))
        if not known:
            raise AnalysisError(
                f"No {kind} is recorded in {_shown(uri)} yet. `python sweeps/{DRIVERS[kind]}` makes one; "
                "--tracking-uri names another store."
            )
        if name is not None and name not in known:
            raise AnalysisError(_no_such_sweep(name, known, uri, kind))
        parent = next(run for run in newest_first if name in (None, names[run.info.experiment_id]))
        return Sweep(
            name=names[parent.info.experiment_id],
            experiment_id=parent.info.experiment_id,
            parent_run_id=parent.info.run_id,
            plan=_plan(parent, names[parent.info.experiment_id]),
            pca={m.step: m.value for m in client.get_metric_history(parent.info.run_id, "pca/test_mse")},
            uri=uri,
            tags=parent.data.tags,
        )
    except MlflowException as error:
        raise AnalysisError(_unreadable(uri, error)) from error


def load_runs(sweep: Sweep) -> pd.DataFrame:
    """One row per trial config that has been started, whatever became of it.

    Columns: every field of TrialConfig in its own type; ``variant``, the label of its line; ``run_id``;
    ``status`` and ``reason`` (of a failure, else empty); ``n_epochs``, the last epoch recorded; ``n_runs``,
    how many runs there are of this config; ``scores``, what its tags fishernet.scores.GROUP say of the scores of each
    group; and the last value of every metric under the metric's name.

    Of several runs of one config the most advanced is kept: a finished one before others, then the one with
    most epochs, then the latest.
    """
    client = MlflowClient(tracking_uri=sweep.uri)
    try:
        children = _runs(client, [sweep.experiment_id], f"tags.`mlflow.parentRunId` = '{sweep.parent_run_id}'")
    except MlflowException as error:
        raise AnalysisError(_unreadable(sweep.uri, error)) from error

    by_config: dict[TrialConfig, list[Run]] = {}
    for run in children:
        by_config.setdefault(_config(run), []).append(run)
    rows = []
    for config, runs_of_config in by_config.items():
        run = max(runs_of_config, key=_progress)
        rows.append(
            config.to_dict()
            | {
                "variant": config.variant,
                "run_id": run.info.run_id,
                "status": run.info.status,
                "reason": run.data.tags.get("fishernet.reason", ""),
                "n_epochs": _last_epoch(run),
                "n_runs": len(runs_of_config),
                "scores": _scores(run),
            }
            | run.data.metrics
        )
    names = [*CONFIG_FIELDS, "variant", "run_id", "status", "reason", "n_epochs", "n_runs", "scores"]
    metrics = sorted({name for row in rows for name in row} - set(names))
    types = {f.name: f.type for f in fields(TrialConfig)} | {"n_epochs": int, "n_runs": int}
    runs = pd.DataFrame(rows, columns=[*names, *metrics]).astype(types)
    runs["variant"] = _tell_apart(runs)
    return in_order(runs)


def load_epochs(sweep: Sweep, runs: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The history of each metric in each of the runs: run_id, config columns, variant, epoch, metric, value.

    An epoch recorded twice, as after an interruption, counts once, with what was recorded last.
    """
    client = MlflowClient(tracking_uri=sweep.uri)
    wanted = [(run_id, metric) for run_id in runs["run_id"] for metric in metrics]
    try:
        if sweep.uri.startswith(("http:", "https:")):
            with ThreadPoolExecutor(THREADS) as pool:
                histories = list(pool.map(lambda key: client.get_metric_history(*key), wanted))
        else:
            histories = [client.get_metric_history(*key) for key in wanted]
    except MlflowException as error:
        raise AnalysisError(_unreadable(sweep.uri, error)) from error

    rows = []
    for (run_id, metric), history in zip(wanted, histories, strict=True):
        last_record = {m.step: m.value for m in sorted(history, key=lambda m: (m.step, m.timestamp))}
        rows += [(run_id, epoch, metric, value) for epoch, value in last_record.items()]
    types = {"epoch": int, "metric": str, "value": float}
    epochs = pd.DataFrame(rows, columns=["run_id", *types]).astype(types)
    return runs[["run_id", *CONFIG_FIELDS, "variant"]].merge(epochs, on="run_id")


def usable(runs: pd.DataFrame, value: str = "test/mse") -> pd.DataFrame:
    """The runs that figures and means count: finished, with a finite last value."""
    if value not in runs:
        return runs.iloc[:0]
    finite = runs[value].map(math.isfinite).astype(bool)
    return runs[(runs["status"] == "FINISHED") & finite]


def failed(runs: pd.DataFrame, value: str = "test/mse") -> pd.DataFrame:
    """The runs that have ended and are not ``usable``: failed, killed, or with a last value that is not finite.

    ``state`` says what became of each: ``failed: the loss is not finite``.
    """
    ended = runs[runs["status"].isin(("FINISHED", "FAILED", "KILLED")) & ~runs.index.isin(usable(runs, value).index)]
    states = [
        f"finished with a {value} that is not finite" if run["status"] == "FINISHED" else _state(run)
        for _, run in ended.iterrows()
    ]
    return ended.assign(state=pd.Series(states, index=ended.index, dtype=str))


def summary(runs: pd.DataFrame, value: str = "test/mse") -> pd.DataFrame:
    """Per variant and latent_dim over the usable runs: n_seeds, mean, sd, min, max.

    sd is the sample standard deviation over seeds (divided by n - 1), NaN for a single seed.
    """
    runs = usable(runs, value)
    return spread(runs.assign(value=runs.get(value, default=pd.Series(dtype=float))), CURVE)


def spread(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """n_seeds, mean, sd (over n - 1), min and max of column ``value`` within each group of equal ``by``."""
    groups = frame.groupby(list(by), sort=False)["value"]
    return in_order(groups.agg(n_seeds="count", mean="mean", sd="std", min="min", max="max").reset_index())


def missing_cells(sweep: Sweep, runs: pd.DataFrame) -> pd.DataFrame:
    """The planned configs without a finished run: config fields, variant, and ``state``."""
    configs = runs[[*CONFIG_FIELDS]].itertuples(index=False)
    found = {TrialConfig(*config): i for i, config in zip(runs.index, configs, strict=True)}
    rows = []
    for config in sweep.configs:
        run = runs.loc[found[config]] if config in found else None
        if run is None or run["status"] != "FINISHED":
            state = "never started" if run is None else _state(run)
            rows.append(config.to_dict() | {"variant": config.variant, "state": state})
    return in_order(pd.DataFrame(rows, columns=[*CONFIG_FIELDS, "variant", "state"]))


def say_missing(sweep: Sweep, missing: pd.DataFrame) -> str:
    """How many planned runs have not finished and the command that trains them; empty if there are none."""
    if missing.empty:
        return ""
    kinds = missing["state"].str.split(r" at |: ", regex=True).str[0].value_counts()
    counts = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    return (
        f"{len(missing)} of {len(sweep.configs)} planned runs have not finished ({counts}); "
        f"`python sweeps/latent_sweep.py --resume {sweep.name}` trains them."
    )


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows by model as in MODEL_NAMES, its paper's form first, then latent_dim, then epoch or seed."""
    keys = [name for name in ("model", "variant", "latent_dim", "epoch", "seed") if name in frame]
    # A model's usual form is the bare model name, which sorts before every longer variant.
    return frame.sort_values(
        keys,
        key=lambda column: column.map(MODEL_NAMES.index) if column.name == "model" else column,
        kind="stable",
    ).reset_index(drop=True)


def _check_store(uri: str) -> None:
    """Raise AnalysisError unless an SQLite uri leads to an MLflow store: MLflow would create one there."""
    if not uri.startswith("sqlite:"):
        return
    path = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if not path.is_file():
        raise AnalysisError(
            f"There is no MLflow store at {path}. Sweeps write fishernet-results/mlflow.db where they are "
            "started; --tracking-uri sqlite:///PATH or http://HOST:PORT names another."
        )
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone()
    except sqlite3.DatabaseError as error:
        raise AnalysisError(f"{path} cannot be read as an SQLite database: {error}.") from error
    if not found:
        raise AnalysisError(f"{path} is an SQLite database, but not an MLflow store; --tracking-uri names another.")


def _no_such_sweep(name: str, known: Sequence[str], uri: str, kind: str) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    shown = ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"There is no {kind} named {name} in {_shown(uri)}.{hint} Latest first, there are: {shown}."


def _unreadable(uri: str, error: MlflowException) -> str:
    message = _shown(str(error).strip().partition("\n")[0].rstrip("."))
    # MLflow's words for no answer are a chain of the exceptions of three libraries.
    why = "the server does not answer" if "Max retries exceeded" in message else message
    return (
        f"MLflow cannot read {_shown(uri)}: {why}. --tracking-uri takes sqlite:///PATH for a file and http://HOST:PORT for a "
        "server."
    )


def _shown(text: str) -> str:
    """The text, a URI or one that quotes it, without a password."""
    return re.sub(r"//[^/@]*@", "//", text)


def _plan(parent: Run, name: str) -> dict[str, Any]:
    """The sweep's plan: JSON in fishernet.plan, fishernet.plan.1, … (MLflow limits a tag)."""
    tags, texts = parent.data.tags, [parent.data.tags.get("fishernet.plan", "")]
    while (following := f"fishernet.plan.{len(texts)}") in tags:
        texts.append(tags[following])
    try:
        # A plan that was once longer leaves tags behind, so what follows the closing brace is none of it.
        plan: dict[str, Any] = json.JSONDecoder().raw_decode("".join(texts))[0]
    except ValueError as error:
        raise AnalysisError(
            f"The parent run of sweep {name}, {parent.info.run_id}, has no readable plan in its "
            f"tag fishernet.plan: {error}."
        ) from error
    return plan


def _config(run: Run) -> TrialConfig:
    """The run's TrialConfig; a field that is newer than the run takes its default."""
    values = {k: v for k, v in run.data.params.items() if k in CONFIG_FIELDS}
    try:
        # A driver that dies while it makes a run may leave it without parameters, but not without its tags.
        values = values or json.loads(run.data.tags["fishernet.config"])
        return TrialConfig.from_dict(values)
    except (KeyError, ValueError) as error:
        raise AnalysisError(f"Run {run.info.run_id} has no readable trial config: {error}.") from error


def _scores(run: Run) -> dict[str, Any]:
    """Group -> what its tag says of the run's scores; a tag that is not JSON counts as none."""
    scores = {}
    for name, text in run.data.tags.items():
        if name.startswith(SCORES_TAG):
            with suppress(ValueError):
                scores[name.removeprefix(SCORES_TAG)] = json.loads(text)
    return scores


def _last_epoch(run: Run) -> int:
    # Steps are public only in the message form; RunData.metrics drops them.
    return max((metric.step for metric in run.to_proto().data.metrics), default=0)


def _progress(run: Run) -> tuple[bool, int, int]:
    return run.info.status == "FINISHED", _last_epoch(run), run.info.start_time or 0


def _state(run: "pd.Series[Any]") -> str:
    """What became of a run that has not finished: ``failed: out of memory``, ``running at epoch 7 of 50``."""
    if run["status"] == "SCHEDULED":
        return "never started"
    if run["status"] == "FAILED":
        return f"failed: {run['reason'] or 'no reason recorded'}"
    return f"{run['status'].lower()} at epoch {run['n_epochs']} of {run['epochs']}"


def _tell_apart(runs: pd.DataFrame) -> "pd.Series[str]":
    """Each run's variant, with what else differs within that variant: a mean is taken over seeds alone."""
    labels = runs["variant"].copy()
    for _, of_variant in runs.groupby("variant"):
        # A named setting may be another at each latent dim, as a search's best one is.
        named = of_variant["setting"].nunique() == 1 and of_variant["setting"].iat[0]
        for _, group in of_variant.groupby("latent_dim" if named else "variant"):
            for name in CONFIG_FIELDS:
                if name not in ("latent_dim", "seed") and group[name].nunique() > 1:
                    labels[group.index] += f" {name}=" + group[name].astype(str)
    return labels


def _runs(client: MlflowClient, experiment_ids: Sequence[str], filter_string: str) -> list[Run]:
    return _pages(client.search_runs, experiment_ids=experiment_ids, filter_string=filter_string)


def _pages(search: Any, **arguments: Any) -> list[Any]:
    """Everything a paged search finds."""
    found: list[Any] = []
    token = None
    while True:
        page = search(**arguments, max_results=PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found
