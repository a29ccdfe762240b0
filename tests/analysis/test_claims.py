"""Verdicts on the FisherNet paper follow from planted truths, margins from the paper, and what cannot be decided says why."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main as analyse
from analysis.figures import claims
from analysis.frame import load_epochs
from analysis.papers import published
from analysis.papers.fishernet import PAPER
from analysis.papers.fishernet.claims import ASKED as LINES
from analysis.papers.fishernet.claims import CLAIMS, TRACE_MARGIN
from analysis.stored import StoredSweep
from analysis.verdicts import Evidence, commands
from fishernet.families import trial_config

DIMS = (2, 3, 5, 10, 15, 20)
EPOCHS = 50
MSE = {
    "FisherNet": (0.0250, 0.0200, 0.0160, 0.0130, 0.0120, 0.0115),
    "VAE": (0.0252, 0.02075, 0.0185, 0.0175, 0.0174, 0.0176),
    "CVAE": (0.0300, 0.0240, 0.0182, 0.0165, 0.0160, 0.0155),
    "VAE gaussian-learned": (0.02516, 0.0206, 0.0180, 0.0166, 0.0163, 0.0164),
    "FisherNet eq24": (0.02505, 0.0201, 0.0162, 0.0132, 0.0122, 0.0117),
}
START = {"FisherNet": 1.0}  # excess of the first epoch, as a share of the last one's MSE
LATE_START = 0.3  # of all others
TABLES = published.tables(PAPER, PAPER.dataset)
TABLE_1 = TABLES["frechet_inception"].set_index(["variant", "images", "latent_dim"])["value"]
# A config of each line; one that the claims do not name is told apart by hand.
CONFIGS = {c.variant: c for c in (*(trial_config(model=model) for model in PAPER.models), *LINES)}
SEED_EFFECT, RUN_NOISE = 2e-4, 5e-6
ASKED = [claim.id for claim in CLAIMS]
RUN = ("model", "latent_dim", "seed", "epochs", "dataset", "train_size")
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
                    "config": CONFIGS[variant], "choices": CONFIGS[variant].choices,
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
    return evidence_of(pd.DataFrame(rows), pd.DataFrame(history, columns=["run_id", "epoch", "metric", "value"]))


def evidence_of(runs, history=None, **more):
    return Evidence(runs, pd.DataFrame() if history is None else history, scope=claims.scope_of(PAPER), **more)


def held_against_the_paper(sweep):
    return StoredSweep(sweep, paper="fishernet")


def told(finding):
    """What the table says of it, and the commands below the table."""
    return " ".join([finding.text(), *commands([finding], command_for)])


def command_for(variants, dims):
    return f"`train {' '.join(variants)} at {','.join(map(str, dims))}` trains what is missing."


def find(name, evidence):
    return next(claim for claim in CLAIMS if claim.id == name).find(evidence)


def text(name, evidence):
    return told(find(name, evidence))


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


@pytest.fixture(scope="module")
def few_seeds():
    return {n_seeds: world(n_seeds=n_seeds) for n_seeds in (1, 2)}


@pytest.mark.parametrize("name", ASKED)
def test_what_is_true_is_confirmed(true_world, name):
    assert find(name, true_world).verdict == ("confirmed" if name in OF_PAPER else "remains")


@pytest.mark.parametrize("name", ASKED)
def test_what_is_false_in_one_place_is_contradicted(name):
    finding = find(name, world(change=FALSE[name]))
    assert finding.verdict == ("contradicted" if name in OF_PAPER else "does not remain")
    assert any(part.reading == "contrary" for part in finding.parts)


@pytest.mark.parametrize("n_seeds", [1, 2])
@pytest.mark.parametrize("name", ASKED)
def test_fewer_than_three_seeds_decide_nothing(few_seeds, name, n_seeds):
    finding = find(name, few_seeds[n_seeds])
    assert finding.verdict == "undecided"
    assert all(not part.reading and np.isnan(part.interval).all() for part in finding.parts)
    assert {part.why for part in finding.parts} == {"not enough runs"}
    assert told(finding).startswith("Not enough runs")
    assert f"{n_seeds} seed" in told(finding)
    assert "With --seeds 3, `train " in told(finding)


# What each claim is about, by what it says or, where it says none, by the 50 epochs of the paper's Figure 3.
EPOCHS_ASKED = dict.fromkeys(ASKED, EPOCHS) | {"FN1": 12, "FN2": 40}


@pytest.mark.parametrize("epochs", sorted(set(EPOCHS_ASKED.values())))
def test_a_claim_is_decided_from_the_epochs_it_is_about_and_not_one_earlier(epochs):
    enough, short = world(epochs=epochs), world(epochs=epochs - 1)
    for name in (name for name, asked in EPOCHS_ASKED.items() if asked == epochs):
        assert find(name, enough).verdict == ("confirmed" if name in OF_PAPER else "remains")
        finding = find(name, short)
        assert finding.verdict == "too short", name
        said = told(finding)
        assert f"Too short: {epochs - 1} epochs (" in said
        assert f", where the claim is about {epochs}" in said
        assert "train " not in said  # more runs like these would not help
        if epochs == EPOCHS:  # of an epoch that was not trained there is no number
            assert all(len(part.values) == 5 for part in finding.parts)
            assert "5 seeds" in said


def test_what_a_claim_says_of_an_early_epoch_is_settled_by_then():
    assert find("FN1", world(epochs=11, change=FALSE["FN1"])).verdict == "contradicted"
    assert find("FN2", world(epochs=39, change=FALSE["FN2"])).verdict == "too short"


OUTSIDE = {
    "images of digits": {"dataset": "digits"},
    "the first 1,000 training images": {"train_size": 1000},
    "500 training images held out": {"validation_size": 500},
    "learning_rate 0.001 (": {"learning_rate": 1e-3},
    "precision bfloat16 (": {"precision": "bfloat16"},
}


@pytest.mark.parametrize("said", OUTSIDE)
def test_other_images_and_settings_are_not_what_a_claim_is_about_even_where_all_of_it_holds(said):
    evidence = world(n_seeds=3, **OUTSIDE[said])
    for name in ASKED:
        finding = find(name, evidence)
        assert finding.verdict == "not asked of these data", name
        assert all(part.verdict == "not asked of these data" and said in part.why for part in finding.parts)
        shown = told(finding)
        assert shown.startswith(f"Outside the claim: {said}")
        assert "3 seeds" in shown  # the numbers are shown
        assert "train " not in shown


def test_runs_that_are_lacking_would_be_of_the_sweeps_other_images_and_epochs():
    only_2 = [setting("dropped", True, variant, *DIMS[1:]) for variant in MSE]
    for said, settings in {"images of digits": {"dataset": "digits"}, "12 epochs": {"epochs": 12}}.items():
        evidence = world(n_seeds=1, change=lambda run: [change(run) for change in only_2], **settings)
        for name in ("FN2", "FN3", "FN9", "FN10"):  # of which there is no run
            finding = find(name, evidence)
            assert finding.verdict == ("too short" if said == "12 epochs" else "not asked of these data")
            assert said in told(finding)
            assert "train " not in told(finding)


def test_other_images_contradict_nothing():
    evidence = world(n_seeds=3, change=lambda run: [change(run) for change in FALSE.values()], dataset="digits")
    findings = [find(name, evidence) for name in ASKED]
    assert {finding.verdict for finding in findings} == {"not asked of these data"}
    assert sum(part.reading == "contrary" for finding in findings for part in finding.parts) > 10


def test_images_that_are_not_the_test_set_are_not_what_a_claim_is_about(true_world):
    renamed = true_world.runs.rename(columns=lambda name: name.replace("test/", "validation/"))
    finding = find("FN6", replace(true_world, runs=renamed, held_out="validation"))
    assert finding.verdict == "not asked of these data"
    assert "Outside the claim: scores on validation images." in told(finding)


def test_a_setting_counts_where_its_model_is_compared_and_only_there():
    def change(run):
        run["noise_start"] = -4.0 if run["model"] == "FisherNet" or "learned" in run["variant"] else 0.0

    evidence = world(change=change)
    for name in ("FN1", "FN2", "FN5", "FN6", "FN7", "FN8", "FN12", "Q1", "Q2"):
        assert find(name, evidence).verdict == "not asked of these data", name
        assert text(name, evidence).startswith("Outside the claim: noise_start -4 (")
    for name in ("FN3", "FN4"):  # of VAE and CVAE, whose likelihood has no noise to start
        assert find(name, evidence).verdict == "confirmed", name
    assert "noise_start -4 (FisherNet, VAE gaussian-learned)" in text("Q1", evidence)


def test_the_options_that_make_a_questions_variant_are_what_it_asks_for():
    options = {
        variant: {k: v for k, v in config.to_dict().items() if k not in RUN} for variant, config in CONFIGS.items()
    }
    evidence = world(change=lambda run: run.update(options.get(run["variant"], {})))
    assert [find(name, evidence).verdict for name in ("Q1", "Q2")] == ["remains", "remains"]


def test_a_comparison_of_the_claims_own_runs_contradicts_it_whatever_the_others_are():
    def change(run):
        run["noise_start"] = -4.0 * (run["model"] == "FisherNet")
        if run["variant"] == "CVAE" and run["latent_dim"] == 10:
            run["inception/reconstruction/frechet"] += 50

    finding = find("FN8", world(change=change))
    assert finding.verdict == "contradicted"
    assert {part.verdict for part in finding.parts} == {"contradicted", "confirmed", "not asked of these data"}


def test_both_reasons_are_said_where_runs_are_short_and_not_what_the_claim_is_about():
    finding = find("FN5", world(epochs=12, dataset="digits"))
    assert finding.verdict == "not asked of these data"
    assert "images of digits" in told(finding)
    assert "12 epochs (FisherNet), where the claim is about 50" in told(finding)


def test_numbers_that_a_claim_names_are_tested_with_its_margin():
    """Within a factor of two of 0.0002 and 0.00075; above the VAE's by 0.001; within 10% of 0.0175."""

    def verdict(name, change):
        return find(name, world(change=change)).verdict

    def less(by, variant, d):
        return setting("test/mse", lambda run: run["test/mse"] - by, variant, d)

    level = dict(zip(DIMS, MSE["VAE"], strict=True))
    for d, gap in ((2, 0.0002), (3, 0.00075)):
        for factor, expected in (
            (10, "contradicted"),
            (2.1, "contradicted"),
            (1.9, "confirmed"),
            (0.4, "contradicted"),
        ):
            found = find("FN6", world(change=less((factor - 1) * gap, "FisherNet", d))).parts[(2, 3).index(d)]
            assert found.verdict == expected, (d, factor)
    for excess, expected in ((5e-8, "contradicted"), (9e-4, "contradicted"), (1.1e-3, "confirmed")):
        assert verdict("FN4", less(MSE["CVAE"][0] - level[2] - excess, "CVAE", 2)) == expected
    for value, expected in ((0.0160, "confirmed"), (0.0155, "contradicted"), (0.0195, "contradicted")):
        found = find("FN3", world(change=less(level[10] - value, "VAE", 10))).parts[0]
        assert found.verdict == expected, value


