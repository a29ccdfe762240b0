"""Places in the Fisher-Shannon plane against closed forms, tables of made runs, and verdicts from planted truths."""

import itertools
import json
import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from analysis import style
from analysis.errors import AnalysisError
from analysis.exhibits import Absent
from analysis.figures import claims as figure
from analysis.figures import plane
from analysis.papers import published
from analysis.papers.fisher_shannon import PAPER
from analysis.papers.fisher_shannon import REVERSED as BOTH
from analysis.papers.fisher_shannon import claims as made
from analysis.verdicts import Evidence
from fishernet.families import BUILT_IN, trial_config
from sweeps.planning import model_overrides

REVERSED = BOTH[0]
D = 40
F_OF = {"FAE": 20, "FAE F=10": 10, "FAE F=5": 5, "FAE F=0.1": 0.1}
NLL = {"FAE": 80.0, "MAE": 81.0, "MAE M=0": 82.0, "FAE F=0": 83.0, "VAE": 85.0, "IAF": 80.2, "PixelVAE": 79.8}


def gaussian(variances):
    """H and tr J of diagonal Gaussians, the means over rows of variances, (n, d)."""
    v = np.asarray(variances, dtype=float)
    return float((0.5 * np.log(2 * math.pi * math.e * v)).sum(1).mean()), float((1 / v).sum(1).mean())


def runs_of(rows):
    return pd.DataFrame([{"run_id": str(i), "scores": {}} | row for i, row in enumerate(rows)])


def place(h, j, d):
    run = {"variant": "VAE", "model": "VAE", "latent_dim": d, "seed": 0}
    return plane.places(runs_of([run | {"test/posterior_entropy": h, "test/fisher_information": j}]), "test").iloc[0]


@pytest.mark.parametrize(
    ("variances", "product"),
    [
        ([[0.1, 1, 4]], (0.1 * 1 * 4) ** (1 / 3) * (10 + 1 + 0.25) / 3),  # geometric mean of s^2, arithmetic of 1/s^2
        ([[0.3] * 5], 1.0),
        ([[0.01] * 4, [1.0] * 4], 0.1 * 50.5),  # equal within an image, not between: 5.05
    ],
)
def test_a_place_is_the_entropy_power_and_the_information_of_a_latent(variances, product):
    d = len(variances[0])
    found = place(*gaussian(variances), d)
    assert found["NJ"] == pytest.approx(product)
    assert found["N"] == pytest.approx(np.exp(np.log(np.asarray(variances)).mean()))
    assert found["J"] == pytest.approx((1 / np.asarray(variances)).mean())
    scaled = place(*gaussian(7 * np.asarray(variances)), d)
    assert scaled["NJ"] == pytest.approx(product)


def test_without_1_over_n_equation_2_would_be_below_the_least_that_equation_5_allows():
    """Two latents of s^2 = 0.01: N tr J is 0.34 with exp(2H) as printed, and n with exp(2H/n)."""
    h, j = gaussian([[0.01, 0.01]])
    assert plane.entropy_power(h, 1) * j == pytest.approx(0.3416, abs=1e-4)
    assert plane.entropy_power(h, 2) * j == pytest.approx(2)


def nll_of(config):
    """Of every reading of F what FAE has; of a VAE with another weight of the divergence a little more."""
    if config.model == "FAE" and config.fisher_constraint != "released-mlp" and config.fisher_target in (0, 20):
        return NLL["FAE" if config.fisher_target else "FAE F=0"]
    return NLL.get(config.variant, 90)


