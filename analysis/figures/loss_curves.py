"""The loss beside the MSE against latent dimension, and by epoch, from a sweep's records."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import frame, style
from analysis.exhibits import Absent, Exhibit, Picture
from analysis.figures.mse_curves import choose_epoch_dims
from analysis.parts import Part
from analysis.stored import StoredSweep, config_of
from fishernet.families import trial_config

APART = 0.12  # of its axis by which each line of loss and MSE is moved from the other
PANELS_PER_ROW = 3
ROW_INCHES = 2.0


def parts(stored: StoredSweep, models: Sequence[str] = (), usual_dims: Sequence[int] = ()) -> Iterator[Part | Exhibit]:
    """Loss and MSE for each variant of the models, by default of the first, and the loss by epoch of all variants.

    ``usual_dims`` are shown by epoch where they are there.
    """
    held_out, loss = stored.sweep.held_out, stored.sweep.score("loss")
    runs = frame.usable(stored.runs, loss)
    models = models or [str(stored.runs["model"].iloc[0])]
    for nth, model in enumerate(models):
        of_model = runs[runs["model"] == model]
        for variant in of_model["variant"].unique():
            make = partial(loss_and_mse, of_model, variant, held_out, first=not nth)
            yield Part(*_loss_and_mse(of_model, variant, first=not nth), make)
        if of_model.empty:
            dims = sorted({config.latent_dim for config in stored.sweep.configs})
            why = f"No run of {model} with a {loss} has finished; {stored.command_for([model], dims)}"
            yield Absent("loss_and_mse", "Loss and MSE against the latent dimension", why)
    yield Part("loss_by_epoch", "Loss by epoch", partial(loss_by_epoch, stored, usual_dims))


def _loss_and_mse(runs: pd.DataFrame, variant: str, *, first: bool) -> tuple[str, str]:
    """Stem and title; the file of the first model's usual form needs no more name."""
    config = runs.loc[runs["variant"] == variant, "config"].iloc[0]
    named = variant.removeprefix(config.label) if first else variant
    stem = "_".join(["loss_and_mse", *re.findall(r"\w+", named)])
    return stem, f"Loss and MSE of {variant} against the latent dimension"


def loss_and_mse(runs: pd.DataFrame, variant: str, held_out: str = "test", *, first: bool = True) -> Picture:
    """One variant among a model's ``runs``; ``data`` has a row per metric and latent_dim. ``first``: of the models shown."""
    own = runs[runs["variant"] == variant]
    metrics = [f"{held_out}/{name}" for name in ("loss", "mse")]
    data = pd.concat([frame.summary(own, metric).assign(metric=metric) for metric in metrics], ignore_index=True)
    spread = "; bands ± 1 SD" if own["seed"].nunique() > 1 else ""
    caption = (
        f"Loss (left axis) and MSE per pixel of the reconstruction from the posterior mean (right axis) of {variant} on "
        f"the {held_out} images after {_range(own['n_epochs'])} epochs. {_say_seeds(own)}{spread}. "
        f"{_say_losses(own)} The axes are shifted against each other, for the lines would overlap. "
        f"{_say_correlation(loss_mse_correlation(own, held_out))}"
    )
    return Picture(
        *_loss_and_mse(runs, variant, first=first),
        caption,
        plot_loss_and_mse(runs, variant, held_out),
        data,
    )


