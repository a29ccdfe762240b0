"""Figure 1 shows the frame's losses and errors, its caption says what the loss is, and correlations are Pearson's."""

import math
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from analysis import frame, style
from analysis.__main__ import main as analyse
from analysis.exhibits import Absent, Picture, annotated
from analysis.figures import loss_curves
from analysis.papers.fishernet import PAPER
from analysis.stored import StoredSweep
from fishernet.families import family, trial_config
from fishernet.models.fishernet import FisherNet
from tests.analysis.conftest import TRAINED_DIMS, TRAINED_VARIANTS, exhibits_of

REPOSITORY = Path(loss_curves.__file__).parents[2]


@pytest.fixture(scope="module")
def fisher_runs(runs):
    """FisherNet's finished runs (three d, two seeds) with a loss that is no multiple of the MSE."""
    own = frame.usable(runs[runs["model"] == "FisherNet"])
    return own.assign(**{"test/loss": 1000 * own["test/mse"] ** 2 + 3 * own["latent_dim"] - own["seed"]})


@pytest.fixture(scope="module")
def made(trained):
    return list(exhibits_of(loss_curves, trained))


def named_lines(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def test_the_left_axis_has_the_mean_loss_and_the_right_axis_the_mean_mse(fisher_runs):
    left, right = loss_curves.plot_loss_and_mse(fisher_runs, "FisherNet").axes
    for axes, metric in ((left, "test/loss"), (right, "test/mse")):
        (line,) = axes.lines
        means = frame.summary(fisher_runs, metric)
        assert line.get_xdata().tolist() == [2, 5, 10]
        assert line.get_ydata().tolist() == means["mean"].tolist()
        corners = {tuple(vertex) for vertex in axes.collections[0].get_paths()[0].vertices.tolist()}
        for sign in (-1, 1):
            assert set(zip(means["latent_dim"], means["mean"] + sign * means["sd"], strict=True)) <= corners
    assert left.get_ylabel() == "test loss in nats per image"
    assert right.get_ylabel() == "test MSE per pixel"
    assert right.get_yaxis().get_label_position() == "right"


def test_the_mse_has_the_colour_of_its_variant_and_the_loss_that_of_no_model(fisher_runs):
    left, right = loss_curves.plot_loss_and_mse(fisher_runs, "FisherNet").axes
    assert to_hex(right.lines[0].get_color()).upper() == style.colour("FisherNet")
    assert to_hex(left.lines[0].get_color()).upper() not in style.PALETTE
    for axes in (left, right):  # an axis is found by the colour of its line
        assert axes.yaxis.label.get_color() == axes.lines[0].get_color()
    patterns = [str(axes.lines[0]._unscaled_dash_pattern) for axes in (left, right)]
    assert patterns[0] != patterns[1]


def test_lines_in_proportion_do_not_hide_one_another(fisher_runs):
    proportional = fisher_runs.assign(**{"test/loss": 1e4 * fisher_runs["test/mse"] - 1300})
    figure = loss_curves.plot_loss_and_mse(proportional, "FisherNet")
    figure.draw_without_rendering()
    heights = []
    for axes in figure.axes:
        points = axes.transData.transform(axes.lines[0].get_xydata())
        heights.append(axes.transAxes.inverted().transform(points)[:, 1])
    assert (heights[0] - heights[1] > 0.05).all()
    assert all(((height > 0) & (height < 1)).all() for height in heights)


def test_every_variant_of_fishernet_has_its_own_figure_1(fisher_runs):
    other = fisher_runs.assign(variant="FisherNet eq24 linear", objective="eq24", **{"test/mse": 0.5})
    both = pd.concat([fisher_runs, other], ignore_index=True)
    pictures = [loss_curves.loss_and_mse(both, variant) for variant in both["variant"].unique()]
    assert [picture.stem for picture in pictures] == ["loss_and_mse", "loss_and_mse_eq24_linear"]
    assert set(pictures[1].data["variant"]) == {"FisherNet eq24 linear"}
    assert pictures[1].figure.axes[1].lines[0].get_ydata().tolist() == [0.5, 0.5, 0.5]
    # in a shade of FisherNet's colour, as where both are in one figure
    assert pictures[1].figure.axes[1].lines[0].get_color() != pictures[0].figure.axes[1].lines[0].get_color()
    # the shared caption tells each what its own loss is
    assert "equation 25 " in pictures[0].caption
    assert "and ln|M|/2, which is no constant" in pictures[0].caption
    assert "equation 24 at one posterior sample z* per image, ln|M|/2 + (|z*|²" in pictures[1].caption
    assert "which is no constant" not in pictures[1].caption


def test_a_bernoulli_fishernet_is_not_said_to_have_noise(fisher_runs):
    other = fisher_runs.assign(variant="FisherNet bernoulli", likelihood="bernoulli")
    caption = loss_curves.loss_and_mse(other, "FisherNet bernoulli").caption
    assert "|z*|²/2 − ln p(x given z*)" in caption
    assert "leaves out −d/2 and ln|M|/2" in caption
    assert "ξ" not in caption


@pytest.mark.parametrize("objective", ["eq25", "eq24"])
def test_a_weighted_loss_is_said_to_be_what_the_model_computes(fisher_runs, objective):
    """(beta |z*|^2 + xi^2/p + k xi + |x - f|^2 exp(-xi))/2, with eq24 also beta ln|M|/2: the terms of the model's own loss."""
    config = trial_config(latent_dim=3, hidden_width=8, noise_start=-2.0, objective=objective, kl_weight=4.0)
    model = FisherNet([config], (1, 4, 4), n_train=100).double()
    noise = {name: torch.randn(1, 5, own.width, dtype=torch.float64) for name, own in model.noise(3).items()}
    loss, terms = model(torch.rand(1, 5, 16, dtype=torch.float64), noise)[:2]
    formula = (
        4 * terms["half_squared_z"] + terms["noise_prior"] + terms["half_log_noise"] + terms["half_weighted_error"]
    )
    if objective == "eq24":
        formula = formula + 4 * terms["half_log_det"]
    torch.testing.assert_close(loss, formula)

    weighted = fisher_runs.assign(kl_weight=4.0, objective=objective)
    caption = loss_curves.loss_and_mse(weighted, "FisherNet").caption
    log_det = "βln|M|/2 + " if objective == "eq24" else ""
    assert (
        f"{objective[2:]} with kl_weight β = 4 at one posterior sample z* per image, {log_det}(β|z*|² + ξ²/p" in caption
    )
    assert "with that and β = 1 it would be minus the evidence lower bound" in caption


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": "FisherAE", "posterior_weight": 3.0, "stability_weight": 2.0},
         "equation 11 at one posterior sample z per image, 3 · |"),
        ({"model": "FisherAE", "stability_weight": 0.0, "likelihood": "gaussian-learned"}, "v = the learned variance"),
        ({"model": "WAE", "penalty_weight": 7.0}, "at the code z of each image, + 7 times ln(1 + exp(−l(z)))"),
        ({"model": "WAE", "penalty": "critic", "penalty_weight": 7.0}, "+ 7 times −D(z)"),
        ({"model": "VAE"}, ""),
    ],
)  # fmt: skip
def test_a_loss_that_is_not_in_nats_is_not_said_to_be_and_each_is_said_in_words(fisher_runs, values, said):
    """The words' weights are those with which the model's terms add up to its loss."""
    config = trial_config(latent_dim=3, hidden_width=8, **values)
    model = family(config.model).load()([config], (1, 4, 4), n_train=100).double()
    noise = {name: torch.randn(1, 5, own.width, dtype=torch.float64) for name, own in model.noise(3).items()}
    loss, terms = model(torch.rand(1, 5, 16, dtype=torch.float64), noise)[:2]
    weights = {
        "FisherAE": {"posterior_divergence": config.to_dict().get("posterior_weight"), "hyvarinen": 1}
        | ({"stability": w} if (w := config.to_dict().get("stability_weight")) else {}),
        "WAE": {"log_likelihood": -1, "penalty": config.to_dict().get("penalty_weight")},
        "VAE": {"log_likelihood": -1, "kl": 1},
    }[config.model]
    torch.testing.assert_close(loss, sum(weight * terms[name] for name, weight in weights.items()))

    own = fisher_runs.assign(variant=config.variant, config=[config] * len(fisher_runs), **config.to_dict())
    own = own.assign(latent_dim=fisher_runs["latent_dim"], seed=fisher_runs["seed"])
    picture = loss_curves.loss_and_mse(own, config.variant)
    in_nats = config.model != "FisherAE"
    assert picture.figure.axes[0].get_ylabel() == f"test loss {'in nats ' * in_nats}per image"
    assert ("inverse squared units of z and x, not in nats" in picture.caption) == (not in_nats)
    assert said in picture.caption


