"""Posteriors in the Fisher-Shannon plane, and the likelihood of images.

With H the mean entropy of q(z given x) over images, nats, and tr J the mean trace of its Fisher information:

    N = exp(2 H/d) / (2 pi e)    entropy power, in squared units of z
    J = tr J / d                 information of a latent, in inverse squared units of z

N J >= 1 for every distribution over images (Stam 1959, and Jensen's inequality for the means), with equality where all posteriors
are Gaussians of one width. Where widths differ between latents N J is above 1, so that no curve N J = K ties models.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis import frame, style
from analysis.exhibits import Absent, Exhibit, Picture, Table, cells, seeds
from analysis.frame import CURVE, AnalysisError, spread
from analysis.parts import Part
from analysis.scores import NLL_BY_IMAGE, NLL_SETS
from analysis.stored import StoredSweep, config_of
from analysis.verdicts import ABOVE, Comparison
from analysis.which_dimension import active_units
from fishernet.families import family, trial_config
from fishernet.spelling import did_you_mean
from fishernet.wording import listed

TERMS = ("posterior_entropy", "fisher_information")
PLANE = "fisher_shannon_plane", "Posteriors in the Fisher-Shannon plane"
PATH = "fisher_shannon_path", "One model in the Fisher-Shannon plane by epoch"
INFORMATION = "information", "Entropy, Fisher information and active latents"
NLL = "nll", "Negative log-likelihood"
NLL_DIFFERENCES = "nll_differences", "Negative log-likelihood, image by image"
TARGETS = "fisher_targets", "Error, likelihood and classes by the target F"
TARGET = "fisher_target"
OVER_TARGETS = {  # scores over the target beside the MSE
    "likelihood/nll": "NLL (nats)", "information/nearest_neighbours": "5-NN share",
    "information/linear_probe": "linear probe",
}  # fmt: skip
# Columns of its table, each with its decimals: of each run's place, and the scores of ``analysis.scores.information``.
PLACES = {"N": ("N", 4), "J": ("J", 2), "NJ": ("N J", 2), "active": ("active latents", 1)}
SCORED = {
    "precision_active": ("1/s² active", 1), "precision_unused": ("1/s² unused", 3), "kl": ("KL", 2),
    "from_below": ("I from below", 2), "nearest_neighbours": ("5-NN", 3), "linear_probe": ("linear probe", 3),
}  # fmt: skip
SHAPES = (*style.MARKERS, ">", "p", "*", "h", "d", "8", "$+$", "$\\times$")  # of points
BEYOND = "#EDEDED"  # where N J < 1

Numbers = TypeVar("Numbers", float, "pd.Series[float]")


def entropy_power(entropy: Numbers, d: int) -> Numbers:
    """exp(2 H/d)/(2 pi e) of a differential entropy H in nats over d latents."""
    return np.exp(2 * entropy / d) / (2 * math.pi * math.e)  # type: ignore[return-value]  # ufuncs keep a Series


def parts(
    stored: StoredSweep,
    of_path: str = "",
    published: Mapping[str, pd.DataFrame] = MappingProxyType({}),
    *,
    beside: str = "",
    path: str | None = None,
) -> Iterator[Part | Exhibit]:
    """The plane, the path of one line over epochs, the table of what is in it, and the NLL.

    ``path``: the line whose path is drawn, by default ``of_path``, a paper's; where that has no run, the first that has its
    terms. ``beside``: the line without a target that stands beside those with one. ``published``: numbers to stand beside,
    by stem: variant, images, latent_dim, value. Raises AnalysisError where the line that is asked for has no place in the plane.
    """
    points = places(stored.runs, stored.sweep.held_out)
    there = list(points["variant"].unique())
    if path and path not in there:
        raise AnalysisError(
            f"--path is the line whose path over epochs is drawn; {stored.sweep.name} has {listed(there) or 'none'} in the "
            f"plane; got {path}{did_you_mean(path, there) or '.'}"
        )
    if points.empty:
        why = "No run has recorded posterior_entropy and fisher_information, which models record at each epoch that know them."
        yield Absent(*PLANE, why)
    else:
        without = [v for v in stored.variants if v not in there]
        yield Part(*PLANE, lambda: plane_picture(points, without))
        variant = path or (of_path if of_path in there else str(there[0]))
        yield Part(*PATH, partial(path_picture, stored, variant))
        yield Part(*INFORMATION, lambda: information_table(stored, points))
    if by_target(stored)["target"].nunique() > 1:
        yield Part(*TARGETS, lambda: targets_picture(stored, beside))
    yield Part(*NLL, lambda: nll_table(stored, published.get("nll")))
    if pairs := pairs_by_image(stored, beside):
        yield Part(*NLL_DIFFERENCES, lambda: nll_differences(stored, pairs))


def places(runs: pd.DataFrame, held_out: str) -> pd.DataFrame:
    """A row per run that has both terms: variant, model, latent_dim, seed, N, J and N J, as the module has them."""
    names = [f"{held_out}/{term}" for term in TERMS]
    there = runs.dropna(subset=names) if set(names) <= set(runs) else runs.iloc[:0]
    kept = there[["run_id", *CURVE, "seed"]]
    if there.empty:
        return kept.assign(N=0.0, J=0.0, NJ=0.0)
    return _placed(kept, *(there[name] for name in names))


def _placed(rows: pd.DataFrame, entropy: pd.Series[float], information: pd.Series[float]) -> pd.DataFrame:
    d = rows["latent_dim"].astype(int)
    power = pd.Series([entropy_power(h, k) for h, k in zip(entropy, d, strict=True)], index=rows.index)
    return rows.assign(N=power, J=information / d, NJ=power * information / d)


def plane_picture(points: pd.DataFrame, without: Sequence[str] = ()) -> Picture:
    """``without`` are lines that have no place in it."""
    drawn = [model for model in points["model"].unique() if not family(model).covariance]
    noisy = f" Those of {listed(drawn)} are of one draw for each image, and may be off by its noise." if drawn else ""
    absent = f" Without a place here, as they do not record both: {listed(without)}." if without else ""
    return Picture(
        *PLANE,
        "Entropy power N = exp(2H/d)/(2πe) of the posteriors against their Fisher information per latent, J = tr J/d, both from "
        "means over held-out images: narrow posteriors are up and left. A small point is a run; the large ones are geometric "
        "means over seeds with one standard deviation, joined from the least d to the largest, whose numbers stand at the ends. "
        "Nothing can lie below N J = 1, where all latents of all images are equally wide." + noisy + absent,
        plot_plane(points),
        points.drop(columns="run_id"),
    )


def plot_plane(points: pd.DataFrame) -> Figure:
    """A point per run and, over seeds, a mean for each variant and latent_dim with bars, joined over latent_dim."""
    logs = points.assign(N=np.log(points["N"]), J=np.log(points["J"]))
    both = {axis: spread(logs.assign(value=logs[axis]), CURVE) for axis in ("N", "J")}
    means = both["N"].merge(both["J"], on=CURVE, suffixes=("_N", "_J"))
    several = means["latent_dim"].nunique() > 1
    lines = style.by_variant(means)
    with style.new_figure() as (figure, axes):
        _on_the_plane(axes, points)
        keys = []
        for (variant, look, line), marker in zip(lines, _markers(means), strict=True):
            own, x, y = points[points["variant"] == variant], np.exp(line["mean_N"]), np.exp(line["mean_J"])
            axes.scatter(own["N"], own["J"], s=7, color=look["color"], alpha=0.45, linewidths=0, zorder=2)
            xerr, yerr = (
                [value * (1 - np.exp(-sd)), value * (np.exp(sd) - 1)]
                for value, sd in ((x, line["sd_N"].fillna(0)), (y, line["sd_J"].fillna(0)))
            )
            axes.errorbar(
                x, y, xerr=xerr, yerr=yerr, fmt="none", ecolor=look["color"], elinewidth=1, capsize=2, zorder=2.5
            )
            model = str(line["model"].iloc[0])
            of_point = {"marker": marker, "markersize": 6, "markerfacecolor": look["markerfacecolor"] and "none"}
            shown: style.LineLook = {**look, **of_point}  # type: ignore[typeddict-item]  # seen through where points coincide
            keys += axes.plot(x, y, **shown, label=style.label(variant, model), linewidth=1, zorder=3)
            if several:
                _name_ends(axes, x.to_numpy(), y.to_numpy(), line["latent_dim"].to_list(), color=look["color"])
        n_seeds = means.assign(n_seeds=means["n_seeds_N"])
        figure.legend(handles=[*keys, *_keys_of_the_plane(), _bars_key(n_seeds)], loc="outside right upper")
    return figure


def _markers(means: pd.DataFrame) -> list[str]:
    """A shape for each line that no other has, as points show no dashes: of a model's first line its own, where it is free."""
    own = {style.marker(model): model for model in reversed(means["model"].unique().tolist())}
    free = itertools.cycle([shape for shape in SHAPES if shape not in own])
    unseen = {model: shape for shape, model in own.items()}
    return [unseen.pop(model, "") or next(free) for model in means.drop_duplicates("variant")["model"]]


