"""The figures show the frame's numbers, and the command writes, prints and refuses what it should."""

import dataclasses
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from analysis import command, frame, style
from analysis.__main__ import main as analyse
from analysis.figures import mse_curves
from analysis.stored import StoredSweep

REPOSITORY = Path(mse_curves.__file__).parents[2]
FILES = {f"{stem}.{kind}" for stem in ("mse_curves", "mse_by_epoch") for kind in ("png", "pdf", "csv")}
FILES |= {f"{stem}.{kind}" for stem in ("mse", "which_dimension") for kind in ("csv", "tex")}


@pytest.fixture(scope="module")
def figure_2(curves, runs):
    return mse_curves.plot_mse_against_latents(runs, curves.pca)


@pytest.fixture(scope="module")
def epochs(curves, runs):
    return frame.load_epochs(curves, frame.usable(runs), ["test/mse"])


@pytest.fixture(scope="module")
def figure_3(epochs):
    return mse_curves.plot_mse_by_epoch(epochs)


def lines(figure):
    """The labelled lines by label; what is left are the caps of bars."""
    return {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_each_line_of_figure_2_is_the_mean_over_seeds(figure_2, runs):
    means = frame.summary(runs)
    for variant, group in means.groupby("variant"):
        line = lines(figure_2)[style.label(variant, group["model"].iloc[0])]
        assert line.get_xdata().tolist() == group["latent_dim"].tolist() == [2, 5, 10]
        assert line.get_ydata().tolist() == group["mean"].tolist()
    assert len(figure_2.axes[0].lines) == means["variant"].nunique() + 1  # and PCA


def test_the_band_of_figure_2_is_one_standard_deviation_each_way(figure_2, runs):
    bands = figure_2.axes[0].collections
    means = frame.summary(runs)
    groups = [group for _, group in means.groupby("variant", sort=False)]
    assert len(bands) == len(groups) == 3
    for band, group in zip(bands, groups, strict=True):
        corners = {tuple(vertex) for vertex in band.get_paths()[0].vertices.tolist()}
        for sign in (-1, 1):
            edge = set(zip(group["latent_dim"], group["mean"] + sign * group["sd"], strict=True))
            assert edge <= corners
    assert "± 1 SD, 2 seeds" in legend(figure_2)


def test_pca_is_the_grey_line_of_the_parent_run_at_the_dimensions_drawn(figure_2, store):
    pca = lines(figure_2)["PCA, $d$ components"]
    assert list(pca.get_xdata()) == [2, 5, 10]
    assert list(pca.get_ydata()) == [store.pca[d] for d in (2, 5, 10)]
    assert to_hex(pca.get_color()).upper() == style.PCA_COLOUR


def test_a_pca_far_above_every_model_does_not_flatten_them(runs):
    with_pca = mse_curves.plot_mse_against_latents(runs, {2: 5.0, 5: 4.0, 10: 3.0})
    without = mse_curves.plot_mse_against_latents(runs, {})
    assert with_pca.axes[0].get_ylim() == without.axes[0].get_ylim()
    assert "PCA above: 3 at $d$ = 10" in legend(with_pca)
    assert not any("PCA" in text for text in legend(without))


def test_a_pca_better_than_every_model_is_inside_the_figure(runs):
    figure = mse_curves.plot_mse_against_latents(runs, {2: 0.002, 5: 0.001, 10: 0.0001})
    assert figure.axes[0].get_ylim()[0] < 0.0001


def test_a_ring_marks_the_dimension_that_a_line_needs(runs):
    figure = mse_curves.plot_mse_against_latents(runs, {}, needed={"VAE": 5})
    (ring,) = [line for line in figure.axes[0].lines if line.get_markersize() == mse_curves.RING]
    means = frame.summary(runs[(runs["variant"] == "VAE") & (runs["latent_dim"] == 5)])
    assert (ring.get_xdata().tolist(), ring.get_ydata().tolist()) == ([5], means["mean"].tolist())
    assert to_hex(ring.get_markeredgecolor()).upper() == style.colour("VAE")
    assert "the $d$ that a line needs" in legend(figure)
    assert "the $d$ that a line needs" not in legend(mse_curves.plot_mse_against_latents(runs, {}))


def test_figure_2_has_labels_linear_axes_and_whole_dimensions(figure_2):
    axes = figure_2.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("latent dimension $d$", "test MSE per pixel")
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "linear")
    assert axes.get_xticks().tolist() == [2, 5, 10]
    assert axes.get_title() == ""