def test_runs_that_failed_are_said_with_the_claims_they_would_belong_to():
    states = {"CVAE": "failed: the loss is not finite", "AE": "killed at epoch 3 of 50"}
    rows = [(variant, 10, seed, state) for variant, state in states.items() for seed in (3, 4)]
    failed = pd.DataFrame(rows, columns=["variant", "latent_dim", "seed", "state"])
    evidence = replace(world(n_seeds=3), failed=failed)
    assert (
        "Not counted, as they gave no number: CVAE d = 10 seed 3 (failed: the loss is not finite); "
        "CVAE d = 10 seed 4 (failed: the loss is not finite)."
    ) in text("FN4", evidence)
    for name in ("FN5", "FN6", "FN10"):  # without the CVAE, or at other d
        assert "Not counted" not in text(name, evidence)
    caption = claims.table(PAPER, evidence, command_for).caption
    assert "4 runs failed or stopped and gave no number: CVAE d = 10 (2), AE d = 10 (2);" in caption
    assert "no number" not in claims.table(PAPER, replace(evidence, failed=failed.iloc[:0]), command_for).caption


def test_ellipses_are_compared_with_the_spread_of_their_means_beside_the_claim(true_world):
    assert {name: part.reading for name, (part,) in find("FN12", true_world).beside.items()} == {
        "Against the spread of the means": "holds",
        "Narrower": "holds",
    }


