"""The groups of scores: what each needs of a run, what a task computes, and which runs still lack it."""

import json
import tempfile
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from analysis.frame import AnalysisError
from analysis.scores import clusters, densities, distances
from analysis.scores.features import Classifier, Extractor, Inception, real_features, train_classifier
from analysis.scores.sampling import find, fit_and_draw
from analysis.scores.tasks import Job, Scored, run_jobs
from analysis.stored import Array, StoredSweep, decode, posterior_means
from fishernet.families import family
from fishernet.models.base import Autoencoder
from fishernet.services import mlflow_store
from fishernet.services.schema import TAG_LENGTH
from fishernet.training import set_arithmetic

RECONSTRUCTION = "reconstruction"
# How distances are made, for a run's tag: those made otherwise do not compare. As many samples as there are real images, as of
# reconstructions: a Fréchet distance is the smaller the more images it is of. And 256 grey values in both.
HOW = "as many as real, 256 grey values"
IMAGE_SETS = (RECONSTRUCTION, *densities.DENSITY_NAMES)
# From d = 10 on one start in seven finds the best clustering (PCA latents of Fashion-MNIST): of 50, one nearly always does.
N_STARTS = 50
MOST_REAL = 20_000  # images: their nearest neighbours take time by the square of their number
MOST_CLASSES = 100  # k-means takes time by images times classes, its figure by their square
CLASSIFIER_ARTIFACT = "classifier.safetensors"
OVERLAP_ARTIFACT = "scores/clusters.json"
Images = torch.Tensor  # uint8 (n, channels, height, width)


def image_sets_of(run: pd.Series, asked: Sequence[str]) -> list[str]:
    """Those of the sets of images that this run can be asked for: not every model has a prior, mkde has few dimensions."""
    return [
        name
        for name in asked
        if not (name == "prior" and not family(run["model"]).prior)
        and not (name == "mkde" and run["latent_dim"] > densities.MKDE_MOST_DIMS)
    ]


def score_images(
    device: str, extractor: Extractor, real: distances.RealFeatures, train: Images, test: Images, model: Autoencoder, seed: int,
    known: dict[str, Array | None],
) -> Scored:  # fmt: skip
    """Distances to the real, held-out images of each set in ``known``: set -> latents that are stored already, or None."""
    set_arithmetic("float32")  # whatever the model was trained in
    extractor, model = extractor.to(device), model.to(device)
    scored = Scored({}, {})
    means: Array | None = None
    for name, latents in known.items():
        if name == RECONSTRUCTION:
            latents = posterior_means(model, test)
        elif latents is None:
            if means is None and name != "prior":
                means = posterior_means(model, train)
            fitted_to = np.zeros((1, model.latent_dims[0]), np.float32) if means is None else means
            latents, settings = fit_and_draw(name, fitted_to, seed, len(test))
            if name != "prior":
                scored.samples[name] = latents, settings
        # As many as there are real ones, in parts, of which the features are kept: many large images would not fit the memory.
        latents, shape = latents[: len(test)], tuple(test.shape[1:])
        at_once = extractor.batch_of(shape)
        parts = (latents[start : start + at_once] for start in range(0, len(latents), at_once))
        features = np.concatenate([extractor.features(grey_values(decode(model, part, shape))) for part in parts])
        result = distances.score(real, features, seed)
        scored.metrics |= {f"{extractor.name}/{name}/{score}": value for score, value in result.values.items()}
        scored.about[name] = {
            "features": extractor.fingerprint,
            "how": HOW,
            "n_images": len(latents),
            "n_real": len(test),
            "remarks": result.remarks + extractor.remarks(shape),
        }
    return scored


def grey_values(images: Images) -> Images:
    """Images in [0, 1] at the nearest of the 256 grey values that the real ones have, and files would."""
    return images.mul(255).round().div(255)