def test_figure_3_is_logarithmic_in_mse_with_labels(figure_3):
    axes = figure_3.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "test MSE per pixel")


def test_each_line_of_figure_3_is_the_mean_over_seeds_at_each_epoch(figure_3, epochs):
    drawn = lines(figure_3)
    assert len(drawn) == 9
    for (variant, d), group in epochs.groupby(["variant", "latent_dim"]):
        line = drawn[f"{style.label(variant, group['model'].iloc[0])}, d = {d}"]
        assert line.get_xdata().tolist() == [1, 2, 3, 4]
        assert line.get_ydata().tolist() == pytest.approx(group.groupby("epoch")["value"].mean().tolist())


def test_in_figure_3_colour_is_the_model_and_line_style_the_dimension(figure_3):
    colours, dashes = {}, {}
    for name, line in lines(figure_3).items():
        variant, d = name.split(", d = ")
        colours.setdefault(variant, set()).add(line.get_color())
        # the pattern itself, as every broken line answers "--" to get_linestyle
        dashes.setdefault(d, set()).add(str(line._unscaled_dash_pattern))
    assert {len(found) for found in [*colours.values(), *dashes.values()]} == {1}
    assert len(set.union(*colours.values())) == 3
    assert len(set.union(*dashes.values())) == 3
    assert {"$d$ = 2", "$d$ = 5", "$d$ = 10", "AE (no sampling)"} <= set(legend(figure_3))


def test_more_dimensions_than_line_styles_are_refused(epochs):
    first = epochs[epochs["latent_dim"] == 2]
    five = pd.concat([first.assign(latent_dim=d) for d in (1, 2, 3, 4, 5)])
    assert mse_curves.plot_mse_by_epoch(five[five["latent_dim"] < 5]).axes[0].lines
    with pytest.raises(ValueError, match="tell 4 latent dimensions apart; got 1, 2, 3, 4, 5"):
        mse_curves.plot_mse_by_epoch(five)


def test_every_model_has_a_colour_of_its_own_and_its_variants_shades_of_it():
    assert len({*style.PALETTE, style.PCA_COLOUR}) == len(style.PALETTE) + 1 == len({*style.MARKERS}) + 1
    names = ["VAE", "VAE gaussian", "VAE gaussian-learned", "CVAE", "AE", "FisherNet"]
    means = pd.DataFrame({"variant": names, "model": [name.split()[0] for name in names]})
    looks = {variant: look for variant, look, _ in style.by_variant(means)}
    assert len({look["color"] for look in looks.values()}) == len(names)
    assert len({str(looks[name]["linestyle"]) for name in names[:3]}) == 3
    for name in ("VAE", "CVAE", "AE", "FisherNet"):
        assert looks[name]["color"].upper() == style.colour(name)


def test_no_two_of_many_variants_look_alike():
    names = ["VAE", *(f"VAE {i}" for i in range(1, 20))]
    looks = [look for _, look, _ in style.by_variant(pd.DataFrame({"variant": names, "model": "VAE"}))]
    assert len({(look["color"], str(look["linestyle"])) for look in looks}) == len(names)


def test_an_autoencoder_is_labelled_as_drawing_no_sample(figure_2):
    assert "AE (no sampling)" in legend(figure_2)
    assert style.label("VAE", "VAE") == "VAE"


def test_one_dimension_and_one_seed_are_points_one_can_see(runs, epochs):
    one = runs[(runs["latent_dim"] == 2) & (runs["seed"] == 0)]
    figure = mse_curves.plot_mse_against_latents(one, {})
    points = lines(figure)
    assert len(points) == 3
    assert all(point.get_marker() not in ("", "None") for point in points.values())
    # side by side, so that none hides another
    assert len({np.asarray(point.get_xdata()).item() for point in points.values()}) == 3
    assert "one seed each" in legend(figure)

    first = lines(mse_curves.plot_mse_by_epoch(epochs[(epochs["epoch"] == 1) & (epochs["latent_dim"] == 2)]))
    assert [point.get_marker() for point in first.values()] == ["o"] * 3


def test_one_dimension_and_several_seeds_are_points_with_bars(runs):
    figure = mse_curves.plot_mse_against_latents(runs[runs["latent_dim"] == 2], {})
    means = frame.summary(runs[runs["latent_dim"] == 2])
    bars = [collection.get_segments()[0][:, 1].tolist() for collection in figure.axes[0].collections]
    ends = np.column_stack([means["mean"] - means["sd"], means["mean"] + means["sd"]])
    np.testing.assert_allclose(bars, ends, rtol=1e-12)