@pytest.mark.parametrize(
    ("name", "variant", "d"), [("FN2", "VAE", 10), ("FN6", "FisherNet", 3), ("FN8", "CVAE", 15), ("FN12", "VAE", 2)]
)
def test_a_missing_cell_leaves_a_claim_open_and_names_the_command(name, variant, d):
    finding = find(name, world(change=setting("dropped", True, variant, d)))
    assert finding.verdict == "undecided"
    assert told(finding).startswith("Not enough runs for ")
    assert told(finding).count("train ") == 1
    assert f"With --seeds 3, `train {variant} at {d}`" in told(finding)


def test_variants_that_lack_the_same_dimensions_share_a_command():
    def change(run):
        run["dropped"] = run["latent_dim"] == 3 or (run["variant"] == "VAE" and run["latent_dim"] == 2)

    assert "`train VAE at 2,3`" in text("FN6", world(change=change))
    assert "`train FisherNet at 3`" in text("FN6", world(change=change))
    without_3 = setting("dropped", True, "VAE", 3), setting("dropped", True, "FisherNet", 3)
    assert "`train VAE FisherNet at 3`" in text("FN6", world(change=lambda run: [change(run) for change in without_3]))


def test_one_comparison_that_is_contrary_contradicts_a_claim_whose_others_lack_runs():
    def change(run):
        FALSE["FN8"](run)
        run["dropped"] = run["latent_dim"] == 15

    finding = find("FN8", world(change=change))
    assert finding.verdict == "contradicted"
    assert "VAE, d = 10" in told(finding)
    assert "`train FisherNet VAE CVAE at 15`" in told(finding)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_count_as_not_there(value):
    change = setting("clusters/trace", lambda run: value if run["seed"] else 5.0, "VAE", 5)
    evidence = world(change=change)
    finding = find("FN11", evidence)
    assert finding.verdict == "undecided"
    n_seeds = {part.name: len(part.values) for part in finding.parts}
    assert n_seeds["FisherNet − VAE, d = 5"] == n_seeds["VAE − CVAE, d = 5"] == 1
    assert n_seeds["FisherNet − CVAE, d = 5"] == 5
    assert "Too few runs have clusters/trace" in told(finding)
    assert "train" not in told(finding)  # there are runs enough


