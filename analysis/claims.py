"""Which claims of the FisherNet paper a sweep's runs confirm, and two questions that the paper does not ask.

python analysis/claims.py --name SWEEP

A claim is a conjunction of comparisons. A comparison is one number per seed, most often the difference of two runs, which
with equal seeds saw the images in the same order; its mean over seeds has the 95% interval of Student's t, and the claim
says where the mean lies: below 0, above 0, within a margin.

* A comparison holds where the whole interval lies there. It does not where the interval reaches beyond, and is contrary
  where the whole interval lies beyond. With fewer than three seeds it is not decided: Student's factor is 12.7 for two.
* A claim is confirmed when all its comparisons hold, not confirmed when one does not, and otherwise there are not enough runs.

Nothing is corrected for many comparisons. To be confirmed a claim needs all of its own, so that it is confirmed wrongly at
most as often as one of them holds wrongly, in 2.5% of sweeps (the intersection-union test; Berger, Technometrics 1982). The
price is power: of many comparisons that are true, one may fail for want of seeds, and so the table names those that fail.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # started as a script: its own folder leads sys.path, and the packages are beside that folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis import command
from fishernet.surroundings import entry_point

# pandas, SciPy, MLflow and matplotlib take seconds to import: functions do it, so that --help answers at once.
if TYPE_CHECKING:
    import pandas as pd

    from analysis.exhibits import Table
    from analysis.stored import StoredSweep

Cell = tuple[str, int]  # variant and latent_dim
Region = tuple[float, float]  # where a claim says that a mean lies

BELOW: Region = (-math.inf, 0.0)
ABOVE: Region = (0.0, math.inf)
LEAST_SEEDS = 3
CONFIDENCE = 0.95
PAPER_MODELS = ("FisherNet", "VAE", "CVAE")
PAPER_EPOCHS = 50  # as many as its Figure 3 shows; how many it trained it does not say
FIGURE_3_DIMS = (2, 5, 10)
TABLE_DIMS = (2, 5, 10, 15, 20)  # of Tables 1 and A2
CURVE_DIMS = (2, 5, 10, 20)  # Figures 1 and 2 have every dimension from 2 to 20; without these there is no such curve
HIGH_DIMS = (10, 20)
VAE_PLATEAU = 0.0175
FEATURES = ("inception", "classifier")  # networks of the Fréchet distance, the paper's first
# Fields that have a sentence or a column of their own, or change nothing.
SAID_ELSEWHERE = (
    "model", "latent_dim", "seed", "dataset", "epochs", "train_size", "validation_size", "evaluate_every", "setting",
)  # fmt: skip
LISTED = 3  # comparisons a cell of the table writes out

CONFIRMED, NOT_CONFIRMED, NOT_ENOUGH = "confirmed", "not confirmed", "not enough runs"


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 after a sentence on stderr when there is nothing to show."""
    parser = command.parser(
        "fishernet-claims",
        "Hold every claim of the FisherNet paper against a sweep's runs: paired differences over seeds, 95% intervals\n"
        "and a verdict. Writes claims.csv, one row per comparison, and claims.tex.",
        "python analysis/claims.py --name figure-2",
    )
    return command.main(parser, lambda stored, _: exhibits(stored), argv)


def exhibits(stored: "StoredSweep") -> Iterator["Table"]:
    """The table of claims for a sweep; raises AnalysisError when no run has finished or MLflow does not answer."""
    from analysis import frame, frechet

    runs, sweep = stored.runs, stored.sweep
    by_epoch = runs[runs["variant"].isin(PAPER_MODELS) & runs["latent_dim"].isin(FIGURE_3_DIMS)]
    epochs = frame.load_epochs(sweep, by_epoch, [sweep.score("mse")])
    features, _ = _features(runs)
    runs, left_out = frechet.of_one_network(runs, features, sweep.command)
    yield table(Evidence(runs, epochs, sweep.held_out, left_out), stored.command_for)


def table(evidence: "Evidence", command_for: Callable[[Sequence[str], Sequence[int]], str]) -> "Table":
    """All claims as a Table; ``command_for`` says which command trains variants at latent dimensions.

    ``data`` has a row per comparison: claim, part, ``beside`` (empty, or what it was measured for beside the claim, without
    a say in the verdict), claimed, mean, low, high (the 95% interval, empty below three seeds), n_seeds, holds (empty where
    not decided).
    """
    import pandas as pd

    from analysis.exhibits import Table

    findings = {claim: claim.find(evidence) for claim in CLAIMS}
    shown = pd.DataFrame(
        [(c.id, c.paper, finding.text(command_for), finding.verdict) for c, finding in findings.items()],
        columns=["claim", "the paper says", "these runs show", "verdict"],
    )
    rows = [
        (claim.id, part.name, beside, _say(part.claimed), part.mean, *part.interval, len(part.values), part.holds)
        for claim, finding in findings.items()
        for beside, parts in {"": finding.parts, **finding.beside}.items()
        for part in parts
    ]
    data = pd.DataFrame(rows, columns=["claim", "part", "beside", "claimed", "mean", "low", "high", "n_seeds", "holds"])
    return Table("claims", "Claims of the FisherNet paper", " ".join([*remarks(evidence), CAPTION]), data, shown)


