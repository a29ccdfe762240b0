"""Latents to decode into new images: drawn from the prior, or from a density fitted to a run's own latent means.

Draws from a prior are exact. Beside them are ``svgd``, a learned prior's as the Fisher auto-encoder's paper draws them, and
``tempered``, of N(0, 1) made as narrow as SVGD would: what its sampler alone does to a distance. The samples of a fitted density,
and SVGD's, are kept with the run, as latent_samples/NAME.npz: every figure and score then shows the
same ones, and a density is fitted once.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from analysis.errors import AnalysisError
from analysis.papers import arguments
from analysis.scores import densities
from analysis.scores.density import Array, Settings
from analysis.stored import DAMAGED, StoredSweep
from fishernet.families import family
from fishernet.models.base import Autoencoder
from fishernet.priors import ExponentialFamily, ImproperPriorError, StandardNormal, svgd
from fishernet.services import mlflow_store
from fishernet.trained import posterior_means

N_SAMPLES = 10_000  # as the paper draws, section 3.3.1; more where more are compared with
SVGD, TEMPERED = "svgd", "tempered"
BY_SVGD = (SVGD, TEMPERED)
FOLDER = "latent_samples"


class Stein(NamedTuple):
    """How SVGD draws. A step moves each coordinate by about its size, so that steps x step_size is how far a particle comes.

    The paper has 15,000 steps of 1e-3, the released code 1,000 particles as well. 3,000 of 5e-3 reach as far as 300 of 0.05,
    take ten times as long, a minute and more for each cloud of 8 latents, and end within 1% of the same variances (0.728 and
    0.731 for N(0, 1), 0.185 and 0.184 for N(3, 1/4); one core, seed 0, 2026-11-29).
    """

    particles: int = 1000
    steps: int = 300
    step_size: float = 0.05


USUAL = Stein()
EMPTY: Mapping[str, float] = {}


class ImproperPrior(AnalysisError):
    """A run whose prior is no density, so that there is nothing to draw."""


def latent_samples(stored: StoredSweep, run: pd.Series, density: str) -> Array:
    """N_SAMPLES latents of the run from that density, (n, d): the run's stored ones, else drawn now and stored.

    Raises AnalysisError where the density cannot be had, ImproperPrior where the run's own prior is none.
    """
    seed = int(run["seed"])
    if density == "prior":
        return prior_samples(stored.model(run), seed)
    if density in BY_SVGD:
        if found := find(stored, run, density, USUAL.particles):
            return found[0]
        samples, settings = draw_by_svgd(stored.model(run), density, seed, USUAL.particles)
    else:
        if found := find(stored, run, density):
            return found[0]
        means = posterior_means(stored.model(run), stored.images.train)
        samples, settings = fit_and_draw(density, means, seed)
    keep(stored, run, density, samples, settings)
    return samples


def samples_of(
    stored: StoredSweep, runs: Iterable[pd.Series], density: str
) -> tuple[list[tuple[pd.Series, Array]], list[str]]:
    """The runs with their ``latent_samples``, and a sentence on each whose prior is no density."""
    found, said = [], []
    for run in runs:
        try:
            found.append((run, latent_samples(stored, run, density)))
        except ImproperPrior as error:
            said.append(f"{run['variant']} at d = {run['latent_dim']} is left out: {error}.")
    return found, said


def has_normal_prior(model: Autoencoder) -> bool:
    return isinstance(getattr(model, "prior", None), StandardNormal | None)


def prior_samples(model: Autoencoder, seed: int, n: int = N_SAMPLES) -> Array:
    """N_SAMPLES exact draws, or n where that is more, from a trained model's own prior; of N(0, 1) those of ``fit_and_draw``.

    Raises ImproperPrior where it is no density.
    """
    if has_normal_prior(model):
        return fit_and_draw("prior", np.zeros((1, model.latent_dims[0])), seed, n)[0]
    try:
        drawn = model.prior.sample(0, max(n, N_SAMPLES), torch.Generator().manual_seed(seed))
    except ImproperPriorError as error:
        raise ImproperPrior(str(error)) from None
    array: Array = drawn.numpy().astype(np.float32)
    return array


def can_be_drawn(density: str, run: pd.Series) -> bool:
    """Whether a set of samples by SVGD is one of this run's: of a learned prior its own, of N(0, 1) the tempered."""
    row, learned = family(run["model"]), getattr(run["config"], "prior", "normal") != "normal"
    return row.prior and learned == (density == SVGD)