def test_a_metric_that_no_run_has_leaves_a_claim_open(true_world):
    named = [name for name in true_world.runs if "/" not in name or name == "test/mse"]
    bare = replace(true_world, runs=true_world.runs[named])
    for name in ("FN7", "FN8", "FN9", "FN10", "FN11", "FN12"):
        finding = find(name, bare)
        assert finding.verdict == "undecided"
        assert "Too few runs have" in told(finding)
        assert "Not enough runs" not in told(finding)
        assert "train" not in told(finding)
    assert "No run has a Fréchet distance" in text("FN8", bare)


def test_unequal_epochs_are_said_and_do_not_concern_claims_about_one_epoch():
    evidence = world(change=setting("epochs", 55, "CVAE"))
    assert "Unequal epochs: CVAE 55, VAE 50." in text("FN4", evidence)
    assert "Unequal epochs: FisherNet 50, CVAE 55, VAE 50." in text("FN8", evidence)
    assert "Unequal epochs" not in text("FN1", evidence) + text("FN2", evidence) + text("FN5", evidence)


def test_runs_too_short_for_a_claim_about_epoch_40_say_so():
    evidence = world(epochs=12)
    finding = find("FN2", evidence)
    assert finding.verdict == "too short"
    assert "Too short: 12 epochs (FisherNet, VAE, CVAE), where the claim is about 40." in told(finding)
    assert "Too few runs have" not in told(finding)
    assert "train " not in text("FN2", world(n_seeds=1, epochs=12))
    assert find("FN1", evidence).verdict == "confirmed"


def test_a_cell_names_what_fails_with_the_contrary_first(true_world):
    def change(run):
        FALSE["FN8"](run)
        noisy = run["variant"] == "CVAE" and run["latent_dim"] == 20
        run["inception/reconstruction/frechet"] += (-1) ** run["seed"] * 50 * noisy

    shown = text("FN8", world(change=change))
    # contrary: FisherNet and CVAE against the VAE at 10; reaching beyond: CVAE at 20 against both others
    assert shown.startswith(
        "10 of 14 comparisons hold; 2 contrary; 2 intervals reach across the bound; FisherNet − VAE, d = 10: "
    )
    assert shown.index("CVAE − VAE, d = 10") < shown.index("FisherNet − CVAE, d = 20")
    assert "and 1 more" in shown
    assert text("FN8", true_world).startswith("14 of 14 comparisons hold; least clear: CVAE − VAE, d = 5: −1.94 [")


