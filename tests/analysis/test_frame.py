"""MLflow's text becomes a typed frame, and what it says about a sweep is what was recorded."""

import dataclasses
import math
import sqlite3
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest

from analysis import frame
from fishernet.config import TrialConfig
from fishernet.families import trial_config
from fishernet.services.mlflow_store import default_tracking_uri
from tests.analysis.conftest import Store, listed


def test_columns_return_from_mlflow_in_the_types_of_trial_config(runs):
    for field in fields(TrialConfig):
        kinds = {type(value) for value in runs[field.name].tolist()}
        assert kinds == {field.type}, field.name


def test_every_run_is_a_row_that_gives_its_trial_config_back(store, runs):
    found = set(runs["config"])
    assert found == {*store.finished, store.running, store.failed, store.killed}
    assert len(runs) == len(found)
    assert runs["run_id"].is_unique


def test_the_last_value_of_every_metric_is_a_column(store, runs):
    done = runs[runs["status"] == "FINISHED"]
    assert len(done) == len(store.finished)
    for row in done.to_dict("records"):
        expected = store.mse(row["config"])
        # MLflow keeps float64, so nothing is rounded.
        assert row["test/mse"] == expected
        assert row["test/mse_sample"] == 2 * expected
        assert row["n_epochs"] == store.epochs


def test_variant_is_that_of_trial_config(runs):
    assert set(runs["variant"]) == {"FisherNet", "VAE", "AE"}


def test_rows_are_ordered_by_model_then_latent_dim_then_seed(runs):
    models = list(dict.fromkeys(runs["model"]))
    assert models == ["FisherNet", "VAE", "AE"]
    for _, group in runs.groupby("model"):
        assert list(group["latent_dim"]) == sorted(group["latent_dim"])


def test_numbers_in_the_names_of_lines_are_in_the_order_of_numbers():
    names = ["VAE", "FAE F=10", "FAE F=0.1", "FAE F=5", "FAE lambda=1e-05", "FAE", "FAE lambda=0.01", "FAE F=0"]
    lines = pd.DataFrame({"model": [name.split()[0] for name in names], "variant": names, "latent_dim": 2})
    expected = ["FAE", "FAE F=0", "FAE F=0.1", "FAE F=5", "FAE F=10", "FAE lambda=1e-05", "FAE lambda=0.01"]
    ordered = frame.in_order(lines)
    assert ordered[ordered["model"] == "FAE"]["variant"].tolist() == expected
    assert ordered.columns.tolist() == lines.columns.tolist()


def test_summary_is_mean_and_sample_deviation_over_seeds(store, runs):
    means = frame.summary(runs)
    assert len(means) == 9
    for row in means.itertuples():
        # Two seeds a step apart: the sample deviation is step/sqrt(2); divided by n it would be step/2.
        base = store.mse(trial_config(model=row.model, latent_dim=row.latent_dim, epochs=store.epochs))
        assert row.n_seeds == 2
        assert row.mean == pytest.approx(base + store.seed_step / 2, rel=1e-12)
        assert row.sd == pytest.approx(store.seed_step / math.sqrt(2), rel=1e-9)
        assert (row.min, row.max) == pytest.approx((base, base + store.seed_step), rel=1e-12)


def test_summary_takes_any_metric(runs):
    doubled = frame.summary(runs, "test/mse_sample")
    assert doubled["mean"].tolist() == pytest.approx((2 * frame.summary(runs)["mean"]).tolist())
    assert frame.summary(runs, "test/no_such_metric").empty


def test_runs_that_have_not_finished_do_not_enter_a_mean(store, runs):
    assert (runs["latent_dim"] == 20).sum() == 3
    assert 20 not in set(frame.summary(runs)["latent_dim"])


def test_a_single_seed_has_no_standard_deviation(runs):
    one = frame.summary(runs[runs["seed"] == 0])
    assert (one["n_seeds"] == 1).all()
    assert one["sd"].isna().all()


def test_a_finished_run_without_a_finite_value_is_left_out(store):
    runs = frame.load_runs(frame.find_sweep("odd", store.uri))
    diverged = runs[runs["model"] == "AE"]
    assert diverged["status"].tolist() == ["FINISHED"]
    assert "AE" not in set(frame.usable(runs)["model"])


def test_runs_that_ended_without_a_number_are_the_failed_the_killed_and_those_that_are_not_finite(runs, store):
    """Not those that still run, and not what a finished run of the same config replaced."""
    lost = frame.failed(runs)
    assert lost[["variant", "latent_dim", "seed", "state"]].values.tolist() == [
        ["VAE", 20, 0, "failed: the loss is not finite"],
        ["AE", 20, 1, "killed at epoch 1 of 4"],
    ]
    odd = frame.failed(frame.load_runs(frame.find_sweep("odd", store.uri)))
    assert odd[["variant", "state"]].values.tolist() == [["AE", "finished with a test/mse that is not finite"]]
    assert frame.failed(lost.iloc[:0]).empty


