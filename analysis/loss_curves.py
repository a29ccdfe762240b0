"""The loss beside the MSE against latent dimension, and by epoch (FisherNet paper, Figure 1), from a sweep's records.

python analysis/loss_curves.py --name SWEEP
"""

import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # started as a script: its own folder leads sys.path, and the packages are beside that folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis import command
from analysis.parts import Part, all_of
from fishernet.surroundings import entry_point

# pandas, torch, MLflow and matplotlib take seconds to import: functions do it, so that --help answers at once.
if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from analysis.exhibits import Exhibit, Picture
    from analysis.stored import StoredSweep

MODEL = "FisherNet"  # Figure 1 shows no other
PAPER_DIMS = tuple(range(2, 21))  # of the paper's Figures 1 and 2
APART = 0.12  # of its axis by which each line of Figure 1 is moved from the other
PANELS_PER_ROW = 3
ROW_INCHES = 2.0


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 after a sentence on stderr when there is nothing to draw."""
    parser = command.parser(
        "fishernet-loss-curves",
        "Draw FisherNet's loss and MSE against latent dimension, and every variant's loss by epoch, from a\n"
        "sweep's records in MLflow. Writes loss_and_mse and loss_by_epoch, each as PNG, PDF and CSV.",
        "python analysis/loss_curves.py --name figure-2",
    )
    return command.main(parser, lambda stored, _: parts(stored), argv)


def exhibits(stored: "StoredSweep") -> "Iterator[Exhibit]":
    """What ``parts`` makes, and what they raise."""
    return all_of(parts(stored))


def parts(stored: "StoredSweep") -> "Iterator[Part | Exhibit]":
    """Figure 1 for each variant of FisherNet, and the loss by epoch of all variants."""
    from analysis import frame
    from analysis.exhibits import Absent

    held_out, loss = stored.sweep.held_out, stored.sweep.score("loss")
    runs = frame.usable(stored.runs, loss)
    of_model = runs[runs["model"] == MODEL]
    for variant in of_model["variant"].unique():
        yield Part(*_loss_and_mse(variant), partial(loss_and_mse, of_model, variant, held_out))
    if of_model.empty:
        why = f"No run of {MODEL} with a {loss} has finished; {stored.command_for([MODEL], PAPER_DIMS)}"
        yield Absent("loss_and_mse", "Figure 1. Loss and MSE against the latent dimension", why)
    yield Part("loss_by_epoch", "Loss by epoch", partial(loss_by_epoch, stored))


def _loss_and_mse(variant: str) -> tuple[str, str]:
    """Stem and title; plain FisherNet's file needs no more name."""
    stem = "_".join(["loss_and_mse", *re.findall(r"\w+", variant)[1:]])
    return stem, f"Figure 1. Loss and MSE of {variant} against the latent dimension"


def loss_and_mse(runs: "pd.DataFrame", variant: str, held_out: str = "test") -> "Picture":
    """Figure 1 of one variant among the FisherNet ``runs``; ``data`` has a row per metric and latent_dim."""
    import pandas as pd

    from analysis import frame
    from analysis.exhibits import Picture

    own = runs[runs["variant"] == variant]
    metrics = [f"{held_out}/{name}" for name in ("loss", "mse")]
    data = pd.concat([frame.summary(own, metric).assign(metric=metric) for metric in metrics], ignore_index=True)
    spread = "; bands ± 1 SD" if own["seed"].nunique() > 1 else ""
    caption = (
        f"Loss (left axis) and MSE per pixel of the reconstruction from the posterior mean (right axis) of {variant} on "
        f"the {held_out} images after {_range(own['n_epochs'])} epochs. {_say_seeds(own)}{spread}. "
        f"{_say_losses(own)} The axes are shifted against each other, for the lines would overlap. The axes of the "
        "paper's figure, for Fashion-MNIST, are ticked from −1300 to −950 nats and from 0.009 to 0.023. "
        f"{_say_correlation(loss_mse_correlation(own, held_out))}"
    )
    return Picture(
        *_loss_and_mse(variant),
        caption,
        plot_loss_and_mse(runs, variant, held_out),
        data,
    )


