"""The pictures' pixels are what the stored models decode from the latents that captions name."""

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis import style
from analysis.__main__ import main as analyse
from analysis.exhibits import Absent, Picture
from analysis.figures import latent_space, loss_curves, outputs, robustness, samples, traversals
from analysis.frame import AnalysisError, summary
from analysis.scores.sampling import fit_and_draw, latent_samples
from analysis.stored import StoredSweep
from fishernet.trained import decode, posterior_means
from tests.analysis.conftest import TRAINED_DIMS, exhibits_of

REPOSITORY = Path(samples.__file__).parents[2]
SHAPE = (1, 8, 8)
WITH_PRIOR = ["FisherNet", "VAE", "VAE gaussian-learned", "CVAE"]


@pytest.fixture(scope="module")
def figure_7(trained):
    return samples.prior_samples(trained, 2)


@pytest.fixture(scope="module")
def figure_10(trained):
    return samples.density_samples(trained, 5, "mixture")


def texts(figure):
    return [text.get_text() for text in figure.texts]


def pixels(axes):
    """What the axes' only image shows, white where it is transparent."""
    (image,) = axes.images
    assert image.get_clim() == (0, 1)
    assert image.get_cmap().name == "gray"
    return np.asarray(image.get_array())


def cut(mosaic, n, n_columns):
    """The n images of a mosaic of 8x8 images, (n, 1, 8, 8): each pixel is a square of equal dots, the gaps are white."""
    side = (mosaic.shape[1] + samples.GAP) // n_columns - samples.GAP
    assert side % 8 == 0
    dots, found = side // 8, []
    rest = mosaic.copy()
    for i in range(n):
        top, left = (place * (side + samples.GAP) for place in divmod(i, n_columns))
        squares = mosaic[top : top + side, left : left + side].reshape(8, dots, 8, dots)
        assert (squares == squares[:, :1, :, :1]).all()
        found.append(squares[:, 0, :, 0])
        rest[top : top + side, left : left + side] = 1
    assert (rest == 1).all()
    return np.stack(found)[:, None]


def subset(trained, keep):
    """The trained sweep as if only the runs that ``keep`` says had finished."""
    stored = StoredSweep(trained.sweep)
    stored.runs = trained.runs[keep(trained.runs)]
    return stored


def test_each_panel_shows_what_its_model_decodes_from_the_same_prior_draws(trained, figure_7):
    z = latent_samples(trained, trained.pick("FisherNet", 2), "prior")
    assert texts(figure_7.figure) == WITH_PRIOR
    for axes, variant in zip(figure_7.figure.axes, WITH_PRIOR, strict=True):
        run = figure_7.data[figure_7.data["variant"] == variant]
        n, n_columns = len(run), run["column"].max() + 1
        assert n == n_columns * samples.N_ROWS
        expected = decode(trained.model(trained.pick(variant, 2)), z[:n], SHAPE)
        np.testing.assert_array_equal(cut(pixels(axes), n, n_columns), expected)
        np.testing.assert_array_equal(run[["z1", "z2"]], z[:n])
    assert abs(z.mean()) < 0.05  # standard normal, 20,000 numbers: five standard errors are 0.035
    assert abs(z.std() - 1) < 0.03


def test_samples_of_a_density_are_of_the_training_images_means_and_of_the_runs_own_seed(trained):
    """The prior's are the same for every model of a seed, and others for another seed."""
    both = [StoredSweep(trained.sweep, seed=seed).pick("AE", 5) for seed in (0, 1)]
    for seed, run in enumerate(both):
        means = posterior_means(trained.model(run), trained.images.train)
        np.testing.assert_array_equal(latent_samples(trained, run, "kde"), fit_and_draw("kde", means, seed)[0])
    vae, fishernet = (trained.pick(variant, 5) for variant in ("VAE", "FisherNet"))
    np.testing.assert_array_equal(latent_samples(trained, vae, "prior"), latent_samples(trained, fishernet, "prior"))
    ours, others = (latent_samples(trained, run, "prior") for run in both)
    assert abs(np.corrcoef(ours.ravel(), others.ravel())[0, 1]) < 5 / ours.size**0.5


