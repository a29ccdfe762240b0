"""Matérn kernel density estimation, the latent density of the FisherNet paper (section 3.3.2), by NIFTy (extra ``mkde``, GPL).

The means are counted on a regular grid; the counts are Poissonian about exp(s), s a Gaussian process whose spectrum, of Matérn
form along each axis, is inferred with it by geometric variational inference (Frank, Leike and Enßlin, 2021; the estimator:
Guardiani, Frank, Kostić et al., 2022). Grid, range, priors and effort are unstated in the paper; NIFTy's default priors are
taken, and the rest stands in ``settings``.
"""

from __future__ import annotations

import logging
from functools import partial
from itertools import pairwise
from types import ModuleType

import numpy as np
import numpy.typing as npt

from analysis.errors import AnalysisError
from analysis.scores.density import Array, Array64, Density, Settings

# Cells along each axis by latent_dim: as fine as some minutes on one core allow.
CELLS = {1: 256, 2: 96, 3: 32, 4: 14, 5: 8}
# Of the grid, as its Fourier transform is periodic. From three dimensions on it would multiply the cells too often.
PADDING = {1: 1.0, 2: 1.0, 3: 0.0, 4: 0.0, 5: 0.0}
# Beyond the outermost means on each side, in widths of the means' range; none where a cell is as wide as that.
MARGIN = {1: 0.1, 2: 0.1, 3: 0.0, 4: 0.0, 5: 0.0}
# Rounds of inference as (posterior samples, Newton steps): first the mode at a fixed spectrum, then variational.
ROUNDS = ((0, 20), (2, 20), (2, 20), (4, 20))
MOST_CG = 100  # iterations of conjugate gradients in each Newton step; twice as many to draw a sample
SAMPLE_STEPS = 8  # Newton steps that bend each sample to the posterior (geometric variational inference)
ENERGY_REDUCTION = 0.1  # a Newton step's conjugate gradients stop at this share of the last decrease in energy


def fit_mkde(means: Array64, seed: int) -> Density:
    """The density of means (n, d) on a grid; raises AnalysisError where NIFTy is not installed or d is beyond its grids."""
    d = means.shape[1]
    if d not in CELLS:
        raise AnalysisError(
            f"mkde counts means on a grid, which memory allows up to {max(CELLS)} latent dimensions; got {d}. Use mixture or kde."
        )
    try:
        import nifty8 as nifty
    except ImportError:
        raise AnalysisError(
            "mkde needs NIFTy (GPL), which is not installed: in fishernet's folder "
            "`pip install -c constraints.txt -e '.[mkde]'`, or use mixture or kde."
        ) from None
    low, width = means.min(0), np.ptp(means, axis=0)
    width = np.where(width > 0, width, 1.0)
    edges = [
        np.linspace(a - MARGIN[d] * w, a + (1 + MARGIN[d]) * w, CELLS[d] + 1) for a, w in zip(low, width, strict=True)
    ]
    counts, _ = np.histogramdd(means, edges)
    level = nifty.logger.level
    nifty.logger.setLevel(logging.ERROR)
    try:
        with nifty.random.Context(seed):  # NIFTy's own random state, put back afterwards
            density = _infer(nifty, counts, PADDING[d])
    finally:
        nifty.logger.setLevel(level)
    settings = {
        "cells_per_axis": CELLS[d],
        "padding": PADDING[d],
        "margin": MARGIN[d],
        "rounds": [list(round_) for round_ in ROUNDS],
        "fitted_to": len(means),
        "nifty": nifty.__version__,
    }
    return GridDensity(density, edges, settings)


def _infer(nifty: ModuleType, counts: npt.NDArray[np.float64], padding: float) -> Array64:
    """The posterior mean of exp(s) in each cell."""
    domain = nifty.DomainTuple.make([nifty.RGSpace(n) for n in counts.shape])
    rate, _ = nifty.density_estimator(domain, pad=padding)
    likelihood = nifty.PoissonianEnergy(nifty.Field.from_raw(domain, counts.astype(np.int64))) @ rate
    controller = partial(nifty.AbsDeltaEnergyController, 0.5)
    hamiltonian = nifty.StandardHamiltonian(likelihood, controller(iteration_limit=2 * MOST_CG))
    newton = partial(nifty.NewtonCG, max_cg_iterations=MOST_CG, energy_reduction_factor=ENERGY_REDUCTION)
    position = 0.1 * nifty.from_random(likelihood.domain)
    spectrum = [name for name in position.keys() if name != "xi"]  # noqa: SIM118 (not a dict)
    for n_samples, steps in ROUNDS:
        energy = (
            nifty.SampledKLEnergy(position, hamiltonian, n_samples, newton(controller(iteration_limit=SAMPLE_STEPS)))
            if n_samples
            else nifty.EnergyAdapter(position, hamiltonian, want_metric=True, constants=spectrum)
        )
        energy, _ = newton(controller(convergence_level=1, iteration_limit=steps))(energy)
        position = nifty.MultiField.union([position, energy.position])
    return np.asarray(energy.samples.average(rate).val, dtype=np.float64)


class GridDensity(Density):
    """A density that is constant within each cell of a grid, 0 outside it."""

    def __init__(self, weights: Array64, edges: list[Array64], settings: Settings) -> None:
        self.edges, self.settings = edges, settings
        self.shares = weights / weights.sum()  # the probability of each cell
        self._volume = float(np.prod([e[1] - e[0] for e in edges]))

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        cells = np.unravel_index(rng.choice(self.shares.size, n, p=self.shares.ravel()), self.shares.shape)
        starts = np.stack([e[i] for e, i in zip(self.edges, cells, strict=True)], axis=1)
        steps = np.array([next(b - a for a, b in pairwise(e)) for e in self.edges])
        return (starts + steps * rng.random(starts.shape)).astype(np.float32)

    def log_density(self, z: npt.ArrayLike) -> Array64:
        z = np.asarray(z, dtype=np.float64)
        cells = [np.searchsorted(e, z[:, i], side="right") - 1 for i, e in enumerate(self.edges)]
        inside = np.all([(c >= 0) & (c < n) for c, n in zip(cells, self.shares.shape, strict=True)], axis=0)
        p = self.shares[tuple(np.where(inside, c, 0) for c in cells)]
        with np.errstate(divide="ignore"):
            return np.where(inside, np.log(p / self._volume), -np.inf)