CAPTION = (
    "Comparisons are paired: differences of runs with equal seeds, which saw the images in the same order, averaged over seeds, "
    "with the 95% interval of Student's t in brackets. A comparison holds where the whole interval lies where the claim says, "
    "does not where it reaches beyond (as when it includes zero), is contrary where all of it lies beyond, and is not decided by "
    f"fewer than {LEAST_SEEDS} seeds. A claim is confirmed when all its comparisons hold and not confirmed when one does not. "
    "Intervals are per comparison and not corrected: as a claim needs all of its comparisons, it is confirmed wrongly in at "
    "most 2.5% of sweeps; that is each claim's own rate, not the table's. The paper has one run of each model. Its claims are "
    "as its text states them; the margins of FN3, FN7 and FN9 to FN12 are ours, and claims.csv has them. Scores that runs lack "
    "are computed by `python -m analysis.report`."
)


@dataclass(frozen=True)
class Evidence:
    """What claims are judged by: finished runs, one row each, and the history of their MSE as ``frame.load_epochs`` gives it.

    ``notes`` are sentences on what was left out of them.
    """

    runs: "pd.DataFrame"
    epochs: "pd.DataFrame"
    held_out: str = "test"
    notes: Sequence[str] = ()

    def score(self, name: str) -> str:
        """The column of that score on the held-out images, such as ``test/mse``."""
        return f"{self.held_out}/{name}"

    def at_epoch(self, epoch: int) -> tuple["pd.DataFrame", str]:
        """The runs as they stood after that epoch, and the column of their MSE then, NaN where it was not recorded."""
        metric = f"{self.score('mse')} at epoch {epoch}"
        then = self.epochs[(self.epochs["epoch"] == epoch) & (self.epochs["metric"] == self.score("mse"))]
        values = then.set_index("run_id")["value"]
        return self.runs.assign(epochs=epoch, **{metric: self.runs["run_id"].map(values)}), metric


@dataclass(frozen=True)
class Part:
    """One comparison: a number per seed, and where the claim says that their mean lies."""

    name: str  # "FisherNet − VAE, d = 5"
    claimed: Region
    values: tuple[float, ...]
    lacking: tuple[Cell, ...] = ()  # cells to train, where too few seeds have them all
    unscored: tuple[str, ...] = ()  # metrics that too few of the runs have
    unequal: tuple[str, ...] = ()  # "FisherNet 25", "CVAE 12", where the epochs differ

    @property
    def mean(self) -> float:
        """The mean over seeds, NaN without any."""
        return sum(self.values) / len(self.values) if self.values else math.nan

    @cached_property
    def interval(self) -> tuple[float, float]:
        """mean ± t(n - 1) sd / √n, the 95% interval of Student's t; NaN below three seeds."""
        from scipy import stats

        n = len(self.values)
        if n < LEAST_SEEDS:
            return math.nan, math.nan
        sd = math.sqrt(sum((value - self.mean) ** 2 for value in self.values) / (n - 1))
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * sd / math.sqrt(n)
        return self.mean - half, self.mean + half

    @property
    def holds(self) -> bool | None:
        """Whether all of the interval lies where claimed; None below three seeds."""
        if len(self.values) < LEAST_SEEDS:
            return None
        low, high = self.interval
        return self.claimed[0] < low and high < self.claimed[1]

    @property
    def contrary(self) -> bool:
        """Whether all of the interval lies elsewhere."""
        low, high = self.interval
        return high <= self.claimed[0] or low >= self.claimed[1]

    @property
    def leans(self) -> bool:
        """Whether the mean lies where claimed."""
        return self.claimed[0] < self.mean < self.claimed[1]

    @property
    def clarity(self) -> float:
        """How far the mean is inside the region, in half-widths of the interval: 1 where the two just touch."""
        low, high = self.interval
        inside = min(self.mean - self.claimed[0], self.claimed[1] - self.mean)
        return inside / ((high - low) / 2) if high > low else math.inf

    def __str__(self) -> str:
        """``FisherNet − VAE, d = 5: −0.00021 [−0.00030, −0.00012], 3 seeds``; without the interval below three."""
        n = len(self.values)
        low, high = self.interval
        digits = min(_decimals((high - low) / 2, 2), _decimals(self.mean, 3))
        interval = f" [{_fixed(low, digits)}, {_fixed(high, digits)}]" if n >= LEAST_SEEDS else ""
        return f"{self.name}: {_fixed(self.mean, digits)}{interval}, {n} seed{'s' * (n > 1)}"