def test_panels_of_runs_with_other_seeds_show_the_same_draws_and_say_the_seeds(trained):
    mixed = subset(trained, lambda runs: (runs["variant"] != "VAE") | (runs["seed"] == 1))
    picture = samples.prior_samples(mixed, 2)
    assert "runs of seed 0, but VAE at d = 2 of seed 1." in picture.caption
    own = picture.data[picture.data["variant"] == "VAE"]
    assert set(own["seed"]) == {1}
    z = latent_samples(trained, trained.pick("FisherNet", 2), "prior")[: len(own)]
    np.testing.assert_array_equal(own[["z1", "z2"]], z)
    shown = cut(pixels(picture.figure.axes[1]), len(z), own["column"].max() + 1)
    np.testing.assert_array_equal(shown, decode(trained.model(mixed.pick("VAE", 2)), z, SHAPE))


def test_the_seed_chooses_the_run(trained, figure_7):
    other = samples.prior_samples(StoredSweep(trained.sweep, seed=1), 2)
    assert "runs of seed 0." in figure_7.caption
    assert "runs of seed 1." in other.caption
    assert not (pixels(other.figure.axes[0]) == pixels(figure_7.figure.axes[0])).all()


def test_an_ae_has_no_prior_samples_and_the_caption_says_so(trained, figure_7):
    assert "AE" not in set(figure_7.data["variant"])
    assert "AE has no prior to sample and is left out." in figure_7.caption
    without = subset(trained, lambda runs: runs["model"] != "AE")
    assert "no prior to sample" not in samples.prior_samples(without, 2).caption


def test_a_model_without_a_run_is_left_out_with_the_command_that_trains_it(trained):
    picture = samples.prior_samples(subset(trained, lambda runs: runs["model"] != "CVAE"), 2)
    assert texts(picture.figure) == ["FisherNet", "VAE", "VAE gaussian-learned"]
    assert "No run of CVAE at d = 2 has finished; `" in picture.caption
    assert "fishernet sweep --name trained --models CVAE --latent-dims 2 --storage-path" in picture.caption


def test_without_any_run_at_that_dimension_there_is_a_command_in_the_figures_place(trained):
    for absent in (samples.prior_samples(trained, 15), samples.density_samples(trained, 15, "mixture")):
        assert isinstance(absent, Absent)
        assert "--latent-dims 15 --storage-path" in absent.why
        assert "--models FisherNet" in absent.why
    missing = samples.reconstructions(trained, [7, 9])
    assert isinstance(missing, Absent)
    assert "--latent-dims 7,9 --storage-path" in missing.why


def test_by_default_there_are_the_papers_dimensions_or_the_ends_of_what_is_there(trained):
    made = {
        exhibit.stem: exhibit
        for exhibit in exhibits_of(samples, trained, density="mixture", prior_dims=(2, 15), density_dims=(5,))
    }
    kinds = {stem: type(exhibit) for stem, exhibit in made.items()}
    assert kinds == {
        "prior_samples_d02": Picture,
        "prior_samples_d05": Picture,  # instead of d = 15, which this sweep does not have
        "prior_samples_d15": Absent,
        "density_samples_images_d05": Picture,
        "reconstructions": Picture,
    }
    ends = {exhibit.stem for exhibit in exhibits_of(samples, trained, density="mixture")}
    assert ends == {"prior_samples_d02", "prior_samples_d05", "density_samples_images_d05", "reconstructions"}
    assert set(made["reconstructions"].data["latent_dim"]) == set(TRAINED_DIMS)


