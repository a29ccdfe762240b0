"""How well k-means clusters of the latent means match the labels (FisherNet paper, Table A2 and Figure A1).

python analysis/cluster_table.py --name SWEEP
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # started as a script: its own folder leads sys.path, and the packages are beside that folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis import command
from analysis.parts import Part, all_of
from fishernet.surroundings import entry_point

if TYPE_CHECKING:
    import pandas as pd

    from analysis.exhibits import Exhibit
    from analysis.stored import StoredSweep

PAPER_DIM = 5  # Figure A1's
SCORES = {"trace": "trace", "nmi": "NMI", "ari": "ARI"}


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 after a sentence on stderr when there is nothing to show."""
    parser = command.parser(
        "fishernet-clusters",
        "k-means on the held-out images' latent means, compared with the labels: the trace of Table A2 with NMI and ARI\n"
        "beside it, and the overlap of Figure A1. Computed once per run and kept with it in MLflow.",
        "python analysis/cluster_table.py --name mine",
    )
    parser.add_argument(
        "--latent-dim", type=int, metavar="D", help="of the overlap matrices; default: the paper's 5, else the smallest"
    )
    command.add_picture_flags(parser)
    return command.main(parser, _make, argv)


def _make(stored: "StoredSweep", options: argparse.Namespace) -> Iterator["Part | Exhibit"]:
    from analysis.scores.groups import ensure_clusters

    for failure in ensure_clusters(stored):
        print(failure)
    yield from parts(stored, options.latent_dim)


def exhibits(stored: "StoredSweep", latent_dim: int | None = None) -> Iterator["Exhibit"]:
    """What ``parts`` makes, and what they raise."""
    return all_of(parts(stored, latent_dim))


def parts(stored: "StoredSweep", latent_dim: int | None = None) -> Iterator["Part | Exhibit"]:
    """Table A2 with NMI and ARI, and Figure A1, from the cluster scores that the runs have.

    Raises AnalysisError when latent_dim has no finished run.
    """
    from analysis import paper
    from analysis.exhibits import Absent
    from analysis.frame import AnalysisError

    if "clusters/trace" not in stored.runs:
        why = f"No run has cluster scores; `{stored.sweep.command('analysis/cluster_table.py')}` computes them."
        yield Absent("cluster_trace", "Table A2. Cluster trace", why)
        return
    yield Part(
        "cluster_trace", "Table A2. Cluster trace",
        lambda: cluster_table(stored.runs, paper.table_a2(stored.sweep.configs[0].dataset)),
    )  # fmt: skip
    dims = sorted(stored.runs["latent_dim"].unique())
    if latent_dim is not None and latent_dim not in dims:
        shown = ", ".join(str(d) for d in dims)
        raise AnalysisError(f"--latent-dim {latent_dim} is not a dimension of a finished run; there are d = {shown}.")
    d = latent_dim or (PAPER_DIM if PAPER_DIM in dims else dims[0])
    yield Part("cluster_overlap", "Figure A1. Labels against clusters", lambda: overlap_picture(stored, d))


def cluster_table(runs: "pd.DataFrame", paper_traces: "pd.DataFrame") -> "Exhibit":
    """Table A2: each score by variant and latent_dim, mean ± sd over seeds, the paper's traces in rows of their own."""
    import pandas as pd

    from analysis.exhibits import Table, cells, seeds
    from analysis.frame import CURVE, summary

    dims = sorted(runs["latent_dim"].unique())
    parts = [summary(runs, f"clusters/{score}").assign(score=score) for score in SCORES]
    data = pd.concat(parts)[["score", *CURVE, "n_seeds", "mean", "sd", "min", "max"]]
    rows = []
    for (score, variant), line in data.groupby(["score", "variant"], sort=False):
        by_dim = cells(line, "latent_dim", 2 if score == "trace" else 3)
        rows.append({"model": variant, "score": SCORES[str(score)]} | {f"d = {d}": by_dim.get(d, "") for d in dims})
        said = paper_traces[paper_traces["model"] == variant].set_index("latent_dim")["value"]
        if score == "trace" and len(said):
            theirs = {f"d = {d}": f"{said[d]:.2f}" if d in said else "" for d in dims}
            rows.append({"model": variant, "score": "trace, paper"} | theirs)
    caption = (
        f"k-means on the latent means of the held-out images, 50 starts; mean ± standard deviation over {seeds(data)}. Trace of "
        "the overlap of labels and clusters, columns matched so that it is largest: as many as there are labels is perfect, 1 is "
        "an encoder that tells nothing apart. NMI and ARI: 1 is perfect, 0 is chance. The paper has one run of each model."
    )
    return Table("cluster_trace", "Table A2. Clusters against labels", caption, data, pd.DataFrame(rows))


def overlap_picture(stored: "StoredSweep", latent_dim: int) -> "Exhibit":
    """Figure A1: label x cluster shares of one run of each variant."""
    import pandas as pd

    from analysis.exhibits import Absent, Picture
    from analysis.frame import AnalysisError
    from analysis.scores.clusters import plot_overlap
    from analysis.scores.groups import stored_clusters

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
        return Absent("cluster_overlap", "Figure A1. Labels against clusters", why)
    named = f"seed {seeds.pop()}" if len(seeds) == 1 else "one seed each"
    caption = (
        f"Share of each label's held-out images in each k-means cluster of the latent means, d = {latent_dim}, {named}. "
        "Columns are matched so that the trace is largest."
    )
    figure = plot_overlap(matrices, stored.class_names)
    return Picture("cluster_overlap", "Figure A1. Labels against clusters", caption, figure, pd.concat(parts))


if __name__ == "__main__":
    sys.exit(main())
