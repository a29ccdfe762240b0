"""Clusters of noisy images' latent means after t-SNE to two dimensions (Fisher auto-encoders' paper, Figures 3 and 4).

t-SNE keeps neighbours and no distances. It draws groups apart, which k-means then finds, so NMI after it is one of the latents,
of t-SNE, its perplexity and its seed together: beside it stands NMI of the same images' latent means themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn.manifold import TSNE
from torch import Tensor

from analysis.scores.clusters import MOST_CLASSES
from analysis.scores.robustness import LEVELS, corrupted, nmi
from analysis.scores.tasks import Scored, ScoreTask, Tasks
from analysis.stored import StoredSweep
from fishernet.families import family
from fishernet.models.base import Autoencoder
from fishernet.trained import images_at_once

GROUP, KIND = "tsne", "gaussian"
MOST_IMAGES = 2000  # the first of the held-out ones: 8 s a level
FEWEST_IMAGES = 20
PERPLEXITY = 30.0  # scikit-learn's default; of fewer than 91 images a third of their number
ARTIFACT = "scores/tsne.json"


def tasks(stored: StoredSweep, levels: Sequence[float] = LEVELS[KIND]) -> Tasks:
    """At these variances of noise, of every run of two latents or more that lacks one; none of images without labels."""
    images, labels = stored.images.test[:MOST_IMAGES], stored.images.test_labels
    if labels is None:
        return Tasks([], said=["Clusters after t-SNE need labels, which these images lack."])
    classes = len(np.unique(labels[:MOST_IMAGES]))
    if len(images) < FEWEST_IMAGES or classes > MOST_CLASSES:
        return Tasks([], said=[
            f"Clusters after t-SNE are of {FEWEST_IMAGES} images or more and {MOST_CLASSES} classes at most; there are "
            f"{len(images)} and {classes}."
        ])  # fmt: skip
    asked = _about(levels, len(images))
    lacking = [
        run
        for _, run in stored.runs.iterrows()
        if run["latent_dim"] > 1
        and not family(run["model"]).sees_image
        and {name: run["scores"].get(GROUP, {}).get(name) for name in asked} != asked
    ]
    made = [ScoreTask(run, GROUP, score_tsne, partial(_inputs, stored, run)) for run in lacking]
    return Tasks(made, [images, labels[:MOST_IMAGES].numpy(), list(levels)])


def score_tsne(
    images: Tensor, labels: npt.NDArray[np.int64], levels: Sequence[float], model: Autoencoder, seed: int
) -> Scored:
    """tsne/gaussian/LEVEL/nmi, after t-SNE, and …/latents_nmi of the means themselves; the places in a file beside them.

    Each level has a t-SNE of its own, from the run's seed.
    """
    scored, places = Scored({}, _about(levels, len(images))), {}
    for level in levels:
        z = means(model, corrupted(images, KIND, level, seed))
        at = places[f"{level:g}"] = embedded(z, seed)
        scored.metrics[f"{GROUP}/{KIND}/{level:g}/nmi"] = nmi(at, labels, seed)
        scored.metrics[f"{GROUP}/{KIND}/{level:g}/latents_nmi"] = nmi(z, labels, seed)
    scored.metrics = {name: value for name, value in scored.metrics.items() if math.isfinite(value)}
    scored.files[ARTIFACT] = {level: np.round(at.astype(float), 1).tolist() for level, at in places.items()}
    return scored


def embedded(z: npt.NDArray[np.float32], seed: int) -> npt.NDArray[np.float32]:
    """z (n, d) in two dimensions (n, 2) by t-SNE, from the same seed the same; NaN of z that are not finite or all equal."""
    if not np.isfinite(z).all() or not z.std(0).any():
        return np.full((len(z), 2), np.nan, dtype=np.float32)
    perplexity = min(PERPLEXITY, (len(z) - 1) / 3)
    found: npt.NDArray[np.float32] = TSNE(perplexity=perplexity, random_state=seed, n_jobs=1).fit_transform(z)
    return found


@torch.no_grad()
def means(model: Autoencoder, x: Tensor) -> npt.NDArray[np.float32]:
    """Posterior means of float images (n, channels, height, width): (n, d)."""
    parts = [model.posterior_mean(part.flatten(1)[None])[0] for part in x.split(images_at_once(model))]
    found: npt.NDArray[np.float32] = torch.cat(parts).numpy()
    return found


def _about(levels: Sequence[float], n_images: int) -> dict[str, Any]:
    return {"levels": list(levels), "n_images": n_images, "perplexity": PERPLEXITY}


def _inputs(stored: StoredSweep, run: pd.Series) -> tuple[Autoencoder, int]:
    return stored.model(run), int(run["seed"])