def trained(n_seeds=3, dims=(D,), dataset="mnist", change=None):
    """Runs of the paper's settings, in which every claim of one data set holds but FA3 and FA6, which follow from N J."""
    lines = made.ASKED if dataset == "mnist" else [c for c in made.ASKED if c.variant in F_OF]
    rows, rng = [], np.random.default_rng(0)
    for config in lines:
        for d in dims:
            for seed in range(n_seeds):
                noise, target = 1e-3 * rng.standard_normal(), getattr(config, "fisher_target", -1)
                width = 0.05 if config.model == "IAF" else 0.05 * (1 + (target == 0))
                ratio = 1.5 if config.model == "IAF" else 1.01
                h = 0.5 * d * math.log(2 * math.pi * math.e * width) + noise
                run = config.to_dict() | {
                    "latent_dim": d, "seed": seed, "dataset": dataset, "config": config, "variant": config.variant,
                    "choices": config.choices, "test/mse": 0.02 + 0.01 * (target == 0) + 1e-3 * noise,
                    "test/posterior_entropy": h, "test/fisher_information": ratio * d / width * (1 + noise),
                    "clusters/trace": 5 + (target == 0) + noise, "n_epochs": 700,
                    "likelihood/nll": nll_of(config) + noise, "likelihood/nll/k100": 2 + nll_of(config),
                    "likelihood/nll_penalised": nll_of(config) + (-1 if config.variant == made.REWARDED.variant else 1),
                    "test/kl": 20 - 3 * math.log(getattr(config, "kl_weight", 1)) - 2 * (target == 0) + noise,
                    "information/active": 11.0, "information/nearest_neighbours": 0.9 + 0.05 * (target == 0) + noise,
                    "information/linear_probe": 0.8 - 0.05 * (target == 0) + noise,
                    "likelihood/nll/standard_error": 0.5, "likelihood/nll/ess": 4.0, "likelihood/bits_per_dim": 0.147,
                    "scores": {"likelihood": {"held-out": {"draws": 1000, "images": 1000, "asked": 1000, "probability": True}}},
                }  # fmt: skip
                if dataset in BOTH:
                    run |= {"likelihood/nll": 100 + target + noise, "likelihood/training/nll": 100 - target + noise}
                if change:
                    change(run)
                rows.append(run)
    return runs_of(rows)


def history_of(runs, then, epoch=100):
    """After the warm-up's last epoch, the entropy and information that ``then`` makes of the last."""
    rows = []
    for _, run in runs.iterrows():
        for name, value in zip(
            made.BY_EPOCH, then(run["test/posterior_entropy"], run["test/fisher_information"]), strict=True
        ):
            rows.append((run["run_id"], epoch, f"test/{name}", value))
    return pd.DataFrame(rows, columns=["run_id", "epoch", "metric", "value"])


def evidence(runs, then=lambda h, j: (h + 0.5 * D * math.log(2), j / 2)):
    return Evidence(runs, history_of(runs, then), scope=figure.scope_of(PAPER))


def verdicts(found):
    return {claim.id: claim.find(found).verdict for claim in made.CLAIMS}


def test_what_is_true_of_the_papers_sweep_is_confirmed_and_what_is_of_other_images_is_not_asked():
    assert verdicts(evidence(trained())) == {
        "FA1": "confirmed", "FA2": "not asked of these data", "FA3": "confirmed", "FA4": "confirmed",
        "FA5": "not asked of these data", "FA6": "confirmed", "QF1": "FAE better; FAE F=0 better",
        "QF2": "FA1: mean, trace, released-conv; FA4: mean, trace, released-conv",
        "QF3": "FAE released-mlp", "QF4": "undecided",
    }  # fmt: skip
    for dataset in BOTH:
        of_reversed = verdicts(evidence(trained(dataset=dataset)))
        assert of_reversed["FA2"] == "confirmed"
        assert of_reversed["FA3"] == "not asked of these data"
        assert len(published.tables(PAPER, dataset)["nll"]) == 8


def test_its_presets_train_every_line_that_a_claim_compares():
    trained_by, dims = {}, {}
    for name in ("fisher-shannon", "fisher-shannon-controls", "fisher-shannon-fishernet"):
        preset = PAPER.all_presets[name]
        fields = {key: value for key, value in preset.items() if key not in ("models", "latent_dims", "seeds")}
        lines = [trial_config({**fields, **model_overrides(line), "latent_dim": D}) for line in preset["models"]]
        trained_by |= dict.fromkeys(lines, name)
        dims[name] = preset["latent_dims"]
    assert set(made.ASKED) <= set(trained_by)
    assert dims["fisher-shannon-fishernet"] == "2,5,10,20"


def test_what_training_made_of_deep_networks_stands_beside_their_verdict():
    """A share of 0.9 that an untrained network has as well is none of training's making."""
    (claim,) = (claim for claim in made.CLAIMS if claim.id == "FA5")
    for before, readings in ((0.2, ["holds", "contrary"]), (0.95, ["contrary", "holds"])):

        def change(run, before=before):
            deep(run)
            run["information/untrained/nearest_neighbours"] = before + 1e-4 * run["seed"]

        finding = claim.find(evidence(trained(change=change)))
        beside = [part for part in finding.beside["By training"] if "20 layers" in part.name]
        assert [part.reading for part in beside] == readings
        assert finding.verdict == "undecided"  # as without them


