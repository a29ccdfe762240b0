"""Latents to decode into new images: drawn from the prior, or from a density fitted to a run's own latent means.

The samples of a fitted density are kept with the run, as latent_samples/NAME.npz: every figure and score then shows the
same ones, and a density is fitted once.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from analysis.frame import AnalysisError
from analysis.scores import densities
from analysis.stored import StoredSweep, posterior_means

Array = npt.NDArray[np.float32]
N_SAMPLES = 10_000  # as the paper draws, section 3.3.1
FOLDER = "latent_samples"


def latent_samples(stored: StoredSweep, run: pd.Series, density: str) -> Array:
    """N_SAMPLES latents of the run from that density, (n, d): the run's stored ones, else drawn now and stored.

    Fitted to the posterior means of the training images, so that nothing of the test set enters what is compared with it
    (the paper does not say which it took). Raises AnalysisError where the density cannot be had.
    """
    if density == "prior":
        return draw(densities.fit("prior", np.zeros((1, run["latent_dim"])), int(run["seed"])), run)
    path = find(stored, run, density)
    if path is None:
        samples, settings = fit_and_draw(stored, run, density)
        keep(stored, run, density, samples, settings)
        return samples
    try:
        with np.load(path, allow_pickle=False) as arrays:
            samples = arrays["samples"]
    except (KeyError, ValueError, OSError, EOFError) as error:
        raise AnalysisError(f"{FOLDER}/{density}.npz of run {run['run_id']} is damaged: {error}.") from error
    return samples


def find(stored: StoredSweep, run: pd.Series, density: str) -> Path | None:
    """The stored samples of a density, where the run has them."""
    client = MlflowClient(tracking_uri=stored.sweep.uri)
    try:
        kept = [file.path for file in client.list_artifacts(str(run["run_id"]), FOLDER)]
    except MlflowException as error:
        raise AnalysisError(f"The artifacts of run {run['run_id']} cannot be listed: {error}.") from error
    name = f"{FOLDER}/{density}.npz"
    return stored.artifact(run, name) if name in kept else None


def fit_and_draw(stored: StoredSweep, run: pd.Series, density: str) -> tuple[Array, dict[str, Any]]:
    """Fit the density to the run's means of the training images and draw from it; also what it was fitted with."""
    means = posterior_means(stored.model(run), stored.images.train)
    fitted = densities.fit(density, means, int(run["seed"]))
    return draw(fitted, run), fitted.settings


def draw(density: densities.Density, run: pd.Series) -> Array:
    # the run's seed: independent over seeds, and paired between models as their training is
    return density.sample(N_SAMPLES, np.random.default_rng(int(run["seed"])))


def keep(stored: StoredSweep, run: pd.Series, density: str, samples: Array, settings: dict[str, Any]) -> None:
    """Store the samples with the run; raises AnalysisError when MLflow does not take them."""
    with tempfile.TemporaryDirectory(prefix="fishernet-") as folder:
        path = Path(folder) / f"{density}.npz"
        np.savez_compressed(path, samples=samples, settings=np.array(json.dumps(settings)))
        try:
            MlflowClient(tracking_uri=stored.sweep.uri).log_artifact(str(run["run_id"]), str(path), FOLDER)
        except (MlflowException, OSError) as error:
            raise AnalysisError(f"The samples of run {run['run_id']} cannot be stored with it: {error}.") from error
