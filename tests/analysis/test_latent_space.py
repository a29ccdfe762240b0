"""Ellipses are those of the covariance, and every figure shows the stored run it names."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import EllipseCollection, PathCollection
from matplotlib.colors import to_hex

from analysis.__main__ import main as analyse
from analysis.exhibits import Absent, Picture, Table
from analysis.figures import latent_space
from analysis.frame import AnalysisError
from analysis.scores import densities, sampling
from analysis.scores.ellipses import ellipse_axes, ellipse_statistics, sigma_points
from analysis.stored import StoredSweep
from fishernet.families import trial_config
from fishernet.models.fishernet import FisherNet
from fishernet.trained import decode, posterior_covariances
from tests.analysis.conftest import TRAINED_VARIANTS, exhibits_of

OF_PAPER = {"models": ("FisherNet", "VAE", "CVAE"), "of_uncertainty": ("FisherNet", "VAE")}
REPOSITORY = Path(latent_space.__file__).parents[2]
WITH_POSTERIOR = ("FisherNet", "VAE", "VAE gaussian-learned")  # of the first three panels
IMAGE = 3  # any, other than the first


def rotation(degrees):
    turn = math.radians(degrees)
    return np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])


def covariance(longer, shorter, degrees):
    return rotation(degrees) @ np.diag([longer**2, shorter**2]) @ rotation(degrees).T


def restricted(trained, keep):
    """The sweep ``trained`` as if only some of its runs had finished."""
    stored = StoredSweep(trained.sweep)
    stored.runs = trained.runs[keep(trained.runs)]
    return stored


@pytest.fixture(scope="module")
def made(trained):
    return {
        exhibit.stem: exhibit
        for exhibit in exhibits_of(latent_space, trained, image=IMAGE, density="prior", **OF_PAPER)
    }


def panels(figure, n):
    return figure.axes[:n]


def titles(axes):
    return [each.get_title() for each in axes]


def the(kind, axes):
    (found,) = [each for each in axes.collections if type(each) is kind]
    return found


def test_the_ellipses_of_a_linear_decoder_are_those_of_its_known_precision():
    """f = W z + b with unit noise: M = W^T W + 1, semi-axes 1/sqrt(eigenvalues of M), directions its eigenvectors."""
    config = trial_config(latent_dim=2, hidden_layers=0, decoder_output="linear", likelihood="gaussian")
    model = FisherNet([config], (1, 3, 4), 100)
    weight = torch.tensor(np.random.default_rng(0).normal(size=(12, 2)) * [3.0, 0.5], dtype=torch.float32)
    model.decoder.layers[0].weight.data = weight.T[None]
    images = torch.randint(256, (5, 1, 3, 4), dtype=torch.uint8)
    eigenvalues, vectors = np.linalg.eigh((weight.T @ weight).double().numpy() + np.eye(2))
    semi_axes, angles, directions = ellipse_axes(posterior_covariances(model, images))
    np.testing.assert_allclose(semi_axes, np.tile(1 / np.sqrt(eigenvalues), (5, 1)), rtol=1e-5)  # float32
    assert eigenvalues[0] < eigenvalues[1] / 2  # or the directions would say nothing
    np.testing.assert_allclose(np.abs(vectors.T @ directions), np.tile(np.eye(2), (5, 1, 1)), atol=1e-3)
    expected = math.degrees(math.atan2(vectors[1, 0], vectors[0, 0]))
    np.testing.assert_allclose((angles - expected + 90) % 180 - 90, 0, atol=0.05)


def test_a_diagonal_covariance_gives_an_ellipse_along_the_axes():
    semi_axes, angles, vectors = ellipse_axes(np.array([np.diag([9.0, 4.0]), np.diag([4.0, 9.0])]))
    assert semi_axes.tolist() == [[3, 2], [3, 2]]
    assert angles.tolist() == [0, 90]
    assert vectors[1].tolist() == [[0, 1], [1, 0]]


@given(st.floats(-90, 90), st.floats(-360, 360), st.floats(0.01, 100), st.floats(1.1, 10))
def test_an_ellipse_turns_with_its_covariance_and_keeps_its_size(angle, turn, shorter, ratio):
    longer = ratio * shorter
    before = covariance(longer, shorter, angle)
    semi_axes, angles, vectors = ellipse_axes(np.stack([before, rotation(turn) @ before @ rotation(turn).T]))
    np.testing.assert_allclose(semi_axes, np.tile([longer, shorter], (2, 1)), rtol=1e-9)
    np.testing.assert_allclose((angles - [angle, angle + turn] + 90) % 180 - 90, 0, atol=1e-6)
    assert (vectors[:, 0] >= 0).all()
    # a rotation or a reflection, and the angle is its first column's
    np.testing.assert_allclose(vectors.mT @ vectors, np.tile(np.eye(2), (2, 1, 1)), atol=1e-12)
    across = np.stack([-np.sin(np.radians(angles)), np.cos(np.radians(angles))])  # no tangent: it may stand upright
    np.testing.assert_allclose((across * vectors[:, :, 0].T).sum(0), 0, atol=1e-6)


def test_points_of_n_sigma_lie_n_standard_deviations_away_along_the_axes():
    mean, spread = np.array([1.0, -2.0]), covariance(0.5, 0.2, 30)
    for n in (1, 2):
        offsets = sigma_points(mean, spread, n) - mean
        np.testing.assert_allclose([o @ np.linalg.solve(spread, o) for o in offsets], n**2)
        np.testing.assert_allclose(np.linalg.norm(offsets, axis=1), [n * 0.5, n * 0.5, n * 0.2, n * 0.2])
        np.testing.assert_allclose(offsets[0] / n, 0.5 * rotation(30)[:, 0])
        np.testing.assert_allclose(offsets[[1, 3]], -offsets[[0, 2]])


def test_the_statistics_of_ellipses_made_by_hand():
    """Eight images at z1 = ±1, ±2, ±3, ±4: the inner two ellipses 0.2 x 0.1, the outer two three times, the others twice that."""
    distances = np.array([1.0, 2, 3, 4, -1, -2, -3, -4])
    means = np.stack([distances, np.tile([0.5, -0.5], 4)], axis=1)
    scales = np.array([1, 2, 2, 3, 1, 2, 2, 3])
    tilts = np.array([30, -30, 60, 120, 60, 150, -60, 60])  # all 30 degrees from the nearest axis
    covariances = np.array([covariance(0.2 * s, 0.1 * s, tilt) for s, tilt in zip(scales, tilts, strict=True)])
    found = ellipse_statistics(covariances, means)
    area = 4 * math.pi * 0.2 * 0.1
    expected = {
        "area": area,
        "area_to_spread": area / (math.pi * math.sqrt(np.linalg.det(np.cov(means.T)))),
        "axis_ratio": 2,
        "tilt_degrees": 30,
        "periphery_to_centre": 9,
    }
    assert found == pytest.approx(expected)
    assert set(found) == set(latent_space.HEADS)
    stretched = ellipse_statistics(25 * covariances, 5 * means)
    assert stretched == pytest.approx(expected | {"area": 25 * area})
    assert ellipse_statistics(covariances, np.ones((8, 2)))["area_to_spread"] == math.inf
    with pytest.raises(ValueError, match=r"means must be \(n, 2\) .* got \(8, 3\)"):
        ellipse_statistics(covariances, np.zeros((8, 3)))


def test_a_typical_image_has_the_median_size_and_shape_in_every_model():
    one = np.array([covariance(s, s / 2, 20) for s in (1, 2, 3, 4, 5)])
    other = np.array([covariance(r, 1 / r, 70) for r in (9, 4, 3, 2, 1)])  # all of one area
    assert latent_space.typical_image([one, other]) == 2
    assert latent_space.typical_image([one[::-1][[0, 3, 1, 2, 4]]]) == 3


def test_figure_4_shows_every_stored_mean_in_the_colour_of_its_class(made, trained):
    figure = made["latent_means"].figure
    drawn = panels(figure, 5)
    assert titles(drawn) == ["FisherNet", "VAE", "VAE gaussian-learned", "CVAE", "AE (no sampling)"]
    (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [*"0123456789", "prior, 1σ and 2σ"]
    colours = [to_hex(handle.get_color()) for handle in legend.legend_handles]
    assert len(set(colours)) == 11
    for axes, variant in zip(drawn, ("FisherNet", "VAE", "VAE gaussian-learned", "CVAE", "AE"), strict=True):
        means, labels = trained.latents(trained.pick(variant, 2))
        points = the(PathCollection, axes)
        np.testing.assert_array_equal(points.get_offsets(), means)
        assert [to_hex(colour) for colour in points.get_facecolors()] == [colours[label] for label in labels]
        assert points.get_rasterized()
        assert [circle.radius for circle in axes.patches] == [1, 2]
        assert axes.get_aspect() == 1
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("$z_1$", "$z_2$")


def test_figure_5_shows_the_image_asked_for_and_what_the_decoder_makes_of_its_ellipse(made, trained):
    exhibit = made["uncertainty_of_one_image"]
    assert f"Test image {IMAGE}, chosen by --image: FisherNet (seed 0)" in exhibit.caption
    assert len(exhibit.figure.subfigs) == 3
    for part, variant in zip(exhibit.figure.subfigs, WITH_POSTERIOR, strict=True):
        run = trained.pick(variant, 2)
        model, mean = trained.model(run), trained.latents(run)[0][IMAGE]
        ellipse = posterior_covariances(model, trained.images.test[IMAGE : IMAGE + 1])[0]
        plane, *cells = part.axes
        assert plane.get_title() == variant
        ends = np.concatenate([sigma_points(mean, ellipse, n) for n in (1, 2)])
        np.testing.assert_allclose(np.concatenate([line.get_xydata() for line in plane.lines]), [*ends, mean])
        semi_axes, angle, _ = ellipse_axes(ellipse)
        for n, drawn in enumerate([each for each in plane.collections if type(each) is EllipseCollection], 1):
            np.testing.assert_allclose([*drawn.get_widths(), *drawn.get_heights()], 2 * n * semi_axes)
            np.testing.assert_allclose(drawn.get_angles(), angle)
            np.testing.assert_allclose(drawn.get_offsets(), [mean])
        reconstructions = decode(model, [mean, *ends], trained.images.image_shape)[:, 0].numpy()
        shown = [cell.images[0].get_array() for cell in cells]
        np.testing.assert_array_equal(shown[0], trained.images.test[IMAGE, 0] / 255)
        np.testing.assert_allclose(shown[1:5], reconstructions[1:5], atol=1e-6)
        np.testing.assert_allclose(shown[5:], reconstructions[[0, 5, 6, 7, 8]], atol=1e-6)
        (row,) = exhibit.data[exhibit.data["variant"] == variant].to_dict("records")
        assert row["image"] == IMAGE
        assert [row["semi_axis_longer"], row["semi_axis_shorter"]] == pytest.approx(semi_axes.tolist())
        assert row["angle_degrees"] == pytest.approx(float(angle))
    spans = {round(float(np.ptp(part.axes[0].get_xlim())), 5) for part in exhibit.figure.subfigs}
    assert len(spans) == 1  # one scale


def test_figure_5_chooses_a_typical_image_and_refuses_one_that_is_not_there(trained):
    exhibit = latent_space.uncertainty_of_one_image(trained, models=["FisherNet", "VAE"])
    runs = [trained.pick(variant, 2) for variant in WITH_POSTERIOR]
    covariances = [posterior_covariances(trained.model(run), trained.images.test) for run in runs]
    typical = latent_space.typical_image(covariances)
    assert set(exhibit.data["image"]) == {typical}
    assert f"Test image {typical}, of the first {len(covariances[0])} the one" in exhibit.caption
    for wrong in (-1, len(trained.images.test)):
        with pytest.raises(AnalysisError, match=f"--image chooses .* from 0 to .*; got {wrong}"):
            latent_space.uncertainty_of_one_image(trained, wrong)


def test_figure_6_shows_two_sigma_ellipses_of_the_first_images_of_three_classes_in_one_scale(made, trained):
    exhibit = made["uncertainty_of_classes"]
    labels = trained.images.test_labels.numpy()
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == label)[:100] for label in range(3)]))
    drawn = panels(exhibit.figure, 3)
    assert titles(drawn) == list(WITH_POSTERIOR)
    assert [text.get_text() for text in exhibit.figure.legends[0].get_texts()] == ["0", "1", "2"]
    colours = [to_hex(handle.get_color()) for handle in exhibit.figure.legends[0].legend_handles]
    for axes, variant in zip(drawn, WITH_POSTERIOR, strict=True):
        run = trained.pick(variant, 2)
        semi_axes, angles, _ = ellipse_axes(posterior_covariances(trained.model(run), trained.images.test[chosen]))
        ellipses = the(EllipseCollection, axes)
        np.testing.assert_allclose(ellipses.get_widths(), 4 * semi_axes[:, 0], rtol=1e-5)
        np.testing.assert_allclose(ellipses.get_heights(), 4 * semi_axes[:, 1], rtol=1e-5)
        np.testing.assert_allclose(ellipses.get_angles(), angles, atol=0.1)  # float32: other batches, nearly round
        np.testing.assert_array_equal(ellipses.get_offsets(), trained.latents(run)[0][chosen])
        assert [to_hex(face) for face in ellipses.get_facecolors()] == [colours[label] for label in labels[chosen]]
        of_variant = exhibit.data[exhibit.data["variant"] == variant]
        assert of_variant["image"].tolist() == chosen.tolist()
        assert of_variant["class"].tolist() == [str(label) for label in labels[chosen]]
    spans = [np.ptp(limits) for axes in drawn for limits in (axes.get_xlim(), axes.get_ylim())]
    np.testing.assert_allclose(spans, spans[0])
    assert f"the first {max(np.bincount(labels[chosen]))} test images of each of 0, 1, 2, {len(chosen)} in all" in (
        exhibit.caption
    )


def test_figure_6_takes_the_first_images_of_each_class_where_there_are_many(trained, monkeypatch):
    monkeypatch.setattr(latent_space, "N_PER_CLASS", 5)
    exhibit = latent_space.uncertainty_of_classes(restricted(trained, lambda runs: runs["variant"] == "VAE"))
    first = [np.flatnonzero(trained.images.test_labels.numpy() == label)[:5] for label in range(3)]
    assert exhibit.data["image"].tolist() == sorted(np.concatenate(first))
    assert "of the first 5 test images of each of 0, 1, 2, 15 in all: VAE (seed 0)" in exhibit.caption


def test_the_table_is_the_mean_over_seeds_of_every_runs_own_statistics(made, trained):
    table = made["ellipse_sizes"]
    assert isinstance(table, Table)
    assert list(table.data) == ["run_id", "variant", "model", "latent_dim", "seed", "statistic", "value"]
    variants = [variant for variant in TRAINED_VARIANTS if variant != "AE"]
    assert len(table.data) == len(variants) * 2 * 5
    assert (table.data["latent_dim"] == 2).all()
    run = trained.runs[(trained.runs["variant"] == "FisherNet") & (trained.runs["latent_dim"] == 2)].iloc[1]
    expected = ellipse_statistics(
        posterior_covariances(trained.model(run), trained.images.test), trained.latents(run)[0]
    )
    of_run = table.data[table.data["run_id"] == run["run_id"]]
    assert dict(zip(of_run["statistic"], of_run["value"], strict=True)) == expected
    assert list(table.shown) == ["variant", "seeds", *latent_space.HEADS.values()]
    assert table.shown["variant"].tolist() == variants
    shown = table.shown.set_index("variant")
    assert shown["tilt (degrees)"].drop("FisherNet").tolist() == ["0.0 ± 0.0"] * 3  # diagonal covariances
    ratios = table.data[(table.data["statistic"] == "axis_ratio") & (table.data["variant"] == "FisherNet")]["value"]
    assert shown.loc["FisherNet", "axis ratio"] == f"{ratios.mean():.2f} ± {ratios.std():.2f}"


def test_figure_9_shows_means_and_samples_on_the_same_axes(made, trained):
    exhibit = made["density_samples"]
    drawn = exhibit.figure.axes
    variants = ("FisherNet", "VAE", "CVAE")
    assert titles(drawn) == [f"{v}\n{what}" for v in variants for what in ("test means", "samples (prior)")]
    for row, variant in enumerate(variants):
        left, right = drawn[2 * row : 2 * row + 2]
        means = trained.latents(trained.pick(variant, 2))[0]
        np.testing.assert_array_equal(the(PathCollection, left).get_offsets(), means)
        samples = the(PathCollection, right).get_offsets()
        assert samples.shape == means.shape  # equal ink
        # of the standard normal: five standard errors
        assert np.abs(samples.mean(axis=0)).max() < 5 / math.sqrt(len(samples))
        assert np.abs(samples.var(axis=0) - 1).max() < 5 * math.sqrt(2 / len(samples))
        assert (left.get_xlim(), left.get_ylim()) == (right.get_xlim(), right.get_ylim())
    assert "samples of the prior." in exhibit.caption


def test_figure_9_says_why_it_does_not_show_the_papers_density_where_it_does_not(trained):
    stored = restricted(trained, lambda runs: runs["variant"] == "FisherNet")
    assert "MKDE" not in latent_space.density_samples(stored).caption  # of no paper
    stored.__dict__.pop("paper")
    stored._paper = "fishernet"
    exhibit = latent_space.density_samples(stored)
    assert titles(exhibit.figure.axes) == ["FisherNet\ntest means", "FisherNet\nsamples (mixture)"]
    assert "a Gaussian mixture fitted to the means of the training images" in exhibit.caption
    assert "no samples of the paper's MKDE" in exhibit.caption


def test_every_density_has_a_name_for_captions():
    assert set(latent_space.DENSITIES) == {*densities.DENSITY_NAMES, *sampling.BY_SVGD}


def test_without_a_run_of_two_dimensions_all_is_absent_with_the_command_that_trains_it(trained):
    made = list(exhibits_of(latent_space, restricted(trained, lambda runs: runs["latent_dim"] != 2)))
    assert len(made) == 5
    for exhibit in made:
        assert isinstance(exhibit, Absent)
        assert "at d = 2 has finished" in exhibit.why
        assert "--name trained --models FisherNet VAE" in exhibit.why
        assert "--latent-dims 2" in exhibit.why


def test_what_needs_a_posterior_is_absent_where_only_ae_has_two_dimensions(trained):
    stored = restricted(trained, lambda runs: runs["model"] == "AE")
    made = {exhibit.stem: exhibit for exhibit in exhibits_of(latent_space, stored, density="prior")}
    assert [stem for stem, exhibit in made.items() if isinstance(exhibit, Picture)] == [
        "latent_means",
        "density_samples",
    ]
    for stem in ("uncertainty_of_one_image", "uncertainty_of_classes", "ellipse_sizes"):
        assert "no run of a model with a posterior" in made[stem].why
        assert "--models FisherNet VAE VAE:likelihood=gaussian-learned CVAE --latent-dims 2" in made[stem].why


def test_variants_without_two_dimensions_are_left_out(trained):
    stored = restricted(trained, lambda runs: (runs["model"] == "VAE") | (runs["latent_dim"] == 5))
    assert titles(panels(latent_space.latent_means(stored).figure, 2)) == ["VAE", "VAE gaussian-learned"]
    assert len(latent_space.uncertainty_of_one_image(stored).figure.subfigs) == 2


def test_images_without_labels_have_no_figure_by_class(trained):
    stored = StoredSweep(trained.sweep)
    stored.images = replace(trained.images, test_labels=None)
    for make in (latent_space.latent_means, latent_space.uncertainty_of_classes):
        exhibit = make(stored)
        assert isinstance(exhibit, Absent)
        assert "the images of sweep trained have no labels" in exhibit.why
    assert isinstance(latent_space.uncertainty_of_one_image(stored), Picture)


@pytest.mark.parametrize("n", [3, 10, 23])
def test_every_class_has_a_colour_of_its_own(n):
    means = np.random.default_rng(0).normal(size=(n, 2))
    figure = latent_space.plot_latent_means({"VAE": means}, np.arange(n), [f"class {i}" for i in range(n)])
    colours = the(PathCollection, figure.axes[0]).get_facecolors()
    assert len({to_hex(colour) for colour in colours}) == n


def test_the_command_writes_every_file_and_says_what_it_wrote(trained, tmp_path, capsys):
    argv = ["--name", "trained", "--tracking-uri", trained.sweep.uri, "--out", str(tmp_path), "--density", "prior"]
    assert analyse(["latent-space", *argv, "--seed", "1", "--image", "7"]) == 0
    pictures = ("latent_means", "uncertainty_of_one_image", "uncertainty_of_classes", "density_samples")
    expected = {f"{stem}.{kind}" for stem in pictures for kind in ("png", "pdf")}
    expected |= {"uncertainty_of_one_image.csv", "uncertainty_of_classes.csv", "ellipse_sizes.csv", "ellipse_sizes.tex"}
    assert {path.name for path in tmp_path.iterdir()} == expected
    said = capsys.readouterr().out
    assert all(str(tmp_path / name) in said for name in expected)
    assert "periphery / centre" in said


def test_an_unknown_sweep_or_image_is_a_sentence_and_status_2(trained, tmp_path, capsys):
    argv = ["--tracking-uri", trained.sweep.uri, "--out", str(tmp_path)]
    assert analyse(["latent-space", *argv, "--name", "traned"]) == 2
    assert "There is no sweep named traned" in capsys.readouterr().err
    assert analyse(["latent-space", *argv, "--image", "1000000"]) == 2
    assert "error: --image chooses the test image, from 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_imports_nothing_that_takes_seconds():
    code = (
        "import sys\n"
        "from analysis.__main__ import main\n"
        "try: main(['latent-space', '--help'])\n"
        "except SystemExit as stop: print(stop.code)\n"
        "print(sorted({'mlflow', 'pandas', 'matplotlib', 'torch', 'scipy', 'sklearn'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["0", "[]"]
    assert "--image INDEX" in done.stdout