@pytest.mark.parametrize("epochs", [2000, 150])
def test_a_claim_whose_scores_are_lacking_names_them_however_long_runs_were(epochs):
    runs = trained(dataset=REVERSED, change=lambda run: run.update(epochs=epochs))
    (claim,) = (claim for claim in made.CLAIMS if claim.id == "FA2")
    finding = claim.find(evidence(runs.drop(columns="likelihood/training/nll")))
    assert finding.verdict == ("undecided" if epochs == 2000 else "too short")
    assert "3 of 6 comparisons hold; 3 not scored" in finding.text()
    assert "Too few runs have likelihood/training/nll" in finding.text()


def setting(column, value, variant):
    def change(run):
        if run["variant"] == variant:
            run[column] = value + run["seed"] * 1e-4

    return change


@pytest.mark.parametrize(
    ("claim", "dataset", "change"),
    [
        ("FA1", "mnist", setting("likelihood/nll", 82.5, "MAE")),
        ("FA1", "mnist", setting("likelihood/nll", 82.5, "VAE")),
        ("FA2", REVERSED, setting("likelihood/training/nll", 120, "FAE F=5")),
        ("FA2", REVERSED, setting("likelihood/nll", 90, "FAE")),
        ("FA4", "mnist", setting("clusters/trace", 7, "FAE")),
        ("FA4", "mnist", setting("test/mse", 0.04, "FAE")),
        ("FA4", "mnist", setting("information/nearest_neighbours", 0.99, "FAE")),
        ("FA6", "mnist", setting("test/fisher_information", 1.2 * D / 0.05, "VAE")),
        ("FA6", "mnist", setting("test/fisher_information", 1.01 * D / 0.05, "IAF")),
    ],
)
def test_what_is_false_is_contradicted(claim, dataset, change):
    assert verdicts(evidence(trained(dataset=dataset, change=change)))[claim] == "contradicted"


@pytest.mark.parametrize(
    ("short", "changed"),
    [(False, {"binarisation": "none"}), (False, {"stopping_size": 0}), (False, {"kl_warmup": 0}), (False, {"patience": 0}),
     (True, {"binarisation": "threshold"}), (True, {"kl_warmup": 10, "patience": 0})],
)  # fmt: skip
def test_images_and_schedules_other_than_the_presets_decide_nothing(short, changed):
    """Static and dynamic binarisation are three nats apart. Of shorter runs it is the length that is said."""
    runs = trained(change=lambda run: run.update(changed | ({"epochs": 40} if short else {})))
    found = verdicts(evidence(runs))
    only_short = short and "binarisation" not in changed
    asked = ("FA1", "FA3", "FA4", "FA6", "QF1", "QF2", "QF3")
    assert {found[name] for name in asked} == {"too short" if only_short else "not asked of these data"}
    assert only_short or all(f"{name} {value}" in claim_text("FA1", runs) for name, value in changed.items())


def claim_text(name, runs):
    return next(claim for claim in made.CLAIMS if claim.id == name).find(evidence(runs)).text()


def test_a_line_that_was_not_trained_makes_no_other_verdict_of_short_runs():
    runs = trained(change=lambda run: run.update(epochs=40))
    found = verdicts(evidence(runs[runs["variant"].isin(["FAE", "FAE F=0", "VAE"])]))
    assert found["QF2"] == "too short"


def test_the_path_along_the_curve_begins_where_the_divergence_has_its_weight():
    """Epoch 100 of the preset: what changes while the divergence is warmed up is no training."""
    found = next(claim for claim in made.CLAIMS if claim.id == "FA3").find(evidence(trained()))
    assert all("epoch 100" in part.name for part in found.parts)
    at_once = trained(change=lambda run: run.update(kl_warmup=0))
    of_10 = Evidence(at_once, history_of(at_once, lambda h, j: (h, j), 10), scope=figure.scope_of(PAPER))
    assert all("epoch 10 " in part.name for part in next(c for c in made.CLAIMS if c.id == "FA3").find(of_10).parts)


def test_a_linear_probe_stands_beside_the_classes_of_neighbours_and_decides_nothing():
    found = next(claim for claim in made.CLAIMS if claim.id == "FA4").find(evidence(trained()))
    (probe,) = found.beside["By a linear probe"]
    assert (found.verdict, probe.reading) == ("confirmed", "contrary")
    assert probe.mean == pytest.approx(0.05, abs=0.005)


def deep(run):
    run["hidden_layers"] = 20
    if run["model"] == "MAE":
        run |= {"information/active": 1.0, "information/nearest_neighbours": 0.9}


