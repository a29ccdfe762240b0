"""What a hyperparameter search found: history, what matters, best settings, and tuned against usual ones on the test set."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import matplotlib as mpl
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D
from optuna.distributions import FloatDistribution, IntDistribution

from analysis import command, exhibits, frame, style
from analysis.exhibits import Absent, Exhibit, Picture, Table, cell
from analysis.frame import AnalysisError, RunRow, Sweep, config_columns
from analysis.parts import Failures, Part
from analysis.stored import StoredSweep
from analysis.studies import best_trial, load_studies
from analysis.verdicts import student
from fishernet import commands
from fishernet.plan import format_numbers
from fishernet.services import mlflow_store, schema

TUNED = "tuned"  # how the setting of a search's best runs ends, in the plan that the search writes
OBJECTIVES = ("validation MSE per pixel", "KL divergence from the prior, nats per image")
STATES = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed"}
TREES_SEED = 0  # of the random forest behind fANOVA
FEWEST_FOR_IMPORTANCE = 4  # completed trials: a forest of fewer says nothing
MOST_TICKS = 6  # as many values as one panel names


def draw(
    name: str | None = None, tracking_uri: str | None = None, out: Path | None = None, optuna_url: str | None = None
) -> Failures:
    """Write every figure and table of a search and print the table; one that fails takes no other along. Raises AnalysisError."""
    sweep = frame.find_sweep(name, tracking_uri or mlflow_store.default_tracking_uri(), kind="search")
    parts = list(search_parts(sweep, optuna_url))
    folder = command.output_folder(out, sweep.name)
    failures = Failures(folder, passing=(frame.AnalysisError,))
    command.show([exhibit for part in parts for exhibit in failures.exhibits(*part)], folder, failures)
    return failures


def search_parts(sweep: Sweep, optuna_url: str | None = None) -> Iterator[Part]:
    """Everything a search shows, from its studies in Optuna's storage and its runs in MLflow; raises AnalysisError."""
    studies = load_studies(sweep, optuna_url)
    models = models_of(sweep)
    trials = trials_frame(studies, models)
    if trials.empty or not (trials["state"] == "complete").any():
        raise AnalysisError(f"No trial of the search {sweep.name} is complete yet, so there is no best one to show.")
    yield Part("best_settings", "Best settings", lambda: best_table(sweep, studies, trials))
    yield Part("search_history", "Search history", lambda: history(trials))
    yield Part("parameter_importance", "What the score depends on", lambda: importance(studies, models))
    for study in trials["study"].unique():
        of_study = trials[trials["study"] == study]
        if (of_study["state"] == "complete").any():
            yield Part(
                f"parallel_coordinates_{study}", f"{study}: settings of the completed trials",
                partial(parallel_coordinates, study, of_study),
            )  # fmt: skip
            yield Part(f"slices_{study}", f"{study}: score against each setting", partial(slices, study, of_study))
    front = ("pareto_front", "Pareto front")
    alone = Absent(*front, "The search minimised the MSE alone; --sampler nsga-ii scores KL too.")
    yield Part(*front, lambda: pareto_front(studies, trials) if "kl" in trials else alone)


def models_of(sweep: Sweep) -> dict[str, str]:
    """Study -> its model, by the search's runs; raises AnalysisError."""
    with frame.reading(sweep.uri):
        runs = mlflow_store.children(mlflow_store.client_of(sweep.uri), sweep.experiment_id)
        return {
            run.data.tags[schema.STUDY]: config.model
            for run in runs
            if schema.STUDY in run.data.tags and (config := schema.config_of(run))
        }


