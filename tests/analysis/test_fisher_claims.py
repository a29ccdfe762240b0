"""Verdicts on the Fisher auto-encoder paper follow from planted truths, and a flat curve of a poor model is called so."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.figures import claims
from analysis.papers import PAPERS
from analysis.papers.fisher_ae.claims import CLAIMS, DIMS, LINES, NETWORKS, TABLE_1, straightness
from analysis.scores.robustness import LEVELS
from analysis.verdicts import FLAT, Evidence
from fishernet.families import trial_config
from sweeps.planning import model_overrides

PAPER = PAPERS["fisher-ae"]
# Clean error, and its rise by unit of level; NMI falls as a line, or as a square root.
ERROR = {"fisher": (0.10, 0.1), "exponential": (0.10, 0.1), "total": (0.101, 0.1), "released": (0.10, 0.1),
         "unstable": (0.10, 0.3),
         "vae": (0.105, 0.4), "vae-gaussian": (0.12, 0.4), "vae-gaussian-exponential": (0.12, 0.39),
         "vae-gaussian-stable": (0.12, 0.1), "vae-exponential": (0.105, 0.2), "vae-stable": (0.106, 0.8),
         "wae": (0.11, 0.5), "density": (0.10, 0.1), "ae-noisy": (0.105, 0.3), "vae-noisy": (0.106, 0.35),
         "fisher-learned": (0.10, 0.2), "vae-learned": (0.11, 0.4)}  # fmt: skip
# By set of samples, the distance of the images; SVGD's clouds are too narrow, which here makes them worse.
DISTANCES = {
    "fisher": {"prior": 89.1, "tempered": 95.0}, "exponential": {"svgd": 84.7}, "density": {"prior": 80.0, "svgd": 85.0},
    "vae": {"prior": 89.1}, "wae": {"prior": 75.2},
}  # fmt: skip
ON_IMAGES = [
    claim for claim in CLAIMS if claim.id not in ("FE1", "FE5")
]  # of damaged MNIST; those of samples of CelebA


def world(change=None, network=NETWORKS[0], features="inception", **settings):
    """Evidence in which every claim is true by far, but for what ``change(name, run)`` does to a run's values."""
    rng, rows = np.random.default_rng(0), []
    shared = 0.02 * rng.standard_normal(4)
    for name, config in LINES[network].items():
        for seed in range(4):
            clean, slope = ERROR[name]
            run = config.to_dict() | {"config": config, "variant": config.variant, "choices": config.choices, "seed": seed,
                                      "run_id": f"{name}{seed}", "latent_dim": DIMS[network], "clean": clean,
                                      "slope": slope}  # fmt: skip
            run |= settings
            if change:
                change(name, run)
            for kind, levels in LEVELS.items():
                for level in levels:
                    error = run["clean"] + run["slope"] * level + shared[seed] * 0.01 + 1e-4 * rng.standard_normal()
                    fall = 0.2 * level if name in ("fisher", "exponential") else 0.5 * level**0.5
                    run[f"robustness/{kind}/{level:g}/bce"] = run[f"robustness/{kind}/{level:g}/mse"] = error
                    for group in ("robustness", "tsne"):
                        noise = 1e-3 * rng.standard_normal()
                        run[f"{group}/{kind}/{level:g}/nmi"] = run.get("nmi", 0.6) - fall + shared[seed] + noise
            for images, distance in DISTANCES.get(name, {}).items():
                run[f"{features}/{images}/frechet"] = distance + 20 * shared[seed] + 0.1 * rng.standard_normal()
            rows.append(run)
    return Evidence(pd.DataFrame(rows), pd.DataFrame(), scope=claims.scope_of(PAPER))


def find(name, evidence):
    return next(claim for claim in CLAIMS if claim.id == name).find(evidence)


def text(name, evidence):
    return find(name, evidence).text()


def of(line, **values):
    return lambda name, run: run.update(values) if name == line else None


def test_all_claims_are_confirmed_where_they_are_true():
    evidence = world()
    verdicts = {claim.id: claim.find(evidence).verdict for claim in ON_IMAGES}
    assert verdicts == dict.fromkeys(("FE2a", "FE2b", "FE3", "FE4", "FE6", "FQ2"), "confirmed") | {
        "FQ1": "the prior, the divergence"
    }
    table = claims.table(PAPER, evidence, lambda variants, dims: "")
    assert "Settings other than" not in table.caption
    assert "Reduced" not in table.caption


