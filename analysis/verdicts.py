"""Whether a sweep's runs bear out what is claimed: comparisons over seeds, their intervals, and a verdict in one of six words.

A claim is a conjunction of comparisons. A comparison is one number per seed, most often the difference of two runs, which
with equal seeds saw the images in the same order. Its mean over seeds has the 95% interval of Student's t, and the claim
says where the mean lies: below 0, above 0, within a margin.

What an interval says. The comparison *holds* where the whole interval lies where the claim says, is *contrary* where the whole
interval lies beyond, and else *reaches across* the bound. Fewer than three seeds say nothing: Student's factor is 12.7 for two.

A comparison's verdict is the first of these that applies:

* **not asked of these data**: its runs have other images or settings than those that the claim is about;
* **too short**: they were trained for fewer epochs than the claim is about;
* **contradicted**: the comparison is contrary;
* **undecided**: its interval reaches across, or there are fewer than three seeds;
* **confirmed**: it holds.

A claim's verdict is **contradicted** as soon as one comparison's is: the claim says all of them, and that one is of runs that the
claim is about. Otherwise it is the first of the other words, in this order, that one of the comparisons has. So a claim is
confirmed when all its comparisons are.

The sixth is a claim's alone, where it says so: **flat because poor**, of a curve that rises less from an error that is worse to
begin with. What was claimed to be robust ignores its input: the claim is neither confirmed nor, of the rise, contradicted.

Nothing is corrected for many comparisons. To be confirmed a claim needs all of its own, so that it is confirmed wrongly at
most as often as one of them holds wrongly, in 2.5% of sweeps (the intersection-union test; Berger, Technometrics 1982). The
price is power: of many comparisons that are true, one may fail for want of seeds, and so the table names those that fail.
To be contradicted it needs one, so that a true claim of k comparisons is contradicted in at most 2.5 k % of sweeps, and in far
fewer where the truth is not at the limit of what is claimed.

What remains of a gain is a ratio of two means, with Fieller's interval, and is asked at many latent dimensions: ``what_remains``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property

import numpy as np
import pandas as pd
from scipy import special, stats

from analysis.exhibits import Table, Unfolding
from fishernet.services.schema import CLOCKS
from fishernet.wording import grouped, listed

Cell = tuple[str, int]  # variant and latent_dim
Region = tuple[float, float]  # where a claim says that a mean lies
Command = Callable[[Sequence[str], Sequence[int]], str]  # the sentence on how to train variants at latent dimensions

BELOW: Region = (-math.inf, 0.0)
ABOVE: Region = (0.0, math.inf)
LEAST_SEEDS = 3
CONFIDENCE = 0.95
LISTED = 3  # comparisons, or what sets runs apart, that a cell of the table writes out

CONFIRMED, CONTRADICTED, UNDECIDED, TOO_SHORT = "confirmed", "contradicted", "undecided", "too short"
NOT_ASKED = "not asked of these data"
FLAT = "flat because poor"
PRECEDENCE = (CONTRADICTED, NOT_ASKED, TOO_SHORT, UNDECIDED, CONFIRMED)  # of comparisons' words for their claim
HOLDS, CONTRARY, ACROSS = "holds", "contrary", "reaches across"

# Answers to what remains of a gain, beside UNDECIDED, TOO_SHORT and NOT_ASKED.
REMAINS, IN_PART, LOST = "remains", "remains in part", "does not remain"
NO_GAIN = "no gain to begin with"
KEPT_SHARE, LOST_SHARE = 0.5, 0.25  # a share of the gain above the one remains, below the other does not

CAPTION = (
    "Comparisons are paired: differences of runs with equal seeds, which saw the images in the same order, averaged over seeds, "
    "with the 95% interval of Student's t in brackets. A comparison holds where the whole interval lies where the claim says, "
    "is contrary where all of it lies beyond, and else reaches across the bound (as when it includes zero). A claim is confirmed "
    "when all its comparisons hold, contradicted when one is contrary, undecided when an interval reaches across or fewer than "
    f"{LEAST_SEEDS} seeds are there, too short when runs were trained for fewer epochs than it is about, and not asked of these "
    "data when runs have other images or settings than it is about. Numbers are shown in any case; of runs that are too short or "
    "not asked they decide nothing. Intervals are per comparison and not corrected: as a claim needs all of its comparisons, it "
    "is confirmed wrongly in at most 2.5% of sweeps; as one of k is enough to contradict it, it is contradicted wrongly in at "
    "most k times as many. These are each claim's own rates, not the table's. A gain is by how much one model's MSE is below "
    "another's. What remains of it is "
    f"a ratio of mean differences with Fieller's 95% interval: it remains where that lies above {KEPT_SHARE:.0%} at every latent "
    f"dimension, does not remain where it lies below {LOST_SHARE:.0%} at every one, and remains in part where it lies above at "
    "some by Holm's correction."
)


@dataclass(frozen=True)
class Scope:
    """Which runs claims are about.

    ``epochs``: how many a run must have been trained for, where a claim is about the end of training. ``apart``: of those runs,
    scored on those held-out images, what sets them apart from the runs that the claims are about: pairs of a few words and
    the variant that they are true of, which is empty where they are true of all.
    """

    epochs: int = 0
    apart: Callable[[pd.DataFrame, str], Sequence[tuple[str, str]]] = lambda runs, held_out: ()

    def and_apart(self, what: str) -> Scope:
        """The same, and all runs set apart by ``what``."""
        return replace(self, apart=lambda runs, held_out: [(what, ""), *self.apart(runs, held_out)])


@dataclass(frozen=True)
class Evidence:
    """What claims are judged by: finished runs, one row each, and the history of scores as ``frame.load_epochs`` gives it.

    ``notes`` are sentences on what was left out of them. ``failed`` are the runs that ended without a number, as
    ``frame.failed`` gives them. ``epoch`` is the one after which runs are compared, None for their last.
    """

    runs: pd.DataFrame
    history: pd.DataFrame
    held_out: str = "test"
    notes: Sequence[str] = ()
    failed: pd.DataFrame | None = None
    scope: Scope = Scope()
    epoch: int | None = None

    def score(self, name: str) -> str:
        """The column of that score on the held-out images, such as ``test/mse``; of a whole name, ``train/loss``, its own."""
        return name if "/" in name else f"{self.held_out}/{name}"

    def at_epoch(self, epoch: int, name: str = "mse") -> tuple[Evidence, str]:
        """The runs as they stood after that epoch, and the column of that score then, NaN where it was not recorded."""
        metric = f"{self.score(name)} at epoch {epoch}"
        then = self.history[(self.history["epoch"] == epoch) & (self.history["metric"] == self.score(name))]
        values = then.set_index("run_id")["value"]
        return replace(self, runs=self.runs.assign(**{metric: self.runs["run_id"].map(values)}), epoch=epoch), metric

    @property
    def epochs_asked(self) -> int:
        """How many epochs a run must have been trained for."""
        return self.scope.epochs if self.epoch is None else self.epoch


@dataclass(frozen=True)
class Comparison:
    """One comparison: a number per seed, and where the claim says that their mean lies.

    With ``of`` it is the ratio of the two means, values over ``of``, seed by seed in the same order. ``denied`` is where the
    interval is contrary; all that is not claimed where it is None. NumPy's numbers become Python's.
    """

    name: str  # such as "A − B, d = 5"
    claimed: Region
    values: tuple[float, ...]
    of: tuple[float, ...] = ()
    denied: Region | None = None
    lacking: tuple[Cell, ...] = ()  # cells to train, where too few seeds have them all
    untrained: tuple[Cell, ...] = ()  # cells without a run, be it a failed one
    unscored: tuple[str, ...] = ()  # metrics that too few of the runs have
    unequal: tuple[str, ...] = ()  # "A 25", "B 12", where the epochs differ
    failed: tuple[str, ...] = ()  # "A d = 10 seed 4 (failed: the loss is not finite)": runs that would belong here
    apart: tuple[tuple[str, str], ...] = ()  # as Scope.apart
    short: tuple[tuple[str, int, int], ...] = ()  # variant, the epochs it was trained for, the epochs it would need

    def __post_init__(self) -> None:
        for name in ("claimed", "values", "of"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))

    @property
    def mean(self) -> float:
        """The mean over seeds, or the ratio of means; NaN without any, and where the mean of ``of`` is not above 0."""
        if self.of:
            return sum(self.values) / sum(self.of) if sum(self.of) > 0 else math.nan
        return _mean(self.values) if self.values else math.nan

    @cached_property
    def interval(self) -> tuple[float, float]:
        """mean ± t(n - 1) sd / √n, the 95% interval of Student's t, or Fieller's of a ratio; NaN below three seeds."""
        n = len(self.values)
        if n < LEAST_SEEDS:
            return math.nan, math.nan
        if self.of:
            return fieller(self.values, self.of)
        half = student(n) * math.sqrt(_covariance(self.values, self.values) / n)
        return self.mean - half, self.mean + half

    @property
    def reading(self) -> str:
        """What the interval says: HOLDS, CONTRARY, ACROSS, or nothing below three seeds."""
        if len(self.values) < LEAST_SEEDS:
            return ""
        low, high = self.interval
        if self.claimed[0] < low and high < self.claimed[1]:
            return HOLDS
        denied = [self.denied] if self.denied else [(-math.inf, self.claimed[0]), (self.claimed[1], math.inf)]
        return CONTRARY if any(a <= low and high <= b for a, b in denied) else ACROSS

    @property
    def verdict(self) -> str:
        """The comparison's own word; see the module."""
        if self.apart:
            return NOT_ASKED
        if self.short:
            return TOO_SHORT
        return {HOLDS: CONFIRMED, CONTRARY: CONTRADICTED}.get(self.reading, UNDECIDED)

    @property
    def why(self) -> str:
        """The reason for a verdict that is not the interval's own, and for undecided."""
        if self.apart:
            return "; ".join(by_what(self.apart))
        if self.short:
            return _say_short(self.short)
        if self.reading == ACROSS:
            return "the interval reaches across the bound"
        if self.reading:
            return ""
        return (
            f"too few runs have {', '.join(self.unscored)}" if self.unscored and not self.lacking else "not enough runs"
        )

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
        return f"{self.name}: {self.number}, {n} seed{'s' * (n > 1)}"

    @property
    def number(self) -> str:
        """``−0.00021 [−0.00030, −0.00012]``, with digits as the interval needs them."""
        n = len(self.values)
        scale, unit = (100, "%") if self.of else (1, "")
        mean, low, high = (scale * number for number in (self.mean, *self.interval))
        if self.of and not math.isfinite(high - low if n >= LEAST_SEEDS else mean):
            return "none, as the gain may be none"
        digits = min(_decimals((high - low) / 2, 2), _decimals(mean, 3))
        interval = f" [{_fixed(low, digits)}{unit}, {_fixed(high, digits)}{unit}]" if n >= LEAST_SEEDS else ""
        return f"{_fixed(mean, digits)}{unit}{interval}"