def test_distances_on_classifier_features_are_not_called_fid(true_world):
    renamed = true_world.runs.rename(columns=lambda name: name.replace("inception", "classifier"))
    of_others = renamed.assign(**{"inception/reconstruction/frechet": math.nan})  # a column that only other runs fill
    for runs in (renamed, of_others):
        for name in ("FN8", "FN9", "FN10"):
            finding = find(name, replace(true_world, runs=runs))
            assert finding.verdict == "not asked of these data"  # a claim about the FID
            assert "Fréchet distance on classifier features, not FID" in told(finding)
            assert all(len(part.values) == 5 for part in finding.parts)
    both = renamed.assign(
        **{"inception/reconstruction/frechet": true_world.runs["inception/reconstruction/frechet"] + 1}
    )
    assert "not FID" not in text("FN8", replace(true_world, runs=both))
    assert find("FN8", replace(true_world, runs=both)).verdict == "confirmed"


def test_without_mkde_the_mixture_is_shown_but_decides_nothing(true_world):
    runs = true_world.runs.rename(columns={"inception/mkde/frechet": "inception/mixture/frechet"})
    finding = find("FN10", replace(true_world, runs=runs))
    assert finding.verdict == "undecided"
    assert "No run has samples from MKDE." in told(finding)
    assert "With a Gaussian mixture: 3 of 3 comparisons hold" in told(finding)


def test_the_saturation_of_the_vae_is_shown_with_learned_noise_beside_it():
    falling = setting("test/mse", lambda run: 0.017 - 2.5e-4 * run["latent_dim"], "VAE gaussian-learned")
    finding = find("FN3", world(change=falling))
    assert finding.verdict == "confirmed"
    assert {part.reading for part in finding.beside["With learned noise"]} == {"contrary"}
    assert "With learned noise: 0 of 3 comparisons hold; 3 contrary" in told(finding)


def test_the_share_of_the_gain_is_that_of_the_mean_differences(true_world):
    levels = {v: dict(zip(DIMS, levels, strict=True)) for v, levels in MSE.items()}
    for part in find("Q1", true_world).parts:
        d = int(part.name.rpartition(" ")[2])
        rest, gain = (levels[v][d] - levels["FisherNet"][d] for v in ("VAE gaussian-learned", "VAE"))
        assert part.mean == pytest.approx(rest / gain, rel=0.05)
        assert part.interval[0] < rest / gain < part.interval[1]
    assert "share of the gain, d = 2: 8" in text("Q1", true_world)
    assert "%, 5 seeds" not in text("Q1", true_world)  # an interval stands between


def test_a_gain_that_remains_at_some_dimensions_remains_in_part_and_one_that_is_none_cannot():
    lower = setting("test/mse", lambda run: run["test/mse"] - 6e-3, "VAE gaussian-learned", 10, 20)
    finding = find("Q1", world(change=lower))
    assert finding.verdict == "remains in part"
    assert "Remains at d = 2, 3, 5, 15, by Holm's correction over 6 latent dimensions." in told(finding)
    assert "Does not remain at d = 10, 20, by Holm's correction" in told(finding)
    no_gain = setting("test/mse", lambda run: run["test/mse"] - 9e-3, "VAE")
    assert find("Q1", world(change=no_gain)).verdict == "no gain to begin with"
    never = setting("dropped", True, "FisherNet eq24")
    assert find("Q2", world(change=never)).verdict == "undecided"
    assert "`train FisherNet eq24 at 2,5,10,20`" in text("Q2", world(change=never))


def test_a_gain_that_is_not_clear_is_no_gain_of_which_nothing_remains():
    unclear = setting("test/mse", lambda run: run["test/mse"] + 0.02 * (-1) ** run["seed"], "VAE")
    finding = find("Q1", world(change=unclear))
    assert finding.verdict == "undecided"
    assert "share of the gain, d = 2: none, as the gain may be none, 5 seeds" in told(finding)