@pytest.mark.parametrize(
    ("name", "change"),
    [("FE2a", of("wae", clean=0.05)), ("FE2b", of("fisher", slope=0.6)), ("FE4", of("fisher", slope=0.6)),
     ("FE6", of("total", slope=0.5)), ("FQ2", of("ae-noisy", clean=0.05, slope=0.1)), ("FQ2", of("vae-noisy", slope=0.0))],
)  # fmt: skip
def test_each_claim_is_contradicted_where_it_is_false(name, change):
    assert find(name, world(change)).verdict == "contradicted"


def test_a_flat_curve_of_a_poor_model_is_flat_because_poor():
    poor = world(of("fisher", clean=0.3, slope=0.0))
    assert find("FE2b", poor).verdict == FLAT == "flat because poor"
    assert "It is flat because poor: its clean error is a tenth" in text("FE2b", poor)
    assert find("FE2a", poor).verdict == "contradicted"
    assert "poor" not in text("FE2b", world())
    assert find("FE2b", world(of("fisher", clean=0.3, slope=0.6))).verdict == "contradicted"  # poor, and not even flat
    short = world(of("fisher", clean=0.3, slope=0.0), epochs=20)
    assert find("FE2b", short).verdict == "too short"
    near = world(
        lambda name, run: (
            run.update(clean=0.105 * (1.1 + 0.02 * (run["seed"] - 1.5)), slope=0) if name == "fisher" else 0
        )
    )
    assert find("FE2b", near).verdict == "undecided"
    assert "It may be flat because it is poor" in text("FE2b", near)


def test_clusters_of_which_there_are_fewer_survive_because_poor():
    assert find("FE3", world(of("fisher", nmi=0.3))).verdict == FLAT
    assert "It is flat because poor: its clean NMI" in text("FE3", world(of("fisher", nmi=0.3)))
    assert find("FE3", world(of("fisher", nmi=0.58))).verdict == "confirmed"
    assert "poor" not in text("FE3", world(of("fisher", nmi=0.9)))
    near = world(lambda name, run: run.update(nmi=0.54 + 0.05 * (run["seed"] - 1.5)) if name == "fisher" else 0)
    assert find("FE3", near).verdict == "confirmed"
    assert "It may be flat because it is poor" in text("FE3", near)


def test_the_divergence_is_judged_without_the_term_that_the_paper_adds_to_it():
    """FQ1: FisherAE without the term beside the VAE of its likelihood; with it another answer, which decides nothing."""
    finding = find("FQ1", world(of("fisher", clean=0.3)))
    assert finding.verdict == "the prior, the divergence"
    together, learned = finding.beside["Divergence and term together"]
    assert together.mean == pytest.approx(0.3 + 0.02 - 0.12 - 0.08, abs=1e-3)
    assert learned.mean == pytest.approx(0.1 + 0.04 - 0.11 - 0.08, abs=1e-3)
    prior, within = finding.beside["The prior at FisherAE's likelihood"]
    assert (prior.mean, within.mean) == (pytest.approx(-0.002, abs=1e-3), pytest.approx(-0.2, abs=1e-3))
    term, within = finding.beside["The term at FisherAE's likelihood"]
    assert (term.mean, within.mean) == (pytest.approx(-0.06, abs=1e-3), pytest.approx(0.16, abs=1e-3))
    clean, rise = finding.beside["Clean"], finding.beside["The rise from it"]
    assert [f"rise of {part.name.replace(' − ', ' − of ').replace(', clean', '')}" for part in clean] == [
        part.name for part in rise
    ]
    assert (clean[-2].mean, rise[-2].mean) == (pytest.approx(0.18, abs=1e-3), pytest.approx(-0.06, abs=1e-3))
    assert len(clean) == len(rise) == 9
    assert find("FQ1", world(of("unstable", clean=0.3))).verdict == "the prior"


def test_the_released_form_stands_beside_the_papers_and_decides_nothing():
    finding = find("FE2b", world(of("released", clean=0.3, slope=0.0)))
    assert finding.verdict == "confirmed"
    assert [part.reading for part in finding.beside["As released"]] == ["holds", "holds", "contrary"]
    assert "As released it is flat because poor" in finding.text()
    assert LINES[NETWORKS[0]]["released"].words[:2] == ["total", "held"]
    assert [part.reading for part in finding.beside["With learned noise"]] == ["holds"] * 3


def test_its_presets_train_every_line_that_a_claim_compares():
    asked = {
        network: {config for config in lines.values() if config.network == network} for network, lines in LINES.items()
    }
    for network, names in ((NETWORKS[0], ("fisher-ae", "fisher-ae-controls")), (TABLE_1[0], ("fisher-ae-celeba",))):
        trained = set()
        for name in names:
            preset = PAPER.all_presets[name]
            fields = {key: value for key, value in preset.items() if key not in ("models", "latent_dims", "seeds")}
            trained |= {trial_config({**fields, **model_overrides(line)}) for line in preset["models"]}
        assert asked[network] <= trained


