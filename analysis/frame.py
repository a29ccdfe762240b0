"""MLflow's records of one sweep as tidy DataFrames: one row per run, or one row per run, epoch and metric.

The sweep's driver writes one experiment per sweep: a parent run, which holds the plan, and a child run per
TrialConfig. This module only reads. Types come back through TrialConfig, as MLflow keeps parameters as text.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from analysis.errors import AnalysisError as AnalysisError
from fishernet import commands
from fishernet.commands import hide_password
from fishernet.config import TrialConfig
from fishernet.families import FAMILIES, all_fields
from fishernet.plan import Json, SweepPlan
from fishernet.services import mlflow_store, schema
from fishernet.spelling import did_you_mean
from fishernet.wording import listed

CURVE = ["variant", "model", "latent_dim"]  # what a point of a curve is: the mean over seeds of these
RunRow = pd.Series  # a row of ``load_runs``: a run's config, metrics and what became of it, by column
THREADS = 8  # a server answers one history in about 20 ms, nearly all of it waiting


@dataclass(frozen=True)
class Sweep:
    """One sweep as its parent run describes it.

    ``plan`` is what the sweep set out to train, ``pca`` the MSE per pixel of principal component analysis by
    number of components, on the images the sweep was scored on, ``tags`` what else the parent run says of itself,
    ``moved`` a sentence where its files are not where MLflow has them.
    """

    name: str
    experiment_id: str
    parent_run_id: str
    plan: Json
    pca: dict[int, float]
    uri: str
    tags: Mapping[str, str] = field(default_factory=dict)
    moved: str = ""
    mean_image: float | None = (
        None  # the same MSE of the mean training image: of no component; stores of before lack it
    )

    @property
    def begun_as(self) -> str:
        """The name it was begun under, another one where it was renamed in MLflow."""
        return self.tags.get(schema.SWEEP) or self.name

    @property
    def held_out(self) -> str:
        """The images the runs were scored on: ``test``, or ``validation``, held out of training."""
        return str(self.plan.get("held_out", "test"))

    def score(self, name: str) -> str:
        """The metric of that name on the held-out images, such as ``test/mse``."""
        return f"{self.held_out}/{name}"

    def command(self, name: str, *words: str) -> str:
        """The command ``fishernet NAME``, such as ``figures frechet``, on this sweep, from whichever folder it is pasted."""
        uri = hide_password(commands.absolute_uri(self.uri))
        return shlex.join(commands.fishernet(*name.split(), "--name", self.name, "--tracking-uri", uri, *words))

    def driver_command(self, flag: str, *words: str) -> str:
        """The command that goes on with this sweep: ``flag`` is --resume, or --name to extend it."""
        return _driver_command("sweep", self.uri, self.plan.get("storage_path"), flag, self.name, *words)

    @cached_property
    def configs(self) -> tuple[TrialConfig, ...]:
        """Every planned trial config of an installed model."""
        try:
            return SweepPlan.from_dict(self.plan, installed=True).configs
        except (KeyError, TypeError, ValueError) as error:
            raise AnalysisError(
                f"The plan of sweep {self.name} cannot be read; another version wrote it: {error}."
            ) from error


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """What goes wrong with MLflow's store becomes an AnalysisError."""
    try:
        with mlflow_store.sentences(uri):
            yield
    except mlflow_store.TrackingError as error:
        raise AnalysisError(
            f"{_capital(error)}. --tracking-uri takes sqlite:///PATH for a file and http://HOST:PORT for a server."
        ) from error


