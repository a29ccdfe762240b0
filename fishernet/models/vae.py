"""The plain autoencoder and the variational one; CVAE is the VAE with network conv."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from fishernet.models.base import Autoencoder, Noise, Outcome
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
        mean = self.posterior_mean(x)
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

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        q = DiagonalGaussian(**self.encode(x), own=self.own)
        if self.config.log_variance == "clamped":
            q.log_variance = q.log_variance.clamp(*LOG_VARIANCES)
        return q

    def forward(self, x: Tensor, noise: Mapping[str, Tensor]) -> Outcome:
        q = self.posterior(x)
        log_likelihood, a = self.log_likelihood(x, q.sample(noise["eta"]))
        kl = self.prior.kl(q)
        terms = {"log_likelihood": log_likelihood, "kl": kl, "elbo": log_likelihood - kl}
        noise_prior = self.noise_prior(kl)
        if isinstance(noise_prior, Tensor):
            terms["noise_prior"] = noise_prior
        return Outcome(self.kl_factor * kl - log_likelihood + noise_prior, terms, q.mean, a)