def test_deep_networks_are_judged_by_active_latents_and_neighbours_in_sweeps_of_their_depth_alone():
    deeply = evidence(trained(change=deep))
    (claim,) = (claim for claim in made.CLAIMS if claim.id == "FA5")
    found = claim.find(deeply)
    assert found.verdict == "undecided"  # of 30 and 40 layers nothing is known
    assert [part.verdict for part in found.parts] == ["confirmed"] * 2 + ["undecided"] * 4
    assert verdicts(deeply)["FA1"] == "not asked of these data"
    shallow = claim.find(evidence(trained()))
    assert "hidden_layers 5" in shallow.text()
    assert all("5 layers" in part.name for part in shallow.parts)
    for variant, change in (
        ("FAE", {"information/active": 1.0}),
        ("FAE", {"information/nearest_neighbours": 0.4}),
        ("MAE", {"information/active": 2.0}),
    ):
        runs = trained(
            change=lambda run, v=variant, c=change: (deep(run), run.update(c) if run["variant"] == v else None)
        )
        assert verdicts(evidence(runs))["FA5"] == "contradicted", (variant, change)
    by_neighbours = trained(
        change=lambda run: (deep(run), run.update({"information/active": 9.0, "information/nearest_neighbours": 0.2})
                            if run["variant"] == "MAE" else None)
    )  # fmt: skip
    assert [part.verdict for part in claim.find(evidence(by_neighbours)).parts][:2] == ["confirmed"] * 2


def of_depth(depth, broken=False):
    """FAE and MAE as the preset of deep networks has them; with ``broken`` FAE tells few classes."""

    def change(run):
        deep(run)
        own = replace(run["config"], hidden_layers=depth, setting=f"{depth}-layers")
        run |= {"config": own, "variant": own.variant, "hidden_layers": depth}
        if broken and run["model"] == "FAE":
            run["information/nearest_neighbours"] = 0.2 + 1e-4 * run["seed"]

    runs, asked = trained(change=change), (made.FAE_OF[20], made.MAE_OF[10])
    wanted = [(c.model, c.choices) for c in asked]
    return runs[[line in wanted for line in zip(runs["model"], runs["choices"], strict=True)]]


def together(*parts):
    runs = pd.concat(parts, ignore_index=True)
    return runs.assign(run_id=runs.index.astype(str))


def test_lines_of_several_depths_in_one_sweep_are_judged_each_at_its_depth():
    """As the preset plans them. One that degenerates at one depth contradicts; a line that is missing there is asked for."""
    (claim,) = (claim for claim in made.CLAIMS if claim.id == "FA5")
    whole = together(trained(), *map(of_depth, (20, 30, 40)))
    found = claim.find(evidence(whole))
    assert (found.verdict, len(found.parts)) == ("confirmed", 6), found.text()
    assert verdicts(evidence(whole))["FA1"] == "confirmed"  # of the lines of five layers beside them
    broken = together(of_depth(20), of_depth(30, broken=True))
    parts = claim.find(evidence(broken)).parts
    assert [part.verdict for part in parts] == [
        "confirmed",
        "confirmed",
        "contradicted",
        "confirmed",
        *["undecided"] * 2,
    ]
    alone = claim.find(evidence(broken[broken["variant"] == "FAE 20-layers"]))
    assert alone.verdict == "undecided"
    assert ("MAE 20-layers", D) in alone.lacking


def test_the_preset_of_deep_networks_has_the_lines_that_the_claim_is_about():
    lines = [text.partition(":") for text in PAPER.presets["fisher-shannon-deep"]["models"]]
    planned = [
        trial_config(dict(pair.split("=") for pair in words.split(",")), model=model) for model, _, words in lines
    ]
    assert {(c.variant, c.hidden_layers) for c in planned} == {
        (f"{model} {depth}-layers", depth) for model in ("FAE", "MAE") for depth in (20, 30, 40)
    }


def test_fae_is_held_against_the_vae_of_the_nearest_divergence_that_is_chosen_by_it_alone():
    (claim,) = (claim for claim in made.CLAIMS if claim.id == "QF1")
    parts = {part.name: part for part in claim.find(evidence(trained())).parts}
    assert list(parts) == ["FAE − VAE, d = 40", "FAE F=0 − VAE beta=2, d = 40"]  # KL 20 and 18; of beta = 2, 17.9

    def change(run):
        if run["variant"] == "VAE beta=1.5":
            run |= {"test/kl": 18.0, "likelihood/nll": 80.0}  # nearest, and better than FAE F=0

    found = claim.find(evidence(trained(change=change)))
    assert found.verdict == "FAE better; FAE F=0 worse"
    far = claim.find(
        evidence(trained(change=lambda run: run.update({"test/kl": 30.0}) if run["variant"] == "FAE" else None))
    )
    assert far.verdict.startswith("FAE undecided")
    assert "No VAE has the KL divergence of FAE within 0.5 nats" in far.text()
    alone = trained()
    alone = alone[alone["model"] == "FAE"]
    assert claim.find(evidence(alone)).verdict == "FAE undecided; FAE F=0 undecided"


