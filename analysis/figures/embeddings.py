"""Latents of more than two dimensions in a plane, and how far draws of them lie from their centre."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import chi
from sklearn.manifold import TSNE

from analysis import style
from analysis.exhibits import Absent, Exhibit, Picture
from analysis.figures.latent_space import LEGEND, class_colours, dot, new_figure, scatter, title_of
from analysis.figures.prior_densities import codes
from analysis.figures.traversals import shown_runs
from analysis.frame import chosen_dim
from analysis.parts import Part
from analysis.stored import StoredSweep, config_of
from fishernet.families import family
from fishernet.wording import listed

EMBEDDINGS = "embeddings", "Latent means in a plane by t-SNE"
RADII = "radii", "Distances of latents from their mean"
EMBEDDED, ALL_EMBEDDED = 2000, 12_000  # images of each line, and of all of them, which take a minute
PERPLEXITY = 30  # t-SNE's usual, about how many neighbours count
RADIAL = 5000  # images, as in the paper
MOST_BINS = 60
FRAME = "#D5D5D5"
N_COLUMNS = 3
Array = npt.NDArray[Any]


def parts(
    stored: StoredSweep, latent_dim: int | None = None, lines: Sequence[str] = (), images: int | None = None
) -> Iterator[Part]:
    """Both at ``latent_dim``, by default the one that most lines have, of several the largest; ``images`` of each line.

    ``lines``: the variants that are embedded; without, or where the sweep has none of them, all are.
    Raises AnalysisError for one that is not there.
    """
    d = chosen_dim(stored.runs, latent_dim)
    yield Part(*EMBEDDINGS, partial(embeddings, stored, d, lines, images))
    yield Part(*RADII, partial(radii, stored, d))


def embeddings(stored: StoredSweep, d: int, lines: Sequence[str] = (), images: int | None = None) -> Exhibit:
    """A panel for each line, which is embedded alone.

    One fit of several lines would take points of one for neighbours of another's, whose latents mean something else, and part
    each line's own neighbours.
    """
    stem, title = EMBEDDINGS
    if d <= 2:
        command = stored.sweep.command("figures latent-space")
        return Absent(stem, title, f"Two latents are a plane already: `{command}` draws it.")
    asked = stored.runs[stored.runs["variant"].isin(lines)]
    runs = shown_runs(stored, asked, d) or shown_runs(stored, stored.runs, d)
    n = min(images or min(EMBEDDED, ALL_EMBEDDED // len(runs)), len(stored.images.test))
    placed: dict[str, Array] = {}
    tables = []
    for run in runs:
        placed[title_of(run)] = own = embedded(stored.latents(run)[0][:n])
        about = {name: run[name] for name in ("variant", "latent_dim", "seed", "run_id")}
        tables.append(pd.DataFrame({**about, "image": range(n), "x": own[:, 0], "y": own[:, 1]}))
    caption = (
        f"Posterior means of the first {n} {stored.sweep.held_out} images at d = {d}, by "
        f"t-SNE (van der Maaten and Hinton 2008; scikit-learn's, perplexity at most {PERPLEXITY}, one fixed seed). It "
        "shows who is near whom and sets its own scale: neither the sizes of clusters nor the distances between them say "
        "how wide or how far apart latents are."
    )
    if len(runs) > 1:
        caption += (
            " Each line is embedded alone, in a scale of its own: latents of networks that were trained apart have no place in "
            "common."
        )
    labels = stored.images.test_labels
    names = stored.class_names if labels is not None else ()
    classes = stored.class_of if labels is not None else None
    if classes is None:
        caption += " The images have no labels, so that no colour tells classes."
    frames = {title_of(run): str(run["model"]) for run in runs}
    figure = plot_embeddings(placed, frames, classes, names)
    return Picture(stem, title, caption, figure, pd.concat(tables, ignore_index=True))


def embedded(means: Array) -> Array:
    """Latent means, (n, d), in a plane, (n, 2)."""
    points = means.astype(float)
    # Points that are all one, as those of a collapsed model, have no principal components, and the fit would begin at NaN, which
    # ends the process; so would the squares of tiny ones. The fit knows no scale.
    spread = float(np.ptp(points, axis=0).max())
    points = (points - points.mean(axis=0)) / (spread or 1.0)
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    plane = TSNE(2, perplexity=perplexity, init="pca" if spread else "random", random_state=0).fit_transform(points)
    return np.asarray(plane)


def plot_embeddings(
    placed: Mapping[str, Array], model_of: Mapping[str, str], classes: Array | None, names: Sequence[str]
) -> Figure:
    """A panel per title, coloured by class where there are classes; each has its own scale."""
    n_columns = min(N_COLUMNS, len(placed))
    n_rows = math.ceil(len(placed) / n_columns)
    colours = np.array(class_colours(len(names))) if len(names) else None
    with new_figure((2.33 * max(2, n_columns), 2.45 * n_rows + 0.45)) as figure:
        cells = figure.subplots(n_rows, n_columns, squeeze=False).flat
        for axes, (title, points) in zip(cells, placed.items(), strict=False):
            own = (
                style.colour(model_of[title]) if colours is None or classes is None else colours[classes[: len(points)]]
            )
            scatter(axes, points, own)
            low, high = points.min(0), points.max(0)
            span, middle = 1.06 * (high - low).max() / 2, (low + high) / 2
            axes.set(
                xlim=middle[0] + span * np.array([-1, 1]), ylim=middle[1] + span * np.array([-1, 1]), aspect="equal"
            )
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=FRAME)
            axes.set_title(title)
        for cell in list(figure.axes)[len(placed) :]:
            cell.axis("off")
        if colours is not None:
            keys = [dot(colour, name) for colour, name in zip(colours, names, strict=True)]
            n_rows_of_keys = math.ceil(sum(len(str(name)) + 6 for name in names) / (26 * max(2, n_columns)))
            figure.legend(
                handles=keys, loc="outside lower center", ncols=math.ceil(len(keys) / n_rows_of_keys), **LEGEND
            )
    return figure


def radii(stored: StoredSweep, d: int) -> Exhibit:
    """A histogram for each line with a prior, of draws of its posteriors, and of what draws of N(0, 1) would have."""
    stem, title = RADII
    runs = [run for run in shown_runs(stored, stored.runs, d) if family(run["model"]).prior]
    if not runs:
        return Absent(stem, title, "None of the runs is of a model with a prior to compare with.")
    images = stored.images.test[:RADIAL]
    found, tables, learned = {}, [], []
    for run in runs:
        z = codes(stored.model(run), images, int(run["seed"]))
        found[str(run["variant"])] = np.linalg.norm(z - z.mean(axis=0), axis=1)
        about = {name: run[name] for name in ("variant", "latent_dim", "seed", "run_id")}
        tables.append(pd.DataFrame({**about, "image": range(len(z)), "radius": found[str(run["variant"])]}))
        if getattr(config_of(run), "prior", "normal") != "normal":
            learned.append(str(run["variant"]))
    coded = [str(run["variant"]) for run in runs if not family(run["model"]).posterior]
    caption = (
        f"|z − mean z| of one posterior draw for each of the first {len(images)} {stored.sweep.held_out} images, d = {d}, the "
        f"mean over images. Grey: draws of the prior N(0, 1), whose distances have the chi distribution of {d} degrees. These "
        "are all posteriors together: a spread near the prior's says nothing of how narrow each of them is."
    )
    caption += f" Of {listed(coded)} codes, as there is no posterior." if coded else ""
    caption += f" {listed(learned)} learned another prior than N(0, 1)." if learned else ""
    data = pd.concat(tables, ignore_index=True)
    looks = {str(variant): look for variant, look, _ in style.by_variant(stored.runs)}
    return Picture(stem, title, caption, plot_radii(found, looks, d), data)


def plot_radii(found: Mapping[str, Array], looks: Mapping[str, Mapping[str, Any]], d: int) -> Figure:
    """A panel for each line: the density of the distances, over chi's."""
    furthest = max(float(np.quantile(r, 0.999)) for r in found.values())
    top = 1.05 * max(furthest, float(chi.ppf(0.999, d)))
    at = np.linspace(0, top, 400)
    n_columns = min(N_COLUMNS, len(found))
    with style.new_grid(math.ceil(len(found) / n_columns), n_columns, width=2.2) as (figure, grid):
        for axes, (variant, r) in zip(grid.flat, found.items(), strict=False):
            axes.fill_between(at, chi.pdf(at, d), color=FRAME, linewidth=0)
            heights, edges = np.histogram(r, bins=max(8, min(MOST_BINS, math.isqrt(len(r)))), range=(0, top))
            axes.stairs(heights / (len(r) * np.diff(edges)), edges, color=looks[variant]["color"], linewidth=1.2)
            axes.set_title(textwrap.fill(variant, 26), fontsize=9)
            axes.set(xlim=(0, top), yticks=[])
        highest = max(axes.get_ylim()[1] for axes in grid.flat[: len(found)])
        for axes in grid.flat[: len(found)]:
            axes.set_ylim(0, highest)
        for axes in grid.flat[len(found) :]:
            axes.set_axis_off()
        figure.supxlabel(r"distance from the mean $\|z - \bar z\|$", fontsize=9)
    return figure