def plot_loss_and_mse(runs: pd.DataFrame, variant: str, held_out: str = "test") -> Figure:
    """The variant's loss per image (left) and MSE per pixel (right) against latent_dim, bands ± one SD over seeds.

    ``runs`` may hold other variants of the model: the MSE has the colour that the variant has in figures of them all.
    """
    looks = {name: (look, line) for name, look, line in style.by_variant(frame.summary(runs, f"{held_out}/mse"))}
    mse_look, mse = looks[variant]
    loss = frame.summary(runs[runs["variant"] == variant], f"{held_out}/loss")
    # No model's colour; and a dash of its own, for the two lines often lie on one another.
    loss_look: style.LineLook = {
        "color": style.KEY_COLOUR,
        "linestyle": style.DASHES[3],
        "marker": "D",
        "markerfacecolor": "white",
    }
    with style.new_figure() as (figure, left):
        right = left.twinx()
        right.grid(False)
        right.spines["right"].set_visible(True)
        keys = [
            style.line_with_band(left, loss, "latent_dim", loss_look | {"label": "loss (left axis)"}),
            style.line_with_band(right, mse, "latent_dim", mse_look | {"label": "MSE (right axis)"}),
        ]
        left.set_xlabel("latent dimension $d$")
        left.set_ylabel(f"{held_out} {_loss_label(runs[runs['variant'] == variant])}", color=loss_look["color"])
        right.set_ylabel(f"{held_out} MSE per pixel", color=mse_look["color"])
        right.tick_params(axis="y", colors=mse_look["color"])
        # The two often fall in proportion, and would cover one another: the loss moves up, the MSE down.
        low, high = left.get_ylim()
        left.set_ylim(low - APART * (high - low), high)
        low, high = right.get_ylim()
        right.set_ylim(low, high + APART * (high - low))
        style.whole_ticks(left, sorted(loss["latent_dim"].tolist()))
        figure.legend(handles=[*keys, style.spread_key(mse)], loc="outside upper center", ncols=3)
    return figure