def _bars_key(means: pd.DataFrame) -> Line2D | Patch:
    key = style.spread_key(means)
    return (
        key if isinstance(key, Line2D) else Line2D([], [], color=style.KEY_COLOUR, linewidth=1, label=key.get_label())
    )


def _on_the_plane(axes: Axes, points: pd.DataFrame) -> None:
    """Logarithmic axes about the points, what lies below N J = 1 shaded."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    n, j = points["N"], points["J"]
    room = min(
        1.6, max(1.02, max(n.max() / n.min(), j.max() / j.min()) ** 0.5)
    )  # half of what the points take, each side
    low, high = min(n.min(), 1 / j.max()) / room, max(n.max(), 1 / j.min()) * room
    bottom, top = min(j.min(), 1 / n.max()) / room, j.max() * room
    x = np.geomspace(low, high, 200)
    axes.fill_between(x, bottom, np.maximum(1 / x, bottom), color=BEYOND, linewidth=0, zorder=0)
    axes.plot(x, 1 / x, color=style.PCA_COLOUR, linewidth=1, zorder=1)
    axes.set(xlim=(low, high), ylim=(bottom, top))
    style.plain_log_ticks(axes, "xy")
    axes.set_xlabel("entropy power $N$ (squared units of $z$)")
    axes.set_ylabel("Fisher information per latent $J$")


def _name_ends(
    axes: Axes, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], values: Sequence[float], what: str = "",
    color: str | None = None,
) -> None:  # fmt: skip
    """The first and the last of the values beside their points, as one text where these are too near for two."""
    shown = axes.transAxes.inverted().transform(axes.transData.transform(np.column_stack([x, y])[[0, -1]]))
    apart = np.abs(shown[1] - shown[0]).max() > 0.08
    names = [f"{what}{values[0]:g}", f"{what}{values[-1]:g}"] if apart else [f"{what}{values[0]:g} to {values[-1]:g}"]
    for name, at in zip(names, (0, -1), strict=False):
        axes.annotate(
            name, (x[at], y[at]), xytext=(5, 4), textcoords="offset points", fontsize=8, color=color or style.KEY_COLOUR
        )


def _keys_of_the_plane() -> list[Line2D | Patch]:
    return [
        Line2D([], [], color=style.PCA_COLOUR, linewidth=1, label="$N\\,J$ = 1"),
        Patch(color=BEYOND, linewidth=0, label="out of reach"),
    ]


def path_picture(stored: StoredSweep, variant: str) -> Picture:
    """The path of one run of the line at its largest latent_dim."""
    run = stored.pick(variant, int(stored.runs.loc[stored.runs["variant"] == variant, "latent_dim"].max()))
    names = {stored.sweep.score(term): term for term in TERMS}
    epochs = frame.load_epochs(stored.sweep, run.to_frame().T, list(names))
    wide = epochs.pivot_table(index="epoch", columns="metric", values="value").rename(columns=names).dropna()
    about = {name: run[name] for name in (*CURVE, "seed")}
    path = _placed(pd.DataFrame([about] * len(wide), index=wide.index), *(wide[term] for term in TERMS)).reset_index()
    caption = (
        f"{variant} at d = {run['latent_dim']}, seed {run['seed']}, after each epoch, from means over held-out images. "
        f"N J is {path['NJ'].iloc[0]:.3g} after epoch {path['epoch'].iloc[0]} and {path['NJ'].iloc[-1]:.3g} after "
        f"epoch {path['epoch'].iloc[-1]}; along a curve N J = K it would stay what it is."
    )
    return Picture(*PATH, caption, plot_path(path), path)


def plot_path(path: pd.DataFrame) -> Figure:
    """N and J by epoch, which is the colour."""
    with style.new_figure() as (figure, axes):
        _on_the_plane(axes, path)
        axes.plot(path["N"], path["J"], color=style.KEY_COLOUR, linewidth=0.6, zorder=2)
        points = axes.scatter(path["N"], path["J"], c=path["epoch"], cmap="viridis", s=14, linewidths=0, zorder=3)
        kept = float(path["NJ"].iloc[-1])
        x = np.geomspace(*axes.get_xlim(), 200)
        (curve,) = axes.plot(x, kept / x, color=style.KEY_COLOUR, linestyle=":", linewidth=1, zorder=1)
        curve.set_label(f"$N\\,J$ = {kept:.3g}, as at the end")
        _name_ends(axes, path["N"].to_numpy(), path["J"].to_numpy(), path["epoch"].to_list(), "epoch ")
        ticks = MaxNLocator(6, integer=True)
        figure.colorbar(points, ax=axes, label="epoch", ticks=ticks).outline.set_visible(False)
        # The corner below the line is empty, as nothing can lie there.
        keys = [curve, *_keys_of_the_plane()]
        axes.legend(handles=keys, loc="lower left", frameon=True, facecolor="white", framealpha=1, edgecolor="none")
    return figure


def information_table(stored: StoredSweep, points: pd.DataFrame) -> Table:
    """N, J and N J by line and latent_dim, and how many latents are active, from the stored latent means."""
    lacking, active = 0, {}
    for _, run in stored.runs[stored.runs["run_id"].isin(points["run_id"])].iterrows():
        try:
            active[run["run_id"]] = float(active_units(stored.latents(run)[0]))
        except AnalysisError:
            lacking += 1
    counted = points.assign(active=points["run_id"].map(active).astype(float))
    by_run = stored.runs.set_index("run_id")
    scored = {name: own for name, own in SCORED.items() if f"information/{name}" in by_run}
    counted = counted.assign(**{name: counted["run_id"].map(by_run[f"information/{name}"]) for name in scored})
    columns = PLACES | scored
    data = pd.concat([spread(counted.assign(value=counted[name]), CURVE).assign(score=name) for name in columns])
    rows = []
    for (variant, d), line in data.groupby(["variant", "latent_dim"], sort=False):
        of_score = {name: line[line["score"] == name] for name in columns}
        shown = {
            title: cells(of_score[name], "score", digits).get(name, "") for name, (title, digits) in columns.items()
        }
        rows.append({"model": str(variant), "d": d, **shown})
    caption = (
        f"Entropy power N, Fisher information per latent J and N J, which is 1 at the least; mean ± standard deviation over "
        f"{seeds(data[data['score'] == 'N'])}. A latent is active where the variance of its posterior mean over held-out "
        "images is above 0.01 (Burda et al. 2016); that is counted along the axes, which a posterior that is not diagonal has no "
        "need of." + f" The latents of {lacking} runs cannot be had." * (lacking > 0)
    )
    return Table(
        *INFORMATION, " ".join([caption, *_say_scored(by_run.get("scores"), scored)]), data, pd.DataFrame(rows)
    )


def by_target(stored: StoredSweep, beside: str = "") -> pd.DataFrame:
    """A row for each run that holds its Fisher information at F and score that it has: variant, the line without its F; target.

    Scores are MSE, NLL and the shares of right classes by 5 neighbours and by a linear probe. Rows of the line ``beside``,
    which holds it at nothing, have the target NaN.
    """
    runs, _ = of_one_estimate(stored.runs)
    scores = {stored.sweep.score("mse"): "MSE"} | OVER_TARGETS
    rows = []
    for _, run in runs.iterrows():
        config = config_of(run)
        if config.matters(TARGET, config.to_dict()):
            usual = trial_config({**config.to_dict(), TARGET: config.__dataclass_fields__[TARGET].default})
            variant, target = usual.variant, getattr(config, TARGET)
        elif run["variant"] == beside:
            variant, target = beside, math.nan
        else:
            continue
        about = {"variant": variant, **{name: run[name] for name in ("model", "latent_dim", "seed")}, "target": target}
        rows += [
            about | {"score": title, "value": run[name]} for name, title in scores.items() if pd.notna(run.get(name))
        ]
    found = pd.DataFrame(rows, columns=["variant", "model", "latent_dim", "seed", "target", "score", "value"])
    return found.sort_values("target", kind="stable")


def targets_picture(stored: StoredSweep, beside: str = "") -> Picture:
    """Of the lines that have several F, and of the line ``beside`` them, which has none."""
    found = by_target(stored, beside)
    several = found.groupby(CURVE)["target"].transform("nunique") > 1
    means = spread(found[several], [*CURVE, "target", "score"])
    own = found[found["target"].isna() & found["latent_dim"].isin(found.loc[several, "latent_dim"])]
    level = spread(own, [*CURVE, "score"]).assign(target=math.nan)
    absent = [score for score in OVER_TARGETS.values() if score not in set(means["score"])]
    caption = (
        "Lines that differ in F alone, what their posteriors' Fisher information is held at: the mean squared error of "
        f"{stored.sweep.held_out} images, their NLL, and the shares of right classes by the 5 nearest codes of training images "
        "and by a linear probe of the codes."
        + f" The dashed line is the mean of {beside}." * bool(len(level))
        + f" No run has {listed(absent)}." * bool(absent)
    )
    return Picture(*TARGETS, caption, plot_targets(means, level), pd.concat([means, level], ignore_index=True))


def plot_targets(means: pd.DataFrame, level: pd.DataFrame) -> Figure:
    """A panel for each score, a line for each variant and latent_dim over F; ``level`` are means without one, dashed."""
    several = means["latent_dim"].nunique() > 1
    names = means["variant"] + means["latent_dim"].map(" d={}".format) if several else means["variant"]
    scores = means["score"].unique()
    with style.new_grid(1, len(scores), width=2.6) as (figure, grid):
        for axes, score in zip(grid.flat, scores, strict=True):
            keys: list[Line2D] = [
                style.line_with_band(axes, line, "target", {**look, "label": variant})
                for variant, look, line in style.by_variant(means.assign(variant=names)[means["score"] == score])
            ]
            for _, own in level[level["score"] == score].iterrows():
                name, colour = own["variant"] + f" d={own['latent_dim']}" * several, style.colour(own["model"])
                keys.append(axes.axhline(own["mean"], color=colour, linestyle="--", linewidth=1, label=name))
            axes.set(title=score, xlabel="target $F$")
        figure.legend(handles=[*keys, style.spread_key(means)], loc="outside lower center", ncols=4)
    return figure


def _say_scored(scores: pd.Series | None, scored: Collection[str]) -> list[str]:
    """What the columns of the scores are."""
    about = [of["information"] for of in scores if "information" in of] if scores is not None else []
    if not (scored and about):
        return []
    counts = {of["images"] for of in about}
    said = [
        f"Of {_counts(counts)} images: 1/s² is the mean over active and over unused latents, s² the variance of a latent alone; "
        "KL, nats, is the mean divergence of posterior from prior, which the information I of an image and its latents does not "
        "exceed; I from below, nats, is an estimate from these images that cannot exceed "
        f"{' or '.join(f'ln {n:,} = {math.log(n):.2f}' for n in sorted(counts))}."
    ]
    if classified := {(of["training_images"], of["classified"]) for of in about if "classified" in of}:
        trained, asked = ({pair[i] for pair in classified} for i in range(2))
        said.append(
            f"Right classes of {_counts(asked)} held-out images by the 5 nearest codes and by a linear map of the codes of "
            f"{_counts(trained)} training images."
        )
    return said


def of_one_estimate(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The runs without likelihoods by another number of draws or images than that of most; where there are any, a sentence.

    An NLL falls with the draws, and means over other images are other means.
    """
    made: dict[object, dict[str, tuple[int, int]]] = {
        i: {name: (about["draws"], about["images"]) for name, about in scores.get("likelihood", {}).items()}
        for i, scores in (runs["scores"].items() if "scores" in runs else ())
    }
    kept, notes = runs, []
    for name in NLL_SETS:
        counts = Counter(of[name] for of in made.values() if name in of)
        if len(counts) < 2:
            continue
        chosen = max(counts, key=lambda how: (counts[how], how))
        others = [i for i, of in made.items() if name in of and of[name] != chosen]
        start = "likelihood/" if name == NLL_SETS[0] else f"likelihood/{name}/"
        own = [c for c in map(str, runs) if c.startswith(start) and (name != NLL_SETS[0] or "training/" not in c)]
        kept = kept if kept is not runs else runs.copy()
        kept.loc[others, own] = math.nan
        notes.append(
            f"Left out is the {name} NLL of {len(others)} run{'s' * (len(others) > 1)} with other numbers than "
            f"{chosen[0]:,} draws and {chosen[1]:,} images"
        )
    return kept, notes


