"""Which latent dimension a line needs, and which lines have learned less than principal components know."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from fishernet.wording import listed

LEAST_SEEDS = 3  # below, a standard error over seeds says nothing
ACTIVE = 0.01  # variance over images of a latent's posterior mean, above which it is in use (Burda et al. 2016)
NOTHING_LEARNED = 0.98  # of the mean image's error; what lies above is that image, seen through a network


class Answer(NamedTuple):
    """The smallest d of a line whose mean error is within one standard error of its best; ``dim`` is None where undecided."""

    variant: str
    dim: int | None
    best: int  # the d of the least mean error
    largest: int  # the largest d trained
    n_seeds: int  # that all of these d have
    bend: int | None = None  # the d of the ``knee`` of its means, from which on more buys little
    learned: bool = True  # its error is below the mean image's somewhere

    @property
    def reason(self) -> str:
        """Why, as a phrase."""
        if not self.learned:
            return "has learned nothing: its error is not below the mean image's at any d"
        if self.dim is None:
            return f"takes {LEAST_SEEDS} seeds at each d"
        if self.dim == self.largest:
            return "or more: the error still falls at the largest d trained"
        if self.dim == self.best:
            return "has the least error"
        return f"is within one standard error of d = {self.best}"


def which_dimension(runs: pd.DataFrame, value: str, mean_image: float = math.inf) -> list[Answer]:
    """For each line of ``runs``, its smallest sufficient latent_dim by column ``value``; none where all are at ``mean_image``.

    Of seeds s that every d of the line has, Delta_s(d) = value_s(d) - value_s(best), best the d of the least mean. The answer
    is the smallest d with mean Delta <= sd(Delta)/sqrt(n): the one-standard-error rule (Breiman et al. 1984, section 3.4.3),
    paired, as seeds share initial weights and batches. It is a rule of thumb and no test: best is chosen on the same runs.
    """
    answers = []
    for variant, line in runs.groupby("variant", sort=False):
        table = line.pivot_table(index="seed", columns="latent_dim", values=value).dropna()
        means, n = table.mean(), len(table)
        learned = bool((line.groupby("latent_dim")[value].mean() < NOTHING_LEARNED * mean_image).any())
        bend = knee({int(str(d)): float(mean) for d, mean in line.groupby("latent_dim")[value].mean().items()})
        if n < LEAST_SEEDS or not learned:
            largest = int(line["latent_dim"].max())
            answers.append(Answer(str(variant), None, 0, largest, n, bend if learned else None, learned))
            continue
        best = int(np.argmin(means))
        above = table.sub(table.iloc[:, best], axis=0)
        within = (above.mean() <= above.std() / math.sqrt(n)).tolist()
        dims = [int(d) for d in np.asarray(table.columns)]  # ascending
        answers.append(Answer(str(variant), dims[within.index(True)], dims[best], dims[-1], n, bend))
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


def learned_too_little(runs: pd.DataFrame, value: str, pca: Mapping[int, float]) -> list[str]:
    """Which lines are at the mean image's error (``pca[0]``) at some d, or worse than PCA there, and what to change.

    A sentence for all lines that share the reason and the advice.
    """
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}  # what, further advice -> lines, each with its d
    for variant, line in runs.groupby("variant", sort=False):
        means: dict[int, float] = line.groupby("latent_dim")[value].mean().to_dict()  # type: ignore[assignment]  # its stub
        at_mean = [d for d, mse in means.items() if 0 in pca and mse >= NOTHING_LEARNED * pca[0]]
        worse = [d for d, mse in means.items() if d not in at_mean and mse > pca.get(d, math.inf)]
        if at_mean:
            learned = (line["likelihood"] == "gaussian-learned").any() if "likelihood" in line else False
            start = ", or let the noise start lower (--noise-start -4)" if learned else ""
            found.setdefault(("has learned nothing", start), []).append((str(variant), listed(at_mean)))
        if worse:
            found.setdefault(("is worse than PCA", ""), []).append((str(variant), listed(worse)))
    sentences = []
    for (what, advice), ((first, dims), *others) in found.items():
        where = "; ".join([f"{first} {what} at d = {dims}", *(f"{variant} at d = {own}" for variant, own in others)])
        why = {
            "has learned nothing": f"{'their' if others else 'its'} error is not below that of the mean image",
            "is worse than PCA": "as many linear components leave less",
        }[what]
        sentences.append(f"{where}: {why}. Train longer (--epochs){advice}.")
    return sentences