def test_a_curve_is_followed_over_the_dimensions_of_the_sweep_that_must_reach_from_2_to_20():
    without = [setting("dropped", True, "FisherNet", d) for d in (3, 15)]
    finding = find("FN5", world(change=lambda run: [change(run) for change in without]))
    assert finding.verdict == "confirmed"
    assert [part.name for part in finding.parts[:3]] == [
        "FisherNet, d = 5 − d = 2",
        "FisherNet, d = 10 − d = 5",
        "FisherNet, d = 20 − d = 10",
    ]
    assert find("FN5", world(change=setting("dropped", True, "FisherNet", 20))).verdict == "undecided"


def test_a_curve_that_falls_ever_faster_is_not_slowing():
    straight = setting("test/mse", lambda run: 0.1 - 1e-5 * (run["latent_dim"] ** 2 + run["seed"]), "FisherNet")
    failing = [part.name for part in find("FN5", world(change=straight)).parts if part.reading != "holds"]
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
    assert finding.verdict == "undecided"
    assert told(finding)


def test_margins_lie_between_what_the_paper_calls_near_and_far():
    fid = (
        TABLES["frechet_inception"]
        .pivot(index=["variant", "latent_dim"], columns="images", values="value")
        .drop(2, level=1)
    )
    excess = fid["prior"] / fid["reconstruction"] - 1
    assert excess[["VAE", "CVAE"]].max() < 0.25 < excess["FisherNet"].min()
    at_5 = (fid["mkde"] / fid["prior"] - 1).xs(5, level=1)
    assert at_5["FisherNet"] < -0.1 < at_5[["VAE", "CVAE"]].min()
    traces = TABLES["cluster_trace"].groupby("latent_dim")["value"]
    assert (traces.max() - traces.min()).max() == pytest.approx(TRACE_MARGIN, abs=0.005)


def test_remarks_say_what_sets_the_runs_apart(true_world):
    assert claims.remarks(PAPER, true_world) == []
    evidence = world(n_seeds=1, epochs=12, dataset="digits", train_size=1000)
    evidence.runs.loc[0, "variant"] = "FisherNet epochs=12"
    evidence.runs.at[0, "choices"] = {"epochs": 12}
    said = " ".join(claims.remarks(PAPER, replace(evidence, held_out="validation")))
    for part in ("for 12 epochs", "on 1000 images", "Other data: digits", "validation images", "FisherNet epochs=12"):
        assert part in said


def test_a_weighted_kl_divergence_is_no_clash_of_settings():
    evidence = world(n_seeds=1)
    weighted = trial_config(model="VAE", kl_weight=4)
    for i, (variant, more) in enumerate(
        {"VAE beta=4": {}, "VAE beta=4 learning_rate=0.001": {"learning_rate": 1e-3}}.items()
    ):
        evidence.runs.at[i, "variant"], evidence.runs.at[i, "config"] = variant, weighted
        evidence.runs.at[i, "choices"] = weighted.choices | more
    (said,) = claims.remarks(PAPER, evidence)
    assert said == "Not counted, as their settings vary within one model: VAE beta=4 learning_rate=0.001."


def test_settings_other_than_the_defaults_are_listed_with_their_models():
    def run_of(model, **settings):
        config = trial_config(model=model, **settings)
        return config.to_dict() | {"variant": model, "config": config, "choices": config.choices}

    usual = [run_of(model, seed=seed, latent_dim=5) for model in ("FisherNet", "VAE", "CVAE") for seed in (0, 1)]
    assert claims.remarks(PAPER, evidence_of(pd.DataFrame(usual))) == []
    small = {"hidden_width": 16, "batch_size": 32, "precision": "bfloat16", "noise_start": -4.0}
    others = [run_of("FisherNet", **small), run_of("FisherNet", **small | {"batch_size": 64}), run_of("VAE", **small),
              run_of("CVAE", **small), {**run_of("AE", learning_rate=1.0), "variant": "AE"},
              {**run_of("VAE", learning_rate=0.5), "variant": "VAE tuned"}]  # fmt: skip
    (said,) = claims.remarks(PAPER, evidence_of(pd.DataFrame(others)))
    for part in (
        "hidden_width 16 (FisherNet, VAE)", "batch_size 32, 64 (FisherNet)", "batch_size 32 (VAE, CVAE)",
        "precision bfloat16 (FisherNet, VAE, CVAE)", "noise_start -4 (FisherNet)",
    ):  # fmt: skip
        assert part in said
    assert "learning_rate" not in said  # of models and variants that the claims are not about


