"""Priors p(z). Tensors are (n_members, n, d); results per image (n_members, n)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from fishernet.networks.stacked import Stacked
from fishernet.posteriors import LOG_2_PI, DiagonalGaussian, Posterior

# Integrals over a latent are sums over z = sinh(u) at equal steps of u: to 2e-14 for densities 0.02 to 5 wide, 1e-6 at 15.
REACH, STEPS, STEPS_OF_A_TABLE = 5.0, 2001, 200_001
FLAT = 1e-3  # of the top order at the start: a density from the first step, and next to nothing within the data's reach
SCATTER = 0.01  # standard deviation of scattered starts


class ImproperPriorError(ValueError):
    """A prior that is no density; the message says in how many dimensions, and why."""


class Prior(nn.Module, ABC):
    """p(z) of each member's own latents; ``own`` is (n_members, 1, d), 0 where a latent pads a smaller member."""

    own: Tensor
    density = True  # by construction, whatever its parameters: ln p, KL and the ELBO are known

    def __init__(self, own: Tensor) -> None:
        super().__init__()
        self.register_buffer("own", own, persistent=False)

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """ln p(z), nats; raises ImproperPriorError where it is no density by construction."""

    @abstractmethod
    def score(self, z: Tensor) -> Tensor:
        """The gradient of ln p(z) in z, (n_members, n, d)."""

    @abstractmethod
    def kl(self, q: Posterior) -> Tensor:
        """KL(q || p), nats, in closed form; raises NotImplementedError where there is none."""

    @abstractmethod
    def sample(self, member: int, n: int, generator: torch.Generator) -> Tensor:
        """n draws of one member's prior, (n, its own latent_dim), on the generator's device."""


class StandardNormal(Prior):
    """N(0, 1)."""

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z.square().sum(2) + self.own.sum(2) * LOG_2_PI)

    def score(self, z: Tensor) -> Tensor:
        return -z

    def kl(self, q: Posterior) -> Tensor:
        """sum (mu^2 + s^2 - 1 - ln s^2)/2 of a diagonal Gaussian (Kingma and Welling 2014, appendix B)."""
        if not isinstance(q, DiagonalGaussian):
            raise NotImplementedError(f"no closed form of KL({type(q).__name__} || N(0, 1))")
        return 0.5 * (q.mean.square() + q.log_variance.exp() - 1 - q.log_variance).sum(2)

    def sample(self, member: int, n: int, generator: torch.Generator) -> Tensor:
        d = int(cast("float", self.own[member].sum().item()))
        return torch.randn(n, d, generator=generator, device=generator.device)