def test_a_reading_of_f_that_does_not_carry_a_claim_is_not_among_those_that_do():
    def change(run):
        if run["variant"] == made.READ_AS["trace"][20].variant:
            run |= {"likelihood/nll": 90.0, "test/mse": 0.05}
        if run["variant"] == made.READ_AS["released-conv"][20].variant:
            run["clusters/trace"] = 7

    runs = trained(change=change)
    assert verdicts(evidence(runs))["QF2"] == "FA1: mean, released-conv; FA4: mean"
    usual = runs[runs["variant"].isin(["FAE", "FAE F=0", "VAE", "MAE", "MAE M=0"])]
    assert verdicts(evidence(usual))["QF2"] == "FA1: mean; FA4: mean"


def test_that_no_reading_of_f_carries_a_claim_takes_a_contradiction_of_each():
    """One seed decides nothing: that is no "none"."""
    runs = trained()
    assert verdicts(evidence(runs[runs["seed"] == 0]))["QF2"] == "FA1: undecided; FA4: undecided"

    readings = {made.READ_AS[name][20].variant for name in made.READ_AS}

    def contrary(run):
        if run["variant"] in readings:
            run |= {"likelihood/nll": 190.0, "test/mse": 0.5}

    assert verdicts(evidence(trained(change=contrary)))["QF2"] == "FA1: none; FA4: none"


def test_the_estimator_explains_what_its_penalty_lowers_and_nothing_else():
    plain = trained()
    plain = plain[plain["variant"] != made.REWARDED.variant]
    assert verdicts(evidence(plain))["QF3"] == "none of them"
    bare = plain.drop(columns="likelihood/nll_penalised")
    assert verdicts(evidence(bare))["QF3"] == "undecided"


def test_fisher_net_lies_where_its_widths_put_it_at_each_dimension():
    """N J/d is 1.3 of FisherNet at d = 2 and 1.01 of both elsewhere, then 1.01 against the VAE's 1.2, both of normal pixels."""

    def of(factors):
        def change(run):
            factor = factors.get((run["model"], run["latent_dim"]))
            if factor is not None and run["likelihood"] == "gaussian-learned":
                run["test/fisher_information"] *= factor

        return verdicts(evidence(trained(dims=(2, 5, D), change=change)))["QF4"]

    assert of({("FisherNet", 2): 1.3, ("VAE", 5): 1.2}) == "nearer at d = 5; farther at d = 2"
    assert of({("FisherNet", 2): 1.3, ("FisherNet", 5): 1.1}) == "farther at d = 2, 5"


@pytest.mark.parametrize(
    "then",
    [
        lambda h, j: (h, j / 2),  # N stayed, so that N J doubled
        lambda h, j: (h - 0.5 * D * math.log(2), 2 * j),  # along the curve, the other way
        lambda h, j: (h + 0.5 * D * math.log(2), j / 1.6),
    ],
)
def test_a_path_that_leaves_the_curve_or_goes_the_other_way_contradicts(then):
    assert verdicts(evidence(trained(), then))["FA3"] == "contradicted"


def test_a_flow_without_information_in_closed_form_leaves_its_claim_open_and_says_so():
    runs = trained()
    runs.loc[runs["model"] == "IAF", "test/fisher_information"] = math.nan
    (claim,) = (claim for claim in made.CLAIMS if claim.id == "FA6")
    found = claim.find(evidence(runs))
    assert found.verdict == "undecided"
    assert "test/fisher_information" in found.text()


def test_settings_of_the_preset_are_the_papers_and_others_are_not():
    assert figure.remarks(PAPER, evidence(trained())) == []
    runs = trained(change=lambda run: run.update(hidden_width=64, epochs=40))
    assert {"not asked of these data"} == set(verdicts(evidence(runs)).values())
    said = " ".join(figure.remarks(PAPER, evidence(runs)))
    assert "hidden_width 64" in said
    assert "trained for 40 epochs" in said
    assert "too short" in verdicts(evidence(trained(change=lambda run: run.update(epochs=40)))).values()


