"""Two-dimensional latent spaces and their uncertainty, from a sweep's stored models."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator

from analysis import exhibits, frame, style
from analysis.errors import AnalysisError
from analysis.exhibits import Absent, Exhibit, Picture, Table
from analysis.figures import DENSITIES
from analysis.frame import RunRow
from analysis.parts import Part
from analysis.scores.ellipses import ellipse_axes, ellipse_statistics, sigma_points, typical_image
from analysis.scores.sampling import BY_SVGD, can_be_drawn, samples_of, usual_density
from analysis.stored import SHOE_CLASSES, StoredSweep
from analysis.which_dimension import say_nothing_learned
from fishernet.families import FAMILIES, family, trial_config
from fishernet.trained import decode, posterior_covariances

Array = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]

TITLES = {
    "latent_means": "Two-dimensional latent means by class",
    "uncertainty_of_one_image": "The uncertainty of one image",
    "uncertainty_of_classes": "The uncertainty of three classes",
    "ellipse_sizes": "The uncertainty ellipses of d = 2 in numbers",
    "density_samples": "Samples of the latent density",
}
MOST_PANELS = 3  # of one image, of three classes and of samples: with more, images are too small to be seen
N_CANDIDATES = 1000  # images among which a typical one is looked for
N_PER_CLASS = 100  # images of a class: with more, ellipses hide one another
HEADS = {  # of the table's columns, by the names that ellipse_statistics gives
    "area": "area",
    "area_to_spread": "area / spread of means",
    "axis_ratio": "axis ratio",
    "tilt_degrees": "tilt (degrees)",
    "periphery_to_centre": "periphery / centre",
}
IDENTITY = ("run_id", "variant", "model", "latent_dim", "seed")  # which run a row of data is of
DIRECTIONS = ("$+v_1$", "$-v_1$", "$+v_2$", "$-v_2$")  # of sigma_points, in their order

# Petroff (2021, arXiv:2107.02270): ten colours that stay 17 CIELAB units apart or more under protanopia, deuteranopia and
# tritanopia. Not in his order: blue, orange and red are for Fashion-MNIST's shoes (5, 7, 9), which one figure compares.
CLASS_COLOURS = (
    "#832db6", "#717581", "#a96b59", "#e76300", "#b9ac70", "#3f90da", "#94a4a2", "#ffa90e", "#92dadd", "#bd1f01",
)  # fmt: skip
PRIOR_COLOUR = "#888888"
INCHES_WIDE = 7.0
RASTER_DPI = 300  # of what is pixels in the PDF
HALVES = np.array([-0.5, 0.5])
LEGEND: dict[str, float] = {
    "handlelength": 1.2,
    "handletextpad": 0.5,
    "columnspacing": 1.6,
}  # dots need less room than lines


def parts(
    stored: StoredSweep, *, image: int | None = None, density: str | None = None,
    models: Sequence[str] = (), of_uncertainty: Sequence[str] = (),
) -> Iterator[Part]:  # fmt: skip
    """Means, the uncertainty of one image and of classes, its numbers, and samples; Absent each where no run at d = 2 shows it.

    ``image`` and ``density`` as on the command line. ``models`` are those whose means and samples are shown first,
    ``of_uncertainty`` those whose uncertainty is. Raises AnalysisError for an image that is not there, a density that cannot be
    fitted here, and what StoredSweep raises.
    """
    makers: dict[str, Callable[[], Exhibit]] = {
        "latent_means": lambda: latent_means(stored, models),
        "uncertainty_of_one_image": lambda: uncertainty_of_one_image(stored, image, of_uncertainty),
        "uncertainty_of_classes": lambda: uncertainty_of_classes(stored, of_uncertainty),
        "ellipse_sizes": lambda: ellipse_sizes(stored),
        "density_samples": lambda: density_samples(stored, density, models),
    }
    for stem, make in makers.items():
        yield Part(stem, TITLES[stem], make)


def latent_means(stored: StoredSweep, models: Sequence[str] = ()) -> Exhibit:
    """The means of all held-out images, a panel per variant."""
    stem, labels = "latent_means", stored.images.test_labels
    if not (runs := _shown_runs(stored, models)):
        return _absent(stored, stem)
    if labels is None:
        return _unlabelled(stored, stem)
    means = {title_of(run): stored.latents(run)[0] for run in runs}
    caption = (
        f"Posterior means of all {len(labels)} {stored.sweep.held_out} images, coloured by class: {_say(runs)}. Each panel "
        "has its own scale; the grey circles are the prior's 1σ and 2σ."
    )
    return Picture(stem, TITLES[stem], caption, plot_latent_means(means, stored.class_of, stored.class_names))


def uncertainty_of_one_image(stored: StoredSweep, image: int | None = None, models: Sequence[str] = ()) -> Exhibit:
    """One held-out image's ellipses, and what the decoder makes of the ends of their axes.

    Raises AnalysisError when there is no image of that index.
    """
    stem, images = "uncertainty_of_one_image", stored.images.test
    _check_index(stored, image)
    if not (runs := _shown_runs(stored, models, MOST_PANELS, with_posterior=True)):
        return _absent(stored, stem, with_posterior=True)
    chosen = "chosen by --image"
    if image is None:
        candidates = images[:N_CANDIDATES]
        image = typical_image([posterior_covariances(stored.model(run), candidates) for run in runs])
        chosen = f"of the first {len(candidates)} the one whose ellipses are nearest to the median in size and shape"
    views, rows = {}, []
    for run in runs:
        model, only_it = stored.model(run), images[image : image + 1]
        mean, covariance = stored.latents(run)[0][image], posterior_covariances(model, only_it)[0]
        z = np.stack([mean, *sigma_points(mean, covariance, 1), *sigma_points(mean, covariance, 2)])
        reconstructions = _displayed(decode(model, z, stored.images.image_shape))
        views[title_of(run)] = View(
            mean, covariance, _displayed(only_it / 255)[0], reconstructions, style.colour(run["model"])
        )
        rows.append(_identity(run) | {"image": image} | _ellipse_row(mean, covariance))
    caption = (
        f"{stored.sweep.held_out.capitalize()} image {image}, {chosen}: {_say(runs)}. Above: the posterior's mean, 1σ and 2σ "
        "ellipses, all panels in one scale. Below: the image and its reconstruction from the mean, then from the points marked "
        "above, 1σ (upper row) and 2σ (lower row) from the mean along the ellipse's longer axis v₁ and shorter axis v₂."
    )
    return Picture(stem, TITLES[stem], caption, plot_uncertainty_of_one_image(views), pd.DataFrame(rows))


def uncertainty_of_classes(stored: StoredSweep, models: Sequence[str] = ()) -> Exhibit:
    """Means and 2-sigma ellipses of three classes, the shoes where there are shoes, else the first three."""
    stem = "uncertainty_of_classes"
    if not (runs := _shown_runs(stored, models, MOST_PANELS, with_posterior=True)):
        return _absent(stored, stem, with_posterior=True)
    if stored.images.test_labels is None:
        return _unlabelled(stored, stem)
    labels, names = stored.class_of, stored.class_names
    classes = [names.index(name) for name in SHOE_CLASSES if name in names] or list(range(min(3, len(names))))
    of_class = [np.flatnonzero(labels == label)[:N_PER_CLASS] for label in classes]
    chosen = np.sort(np.concatenate(of_class))  # in the order of the images: no class lies on top of another
    posteriors, rows = {}, []
    for run in runs:
        covariances = posterior_covariances(stored.model(run), stored.images.test[chosen])
        of_run = posteriors[title_of(run)] = Posteriors(stored.latents(run)[0][chosen], covariances)
        for image, mean, covariance in zip(chosen, of_run.means, of_run.covariances, strict=True):
            of_image = {"image": image, "class": names[labels[image]]}
            rows.append(_identity(run) | of_image | _ellipse_row(mean, covariance))
    caption = (
        f"Posterior means and 2σ ellipses of the first {max(map(len, of_class))} {stored.sweep.held_out} images of each of "
        f"{', '.join(names[label] for label in classes)}, {len(chosen)} in all: {_say(runs)}. All panels have one scale, so "
        "that sizes can be compared."
    )
    figure = plot_uncertainty_of_classes(posteriors, labels[chosen], names)
    return Picture(stem, TITLES[stem], caption, figure, pd.DataFrame(rows))


def ellipse_sizes(stored: StoredSweep) -> Table | Absent:
    """``ellipse_statistics`` of every variant at d = 2 that has a posterior: mean ± standard deviation over seeds."""
    stem, data = "ellipse_sizes", ellipse_statistics_by_run(stored)
    if data.empty:
        return _absent(stored, stem, with_posterior=True)
    means = frame.spread(data, ["variant", "model", "statistic"])
    digits = means.groupby("statistic")["mean"].agg(_digits)
    columns = (means["mean"], means["sd"], means["n_seeds"], means["statistic"].map(digits))
    means["cell"] = [exhibits.cell(*numbers) for numbers in zip(*columns, strict=True)]
    shown = means.pivot(index=["variant", "n_seeds"], columns="statistic", values="cell")
    shown = shown.loc[means["variant"].unique(), list(HEADS)].rename(columns=HEADS)
    shown = shown.rename_axis(columns=None).reset_index().rename(columns={"n_seeds": "seeds"})
    caption = (
        f"Of the 1σ ellipses of all {len(stored.images.test)} {stored.sweep.held_out} images at d = 2 the median over images, "
        "as mean ± standard deviation over seeds. Area: in squared units of z, and relative to the area of the 1σ ellipse of "
        "the means themselves, as each model chooses the scale of its latent space. Axis ratio: longest to shortest. Tilt: "
        "between the longest axis and the nearest coordinate axis, 0 for every diagonal covariance, 22.5 where all directions "
        "are as likely. Periphery / centre: median area in the outermost quarter of the means, divided by that in the "
        "innermost."
    )
    caption = " ".join([*say_nothing_learned(stored.learned_nothing, data), caption])
    return exhibits.Table(stem, TITLES[stem], caption, data, shown)


def density_samples(stored: StoredSweep, density: str | None = None, models: Sequence[str] = ()) -> Exhibit:
    """The means beside samples of a latent density, a row per variant.

    Raises AnalysisError when the density cannot be had here.
    """
    stem = "density_samples"
    if not (runs := _shown_runs(stored, models, MOST_PANELS)):
        return _absent(stored, stem)
    density, remark = (density, "") if density else usual_density(stored, runs)
    if density in BY_SVGD and not (runs := [run for run in runs if can_be_drawn(density, run)]):
        return Absent(
            stem,
            TITLES[stem],
            f"Samples {density} are of no run at d = 2: svgd of learned priors, tempered of N(0, 1).",
        )
    latents = {}
    drawn, improper = samples_of(stored, runs, density)
    if not drawn:
        return Absent(stem, TITLES[stem], " ".join(improper))
    for run, samples in drawn:
        means = stored.latents(run)[0]
        n = min(len(means), len(samples))  # as many of each: equal ink is equal density
        latents[title_of(run)] = Sampled(_thin(means, n), _thin(samples, n), style.colour(run["model"]))
    fitted = "" if density in ("prior", *BY_SVGD) else " fitted to the means of the training images"
    caption = (
        f"Left: posterior means of {n} {stored.sweep.held_out} images. Right: as many samples of {DENSITIES[density]}{fitted}"
        f". Both in one scale: {_say(runs)}. {' '.join([remark, *improper])}"
    ).strip()
    return Picture(stem, TITLES[stem], caption, plot_density_samples(latents, stored.sweep.held_out, density))


def ellipse_statistics_by_run(stored: StoredSweep) -> pd.DataFrame:
    """``ellipse_statistics`` of every finished run at d = 2 that has a posterior, over all held-out images.

    Columns run_id, variant, model, latent_dim, seed, statistic, value: five rows a run.
    """
    rows: list[dict[str, object]] = []
    for _, run in _runs_of_the_plane(stored, with_posterior=True).iterrows():
        covariances = posterior_covariances(stored.model(run), stored.images.test)
        statistics = ellipse_statistics(covariances, stored.latents(run)[0])
        rows += [_identity(run) | {"statistic": name, "value": value} for name, value in statistics.items()]
    return pd.DataFrame(rows, columns=[*IDENTITY, "statistic", "value"])


def plot_latent_means(means: Mapping[str, Array], labels: Labels, class_names: Sequence[str]) -> Figure:
    """A scatter of latent means (n, 2) per title, coloured by label, over circles of the prior's 1 and 2 sigma.

    ``labels`` are places in ``class_names``.
    """
    n_columns = 2 if len(means) <= 4 else 3
    n_rows = math.ceil(len(means) / n_columns)
    # The legend takes the cell that is left over, and a strip below where none is.
    n_free = n_rows * n_columns - len(means)
    height = n_rows * (INCHES_WIDE / n_columns + 0.15) + (0 if n_free else 0.45)
    colours = np.array(class_colours(len(class_names)))
    with new_figure((INCHES_WIDE, height)) as figure:
        cells = figure.subplots(n_rows, n_columns, squeeze=False).flat
        for axes, (title, of_variant) in zip(cells, means.items(), strict=False):
            scatter(axes, of_variant, colours[labels])
            for radius in (1, 2):
                axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor=PRIOR_COLOUR, linewidth=0.9, zorder=3))
            _square(axes, *_middle_and_span(of_variant), n_ticks=6 if n_columns == 2 else 4)
            axes.set_title(title)
        keys = [dot(colour, name) for colour, name in zip(colours, class_names, strict=True)]
        keys.append(Line2D([], [], color=PRIOR_COLOUR, linewidth=0.9, label="prior, 1σ and 2σ"))
        for cell in list(figure.axes)[len(means) :]:
            cell.axis("off")
        if n_free:
            figure.axes[-1].legend(handles=keys, loc="center", ncols=math.ceil(len(keys) / 15), **LEGEND)
        else:
            figure.legend(handles=keys, loc="outside lower center", ncols=6, **LEGEND)
    return figure


@dataclass(frozen=True)
class View:
    """One image as one model sees it."""

    mean: Array  # (2,)
    covariance: Array  # (2, 2)
    image: Array  # (height, width, 3), or (height, width) where it is grey; in [0, 1]
    reconstructions: Array  # nine of them: from the mean, and from its sigma_points of 1 and of 2 sigma
    colour: str


def plot_uncertainty_of_one_image(views: Mapping[str, View]) -> Figure:
    """Per title the 1- and 2-sigma ellipses in one scale; below them the image and its reconstructions."""
    extents = [_ellipse_extent(view.mean[None], view.covariance[None], 2) for view in views.values()]
    span = 1.4 * max(_middle_and_span(extent)[1] for extent in extents)  # leaves room for v1 and v2
    n = max(2, len(views))
    layout = ConstrainedLayoutEngine(h_pad=0.02, w_pad=0.03, hspace=0, wspace=0)
    with new_figure((INCHES_WIDE * len(views) / n, 1.43 * INCHES_WIDE / n), layout) as figure:
        parts = figure.subfigures(1, len(views), squeeze=False)[0]
        for part, (title, view) in zip(parts, views.items(), strict=True):
            _draw_view(part, title, view, span)
    return figure


def _draw_view(figure: SubFigure, title: str, view: View, span: float) -> None:
    colour = view.colour
    grid = figure.add_gridspec(3, 5, height_ratios=(5, 1, 1))
    axes = figure.add_subplot(grid[0, :])
    _square(axes, view.mean, span, n_ticks=4)
    axes.set_title(title)
    for n_sigma in (1, 2):
        _draw_ellipses(axes, view.mean[None], view.covariance[None], n_sigma, facecolors="none", edgecolors=colour)
        axes.plot(*sigma_points(view.mean, view.covariance, n_sigma).T, ".", color=colour, markersize=5)
    axes.plot(*view.mean, "+", color=style.KEY_COLOUR, markersize=7)
    for point, name in zip(sigma_points(view.mean, view.covariance, 2), DIRECTIONS, strict=True):
        outwards = (point - view.mean) / np.linalg.norm(point - view.mean)
        axes.annotate(
            name, point, (13, 10) * outwards, textcoords="offset points", ha="center", va="center", fontsize=8
        )
    above = [view.image, *view.reconstructions[1:5]]
    below = [view.reconstructions[0], *view.reconstructions[5:]]
    cells = [figure.add_subplot(grid[row, column]) for row in (1, 2) for column in range(5)]
    for cell, picture in zip(cells, [*above, *below], strict=True):
        cell.imshow(picture, cmap="gray", vmin=0, vmax=1)
        cell.set(xticks=[], yticks=[])
        cell.spines[:].set_visible(False)
    for cell, name in zip(cells, ("image", *DIRECTIONS), strict=False):
        cell.set_title(name, fontsize=8, pad=3)
    cells[5].set_xlabel("mean", fontsize=8, labelpad=2)
    for cell, name in zip(cells[4::5], ("1σ", "2σ"), strict=True):
        cell.yaxis.set_label_position("right")
        cell.set_ylabel(name, fontsize=8, labelpad=3, rotation=0, ha="left", va="center")


@dataclass(frozen=True)
class Posteriors:
    """Of n images at d = 2."""

    means: Array  # (n, 2)
    covariances: Array  # (n, 2, 2)


def plot_uncertainty_of_classes(
    posteriors: Mapping[str, Posteriors], labels: Labels, class_names: Sequence[str]
) -> Figure:
    """Per title the means and 2-sigma ellipses of the same images, coloured by label; all panels in one scale.

    ``labels`` are places in ``class_names``.
    """
    colours = class_colours(len(class_names))
    faces, edges = ([to_rgba(colours[label], alpha) for label in labels] for alpha in (0.25, 0.8))
    frames = [_middle_and_span(_ellipse_extent(p.means, p.covariances, 2)) for p in posteriors.values()]
    span = max(span for _, span in frames)
    n = max(2, len(posteriors))
    with new_figure((INCHES_WIDE * len(posteriors) / n, INCHES_WIDE / n + 0.4)) as figure:
        cells = figure.subplots(1, len(posteriors), squeeze=False)[0]
        for axes, (middle, _), (title, drawn) in zip(cells, frames, posteriors.items(), strict=True):
            _draw_ellipses(axes, drawn.means, drawn.covariances, 2, facecolors=faces, edgecolors=edges, linewidths=0.4)
            scatter(axes, drawn.means, [colours[label] for label in labels])
            _square(axes, middle, span)
            axes.set_title(title)
        keys = [dot(colours[label], class_names[label]) for label in np.unique(labels)]
        figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), **LEGEND)
    return figure


class Sampled(NamedTuple):
    """Latent means and as many samples of a density, (n, 2) each."""

    means: Array
    samples: Array
    colour: str


def plot_density_samples(latents: Mapping[str, Sampled], held_out: str, density: str) -> Figure:
    """A row per title: means and samples beside each other on the same axes."""
    with new_figure((5.6, 2.75 * len(latents))) as figure:
        rows = figure.subplots(len(latents), 2, squeeze=False)
        for pair, (title, drawn) in zip(rows, latents.items(), strict=True):
            points = drawn.means, drawn.samples
            frame = _middle_and_span(np.concatenate(points))
            for axes, of_axes, what in zip(pair, points, (f"{held_out} means", f"samples ({density})"), strict=True):
                scatter(axes, of_axes, drawn.colour, alpha=0.4)
                _square(axes, *frame)
                axes.set_title(f"{title}\n{what}")
    return figure


def _draw_ellipses(axes: Axes, means: Array, covariances: Array, n_sigma: float, **look: object) -> None:
    semi_axes, angles, _ = ellipse_axes(covariances)
    widths, heights = 2 * n_sigma * semi_axes.T
    axes.add_collection(
        EllipseCollection(widths, heights, angles, units="xy", offsets=means, offset_transform=axes.transData, **look)
    )


def scatter(axes: Axes, points: Array, colours: str | np.ndarray | list[str], alpha: float = 1.0) -> None:
    # Pixels also in the PDF, which would take seconds to open with 10,000 circles.
    axes.scatter(points[:, 0], points[:, 1], s=1.6, c=colours, alpha=alpha, linewidths=0, rasterized=True)


def _square(axes: Axes, middle: Array, span: float, n_ticks: int = 6) -> None:
    """Both axes of that span in one scale, with names and few ticks."""
    axes.set(
        xlim=middle[0] + span * HALVES, ylim=middle[1] + span * HALVES, aspect="equal", xlabel="$z_1$", ylabel="$z_2$"
    )
    axes.xaxis.set_major_locator(MaxNLocator(n_ticks, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(n_ticks, steps=[1, 2, 5, 10]))


def _middle_and_span(points: Array) -> tuple[Array, float]:
    """The middle and the side of a square that holds all points (n, 2) with a margin."""
    low, high = points.min(axis=0), points.max(axis=0)
    return (low + high) / 2, 1.06 * float((high - low).max())


def _ellipse_extent(means: Array, covariances: Array, n_sigma: float) -> Array:
    """The corners of every ellipse's box, (2n, 2): it reaches n_sigma standard deviations along each coordinate."""
    reach = n_sigma * np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    return np.concatenate([means - reach, means + reach])


