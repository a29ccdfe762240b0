"""Posteriors q(z given x): objects that draw and give ln q of their draw. Tensors are (n_members, n, d).

``own`` is (n_members, 1, d), 1 where a latent is a member's own and 0 where it pads a smaller member.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fishernet.fisher import cg_residual, cholesky_residual
from fishernet.likelihoods.base import Root
from fishernet.networks.stacked import Jacobian

LOG_2_PI = math.log(2 * math.pi)


class Draw(NamedTuple):
    """One draw and its log density under the posterior that drew it, nats, (n_members, n); None where it cannot be known."""

    z: Tensor
    log_q: Tensor | None


class Posterior(ABC):
    """q(z given x) of a batch."""

    mean: Tensor
    own: Tensor

    @abstractmethod
    def draw(self, noise: Mapping[str, Tensor]) -> Draw:
        """z ~ q from the model's noise by name, and ln q(z): a flow knows both at once and neither alone."""

    @abstractmethod
    def covariance(self) -> Tensor:
        """(n_members, n, d, d), in squared units of z."""

    def _log_normal(self, eta: Tensor) -> Tensor:
        """ln N(eta; 0, 1) over the member's own latents, (n_members, n)."""
        return -0.5 * (eta.square().sum(2) + self.own.sum(2) * LOG_2_PI)


class DiagonalGaussian(Posterior):
    """N(mean, diag exp(log_variance))."""

    def __init__(self, mean: Tensor, log_variance: Tensor, own: Tensor) -> None:
        self.mean, self.log_variance, self.own = mean, log_variance, own

    def sample(self, eta: Tensor) -> Tensor:
        """mean + sd eta, eta standard normal."""
        return self.mean + torch.exp(0.5 * self.log_variance) * eta

    def draw(self, noise: Mapping[str, Tensor]) -> Draw:
        return Draw(
            self.sample(noise["eta"]), self._log_normal(noise["eta"]) - 0.5 * (self.log_variance * self.own).sum(2)
        )

    def covariance(self) -> Tensor:
        return torch.diag_embed(self.log_variance.exp())


class PrecisionGaussian(Posterior):
    """N(mean, M^-1) of an explicit precision M, (n_members, n, d, d), whose padding has the prior's 1."""

    def __init__(self, mean: Tensor, precision: Tensor, own: Tensor) -> None:
        self.mean, self.precision, self.own = mean, precision, own

    def residual(self, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """A draw from N(0, M^-1), and ln|M|, (n_members, n)."""
        return cholesky_residual(self.precision, noise["eta"])

    def draw(self, noise: Mapping[str, Tensor]) -> Draw:
        """ln q(z) = (ln|M| - |eta|^2 - d ln 2 pi)/2 exactly, as residual^T M residual = |eta|^2."""
        residual, log_det = self.residual(noise)
        return Draw(self.mean + residual, self._log_normal(noise["eta"]) + 0.5 * log_det)

    def covariance(self) -> Tensor:
        return torch.cholesky_inverse(torch.linalg.cholesky(self.precision))


class ImplicitPrecisionGaussian(Posterior):
    """N(mean, M^-1) of M = J^T R^T R J + 1 that is never formed: draws by conjugate gradients, without ln|M|."""

    def __init__(
        self, mean: Tensor, jacobian: Jacobian, root: Root, own: Tensor, *, tolerance: float, max_iterations: int
    ) -> None:
        self.mean, self.jacobian, self.root, self.own = mean, jacobian, root, own
        self.tolerance, self.max_iterations = tolerance, max_iterations

    def residual(self, noise: Mapping[str, Tensor]) -> tuple[Tensor, None]:
        """A draw from N(0, M^-1)."""
        return cg_residual(
            self.jacobian, self.root, noise["n_star"], noise["eta"],
            tolerance=self.tolerance, max_iterations=self.max_iterations,
        ), None  # fmt: skip

    def draw(self, noise: Mapping[str, Tensor]) -> Draw:
        return Draw(self.mean + self.residual(noise)[0], None)

    def covariance(self) -> Tensor:
        raise NotImplementedError("the covariance of a precision that is never formed")