def find_sweep(name: str | None, uri: str, kind: str = "sweep") -> Sweep:
    """The sweep (or the search, by ``kind``) of that name in the tracking store, or the one started last where name is None.

    Raises AnalysisError when there is no store, no sweep, or none of that name; it lists those known.
    """
    with reading(uri):
        mlflow_store.check_uri(uri, make=False)
        client = mlflow_store.client_of(uri)
        found = mlflow_store.sweeps(client, kind)
        known = [experiment.name for experiment, _ in found]
        if name is not None and name not in known:
            _say_if_deleted(client, name, uri, kind)
        if not known:
            raise AnalysisError(
                f"No {kind} is recorded in {hide_password(uri)} yet. `{shlex.join(commands.driver(kind))}` makes one; "
                "--tracking-uri names another store."
            )
        if name is not None and name not in known:
            raise AnalysisError(_no_such_sweep(name, known, uri, kind))
        experiment, parent = next(pair for pair in found if name in (None, pair[0].name))
        pca = schema.by_step(client.get_metric_history(parent.info.run_id, schema.PCA), first=0)
        mean_image = pca.pop(0, None)
    try:
        plan = schema.plan_of(parent.data.tags)
    except schema.SchemaError as error:
        raise AnalysisError(f"In the parent run of sweep {experiment.name}, {parent.info.run_id}, {error}.") from error
    if plan is None:
        raise AnalysisError(f"The parent run of sweep {experiment.name}, {parent.info.run_id}, has no plan yet.")
    moved = mlflow_store.moved_here(uri, experiment)
    return Sweep(
        experiment.name,
        parent.info.experiment_id,
        parent.info.run_id,
        plan,
        pca,
        uri,
        parent.data.tags,
        moved,
        mean_image,
    )


def load_runs(sweep: Sweep) -> pd.DataFrame:
    """One row per trial config that has been started, whatever became of it.

    Columns: every field of the runs' configs in its own type, missing where a model has no such field; ``config``, the
    TrialConfig itself; ``variant``, the label of its line; ``choices``, what sets that line apart, by field; ``run_id``;
    ``status`` and ``reason`` (of a failure, else empty); ``n_epochs``, the last epoch recorded; ``n_runs``,
    how many runs there are of this config; ``scores``, what its tags fishernet.scores.GROUP say of the scores of each
    group; and the last value of every metric under the metric's name.

    Of several runs of one config the most advanced is kept: a finished one before others, then the one with
    most epochs, then the latest.
    """
    with reading(sweep.uri):
        client = mlflow_store.client_of(sweep.uri)
        by_config: dict[TrialConfig, list[mlflow_store.Run]] = {}
        elsewhere: Counter[str] = Counter()  # runs of models that are not installed here
        for run in mlflow_store.children(client, sweep.experiment_id):
            try:
                if config := schema.config_of(run):
                    by_config.setdefault(config, []).append(run)
            except schema.UnknownFamily as error:
                elsewhere[error.model] += 1
            except schema.SchemaError as error:
                raise AnalysisError(f"{_capital(error)}.") from error
    for model, n in elsewhere.items():
        print(f"{n} runs of {model} are left out, as that model is not installed here", file=sys.stderr)
    rows = []
    for config, runs_of_config in by_config.items():
        run = max(runs_of_config, key=schema.progress)
        rows.append(
            _last_values(sweep, run, config)
            | config.to_dict()
            | {
                "config": config,
                "variant": config.variant,
                "choices": config.choices,
                "run_id": run.info.run_id,
                "status": run.info.status,
                "reason": run.data.tags.get(schema.REASON, ""),
                "n_epochs": schema.last_epoch(run),
                "n_runs": len(runs_of_config),
                "scores": schema.scores_of(run.data.tags),
            }
        )
    own = [name for name in all_fields() if name in TrialConfig.names() or any(name in row for row in rows)]
    names = [*own, "config", "variant", "choices", "run_id", "status", "reason", "n_epochs", "n_runs", "scores"]
    metrics = sorted({name for row in rows for name in row} - set(names))
    runs = pd.DataFrame(rows, columns=[*names, *metrics])
    # A field that not every model has is missing in the others' rows, which int has no number for.
    whole = {name: all_fields()[name].type for name in own if runs[name].notna().all()}
    runs = runs.astype(whole | {"n_epochs": int, "n_runs": int}).copy()  # in one piece: pandas warns of more than 100
    runs["variant"], runs["choices"] = _tell_apart(runs)
    return in_order(runs)


