"""What decoders make of moves through their latent spaces: along one latent at a time, and from one image to another."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.figure import Figure

from analysis.exhibits import Picture
from analysis.figures.samples import GAP, LETTER, LINE, ORIGINAL, SPACE, Sheet, mosaic, row_labels
from analysis.frame import AnalysisError, chosen_dim
from analysis.parts import Part
from analysis.stored import StoredSweep, config_of
from fishernet.config import Value
from fishernet.families import family
from fishernet.models.base import Autoencoder
from fishernet.trained import decode, posterior_covariances, posterior_means
from fishernet.wording import listed

TRAVERSALS = "traversals", "Moves along single latents"
INTERPOLATIONS = "interpolations", "From one image to another"
MOST_LATENTS = 10  # of the image's, the narrowest; as many values of each
FEW_LATENTS = 2  # of a model that takes a pass for each pixel
N_STEPS = 10
N_PAIRS = 3  # of images
REACH = 10.0  # the paper's, in units of z
PANELS_PER_ROW = 2
Array = npt.NDArray[Any]


def parts(stored: StoredSweep, latent_dim: int | None = None, image: int = 0, reach: float = REACH) -> Iterator[Part]:
    """Both pictures at ``latent_dim``, by default the one that most lines have, of several the largest.

    Raises AnalysisError for a latent_dim or an image that is not there.
    """
    d = chosen_dim(stored.runs, latent_dim)
    if not 0 <= image < len(stored.images.test):
        raise AnalysisError(
            f"--image chooses the {stored.sweep.held_out} image, from 0 to {len(stored.images.test) - 1}; got {image}."
        )
    yield Part(*TRAVERSALS, partial(traversals, stored, d, image, reach))
    yield Part(*INTERPOLATIONS, partial(interpolations, stored, d))


def say_pixel_by_pixel(runs: Sequence[pd.Series[Any]]) -> str:
    """A sentence on models whose decoders take a pass for each pixel, of which there is little to see."""
    seeing = [model for model in dict.fromkeys(run["model"] for run in runs) if family(model).sees_image]
    return (
        f"{listed(seeing)} decodes pixel by pixel, each set to its expected value given those before, of black and white ones to "
        "the likelier: few images are shown."
        if seeing
        else ""
    )


def shown_runs(stored: StoredSweep, runs: pd.DataFrame, d: int) -> list[pd.Series[Any]]:
    """The run that pictures show of each line at d, the lines of a model by their numbers: F = 0, 5, 20 though 20 is usual."""
    variants = runs.loc[runs["latent_dim"] == d, "variant"].unique()
    shown = [stored.pick(str(variant), d) for variant in variants]
    models = list(dict.fromkeys(run["model"] for run in shown))
    told_apart = {
        model: list(dict.fromkeys(name for run in shown if run["model"] == model for name in config_of(run).choices))
        for model in models
    }

    def place(run: pd.Series[Any]) -> tuple[int, list[tuple[bool, Value]]]:
        config = config_of(run)
        choices = {name: getattr(config, name) for name in told_apart[run["model"]]}
        # Words before numbers, and of words the usual one first.
        words = [(name in config.choices, value) for name, value in choices.items() if isinstance(value, str)]
        numbers = [(False, value) for value in choices.values() if not isinstance(value, str)]
        return models.index(run["model"]), words + numbers

    return sorted(shown, key=place)


def traversals(stored: StoredSweep, d: int, image: int, reach: float) -> Picture:
    """A panel for each line, a row for each of the narrowest latents of one image, moved by -reach to +reach."""
    stem, title = TRAVERSALS
    x, shape = stored.images.test[image : image + 1], stored.images.image_shape
    offsets = np.linspace(-reach, reach, N_STEPS)
    shown = shown_runs(stored, stored.runs, d)
    panels, rows, without = {}, [], []
    for run in shown:
        model = stored.model(run)
        code = posterior_means(model, x)[0]
        order, widths = narrowest(model, x, stored, run)
        order = order[:FEW_LATENTS] if family(run["model"]).sees_image else order
        if widths is None:
            without.append(str(run["variant"]))
        moved = np.repeat(code[None], len(order) * N_STEPS, axis=0)
        for row, latent in enumerate(order):
            moved[row * N_STEPS : (row + 1) * N_STEPS, latent] += offsets
        names = [f"$z_{{{latent + 1}}}$" for latent in order]
        panels[str(run["variant"])] = Panel(names, mosaic(decode(model, moved, shape), N_STEPS))
        for row, latent in enumerate(order):
            width = {"ln_s2": np.nan if widths is None else float(np.log(widths[latent]))}
            about = {name: run[name] for name in ("variant", "latent_dim", "seed", "run_id")}
            rows.append(about | {"image": image, "row": row, "latent": latent + 1, "mean": code[latent]} | width)
    caption = (
        f"{stored.sweep.held_out.capitalize()} image {image}: one latent at a time moved from {-reach:g} to {reach:g} about its "
        f"posterior mean, in units of z, the others held; d = {d}. Rows are the latents of the smallest posterior variance for "
        f"this image, the narrowest first, {MOST_LATENTS} at most."
    )
    if without:
        caption += (
            f" Of {listed(without)} no variance is known in closed form: rows are the latents whose codes vary most over "
            f"{stored.sweep.held_out} images."
        )
    caption = f"{caption} {say_pixel_by_pixel(shown)}".strip()
    return Picture(stem, title, caption, plot_traversals(panels, offsets), pd.DataFrame(rows))


def narrowest(
    model: Autoencoder, x: torch.Tensor, stored: StoredSweep, run: pd.Series[Any]
) -> tuple[Array, Array | None]:
    """The image's latents by ascending posterior variance, and the variances; where these are unknown, by that of the codes."""
    if family(model.config.model).has_ellipses:
        variances = posterior_covariances(model, x)[0].diagonal()
        return np.argsort(variances, kind="stable")[:MOST_LATENTS], variances
    return np.argsort(-stored.latents(run)[0].var(axis=0), kind="stable")[:MOST_LATENTS], None


