"""How well models restore damaged images, and how well their latents still tell classes apart, against the level of damage."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import frame, style
from analysis.exhibits import Absent, Exhibit, Picture, Table, cell, seeds
from analysis.figures.samples import GAP, LETTER, LINE, N_RECONSTRUCTIONS, ORIGINAL, SPACE, Sheet, mosaic, row_labels
from analysis.frame import CURVE, AnalysisError, chosen_dim
from analysis.parts import Part
from analysis.scores.robustness import GROUP, MOST_IMAGES, OWN, corrupted, doubled_at, fill_of
from analysis.stored import StoredSweep, config_of
from fishernet import pca
from fishernet.trained import decode

NAME = re.compile(rf"{GROUP}/(?P<kind>[^/]+)/(?P<level>[^/]+)/(?P<score>\w+)")
SCORES = {"bce": "cross-entropy per pixel (nats)", "mse": "MSE per pixel", "nmi": "NMI"}
KINDS = {"gaussian": "variance of the noise", "mask": "masked share of the pixels"}
# The level of each kind that the table and the pictures have; where pixels are in [-1, 1] 2 there is 0.5 here.
SHOWN, SHOWN_SYMMETRIC = {"gaussian": 0.2, "mask": 0.8}, {"gaussian": 0.5, "mask": 0.8}
TITLE = "Reconstruction of damaged images"
LETTERS = 22  # in a line of a picture's label


def parts(stored: StoredSweep, latent_dim: int | None = None) -> Iterator[Part | Exhibit]:
    """Error and NMI against the level, a table, and pictures, from the scores that the runs have.

    Raises AnalysisError when ``latent_dim`` has no finished run with scores.
    """
    data = levels_of(stored.runs)
    if data.empty:
        again = stored.sweep.command("figures robustness")
        why = stored.reasons.get("corruptions") or f"No run has these scores; `{again}` computes them."
        yield Absent("robustness_curves", TITLE, why)
        return
    d = chosen_dim(data, latent_dim, "run with these scores")
    at = data[data["latent_dim"] == d]
    error = error_of(at)
    yield Part("robustness_curves", TITLE, lambda: curves(stored, at, error))
    yield Part("robustness", f"{TITLE} in numbers", lambda: table(data, error, shown_of(stored)))
    if (at["score"] == "nmi").any():
        yield Part("nmi_curves", "Clusters of damaged images' latents against labels", lambda: nmi_curves(stored, at))
    yield Part("noisy_reconstructions", "Damaged images and what is restored", lambda: reconstructions(stored, at))


def shown_of(stored: StoredSweep) -> Mapping[str, float]:
    """The level of each kind that the table and the pictures have."""
    return SHOWN_SYMMETRIC if all_symmetric(stored) else SHOWN


def levels_of(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per run, kind of damage, level and score: variant, model, latent_dim, seed, kind, level, score, value."""
    keys = [*CURVE, "seed"]
    found = [(name, NAME.fullmatch(str(name))) for name in runs]
    made = [
        runs[keys].assign(kind=m["kind"], level=float(m["level"]), score=m["score"], value=runs[name])
        for name, m in found
        if m
    ]
    columns = [*keys, "kind", "level", "score", "value"]
    if not made:
        return pd.DataFrame(columns=columns)
    return pd.concat(made).dropna(subset="value").sort_values(["kind", "level"], kind="stable", ignore_index=True)


def error_of(data: pd.DataFrame) -> str:
    """The error that is shown: cross-entropy, as the paper has it of grey images, where all lines have it."""
    with_bce = set(data.loc[data["score"] == "bce", "variant"])
    return "bce" if with_bce == set(data["variant"]) else "mse"