class ExponentialFamily(Prior, Stacked):
    """p(z) proportional to exp(sum_jk eta_jk z_j^k), k = 1 to K, with learnable eta (Fisher auto-encoders, section 3.3).

    It factorises, so that the normaliser, moments and exact draws are one-dimensional integrals. It is a density where K is
    even and every eta_jK < 0; ``top`` negative makes it so, eta_jK = -exp(tau_j), and ``free`` leaves eta_jK to the gradient,
    as the paper does. ``start`` standard is N(0, 1), for K > 2 but for a top of -FLAT; scattered draws every eta from
    N(0, SCATTER^2). K = 2 is a Gaussian.

    Learned by the Fisher divergence its mass may be where few codes are: that compares scores where codes are, and scores say
    little of how much mass is where (score matching is nearly blind to mixing weights). A polynomial that fits them may rise
    beyond. It is no fault of the optimiser: the best coefficients for given networks, a least-squares problem, do the same.
    The KL divergence knows the normaliser and keeps the mass with the codes.
    """

    eta: Tensor  # (n_members, d, K), or K - 1 where the top order is tau's
    tau: Tensor  # (n_members, d)

    def __init__(self, own: Tensor, dims: Sequence[int], order: int, top: str, start: str) -> None:
        super().__init__(own)
        self.order, self.start, self.density = order, start, top == "negative"
        n_members, _, d = own.shape
        self.dims = list(dims)
        self.padded = ("eta", "tau") if self.density else ("eta",)
        self.eta = nn.Parameter(torch.zeros(n_members, d, order - self.density, dtype=own.dtype))
        if self.density:
            self.tau = nn.Parameter(torch.zeros(n_members, d, dtype=own.dtype))

    @torch.no_grad()
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        for member, (d, generator) in enumerate(zip(self.dims, generators, strict=True)):
            eta = self.eta[member, :d]
            if self.start == "scattered":
                eta.copy_(SCATTER * torch.randn(eta.shape, generator=generator))
            elif self.order > 2 or not self.density:
                eta[:, 1] = -0.5
            if self.density:
                top = SCATTER if self.start == "scattered" else FLAT if self.order > 2 else 0.5
                self.tau[member, :d] = math.log(top)

    def member_view(self, i: int, name: str, tensor: Tensor) -> Tensor:
        return tensor[i, : self.dims[i]]

    def coefficients(self) -> Tensor:
        """eta of every order, (n_members, d, K); 0 in the padding of ``eta``."""
        return torch.cat([self.eta, -self.tau.exp()[:, :, None]], 2) if self.density else self.eta

    def score(self, z: Tensor) -> Tensor:
        """sum_k k eta_jk z_j^(k-1)."""
        eta = self.coefficients()[:, None]
        total = torch.zeros_like(z)
        for k in range(self.order, 0, -1):
            total = total * z + k * eta[..., k - 1]
        return total

    def log_prob(self, z: Tensor) -> Tensor:
        return (self.log_densities(z) * self.own).sum(2)

    def log_densities(self, z: Tensor) -> Tensor:
        """ln p(z_j) of each latent, (n_members, n, d); raises ImproperPriorError where it is no density by construction."""
        return self._exponent(z) - self.log_normaliser()[:, None].to(z.dtype)

    def kl(self, q: Posterior) -> Tensor:
        """-H(q) - sum_jk eta_jk E z_j^k + ln Z of a diagonal Gaussian, E z^k = mu E z^(k-1) + (k-1) s^2 E z^(k-2)."""
        if not isinstance(q, DiagonalGaussian):
            raise NotImplementedError(f"no closed form of KL({type(q).__name__} || an exponential family)")
        variance = q.log_variance.exp()
        before, moment = torch.ones_like(q.mean), q.mean
        eta = self.coefficients()[:, None]
        expected = eta[..., 0] * moment
        for k in range(2, self.order + 1):
            before, moment = moment, q.mean * moment + (k - 1) * variance * before
            expected = expected + eta[..., k - 1] * moment
        entropy = 0.5 * (q.log_variance + LOG_2_PI + 1)
        return ((self.log_normaliser()[:, None].to(q.mean.dtype) - entropy - expected) * self.own).sum(2)

    def log_normaliser(self) -> Tensor:
        """ln Z of each latent, float64 (n_members, d); raises ImproperPriorError."""
        self._be_a_density()
        u = torch.linspace(-REACH, REACH, STEPS, dtype=torch.float64, device=self.eta.device)
        exponent = self._exponent(torch.sinh(u)[None, :, None])  # (n_members, STEPS, d)
        step = 2 * REACH / (STEPS - 1)
        return torch.logsumexp(exponent + torch.cosh(u).log()[:, None], 1) + math.log(step)

    @torch.no_grad()
    def sample(self, member: int, n: int, generator: torch.Generator) -> Tensor:
        """Exact draws, by the inverse of each latent's distribution function; raises ImproperPriorError."""
        d = self.dims[member]
        if n_improper := self.improper(member):
            raise ImproperPriorError(
                f"the prior is no density in {n_improper} of {d} dimensions: its highest order, {self.order}, is odd or has a "
                "coefficient that is not negative, so that its exponential grows without bound. --prior-top negative with an "
                "even --prior-order makes it one"
            )
        u = torch.linspace(-REACH, REACH, STEPS_OF_A_TABLE, dtype=torch.float64, device=self.eta.device)
        z = torch.sinh(u)
        eta = self.coefficients()[member, :d].double()
        draws = []
        for j in range(d):
            density = (_polynomial(eta[j], z) + torch.cosh(u).log()).softmax(0)
            cumulative = density.cumsum(0) - 0.5 * density
            share = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64).to(u.device)
            above = torch.searchsorted(cumulative, share).clamp(1, len(u) - 1)
            low, high = cumulative[above - 1], cumulative[above]
            part = ((share - low) / (high - low).clamp_min(1e-300)).clamp(0, 1)
            draws.append(z[above - 1] + part * (z[above] - z[above - 1]))
        return torch.stack(draws, 1).to(self.eta.dtype).to(generator.device)

    @torch.no_grad()
    def improper(self, member: int) -> int:
        """In how many of a member's dimensions it is no density."""
        top = self.coefficients()[member, : self.dims[member], -1]
        return len(top) if self.order % 2 else int((top >= 0).sum())

    def _exponent(self, z: Tensor) -> Tensor:
        eta = self.coefficients()[:, None]
        return _polynomial(eta.to(z.dtype) if z.dtype == torch.float64 else eta, z)

    def _be_a_density(self) -> None:
        if not self.density:
            raise ImproperPriorError("a prior whose highest order is free is no density by construction")


