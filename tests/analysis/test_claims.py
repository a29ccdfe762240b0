"""Verdicts follow from planted truths, intervals from Student's t, and what cannot be decided says what it lacks."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import claims, paper
from analysis.claims import ABOVE, BELOW, CLAIMS, Evidence, Part, compare, conclude, difference
from analysis.frame import load_epochs
from fishernet.families import trial_config

DIMS = (2, 3, 5, 10, 15, 20)
EPOCHS = 50
MSE = {
    "FisherNet": (0.0250, 0.0200, 0.0160, 0.0130, 0.0120, 0.0115),
    "VAE": (0.0252, 0.02075, 0.0185, 0.0175, 0.0174, 0.0176),
    "CVAE": (0.0300, 0.0240, 0.0182, 0.0165, 0.0160, 0.0155),
    "VAE gaussian-learned": (0.0251, 0.0203, 0.0170, 0.0145, 0.0130, 0.0120),
    "FisherNet eq24": (0.02505, 0.0201, 0.0162, 0.0132, 0.0122, 0.0117),
}
START = {"FisherNet": 1.0}  # excess of the first epoch, as a share of the last one's MSE
LATE_START = 0.3  # of all others
TABLE_1 = paper.table_1().set_index(["model", "images", "latent_dim"])["value"]
SEED_EFFECT, RUN_NOISE = 2e-4, 5e-6
ASKED = [claim.id for claim in CLAIMS]
OF_PAPER = [name for name in ASKED if name.startswith("FN")]


def world(n_seeds=5, change=None, epochs=EPOCHS, **settings):
    """Evidence in which every claim is true by far, but for what ``change(run)`` does to the values of a run.

    Runs of equal seed share an effect 40 times the noise of their own.
    """
    rng = np.random.default_rng(0)
    shared = SEED_EFFECT * rng.standard_normal(100)
    rows, history = [], []
    for variant, levels in MSE.items():
        model = variant.split()[0]
        for d, level in zip(DIMS, levels, strict=True):
            for seed in range(n_seeds):
                wiggle = 1 + 1e-3 * rng.standard_normal()
                run = {
                    "run_id": f"{variant} {d} {seed}", "variant": variant, "model": model, "latent_dim": d, "seed": seed,
                    "epochs": epochs, "dataset": "fashion-mnist", "train_size": 0, "start": START.get(variant, LATE_START),
                    "test/mse": level + shared[seed] + RUN_NOISE * rng.standard_normal(), "clusters/trace": 5 * wiggle,
                } | settings  # fmt: skip
                run["test/loss"] = 2e4 * run["test/mse"] - 1500
                for images in ("reconstruction", "prior", "mkde"):
                    run[f"inception/{images}/frechet"] = TABLE_1.get((model, images, d), math.nan) * wiggle
                if d == 2:
                    fisher = model == "FisherNet"
                    run |= {
                        "ellipses/area": (0.01 if fisher else 0.02) * wiggle,
                        "ellipses/area_to_spread": (0.001 if fisher else 0.003) * wiggle,
                        "ellipses/axis_ratio": (3 if fisher else 2) * wiggle,
                        "ellipses/tilt_degrees": 20 * wiggle if fisher else 0.0,
                        "ellipses/periphery_to_centre": (2 if fisher else 1.5) * wiggle,
                    }
                if change:
                    change(run)
                if run.get("dropped"):
                    continue
                rows.append(run)
                history += [
                    (run["run_id"], epoch, "test/mse", run["test/mse"] * (1 + run["start"] / epoch**3))
                    for epoch in (1, 12, 40, EPOCHS)
                    if epoch <= run["epochs"]
                ]
    return Evidence(pd.DataFrame(rows), pd.DataFrame(history, columns=["run_id", "epoch", "metric", "value"]))


def command_for(variants, dims):
    return f"`train {' '.join(variants)} at {','.join(map(str, dims))}` trains what is missing."


def find(name, evidence):
    return next(claim for claim in CLAIMS if claim.id == name).find(evidence)


def text(name, evidence):
    return find(name, evidence).text(command_for)


def setting(column, value, variant, *dims):
    """A change that sets a value, or what a function makes of it, in the runs of one variant at these d."""

    def change(run):
        if run["variant"] == variant and run["latent_dim"] in (dims or DIMS):
            run[column] = value(run) if callable(value) else value

    return change


FALSE = {
    "FN1": setting("start", 0.0, "FisherNet", 5),
    "FN2": setting("test/mse", lambda run: run["test/mse"] + 5e-3, "FisherNet", 5),
    "FN3": setting("test/mse", lambda run: run["test/mse"] - 5e-3, "VAE", 20),
    "FN4": setting("test/mse", lambda run: run["test/mse"] - 9e-3, "CVAE", 2),
    "FN5": setting("test/mse", lambda run: run["test/mse"] + 2e-3, "FisherNet", 15),
    "FN6": setting("test/mse", lambda run: run["test/mse"] - 7e-4, "VAE", 3),
    "FN7": setting("test/loss", lambda run: -run["latent_dim"] % 7, "FisherNet"),
    "FN8": setting("inception/reconstruction/frechet", lambda run: 60 + run["seed"], "VAE", 10),
    "FN9": setting("inception/prior/frechet", lambda run: 130 + run["seed"], "VAE", 20),
    "FN10": setting("inception/mkde/frechet", lambda run: 109 + run["seed"] / 10, "FisherNet", 5),
    "FN11": setting("clusters/trace", lambda run: 8 + run["seed"] / 10, "CVAE", 15),
    "FN12": setting("ellipses/tilt_degrees", lambda run: run["seed"] / 10, "FisherNet", 2),
    "Q1": setting("test/mse", lambda run: run["test/mse"] - 6e-3, "VAE gaussian-learned"),
    "Q2": setting("test/mse", lambda run: run["test/mse"] + 9e-3, "FisherNet eq24"),
}


@pytest.fixture(scope="module")
def true_world():
    return world()


@pytest.mark.parametrize("name", ASKED)
def test_what_is_true_is_confirmed(true_world, name):
    assert find(name, true_world).verdict == ("confirmed" if name in OF_PAPER else "remains")


@pytest.mark.parametrize("name", ASKED)
def test_what_is_false_in_one_place_is_not_confirmed(name):
    finding = find(name, world(change=FALSE[name]))
    assert finding.verdict == ("not confirmed" if name in OF_PAPER else "does not remain")
    assert any(part.contrary for part in finding.parts)


@pytest.mark.parametrize("n_seeds", [1, 2])
@pytest.mark.parametrize("name", ASKED)
def test_fewer_than_three_seeds_decide_nothing(name, n_seeds):
    finding = find(name, world(n_seeds=n_seeds))
    assert finding.verdict == "not enough runs"
    assert all(part.holds is None and np.isnan(part.interval).all() for part in finding.parts)
    assert f"{n_seeds} seed" in finding.text(command_for)
    assert "With --seeds 3, `train " in finding.text(command_for)


def test_ellipses_are_compared_with_the_spread_of_their_means_beside_the_claim(true_world):
    assert {name: part.holds for name, (part,) in find("FN12", true_world).beside.items()} == {
        "Against the spread of the means": True,
        "Narrower": True,
    }


@pytest.mark.parametrize(
    ("name", "variant", "d"), [("FN2", "VAE", 10), ("FN6", "FisherNet", 3), ("FN8", "CVAE", 15), ("FN12", "VAE", 2)]
)
def test_a_missing_cell_leaves_a_claim_open_and_names_the_command(name, variant, d):
    finding = find(name, world(change=setting("dropped", True, variant, d)))
    assert finding.verdict == "not enough runs"
    assert finding.text(command_for).count("train ") == 1
    assert f"With --seeds 3, `train {variant} at {d}`" in finding.text(command_for)


def test_variants_that_lack_the_same_dimensions_share_a_command():
    def change(run):
        run["dropped"] = run["latent_dim"] == 3 or (run["variant"] == "VAE" and run["latent_dim"] == 2)

    assert "`train VAE at 2,3`" in text("FN6", world(change=change))
    assert "`train FisherNet at 3`" in text("FN6", world(change=change))
    without_3 = setting("dropped", True, "VAE", 3), setting("dropped", True, "FisherNet", 3)
    assert "`train VAE FisherNet at 3`" in text("FN6", world(change=lambda run: [change(run) for change in without_3]))


def test_one_comparison_that_fails_refutes_a_claim_whose_others_lack_runs():
    def change(run):
        FALSE["FN8"](run)
        run["dropped"] = run["latent_dim"] == 15

    finding = find("FN8", world(change=change))
    assert finding.verdict == "not confirmed"
    assert "VAE, d = 10" in finding.text(command_for)
    assert "`train FisherNet VAE CVAE at 15`" in finding.text(command_for)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_count_as_not_there(value):
    change = setting("clusters/trace", lambda run: value if run["seed"] else 5.0, "VAE", 5)
    evidence = world(change=change)
    finding = find("FN11", evidence)
    assert finding.verdict == "not enough runs"
    n_seeds = {part.name: len(part.values) for part in finding.parts}
    assert n_seeds["FisherNet − VAE, d = 5"] == n_seeds["VAE − CVAE, d = 5"] == 1
    assert n_seeds["FisherNet − CVAE, d = 5"] == 5
    assert "Too few runs have clusters/trace" in finding.text(command_for)
    assert "train" not in finding.text(command_for)  # there are runs enough


def test_a_metric_that_no_run_has_leaves_a_claim_open(true_world):
    bare = Evidence(
        true_world.runs[[name for name in true_world.runs if "/" not in name or name == "test/mse"]], true_world.epochs
    )
    for name in ("FN7", "FN8", "FN9", "FN10", "FN11", "FN12"):
        finding = find(name, bare)
        assert finding.verdict == "not enough runs"
        assert "Too few runs have" in finding.text(command_for)
        assert "train" not in finding.text(command_for)
    assert "No run has a Fréchet distance" in text("FN8", bare)


def test_unequal_epochs_are_said_and_do_not_concern_claims_about_one_epoch():
    evidence = world(change=setting("epochs", 45, "CVAE"))
    assert "Unequal epochs: CVAE 45, VAE 50." in text("FN4", evidence)
    assert "Unequal epochs: FisherNet 50, CVAE 45, VAE 50." in text("FN8", evidence)
    assert "Unequal epochs" not in text("FN1", evidence) + text("FN2", evidence) + text("FN5", evidence)


def test_runs_too_short_for_a_claim_about_epoch_40_say_so():
    evidence = world(epochs=12)
    finding = find("FN2", evidence)
    assert finding.verdict == "not enough runs"
    assert "for 12 epochs (FisherNet, VAE, CVAE); the claim is about epoch 40." in finding.text(command_for)
    assert "train " not in finding.text(command_for)  # more runs of 12 epochs would not help
    assert "train " not in text("FN2", world(n_seeds=1, epochs=12))
    assert find("FN1", evidence).verdict == "confirmed"


def test_a_pair_of_runs_of_equal_seed_decides_what_unpaired_runs_cannot():
    runs = world(n_seeds=4).runs
    runs["test/mse"] += 1e-3 * runs["seed"]  # five times the difference of the two models
    part = difference(runs, "test/mse", ("FisherNet", 2), ("VAE", 2), BELOW)
    values = {v: runs[(runs["variant"] == v) & (runs["latent_dim"] == 2)]["test/mse"] for v in ("FisherNet", "VAE")}
    unpaired = stats.ttest_ind(values["FisherNet"], values["VAE"], equal_var=False).confidence_interval()
    assert part.holds
    assert unpaired.low < 0 < unpaired.high
    shuffled = runs.assign(seed=runs["seed"].where(runs["variant"] != "VAE", (runs["seed"] + 1) % 4))
    assert difference(shuffled, "test/mse", ("FisherNet", 2), ("VAE", 2), BELOW).holds is False


def test_seeds_that_do_not_pair_are_runs_that_are_lacking():
    runs = world(n_seeds=6).runs
    halves = runs[(runs["variant"] == "VAE") == (runs["seed"] < 3)]
    part = difference(halves, "test/mse", ("FisherNet", 2), ("VAE", 2), BELOW)
    assert part.values == ()
    assert part.lacking == (("FisherNet", 2), ("VAE", 2))


@pytest.mark.parametrize("n", [3, 5, 20])
def test_the_interval_is_that_of_the_paired_t_test(n):
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal((2, n))
    rows = [(v, 2, seed, 1, x) for v, xs in (("A", a), ("B", b)) for seed, x in enumerate(xs)]
    runs = pd.DataFrame(rows, columns=["variant", "latent_dim", "seed", "epochs", "x"]).sample(frac=1, random_state=1)
    part = difference(runs, "x", ("A", 2), ("B", 2), BELOW)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert part.interval == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert part.mean == pytest.approx((a - b).mean(), rel=1e-12)


@pytest.mark.parametrize("n_parts", [1, 3])
def test_without_any_difference_a_claim_is_confirmed_in_one_sweep_of_forty_or_fewer(n_parts):
    """2.5% of single comparisons hold by chance, within 4 standard errors; a conjunction of three hardly ever does."""
    rng, n_sweeps = np.random.default_rng(0), 2000
    draws = rng.standard_normal((n_sweeps, n_parts, 4))
    confirmed = np.mean([conclude([Part("", BELOW, tuple(x)) for x in parts]) == "confirmed" for parts in draws])
    rate = 0.025**n_parts
    assert abs(confirmed - rate) <= 4 * math.sqrt(rate * (1 - rate) / n_sweeps)


def test_a_region_decides_by_the_whole_interval():
    values = (0.9, 1.0, 1.1)
    low, high = Part("", ABOVE, values).interval
    assert Part("", (low - 1e-9, high + 1e-9), values).holds
    for region in ((low + 1e-9, math.inf), (-math.inf, high - 1e-9)):  # reaches beyond
        assert Part("", region, values).holds is False
        assert not Part("", region, values).contrary
    for region in ((high, math.inf), (-math.inf, low)):  # lies beyond
        assert Part("", region, values).contrary


def test_numbers_show_two_digits_of_the_interval_but_no_more_than_three_of_the_mean():
    part = Part("A − B, d = 5", BELOW, (-2.0e-4, -2.1e-4, -2.2e-4))
    low, high = part.interval
    assert str(part) == f"A − B, d = 5: −0.000210 [−{-low:.6f}, −{-high:.6f}], 3 seeds"
    assert str(Part("A", BELOW, (-25.44,))) == "A: −25.4, 1 seed"
    assert str(Part("A", BELOW, (-2544.0,))) == "A: −2544, 1 seed"
    assert str(Part("A", ABOVE, (0.98761, 0.98762, 0.98763))) == "A: 0.988 [0.988, 0.988], 3 seeds"
    assert str(Part("A", ABOVE, (-1.0, 0.0, 1.0))) == "A: 0.0 [−2.5, 2.5], 3 seeds"
    assert str(Part("A", BELOW, (0.0, 0.0, 0.0))) == "A: 0 [0, 0], 3 seeds"


def test_a_cell_names_what_fails_with_the_contrary_first(true_world):
    def change(run):
        FALSE["FN8"](run)
        noisy = run["variant"] == "CVAE" and run["latent_dim"] == 20
        run["inception/reconstruction/frechet"] += (-1) ** run["seed"] * 50 * noisy

    shown = text("FN8", world(change=change))
    # contrary: FisherNet and CVAE against the VAE at 10; reaching beyond: CVAE at 20 against both others
    assert shown.startswith("10 of 14 comparisons hold; 2 contrary; FisherNet − VAE, d = 10: ")
    assert shown.index("CVAE − VAE, d = 10") < shown.index("FisherNet − CVAE, d = 20")
    assert "and 1 more" in shown
    assert text("FN8", true_world).startswith("14 of 14 comparisons hold; least clear: CVAE − VAE, d = 5: −1.94 [")


def test_distances_on_classifier_features_are_not_called_fid(true_world):
    renamed = true_world.runs.rename(columns=lambda name: name.replace("inception", "classifier"))
    of_others = renamed.assign(**{"inception/reconstruction/frechet": math.nan})  # a column that only other runs fill
    for runs in (renamed, of_others):
        assert "Fréchet distance on classifier features, not FID" in text("FN8", Evidence(runs, true_world.epochs))
    both = renamed.assign(
        **{"inception/reconstruction/frechet": true_world.runs["inception/reconstruction/frechet"] + 1}
    )
    assert "not FID" not in text("FN8", Evidence(both, true_world.epochs))


def test_without_mkde_the_mixture_is_shown_but_decides_nothing(true_world):
    runs = true_world.runs.rename(columns={"inception/mkde/frechet": "inception/mixture/frechet"})
    finding = find("FN10", Evidence(runs, true_world.epochs))
    assert finding.verdict == "not enough runs"
    assert "No run has samples from MKDE." in finding.text(command_for)
    assert "With a Gaussian mixture: 3 of 3 comparisons hold" in finding.text(command_for)


def test_the_saturation_of_the_vae_is_shown_with_learned_noise_beside_it(true_world):
    finding = find("FN3", true_world)
    assert not any(part.holds for part in finding.beside["With learned noise"])
    assert "With learned noise: 0 of 3 comparisons hold; 3 contrary" in finding.text(command_for)


def test_the_share_of_the_gain_that_remains_is_that_of_the_mean_differences(true_world):
    noise_free = {v: dict(zip(DIMS, levels, strict=True)) for v, levels in MSE.items()}
    gain = noise_free["VAE"][10] - noise_free["FisherNet"][10]
    rest = noise_free["VAE gaussian-learned"][10] - noise_free["FisherNet"][10]
    assert f"{100 * rest / gain:.0f}% at d = 10" in text("Q1", true_world)


def test_a_gain_that_remains_at_some_dimensions_remains_in_part_and_one_that_is_none_cannot():
    lower = setting("test/mse", lambda run: run["test/mse"] - 6e-3, "VAE gaussian-learned", 10, 20)
    assert find("Q1", world(change=lower)).verdict == "remains in part"
    no_gain = setting("test/mse", lambda run: run["test/mse"] - 9e-3, "VAE")
    assert find("Q1", world(change=no_gain)).verdict == "no gain to begin with"
    never = setting("dropped", True, "FisherNet eq24")
    assert find("Q2", world(change=never)).verdict == "not enough runs"
    assert "`train FisherNet eq24 at 2,5,10,20`" in text("Q2", world(change=never))


def test_a_curve_is_followed_over_the_dimensions_of_the_sweep_that_must_reach_from_2_to_20():
    without = [setting("dropped", True, "FisherNet", d) for d in (3, 15)]
    finding = find("FN5", world(change=lambda run: [change(run) for change in without]))
    assert finding.verdict == "confirmed"
    assert [part.name for part in finding.parts[:3]] == [
        "FisherNet, d = 5 − d = 2",
        "FisherNet, d = 10 − d = 5",
        "FisherNet, d = 20 − d = 10",
    ]
    assert find("FN5", world(change=setting("dropped", True, "FisherNet", 20))).verdict == "not enough runs"


def test_a_curve_that_falls_ever_faster_is_not_slowing():
    straight = setting("test/mse", lambda run: 0.1 - 1e-5 * (run["latent_dim"] ** 2 + run["seed"]), "FisherNet")
    failing = [part.name for part in find("FN5", world(change=straight)).parts if not part.holds]
    assert failing == ["FisherNet, change per dimension, 15 to 20 − 2 to 3"]


def test_loss_and_mse_correlate_as_numpy_says():
    noisy = setting("test/loss", lambda run: 2e4 * run["test/mse"] + 20 * (-1) ** run["latent_dim"], "FisherNet")
    evidence = world(change=noisy)
    runs = evidence.runs[evidence.runs["variant"] == "FisherNet"]
    of_seed = [group for _, group in runs.groupby("seed")]
    finding = find("FN7", evidence)
    (line,) = finding.beside["Slope"]
    assert finding.parts[0].values == pytest.approx([np.corrcoef(g["test/loss"], g["test/mse"])[0, 1] for g in of_seed])
    assert line.values == pytest.approx([np.polyfit(g["test/mse"], g["test/loss"], 1)[0] / 1000 for g in of_seed])


def test_a_loss_that_is_the_same_everywhere_has_no_correlation():
    finding = find("FN7", world(change=setting("test/loss", 1.0, "FisherNet")))
    assert finding.verdict == "not enough runs"
    assert finding.text(command_for)


def test_margins_lie_between_what_the_paper_calls_near_and_far():
    fid = paper.table_1().pivot(index=["model", "latent_dim"], columns="images", values="value").drop(2, level=1)
    excess = fid["prior"] / fid["reconstruction"] - 1
    assert excess[["VAE", "CVAE"]].max() < 0.25 < excess["FisherNet"].min()
    at_5 = (fid["mkde"] / fid["prior"] - 1).xs(5, level=1)
    assert at_5["FisherNet"] < -0.1 < at_5[["VAE", "CVAE"]].min()
    traces = paper.table_a2().groupby("latent_dim")["value"]
    assert (traces.max() - traces.min()).max() == pytest.approx(claims.TRACE_MARGIN, abs=0.005)


def test_remarks_say_what_sets_the_runs_apart(true_world):
    assert claims.remarks(true_world) == []
    evidence = world(n_seeds=1, epochs=12, dataset="digits", train_size=1000)
    evidence.runs.loc[0, "variant"] = "FisherNet epochs=12"
    said = " ".join(claims.remarks(Evidence(evidence.runs, evidence.epochs, "validation")))
    for part in ("for 12 epochs", "on 1000 images", "Other data: digits", "validation images", "FisherNet epochs=12"):
        assert part in said


def test_a_weighted_kl_divergence_is_no_clash_of_settings():
    evidence = world(n_seeds=1)
    evidence.runs.loc[:1, "variant"] = ["VAE beta=4", "VAE beta=4 learning_rate=0.001"]
    (said,) = claims.remarks(evidence)
    assert said == "Not counted, as their settings vary within one model: VAE beta=4 learning_rate=0.001."


def test_settings_other_than_the_defaults_are_listed_with_their_models():
    def run_of(model, **settings):
        return trial_config(model=model, **settings).to_dict() | {"variant": model}

    usual = [run_of(model, seed=seed, latent_dim=5) for model in ("FisherNet", "VAE", "CVAE") for seed in (0, 1)]
    assert claims.remarks(Evidence(pd.DataFrame(usual), pd.DataFrame())) == []
    small = {"hidden_width": 16, "batch_size": 32, "precision": "bfloat16", "noise_start": -4.0}
    others = [run_of("FisherNet", **small), run_of("FisherNet", **small | {"batch_size": 64}), run_of("VAE", **small),
              run_of("CVAE", **small), {**run_of("AE", learning_rate=1.0), "variant": "AE"},
              {**run_of("VAE", learning_rate=0.5), "variant": "VAE tuned"}]  # fmt: skip
    (said,) = claims.remarks(Evidence(pd.DataFrame(others), pd.DataFrame()))
    for part in (
        "hidden_width 16 (FisherNet, VAE)", "batch_size 32, 64 (FisherNet)", "batch_size 32 (VAE, CVAE)",
        "precision bfloat16 (FisherNet, VAE, CVAE)", "noise_start -4 (FisherNet)",
    ):  # fmt: skip
        assert part in said
    assert "learning_rate" not in said  # of models and variants that the claims are not about


def test_a_number_per_seed_may_combine_any_columns():
    runs = pd.DataFrame(
        {"variant": "A", "latent_dim": 2, "seed": [3, 1, 2], "epochs": 1, "x": [6.0, 2.0, 0.0], "y": [3.0, 2.0, 0.0]}
    )
    part = compare("x / y", runs, [("x", ("A", 2)), ("y", ("A", 2))], lambda x, y: x / y, ABOVE)
    assert part.values == (1.0, 2.0)  # by seed, without 0 / 0


def test_the_table_has_every_claim_and_every_comparison(true_world):
    made = claims.table(true_world, command_for)
    assert made.shown["claim"].tolist() == made.data["claim"].unique().tolist() == ASKED
    assert len(ASKED) == len(set(ASKED)) == 14
    counted = made.data[(made.data["beside"] == "") & made.data["claim"].isin(OF_PAPER)]
    assert counted["holds"].all()
    assert (counted["low"] <= counted["mean"]).all()
    assert (counted["mean"] <= counted["high"]).all()
    assert set(made.data["n_seeds"]) == {0, 5}  # 0: no run has samples from a mixture
    row = made.data[made.data["part"] == "FisherNet d = 5 − VAE d = 10, epoch 40"].iloc[0]
    assert (row["claim"], row["claimed"]) == ("FN2", "below 0")


def test_really_trained_runs_give_a_row_per_claim(trained):
    (made,) = claims.exhibits(trained)
    assert made.shown["claim"].tolist() == ASKED
    assert set(made.shown["verdict"]) == {"not enough runs"}  # two seeds
    assert not made.shown.isna().any(axis=None)
    assert "Other data: digits" in made.caption
    epochs = load_epochs(trained.sweep, trained.runs, ["test/mse"])
    first = epochs[epochs["epoch"] == 1].pivot(index=["latent_dim", "seed"], columns="variant", values="value")
    row = made.data[made.data["part"] == "FisherNet − VAE, d = 5, epoch 1"].iloc[0]
    assert row["mean"] == pytest.approx((first["FisherNet"] - first["VAE"]).loc[5].mean())
    assert row["n_seeds"] == 2


def test_the_command_writes_the_table_and_prints_it(trained, tmp_path, capsys):
    assert claims.main(["--name", "trained", "--tracking-uri", trained.sweep.uri, "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"claims.csv", "claims.tex"}
    assert pd.read_csv(tmp_path / "claims.csv")["claim"].unique().tolist() == ASKED
    assert "FN12" in capsys.readouterr().out


def test_an_unknown_sweep_is_a_sentence(trained, capsys):
    assert claims.main(["--name", "trainde", "--tracking-uri", trained.sweep.uri]) == 2
    assert "Did you mean trained?" in capsys.readouterr().err


def test_help_waits_for_no_library():
    heavy = "{'pandas', 'scipy', 'torch', 'mlflow', 'matplotlib', 'ray'}"
    code = f"import sys, analysis.claims; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