def curves(stored: StoredSweep, data: pd.DataFrame, error: str) -> Exhibit:
    """Error against level, a panel per kind of damage."""
    means = frame.spread(data[data["score"] == error], [*CURVE, "kind", "level"])
    try:
        flat, remark = mean_image(stored)[error], "The grey line is the mean image, which no damage changes."
        linear = by_pca(stored, means, error)
        if linear:
            remark += " The dashed one is PCA with d components of the clean training images; it may leave the panel."
    except AnalysisError as why:
        flat, linear, remark = math.nan, {}, f"The mean image is not shown. {why}"
    caption = (
        f"{SCORES[error].capitalize()} of reconstructions from damaged {stored.sweep.held_out} images, against the clean ones, "
        f"d = {data['latent_dim'].iloc[0]}; the dot is the clean image, bands are one standard deviation over {seeds(means)}. "
        f"{remark} {_say_statistics(stored)}A model that ignores its input has a flat curve, so low and flat is what counts."
    )
    of_pca = [linear.get(at, math.nan) for at in zip(means["kind"], means["level"], strict=True)]
    drawn = means.assign(score=error, mean_image=flat, pca=of_pca)
    return Picture("robustness_curves", TITLE, caption, plot_levels(means, SCORES[error], flat, linear=linear), drawn)


def _say_statistics(stored: StoredSweep) -> str:
    """A sentence where batch normalisation went by the damaged images' own statistics."""
    own = [run["variant"] for _, run in stored.runs.iterrows() if run["scores"].get(GROUP, {}).get("statistics") == OWN]
    if not own:
        return ""
    return f"Batch normalisation of {', '.join(dict.fromkeys(own))} goes by each damaged batch's own statistics, as released. "


def nmi_curves(stored: StoredSweep, data: pd.DataFrame) -> Exhibit:
    means = frame.spread(data[data["score"] == "nmi"], [*CURVE, "kind", "level"])
    title = "Clusters of damaged images' latents against labels"
    caption = (
        f"Normalised mutual information of the labels and as many k-means clusters of the latent means of damaged "
        f"{stored.sweep.held_out} images, d = {data['latent_dim'].iloc[0]}; 1 is perfect, 0 is chance. The dot is the clean "
        f"image, bands are one standard deviation over {seeds(means)}."
    )
    return Picture("nmi_curves", title, caption, plot_levels(means, SCORES["nmi"]), means)


def mean_image(stored: StoredSweep) -> dict[str, float]:
    """What the mean of the training images scores on the held-out ones that models are scored on.

    Raises AnalysisError where the images are not to be had.
    """
    x = stored.images.test[:MOST_IMAGES].flatten(1).float() / 255
    mean = pca.mean_image(stored.images.train.flatten(1)).float()
    # A pixel that is black in every training image would cost infinity where one held-out image has it grey.
    f = mean.clamp(1 / 512, 1 - 1 / 512).expand_as(x)
    return {"mse": (x - mean).square().mean().item(), "bce": F.binary_cross_entropy(f, x).item()}


def by_pca(stored: StoredSweep, means: pd.DataFrame, error: str) -> dict[tuple[str, float], float]:
    """By kind and level, the error of the damaged images' projections on the d leading components of the training images.

    The damage is that of the first seed. For the cross-entropy values are cut to grey ones, as the mean image's. Empty of images
    too large for it.
    """
    found = pca.components(stored.images.train, int(means["latent_dim"].iloc[0]))
    if found is None:
        return {}
    mean, basis = (tensor.float() for tensor in found)
    images, seed, fill = stored.images.test[:MOST_IMAGES], int(stored.runs["seed"].min()), 0.5 * all_symmetric(stored)
    x, errors = images.flatten(1).float() / 255, {}
    for kind, level in dict.fromkeys(zip(means["kind"], means["level"], strict=True)):
        damaged = corrupted(images, kind, level, seed, fill).flatten(1)
        f = mean + (damaged - mean) @ basis @ basis.T
        if error == "bce":
            errors[kind, level] = F.binary_cross_entropy(f.clamp(1 / 512, 1 - 1 / 512), x).item()
        else:
            errors[kind, level] = (f - x).square().mean().item()
    return errors


def all_symmetric(stored: StoredSweep) -> bool:
    """Whether every run sees images in [-1, 1]."""
    return all(getattr(config_of(run), "pixel_range", "unit") == "symmetric" for _, run in stored.runs.iterrows())