def conclude(parts: Sequence[Part]) -> str:
    """The verdict on a claim that says all of these: not confirmed as soon as one does not hold."""
    if any(part.holds is False for part in parts):
        return NOT_CONFIRMED
    return CONFIRMED if all(part.holds for part in parts) else NOT_ENOUGH


@dataclass(frozen=True)
class Finding:
    """What the runs say of a claim. ``beside`` are comparisons of interest without a say in the verdict, by what they are."""

    parts: Sequence[Part]
    verdict: str
    beside: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def text(self, command_for: Callable[[Sequence[str], Sequence[int]], str]) -> str:
        """The cell of the table: numbers, what is measured beside, notes, and where runs are lacking how to train them."""
        sentences = [_summary(self.parts)]
        sentences += [
            f"{what}: {_summary(parts)}"
            for what, parts in self.beside.items()
            if any(part.values or part.lacking for part in parts)
        ]
        sentences += self.notes
        every = [part for parts in (self.parts, *self.beside.values()) for part in parts]
        if unequal := dict.fromkeys(epochs for part in every for epochs in part.unequal):
            sentences.append(f"Unequal epochs: {', '.join(unequal)}")
        if unscored := dict.fromkeys(metric for part in self.parts for metric in part.unscored):
            sentences.append(f"Too few runs have {', '.join(unscored)}")
        sentences += [
            f"With --seeds {LEAST_SEEDS}, {command_for(variants, dims)}"
            for variants, dims in _grouped([cell for part in every for cell in part.lacking])
        ]
        return " ".join(sentence if sentence.endswith(".") else f"{sentence}." for sentence in sentences)


@dataclass(frozen=True)
class Claim:
    """A claim by its number, what the paper says, and the function that holds it against the runs."""

    id: str
    paper: str
    find: Callable[[Evidence], Finding]


def compare(
    name: str,
    runs: "pd.DataFrame",
    terms: Sequence[tuple[str, Cell]],
    combine: Callable[..., "pd.Series[float]"],
    claimed: Region,
) -> Part:
    """One number per seed that has all terms: ``combine`` of the values of each (metric, cell), a series over seeds each.

    Values that are not finite count as not there. The Part says what is lacking where fewer than three seeds are left.
    """
    import pandas as pd

    runs_of = {
        cell: runs[(runs["variant"] == cell[0]) & (runs["latent_dim"] == cell[1])].set_index("seed")
        for _, cell in terms
    }
    columns = [_finite(runs_of[cell].get(metric, pd.Series(dtype=float))) for metric, cell in terms]
    together = pd.concat(columns, axis=1, join="inner", keys=range(len(columns)))
    values = _finite(combine(*(together[i] for i in together))).sort_index()
    lacking: tuple[Cell, ...] = ()
    unscored: tuple[str, ...] = ()
    if len(values) < LEAST_SEEDS:
        few = tuple(cell for cell, of_cell in runs_of.items() if len(of_cell) < LEAST_SEEDS)
        unscored = tuple(
            metric
            for (metric, cell), column in zip(terms, columns, strict=True)
            if len(column) < min(LEAST_SEEDS, len(runs_of[cell]))
        )
        lacking = few if few or unscored else tuple(runs_of)  # runs enough, but of seeds that do not pair
    used = pd.concat([of_cell[of_cell.index.isin(values.index)] for of_cell in runs_of.values()])
    return Part(name, claimed, tuple(values), lacking, unscored, _unequal_epochs(used))


def difference(runs: "pd.DataFrame", metric: str, a: Cell, b: Cell, claimed: Region, what: str = "") -> Part:
    """The metric of a less that of b, seed by seed; ``what`` ends the name."""
    return compare(f"{_difference_name(a, b)}{what}", runs, [(metric, a), (metric, b)], lambda x, y: x - y, claimed)


def fn1_slow_start(evidence: Evidence) -> Finding:
    """FN1: after epoch 1 FisherNet's MSE is higher than VAE's and CVAE's at d = 2, 5, 10 (Figure 3), after 12 lower at d = 2."""
    others = ("VAE", "CVAE")
    parts = [_after(evidence, 1, ("FisherNet", d), (other, d), ABOVE) for d in FIGURE_3_DIMS for other in others]
    parts += [_after(evidence, 12, ("FisherNet", 2), (other, 2), BELOW) for other in others]
    return Finding(parts, conclude(parts), notes=_too_short(evidence, 12))


def fn2_half_the_dimensions(evidence: Evidence) -> Finding:
    """FN2: after epoch 40 FisherNet's MSE at d = 5 is lower than VAE's and CVAE's at d = 10."""
    parts = [_after(evidence, 40, ("FisherNet", 5), (other, 10), BELOW) for other in ("VAE", "CVAE")]
    return Finding(parts, conclude(parts), notes=_too_short(evidence, 40))


