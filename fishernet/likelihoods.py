"""Likelihoods p(x given f): a density and its Fisher information, both as functions of the decoder's raw output a.

f = sigmoid(a) or f = a. Working in a keeps the logarithms finite where a probability rounds to 0 or 1. Everything is
stacked: a and x are (n_members, n, n_pixels) and results per image (n_members, n).
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fishernet.config import TrialConfig

# The running mean behind noise="closed-form" forgets with this factor per step: about the last 100 batches count.
NOISE_MEMORY = 0.99


class Likelihood(nn.Module, ABC):
    """p(x given f), pixels independent."""

    def __init__(self, config: TrialConfig, n_members: int) -> None:
        super().__init__()
        self.sigmoid = config.decoder_output == "sigmoid"
        self.n_members = n_members

    def mean(self, a: Tensor) -> Tensor:
        """f, the expected image."""
        return torch.sigmoid(a) if self.sigmoid else a

    @abstractmethod
    def log_prob(self, x: Tensor, a: Tensor) -> Tensor:
        """ln p(x given f) in nats per image, constants included, (n_members, n)."""

    @abstractmethod
    def root_fisher(self, a: Tensor) -> Tensor:
        """The square root of the Fisher information about each a, the score's standard deviation, (n_members, n, n_pixels).

        With J the Jacobian of a, the information about z is J^T diag(root_fisher^2) J: equation 18 of the FisherNet paper,
        where the slope of the decoder's last function is counted here instead of in J. The root, as the square of a saturated
        pixel rounds to 0, where the gradient of a square root is infinite.
        """

    def observe(self, x: Tensor, a: Tensor) -> None:
        """Take note of a training batch, after the optimiser's step."""


class Bernoulli(Likelihood):
    """Grey values as probabilities: ln p = sum_j x_j ln f_j + (1 - x_j) ln(1 - f_j)."""

    def log_prob(self, x: Tensor, a: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(a, x, reduction="none").sum(2)

    def root_fisher(self, a: Tensor) -> Tensor:
        return _root_slope(a)


class Gaussian(Likelihood):
    """x = f + n, n ~ N(0, exp(xi) 1): FisherNet paper, equations 7-9 with t = exp; xi is 0 unless a subclass moves it."""

    xi: Tensor  # (n_members,): logarithm of the noise variance in squared units of x

    def __init__(self, config: TrialConfig, n_members: int) -> None:
        super().__init__(config, n_members)
        self.register_buffer("xi", torch.zeros(n_members))

    def squared_error(self, x: Tensor, a: Tensor) -> Tensor:
        return (x - self.mean(a)).square().sum(2)

    def log_prob(self, x: Tensor, a: Tensor) -> Tensor:
        xi = self.xi[:, None]
        return -0.5 * (self.squared_error(x, a) * torch.exp(-xi) + x.shape[2] * (xi + math.log(2 * math.pi)))

    def root_fisher(self, a: Tensor) -> Tensor:
        inverse_sd = torch.exp(-0.5 * self.xi)[:, None, None]
        return _root_slope(a).square() * inverse_sd if self.sigmoid else inverse_sd.expand_as(a)


class GaussianLearned(Gaussian):
    """``Gaussian`` whose xi is found by gradient (paper) or set to the optimum of the running mean squared error.

    The optimum of the likelihood at fixed f is xi = ln mean_j (x_j - f_j)^2 (Rybkin et al., sigma-VAE, 2021, eq. 5).
    """

    n_observed: Tensor  # (n_members,): steps behind the running mean

    def __init__(self, config: TrialConfig, n_members: int) -> None:
        super().__init__(config, n_members)
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
            mean_squared_error = self.squared_error(x, a).mean(1) / x.shape[2]
            # A running mean that starts as the plain mean of what was seen and then forgets (Adam's bias correction).
            self.n_observed.add_(1)
            weight = ((1 - NOISE_MEMORY) / (1 - NOISE_MEMORY**self.n_observed)).clamp(max=1)  # the first to rounding
            self.xi.copy_(torch.log(torch.exp(self.xi).lerp(mean_squared_error, weight)))


def _root_slope(a: Tensor) -> Tensor:
    """sqrt(f (1 - f)) of f = sigmoid(a): t/(1 + t^2), t = exp(-|a|/2), which has a finite gradient also where f rounds to 1."""
    t = torch.exp(-0.5 * a.abs())
    return t / (1 + t.square())


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
    "gaussian-learned": GaussianLearned,
}