def plot_levels(
    means: pd.DataFrame, label: str, flat: float = math.nan, words: Mapping[str, str] = KINDS,
    linear: Mapping[tuple[str, float], float] = MappingProxyType({}),
) -> Figure:  # fmt: skip
    """A line per variant with its band, a panel per kind, under its words; ``flat`` is a grey line across, ``linear`` PCA's."""
    kinds = list(means["kind"].unique())
    with style.new_grid(1, len(kinds), width=style.INCHES[0] / 2) as (figure, grid):
        figure.set_size_inches(figure.get_size_inches()[0] + 2, style.INCHES[1])
        keys: dict[str, Line2D] = {}
        for axes, kind in zip(grid[0], kinds, strict=True):
            for variant, look, line in style.by_variant(means[means["kind"] == kind]):
                own: style.LineLook = {"color": look["color"], "linestyle": look["linestyle"]}
                clean = line[line["level"] == 0]
                style.line_with_band(axes, line, "level", own)
                axes.plot(clean["level"], clean["mean"], **{**look, "linestyle": ""}, clip_on=False, zorder=3)
                keys.setdefault(variant, Line2D([], [], **look, label=style.label(variant, line["model"].iloc[0])))
            if math.isfinite(flat):
                axes.axhline(flat, color=style.PCA_COLOUR, linewidth=1.2, zorder=1.5)
            axes.set_xlabel(words.get(kind, kind))
            axes.set_xlim(left=0)
        grid[0][0].set_ylabel(label)
        lows, highs = zip(*(axes.get_ylim() for axes in grid[0]), strict=True)
        for axes, kind in zip(grid[0], kinds, strict=True):
            axes.set_ylim(min(lows), max(highs))  # before PCA, which would flatten all other lines
            if of_kind := sorted((level, value) for (of, level), value in linear.items() if of == kind):
                axes.plot(
                    *zip(*of_kind, strict=True), color=style.PCA_COLOUR, linewidth=1.2, linestyle="--", zorder=1.5
                )
        grey = [Line2D([], [], color=style.PCA_COLOUR, linewidth=1.2, label="mean image")] * math.isfinite(flat)
        grey += [
            Line2D([], [], color=style.PCA_COLOUR, linewidth=1.2, linestyle="--", label="PCA, $d$ components")
        ] * bool(linear)
        figure.legend(handles=[*keys.values(), *grey, style.spread_key(means)], loc="outside right upper")
    return figure


def table(data: pd.DataFrame, error: str, levels_shown: Mapping[str, float] = MappingProxyType(SHOWN)) -> Table:
    """By line and kind: the clean error, that at one level, the rise, and the level at which the error doubles."""
    rows, numbers = [], []
    of_error = data[data["score"] == error]
    for (variant, model, d, kind), line in of_error.groupby([*CURVE, "kind"], sort=False):
        by_seed = line.pivot_table(index="seed", columns="level", values="value")
        levels = [float(level) for level in by_seed.columns.to_numpy()]
        shown = levels_shown.get(str(kind), levels[-1])
        if 0 not in levels or shown not in levels:
            continue
        whole = by_seed.dropna()
        values: dict[str, pd.Series[float]] = {
            "clean": by_seed[0.0],
            "damaged": by_seed[shown],
            "rise": by_seed[shown] - by_seed[0.0],
            "doubled_at": pd.Series([doubled_at(levels, row.tolist()) for row in whole.to_numpy()], dtype=float),
        }
        head = {"variant": variant, "model": model, "latent_dim": d, "kind": kind, "level": shown}
        spread = {name: of.std() if np.isfinite(of).all() else math.nan for name, of in values.items()}
        numbers += [
            head | {"score": error, "number": name, "n_seeds": len(of), "mean": of.mean(), "sd": spread[name]}
            for name, of in values.items()
        ]
        texts = {name: cell(of.mean(), spread[name], len(of), 4) for name, of in values.items()}
        if not values["doubled_at"].map(math.isfinite).all():
            texts["doubled_at"] = f"above {levels[-1]:g}"
        rows.append(
            {"model": variant, "d": d, "damage": kind, "level": f"{shown:g}", "clean": texts["clean"],
             "damaged": texts["damaged"], "rise": texts["rise"], "doubles at": texts["doubled_at"]}
        )  # fmt: skip
    caption = (
        f"{SCORES[error].capitalize()} against the clean images, mean ± standard deviation over "
        f"{seeds(frame.spread(of_error, [*CURVE, 'kind', 'level']))}. Rise: damaged less clean. Doubles at: the least level at "
        "which the error is twice the clean one, straight lines between levels; above the last level where some seed's is not."
    )
    return Table("robustness", f"{TITLE} in numbers", caption, pd.DataFrame(numbers), pd.DataFrame(rows))