def fn3_vae_saturates(evidence: Evidence) -> Finding:
    """FN3: the VAE's MSE is within 10% of 0.0175 at d = 10 and at d = 20, and changes by less than 5% of it between them.

    "Fluctuates" is a matter of single runs, which the mean over seeds hides. Beside the claim, the same with learned noise:
    a unit-variance or Bernoulli VAE cannot tell how small its errors are, which may be all that saturates.
    """

    def saturation(vae: str) -> list[Part]:
        mse, level, change = evidence.score("mse"), 0.1 * VAE_PLATEAU, 0.05 * VAE_PLATEAU
        near: Region = (VAE_PLATEAU - level, VAE_PLATEAU + level)
        return [
            *(compare(f"{vae}, d = {d}", evidence.runs, [(mse, (vae, d))], lambda x: x, near) for d in HIGH_DIMS),
            difference(evidence.runs, mse, (vae, HIGH_DIMS[1]), (vae, HIGH_DIMS[0]), (-change, change)),
        ]

    parts = saturation("VAE")
    return Finding(parts, conclude(parts), {"With learned noise": saturation("VAE gaussian-learned")})


def fn4_convolutions_pay_at_high_d(evidence: Evidence) -> Finding:
    """FN4: the CVAE's MSE is higher than the VAE's at d = 2 and lower at d = 10 and d = 20."""
    regions = {2: ABOVE, **dict.fromkeys(HIGH_DIMS, BELOW)}
    parts = [
        difference(evidence.runs, evidence.score("mse"), ("CVAE", d), ("VAE", d), region)
        for d, region in regions.items()
    ]
    return Finding(parts, conclude(parts))


def fn5_every_dimension_helps(evidence: Evidence) -> Finding:
    """FN5: FisherNet's MSE falls from each d of the sweep to the next, 2 to 20; per dimension the last fall is the smaller."""
    mse, dims = evidence.score("mse"), _curve_dims(evidence.runs)
    parts = [
        difference(evidence.runs, mse, ("FisherNet", after), ("FisherNet", before), BELOW)
        for before, after in pairwise(dims)
    ]
    (a, b), (y, z) = dims[:2], dims[-2:]
    slowing = compare(
        f"FisherNet, change per dimension, {y} to {z} − {a} to {b}",
        evidence.runs,
        [(mse, ("FisherNet", d)) for d in (a, b, y, z)],
        lambda at_a, at_b, at_y, at_z: (at_z - at_y) / (z - y) - (at_b - at_a) / (b - a),
        ABOVE,
    )
    parts.append(slowing)
    return Finding(parts, conclude(parts), notes=[f"d = {_listed(dims)}"])


def fn6_the_gap_grows(evidence: Evidence) -> Finding:
    """FN6: the VAE's MSE less FisherNet's is above zero at d = 2 and 3, and larger at 3."""
    mse = evidence.score("mse")
    parts = [difference(evidence.runs, mse, ("VAE", d), ("FisherNet", d), ABOVE) for d in (2, 3)]
    growth = compare(
        "the gap's growth, d = 3 − d = 2",
        evidence.runs,
        [(mse, (variant, d)) for d in (3, 2) for variant in ("VAE", "FisherNet")],
        lambda vae_3, fisher_3, vae_2, fisher_2: (vae_3 - fisher_3) - (vae_2 - fisher_2),
        ABOVE,
    )
    parts.append(growth)
    return Finding(parts, conclude(parts))


def fn7_loss_follows_mse(evidence: Evidence) -> Finding:
    """FN7: over the d of the sweep, FisherNet's loss and MSE have a Pearson correlation above 0.9.

    "Roughly proportional" is a straight line, which above 0.9 explains more than four fifths of the variance. Beside it, the
    line's slope by least squares. Equation 25 at the best noise bends it: the slope is then about 392/MSE nats.
    """
    dims = _curve_dims(evidence.runs)
    terms = [(evidence.score(name), ("FisherNet", d)) for name in ("loss", "mse") for d in dims]

    def moments(*columns: "pd.Series[float]") -> tuple[Any, Any, Any]:
        """Over d, of each seed: the covariance of loss and MSE, and their variances."""
        import pandas as pd

        loss, mse = (pd.concat(part, axis=1) for part in (columns[: len(dims)], columns[len(dims) :]))
        loss, mse = (frame.set_axis(dims, axis=1).sub(frame.mean(axis=1), axis=0) for frame in (loss, mse))
        return (loss * mse).sum(axis=1), loss.pow(2).sum(axis=1), mse.pow(2).sum(axis=1)

    def correlation(*columns: "pd.Series[float]") -> "pd.Series[float]":
        covariance, of_loss, of_mse = moments(*columns)
        return covariance / (of_loss * of_mse).pow(0.5)

    def slope(*columns: "pd.Series[float]") -> "pd.Series[float]":
        covariance, _, of_mse = moments(*columns)
        return covariance / of_mse / 1000

    parts = [compare("FisherNet, correlation of loss and MSE", evidence.runs, terms, correlation, (0.9, math.inf))]
    line = compare("nats per 0.001 of MSE", evidence.runs, terms, slope, ABOVE)
    return Finding(parts, conclude(parts), {"Slope": [line]}, [f"d = {_listed(dims)}"])