def _polynomial(eta: Tensor, z: Tensor) -> Tensor:
    """sum_k eta_k z^k of coefficients (..., K)."""
    total = torch.zeros((), dtype=z.dtype, device=z.device)
    for k in reversed(range(eta.shape[-1])):
        total = (total + eta[..., k]) * z
    return total


def prior_of(config: Any, own: Tensor, dims: Sequence[int]) -> Prior:
    """The prior that a config asks for, a standard normal where it has no say; ``dims`` are the members' own latent_dims."""
    if getattr(config, "prior", "normal") == "normal":
        return StandardNormal(own)
    return ExponentialFamily(own, dims, config.prior_order, config.prior_top, config.prior_start)


@torch.no_grad()
def svgd(
    score: Callable[[Tensor], Tensor], particles: Tensor, *, n_steps: int, step_size: float, each_coordinate: bool = False,
) -> Tensor:  # fmt: skip
    """Particles (n, d) moved towards the density with this score by Stein's method (Liu and Wang 2016, algorithm 1).

    phi_i = mean_j [k_ij s(z_j) + (2/h) k_ij (z_i - z_j)], k_ij = exp(-|z_i - z_j|^2/h), h the median of all n^2 squared
    distances over ln(n + 1). Each coordinate of phi is divided by the root of a running mean of its square, so that
    ``step_size`` is about how far a coordinate moves in a step. With one kernel for all coordinates the spread collapses where d
    is large; ``each_coordinate`` gives each its own. Raises ValueError for fewer than 3 particles, whose median distance is 0.
    """
    if len(particles) < 3:
        raise ValueError(
            f"SVGD needs at least 3 particles, as its kernel's width is the median of all distances, of which that of a particle "
            f"to itself is 0; got {len(particles)}"
        )
    z, running = particles.clone(), torch.zeros_like(particles)
    for step in range(n_steps):
        phi = svgd_direction(score(z), z, each_coordinate=each_coordinate)
        running = phi.square() if step == 0 else 0.9 * running + 0.1 * phi.square()
        z += step_size * phi / (running + 1e-8).sqrt()
    return z


def svgd_direction(
    score: Tensor, z: Tensor, *, each_coordinate: bool = False, width: float | None = None
) -> Tensor:  # fmt: skip
    """phi of ``svgd`` at particles z (n, d) whose scores are given; ``width`` is h, by default of the median."""
    if each_coordinate:
        return torch.cat([svgd_direction(s[:, None], x[:, None]) for s, x in zip(score.T, z.T, strict=True)], 1)
    squared = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").square()
    h = squared.median() / math.log(len(z) + 1) if width is None else width
    k = torch.exp(-squared / h)
    return (k @ score + (2 / h) * (z * k.sum(1, keepdim=True) - k @ z)) / len(z)
