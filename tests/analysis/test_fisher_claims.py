"""Verdicts on the Fisher auto-encoder paper follow from planted truths, and a flat curve of a poor model is called so."""

import numpy as np
import pandas as pd
import pytest

from analysis.figures import claims
from analysis.papers import PAPERS
from analysis.papers.fisher_ae.claims import CLAIMS, LINES, NETWORKS, straightness
from analysis.scores.robustness import LEVELS
from analysis.verdicts import Evidence

PAPER = PAPERS["fisher-ae"]
# Clean error, and its rise by unit of level; NMI falls as a line, or as a square root.
ERROR = {"fisher": (0.10, 0.1), "exponential": (0.10, 0.1), "total": (0.101, 0.1), "unstable": (0.10, 0.3),
         "vae": (0.105, 0.4), "vae-gaussian": (0.12, 0.4), "vae-exponential": (0.105, 0.2), "vae-stable": (0.106, 0.8),
         "wae": (0.11, 0.5)}  # fmt: skip


def world(change=None, network=NETWORKS[0], **settings):
    """Evidence in which every claim is true by far, but for what ``change(name, run)`` does to a run's values."""
    rng, rows = np.random.default_rng(0), []
    shared = 0.02 * rng.standard_normal(4)
    for name, config in LINES[network].items():
        for seed in range(4):
            clean, slope = ERROR[name]
            run = config.to_dict() | {"config": config, "variant": config.variant, "choices": config.choices, "seed": seed,
                                      "run_id": f"{name}{seed}", "latent_dim": 8, "clean": clean, "slope": slope}  # fmt: skip
            run |= settings
            if change:
                change(name, run)
            for kind, levels in LEVELS.items():
                for level in levels:
                    error = run["clean"] + run["slope"] * level + shared[seed] * 0.01 + 1e-4 * rng.standard_normal()
                    fall = 0.2 * level if name in ("fisher", "exponential") else 0.5 * level**0.5
                    run[f"robustness/{kind}/{level:g}/bce"] = run[f"robustness/{kind}/{level:g}/mse"] = error
                    run[f"robustness/{kind}/{level:g}/nmi"] = 0.6 - fall + shared[seed] + 1e-3 * rng.standard_normal()
            rows.append(run)
    return Evidence(pd.DataFrame(rows), pd.DataFrame(), scope=claims.scope_of(PAPER))


def find(name, evidence):
    return next(claim for claim in CLAIMS if claim.id == name).find(evidence)


def text(name, evidence):
    return find(name, evidence).text(lambda variants, dims: f"train {variants} at {dims}")


def of(line, **values):
    return lambda name, run: run.update(values) if name == line else None


def test_all_claims_are_confirmed_where_they_are_true():
    evidence = world()
    verdicts = {claim.id: claim.find(evidence).verdict for claim in CLAIMS}
    assert verdicts == dict.fromkeys(("FE2a", "FE2b", "FE3", "FE4", "FE6"), "confirmed") | {
        "FQ1": "the prior, the divergence"
    }
    table = claims.table(PAPER, evidence, lambda variants, dims: "")
    assert "Settings other than" not in table.caption
    assert "Reduced" not in table.caption


@pytest.mark.parametrize(
    ("name", "change"),
    [("FE2a", of("wae", clean=0.05)), ("FE2b", of("fisher", slope=0.6)), ("FE4", of("fisher", slope=0.6)),
     ("FE6", of("total", slope=0.5))],
)  # fmt: skip
def test_each_claim_is_contradicted_where_it_is_false(name, change):
    assert find(name, world(change)).verdict == "contradicted"


def test_a_flat_curve_of_a_poor_model_is_flat_because_poor():
    poor = world(of("fisher", clean=0.3, slope=0.0))
    assert find("FE2b", poor).verdict == "contradicted"
    assert "Flat because poor" in text("FE2b", poor)
    assert find("FE2a", poor).verdict == "contradicted"
    assert "poor" not in text("FE2b", world())


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
        for claim in CLAIMS:
            assert claim.find(evidence).verdict == word
        assert why in text("FE2a", evidence)
        assert "learning_rate 0.0002" not in text("FE2a", evidence)


def test_runs_without_scores_are_said_to_lack_them():
    evidence = world()
    bare = Evidence(evidence.runs[[n for n in evidence.runs if "/" not in n]], pd.DataFrame(), scope=evidence.scope)
    for claim in CLAIMS:
        assert claim.find(bare).verdict == "undecided"
    assert "Too few runs have robustness/gaussian/0.1/bce" in text("FE2a", bare)


def test_r_squared_is_that_of_a_straight_line():
    x = (0.0, 0.1, 0.3, 1.0)
    rng = np.random.default_rng(0)
    y = rng.standard_normal((5, 4))
    columns = tuple(pd.Series(column) for column in y.T)
    expected = [np.corrcoef(x, row)[0, 1] ** 2 for row in y]
    np.testing.assert_allclose(straightness(x, columns), expected, rtol=1e-12)
    assert straightness(x, tuple(pd.Series([2.0]) for _ in x)).isna().all()