def test_the_ends_are_those_that_most_variants_have():
    runs = pd.DataFrame(
        [("FisherNet", d) for d in (1, 3, 6, 50)] + [("VAE", d) for d in (3, 6)], columns=["variant", "latent_dim"]
    )
    assert samples._ends(runs) == samples._ends(runs, (2, 15)) == {3, 6}
    assert samples._ends(runs.replace({"latent_dim": {1: 2, 50: 15}}), (2, 15)) == {2, 15}
    assert samples._ends(runs[runs["latent_dim"] == 6]) == {6}
    assert samples._ends(runs.iloc[:0]) == set()


def test_figure_10_shows_prior_samples_on_the_left_and_density_samples_on_the_right(trained, figure_10):
    assert texts(figure_10.figure) == ["FisherNet, prior", "FisherNet, mixture"]
    run = trained.pick("FisherNet", 5)
    left, right = figure_10.figure.axes
    assert left.get_position().x1 < right.get_position().x0
    for axes, density in ((left, "prior"), (right, "mixture")):
        own = figure_10.data[figure_10.data["density"] == density]
        z = latent_samples(trained, run, density)[: len(own)]
        np.testing.assert_allclose(own[[f"z{i}" for i in range(1, 6)]], z)
        shown = cut(pixels(axes), len(own), own["column"].max() + 1)
        np.testing.assert_array_equal(shown, decode(trained.model(run), z, SHAPE))
    assert (
        "a Gaussian mixture fitted to the posterior means of the training images; runs of seed 0." in figure_10.caption
    )


def test_a_density_is_sampled_of_the_first_line_with_a_prior_where_none_is_in_its_usual_form(trained):
    """As of a sweep of one's own images, whose options are chosen for them."""
    sweep = replace(trained.sweep)
    sweep.__dict__["configs"] = [c for c in trained.sweep.configs if c.variant == "VAE gaussian-learned"]
    stored = StoredSweep(sweep)
    stored.runs = trained.runs[trained.runs["variant"].isin(["VAE gaussian-learned", "AE"])]
    assert samples.usual_models(stored) == []
    made = {exhibit.stem: exhibit for exhibit in exhibits_of(samples, stored, density="mixture")}
    shown = made["density_samples_images_d05"]
    assert texts(shown.figure) == ["VAE gaussian-learned, prior", "VAE gaussian-learned, mixture"]
    assert "No run" not in shown.caption
    stored.runs = trained.runs[trained.runs["model"] == "AE"]
    nothing = samples.density_samples(stored, 5, "mixture")
    assert isinstance(nothing, Absent)


def test_figure_10_shows_a_mixture_and_says_why_where_runs_have_no_mkde_samples(trained, monkeypatch):
    picture = samples.density_samples(StoredSweep(trained.sweep, paper="fishernet"), 5)
    assert texts(picture.figure) == ["FisherNet, prior", "FisherNet, mixture"]
    assert "MKDE" not in samples.density_samples(trained, 5).caption  # of no paper
    assert "no samples of the paper's MKDE; with NIFTy installed `" in picture.caption
    assert "fishernet figures frechet --name trained --tracking-uri sqlite:" in picture.caption
    monkeypatch.setitem(sys.modules, "nifty8", None)
    with pytest.raises(AnalysisError, match="needs NIFTy"):  # no substitute for what was asked for
        samples.density_samples(trained, 5, "mkde")


