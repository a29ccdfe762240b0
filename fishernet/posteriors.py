"""Posteriors q(z given x): objects that draw and give ln q of their draw. Tensors are (n_members, n, d).

``own`` is (n_members, 1, d), 1 where a latent is a member's own and 0 where it pads a smaller member.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from fishernet.fisher import cg_residual, cholesky_factor, cholesky_residual
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
    density = True  # ln q of a draw is known

    @abstractmethod
    def draw(self, noise: Mapping[str, Tensor]) -> Draw:
        """z ~ q from the model's noise by name, and ln q(z): a flow knows both at once and neither alone."""

    @abstractmethod
    def covariance(self) -> Tensor:
        """(n_members, n, d, d), in squared units of z."""

    def fisher_information(self) -> Tensor:
        """tr J(z given x), the trace of the Fisher information about its location, in inverse squared units of z, (n_members, n).

        Of a Gaussian the trace of its precision, over the member's own latents. Raises NotImplementedError where there is no
        closed form.
        """
        raise NotImplementedError(f"{type(self).__name__} has no Fisher information in closed form")

    def entropy(self) -> Tensor:
        """Differential entropy, nats, (n_members, n); raises NotImplementedError where there is no closed form."""
        raise NotImplementedError(f"{type(self).__name__} has no entropy in closed form")

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

    def fisher_information(self) -> Tensor:
        """sum 1/s^2."""
        return (torch.exp(-self.log_variance) * self.own).sum(2)

    def entropy(self) -> Tensor:
        """sum ln(2 pi e s^2)/2."""
        return 0.5 * ((self.log_variance + 1 + LOG_2_PI) * self.own).sum(2)


class PrecisionGaussian(Posterior):
    """N(mean, M^-1) of an explicit precision M, (n_members, n, d, d), whose padding has the prior's 1.

    ``form`` gives M in the numbers asked for; draws are made with those of ``dtype``, by default the networks' own.
    """

    def __init__(
        self, mean: Tensor, form: Callable[[torch.dtype | None], Tensor], own: Tensor, dtype: torch.dtype | None = None
    ) -> None:
        self.mean, self.form, self.own = mean, form, own
        self.precision = form(dtype)

    def residual(self, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """A draw from N(0, M^-1), and ln|M|, (n_members, n)."""
        return cholesky_residual(self.precision, noise["eta"], self.factor)

    @cached_property
    def factor(self) -> Tensor:
        """Made once, for any number of draws."""
        return cholesky_factor(self.precision)

    def draw(self, noise: Mapping[str, Tensor]) -> Draw:
        """ln q(z) = (ln|M| - |eta|^2 - d ln 2 pi)/2, as residual^T M residual = |eta|^2 to the factor's rounding."""
        residual, log_det = self.residual(noise)
        return Draw(self.mean + residual, self._log_normal(noise["eta"]) + 0.5 * log_det)

    def covariance(self) -> Tensor:
        return _inverse(self.form, self.mean.dtype)

    def fisher_information(self) -> Tensor:
        """tr M."""
        return (self.precision.diagonal(dim1=-2, dim2=-1).to(self.mean.dtype) * self.own).sum(2)


class Flow(Posterior):
    """A diagonal Gaussian moved by ``steps``, which map z to z' and ln|det dz'/dz| and depend on the image.

    ``mean`` is where the Gaussian's mean goes, a code of the image and in general not the mean of q.
    """

    def __init__(self, base: DiagonalGaussian, steps: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        self.base, self.steps, self.own = base, steps, base.own

    @cached_property
    def mean(self) -> Tensor:  # type: ignore[override]
        return self.steps(self.base.mean)[0]

    def draw(self, noise: Mapping[str, Tensor]) -> Draw:
        z, log_q = self.base.draw(noise)
        assert log_q is not None
        moved, log_det = self.steps(z)
        return Draw(moved, log_q - log_det)

    def score(self, noise: Mapping[str, Tensor]) -> Tensor:
        """The gradient of ln q(z given x) in z at the draw, (n_members, n, d): A^-T grad ln q in the noise, A = dz/dnoise.

        The mean of its square over draws is tr J(z given x), which has no closed form here. One backward pass for each latent.
        """
        with torch.enable_grad():
            eta = noise["eta"].detach().requires_grad_()
            z, log_q = self.draw({"eta": eta})
            assert log_q is not None
            (slope,) = torch.autograd.grad(log_q.sum(), eta, retain_graph=True)
            rows = [torch.autograd.grad(z_i.sum(), eta, retain_graph=True)[0] for z_i in z.unbind(2)]
        # What pads a member is constant, with 1 on the diagonal in its place.
        moved = torch.stack(rows, 2) + torch.diag_embed(1 - self.own)
        # float64; no error where a gate is shut so far that nothing is left of a latent: the score is then not finite.
        return torch.linalg.solve_ex(moved.double().mT, slope.double()[..., None]).result[..., 0].to(slope.dtype)

    def covariance(self) -> Tensor:
        raise NotImplementedError("the covariance of a flow has no closed form")


class ImplicitPrecisionGaussian(Posterior):
    """N(mean, M^-1) of M = J^T R^T R J + 1 that draws never form: by conjugate gradients, without ln|M|."""

    density = False

    def __init__(
        self, mean: Tensor, form: Callable[[torch.dtype | None], Tensor], jacobian: Jacobian, root: Root, own: Tensor, *,
        tolerance: float, max_iterations: int, note: Callable[[Tensor], None],
    ) -> None:  # fmt: skip
        self.mean, self.form, self.jacobian, self.root, self.own = mean, form, jacobian, root, own
        self.tolerance, self.max_iterations, self.note = tolerance, max_iterations, note

    def residual(self, noise: Mapping[str, Tensor]) -> tuple[Tensor, None]:
        """A draw from N(0, M^-1); ``note`` is told what is left of the equation."""
        residual, remainder = cg_residual(
            self.jacobian, self.root, noise["n_star"], noise["eta"],
            tolerance=self.tolerance, max_iterations=self.max_iterations,
        )  # fmt: skip
        self.note(remainder)
        return residual, None

    def draw(self, noise: Mapping[str, Tensor]) -> Draw:
        return Draw(self.mean + self.residual(noise)[0], None)

    def covariance(self) -> Tensor:
        return _inverse(self.form, self.mean.dtype)


def _inverse(form: Callable[[torch.dtype | None], Tensor], dtype: torch.dtype) -> Tensor:
    """M^-1 by way of float64."""
    return torch.cholesky_inverse(torch.linalg.cholesky(form(torch.float64))).to(dtype)