def draw_by_svgd(
    model: Autoencoder, density: str, seed: int, n: int, how: Stein | None = None
) -> tuple[Array, Settings]:
    """n draws or more, and SVGD's settings, USUAL ones without ``how``.

    svgd: the particles themselves, in clouds that start from N(0, 1). tempered: exact draws of N(0, t^2), t^2 the mean variance
    that a cloud for N(0, 1) keeps.
    """
    how, generator, d = how or USUAL, torch.Generator().manual_seed(seed), model.latent_dims[0]

    @torch.no_grad()
    def score(z: torch.Tensor) -> torch.Tensor:
        return -z if has_normal_prior(model) else model.prior.score(z[None])[0]

    def cloud() -> torch.Tensor:
        start = torch.randn(how.particles, d, generator=generator)
        return svgd(score, start, n_steps=how.steps, step_size=how.step_size)

    z = torch.cat([cloud() for _ in range(-(-n // how.particles) if density == SVGD else 1)])
    if density == TEMPERED:
        z = z.var(0).mean().sqrt() * torch.randn(n, d, generator=generator)
    array: Array = z.numpy().astype(np.float32)
    return array, {**how._asdict(), "spread": spread(model, array, seed)}


def spread(model: Autoencoder, z: Array, seed: int) -> float | None:
    """The mean over latents of the variance of z (n, d) over that of exact draws of the model's prior; None where it is improper.

    1 where they are draws of it, below 1 where particles have collapsed.
    """
    try:
        exact = prior_samples(model, seed).var(0)
    except ImproperPrior:
        return None
    return float((z.var(0) / exact).mean())


def improper_dims(model: Autoencoder) -> int:
    """In how many dimensions a model's prior is no density."""
    prior = getattr(model, "prior", None)
    return prior.improper(0) if isinstance(prior, ExponentialFamily) else 0


def say_spread(value: float | None, n_improper: float = 0) -> str:
    """The end of a sentence on samples by SVGD; ``n_improper`` as ``improper_dims`` gives it, 0 where it was not counted."""
    if value is None:
        where = f" in {n_improper:.3g} dimension{'s' * (n_improper != 1)}" if n_improper else ""
        return f"of a prior that is no density{where}, so that they depend on when SVGD stops"
    return f"of {value:.2f} times the variance of exact draws"


def usual_density(stored: StoredSweep, runs: Iterable[pd.Series]) -> tuple[str, str]:
    """The density that figures show unless told otherwise: mkde as the paper where these runs have its samples, else mixture.

    Also a sentence on why it is not the paper's, where it has MKDE. That takes minutes a run: it is a matter for workers, not
    for a figure.
    """
    if all(find(stored, run, "mkde") is not None for run in runs):
        return "mkde", ""
    if "mkde" not in arguments(stored.paper, "distances").get("slow_images", ()):
        return "mixture", ""
    return "mixture", (
        "These runs have no samples of the paper's MKDE; with NIFTy installed "
        f"`{stored.sweep.command('figures frechet', '--images', 'mkde')}` draws them."
    )


def find(
    stored: StoredSweep, run: pd.Series, density: str, n: int = N_SAMPLES, how: Mapping[str, float] = EMPTY
) -> tuple[Array, Settings] | None:
    """The run's stored samples of a density and how they were made, where it has n of them and ``how`` says nothing else.

    Raises AnalysisError for a damaged file.
    """
    name = f"{FOLDER}/{density}.npz"
    try:
        files = mlflow_store.files_of(stored.sweep.uri, str(run["run_id"])).list_artifacts(FOLDER)
        if name not in [file.path for file in files]:
            return None
    except mlflow_store.failures() as error:
        raise AnalysisError(f"The artifacts of run {run['run_id']} cannot be listed: {error}.") from error
    path = stored.artifact(run, name)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            samples: Array = arrays["samples"]
            made: Settings = json.loads(str(arrays["settings"]))
    except DAMAGED as error:
        hint = "Once it is deleted from the run's artifacts, samples are drawn again."
        raise AnalysisError(f"{name} of run {run['run_id']} is damaged: {error}. {hint}") from error
    return (samples, made) if how.items() <= made.items() and len(samples) >= n else None


def fit_and_draw(density: str, means: npt.ArrayLike, seed: int, n: int = N_SAMPLES) -> tuple[Array, Settings]:
    """N_SAMPLES independent draws, or n where that is more, from the density fitted to latent means (n, d), and what it was
    fitted with.

    The means should be the training images': then nothing of the test set enters what is compared with it (the paper does not
    say which it took). The seed is the run's: independent over seeds, paired between models, as their training is.
    """
    fitted = densities.fit(density, means, seed)
    return fitted.sample(max(n, N_SAMPLES), np.random.default_rng(seed)), fitted.settings


def keep(stored: StoredSweep, run: pd.Series, density: str, samples: Array, settings: Settings) -> None:
    """Store the samples with the run; raises AnalysisError when MLflow does not take them."""
    with tempfile.TemporaryDirectory(prefix="fishernet-") as folder:
        path = Path(folder) / f"{density}.npz"
        np.savez_compressed(path, samples=samples, settings=np.array(json.dumps(settings)))
        try:
            mlflow_store.files_of(stored.sweep.uri, str(run["run_id"])).log_artifact(str(path), FOLDER)
        except mlflow_store.failures() as error:
            raise AnalysisError(f"The samples of run {run['run_id']} cannot be stored with it: {error}.") from error
