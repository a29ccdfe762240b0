"""Two-dimensional latent spaces and their uncertainty (FisherNet paper, Figures 4, 5, 6 and 9), from a sweep's stored models.

python analysis/latent_space.py --name SWEEP
"""

import math
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if not __package__:  # started as a script: its own folder leads sys.path, and the packages are beside that folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis import command
from analysis.parts import Part, all_of
from fishernet.surroundings import entry_point

# torch, pandas, MLflow and matplotlib take seconds to import: functions do it, so that --help answers at once.
if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from analysis.exhibits import Absent, Exhibit, Table
    from analysis.stored import StoredSweep

Array = npt.NDArray[Any]

TITLES = {
    "latent_means": "Figure 4. Two-dimensional latent means by class",
    "uncertainty_of_one_image": "Figure 5. The uncertainty of one image",
    "uncertainty_of_shoes": "Figure 6. The uncertainty of three classes",
    "ellipse_sizes": "The uncertainty ellipses of d = 2 in numbers (Figures 5 and 6)",
    "density_samples": "Figure 9. Samples of the latent density",
}
PAPER_VARIANTS = ("FisherNet", "VAE", "CVAE")  # the panels of the paper's Figure 4, in its order
MOST_PANELS = 3  # of Figures 5, 6 and 9: with more, images are too small to be seen
N_CANDIDATES = 1000  # images among which Figure 5 looks for a typical one
N_PER_CLASS = 100  # images of Figure 6: with more, ellipses hide one another
HEADS = {  # of the table's columns, by the names that ellipse_statistics gives
    "area": "area",
    "area_to_spread": "area / spread of means",
    "axis_ratio": "axis ratio",
    "tilt_degrees": "tilt (degrees)",
    "periphery_to_centre": "periphery / centre",
}
IDENTITY = ("run_id", "variant", "model", "latent_dim", "seed")  # which run a row of data is of
DIRECTIONS = ("$+v_1$", "$-v_1$", "$+v_2$", "$-v_2$")  # of sigma_points, in their order
DENSITIES = {
    "prior": "the prior",
    "mkde": "Matérn kernel density estimation",
    "mixture": "a Gaussian mixture",
    "kde": "Gaussian kernel density estimation",
}