def test_of_several_runs_of_one_config_the_finished_one_counts(store):
    runs = frame.load_runs(frame.find_sweep("odd", store.uri))
    repeated = runs[runs["n_runs"] > 1]
    assert repeated["run_id"].tolist() == [store.kept]
    assert repeated["n_runs"].tolist() == [2]
    assert repeated["test/mse"].tolist() == [2 * store.mse(trial_config(model="VAE", epochs=store.epochs))]


def test_a_run_whose_parameters_never_arrived_is_known_by_its_tag(store):
    runs = frame.load_runs(frame.find_sweep("odd", store.uri))
    twin = runs[(runs["variant"] == "VAE") & (runs["seed"] == 1)]
    assert twin["epochs"].tolist() == [store.epochs]


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(store):
    means = frame.summary(frame.load_runs(frame.find_sweep("odd", store.uri)))
    names = means["variant"].tolist()
    assert names == ["VAE", "VAE gaussian-learned", "CVAE learning_rate=0.0001", "CVAE learning_rate=0.001"]
    assert means["n_seeds"].tolist() == [2, 1, 2, 2]


def test_epochs_are_the_histories_that_were_recorded(store, curves, runs):
    done = frame.usable(runs)
    epochs = frame.load_epochs(curves, done, ["test/mse", "train/loss"])
    assert len(epochs) == len(done) * store.epochs * 2
    assert {*frame.config_columns(runs), "run_id", "variant", "epoch", "metric", "value"} == set(epochs.columns)
    factor = {"test/mse": 1, "train/loss": 1000}
    for row in epochs.itertuples():
        config = trial_config(model=row.model, latent_dim=row.latent_dim, seed=row.seed, epochs=row.epochs)
        assert row.value == factor[row.metric] * store.mse(config, row.epoch)


def test_an_epoch_that_was_recorded_twice_counts_once_with_the_later_record(store):
    sweep = frame.find_sweep("odd", store.uri)
    runs = frame.load_runs(sweep)
    epochs = frame.load_epochs(sweep, runs[runs["run_id"] == store.kept], ["test/mse"])
    assert epochs["epoch"].tolist() == [1, 2, 3, 4]
    assert epochs["value"].tolist()[1] == 0.5


def test_missing_cells_are_the_planned_ones_that_have_not_finished(store, curves, runs):
    missing = frame.missing_cells(curves, runs)
    states = {row["config"]: row["state"] for row in missing.to_dict("records")}
    assert states == {
        store.never: "never started",
        store.running: "running at epoch 2 of 4",
        store.failed: "failed: the loss is not finite",
        store.killed: "killed at epoch 1 of 4",
    }


def test_what_is_missing_is_said_in_a_sentence_with_the_command_to_run(store, curves, runs):
    said = frame.say_missing(curves, frame.missing_cells(curves, runs))
    assert said.startswith("4 of 22 planned runs have not finished")
    for count in ("1 never started", "1 running", "1 failed", "1 killed"):
        assert count in said
    assert "fishernet sweep --resume curves --storage-path" in said
    complete = frame.find_sweep("validated", store.uri)
    assert frame.say_missing(complete, frame.missing_cells(complete, frame.load_runs(complete))) == ""
    assert len(complete.configs) == 1


def test_a_sweep_is_its_parent_run(store, curves):
    assert curves.name == "curves"
    assert curves.pca == store.pca
    assert curves.mean_image == store.mean_image
    assert curves.held_out == "test"
    assert set(curves.configs) == {*store.finished, store.never, store.running, store.failed, store.killed}


def test_without_a_name_the_sweep_started_last_is_found(store):
    latest = frame.find_sweep(None, store.uri)
    assert latest.name == "validated"
    assert (latest.held_out, latest.score("mse")) == ("validation", "validation/mse")


def test_an_unknown_sweep_is_answered_with_the_ones_there_are(store):
    with pytest.raises(frame.AnalysisError) as raised:
        frame.find_sweep("curvse", store.uri)
    said = str(raised.value)
    assert "no sweep named curvse" in said
    assert "Did you mean curves?" in said
    assert "validated, odd, curves, unfinished" in said
    with pytest.raises(frame.AnalysisError, match="no sweep named not a sweep"):
        frame.find_sweep("not a sweep", store.uri)


def test_a_missing_store_is_said_and_not_created(tmp_path):
    path = tmp_path / "mlflow.db"
    with pytest.raises(frame.AnalysisError, match=r"no MLflow store at .*mlflow\.db.*--tracking-uri"):
        frame.find_sweep(None, f"sqlite:///{path}")
    assert not path.exists()