def title_of(run: RunRow) -> str:
    """A panel's title, in lines short enough for three beside one another."""
    return textwrap.fill(style.label(run["variant"], run["model"]), 26)


def dot(colour: str, name: str) -> Line2D:
    return Line2D([], [], linestyle="", marker="o", markersize=5, color=colour, label=name)


def class_colours(n: int) -> Sequence[str]:
    """A colour per class: the ten above, or of a rainbow where classes are more than anyone tells apart by colour."""
    if n <= len(CLASS_COLOURS):
        return CLASS_COLOURS[:n]
    return [to_hex(colour) for colour in colormaps["turbo"](np.linspace(0, 1, n))]


@contextmanager
def new_figure(inches: tuple[float, float], layout: ConstrainedLayoutEngine | None = None) -> Iterator[Figure]:
    """An empty figure, to be filled inside the block, where the sizes and colours of every analysis hold."""
    look = {
        "axes.grid": False,
        "axes.titlesize": 9.5,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
    }
    with matplotlib.rc_context(style.RC | look):
        yield Figure(figsize=inches, layout=layout or ConstrainedLayoutEngine(), dpi=RASTER_DPI)


def _runs_of_the_plane(stored: StoredSweep, *, with_posterior: bool) -> pd.DataFrame:
    """The finished runs at d = 2, on request those of models with a posterior alone."""
    runs = stored.runs[stored.runs["latent_dim"] == 2]
    return runs[runs["model"].map(_has_ellipses).astype(bool)] if with_posterior else runs