def drawn(name, uri, folder):
    """What the command writes, by name."""
    assert command.draw("mse-curves", name, uri, folder).n == 0
    return sorted(folder.iterdir())


def test_a_validation_score_is_labelled_as_one(store, tmp_path):
    sweep = frame.find_sweep("validated", store.uri)
    runs = frame.load_runs(sweep)
    figure = mse_curves.plot_mse_against_latents(runs, sweep.pca, sweep.held_out)
    assert figure.axes[0].get_ylabel() == "validation MSE per pixel"
    drawn("validated", store.uri, tmp_path)
    data = pd.read_csv(tmp_path / "mse_curves.csv")
    assert data["held_out"].tolist() == ["validation"]
    assert data["sample_mean"].tolist() == pytest.approx((2 * data["mean"]).tolist())


def test_epoch_dimensions_are_the_papers_or_those_there_are():
    assert mse_curves.choose_epoch_dims(range(2, 21), None, (2, 5, 10)) == [2, 5, 10]
    assert mse_curves.choose_epoch_dims([5, 3, 4], None, (2, 5, 10)) == [5]
    assert mse_curves.choose_epoch_dims([5, 3, 4], None) == [3, 4, 5]
    assert mse_curves.choose_epoch_dims([3], None) == [3]
    assert mse_curves.choose_epoch_dims([20, 16, 12, 8, 4], None) == [4, 12, 20]
    assert mse_curves.choose_epoch_dims([3, 4, 7], [7, 3]) == [3, 7]
    assert mse_curves.choose_epoch_dims(range(2, 9), None, needed=[4, 5, 4]) == [2, 4, 5, 8]
    assert mse_curves.choose_epoch_dims(range(2, 9), None, needed=[3, 4, 5, 5, 4]) == [2, 4, 5, 8]
    assert mse_curves.choose_epoch_dims(range(2, 9), None, (2, 5), needed=[4]) == [2, 5]
    assert mse_curves.choose_epoch_dims(range(2, 9), [3], needed=[4]) == [3]
    with pytest.raises(frame.AnalysisError, match=r"d = 9.*d = 3, 4"):
        mse_curves.choose_epoch_dims([3, 4], [3, 9])


