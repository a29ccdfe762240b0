"""What the VPAE paper claims of its Table 1, and what each of its causes is asked of.

Claims are of both data sets, one sweep each. L2 is ``outputs/l2_percent_released``, of what the released code shows: 100 times
the mean squared error per pixel of the first 1000 test images, clipped. Margins are ours and in the docstrings. ``NOTE`` says
which claims are not asked.
"""

from __future__ import annotations

import math
from dataclasses import replace

from analysis.papers.vpae import DIM, SHARED, TABLE_1, Line
from analysis.verdicts import ABOVE, BELOW, Cell, Claim, Comparison, Evidence, Finding, compare, conclude, difference
from fishernet.config import TrialConfig
from fishernet.families import trial_config

EPOCHS = 20
EPOCH_DIMS: tuple[int, ...] = ()  # no claim is about an epoch
LINES: dict[Line, TrialConfig] = {
    line: trial_config({**SHARED, **fields, "latent_dim": DIM}) for line, fields in TABLE_1.items()
}
ASKED = tuple(LINES.values())
BEST = ("MSE", "N_mu", "MN_mu")  # rows with the lowest L2 of K = 1, by the paper
MIXED = ("N_mu", "N_mu_diagSigma", "t_df_mu", "t_df_mu_diagSigma", "MN_mu", "MN_mu_diagUV", "MN_mu_U_V",
         "T_df_mu", "T_df_mu_diagUV", "T_df_mu_U_V")  # rows that the table has with K = 10 as well  # fmt: skip
HEAVY = ("t_df_mu", "T_df_mu")
RELEASED, MEAN = "outputs/l2_percent_released", "outputs/l2_percent"
EQUAL = 0.05  # of L2, in percent: below it rows agree
BADLY, WELL = 5.0, 1.5  # of L2: the paper has 7.7 to 16.1 where it calls a reconstruction bad; its best rows are at 1.5
TIMES = 10.0

NOTE = (
    "The paper has one run of each row. L2 is of what its released code shows; margins are ours, and claims.csv has them. "
    "VP3, VP5, VP6 and VP9 to VP12 are not asked: they need distances to noise, times of another program, the convolutional "
    "sweep, full covariances, or scores that are not there."
)


def vp1_unit_scales_are_best(evidence: Evidence) -> Finding:
    """VP1: with K = 1, MSE and N_mu agree within 0.05 of L2, and the L2 of every row but these and MN_mu is above that of MSE.

    That N_mu and MN_mu are one model is a test of the likelihoods, and no claim. Rows of full covariance count where they are.
    """
    rows = [row for row, k in TABLE_1 if k == 1 and row not in BEST]
    there = set(evidence.runs["variant"])
    parts = [_difference(evidence, ("N_mu", 1), ("MSE", 1), (-EQUAL, EQUAL))]
    parts += [
        _difference(evidence, (row, 1), ("MSE", 1), ABOVE)
        for row in rows
        if row not in ("N_mu_Sigma", "t_df_mu_Sigma") or _cell((row, 1))[0] in there
    ]
    return Finding(parts, conclude(parts))


def vp2_mixture_of_normals(evidence: Evidence) -> Finding:
    """VP2: the L2 of N_mu with K = 10 is below that with K = 1.

    A mixture of 10 has 284,170 weights where the other has 51,025: what is left against as many weights is another question.
    """
    parts = [_difference(evidence, ("N_mu", 10), ("N_mu", 1), BELOW)]
    return Finding(parts, conclude(parts))


def vp4_a_mixture_costs_less_than_ten_times(evidence: Evidence) -> Finding:
    """VP4: of every family, an epoch with K = 10 takes less than 10 times the seconds of one with K = 1.

    The paper's times are of another program. Of ours, a run's are its share of its cohort's, and seeds of small models share one.
    """
    parts = [
        compare(
            f"{row}, seconds of K = 10 / K = 1",
            evidence,
            [("train_seconds", _cell((row, 10))), ("train_seconds", _cell((row, 1)))],
            lambda ten, one: ten / one,
            (-math.inf, TIMES),
        )
        for row in MIXED
    ]
    return Finding(parts, conclude(parts))


def vp7_mixtures_are_best(evidence: Evidence) -> Finding:
    """VP7: of every family, the L2 with K = 10 is below that with K = 1. Beside it, the same of the mixture's mean.

    "Best pictures" is of L2 here; the paper's other measure is a distance to noise.
    """
    parts = [_difference(evidence, (row, 10), (row, 1), BELOW) for row in MIXED]
    of_mean = [_difference(evidence, (row, 10), (row, 1), BELOW, MEAN, ", mean") for row in MIXED]
    return Finding(parts, conclude(parts), {"By the mixture's mean": of_mean})


def vp8_mixtures_of_t_reconstruct_badly(evidence: Evidence) -> Finding:
    """VP8: with K = 10 and unit scale, the L2 of t and T is above 5."""
    parts = [
        compare(f"{row}, K = 10", evidence, [(RELEASED, _cell((row, 10)))], lambda x: x, (BADLY, math.inf))
        for row in HEAVY
    ]
    return Finding(parts, conclude(parts))


def q4_the_mean_of_the_same_runs(evidence: Evidence) -> Finding:
    """Q4: whether the L2 of the mixture's mean is below 1.5 in the runs of VP8."""
    parts = [
        compare(f"{row}, K = 10, mean", evidence, [(MEAN, _cell((row, 10)))], lambda x: x, (-math.inf, WELL))
        for row in HEAVY
    ]
    return Finding(parts, conclude(parts))


CLAIMS = (
    Claim(
        "VP1",
        "Of one component, MSE, N_mu and MN_mu have the lowest L2 and agree (Table 1).",
        vp1_unit_scales_are_best,
    ),
    Claim("VP2", "A mixture of 10 lowers the L2 of N_mu (Table 1: 1.587 to 1.163 and 1.525 to 1.046).", vp2_mixture_of_normals),
    Claim("VP4", "A mixture of 10 takes less than 10 times the time of one component.", vp4_a_mixture_costs_less_than_ten_times),
    Claim("VP7", "Mixtures give the best pictures: of every family K = 10 has a lower L2 than K = 1.", vp7_mixtures_are_best),
    Claim("VP8", "t and T with K = 10 reconstruct badly (Table 1: 7.7 to 16.1).", vp8_mixtures_of_t_reconstruct_badly),
    Claim("Q4", "Our question: does the mixture's mean of the same runs reconstruct well?", q4_the_mean_of_the_same_runs),
)  # fmt: skip


def _cell(line: Line) -> Cell:
    """The label and latent dimension of a row of Table 1."""
    return LINES[line].variant, DIM


def _difference(
    evidence: Evidence, a: Line, b: Line, claimed: tuple[float, float], metric: str = RELEASED, what: str = ""
) -> Comparison:
    """L2 of a row less that of another, seed by seed, under the paper's names."""
    part = difference(evidence, metric, _cell(a), _cell(b), claimed)
    return replace(part, name=f"{a[0]} K = {a[1]} − {b[0]} K = {b[1]}{what}")
