"""What the Fisher auto-encoder paper claims of damaged images, and a question that it does not ask.

``analysis/verdicts.py`` says what makes a comparison and a verdict, ``analysis/figures/claims.py`` which runs the claims are
about: MNIST, the settings of ``--preset fisher-ae`` and 100 epochs. The paper's curves have no numbers in its text, so levels
and margins are ours; each is in the docstring of its claim, and in claims.csv. Which prior its Figures 1, 3 and 7 have the paper
leaves open: the claims are asked of the normal one, and beside it of the exponential.

Runs with dense layers are held against the same claims, and are not asked of these data: the paper has convolutions. The claims
on distances of samples on CelebA (its Table 1) are not asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.papers.fisher_ae import PAPER
from analysis.scores.robustness import GROUP, LEVELS
from analysis.verdicts import (
    ABOVE,
    BELOW,
    CONFIRMED,
    CONTRADICTED,
    CONTRARY,
    HOLDS,
    NOT_ASKED,
    TOO_SHORT,
    UNDECIDED,
    Cell,
    Claim,
    Comparison,
    Evidence,
    Finding,
    Region,
    compare,
    conclude,
    difference,
)
from analysis.wording import listed
from fishernet.config import Fields, TrialConfig
from fishernet.families import trial_config

EPOCHS = 100  # section 4
EPOCH_DIMS: tuple[int, ...] = ()
D = int(PAPER.preset["latent_dims"])
NETWORKS = (PAPER.preset["network"], "dense")
POOR = 0.1  # a clean error of a tenth more than the VAE's is poor
EQUAL = 0.05  # clean errors that differ by less are equal
FIELDS: dict[str, Fields] = {  # of the lines that are compared, beside the preset's
    "fisher": {"model": "FisherAE"},
    "exponential": {"model": "FisherAE", "prior": "exponential", "prior_order": 5, "prior_top": "free"},
    "unstable": {"model": "FisherAE", "stability_weight": 0},
    "total": {"model": "FisherAE", "stability": "total"},
    "vae": {"model": "VAE"},
    "vae-gaussian": {"model": "VAE", "likelihood": "gaussian"},
    "vae-exponential": {"model": "VAE", "prior": "exponential"},
    "vae-stable": {"model": "VAE", "stability_weight": 1},
    "wae": {"model": "WAE"},
}
SETTINGS = {name: value for name, value in PAPER.preset.items() if name not in ("models", "latent_dims", "seeds")}
LINES: Mapping[str, Mapping[str, TrialConfig]] = {
    network: {name: trial_config({**SETTINGS, **own, "network": network}) for name, own in FIELDS.items()}
    for network in NETWORKS
}
ASKED = tuple(config for lines in LINES.values() for config in lines.values())
NOTE = (
    "The paper has one run of each model and no numbers beside its curves; levels and margins are ours, and claims.csv has them. "
    "A model that ignores its input has a flat curve: rises are read beside the clean error. `python -m analysis robustness` "
    "computes the scores."
)


def fe2a_lower_error_under_noise(evidence: Evidence) -> Finding:
    """FE2a: the cross-entropy of noisy images is below the VAE's and the WAE's at variances 0.1, 0.2 and 0.5."""
    return _below_others(evidence, "gaussian", (0.1, 0.2, 0.5))


def fe2b_slower_rise(evidence: Evidence) -> Finding:
    """FE2b: from 0 to a variance of 0.2 the cross-entropy rises by less than the VAE's and the WAE's, from a clean one that is
    less than 10% above the VAE's.

    Without the second part a model that ignores its input would win: its curve is flat because it is poor.
    """
    evidence, cells = _asked(evidence)
    clean, noisy = _metric("gaussian", 0.0), _metric("gaussian", 0.2)

    def parts(name: str) -> list[Comparison]:
        own = cells[name]
        rises = [
            compare(
                f"rise of {own[0]} − of {cells[other][0]}, d = {D}",
                evidence,
                [(noisy, own), (clean, own), (noisy, cells[other]), (clean, cells[other])],
                lambda a, b, x, y: (a - b) - (x - y),
                BELOW,
            )
            for other in ("vae", "wae")
        ]
        return [*rises, _ratio(evidence, clean, own, cells["vae"], (-math.inf, POOR), ", clean")]

    own = parts("fisher")
    notes = []
    if own[-1].reading == CONTRARY and all(part.reading == HOLDS for part in own[:-1]):
        notes = ["Flat because poor: it rises less from a clean error that is a tenth or more above the VAE's"]
    elif own[-1].reading not in (HOLDS, "") and all(part.reading == HOLDS for part in own[:-1]):
        notes = ["It may be flat because it is poor: its clean error may be a tenth or more above the VAE's"]
    return Finding(own, conclude(own), {"With the exponential prior": parts("exponential")}, notes)


def fe3_clusters_survive(evidence: Evidence) -> Finding:
    """FE3: from 0 to a variance of 0.2 NMI falls by less than the VAE's and the WAE's, and a straight line in the variance
    explains more of its curve (R squared over all levels).
    """
    evidence, cells = _asked(evidence)
    levels = LEVELS["gaussian"]
    clean, noisy = (_metric("gaussian", level, "nmi") for level in (0.0, 0.2))
    curve = [_metric("gaussian", level, "nmi") for level in levels]
    n = len(levels)

    def parts(name: str) -> list[Comparison]:
        own, found = cells[name], []
        for other in (cells["vae"], cells["wae"]):
            found += [
                compare(
                    f"fall of {own[0]} − of {other[0]}, d = {D}",
                    evidence,
                    [(clean, own), (noisy, own), (clean, other), (noisy, other)],
                    lambda a, b, x, y: (a - b) - (x - y),
                    BELOW,
                ),
                compare(
                    f"R² of {own[0]} − of {other[0]}, d = {D}",
                    evidence,
                    [(metric, cell) for cell in (own, other) for metric in curve],
                    lambda *columns: straightness(levels, columns[:n]) - straightness(levels, columns[n:]),
                    ABOVE,
                ),
            ]
        return found

    own = parts("fisher")
    return Finding(own, conclude(own), {"With the exponential prior": parts("exponential")})


def fe4_lower_error_under_a_mask(evidence: Evidence) -> Finding:
    """FE4: the cross-entropy of masked images is below the VAE's and the WAE's at shares of 0.3, 0.5 and 0.8."""
    return _below_others(evidence, "mask", (0.3, 0.5, 0.8))


def fe6_stability_helps(evidence: Evidence) -> Finding:
    """FE6: with the stability term the MSE at a variance of 0.2 is below that without, for both readings, partial and total.

    It is asked at equal clean MSE, which differs by less than 5%: without that the term may trade the one for the other.
    """
    evidence, cells = _asked(evidence)
    without, clean, noisy = cells["unstable"], _metric("gaussian", 0.0, "mse"), _metric("gaussian", 0.2, "mse")
    forms = (cells["fisher"], cells["total"])
    parts = [difference(evidence, noisy, form, without, BELOW) for form in forms]
    equal = [_ratio(evidence, clean, form, without, (-EQUAL, EQUAL), ", clean") for form in forms]
    verdict, notes = conclude(parts), []
    if verdict in (CONFIRMED, CONTRADICTED) and not all(part.reading == HOLDS for part in equal):
        verdict, notes = UNDECIDED, ["Clean errors are not equal, so the term may trade the one for the other"]
    return Finding(parts, verdict, {"Clean MSE": equal}, notes)


def fq1_what_makes_it_robust(evidence: Evidence) -> Finding:
    """FQ1: what lowers the cross-entropy at a variance of 0.2: the exponential prior alone, the stability term alone, or the
    Fisher divergence, each beside a VAE that lacks it alone.

    Prior and term stand beside the Bernoulli VAE. The divergence stands beside the VAE with its own likelihood, and brings the
    term along. The prior is the one of even order, of which the KL divergence is known.
    """
    evidence, cells = _asked(evidence)
    pairs = {
        "the prior": ("vae-exponential", "vae"),
        "the stability term": ("vae-stable", "vae"),
        "the divergence": ("fisher", "vae-gaussian"),
    }
    metric = _metric("gaussian", 0.2)
    parts = {what: difference(evidence, metric, cells[a], cells[b], BELOW) for what, (a, b) in pairs.items()}
    words = {part.verdict for part in parts.values()}
    verdict = next((word for word in (NOT_ASKED, TOO_SHORT) if word in words), "")
    helps = [what for what, part in parts.items() if part.verdict == CONFIRMED]
    if not verdict:
        verdict = listed(helps) if helps else "none of them" if words == {CONTRADICTED} else UNDECIDED
    return Finding(list(parts.values()), verdict)


def straightness(levels: Sequence[float], columns: Sequence[pd.Series[float]]) -> pd.Series[float]:
    """R squared of a straight line through each row's values at the levels; NaN of a row that does not change."""
    x = np.array(levels) - np.mean(levels)
    values = pd.concat(columns, axis=1)
    y = values.to_numpy() - values.to_numpy().mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        r2 = (y @ x) ** 2 / ((x @ x) * (y**2).sum(1))
    return pd.Series(r2, index=values.index)


