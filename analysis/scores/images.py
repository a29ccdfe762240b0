"""Distances between a run's images, reconstructed and sampled, and the real ones."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from analysis.errors import AnalysisError
from analysis.scores import CACHE, SETS, densities, distances
from analysis.scores.density import Settings
from analysis.scores.features import Classifier, Extractor, Inception, Random, real_features, train_classifier
from analysis.scores.outputs import emits_more
from analysis.scores.sampling import (
    BY_SVGD,
    USUAL,
    ImproperPrior,
    Stein,
    can_be_drawn,
    draw_by_svgd,
    find,
    fit_and_draw,
    improper_dims,
    prior_samples,
    spread,
)
from analysis.scores.tasks import Scored, ScoreTask, Tasks, gpus_of_flag
from analysis.stored import Array, StoredSweep, config_of
from fishernet.families import family
from fishernet.likelihoods import LIKELIHOODS
from fishernet.models.base import Autoencoder
from fishernet.provenance import count_gpus
from fishernet.services import mlflow_store
from fishernet.trained import decode, images_at_once, posterior_means
from fishernet.training import set_arithmetic
from fishernet.wording import listed

RECONSTRUCTION, DENSEST_MODE, DRAWS, RECTIFIED = "reconstruction", "densest_mode", "draws", "rectified"
# How distances are made, for a run's tag: those made otherwise do not compare. As many samples as there are real images, as of
# reconstructions: a Fréchet distance is the smaller the more images it is of. And 256 grey values in both.
HOW = "as many as real, 256 grey values"
# Ten seconds of a core for each run and more, where all other sets take one; MKDE may take minutes.
SLOW = ("mkde", *BY_SVGD)
OF_IMAGES = (RECONSTRUCTION, DENSEST_MODE, DRAWS)  # at the held-out images' own codes
N_NOISE = 1000  # images of uniform noise, as many as the VPAE paper's released code draws
NOISE_SIZE = (3, 299, 299)  # which it draws at the size that Inception sees
MOST_REAL = 20_000  # images: their nearest neighbours take time by the square of their number
CLASSIFIER_ARTIFACT = "classifier.safetensors"
Images = torch.Tensor  # uint8 (n, channels, height, width)


def image_sets_of(run: pd.Series, asked: Sequence[str]) -> list[str]:
    """Those of the sets of images that this run can be asked for: not every model has a prior, mkde has few dimensions.

    The densest mode is shown of mixtures of t's, draws of p(x given z) of decoders that give more than an image, and rectified
    normals of codes that are rectified. None of a model that sees the image: without one it decodes pixel by pixel, a pass each.
    """
    if family(run["model"]).sees_image:
        return []
    config: Any = config_of(run)
    lacks = {
        DENSEST_MODE: getattr(config, "components", 0) < 2 or not LIKELIHOODS[config.likelihood].heavy,
        DRAWS: not emits_more(config),
        RECTIFIED: getattr(config, "code", "real") != "rectified",
    }
    return [
        name
        for name in asked
        if not lacks.get(name)
        and not (name == "prior" and not family(run["model"]).prior)
        and not (name in BY_SVGD and not can_be_drawn(name, run))
        and not (name == "mkde" and run["latent_dim"] > densities.MKDE_MOST_DIMS)
    ]


def say_sees_image(runs: Sequence[pd.Series]) -> list[str]:
    """A sentence on models among the runs that are not asked for images of latents alone."""
    return [
        f"{model} sees the image that it decodes; from latents alone it would take a pass for each pixel, and is left out."
        for model in dict.fromkeys(run["model"] for run in runs)
        if family(model).sees_image
    ]


def score_images(
    device: str, extractor: Extractor, real: distances.RealFeatures, train: Images, test: Images, model: Autoencoder, seed: int,
    known: Mapping[str, tuple[Array, Settings] | None], noise: distances.Moments | None = None, how: Stein = USUAL,
) -> Scored:  # fmt: skip
    """Distances to the real, held-out images of each set in ``known``: set -> latents that are stored already, or None.

    Stored latents stand with how they were drawn; others are drawn now, by SVGD as ``how`` says.

    With the features' moments of ``noise`` also each set's Fréchet distance to it, frechet_to_noise, and real_to_noise, that of
    the real images.
    """
    set_arithmetic("float32")  # whatever the model was trained in
    extractor, model = extractor.to(device), model.to(device)
    scored = Scored({}, {})
    if noise:
        scored.metrics[f"{extractor.name}/real_to_noise"] = distances.frechet_distance(noise, real.gaussian)
    generator = torch.Generator(device).manual_seed(seed)
    means: Array | None = None
    for name, there in known.items():
        if name in OF_IMAGES:
            latents = posterior_means(model, test)
        elif there:
            latents, settings = there
        elif name == "prior":
            try:
                latents = prior_samples(model, seed, len(test))
            except ImproperPrior as error:  # which a further try would not change
                remark = f"Runs whose prior is no density have no samples of it: {error}."
                scored.about[name] = {
                    "features": extractor.fingerprint, "how": HOW, "n_images": 0, "n_real": len(test), "remarks": [remark],
                }  # fmt: skip
                continue
        elif name == RECTIFIED:
            latents = np.maximum(fit_and_draw("prior", np.zeros((1, model.latent_dims[0])), seed, len(test))[0], 0)
        elif name in BY_SVGD:
            latents, settings = scored.samples[name] = draw_by_svgd(model.cpu(), name, seed, len(test), how)
        else:
            if means is None:
                means = posterior_means(model, train)
            latents, settings = scored.samples[name] = fit_and_draw(name, means, seed, len(test))
        if name in BY_SVGD:
            by = {name: settings[name] for name in Stein._fields}
            width = spread(model.cpu(), latents, seed)
            scored.about[name] = {"spread": width, "improper": improper_dims(model), "by": by}
        model = model.to(device)
        # As many as there are real ones, in parts, of which the features are kept: many large images would not fit the memory.
        latents, shape = latents[: len(test)], tuple(test.shape[1:])
        at_once = extractor.batch_of(shape)
        parts = (latents[start : start + at_once] for start in range(0, len(latents), at_once))
        show = partial(shown, name, generator) if name in (DENSEST_MODE, DRAWS) else decode
        features = np.concatenate([extractor.features(grey_values(show(model, part, shape))) for part in parts])
        result = distances.score(real, features, seed)
        if noise:
            result.values["frechet_to_noise"] = distances.frechet_distance(noise, distances.fit_gaussian(features))
        scored.metrics |= {f"{extractor.name}/{name}/{score}": value for score, value in result.values.items()}
        scored.about[name] = {
            **scored.about.get(name, {}),
            "features": extractor.fingerprint,
            "how": HOW,
            "n_images": len(latents),
            "n_real": len(test),
            "n_noise": noise.n if noise else 0,
            "remarks": result.remarks + extractor.remarks(shape),
        }
    return scored


@torch.no_grad()
def shown(
    name: str, generator: torch.Generator, model: Autoencoder, latents: Array, image_shape: Sequence[int]
) -> Images:
    """Images in [0, 1] of latents (n, d), (n, channels, height, width): of DRAWS from p(x given z), else the densest mode."""
    parts = []
    for z in torch.as_tensor(latents, device=next(model.parameters()).device).split(images_at_once(model)):
        at = model.likelihood.distribution(model.decode(z[None]))
        image = at.sample(generator) if name == DRAWS else at.estimates()[DENSEST_MODE]
        parts.append(image[0].cpu())
    return torch.cat(parts).clamp(0, 1).reshape(-1, *image_shape)


def noise_features(extractor: Extractor, image_shape: Sequence[int]) -> distances.Moments:
    """Of N_NOISE images of uniform noise, at the size that Inception sees, or at that of the images for others."""
    generator, shape = torch.Generator().manual_seed(0), NOISE_SIZE if isinstance(extractor, Inception) else image_shape
    left, parts = N_NOISE, []
    while left:
        n = min(left, extractor.batch_of(shape))
        parts.append(extractor.features(torch.rand(n, *shape, generator=generator)))
        left -= n
    return distances.fit_gaussian(np.concatenate(parts))


def grey_values(images: Images) -> Images:
    """Images in [0, 1] at the nearest of the 256 grey values that the real ones have, and files would."""
    return images.mul(255).round().div(255)


def some_real(test: Images) -> Images:
    """The held-out images that others are compared with: of more than MOST_REAL so many, drawn once and for all."""
    if len(test) <= MOST_REAL:
        return test
    drawn = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:MOST_REAL]
    return test[drawn.sort().values]


def tasks(
    stored: StoredSweep, *, features: str = "auto", images: Sequence[str] | None = None,
    latent_dims: Collection[int] = (), usual_dims: Collection[int] = (), slow_images: Sequence[str] = (),
    inception_weights: Path | None = None,
    cache: Path | None = CACHE, gpus: int | None = None, to_noise: bool = False, svgd_particles: int | None = None,
    svgd_steps: int | None = None, svgd_step_size: float | None = None,
) -> Tasks:  # fmt: skip
    """Distances to the held-out images of every run's sets of images, where a run lacks them; with ``to_noise`` to noise too.

    Arguments are the flags'; without ``latent_dims`` of runs at ``usual_dims``, where there are such, else of all; without
    ``images`` of all sets but the slow ones, of which ``slow_images`` are wanted where they can be had. Scores by
    other weights than are at hand count as lacking. A ``cache`` that cannot be kept costs time alone. Raises AnalysisError when
    the features cannot be had, test images are too few, or what is asked for is not there.
    """
    gpus = gpus_of_flag(gpus)
    features = chosen_features(stored, features, inception_weights, gpus)
    swept = set(stored.runs["latent_dim"])
    if absent := sorted(set(latent_dims) - swept):
        raise AnalysisError(
            f"--latent-dims asks for d = {listed(absent)}, of which no run has finished; there are d = {listed(sorted(swept))}."
        )
    there = {name for name in slow_images if name != "mkde" or densities.mkde_installed()}
    sets = images or [name for name in SETS if name not in SLOW or name in there]
    weights = inception_weights if features == "inception" else None
    given = zip(Stein._fields, (svgd_particles, svgd_steps, svgd_step_size), strict=True)
    how = {name: value for name, value in given if value is not None}
    return _tasks(stored, features, sets, latent_dims or swept & {*usual_dims}, gpus, weights, cache, to_noise, how)


def chosen_features(stored: StoredSweep, features: str, inception_weights: Path | None, gpus: int | None) -> str:
    """What --features says, and of auto what it stands for: of images without labels random, where these are to be had.

    Raises AnalysisError where only the images could tell, and they are missing.
    """
    if features != "auto":
        return features
    if inception_weights or (count_gpus() if gpus is None else gpus):
        return Inception.name
    for name in (Classifier.name, Random.name):  # what runs have goes on
        if any(name in scores for scores in stored.runs["scores"]):
            return name
    unlabelled = stored.images.train_labels is None or stored.images.test_labels is None
    return Random.name if unlabelled else Classifier.name


def _tasks(
    stored: StoredSweep, features: str, asked: Sequence[str], dims: Collection[int], gpus: int, weights: Path | None,
    cache: Path | None, to_noise: bool, how: Mapping[str, float],
) -> Tasks:  # fmt: skip
    """Of runs with a latent_dim in ``dims``, or of all where it is empty; ``weights`` a file with Inception's weights."""
    runs = [run for run in _rows(stored.runs) if not dims or run["latent_dim"] in dims]

    def lacking(extractor: Extractor | None) -> list[tuple[pd.Series, list[str]]]:
        noise = N_NOISE if to_noise else 0
        named = (
            (run, [n for n in image_sets_of(run, asked) if not _has(run, features, n, extractor, noise, how)])
            for run in runs
        )
        return [(run, names) for run, names in named if names]

    said = say_sees_image(runs)
    at_hand = _extractor_at_hand(stored, features, weights)
    if not lacking(at_hand):
        return Tasks([], said=said)
    if (n := len(stored.images.test)) <= distances.K:
        raise AnalysisError(
            f"Distances look at {distances.K} nearest neighbours, so they need {distances.K + 1} {stored.sweep.held_out} images "
            f"or more; {stored.sweep.name} has {n}."
        )
    # A task without a GPU of its own still sees them all.
    device = torch.device("cuda" if gpus else "cpu")
    extractor: Extractor = at_hand or (Inception() if features == "inception" else sweep_classifier(stored, device))
    extractor = extractor.to(device)
    test = some_real(stored.images.test)
    real = real_features(extractor, test, cache, say=said.append)
    noise = noise_features(extractor, stored.images.image_shape) if to_noise else None
    made = [
        ScoreTask(run, features, score_images, partial(_sets, stored, run, names, noise, how))
        for run, names in lacking(extractor)
    ]
    shared = [device.type, extractor.to("cpu"), real, stored.images.train, test]
    return Tasks(made, shared, gpus, said)


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
    if features == Random.name:
        return Random(stored.images.image_shape)
    if features == "classifier":
        with suppress(AnalysisError):  # it matters where a run lacks scores, and is said there
            return _stored_classifier(stored, torch.device("cpu"))
    return None


def _has(
    run: pd.Series, features: str, name: str, extractor: Extractor | None, n_noise: int, how: Mapping[str, float]
) -> bool:
    about = run["scores"].get(features, {}).get(name, {})
    made_with = about.get("features")
    return (
        made_with is not None
        and about.get("how") == HOW
        and about.get("n_noise", 0) >= n_noise
        and (extractor is None or extractor.fingerprint == made_with)
        and (name not in BY_SVGD or how.items() <= about.get("by", USUAL._asdict()).items())
    )


def _rows(runs: pd.DataFrame) -> list[pd.Series]:
    return [row for _, row in runs.iterrows()]


def _sets(
    stored: StoredSweep, run: pd.Series, names: Sequence[str], noise: distances.Moments | None, how: Mapping[str, float]
) -> tuple[Autoencoder, int, dict[str, tuple[Array, Settings] | None], distances.Moments | None, Stein]:
    n, drawn_now = len(some_real(stored.images.test)), (*OF_IMAGES, RECTIFIED, "prior")
    known = {
        name: None if name in drawn_now else find(stored, run, name, n, how if name in BY_SVGD else {})
        for name in names
    }
    return stored.model(run), int(run["seed"]), known, noise, Stein(**{**USUAL._asdict(), **how})
