"""Tables and pictures of what decoders emit, of made models without MLflow."""

import itertools
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from analysis.exhibits import Absent, as_text, write
from analysis.figures import outputs
from analysis.parts import all_of
from analysis.scores.outputs import floors, score_outputs
from fishernet.families import family, trial_config

SHAPE = (1, 6, 5)
IMAGES = torch.randint(0, 256, (40, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LINES = (
    {"model": "AE"},
    {"model": "AE", "likelihood": "student-t", "scale": "diagonal", "components": 3},
    {"model": "AE", "scale": "diagonal"},
    {"model": "AE", "likelihood": "student-t", "components": 1},
)
SHARED = {"latent_dim": 2, "hidden_layers": 0, "decoder_output": "linear"}
PLAIN, MIXTURE, DIAGONAL, HEAVY = (trial_config({**SHARED, **line}).variant for line in LINES)


def stored(lines=LINES):
    rows, models = [], {}
    for line in lines:
        for seed in (0, 1):
            config = trial_config({**SHARED, **line, "seed": seed})
            run_id = f"{config.variant} {seed}"
            models[run_id] = family(config.model).load()([config], SHAPE, 10).eval()
            scored = score_outputs(IMAGES, models[run_id], seed)
            rows.append({
                **config.to_dict(), "config": config, "variant": config.variant, "run_id": run_id, "train_seconds": 2.0,
                "scores": {"outputs": scored.about}, **scored.metrics,
            })  # fmt: skip
    runs = pd.DataFrame(rows)
    return SimpleNamespace(
        runs=runs, model=lambda run: models[run["run_id"]],
        pick=lambda variant, d: runs[(runs["variant"] == variant) & (runs["latent_dim"] == d)].iloc[0],
        images=SimpleNamespace(train=IMAGES, test=IMAGES, image_shape=SHAPE), sweep=SimpleNamespace(command=str),
    )  # fmt: skip


@pytest.fixture(scope="module")
def made():
    said = pd.DataFrame(
        [{"variant": MIXTURE, "latent_dim": 2, "value": 7.671, "row": "t_df_mu_diagSigma", "components": 3}]
    )
    return {exhibit.stem: exhibit for exhibit in all_of(outputs.parts(stored(), published={"outputs": said}))}


def test_every_exhibit_is_there_and_can_be_written(made, tmp_path):
    assert set(made) == {
        "outputs",
        "output_distributions",
        "variances",
        "draws",
        "components",
        "calibration",
        "size_and_error",
    }
    for exhibit in made.values():
        assert not isinstance(exhibit, Absent), exhibit
        assert all(path.stat().st_size for path in write(exhibit, tmp_path))


def test_the_table_has_our_mean_and_the_papers_number_beside_it_and_floors_first(made):
    shown, runs = made["outputs"].shown, stored().runs
    assert shown["model"].tolist() == [
        "black image", "mean image", "constant on 2 x 2 blocks", "PCA, 2 components",
        "AE student-t diagonal K=3", "AE", "AE diagonal", "AE student-t K=1",
    ]  # fmt: skip
    assert "All lines: linear." in made["outputs"].caption
    mixture = shown[shown["model"] == "AE student-t diagonal K=3"].iloc[0]
    ours = runs[runs["variant"] == MIXTURE]["outputs/l2_percent_released"]
    assert mixture["L2 as released"] == f"{ours.mean():.3f} ± {ours.std():.3f}"
    assert (mixture["paper's L2"], mixture["paper's row"]) == ("7.671", "t_df_mu_diagSigma, K = 3")
    assert (shown["paper's L2"] != "").sum() == 1
    assert set(shown["of MSE's"]) == {"", "1.0 ± 0.0"}  # all have the seconds of the line of squared errors
    weights = made["output_distributions"].shown.set_index("paper's row")
    assert weights.loc["t_df_mu_diagSigma, K = 3", "model"] == "AE student-t diagonal K=3"
    assert len(as_text(made["outputs"]).split("\n\n")[1].splitlines()) == 1 + len(shown)  # a line a row


def test_lines_stand_in_the_order_of_the_papers_rows_and_those_that_it_has_not_come_last():
    rows = [(HEAVY, "t_df_mu", 1), (MIXTURE, "t_df_mu_diagSigma", 3), (HEAVY, "T_df_mu", 1)]  # the last by another name
    said = pd.DataFrame(
        [{"variant": v, "latent_dim": 2, "value": 1.0, "row": row, "components": k} for v, row, k in rows]
    )
    made = {exhibit.stem: exhibit for exhibit in all_of(outputs.parts(stored(), published={"outputs": said}))}
    order = ["AE student-t K=1", "AE student-t diagonal K=3", "AE", "AE diagonal"]
    assert made["outputs"].shown["model"].tolist()[4:] == order
    assert made["output_distributions"].shown["model"].tolist() == order
    assert made["variances"].data["variant"].unique().tolist() == [HEAVY, DIAGONAL]


def test_floors_are_the_errors_of_images_that_no_model_makes():
    x = IMAGES.double() / 255
    found = floors(IMAGES, IMAGES, 30)
    assert found["black image"] == pytest.approx(100 * x.square().mean().item())
    assert found["mean image"] == pytest.approx(100 * x.var(0, correction=0).mean().item(), rel=1e-5)
    assert found["PCA, 30 components"] == pytest.approx(0, abs=1e-8)  # as many as there are pixels
    some = floors(IMAGES, IMAGES, 3)["PCA, 3 components"]
    left = torch.linalg.svdvals((x - x.mean(0)).flatten(1))[3:].square().sum().item()
    assert 0 < some <= 100 * left / x.numel()  # clipping brings images nearer
    assert set(floors(IMAGES, IMAGES, 31)) == {"black image", "mean image", "constant on 2 x 2 blocks"}


@pytest.mark.parametrize("shape", [(1, 4, 6), (2, 5, 3), (1, 1, 1)])
def test_the_best_image_that_is_constant_on_blocks_has_the_variance_within_them(shape):
    """Also where a side is odd and the last blocks are smaller; of images made of blocks it is 0."""
    x = torch.randint(256, (7, *shape), dtype=torch.uint8)
    within = torch.zeros(x.shape, dtype=torch.float64)
    for i, j in itertools.product(range(0, shape[1], 2), range(0, shape[2], 2)):
        block = x[:, :, i : i + 2, j : j + 2].double() / 255
        within[:, :, i : i + 2, j : j + 2] = (block - block.mean((2, 3), keepdim=True)).square()
    found = floors(x, x, 10**6)["constant on 2 x 2 blocks"]
    assert found == pytest.approx(100 * within.mean().item(), abs=1e-10)
    blocks = x[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert floors(blocks, blocks, 10**6)["constant on 2 x 2 blocks"] == pytest.approx(0, abs=1e-12)


def test_seconds_are_divided_by_those_of_the_line_of_squared_errors_as_wide_as_all():
    sweep = stored((LINES[0], LINES[2], {"model": "AE", "decoder_layers": 1, "setting": "wide"}))
    sweep.runs["train_seconds"] = [2.0, 4.0, 6.0, 12.0, 100.0, 100.0]
    shown = outputs.error_table(sweep).shown
    assert shown["of MSE's"].tolist()[-3:-1] == ["1.0 ± 0.5", "3.0 ± 1.4"]


def test_distances_to_images_and_to_noise_stand_in_two_columns_of_two_names():
    sweep = stored()
    sweep.runs["classifier/reconstruction/frechet"] = [1.0, 3.0, *[2.0] * 6]
    first = outputs.error_table(sweep)
    assert first.shown["Fréchet to test"].tolist()[4:6] == ["2.0 ± 1.4", "2.0 ± 0.0"]
    assert "to noise" not in first.shown
    sweep.runs["classifier/reconstruction/frechet_to_noise"] = 500.0
    sweep.runs["classifier/real_to_noise"] = 480.0
    said = pd.DataFrame(
        [
            {
                "variant": PLAIN,
                "latent_dim": 2,
                "value": 1.5,
                "row": "MSE",
                "components": 1,
                "to_noise": 520.167,
                "parameters": 50992.0,
                "seconds_per_epoch": 2.563,
            }
        ]
    )
    table = outputs.error_table(sweep, said)
    assert set(table.shown["to noise"]) == {"", "500 ± 0"}
    assert table.shown["paper's to noise"].tolist().count("520") == 1
    of_plain = table.shown[table.shown["paper's row"] == "MSE"].iloc[0]
    assert (of_plain["paper's parameters"], of_plain["paper's s/epoch"]) == ("50992", "2.6")
    assert int(of_plain["parameters"]) == sweep.runs.set_index("variant")["outputs/parameters"][PLAIN].iloc[0]
    assert "held-out images themselves have 480" in table.caption
    assert "not FID" in table.caption
    # What makes the two columns incomparable, where both stand: features, images and range.
    assert "The paper's to noise does not compare with it" in table.caption
    for words in ("Keras's Inception v3", "first 1000 images in [0, 1]", "noise in [-1, 1]", "noise in [0, 1]"):
        assert words in table.caption
    assert "The paper's to noise" not in outputs.error_table(sweep).caption


def test_weighted_bits_stand_beside_the_bound_on_the_scale_of_each_and_binary_ones_nowhere():
    """By one number of draws: the run with ten is left out, as its bound is a looser one."""
    posterior = {"model": "VAE", "likelihood": "gaussian", "scale": "diagonal"}
    lines = (
        posterior,
        {"model": "VAE", "likelihood": "discretised-normal"},
        {"model": "VAE", "binarisation": "dynamic", "decoder_output": "sigmoid"},
    )
    sweep = stored(lines)
    assert not {"weighted bits/dim", "discretised weighted bits/dim"} & set(
        outputs.distribution_table(sweep.runs).shown
    )
    sweep.runs["likelihood/bits_per_dim"] = [5.0, 3.0, 2.5, 2.0, 0.1, 0.1]
    for i, scores in enumerate(sweep.runs["scores"]):
        about = {"draws": 10 if i == 3 else 100, "images": 20, "dequantised": i < 2, "probability": i >= 2}
        scores["likelihood"] = {"held-out": about}
    table = outputs.distribution_table(sweep.runs)
    assert table.shown["weighted bits/dim"].tolist() == ["4.00 ± 1.41", "", ""]
    assert table.shown["discretised weighted bits/dim"].tolist()[::2] == ["", ""]
    assert table.shown["discretised weighted bits/dim"].iloc[1].startswith("2.50")
    assert list(table.shown).index("weighted bits/dim") < list(table.shown).index("in 90% interval")
    assert "importance sampling, 100 draws of each of the first 20 held-out images" in table.caption
    assert "held-out NLL of 1 run with other numbers" in table.caption


def test_floors_of_emitted_scales_are_said_of_each_kind_of_scale():
    of = {**SHARED, "model": "AE"}
    lines = [
        {}, {"scale": "diagonal"}, {"scale": "diagonal", "least_scale": 0.05}, {"scale": "full", "least_scale": 1e-5},
        {"likelihood": "discretised-normal", "least_scale": 0.25},
        {"scale": "full", "cholesky_of": "covariance", "least_scale": 1e-5},
    ]  # fmt: skip
    configs = [trial_config({**of, **line}) for line in lines]
    assert outputs.say_floors(pd.DataFrame({"config": configs})) == (
        "What is added to an emitted scale, its floor, is 1e-06, 0.05 of standard deviations (scale diagonal); 0.25 of the "
        "scales of 8-bit likelihoods; 1e-05 of the diagonal of a covariance factor (scale full); 1e-05 of the diagonal of a "
        "precision factor, an inverse sd (scale full)."
    )
    assert outputs.say_floors(pd.DataFrame({"config": configs[:1]})) == ""
    tables = [outputs.error_table(stored()), outputs.distribution_table(stored().runs)]
    assert all("is 1e-06 of standard deviations" in table.caption for table in tables)


def test_pictures_in_which_a_floor_shows_say_it(made):
    for stem in ("variances", "calibration", "size_and_error"):
        assert "its floor, is 1e-06 of standard deviations (scale diagonal)" in made[stem].caption, stem


FLOORS = (LINES[0], LINES[2], {**LINES[2], "least_scale": 0.25, "setting": "high-floor"})


def test_lines_of_two_floors_have_two_curves_and_names_and_others_none(monkeypatch):
    """Each of its own coverage; the line without a floor has a colour of its own and so no name."""
    drawn, plot = [], outputs.plot_calibration
    monkeypatch.setattr(outputs, "plot_calibration", lambda curves: drawn.append(curves) or plot(curves))
    runs = stored(FLOORS).runs
    picture = outputs.calibration(runs)
    (curves,) = drawn
    assert [curve.name for curve in curves] == ["AE", "AE diagonal", "AE high-floor"]
    for curve, variant in zip(curves, runs["variant"].unique(), strict=True):
        of_line = runs[runs["variant"] == variant]
        assert curve.shares[0.9] == pytest.approx(of_line["outputs/coverage_90"].mean())
    axes, (key,) = picture.figure.axes[0], picture.figure.legends
    assert len(axes.lines) == 1 + 3
    assert [text.get_text() for text in key.get_texts()] == [
        "identity",
        "diagonal",
        "no mixture",
        "AE diagonal",
        "AE high-floor",
    ]
    marks = [line.get_marker() for line in axes.lines[2:]]
    assert len({*marks, "None"}) == 3


def test_keys_of_curves_and_points_name_the_papers_rows_as_the_paper_does():
    runs = stored(FLOORS).runs
    said = pd.DataFrame([{"variant": runs["variant"].unique()[1], "row": "N_mu_diagSigma", "components": 1}])
    for picture in (outputs.calibration(runs, said), outputs.size_and_error(runs, said)):
        key = [text.get_text() for legend in picture.figure.legends for text in legend.get_texts()]
        assert any(text.endswith("N_mu_diagSigma") for text in key), key
        assert any(text.endswith("AE high-floor") for text in key)
        assert not any(text.endswith("AE diagonal") for text in key)
        assert "Names are the paper's" in picture.caption


def test_lines_of_one_colour_and_mark_have_numbers_that_do_not_overlap():
    lines = [*FLOORS, {**LINES[2], "dequantisation": "uniform-noise"}, LINES[3]]
    picture = outputs.size_and_error(stored(lines).runs)
    figure = picture.figure
    numbers, names = figure.axes[0].texts, [text.get_text() for text in figure.legends[1].get_texts()]
    assert {name[3:] for name in names} == {"AE diagonal", "AE high-floor", "AE diagonal uniform-noise"}
    assert [name[0] for name in names] == [number.get_text() for number in numbers] == ["1", "2", "3"]
    FigureCanvasAgg(figure).draw()
    keys = [key.get_window_extent() for key in figure.legends]
    assert all(key.x0 >= 0 and key.x1 <= figure.bbox.x1 for key in keys)
    boxes = [Text.get_window_extent(number) for number in numbers]  # without the line to its point
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert len(outputs.size_and_error(stored().runs).figure.legends) == 1  # all lines have a look of their own


def test_pictures_have_the_papers_names_where_it_has_the_line():
    said = pd.DataFrame([{"variant": MIXTURE, "row": "t_df_mu_diagSigma", "components": 3}])
    names, alike = outputs.said_names(stored().runs, said)
    assert names == {**outputs.short_names(stored().runs)[0], MIXTURE: "t_df_mu_diagSigma, K = 3"}
    assert "Names are the paper's" in alike
    assert outputs.said_names(stored().runs, None) == outputs.short_names(stored().runs)


def test_the_size_of_each_line_is_its_number_of_trained_numbers(made):
    data = made["size_and_error"].data.set_index("variant")["parameters"]
    pixels, code = 30, 30 * 2 + 2
    assert data[PLAIN] == code + 3 * pixels
    assert data[MIXTURE] == code + 3 * (6 * pixels + 6)


def test_a_mixture_is_joined_to_the_line_that_it_is_a_mixture_of_and_to_no_other():
    """Not to one of another floor, nor to one of another latent dimension."""
    diagonal = {**SHARED, "model": "AE", "scale": "diagonal"}
    configs = [
        trial_config({**diagonal, **more, "seed": seed})
        for seed, more in enumerate((
            {"components": 3}, {}, {"least_scale": 0.05}, {"latent_dim": 5}, {"components": 3, "latent_dim": 7},
            {"components": 3, "latent_dim": 5}, {"likelihood": "maf", "scale": "identity"},
        ))
    ]  # fmt: skip
    assert outputs.mixtures_over_singles(pd.DataFrame({"config": configs})) == [(1, 0), (3, 5)]


def test_pictures_show_scales_of_one_component_and_weights_of_several(made):
    assert set(made["variances"].data["variant"]) == {DIAGONAL, HEAVY}
    data = made["components"].data
    assert set(data["variant"]) == {MIXTURE}
    assert data["weight"].is_monotonic_decreasing
    assert data["weight"].sum() == pytest.approx(1)
    assert set(made["calibration"].data["variant"]) == {PLAIN, MIXTURE, DIAGONAL, HEAVY}


def test_components_have_the_mixtures_density_at_their_modes_and_the_distance_of_the_nearest_training_image(made):
    data = made["components"].data
    sweep = stored()
    model = sweep.model(sweep.pick(MIXTURE, 2))
    with torch.no_grad():
        x = IMAGES[:1].flatten(1).float().div(255)[None]
        at = model.likelihood.distribution(model.decode(model.posterior_mean(x)))
    for row in data.to_dict("records"):
        mode = at.loc[0, 0, row["component"] - 1]
        assert row["log_density"] == pytest.approx(float(at.log_prob(mode[None, None])), rel=1e-6)
        apart = [(mode.clamp(0, 1) - image.flatten() / 255).square().mean().sqrt().item() for image in IMAGES]
        assert row["nearest"] == pytest.approx(min(apart), rel=1e-4)
    assert data["log_density"].nunique() == data["nearest"].nunique() == 3


def test_the_nearest_image_is_found_whatever_is_compared_at_a_time(monkeypatch):
    monkeypatch.setattr(outputs, "AT_ONCE", 7 * 30)
    assert outputs.nearest(IMAGES[33:35].flatten(1) / 255, IMAGES) == pytest.approx([0, 0], abs=1e-3)
    moved = (IMAGES[:1].flatten(1) / 255 + 0.01).clamp(0, 1)
    assert 0 < outputs.nearest(moved, IMAGES)[0] < 0.0101


def test_draws_are_of_lines_that_emit_and_random_codes_of_those_that_are_rectified_or_have_a_prior():
    lines = (
        {"model": "AE", "code": "rectified"},
        *LINES[1:3],
        {"model": "VAE", "likelihood": "gaussian", "scale": "diagonal"},
    )
    sweep = stored(lines)
    variants = [trial_config({**SHARED, **line}).variant for line in lines]
    data = outputs.draws(sweep, variants).data
    kinds = {variant: set(data.loc[data["variant"] == variant, "kind"]) for variant in variants}
    assert list(kinds.values()) == [{"random code"}, {"draw"}, {"draw"}, {"draw", "random code"}]
    assert data.groupby(["variant", "kind"])["rms_from_mean"].nunique().gt(1).all()
    assert set(outputs.draws(sweep, variants[:1]).data["variant"]) == {variants[0]}
    everything = {*variants[1:]}  # the first emits an image alone
    assert (
        set(outputs.draws(sweep).data["variant"])
        == set(outputs.draws(sweep, ["another"]).data["variant"])
        == everything
    )


def test_draws_have_the_spread_that_the_decoder_emits():
    """A line of sd 0.05 about 1/2 everywhere: the root of the mean square over all draws is within 5 standard errors."""
    sweep = stored(LINES[2:3])
    model = sweep.model(sweep.pick(DIAGONAL, 2))
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
        bias = next(p for name, p in model.decoder.named_parameters() if name.endswith("bias"))
        bias.view(-1)[:30], bias.view(-1)[30:] = 0.5, torch.tensor(0.05).expm1().log()
    rms = outputs.draws(sweep).data["rms_from_mean"].pow(2).mean() ** 0.5
    assert abs(rms / 0.05 - 1) < 5 / (2 * 300) ** 0.5


def test_a_sweep_whose_decoders_give_images_alone_has_none_of_it():
    assert list(outputs.parts(stored(LINES[:1]))) == []


def test_a_sweep_without_scores_says_what_computes_them():
    sweep = stored(LINES[2:3])
    sweep.runs = sweep.runs[[name for name in sweep.runs if not name.startswith("outputs/")]]
    first = next(iter(outputs.parts(sweep)))
    assert isinstance(first, Absent)
    assert "figures distributions" in first.why