def fn8_reconstruction_fid(evidence: Evidence) -> Finding:
    """FN8: reconstruction FID, FisherNet below VAE and below CVAE at every d of Table 1, CVAE below VAE from d = 5."""
    features, notes = _features(evidence.runs)
    fid = f"{features}/reconstruction/frechet"
    pairs = [(a, b, d) for a, b in (("FisherNet", "VAE"), ("FisherNet", "CVAE")) for d in TABLE_DIMS]
    pairs += [("CVAE", "VAE", d) for d in TABLE_DIMS[1:]]
    parts = [difference(evidence.runs, fid, (a, d), (b, d), BELOW) for a, b, d in pairs]
    return Finding(parts, conclude(parts), notes=notes)


def fn9_prior_samples(evidence: Evidence) -> Finding:
    """FN9: FID of samples from the prior: FisherNet's rises from 5 to 10 to 15 to 20; VAE's and CVAE's stay near reconstruction.

    Near: at d = 5 to 20 the two differ by less than a quarter of the FID of reconstructions. The paper's VAE and CVAE
    differ by at most 11%, its FisherNet by at least 37%. A share can be asked of other features than Inception's too.
    """
    features, notes = _features(evidence.runs)
    prior, reconstruction = f"{features}/prior/frechet", f"{features}/reconstruction/frechet"
    parts = [
        difference(evidence.runs, prior, ("FisherNet", after), ("FisherNet", before), ABOVE, ", prior")
        for before, after in pairwise(TABLE_DIMS[1:])
    ]
    parts += [
        compare(
            f"{variant}, d = {d}, prior / reconstruction − 1",
            evidence.runs,
            [(prior, (variant, d)), (reconstruction, (variant, d))],
            lambda x, y: x / y - 1,
            (-0.25, 0.25),
        )
        for variant in ("VAE", "CVAE")
        for d in TABLE_DIMS[1:]
    ]
    return Finding(parts, conclude(parts), notes=notes)


def fn10_density_estimate(evidence: Evidence) -> Finding:
    """FN10: at d = 5, samples from the density estimate MKDE have an FID more than 10% below samples from the prior for
    FisherNet, and within 10% for VAE and CVAE.

    The paper's changes are -23%, -2% and 0%. Beside it, the same with a Gaussian mixture for MKDE.
    """
    features, notes = _features(evidence.runs)
    regions: dict[str, Region] = {"FisherNet": (-math.inf, -0.1), "VAE": (-0.1, 0.1), "CVAE": (-0.1, 0.1)}

    def changes(density: str) -> list[Part]:
        return [
            compare(
                f"{variant}, d = 5, {density} / prior − 1",
                evidence.runs,
                [(f"{features}/{images}/frechet", (variant, 5)) for images in (density, "prior")],
                lambda x, y: x / y - 1,
                region,
            )
            for variant, region in regions.items()
        ]

    parts = changes("mkde")
    if not any(part.values for part in parts):
        notes = [*notes, "No run has samples from MKDE"]
    return Finding(parts, conclude(parts), {"With a Gaussian mixture": changes("mixture")}, notes)


# The largest difference of two models at one d in Table A2 (FisherNet and VAE, d = 10): by the paper's words not significant.
TRACE_MARGIN = 1.99


def fn11_clusters_alike(evidence: Evidence) -> Finding:
    """FN11: at every d of Table A2 the cluster traces of any two models differ by less than 1.99, with the whole interval.

    Intervals that include zero would be no evidence: few seeds make any interval wide. So it is a test of equivalence, with
    the largest difference that the paper itself calls not significant as its margin. The margin is generous, nearly all
    of the table's range; therefore the text says as well how many of the intervals exclude zero.
    """
    parts = [
        difference(evidence.runs, "clusters/trace", (a, d), (b, d), (-TRACE_MARGIN, TRACE_MARGIN))
        for d in TABLE_DIMS
        for a, b in combinations(PAPER_MODELS, 2)
    ]
    decided = [part for part in parts if part.holds is not None]
    excluding = sum(part.interval[0] > 0 or part.interval[1] < 0 for part in decided)
    notes = [f"{excluding} of {len(decided)} intervals exclude zero"] if decided else []
    of_table = evidence.runs[evidence.runs["variant"].isin(PAPER_MODELS) & evidence.runs["latent_dim"].isin(TABLE_DIMS)]
    if "clusters/trace" in of_table and of_table["clusters/trace"].notna().any():
        means = of_table.groupby(["variant", "latent_dim"])["clusters/trace"].mean()
        notes.append(f"Mean traces {means.min():.1f} to {means.max():.1f}")
    return Finding(parts, conclude(parts), notes=notes)


