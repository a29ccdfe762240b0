"""What the Fisher auto-encoder paper claims of damaged images and of samples, and two questions that it does not ask.

``analysis/verdicts.py`` says what makes a comparison and a verdict, ``analysis/figures/claims.py`` which runs the claims are
about: of damaged images MNIST, the settings of ``--preset fisher-ae`` and 100 epochs; of samples CelebA and those of ``--preset
fisher-ae-celeba``. The paper's curves have no numbers in its text, so levels
and margins are ours; each is in the docstring of its claim, and in claims.csv. Which prior its Figures 1, 3 and 7 have the paper
leaves open: the claims are asked of the normal one, and beside it of the exponential.

Runs with dense layers are held against the same claims, and are not asked of these data: the paper has convolutions. So are runs
on MNIST against the claims on distances of samples (its Table 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.figures.frechet import features_of
from analysis.papers.fisher_ae import PAPER
from analysis.scores import FEATURES
from analysis.scores.robustness import GROUP, LEVELS
from analysis.scores.tsne import GROUP as TSNE
from analysis.verdicts import (
    ABOVE,
    BELOW,
    CONFIRMED,
    CONTRADICTED,
    CONTRARY,
    FLAT,
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
from fishernet.config import Fields, TrialConfig
from fishernet.families import trial_config
from fishernet.wording import listed

EPOCHS = 100  # section 4
EPOCH_DIMS: tuple[int, ...] = ()
CELEBA = PAPER.presets["fisher-ae-celeba"]
NETWORKS = (PAPER.preset["network"], "dense")  # of the claims on damaged images, the paper's first
TABLE_1 = (CELEBA["network"], *NETWORKS)  # of those on samples
DIMS = {network: int((CELEBA if network == CELEBA["network"] else PAPER.preset)["latent_dims"]) for network in TABLE_1}
D = DIMS[NETWORKS[0]]
NEAR = 2.0  # of FID: distances that differ by less are alike, as 89.1 and 89.1 are
POOR = 0.1  # a clean error of a tenth more than the VAE's is poor
EQUAL = 0.05  # clean errors that differ by less are equal
FIELDS: dict[str, Fields] = {  # of the lines that are compared, beside the preset's
    "fisher": {"model": "FisherAE"},
    "exponential": {"model": "FisherAE", "prior": "exponential", "prior_order": 5, "prior_top": "free"},
    "density": {"model": "FisherAE", "prior": "exponential"},  # of order 4, of which exact draws are known
    "unstable": {"model": "FisherAE", "stability_weight": 0},
    "total": {"model": "FisherAE", "stability": "total"},
    "released": {"model": "FisherAE", "stability": "total", "posterior_gradient": "held"},
    "vae": {"model": "VAE"},
    "vae-gaussian": {"model": "VAE", "likelihood": "gaussian"},
    "vae-gaussian-exponential": {"model": "VAE", "likelihood": "gaussian", "prior": "exponential"},
    "vae-gaussian-stable": {"model": "VAE", "likelihood": "gaussian", "stability_weight": 1},
    "vae-exponential": {"model": "VAE", "prior": "exponential"},
    "vae-stable": {"model": "VAE", "stability_weight": 1},
    "fisher-learned": {"model": "FisherAE", "likelihood": "gaussian-learned"},
    "vae-learned": {"model": "VAE", "likelihood": "gaussian-learned"},
    "wae": {"model": "WAE"},
    "ae-noisy": {"model": "AE", "input_noise": 0.2},
    "vae-noisy": {"model": "VAE", "input_noise": 0.2},
}
ON_CELEBA: dict[str, Fields] = {  # what the lines of Table 1 have there beside
    "vae": {"likelihood": "gaussian"}, "wae": {"penalty_weight": 1000.0},
}  # fmt: skip


def _lines(network: str) -> dict[str, TrialConfig]:
    celeba = network == CELEBA["network"]
    preset = CELEBA if celeba else PAPER.preset
    settings = {name: value for name, value in preset.items() if name not in ("models", "latent_dims", "seeds")}
    names = ("fisher", "exponential", "density", "vae", "wae") if celeba else FIELDS
    more = ON_CELEBA if celeba else {}
    return {
        name: trial_config({**settings, **FIELDS[name], **more.get(name, {}), "network": network}) for name in names
    }


LINES: Mapping[str, Mapping[str, TrialConfig]] = {network: _lines(network) for network in TABLE_1}
ASKED = tuple(config for lines in LINES.values() for config in lines.values())
NOTE = (
    "The paper has one run of each model and no numbers beside its curves; levels and margins are ours, and claims.csv has them. "
    "Its FID is by other weights, and where the prior is learned of images drawn by SVGD, whose clouds are too narrow. "
    "A model that ignores its input has a flat curve. So rises are read beside the clean error, and where both are so the "
    f"verdict is a word of its own, {FLAT}: neither confirmed nor contradicted. `fishernet figures "
    "robustness`, `t-sne` and `frechet` compute the scores."
)


def fe1_samples_on_celeba(evidence: Evidence) -> Finding:
    """FE1: distance of samples: WAE below FisherAE with the exponential prior, that below FisherAE with the normal one, and the
    latter within 2 of the VAE's.

    As the paper samples: the exponential prior of order 5, which is no density, by SVGD, and N(0, 1) exactly.
    """
    evidence, cells = _asked(evidence, TABLE_1)
    evidence, features = _by_features(evidence)
    prior, by_svgd = (f"{features}/{images}/frechet" for images in ("prior", "svgd"))
    wae, normal, vae = ((prior, cells[name]) for name in ("wae", "fisher", "vae"))
    exponential = by_svgd, cells["exponential"]
    parts = [
        _distance(evidence, wae, exponential, BELOW),
        _distance(evidence, exponential, normal, BELOW),
        _distance(evidence, normal, vae, (-NEAR, NEAR)),
    ]
    return Finding(parts, conclude(parts))


def fe5_the_learned_prior_samples_better(evidence: Evidence) -> Finding:
    """FE5: samples of FisherAE with the exponential prior have a smaller distance than with the normal one, both drawn exactly.

    The exponential prior is that of order 4, which is a density. Beside it, what the paper compares: the prior of order 5 by
    SVGD; what SVGD does to the same prior; and what its narrow clouds alone would do: N(0, 1) as narrow as they are, against
    N(0, 1).
    """
    evidence, cells = _asked(evidence, TABLE_1)
    evidence, features = _by_features(evidence)
    prior, by_svgd, tempered = (f"{features}/{images}/frechet" for images in ("prior", "svgd", "tempered"))
    parts = [_distance(evidence, (prior, cells["density"]), (prior, cells["fisher"]), BELOW)]
    beside = {
        "As the paper, by SVGD": [
            _distance(evidence, (by_svgd, cells["exponential"]), (prior, cells["fisher"]), BELOW)
        ],
        "SVGD against exact draws of one prior": [
            _distance(evidence, (by_svgd, cells["density"]), (prior, cells["density"]), BELOW)
        ],
        "The normal prior as narrow as SVGD's clouds": [
            _distance(evidence, (tempered, cells["fisher"]), (prior, cells["fisher"]), BELOW)
        ],
    }
    return Finding(parts, conclude(parts), beside)


def fe2a_lower_error_under_noise(evidence: Evidence) -> Finding:
    """FE2a: the cross-entropy of noisy images is below the VAE's and the WAE's at variances 0.1, 0.2 and 0.5."""
    return _below_others(evidence, "gaussian", (0.1, 0.2, 0.5))


def fe2b_slower_rise(evidence: Evidence) -> Finding:
    """FE2b: from 0 to a variance of 0.2 the cross-entropy rises by less than the VAE's and the WAE's, from a clean one that is
    less than 10% above the VAE's.

    Without the second part a model that ignores its input would win: its curve is flat because it is poor, which is a verdict of
    its own. Beside it the exponential prior, the loss as released, and learned noise in place of unit noise, which hides much.
    """
    evidence, cells = _asked(evidence)

    def parts(name: str) -> list[Comparison]:
        own = cells[name]
        rises = [_rise(evidence, own, cells[other]) for other in ("vae", "wae")]
        clean = _ratio(evidence, _metric("gaussian", 0.0), own, cells["vae"], (-math.inf, POOR), ", clean")
        return [*rises, clean]

    own = parts("fisher")
    others = {
        "With the exponential prior": parts("exponential"),
        "As released": parts("released"),
        "With learned noise": parts("fisher-learned"),
    }
    verdict, notes = conclude(own), []
    for words, found in {"It": own, **others}.items():
        *rises, clean_error = found
        if any(rise.reading != HOLDS for rise in rises) or clean_error.reading in (HOLDS, ""):
            continue
        poor = clean_error.reading == CONTRARY
        notes.append(_say_poor(words if words == "It" else f"{words} it", "clean error", "above", poor=poor))
        if poor and found is own and verdict == CONTRADICTED:
            verdict = FLAT
    return Finding(own, verdict, others, notes)


def fe3_clusters_survive(evidence: Evidence) -> Finding:
    """FE3: from 0 to a variance of 0.2 NMI falls by less than the VAE's and the WAE's, and a straight line in the variance
    explains more of its curve (R squared over all levels).

    NMI is of clusters of the latent means. Beside it, after t-SNE, as the paper has it: that draws groups apart, and depends on
    its own seed and perplexity. Where the clean NMI is a tenth or more below the VAE's, so that there is less to lose, it is
    flat because poor.
    """
    evidence, cells = _asked(evidence)
    levels = LEVELS["gaussian"]
    n = len(levels)

    def parts(name: str, group: str = GROUP) -> list[Comparison]:
        curve = [f"{group}/gaussian/{level:g}/nmi" for level in levels]
        clean, noisy = (curve[levels.index(level)] for level in (0.0, 0.2))
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
    clean = _ratio(evidence, f"{GROUP}/gaussian/0/nmi", cells["fisher"], cells["vae"], (-POOR, math.inf), ", clean")
    beside = {
        "With the exponential prior": parts("exponential"),
        "After t-SNE, as the paper": parts("fisher", TSNE),
        "Clean NMI": [clean],
    }
    notes: list[str] = []
    verdict = conclude(own)
    if all(part.reading == HOLDS for part in own[::2]) and clean.reading not in (HOLDS, ""):
        poor = clean.reading == CONTRARY
        notes.append(_say_poor("It", "clean NMI", "below", poor=poor))
        if poor and verdict == CONFIRMED:
            verdict = FLAT
    return Finding(own, verdict, beside, notes)


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
    """FQ1: what lowers the cross-entropy at a variance of 0.2: the exponential prior, the stability term, or the Fisher
    divergence, each beside a VAE that lacks it alone.

    Prior and term stand beside the Bernoulli VAE. The divergence is of FisherAE without the term, beside the VAE of the same
    likelihood. Beside them prior and term once more, at that likelihood: with the KL divergence, and within FisherAE; and the
    divergence together with the term, as the paper has it. Of all of them the clean error and the rise from it as well, as a
    model may be as good at that noise and flatter, from a worse beginning. The prior is that of order 4, of which the KL
    divergence is known.
    """
    evidence, cells = _asked(evidence)
    pairs = {
        "the prior": ("vae-exponential", "vae"),
        "the stability term": ("vae-stable", "vae"),
        "the divergence": ("unstable", "vae-gaussian"),
    }
    besides = {
        "The prior at FisherAE's likelihood": [("vae-gaussian-exponential", "vae-gaussian"), ("density", "fisher")],
        "The term at FisherAE's likelihood": [("vae-gaussian-stable", "vae-gaussian"), ("fisher", "unstable")],
        "Divergence and term together": [("fisher", "vae-gaussian"), ("fisher-learned", "vae-learned")],
    }

    def less(level: float, a: str, b: str) -> Comparison:
        clean = "" if level else ", clean"
        return difference(evidence, _metric("gaussian", level), cells[a], cells[b], BELOW, clean)

    parts = {what: less(0.2, *pair) for what, pair in pairs.items()}
    every = [*pairs.values(), *(pair for some in besides.values() for pair in some)]
    beside = {what: [less(0.2, *pair) for pair in some] for what, some in besides.items()} | {
        "Clean": [less(0.0, *pair) for pair in every],
        "The rise from it": [_rise(evidence, cells[a], cells[b]) for a, b in every],
    }
    words = {part.verdict for part in parts.values()}
    verdict = next((word for word in (NOT_ASKED, TOO_SHORT) if word in words), "")
    helps = [what for what, part in parts.items() if part.verdict == CONFIRMED]
    if not verdict:
        verdict = listed(helps) if helps else "none of them" if words == {CONTRADICTED} else UNDECIDED
    return Finding(list(parts.values()), verdict, beside)


def fq2_against_noisy_inputs(evidence: Evidence) -> Finding:
    """FQ2: the Fisher auto-encoder's cross-entropy at a variance of 0.2 is below those of an AE and of a VAE that were trained to
    restore images from such noise (``input_noise`` 0.2).

    At the least it says what the cheapest remedy gives. Beside it, on masked images, which neither was trained for.
    """
    evidence, cells = _asked(evidence)

    def parts(kind: str, level: float) -> list[Comparison]:
        metric = _metric(kind, level)
        return [
            difference(evidence, metric, cells["fisher"], cells[other], BELOW, f", {kind} {level:g}")
            for other in ("ae-noisy", "vae-noisy")
        ]

    own = parts("gaussian", 0.2)
    return Finding(own, conclude(own), {"Under a mask": parts("mask", 0.5), "Clean": parts("gaussian", 0.0)})


def _rise(evidence: Evidence, own: Cell, other: Cell) -> Comparison:
    """How much more the cross-entropy rises from 0 to a variance of 0.2 than another line's; below 0 is claimed."""
    clean, noisy = _metric("gaussian", 0.0), _metric("gaussian", 0.2)
    return compare(
        f"rise of {own[0]} − of {other[0]}, d = {D}",
        evidence,
        [(noisy, own), (clean, own), (noisy, other), (clean, other)],
        lambda a, b, x, y: (a - b) - (x - y),
        BELOW,
    )