def test_a_file_that_is_no_mlflow_store_is_said_and_left_alone(tmp_path):
    text = tmp_path / "notes.db"
    text.write_text("no database at all, though the name says so\n" * 100)
    with pytest.raises(frame.AnalysisError, match="cannot be opened as a tracking store: file is not a database"):
        frame.find_sweep(None, f"sqlite:///{text}")

    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE studies (id INTEGER)")
    connection.close()
    before = other.read_bytes()
    with pytest.raises(frame.AnalysisError, match="is a database, but not MLflow's"):
        frame.find_sweep(None, f"sqlite:///{other}")
    assert other.read_bytes() == before


def test_a_path_given_for_a_uri_is_answered_with_how_to_write_it(tmp_path):
    with pytest.raises(frame.AnalysisError, match="sqlite:///PATH"):
        frame.find_sweep(None, str(tmp_path))


def test_a_password_is_not_repeated():
    with pytest.raises(frame.AnalysisError) as raised:
        frame.find_sweep(None, "nothing://reader:secret@host/runs")
    assert "host/runs" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_sweep_of_which_nothing_was_started_has_an_empty_frame_of_all_columns(curves):
    runs = frame.load_runs(dataclasses.replace(curves, experiment_id="0"))
    assert runs.empty
    assert {*TrialConfig.names(), "config", "variant", "status", "n_epochs"} <= set(runs.columns)
    assert set(frame.missing_cells(curves, runs)["state"]) == {"never started"}
    assert frame.summary(runs).empty


def test_the_default_store_is_the_variable_or_the_file_below_this_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_tracking_uri() == f"sqlite:///{(Path.cwd() / 'fishernet-results/mlflow.db').as_posix()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert default_tracking_uri() == "http://mlflow:5000"


def test_a_plan_of_another_version_is_said(curves):
    stranger = frame.Sweep("old", "1", "2", {"configs": [{"latent_dims": 2}]}, {}, curves.uri)
    with pytest.raises(frame.AnalysisError, match=r"plan of sweep old.*latent_dims"):
        frame.missing_cells(stranger, pd.DataFrame(columns=["config"]))


def test_a_named_setting_is_one_line_over_dimensions_and_told_apart_within_one(tmp_path, empty_store):
    store = Store(tmp_path, empty_store)
    rates = {2: (1e-3, 1e-3), 5: (3e-3, 3e-3), 10: (1e-3, 2e-3)}  # of seeds 0 and 1
    configs = [
        trial_config(model="VAE", latent_dim=d, seed=seed, learning_rate=rate, setting="tuned", epochs=1)
        for d, of_seeds in rates.items()
        for seed, rate in enumerate(of_seeds)
    ]
    sweep = store.sweep("named", listed(*configs), start=1)
    for config in configs:
        store.trial(sweep, config, epochs=1)
    runs = frame.load_runs(frame.find_sweep("named", store.uri))
    assert runs.groupby("latent_dim")["variant"].unique().map(list).to_dict() == {
        2: ["VAE tuned"], 5: ["VAE tuned"], 10: ["VAE tuned learning_rate=0.001", "VAE tuned learning_rate=0.002"],
    }  # fmt: skip


def test_the_latent_dimension_shown_is_that_of_most_lines_or_the_one_asked_for():
    runs = pd.DataFrame({"latent_dim": [2, 2, 4, 4, 8], "variant": ["A", "B", "A", "B", "A"]})
    assert frame.chosen_dim(runs, None) == 4
    assert frame.chosen_dim(runs, 8) == 8
    with pytest.raises(
        frame.AnalysisError, match=r"--latent-dim 3 has no run with these scores; there are d = 2, 4, 8\."
    ):
        frame.chosen_dim(runs, 3, "run with these scores")


def test_a_picture_of_few_lines_begins_with_one_of_each_model():
    models = {"VAE": "VAE", "VAE a": "VAE", "VAE b": "VAE", "AE": "AE", "WAE-GAN": "WAE", "FisherAE": "FisherAE",
              "FisherAE a": "FisherAE"}  # fmt: skip
    chosen, said = frame.some_lines([*models], models, 4)
    assert chosen == ["VAE", "AE", "WAE-GAN", "FisherAE"]
    assert said == "Left out: VAE a, VAE b, FisherAE a."
    assert frame.some_lines([*models], models, 5, ["FisherAE", "WAE"])[0] == [*chosen, "FisherAE a"]
    assert frame.some_lines([*models], models, 2, ["FisherAE", "WAE"])[0] == ["WAE-GAN", "FisherAE"]
    assert frame.some_lines([*models], models, 7) == ([*models], "")