def fn12_ellipses(evidence: Evidence) -> Finding:
    """FN12: at d = 2, FisherNet's posterior ellipses have a smaller area than the VAE's, a tilt above 5 degrees against the
    axes, where the VAE's have none by construction, and are larger at the periphery than at the centre (ratio above 1).

    Beside it, the area over that of the means' own spread, as a model that stretches its latent space has larger ellipses
    for that alone, and the ratio of the axes, as the paper calls the ellipses narrower too.
    """
    fisher, vae = ("FisherNet", 2), ("VAE", 2)
    alone: dict[str, tuple[str, Region]] = {
        "tilt (degrees)": ("ellipses/tilt_degrees", (5.0, math.inf)),
        "periphery / centre": ("ellipses/periphery_to_centre", (1.0, math.inf)),
    }
    parts = [difference(evidence.runs, "ellipses/area", fisher, vae, BELOW, ", area")]
    parts += [
        compare(f"FisherNet, {name}", evidence.runs, [(metric, fisher)], lambda x: x, region)
        for name, (metric, region) in alone.items()
    ]
    beside = {
        "Against the spread of the means": [
            difference(evidence.runs, "ellipses/area_to_spread", fisher, vae, BELOW, ", area / spread")
        ],
        "Narrower": [difference(evidence.runs, "ellipses/axis_ratio", fisher, vae, ABOVE, ", axis ratio")],
    }
    return Finding(parts, conclude(parts), beside)


def q1_learned_noise(evidence: Evidence) -> Finding:
    """Q1: how much of FisherNet's MSE gain over the VAE remains against a VAE that learns its noise as FisherNet does."""
    return _what_remains(evidence, "FisherNet", "VAE gaussian-learned")


def q2_log_determinant(evidence: Evidence) -> Finding:
    """Q2: how much of FisherNet's MSE gain over the VAE remains when its loss keeps ln|M| (equation 24)."""
    return _what_remains(evidence, "FisherNet eq24", "VAE")


def _what_remains(evidence: Evidence, fisher: str, vae: str) -> Finding:
    """The MSE gain of ``fisher`` over ``vae`` beside that of FisherNet over the VAE, at every d that the sweep has of all.

    Asked where three seeds decide both and FisherNet has a gain: it remains where the interval is above zero at each of these
    d, in part where it is at some. The share is that of the mean gains. Asking only there leans a little towards FisherNet, as
    its same runs are in both gains.
    """
    mse = evidence.score("mse")
    dims_of = [set(_dims(evidence.runs, variant)) for variant in ("FisherNet", "VAE", fisher, vae)]
    dims = sorted(set.intersection(*dims_of)) or list(CURVE_DIMS)
    gains = [difference(evidence.runs, mse, ("VAE", d), ("FisherNet", d), ABOVE) for d in dims]
    kept = [difference(evidence.runs, mse, (vae, d), (fisher, d), ABOVE) for d in dims]
    decided = {
        d: (gain, rest) for d, gain, rest in zip(dims, gains, kept, strict=True) if None not in (gain.holds, rest.holds)
    }
    asked = {d: pair for d, pair in decided.items() if pair[0].holds}
    shares = [f"{100 * rest.mean / gain.mean:.0f}% at d = {d}".replace("-", "−") for d, (gain, rest) in asked.items()]
    remains = [rest.holds for _, rest in asked.values()]
    if not decided:
        verdict = NOT_ENOUGH
    elif not asked:
        verdict = "no gain to begin with"
    elif all(remains):
        verdict = "remains"
    else:
        verdict = "remains in part" if any(remains) else "does not remain"
    notes = [f"Of the gain remain {', '.join(shares)}"] if shares else []
    return Finding(kept, verdict, {"The gain": gains}, notes)