def _has_ellipses(model: str) -> bool:
    return family(model).has_ellipses


def _shown_runs(
    stored: StoredSweep, models: Sequence[str] = (), most: int | None = None, *, with_posterior: bool = False
) -> list[RunRow]:
    """The run at d = 2 that stands for each line, in order; of ``most`` lines the usual forms of these models, by default of all,
    before others.
    """
    lines = _runs_of_the_plane(stored, with_posterior=with_posterior).drop_duplicates("variant")
    usual = {config.variant for config in lines["config"] if config.variant == config.label}
    first = [trial_config(model=model).variant for model in models] or [v for v in lines["variant"] if v in usual]
    shown = [variant for variant in first if variant in usual]
    chosen = [*shown, *(v for v in lines["variant"] if v not in shown)][:most]
    return [stored.pick(variant, 2) for variant in lines["variant"] if variant in chosen]


def _absent(stored: StoredSweep, stem: str, *, with_posterior: bool = False) -> Absent:
    """No run at d = 2 can show it."""
    models = stored.runs.drop_duplicates("variant").set_index("variant")["model"]
    variants = [str(variant) for variant, model in models.items() if _has_ellipses(model) or not with_posterior]
    kind = " of a model with a posterior" if with_posterior else ""
    why = (
        f"It is of two-dimensional latent spaces, and no run{kind} at d = 2 has finished in sweep {stored.sweep.name}; "
        f"{stored.command_for(variants or _planned_with_posterior(stored), [2])}"
    )
    return Absent(stem, TITLES[stem], why)