def loss_mse_correlation(runs: pd.DataFrame, held_out: str = "test") -> pd.DataFrame:
    """Pearson's correlation of loss and MSE over latent dimensions: variant, seed, n_dims, pearson.

    One row per variant and seed; 1 is a loss that rises with the MSE in proportion, up to a constant. NaN where fewer than three
    dimensions have finished: two always lie on a line.
    """
    loss, mse = (f"{held_out}/{name}" for name in ("loss", "mse"))
    usable = frame.usable(frame.usable(runs, mse), loss)
    rows = [
        (variant, seed, len(group), group[loss].corr(group[mse]) if len(group) > 2 else float("nan"))
        for (variant, seed), group in usable.groupby(["variant", "seed"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["variant", "seed", "n_dims", "pearson"])


def loss_by_epoch(stored: StoredSweep, usual_dims: Sequence[int] = ()) -> Picture:
    """Training and held-out loss of every variant by epoch, at some latent dimensions."""
    sweep, runs = stored.sweep, stored.runs
    dims = choose_epoch_dims(runs["latent_dim"].unique().tolist(), None, usual_dims, stored.needed_dims.values())
    drawn = runs[runs["latent_dim"].isin(dims)]
    epochs = frame.load_epochs(sweep, drawn, ["train/loss", sweep.score("loss")])
    means = frame.spread(epochs, [*frame.CURVE, "metric", "epoch"])
    units = {str(run["variant"]): config_of(run).loss_unit for _, run in drawn.iterrows()}
    left_out = [variant for variant in stored.variants if variant not in set(drawn["variant"])]
    caption = (
        f"Loss by epoch at d = {', '.join(map(str, dims))}: on the {sweep.held_out} images at the end of an epoch (thin, dark), "
        f"and on the training images as the mean over the epoch's steps, while the weights change (broad, pale). "
        f"{_say_seeds(drawn)}. Each variant has its own axis: losses of different likelihoods and objectives cannot be "
        "compared, as they are of other densities and leave out other terms. What leaves a panel at the top is the training "
        "loss of the first epoch."
    )
    if left_out:
        caption += f" Without a run at these d, and so left out: {', '.join(left_out)}."
    if others := [variant for variant, unit in units.items() if unit != "nats"]:
        caption += f" In {units[others[0]]}, not in nats: {', '.join(others)}."
    figure = plot_loss_by_epoch(means, sweep.held_out, _loss_label(drawn))
    return Picture("loss_by_epoch", "Loss by epoch", caption, figure, means)


def plot_loss_by_epoch(means: pd.DataFrame, held_out: str = "test", label: str = "loss per image") -> Figure:
    """A panel per variant: mean loss by epoch, line style the latent_dim, broad the training and thin the held-out loss.

    ``means`` as ``frame.spread`` gives them for each variant, latent_dim, metric and epoch.
    """
    dims = sorted(means["latent_dim"].unique().tolist())
    looks: dict[object, style.Stroke] = {
        d: {"linewidth": 1.2, "linestyle": dash} for d, dash in zip(dims, style.DASHES, strict=False)
    }
    training: style.Stroke = {"linewidth": 4, "alpha": 0.3, "solid_capstyle": "butt"}
    variants = style.by_variant(means)
    n_columns = min(len(variants), PANELS_PER_ROW)
    n_rows = -(-len(variants) // n_columns)
    with matplotlib.rc_context(style.RC):
        figure = Figure(figsize=(style.INCHES[0], ROW_INCHES * n_rows + 0.6), layout="constrained")
        panels = figure.subplots(n_rows, n_columns, squeeze=False)
        for axes in panels.flat[len(variants) :]:
            axes.set_axis_off()
        for axes, (variant, look, lines) in zip(panels.flat, variants, strict=False):
            for (d, metric), line in lines.groupby(["latent_dim", "metric"]):
                of_line = (training if metric == "train/loss" else looks[d]) | {"marker": "o" if len(line) == 1 else ""}
                axes.plot(line["epoch"], line["mean"], color=look["color"], label=f"{metric}, d = {d}", **of_line)
            # The first epoch's training loss, mostly that of a model yet to be trained, would flatten all that follows.
            later = lines["mean"][(lines["metric"] != "train/loss") | (lines["epoch"] > 1)]
            if len(later) > 1:
                margin = 0.05 * (later.max() - later.min())
                axes.set_ylim(later.min() - margin, later.max() + margin)
            axes.set_title(style.label(variant, lines["model"].iloc[0]), fontsize=9)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        keys = [Line2D([], [], color=style.KEY_COLOUR, label=f"{held_out}, $d$ = {d}", **looks[d]) for d in dims]
        keys.append(Line2D([], [], color=style.KEY_COLOUR, label="training", **training))
        figure.legend(handles=keys, loc="outside upper center", ncols=len(keys))
        figure.supxlabel("epoch", fontsize=10)
        figure.supylabel(label, fontsize=10)
    return figure


def _loss_label(runs: pd.DataFrame) -> str:
    """``loss in nats per image``; without a unit where the lines have several, or none that is short."""
    in_nats = {config_of(run).loss_unit for _, run in runs.iterrows()} == {"nats"}
    return "loss in nats per image" if in_nats else "loss per image"


def _say_seeds(runs: pd.DataFrame) -> str:
    seeds = sorted(runs["seed"].unique().tolist())
    fewest = int(runs.groupby(frame.CURVE).size().min())
    if len(seeds) == 1:
        return f"One run each, of seed {seeds[0]}"
    few = "" if fewest == len(seeds) else f" (fewer at some d, at least {fewest})"
    return f"Mean over the seeds {', '.join(map(str, seeds))}{few}"


def _say_losses(runs: pd.DataFrame) -> str:
    """What the configs of these runs say of their loss; with its latent dimensions where a named setting has several losses."""
    fields = frame.config_columns(runs)
    dims: dict[str, list[str]] = {}
    for _, run in runs.drop_duplicates("latent_dim").iterrows():
        said = trial_config({name: run[name] for name in fields if pd.notna(run[name])}).loss_in_words
        dims.setdefault(said, []).append(str(run["latent_dim"]))
    if len(dims) == 1:
        return next(iter(dims))
    return " ".join(f"At d = {', '.join(of_loss)}: {said}" for said, of_loss in dims.items())


def _say_correlation(correlations: pd.DataFrame) -> str:
    known = correlations.dropna()
    if known.empty:
        return "Their correlation over latent dimensions takes at least three of them."
    return (
        f"Over {_range(known['n_dims'])} latent dimensions the two correlate with r = {_range(known['pearson'], '.3f')} "
        "(Pearson, seed by seed)."
    )


def _range(values: pd.Series[float], digits: str = "") -> str:
    """``12``, or ``12 to 50``."""
    return " to ".join(dict.fromkeys(f"{value:{digits}}" for value in (values.min(), values.max())))