def test_reconstructions_are_below_the_first_test_images(trained):
    picture = samples.reconstructions(trained, [2, 5], ["FisherNet", "VAE", "CVAE"])
    images = trained.images.test[:10]
    original, *strips = (cut(pixels(axes), 10, 10) for axes in picture.figure.axes)
    np.testing.assert_allclose(original, images / 255, atol=1e-7)
    runs = [
        trained.pick(variant, d)
        for d in (2, 5)
        for variant in ["FisherNet", "VAE", "VAE gaussian-learned", "CVAE", "AE"]
    ]
    for strip, run in zip(strips, runs, strict=True):
        expected = decode(trained.model(run), trained.latents(run)[0][:10], SHAPE)
        np.testing.assert_allclose(strip, expected, atol=1e-5)  # means from batches of another size
        own = picture.data[picture.data["run_id"] == run["run_id"]]
        assert own["mse"].tolist() == pytest.approx(((strip - original) ** 2).mean((1, 2, 3)).tolist(), rel=1e-4)
    assert [text for text in texts(picture.figure) if text.startswith("0.")] == [
        f"{run['test/mse']:#.3g}" for run in runs
    ]
    tops = [axes.get_position().y0 for axes in picture.figure.axes]
    assert tops == sorted(tops, reverse=True)
    assert "The first 10 test images" in picture.caption
    assert f"all {len(trained.images.test)} test images" in picture.caption


def test_every_pixel_of_an_image_is_a_sharp_square_in_the_png(trained, figure_7, tmp_path):
    png, _ = style.save(figure_7.figure, tmp_path / "figure")
    drawn = np.asarray(Image.open(png).convert("RGB"))[..., 0]
    height, width = drawn.shape
    for axes in figure_7.figure.axes:
        expected = np.round(255 * pixels(axes))
        place = axes.get_position()
        left, top = round(place.x0 * width), round((1 - place.y1) * height)
        found = drawn[top : top + expected.shape[0], left : left + expected.shape[1]]
        # the colour map's 256 greys and the renderer each round; a blurred edge would be off by tens
        assert np.abs(found - expected).max() <= 2
        assert np.abs(np.diff(expected)).max() > 20


@pytest.mark.parametrize("shape", [(3, 128, 128), (1, 512, 512), (1, 2000, 3000), (3, 4000, 10)])
def test_a_sheet_does_not_grow_with_the_pixels_of_large_images(shape):
    images = torch.linspace(0, 1, 2)[:, None, None, None].expand(2, *shape)
    pixels = samples.mosaic(images, 2)
    limit = max(samples.LARGEST_IMAGE, samples.IMAGE)
    assert pixels.shape[0] <= limit
    assert pixels.shape[1] <= 2 * limit + samples.GAP
    assert pixels[:, 0].max() == 0  # the first is black, the second white
    assert pixels[:, -1].min() == 1
    assert samples.columns_of_grids(3, shape) >= 2


def test_colour_images_keep_their_colours():
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = samples.mosaic(images, 3)
    side = (pixels.shape[1] + samples.GAP) // 3
    assert pixels.shape == (2 * side - samples.GAP, 3 * side - samples.GAP, 3)
    for i in range(5):
        top, left = (place * side for place in divmod(i, 3))
        np.testing.assert_array_equal(pixels[top, left], images[i, :, 0, 0])
    assert (pixels[side:, 2 * side :] == 1).all()  # no sixth image
    figure = samples.plot_grids({"a": images, "b": images}, 3, 2)
    assert [axes.images[0].get_array().shape for axes in figure.axes] == [pixels.shape] * 2


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 64, 64), (1, 20, 40)])
@pytest.mark.parametrize("n_panels", range(1, 8))
def test_panels_of_any_images_fit_the_width_and_do_not_overlap(shape, n_panels):
    per_row = min(n_panels, 3)
    n_columns = samples.columns_of_grids(per_row, shape)
    images = torch.zeros(samples.N_ROWS * n_columns, *shape)
    figure = samples.plot_grids({f"VAE gaussian-learned, {i}": images for i in range(n_panels)}, n_columns, per_row)
    assert 5 < figure.get_figwidth() <= 7
    boxes = [axes.get_position() for axes in figure.axes]
    assert all(0 <= box.x0 < box.x1 <= 1 + 1e-9 and -1e-9 <= box.y0 < box.y1 <= 1 for box in boxes)
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[:i])


