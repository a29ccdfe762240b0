"""Densities of a run's latent means, from which latents are drawn to be decoded into new images (FisherNet paper, 3.3.2).

prior     N(0, 1), which most models are trained with: the paper's "sample"
mkde      Matérn kernel density estimation by NIFTy, the paper's; few dimensions only
mixture   mixture of Gaussians with full covariances, at any d
kde       Gaussian kernel density, at any d
"""

from __future__ import annotations

import importlib.util
from abc import abstractmethod

import numpy as np
import numpy.typing as npt
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from analysis.errors import AnalysisError
from analysis.scores.density import Array, Array64, Density
from analysis.scores.mkde import fit_mkde

DENSITY_NAMES = ("prior", "mkde", "mixture", "kde")
FEWEST_MEANS = 10
MKDE_MOST_DIMS = 5  # its grid has as many cells as a power of d: the paper stops there too
MOST_MEANS = 20_000  # that a mixture is fitted to, and MOST_CHOOSING to choose how many Gaussians or how wide a kernel
MOST_CHOOSING = 5_000
HELD_OUT = 0.2  # of these, to choose by
COMPONENTS = (1, 5, 10, 20, 40, 80)
BANDWIDTHS = (0.25, 0.5, 0.75, 1.0)  # in units of Scott's
# Of the whitened means' unit variance: far below what a Gaussian of a mixture spans, far above the rounding of float32 means.
LEAST_VARIANCE = 1e-5


def mkde_installed() -> bool:
    """Whether NIFTy, which mkde needs, is there to be imported."""
    return importlib.util.find_spec("nifty8") is not None


def fit(name: str, means: npt.ArrayLike, seed: int) -> Density:
    """The density of that name fitted to latent means (n, d); equal seeds give equal densities.

    Raises AnalysisError where the means are not such an array, are not finite or too few, or the density cannot be had.
    """
    z = np.asarray(means, dtype=np.float64)
    if name not in DENSITY_NAMES:
        raise AnalysisError(f"A latent density is one of {', '.join(DENSITY_NAMES)}; got {name!r}.")
    if z.ndim != 2 or not np.isfinite(z).all():
        raise AnalysisError(f"Latent means must be finite numbers, one row an image; got an array of shape {z.shape}.")
    if name == "prior":
        return Prior(z.shape[1])
    if len(z) < FEWEST_MEANS:
        raise AnalysisError(f"A density is fitted to {FEWEST_MEANS} latent means or more; got {len(z)}.")
    seed = int(
        np.random.SeedSequence(seed).spawn(1)[0].generate_state(1)[0]
    )  # samples are drawn with default_rng(seed)
    if name == "mkde":
        return fit_mkde(z, seed)
    return (Mixture if name == "mixture" else KernelDensities)(z, seed)


class Prior(Density):
    """N(0, 1) in d dimensions: nothing is fitted."""

    def __init__(self, latent_dim: int) -> None:
        self.latent_dim, self.settings = latent_dim, {}

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        return rng.standard_normal((n, self.latent_dim), dtype=np.float32)

    def log_density(self, z: npt.ArrayLike) -> Array64:
        z = np.asarray(z, dtype=np.float64)
        return -0.5 * (z**2).sum(1) - 0.5 * self.latent_dim * np.log(2 * np.pi)


class Whitened(Density):
    """A density of u = W (z - mean), W whitening the means: no dimension is lost beside a wider one, however flat it is.

    A dimension without any variance keeps its one value. What a subclass fits, it fits to u.
    """

    def __init__(self, means: Array64, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.mean = means.mean(0)
        values, vectors = np.linalg.eigh(np.cov(means, rowvar=False, ddof=0).reshape(means.shape[1], -1))
        # Flatter than float32 resolves beside the widest is flat.
        spread = values > np.finfo(np.float32).eps ** 2 * values.max()
        if not spread.any():
            raise AnalysisError("All latent means are equal: there is no density to fit to them.")
        self.scales, self.directions = np.sqrt(values[spread]), vectors[:, spread]
        self._fit(self._whiten(means))

    @abstractmethod
    def _fit(self, u: Array64) -> None:
        """Fit to whitened means and set ``settings``."""

    @abstractmethod
    def _draw(self, n: int, rng: np.random.Generator) -> Array64:
        """n draws of u."""

    @abstractmethod
    def _log_density(self, u: Array64) -> Array64:
        """ln p(u)."""

    def _whiten(self, z: Array64) -> Array64:
        return (z - self.mean) @ self.directions / self.scales

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        return ((self._draw(n, rng) * self.scales) @ self.directions.T + self.mean).astype(np.float32)

    def log_density(self, z: npt.ArrayLike) -> Array64:
        """As ``Density``; with a dimension of no variance, the density along the others."""
        return self._log_density(self._whiten(np.asarray(z, dtype=np.float64))) - np.log(self.scales).sum()

    def _some(self, u: Array64, most: int) -> Array64:
        return u[self._rng.permutation(len(u))[:most]]

    def _choosing(self, u: Array64) -> tuple[Array64, Array64]:
        """Means to fit the candidates to, and others to compare them by."""
        some = self._some(u, MOST_CHOOSING)
        n = max(1, round(HELD_OUT * len(some)))
        return some[n:], some[:n]


class Mixture(Whitened):
    """As many Gaussians as held-out means are likeliest under, fitted by expectation maximisation (scikit-learn)."""

    def _fit(self, u: Array64) -> None:
        state = int(self._rng.integers(2**31))
        fitted_to, held_out = self._choosing(u)
        candidates = [k for k in COMPONENTS if 10 * k <= len(fitted_to)]

        def mixture(k: int, to: Array64) -> GaussianMixture:
            return GaussianMixture(k, reg_covar=LEAST_VARIANCE, random_state=state, max_iter=100, tol=1e-3).fit(to)

        best = max(candidates or [1], key=lambda k: mixture(k, fitted_to).score(held_out))
        some = self._some(u, MOST_MEANS)
        self.mixture = mixture(best, some)
        self._roots = np.linalg.cholesky(self.mixture.covariances_)
        self.settings = {"components": best, "fitted_to": len(some)}

    def _draw(self, n: int, rng: np.random.Generator) -> Array64:
        which = rng.choice(len(self._roots), n, p=self.mixture.weights_ / self.mixture.weights_.sum())
        eta = rng.standard_normal((n, self._roots.shape[1]))
        return self.mixture.means_[which] + np.einsum("nij,nj->ni", self._roots[which], eta)

    def _log_density(self, u: Array64) -> Array64:
        return self.mixture.score_samples(u)


class KernelDensities(Whitened):
    """Equal Gaussians round every mean; their width in Scott's n^(-1/(d+4)) is what held-out means are likeliest under."""

    def _fit(self, u: Array64) -> None:
        fitted_to, held_out = self._choosing(u)
        scott = len(fitted_to) ** (-1 / (u.shape[1] + 4))
        factor = max(BANDWIDTHS, key=lambda f: KernelDensity(bandwidth=f * scott).fit(fitted_to).score(held_out))
        self.bandwidth = factor * len(u) ** (-1 / (u.shape[1] + 4))
        self.means = u
        self.settings = {"bandwidth": float(self.bandwidth), "of_scott": factor, "fitted_to": len(u)}

    def _draw(self, n: int, rng: np.random.Generator) -> Array64:
        centres = self.means[rng.integers(len(self.means), size=n)]
        return centres + self.bandwidth * rng.standard_normal(centres.shape)

    def _log_density(self, u: Array64) -> Array64:
        return KernelDensity(bandwidth=self.bandwidth).fit(self.means).score_samples(u)
