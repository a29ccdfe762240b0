"""The plain autoencoder and the variational one; CVAE is the VAE with network conv."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fishernet.models.base import Autoencoder, Noise, Outcome
from fishernet.networks.activations import ACTIVATIONS
from fishernet.posteriors import DiagonalGaussian

LOG_VARIANCES = -6.0, 2.0  # of log_variance clamped, as in the Fisher-Shannon paper's code: 1/s^2 within [0.135, 403]


class AE(Autoencoder):
    """The plain autoencoder: z = mu, no prior and no sampling; the loss is -ln p(x given f(mu)).

    With the unit Gaussian that is half the squared error and a constant: of the training images no other model of this network
    can have a lower MSE.
    """

    def noise(self, latent_dim: int) -> dict[str, Noise]:
        return {}

    def forward(self, x: Tensor, noise: Mapping[str, Tensor]) -> Outcome:
        mean = self.posterior_mean(self.shown(x, noise))
        log_likelihood, a = self.log_likelihood(x, mean)
        noise_prior = self.noise_prior(log_likelihood)
        terms = {"log_likelihood": log_likelihood}
        if isinstance(noise_prior, Tensor):
            terms["noise_prior"] = noise_prior
        return Outcome(noise_prior - log_likelihood, terms, mean, a)


class VAE(Autoencoder):
    """Diagonal Gaussian posterior from the encoder; loss = -ELBO (Kingma and Welling 2014, eq. 10, one sample).

    kl_weight beta makes it -ln p(x given z) + beta KL (Higgins et al., beta-VAE, 2017, eq. 4); the term elbo stays the ELBO.
    kl_warmup brings beta in over the first epochs.
    With a learned variance the loss also has FisherNet's prior of xi, xi^2/(2 p): the two then differ in their posterior alone.
    """

    heads: ClassVar[tuple[str, ...]] = ("mean", "log_variance")

    @property
    def stability_weight(self) -> float:
        """Of families that have the term."""
        return getattr(self.config, "stability_weight", 0.0)

    @property
    def pulls_back(self) -> bool:  # type: ignore[override]
        return bool(self.stability_weight)

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        return self.gaussian(self.encode(x))

    def gaussian(self, heads: Mapping[str, Tensor]) -> DiagonalGaussian:
        """The diagonal Gaussian of the encoder's heads."""
        mean, spread = heads.values()
        if self.config.posterior_sd == "softplus-sd":
            # What pads a member keeps its 0, a standard deviation of 1.
            spread = 2 * ACTIVATIONS["softplus"].function(spread).log() * self.own
        if self.config.log_variance == "clamped":
            spread = spread.clamp(*LOG_VARIANCES)
        return DiagonalGaussian(mean, spread, self.own)

    def forward(self, x: Tensor, noise: Mapping[str, Tensor]) -> Outcome:
        q, stability = self.held_steady(self.shown(x, noise), noise["eta"])
        return self.outcome(x, q, noise, stability)

    def outcome(self, x: Tensor, q: DiagonalGaussian, noise: Mapping[str, Tensor], stability: Tensor | None) -> Outcome:
        """``forward`` from the posterior on."""
        log_likelihood, a = self.log_likelihood(x, q.sample(noise["eta"]))
        kl = self.prior.kl(q)
        terms = {"log_likelihood": log_likelihood, "kl": kl, "elbo": log_likelihood - kl}
        terms |= {"fisher_information": q.fisher_information().detach(), "posterior_entropy": q.entropy().detach()}
        noise_prior = self.noise_prior(kl)
        if isinstance(noise_prior, Tensor):
            terms["noise_prior"] = noise_prior
        loss = self.kl_factor * kl - log_likelihood + noise_prior
        if stability is not None:
            terms["stability"] = stability
            loss = loss + self.stability_weight * stability
        return Outcome(loss, terms, q.mean, a)

    def loss_of_an_image(self, means: Mapping[str, Tensor]) -> Tensor:
        """The loss without what is a batch's and no image's, from the means of the terms, (n_members,)."""
        loss = self.kl_weight[:, 0] * means["kl"] - means["log_likelihood"] + means.get("noise_prior", 0.0)
        return loss + self.stability_weight * means.get("stability", 0.0)

    @property
    def units(self) -> float:
        """What inverse squared units of x are in those of the images' range: of 2x - 1 a quarter."""
        return 0.25 if self.config.pixel_range == "symmetric" else 1.0

    def held_steady(self, x: Tensor, eta: Tensor) -> tuple[DiagonalGaussian, Tensor | None]:
        """The posterior, and the stability term where it counts: how much ln q(z given x) moves with x (``stability``)."""
        if not self.stability_weight:
            return self.posterior(x), None
        learns = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            q = self.posterior(x)
            term = self.units * stability(q, x, eta, self.config.stability, learns=learns)
        if learns:
            return q, term
        return DiagonalGaussian(q.mean.detach(), q.log_variance.detach(), q.own), term.detach()


def stability(q: DiagonalGaussian, x: Tensor, eta: Tensor, kind: str, *, learns: bool) -> Tensor:
    """The stability term of the Fisher divergence at z = mu + sigma eta, (n_members, n), in inverse squared units of x.

    partial: |grad_x ln q(z given x)|^2/2 with z held, equation 11's third term and what theorem 1 needs:
    |sum_j (eta_j/sigma_j) grad mu_j + (eta_j^2 - 1) grad ln sigma_j|^2/2. total: z moves with x, so that eta is constant and
    |sum_j grad ln sigma_j|^2/2 is left, as released. expected: the mean of partial over eta,
    (sum_j |grad mu_j|^2/sigma_j^2 + 2 |grad ln sigma_j|^2)/2, half the trace of the encoder's Fisher information about x.
    Batch normalisation ties images together: the gradients of an image are then those of its whole batch.
    """
    log_sd, inverse_sd = 0.5 * q.log_variance, torch.exp(-0.5 * q.log_variance)
    if kind == "total":
        return 0.5 * pull_back([log_sd], x, [-q.own.expand_as(log_sd)], learns=learns).square().sum(2)
    if kind == "partial":
        # A padded latent has eta = 0, and so -1 for eta^2 - 1.
        cotangents = [eta * inverse_sd, (eta.square() - 1) * q.own]
        return 0.5 * pull_back([q.mean, log_sd], x, cotangents, learns=learns).square().sum(2)
    total = torch.zeros_like(q.mean[:, :, 0])
    for j in range(q.mean.shape[2]):
        unit = torch.zeros_like(q.mean)
        unit[:, :, j] = q.own[:, :, j]
        of_mean = pull_back([q.mean], x, [unit], learns=learns, keep=True)
        of_log_sd = pull_back([log_sd], x, [unit], learns=learns, keep=True)
        total = total + of_mean.square().sum(2) * inverse_sd[:, :, j].square() + 2 * of_log_sd.square().sum(2)
    return 0.5 * total


def pull_back(
    outputs: Sequence[Tensor], at: Tensor, cotangents: Sequence[Tensor], *, learns: bool, keep: bool = False
) -> Tensor:
    """The sum over outputs of their Jacobians' transposes applied to cotangents; ``learns`` where a gradient goes through it.

    Outputs must depend on ``at`` image by image.
    """
    (pulled,) = torch.autograd.grad(outputs, at, cotangents, create_graph=learns, retain_graph=learns or keep)
    return pulled
