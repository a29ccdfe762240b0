"""The models: each states its posterior and its loss; everything is stacked over the members of a cohort.

To add one: write the class here, add it to ``MODELS``, and give it a likelihood in ``config.LIKELIHOOD_OF_MODEL``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fishernet.config import TrialConfig
from fishernet.fisher import MOST_PADDING, alike, cg_residual, cholesky_residual, latent_precision, padded
from fishernet.likelihoods import LIKELIHOODS, Gaussian
from fishernet.networks import (
    ACTIVATIONS,
    Activation,
    ConvDecoder,
    ConvEncoder,
    Dense,
    Linear,
    Linearised,
    StackedLayer,
)

# Metrics of an epoch that tell where the arithmetic of FisherNet's draws ends; training.remark says it.
CG_RESIDUAL, LARGEST_PRECISION = "train/cg_residual", "train/largest_precision"


class Activate(nn.Module):
    """An activation as a layer."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation.function(x)


class Outcome(NamedTuple):
    """What one pass of a batch gives; nats per image, (n_members, n)."""

    loss: Tensor  # lower is better
    terms: dict[str, Tensor]  # what the loss is made of, and the ELBO where it is known
    mean: Tensor  # the posterior mean, (n_members, n, d)
    output: Tensor  # the decoder's raw output at one posterior sample, (n_members, n, n_pixels)


class Autoencoder(nn.Module, ABC):
    """f = decoder(z), p(z) = N(0, 1), x in [0, 1]^k, for configs that differ only in latent_dim and seed.

    z is (n_members, n, d) with d the largest latent_dim; the surplus of a smaller member is 0 in its weights, means and
    noise, and every gradient there is 0, so it trains as it would alone.
    """

    heads: tuple[str, ...] = ("mean",)  # what the encoder gives, d numbers each

    def __init__(self, configs: Sequence[TrialConfig], image_shape: tuple[int, int, int], n_train: int) -> None:
        super().__init__()
        config, n_members = configs[0], len(configs)
        self.config, self.n_train, self.n_pixels = config, n_train, math.prod(image_shape)
        self.latent_dims = [c.latent_dim for c in configs]
        self.likelihood = LIKELIHOODS[config.likelihood](config, n_members)
        self._build_networks(n_members, image_shape, ACTIVATIONS[config.activation])
        generators = [torch.Generator().manual_seed(c.seed) for c in configs]
        for layer in self.modules():
            if isinstance(layer, StackedLayer):
                layer.initialise(generators)

    def _build_networks(self, n_members: int, image_shape: tuple[int, int, int], activation: Activation) -> None:
        """Table A1's dense networks, k-448-448-448-d and back at the defaults."""
        pixels = [self.n_pixels] * n_members
        hidden = [[self.config.hidden_width] * n_members] * self.config.hidden_layers
        # The encoder's last layer is split into its heads, so the trunk ends with an activation, or has no layer at all.
        self.trunk: nn.Module = (
            nn.Sequential(Dense([pixels, *hidden], activation), Activate(activation)) if hidden else nn.Identity()
        )
        self.heads_of_encoder = nn.ModuleDict(
            {name: Linear(hidden[-1] if hidden else pixels, self.latent_dims) for name in self.heads}
        )
        self.decoder: nn.Module = Dense([self.latent_dims, *hidden, pixels], activation)

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        """Each head's output, (n_members, n, d)."""
        with self.arithmetic():
            features = self.trunk(x)
            return {name: head(features).to(x.dtype) for name, head in self.heads_of_encoder.items()}

    def decode(self, z: Tensor) -> Tensor:
        """The decoder's raw output a, (n_members, n, n_pixels)."""
        with self.arithmetic():
            a: Tensor = self.decoder(z).to(z.dtype)
        return a

    def arithmetic(self) -> AbstractContextManager[Any]:
        """Within it the networks' matrix products, and their gradients, are of ``config.precision``'s numbers."""
        if self.config.precision != "bfloat16":
            return nullcontext()  # tf32 is a matter of the process: ``training.set_arithmetic``
        return torch.autocast(next(self.parameters()).device.type, torch.bfloat16)

    def posterior_mean(self, x: Tensor) -> Tensor:
        return self.encode(x)["mean"]

    def posterior_covariance(self, x: Tensor) -> Tensor | None:
        """The posterior's covariance, (n_members, n, d, d), in squared units of z; None where there is no posterior."""
        return None

    def reconstruct(self, z: Tensor) -> Tensor:
        """f, the expected image of each z, (n_members, n, n_pixels)."""
        return self.likelihood.mean(self.decode(z))

    def noise_widths(self, latent_dim: int) -> tuple[int, ...]:
        """How many standard normals an image needs, one entry per array; the first is padded to the cohort's d."""
        return (latent_dim,)

    @property
    def extremes(self) -> dict[str, Tensor]:
        """By metric, the largest value that training has met since these were set to 0, (n_members,)."""
        return {}

    @abstractmethod
    def forward(self, x: Tensor, noise: Sequence[Tensor]) -> Outcome:
        """Loss and terms of images x, (n_members, n, n_pixels) in [0, 1], at one posterior sample drawn with ``noise``."""

    def log_noise_prior(self) -> Tensor:
        """-xi^2/(2 p) per image, p the number of training images: the N(0,1) prior of xi in equations 21-25. (n_members, 1)"""
        if isinstance(self.likelihood, Gaussian):
            return -self.likelihood.xi.square()[:, None] / (2 * self.n_train)
        return torch.zeros(len(self.latent_dims), 1, device=next(self.parameters()).device)

    @property
    def noise_variance(self) -> Tensor | None:
        """exp(xi), (n_members,), in squared units of x; None where the likelihood has no noise."""
        return self.likelihood.xi.detach().exp() if isinstance(self.likelihood, Gaussian) else None