def some_real(test: Images) -> Images:
    """The held-out images that others are compared with: of more than MOST_REAL so many, drawn once and for all."""
    if len(test) <= MOST_REAL:
        return test
    drawn = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:MOST_REAL]
    return test[drawn.sort().values]


def score_clusters(means: Array, labels: npt.NDArray[np.int64]) -> Scored:
    found = clusters.cluster(means, labels, n_starts=N_STARTS)
    scored = Scored({f"clusters/{name}": value for name, value in found.values().items()}, found.to_dict())
    if len(json.dumps(scored.about)) > TAG_LENGTH:  # of 25 classes and more
        scored.files[OVERLAP_ARTIFACT] = {"matrix": scored.about.pop("matrix")}
    return scored


def stored_clusters(stored: StoredSweep, run: pd.Series) -> clusters.Clusters:
    """What ``score_clusters`` found of a run that has it, from its tag and, of many classes, its file; raises AnalysisError."""
    about = run["scores"]["clusters"]
    if "matrix" in about:
        return clusters.Clusters.from_dict(about)
    path = stored.artifact(run, OVERLAP_ARTIFACT)
    try:
        return clusters.Clusters.from_dict(about | json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnalysisError(f"{OVERLAP_ARTIFACT} of run {run['run_id']} is damaged: {error}.") from error


def score_ellipses(test: Images, model: Autoencoder) -> Scored:
    from analysis.latent_space import ellipse_statistics
    from analysis.stored import posterior_covariances

    statistics = ellipse_statistics(posterior_covariances(model, test), posterior_means(model, test))
    return Scored({f"ellipses/{name}": value for name, value in statistics.items()}, {"n_images": len(test)})


def ensure_clusters(stored: StoredSweep, *, gpus: int = 0) -> list[str]:
    """k-means of every run's latent means against the labels, where a run lacks it; sentences on what failed."""
    jobs = [
        Job(run, "clusters", score_clusters, partial(_latents, stored, run))
        for run in _rows(stored.runs)
        if "clusters" not in run["scores"]
    ]
    return run_jobs(stored, jobs, gpus=0)  # scikit-learn's k-means runs on the CPU


def ensure_ellipses(stored: StoredSweep, *, gpus: int = 0) -> list[str]:
    """Sizes of the uncertainty ellipses of every two-dimensional run with a posterior, where it lacks them."""
    jobs = [
        Job(run, "ellipses", score_ellipses, partial(lambda run: (stored.model(run),), run))
        for run in _rows(stored.runs)
        if run["latent_dim"] == 2 and family(run["model"]).posterior and "ellipses" not in run["scores"]
    ]
    return run_jobs(stored, jobs, gpus=gpus, shared=[stored.images.test] if jobs else [])


def ensure_distances(
    stored: StoredSweep, features: str, asked: Sequence[str] = IMAGE_SETS, *, dims: Collection[int] = (), gpus: int = 0,
    weights: Path | None = None, cache: Path | None = None,
) -> list[str]:  # fmt: skip
    """Distances to the held-out images of every run's sets of images, where a run lacks them; sentences on what failed.

    Of runs with a latent_dim in ``dims``, or of all where it is empty. Scores by other weights than are at hand count as lacking.

    ``features`` is inception or classifier; ``weights`` a file with Inception's weights, of inception only. A ``cache`` that
    cannot be kept costs time alone. Raises AnalysisError when the features cannot be had, or test images are too few.
    """
    runs = [run for run in _rows(stored.runs) if not dims or run["latent_dim"] in dims]

    def lacking(extractor: Extractor | None) -> list[tuple[pd.Series, list[str]]]:
        named = ((run, [n for n in image_sets_of(run, asked) if not _has(run, features, n, extractor)]) for run in runs)
        return [(run, names) for run, names in named if names]

    at_hand = _extractor_at_hand(stored, features, weights)
    if not lacking(at_hand):
        return []
    if (n := len(stored.images.test)) <= distances.K:
        raise AnalysisError(
            f"Distances look at {distances.K} nearest neighbours, so they need {distances.K + 1} {stored.sweep.held_out} images "
            f"or more; {stored.sweep.name} has {n}."
        )
    # A task without a GPU of its own still sees them all.
    device = torch.device("cuda" if gpus else "cpu")
    extractor: Extractor = at_hand or (Inception() if features == "inception" else sweep_classifier(stored, device))
    extractor = extractor.to(device)
    said: list[str] = []
    test = some_real(stored.images.test)
    real = real_features(extractor, test, cache, say=said.append)
    jobs = [Job(run, features, score_images, partial(_sets, stored, run, names)) for run, names in lacking(extractor)]
    shared = [device.type, extractor.to("cpu"), real, stored.images.train, test]
    return said + run_jobs(stored, jobs, gpus=gpus, shared=shared)


def sweep_classifier(stored: StoredSweep, device: torch.device) -> Classifier:
    """The sweep's classifier: the one stored with its parent run, else trained now and stored there."""
    if classifier := _stored_classifier(stored, device):
        return classifier
    classifier = train_classifier(stored.images, device=device)
    try:
        with tempfile.TemporaryDirectory(prefix="fishernet-") as folder:
            classifier.save(Path(folder) / CLASSIFIER_ARTIFACT)
            files = mlflow_store.files_of(stored.sweep.uri, stored.sweep.parent_run_id)
            files.log_artifact(str(Path(folder) / CLASSIFIER_ARTIFACT))
    except mlflow_store.failures() as error:
        raise AnalysisError(
            f"The classifier of sweep {stored.sweep.name} cannot be stored with it: {error}."
        ) from error
    return classifier


def _stored_classifier(stored: StoredSweep, device: torch.device) -> Classifier | None:
    parent = stored.sweep.parent_run_id
    try:
        files = [file.path for file in mlflow_store.files_of(stored.sweep.uri, parent).list_artifacts()]
    except mlflow_store.failures() as error:
        raise AnalysisError(f"The artifacts of sweep {stored.sweep.name} cannot be listed: {error}.") from error
    if CLASSIFIER_ARTIFACT not in files:
        return None
    return Classifier.load(stored.download(parent, CLASSIFIER_ARTIFACT, f"sweep {stored.sweep.name}"), device)


def _extractor_at_hand(stored: StoredSweep, features: str, weights: Path | None) -> Extractor | None:
    """The network that scores would be made with, where that takes neither a download from elsewhere nor training."""
    if weights:
        return Inception(weights)
    if features == "classifier":
        with suppress(AnalysisError):  # it matters where a run lacks scores, and is said there
            return _stored_classifier(stored, torch.device("cpu"))
    return None


def _has(run: pd.Series, features: str, name: str, extractor: Extractor | None) -> bool:
    about = run["scores"].get(features, {}).get(name, {})
    made_with = about.get("features")
    return (
        made_with is not None and about.get("how") == HOW and (extractor is None or extractor.fingerprint == made_with)
    )


def _rows(runs: pd.DataFrame) -> list[pd.Series]:
    return [row for _, row in runs.iterrows()]


def _latents(stored: StoredSweep, run: pd.Series) -> tuple[Array, npt.NDArray[np.int64]]:
    means, labels = stored.latents(run)
    if labels is None:
        raise AnalysisError(f"The images of sweep {stored.sweep.name} have no labels to compare clusters with.")
    if (n := len(np.unique(labels))) > MOST_CLASSES:
        raise AnalysisError(f"The labels are of {n} classes; clusters are compared with {MOST_CLASSES} at most.")
    return means, labels


def _sets(
    stored: StoredSweep, run: pd.Series, names: Sequence[str]
) -> tuple[Autoencoder, int, dict[str, Array | None]]:
    n = len(some_real(stored.images.test))
    known = {name: None if name in (RECONSTRUCTION, "prior") else find(stored, run, name, n) for name in names}
    return stored.model(run), int(run["seed"]), known