def test_likelihoods_of_another_number_of_draws_are_left_out():
    runs = trained()
    about = {"draws": 10, "images": 1000, "asked": 1000, "probability": True}
    (first, *_) = runs.index[runs["variant"] == "VAE"]
    runs.at[first, "scores"] = {"likelihood": {"held-out": about}}
    kept, (said,) = plane.of_one_estimate(runs)
    assert kept["likelihood/nll"].isna().sum() == 1
    assert math.isnan(kept["likelihood/nll"][first])
    assert runs["likelihood/nll"].notna().all()
    assert "of 1 run with other numbers than 1,000 draws and 1,000 images" in said
    assert plane.of_one_estimate(trained())[1] == []


def sweep_of(runs, latents=None):
    sweep = SimpleNamespace(
        name="made", held_out="test", command=lambda *words: " ".join(words), score=lambda name: f"test/{name}"
    )
    variants = list(runs["variant"].unique())
    return SimpleNamespace(runs=runs, sweep=sweep, variants=variants, reasons={}, latents=latents)


def test_the_table_of_nll_has_ours_beside_the_papers_and_what_more_draws_gained():
    table = plane.nll_table(sweep_of(trained()), published.tables(PAPER, "mnist")["nll"])
    rows = table.shown.set_index("model")
    assert rows.loc["FAE", "NLL (nats)"].startswith("80.00 ± 0.0")
    assert rows.loc["FAE", "paper"] == "79.30"
    assert rows.loc["MAE M=0", "paper"] == "81.58"
    assert rows.loc["FAE F=5", "paper"] == ""
    assert rows.loc["FAE", "gained by the last tenfold draws"].startswith("2.00")
    assert "1,000 draws of each of 1,000 images" in table.caption
    assert "PixelVAE is told each pixel's predecessors" in table.caption
    assert "PixelVAE (sees the image)" in rows.index
    reversed_ = plane.nll_table(sweep_of(trained(dataset=REVERSED)), published.tables(PAPER, REVERSED)["nll"])
    of_fae = reversed_.shown[reversed_.shown["model"] == "FAE"].set_index("images")["paper"]
    assert of_fae.to_dict() == {"held-out": "164.56", "training": "94.48"}


def test_lines_are_compared_image_by_image_over_seeds_and_over_images(tmp_path):
    """What is a seed's alone has no say in the error over images, and what is an image's alone none in the interval."""
    runs, rng = trained(), np.random.default_rng(1)
    runs = runs[runs["variant"].isin(["VAE", "IAF", "FAE"])].reset_index(drop=True)
    of_image = rng.normal(90, 20, 1000)  # by far more than lines differ
    own = {"VAE": (0, 0), "IAF": (-1, 0.0), "FAE": (0.5, 2.0)}  # of a line, and how much images differ in it
    less = rng.standard_normal(1000)
    for _, run in runs.iterrows():
        run["scores"]["likelihood"]["held-out"]["by_image"] = True
        mean, sd = own[run["variant"]]
        nll = of_image + mean + sd * less + (0.1 * run["seed"] if run["variant"] != "VAE" else 0)
        (tmp_path / f"{run['run_id']}.json").write_text(json.dumps({"nll": nll.tolist()}))
    sweep = sweep_of(runs)
    sweep.artifact = lambda run, name: tmp_path / f"{run['run_id']}.json"
    table = plane.nll_differences(sweep, plane.pairs_by_image(sweep, "VAE"))
    found = table.data.set_index("variant")
    assert set(found["less"]) == {"VAE"}
    half = 4.302653 * 0.1 / math.sqrt(3)  # Student's t of two degrees of freedom
    assert found.loc["IAF", ["mean", "low", "high"]].tolist() == pytest.approx(
        [-0.9, -0.9 - half, -0.9 + half], abs=1e-5
    )
    assert found.loc["IAF", "standard_error"] == pytest.approx(0, abs=1e-9)
    assert found.loc["FAE", "mean"] == pytest.approx(0.6 + 2 * less.mean(), abs=1e-9)
    assert found.loc["FAE", "standard_error"] == pytest.approx(2 * less.std(ddof=1) / math.sqrt(1000))
    rows = table.shown.set_index("model")
    assert rows.loc["IAF", "nats"] == "−0.90"
    assert rows.loc["IAF", "95% interval over seeds"] == "[−1.15, −0.65]"
    del sweep.runs.loc[runs["variant"] == "VAE", "scores"].iloc[0]["likelihood"]["held-out"]["by_image"]
    (_, pairs), *_ = plane.pairs_by_image(sweep, "VAE")
    assert len(pairs) == 2  # seeds that both lines have
    for run in runs[runs["variant"] == "IAF"]["scores"]:
        run["likelihood"]["held-out"]["probability"] = False
    ((_, own),) = plane.pairs_by_image(sweep, "VAE")
    assert {run["variant"] for run, _ in own} == {"FAE"}  # a density has none
    assert not plane.pairs_by_image(sweep_of(trained()), "VAE")


