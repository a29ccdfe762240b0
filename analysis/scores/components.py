"""Whether the images of a mixture's components could stand for their input: how many weigh something, and what they show.

Ciobanu, "Vanilla Probabilistic Autoencoder" (EPiC 79, 2021), section 4, would augment a data set by them. What they show is asked
of the classifier that is trained once per sweep.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from analysis.scores.features import Classifier, likeliest_classes
from analysis.scores.images import sweep_classifier
from analysis.scores.outputs import N_IMAGES
from analysis.scores.tasks import Scored, ScoreTask, Tasks
from analysis.stored import StoredSweep, config_of
from fishernet.config import TrialConfig
from fishernet.likelihoods import LIKELIHOODS
from fishernet.models.base import Autoencoder
from fishernet.trained import images_at_once

GROUP = "components"
LEAST_WEIGHT = 0.01  # of components that count


def has_component_images(config: TrialConfig) -> bool:
    """Whether it is a mixture of images, and not one of each pixel apart."""
    return getattr(config, "components", 0) > 1 and not LIKELIHOODS[config.likelihood].per_pixel  # type: ignore[attr-defined]


def tasks(stored: StoredSweep) -> Tasks:
    """Of every mixture's runs that lack them, where images have labels. Raises AnalysisError where no classifier can be had."""
    known, labels = stored.images.train_labels, stored.images.test_labels
    lacking = [
        run for _, run in stored.runs.iterrows() if has_component_images(config_of(run)) and GROUP not in run["scores"]
    ]
    if known is None or labels is None or not lacking:
        return Tasks([])
    classifier = sweep_classifier(stored, torch.device("cpu"))
    shared = [classifier, stored.images.test[:N_IMAGES], labels[:N_IMAGES], known.unique()]
    return Tasks(
        [ScoreTask(run, GROUP, score_components, partial(lambda run: (stored.model(run),), run)) for run in lacking],
        shared,
    )


@torch.no_grad()
def score_components(
    classifier: Classifier, test: Tensor, labels: Tensor, classes: Tensor, model: Autoencoder
) -> Scored:
    """Of uint8 images (n, channels, height, width) and their labels; ``classes`` are those that the classifier knows, sorted.

    components/heavy            mean number of components whose weight exceeds LEAST_WEIGHT
    components/keeps_label      share of their images, the locations clipped to [0, 1], whose likeliest class is the input's label
    components/mean_keeps_label the same of the mixture's mean, one for each image
    """
    n_heavy, kept, kept_by_mean = 0, 0, 0
    for x, own in zip(test.split(n := images_at_once(model)), labels.split(n), strict=True):
        code = model.posterior_mean(x.flatten(1).float().div(255)[None])
        distribution = model.likelihood.distribution(model.decode(code))
        marginals = distribution.marginals()
        assert marginals is not None
        heavy = marginals.log_weights[0].exp() > LEAST_WEIGHT  # (n, K)
        told = own[:, None].expand_as(heavy)[heavy]
        n_heavy += len(told)
        kept += _n_right(classifier, classes, marginals.loc[0][heavy], told, x.shape[1:])
        kept_by_mean += _n_right(classifier, classes, distribution.mean()[0], own, x.shape[1:])
    values = {
        "heavy": n_heavy / len(test),
        "keeps_label": kept / n_heavy if n_heavy else math.nan,
        "mean_keeps_label": kept_by_mean / len(test),
    }
    return Scored(
        {f"{GROUP}/{name}": value for name, value in values.items()},
        {"n_images": len(test), "least_weight": LEAST_WEIGHT, "classifier": classifier.fingerprint},
    )


def _n_right(classifier: Classifier, classes: Tensor, images: Tensor, labels: Tensor, shape: torch.Size) -> int:
    grey = images.clamp(0, 1).mul(255).round().byte().reshape(-1, *shape)
    return int((classes[likeliest_classes(classifier.network, grey)] == labels).sum())
