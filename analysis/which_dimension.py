"""Which latent dimension a line needs, and which lines have learned less than principal components know."""

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from fishernet.wording import listed

LEAST_SEEDS = 3  # below, a standard error over seeds says nothing
ACTIVE = 0.01  # variance over images of a latent's posterior mean, above which it is in use (Burda et al. 2016)
NOTHING_LEARNED = 0.98  # of the mean image's error; what lies above is that image, seen through a network

Cell = tuple[str, int]  # variant and latent_dim


class Answer(NamedTuple):
    """The smallest d of a line whose mean error is within one standard error of its best; ``dim`` is None where undecided."""

    variant: str
    dim: int | None
    best: int  # the d of the least mean error
    largest: int  # the largest d trained
    n_seeds: int  # that all of these d have
    bend: int | None = None  # the d of the ``knee`` of its means, from which on more buys little
    learned: bool = True  # something, at one d at least

    @property
    def reason(self) -> str:
        """Why, as a phrase."""
        if not self.learned:
            return "has learned nothing at any d"
        if self.dim is None:
            return f"takes {LEAST_SEEDS} seeds at each d"
        if self.dim == self.largest:
            return "or more: the error still falls at the largest d trained"
        if self.dim == self.best:
            return "has the least error"
        return f"is within one standard error of d = {self.best}"


def at_mean_image(runs: pd.DataFrame, value: str, mean_image: float) -> dict[Cell, str]:
    """The cells that have learned nothing, with why: their mean error over seeds is not below that of the mean image."""
    means = runs.groupby(["variant", "latent_dim"], sort=False, as_index=False)[value].mean()
    rows = zip(means["variant"], means["latent_dim"], means[value], strict=True)
    why = "{its} error is not below that of the mean image"
    return {(str(variant), int(d)): why for variant, d, mse in rows if mse >= NOTHING_LEARNED * mean_image}


def which_dimension(runs: pd.DataFrame, value: str, nothing: Collection[Cell] = ()) -> list[Answer]:
    """For each line of ``runs``, its smallest sufficient latent_dim by column ``value``, of those that are not in ``nothing``.

    Of seeds s that every d of the line has, Delta_s(d) = value_s(d) - value_s(best), best the d of the least mean. The answer
    is the smallest d with mean Delta <= sd(Delta)/sqrt(n): the one-standard-error rule (Breiman et al. 1984, section 3.4.3),
    paired, as seeds share initial weights and batches. It is a rule of thumb and no test: best is chosen on the same runs.
    ``nothing`` are the cells that have learned nothing, which no line needs.
    """
    answers = []
    for variant, line in runs.groupby("variant", sort=False):
        table = line.pivot_table(index="seed", columns="latent_dim", values=value).dropna()
        n, largest = len(table), int(line["latent_dim"].max())
        learned = [int(d) for d in sorted(line["latent_dim"].unique()) if (variant, d) not in nothing]
        bend = knee({int(str(d)): float(mean) for d, mean in line.groupby("latent_dim")[value].mean().items()})
        if n < LEAST_SEEDS or not learned:
            answers.append(Answer(str(variant), None, 0, largest, n, bend if learned else None, bool(learned)))
            continue
        table = table[learned]
        best = int(np.argmin(table.mean()))
        above = table.sub(table.iloc[:, best], axis=0)
        within = (above.mean() <= above.std() / math.sqrt(n)).tolist()
        answers.append(Answer(str(variant), learned[within.index(True)], learned[best], largest, n, bend))
    return answers


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