def trials_frame(studies: dict[str, optuna.Study], models: Mapping[str, str]) -> pd.DataFrame:
    """One row per trial that has ended: study, model, trial, state, mse (the last known), kl, last_epoch, parameters."""
    rows = []
    for name, study in studies.items():
        for trial in study.get_trials(deepcopy=False):
            if trial.state.name not in STATES:
                continue
            last = trial.intermediate_values.get(trial.last_step, math.nan) if trial.last_step else math.nan
            values = trial.values or [last]
            row = {
                "study": name,
                "model": models.get(name, ""),
                "trial": trial.number,
                "state": STATES[trial.state.name],
                "mse": values[0],
            }
            row |= {"kl": values[1] if len(values) > 1 else math.nan} if len(study.directions) > 1 else {}
            rows.append({**row, "last_epoch": trial.last_step, **trial.params})
    return pd.DataFrame(rows, columns=None if rows else ["study", "model", "trial", "state", "mse"])


def parameters(trials: pd.DataFrame) -> list[str]:
    """The varied fields of these trials."""
    known = ("study", "model", "trial", "state", "mse", "kl", "last_epoch")
    return [str(name) for name in trials if name not in known and trials[name].notna().any()]


def best_table(sweep: Sweep, studies: dict[str, optuna.Study], trials: pd.DataFrame) -> Table:
    """The best trial of each study: its score's mean and spread over the seeds from MLflow's runs, and its setting."""
    runs = frame.load_runs(sweep)
    scores = runs[["run_id"]].assign(score=runs.get(sweep.score("mse"), math.nan))
    rows, shown = [], []
    for name, study in studies.items():
        if (best := best_trial(study)) is None:
            continue
        counts = trials.loc[trials["study"] == name, "state"].value_counts()
        own = scores.loc[scores["run_id"].isin(_run_ids(sweep, name, best.number)), "score"]
        row: dict[str, object] = {"study": name, "trial": best.number, "trials": counts.sum()}
        row |= {state: int(counts.get(state, 0)) for state in STATES.values()}
        if "kl" not in trials:  # where all are trained to their end, and Optuna is told no epochs
            row["epochs"] = int(trials.loc[trials["study"] == name, "last_epoch"].sum())
        mean, sd, n_seeds = best.values[0], own.std(), len(own)
        row |= {"mean": mean, "sd": sd, "n_seeds": n_seeds}
        rows.append({**row, **best.params})
        shown.append(
            {
                "study": name, "best": f"trial {best.number}",
                OBJECTIVES[0]: exhibits.cell(mean, sd, n_seeds, 5),
                "trials": ", ".join(f"{row[key]} {key}" for key in ("trials", *STATES.values(), "epochs") if key in row),
                "setting": ", ".join(f"{field} {_text(value)}" for field, value in best.params.items()),
            }
        )  # fmt: skip
    best_is = f"The completed trial with the lowest mean {OBJECTIVES[0]} of each study"
    if "kl" in trials:
        best_is = (
            "Of each study the trial on the Pareto front that is nearest to its lowest MSE and KL divergence together"
        )
    return exhibits.Table(
        "best_settings",
        "Best settings",
        f"{best_is}, ± one standard deviation over its seeds. A trial stopped early, by asynchronous successive halving, is no "
        "candidate; epochs are those of all trials together. The score chose the setting, so it is lower than new seeds or the "
        "test set will give.",
        pd.DataFrame(rows),
        pd.DataFrame(shown),
    )


def _run_ids(sweep: Sweep, study: str, trial: int) -> list[str]:
    with frame.reading(sweep.uri):
        of_trial = f"tags.`{schema.STUDY}` = '{study}' and tags.`{schema.TRIAL}` = '{trial}'"
        found = mlflow_store.children(mlflow_store.client_of(sweep.uri), sweep.experiment_id, of_trial)
        return [run.info.run_id for run in found]