CLAIMS = (
    Claim(
        "FN1",
        "After epoch 1 FisherNet's MSE is above VAE's and CVAE's at d = 2, 5, 10; after 12 it is below both at d = 2 (3.1.3).",
        fn1_slow_start,
    ),
    Claim(
        "FN2",
        "After 40 epochs FisherNet with d = 5 has a lower MSE than VAE and CVAE with d = 10 (3.1.3).",
        fn2_half_the_dimensions,
    ),
    Claim("FN3", "At large d the VAE saturates and fluctuates around an MSE of 0.0175 (3.1.2).", fn3_vae_saturates),
    Claim(
        "FN4",
        "The CVAE's MSE is much higher than the VAE's at low d and lower at high d (3.1.2).",
        fn4_convolutions_pay_at_high_d,
    ),
    Claim(
        "FN5",
        "FisherNet's MSE falls with added dimensions up to 20, more slowly in the end but without stalling (3.1.1).",
        fn5_every_dimension_helps,
    ),
    Claim("FN6", "FisherNet's MSE is 0.0002 below the VAE's at d = 2, 0.00075 at d = 3 (3.1.2).", fn6_the_gap_grows),
    Claim(
        "FN7", "Over d, FisherNet's loss and MSE fall together, roughly in proportion (3.1.1).", fn7_loss_follows_mse
    ),
    Claim(
        "FN8",
        "Reconstruction FID at d = 2, 5, 10, 15, 20: FisherNet's 116, 80, 68, 61, 57 are the lowest, and from d = 5 the CVAE's "
        "95, 86, 87, 90 are below the VAE's 97, 98, 97, 97 (Table 1).",
        fn8_reconstruction_fid,
    ),
    Claim(
        "FN9",
        "FID of samples from the prior: FisherNet's rises from 110 at d = 5 to 148 at d = 20; VAE's and CVAE's stay within 10 of "
        "their reconstruction FID (3.3.1).",
        fn9_prior_samples,
    ),
    Claim(
        "FN10",
        "At d = 5 MKDE brings FisherNet's sample FID from 110 to 85, the VAE's from 99 to 97; the CVAE's stays 95 (3.3.2).",
        fn10_density_estimate,
    ),
    Claim(
        "FN11",
        "Cluster traces, 4.1 to 6.1, show no significant difference between the models (Appendix B).",
        fn11_clusters_alike,
    ),
    Claim(
        "FN12",
        "FisherNet's uncertainty ellipses are smaller than the VAE's, tilted, and larger at the periphery (3.2.1).",
        fn12_ellipses,
    ),
    Claim("Q1", "Not asked: what remains of FisherNet's MSE gain over a VAE that learns its noise?", q1_learned_noise),
    Claim("Q2", "Not asked: what remains of FisherNet's MSE gain with ln|M| kept in its loss?", q2_log_determinant),
)


def remarks(evidence: Evidence) -> list[str]:
    """Sentences on what sets these runs apart from the paper's."""
    runs = evidence.runs
    of_paper = runs[runs["model"].isin(PAPER_MODELS)]
    sentences = []
    if (of_paper["epochs"] < PAPER_EPOCHS).any():
        epochs = _listed(sorted(of_paper["epochs"].unique()))
        sentences.append(f"Reduced run: trained for {epochs} epochs, where the paper shows {PAPER_EPOCHS}.")
    if sizes := sorted(set(runs["train_size"]) - {0}):
        sentences.append(f"Reduced run: trained on {_listed(sizes)} images, the first of the training set.")
    if others := sorted(set(runs["dataset"]) - {"fashion-mnist"}):
        sentences.append(f"Other data: {', '.join(others)}, where the paper's claims are about Fashion-MNIST.")
    if others := _unusual_settings(of_paper[of_paper["variant"] == of_paper["model"]]):
        sentences.append(
            f"Settings other than the defaults, which are the paper's where it names them: {'; '.join(others)}."
        )
    if evidence.held_out != "test":
        sentences.append(f"Scored on {evidence.held_out} images, where the paper's claims are about test images.")
    if apart := sorted({variant for variant in runs["variant"] if _told_apart(variant)}):
        sentences.append(f"Not counted, as their settings vary within one model: {', '.join(apart)}.")
    return [*sentences, *evidence.notes]


def _unusual_settings(runs: "pd.DataFrame") -> list[str]:
    """``learning_rate 0.001 (FisherNet, VAE)``: what differs from the models' defaults and has no sentence of its own."""
    from fishernet.config import TrialConfig, matters

    found: dict[tuple[str, Any], list[str]] = {}
    for model, of_model in runs.groupby("model", sort=False):
        usual = TrialConfig(model=str(model)).to_dict()
        for name in (name for name in usual if name in of_model and name not in SAID_ELSEWHERE):
            values = sorted(set(of_model[name]))
            if values != [usual[name]] and matters(name, usual):
                found.setdefault((name, _listed(values)), []).append(str(model))
    return [f"{name} {values} ({', '.join(models)})" for (name, values), models in found.items()]


def _told_apart(variant: str) -> bool:
    """Whether ``frame.load_runs`` had to add a field as name=value; the beta=4 of a variant's own is no field."""
    from fishernet.services.schema import CONFIG_FIELDS

    return any(word.partition("=")[0] in CONFIG_FIELDS for word in variant.split() if "=" in word)


def _finite(values: "pd.Series[Any]") -> "pd.Series[float]":
    import numpy as np

    values = values.astype(float)
    return values[np.isfinite(values)]


def _unequal_epochs(runs: "pd.DataFrame") -> tuple[str, ...]:
    """``FisherNet 25``, ``CVAE 12`` where the runs' epochs differ, else nothing."""
    if runs["epochs"].nunique() < 2:
        return ()
    by_variant = runs.groupby("variant", sort=False)["epochs"].unique()
    return tuple(f"{variant} {_listed(sorted(epochs))}" for variant, epochs in by_variant.items())