def load_epochs(sweep: Sweep, runs: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """The history of each metric in each of the runs: run_id, config columns, variant, epoch, metric, value.

    An epoch recorded twice, as after an interruption, counts once, with what was recorded last. What stands at a step that
    is no epoch of the run, somebody else wrote.
    """
    n_epochs = dict(zip(runs["run_id"], runs["epochs"], strict=True))
    wanted = [(run_id, metric) for run_id in n_epochs for metric in metrics]
    with reading(sweep.uri):
        client = mlflow_store.client_of(sweep.uri)
        if sweep.uri.startswith(("http:", "https:")):
            with ThreadPoolExecutor(THREADS) as pool:
                histories = list(pool.map(lambda key: client.get_metric_history(*key), wanted))
        else:
            histories = [client.get_metric_history(*key) for key in wanted]

    rows = []
    for (run_id, metric), history in zip(wanted, histories, strict=True):
        values = schema.by_step(history, last=n_epochs[run_id])
        rows += [(run_id, epoch, metric, value) for epoch, value in values.items()]
    types = {"epoch": int, "metric": str, "value": float}
    epochs = pd.DataFrame(rows, columns=["run_id", *types]).astype(types)
    return runs[["run_id", *config_columns(runs), "variant"]].merge(epochs, on="run_id")


def config_columns(runs: pd.DataFrame) -> list[str]:
    """The columns that are fields of the runs' configs."""
    return [name for name in all_fields() if name in runs]


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
    """The planned configs without a finished run: config fields, ``config``, variant, and ``state``."""
    found: dict[TrialConfig, RunRow] = {run["config"]: run for _, run in runs.iterrows()}
    rows = []
    for config in sweep.configs:
        run = found.get(config)
        if run is None or run["status"] != "FINISHED":
            state = "never started" if run is None else _state(run)
            rows.append(config.to_dict() | {"config": config, "variant": config.variant, "state": state})
    own = [name for name in all_fields() if name in TrialConfig.names() or any(name in row for row in rows)]
    return in_order(pd.DataFrame(rows, columns=[*own, "config", "variant", "state"]))


def say_missing(sweep: Sweep, missing: pd.DataFrame) -> str:
    """How many planned runs have not finished and the command that trains them; empty if there are none."""
    if missing.empty:
        return ""
    kinds = missing["state"].str.split(r" at |: ", regex=True).str[0].value_counts()
    counts = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    return (
        f"{len(missing)} of {len(sweep.configs)} planned runs have not finished ({counts}); "
        f"`{sweep.driver_command('--resume')}` trains them."
    )


def _driver_command(kind: str, uri: str, storage: str | None, *words: str) -> str:
    """The driver of that kind with these words, the store and the storage path: ``storage`` where the store names none."""
    command = [*commands.driver(kind), *words]
    if os.environ.get(commands.COMMAND_VARIABLE):  # it adds where the records are
        return shlex.join(command)
    if (file := mlflow_store.sqlite_path(uri)) and file.name == "mlflow.db":  # the store that a storage path has
        storage = str(file.parent)
    command += ["--storage-path", storage] if storage else []
    return shlex.join([*command, "--tracking-uri", hide_password(commands.absolute_uri(uri))])


def place(model: str, variant: str) -> tuple[int, list[str | float]]:
    """What lines are sorted by in every figure and table: their model's place in FAMILIES, its paper's form first.

    That is the bare model name, which sorts before every longer variant. Numbers in names count as numbers: 5 before 10.
    """
    words = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", variant)  # text and numbers, in turns
    return [*FAMILIES].index(model), [float(word) if i % 2 else word for i, word in enumerate(words)]


def some_lines(
    variants: Sequence[str], models: Mapping[str, str], most: int, first: Sequence[str] = ()
) -> tuple[list[str], str]:
    """``most`` of the variants in their order, for a picture that holds no more, and a sentence on those left out.

    Each model has its turn, those of ``first`` before the others: its first line, then its second, and so on.
    """
    seen: dict[str, int] = {}
    turns = {}
    for i, variant in enumerate(variants):
        model = models[variant]
        seen[model] = seen.get(model, -1) + 1
        turns[variant] = seen[model], first.index(model) if model in first else len(first), i
    chosen = sorted(variants, key=turns.__getitem__)[:most]
    left_out = [variant for variant in variants if variant not in chosen]
    said = f"Left out: {', '.join(left_out)}." if left_out else ""
    return [variant for variant in variants if variant in chosen], said


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows by ``place``, then latent_dim, then epoch or seed."""
    lines = sorted(set(zip(frame["model"], frame["variant"], strict=True)), key=lambda line: place(*line))
    nth = [lines.index(line) for line in zip(frame["model"], frame["variant"], strict=True)]
    keys = ["_line", *(name for name in ("latent_dim", "epoch", "seed") if name in frame)]
    return frame.assign(_line=nth).sort_values(keys, kind="stable").drop(columns="_line").reset_index(drop=True)


def _say_if_deleted(client: mlflow_store.MlflowClient, name: str, uri: str, kind: str) -> None:
    """Raise AnalysisError where the run that holds that sweep's plan, or all of it, is in MLflow's trash."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.tags.get(schema.KIND) != kind:
        return
    if experiment.lifecycle_stage == "deleted":
        raise AnalysisError(
            f"The {kind} {name} was deleted in MLflow; `{mlflow_store.restore_command(uri, experiment)}` restores it."
        )
    if mlflow_store.parents(client, [experiment.experiment_id], deleted=True):
        command = _driver_command(kind, uri, None, "--resume", name)
        raise AnalysisError(f"The run that holds the plan of {name} was deleted in MLflow; `{command}` restores it.")


def _no_such_sweep(name: str, known: Sequence[str], uri: str, kind: str) -> str:
    shown = ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
    hint = did_you_mean(name, known) or "."
    return f"There is no {kind} named {name} in {hide_password(uri)}{hint} Latest first, there are: {shown}."


def _last_values(sweep: Sweep, run: mlflow_store.Run, config: TrialConfig) -> dict[str, float]:
    """The last value of every metric; of the metrics of epochs, at the last epoch that has one."""
    values = {name: schema.number(value) for name, value in run.data.metrics.items()}
    if names := schema.misplaced(run, config):
        with reading(sweep.uri):
            client = mlflow_store.client_of(sweep.uri)
            histories = {name: client.get_metric_history(run.info.run_id, name) for name in names}
        for name, history in histories.items():
            by_epoch = schema.by_step(history, last=config.epochs)
            values[name] = by_epoch[max(by_epoch)] if by_epoch else math.nan
    return values


def _capital(error: Exception) -> str:
    return str(error)[:1].upper() + str(error)[1:]


def _state(run: RunRow) -> str:
    """What became of a run that has not finished: ``failed: out of memory``, ``running at epoch 7 of 50``."""
    if run["status"] == "SCHEDULED":
        return "never started"
    if run["status"] == "FAILED":
        return f"failed: {run['reason'] or 'no reason recorded'}"
    return f"{run['status'].lower()} at epoch {run['n_epochs']} of {run['epochs']}"


def _tell_apart(runs: pd.DataFrame) -> tuple[pd.Series[str], pd.Series]:
    """Each run's variant and choices, with what else differs within that variant: a mean is taken over seeds alone."""
    labels, choices = runs["variant"].copy(), runs["choices"].map(dict)
    for _, of_variant in runs.groupby("variant"):
        # A named setting may be another at each latent dim, as a search's best one is.
        named = of_variant["setting"].nunique() == 1 and of_variant["setting"].iat[0]
        for _, group in of_variant.groupby("latent_dim" if named else "variant"):
            for name in config_columns(runs):
                if name not in ("latent_dim", "seed") and group[name].nunique() > 1:
                    labels[group.index] += f" {name}=" + group[name].astype(str)
                    for i in group.index:
                        choices[i][name] = group[name][i]
    return labels, choices


def chosen_dim(runs: pd.DataFrame, asked: int | None, of: str = "finished run") -> int:
    """``asked``, else the latent_dim that most lines have, of several the largest; raises AnalysisError where no run has it."""
    n_lines = runs.groupby("latent_dim")["variant"].nunique()
    if asked is None:
        return int(n_lines.index[n_lines == n_lines.max()].max())
    if asked not in n_lines:
        raise AnalysisError(f"--latent-dim {asked} has no {of}; there are d = {listed(n_lines.index)}.")
    return asked
