"""Samples and reconstructions of one distribution have one distance from the real images, in expectation."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from analysis.scores import clusters, densities, distances, images, sampling
from analysis.scores.distances import RealFeatures
from analysis.scores.features import Extractor

N, D = 60, 8


class Pixels(Extractor):
    """The pixels themselves; it keeps the images that it has seen."""

    name, n_features, batch_size, batch_pixels = "pixels", D, 1000, 1000 * D

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), "cpu")
        self.seen: list[torch.Tensor] = []

    def _of(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        return images.flatten(1)


class Exact(nn.Module):
    """x = 1/2 + z/10, whose posterior mean is z: of images of z ~ N(0, 1), reconstructions are images of the same prior."""

    latent_dims, n_pixels, likelihood = (D,), D, SimpleNamespace(n_outputs=D)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.1))

    def posterior_mean(self, x: torch.Tensor) -> torch.Tensor:
        return (x - 0.5) / self.weight

    def reconstruct(self, z: torch.Tensor) -> torch.Tensor:
        return 0.5 + self.weight * z


def some_images(seed: int) -> torch.Tensor:
    z = torch.randn(N, 1, 2, D // 2, generator=torch.Generator().manual_seed(seed))
    return (0.5 + 0.1 * z).clamp(0, 1).mul(255).round().byte()


def differences(n_repeats: int = 12) -> np.ndarray:
    """Fréchet distance of samples of the prior minus that of reconstructions, to real images that neither has seen."""
    found = []
    for seed in range(n_repeats):
        extractor = Pixels()
        real = RealFeatures.of(extractor.features(some_images(1000 + seed).float() / 255))
        known = {"reconstruction": None, "prior": None}
        test = some_images(2000 + seed)
        scored = images.score_images("cpu", extractor, real, test, test, Exact(), seed, known)  # type: ignore[arg-type]
        values = [scored.metrics[f"pixels/{name}/frechet"] for name in ("prior", "reconstruction")]
        found.append(values[0] - values[1])
    return np.array(found)


def test_samples_are_as_far_as_reconstructions_where_both_are_of_one_distribution(monkeypatch):
    found = differences()
    assert abs(found.mean()) < 4 * found.std(ddof=1) / len(found) ** 0.5
    # Two thousand samples beside sixty reconstructions would look better than they are.
    monkeypatch.setattr(images, "grey_values", lambda images: images)
    decode = images.decode
    drawn = sampling.fit_and_draw("prior", np.zeros((1, D)), 0)[0][:2000]
    monkeypatch.setattr(
        images, "decode", lambda model, z, shape: decode(model, drawn if z is not None and _is_drawn(z) else z, shape)
    )
    flattered = differences()
    assert flattered.mean() < -4 * flattered.std(ddof=1) / len(flattered) ** 0.5


def _is_drawn(z: np.ndarray) -> bool:
    """Whether these are not posterior means, which are of whole grey values."""
    grey = (0.5 + 0.1 * np.asarray(z)) * 255
    return bool(np.abs(grey - grey.round()).max() > 1e-2)


def test_generated_images_have_the_grey_values_of_real_ones():
    extractor = Pixels()
    real = RealFeatures.of(extractor.features(some_images(1).float() / 255))
    test = some_images(2)
    scored = images.score_images("cpu", extractor, real, test, test, Exact(), 0, {"prior": None})  # type: ignore[arg-type]
    assert scored.about["prior"]["n_images"] == N
    grey = extractor.seen[-1] * 255
    assert (grey - grey.round()).abs().max() < 1e-4
    assert grey.round().unique().numel() > 100


def test_more_samples_are_drawn_where_more_are_compared():
    means = np.random.default_rng(0).standard_normal((40, 2))
    assert len(sampling.fit_and_draw("mixture", means, 0, 100)[0]) == sampling.N_SAMPLES
    assert len(sampling.fit_and_draw("mixture", means, 0, sampling.N_SAMPLES + 5)[0]) == sampling.N_SAMPLES + 5


def test_a_density_is_fitted_with_other_random_numbers_than_it_is_drawn_with():
    means = np.random.default_rng(0).standard_normal((40, 2))
    for name in ("mixture", "kde"):
        generator = densities.fit(name, means, 7)._rng  # type: ignore[attr-defined]
        ours = np.random.default_rng(7)
        assert generator.bit_generator.seed_seq.entropy != ours.bit_generator.seed_seq.entropy


@pytest.mark.parametrize("name", ["prior", "mixture", "kde"])
def test_the_runs_seed_fits_its_density_draws_from_it_and_chooses_what_enters_kid(name, monkeypatch):
    """Samples are those of ``fit`` and of a generator, both with the run's seed; kid compares 40 of 60 images by it."""
    monkeypatch.setattr(sampling, "N_SAMPLES", 100)
    monkeypatch.setattr(distances, "KERNEL_IMAGES", 40)
    train, test = some_images(1), some_images(2)
    means = (train.flatten(1).float() / 255 - 0.5).div(0.1).numpy()
    values = []
    for seed in (7, 8):
        extractor = Pixels()
        real = RealFeatures.of(extractor.features(some_images(3).float() / 255))
        scored = images.score_images("cpu", extractor, real, train, test, Exact(), seed, {name: None})  # type: ignore[arg-type]
        expected = densities.fit(name, means, seed).sample(100, np.random.default_rng(seed))
        if name != "prior":
            np.testing.assert_allclose(scored.samples[name][0], expected, rtol=1e-3, atol=1e-3)
        known = images.score_images("cpu", extractor, real, train, test, Exact(), 7, {name: (expected, {})})  # type: ignore[arg-type]
        values.append((scored.metrics[f"pixels/{name}/kid"], known.metrics[f"pixels/{name}/kid"]))
        assert known.metrics[f"pixels/{name}/frechet"] == pytest.approx(
            scored.metrics[f"pixels/{name}/frechet"], rel=1e-2
        )
    (of_7, again_with_7), (of_8, again_with_7_of_8) = values
    assert of_7 == pytest.approx(again_with_7, rel=1e-3)
    assert of_8 != pytest.approx(again_with_7_of_8, rel=1e-3)  # other images of the same sets


def test_a_density_is_fitted_with_the_runs_seed():
    """Of 200 means without any bump, where the Gaussians lie is the start's choice."""
    means = np.random.default_rng(0).uniform(size=(200, 2))
    drawn = sampling.fit_and_draw("mixture", means, 7)[0]
    of_7, of_0 = (densities.fit("mixture", means, s).sample(len(drawn), np.random.default_rng(7)) for s in (7, 0))
    np.testing.assert_array_equal(drawn, of_7)
    assert (drawn != of_0).any()


def test_clusters_of_a_run_are_the_best_of_fifty_starts():
    means = np.random.default_rng(0).standard_normal((30, 2))
    assert clusters.score_clusters(means, np.arange(30) % 3).about["n_starts"] == 50


@pytest.mark.parametrize(
    ("about", "has"), [({}, False), ({"features": "f"}, False), ({"features": "f", "how": images.HOW}, True)]
)
def test_scores_that_were_made_in_another_way_are_made_anew(about, has):
    run = {"scores": {"classifier": {"prior": about} if about else {}}}
    assert images._has(run, "classifier", "prior", None, 0, {}) == has  # type: ignore[arg-type]
