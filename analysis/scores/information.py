"""What posteriors say of an image: how wide they are, how much they know of it, and what the latents know of its class.

Of the first n held-out images, I the mutual information of an image among them and its latents, nats:

    NJ                   N J of the Fisher-Shannon plane (``analysis.figures.plane``), at least 1
    active               latents the variance of whose posterior mean is above 0.01 (Burda, Grosse, Salakhutdinov 2016)
    precision_active     mean 1/s^2 of these latents and of the others, in inverse squared units of z. s^2 is the variance of the
    precision_unused     latent alone, on the diagonal of the covariance: (M^-1)_ii, where M is the precision, not the 1/M_ii that
                         is left of it where all other latents are known
    kl                   mean KL(q(z given x) || p(z)), which I does not exceed
    from_below           mean_i [ln r_i(z_i) - ln mean_j r_j(z_i)], z_i ~ q(z given x_i), r_i the posterior of image i. I does not
                         fall below its mean, whatever r; it is at most ln n (van den Oord, Li, Vinyals 2018, eq. 5 and A.1)
    as_released          geometric by arithmetic mean, over images and latents, of the densities r_i(z_i). The released code calls
                         this mutual information; it is at most 1 (Jensen), and sqrt(2/e) wherever all widths are equal
    nearest_neighbours   share of held-out images whose class is that of most of the 5 nearest codes of training images
    linear_probe         the same of a logistic regression on the codes of training images
    untrained/...        active and nearest_neighbours of the model as it was before training: what a network tells by its shape

Of a Gaussian posterior all but the last four is in closed form from its mean and covariance. Of a flow it is from draws, and r
is the Gaussian with their mean and covariance. A code is the posterior mean, of a flow where its Gaussian's mean goes.
What a run cannot have is not among its scores: classes without labels, the width of unused latents where there are none, a
divergence from a prior that is no density.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from analysis.scores import INFORMATION_IMAGES
from analysis.scores.likelihood import HELD_OUT, TRAINING, images_of
from analysis.scores.tasks import Scored, ScoreTask, Tasks
from analysis.stored import StoredSweep, config_of
from analysis.which_dimension import ACTIVE
from fishernet.cohort import Cohort
from fishernet.evaluation import evaluating
from fishernet.families import family
from fishernet.models.base import Autoencoder
from fishernet.posteriors import Flow, Posterior
from fishernet.priors import ImproperPriorError, StandardNormal
from fishernet.trained import posterior_means

GROUP = "information"
PROBED = 10_000  # training images, the first, whose classes are learned, and held-out ones that are asked, at most
NEIGHBOURS = 5
DRAWS, SCORED_DRAWS = 200, 10  # of a flow's posterior of an image; a score costs a pass for each latent
AT_ONCE = 100  # images; fixed, as each block has random numbers of its own
Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


class Posteriors(NamedTuple):
    """Of n images; of a flow, what its draws have."""

    mean: Tensor  # (n, d)
    covariance: Tensor  # (n, d, d), float64 like all that follows
    drawn: Tensor  # (n, d), one draw each, of which mean and covariance know nothing
    entropy: Tensor  # nats, (n,)
    information: Tensor  # tr J, (n,)
    kl: Tensor  # nats, (n,); NaN where the prior is no density


def tasks(stored: StoredSweep, *, information_images: int = INFORMATION_IMAGES) -> Tasks:
    """The scores of the first ``information_images`` held-out images (0: all) of runs with a posterior that lack them."""
    made = [
        ScoreTask(run, GROUP, score_information, partial(lambda run: (stored.model(run), information_images), run))
        for _, run in stored.runs.iterrows()
        if family(config_of(run).model).posterior and _lacks(run["scores"].get(GROUP), information_images)
    ]
    if not made:
        return Tasks(made)
    data, images = stored.images, images_of(stored, (HELD_OUT, TRAINING), 0)
    labels = {HELD_OUT: data.test_labels, TRAINING: data.train_labels}
    known = {name: np.asarray(own) for name, own in labels.items() if own is not None}
    return Tasks(made, [images, known])


def _lacks(about: Mapping[str, Any] | None, asked: int) -> bool:
    return about is None or "untrained" not in about or (about["asked"] or math.inf) < (asked or math.inf)


def score_information(
    images: Mapping[str, Tensor], labels: Mapping[str, Labels], model: Autoencoder, asked: int
) -> Scored:
    """The scores above; ``images`` are uint8 (n, channels, height, width) by set, ``labels`` theirs where both sets have some."""
    held_out = images[HELD_OUT][: asked or None]
    q = posteriors_of(model, held_out)
    codes = posterior_means(model, images[HELD_OUT][: max(len(held_out), PROBED)])
    d = q.mean.shape[1]
    active = codes[: len(held_out)].var(axis=0) > ACTIVE
    precision = (1 / q.covariance.diagonal(dim1=1, dim2=2)).mean(0).numpy()
    if not family(model.config.model).has_ellipses:
        precision *= (DRAWS - 3) / (DRAWS - 1)  # E 1/S^2 of a sample variance of normal numbers is (n-1)/(n-3) of 1/s^2
    power = math.exp(2 * q.entropy.mean().item() / d) / (2 * math.pi * math.e)
    found = {
        "NJ": power * q.information.mean().item() / d,
        "active": float(active.sum()),
        "precision_active": float(precision[active].mean()) if active.any() else math.nan,
        "precision_unused": float(precision[~active].mean()) if not active.all() else math.nan,
        "kl": q.kl.mean().item(),
        "from_below": from_below(q.mean, q.covariance, q.drawn),
        "as_released": information_as_released(q.mean, q.covariance, q.drawn),
    }
    about = {"images": len(held_out), "asked": asked, "untrained": True}
    if len(labels) == 2:
        train, test = images[TRAINING][:PROBED], codes[:PROBED]
        classes = labels[TRAINING][:PROBED], labels[HELD_OUT][:PROBED]
        found |= accuracies(posterior_means(model, train), classes[0], test, classes[1])
        about |= {"training_images": len(train), "classified": len(test)}
    found |= {f"untrained/{name}": value for name, value in _untrained(images, labels, model, len(held_out)).items()}
    return Scored({f"{GROUP}/{name}": value for name, value in found.items() if math.isfinite(value)}, about)


def _untrained(
    images: Mapping[str, Tensor], labels: Mapping[str, Labels], trained: Autoencoder, n: int
) -> dict[str, float]:
    """``active`` of the first n held-out images and ``nearest_neighbours``, of the model with the weights it began with."""
    model = Cohort([trained.config], trained.image_shape, trained.n_train).model
    codes = posterior_means(model, images[HELD_OUT][: max(n, PROBED)])
    found = {"active": float((codes[:n].var(axis=0) > ACTIVE).sum())}
    if len(labels) == 2:
        train, classes = posterior_means(model, images[TRAINING][:PROBED]), labels[TRAINING][:PROBED]
        told = nearest_neighbours(train, classes, codes[:PROBED], labels[HELD_OUT][:PROBED])
        found |= {"nearest_neighbours": told} if told is not None else {}
    return found


@torch.no_grad()
def posteriors_of(model: Autoencoder, images: Tensor) -> Posteriors:
    """Of uint8 images (n, channels, height, width), with random numbers by the image's place alone."""
    parts = []
    with evaluating(model):
        for k, part in enumerate(images.flatten(1).split(AT_ONCE)):
            generator = torch.Generator().manual_seed(k)
            q = model.posterior(part.float().div(255)[None])
            parts.append(_of_flow(model, q, generator) if isinstance(q, Flow) else _of_gaussian(model, q, generator))
    return Posteriors(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _of_gaussian(model: Autoencoder, q: Posterior, generator: torch.Generator) -> Posteriors:
    mean, covariance = q.mean[0].double(), q.covariance()[0].double()
    normal = MultivariateNormal(mean, covariance_matrix=covariance)
    eta = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
    drawn = mean + (normal.scale_tril @ eta[:, :, None])[:, :, 0]
    if isinstance(model.prior, StandardNormal):
        prior = MultivariateNormal(torch.zeros_like(mean[0]), torch.eye(mean.shape[1], dtype=mean.dtype))
        kl = torch.distributions.kl_divergence(normal, prior)
    else:
        try:
            kl = model.prior.kl(q)[0].double()
        except ImproperPriorError:
            kl = torch.full_like(mean[:, 0], math.nan)
    information = normal.precision_matrix.diagonal(dim1=1, dim2=2).sum(1)
    return Posteriors(mean, covariance, drawn, normal.entropy(), information, kl)


def _of_flow(model: Autoencoder, q: Flow, generator: torch.Generator) -> Posteriors:
    def noise() -> dict[str, Tensor]:
        return {"eta": torch.randn(q.base.mean.shape, generator=generator, dtype=q.base.mean.dtype)}

    draws, log_q, log_p = [], torch.zeros(()), torch.zeros(())
    for _ in range(DRAWS + 1):
        z, of_draw = q.draw(noise())
        assert of_draw is not None
        draws.append(z[0].double())
        log_q = log_q + of_draw[0].double() / (DRAWS + 1)
        log_p = log_p + model.prior.log_prob(z)[0].double() / (DRAWS + 1)
    drawn, others = draws[0], torch.stack(draws[1:])
    mean = others.mean(0)
    residual = (others - mean).transpose(0, 1)
    covariance = residual.mT @ residual / (DRAWS - 1)
    scores = [q.score(noise())[0].double() for _ in range(SCORED_DRAWS)]
    information = torch.stack(scores).square().sum(2).mean(0)
    return Posteriors(mean, covariance, drawn, -log_q, information, log_q - log_p)


def from_below(mean: Tensor, covariance: Tensor, drawn: Tensor) -> float:
    """The bound above, nats, of Gaussians r_i = N(mean, covariance), (n, d) and (n, d, d), and one draw each, (n, d)."""
    n, d = mean.shape
    factor = torch.linalg.cholesky(covariance)
    inverse = torch.linalg.solve_triangular(factor, torch.eye(d, dtype=factor.dtype).expand(n, d, d), upper=False)
    log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
    own, total = torch.empty(n, dtype=mean.dtype), torch.full((n,), -math.inf, dtype=mean.dtype)
    for j in range(n):
        # Without the constant, which is in both terms.
        log_r = -0.5 * ((drawn - mean[j]) @ inverse[j].T).square().sum(1) - log_det[j]
        own[j], total = log_r[j], torch.logaddexp(total, log_r)
    return float((own - total).mean() + math.log(n))


def information_as_released(mean: Tensor, covariance: Tensor, drawn: Tensor) -> float:
    """exp(mean ln r_i(z_i))/mean r_i(z_i), each latent by itself; arguments as ``from_below`` has them.

    ``MI`` of the Fisher-Shannon paper's released code, which no exhibit of the paper shows.
    """
    density = Normal(mean, covariance.diagonal(dim1=1, dim2=2).sqrt()).log_prob(drawn)
    return math.exp(density.mean() - density.flatten().logsumexp(0) + math.log(density.numel()))


def accuracies(train: npt.NDArray[Any], classes: Labels, test: npt.NDArray[Any], asked: Labels) -> dict[str, float]:
    """Shares of ``test`` codes whose class, ``asked``, is told from ``train`` codes and their ``classes``.

    Neighbours are by Euclidean distance of unscaled codes; the regression is of codes with unit variance, penalty |w|^2/2.
    """
    told = nearest_neighbours(train, classes, test, asked)
    if told is None:
        return {}
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train, classes)
    return {"nearest_neighbours": told, "linear_probe": float(probe.score(test, asked))}


def nearest_neighbours(train: npt.NDArray[Any], classes: Labels, test: npt.NDArray[Any], asked: Labels) -> float | None:
    """The first of ``accuracies``; None where there is but one class."""
    if len(np.unique(classes)) < 2:
        return None
    return float(KNeighborsClassifier(min(NEIGHBOURS, len(train))).fit(train, classes).score(test, asked))