def test_a_named_setting_with_two_losses_says_which_is_at_which_dimension(fisher_runs):
    objective = fisher_runs["latent_dim"].map({2: "eq24", 5: "eq25", 10: "eq25"})
    caption = loss_curves.loss_and_mse(fisher_runs.assign(objective=objective), "FisherNet").caption
    assert "At d = 2: The loss is that of equation 24" in caption
    assert "At d = 5, 10: The loss is that of equation 25" in caption


def test_one_dimension_of_one_seed_is_drawn(fisher_runs):
    one = fisher_runs[(fisher_runs["latent_dim"] == 2) & (fisher_runs["seed"] == 0)]
    picture = loss_curves.loss_and_mse(one, "FisherNet")
    assert [len(axes.lines) for axes in picture.figure.axes] == [1, 1]
    assert "One run each, of seed 0." in picture.caption
    assert "SD" not in picture.caption
    assert "takes at least three of them" in picture.caption


def test_the_data_of_figure_1_are_mean_spread_and_number_of_both(fisher_runs):
    data = loss_curves.loss_and_mse(fisher_runs, "FisherNet").data
    for metric in ("test/loss", "test/mse"):
        expected = frame.summary(fisher_runs, metric)
        found = data[data["metric"] == metric].reset_index(drop=True)
        pd.testing.assert_frame_equal(found[expected.columns], expected)
        assert found["n_seeds"].tolist() == [2, 2, 2]


