"""The latent precision M = J^T I J + 1 and two ways to draw from N(0, M^-1). FisherNet paper, sections 2.4 and 2.6."""

import torch
from torch import Tensor

from fishernet.networks import Linearised


def latent_precision(jacobian: Tensor, information: Tensor) -> Tensor:
    """M = J^T I J + 1, equation 20, (n_members, n, d, d).

    jacobian is J^T as tangents, (n_members, n or 1, d, n_out); information the diagonal of I, (n_members, n, n_out).
    For Gaussian noise of variance s^2 and f = a it is J^T J / s^2 + 1. A precision, in inverse squared units of z.
    """
    half = jacobian * information.sqrt()[:, :, None]  # (n_members, n, d, n_out)
    return half @ half.mT + torch.eye(half.shape[2], dtype=half.dtype, device=half.device)


def cholesky_residual(precision: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
    """L^-T eta ~ N(0, M^-1) with M = L L^T, and ln|M|: exact, (n_members, n, d) and (n_members, n).

    eta is standard normal, (n_members, n, d). Where M is not finite, or not positive definite to rounding, the result is
    NaN: said without a synchronisation, and stopped where the loss is looked at.
    """
    factor, info = torch.linalg.cholesky_ex(precision)
    factor = torch.where(info[..., None, None] > 0, torch.nan, factor)
    residual = torch.linalg.solve_triangular(factor.mT, eta[..., None], upper=True)[..., 0]
    return residual, 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


@torch.no_grad()
def cg_residual(
    decoder: Linearised, information: Tensor, n_star: Tensor, eta: Tensor, *, tolerance: float, max_iterations: int
) -> Tensor:  # fmt: skip
    """The solution of M z* = theta*, theta* = J^T I^(1/2) n* + eta* ~ N(0, M): equations 28-31 by conjugate gradients.

    n_star, (n_members, n, n_out), and eta, (n_members, n, d), are standard normal. z* ~ N(0, M^-1) (equation 31 names mu as
    its mean, which must be added). M is only ever applied, one push and one pull an iteration: memory does not grow
    with d x n_out. Stops when every residual norm is below tolerance x |theta*|; a member that is not finite does not hold
    up the others. Exact up to the tolerance; in exact arithmetic d iterations suffice.
    """

    def apply_m(v: Tensor) -> Tensor:
        return decoder.pull(information * decoder.push(v)) + v

    theta = decoder.pull(information.sqrt() * n_star) + eta
    z, r = torch.zeros_like(theta), theta
    p, rr = r, r.square().sum(-1, keepdim=True)  # (n_members, n, 1)
    goal = tolerance**2 * rr
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
    return torch.where(torch.isfinite(theta), z, theta)