def test_the_stability_term_is_judged_at_equal_clean_errors_alone():
    evidence = world(of("unstable", clean=0.2))
    assert find("FE6", evidence).verdict == "undecided"
    assert "Clean errors are not equal" in text("FE6", evidence)


def test_runs_of_another_network_images_or_length_decide_nothing():
    for evidence, word, why in (
        (world(network="dense"), "not asked of these data", "network dense"),
        (world(dataset="fashion-mnist"), "not asked of these data", "images of fashion-mnist"),
        (world(learning_rate=1e-3), "not asked of these data", "learning_rate 0.001"),
        (world(epochs=20), "too short", "20 epochs"),
    ):
        for claim in ON_IMAGES:
            assert claim.find(evidence).verdict == word
        assert why in text("FE2a", evidence)
        assert "learning_rate 0.0002" not in text("FE2a", evidence)


def test_runs_without_scores_are_said_to_lack_them():
    evidence = world()
    bare = Evidence(evidence.runs[[n for n in evidence.runs if "/" not in n]], pd.DataFrame(), scope=evidence.scope)
    for claim in ON_IMAGES:
        assert claim.find(bare).verdict == "undecided"
    assert "Too few runs have robustness/gaussian/0.1/bce" in text("FE2a", bare)


def test_nmi_after_tsne_stands_beside_the_claim_and_decides_nothing():
    evidence = world()
    beside = find("FE3", evidence).beside["After t-SNE, as the paper"]
    assert [part.reading for part in beside] == ["holds"] * 4
    columns = [name for name in evidence.runs if str(name).startswith("tsne/") and not str(name).endswith("/0/nmi")]
    fallen = evidence.runs[columns].mul(0.0)
    fallen[evidence.runs["variant"] != LINES[NETWORKS[0]]["fisher"].variant] = evidence.runs[columns]
    evidence = Evidence(evidence.runs.assign(**fallen), pd.DataFrame(), scope=evidence.scope)
    assert find("FE3", evidence).verdict == "confirmed"
    assert {part.reading for part in find("FE3", evidence).beside["After t-SNE, as the paper"]} & {"contrary"}


def test_claims_on_samples_are_of_celeba_and_of_fid():
    on_celeba = world(network=TABLE_1[0])
    for name in ("FE1", "FE5"):
        assert find(name, on_celeba).verdict == "confirmed"
        for evidence, why in (
            (world(), "images of mnist"),
            (world(), f"network {NETWORKS[0]}"),
            (world(network=TABLE_1[0], features="classifier"), "distance on classifier features, not FID"),
            (world(network=TABLE_1[0], features="random"), "distance on random features, not FID"),
            (world(network=TABLE_1[0], learning_rate=1e-3), "learning_rate 0.001"),
        ):
            assert find(name, evidence).verdict == "not asked of these data"
            assert why in text(name, evidence)
    assert find("FE1", world(network=TABLE_1[0], epochs=3)).verdict == "too short"
    for claim in ON_IMAGES:
        if claim.id in ("FE2a", "FE4"):
            assert claim.find(on_celeba).verdict == "not asked of these data"


@pytest.mark.parametrize(
    ("name", "line", "images", "value"),
    [("FE1", "wae", "prior", 90.0), ("FE1", "exponential", "svgd", 92.0), ("FE1", "vae", "prior", 95.0),
     ("FE5", "density", "prior", 92.0)],
)  # fmt: skip
def test_an_order_of_table_1_that_is_another_contradicts(monkeypatch, name, line, images, value):
    monkeypatch.setitem(DISTANCES, line, DISTANCES[line] | {images: value})
    assert find(name, world(network=TABLE_1[0])).verdict == "contradicted"


def test_beside_the_learned_priors_gain_stands_what_its_sampler_does():
    beside = find("FE5", world(network=TABLE_1[0])).beside
    means = {what: round(part.mean) for what, (part,) in beside.items()}
    assert means == {
        "As the paper, by SVGD": -4, "SVGD against exact draws of one prior": 5,
        "The normal prior as narrow as SVGD's clouds": 6,
    }  # fmt: skip
    assert all(math.isfinite(part.interval[0]) for (part,) in beside.values())


def test_r_squared_is_that_of_a_straight_line():
    x = (0.0, 0.1, 0.3, 1.0)
    rng = np.random.default_rng(0)
    y = rng.standard_normal((5, 4))
    columns = tuple(pd.Series(column) for column in y.T)
    expected = [np.corrcoef(x, row)[0, 1] ** 2 for row in y]
    np.testing.assert_allclose(straightness(x, columns), expected, rtol=1e-12)
    assert straightness(x, tuple(pd.Series([2.0]) for _ in x)).isna().all()