def test_what_the_caption_says_is_left_out_of_the_loss_makes_it_minus_the_elbo(trained, made):
    """loss + k ln(2 pi)/2 - d/2 + ln|M|/2 - xi^2/(2 p) = -ELBO, the d/2 being the mean of |eta|^2/2 over images."""
    assert "it leaves out k ln(2π)/2 − d/2 (for 784 pixels 720 nats less d/2) and ln|M|/2" in made[0].caption
    assert round(784 * math.log(2 * math.pi) / 2) == 720
    n_images, n_pixels = len(trained.images.test), math.prod(trained.images.image_shape)
    for _, run in trained.runs[trained.runs["variant"] == "FisherNet"].iterrows():
        d, left_out = run["latent_dim"], n_pixels * math.log(2 * math.pi) / 2 + run["test/half_log_det"]
        gap = run["test/loss"] + left_out - run["test/noise_prior"] + run["test/elbo"]
        error = 5 * math.sqrt(d / 2 / n_images)  # |eta|^2/2 has the variance d/2
        assert abs(gap - d / 2) < error
        assert abs(gap) > error  # without the d/2 it would not


def test_the_caption_states_epochs_and_seeds_and_beside_the_paper_its_axes(made):
    caption = made[0].caption
    assert "on the test images after 2 epochs. Mean over the seeds 0, 1; bands ± 1 SD." in caption
    assert "from −1300 to −950 nats and from 0.009 to 0.023" in annotated(made[0], *PAPER.figures[made[0].stem]).caption


def test_the_correlation_is_pearsons_over_dimensions_seed_by_seed(fisher_runs):
    found = loss_curves.loss_mse_correlation(fisher_runs)
    assert found[["variant", "seed", "n_dims"]].values.tolist() == [["FisherNet", 0, 3], ["FisherNet", 1, 3]]
    for row in found.itertuples():
        own = fisher_runs[fisher_runs["seed"] == row.seed]
        assert row.pearson == pytest.approx(np.corrcoef(own["test/loss"], own["test/mse"])[0, 1], rel=1e-12)
    assert found["pearson"].abs().max() < 0.999


@pytest.mark.parametrize(("slope", "expected"), [(2e4, 1.0), (-3.0, -1.0)])
def test_proportion_up_to_a_constant_is_a_correlation_of_one(fisher_runs, slope, expected):
    # another constant for each seed: only within a seed is it a line
    line = fisher_runs.assign(**{"test/loss": slope * fisher_runs["test/mse"] - 1300 + 500 * fisher_runs["seed"]})
    assert loss_curves.loss_mse_correlation(line)["pearson"].tolist() == pytest.approx([expected] * 2, abs=1e-9)


