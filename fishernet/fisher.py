"""The latent precision M = J^T I J + 1 and two ways to draw from N(0, M^-1). FisherNet paper, sections 2.4 and 2.6."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from fishernet.likelihoods.base import Root
from fishernet.networks.stacked import Jacobian

# By how much latent_dims may differ whose tangents are pushed together: on a CPU padding costs more than another call; on a
# GPU, where it has not been measured, small products leave much of it idle.
MOST_PADDING = {"cpu": 1.0, "cuda": 1.5}


@contextmanager
def no_tf32() -> Iterator[None]:
    """Within it float32 products are float32's on a GPU as well, whatever the networks' are."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def latent_precision(half: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """M = J^T I J + 1, equation 20, (n_members, n, d, d).

    half is (R J)^T with R^T R = I: the tangents J^T pushed through a root of the information, (n_members, n, d, n_rows).
    For Gaussian noise of variance s^2 and f = a it is J^T J / s^2 + 1. A precision, in inverse squared units of z.
    The product is formed in ``dtype``, by default the inputs' own.
    """
    half = half.to(dtype)
    with no_tf32():
        return half @ half.mT + torch.eye(half.shape[2], dtype=half.dtype, device=half.device)


def alike(latent_dims: Sequence[int], most_padding: float) -> list[tuple[slice, int]]:
    """Neighbouring members whose latent_dims are within a factor of ``most_padding``, and the largest of these.

    A tangent is pushed for each latent dimension, the costliest part of a step: in a stack of d = 2-20 padded to 20 nearly
    every second one would be 0.
    """
    runs: list[tuple[slice, int]] = []
    smallest = 0
    for i, d in enumerate(latent_dims):
        if runs and max(d, runs[-1][1]) <= most_padding * min(d, smallest):
            runs[-1] = slice(runs[-1][0].start, i + 1), max(d, runs[-1][1])
            smallest = min(d, smallest)
        else:
            runs.append((slice(i, i + 1), d))
            smallest = d
    return runs


def padded(precision: Tensor, d: int) -> Tensor:
    """M of fewer latent dimensions, (..., d', d'), as one of d: the surplus is the prior's 1."""
    own = precision.shape[2]
    surplus = (torch.arange(d, device=precision.device) >= own).to(precision.dtype)
    return F.pad(precision, (0, d - own, 0, d - own)) + surplus.diag()


def cholesky_factor(precision: Tensor) -> Tensor:
    """L with M = L L^T; NaN where M is not positive definite to rounding."""
    factor, info = torch.linalg.cholesky_ex(precision)
    return torch.where(info[..., None, None] > 0, torch.nan, factor)


def cholesky_residual(precision: Tensor, eta: Tensor, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """L^-T eta ~ N(0, M^-1) with M = L L^T, and ln|M|, (n_members, n, d) and (n_members, n), in the numbers of eta.

    eta is standard normal, (n_members, n, d). Exact to the rounding of M, which is formed before: in float32 ln|M| and the
    covariance are off by up to 1e-7 x the ratio of M's largest eigenvalue to its smallest, and nothing shows it below 1e8.
    Where M is not finite, or not positive definite to rounding, the result is NaN: said without a synchronisation, and
    stopped where the loss is looked at. ``factor`` is that of M where it is known.
    """
    factor = cholesky_factor(precision) if factor is None else factor
    residual = torch.linalg.solve_triangular(factor.mT, eta[..., None].to(factor.dtype), upper=True)[..., 0]
    return residual.to(eta.dtype), 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1).to(eta.dtype)


@torch.no_grad()
def cg_residual(
    jacobian: Jacobian, root: Root, n_star: Tensor, eta: Tensor, *, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The solution of M z* = theta*, theta* = J^T R^T n* + eta* ~ N(0, M): equations 28-31 by conjugate gradients.

    Beside it what is left of the equation, |theta* - M z*| / |theta*|, the largest of each member's images, (n_members,).

    R^T R = I is the likelihood's information. n_star, (n_members, n, n_rows), and eta, (n_members, n, d), are standard
    normal. z* ~ N(0, M^-1) (equation 31 names mu as its mean, which must be added). M is only ever applied, one push and
    one pull an iteration: memory does not grow with d x n_rows. Stops when every residual norm is below
    tolerance x |theta*|; a member that is not finite does not hold up the others. Exact up to the tolerance, which the
    directions that M makes narrowest dominate: draws get too narrow where its eigenvalues span some 8 decades in float32.
    In exact arithmetic as many iterations suffice as M has distinct eigenvalues; in float32 widely spread ones need several
    times d. Where ``max_iterations`` cut it short the widest directions are lost: that remainder says so. (It is updated
    along the way; in float32 the true one is up to 3 times it.)
    """

    def apply_m(v: Tensor) -> Tensor:
        return jacobian.pull(root.gram(jacobian.push(v))) + v

    with no_tf32():
        theta = jacobian.pull(root.pull(n_star)) + eta
        z, r = torch.zeros_like(theta), theta
        p, rr = r, r.square().sum(-1, keepdim=True)  # (n_members, n, 1)
        squared, goal = rr, tolerance**2 * rr
        for _ in range(max_iterations):
            active = rr > goal  # false for NaN as well
            if not active.any():
                break
            mp = apply_m(p)
            step = torch.where(active, rr / (p * mp).sum(-1, keepdim=True), 0)
            z, r = z + step * p, r - step * mp
            rr_new = r.square().sum(-1, keepdim=True)
            p = torch.where(active, r + (rr_new / rr) * p, p)
            rr = torch.where(active, rr_new, rr)
    remainder = (rr / squared).sqrt().amax((1, 2))
    return torch.where(torch.isfinite(theta), z, theta), remainder
