"""Images decoded from latents, and reconstructions, from a sweep's stored models."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, zip_longest
from typing import NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from torch.nn.functional import interpolate

from analysis import style
from analysis.exhibits import Absent, Exhibit, Picture
from analysis.figures import DENSITIES
from analysis.figures.mse_curves import most_needed
from analysis.frame import RunRow, place
from analysis.parts import Part
from analysis.scores.sampling import (
    BY_SVGD,
    SVGD,
    can_be_drawn,
    has_normal_prior,
    improper_dims,
    samples_of,
    say_spread,
    spread,
    usual_density,
)
from analysis.stored import StoredSweep, usual_form
from fishernet.config import TrialConfig
from fishernet.families import FAMILIES, family
from fishernet.trained import decode, reconstructed
from fishernet.wording import listed

ORIGINAL = "original"  # the label of the first row
NOTHING_SAMPLED = "None of the models decodes images from latents alone."
N_RECONSTRUCTIONS = 10
N_ROWS = 6  # of a grid of samples
MOST_PANELS_PER_ROW = 3
# Sizes in dots, of which style.save makes style.DPI an inch: a pixel of an image is then a square of whole dots.
WIDTH = 1400
IMAGE = 84  # about, whatever the number of its pixels
LARGEST_IMAGE = (
    2 * IMAGE
)  # larger ones are averaged to it: ten in a row, and a row for each model and dimension, make a sheet
GAP = 3  # between images
SPACE = 36  # between panels, and between groups of rows
LINE = 36  # of text
LETTER = 14  # the width of one, about
LABEL = 20  # letters in a line of a row's label
FONT = 9  # points


def parts(
    stored: StoredSweep, latent_dims: Sequence[int] | None = None, density: str | None = None, *,
    models: Sequence[str] = (), of_density: Sequence[str] = (), prior_dims: Sequence[int] = (),
    density_dims: Sequence[int] = (),
) -> Iterator[Part]:  # fmt: skip
    """Samples of the prior, of a latent density beside them, and reconstructions; Absent each where no finished run shows it.

    ``latent_dims`` and ``density`` as on the command line. ``models`` are missed where they have no run: by default those of
    the plan; ``of_density``, by default the first line's with a prior, are shown with samples of the density. Without
    ``latent_dims`` prior samples are at ``prior_dims`` (two at most), where runs lack one of them also at an end of what is
    there; those of the density at ``density_dims``. Reconstructions are at all of these, without ``prior_dims`` also at what
    lines need. Raises AnalysisError for a density that was asked for and cannot be had, and what StoredSweep raises.
    """
    runs = stored.runs
    with_prior = runs[runs["model"].map(lambda model: family(model).prior).astype(bool)]
    for d in latent_dims or sorted({*prior_dims, *_ends(with_prior, prior_dims)}):
        yield Part(*_prior_samples(d), partial(prior_samples, stored, d, models))
    sampled = density_dims or sorted(_ends(with_prior))[-1:]
    for d in latent_dims or sampled:
        yield Part(*_density_samples(d), partial(density_samples, stored, d, density, of_density))
    needed = [] if prior_dims else most_needed(stored.needed_dims.values())
    dims = latent_dims or sorted(_ends(runs, prior_dims) | {*density_dims, *needed} & set(runs["latent_dim"]))
    yield Part(*_reconstructions(dims), partial(reconstructions, stored, dims, models))


def n_rows(run: pd.Series) -> int:
    """Of samples in a grid: one where each takes a pass for each pixel."""
    return 1 if family(run["model"]).sees_image else N_ROWS


def is_sampled(model: str) -> bool:
    """Whether images are decoded from latents alone: there is a prior, and the decoder does not see the image."""
    return family(model).prior and not family(model).sees_image


def _prior_samples(d: int) -> tuple[str, str]:
    """Stem and title."""
    return f"prior_samples_d{d:02d}", f"Images decoded from prior samples, d = {d}"


def _density_samples(d: int) -> tuple[str, str]:
    title = f"Images from samples of the prior and of a latent density, d = {d}"
    return f"density_samples_images_d{d:02d}", title


def _reconstructions(dims: Sequence[int]) -> tuple[str, str]:
    return "reconstructions", f"Reconstructions at d = {listed(dims)}"


def prior_samples(stored: StoredSweep, d: int, models: Sequence[str] = ()) -> Exhibit:
    """A grid of decoded prior samples per variant, of the same latents where the prior is N(0, 1)."""
    stem, title = _prior_samples(d)
    known = _lines(stored, models)
    variants = [variant for variant in known if family(known[variant].model).prior]
    runs = _runs_at(stored, variants, d)
    if not runs:
        return Absent(stem, title, _say_missing(stored, {d: variants}) or NOTHING_SAMPLED)
    drawn, improper = samples_of(stored, runs, "prior")
    if not drawn:
        return Absent(stem, title, _joined(improper))
    panels_per_row = -(-len(drawn) // -(-len(drawn) // MOST_PANELS_PER_ROW))  # rows as equal as can be
    shape = stored.images.image_shape
    n_columns = columns_of_grids(panels_per_row, shape)
    normal = {str(run["variant"]): has_normal_prior(stored.model(run)) for run, _ in drawn}
    # One set of latents for all that share a prior, whatever the seeds of their runs.
    of_normal = next((z for run, z in drawn if normal[run["variant"]]), None)
    latents = [
        (run, (of_normal if of_normal is not None and normal[run["variant"]] else z)[: n_rows(run) * n_columns])
        for run, z in drawn
    ]
    grids = {
        str(run["variant"]): decode(stored.model(run), z, shape, torch.Generator().manual_seed(int(run["seed"])))
        for run, z in latents
    }
    others = [variant for variant, is_normal in normal.items() if not is_normal]
    sentences = [
        f"Images decoded from samples of the prior N(0, 1) at d = {d}, the same latents for every model; {_say_seeds(runs)}."
        if not others
        else f"Images decoded from samples of each model's prior at d = {d}, N(0, 1) with the same latents for all that have it; "
        f"of {listed(others)} they are exact draws from the prior that was learned; {_say_seeds(runs)}.",
        *improper,
        "Shown are the expected images, without noise.",
        *(
            f"{model} has no prior to sample and is left out."
            for model in stored.runs["model"].unique()
            if not family(model).prior
        ),
        *(
            f"{model} decodes pixel by pixel: its few images are draws, which take a pass for each pixel."
            for model in dict.fromkeys(run["model"] for run, _ in drawn)
            if family(model).sees_image
        ),
        _say_missing(stored, {d: _without(variants, runs)}),
    ]
    data = pd.concat([_latents_data(run, z, n_columns) for run, z in latents], ignore_index=True)
    return Picture(stem, title, _joined(sentences), plot_grids(grids, n_columns, panels_per_row), data)


def density_samples(stored: StoredSweep, d: int, density: str | None = None, models: Sequence[str] = ()) -> Exhibit:
    """Images from samples of the prior (left) and of a density of the latent means (right), of each variant of the models.

    Without ``density`` that is mkde where the runs have its samples, else mixture. Raises AnalysisError when ``density`` cannot
    be had.
    """
    stem, title = _density_samples(d)
    known = _lines(stored, models)
    sampled = [line.model for line in known.values() if is_sampled(line.model)]
    models = models or (sampled if density in BY_SVGD else sampled[:1])  # SVGD's are of few: those that have them
    variants = [variant for variant, line in known.items() if line.model in models]
    runs = _runs_at(stored, variants, d)
    if not runs:
        return Absent(stem, title, _say_missing(stored, {d: variants}) or NOTHING_SAMPLED)
    shape = stored.images.image_shape
    n_columns = columns_of_grids(2, shape)
    fitted, remark = (density, "") if density else usual_density(stored, runs)
    n, grids, parts = N_ROWS * n_columns, {}, []
    if fitted in BY_SVGD:
        variants = _without(variants, [run for run in runs if not can_be_drawn(fitted, run)])
        if not (runs := [run for run in runs if can_be_drawn(fitted, run)]):
            whose = "models with a learned prior" if fitted == SVGD else "models with the prior N(0, 1)"
            return Absent(stem, title, f"Samples {fitted} are of {whose}, of which there are none at d = {d}.")
    of_prior, improper = samples_of(stored, runs, "prior")
    if not of_prior and fitted != SVGD:
        return Absent(stem, title, _joined(improper))
    exact = {str(run["run_id"]): prior for run, prior in of_prior}
    shown = runs if fitted == SVGD else [run for run, _ in of_prior]
    normal, spreads = all(has_normal_prior(stored.model(run)) for run in shown), []
    for run, samples in samples_of(stored, shown, fitted)[0]:
        prior = exact.get(str(run["run_id"]))
        if prior is None:  # which SVGD draws from nevertheless
            grids[f"{run['variant']}, prior: no density"] = torch.ones(n, *shape)
        for name, z in (("prior", prior), (fitted, samples)):
            if z is not None:
                grids[f"{run['variant']}, {name}"] = decode(stored.model(run), z[:n], shape)
                parts.append(_latents_data(run, z[:n], n_columns).assign(density=name))
        if fitted in BY_SVGD:
            width = spread(stored.model(run), samples, int(run["seed"]))
            spreads.append(f"Those of {run['variant']} are {say_spread(width, improper_dims(stored.model(run)))}.")
    means = "" if fitted in BY_SVGD else " fitted to the posterior means of the training images"
    sentences = [
        f"Images decoded from latents at d = {d}, on the left from samples of the prior{' N(0, 1)' * normal}, on the right from "
        f"samples of {DENSITIES[fitted]}{means}; {_say_seeds(runs)}.",
        remark,
        *(spreads if fitted == SVGD else [*spreads, *improper]),
        "Shown are the expected images, without noise.",
        _say_missing(stored, {d: _without(variants, runs)}),
    ]
    data = pd.concat(parts, ignore_index=True)
    return Picture(stem, title, _joined(sentences), plot_grids(grids, n_columns, 2), data)


def reconstructions(stored: StoredSweep, dims: Sequence[int], models: Sequence[str] = ()) -> Exhibit:
    """The first held-out images above their reconstructions from the posterior mean, a row per latent_dim and variant.

    A decoder that sees the image is told each pixel's predecessors, as in its MSE.
    """
    stem, title = _reconstructions(dims)
    held_out, variants = stored.sweep.held_out, list(_lines(stored, models))
    runs = [run for d in dims for run in _runs_at(stored, variants, d)]
    if not runs:
        return Absent(stem, title, _say_missing(stored, dict.fromkeys(dims, variants)))
    images = stored.images.test[:N_RECONSTRUCTIONS]
    originals = images / 255
    rows, parts = [], []
    for run in runs:
        model = stored.model(run)
        shown = reconstructed(model, images)
        name = f"{run['variant']} (sees the image)" if family(run["model"]).sees_image else str(run["variant"])
        rows.append(Row(int(run["latent_dim"]), name, shown, run[f"{held_out}/mse"]))
        errors = (shown - originals).square().flatten(1).mean(1).tolist()
        parts.append(_run_data(run, len(images)).assign(image=range(len(images)), mse=errors))
    missing = {d: _without(variants, [run for run in runs if run["latent_dim"] == d]) for d in dims}
    sentences = [
        f"The first {len(images)} {held_out} images and their reconstructions from the posterior mean; {_say_seeds(runs)}.",
        f"On the right the run's MSE per pixel on all {len(stored.images.test)} {held_out} images.",
        _say_missing(stored, missing),
    ]
    figure = plot_reconstructions(originals, rows)
    return Picture(stem, title, _joined(sentences), figure, pd.concat(parts, ignore_index=True))


def plot_grids(grids: Mapping[str, torch.Tensor], n_columns: int, panels_per_row: int) -> Figure:
    """A grid of images per panel, under the panel's name; images (n, channels, height, width) in [0, 1], of one shape."""
    mosaics = [mosaic(images, n_columns) for images in grids.values()]
    height, width = mosaics[0].shape[:2]
    names = [textwrap.wrap(name, max(1, width // LETTER), break_on_hyphens=False) for name in grids]
    above = LINE * max(map(len, names))
    right, down = width + SPACE, above + height + SPACE
    n_rows = -(-len(grids) // panels_per_row)
    sheet = Sheet(panels_per_row * right - SPACE, n_rows * down - SPACE)
    for i, (name, pixels) in enumerate(zip(names, mosaics, strict=True)):
        left, top = i % panels_per_row * right, i // panels_per_row * down
        sheet.text("\n".join(name), left + width / 2, top + above - LINE * len(name) / 2, ha="center")
        sheet.image(pixels, left, top + above)
    return sheet.figure


class Row(NamedTuple):
    """A row of reconstructions."""

    latent_dim: int
    variant: str
    images: torch.Tensor  # (n, channels, height, width) in [0, 1]
    mse: float  # of the run, per pixel


def plot_reconstructions(originals: torch.Tensor, rows: Sequence[Row]) -> Figure:
    """The originals above the rows, which stand in groups of one latent_dim, each with its run's MSE on the right."""
    groups = {d: list(group) for d, group in groupby(rows, key=lambda row: row.latent_dim)}
    strip = mosaic(originals, len(originals))
    height, width = strip.shape[:2]
    down = height + GAP
    labels, left = row_labels(row.variant for row in rows)
    right = left + width + LETTER
    sheet = Sheet(right + LETTER * len(" 0.1234"), (1 + len(rows)) * down + len(groups) * (SPACE + LINE) - GAP)
    sheet.image(strip, left, 0)
    sheet.text(ORIGINAL, left - LETTER, height / 2, ha="right")
    sheet.text("MSE", right, height / 2)
    top = down
    for d, group in groups.items():
        sheet.text(f"$d$ = {d}", left, top + SPACE + LINE / 2)
        top += SPACE + LINE
        for row in group:
            sheet.text(labels[row.variant], left - LETTER, top + height / 2, ha="right")
            sheet.image(mosaic(row.images, len(row.images)), left, top)
            sheet.text(f"{row.mse:#.3g}", right, top + height / 2)
            top += down
    return sheet.figure


class Sheet:
    """A figure whose places are counted in dots from its upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        with matplotlib.rc_context(style.RC):
            self.figure = Figure(figsize=(width / style.DPI, height / style.DPI))

    def image(self, pixels: npt.NDArray[np.floating], left: int, top: int) -> Axes:
        """The pixels with their upper left corner there, a dot each."""
        height, width = pixels.shape[:2]
        place = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(place)
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="none")
        axes.set_axis_off()
        return axes

    def text(self, text: str, x: float, y: float, ha: str = "left") -> None:
        """The text with its middle line at y."""
        self.figure.text(x / self.width, 1 - y / self.height, text, ha=ha, va="center", fontsize=FONT)


def row_labels(names: Iterable[str], letters: int = LABEL) -> tuple[dict[str, str], int]:
    """Each name in lines, ``K = 10`` unbroken, and the dots that the widest takes left of a picture, a letter's gap with it."""
    labels = {
        name: "\n".join(textwrap.wrap(name.replace(" = ", "\u00a0=\u00a0"), letters, break_on_hyphens=False))
        for name in names
    }
    with matplotlib.rc_context(style.RC):
        lines = (line for text in (ORIGINAL, *labels.values()) for line in text.splitlines())
        points = max(TextPath((0, 0), line, size=FONT).get_extents().x1 for line in lines)
    return labels, 2 * LETTER + round(1.05 * points * style.DPI / 72)  # letters are drawn at whole dots, up to 5% wider


def mosaic(images: torch.Tensor, n_columns: int) -> npt.NDArray[np.floating]:
    """The images (n, channels, height, width), row by row with white gaps, each of their pixels a square of equal dots.

    Grey images give (height, width), colour images (height, width, 3).
    """
    images = _reduced(images)
    dots = _dots_per_pixel(images.shape[2:])
    enlarged = images.numpy().repeat(dots, axis=2).repeat(dots, axis=3)
    n, channels, height, width = enlarged.shape
    down, right = height + GAP, width + GAP
    pixels = np.ones((channels, -(-n // n_columns) * down - GAP, n_columns * right - GAP), dtype=np.float32)
    for i, image in enumerate(enlarged):
        top, left = i // n_columns * down, i % n_columns * right
        pixels[:, top : top + height, left : left + width] = image
    return pixels[0] if channels == 1 else pixels.transpose(1, 2, 0)


def columns_of_grids(panels_per_row: int, image_shape: Sequence[int]) -> int:
    """How many images of that shape (channels, height, width) stand side by side in each of the panels."""
    size = _drawn_size(image_shape[1:])
    width = size[1] * _dots_per_pixel(size)
    return max(1, ((WIDTH + SPACE) // panels_per_row - SPACE + GAP) // (width + GAP))


def _drawn_size(size: Sequence[int]) -> tuple[int, int]:
    """Height and width at which an image of that size is drawn, before its pixels are enlarged."""
    factor = min(1.0, LARGEST_IMAGE / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _reduced(images: torch.Tensor) -> torch.Tensor:
    """The images, large ones averaged to what is drawn of them."""
    size = _drawn_size(images.shape[2:])
    return images if size == tuple(images.shape[2:]) else interpolate(images, size=size, mode="area")


def _dots_per_pixel(size: Sequence[int]) -> int:
    return max(1, round(IMAGE / max(size)))


def _ends(runs: pd.DataFrame, usual: Sequence[int] = ()) -> set[int]:
    """The usual two d where there are such runs; else the smallest and the largest that most variants have."""
    n_variants = runs.groupby("latent_dim")["variant"].nunique()
    shared = [int(d) for d in n_variants.index[n_variants == n_variants.max()]]
    ends = shared[:1], shared[-1:]
    usual_or_end = ([d] if d in n_variants else end for d, end in zip_longest(usual, ends))
    return {d for found in usual_or_end for d in found}


def usual_models(stored: StoredSweep) -> list[str]:
    """The models that the sweep has planned in their usual form, in order."""
    planned = {config.model for config in stored.sweep.configs if config.variant == usual_form(config.model).variant}
    return [model for model in FAMILIES if model in planned]


def _lines(stored: StoredSweep, models: Sequence[str]) -> dict[str, TrialConfig]:
    """By label a config of each line, in order: the models' usual forms, finished or not, and those that have finished runs."""
    found = {config.variant: config for config in map(usual_form, models or usual_models(stored))}
    found |= {variant: stored.lines[variant] for variant in stored.variants}
    return dict(sorted(found.items(), key=lambda line: place(line[1].model, line[0])))


def _runs_at(stored: StoredSweep, variants: Sequence[str], d: int) -> list[RunRow]:
    """The run that pictures show of each of the variants that have finished ones at d."""
    finished = set(stored.runs.loc[stored.runs["latent_dim"] == d, "variant"])
    return [stored.pick(variant, d) for variant in variants if variant in finished]


def _without(variants: Sequence[str], runs: Sequence[RunRow]) -> list[str]:
    shown = {run["variant"] for run in runs}
    return [variant for variant in variants if variant not in shown]


def _say_missing(stored: StoredSweep, missing: Mapping[int, Sequence[str]]) -> str:
    """Which variants have no finished run at which d, and the commands that train them; empty where there are none."""
    dims_of: dict[tuple[str, ...], list[int]] = {}
    for d, variants in missing.items():
        if variants:
            dims_of.setdefault(tuple(variants), []).append(d)
    return " ".join(
        f"No run of {', '.join(variants)} at d = {listed(dims)} has finished; {stored.command_for(variants, dims)}"
        for variants, dims in dims_of.items()
    )


def _say_seeds(runs: Sequence[RunRow]) -> str:
    """``runs of seed 0, but VAE at d = 15 of seed 1``."""
    seeds = [int(run["seed"]) for run in runs]
    usual = max(sorted(set(seeds)), key=seeds.count)
    others = [run for run in runs if run["seed"] != usual]
    exceptions = [f"but {run['variant']} at d = {run['latent_dim']} of seed {run['seed']}" for run in others]
    return ", ".join([f"runs of seed {usual}", *exceptions])


def _latents_data(run: RunRow, z: npt.NDArray[np.floating], n_columns: int) -> pd.DataFrame:
    """One row per image of a grid: its run, place and latents."""
    place = [divmod(i, n_columns) for i in range(len(z))]
    data = _run_data(run, len(z)).assign(row=[row for row, _ in place], column=[column for _, column in place])
    return data.assign(**{f"z{i}": values for i, values in enumerate(z.T, 1)})


def _run_data(run: RunRow, n_rows: int) -> pd.DataFrame:
    return pd.DataFrame([run[["variant", "latent_dim", "seed", "run_id"]].to_dict()] * n_rows)


def _joined(sentences: Sequence[str]) -> str:
    return " ".join(sentence for sentence in sentences if sentence)