# Petroff (2021, arXiv:2107.02270): ten colours that stay 17 CIELAB units apart or more under protanopia, deuteranopia and
# tritanopia. Not in his order: blue, orange and red are for Fashion-MNIST's shoes (5, 7, 9), which Figure 6 compares.
CLASS_COLOURS = (
    "#832db6", "#717581", "#a96b59", "#e76300", "#b9ac70", "#3f90da", "#94a4a2", "#ffa90e", "#92dadd", "#bd1f01",
)  # fmt: skip
PRIOR_COLOUR = "#888888"
INCHES_WIDE = 7.0
RASTER_DPI = 300  # of what is pixels in the PDF
HALVES = np.array([-0.5, 0.5])
LEGEND: Any = {"handlelength": 1.2, "handletextpad": 0.5, "columnspacing": 1.6}  # dots need less room than lines


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 after a sentence on stderr when what was asked for cannot be drawn."""
    parser = command.parser(
        "fishernet-latent-space",
        "Draw the latent spaces of a sweep's runs at d = 2: means by class, uncertainty ellipses of one image and\n"
        "of three classes with a table of their sizes, and samples of the latent density.",
        "python analysis/latent_space.py --name figure-2 --seed 1 --image 25",
    )
    command.add_picture_flags(parser)
    parser.add_argument(
        "--image",
        type=int,
        metavar="INDEX",
        help="the held-out image of Figure 5, from 0; default: one whose ellipses are typical in size and shape",
    )
    parser.add_argument(
        "--density",
        choices=DENSITIES,
        help="the latent density of Figure 9; default: mkde where the runs have its samples, else mixture",
    )
    return command.main(parser, lambda stored, o: parts(stored, image=o.image, density=o.density), argv)


def exhibits(stored: "StoredSweep", *, image: int | None = None, density: str | None = None) -> "Iterator[Exhibit]":
    """What ``parts`` makes, and what they raise."""
    return all_of(parts(stored, image=image, density=density))


def parts(stored: "StoredSweep", *, image: int | None = None, density: str | None = None) -> Iterator[Part]:
    """Figures 4, 5 and 6, the numbers of their ellipses, and Figure 9; Absent each where no run at d = 2 can show it.

    ``image`` and ``density`` as on the command line. Raises AnalysisError for an image that is not there, a density that
    cannot be fitted here, and what StoredSweep raises.
    """
    makers: dict[str, Callable[[], Exhibit]] = {
        "latent_means": lambda: latent_means(stored),
        "uncertainty_of_one_image": lambda: uncertainty_of_one_image(stored, image),
        "uncertainty_of_shoes": lambda: uncertainty_of_shoes(stored),
        "ellipse_sizes": lambda: ellipse_sizes(stored),
        "density_samples": lambda: density_samples(stored, density),
    }
    for stem, make in makers.items():
        yield Part(stem, TITLES[stem], make)


def latent_means(stored: "StoredSweep") -> "Exhibit":
    """Figure 4: the means of all held-out images, a panel per variant."""
    from analysis.exhibits import Picture

    stem, labels = "latent_means", stored.images.test_labels
    if not (runs := _shown_runs(stored, PAPER_VARIANTS)):
        return _absent(stored, stem)
    if labels is None:
        return _unlabelled(stored, stem)
    means = {run["variant"]: stored.latents(run)[0] for run in runs}
    caption = (
        f"Posterior means of all {len(labels)} {stored.sweep.held_out} images, coloured by class: {_say(runs)}. Each panel "
        "has its own scale; the grey circles are the prior's 1σ and 2σ. The paper's Figure 4 shows FisherNet, VAE and "
        "CVAE, mirrored where that makes them more alike; here nothing is mirrored."
    )
    return Picture(stem, TITLES[stem], caption, plot_latent_means(means, stored.class_of, stored.class_names))


def uncertainty_of_one_image(stored: "StoredSweep", image: int | None = None) -> "Exhibit":
    """Figure 5: one held-out image's ellipses, and what the decoder makes of the ends of their axes.

    Raises AnalysisError when there is no image of that index.
    """
    import pandas as pd

    from analysis.exhibits import Picture
    from analysis.stored import decode, posterior_covariances

    stem, images = "uncertainty_of_one_image", stored.images.test
    _check_index(stored, image)
    if not (runs := _shown_runs(stored, PAPER_VARIANTS[:2], with_posterior=True)[:MOST_PANELS]):
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
        views[run["variant"]] = View(mean, covariance, _displayed(only_it / 255)[0], reconstructions)
        rows.append(_identity(run) | {"image": image} | _ellipse_row(mean, covariance))
    caption = (
        f"{stored.sweep.held_out.capitalize()} image {image}, {chosen}: {_say(runs)}. Above: the posterior's mean, 1σ and 2σ "
        "ellipses, from M⁻¹ (equation 20) for FisherNet and from the encoder's variances for VAE and CVAE, all panels in one "
        "scale. Below: the image and its reconstruction from the mean, then from the points marked above, 1σ (upper row) and "
        "2σ (lower row) from the mean along the ellipse's longer axis v₁ and shorter axis v₂. The paper's Figure 5 shows one "
        "image of FisherNet, whose ellipse is smaller and tilted, and of the VAE."
    )
    return Picture(stem, TITLES[stem], caption, plot_uncertainty_of_one_image(views), pd.DataFrame(rows))


def uncertainty_of_shoes(stored: "StoredSweep") -> "Exhibit":
    """Figure 6: means and 2-sigma ellipses of three classes, the shoes where there are shoes, else the first three."""
    import pandas as pd

    from analysis.exhibits import Picture
    from analysis.stored import SHOE_CLASSES, posterior_covariances

    stem = "uncertainty_of_shoes"
    if not (runs := _shown_runs(stored, PAPER_VARIANTS[:2], with_posterior=True)[:MOST_PANELS]):
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
        of_run = posteriors[run["variant"]] = Posteriors(stored.latents(run)[0][chosen], covariances)
        for image, mean, covariance in zip(chosen, of_run.means, of_run.covariances, strict=True):
            of_image = {"image": image, "class": names[labels[image]]}
            rows.append(_identity(run) | of_image | _ellipse_row(mean, covariance))
    caption = (
        f"Posterior means and 2σ ellipses of the first {max(map(len, of_class))} {stored.sweep.held_out} images of each of "
        f"{', '.join(names[label] for label in classes)}, {len(chosen)} in all: {_say(runs)}. All panels have one scale, so "
        "that sizes can be compared. The paper's Figure 6 shows Fashion-MNIST's three classes of shoes for FisherNet, with "
        "tilted ellipses that are larger at the periphery, and for the VAE."
    )
    figure = plot_uncertainty_of_classes(posteriors, labels[chosen], names)
    return Picture(stem, TITLES[stem], caption, figure, pd.DataFrame(rows))


def ellipse_sizes(stored: "StoredSweep") -> "Table | Absent":
    """``ellipse_statistics`` of every variant at d = 2 that has a posterior: mean ± standard deviation over seeds."""
    from analysis import exhibits, frame

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
        "innermost. The paper says of its Figures 5 and 6 that FisherNet's ellipses are smaller than the VAE's, tilted, and "
        "larger at the periphery."
    )
    return exhibits.Table(stem, TITLES[stem], caption, data, shown)


def density_samples(stored: "StoredSweep", density: str | None = None) -> "Exhibit":
    """Figure 9: the means beside samples of a latent density, a row per variant.

    Raises AnalysisError when the density cannot be had here.
    """
    from analysis.exhibits import Picture
    from analysis.scores.sampling import latent_samples, usual_density

    stem = "density_samples"
    if not (runs := _shown_runs(stored, PAPER_VARIANTS)[:MOST_PANELS]):
        return _absent(stored, stem)
    density, remark = (density, "") if density else usual_density(stored, runs)
    latents = {}
    for run in runs:
        means, samples = stored.latents(run)[0], latent_samples(stored, run, density)
        n = min(len(means), len(samples))  # as many of each: equal ink is equal density
        latents[run["variant"]] = _thin(means, n), _thin(samples, n)
    fitted = "" if density == "prior" else " fitted to the means of the training images"
    caption = (
        f"Left: posterior means of {n} {stored.sweep.held_out} images. Right: as many samples of {DENSITIES[density]}{fitted}"
        f". Both in one scale: {_say(runs)}. The paper's Figure 9 shows FisherNet with Matérn kernel density "
        f"estimation (MKDE). {remark}"
    ).strip()
    return Picture(stem, TITLES[stem], caption, plot_density_samples(latents, stored.sweep.held_out, density))


def ellipse_statistics_by_run(stored: "StoredSweep") -> "pd.DataFrame":
    """``ellipse_statistics`` of every finished run at d = 2 that has a posterior, over all held-out images.

    Columns run_id, variant, model, latent_dim, seed, statistic, value: five rows a run.
    """
    import pandas as pd

    from analysis.stored import posterior_covariances

    rows: list[dict[str, Any]] = []
    for _, run in _runs_of_the_plane(stored, with_posterior=True).iterrows():
        covariances = posterior_covariances(stored.model(run), stored.images.test)
        statistics = ellipse_statistics(covariances, stored.latents(run)[0])
        rows += [_identity(run) | {"statistic": name, "value": value} for name, value in statistics.items()]
    return pd.DataFrame(rows, columns=[*IDENTITY, "statistic", "value"])


def ellipse_statistics(covariances: Array, means: Array) -> dict[str, float]:
    """What the paper says of its ellipses, as numbers; covariances (n, 2, 2) and means (n, 2) of n images.

    All but the last are medians over images of the 1-sigma ellipse with semi-axes s1 >= s2:

        area                 pi s1 s2, in squared units of z
        area_to_spread       the same over the area of the means' 1-sigma ellipse, pi sqrt(det cov(means)): unlike the area it
                             does not change when a model stretches its latent space
        axis_ratio           s1 / s2
        tilt_degrees         the acute angle between the longest axis and the nearest coordinate axis, 0 to 45: 0 for a diagonal
                             covariance, 22.5 where every direction is as likely
        periphery_to_centre  the median area of the quarter of images whose means are farthest from the centroid of all, over
                             that of the nearest quarter

    Raises ValueError for shapes other than these.
    """
    if means.ndim != 2 or means.shape[1:] != (2,) or covariances.shape != (len(means), 2, 2):
        raise ValueError(f"means must be (n, 2) and covariances (n, 2, 2); got {means.shape} and {covariances.shape}")
    semi_axes, angles, _ = ellipse_axes(covariances)
    areas = math.pi * semi_axes.prod(axis=1)
    tilts = np.minimum(np.abs(angles), 90 - np.abs(angles))
    offsets = (means - means.mean(axis=0)).astype(float)
    distances = np.linalg.norm(offsets, axis=1)
    nearest, farthest = np.quantile(distances, [0.25, 0.75])
    # the root of the covariance's determinant, which rounding cannot make negative here
    spread = math.pi * np.linalg.svd(offsets, compute_uv=False).prod() / (len(means) - 1)
    return {
        "area": float(np.median(areas)),
        "area_to_spread": float(np.median(areas) / spread) if spread > 0 else math.inf,  # an encoder may be constant
        "axis_ratio": float(np.median(semi_axes[:, 0] / semi_axes[:, 1])),
        "tilt_degrees": float(np.median(tilts)),
        "periphery_to_centre": float(np.median(areas[distances >= farthest]) / np.median(areas[distances <= nearest])),
    }


def ellipse_axes(covariance: Array) -> tuple[Array, Array, Array]:
    """The 1-sigma ellipses of covariances (..., 2, 2): semi-axes (..., 2), angles (...) and eigenvectors (..., 2, 2).

    Semi-axes are square roots of eigenvalues, the longer first; the angle is the longer one's, in degrees from the z1 axis,
    from -90 to 90; eigenvectors are columns in the order of the semi-axes and point to the right.
    """
    # float64: of nearly equal eigenvalues, float32 gives no direction
    eigenvalues, vectors = np.linalg.eigh(np.asarray(covariance, dtype=float))
    semi_axes, vectors = np.sqrt(eigenvalues[..., ::-1]), vectors[..., ::-1]
    vectors = vectors * np.where(vectors[..., :1, :] < 0, -1.0, 1.0)  # eigh leaves the sign open
    return semi_axes, np.degrees(np.arctan2(vectors[..., 1, 0], vectors[..., 0, 0])), vectors


def sigma_points(mean: Array, covariance: Array, n_sigma: float) -> Array:
    """The ends of the n_sigma ellipse's axes, (4, 2): mean + and - the longer one, mean + and - the shorter one."""
    semi_axes, _, vectors = ellipse_axes(covariance)
    longer, shorter = n_sigma * (vectors * semi_axes).T
    return mean + np.stack([longer, -longer, shorter, -shorter])