class AE(Autoencoder):
    """The plain autoencoder: z = mu, no prior and no sampling; the loss is -ln p(x given f(mu)).

    With the unit Gaussian that is half the squared error and a constant: of the training images no other model of this network
    can have a lower MSE.
    """

    def noise_widths(self, latent_dim: int) -> tuple[int, ...]:
        return ()

    def forward(self, x: Tensor, noise: Sequence[Tensor]) -> Outcome:
        mean = self.posterior_mean(x)
        a = self.decode(mean)
        terms = {"log_likelihood": self.likelihood.log_prob(x, a)}
        if isinstance(self.likelihood, Gaussian):
            terms["noise_prior"] = -self.log_noise_prior().expand_as(terms["log_likelihood"])
        return Outcome(-terms["log_likelihood"] - self.log_noise_prior(), terms, mean, a)


@dataclass(frozen=True)
class DiagonalGaussian:
    """N(mean, diag exp(log_variance)), (n_members, n, d) each."""

    mean: Tensor
    log_variance: Tensor

    def sample(self, eta: Tensor) -> Tensor:
        return self.mean + torch.exp(0.5 * self.log_variance) * eta

    def kl_from_standard_normal(self) -> Tensor:
        """KL(q || N(0, 1)) = sum (mu^2 + s^2 - 1 - ln s^2)/2, nats per image (Kingma and Welling 2014, appendix B)."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).sum(2)


class VAE(Autoencoder):
    """Diagonal Gaussian posterior from the encoder; loss = -ELBO (Kingma and Welling 2014, eq. 10, one sample).

    kl_weight beta makes it -ln p(x given z) + beta KL (Higgins et al., beta-VAE, 2017, eq. 4); the term elbo stays the ELBO.
    With a learned variance the loss also has FisherNet's prior of xi, xi^2/(2 p): the two then differ in their posterior alone.
    """

    heads = ("mean", "log_variance")

    def posterior(self, x: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(**self.encode(x))

    def posterior_covariance(self, x: Tensor) -> Tensor:
        return torch.diag_embed(self.posterior(x).log_variance.exp())

    def forward(self, x: Tensor, noise: Sequence[Tensor]) -> Outcome:
        q = self.posterior(x)
        a = self.decode(q.sample(noise[0]))
        log_likelihood, kl = self.likelihood.log_prob(x, a), q.kl_from_standard_normal()
        terms = {"log_likelihood": log_likelihood, "kl": kl, "elbo": log_likelihood - kl}
        if isinstance(self.likelihood, Gaussian):
            terms["noise_prior"] = -self.log_noise_prior().expand_as(kl)
        return Outcome(self.config.kl_weight * kl - log_likelihood - self.log_noise_prior(), terms, q.mean, a)


class CVAE(VAE):
    """The VAE with Table A1's convolutional networks."""

    def _build_networks(self, n_members: int, image_shape: tuple[int, int, int], activation: Activation) -> None:
        self.trunk = ConvEncoder(n_members, image_shape, activation)
        self.heads_of_encoder = nn.ModuleDict(
            {name: Linear([self.trunk.n_features] * n_members, self.latent_dims) for name in self.heads}
        )
        self.decoder = ConvDecoder(self.latent_dims, image_shape, activation)


