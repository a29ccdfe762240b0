"""The VPAE paper's lines are its rows, with its counts of parameters; its claims follow from planted truths."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.figures import claims
from analysis.papers import published
from analysis.papers.vpae import (
    CNN_CONTROLS,
    CNN_DIM,
    CONTROLS,
    COSTLY,
    DIM,
    FIGURE_3,
    PAPER,
    SHARED,
    TABLE_1,
    TABLE_2,
    flag,
)
from analysis.papers.vpae import claims as claims_of_vpae
from analysis.papers.vpae.claims import CLAIMS, CNN_LINES, LINES, NAMED_FOR_FID
from analysis.scores.outputs import N_IMAGES, floors
from analysis.verdicts import Evidence
from fishernet.data import DataError
from fishernet.data.loading import load_data
from fishernet.families import family, trial_config
from fishernet.likelihoods import n_outputs
from sweeps.latent_sweep import _parse
from sweeps.planning import plan_from_flags

TABLES = ((1, TABLE_1, DIM), (2, TABLE_2, CNN_DIM))
PUBLISHED = {dataset: published.tables(PAPER, dataset)["outputs"] for dataset in ("mnist", "fashion-mnist")}
SHAPE = (1, 28, 28)


def config_of(line, d=DIM):
    return trial_config({**SHARED, **line, "latent_dim": d})


def planned(*words):
    return plan_from_flags(_parse(words)).configs


@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist"])
def test_floors_of_the_claims_are_those_of_the_images(dataset):
    """L2 of the mean training image and of the best images of 2 x 2 blocks, as said to three digits behind the point."""
    try:
        data = load_data(dataset)
    except DataError as error:
        pytest.skip(str(error))
    test = data.test[:N_IMAGES]
    assert claims_of_vpae.MEAN_IMAGE[dataset] == pytest.approx(floors(data.train, test, 10**6)["mean image"], abs=6e-4)
    x = test.float() / 255
    blocks = torch.nn.functional.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert claims_of_vpae.BLOCKS[dataset] == pytest.approx(100 * (x - blocks).square().mean().item(), abs=6e-4)


def test_figure_3_is_of_lines_that_the_preset_trains_and_the_paper_has():
    trained = {config.variant for config in planned("--preset", "vpae")}
    assert set(FIGURE_3) <= trained
    assert len({*FIGURE_3}) == 6
    assert set(FIGURE_3) <= set(PUBLISHED["mnist"]["variant"])
    for name, argument in (("distributions", "drawn"), ("embeddings", "lines")):
        assert PAPER.arguments[name][argument] == FIGURE_3
    assert {PAPER.figures[stem][0] for stem in ("draws", "embeddings")} == {"Figure 3"}


def test_presets_are_the_lines_of_the_tables_and_each_is_a_line_of_its_own():
    for preset, lines, d in (("vpae", TABLE_1, DIM), ("vpae-cnn", TABLE_2, CNN_DIM)):
        cheap = [config_of(fields, d) for line, fields in lines.items() if line not in COSTLY]
        configs = planned("--preset", preset)
        assert [c for c in configs if c.seed == 0] == cheap
        assert len(configs) == 5 * len(cheap)
        assert len({c.variant for c in cheap}) == len(cheap) == {"vpae": 23, "vpae-cnn": 12}[preset]
    for preset, lines, d in (
        ("vpae-controls", CONTROLS, DIM),
        ("vpae-cnn-reduced", {**TABLE_2, **CNN_CONTROLS}, CNN_DIM),
    ):
        configs = [c for c in planned("--preset", preset) if c.seed == 0]
        reduced = {"train_size": 12_000, "epochs": 8} if d == CNN_DIM else {}
        assert configs == [trial_config({**SHARED, **fields, "latent_dim": d, **reduced}) for fields in lines.values()]
        assert len({c.variant for c in configs}) == len(lines)
    of_fishernet = planned("--preset", "vpae-fishernet")
    assert len(of_fishernet) == 5 * 3 * 3
    assert {config.dequantisation for config in of_fishernet} == {"uniform-noise"}  # their bits are compared
    asked = planned("--preset", "vpae", "--models", *(flag(TABLE_1[line]) for line in COSTLY), "--seeds", "1")
    assert [c.scale for c in asked] == ["full", "full"]


def test_what_is_published_is_of_these_lines():
    for dataset, (number, lines, d) in product(PUBLISHED, TABLES):
        own = PUBLISHED[dataset][PUBLISHED[dataset]["table"] == number].set_index(["row", "components"])
        # One cell of Table 2 cannot be read for certain.
        unread = {("T_df_mu_U_V", 1)} if (number, dataset) == (2, "mnist") else set()
        assert set(own.index) == set(lines) - unread
        for line in own.index:
            assert own.at[line, "variant"] == config_of(lines[line], d).variant
            assert own.at[line, "latent_dim"] == d


@pytest.mark.parametrize(("number", "line"), [(n, line) for n, lines, _ in TABLES for line in lines])
def test_a_line_has_as_many_parameters_as_the_paper_says(number, line):
    lines, d = {1: (TABLE_1, DIM), 2: (TABLE_2, CNN_DIM)}[number]
    config = config_of(lines[line], d)
    own = PUBLISHED["fashion-mnist"]
    told = own[(own["table"] == number) & (own["row"] == line[0]) & (own["components"] == line[1])]["parameters"].item()
    if line in COSTLY:  # 10 million numbers, which are counted without being made
        assert (DIM + 1) * n_outputs(config, SHAPE) + (784 + 1) * DIM == told
        return
    model = family(config.model).load()([config], SHAPE, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == told


# Planted errors, in percent, in which every claim is true by far; rows that are not named are at OTHER.
MSE, OTHER, OF_CNN = 1.5, 5.0, 12.0
L2 = {
    ("MSE", 1): MSE, ("N_mu", 1): MSE, ("MN_mu", 1): MSE + 0.1, ("N_mu", 10): 1.1, ("MN_mu", 10): 1.1,
    ("MSE, wide decoder", 1): 1.3, ("CNN MN_mu, channels first", 1): 1.61,
}  # fmt: skip
L2_BADLY = 8.0
LOSS = {
    ("MN_mu_U_V", 1): -100.0, ("T_df_mu_U_V", 1): -100.0,
    ("MN_mu_U_V, precision", 1): -300.0, ("T_df_mu_U_V, precision", 1): -300.0,
}  # fmt: skip
# After 15 epochs, of which the last five still lower it: full scales by more.
BEFORE = {("MN_mu_U_V", 1): -50.0, ("T_df_mu_U_V", 1): -50.0}
SECONDS = {("MSE", 1): 1.0, ("MAF", 1): 3.0}
ALIKE = {
    "outputs/coverage_90": 0.9, "outputs/sd_rank_correlation": 0.5, "outputs/neighbour_accuracy": 0.9, "components/heavy": 5.0,
    "components/keeps_label": 0.95, "components/mean_keeps_label": 0.97, "clusters/trace": 5.0,
    "components/accuracy": 0.8, "components/accuracy_of_components": 0.85, "components/accuracy_of_means": 0.82,
}  # fmt: skip


def world(change=lambda line, run: None, n_seeds=4, **settings):
    """Evidence of every row of both tables, those of Table 2 named CNN, with small noise; ``change`` alters a run of a line."""
    rng, rows = np.random.default_rng(0), []
    of_cnn = {(f"CNN {row}", k): config for (row, k), config in CNN_LINES.items()}
    for line, config in {**LINES, **of_cnn}.items():
        for seed in range(n_seeds):
            level = L2.get(line, OF_CNN if line in of_cnn else OTHER if line[1] == 1 else OTHER - 1)
            badly = line in (("t_df_mu", 10), ("T_df_mu", 10))
            run = {
                **config.to_dict(), "run_id": f"{line} {seed}", "variant": config.variant, "seed": seed, "config": config,
                "choices": config.choices, "outputs/l2_percent_released": L2_BADLY if badly else level,
                "outputs/l2_percent": 1.2 if badly else level, "train_seconds": SECONDS.get(line, 1.5 * line[1] ** 0.5),
                "train/loss": LOSS.get(line, -200.0), "train/loss before": BEFORE.get(line, -190.0), **ALIKE,
                **{f"classifier/{images}/frechet_to_noise": 500.0 if line in NAMED_FOR_FID else 600.0 for images in SHOWN},
                **{f"classifier/{images}/frechet": 20.0 if line in NAMED_FOR_FID else 10.0 for images in SHOWN},
            } | settings  # fmt: skip
            change(line, run)
            for name in (name for name in run if "/" in name or name == "train_seconds"):
                run[name] *= 1 + 1e-4 * rng.standard_normal()
            rows.append(run)
    history = pd.DataFrame([
        {"run_id": run["run_id"], "metric": "train/loss", "epoch": epoch, "value": run[name]}
        for run in rows for epoch, name in ((15, "train/loss before"), (20, "train/loss"))
    ])  # fmt: skip
    return Evidence(pd.DataFrame(rows), history, scope=claims.scope_of(PAPER))


def finding(name, evidence):
    return next(claim for claim in CLAIMS if claim.id == name).find(evidence)


def verdicts(evidence):
    return {claim.id: claim.find(evidence).verdict for claim in CLAIMS}


def at(column, value, *lines):
    def change(line, run):
        if line in lines:
            run[column] = value

    return change


RELEASED, SHOWN = "outputs/l2_percent_released", ("reconstruction", "densest_mode")
FALSE = {
    "VP1": at(RELEASED, 1.4, ("MAF", 1)),
    "VP2": at(RELEASED, 1.6, ("N_mu", 10)),
    "VP3": at("classifier/densest_mode/frechet_to_noise", 700.0, ("t_df_mu", 10)),
    "VP5": at("train_seconds", 0.5, ("N_mu", 1)),
    "VP6": at(RELEASED, 5.0, ("CNN T_df_mu_diagUV", 10)),
    "VP9": at("train/loss before", -100.0, ("T_df_mu_U_V", 1)),
    "VP10": at("outputs/coverage_90", 0.99, ("MN_mu_U_V", 1)),
    "VP11": at("components/keeps_label", 0.5, ("t_df_mu", 10)),
    "VP12": at("outputs/neighbour_accuracy", 0.5, ("MAF", 1)),
    "Q1": at(RELEASED, 1.0, ("MSE, wide decoder", 1)),
    "Q2": at("train_seconds", 5.0, ("MAF", 1)),
    "Q3": at(RELEASED, 8.0, ("CNN MN_mu, channels first", 1)),
    "Q5": at("train/loss", -100.0, ("MN_mu_U_V, precision", 1)),
    "VP4": at("train_seconds", 16.0, ("MN_mu_U_V", 10)),
    "VP7": at(RELEASED, 5.5, ("T_df_mu_diagUV", 10)),
    "VP8": at(RELEASED, 4.0, ("t_df_mu", 10)),
    "Q4": at("outputs/l2_percent", 2.0, ("T_df_mu", 10)),
}


def test_planted_truths_are_confirmed_but_for_two_claims_that_exclude_each_other():
    """Where t and T reconstruct badly with K = 10 (VP8), mixtures are not the best of every family (VP7)."""
    assert verdicts(world()) == dict.fromkeys(FALSE, "confirmed") | {"VP7": "contradicted"}
    beside = finding("VP7", world()).beside["By the mixture's mean"]
    assert {part.verdict for part in beside} == {"confirmed"}  # of the same runs
    good = world(at(RELEASED, 1.2, ("t_df_mu", 10), ("T_df_mu", 10)))
    assert verdicts(good) == dict.fromkeys(FALSE, "confirmed") | {"VP8": "contradicted"}


def test_by_the_distance_to_test_images_the_named_rows_are_not_the_best():
    """Which the paper does not ask: both orders stand beside each other."""
    (beside,) = finding("VP3", world()).beside.values()
    assert [part.verdict for part in beside] == ["contradicted"] * len(NAMED_FOR_FID)


def test_by_the_distance_to_test_images_of_what_is_shown_some_mixtures_are_worse():
    """Those of the rows that the paper names for its own distance, where one component is another row."""
    beside = finding("VP7", world()).beside["By the distance to test images"]
    worse = {f"{row} K = 10 − {row} K = 1" for row, k in NAMED_FOR_FID if k == 10 and (row, 1) not in NAMED_FOR_FID}
    assert len(worse) == 4
    assert {part.name for part in beside if part.verdict == "contradicted"} == worse
    better = at("classifier/densest_mode/frechet", 5.0, ("t_df_mu", 10))
    (part,) = (
        part
        for part in finding("VP7", world(better)).beside["By the distance to test images"]
        if part.name == "t_df_mu K = 10 − t_df_mu K = 1"
    )
    assert part.verdict == "confirmed"


def test_a_single_doubtful_score_is_enough_for_each_half_of_a_claim():
    for name, false in (
        ("VP5", at("train_seconds", 1.2, ("MAF", 1))),  # faster than some row
        ("VP10", at("outputs/sd_rank_correlation", 0.1, ("N_mu_diagSigma", 1))),
        ("VP11", at("components/heavy", 1.0, ("N_mu", 10))),
        ("VP11", at("components/accuracy_of_components", 0.75, ("MN_mu_U_V", 10))),
    ):
        assert finding(name, world(false)).verdict == "contradicted"
    without = world(at("outputs/sd_rank_correlation", float("nan"), *LINES))
    assert finding("VP10", without).verdict == "undecided"


def test_where_one_of_two_names_of_a_model_was_not_trained_the_others_runs_answer():
    evidence = world()
    (whole,) = finding("VP2", evidence).parts
    for k in (10, 1):
        without = replace(evidence, runs=evidence.runs[evidence.runs["variant"] != LINES["N_mu", k].variant])
        (part,) = finding("VP2", without).parts
        assert len(part.values) == len(whole.values)


@pytest.mark.parametrize("name", FALSE)
def test_each_claim_notices_where_it_is_false(name):
    assert finding(name, world(FALSE[name])).verdict == "contradicted"


def test_full_scales_that_lead_and_still_fall_need_more_epochs():
    """What they lead by after 20 epochs stands beside it, and has no say."""

    def leading(line, run):
        if line[0].endswith("_U_V"):
            run["train/loss"], run["train/loss before"] = -300.0, -250.0

    found = finding("VP9", world(leading))
    assert found.verdict == "confirmed"
    assert [part.verdict for part in found.beside["After 20 epochs"]] == ["contradicted"] * 2
    evidence = world()
    assert (
        finding("VP9", replace(evidence, history=evidence.history[evidence.history["epoch"] == 20])).verdict
        == "undecided"
    )


def test_the_training_loss_is_read_by_epoch_of_the_lines_that_may_still_fall(monkeypatch):
    class Read(Exception):
        pass

    def load_epochs(sweep, runs, metrics):
        raise Read(sorted(runs["variant"].unique()), metrics)

    monkeypatch.setattr(claims.frame, "load_epochs", load_epochs)
    sweep = SimpleNamespace(score="test/{}".format)
    with pytest.raises(Read) as asked:
        next(claims.parts(SimpleNamespace(sweep=sweep, paper=PAPER, runs=world().runs)))
    rows = ("MN_mu_U_V", "MN_mu_diagUV", "T_df_mu_U_V", "T_df_mu_diagUV")
    assert asked.value.args == (sorted(LINES[row, 1].variant for row in rows), ["train/loss"])


def test_two_rows_of_one_model_count_once_and_stand_for_each_other():
    evidence = world()
    for name in ("VP1", "VP7"):
        said = " ".join(part.name for part in finding(name, evidence).parts)
        assert "t_df_mu K" in said
        assert "T_df_mu K" not in said
        assert "MN_mu K" not in said

    def without(*rows):
        gone = {LINES[row, k].variant for row in rows for k in (1, 10)}
        return replace(evidence, runs=evidence.runs[~evidence.runs["variant"].isin(gone)])

    missing = without("T_df_mu", "N_mu")
    assert {name: finding(name, missing).verdict for name in ("VP1", "VP8", "Q1", "Q4")} == {
        "VP1": "contradicted", "VP8": "confirmed", "Q1": "confirmed", "Q4": "confirmed",  # MN_mu is planted 0.1 above MSE
    }  # fmt: skip
    assert [part.name for part in finding("VP8", missing).parts] == [
        "t_df_mu, K = 10", "T_df_mu, K = 10 (t_df_mu, the same model)"
    ]  # fmt: skip
    assert "T_df_mu K" in " ".join(part.name for part in finding("VP7", without("t_df_mu")).parts)


def test_what_a_claim_does_not_ask_stands_beside_it():
    """Of Q5 the factor alone, of VP11 the mixtures' means and what they teach, of VP12 the traces of clusters; none has a say."""
    others = world(at("clusters/trace", 2.0, ("MAF", 1)))
    for name, evidence, n, verdicts_of in (
        ("Q5", world(), 2, {"confirmed"}),
        ("VP11", world(), 8, {"confirmed"}),
        ("VP12", others, len(TABLE_1) - 1, {"confirmed", "contradicted"}),
    ):
        found = finding(name, evidence)
        (beside,) = found.beside.values()
        assert (len(beside), {part.verdict for part in beside}) == (n, verdicts_of)
        assert found.verdict == "confirmed"
    evidence = world()
    assert not finding("VP12", replace(evidence, runs=evidence.runs.drop(columns="clusters/trace"))).beside


