"""Latent means of noisy images after t-SNE to two dimensions, and whether k-means finds the labels there."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import frame, style
from analysis.exhibits import Absent, Exhibit, Picture, seeds
from analysis.figures.latent_space import class_colours
from analysis.figures.robustness import KINDS, plot_levels
from analysis.frame import CURVE, AnalysisError, chosen_dim
from analysis.parts import Part
from analysis.scores.tsne import ARTIFACT, GROUP, KIND
from analysis.stored import StoredSweep

NAME = re.compile(rf"{GROUP}/{KIND}/(?P<level>[^/]+)/(?P<score>nmi|latents_nmi)")
KINDS_OF_SPACE = {
    "nmi": f"{KINDS[KIND]}\n(clusters after t-SNE)", "latents_nmi": f"{KINDS[KIND]}\n(clusters of the latent means)",
}  # fmt: skip
TITLES = {"tsne_nmi": "Clusters after t-SNE against labels", "tsne": "Latent means of noisy images after t-SNE"}
SHOWN = (0.0, 0.1, 0.2, 0.5)  # of the levels that there are
MOST_LINES = 6
CAVEAT = (
    "t-SNE keeps neighbours and no distances: it draws groups apart, and sizes of groups and gaps between them mean nothing. Its "
    "result depends on its seed, the run's, and on its perplexity, at most 30; each level has one of its own."
)
Array = npt.NDArray[Any]


def parts(stored: StoredSweep, latent_dim: int | None = None) -> Iterator[Part | Exhibit]:
    """NMI against the level after t-SNE and before, and panels of the places. Raises AnalysisError where d has no such scores."""
    data = levels_of(stored.runs)
    if data.empty:
        again = stored.sweep.command("figures t-sne")
        yield Absent(
            "tsne",
            TITLES["tsne"],
            stored.reasons.get("t-sne-clusters") or f"No run has these scores; `{again}` computes them.",
        )
        return
    d = chosen_dim(data, latent_dim, "run with these scores")
    at = data[data["latent_dim"] == d]
    yield Part("tsne_nmi", TITLES["tsne_nmi"], lambda: curves(stored, at))
    yield Part("tsne", TITLES["tsne"], lambda: panels(stored, at))


def levels_of(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per run, level and space: variant, model, latent_dim, seed, kind (nmi or latents_nmi), level, value."""
    keys = [*CURVE, "seed"]
    found = [(name, m) for name in runs if (m := NAME.fullmatch(str(name)))]
    made = [runs[keys].assign(kind=m["score"], level=float(m["level"]), value=runs[name]) for name, m in found]
    if not made:
        return pd.DataFrame(columns=[*keys, "kind", "level", "value"])
    data = pd.concat(made).dropna(subset="value")
    return data.sort_values(["kind", "level"], ascending=[False, True], kind="stable", ignore_index=True)


def curves(stored: StoredSweep, data: pd.DataFrame) -> Exhibit:
    """A panel after t-SNE and one of the latent means."""
    means = frame.spread(data, [*CURVE, "kind", "level"])
    n = _n_images(stored)
    caption = (
        f"Normalised mutual information of the labels and as many k-means clusters, left of the latent means after t-SNE to two "
        f"dimensions, right of the means themselves; the first {n} {stored.sweep.held_out} images with noise, d = "
        f"{data['latent_dim'].iloc[0]}. 1 is perfect, 0 is chance. The dot is the clean image, bands are one standard deviation "
        f"over {seeds(means)}. {CAVEAT}"
    )
    figure = plot_levels(means, "NMI", words=KINDS_OF_SPACE)
    return Picture("tsne_nmi", TITLES["tsne_nmi"], caption, figure, means)


def panels(stored: StoredSweep, data: pd.DataFrame) -> Exhibit:
    """A row per line, a column per level, of the run that pictures show."""
    d = int(data["latent_dim"].iloc[0])
    after = data[data["kind"] == "nmi"].set_index(["variant", "seed", "level"])["value"]
    models = dict(zip(data["variant"], data["model"], strict=True))
    variants, left_out = frame.some_lines(list(models), models, MOST_LINES, stored.paper.models if stored.paper else ())
    rows: dict[str, dict[float, tuple[Array, float]]] = {}
    numbers, chosen = [], set()
    labels = stored.class_of
    for variant in variants:
        run = stored.pick(variant, d)
        if GROUP not in run["scores"]:
            continue
        chosen.add(int(run["seed"]))
        places = _places(stored, run)
        levels = [level for level in SHOWN if f"{level:g}" in places] or sorted(map(float, places))[: len(SHOWN)]
        row = rows[variant] = {}
        for level in levels:
            at = np.array(places[f"{level:g}"], dtype=float)
            row[level] = at, float(after.get((variant, run["seed"], level), np.nan))
            numbers.append(pd.DataFrame(
                {"variant": variant, "latent_dim": d, "seed": run["seed"], "level": level, "image": range(len(at)),
                 "label": labels[: len(at)], "x": at[:, 0], "y": at[:, 1]}
            ))  # fmt: skip
    if not rows:
        return Absent("tsne", TITLES["tsne"], "None of the runs that pictures show has these scores.")
    caption = (
        f"Latent means of the first {_n_images(stored)} {stored.sweep.held_out} images with noise of the variance above, after "
        f"t-SNE to two dimensions, coloured by label, and NMI of k-means there; d = {d}, runs of seed "
        f"{', '.join(map(str, sorted(chosen)))}. {CAVEAT} {left_out}"
    ).strip()
    figure = plot_panels(rows, labels, stored.class_names)
    return Picture("tsne", TITLES["tsne"], caption, figure, pd.concat(numbers, ignore_index=True))


def plot_panels(
    rows: Mapping[str, Mapping[float, tuple[Array, float]]], labels: Array, names: tuple[str, ...]
) -> Figure:
    """``rows``: variant -> level -> places (n, 2) and NMI."""
    colours = np.array(class_colours(len(names)))
    n_columns = max(map(len, rows.values()))
    with style.new_grid(len(rows), n_columns, width=1.9) as (figure, grid):
        for place, (panels_of_row, (variant, row)) in enumerate(zip(grid, rows.items(), strict=True)):
            for axes in panels_of_row:
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(visible=False)
            for axes, (level, (at, value)) in zip(panels_of_row, row.items(), strict=False):
                order = np.random.default_rng(0).permutation(len(at))  # or the last label would hide the others
                axes.scatter(*at[order].T, s=3, c=colours[labels[: len(at)]][order], linewidths=0, rasterized=True)
                axes.set_xlabel(f"NMI {value:.2f}", fontsize=8)
                if not place:
                    axes.set_title(f"variance {level:g}" if level else "clean")
            panels_of_row[0].set_ylabel(textwrap.fill(variant, 20))
        keys = [
            Line2D([], [], marker="o", linestyle="", markersize=4, color=colour, label=name)
            for colour, name in zip(colours, names, strict=True)
        ]
        figure.legend(handles=keys, loc="outside right upper")
    return figure


def _places(stored: StoredSweep, run: pd.Series) -> dict[str, Any]:
    path = stored.artifact(run, ARTIFACT)
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AnalysisError(f"{ARTIFACT} of run {run['run_id']} is damaged: {error}.") from error
    return found


def _n_images(stored: StoredSweep) -> str:
    found = {about["n_images"] for scores in stored.runs["scores"] if (about := scores.get(GROUP))}
    return " or ".join(f"{n:,}" for n in sorted(found))
