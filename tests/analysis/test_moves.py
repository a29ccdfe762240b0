"""Moves through latent spaces, and their pictures in a plane: which latents, which places, in which scale."""

import math

import numpy as np
import pytest
from scipy.stats import kstest

from analysis.errors import AnalysisError
from analysis.figures import embeddings, traversals
from analysis.figures.prior_densities import codes
from fishernet.trained import decode, posterior_covariances, posterior_means
from tests.analysis.conftest import exhibits_of
from tests.analysis.made_sweep import finite, made_sweep

LINES = ({"model": "VAE"}, {"model": "FAE", "fisher_target": 0.0}, {"model": "FAE"}, {"model": "AE"}, {"model": "IAF"},
         {"model": "FisherNet"}, {"model": "PixelVAE", "pixel_layers": 1, "pixel_channels": 2}, {"model": "WAE"})  # fmt: skip
SHOWN = ["VAE", "FAE F=0", "FAE", "AE", "IAF", "FisherNet", "PixelVAE", "WAE-GAN"]


@pytest.fixture(scope="module")
def stored():
    made = made_sweep(*LINES, seeds=(0,))
    made.variants = list(made.runs["variant"])
    made.latents = lambda run: (posterior_means(made.model(run), made.images.test), None)
    made.class_names, made.class_of = ("a", "b", "c"), made.images.test_labels.numpy()
    return made


@pytest.fixture(scope="module")
def moved(stored):
    return {exhibit.stem: exhibit for exhibit in exhibits_of(traversals, stored, image=4, reach=2.0)}


def test_the_latents_that_move_are_the_images_narrowest_in_their_order(stored, moved):
    data = moved["traversals"].data
    assert list(data["variant"].unique()) == SHOWN
    for variant in ("VAE", "FAE", "FisherNet"):
        run = stored.pick(variant, 3)
        variances = posterior_covariances(stored.model(run), stored.images.test[4:5])[0].diagonal()
        own = data[data["variant"] == variant]
        assert own["latent"].tolist() == (np.argsort(variances) + 1).tolist()
        assert own["ln_s2"].tolist() == pytest.approx(np.sort(np.log(variances)).tolist())
    codes_of_ae = stored.latents(stored.pick("AE", 3))[0]
    assert data[data["variant"] == "AE"]["latent"].tolist() == (np.argsort(-codes_of_ae.var(0)) + 1).tolist()
    assert "Of AE, IAF, WAE-GAN no variance is known" in moved["traversals"].caption
    assert "PixelVAE decodes pixel by pixel" in moved["traversals"].caption


def test_each_picture_is_what_the_decoder_makes_of_the_mean_with_one_latent_moved(stored, monkeypatch):
    shown = []
    monkeypatch.setattr(traversals, "decode", lambda model, z, shape: shown.append(z) or decode(model, z, shape))
    traversals.traversals(stored, 3, 4, 2.0)
    run = stored.pick("VAE", 3)
    mean = posterior_means(stored.model(run), stored.images.test[4:5])[0]
    order, _ = traversals.narrowest(stored.model(run), stored.images.test[4:5], stored, run)
    away = shown[0].reshape(3, 10, 3) - mean
    for row, latent in enumerate(order):
        assert away[row, :, latent] == pytest.approx(np.linspace(-2, 2, 10), abs=1e-6)
        assert np.delete(away[row], latent, axis=1) == pytest.approx(0, abs=1e-6)


def test_an_interpolation_begins_at_one_images_reconstruction_and_ends_at_the_others(stored, moved, monkeypatch):
    found = []
    monkeypatch.setattr(traversals, "plot_interpolations", lambda originals, strips: found.append(strips))
    traversals.interpolations(stored, 3)
    (strips,) = found
    assert len(strips) == traversals.N_PAIRS
    model = stored.model(stored.pick("FisherNet", 3))
    ends = decode(model, posterior_means(model, stored.images.test[2:4]), stored.images.image_shape)
    strip = strips[1]["FisherNet"]
    assert np.allclose(strip[[0, -1]], ends, atol=1e-6)
    data = moved["interpolations"].data
    assert finite(data)
    assert list(data["variant"].unique()) == SHOWN


def test_an_image_or_a_dimension_that_is_not_there_is_refused(stored):
    with pytest.raises(AnalysisError, match="from 0 to 59; got 60"):
        exhibits_of(traversals, stored, image=60)
    for module in (traversals, embeddings):
        with pytest.raises(AnalysisError, match="there are d = 3"):
            exhibits_of(module, stored, latent_dim=7)


def test_of_a_model_that_decodes_pixel_by_pixel_few_images_are_shown(stored, moved, monkeypatch):
    shown, strips = [], []
    monkeypatch.setattr(traversals, "decode", lambda model, z, shape: shown.append(len(z)) or decode(model, z, shape))
    monkeypatch.setattr(traversals, "plot_interpolations", lambda originals, made: strips.extend(made))
    seeing = made_sweep(LINES[6], seeds=(0,))
    traversals.traversals(seeing, 3, 4, 2.0)
    traversals.interpolations(stored, 3)
    assert shown[0] == 2 * traversals.N_STEPS
    assert ["PixelVAE" in strip for strip in strips] == [True, False, False]
    assert "few images are shown" in moved["interpolations"].caption


