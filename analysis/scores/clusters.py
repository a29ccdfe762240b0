"""How well k-means clusters of latent means match the labels (FisherNet paper, Appendix B: Table A2, Figure A1)."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from analysis.errors import AnalysisError
from analysis.scores.tasks import Scored, ScoreTask, Tasks
from analysis.stored import Array, StoredSweep
from fishernet.plan import Json
from fishernet.services.schema import TAG_LENGTH

MOST_STEPS = 3000  # of k-means: from 10 000 images, the slowest of 80 starts stood still after 167
DECIMALS = 4  # of a stored share: an image in 10 000, and 10 x 10 shares stay far below the length of an MLflow tag
# From d = 10 on one start in seven finds the best clustering (PCA latents of Fashion-MNIST): of 50, one nearly always does.
N_STARTS = 50
MOST_CLASSES = 100  # k-means takes time by images times classes, its figure by their square
OVERLAP_ARTIFACT = "scores/clusters.json"


@dataclass(frozen=True, eq=False)  # arrays have no single truth value, which == would need
class Clusters:
    """Labels against clusters: which share of each label's images is in which cluster.

    ``matrix`` (n_classes, n_clusters) holds shares in [0, 1]: rows are the labels in ascending order and sum to
    one. Columns are the clusters, each under the label it is matched with; those matched with none follow, the
    largest first. ``trace`` is the sum of the matched shares, higher is better: n_classes where clusters are
    labels, 1 where all images are in one cluster. ``nmi`` and ``ari`` do not depend on the matching: normalised
    mutual information (over the arithmetic mean of the entropies) and Rand index adjusted for chance (Hubert and
    Arabie, 1985), both 1 where clusters are labels and about 0 where they know nothing of them.
    """

    matrix: np.ndarray
    trace: float
    nmi: float
    ari: float
    n_starts: int
    n_clusters: int
    seed: int

    def values(self) -> dict[str, float]:
        """The scores by name: trace, nmi, ari."""
        return {"trace": self.trace, "nmi": self.nmi, "ari": self.ari}

    def to_dict(self) -> Json:
        """Everything as JSON takes it, the matrix with four decimals."""
        return vars(self) | {"matrix": np.round(self.matrix, DECIMALS).tolist()}

    @classmethod
    def from_dict(cls, values: Json) -> Clusters:
        """What ``to_dict`` wrote."""
        return cls(**{**values, "matrix": np.array(values["matrix"], dtype=float)})


def tasks(stored: StoredSweep) -> Tasks:
    """k-means of every run's latent means against the labels, where a run lacks it. scikit-learn's runs on the CPU."""
    lacking = [run for _, run in stored.runs.iterrows() if "clusters" not in run["scores"]]
    return Tasks([ScoreTask(run, "clusters", score_clusters, partial(_latents, stored, run)) for run in lacking])


def score_clusters(means: Array, labels: npt.NDArray[np.int64]) -> Scored:
    found = cluster(means, labels, n_starts=N_STARTS)
    scored = Scored({f"clusters/{name}": value for name, value in found.values().items()}, found.to_dict())
    if len(json.dumps(scored.about)) > TAG_LENGTH:  # of 25 classes and more
        scored.files[OVERLAP_ARTIFACT] = {"matrix": scored.about.pop("matrix")}
    return scored


def _latents(stored: StoredSweep, run: pd.Series) -> tuple[Array, npt.NDArray[np.int64]]:
    means, labels = stored.latents(run)
    if labels is None:
        raise AnalysisError(f"The images of sweep {stored.sweep.name} have no labels to compare clusters with.")
    if (n := len(np.unique(labels))) > MOST_CLASSES:
        raise AnalysisError(f"The labels are of {n} classes; clusters are compared with {MOST_CLASSES} at most.")
    return means, labels


def stored_clusters(stored: StoredSweep, run: pd.Series) -> Clusters:
    """What ``score_clusters`` found of a run that has it, from its tag and, of many classes, its file; raises AnalysisError."""
    about = run["scores"]["clusters"]
    if "matrix" in about:
        return Clusters.from_dict(about)
    path = stored.artifact(run, OVERLAP_ARTIFACT)
    try:
        return Clusters.from_dict(about | json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnalysisError(f"{OVERLAP_ARTIFACT} of run {run['run_id']} is damaged: {error}.") from error


def cluster(
    means: np.ndarray,
    labels: np.ndarray,
    n_clusters: int | None = None,
    n_starts: int = 10,
    seed: int = 0,
) -> Clusters:
    """Cluster latent means (n, d) by k-means and match the clusters with labels (n,).

    Of all ways to pair clusters with labels, each at most once, the one with the largest trace

        Σ_l  |{i : label_i = l, cluster_i = c(l)}| / |{i : label_i = l}|

    counts, "arrange this into a matrix in a way that maximizes the matrix trace by exchange of matrix columns"
    (FisherNet paper, Appendix B), found exactly as a linear assignment. With fewer clusters than labels the
    labels without a cluster add nothing.

    The means enter unscaled: a latent dimension counts by its variance. k-means is the best of ``n_starts``
    k-means++ starts, each until nothing changes, by default with as many clusters as there are labels; the paper
    gives none of these. On 10 and 20 principal components of Fashion-MNIST one start in six finds the least sum
    of squares, and the next best differ from it by up to 0.6 in trace: a difference of traces may be one of
    starts. Equal means share a cluster, and with fewer distinct means than clusters the surplus clusters are
    empty. The result does not depend on the order of the images.

    Raises ValueError if the means are not finite or not one row per label, if there are no labels, fewer images
    than clusters, or a count below one.
    """
    means, labels = np.asarray(means, dtype=float), np.asarray(labels)
    _check(means, labels)
    classes, class_of = np.unique(labels, return_inverse=True)
    n_clusters = len(classes) if n_clusters is None else n_clusters
    if min(n_clusters, n_starts) < 1:
        raise ValueError(f"n_clusters and n_starts are counts from 1; got {n_clusters} and {n_starts}")
    if len(means) < n_clusters:
        raise ValueError(
            f"k-means needs an image per cluster or more; got {len(means)} images for {n_clusters} clusters"
        )

    cluster_of = _k_means(means, n_clusters, n_starts, seed)
    pairs = np.bincount(class_of * n_clusters + cluster_of, minlength=len(classes) * n_clusters)
    counts = pairs.reshape(len(classes), n_clusters)
    shares = counts / counts.sum(axis=1, keepdims=True)
    matched_classes, matched = linear_sum_assignment(shares, maximize=True)
    largest_first = np.argsort(-counts.sum(axis=0), kind="stable")
    columns = [*matched, *largest_first[~np.isin(largest_first, matched)]]
    return Clusters(
        matrix=shares[:, columns],
        trace=float(shares[matched_classes, matched].sum()),
        nmi=float(normalized_mutual_info_score(class_of, cluster_of)),
        ari=float(adjusted_rand_score(class_of, cluster_of)),
        n_starts=n_starts,
        n_clusters=n_clusters,
        seed=seed,
    )


def _check(means: np.ndarray, labels: np.ndarray) -> None:
    if means.ndim != 2 or labels.ndim != 1:
        raise ValueError(
            f"means are a row per image and labels a number per image; got shapes {means.shape}, {labels.shape}"
        )
    if len(means) != len(labels):
        raise ValueError(f"every image has a mean and a label; got {len(means)} means and {len(labels)} labels")
    if len(labels) == 0:
        raise ValueError("no labels: there is nothing to compare clusters with")
    if not np.isfinite(means).all():
        n_bad = int((~np.isfinite(means)).any(axis=1).sum())
        raise ValueError(f"{n_bad} of {len(means)} means are not finite, so they have no distance to a cluster")


def _k_means(means: np.ndarray, n_clusters: int, n_starts: int, seed: int) -> np.ndarray:
    """The cluster of each mean, (n,) in 0 … n_clusters - 1."""
    # Distinct means with weights are the same problem, in an order that is not that of the images.
    distinct, index, n_equal = np.unique(means, axis=0, return_inverse=True, return_counts=True)
    index = index.reshape(len(means))  # NumPy 2.0 returns (n, 1)
    if len(distinct) <= n_clusters:
        return index
    with warnings.catch_warnings():
        # Of means too close for their squared distance, fewer clusters are filled; the surplus stays empty here too.
        warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
        k_means = KMeans(n_clusters, n_init=n_starts, max_iter=MOST_STEPS, tol=0, random_state=seed)
        k_means.fit(distinct, sample_weight=n_equal)
    return k_means.labels_[index]
