"""Which latent dimension a line needs, and which lines have learned less than principal components know."""

import math
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from fishernet.wording import listed

LEAST_SEEDS = 3  # below, a standard error over seeds says nothing
ACTIVE = 0.01  # variance over images of a latent's posterior mean, above which it is in use (Burda et al. 2016)
NOTHING_LEARNED = 0.98  # of the mean image's error; what lies above is that image, seen through a network
LEAST_FALL = 0.01  # share of its error by which one that still falls does so, at least, in a tenth of the epochs
WIDE = 0.25  # a standard error, as a share of the error: the 95% interval of three seeds, 4.3 of them each way, then reaches 0

Cell = tuple[str, int]  # variant and latent_dim


class Fall(NamedTuple):
    """By what share an error fell over the last epochs, against as many before, in the mean over seeds."""

    share: float
    epochs: int


class Answer(NamedTuple):
    """The smallest d of a line whose mean error is within one standard error of its best; ``dim`` is None where undecided."""

    variant: str
    dim: int | None
    best: int  # the d of the least mean error
    largest: int  # the largest d trained
    n_seeds: int  # that all of these d have
    bend: int | None = None  # the d of the ``knee`` of its means, from which on more buys little
    learned: bool = True  # something, at one d at least
    standard_error: float = math.nan  # of its mean error at ``dim``, as a share of that
    falling: Mapping[int, Fall] = MappingProxyType({})  # the d at which its error still falls at the end of training
    alone: bool = False  # no other d was trained

    @property
    def reason(self) -> str:
        """Why, as a phrase."""
        if not self.learned:
            return "has learned nothing at any d"
        if self.alone:
            return "was trained at one d alone"
        if self.dim is None:
            return f"takes {LEAST_SEEDS} seeds at each d"
        if self.dim == self.largest:
            return "or more: it is the largest d trained"
        if self.dim == self.best:
            return "has the least error"
        return f"is within one standard error of d = {self.best}"


def at_mean_image(runs: pd.DataFrame, value: str, mean_image: float) -> dict[Cell, str]:
    """The cells that have learned nothing, with why: their mean error over seeds is not below that of the mean image.

    A run's error counts as twice that of the mean image at most: a flow can make one image's as large as it likes.
    """
    errors = runs.assign(**{value: runs[value].clip(upper=2 * mean_image)})
    means = errors.groupby(["variant", "latent_dim"], sort=False, as_index=False)[value].mean()
    rows = zip(means["variant"], means["latent_dim"], means[value], strict=True)
    why = "{its} error is not below that of the mean image"
    return {(str(variant), int(d)): why for variant, d, mse in rows if mse >= NOTHING_LEARNED * mean_image}


def which_dimension(
    runs: pd.DataFrame, value: str, nothing: Collection[Cell] = (), falling: Mapping[Cell, Fall] = MappingProxyType({})
) -> list[Answer]:
    """For each line of ``runs``, its smallest sufficient latent_dim by column ``value``, of those that are not in ``nothing``.

    Of seeds s that every d of the line has, Delta_s(d) = value_s(d) - value_s(best), best the d of the least mean. The answer
    is the smallest d with mean Delta <= sd(Delta)/sqrt(n): the one-standard-error rule (Breiman et al. 1984, section 3.4.3),
    paired, as seeds share initial weights and batches. It is a rule of thumb and no test: best is chosen on the same runs.
    ``nothing`` are the cells that have learned nothing, which no line needs; ``falling`` is what ``still_falling`` gives.
    """
    answers = []
    for variant, line in runs.groupby("variant", sort=False):
        table = line.pivot_table(index="seed", columns="latent_dim", values=value).dropna()
        n, largest = len(table), int(line["latent_dim"].max())
        learned = [int(d) for d in sorted(line["latent_dim"].unique()) if (variant, d) not in nothing]
        bend = knee({int(str(d)): float(mean) for d, mean in line.groupby("latent_dim")[value].mean().items()})
        alone = line["latent_dim"].nunique() == 1
        if n < LEAST_SEEDS or not learned or alone:
            bend = bend if learned else None
            answers.append(Answer(str(variant), None, 0, largest, n, bend, bool(learned), alone=alone))
            continue
        table = table[learned]
        best = int(np.argmin(table.mean()))
        above = table.sub(table.iloc[:, best], axis=0)
        within = (above.mean() <= above.std() / math.sqrt(n)).tolist()
        dim = learned[within.index(True)]
        share = float(table[dim].std() / math.sqrt(n) / table[dim].mean())
        own = {d: fall for (name, d), fall in falling.items() if name == variant}
        answers.append(Answer(str(variant), dim, learned[best], largest, n, bend, True, share, own))
    return answers