def test_rows_agree_within_the_margin_alone():
    for excess, verdict in ((0.04, "confirmed"), (0.06, "contradicted")):
        assert finding("VP1", world(at(RELEASED, MSE + excess, ("N_mu", 1)))).verdict == verdict


def test_claims_are_of_both_data_sets_20_epochs_and_three_seeds():
    asked = world(dataset="fashion-mnist")
    assert set(verdicts(asked).values()) == {"confirmed", "contradicted"}
    assert set(verdicts(world(dataset="digits")).values()) == {"not asked of these data"}
    assert set(verdicts(world(epochs=19)).values()) == {"too short"}
    assert set(verdicts(world(n_seeds=2)).values()) == {"undecided"}
    assert set(verdicts(world(batch_size=64)).values()) == {"not asked of these data"}


def test_the_costly_rows_count_where_they_were_trained():
    evidence = world()
    vp1 = CLAIMS[0]
    with_all = vp1.find(evidence)
    costly = [LINES[line].variant for line in COSTLY]
    without = vp1.find(replace(evidence, runs=evidence.runs[~evidence.runs["variant"].isin(costly)]))
    assert len(with_all.parts) - len(without.parts) == len(COSTLY)
    assert without.verdict == "confirmed"


def test_seeds_that_were_trained_as_one_stack_are_one_measurement_of_its_time():
    shared = world()
    runs = shared.runs
    runs["train_seconds"] = runs.groupby(["variant", "latent_dim"])["train_seconds"].transform("first")
    for name in ("VP4", "VP5", "Q2"):
        found = finding(name, shared)
        assert found.verdict == "undecided"
        assert {len(part.values) for part in found.parts} == {1}
    assert finding("VP1", shared).verdict == "confirmed"
