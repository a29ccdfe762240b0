"""How well a model restores what noise or a mask has damaged, and how well its latents still tell classes apart.

Fisher auto-encoders' paper, Figures 1, 3, 5, 7 and 9, with the clean error beside each curve: a model that ignores its input
has a perfectly flat one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from analysis.scores.clusters import MOST_CLASSES
from analysis.scores.tasks import Scored, ScoreTask, Tasks
from analysis.stored import StoredSweep, config_of
from fishernet.cohort import stream_seed
from fishernet.config import NORMALISED, TrialConfig
from fishernet.families import family
from fishernet.models.base import Autoencoder
from fishernet.networks.normalisation import BatchNorm
from fishernet.trained import images_at_once

# Variances of noise in squared units of x in [0, 1], and the share of pixels that a mask sets to 0; 0 is the clean image.
Levels = Mapping[str, Sequence[float]]
LEVELS: Levels = MappingProxyType(
    {"gaussian": (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0), "mask": (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9)}
)
N_STARTS = 10  # of k-means
MOST_IMAGES = 10_000  # the first of the held-out ones
GROUP = "robustness"
RUNNING, OWN = STATISTICS = ("running", "batch")
BATCH = 128  # images that are normalised together by their own statistics, as in the released scripts


def tasks(
    stored: StoredSweep, levels: Levels = LEVELS, *, noise_levels: Sequence[float] | None = None,
    mask_levels: Sequence[float] | None = None, statistics: str = RUNNING,
) -> Tasks:  # fmt: skip
    """Scores at these levels of every run that lacks one of them; a decoder that sees the image has no such reconstruction.

    ``noise_levels`` and ``mask_levels`` are the flags'; the clean image is always among them. ``statistics`` are those that batch
    normalisation goes by: those of training, or a damaged batch's own. A network without it has the former.
    """
    given = {"gaussian": noise_levels, "mask": mask_levels}
    levels = {kind: sorted({0.0, *(given[kind] or of_kind)}) for kind, of_kind in levels.items()}
    n_images = len(stored.images.test[:MOST_IMAGES])
    asked = {of: _about(levels, n_images, of) for of in STATISTICS}
    runs = [run for _, run in stored.runs.iterrows() if not family(run["model"]).sees_image]
    lacking = [run for run in runs if run["scores"].get(GROUP) != asked[statistics_of(config_of(run), statistics)]]
    labels = None if stored.images.test_labels is None else stored.images.test_labels[:MOST_IMAGES].numpy()
    if labels is not None and len(np.unique(labels)) > MOST_CLASSES:
        labels = None
    made = [ScoreTask(run, GROUP, score_robustness, partial(_inputs, stored, run)) for run in lacking]
    return Tasks(
        made, [stored.images.test[:MOST_IMAGES], labels, {kind: list(of) for kind, of in levels.items()}, statistics]
    )


def score_robustness(
    images: Tensor, labels: npt.NDArray[np.int64] | None, levels: Levels, statistics: str, model: Autoencoder, seed: int
) -> Scored:
    statistics = statistics_of(model.config, statistics)
    with normalising(model, statistics):
        scores = robustness(model, images, labels, seed, levels, BATCH if statistics == OWN else 0)
    return Scored({f"{GROUP}/{name}": value for name, value in scores.items()}, _about(levels, len(images), statistics))


def _about(levels: Levels, n_images: int, statistics: str) -> dict[str, object]:
    """What made the scores, as JSON gives it back."""
    return {"levels": {kind: list(of) for kind, of in levels.items()}, "n_images": n_images, "statistics": statistics}


def statistics_of(config: TrialConfig, asked: str) -> str:
    """Those asked for, of networks that normalise by batch; of others the running ones, of which they have none."""
    return asked if config.network in NORMALISED and config.normalisation == "batch" else RUNNING


@contextmanager
def normalising(model: Autoencoder, statistics: str) -> Iterator[None]:
    """Within it batch normalisation goes by these statistics; its running ones stay what they were.

    The released robustness scripts never leave training mode, so that each damaged batch is normalised by itself: all of their
    models adapt to the damage.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, BatchNorm)] if statistics == OWN else []
    kept = [(layer.running_mean.clone(), layer.running_var.clone(), layer.training) for layer in layers]
    try:
        for layer in layers:
            layer.train()
        yield
    finally:
        for layer, (mean, variance, training) in zip(layers, kept, strict=True):
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(variance)
            layer.train(training)


def _inputs(stored: StoredSweep, run: pd.Series) -> tuple[Autoencoder, int]:
    return stored.model(run), int(run["seed"])