def history(trials: pd.DataFrame) -> Picture:
    """The score of each trial in the order of suggestion, and the best so far, a colour per study."""
    with style.new_figure() as (figure, axes):
        axes.set_yscale("log")
        keys = []
        for study, look, rows in _looks(trials):
            colour = look["color"]
            complete, stopped = (rows[rows["state"] == state] for state in ("complete", "stopped early"))
            axes.plot(complete["trial"], complete["mse"], ".", color=colour)
            axes.plot(stopped["trial"], stopped["mse"], "x", color=colour, markersize=3, alpha=0.6)
            best = rows["mse"].where(rows["state"] == "complete").cummin().ffill()
            axes.step(rows["trial"], best, color=colour, where="post", linestyle=look["linestyle"])
            keys.append(Line2D([], [], color=colour, linestyle=look["linestyle"], label=study))
        keys += [
            style.gap_key(),
            Line2D([], [], color=style.KEY_COLOUR, linestyle="", marker=".", label="complete"),
            Line2D([], [], color=style.KEY_COLOUR, linestyle="", marker="x", markersize=3, label="stopped early"),
            Line2D([], [], color=style.KEY_COLOUR, label="best so far"),
        ]
        style.plain_log_ticks(axes)
        style.whole_ticks(axes, sorted(trials["trial"].unique()))
        axes.set_xlabel("trial")
        axes.set_ylabel(OBJECTIVES[0])
        figure.legend(handles=keys, loc="outside right upper")
    return Picture(
        "search_history",
        "Search history",
        "Each trial's score, the mean over its seeds, in the order of suggestion; of a trial stopped early the score at its last "
        "epoch, which is not comparable with that of a whole one. Lines: the best completed trial so far.",
        figure,
        trials[["study", "trial", "state", "last_epoch", "mse"]],
    )


def importance(studies: dict[str, optuna.Study], models: Mapping[str, str]) -> Exhibit:
    """fANOVA main effects of the varied fields on ln MSE, a panel per study; of a conditional field among those that have it."""
    stem, title = "parameter_importance", "What the score depends on"
    rows = []
    for name, study in studies.items():
        for field, share, n_trials, conditional in _importances(study):
            row = {"study": name, "field": field, "importance": share, "trials": n_trials, "conditional": conditional}
            rows.append(row)
    if not rows:
        return Absent(
            stem, title, f"fANOVA wants at least {FEWEST_FOR_IMPORTANCE} completed trials of different scores."
        )
    data = pd.DataFrame(rows)
    names = list(data["study"].unique())
    with style.new_grid(1, len(names), width=2.6) as (figure, grid):
        for axes, name in zip(grid[0], names, strict=True):
            bars = data[data["study"] == name].sort_values("importance")
            labels = bars["field"].str.replace("_", " ") + bars["conditional"].map({True: " *", False: ""})
            drawn = axes.barh(labels, bars["importance"], color=style.colour(models.get(name, "")))
            for bar, conditional in zip(drawn, bars["conditional"], strict=True):
                bar.set_alpha(0.45 if conditional else 1)
            axes.set_title(name, fontsize=9)
            axes.set_xlim(0, 1)
            axes.grid(visible=False, axis="y")
            axes.set_xlabel("share of the\nvariance of ln MSE")
    caption = (
        "fANOVA (Hutter, Hoos, Leyton-Brown 2014): the share of the variance of ln MSE over the searched ranges, logarithmic "
        "where the search is, that each field accounts for alone, by a random forest fitted to the completed trials; of the "
        "fields that every trial has, what is missing to 1 are interactions of several. Of few trials it is rough."
    )
    if data["conditional"].any():
        caption += (
            " Pale, with a star: fields that only some trials have. Theirs is the share of the variance among those trials "
            "alone, by a forest of their own, so it does not add up with the others."
        )
    return Picture(stem, title, caption, figure, data)


def _importances(study: optuna.Study) -> list[tuple[str, float, int, bool]]:
    """Field, share, of how many trials, and whether others lack the field: of the fields that all completed trials have among
    all, of a field that only some have among those; the largest share first.
    """
    complete = [t for t in study.get_trials(deepcopy=False) if t.state == optuna.trial.TrialState.COMPLETE]
    common = sorted(optuna.search_space.intersection_search_space(complete))
    found = [(field, share, len(complete), False) for field, share in _main_effects(complete, common).items()]
    for field in sorted({name for trial in complete for name in trial.params} - set(common)):
        having = [trial for trial in complete if field in trial.params]
        shares = _main_effects(having, [*common, field])
        found += [(field, shares[field], len(having), True)] if field in shares else []
    return sorted(found, key=lambda row: -row[1])