def reconstructions(stored: StoredSweep, data: pd.DataFrame) -> Exhibit:
    """The first held-out images damaged, and each model's reconstruction of them, for one level of each kind."""
    d = int(data["latent_dim"].iloc[0])
    runs = [stored.pick(str(variant), d) for variant in data["variant"].unique()]
    images, shape = stored.images.test[:N_RECONSTRUCTIONS], stored.images.image_shape
    seed, groups, numbers, shown = int(runs[0]["seed"]), {}, [], shown_of(stored)
    for kind in data["kind"].unique():
        levels = sorted(data.loc[data["kind"] == kind, "level"].unique())
        level = shown[kind] if shown.get(kind) in levels else levels[-1]
        rows = {ORIGINAL: images / 255}
        for run in runs:
            model = stored.model(run)
            x = corrupted(images, kind, level, seed, fill_of(model))
            if not any(torch.equal(x.clamp(0, 1), row) for row in rows.values()):
                rows["damaged" if len(rows) == 1 else "damaged, masked grey"] = x.clamp(0, 1)
            with torch.no_grad():
                means = model.posterior_mean(x.flatten(1)[None])[0]
            rows[str(run["variant"])] = decode(model, means, shape)
            mse = (rows[str(run["variant"])] - images / 255).square().flatten(1).mean(1)
            numbers += [
                {
                    **run[["variant", "latent_dim", "seed", "run_id"]].to_dict(),
                    "kind": kind,
                    "level": level,
                    "image": i,
                    "mse": e,
                }
                for i, e in enumerate(mse.tolist())
            ]
        groups[f"{KINDS.get(kind, kind)}: {level:g}"] = rows
    chosen = sorted({int(run["seed"]) for run in runs})
    caption = (
        f"The first {len(images)} {stored.sweep.held_out} images, the same damaged, and what each model decodes from the damaged "
        f"ones' posterior means, d = {d}; runs of seed {', '.join(map(str, chosen))}. For the eye damaged pixels are cut to "
        "black and white."
    )
    title = "Damaged images and what is restored"
    return Picture("noisy_reconstructions", title, caption, plot_groups(groups), pd.DataFrame(numbers))


def plot_groups(groups: Mapping[str, Mapping[str, torch.Tensor]]) -> Figure:
    """Rows of images, each under its group's name and beside its own."""
    labels, left = row_labels((name for rows in groups.values() for name in rows), LETTERS)
    first = next(iter(next(iter(groups.values())).values()))
    strip = mosaic(first, len(first))
    height, width = strip.shape[:2]
    heights = {name: max(height, LINE * len(text.splitlines())) for name, text in labels.items()}
    below = {name: sum(heights[label] + GAP for label in rows) for name, rows in groups.items()}
    sheet = Sheet(left + width, sum(below.values()) + len(groups) * (SPACE + LINE) - SPACE)
    top = 0
    for name, rows in groups.items():
        sheet.text(name, left, top + LINE / 2)
        top += LINE
        for label, images in rows.items():
            sheet.text(labels[label], left - LETTER, top + heights[label] / 2, ha="right")
            sheet.image(mosaic(images, len(images)), left, top + (heights[label] - height) // 2)
            top += heights[label] + GAP
        top += SPACE
    return sheet.figure