class Panel(NamedTuple):
    """A line's rows by name, and their images side by side in one array."""

    names: Sequence[str]
    pixels: Array


def plot_traversals(panels: Mapping[str, Panel], offsets: Array) -> Figure:
    """A grid for each line under its name, rows named on the left, the ends of the move below."""
    n_columns = min(PANELS_PER_ROW, len(panels))
    height, width = (max(panel.pixels.shape[i] for panel in panels.values()) for i in range(2))
    left, above = 4 * LETTER, LINE
    right, down = left + width + SPACE, above + height + LINE + SPACE
    n_rows = -(-len(panels) // n_columns)
    sheet = Sheet(n_columns * right - SPACE, n_rows * down - SPACE)
    for i, (name, panel) in enumerate(panels.items()):
        x, y = i % n_columns * right + left, i // n_columns * down + above
        sheet.text(textwrap.shorten(name, width // LETTER, placeholder="…"), x + width / 2, y - LINE / 2, ha="center")
        sheet.image(panel.pixels, x, y)
        step = (panel.pixels.shape[0] + GAP) / len(panel.names)
        for row, latent in enumerate(panel.names):
            sheet.text(latent, x - LETTER / 2, y + (row + 0.5) * step - GAP / 2, ha="right")
        below = y + panel.pixels.shape[0] + LINE / 2
        sheet.text(f"{offsets[0]:+g}".replace("-", "−"), x, below)
        sheet.text(f"{offsets[-1]:+g}", x + width, below, ha="right")
    return sheet.figure


def interpolations(stored: StoredSweep, d: int) -> Picture:
    """Pairs of the first held-out images: a row for each line between the codes of each pair."""
    stem, title = INTERPOLATIONS
    images, shape = stored.images.test[: 2 * N_PAIRS], stored.images.image_shape
    share = np.linspace(0, 1, N_STEPS, dtype=np.float32)[:, None]
    shown = shown_runs(stored, stored.runs, d)
    strips: list[dict[str, torch.Tensor]] = [{} for _ in range(len(images) // 2)]
    rows = []
    for run in shown:
        model = stored.model(run)
        n = 2 if family(run["model"]).sees_image else len(images)
        codes = posterior_means(model, images[:n])
        for pair, (first, last) in enumerate(zip(codes[::2], codes[1::2], strict=False)):
            strips[pair][str(run["variant"])] = decode(model, (1 - share) * first + share * last, shape)
            about = {name: run[name] for name in ("variant", "latent_dim", "seed", "run_id")}
            distance = float(np.linalg.norm(last - first))
            rows.append(about | {"first_image": 2 * pair, "last_image": 2 * pair + 1, "distance": distance})
    caption = (
        f"Decoded from {N_STEPS} places at equal steps on the straight line between the codes of two {stored.sweep.held_out} "
        f"images, the first {2 * len(strips)} in pairs; d = {d}. Above each block are the two images. {say_pixel_by_pixel(shown)}"
    ).strip()
    figure = plot_interpolations(images / 255, strips)
    return Picture(stem, title, caption, figure, pd.DataFrame(rows))


def plot_interpolations(originals: torch.Tensor, strips: Sequence[Mapping[str, torch.Tensor]]) -> Figure:
    """A block for each pair of originals: both at its ends, and below a row of images for each line."""
    labels, left = row_labels(strips[0])
    height, width = mosaic(next(iter(strips[0].values())), N_STEPS).shape[:2]
    down = height + GAP
    block = (1 + len(labels)) * down + SPACE
    sheet = Sheet(left + width, len(strips) * block - SPACE)
    for k, strip in enumerate(strips):
        top = k * block
        ends = [mosaic(image[None], 1) for image in originals[2 * k : 2 * k + 2]]
        sheet.text(ORIGINAL, left - LETTER, top + height / 2, ha="right")
        sheet.image(ends[0], left, top)
        sheet.image(ends[1], left + width - ends[1].shape[1], top)
        for row, (name, images) in enumerate(strip.items(), 1):
            sheet.text(labels[name], left - LETTER, top + row * down + height / 2, ha="right")
            sheet.image(mosaic(images, N_STEPS), left, top + row * down)
    return sheet.figure