def test_without_a_likelihood_there_is_a_command_and_without_the_terms_a_reason():
    bare = trained().drop(columns=[c for c in trained() if "likelihood" in c or c == "test/fisher_information"])
    bare["scores"] = [{}] * len(bare)
    plane_absent, _, nll = plane.parts(sweep_of(bare))
    assert isinstance(plane_absent, Absent)
    absent = nll.make()
    assert isinstance(absent, Absent)
    assert "--draws 1000" in absent.why


def test_active_latents_are_counted_from_the_stored_means():
    runs = trained(dims=(4,))
    runs = runs[runs["variant"] == "VAE"]
    spread = np.random.default_rng(0).standard_normal((500, 4)) * [1, 0.05, 0.5, 0.2]  # variances 1, 0.0025, 0.25, 0.04
    there = dict.fromkeys(runs["run_id"], spread)  # by the run that is asked about
    table = plane.information_table(
        sweep_of(runs, lambda run: (there[run["run_id"]], None)), plane.places(runs, "test")
    )
    assert table.shown["active latents"].tolist() == ["3.0 ± 0.0"]
    assert "cannot be had" not in table.caption

    def gone(run):
        raise AnalysisError("gone")

    table = plane.information_table(sweep_of(runs, gone), plane.places(runs, "test"))
    assert table.shown["active latents"].tolist() == [""]
    assert "The latents of 3 runs cannot be had" in table.caption


def test_scores_of_information_stand_in_the_table_with_their_ceiling_where_runs_have_them():
    def change(run):
        if run["model"] != "VAE":
            return
        about = {"images": 1000, "asked": 1000, "training_images": 10_000, "classified": 10_000}
        run |= {"information/from_below": 6.5, "information/kl": 20.0, "information/nearest_neighbours": 0.9}
        run["scores"] = run["scores"] | {"information": about}

    runs = trained(change=change)
    bare = plane.information_table(
        sweep_of(trained(), lambda run: (np.zeros((9, D)), None)), plane.places(runs, "test")
    )
    assert "I from below" not in bare.shown
    assert "ln" not in bare.caption
    table = plane.information_table(sweep_of(runs, lambda run: (np.zeros((9, D)), None)), plane.places(runs, "test"))
    rows = table.shown.set_index("model")
    assert rows.loc["VAE", ["KL", "I from below", "5-NN"]].tolist() == ["20.00 ± 0.00", "6.50 ± 0.00", "0.900 ± 0.000"]
    assert rows.loc["FAE", "I from below"] == ""
    assert "ln 1,000 = 6.91" in table.caption
    assert "the 5 nearest codes and by a linear map of the codes of 10,000 training images" in table.caption


def test_the_plane_has_a_point_for_every_run_and_a_line_for_every_variant_over_d():
    runs = trained(dims=(2, 10, D))
    points = plane.places(runs, "test")
    axes = plane.plot_plane(points).axes[0]
    assert sum(len(c.get_offsets()) for c in axes.collections if c.get_offsets().shape[0] == 9) == len(points)
    lines = {line.get_label(): line for line in axes.get_lines()}
    fae = points[points["variant"] == "FAE"]
    means = np.exp(np.log(fae["N"]).groupby(fae["latent_dim"]).mean())
    assert lines["FAE"].get_xdata() == pytest.approx(means.to_numpy())
    assert len(lines["FAE"].get_xdata()) == 3


def test_no_two_points_of_the_plane_have_one_shape_and_those_that_coincide_are_seen():
    """Lines that lie on each other are told by shapes, which are hollow but for each model's first."""
    points = plane.places(trained(), "test")
    names = {style.label(variant, model) for variant, model in zip(points["variant"], points["model"], strict=True)}
    drawn = [line for line in plane.plot_plane(points).axes[0].get_lines() if line.get_label() in names]
    assert len(drawn) == len(names)
    shapes = [line.get_marker() for line in drawn]
    assert {*shapes} == {*plane.SHAPES}  # all that there are before one is used again
    looks = {(line.get_marker(), line.get_color()) for line in drawn}
    assert len(looks) == len(drawn)
    filled = {line.get_label() for line in drawn if line.get_markerfacecolor() != "none"}
    firsts = points.drop_duplicates("model")
    assert filled == {style.label(v, m) for v, m in zip(firsts["variant"], firsts["model"], strict=True)}