def nll_table(stored: StoredSweep, said: pd.DataFrame | None = None) -> Exhibit:
    """NLL by line, latent_dim and set of images; what a paper says, ``said``, in a column beside."""
    runs, notes = of_one_estimate(stored.runs)
    command = stored.sweep.command("report", "--draws", "1000")
    found = nll_data(runs)
    if found.empty:
        return Absent(*NLL, stored.reasons.get("likelihood") or f"No run has it; `{command}` computes it.")
    numbers = [
        (about["draws"], about["images"], about["probability"], variant, about.get("dequantised", False))
        for variant, scores in zip(runs["variant"], runs["scores"], strict=True)
        for about in scores.get("likelihood", {}).values()
    ]
    densities = list(dict.fromkeys(n[3] for n in numbers if not (n[2] or n[4])))
    spread_out = list(dict.fromkeys(n[3] for n in numbers if n[4]))
    rows = []
    for (variant, d, images), line in found.groupby(["variant", "latent_dim", "images"], sort=False):
        by_score = {str(score): cells(of_score, "score", 2)[score] for score, of_score in line.groupby("score")}
        theirs = _said(said, str(variant), int(str(d)), str(images))
        rows.append(
            {"model": style.label(str(variant), str(line["model"].iloc[0])), "d": d, "images": images}
            | {"NLL (nats)": by_score.get("nll", "")}
            | ({"paper": theirs} if said is not None else {})
            | ({"held-out − training": by_score.get("gap", "")} if (found["score"] == "gap").any() else {})
            | {"standard error over images": by_score.get("nll/standard_error", "")}
            | {"gained by the last tenfold draws": by_score.get("gained", "")}
            | {"effective draws": by_score.get("nll/ess", ""), "bits per dimension": _bits(line)}
        )
    draws, n_images = ({n[i] for n in numbers} for i in range(2))
    caption = (
        f"−ln p(x) by importance sampling, {_counts(draws)} draws of each of {_counts(n_images)} images, equal for every model; "
        f"mean ± standard deviation over {seeds(found)}. It is an upper bound that falls with the draws: where the last tenfold "
        "of them gained much, or few draws are effective (median over images), it is still far from the NLL."
    )
    if densities:
        notes = [
            *notes,
            f"Of {listed(densities)} it is minus a log density, which compares with no probability",
        ]
    if spread_out:
        notes = [
            *notes,
            f"Of {listed(spread_out)} it is minus the log density of dequantised images, (v + u)/256; bits per dimension compare "
            "with those of probabilities, and are no less than what the density gives the grey values themselves",
        ]
    if seeing := [model for model in dict.fromkeys(runs["model"]) if family(model).sees_image]:
        notes = [*notes, f"{listed(seeing)} is told each pixel's predecessors, as its likelihood asks"]
    return Table(*NLL, " ".join([caption, *(f"{note}." for note in notes)]), found, pd.DataFrame(rows))