def test_the_table_has_every_claim_and_every_comparison(true_world):
    made = claims.table(PAPER, true_world, command_for)
    assert made.shown["claim"].tolist() == made.data["claim"].unique().tolist() == ASKED
    assert len(ASKED) == len(set(ASKED)) == 14
    counted = made.data[(made.data["beside"] == "") & made.data["claim"].isin(OF_PAPER)]
    assert set(counted["interval"]) == {"holds"}
    assert set(counted["comparison"]) == set(counted["verdict"]) == {"confirmed"}
    assert (counted["low"] <= counted["mean"]).all()
    assert (counted["mean"] <= counted["high"]).all()
    assert set(made.data["n_seeds"]) == {0, 5}  # 0: no run has samples from a mixture
    row = made.data[made.data["part"] == "FisherNet d = 5 − VAE d = 10, epoch 40"].iloc[0]
    assert (row["claim"], row["claimed"]) == ("FN2", "below 0")
    margins = made.data.set_index("part")["claimed"]
    assert margins["CVAE − VAE, d = 2"] == "above 0.001"
    assert margins["VAE, d = 10"] == "between 0.01575 and 0.01925"
    assert set(margins["share of the gain, d = 10"]) == {"above 0.5; contrary below 0.25"}
    gaps = made.data[made.data["claim"] == "FN6"]["claimed"].tolist()
    assert gaps == ["between 0.0001 and 0.0004", "between 0.000375 and 0.0015", "above 0"]


def test_really_trained_runs_give_a_row_per_claim(trained):
    (made,) = claims.parts(held_against_the_paper(trained.sweep))
    assert made.shown["claim"].tolist() == ASKED
    assert set(made.shown["verdict"]) == {"not asked of these data"}  # the images are digits
    assert (made.data["verdict"] == "not asked of these data").all()
    assert made.data["mean"].notna().sum() > 10  # and are measured all the same
    assert not made.shown.isna().any(axis=None)
    assert "Other data: digits" in made.caption
    epochs = load_epochs(trained.sweep, trained.runs, ["test/mse"])
    first = epochs[epochs["epoch"] == 1].pivot(index=["latent_dim", "seed"], columns="variant", values="value")
    row = made.data[made.data["part"] == "FisherNet − VAE, d = 5, epoch 1"].iloc[0]
    assert row["mean"] == pytest.approx((first["FisherNet"] - first["VAE"]).loc[5].mean())
    assert row["n_seeds"] == 2


def test_a_sweeps_failed_runs_are_in_the_caption_and_beside_the_comparison_they_are_lacking_in(curves):
    (made,) = claims.parts(held_against_the_paper(curves))
    assert "2 runs failed or stopped and gave no number: VAE d = 20 (1), AE d = 20 (1);" in made.caption
    shown = made.shown.set_index("claim")["these runs show"]
    said = "Not counted, as they gave no number: VAE d = 20 seed 0 (failed: the loss is not finite)."
    assert {claim for claim, cell in shown.items() if said in cell} >= {"FN3", "FN4"}
    assert said not in shown["FN6"]


def test_the_command_writes_the_table_and_prints_it(trained, tmp_path, capsys):
    argv = ["--name", "trained", "--tracking-uri", trained.sweep.uri]
    assert analyse(["claims", *argv, "--out", str(tmp_path), "--paper", "fishernet"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"claims.csv", "claims.tex"}
    assert pd.read_csv(tmp_path / "claims.csv")["claim"].unique().tolist() == ASKED
    assert "FN12" in capsys.readouterr().out


def test_a_sweep_that_no_paper_is_about_has_no_claims(trained, tmp_path, capsys):
    """Its images are digits, so whatever its models are, no paper's claims are about it."""
    assert analyse(["claims", "--name", "trained", "--tracking-uri", trained.sweep.uri, "--out", str(tmp_path)]) == 2
    assert "--paper KEY holds one's claims against it" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_unknown_sweep_is_a_sentence(trained, capsys):
    assert analyse(["claims", "--name", "trainde", "--tracking-uri", trained.sweep.uri]) == 2
    assert "Did you mean trained?" in capsys.readouterr().err


def test_help_waits_for_no_library():
    heavy = "{'pandas', 'scipy', 'torch', 'mlflow', 'matplotlib', 'ray'}"
    code = f"import sys, analysis.claims; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
