"""Whether the images of a mixture's components could stand for their input: how many weigh something, what they show, and
whether a classifier of few images gains by them.

Ciobanu, "Vanilla Probabilistic Autoencoder" (EPiC 79, 2021), section 4, would augment a data set by them. What they show is asked
of the classifier that is trained once per sweep; who gains is a logistic regression on pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from analysis.scores.features import Classifier, likeliest_classes
from analysis.scores.images import sweep_classifier
from analysis.scores.outputs import N_IMAGES
from analysis.scores.tasks import Scored, ScoreTask, Tasks
from analysis.stored import StoredSweep, config_of
from fishernet.config import TrialConfig
from fishernet.data.images import at_equal_steps
from fishernet.likelihoods import LIKELIHOODS
from fishernet.models.base import Autoencoder
from fishernet.trained import images_at_once

GROUP = "components"
MADE = 2  # by these rules; stored scores of a lower number are made anew
LEAST_WEIGHT = 0.01  # of components that count
N_LEARNED = 1000  # training images that a data set is augmented from


def has_component_images(config: TrialConfig) -> bool:
    """Whether it is a mixture of images, and not one of each pixel apart."""
    return getattr(config, "components", 0) > 1 and not LIKELIHOODS[config.likelihood].per_pixel  # type: ignore[attr-defined]


def tasks(stored: StoredSweep) -> Tasks:
    """Of every mixture's runs that lack them, where images have labels. Raises AnalysisError where no classifier can be had."""
    known, labels = stored.images.train_labels, stored.images.test_labels
    lacking = [
        run
        for _, run in stored.runs.iterrows()
        if has_component_images(config_of(run)) and run["scores"].get(GROUP, {}).get("made") != MADE
    ]
    if known is None or labels is None or not lacking:
        return Tasks([])
    classifier = sweep_classifier(stored, torch.device("cpu"))
    learned = at_equal_steps(min(N_LEARNED, len(known)), len(known))
    shared = [
        classifier, stored.images.test[:N_IMAGES], labels[:N_IMAGES], known.unique(), stored.images.train[learned],
        known[learned],
    ]  # fmt: skip
    return Tasks(
        [ScoreTask(run, GROUP, score_components, partial(lambda run: (stored.model(run),), run)) for run in lacking],
        shared,
    )


@torch.no_grad()
def score_components(
    classifier: Classifier,
    test: Tensor,
    labels: Tensor,
    classes: Tensor,
    learned: Tensor,
    learned_labels: Tensor,
    model: Autoencoder,
) -> Scored:
    """Of uint8 images (n, channels, height, width) and their labels; ``classes`` are those that the classifier knows, sorted.

    components/heavy                   mean number of components whose weight exceeds LEAST_WEIGHT
    components/keeps_label             share of their images, the locations clipped to [0, 1], whose likeliest class is the
                                       input's label
    components/mean_keeps_label        the same of the mixture's mean, one for each image
    components/accuracy                share of the images that a logistic regression tells right that has learned from the
                                       pixels of ``learned``
    components/accuracy_of_components  the same, of one that has learned from the images of their heavy components as well
    components/accuracy_of_means       the same, from their mixtures' means instead: what any reconstruction adds

    Without the last three where all of ``learned`` have one label.
    """
    n_heavy, kept, kept_by_mean = 0, 0, 0
    for own, told, mean, labels_of_means in _component_images(model, test, labels):
        n_heavy += len(told)
        kept += _n_right(classifier, classes, own, told, test.shape[1:])
        kept_by_mean += _n_right(classifier, classes, mean, labels_of_means, test.shape[1:])
    values = {
        "heavy": n_heavy / len(test),
        "keeps_label": kept / n_heavy if n_heavy else math.nan,
        "mean_keeps_label": kept_by_mean / len(test),
    }
    if len(learned_labels.unique()) > 1:
        images, told, means, labels_of_means = (
            torch.cat(parts) for parts in zip(*_component_images(model, learned, learned_labels), strict=True)
        )
        whole, asked = _pixels(learned), (_pixels(test), labels)
        values |= {
            "accuracy": _accuracy(whole, learned_labels, *asked),
            "accuracy_of_components": _accuracy(torch.cat([whole, images]), torch.cat([learned_labels, told]), *asked),
            "accuracy_of_means": _accuracy(
                torch.cat([whole, means]), torch.cat([learned_labels, labels_of_means]), *asked
            ),
        }
    about = {
        "n_images": len(test), "n_learned": len(learned), "least_weight": LEAST_WEIGHT, "classifier": classifier.fingerprint,
        "made": MADE,
    }  # fmt: skip
    return Scored({f"{GROUP}/{name}": value for name, value in values.items()}, about)


def _component_images(
    model: Autoencoder, images: Tensor, labels: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Images of heavy components (m, n_pixels) with their inputs' labels, and of mixtures' means with theirs, in [0, 1]."""
    for x, own in zip(images.split(n := images_at_once(model)), labels.split(n), strict=True):
        distribution = model.likelihood.distribution(model.decode(model.posterior_mean(_pixels(x)[None])))
        marginals = distribution.marginals()
        assert marginals is not None
        heavy = marginals.log_weights[0].exp() > LEAST_WEIGHT  # (n, K)
        told = own[:, None].expand_as(heavy)[heavy]
        yield marginals.loc[0][heavy].clamp(0, 1), told, distribution.mean()[0].clamp(0, 1), own


def _pixels(images: Tensor) -> Tensor:
    """(n, n_pixels) in [0, 1], of uint8 images."""
    return images.flatten(1).float().div(255)


def _n_right(classifier: Classifier, classes: Tensor, images: Tensor, labels: Tensor, shape: torch.Size) -> int:
    grey = images.mul(255).round().byte().reshape(-1, *shape)
    return int((classes[likeliest_classes(classifier.network, grey)] == labels).sum())


def _accuracy(images: Tensor, labels: Tensor, test: Tensor, asked: Tensor) -> float:
    """Of a logistic regression (scikit-learn's, its penalty's weight at 1)."""
    found = LogisticRegression(max_iter=1000).fit(images.numpy(), labels.numpy())
    return float(found.score(test.numpy(), asked.numpy()))
