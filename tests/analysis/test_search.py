"""A search of known trials, and a sweep of its best settings with known errors: figures' data, tables, sentences."""

import math

import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from analysis import exhibits, frame
from analysis import reporting as report
from analysis.figures import search
from analysis.frame import AnalysisError
from analysis.parts import all_of
from analysis.stored import StoredSweep
from fishernet.families import trial_config
from fishernet.plan import SweepPlan
from tests.analysis.conftest import Store

OF_VAE = {"VAE-d02": "VAE"}  # study -> model


@pytest.fixture(scope="module")
def made(searched):
    sweep = frame.find_sweep("found", searched.uri, kind="search")
    return {exhibit.stem: exhibit for exhibit in all_of(search.search_parts(sweep))}


def test_the_best_setting_is_the_lowest_completed_score_with_its_spread_over_seeds(made):
    (row,) = made["best_settings"].data.to_dict("records")
    assert (row["study"], row["trial"], row["trials"]) == ("VAE-d02", 5, 10)
    assert (row["complete"], row["stopped early"], row["failed"]) == (8, 1, 1)
    assert (row["learning_rate"], row["activation"], row["n_seeds"]) == (1e-3, "elu", 2)
    assert row["mean"] == pytest.approx(0.01)
    assert row["sd"] == pytest.approx(0.001 * math.sqrt(2))
    assert "0.01000 ± 0.00141" in exhibits.as_text(made["best_settings"])


def test_the_history_holds_every_trial_that_ended_with_its_last_score(made):
    data = made["search_history"].data
    assert list(data["trial"]) == list(range(10))
    assert list(data["state"]) == ["complete"] * 8 + ["stopped early", "failed"]
    assert data["mse"][8] == 0.001
    assert math.isnan(data["mse"][9])


def test_the_importance_is_the_share_of_the_variance(made):
    """ln MSE is a sum of one term per field, and the rate's spans two hundred times the activation's; a forest fitted to eight
    points lends the activation some of it.
    """
    data = made["parameter_importance"].data.set_index("field")["importance"]
    assert data["learning_rate"] > 0.8
    assert data.sum() < 1
    assert "variance of ln MSE" in made["parameter_importance"].caption
    assert "variance of ln MSE" in made["parameter_importance"].figure.axes[0].get_xlabel().replace("\n", " ")


def study_of(rows: list[dict[str, object]], values: list[float]) -> optuna.Study:
    """A study of completed trials: numbers within [-1, 1], words a or b."""
    study = optuna.create_study()
    number, word = FloatDistribution(-1, 1), CategoricalDistribution(["a", "b"])
    for params, value in zip(rows, values, strict=True):
        distributions = {name: word if isinstance(v, str) else number for name, v in params.items()}
        study.add_trial(optuna.trial.create_trial(value=value, params=params, distributions=distributions))
    return study


def test_fields_that_matter_only_together_have_no_share_alone():
    """exp(sign(x y)) over a square has neither main effect; made to sum to one, the shares would say that each explains half."""
    points = [i / 6 + 1 / 12 for i in range(-6, 6)]
    rows = [{"x": x, "y": y} for x in points for y in points]
    shares = search.importance(
        {"VAE-d02": study_of(rows, [math.exp(1 if r["x"] * r["y"] > 0 else -1) for r in rows])}, OF_VAE
    )
    assert shares.data["importance"].sum() < 0.1
    alone = search.importance({"VAE-d02": study_of(rows, [math.exp(r["x"]) for r in rows])}, OF_VAE)
    assert alone.data.set_index("field")["importance"]["x"] > 0.9  # so that the sum can be other than small


def shares_of(distributions: dict[str, object], rows: list[dict[str, object]], score) -> "pd.Series[float]":
    study = optuna.create_study()
    for row in rows:
        own = {name: distributions[name] for name in row}
        study.add_trial(optuna.trial.create_trial(value=score(row), params=row, distributions=own))
    return search.importance({"VAE-d02": study}, OF_VAE).data.set_index("field")["importance"]