def still_falling(history: pd.DataFrame) -> dict[Cell, Fall]:
    """The cells whose error still falls at the end of training, by ``history``: variant, latent_dim, seed, epoch, value.

    Of each seed s, f_s = 1 - (mean error of the last w epochs) / (mean error of the w before), w a tenth of its epochs and at
    least one: means, as the error of single epochs jumps. It still falls where the mean f over three seeds or more is above
    ``LEAST_FALL`` and above its standard error sd(f)/sqrt(n). That is a hint and no test, as is the rule for d.
    """
    found = {}
    for _, cell in history.groupby(["variant", "latent_dim"], sort=False):
        falls, epochs = [], 0
        for _, curve in cell.sort_values("epoch").groupby("seed"):
            errors = curve["value"].to_numpy()
            w = max(1, round(len(errors) / 10))
            if len(errors) >= 2 * w:
                falls.append(1 - errors[-w:].mean() / errors[-2 * w : -w].mean())
                epochs = max(epochs, w)
        if len(falls) >= LEAST_SEEDS:
            share = float(np.mean(falls))
            if share > max(LEAST_FALL, float(np.std(falls, ddof=1)) / math.sqrt(len(falls))):
                found[str(cell["variant"].iloc[0]), int(cell["latent_dim"].iloc[0])] = Fall(share, epochs)
    return found


def cautions(answers: Iterable[Answer]) -> list[str]:
    """What may change the answers: errors that still fall, a sentence for those of as many epochs, and wide spreads."""
    falls: dict[int, list[str]] = {}
    wide = []
    for answer in answers:
        if answer.falling:
            shares = sorted(fall.share for fall in answer.falling.values())
            low, high = f"{shares[0]:.0%}", f"{shares[-1]:.0%}"
            by = low if low == high else f"{low[:-1]} to {high}"
            epochs = max(fall.epochs for fall in answer.falling.values())
            falls.setdefault(epochs, []).append(f"{answer.variant} at d = {listed(sorted(answer.falling))} by {by}")
        if answer.standard_error > WIDE:
            wide.append(
                f"{answer.variant} at d = {answer.dim}: the standard error over {answer.n_seeds} seeds is "
                f"{answer.standard_error:.0%} of the error, so that their spread decides; more --seeds would tell."
            )
    return [
        f"Errors still fall, over the last {f'{n} epochs' if n > 1 else 'epoch'} against {f'the {n}' if n > 1 else 'the one'} "
        f"before: {'; '.join(lines)}. More --epochs may change d."
        for n, lines in falls.items()
    ] + wide


def knee(errors: Mapping[int, float]) -> int | None:
    """The d where a falling curve lies furthest below the straight line between its ends; None of fewer than three points.

    With both axes scaled to [0, 1] (Satopaa et al. 2011): where more components begin to buy little.
    """
    dims = sorted(d for d, error in errors.items() if math.isfinite(error))
    if len(dims) < 3 or errors[dims[0]] <= errors[dims[-1]]:
        return None
    d, e = np.array(dims, float), np.array([errors[k] for k in dims])
    below = (d[-1] - d) / (d[-1] - d[0]) - (e - e[-1]) / (e[0] - e[-1])
    return dims[int(below.argmax())]


def active_units(means: np.ndarray, least: float = ACTIVE) -> int:
    """How many latents vary: the variance over images of their posterior mean, (n, d), is above ``least`` (Burda et al. 2016)."""
    return int((means.var(axis=0) > least).sum())


def say_nothing_learned(nothing: Collection[Cell], shown: pd.DataFrame) -> list[str]:
    """A sentence on the cells among those ``shown`` (variant, latent_dim) that have learned nothing; none where all have."""
    dims_of: dict[str, list[int]] = {}
    for variant, d in sorted(zip(shown["variant"], shown["latent_dim"], strict=True), key=lambda cell: cell[1]):
        if (variant, d) in nothing and d not in dims_of.setdefault(variant, []):
            dims_of[variant].append(d)
    lines = "; ".join(f"{variant} at d = {listed(dims)}" for variant, dims in dims_of.items() if dims)
    said = f"Nothing was learned by {lines}: these numbers are of models that do not reconstruct yet, however good they look."
    return [said] if lines else []


def learned_too_little(
    runs: pd.DataFrame, value: str, pca: Mapping[int, float], nothing: Mapping[Cell, str]
) -> list[str]:
    """Which lines have learned nothing at some d, for the reason in ``nothing``, or are worse than PCA, and what to change.

    A sentence for all lines that share the reason and the advice.
    """
    found: dict[tuple[str, str, str], dict[str, list[int]]] = {}  # what, why, further advice -> lines, each with its d
    for _, cell in runs.groupby(["variant", "latent_dim"], sort=False):
        variant, d = str(cell["variant"].iloc[0]), int(cell["latent_dim"].iloc[0])
        if why := nothing.get((variant, d)):
            noise = (cell["likelihood"] == "gaussian-learned").any() if "likelihood" in cell else False
            start = ", or let the noise start lower (--noise-start -4)" if noise else ""
            found.setdefault(("has learned nothing", why, start), {}).setdefault(variant, []).append(d)
        elif cell[value].mean() > pca.get(d, math.inf):
            worse = "is worse than PCA", "as many linear components leave less", ""
            found.setdefault(worse, {}).setdefault(variant, []).append(d)
    sentences = []
    for (what, why, advice), lines in found.items():
        (first, dims), *others = lines.items()
        where = "; ".join(
            [f"{first} {what} at d = {listed(dims)}", *(f"{v} at d = {listed(own)}" for v, own in others)]
        )
        its = "their" if others else "its"
        sentences.append(f"{where}: {why.format(its=its)}. Train longer (--epochs){advice}.")
    return sentences