def nll_data(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds by variant, latent_dim, images and score.

    Among the scores are nll/kK, what the last tenfold draws gained, and as gap the held-out NLL less that of training images.
    """
    tidy = []
    both = [f"likelihood/{name}nll" for name in ("", "training/")]
    if set(both) <= set(runs):
        gap = runs[both[0]] - runs[both[1]]
        tidy.append(runs[CURVE].assign(images=NLL_SETS[0], score="gap", value=gap))
    for images in NLL_SETS:
        start = "likelihood/" if images == NLL_SETS[0] else f"likelihood/{images}/"
        for name in (str(column) for column in runs if str(column).startswith(start)):
            score = name.removeprefix(start)
            if score.split("/")[0] in ("nll", "bits_per_dim"):
                tidy.append(runs[CURVE].assign(images=images, score=score, value=runs[name]))
        if f"{start}nll" in runs:
            gained = [_gained(run, start) for _, run in runs.iterrows()]
            tidy.append(runs[CURVE].assign(images=images, score="gained", value=gained))
    if not tidy:
        return pd.DataFrame(columns=[*CURVE, "images", "score", "mean"])
    return spread(pd.concat(tidy).dropna(subset="value"), [*CURVE, "images", "score"])


Pair = tuple[str, list[tuple[pd.Series, pd.Series]]]  # a set of images; of each seed a line's run and the other line's


def pairs_by_image(stored: StoredSweep, beside: str = "") -> list[Pair]:
    """Of each set, line and latent_dim, its runs beside those of ``beside`` with equal seeds, where each image's NLL was kept.

    Where ``beside`` has none, beside the first line that has. A density and a probability make no pair.
    """
    runs, _ = of_one_estimate(stored.runs)

    def probability(run: pd.Series, images: str) -> bool:
        return bool(run["scores"]["likelihood"][images]["probability"])

    found: list[Pair] = []
    for images in NLL_SETS:
        kept = [
            run
            for _, run in runs.iterrows()
            if run["scores"].get("likelihood", {}).get(images, {}).get("by_image")
            and not math.isnan(run["likelihood/nll" if images == NLL_SETS[0] else f"likelihood/{images}/nll"])
        ]
        variants = list(dict.fromkeys(str(run["variant"]) for run in kept))
        first = beside if beside in variants else next(iter(variants), "")
        of = {(run["variant"], run["latent_dim"], run["seed"]): run for run in kept}
        for variant, d in dict.fromkeys((v, d) for v, d, _ in of if v != first):
            own = [
                (run, of[first, d, seed])
                for (v, k, seed), run in of.items()
                if (v, k) == (variant, d)
                and (first, d, seed) in of
                and probability(run, images) == probability(of[first, d, seed], images)
            ]
            if own:
                found.append((images, own))
    return found


def nll_differences(stored: StoredSweep, pairs: Sequence[Pair]) -> Table:
    """Of each pair of lines the mean difference of their NLL, its interval over seeds and its standard error over images."""
    rows = []
    for images, runs in pairs:
        nll = np.array([[_by_image(stored, run, images) for run in pair] for pair in runs])
        by_seed = nll[:, 0] - nll[:, 1]  # (n_seeds, n_images)
        n_seeds, n_images = by_seed.shape
        over_seeds = Comparison("", ABOVE, tuple(by_seed.mean(1)))
        low, high = over_seeds.interval
        over_images = by_seed.mean(0).std(ddof=1) / math.sqrt(n_images) if n_images > 1 else math.nan
        line, other = runs[0]
        rows.append({
            **{name: line[name] for name in CURVE}, "images": images, "less": other["variant"], "n_seeds": n_seeds,
            "n_images": n_images, "mean": over_seeds.mean, "low": low, "high": high, "standard_error": over_images,
        })  # fmt: skip
    data = pd.DataFrame(rows)

    def number(value: float) -> str:
        return "" if math.isnan(value) else f"{value:.2f}".replace("-", "−")

    intervals = [[number(end) for end in ends] for ends in zip(data["low"], data["high"], strict=True)]
    shown = pd.DataFrame({
        "model": [style.label(str(v), str(m)) for v, m in zip(data["variant"], data["model"], strict=True)],
        "d": data["latent_dim"], "images": data["images"], "NLL less that of": data["less"],
        "nats": data["mean"].map(number),
        "95% interval over seeds": [f"[{low}, {high}]" if low else "" for low, high in intervals],
        "standard error over images": data["standard_error"].map(number),
    })  # fmt: skip
    caption = (
        f"Differences of runs with equal seeds, {seeds(data)}, of the same {_counts(set(data['n_images']))} images by the same "
        "random numbers. The interval (Student's t) is over seeds: what other seeds would give on these images. The standard "
        "error is over images, of the mean over seeds: what other images would give under these runs."
    )
    return Table(*NLL_DIFFERENCES, caption, data, shown)


def _by_image(stored: StoredSweep, run: pd.Series, images: str) -> npt.NDArray[np.float64]:
    """A run's NLL of each image, in their order."""
    return np.array(json.loads(stored.artifact(run, NLL_BY_IMAGE.format(images)).read_text(encoding="utf-8"))["nll"])


def _gained(run: pd.Series, start: str) -> float:
    """NLL at a tenth of the draws less NLL at all of them; NaN where that was not kept."""
    name = NLL_SETS[0] if start == "likelihood/" else NLL_SETS[1]
    about = run["scores"].get("likelihood", {}).get(name, {"draws": 0})
    tenth = run.get(f"{start}nll/k{about['draws'] // 10}", math.nan)
    return float(tenth - run[f"{start}nll"])


def _bits(line: pd.DataFrame) -> str:
    return cells(line[line["score"] == "bits_per_dim"], "score", 4).get("bits_per_dim", "")


def _said(said: pd.DataFrame | None, variant: str, d: int, images: str) -> str:
    if said is None:
        return ""
    there = said[(said["variant"] == variant) & (said["latent_dim"] == d) & (said["images"] == images)]["value"]
    return f"{there.iloc[0]:.2f}" if len(there) else ""


def _counts(numbers: set[int]) -> str:
    return " or ".join(f"{n:,}" for n in sorted(numbers))