def plot_loss_and_mse(runs: "pd.DataFrame", variant: str, held_out: str = "test") -> "Figure":
    """The variant's loss in nats per image (left) and MSE per pixel (right) against latent_dim, bands ± one SD over seeds.

    ``runs`` may hold other variants of the model: the MSE has the colour that the variant has in figures of them all.
    """
    from analysis import frame, style

    looks = {name: (look, line) for name, look, line in style.by_variant(frame.summary(runs, f"{held_out}/mse"))}
    mse_look, mse = looks[variant]
    loss = frame.summary(runs[runs["variant"] == variant], f"{held_out}/loss")
    # No model's colour; and a dash of its own, for the two lines often lie on one another.
    loss_look = {"color": style.KEY_COLOUR, "linestyle": style.DASHES[3], "marker": "D", "markerfacecolor": "white"}
    with style.new_figure() as (figure, left):
        right = left.twinx()
        right.grid(False)
        right.spines["right"].set_visible(True)
        keys = [
            style.line_with_band(left, loss, "latent_dim", loss_look | {"label": "loss (left axis)"}),
            style.line_with_band(right, mse, "latent_dim", mse_look | {"label": "MSE (right axis)"}),
        ]
        left.set_xlabel("latent dimension $d$")
        left.set_ylabel(f"{held_out} loss in nats per image", color=loss_look["color"])
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