def typical_image(covariances: Sequence[Array]) -> int:
    """The index whose ellipses are nearest to the median in every model at once; one (n, 2, 2) per model.

    Nearest in the sum over models of |ln(area / median area)| + |ln(axis ratio / median axis ratio)|.
    """
    distance = np.zeros(len(covariances[0]))
    for of_model in covariances:
        log_axes = np.log(ellipse_axes(of_model)[0])
        for value in (log_axes.sum(axis=1), log_axes[:, 0] - log_axes[:, 1]):
            distance += np.abs(value - np.median(value))
    return int(distance.argmin())


def plot_latent_means(means: Mapping[str, Array], labels: Array, class_names: Sequence[str]) -> "Figure":
    """A scatter of latent means (n, 2) per variant, coloured by label, over circles of the prior's 1 and 2 sigma.

    ``labels`` are places in ``class_names``.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle

    n_columns = 2 if len(means) <= 4 else 3
    n_rows = math.ceil(len(means) / n_columns)
    # The legend takes the cell that is left over, and a strip below where none is.
    n_free = n_rows * n_columns - len(means)
    height = n_rows * (INCHES_WIDE / n_columns + 0.15) + (0 if n_free else 0.45)
    colours = np.array(_class_colours(len(class_names)))
    with _new_figure((INCHES_WIDE, height)) as figure:
        cells = figure.subplots(n_rows, n_columns, squeeze=False).flat
        for axes, (variant, of_variant) in zip(cells, means.items(), strict=False):
            _scatter(axes, of_variant, colours[labels])
            for radius in (1, 2):
                axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor=PRIOR_COLOUR, linewidth=0.9, zorder=3))
            _square(axes, *_middle_and_span(of_variant), n_ticks=6 if n_columns == 2 else 4)
            axes.set_title(_title(variant))
        keys = [_dot(colour, name) for colour, name in zip(colours, class_names, strict=True)]
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


def plot_uncertainty_of_one_image(views: Mapping[str, View]) -> "Figure":
    """Per variant the 1- and 2-sigma ellipses in one scale; below them the image and its reconstructions."""
    extents = [_ellipse_extent(view.mean[None], view.covariance[None], 2) for view in views.values()]
    span = 1.4 * max(_middle_and_span(extent)[1] for extent in extents)  # leaves room for v1 and v2
    n = max(2, len(views))
    with _new_figure(
        (INCHES_WIDE * len(views) / n, 1.43 * INCHES_WIDE / n), h_pad=0.02, w_pad=0.03, hspace=0, wspace=0
    ) as figure:
        parts = figure.subfigures(1, len(views), squeeze=False)[0]
        for part, (variant, view) in zip(parts, views.items(), strict=True):
            _draw_view(part, variant, view, span)
    return figure


def _draw_view(figure: "SubFigure", variant: str, view: View, span: float) -> None:
    from analysis import style

    colour = style.colour(style.model_of(variant))
    grid = figure.add_gridspec(3, 5, height_ratios=(5, 1, 1))
    axes = figure.add_subplot(grid[0, :])
    _square(axes, view.mean, span, n_ticks=4)
    axes.set_title(_title(variant))
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
    posteriors: Mapping[str, Posteriors], labels: Array, class_names: Sequence[str]
) -> "Figure":
    """Per variant the means and 2-sigma ellipses of the same images, coloured by label; all panels in one scale.

    ``labels`` are places in ``class_names``.
    """
    from matplotlib.colors import to_rgba

    colours = _class_colours(len(class_names))
    faces, edges = ([to_rgba(colours[label], alpha) for label in labels] for alpha in (0.25, 0.8))
    frames = [_middle_and_span(_ellipse_extent(p.means, p.covariances, 2)) for p in posteriors.values()]
    span = max(span for _, span in frames)
    n = max(2, len(posteriors))
    with _new_figure((INCHES_WIDE * len(posteriors) / n, INCHES_WIDE / n + 0.4)) as figure:
        cells = figure.subplots(1, len(posteriors), squeeze=False)[0]
        for axes, (middle, _), (variant, drawn) in zip(cells, frames, posteriors.items(), strict=True):
            _draw_ellipses(axes, drawn.means, drawn.covariances, 2, facecolors=faces, edgecolors=edges, linewidths=0.4)
            _scatter(axes, drawn.means, [colours[label] for label in labels])
            _square(axes, middle, span)
            axes.set_title(_title(variant))
        keys = [_dot(colours[label], class_names[label]) for label in np.unique(labels)]
        figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), **LEGEND)
    return figure


def plot_density_samples(latents: Mapping[str, tuple[Array, Array]], held_out: str, density: str) -> "Figure":
    """A row per variant: (means, samples), (n, 2) each, beside each other on the same axes."""
    from analysis import style

    with _new_figure((5.6, 2.75 * len(latents))) as figure:
        rows = figure.subplots(len(latents), 2, squeeze=False)
        for pair, (variant, points) in zip(rows, latents.items(), strict=True):
            frame = _middle_and_span(np.concatenate(points))
            for axes, of_axes, what in zip(pair, points, (f"{held_out} means", f"samples ({density})"), strict=True):
                _scatter(axes, of_axes, style.colour(style.model_of(variant)), alpha=0.4)
                _square(axes, *frame)
                axes.set_title(f"{_title(variant)}\n{what}")
    return figure


def _draw_ellipses(axes: "Axes", means: Array, covariances: Array, n_sigma: float, **look: Any) -> None:
    from matplotlib.collections import EllipseCollection

    semi_axes, angles, _ = ellipse_axes(covariances)
    widths, heights = 2 * n_sigma * semi_axes.T
    axes.add_collection(
        EllipseCollection(widths, heights, angles, units="xy", offsets=means, offset_transform=axes.transData, **look)
    )


def _scatter(axes: "Axes", points: Array, colours: Any, alpha: float = 1.0) -> None:
    # Pixels also in the PDF, which would take seconds to open with 10,000 circles.
    axes.scatter(points[:, 0], points[:, 1], s=1.6, c=colours, alpha=alpha, linewidths=0, rasterized=True)


def _square(axes: "Axes", middle: Array, span: float, n_ticks: int = 6) -> None:
    """Both axes of that span in one scale, with names and few ticks."""
    from matplotlib.ticker import MaxNLocator

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


def _title(variant: str) -> str:
    """A panel's title, in lines short enough for three beside one another."""
    from analysis import style

    return textwrap.fill(style.label(variant), 26)