def _say_poor(which: str, score: str, side: str, *, poor: bool) -> str:
    """That a curve is flat, or may be, as its clean end is a tenth or more on the wrong side of the VAE's."""
    is_, because = ("is", "because poor") if poor else ("may be", "because it is poor")
    return f"{which} {is_} flat {because}: its {score} {is_} a tenth or more {side} the VAE's"


def straightness(levels: Sequence[float], columns: Sequence[pd.Series[float]]) -> pd.Series[float]:
    """R squared of a straight line through each row's values at the levels; NaN of a row that does not change."""
    x = np.array(levels) - np.mean(levels)
    values = pd.concat(columns, axis=1)
    y = values.to_numpy() - values.to_numpy().mean(1, keepdims=True)
    with np.errstate(invalid="ignore"):
        r2 = (y @ x) ** 2 / ((x @ x) * (y**2).sum(1))
    return pd.Series(r2, index=values.index)


def _asked(evidence: Evidence, networks: Sequence[str] = NETWORKS) -> tuple[Evidence, dict[str, Cell]]:
    """The cells of the lines, of the network that these runs have; of another than the paper's the evidence is set apart.

    So are images of the paper's other data set: it shows damaged MNIST and samples of CelebA.
    """
    there, datasets = set(evidence.runs.get("network", ())), set(evidence.runs.get("dataset", ()))
    network = next((name for name in networks if name in there), networks[0])
    if network != networks[0]:
        evidence = replace(evidence, scope=evidence.scope.and_apart(f"network {network}"))
    other = PAPER.dataset if networks == TABLE_1 else CELEBA["dataset"]
    if other in datasets:
        evidence = replace(evidence, scope=evidence.scope.and_apart(f"images of {other}"))
    return evidence, {name: (config.variant, DIMS[network]) for name, config in LINES[network].items()}


