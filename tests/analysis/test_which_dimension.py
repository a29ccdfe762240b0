"""Which d: the one-standard-error rule by hand, and what has learned nothing is said."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from analysis import frame, reporting
from analysis.figures import clusters, mse_curves, samples
from analysis.stored import StoredSweep
from analysis.which_dimension import (
    Answer,
    active_units,
    at_mean_image,
    cautions,
    knee,
    learned_too_little,
    say_nothing_learned,
    still_falling,
    which_dimension,
)
from fishernet.plan import SweepPlan
from tests.analysis.conftest import MEAN_IMAGE, Store, cells


def runs_of(errors, variant="VAE", **more):
    """Rows of {d: errors by seed}."""
    rows = [
        {"variant": variant, "latent_dim": d, "seed": seed, "test/mse": mse, **more}
        for d, by_seed in errors.items()
        for seed, mse in enumerate(by_seed)
    ]
    return pd.DataFrame(rows)


def test_the_smallest_d_within_one_standard_error_of_the_best_is_chosen_paired_over_seeds():
    # Differences to d = 10 at d = 5: 1, 2, 6 (mean 3, sd sqrt 7, standard error 1.53): not within. At d = 8: -1, 0, 3.
    errors = {2: [60, 61, 62], 5: [11, 22, 36], 8: [9, 20, 33], 10: [10, 20, 30], 20: [13, 22, 31]}
    (answer,) = which_dimension(runs_of(errors), "test/mse")
    assert (answer.dim, answer.best, answer.largest, answer.n_seeds) == (8, 10, 20, 3)
    assert answer.reason == "is within one standard error of d = 10"
    # Unpaired, the seeds' own spread of 10 would let d = 5 pass.
    unpaired = np.std([11, 22, 36], ddof=1) / 3**0.5
    assert np.mean(errors[5]) < np.mean(errors[10]) + unpaired


def test_the_best_at_the_largest_d_says_that_there_may_be_more_to_gain():
    (answer,) = which_dimension(runs_of({2: [9, 9.1, 9.2], 5: [3, 3.1, 3]}), "test/mse")
    assert (answer.dim, answer.reason) == (5, "or more: it is the largest d trained")


def test_below_three_common_seeds_nothing_is_decided():
    runs = pd.concat([runs_of({2: [3, 3, 3], 5: [1, 1]}), runs_of({2: [1, 1, 1], 5: [1, 2, 1]}, "AE")])
    undecided, decided = which_dimension(runs, "test/mse")
    assert undecided.dim is None
    assert (undecided.n_seeds, undecided.reason) == (2, "takes 3 seeds at each d")
    assert (decided.variant, decided.dim) == ("AE", 2)


def test_a_line_of_one_d_has_nothing_to_choose_from():
    runs = pd.concat([runs_of({4: [1.0, 1.1, 0.9]}, "AE"), runs_of({2: [2.0, 2.1, 2.2], 4: [1.0, 1.1, 1.2]})])
    alone, chosen = which_dimension(runs, "test/mse")
    assert (alone.dim, alone.reason) == (None, "was trained at one d alone")
    assert chosen.dim == 4


def test_the_knee_is_where_a_broken_line_breaks():
    broken = {d: 10 - d if d <= 4 else 6 - 0.1 * (d - 4) for d in range(1, 20)}
    assert knee(broken) == 4
    assert knee({1: 3.0, 2: 1.0}) is None
    assert knee({1: 1.0, 2: 1.0, 3: 1.0}) is None


def test_a_latent_that_does_not_vary_is_no_active_unit():
    means = np.random.default_rng(0).normal(size=(500, 4)) * [1, 0.5, 0.05, 0]
    assert active_units(means) == 2


@pytest.mark.parametrize(("likelihood", "advised"), [("gaussian-learned", True), ("bernoulli", False)])
def test_a_line_at_the_mean_images_error_or_worse_than_pca_is_named_with_what_to_change(likelihood, advised):
    runs = runs_of({2: [0.9, 1.1], 5: [0.99, 0.985], 10: [0.3, 0.3]}, likelihood=likelihood)
    pca = {2: 0.6, 5: 0.4, 10: 0.2}
    nothing, worse = learned_too_little(runs, "test/mse", pca, at_mean_image(runs, "test/mse", 1.0))
    assert nothing.startswith("VAE has learned nothing at d = 2, 5: its error is not below that of the mean image.")
    assert ("--noise-start" in nothing) == advised
    assert worse.startswith("VAE is worse than PCA at d = 10:")
    assert learned_too_little(runs_of({2: [0.1]}), "test/mse", {2: 0.6}, {}) == []
    assert learned_too_little(runs, "test/mse", {}, {}) == []


def test_one_run_whose_error_explodes_leaves_a_line_what_it_has_learned():
    """A flow multiplies up without a bound: one of 10,000 images had an error of 1e13 where the others have 0.02."""
    runs = runs_of({2: [0.02, 6.7e9, 0.02], 5: [0.06, 0.07, 6.7e9]})
    assert set(at_mean_image(runs, "test/mse", 0.07)) == {("VAE", 5)}


def test_lines_that_share_a_reason_and_an_advice_are_told_once():
    poor = {"VAE": {2: [1.0], 5: [0.5]}, "CVAE": {2: [1.0], 5: [0.3]}, "AE": {2: [0.7], 5: [0.5]}}
    runs = pd.concat([runs_of(errors, variant) for variant, errors in poor.items()])
    learning = runs_of({2: [1.0]}, "FisherNet", likelihood="gaussian-learned")
    every = pd.concat([runs, learning])
    assert learned_too_little(every, "test/mse", {2: 0.6, 5: 0.4}, at_mean_image(every, "test/mse", 1.0)) == [
        "VAE has learned nothing at d = 2; CVAE at d = 2: their error is not below that of the mean image. "
        "Train longer (--epochs).",
        "VAE is worse than PCA at d = 5; AE at d = 2, 5: as many linear components leave less. Train longer (--epochs).",
        "FisherNet has learned nothing at d = 2: its error is not below that of the mean image. "
        "Train longer (--epochs), or let the noise start lower (--noise-start -4).",
    ]


def test_a_line_that_needs_all_dimensions_by_a_hair_bends_where_its_factors_end():
    """Seeds that agree decide every difference, however small: the bend says from where on it is small."""
    errors = {1: 4e-3, 2: 1.8e-3, 3: 2.4e-4, 4: 2.3e-4, 6: 2.1e-4}
    runs = runs_of({d: [error + noise for noise in (0, 1e-6, 2e-6)] for d, error in errors.items()})
    (answer,) = which_dimension(runs, "test/mse")
    assert (answer.dim, answer.bend) == (6, 3)


def history_of(curves, variant="VAE", d=4):
    """Rows of a curve for each seed."""
    rows = [
        {"variant": variant, "latent_dim": d, "seed": seed, "epoch": epoch, "value": value}
        for seed, curve in enumerate(curves)
        for epoch, value in enumerate(curve, 1)
    ]
    return pd.DataFrame(rows)


def test_an_error_that_still_falls_does_so_by_more_than_a_hundredth_and_than_the_seeds_differ():
    """Of 20 epochs the last two against the two before; by hand 10%, 20% and 30%, whose standard error is 5.8%."""
    falling = [[9.0] * 16 + [1, 1, last, last] for last in (0.9, 0.8, 0.7)]
    fall = still_falling(history_of(falling))["VAE", 4]
    assert (fall.share, fall.epochs) == (pytest.approx(0.2), 2)
    settled = [[9.0] * 16 + [1, 1, last, last] for last in (0.999, 0.998, 0.997)]
    assert still_falling(history_of(settled)) == {}
    jumping = [[9.0] * 16 + [1, 1, last, last] for last in (0.9, 1.1, 0.8)]  # mean 6.7%, standard error 8.8%
    assert still_falling(history_of(jumping)) == {}
    assert still_falling(history_of(falling[:2])) == {}
    assert still_falling(history_of([[1.0], [1.0], [1.0]])) == {}


def test_what_may_change_the_answer_stands_beside_it():
    runs = runs_of({2: [9, 9.1, 9.2], 4: [0.4, 0.5, 1.3], 8: [0.46, 0.45, 0.5]})
    halves = [[1.0] * 18 + [0.5, 0.5]] * 3
    falling = still_falling(pd.concat([history_of(halves), history_of(halves, d=8), history_of(halves, "AE")]))
    (answer,) = which_dimension(runs, "test/mse", falling=falling)
    # sd / sqrt 3 of 0.4, 0.5, 1.3 is 0.285, over their mean 0.733
    assert (answer.dim, answer.standard_error, [*answer.falling]) == (4, pytest.approx(0.388, abs=5e-4), [4, 8])
    assert cautions([answer]) == [
        "Errors still fall, over the last 2 epochs against the 2 before: VAE at d = 4, 8 by 50%. More --epochs may change d.",
        "VAE at d = 4: the standard error over 3 seeds is 39% of the error, so that their spread decides; more --seeds would "
        "tell.",
    ]
    (settled,) = which_dimension(runs_of({2: [9, 9.1, 9.2], 4: [0.4, 0.5, 0.6]}), "test/mse")
    assert cautions([settled]) == []


def test_a_line_that_has_learned_nothing_needs_no_dimension_that_could_be_told():
    runs = runs_of({2: [1.0, 0.99, 1.01], 4: [0.99, 1.0, 0.99]})
    (answer,) = which_dimension(runs, "test/mse", at_mean_image(runs, "test/mse", 1.0))
    assert (answer.dim, answer.bend, answer.learned) == (None, None, False)
    assert answer.reason.startswith("has learned nothing")


def test_a_dimension_at_which_nothing_is_learned_is_never_the_one_that_is_needed():
    """One seed in three learns at d = 4: the difference of d = 2 is within one standard error, and d = 2 has learned nothing."""
    runs = runs_of({2: [1.0, 1.0, 1.0], 4: [1.1, 1.0, 0.2]})
    assert which_dimension(runs, "test/mse")[0].dim == 2
    assert which_dimension(runs, "test/mse", at_mean_image(runs, "test/mse", 1.0))[0].dim == 4


@pytest.fixture(scope="module")
def poor(tmp_path_factory, empty_store):
    """A sweep whose VAE learns and whose FisherNet stays at the mean image's error, falling by hairs, as a StoredSweep."""
    configs = cells(("FisherNet", "VAE"), (2, 4, 8), (0, 1, 2))
    made = Store(tmp_path_factory.mktemp("poor"), empty_store)
    poor = made.sweep("poor", SweepPlan(tuple(configs)).to_dict(), start=1000)
    for config in configs:
        level = MEAN_IMAGE if config.model == "FisherNet" else MEAN_IMAGE / config.latent_dim
        made.trial(poor, config, curve=lambda config, epoch, level=level: level * (1 + 0.001 * config.seed / epoch))
    return StoredSweep(frame.find_sweep("poor", made.uri))