def _planned_with_posterior(stored: StoredSweep) -> list[str]:
    """The lines of the sweep's plan that have a posterior; where none has, the first family that does."""
    planned = dict.fromkeys(c.variant for c in stored.sweep.configs if _has_ellipses(c.model))
    return list(planned) or [next(model for model in FAMILIES if _has_ellipses(model))]


def _unlabelled(stored: StoredSweep, stem: str) -> Absent:
    return Absent(stem, TITLES[stem], f"It shows classes, and the images of sweep {stored.sweep.name} have no labels.")


def _say(runs: Sequence[RunRow]) -> str:
    """FisherNet (seed 0), VAE (seed 0)."""
    return ", ".join(f"{run['variant']} (seed {run['seed']})" for run in runs)


def _identity(run: RunRow) -> dict[str, object]:
    return {name: run[name] for name in IDENTITY}


def _ellipse_row(mean: Array, covariance: Array) -> dict[str, float]:
    """What a CSV says of one image's 1-sigma ellipse."""
    (longer, shorter), angle, _ = ellipse_axes(covariance)
    numbers = (*mean, longer, shorter, angle)
    names = ("mean_z1", "mean_z2", "semi_axis_longer", "semi_axis_shorter", "angle_degrees")
    return {name: float(number) for name, number in zip(names, numbers, strict=True)}


def _check_index(stored: StoredSweep, image: int | None) -> None:
    n = len(stored.images.test)
    if image is not None and not 0 <= image < n:
        raise AnalysisError(f"--image chooses the {stored.sweep.held_out} image, from 0 to {n - 1}; got {image}.")


def _thin(points: Array, n: int) -> Array:
    """n of the points, evenly from first to last: a density may give its samples in an order, such as by component."""
    return points[np.linspace(0, len(points) - 1, n).astype(int)]


def _displayed(images: torch.Tensor) -> Array:
    """Images (n, channels, height, width) in [0, 1] as imshow takes them."""
    pixels: Array = images.numpy().transpose(0, 2, 3, 1)
    return pixels[..., 0] if pixels.shape[3] == 1 else pixels


def _digits(values: pd.Series[float]) -> int:
    """Decimals that leave three figures of the smallest."""
    least = float(values.min())
    return max(0, 2 - math.floor(math.log10(least))) if 0 < least < math.inf else 1