@pytest.mark.parametrize("logarithmic", [FloatDistribution(1e-5, 1e-1, log=True), IntDistribution(1, 10**4, log=True)])
def test_fields_of_equal_weight_have_equal_shares_whatever_the_scale_of_their_ranges(logarithmic):
    """ln MSE is a sum of two fields, each uniform on its scale and of one variance, so half is each one's. 400 trials on a grid;
    the forest is off by less than 0.05. (On a linear scale nearly all of four decades would be the last.)
    """
    low, decades = logarithmic.low, math.log10(logarithmic.high / logarithmic.low)
    places = [(i + 0.5) / 20 for i in range(20)]
    rows = [
        {"rate": type(low)(low * 10 ** (decades * a) + 0.5 * isinstance(low, int)), "start": 2 * b - 1}
        for a in places
        for b in places
    ]
    space = {"rate": logarithmic, "start": FloatDistribution(-1, 1)}
    shares = shares_of(space, rows, lambda r: math.exp(math.log10(r["rate"] / low) / decades + r["start"] / 2))
    assert shares["rate"] == pytest.approx(0.5, abs=0.05)
    assert shares["start"] == pytest.approx(0.5, abs=0.05)


def test_the_variance_shared_out_is_that_of_the_logarithm():
    """MSE = exp(6 x) exp(6 y): the logarithm is a sum, half and half; of the MSE itself most is interaction."""
    places = [(i + 0.5) / 20 for i in range(20)]
    space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
    shares = shares_of(
        space, [{"x": x, "y": y} for x in places for y in places], lambda r: math.exp(6 * (r["x"] + r["y"]))
    )
    assert shares.tolist() == pytest.approx([0.5, 0.5], abs=0.05)


def test_what_is_missing_to_one_is_said_of_shares_that_add_up_alone():
    rows: list[dict[str, object]] = [{"x": i / 10 - 1, "y": 1 - (7 * i % 20) / 10} for i in range(20)]
    whole = search.importance({"VAE-d02": study_of(rows, [math.exp(r["x"]) for r in rows])}, OF_VAE)
    assert "what is missing to 1 are interactions" in whole.caption
    assert "star" not in whole.caption
    for row in rows[::2]:
        row["start"] = row["y"]
    part = search.importance({"VAE-d02": study_of(rows, [math.exp(r["x"]) for r in rows])}, OF_VAE)
    assert "of the fields that every trial has, what is missing to 1" in part.caption
    assert "it does not add up with the others" in part.caption
    rows_of = part.data.set_index("field")
    assert rows_of["conditional"].to_dict() == {"x": False, "y": False, "start": True}
    assert rows_of["trials"].to_dict() == {"x": 20, "y": 20, "start": 10}
    assert "start *" in [label.get_text() for label in part.figure.axes[0].get_yticklabels()]


@pytest.mark.parametrize(("every", "assessed"), [(2, True), (10, False)])
def test_a_field_that_only_some_trials_have_is_assessed_among_those_if_they_are_enough(every, assessed):
    rows: list[dict[str, object]] = []
    for i in range(30):
        row = {"rate": (7 * i % 30) / 15 - 1, "kind": "b" if i % every == 0 else "a"}
        rows.append(row | ({"start": (11 * i % 30) / 15 - 1} if row["kind"] == "b" else {}))
    study = study_of(rows, [math.exp(row["rate"] / 20 + 3 * row.get("start", 0)) for row in rows])
    shares = search.importance({"VAE-d02": study}, OF_VAE).data.set_index("field")["importance"]
    assert set(shares.index) == ({"rate", "kind", "start"} if assessed else {"rate", "kind"})
    assert shares.get("start", 1.0) > 0.8


def test_slices_and_parallel_coordinates_show_the_ended_and_the_completed(made):
    assert len(made["slices_VAE-d02"].data) == 10
    lines = made["parallel_coordinates_VAE-d02"].data
    assert len(lines) == 8
    assert lines["mse"].is_monotonic_decreasing  # so that the best is drawn on top


def test_the_pareto_front_is_what_nothing_beats_in_both(searched, made):
    assert isinstance(made["pareto_front"], exhibits.Absent)
    sweep = frame.find_sweep("both", searched.uri, kind="search")
    found = {e.stem: e for e in all_of(search.search_parts(sweep))}
    assert list(found["pareto_front"].data["on_front"]) == [True, True, False, True]
    assert list(found["best_settings"].data["trial"]) == [1]  # the search's own choice: neither end of the front