def test_what_table_dimension_and_report_say_was_learned_is_one_judgement(poor):
    assert {line for line, _ in poor.learned_nothing} == {"FisherNet"}
    assert "FisherNet has learned nothing at d = 2, 4, 8: its error is" in mse_curves.mse_table(poor).caption
    answers = {answer.variant: answer for answer in poor.dimensions}
    assert (answers["FisherNet"].dim, answers["FisherNet"].learned, answers["VAE"].dim) == (None, False, 8)
    said = reporting.say_dimensions(poor)
    assert said.endswith(
        "VAE 8 or more (its curve bends at 4); not decided for FisherNet, which has learned nothing at any d."
    )


def test_where_the_mean_image_is_not_known_a_posterior_without_a_latent_in_use_has_learned_nothing(poor, monkeypatch):
    """As in stores of before. An autoencoder without a posterior has no scale of latents to be judged by."""
    of_before = StoredSweep(dataclasses.replace(poor.sweep, mean_image=None))
    of_before.runs.loc[of_before.runs["variant"] == "VAE", "model"] = "AE"
    monkeypatch.setattr(of_before, "latents", lambda run: (np.zeros((9, run["latent_dim"])), None))
    assert [*of_before.learned_nothing] == [("FisherNet", 2), ("FisherNet", 4), ("FisherNet", 8)]
    assert "none of its latents is in use" in mse_curves.mse_table(of_before).caption


