"""Likelihoods of independent pixels, functions of one number a per pixel: f = sigmoid(a) or f = a.

Working in a keeps the logarithms finite where a probability rounds to 0 or 1.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fishernet.families import LikelihoodConfig
from fishernet.likelihoods.base import DiagonalRoot, Likelihood, Marginals, squared_length

# The running mean behind noise="closed-form" forgets with this factor per step: about the last 100 batches count.
NOISE_MEMORY = 0.99


class Bernoulli(Likelihood):
    """Grey values as probabilities: ln p = sum_j x_j ln f_j + (1 - x_j) ln(1 - f_j)."""

    def log_prob(self, x: Tensor, a: Tensor) -> Tensor:
        """sum_j x_j a_j - ln(1 + exp a_j)."""
        if a.requires_grad:  # with a gradient in one pass
            return -F.binary_cross_entropy_with_logits(a, x, reduction="none").sum(2)
        # Fewer passes, pixel by pixel: of two sums the difference would lose digits. Beyond 40 softplus is a to the last digit.
        return -F.softplus(a, threshold=40).addcmul_(x, a, value=-1).sum(2)

    def sample(self, a: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.bernoulli(self.mean(a), generator=generator)

    random = "uniform"

    def draw(self, a: Tensor, noise: Tensor) -> Tensor:
        """1 where the number is below f; the gradient is that of f (straight-through: Bengio et al. 2013)."""
        f = self.mean(a)
        return (noise < f).to(f.dtype) + f - f.detach()

    def root_information(self, a: Tensor) -> DiagonalRoot:
        return DiagonalRoot(root_slope(a))


class Gaussian(Likelihood):
    """x = f + n, n ~ N(0, exp(xi) 1): FisherNet paper, equations 7-9 with t = exp; xi is 0 unless a subclass moves it.

    With ``pixel_range`` symmetric exp(xi) is the variance of 2x - 1, and so a quarter of it that of x. Densities are of x.
    """

    xi: Tensor  # (n_members,): logarithm of the noise variance in squared units of the images' range

    def __init__(self, config: LikelihoodConfig, n_members: int, image_shape: Sequence[int]) -> None:
        super().__init__(config, n_members, image_shape)
        self.log_unit = (
            -math.log(4) if config.pixel_range == "symmetric" else 0.0
        )  # of variances, in squared units of x
        self.register_buffer("xi", torch.zeros(n_members))

    def squared_error(self, x: Tensor, a: Tensor) -> Tensor:
        return squared_length(self.mean(a) - x)

    @property
    def log_variance(self) -> Tensor:
        """ln of the noise variance in squared units of x, (n_members,)."""
        return self.xi + self.log_unit

    def log_prob(self, x: Tensor, a: Tensor) -> Tensor:
        ln_v = self.log_variance[:, None]
        return -0.5 * (self.squared_error(x, a) * torch.exp(-ln_v) + x.shape[2] * (ln_v + math.log(2 * math.pi)))

    def hyvarinen(self, x: Tensor, a: Tensor) -> Tensor:
        """|x - f|^2/(2 v^2) - k/v, v the noise variance."""
        precision = torch.exp(-self.log_variance)[:, None]
        return 0.5 * self.squared_error(x, a) * precision.square() - x.shape[2] * precision

    def sample(self, a: Tensor, generator: torch.Generator | None = None) -> Tensor:
        normal = torch.randn(a.shape, generator=generator, device=a.device, dtype=a.dtype)
        return self.draw(a, normal)

    def draw(self, a: Tensor, noise: Tensor) -> Tensor:
        return self.mean(a) + torch.exp(0.5 * self.log_variance)[:, None, None] * noise

    def root_information(self, a: Tensor) -> DiagonalRoot:
        inverse_sd = torch.exp(-0.5 * self.log_variance)[:, None, None]
        return DiagonalRoot(root_slope(a).square() * inverse_sd if self.sigmoid else inverse_sd.expand_as(a))

    def marginals(self, a: Tensor) -> Marginals:
        f = self.mean(a)[:, :, None]
        sd = torch.exp(0.5 * self.log_variance)[:, None, None, None]
        return Marginals(f.new_zeros(f.shape[:3]), f, sd.expand_as(f))

    @property
    def constant(self) -> float:
        return 0.5 * self.n_pixels * (math.log(2 * math.pi) + self.log_unit)

    def parts(self, log_prob: Tensor) -> dict[str, Tensor]:
        """k xi/2 and |x - f|^2 exp(-xi)/2 of equations 24 and 25."""
        half_log_noise = 0.5 * self.n_pixels * self.xi[:, None]
        return {
            "half_log_noise": half_log_noise.expand_as(log_prob),
            "half_weighted_error": -log_prob - half_log_noise - self.constant,
        }

    def log_prior(self, n_train: int) -> Tensor:
        """-xi^2/(2 p) per image, p the number of training images: the N(0, 1) prior of xi in equations 21-25."""
        return -self.xi.square()[:, None] / (2 * n_train)

    @property
    def noise_variance(self) -> Tensor:
        return self.log_variance.detach().exp()


class GaussianLearned(Gaussian):
    """``Gaussian`` whose xi is found by gradient (paper) or set to the optimum of the running mean squared error.

    The optimum of the likelihood at fixed f is xi = ln mean_j (x_j - f_j)^2, x in the images' range (Rybkin et al.,
    sigma-VAE, 2021, eq. 5).
    """

    n_observed: Tensor  # (n_members,): steps behind the running mean

    def __init__(self, config: LikelihoodConfig, n_members: int, image_shape: Sequence[int]) -> None:
        super().__init__(config, n_members, image_shape)
        self.closed_form = config.noise == "closed-form"
        start = torch.full((n_members,), config.noise_start)
        if self.closed_form:
            self.xi.copy_(start)
            self.register_buffer("n_observed", torch.zeros(n_members))
        else:
            del self.xi
            self.xi = nn.Parameter(start)

    @torch.no_grad()
    def observe(self, x: Tensor, a: Tensor) -> None:
        if self.closed_form:
            mean_squared_error = self.squared_error(x, a).mean(1) / x.shape[2] * math.exp(-self.log_unit)
            # A running mean that starts as the plain mean of what was seen and then forgets (Adam's bias correction).
            self.n_observed.add_(1)
            weight = ((1 - NOISE_MEMORY) / (1 - NOISE_MEMORY**self.n_observed)).clamp(max=1)  # the first to rounding
            self.xi.copy_(torch.log(torch.exp(self.xi).lerp(mean_squared_error, weight)))


def root_slope(a: Tensor) -> Tensor:
    """sqrt(f (1 - f)) of f = sigmoid(a): t/(1 + t^2), t = exp(-|a|/2), which has a finite gradient also where f rounds to 1."""
    t = torch.exp(-0.5 * a.abs())
    return t / (1 + t.square())