def _dot(colour: str, name: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="", marker="o", markersize=5, color=colour, label=name)


def _class_colours(n: int) -> Sequence[str]:
    """A colour per class: the ten above, or of a rainbow where classes are more than anyone tells apart by colour."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if n <= len(CLASS_COLOURS):
        return CLASS_COLOURS[:n]
    return [to_hex(colour) for colour in colormaps["turbo"](np.linspace(0, 1, n))]


@contextmanager
def _new_figure(inches: tuple[float, float], **gaps: Any) -> "Iterator[Figure]":
    """An empty figure, to be filled inside the block, where the sizes and colours of every analysis hold."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from analysis import style

    look: Any = {
        "axes.grid": False,
        "axes.titlesize": 9.5,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
    }
    with matplotlib.rc_context(style.RC | look):
        yield Figure(figsize=inches, layout=ConstrainedLayoutEngine(**gaps), dpi=RASTER_DPI)


def _runs_of_the_plane(stored: "StoredSweep", *, with_posterior: bool) -> "pd.DataFrame":
    """The finished runs at d = 2, on request those of models with a posterior alone."""
    runs = stored.runs[stored.runs["latent_dim"] == 2]
    return runs[runs["model"].map(_has_posterior).astype(bool)] if with_posterior else runs


def _has_posterior(model: str) -> bool:
    from fishernet.families import family

    return family(model).posterior