@pytest.mark.parametrize("name", ["MMMM WWWW=10 MMMM WWWW MMMM", "AE", "FAE F=0.1"])
def test_names_of_rows_lie_whole_within_the_sheet_and_left_of_the_images(name):
    images = torch.rand(4, 1, 8, 8)
    spread = outputs.Spread(name, images, images)
    mixture = outputs.Mixture(name, images, [0.25] * 4, [-1234.5] * 4, [0.1] * 4)
    for sheet in (
        samples.plot_reconstructions(images, [samples.Row(2, name, images, 0.1234)]),
        traversals.plot_interpolations(images[:2], [{name: torch.rand(traversals.N_STEPS, 1, 8, 8)}]),
        robustness.plot_groups({"noise": {name: images}}),
        outputs.plot_variances(images, [spread]),
        outputs.plot_components(images[:1], [mixture]),
    ):
        sheet.draw_without_rendering()
        first_image = min(axes.get_window_extent().x0 for axes in sheet.axes)
        (label,) = [text for text in sheet.texts if "".join(text.get_text().split()) == "".join(name.split())]
        assert label.get_window_extent().x0 >= 0
        assert label.get_window_extent().x1 < first_image


def test_the_command_writes_pictures_and_data_without_a_warning(trained, tmp_path, capsys):
    arguments = ["--name", "trained", "--tracking-uri", trained.sweep.uri, "--out", str(tmp_path)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert analyse(["samples", *arguments, "--latent-dims", "2", "--density", "mixture", "--seed", "1"]) == 0
    stems = ("prior_samples_d02", "density_samples_images_d02", "reconstructions")
    files = {f"{stem}.{kind}" for stem in stems for kind in ("png", "pdf", "csv")}
    assert {path.name for path in tmp_path.iterdir()} == files
    said = capsys.readouterr().out
    assert all(str(tmp_path / name) in said for name in files)
    assert set(pd.read_csv(tmp_path / "prior_samples_d02.csv")["seed"]) == {1}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--name", "trainde"], "Did you mean trained?"),
        (["--name", "trained", "--seed", "7"], "--seed 7 chooses the run that pictures show"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(trained, tmp_path, capsys, arguments, sentence):
    out = tmp_path / "new"
    assert analyse(["samples", *arguments, "--tracking-uri", trained.sweep.uri, "--out", str(out)]) == 2
    assert sentence in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("dims", ["two", "0,2", "2,,5", ""])
def test_dimensions_that_cannot_be_read_are_a_usage_error(dims, capsys):
    with pytest.raises(SystemExit) as raised:
        analyse(["samples", "--latent-dims", dims])
    assert raised.value.code == 2
    assert f"got {dims!r}" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from analysis.__main__ import main\n"
        "try: main(['samples', '--help'])\n"
        "except SystemExit as stop: print(stop.code)\n"
        "print(sorted({'mlflow', 'pandas', 'matplotlib', 'torch', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["0", "[]"]
    assert "--latent-dims" in done.stdout


def test_pictures_and_curves_have_the_models_in_one_order_whatever_the_plans(trained):
    sweep = replace(trained.sweep)
    sweep.__dict__["configs"] = trained.sweep.configs[::-1]
    stored = StoredSweep(sweep)
    order = [name for name, _, _ in style.by_variant(summary(stored.runs))]
    assert order == stored.variants == ["FisherNet", "VAE", "VAE gaussian-learned", "CVAE", "AE"]
    assert list(samples._lines(stored, ())) == order
    assert list(samples._lines(stored, ("CVAE", "FisherNet"))) == order
    assert [run["variant"] for run in latent_space._shown_runs(stored, ("CVAE", "FisherNet"))] == order
    assert [run["variant"] for run in latent_space._shown_runs(stored, ("CVAE", "FisherNet"), 2)] == [
        "FisherNet",
        "CVAE",
    ]
    assert next(iter(loss_curves.parts(stored))).title == "Loss and MSE of FisherNet against the latent dimension"
