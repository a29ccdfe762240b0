"""Test MSE against latent dimension and by epoch, from a sweep's records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import frame, style
from analysis.exhibits import Picture, Table, cells, decimals, seeds
from analysis.figures import MOST_EPOCH_DIMS
from analysis.frame import AnalysisError, Sweep
from analysis.parts import Part
from analysis.stored import StoredSweep
from analysis.which_dimension import LEAST_SEEDS, WIDE, active_units, cautions, knee, learned_too_little
from fishernet.families import family
from fishernet.wording import listed

RING = 12  # points across: of a mark around a line's own markers


def plot_mse_against_latents(
    runs: pd.DataFrame,
    pca: Mapping[int, float],
    held_out: str = "test",
    needed: Mapping[str, int] = MappingProxyType({}),
) -> Figure:
    """MSE per pixel at the last epoch against latent_dim: a line per variant, band ± one standard deviation.

    The reconstruction is decoded from the posterior mean; the spread is over seeds.
    ``pca``, the MSE of a PCA with d components, is a line of reference that may leave the figure at the top;
    where all of it lies far above every model, the legend gives its lowest value instead. ``needed``: the latent_dim of each
    variant that a ring marks.
    """
    means = frame.summary(runs, f"{held_out}/mse")
    dims = sorted(means["latent_dim"].unique().tolist())
    variants = style.by_variant(means)
    with style.new_figure() as (figure, axes):
        keys = []
        for nth, (variant, look, line) in enumerate(variants):
            if len(dims) == 1:  # side by side, as all would lie on one vertical
                line = line.assign(latent_dim=line["latent_dim"] + 0.12 * (nth - (len(variants) - 1) / 2))
            look["label"] = style.label(variant, line["model"].iloc[0])
            keys.append(style.line_with_band(axes, line, "latent_dim", look))
            if variant in needed:
                at = line[line["latent_dim"] == needed[variant]]
                axes.add_line(_ring(at["latent_dim"], at["mean"], look["color"], "_"))
        linear = {d: pca[d] for d in dims if d in pca}
        if linear:
            best = min(linear, key=lambda d: linear[d])
            bottom, top = axes.get_ylim()  # before PCA, whose first components would flatten all other lines
            in_reach = linear[best] - bottom < 1.5 * (top - bottom)
            margin = 0.04 * (top - bottom)
            axes.set_ylim(min(bottom, linear[best] - margin), max(top, linear[best] + margin) if in_reach else top)
            keys += axes.plot(
                list(linear),
                list(linear.values()),
                color=style.PCA_COLOUR,
                linewidth=1.2,
                zorder=1.5,  # below the models' lines
                marker="_" if len(linear) == 1 else "",
                markersize=14,
                label="PCA, $d$ components" if in_reach else f"PCA above: {linear[best]:.3g} at $d$ = {best}",
            )
        if needed:
            keys.append(_ring([], [], style.KEY_COLOUR, "the $d$ that a line needs"))
        axes.set_xlabel("latent dimension $d$")
        axes.set_ylabel(f"{held_out} MSE per pixel")
        style.whole_ticks(axes, dims)
        figure.legend(handles=[*keys, style.spread_key(means)], loc="outside right upper")
    return figure


def _ring(x: Any, y: Any, colour: str, label: str) -> Line2D:
    return Line2D(x, y, color=colour, label=label, marker="o", linestyle="", markersize=RING, markerfacecolor="none")


def plot_mse_by_epoch(epochs: pd.DataFrame, held_out: str = "test") -> Figure:
    """MSE per pixel (logarithmic) by epoch: colour is the variant, line style latent_dim, bands as above."""
    means = frame.spread(epochs[epochs["metric"] == f"{held_out}/mse"], [*frame.CURVE, "epoch"])
    dims = sorted(means["latent_dim"].unique().tolist())
    if len(dims) > MOST_EPOCH_DIMS:
        raise ValueError(f"line styles tell {MOST_EPOCH_DIMS} latent dimensions apart; got {listed(dims)}")
    dash_of = dict(zip(dims, style.DASHES, strict=False))
    only_one_epoch = means["epoch"].nunique() == 1
    marker = "o" if only_one_epoch else ""
    with style.new_figure() as (figure, axes):
        axes.set_yscale("log")
        keys = []
        for variant, look, lines in style.by_variant(means):
            colour, name = look["color"], style.label(variant, lines["model"].iloc[0])
            keys.append(Line2D([], [], color=colour, linewidth=2.5, label=name))
            for d, line in lines.groupby("latent_dim"):
                of_dim: style.LineLook = {
                    "color": colour,
                    "linestyle": dash_of[d],
                    "marker": marker,
                    "linewidth": 1.3,
                    "label": f"{name}, d = {d}",
                }
                style.line_with_band(axes, line, "epoch", of_dim)
        keys.append(style.gap_key())
        for d, dash in dash_of.items():
            keys.append(Line2D([], [], color=style.KEY_COLOUR, linestyle=dash, marker=marker, label=f"$d$ = {d}"))
        style.plain_log_ticks(axes)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"{held_out} MSE per pixel")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        if only_one_epoch:
            axes.set_xlim(means["epoch"].min() - 1, means["epoch"].max() + 1)
        figure.legend(handles=[*keys, style.spread_key(means)], loc="outside right upper")
    return figure


def choose_epoch_dims(
    present: Sequence[int],
    wanted: Sequence[int] | None,
    usual_dims: Sequence[int] = (),
    needed: Iterable[int] = (),
) -> list[int]:
    """The latent dimensions to draw by epoch: those wanted, else those of the usual that are there, else some of all.

    These are the ends, and between them what most lines ``needed``, one or two d, or the middle where none is known.
    Raises AnalysisError when one that was asked for has no finished run.
    """
    present = sorted(present)
    absent = sorted(set(wanted or ()) - set(present))
    if absent:
        raise AnalysisError(
            f"--epoch-dims asks for d = {listed(absent)}, of which no run has finished; "
            f"there are finished runs of d = {listed(present)}."
        )
    if wanted:
        return sorted(wanted)
    usual = [d for d in usual_dims if d in present]
    between = most_needed(needed) or [present[len(present) // 2]]
    return usual or sorted({present[0], *between, present[-1]})


def most_needed(needed: Iterable[int]) -> list[int]:
    """Of the latent dimensions that lines need, the one or two that most of them do."""
    return [d for d, _ in Counter(needed).most_common(MOST_EPOCH_DIMS - 2)]


def parts(
    stored: StoredSweep, epoch_dims: Sequence[int] | None = None, usual_dims: Sequence[int] = ()
) -> Iterator[Part]:
    """The table of means, MSE against d, and by epoch; ``usual_dims`` are what that shows where they are there."""
    yield Part("mse", "Reconstruction error", lambda: mse_table(stored))
    if stored.runs["latent_dim"].nunique() > 1:
        yield Part("which_dimension", "Which latent dimension", lambda: dimension_table(stored))
    present = stored.runs["latent_dim"].unique().tolist()
    dims = choose_epoch_dims(present, epoch_dims, usual_dims, stored.needed_dims.values())
    yield from pictures(stored, dims)


def mse_table(stored: StoredSweep) -> Table:
    """MSE per pixel by variant and latent_dim, with PCA, the best linear autoencoder of the training images, beside them.

    The caption says which runs are not counted.
    """
    sweep = stored.sweep
    data = _curves_data(sweep, stored.runs)
    dims = sorted(data["latent_dim"].unique().tolist())
    digits = decimals(data["mean"], least=5)
    rows: list[dict[str, str]] = []
    for variant, line in data.groupby("variant", sort=False):
        by_dim = cells(line, "latent_dim", digits)
        rows.append({"model": str(variant)} | {f"d = {d}": by_dim.get(d, "") for d in dims})
    if has_pca := any(d in sweep.pca for d in dims):
        rows.append(
            {"model": "PCA"} | {f"d = {d}": f"{sweep.pca[d]:.{digits}f}" if d in sweep.pca else "" for d in dims}
        )
    caption = (
        f"{sweep.held_out.capitalize()} MSE per pixel of the reconstruction from the posterior mean at the last epoch, "
        f"lower is better; mean ± standard deviation over {seeds(data)}. "
        + "PCA with d components is fitted to the training images, of which no linear autoencoder leaves less; of other images "
        "one may leave a little less. "
        * has_pca
        + " ".join(
            f"{model} has no posterior: what is left of the gap to it is the price of one."
            for model in _models_with_a_gap(stored)
        )
    )
    caption = " ".join([caption.strip(), *_remarks(stored)])
    return Table("mse", "Reconstruction error", caption, data, pd.DataFrame(rows))


def _models_with_a_gap(stored: StoredSweep) -> list[str]:
    """The models without a posterior that have learned at a d at which one with a posterior has too."""
    runs = stored.runs
    cells = zip(runs["variant"], runs["latent_dim"], strict=True)
    learned = runs.loc[[cell not in stored.learned_nothing for cell in cells]]
    posterior = learned["model"].map(lambda model: family(model).posterior).astype(bool)
    at = learned[~posterior & learned["latent_dim"].isin(learned.loc[posterior, "latent_dim"])]
    return at["model"].unique().tolist()


def dimension_table(stored: StoredSweep) -> Table:
    """The smallest sufficient latent_dim of each line, and how many latents are in use there."""
    sweep, runs = stored.sweep, stored.runs
    rows, shown = [], []
    for answer in stored.dimensions:
        active = (
            None if answer.dim is None else active_units(stored.latents(stored.pick(answer.variant, answer.dim))[0])
        )
        falling = listed(f"{d} ({fall.share:.1%})" for d, fall in sorted(answer.falling.items()))
        rows.append({
            **answer._asdict(), "falling": falling, "active_units": active, "held_out": sweep.held_out,
        })  # fmt: skip
        shown.append({
            "model": answer.variant,
            "d": str(answer.dim or "not decided"),
            "bends at": str(answer.bend or ""),
            "least error at": str(answer.best or ""),
            "seeds": str(answer.n_seeds),
            "still falling": f"at {len(answer.falling)} d" if answer.falling else "",
            "spread": "wide" if answer.standard_error > WIDE else "",
            "latents in use": "" if active is None else f"{active} of {answer.dim}",
            "remark": answer.reason,
        })  # fmt: skip
    bend = knee({d: mse for d, mse in sweep.pca.items() if d in set(runs["latent_dim"])})
    about_bends = (
        " A curve bends where it is furthest below the line between its ends (Satopaa et al. 2011): from there on more "
        "dimensions buy less than before, on the average."
    ) + (f" PCA's, of these d, bends at {bend}." if bend else "")
    if not any(row["bends at"] for row in shown):
        about_bends = ""
    for column in ("bends at", "least error at", "still falling", "spread", "latents in use"):
        if not any(row[column] for row in shown):
            for row in shown:
                del row[column]
    caption = (
        "".join(f"{sentence} " for sentence in cautions(stored.dimensions))
        + "Of each line, one model with its options, the smallest d whose mean error is within one standard error of its least, "
        f"paired over seeds (one-standard-error rule); it takes {LEAST_SEEDS} seeds.{about_bends} A latent is in use where its "
        "posterior mean varies over images by more than 0.01 (of the seed that pictures show)."
    )
    return Table("which_dimension", "Which latent dimension", caption, pd.DataFrame(rows), pd.DataFrame(shown))


def pictures(stored: StoredSweep, epoch_dims: Sequence[int]) -> list[Part]:
    """MSE against d and by epoch of finished runs, with their data."""
    sweep, runs = stored.sweep, stored.runs
    stems = ("mse_curves", "MSE against the latent dimension"), ("mse_by_epoch", "MSE by epoch")

    def against_latents() -> Picture:
        return Picture(
            *stems[0],
            f"{sweep.held_out.capitalize()} MSE per pixel at the last epoch; the bands are one standard deviation over seeds."
            + " A ring marks the d that a line needs (one-standard-error rule)." * bool(stored.needed_dims),
            plot_mse_against_latents(runs, sweep.pca, sweep.held_out, stored.needed_dims),
            _curves_data(sweep, runs),
        )

    def by_epoch() -> Picture:
        epochs = stored.mse_by_epoch
        return Picture(
            *stems[1],
            f"{sweep.held_out.capitalize()} MSE per pixel after each epoch, d = {listed(epoch_dims)}; the file of numbers has "
            "every d.",
            plot_mse_by_epoch(epochs[epochs["latent_dim"].isin(epoch_dims)], sweep.held_out),
            frame.spread(epochs, [*frame.CURVE, "epoch"]).assign(held_out=sweep.held_out),
        )

    return [Part(*stem, make) for stem, make in zip(stems, (against_latents, by_epoch), strict=True)]


def _curves_data(sweep: Sweep, runs: pd.DataFrame) -> pd.DataFrame:
    """What mse_curves.csv holds: one row per variant and latent_dim."""
    names = {"mean": "sample_mean", "sd": "sample_sd"}
    of_sample = frame.summary(runs, sweep.score("mse_sample")).rename(columns=names)[[*frame.CURVE, *names.values()]]
    data = frame.summary(runs, sweep.score("mse")).merge(of_sample, on=frame.CURVE, how="left")
    data["pca_test_mse"] = data["latent_dim"].map(sweep.pca)
    # Equal within a variant: configs that differ in more than latent_dim and seed are told apart in its name.
    data = data.merge(runs[[*frame.CURVE, "epochs"]].drop_duplicates(), on=frame.CURVE, how="left")
    return data.assign(held_out=sweep.held_out)


def _remarks(stored: StoredSweep) -> list[str]:
    """Sentences on what a reader of the means would otherwise take for granted."""
    sweep, runs, finished = stored.sweep, stored.all_runs, stored.runs
    n_odd = int((runs["status"] == "FINISHED").sum()) - len(finished)
    n_short = int((finished["n_epochs"] < finished["epochs"]).sum())
    n_repeated = int((runs["n_runs"] > 1).sum())
    remarks = []
    if n_odd:
        remarks.append(f"Left out, as finished without a finite {sweep.score('mse')}: {n_odd}.")
    if n_short:
        remarks.append(f"Finished before the last epoch planned, and shown as they are: {n_short}.")
    if n_repeated:
        remarks.append(f"Run more than once, of which the most advanced is shown: {n_repeated}.")
    too_little = learned_too_little(finished, sweep.score("mse"), sweep.pca, stored.learned_nothing)
    return [*too_little, *remarks, *_say_inexact(finished)]


def _say_inexact(runs: pd.DataFrame) -> list[str]:
    """How many runs' last epochs were not what their configs promise, by what their configs say; nothing where none were."""
    rows = ((run["config"], {str(name): value for name, value in run.items()}) for _, run in runs.iterrows())
    said = [words for config, own in rows if (words := config.remark(own))]
    if len(said) < 2:
        return [f"Draws of one run were not exact in its last epoch: {words}." for words in said]
    return [f"Draws of {len(said)} runs were not exact in the last epoch, as in one where {said[0]}."]