def test_draw_writes_figures_and_data_without_a_warning(store, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = drawn("curves", store.uri, tmp_path / "new" / "folder")
    assert {path.name for path in paths} == FILES
    assert all(path.parent == tmp_path / "new" / "folder" for path in paths)
    for path in paths:
        head = path.read_bytes()
        assert len(head) > (10_000 if path.suffix in (".png", ".pdf") else 100), path.name
        begins = {".png": b"\x89PNG", ".pdf": b"%PDF", ".csv": b"variant,", ".tex": b"% needs"}
        assert head.startswith(begins[path.suffix])


def test_two_draws_give_the_same_files(store, tmp_path):
    first = drawn("curves", store.uri, tmp_path / "1")
    second = drawn("curves", store.uri, tmp_path / "2")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_the_csv_files_hold_what_the_figures_show(store, runs, epochs, tmp_path):
    drawn("curves", store.uri, tmp_path)
    data = pd.read_csv(tmp_path / "mse_curves.csv")
    means = frame.summary(runs)
    assert list(data.columns) == [
        "variant", "model", "latent_dim", "n_seeds", "mean", "sd", "min", "max", "sample_mean", "sample_sd",
        "pca_test_mse", "epochs", "held_out",
    ]  # fmt: skip
    # to a rounding: pandas reads numbers fast rather than exactly
    pd.testing.assert_frame_equal(data[means.columns], means, rtol=1e-14, check_dtype=False)
    assert data["sample_mean"].tolist() == pytest.approx((2 * means["mean"]).tolist())
    assert data["pca_test_mse"].tolist() == [store.pca[d] for d in data["latent_dim"]]
    assert set(data["epochs"]) == {store.epochs}

    by_epoch = pd.read_csv(tmp_path / "mse_by_epoch.csv")
    assert len(by_epoch) == 9 * store.epochs
    last = by_epoch[by_epoch["epoch"] == store.epochs]
    assert last["mean"].tolist() == pytest.approx(means["mean"].tolist(), rel=1e-12)
    assert set(by_epoch["n_seeds"]) == {2}


def test_a_sweep_with_variants_and_odd_runs_is_drawn_and_its_oddities_are_said(store, tmp_path, capsys):
    assert analyse(["mse-curves", "--name", "odd", "--tracking-uri", store.uri, "--out", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Left out, as finished without a finite test/mse: 1." in said
    assert "Run more than once, of which the most advanced is shown: 1." in said
    assert "CVAE learning_rate=0.001" in said


def test_the_command_prints_the_means_what_is_missing_and_the_paths(store, tmp_path, capsys):
    assert analyse(["mse-curves", "--name", "curves", "--tracking-uri", store.uri, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    # VAE, d = 2: 0.05/2 * (1 + 1/4) + 1e-4/2, and 1e-4/sqrt(2)
    assert "0.03130 ± 0.00007" in said
    assert "4 of 22 planned runs have not finished" in said
    assert "VAE d=20 seed=0 failed: the loss is not finite" in said
    for name in FILES:
        assert str(tmp_path / name) in said
    assert "started last" not in said


def test_without_a_name_the_command_draws_the_latest_sweep_and_says_so(store, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    assert analyse(["mse-curves"]) == 0
    assert "sweep validated, the one started last" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "fishernet-results/validated/figures").iterdir()} == {
        name
        for name in FILES
        if not name.startswith("which_dimension")  # it has one
    }


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--name", "curvse"], "Did you mean curves?"),
        (["--name", "unfinished"], "no finished run with a test/mse to draw. 1 of 1 planned runs"),
        (["--name", "curves", "--epoch-dims", "2,7"], "d = 7, of which no run has finished"),
        (["--name", "curves", "--out", "taken"], "--out taken is where figures go"),
        (["--name", "curves", "--out", "taken/below"], "--out taken/below is where figures go"),
        (["--tracking-uri", "sqlite:///nowhere.db"], "no MLflow store at nowhere.db"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(store, tmp_path, capsys, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    Path("taken").write_text("a file, not a folder")
    assert analyse(["mse-curves", *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert sentence in said.err
    assert {path.name for path in tmp_path.iterdir()} == {"taken"}


@pytest.mark.parametrize("dims", ["two", "2,,5", "0,2", "2,3,4,5,6", ""])
def test_epoch_dimensions_that_cannot_be_read_are_a_usage_error(dims, capsys):
    with pytest.raises(SystemExit) as raised:
        analyse(["mse-curves", "--epoch-dims", dims])
    assert raised.value.code == 2
    assert f"got {dims!r}" in capsys.readouterr().err


def test_the_script_runs_from_any_folder_and_imports_neither_sweeps_nor_ray(store, tmp_path):
    script = REPOSITORY / "analysis" / "mse_curves.py"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", script, "--name", "curves", "--tracking-uri", store.uri],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == FILES
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert {"analysis", "fishernet", "mlflow", "matplotlib"} <= imported
    assert not {"sweeps", "ray", "torch", "optuna"} & imported
    others = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert others == []


def test_help_and_usage_errors_import_nothing_heavy():
    code = (
        "import sys\n"
        "from analysis.__main__ import main\n"
        "for arguments in (['--help'], ['--epoch-dims', 'two']):\n"
        "    try: main(['mse-curves', *arguments])\n"
        "    except SystemExit as stop: print(stop.code)\n"
        "print(sorted({'mlflow', 'pandas', 'matplotlib', 'torch', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-3:] == ["0", "2", "[]"]
    assert "--tracking-uri" in done.stdout


def test_runs_whose_draws_were_not_exact_are_counted_under_the_table(curves, runs):
    stored = StoredSweep(curves)
    assert not any("M's diagonal" in line for line in mse_curves._remarks(stored))
    steep = runs.assign(**{"train/largest_precision": runs["model"].map({"FisherNet": 2e5})})
    stored.all_runs, stored.runs = steep, frame.usable(steep)
    said = [line for line in mse_curves._remarks(stored) if "M's diagonal" in line]
    assert [line.split(";")[0] for line in said] == [
        "Draws of 6 runs were not exact in the last epoch, as in one where M's diagonal reaches 2e+05"
    ]


def test_each_lines_dimension_is_named_and_a_line_that_learned_nothing_is_said(trained):
    stored = StoredSweep(trained.sweep)
    table = mse_curves.dimension_table(stored)
    assert set(table.data["variant"]) == set(stored.runs["variant"])
    n = stored.runs.groupby("variant")["seed"].nunique()
    assert all(answer["n_seeds"] <= n[answer["variant"]] for _, answer in table.data.iterrows())
    assert (table.data["dim"].notna() == (table.data["n_seeds"] >= 3)).all()
    said = mse_curves._remarks(StoredSweep(dataclasses.replace(trained.sweep, mean_image=1e-6)))
    assert any("has learned nothing at d = " in line for line in said)