def _dims(runs: "pd.DataFrame", variant: str) -> list[int]:
    return sorted(runs.loc[runs["variant"] == variant, "latent_dim"].unique().tolist())


def _curve_dims(runs: "pd.DataFrame") -> list[int]:
    """The latent dimensions from 2 to 20 of FisherNet's runs, and those without which it is no such curve."""
    return sorted({*CURVE_DIMS, *(d for d in _dims(runs, "FisherNet") if 2 <= d <= 20)})


def _after(evidence: Evidence, epoch: int, a: Cell, b: Cell, claimed: Region) -> Part:
    """The difference of MSE after that epoch. Of what is trained for fewer, more runs would help no more than scores."""
    runs, mse = evidence.at_epoch(epoch)
    part = difference(runs, mse, a, b, claimed, f", epoch {epoch}")
    epochs = evidence.runs.loc[evidence.runs["variant"].isin((a[0], b[0])), "epochs"]
    return replace(part, lacking=(), unscored=()) if (epochs < epoch).any() else part


def _too_short(evidence: Evidence, epoch: int) -> list[str]:
    """The sentence that says which models were trained for fewer epochs than the claim is about, if any."""
    runs = evidence.runs[evidence.runs["variant"].isin(PAPER_MODELS) & (evidence.runs["epochs"] < epoch)]
    if runs.empty:
        return []
    by_epochs = runs.groupby("epochs")["variant"].unique()
    short = ", ".join(f"for {epochs} epochs ({', '.join(variants)})" for epochs, variants in by_epochs.items())
    return [f"Trained {short}; the claim is about epoch {epoch}"]


def _features(runs: "pd.DataFrame") -> tuple[str, list[str]]:
    """The network whose Fréchet distances the runs have, Inception's before the classifier's, and what to say of it."""
    for features in FEATURES:
        columns = [name for name in map(str, runs) if name.startswith(f"{features}/") and name.endswith("/frechet")]
        if runs[columns].notna().any(axis=None):
            return features, [] if features == "inception" else ["Fréchet distance on classifier features, not FID"]
    return FEATURES[0], ["No run has a Fréchet distance"]


def _grouped(cells: Sequence[Cell]) -> list[tuple[list[str], list[int]]]:
    """The cells as (variants, dims) blocks: variants that lack the same dims go into one command."""
    dims_of: dict[str, set[int]] = {}
    for variant, d in cells:
        dims_of.setdefault(variant, set()).add(d)
    blocks: dict[tuple[int, ...], list[str]] = {}
    for variant, dims in dims_of.items():
        blocks.setdefault(tuple(sorted(dims)), []).append(variant)
    return [(variants, list(dims)) for dims, variants in blocks.items()]


def _summary(parts: Sequence[Part]) -> str:
    """How many hold, and those that decide: what does not hold, else what is open, else the least clear."""
    failing = sorted((p for p in parts if p.holds is False), key=lambda p: not p.contrary)
    undecided = [p for p in parts if p.holds is None]
    holding = sorted((p for p in parts if p.holds), key=lambda p: p.clarity)
    measured = [p for p in undecided if p.values]
    pieces = []
    if len(parts) > 1:
        pieces.append(f"{len(holding)} of {len(parts)} comparisons hold")
        if contrary := sum(p.contrary for p in failing):
            pieces.append(f"{contrary} contrary")
        if undecided:
            leaning = f", {sum(p.leans for p in measured)} of {len(measured)} leaning as claimed" if measured else ""
            pieces.append(f"{len(undecided)} not decided{leaning}")
    listed = failing or measured or (holding if len(parts) <= LISTED else [])
    pieces += [str(part) for part in listed[:LISTED]]
    if len(listed) > LISTED:
        pieces.append(f"and {len(listed) - LISTED} more")
    if not listed and holding:
        pieces.append(f"least clear: {holding[0]}")
    return "; ".join(pieces) or "Nothing measured"


def _difference_name(a: Cell, b: Cell) -> str:
    if a[0] == b[0]:
        return f"{a[0]}, d = {a[1]} − d = {b[1]}"
    return f"{a[0]} − {b[0]}, d = {a[1]}" if a[1] == b[1] else f"{a[0]} d = {a[1]} − {b[0]} d = {b[1]}"


def _say(region: Region) -> str:
    """``below 0``, ``above 0.9``, ``between -0.1 and 0.1``."""
    low, high = region
    if math.isinf(low):
        return f"below {high:g}"
    return f"above {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"


def _decimals(size: float, n_digits: int) -> float:
    """How many decimals show the first digits of a number of that size; no bound for 0 and NaN."""
    if not size or math.isnan(size):
        return math.inf
    return max(0, n_digits - 1 - math.floor(math.log10(abs(size))))


def _fixed(value: float, decimals: float) -> str:
    return f"{value:.{decimals:g}f}".replace("-", "−") if math.isfinite(decimals) else "0"


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


if __name__ == "__main__":
    sys.exit(main())