def test_error_likelihood_and_classes_stand_over_the_targets_of_each_line():
    """FAE of the mean at F = 0 to 20; its readings by trace and as released at 0 and 20; the reward has no F."""
    found = plane.by_target(sweep_of(trained()))
    means = plane.targets_picture(sweep_of(trained()), "VAE").data
    scores = ["MSE", "NLL (nats)", "5-NN share", "linear probe"]
    assert set(found["score"]) == set(scores)
    of_mean = means[(means["variant"] == "FAE") & (means["score"] == "MSE")]
    assert of_mean["target"].tolist() == [0, 0.1, 5, 10, 20]
    assert of_mean["mean"].tolist() == pytest.approx([0.03, *[0.02] * 4], abs=1e-4)
    assert set(means["variant"]) == {"FAE", "FAE trace", "FAE clamped released-conv", "VAE"}
    level = means[means["target"].isna()]
    assert set(level["variant"]) == {"VAE"}
    figure = plane.plot_targets(means.dropna(subset="target"), level)
    assert [axes.get_title() for axes in figure.axes] == scores
    assert [{line.get_label() for line in axes.lines} for axes in figure.axes] == [{*means["variant"]}] * 4
    (dashed,) = (line for line in figure.axes[1].lines if line.get_label() == "VAE")
    assert dashed.get_ydata()[0] == pytest.approx(NLL["VAE"], abs=0.01)
    alone = trained()
    alone = sweep_of(alone[alone["variant"].isin(["FAE", "VAE", made.REWARDED.variant])])
    assert plane.TARGETS[0] not in {part[0] if isinstance(part, tuple) else part.stem for part in plane.parts(alone)}


def test_the_gap_of_table_2_is_the_mean_of_each_seeds_held_out_nll_less_its_training_nll():
    table = plane.nll_table(sweep_of(trained(dataset=REVERSED)))
    own = table.shown[(table.shown["model"] == "FAE F=5")].set_index("images")["held-out − training"]
    assert own["held-out"] == "10.00 ± 0.00"  # 105 less 95
    assert own["training"] == ""
    assert "held-out − training" not in plane.nll_table(sweep_of(trained())).shown


def test_no_two_models_look_alike():
    looks = [(style.colour(model), style.marker(model)) for model in (row.name for row in BUILT_IN)]
    assert len(set(looks)) == len(looks)


def test_a_sweep_without_the_papers_line_shows_the_path_of_the_first_that_there_is():
    runs = trained()
    (part,) = (p for p in plane.parts(sweep_of(runs[runs["variant"] == "VAE"]), of_path="FAE") if p[0] == plane.PATH[0])
    assert part.make.args[1:] == ("VAE",)


def test_the_line_that_is_asked_for_goes_before_the_papers_and_one_that_there_is_not_is_named():
    made_of = partial(plane.parts, sweep_of(trained()), of_path="FAE")
    for path, drawn in ((None, "FAE"), ("MAE", "MAE")):
        (part,) = (p for p in made_of(path=path) if p[0] == plane.PATH[0])
        assert part.make.args[1:] == (drawn,)
    with pytest.raises(AnalysisError, match=r"--path is the line .* got MEA\. Did you mean MAE\?$"):
        next(iter(made_of(path="MEA")))


def test_lines_of_the_published_tables_are_those_of_the_presets():
    lines = {config.variant for config in made.ASKED}
    for dataset in ("mnist", REVERSED):
        assert set(published.tables(PAPER, dataset)["nll"]["variant"]) <= lines
    assert trial_config(model="FAE", fisher_target=0).variant in lines


@pytest.mark.parametrize("reach", [1.001, 1.05, 3.0])
def test_neither_ticks_nor_names_of_ends_lie_on_each_other(reach):
    n = np.geomspace(1, reach, 3)
    figure = plane.plot_path(pd.DataFrame({"epoch": [1, 2, 3], "N": n, "J": 1 / n, "NJ": 1.0}))
    figure.draw_without_rendering()
    axes, bar = figure.axes
    named = {text.get_text() for text in axes.texts}
    assert named in ({"epoch 1", "epoch 3"}, {"epoch 1 to 3"})
    ticks = [tick for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_ticklabels() if tick.get_text()]
    assert len(ticks) >= 4
    assert all(float(tick.get_text().replace("−", "-")) > 0 for tick in ticks)  # no powers of ten
    assert all(float(tick.get_text()).is_integer() for tick in bar.get_yticklabels() if tick.get_visible())
    for texts in (axes.texts, axes.xaxis.get_ticklabels(), axes.yaxis.get_ticklabels()):
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
