"""How well k-means clusters of the latent means match the labels."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from analysis import style
from analysis.exhibits import Absent, Exhibit, Picture, Table, cells, seeds
from analysis.frame import CURVE, AnalysisError, chosen_dim, summary
from analysis.parts import Part
from analysis.scores.clusters import stored_clusters
from analysis.stored import StoredSweep
from analysis.which_dimension import say_nothing_learned

SCORES = {"trace": "trace", "nmi": "NMI", "ari": "ARI"}
LEAST_NUMBER = 0.05  # share from which a cell says its value: smaller ones are hardly coloured, and are most
CELL_INCHES = 0.2  # a cell's least side
PANEL_INCHES = 1.5  # a panel's least side: room for the axes' and the colour bar's labels
LETTERS_PER_INCH = 10  # of a title
COLOUR_MAP = "Blues"  # one hue: read alike under every colour-vision deficiency and in grey
WHITE_ABOVE = 0.7  # share from which white stands out from its colour as well as black: 4.4 : 1
MOST_IN_A_ROW = 3  # heat maps of 10 x 10: with a fourth beside them, the numbers are too small on a page


def parts(
    stored: StoredSweep, latent_dim: int | None = None, usual_dims: Sequence[int] = (),
    published: Mapping[str, pd.DataFrame] = MappingProxyType({}),
) -> Iterator[Part | Exhibit]:  # fmt: skip
    """Trace, NMI and ARI, and the overlap of labels and clusters, from the cluster scores that the runs have.

    The overlap is at ``latent_dim``, without it at the first of the usual that is there, else at the smallest. ``published``:
    numbers to stand between, by stem: variant, latent_dim, value. Raises AnalysisError when latent_dim has no finished run.
    """
    if "clusters/trace" not in stored.runs:
        why = stored.reasons.get("k-means") or (
            f"No run has cluster scores; `{stored.sweep.command('figures clusters')}` computes them."
        )
        yield Absent("cluster_trace", "Cluster trace", why)
        return
    yield Part(
        "cluster_trace", "Cluster trace",
        lambda: cluster_table(
            stored.runs, published.get("cluster_trace"), say_nothing_learned(stored.learned_nothing, stored.runs)
        ),
    )  # fmt: skip
    dims = sorted(stored.runs["latent_dim"].unique())
    d = chosen_dim(stored.runs, latent_dim or next((d for d in usual_dims if d in dims), dims[0]))
    yield Part("cluster_overlap", "Labels against clusters", lambda: overlap_picture(stored, d))


def cluster_table(runs: pd.DataFrame, said: pd.DataFrame | None = None, remarks: Sequence[str] = ()) -> Exhibit:
    """Each score by variant and latent_dim, mean ± sd over seeds; the traces that a paper says in rows of their own."""
    dims = sorted(runs["latent_dim"].unique())
    parts = [summary(runs, f"clusters/{score}").assign(score=score) for score in SCORES]
    data = pd.concat(parts)[["score", *CURVE, "n_seeds", "mean", "sd", "min", "max"]]
    rows = []
    for (score, variant), line in data.groupby(["score", "variant"], sort=False):
        by_dim = cells(line, "latent_dim", 2 if score == "trace" else 3)
        rows.append({"model": variant, "score": SCORES[str(score)]} | {f"d = {d}": by_dim.get(d, "") for d in dims})
        if score == "trace" and said is not None and (said["variant"] == variant).any():
            traces = said[said["variant"] == variant].set_index("latent_dim")["value"]
            theirs = {f"d = {d}": f"{traces[d]:.2f}" if d in traces else "" for d in dims}
            rows.append({"model": variant, "score": "trace, paper"} | theirs)
    caption = (
        f"k-means on the latent means of the held-out images, 50 starts; mean ± standard deviation over {seeds(data)}. Trace of "
        "the overlap of labels and clusters, columns matched so that it is largest: as many as there are labels is perfect, 1 is "
        "an encoder that tells nothing apart. NMI and ARI: 1 is perfect, 0 is chance."
    )
    caption = " ".join([*remarks, caption])
    return Table("cluster_trace", "Clusters against labels", caption, data, pd.DataFrame(rows))


def overlap_picture(stored: StoredSweep, latent_dim: int) -> Exhibit:
    """Label x cluster shares of one run of each variant."""
    matrices, parts, seeds = [], [], set()
    for variant in stored.variants:
        try:
            run = stored.pick(variant, latent_dim)
        except AnalysisError:
            continue  # the table says what is missing
        if "clusters" not in run["scores"]:
            continue
        found = stored_clusters(stored, run)
        matrices.append((variant, found.matrix))
        seeds.add(int(run["seed"]))
        data = pd.DataFrame(found.matrix, index=pd.Index(stored.classes, name="label"))
        data = data.reset_index().melt("label", var_name="cluster")
        parts.append(data.assign(variant=variant, seed=run["seed"], latent_dim=latent_dim))
    if not matrices:
        why = f"No run of d = {latent_dim} has cluster scores."
        return Absent("cluster_overlap", "Labels against clusters", why)
    named = f"seed {seeds.pop()}" if len(seeds) == 1 else "one seed each"
    caption = (
        f"Share of each label's held-out images in each k-means cluster of the latent means, d = {latent_dim}, {named}. "
        "Columns are matched so that the trace is largest."
    )
    figure = plot_overlap(matrices, stored.class_names)
    return Picture("cluster_overlap", "Labels against clusters", caption, figure, pd.concat(parts))


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