def _shown_runs(stored: "StoredSweep", first: Sequence[str], *, with_posterior: bool = False) -> "list[pd.Series[Any]]":
    """The run at d = 2 that stands for each variant, those of ``first`` before the others."""
    variants = list(_runs_of_the_plane(stored, with_posterior=with_posterior)["variant"].unique())
    variants.sort(key=lambda variant: first.index(variant) if variant in first else len(first))
    return [stored.pick(variant, 2) for variant in variants]


def _absent(stored: "StoredSweep", stem: str, *, with_posterior: bool = False) -> "Absent":
    """No run at d = 2 can show it."""
    from analysis.exhibits import Absent

    models = stored.runs.drop_duplicates("variant").set_index("variant")["model"]
    variants = [str(variant) for variant, model in models.items() if _has_posterior(model) or not with_posterior]
    kind = " of a model with a posterior" if with_posterior else ""
    why = (
        f"It is of two-dimensional latent spaces, and no run{kind} at d = 2 has finished in sweep {stored.sweep.name}; "
        f"{stored.command_for(variants or PAPER_VARIANTS[:2], [2])}"
    )
    return Absent(stem, TITLES[stem], why)


def _unlabelled(stored: "StoredSweep", stem: str) -> "Absent":
    from analysis.exhibits import Absent

    return Absent(stem, TITLES[stem], f"It shows classes, and the images of sweep {stored.sweep.name} have no labels.")