def conclude(parts: Sequence[Comparison]) -> str:
    """The verdict on a claim that says all of these: of their words the first in the order of ``PRECEDENCE``."""
    words = {part.verdict for part in parts}
    return next((word for word in PRECEDENCE if word in words), UNDECIDED)


@dataclass(frozen=True)
class Finding:
    """What the runs say of a claim. ``beside`` are comparisons of interest without a say in the verdict, by what they are."""

    parts: Sequence[Comparison]
    verdict: str
    beside: Mapping[str, Sequence[Comparison]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def text(self) -> str:
        """The cell of the table: what keeps the runs from deciding, numbers, what is measured beside, notes."""
        sentences = [*self._reasons(), _summary(self.parts)]
        sentences += [
            f"{what}: {_summary(parts)}"
            for what, parts in self.beside.items()
            if any(part.values or part.lacking for part in parts)
        ]
        return _joined([*sentences, *self.remarks()])

    def brief(self) -> str:
        """The same in a sentence or two, with one number at the most."""
        return _joined([*self._unlike(), _summary(self.parts, most=1)])

    def remarks(self) -> list[str]:
        """Notes, and runs and scores that are not counted."""
        sentences = [*self.notes]
        if failed := list(dict.fromkeys(run for part in self._every for run in part.failed)):
            sentences.append(f"Not counted, as they gave no number: {_some(failed)}")
        if unequal := dict.fromkeys(epochs for part in self._every for epochs in part.unequal):
            sentences.append(f"Unequal epochs: {', '.join(unequal)}")
        if unscored := dict.fromkeys(metric for part in self.parts for metric in part.unscored):
            sentences.append(f"Too few runs have {', '.join(unscored)}")
        return sentences

    @property
    def lacking(self) -> list[Cell]:
        """The cells whose runs are lacking; none where more runs like these would not change the verdict."""
        if self.verdict in (NOT_ASKED, TOO_SHORT):
            return []
        return [cell for part in self._every for cell in part.lacking]

    @property
    def _every(self) -> list[Comparison]:
        return [part for parts in (self.parts, *self.beside.values()) for part in parts]

    def _reasons(self) -> list[str]:
        """Sentences on why the runs do not decide."""
        few = sum(bool(part.lacking) for part in self.parts)
        of = f" for {few} of {len(self.parts)} comparisons" if len(self.parts) > 1 else ""
        return [*self._unlike(), *[f"Not enough runs{of}"] * bool(few and self.verdict == UNDECIDED)]

    def _unlike(self) -> list[str]:
        """Sentences on what sets the runs apart from those that the claim is about."""
        reasons = []
        if apart := by_what(pair for part in self.parts for pair in part.apart):
            reasons.append(f"Outside the claim: {_some(apart)}")
        if short := _say_short(run for part in self.parts for run in part.short):
            reasons.append(f"Too short: {short}")
        return reasons


@dataclass(frozen=True)
class Claim:
    """A claim by its number, what the paper says, and the function that holds it against the runs."""

    id: str
    paper: str
    find: Callable[[Evidence], Finding]


def table(
    title: str, claims: Sequence[Claim], evidence: Evidence, command_for: Command, remarks: Sequence[str] = ()
) -> Table:
    """All claims as a Table; ``command_for`` says which command trains variants at latent dimensions.

    ``data`` has a row per comparison: claim, verdict (of the claim), part, ``beside`` (empty, or what it was measured for beside
    the claim, without a say in its verdict), claimed (with its margin), mean, low, high (the 95% interval, empty below three
    seeds), n_seeds, interval (holds, contrary, reaches across, or empty), comparison (its own verdict), why.
    """
    findings = {claim: claim.find(evidence) for claim in claims}
    shown = pd.DataFrame(
        [(c.id, c.paper, finding.text(), finding.verdict) for c, finding in findings.items()],
        columns=["claim", "the paper says", "these runs show", "verdict"],
    )
    rows = [
        (
            *(claim.id, finding.verdict, part.name, beside, _say(part), part.mean, *part.interval, len(part.values)),
            *(part.reading, part.verdict, part.why),
        )
        for claim, finding in findings.items()
        for beside, parts in {"": finding.parts, **finding.beside}.items()
        for part in parts
    ]
    columns = "claim verdict part beside claimed mean low high n_seeds interval comparison why"
    data = pd.DataFrame(rows, columns=columns.split())
    caption = " ".join([*remarks, *_say_failed(evidence), *evidence.notes, CAPTION])
    unfolding, filling = _unfolding(shown, findings), commands([*findings.values()], command_for)
    return Table("claims", title, caption, data, shown, unfolding, filling)


def commands(findings: Sequence[Finding], command_for: Command) -> list[str]:
    """What trains the runs that these lack, one sentence for lines that lack the same latent dimensions."""
    lacking = _grouped([cell for finding in findings for cell in finding.lacking])
    return [f"With --seeds {LEAST_SEEDS}, {command_for(variants, dims)}" for variants, dims in lacking]


def _unfolding(shown: pd.DataFrame, findings: Mapping[Claim, Finding]) -> Unfolding:
    """On a page: a sentence a claim, and below it each comparison's numbers, and once each what was noted."""
    numbers = pd.DataFrame(
        [
            (
                *(claim.id, f"{beside}: {part.name}" if beside else part.name, _say(part)),
                *(part.number, len(part.values), part.reading or part.why),
            )
            for claim, finding in findings.items()
            for beside, parts in {"": finding.parts, **finding.beside}.items()
            for part in parts
            if part.values
        ],
        columns=["claim", "comparison", "claimed", "mean [95% interval]", "seeds", "interval"],
    )
    notes = grouped(((claim.id, note) for claim, f in findings.items() for note in f.remarks()), "claims")
    brief = shown.assign(**{"these runs show": [finding.brief() for finding in findings.values()]})
    return Unfolding(
        brief, "The numbers of each comparison", numbers, [f"{ids}: {_joined([note])}" for ids, note in notes]
    )


def compare(
    name: str,
    evidence: Evidence,
    terms: Sequence[tuple[str, Cell]],
    combine: Callable[..., pd.Series[float]],
    claimed: Region,
    of: Callable[..., pd.Series[float]] | None = None,
    denied: Region | None = None,
) -> Comparison:
    """One number per seed that has all terms: ``combine`` of the values of each (metric, cell), a series over seeds each.

    With ``of``, of the same arguments, the ratio of both. Values that are not finite count as not there. It says what is lacking
    where fewer than three seeds are left, what failed, and what sets its runs apart from those of the evidence's scope,
    or where it has none those of its variants at other d.
    """
    runs = evidence.runs
    runs_of = {
        cell: runs[(runs["variant"] == cell[0]) & (runs["latent_dim"] == cell[1])].set_index("seed")
        for _, cell in terms
    }
    columns = [_measured(runs_of[cell], metric) for metric, cell in terms]
    together = pd.concat(columns, axis=1, join="inner", keys=range(len(columns)))
    values = _finite(combine(*(together[i] for i in together))).sort_index()
    per = _finite(of(*(together[i] for i in together))).sort_index() if of else values
    values = values[values.index.isin(per.index)]
    failed = _failed(evidence, list(runs_of))
    untrained = tuple(cell for cell, of_cell in runs_of.items() if of_cell.empty and not _failed(evidence, [cell]))
    there = pd.concat(list(runs_of.values()))
    if there.empty:  # as the sweep's other runs are, so these would be
        there = runs[runs["variant"].isin({variant for variant, _ in runs_of})]
    apart = tuple(evidence.scope.apart(there, evidence.held_out))
    short = _short(there, evidence.epochs_asked)
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
    return Comparison(
        name,
        claimed,
        tuple(values),
        tuple(per[values.index]) if of else (),
        denied,
        lacking=() if apart or short else lacking,
        unscored=() if short and evidence.epoch is not None else unscored,  # an epoch that no run has reached
        unequal=_unequal_epochs(used) if evidence.epoch is None else (),
        failed=failed,
        untrained=untrained,
        apart=apart,
        short=short,
    )


def _measured(runs: pd.DataFrame, metric: str) -> pd.Series[float]:
    """The finite values by seed. Seeds trained as one stack have the seconds of its one clock, of which the first counts."""
    values = _finite(runs.get(metric, pd.Series(dtype=float)))
    return values[~values.duplicated()] if metric in CLOCKS else values


def difference(evidence: Evidence, metric: str, a: Cell, b: Cell, claimed: Region, what: str = "") -> Comparison:
    """The metric of a less that of b, seed by seed; ``what`` ends the name."""
    return compare(f"{_difference_name(a, b)}{what}", evidence, [(metric, a), (metric, b)], lambda x, y: x - y, claimed)


def share(evidence: Evidence, metric: str, gain: tuple[Cell, Cell], rest: tuple[Cell, Cell], d: int) -> Comparison:
    """What share of a gain is left: the mean difference ``rest`` over the mean difference ``gain``, each a less b."""
    return compare(
        f"share of the gain, d = {d}",
        evidence,
        [(metric, cell) for cell in (*gain, *rest)],
        lambda gain_a, gain_b, rest_a, rest_b: rest_a - rest_b,
        (KEPT_SHARE, math.inf),
        of=lambda gain_a, gain_b, rest_a, rest_b: gain_a - gain_b,
        denied=(-math.inf, LOST_SHARE),
    )


def what_remains(shares: Mapping[int, Comparison]) -> tuple[str, list[str]]:
    """What remains of a gain, from its share at each latent dimension, and a sentence for each answer that some of them give.

    It remains where the share's whole interval lies above one half at every d, and does not where it lies below a quarter
    at every d: both need all, which needs no correction. It remains in part where it is above at some d by Holm's
    correction over d of the one-sided tests at 2.5% (Holm, Scand. J. Statist. 1979), so that nothing is said to remain
    anywhere in more than 2.5% of sweeps in which half or less remains everywhere. A share is asked of a gain alone: each test
    also has to find the gain above 0. Where the gain's interval is below 0 at every d there is none. Else it is undecided.
    """
    verdicts = {share.verdict for share in shares.values()}
    for word in (NOT_ASKED, TOO_SHORT):
        if word in verdicts:
            return word, []
    if verdicts in ({CONFIRMED}, {CONTRADICTED}):
        return REMAINS if verdicts == {CONFIRMED} else LOST, []
    kept = holm({d: _chance(share, lambda r, g: r - KEPT_SHARE * g) for d, share in shares.items()})
    lost = holm({d: _chance(share, lambda r, g: LOST_SHARE * g - r) for d, share in shares.items()})
    notes = [
        f"{what} at d = {listed(dims)}, by Holm's correction over {len(shares)} latent dimensions"
        for what, dims in (("Remains", kept), ("Does not remain", lost))
        if dims
    ]
    if kept:
        return IN_PART, notes
    level = (1 - CONFIDENCE) / 2
    none = all(_chance_above_0([-g for g in share.of]) <= level for share in shares.values())
    return (NO_GAIN if none and shares else UNDECIDED), notes


def fieller(values: Sequence[float], of: Sequence[float]) -> tuple[float, float]:
    """Fieller's 95% interval of mean(values) / mean(of), paired; all numbers where mean(of) is not above 0 beyond doubt.

    All r for which |mean(values - r of)| <= t(n - 1) sd(values - r of) / √n, which between two roots of a quadratic in r is so
    where the interval of mean(of) lies above 0 (Fieller, J. R. Statist. Soc. B 1954). It is exact for normal numbers.
    """
    n = len(values)
    x, y = _mean(values), _mean(of)
    t2 = student(n) ** 2 / n
    a = y * y - t2 * _covariance(of, of)
    if y <= 0 or a <= 0:
        return -math.inf, math.inf
    b = x * y - t2 * _covariance(values, of)
    c = x * x - t2 * _covariance(values, values)
    root = math.sqrt(max(0.0, b * b - a * c))
    return (b - root) / a, (b + root) / a


def holm(chances: Mapping[int, float]) -> list[int]:
    """Of one-sided tests by what they are of, those that Holm's step-down correction leaves at 2.5%, in order."""
    found = []
    for i, (key, chance) in enumerate(sorted(chances.items(), key=lambda pair: pair[1])):
        if chance > (1 - CONFIDENCE) / 2 / (len(chances) - i):
            break
        found.append(key)
    return sorted(found)


def by_what(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """``noise_start -4 (FisherNet, VAE)`` of the pairs ("noise_start -4", "FisherNet") and ("noise_start -4", "VAE")."""
    found: dict[str, dict[str, None]] = {}
    for what, variant in pairs:
        found.setdefault(what, {})[variant] = None
    return [f"{what} ({', '.join(variants)})" if any(variants) else what for what, variants in found.items()]


@cache
def student(n: int) -> float:
    """The two-sided 95% quantile of Student's t for n values."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))


def _chance(share: Comparison, excess: Callable[[float, float], float]) -> float:
    """p of the one-sided test that ``excess`` of (rest, gain) and the gain are both above 0 in the mean."""
    excesses = [excess(r, g) for r, g in zip(share.values, share.of, strict=True)]
    return max(_chance_above_0(share.of), _chance_above_0(excesses))


def _chance_above_0(values: Sequence[float]) -> float:
    """p of the one-sided t test that the mean is above 0; 1 below three seeds."""
    n = len(values)
    if n < LEAST_SEEDS:
        return 1.0
    error = math.sqrt(_covariance(values, values) / n)
    if error == 0:
        return float(_mean(values) <= 0)
    return float(special.stdtr(n - 1, -_mean(values) / error))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _covariance(a: Sequence[float], b: Sequence[float]) -> float:
    mean_a, mean_b = _mean(a), _mean(b)
    return sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True)) / (len(a) - 1)


def _finite(values: pd.Series) -> pd.Series[float]:
    values = values.astype(float)
    return values[np.isfinite(values)]


def _short(runs: pd.DataFrame, epochs_asked: int) -> tuple[tuple[str, int, int], ...]:
    """The variants among the runs that were trained for fewer epochs, with how many."""
    few = runs[runs["epochs"] < epochs_asked]
    pairs = dict.fromkeys(zip(few["variant"], few["epochs"], strict=True))
    return tuple((str(variant), int(epochs), epochs_asked) for variant, epochs in pairs)


def _say_short(short: Iterable[tuple[str, int, int]]) -> str:
    """``12 epochs (FisherNet, VAE), where the claim is about 50``."""
    by_asked: dict[int, dict[int, dict[str, None]]] = {}
    for variant, epochs, asked in short:
        by_asked.setdefault(asked, {}).setdefault(epochs, {})[variant] = None
    return "; ".join(
        ", ".join(f"{epochs} epoch{'s' * (epochs > 1)} ({', '.join(v)})" for epochs, v in sorted(by_epochs.items()))
        + f", where the claim is about {asked}"
        for asked, by_epochs in by_asked.items()
    )


def _unequal_epochs(runs: pd.DataFrame) -> tuple[str, ...]:
    """``FisherNet 25``, ``CVAE 12`` where the runs' epochs differ, else nothing."""
    if runs["epochs"].nunique() < 2:
        return ()
    by_variant = runs.groupby("variant", sort=False)["epochs"].unique()
    return tuple(f"{variant} {listed(sorted(epochs))}" for variant, epochs in by_variant.items())


def _failed(evidence: Evidence, cells: Sequence[Cell]) -> tuple[str, ...]:
    """``CVAE d = 10 seed 4 (failed: the loss is not finite)``: the runs of these cells that ended without a number."""
    if evidence.failed is None:
        return ()
    rows = evidence.failed[["variant", "latent_dim", "seed", "state"]].itertuples(index=False)
    return tuple(f"{v} d = {d} seed {seed} ({state})" for v, d, seed, state in rows if (v, d) in cells)


def _say_failed(evidence: Evidence) -> list[str]:
    """The caption's sentence on runs that ended without a number, if any."""
    if evidence.failed is None or evidence.failed.empty:
        return []
    n = len(evidence.failed)
    counts = Counter(zip(evidence.failed["variant"], evidence.failed["latent_dim"], strict=True))
    where = ", ".join(f"{variant} d = {d} ({count})" for (variant, d), count in counts.items())
    return [
        f"{n} run{'s' * (n > 1)} failed or stopped and gave no number: {where}; what is compared are the others, which "
        "flatters a model whose runs fail."
    ]


def _grouped(cells: Sequence[Cell]) -> list[tuple[list[str], list[int]]]:
    """The cells as (variants, dims) blocks: variants that lack the same dims go into one command."""
    dims_of: dict[str, set[int]] = {}
    for variant, d in cells:
        dims_of.setdefault(variant, set()).add(d)
    blocks: dict[tuple[int, ...], list[str]] = {}
    for variant, dims in dims_of.items():
        blocks.setdefault(tuple(sorted(dims)), []).append(variant)
    return [(variants, list(dims)) for dims, variants in blocks.items()]


def _joined(sentences: Iterable[str]) -> str:
    return " ".join(sentence if sentence.endswith(".") else f"{sentence}." for sentence in sentences)


def _summary(parts: Sequence[Comparison], most: int = LISTED) -> str:
    """How many hold, and those that decide: what does not hold, else what too few seeds have, else the least clear."""
    contrary, across, few = ([part for part in parts if part.reading == r] for r in (CONTRARY, ACROSS, ""))
    holding = sorted((part for part in parts if part.reading == HOLDS), key=lambda part: part.clarity)
    measured = [part for part in few if part.values]
    untrained = [part for part in few if part.untrained]
    cells = dict.fromkeys(cell for part in untrained for cell in part.untrained)
    where = "; ".join(f"{_some(variants, ', ')} at d = {listed(dims)}" for variants, dims in _grouped([*cells]))
    pieces = []
    if len(parts) > 1:
        if len(few) < len(parts):
            pieces.append(f"{len(holding)} of {len(parts)} comparisons hold")
        pieces += [f"{len(contrary)} contrary"] * bool(contrary)
        if across:
            pieces.append(
                f"{len(across)} {'intervals reach' if len(across) > 1 else 'interval reaches'} across the bound"
            )
        pieces += [f"{len(untrained)} not trained ({where})"] * bool(untrained)
        unscored = [part for part in few if part.unscored and not part.untrained]
        pieces += [f"{len(unscored)} not scored"] * bool(unscored)
        if n_few := len(few) - len(untrained) - len(unscored):
            leaning = f", {sum(p.leans for p in measured)} of {len(measured)} leaning as claimed" if measured else ""
            pieces.append(f"{n_few} with fewer than {LEAST_SEEDS} seeds{leaning}")
    elif untrained:
        pieces.append(f"Not trained: {where}")
    written = [*contrary, *across] or measured or (holding if len(parts) <= most else [])
    pieces += [str(part) for part in written[:most]]
    if len(written) > most:
        pieces.append(f"and {len(written) - most} more")
    if not written and holding:
        pieces.append(f"least clear: {holding[0]}")
    return "; ".join(pieces) or "Nothing measured"


def _some(items: Sequence[str], separator: str = "; ") -> str:
    """The first of them, and how many more there are."""
    more = len(items) - LISTED
    return separator.join([*items[:LISTED], *([f"and {more} more"] if more > 0 else [])])


def _difference_name(a: Cell, b: Cell) -> str:
    if a[0] == b[0]:
        return f"{a[0]}, d = {a[1]} − d = {b[1]}"
    return f"{a[0]} − {b[0]}, d = {a[1]}" if a[1] == b[1] else f"{a[0]} d = {a[1]} − {b[0]} d = {b[1]}"


def _say(part: Comparison) -> str:
    """``below 0``, ``above 0.9``, ``between -0.1 and 0.1``, ``above 0.5; contrary below 0.25``."""
    claimed, *denied = (_say_region(region) for region in (part.claimed, part.denied) if region)
    return "; contrary ".join([claimed, *denied])


def _say_region(region: Region) -> str:
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
