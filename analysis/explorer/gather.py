"""From a sweep's records to what the page shows: images, their codes in each run, a plane, ellipses and a decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from analysis import style
from analysis.errors import AnalysisError
from analysis.explorer.decoders import decoder_of
from analysis.figures.latent_space import class_colours
from analysis.stored import StoredSweep
from fishernet.families import family
from fishernet.likelihoods import n_outputs
from fishernet.models.base import Autoencoder
from fishernet.networks import NETWORKS
from fishernet.trained import decode, posterior_covariances

Array = npt.NDArray[Any]

MOST_IMAGES, MOST_BYTES = 2000, 3_000_000  # of the images in a page
PART = 200  # images whose covariances are formed at once: of 64 latents their Jacobians are as large as the images times 64
GRID_SIDES = 8, 24  # points along each side of a plane that is decoded beforehand
GRID_PRODUCTS = 2e10  # that this may cost
MARGIN = 0.05  # of the codes' extent, around the grid
SEES_IMAGE = "{} decodes pixel by pixel and sees those before, which takes too long to follow a pointer."


@dataclass(frozen=True)
class Plane:
    """Where the map lies in the latent space: u = axes (z - origin); ``share`` of the codes' variance is in it."""

    origin: Array  # (d,)
    axes: Array  # (2, d), orthonormal; of d = 1 the second is 0
    share: float
    names: tuple[str, str]


@dataclass(frozen=True)
class Grid:
    """Images (n, n, channels, height, width), uint8, at u from ``low`` to ``high``: of a decoder that the page cannot compute."""

    low: Array  # (2,)
    high: Array
    images: Array


@dataclass(frozen=True)
class Run:
    """One run as the page has it."""

    name: str  # the line and its d
    about: str  # "seed 0, test MSE 0.031"
    colour: str
    codes: Array  # (n, d) of the images
    plane: Plane
    ellipses: Array | None  # (n, 3): xx, xy, yy in the plane, by image; None where they are of M, or not there
    prior: bool  # N(0, 1)
    posterior: bool  # be its covariance known or not
    decoder: dict[str, Any] | None
    grid: Grid | None


@dataclass(frozen=True)
class Shown:
    """Runs and the images whose codes they show."""

    runs: Sequence[Run]
    images: Array  # (n, channels, height, width), uint8
    indices: Array  # (n,) of the held-out images
    labels: Array | None  # (n,), places in ``classes``
    classes: Sequence[str]
    colours: Sequence[str]
    dataset: str
    held_out: str


def gather(stored: StoredSweep, chosen: Sequence[pd.Series]) -> Shown:
    """What the page shows of these runs; raises AnalysisError where their weights or images are not to be had."""
    test = stored.images.test.numpy()
    n = min(len(test), MOST_IMAGES, max(1, MOST_BYTES // test[0].size))
    indices = np.linspace(0, len(test) - 1, n).astype(int)
    labelled = stored.images.test_labels is not None
    classes = stored.class_names if labelled else ()
    return Shown(
        [_run(stored, run, indices) for run in chosen],
        test[indices],
        indices,
        stored.class_of[indices] if labelled else None,
        classes,
        class_colours(len(classes)),
        stored.images.name,
        stored.sweep.held_out,
    )


def _run(stored: StoredSweep, run: pd.Series, indices: Array) -> Run:
    if family(run["model"]).sees_image:
        raise AnalysisError(f"{SEES_IMAGE.format(run['variant'])} Name other lines with --models.")
    name = f"{run['variant']}, d = {run['latent_dim']}"
    about = f"seed {run['seed']}, {stored.sweep.held_out} MSE {run[stored.sweep.score('mse')]:.3g}"
    return run_of(stored.model(run), stored.latents(run)[0], stored.images.test, indices, name, about)


def run_of(model: Autoencoder, means: Array, test: torch.Tensor, indices: Array, name: str, about: str) -> Run:
    """A trained model as the page has it: the posterior means of all held-out images, uint8, of which ``indices`` are shown."""
    row, codes, plane, image_shape = family(model.config.model), means[indices], plane_of(means), test.shape[1:]
    decoder = decoder_of(model, image_shape)
    of_page = decoder is not None and decoder["information"] is not None
    return Run(
        name=name,
        about=about,
        colour=style.colour(model.config.model),
        codes=codes,
        plane=plane,
        ellipses=projected(model, test[indices], plane) if row.has_ellipses and not of_page else None,
        prior=row.prior and getattr(model.config, "prior", "normal") == "normal",
        posterior=row.posterior,
        decoder=decoder,
        grid=None if decoder else grid_of(model, codes, plane, image_shape),
    )


def plane_of(codes: Array) -> Plane:
    """The latents themselves up to two; else the plane of the codes' first two principal components through their mean."""
    d = codes.shape[1]
    if d <= 2:
        return Plane(np.zeros(d), np.eye(2, d), 1.0, ("z1", "z2" if d == 2 else ""))
    origin = codes.mean(axis=0, dtype=float)
    variances, vectors = np.linalg.eigh(np.cov(codes.astype(float), rowvar=False))
    axes = vectors[:, [-1, -2]].T
    axes *= np.where(axes[np.arange(2), abs(axes).argmax(axis=1)] < 0, -1, 1)[:, None]  # eigh leaves the sign open
    total = max(float(variances.sum()), np.finfo(float).tiny)  # an encoder may be constant
    one, two = (variances[[-1, -2]] / total).tolist()
    return Plane(origin, axes, one + two, (f"1st component, {one:.0%}", f"2nd component, {two:.0%}"))


def projected(model: Autoencoder, images: torch.Tensor, plane: Plane) -> Array:
    """The posterior covariances of uint8 images in the plane: xx, xy, yy, (n, 3)."""
    parts = [posterior_covariances(model, part) for part in images.split(PART)]
    in_plane = np.concatenate([plane.axes @ part.astype(float) @ plane.axes.T for part in parts])
    return in_plane[:, [0, 0, 1], [0, 1, 1]]


def grid_of(model: Autoencoder, codes: Array, plane: Plane, image_shape: Sequence[int]) -> Grid:
    """The plane where codes are, decoded at as many points as the network's cost allows."""
    pixels, config = math.prod(image_shape), model.config
    products = NETWORKS[config.network].n_products(config, pixels, n_outputs(config, image_shape))
    side = int(np.clip(math.sqrt(GRID_PRODUCTS / products), *GRID_SIDES))
    u = (codes - plane.origin) @ plane.axes.T
    room = MARGIN * np.ptp(u, axis=0) + 1e-6
    low, high = u.min(axis=0) - room, u.max(axis=0) + room
    x, y = np.meshgrid(np.linspace(low[0], high[0], side), np.linspace(low[1], high[1], side))
    z = plane.origin + np.stack([x.ravel(), y.ravel()], axis=1) @ plane.axes
    images = (decode(model, z, image_shape).numpy() * 255).round().astype(np.uint8)
    return Grid(low, high, images.reshape(side, side, *image_shape))