def test_every_figure_and_table_is_written(made, tmp_path):
    written = [path for exhibit in made.values() for path in exhibits.write(exhibit, tmp_path)]
    assert len(written) == 4 * 3 + 2
    assert all(path.stat().st_size > 100 for path in written)


def test_a_search_is_no_sweep_and_a_missing_storage_is_a_sentence(searched, tmp_path):
    with pytest.raises(AnalysisError, match="There is no sweep named found"):
        frame.find_sweep("found", searched.uri)
    with pytest.raises(AnalysisError, match=r"There is no search named tuned.* found"):
        frame.find_sweep("tuned", searched.uri, kind="search")
    sweep = frame.find_sweep("found", searched.uri, kind="search")
    with pytest.raises(AnalysisError, match=r"which is not there; --optuna names another place"):
        search.load_studies(sweep, f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()


def test_tuned_against_usual_is_paired_over_seeds(searched):
    settings, advantage = search.tuning(StoredSweep(frame.find_sweep("tuned", searched.uri)))
    rows = settings.data.set_index("model")
    fisher = rows.loc["FisherNet"]
    assert (fisher["usual"], fisher["tuned"], fisher["n_seeds"]) == (pytest.approx(0.021), pytest.approx(0.012), 3)
    # differences -10, -9, -8 thousandths: mean -9, sd 1, and Student's t(2) at 97.5% is 4.302653
    half = 4.302653 * 1e-3 / math.sqrt(3)
    assert fisher["difference"] == pytest.approx(-0.009)
    assert (fisher["low"], fisher["high"]) == (pytest.approx(-0.009 - half), pytest.approx(-0.009 + half))
    shown = settings.shown.set_index("model").loc["FisherNet"]
    assert shown["what was changed"] == "learning_rate 0.0001 → 0.001"
    assert shown["paper's setting"] == "0.02100 ± 0.00100"
    (row,) = advantage.data.to_dict("records")
    assert row["usual_difference"] == pytest.approx(-0.010)
    assert row["usual_low"] == pytest.approx(-0.010)  # the same at every seed
    assert row["tuned_low"] < 0 < row["tuned_high"]  # the advantage did not survive


def test_the_report_of_tuned_settings_shows_the_search_that_found_them_where_it_is_named(searched):
    stored = StoredSweep(frame.find_sweep("tuned", searched.uri))
    found = frame.find_sweep("found", searched.uri, kind="search")
    stems = [{exhibit.stem for exhibit in report.tuning(stored, of)} for of in (None, found)]
    assert stems[0] == {"tuned_settings", "advantage_after_tuning"}
    assert stems[1] - stems[0] > {"best_settings", "search_history", "parameter_importance", "slices_VAE-d02"}


@pytest.mark.parametrize(
    ("seeds", "said"),
    [([0, 1], "The runs shown have other seeds."), ([0, 1, 6, 7], "Seeds 6-7 are among these: they helped to choose")],
)
def test_the_table_says_who_chose_the_settings_and_whether_by_the_same_seeds(searched, seeds, said):
    stored = StoredSweep(frame.find_sweep("tuned", searched.uri))
    caption = next(search.tuning(stored)).caption
    assert "`--search NAME` names the search" in caption
    assert "other seeds" not in caption
    found = frame.find_sweep("found", searched.uri, kind="search")
    found.plan["search"] = {"seeds": seeds, "n_trials": 8}
    caption = next(search.tuning(stored, found)).caption
    assert (
        f"by the search found, 8 trials for each model, of seeds {'0-1' if len(seeds) == 2 else '0-1,6-7'}," in caption
    )
    assert said in caption


def test_differences_count_the_seeds_that_both_settings_have(searched):
    stored = StoredSweep(frame.find_sweep("tuned", searched.uri))
    runs = stored.runs
    stored.__dict__["runs"] = runs[~((runs["seed"] == 7) & (runs["setting"] == ""))]
    settings = next(search.tuning(stored))
    assert settings.data["n_seeds"].tolist() == [2, 2]
    assert settings.data["low"].isna().all()
    assert "the seeds that both settings have (2)" in settings.caption


def test_a_tuned_variant_belongs_to_its_usual_line():
    lines = {
        ("VAE", "VAE", ""): "VAE",
        ("VAE", "VAE tuned", "tuned"): "VAE",
        ("VAE", "VAE gaussian-learned-tuned", "gaussian-learned-tuned"): "VAE gaussian-learned",
        ("FisherNet", "FisherNet closed-form eq24", ""): "FisherNet closed-form eq24",
        ("FisherNet", "FisherNet closed-form-eq24-tuned", "closed-form-eq24-tuned"): "FisherNet closed-form eq24",
        ("AE", "AE tuned", "tuned"): "AE",  # without a usual run
        ("AE", "AE detuned", "detuned"): "AE detuned",
    }
    runs = pd.DataFrame(list(lines), columns=["model", "variant", "setting"])
    choices = {"FisherNet closed-form eq24": {"noise": "closed-form", "objective": "eq24"}}
    runs["config"] = [trial_config(model=m, setting=s, **choices.get(v, {})) for m, v, s in lines]
    assert search.usual_lines(runs).tolist() == list(lines.values())
    assert not search.is_tuned("detuned")


@pytest.fixture(scope="module")
def tuned_at_two_dims(tmp_path_factory, empty_store):
    """A sweep of a search's best over d = 2 and 5, whose settings differ between them; FisherNet's study has two choices."""
    store = Store(tmp_path_factory.mktemp("dims"), empty_store)
    choices = {"FisherNet": {"noise": "closed-form", "objective": "eq24"}, "VAE": {}}
    rates = {"": {2: 1e-4, 5: 1e-4}, "tuned": {2: 1e-3, 5: 3e-3}}
    configs = [
        trial_config(
            model=model, latent_dim=d, seed=seed, epochs=2, learning_rate=rate, **of_model,
            setting=setting and trial_config(model=model, **of_model).named(setting),
        )
        for model, of_model in choices.items() for setting, of_dim in rates.items() for d, rate in of_dim.items()
        for seed in (5, 6, 7)
    ]  # fmt: skip
    sweep = store.sweep("dims", SweepPlan(tuple(configs)).to_dict(), start=1)
    for config in configs:
        level = (0.01 if config.setting else 0.02) * (1 if config.model == "FisherNet" else 2)
        store.trial(sweep, config, epochs=2, curve=lambda c, epoch, level=level: level / c.latent_dim)
    return StoredSweep(frame.find_sweep("dims", store.uri))


def test_settings_tuned_at_several_dimensions_are_one_line_compared_at_each(tuned_at_two_dims):
    assert set(tuned_at_two_dims.variants) == {
        "FisherNet closed-form eq24", "FisherNet closed-form-eq24-tuned", "VAE", "VAE tuned",
    }  # fmt: skip
    settings, between = search.tuning(tuned_at_two_dims)
    assert between.title == "FisherNet closed-form eq24 against the others, before and after tuning"
    rows = settings.data.set_index(["model", "latent_dim"])
    assert rows["usual"].to_dict() == pytest.approx({
        ("FisherNet closed-form eq24", 2): 0.01, ("FisherNet closed-form eq24", 5): 0.004, ("VAE", 2): 0.02, ("VAE", 5): 0.008,
    })  # fmt: skip
    assert (rows["tuned"] / rows["usual"]).tolist() == pytest.approx([0.5] * 4)
    changed = settings.shown["what was changed"].tolist()
    assert changed == ["learning_rate 0.0001 → 0.001", "learning_rate 0.0001 → 0.003"] * 2


def test_the_advantage_after_tuning_is_asked_at_each_dimension(tuned_at_two_dims):
    runs = tuned_at_two_dims.runs
    plain = runs.assign(variant=runs["variant"].str.replace("closed-form eq24", "").str.strip())
    plain["setting"] = plain["setting"].str.replace("closed-form-eq24-", "")
    other = StoredSweep(tuned_at_two_dims.sweep)
    other.__dict__["runs"] = plain
    _, advantage = search.tuning(other)
    assert advantage.data["latent_dim"].tolist() == [2, 5]
    assert advantage.data["tuned_difference"].tolist() == pytest.approx([-0.005, -0.002])


def test_below_three_seeds_there_is_no_interval():
    a, b = pd.Series({0: 2.0, 1: 3.0}), pd.Series({1: 1.0, 2: 9.0, 0: 1.0})
    mean, low, high = search.paired(a, b)
    assert mean == 1.5
    assert math.isnan(low)
    assert math.isnan(high)