def test_reconstructions_are_shown_at_the_dimension_that_is_needed(poor, monkeypatch):
    def titles(**arguments):
        return [part.title for part in samples.parts(poor, **arguments) if part.stem == "reconstructions"]

    monkeypatch.setitem(poor.__dict__, "dimensions", [])
    assert titles() == ["Reconstructions at d = 2, 8"]
    monkeypatch.setitem(poor.__dict__, "dimensions", [Answer("VAE", 4, 4, 8, 3)])
    assert titles() == ["Reconstructions at d = 2, 4, 8"]
    assert titles(latent_dims=[8]) == ["Reconstructions at d = 8"]
    assert titles(prior_dims=(2, 8)) == ["Reconstructions at d = 2, 8"]


def test_numbers_of_what_has_learned_nothing_are_said_to_be_that(poor):
    nothing = {("VAE", 8), ("VAE", 2), ("AE", 2)}
    shown = pd.DataFrame({"variant": ["VAE", "VAE", "AE", "VAE"], "latent_dim": [8, 2, 4, 8]})
    (sentence,) = say_nothing_learned(nothing, shown)
    assert sentence.startswith("Nothing was learned by VAE at d = 2, 8: ")
    assert say_nothing_learned({}, shown) == []
    table = clusters.cluster_table(
        poor.runs.assign(**{f"clusters/{score}": 0.5 for score in clusters.SCORES}),
        remarks=say_nothing_learned(poor.learned_nothing, poor.runs),
    )
    assert table.caption.startswith("Nothing was learned by FisherNet at d = 2, 4, 8: ")


def test_a_gap_to_a_model_without_a_posterior_is_explained_where_both_have_learned(poor):
    """Of the sweep's FisherNet nothing is learned, of its VAE all."""
    for without_posterior, explained in (("FisherNet", False), ("VAE", False)):
        stored = StoredSweep(poor.sweep)
        stored.runs = stored.runs.assign(model=stored.runs["model"].replace(without_posterior, "AE"))
        assert ("the price of one" in mse_curves.mse_table(stored).caption) == explained
    stored = StoredSweep(dataclasses.replace(poor.sweep, mean_image=1.0))
    stored.runs = stored.runs.assign(model=stored.runs["model"].replace("VAE", "AE"))
    assert (
        "AE has no posterior: what is left of the gap to it is the price of one."
        in mse_curves.mse_table(stored).caption
    )