def test_each_line_is_embedded_alone_and_the_caption_says_what_a_place_means(stored):
    picture, _ = exhibits_of(embeddings, stored)
    data = picture.data
    assert len(data) == 60 * len(LINES)
    assert "Each line is embedded alone, in a scale of its own" in picture.caption
    assert "neither the sizes of clusters nor the distances" in picture.caption
    for variant, own in data.groupby("variant"):
        alone = embeddings.embedded(stored.latents(stored.pick(str(variant), 3))[0])
        np.testing.assert_array_equal(own[["x", "y"]], alone)
    again, _ = exhibits_of(embeddings, stored)
    assert again.data.equals(data)


def test_as_many_images_are_placed_as_are_asked_for(stored, monkeypatch):
    placed = []
    monkeypatch.setattr(embeddings, "embedded", lambda means: placed.append(means) or means[:, :2])
    for images, n in ((7, 7), (10**6, 60), (None, 60)):
        placed.clear()
        embeddings.embeddings(stored, 3, images=images)
        assert {len(own) for own in placed} == {n}


def test_only_the_lines_that_are_asked_for_are_embedded_and_all_where_the_sweep_has_none_of_them(stored, monkeypatch):
    monkeypatch.setattr(embeddings, "embedded", lambda means: means[:, :2])
    shown = {
        lines: set(embeddings.embeddings(stored, 3, lines).data["variant"])
        for lines in (("AE", "VAE"), ("AE", "no line"), ("no line",), ())
    }
    assert list(shown.values()) == [{"AE", "VAE"}, {"AE"}, set(SHOWN), set(SHOWN)]


def test_who_is_near_whom_survives_in_the_plane():
    """Two clouds far apart, whose first and second halves are drawn alike."""
    rng = np.random.default_rng(0)
    clouds = [centre + 0.1 * rng.standard_normal((60, 5)).astype(np.float32) for centre in (0.0, 20.0)]
    plane = embeddings.embedded(np.concatenate(clouds))
    centres = [plane[start : start + 30].mean(0) for start in range(0, 120, 30)]
    within = [np.linalg.norm(a - b) for a, b in (centres[:2], centres[2:])]
    assert max(within) < 0.3 * np.linalg.norm(centres[0] - centres[2])


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e6])
def test_latents_that_are_all_one_or_differ_by_next_to_nothing_have_a_plane_too(scale):
    z = scale * np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    plane = embeddings.embedded(z)
    assert plane.shape == (40, 2)
    assert np.isfinite(plane).all()


def test_draws_of_the_prior_lie_as_far_as_chi_says_and_wider_or_fewer_ones_do_not(stored):
    """A posterior that is the prior for every image: the distances of its draws are chi's, by Kolmogorov and Smirnov."""
    model = stored.model(stored.pick("VAE", 3))
    for head in model.heads_of_encoder.values():
        head.weight.data.zero_()
        head.bias.data.zero_()
    images = stored.images.test.repeat(20, 1, 1, 1)
    z = codes(model, images, 0)
    radii = np.linalg.norm(z - z.mean(0), axis=1)
    assert kstest(radii, "chi", (3,)).pvalue > 0.01
    assert kstest(math.sqrt(2) * radii, "chi", (3,)).pvalue < 1e-6
    assert kstest(radii, "chi", (6,)).pvalue < 1e-6
    _, picture = exhibits_of(embeddings, stored)
    data = picture.data
    assert "AE" not in set(data["variant"])  # has no prior to compare with
    assert {"WAE-GAN", "PixelVAE", "FisherNet"} <= set(data["variant"])
    assert "Of WAE-GAN codes, as there is no posterior" in picture.caption
    z = codes(model, stored.images.test, 0)
    assert data[data["variant"] == "VAE"]["radius"].tolist() == pytest.approx(
        np.linalg.norm(z - z.mean(0), axis=1).tolist()
    )


def test_the_lines_of_a_model_are_shown_in_the_order_of_their_numbers():
    """F = 20 is FAE's usual one, and is the last of 0 to 20."""
    lines = [{"model": "VAE"}, *({"model": "FAE", "fisher_target": F} for F in (20, 0, 0.1, 5, 10))]
    lines += [{"model": "FAE", "fisher_target": 0.1, "fisher_constraint": "trace"}]
    made = made_sweep(*lines, seeds=(0,))
    shown = [run["variant"] for run in traversals.shown_runs(made, made.runs, 3)]
    assert shown == ["VAE", "FAE F=0", "FAE F=0.1", "FAE F=5", "FAE F=10", "FAE", "FAE trace F=0.1"]