def _main_effects(trials: Sequence[optuna.trial.FrozenTrial], fields: Sequence[str]) -> dict[str, float]:
    """fANOVA's share of each field, on the search's own scales, of completed trials that have all of them; nothing where these
    are too few or all alike.
    """
    if not fields or len(trials) < FEWEST_FOR_IMPORTANCE or len({t.values[0] for t in trials}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # else it announces a study that nobody sees
    study = optuna.create_study()
    study.add_trials([_on_scale(trial, fields) for trial in trials])
    # Not get_param_importances, which makes the shares sum to one: where fields interact, each would seem to matter alone.
    shares = optuna.importance.FanovaImportanceEvaluator(seed=TREES_SEED).evaluate(study, params=list(fields))
    return {name: float(share) for name, share in shares.items() if math.isfinite(share)}


def _on_scale(trial: optuna.trial.FrozenTrial, fields: Sequence[str]) -> optuna.trial.FrozenTrial:
    """The trial with the log10 of what is searched on a logarithmic scale, which Optuna's fANOVA takes for linear, and ln MSE."""
    params, distributions = dict(trial.params), dict(trial.distributions)
    for name in fields:
        range_ = distributions[name]
        if isinstance(range_, FloatDistribution | IntDistribution) and range_.log:
            params[name] = math.log10(params[name])
            distributions[name] = FloatDistribution(math.log10(range_.low), math.log10(range_.high))
    return optuna.trial.create_trial(
        value=math.log(trial.values[0]),
        params={name: params[name] for name in fields},
        distributions={name: distributions[name] for name in fields},
    )


def parallel_coordinates(study: str, trials: pd.DataFrame) -> Picture:
    """A line per completed trial through its settings, coloured by score."""
    complete = trials[trials["state"] == "complete"].sort_values("mse", ascending=False)
    fields = parameters(complete)
    norm, colours = LogNorm(complete["mse"].min(), complete["mse"].max()), mpl.colormaps["viridis"]
    places = {name: _places(complete[name]) for name in fields}
    with style.new_figure() as (figure, axes):
        for i in range(len(complete)):
            row = complete.iloc[i]
            drawn = [(x, places[name][0][i]) for x, name in enumerate(fields) if row[name] == row[name]]
            axes.plot(*zip(*drawn, strict=True), color=colours(norm(row["mse"])), linewidth=1.2, alpha=0.8)
        for x, name in enumerate(fields):
            for label, place in places[name][1]:
                axes.annotate(
                    label, (x, place), xytext=(3, 0), textcoords="offset points", fontsize=6.5, va="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
                )  # fmt: skip
        axes.set_xticks(range(len(fields)), [name.replace("_", "\n") for name in fields], fontsize=7)
        axes.set_yticks([])
        axes.grid(visible=True, axis="x")
        axes.set_xlim(-0.2, len(fields) - 0.5)
        bar = figure.colorbar(mpl.cm.ScalarMappable(norm, colours), ax=axes, label=OBJECTIVES[0])
        style.plain_log_ticks(bar.ax)
    return Picture(
        f"parallel_coordinates_{study}",
        f"{study}: settings of the completed trials",
        "A line per completed trial, the darker the lower its score; each axis from its lowest to its highest value, logarithmic "
        "where values span more than a decade. A line leaves out what its trial did not have.",
        figure,
        complete,
    )


def _places(values: pd.Series) -> tuple[list[float], list[tuple[str, float]]]:
    """Heights in [0, 1] of a field's values, and labels with theirs."""
    if not pd.api.types.is_numeric_dtype(values):
        names = sorted(values.dropna().unique())
        height = {name: (i + 0.5) / len(names) for i, name in enumerate(names)}
        return [height.get(value, math.nan) for value in values], list(height.items())
    numbers = values.astype(float)
    log = numbers.min() > 0 and numbers.max() / numbers.min() > 10
    scaled = [math.log(v) if log and v == v else v for v in numbers]
    known = [v for v in scaled if v == v]
    low, extent = min(known), max(known) - min(known) or 1.0
    ends = {(f"{numbers.min():.3g}", 0.0), (f"{numbers.max():.3g}", (max(known) - low) / extent)}
    return [(v - low) / extent for v in scaled], sorted(ends)


def slices(study: str, trials: pd.DataFrame) -> Picture:
    """The score against each varied field."""
    fields = parameters(trials)
    n_rows = math.ceil(len(fields) / 4)
    n_columns = math.ceil(len(fields) / n_rows)
    ended = trials[trials["mse"].notna()]
    with style.new_grid(n_rows, n_columns, width=2.0) as (figure, grid):
        panels: list[Axes] = [axes for row in grid for axes in row]
        for axes, name in zip(panels, fields, strict=False):
            axes.set_yscale("log")
            for state, marker, size in (("stopped early", "x", 2.5), ("complete", "o", 3)):
                rows = ended[(ended["state"] == state) & ended[name].notna()]
                axes.plot(
                    rows[name].astype(float if pd.api.types.is_numeric_dtype(ended[name]) else str), rows["mse"], marker,
                    color=style.colour(trials["model"].iloc[0]), markersize=size, alpha=0.9 if state == "complete" else 0.4,
                )  # fmt: skip
            known = ended[name].dropna()
            if pd.api.types.is_numeric_dtype(known) and known.min() > 0 and known.max() / known.min() > 10:
                axes.set_xscale("log")
            elif pd.api.types.is_numeric_dtype(known) and known.nunique() <= MOST_TICKS:
                axes.set_xticks(sorted(known.unique()))
            axes.set_xlabel(name.replace("_", " "), fontsize=7)
            axes.tick_params(labelsize=6, which="both")
            style.plain_log_ticks(axes)
        for axes in panels[len(fields) :]:
            axes.set_visible(False)
        figure.supylabel(OBJECTIVES[0], fontsize=8)
    return Picture(
        f"slices_{study}",
        f"{study}: score against each setting",
        "One dot per completed trial, one cross per trial stopped early (at its last epoch). The other settings vary as well.",
        figure,
        trials,
    )


def pareto_front(studies: dict[str, optuna.Study], trials: pd.DataFrame) -> Picture:
    """The two objectives of every completed trial, and those that none beats in both."""
    complete = trials[trials["state"] == "complete"]
    undominated = {(name, trial.number) for name, study in studies.items() for trial in study.best_trials}
    on_front = [of in undominated for of in zip(complete["study"], complete["trial"], strict=True)]
    data = complete[["study", "model", "trial", "mse", "kl"]].assign(on_front=on_front)
    with style.new_figure() as (figure, axes):
        axes.set_yscale("log")
        keys = []
        for study, look, rows in _looks(data):
            front = rows[rows["on_front"]].sort_values("kl")
            axes.plot(rows["kl"], rows["mse"], ".", color=look["color"], alpha=0.4)
            axes.step(
                front["kl"], front["mse"], where="post", marker="o", color=look["color"], linestyle=look["linestyle"]
            )
            keys.append(Line2D([], [], color=look["color"], linestyle=look["linestyle"], marker="o", label=study))
        style.plain_log_ticks(axes)
        axes.set_xlabel(OBJECTIVES[1])
        axes.set_ylabel(OBJECTIVES[0])
        figure.legend(handles=keys, loc="outside right upper")
    return Picture(
        "pareto_front",
        "Pareto front",
        "Reconstruction error against the posterior's divergence from the prior: every completed trial, and joined those that no "
        "other trial of the study beats in both.",
        figure,
        data,
    )


def tuning(stored: StoredSweep, searched: Sweep | None = None) -> Iterator[Exhibit]:
    """Tuned against usual settings, of a sweep that trained the plan a search wrote: per model, and between models.

    ``searched``, the search, says how the settings were chosen, which the sweep does not know. Raises AnalysisError where no run
    of a tuned setting has finished.
    """
    score = stored.sweep.score("mse")
    runs = stored.runs.assign(line=usual_lines(stored.runs), tuned=stored.runs["setting"].map(is_tuned))
    if not runs["tuned"].any():
        raise AnalysisError(
            f"No run of sweep {stored.sweep.name} has a tuned setting; `{shlex.join(commands.driver('search'))}` finds them and "
            "writes the plan for such a sweep."
        )
    rows, shown = [], []
    lines = runs.loc[runs["tuned"], ["line", "latent_dim"]].drop_duplicates().itertuples(index=False)
    for line, d in lines:
        of_line = runs[(runs["line"] == line) & (runs["latent_dim"] == d)].set_index("seed")
        tuned, usual = of_line[of_line["tuned"]], of_line[~of_line["tuned"]]
        gain = paired(tuned[score], usual[score])
        row = {"model": line, "latent_dim": d, "usual": usual[score].mean(), "usual_sd": usual[score].std(),
               "tuned": tuned[score].mean(), "tuned_sd": tuned[score].std(),
               "n_seeds": len(tuned.index.intersection(usual.index))}  # fmt: skip
        rows.append(row | dict(zip(("difference", "low", "high"), gain, strict=True)))
        shown.append(
            {
                "model": line, "d": str(d), "paper's setting": cell(row["usual"], row["usual_sd"], len(usual), 5),
                "tuned": cell(row["tuned"], row["tuned_sd"], len(tuned), 5), "tuned − paper's": _interval(gain),
                "what was changed": _changes(usual, tuned),
            }
        )  # fmt: skip
    held_out = stored.sweep.held_out
    n_seeds = sorted({row["n_seeds"] for row in rows})
    pairs = f"{n_seeds[0]} to {n_seeds[-1]}" if len(n_seeds) > 1 else f"{n_seeds[0]}"
    yield Table(
        "tuned_settings",
        "Paper setting against tuned setting",
        f"{held_out.capitalize()} MSE per pixel, mean ± one standard deviation over seeds; differences are paired over the seeds "
        f"that both settings have ({pairs}), in brackets the 95% interval of Student's t, which needs three. "
        + _how_chosen(runs.loc[runs["tuned"], "seed"], searched),
        pd.DataFrame(rows),
        pd.DataFrame(shown),
    )
    first = runs["line"].iloc[0]  # in the order of the families
    if between := list(_between_models(runs, first, score)):
        yield Table(
            "advantage_after_tuning",
            f"{first} against the others, before and after tuning",
            f"{first}'s {held_out} MSE per pixel minus the other model's, paired over seeds, in brackets the 95% interval of "
            f"Student's t. Negative: {first} is better. The advantage survives tuning where the right column's interval is "
            "below zero.",
            pd.DataFrame([data for data, _ in between]),
            pd.DataFrame([cells for _, cells in between]),
        )


def _how_chosen(seeds: pd.Series[int], searched: Sweep | None) -> str:
    """Who chose the settings, by how many trials of which seeds, and which of these seeds the tuned runs have again."""
    if searched is None:
        return "The settings were chosen before; `--search NAME` names the search, and says by which trials and seeds."
    plan = searched.plan["search"]
    chosen = (
        f"The settings were chosen by the search {searched.name}, {plan['n_trials']} trials for each model, of seeds "
        f"{format_numbers(plan['seeds'])}, on validation images."
    )
    if again := set(seeds) & set(plan["seeds"]):
        return f"{chosen} Seeds {format_numbers(again)} are among these: they helped to choose what they are now shown for."
    return f"{chosen} The runs shown have other seeds."


def _between_models(runs: pd.DataFrame, first: str, score: str) -> Iterator[tuple[dict[str, object], dict[str, str]]]:
    for d in sorted(runs["latent_dim"].unique()):
        cells = runs[runs["latent_dim"] == d]
        for line in cells["line"].unique():
            if line == first or not (cells["line"] == first).any():
                continue
            data, shown = {"other": line, "latent_dim": d}, {"other": line, "d": str(d)}
            for tuned, column in ((False, "paper's settings"), (True, "tuned")):
                ours, theirs = (
                    cells[(cells["line"] == name) & (cells["tuned"] == tuned)].set_index("seed")[score]
                    for name in (first, line)
                )
                difference = paired(ours, theirs)
                prefix = "tuned" if tuned else "usual"
                data |= dict(zip((f"{prefix}_difference", f"{prefix}_low", f"{prefix}_high"), difference, strict=True))
                shown |= {column: _interval(difference)}
            yield data, shown


def is_tuned(setting: str) -> bool:
    """Whether a setting's name is one of a search's best: ``tuned``, ``gaussian-learned-tuned``."""
    return setting == TUNED or setting.endswith(f"-{TUNED}")


def usual_lines(runs: pd.DataFrame) -> pd.Series[str]:
    """Each run's variant, and of a tuned one that of the same model at its usual setting, whether or not such runs are there.

    A run with the setting gaussian-learned-tuned is of the line whose configs name a tuned setting so.
    """
    rows: list[RunRow] = [run for _, run in runs.iterrows()]
    usual = {(run["model"], run["config"].named(TUNED)): run["variant"] for run in rows if not is_tuned(run["setting"])}

    def line(run: RunRow) -> str:
        if not is_tuned(run["setting"]):
            return str(run["variant"])
        without = f"{run['config'].label} {run['setting'].removesuffix(TUNED).rstrip('-')}".rstrip()
        return str(usual.get((run["model"], run["setting"]), without))

    return pd.Series([line(run) for run in rows], index=runs.index)


def paired(a: pd.Series[float], b: pd.Series[float]) -> tuple[float, float, float]:
    """Mean of a - b over the seeds both have, and its 95% interval by Student's t; NaN ends below three seeds."""
    differences = (a - b).dropna()
    n = len(differences)
    if n < 3:
        return (float(differences.mean()) if n else math.nan), math.nan, math.nan
    mean, half = differences.mean(), student(n) * differences.std() / math.sqrt(n)
    return float(mean), float(mean - half), float(mean + half)


def _interval(difference: tuple[float, float, float]) -> str:
    mean, low, high = difference
    if math.isnan(mean):
        return ""
    text = f"{mean:+.5f}" if math.isnan(low) else f"{mean:+.5f} [{low:+.5f}, {high:+.5f}]"
    return text.replace("-", "−")


def _changes(usual: pd.DataFrame, tuned: pd.DataFrame) -> str:
    """``learning_rate 0.0001 → 0.0012``: what differs between the two settings."""
    if usual.empty:
        return "no run of the paper's setting"
    left_out = ("model", "latent_dim", "seed", "setting", "validation_size")
    a, b = usual.iloc[0], tuned.iloc[0]
    names = [
        name for name in config_columns(usual)
        if name not in left_out and a[name] != b[name] and not (pd.isna(a[name]) and pd.isna(b[name]))
    ]  # fmt: skip
    return ", ".join(f"{name} {_text(a[name])} → {_text(b[name])}" for name in names) or "nothing"


def _looks(frame: pd.DataFrame) -> Iterator[tuple[str, style.LineLook, pd.DataFrame]]:
    """Each study with its look and its rows."""
    yield from style.by_variant(frame.assign(variant=frame["study"]))


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