def _asked(evidence: Evidence) -> tuple[Evidence, dict[str, Cell]]:
    """The cells of the lines, of the network that these runs have; of another than the paper's the evidence is set apart."""
    there = set(evidence.runs.get("network", ()))
    network = next((name for name in NETWORKS if name in there), NETWORKS[0])
    if network != NETWORKS[0]:
        evidence = replace(evidence, scope=evidence.scope.and_apart(f"network {network}"))
    return evidence, {name: (config.variant, D) for name, config in LINES[network].items()}


def _below_others(evidence: Evidence, kind: str, levels: tuple[float, ...]) -> Finding:
    evidence, cells = _asked(evidence)

    def parts(name: str) -> list[Comparison]:
        return [
            difference(evidence, _metric(kind, level), cells[name], cells[other], BELOW, f", {kind} {level:g}")
            for level in levels
            for other in ("vae", "wae")
        ]

    own = parts("fisher")
    return Finding(own, conclude(own), {"With the exponential prior": parts("exponential")})


def _ratio(evidence: Evidence, metric: str, a: Cell, b: Cell, claimed: Region, what: str) -> Comparison:
    return compare(
        f"{a[0]} / {b[0]} − 1, d = {D}{what}", evidence, [(metric, a), (metric, b)], lambda x, y: x / y - 1, claimed
    )


def _metric(kind: str, level: float, score: str = "bce") -> str:
    return f"{GROUP}/{kind}/{level:g}/{score}"


CLAIMS = (
    Claim(
        "FE2a",
        "Under Gaussian noise the Fisher auto-encoder's reconstructions have a lower error than VAE's and WAE's (Figure 1).",
        fe2a_lower_error_under_noise,
    ),
    Claim("FE2b", "It is more robust: its error rises more slowly with the noise (Figure 1).", fe2b_slower_rise),
    Claim(
        "FE3",
        "Its latents keep telling the digits apart under noise; NMI falls linearly (Figure 3).",
        fe3_clusters_survive,
    ),
    Claim("FE4", "Where pixels are masked its error is the lowest (Figure 7).", fe4_lower_error_under_a_mask),
    Claim("FE6", "The stability term makes it robust (section 3.1).", fe6_stability_helps),
    Claim(
        "FQ1",
        "Not asked: what makes it robust, the divergence, the prior or the stability term?",
        fq1_what_makes_it_robust,
    ),
)