def _say(runs: "Sequence[pd.Series[Any]]") -> str:
    """FisherNet (seed 0), VAE (seed 0)."""
    return ", ".join(f"{run['variant']} (seed {run['seed']})" for run in runs)


def _identity(run: "pd.Series[Any]") -> dict[str, Any]:
    return {name: run[name] for name in IDENTITY}


def _ellipse_row(mean: Array, covariance: Array) -> dict[str, float]:
    """What a CSV says of one image's 1-sigma ellipse."""
    (longer, shorter), angle, _ = ellipse_axes(covariance)
    numbers = (*mean, longer, shorter, angle)
    names = ("mean_z1", "mean_z2", "semi_axis_longer", "semi_axis_shorter", "angle_degrees")
    return {name: float(number) for name, number in zip(names, numbers, strict=True)}


def _check_index(stored: "StoredSweep", image: int | None) -> None:
    from analysis.frame import AnalysisError

    n = len(stored.images.test)
    if image is not None and not 0 <= image < n:
        raise AnalysisError(
            f"--image chooses the {stored.sweep.held_out} image of Figure 5, from 0 to {n - 1}; got {image}."
        )


def _thin(points: Array, n: int) -> Array:
    """n of the points, evenly from first to last: a density may give its samples in an order, such as by component."""
    return points[np.linspace(0, len(points) - 1, n).astype(int)]


def _displayed(images: Any) -> Array:
    """Images (n, channels, height, width) in [0, 1] as imshow takes them."""
    pixels: Array = images.numpy().transpose(0, 2, 3, 1)
    return pixels[..., 0] if pixels.shape[3] == 1 else pixels


def _digits(values: "pd.Series[float]") -> int:
    """Decimals that leave three figures of the smallest."""
    least = float(values.min())
    return max(0, 2 - math.floor(math.log10(least))) if 0 < least < math.inf else 1


if __name__ == "__main__":
    sys.exit(main())