def _by_features(evidence: Evidence) -> tuple[Evidence, str]:
    """Distances on Inception's features where the runs have them; on others they are no FID and set apart."""
    features = features_of(evidence.runs) or "inception"
    if features == "inception":
        return evidence, features
    return replace(evidence, scope=evidence.scope.and_apart(FEATURES[features])), features


def _distance(evidence: Evidence, a: tuple[str, Cell], b: tuple[str, Cell], claimed: Region) -> Comparison:
    """The distance a less b, each a metric of a cell."""
    words = [f"{cell[0]} ({metric.split('/')[1]})" for metric, cell in (a, b)]
    return compare(f"{words[0]} − {words[1]}, d = {a[1][1]}", evidence, [a, b], lambda x, y: x - y, claimed)


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
        "FE1",
        "On CelebA samples of WAE have the smallest FID, those of the Fisher auto-encoder with the exponential prior a smaller "
        "one than with the normal prior, which has the VAE's (Table 1).",
        fe1_samples_on_celeba,
    ),
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
    Claim(
        "FE5",
        "The learned prior gives better samples than the normal one (Table 1).",
        fe5_the_learned_prior_samples_better,
    ),
    Claim("FE6", "The stability term makes it robust (section 3.1).", fe6_stability_helps),
    Claim(
        "FQ1",
        "Not asked: what makes it robust, the divergence, the prior or the stability term?",
        fq1_what_makes_it_robust,
    ),
    Claim(
        "FQ2",
        "Not asked: is it more robust than an AE and a VAE that were trained on noisy images?",
        fq2_against_noisy_inputs,
    ),
)