class FisherNet(Autoencoder):
    """Posterior N(mu, M^-1): the precision is the decoder's Fisher information at the encoded mean, plus 1.

    Loss, equation 25 with S = 1, per image:
        (|z*|^2 + xi^2/p + k xi + |x - f(z*)|^2 exp(-xi)) / 2,    z* = mu + residual,
    M held constant in the gradient. objective eq24 adds ln|M|/2 and the gradient through M; with a linear decoder and the
    exact mu it then is -ln p(x) up to the constant (d - k ln 2 pi)/2, while eq25 is no variational objective.
    With another likelihood the last two terms are its -ln p(x given z*) less the constant.
    kl_weight beta multiplies what the loss keeps of KL(N(mu, M^-1) || p(z)) = E|z*|^2/2 + (ln|M| - d)/2: |z*|^2/2, and with
    eq24 also ln|M|/2. The term elbo stays the ELBO.
    """

    decoder: Dense
    largest: Tensor

    def __init__(self, configs: Sequence[TrialConfig], image_shape: tuple[int, int, int], n_train: int) -> None:
        super().__init__(configs, image_shape, n_train)
        self.register_buffer("largest", torch.zeros(len(configs)), persistent=False)

    @property
    def extremes(self) -> dict[str, Tensor]:
        """Of cg the largest residual it stopped at; else the largest number on M's diagonal."""
        return {CG_RESIDUAL if self.config.sampler == "cg" else LARGEST_PRECISION: self.largest}

    def _note(self, values: Tensor) -> None:
        if self.training:
            torch.maximum(self.largest, values.detach(), out=self.largest)  # in place: a recorded step keeps its memory

    def noise_widths(self, latent_dim: int) -> tuple[int, ...]:
        return (latent_dim, self.n_pixels) if self.config.sampler == "cg" else (latent_dim,)

    def root_information(self, mean: Tensor) -> tuple[Linearised, Tensor]:
        """The decoder's Jacobian at mean, and the root of the likelihood's Fisher information about its output,
        (n_members, n, n_pixels).
        """
        a, linearised = self.decoder.linearise(mean)
        return linearised, self.likelihood.root_fisher(a.to(mean.dtype))

    def residual(self, mean: Tensor, noise: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """A draw from N(0, M^-1) at mean, (n_members, n, d), and ln|M|, (n_members, n), which cg cannot know."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.objective != "eq25"):
            if self.config.sampler == "cg":
                eta, n_star = noise
                linearised, root_information = self.root_information(mean)
                tolerance, limit = self.config.cg_tolerance, self.config.cg_iterations
                residual, remainder = cg_residual(
                    linearised, root_information, n_star, eta, tolerance=tolerance, max_iterations=limit
                )
                self._note(remainder)
                return residual, None
            precision = self.precision(mean, torch.float64 if self.config.sampler == "cholesky-float64" else None)
            self._note(precision.diagonal(dim1=-2, dim2=-1).amax((1, 2)).to(mean.dtype))
            return cholesky_residual(precision, noise[0])

    def precision(self, mean: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """M at mean, (n_members, n, d, d): equation 20. What pads a smaller member has the prior's 1."""
        with self.arithmetic():
            linearised, root_information = self.root_information(mean)
        blocks = []
        for members, d in alike(self.latent_dims, MOST_PADDING[mean.device.type]):
            with self.arithmetic():
                jacobian = linearised.part(members, d).jacobian()
            # Outside: Cholesky needs more digits than bfloat16 has.
            blocks.append(latent_precision(jacobian, root_information[members], dtype))
        return torch.cat([padded(block, mean.shape[2]) for block in blocks]) if len(blocks) > 1 else blocks[0]

    def posterior_covariance(self, x: Tensor) -> Tensor:
        """M^-1 at the encoded mean (section 2.4), by way of float64."""
        mean = self.posterior_mean(x)
        return torch.cholesky_inverse(torch.linalg.cholesky(self.precision(mean, torch.float64))).to(mean.dtype)

    def forward(self, x: Tensor, noise: Sequence[Tensor]) -> Outcome:
        mean = self.posterior_mean(x)
        residual, log_det = self.residual(mean, noise)
        z = mean + residual
        a = self.decode(z)
        log_likelihood = self.likelihood.log_prob(x, a)
        terms = {"log_likelihood": log_likelihood, "half_squared_z": 0.5 * z.square().sum(2)}
        constant = 0.0
        if isinstance(self.likelihood, Gaussian):
            half_log_noise = 0.5 * self.n_pixels * self.likelihood.xi[:, None]
            constant = 0.5 * self.n_pixels * math.log(2 * math.pi)
            terms["half_log_noise"] = half_log_noise.expand_as(log_likelihood)
            terms["half_weighted_error"] = -log_likelihood - half_log_noise - constant
        terms["noise_prior"] = -self.log_noise_prior().expand_as(log_likelihood)
        kl_weight = self.config.kl_weight
        loss = kl_weight * terms["half_squared_z"] - log_likelihood - constant + terms["noise_prior"]
        if log_det is not None:
            terms["half_log_det"] = 0.5 * log_det
            # ln q(z*) = (ln|M| - |eta|^2 - d ln 2 pi)/2, as residual^T M residual = |eta|^2 to the factor's rounding.
            log_ratio = 0.5 * (log_det - noise[0].square().sum(2)) + terms["half_squared_z"]
            terms["elbo"] = log_likelihood - log_ratio
            if self.config.objective == "eq24":
                loss = loss + kl_weight * terms["half_log_det"]
        return Outcome(loss, terms, mean, a)


MODELS: dict[str, type[Autoencoder]] = {cls.__name__: cls for cls in (FisherNet, VAE, CVAE, AE)}