def corrupted(images: Tensor, kind: str, level: float, seed: int, fill: float = 0.0) -> Tensor:
    """Uint8 images (n, channels, height, width) as float32 x, damaged: x + sqrt(level) n, not clipped, or masked.

    A masked pixel is ``fill`` in all its channels. The damage is decided by seed, kind and level, so that models meet the same.
    Raises ValueError for a level below 0, and for a mask's above 1.
    """
    check_level(kind, level)
    x = images.float() / 255
    if level == 0:
        return x
    generator = torch.Generator().manual_seed(stream_seed(seed, kind, f"{level:g}"))
    if kind == "gaussian":
        return x + math.sqrt(level) * torch.randn(x.shape, generator=generator)
    n, _, height, width = x.shape
    kept = torch.rand(n, 1, height, width, generator=generator) >= level
    return torch.where(kept, x, fill) if fill else x * kept


def check_level(kind: str, level: float) -> None:
    """Raises ValueError for a level that no damage of that kind has."""
    most = 1.0 if kind == "mask" else math.inf
    if not 0 <= level <= most:
        what = "the share of pixels that a mask hides, from 0 to 1" if kind == "mask" else "a variance, at least 0"
        raise ValueError(f"a level of {kind} is {what}; got {level:g}")


def fill_of(model: Autoencoder) -> float:
    """What a masked pixel is: 0, which in [-1, 1] is grey and in [0, 1] black, as released."""
    return 0.5 if model.config.pixel_range == "symmetric" else 0.0


@torch.no_grad()
def robustness(
    model: Autoencoder, images: Tensor, labels: npt.NDArray[np.int64] | None, seed: int, levels: Levels = LEVELS,
    batch: int = 0,
) -> dict[str, float]:  # fmt: skip
    """By KIND/LEVEL/SCORE, the scores of reconstructions from the damaged images' posterior means against the clean images.

    mse: mean squared error per pixel. bce: -mean [x ln f + (1 - x) ln(1 - f)], nats per pixel, from logits, where f is the
    sigmoid of one output per pixel. nmi: normalised mutual information, 2 I/(H + H), of the labels and of as many clusters of
    the latent means by k-means. ``batch`` is how many images pass at a time, 0 as many as suits the memory.
    """
    scores: dict[str, float] = {}
    clean: dict[str, float] = {}  # the same whatever the kind
    for kind, of_kind in levels.items():
        for level in of_kind:
            if level or not clean:
                damaged = corrupted(images, kind, level, seed, fill_of(model))
                found = _scores(model, images, damaged, labels, seed, batch)
            if not level:
                clean = found = clean or found
            scores |= {f"{kind}/{level:g}/{score}": value for score, value in found.items()}
    return scores


def _scores(
    model: Autoencoder, images: Tensor, damaged: Tensor, labels: npt.NDArray[np.int64] | None, seed: int, batch: int
) -> dict[str, float]:
    logits = has_logits(model)
    sums, means = {"mse": 0.0} | ({"bce": 0.0} if logits else {}), []
    for x, own in _batches(images, damaged, batch or images_at_once(model)):
        mean = model.posterior_mean(own)
        a = model.decode(mean)
        sums["mse"] += (x - model.likelihood.mean(a)).square_().sum(dtype=torch.float64).item()
        if logits:
            entropies = F.binary_cross_entropy_with_logits(a, x, reduction="none")
            sums["bce"] += entropies.sum(dtype=torch.float64).item()
        means.append(mean[0].numpy())
    found = {score: total / images.numel() for score, total in sums.items()}
    return found if labels is None else found | {"nmi": nmi(np.concatenate(means), labels, seed)}


def has_logits(model: Autoencoder) -> bool:
    """Whether the decoder emits one logit per pixel, of images in [0, 1]."""
    likelihood = model.likelihood
    return model.config.pixel_range == "unit" and likelihood.sigmoid and (likelihood.maps, likelihood.others) == (1, 0)


def nmi(latents: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], seed: int) -> float:
    """Normalised mutual information of the labels and of as many clusters of the latents; NaN of latents that are not finite."""
    if not np.isfinite(latents).all():
        return math.nan
    n_classes = len(np.unique(labels))
    with warnings.catch_warnings():
        # Of latents that have collapsed there are fewer clusters, which NMI says too.
        warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
        found = KMeans(n_classes, n_init=N_STARTS, random_state=seed).fit_predict(latents)
    return float(normalized_mutual_info_score(labels, found))


def doubled_at(levels: Sequence[float], errors: Sequence[float]) -> float:
    """The least level at which the error is twice the clean one, straight lines between levels; infinite where it never is."""
    twice = 2 * errors[0]
    for (below, low), (above, high) in zip(
        zip(levels, errors, strict=True), zip(levels[1:], errors[1:], strict=True), strict=False
    ):
        if high >= twice:
            return below + (above - below) * (twice - low) / (high - low)
    return math.inf


def _batches(images: Tensor, damaged: Tensor, n: int) -> Iterator[tuple[Tensor, Tensor]]:
    for clean, own in zip(images.split(n), damaged.split(n), strict=True):
        yield clean.flatten(1).float().div(255)[None], own.flatten(1)[None]
