"""How well k-means clusters of latent means match the labels (FisherNet paper, Appendix B: Table A2, Figure A1)."""

import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from analysis import style

MOST_STEPS = 3000  # of k-means: from 10 000 images, the slowest of 80 starts stood still after 167
DECIMALS = 4  # of a stored share: an image in 10 000, and 10 x 10 shares stay far below the length of an MLflow tag
LEAST_NUMBER = 0.05  # share from which a cell says its value: smaller ones are hardly coloured, and are most
CELL_INCHES = 0.2  # a cell's least side
PANEL_INCHES = 1.5  # a panel's least side: room for the axes' and the colour bar's labels
LETTERS_PER_INCH = 10  # of a title
COLOUR_MAP = "Blues"  # one hue: read alike under every colour-vision deficiency and in grey
WHITE_ABOVE = 0.7  # share from which white stands out from its colour as well as black: 4.4 : 1
MOST_IN_A_ROW = 3  # heat maps of 10 x 10: with a fourth beside them, the numbers are too small on a page


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

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON takes it, the matrix with four decimals."""
        return vars(self) | {"matrix": np.round(self.matrix, DECIMALS).tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Clusters":
        """What ``to_dict`` wrote."""
        return cls(**{**values, "matrix": np.array(values["matrix"], dtype=float)})


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


def plot_overlap(matrices: Sequence[tuple[str, np.ndarray]], class_names: Sequence[str]) -> Figure:
    """Figure A1: a heat map per model of its ``Clusters.matrix`` in percent, titled with the model's name.

    All share one scale from 0 to 100 %. Cells from 5 % on say their value.

    Raises ValueError without a matrix, or if a matrix has not one row per class name.
    """
    if not matrices:
        raise ValueError("no matrix to draw")
    for name, matrix in matrices:
        if matrix.ndim != 2 or len(matrix) != len(class_names):
            raise ValueError(
                f"the overlap of {name} has shape {matrix.shape}, which is not a row for each of the "
                f"{len(class_names)} class names"
            )
    n_columns = _columns(len(matrices))
    n_rows = math.ceil(len(matrices) / n_columns)
    side = max(CELL_INCHES, PANEL_INCHES / len(class_names))
    panel_width = max(PANEL_INCHES, *(side * matrix.shape[1] for _, matrix in matrices))
    # The rest is for names and colour bar, ticks and titles.
    size = 2.1 + n_columns * (panel_width + 0.12), n_rows * (side * len(class_names) + 0.82)
    with matplotlib.rc_context({**style.RC, "axes.grid": False, "axes.titlesize": 10}):
        figure = Figure(figsize=size, layout="compressed")
        panels = figure.subplots(n_rows, n_columns, squeeze=False)
        for panel in panels.flat[len(matrices) :]:
            panel.set_axis_off()
        for nth, (panel, (name, matrix)) in enumerate(zip(panels.flat, matrices, strict=False)):
            cells = _heat_map(panel, matrix, n_across=panel_width / side)
            panel.set_title(textwrap.fill(name, int(LETTERS_PER_INCH * panel_width)))
            panel.set_xlabel("k-means cluster")
            if nth % n_columns == 0:
                panel.set_yticks(np.arange(len(class_names)) + 0.5, class_names)
                panel.set_ylabel("label")
            else:
                panel.set_yticks([])
        bar = figure.colorbar(cells, ax=panels, label="share of the\nlabel's images (%)", aspect=20 * n_rows, pad=0.02)
        bar.outline.set_visible(False)
    return figure


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


def _columns(n_panels: int) -> int:
    """Panels beside each other such that rows are full, or nearly: four are two above two."""
    n_rows = math.ceil(n_panels / MOST_IN_A_ROW)
    return math.ceil(n_panels / n_rows)


def _heat_map(panel: Axes, matrix: np.ndarray, n_across: float) -> QuadMesh:
    """The shares as coloured squares, first label at the top; the number where it is large enough.

    The panel is ``n_across`` squares wide, whatever the matrix: all panels have squares of one size.
    """
    n_clusters = matrix.shape[1]
    cells = panel.pcolormesh(100 * matrix, cmap=COLOUR_MAP, vmin=0, vmax=100, edgecolors="white", linewidth=0.5)
    for row, column in np.argwhere(matrix >= LEAST_NUMBER):
        share = matrix[row, column]
        colour = "white" if share > WHITE_ABOVE else "black"
        panel.text(column + 0.5, row + 0.5, f"{100 * share:.0f}", color=colour, fontsize=6.5, ha="center", va="center")
    margin = (n_across - n_clusters) / 2
    panel.set(aspect="equal", xlim=(-margin, n_clusters + margin), ylim=(len(matrix), 0))
    panel.set_xticks(np.arange(n_clusters) + 0.5, np.arange(n_clusters) + 1)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    return cells