def test_a_correlation_takes_three_dimensions_and_finite_losses(fisher_runs):
    two = fisher_runs[fisher_runs["latent_dim"] < 10]
    assert loss_curves.loss_mse_correlation(two)["pearson"].isna().all()
    broken = fisher_runs.copy()
    broken.loc[(broken["latent_dim"] == 2) & (broken["seed"] == 1), "test/loss"] = float("nan")
    found = loss_curves.loss_mse_correlation(broken).set_index("seed")
    assert found["n_dims"].to_dict() == {0: 3, 1: 2}
    assert found["pearson"].isna().to_dict() == {0: False, 1: True}
    assert loss_curves.loss_mse_correlation(fisher_runs, "validation").empty


def test_every_variant_has_a_panel_with_its_losses_by_epoch(trained, made):
    picture = made[-1]
    panels = [axes for axes in picture.figure.axes if axes.lines]
    assert [axes.get_title() for axes in panels] == [
        style.label(variant, line.model) for variant, line in trained.lines.items() if variant in trained.variants
    ]
    epochs = frame.load_epochs(trained.sweep, trained.runs, ["train/loss", "test/loss"])
    for axes, variant in zip(panels, TRAINED_VARIANTS, strict=True):
        lines = named_lines(axes)
        assert set(lines) == {f"{metric}, d = {d}" for metric in ("train/loss", "test/loss") for d in TRAINED_DIMS}
        for name, line in lines.items():
            metric, d = name.split(", d = ")
            own = epochs[
                (epochs["variant"] == variant) & (epochs["metric"] == metric) & (epochs["latent_dim"] == int(d))
            ]
            assert line.get_xdata().tolist() == [1, 2]
            assert line.get_ydata().tolist() == pytest.approx(own.groupby("epoch")["value"].mean().tolist())
    assert len({axes.get_ylim() for axes in panels}) == len(panels)  # each its own
    assert not any(axes.axison for axes in picture.figure.axes if axes not in panels)
    assert [text.get_text() for text in picture.figure.legends[0].get_texts()] == [
        "test, $d$ = 2",
        "test, $d$ = 5",
        "training",
    ]
    assert "Each variant has its own axis" in picture.caption


def test_the_first_epochs_training_loss_flattens_nothing(trained):
    epochs = frame.load_epochs(trained.sweep, trained.runs, ["train/loss", "test/loss"])
    means = frame.spread(epochs, [*frame.CURVE, "metric", "epoch"])
    means.loc[(means["metric"] == "train/loss") & (means["epoch"] == 1), "mean"] = 1e6
    for axes in loss_curves.plot_loss_by_epoch(means).axes:
        if axes.lines:
            held_out = [line for name, line in named_lines(axes).items() if name.startswith("test")]
            low, high = axes.get_ylim()
            assert high < 1e5
            assert all(((line.get_ydata() > low) & (line.get_ydata() < high)).all() for line in held_out)


def test_a_sweep_without_a_held_out_loss_has_no_figure_1_and_says_what_to_train(store):
    figure_1, by_epoch = exhibits_of(
        loss_curves, StoredSweep(frame.find_sweep("curves", store.uri)), models=["FisherNet"]
    )
    assert isinstance(figure_1, Absent)
    assert "No run of FisherNet with a test/loss has finished" in figure_1.why
    assert "--name curves --models FisherNet --latent-dims 2,5,10,20" in figure_1.why
    assert isinstance(by_epoch, Picture)
    assert set(by_epoch.data["metric"]) == {"train/loss"}


def test_the_command_writes_the_figures_and_their_data_without_a_warning(trained, tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        arguments = ["--name", "trained", "--tracking-uri", trained.sweep.uri, "--out", str(tmp_path)]
        assert analyse(["loss-curves", *arguments]) == 0
    said = capsys.readouterr().out
    files = {f"{stem}.{kind}" for stem in ("loss_and_mse", "loss_by_epoch") for kind in ("png", "pdf", "csv")}
    assert {path.name for path in tmp_path.iterdir()} == files
    assert all(str(tmp_path / name) in said for name in files)
    assert "Loss and MSE of FisherNet against the latent dimension" in said


def test_an_unknown_sweep_is_refused_in_a_sentence(trained, tmp_path, capsys):
    arguments = ["--name", "trainde", "--tracking-uri", trained.sweep.uri, "--out", str(tmp_path / "new")]
    assert analyse(["loss-curves", *arguments]) == 2
    assert "Did you mean trained?" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from analysis.__main__ import main\n"
        "try: main(['loss-curves', '--help'])\n"
        "except SystemExit as stop: print(stop.code)\n"
        "print(sorted({'mlflow', 'pandas', 'matplotlib', 'torch', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["0", "[]"]
    assert "--tracking-uri" in done.stdout