def loss_mse_correlation(runs: "pd.DataFrame", held_out: str = "test") -> "pd.DataFrame":
    """Pearson's correlation of loss and MSE over latent dimensions: variant, seed, n_dims, pearson.

    One row per variant and seed; 1 is a loss that rises with the MSE in proportion, up to a constant. NaN where fewer than three
    dimensions have finished: two always lie on a line.
    """
    import pandas as pd

    from analysis import frame

    loss, mse = (f"{held_out}/{name}" for name in ("loss", "mse"))
    usable = frame.usable(frame.usable(runs, mse), loss)
    rows = [
        (variant, seed, len(group), group[loss].corr(group[mse]) if len(group) > 2 else float("nan"))
        for (variant, seed), group in usable.groupby(["variant", "seed"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["variant", "seed", "n_dims", "pearson"])


def loss_by_epoch(stored: "StoredSweep") -> "Picture":
    """Training and held-out loss of every variant by epoch, at up to three latent dimensions."""
    from analysis import frame
    from analysis.exhibits import Picture
    from analysis.mse_curves import choose_epoch_dims

    sweep, runs = stored.sweep, stored.runs
    dims = choose_epoch_dims(runs["latent_dim"].unique().tolist(), None)
    drawn = runs[runs["latent_dim"].isin(dims)]
    epochs = frame.load_epochs(sweep, drawn, ["train/loss", sweep.score("loss")])
    means = frame.spread(epochs, [*frame.CURVE, "metric", "epoch"])
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
    return Picture("loss_by_epoch", "Loss by epoch", caption, plot_loss_by_epoch(means, sweep.held_out), means)


def plot_loss_by_epoch(means: "pd.DataFrame", held_out: str = "test") -> "Figure":
    """A panel per variant: mean loss by epoch, line style the latent_dim, broad the training and thin the held-out loss.

    ``means`` as ``frame.spread`` gives them for each variant, latent_dim, metric and epoch.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    from analysis import style

    dims = sorted(means["latent_dim"].unique().tolist())
    looks: dict[Any, Any] = {
        d: {"linewidth": 1.2, "linestyle": dash} for d, dash in zip(dims, style.DASHES, strict=False)
    }
    training: Any = {"linewidth": 4, "alpha": 0.3, "solid_capstyle": "butt"}
    variants = style.by_variant(means)
    n_columns = min(len(variants), PANELS_PER_ROW)
    n_rows = -(-len(variants) // n_columns)
    with matplotlib.rc_context(style.RC):
        figure = Figure(figsize=(style.INCHES[0], ROW_INCHES * n_rows + 0.6), layout="constrained")
        panels = figure.subplots(n_rows, n_columns, squeeze=False).flat
        for axes, (variant, look, lines) in zip(panels, variants, strict=False):
            for (d, metric), line in lines.groupby(["latent_dim", "metric"]):
                of_line = (training if metric == "train/loss" else looks[d]) | {"marker": "o" if len(line) == 1 else ""}
                axes.plot(line["epoch"], line["mean"], color=look["color"], label=f"{metric}, d = {d}", **of_line)
            # The first epoch's training loss, mostly that of a model yet to be trained, would flatten all that follows.
            later = lines["mean"][(lines["metric"] != "train/loss") | (lines["epoch"] > 1)]
            if len(later) > 1:
                margin = 0.05 * (later.max() - later.min())
                axes.set_ylim(later.min() - margin, later.max() + margin)
            axes.set_title(style.label(variant), fontsize=9)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        keys = [Line2D([], [], color=style.KEY_COLOUR, label=f"{held_out}, $d$ = {d}", **looks[d]) for d in dims]
        keys.append(Line2D([], [], color=style.KEY_COLOUR, label="training", **training))
        figure.legend(handles=keys, loc="outside upper center", ncols=len(keys))
        figure.supxlabel("epoch", fontsize=10)
        figure.supylabel("loss in nats per image", fontsize=10)
    return figure


def _say_seeds(runs: "pd.DataFrame") -> str:
    from analysis import frame

    seeds = sorted(runs["seed"].unique().tolist())
    fewest = int(runs.groupby(frame.CURVE).size().min())
    if len(seeds) == 1:
        return f"One run each, of seed {seeds[0]}"
    few = "" if fewest == len(seeds) else f" (fewer at some d, at least {fewest})"
    return f"Mean over the seeds {', '.join(map(str, seeds))}{few}"


def _say_losses(runs: "pd.DataFrame") -> str:
    """``_say_loss`` of these runs; with its latent dimensions where a named setting has several losses."""
    dims: dict[str, list[str]] = {}
    for _, run in runs.drop_duplicates("latent_dim").iterrows():
        dims.setdefault(_say_loss(run), []).append(str(run["latent_dim"]))
    if len(dims) == 1:
        return next(iter(dims))
    return " ".join(f"At d = {', '.join(of_loss)}: {said}" for said, of_loss in dims.items())


def _say_loss(run: "pd.Series[Any]") -> str:
    """What this FisherNet's loss counts and what it leaves out, as ``fishernet.models.FisherNet.forward`` computes it."""
    bernoulli, with_log_det, beta = run["likelihood"] == "bernoulli", run["objective"] == "eq24", run["kl_weight"]
    noise = "ξ = 0" if run["likelihood"] == "gaussian" else "exp(ξ) the learned variance of the noise"
    weight = "" if beta == 1 else "β"
    formula = (
        f"{weight}|z*|²/2 − ln p(x given z*), the likelihood being Bernoulli"
        if bernoulli
        else f"({weight}|z*|² + ξ²/p + kξ + |x − f(z*)|² exp(−ξ))/2 with k pixels, p training images and {noise}"
    )
    # E ln q(z*) = (ln|M| - d - d ln 2 pi)/2, whose last term cancels with the prior's.
    left_out = "−d/2" if bernoulli else "k ln(2π)/2 − d/2 (for 784 pixels 720 nats less d/2)"
    return (
        f"The loss is that of equation {24 if with_log_det else 25}{weight and f' with kl_weight β = {beta:g}'} at one posterior "
        f"sample z* per image, {f'{weight}ln|M|/2 + ' if with_log_det else ''}{formula}. As in the paper it leaves out {left_out}"
        f"{'' if with_log_det else ' and ln|M|/2, which is no constant'}; with that{weight and ' and β = 1'} it would be minus "
        "the evidence lower bound."
    )


def _say_correlation(correlations: "pd.DataFrame") -> str:
    known = correlations.dropna()
    if known.empty:
        return "Their correlation over latent dimensions takes at least three of them."
    return (
        f"Over {_range(known['n_dims'])} latent dimensions the two correlate with r = {_range(known['pearson'], '.3f')} "
        "(Pearson, seed by seed)."
    )


def _range(values: "pd.Series[Any]", digits: str = "") -> str:
    """``12``, or ``12 to 50``."""
    return " to ".join(dict.fromkeys(f"{value:{digits}}" for value in (values.min(), values.max())))


if __name__ == "__main__":
    sys.exit(main())
