"""Numbers of the VPAE paper's artefacts that no score has, from a sweep's stored weights: ``python artefacts.py SWEEP [URI]``.

Of the first 1,000 held-out images. Writes CSV: artefact, row of the paper, what, then the mean over runs, the least, the largest.
"""

import math
import sys

import pandas as pd
import torch

from analysis.frame import find_sweep
from analysis.papers.vpae.claims import LINES
from analysis.scores.outputs import N_IMAGES
from analysis.stored import StoredSweep
from fishernet.families import family
from fishernet.likelihoods.emitted import Mixed, RowColumnDiagonal, RowColumnTriangular, log_chi_squared
from fishernet.services.mlflow_store import default_tracking_uri

LEAST_FLOAT32 = -150 * math.log(2)  # what is smaller rounds to 0


def of_model(row, k, model, x):
    """(artefact, what, number) of one run."""
    a = model.decode(model.posterior_mean(x))
    if family(model.config.model).posterior:
        sd = model.posterior(x).covariance().diagonal(dim1=-2, dim2=-1).sqrt()
        yield "E13", "least posterior sd", sd.min()
        yield "E13", "largest posterior sd", sd.max()
        yield "E13", "share of posterior sds within 1% of ln 2", (sd < 1.01 * math.log(2)).float().mean()
        return
    emitted = model.likelihood.distribution(a)
    if not isinstance(emitted, Mixed):
        return
    if emitted.df is not None and k == 1 and row == "t_df_mu":
        generator = torch.Generator().manual_seed(0)
        df = emitted.df.flatten()
        drawn = log_chi_squared(df.expand(100, -1), generator)
        yield "E5", "median degrees of freedom", df.median()
        yield "E6", "share of draws of chi-square that float32 rounds to 0", (drawn < LEAST_FLOAT32).double().mean()
        yield "E6", "share of their logarithms that are not finite", (~drawn.isfinite()).double().mean()
        yield (
            "E6",
            "share of drawn images that are not finite",
            (~emitted.sample(generator).isfinite().all(-1)).float().mean(),
        )
    if emitted.df is not None and k == 10:
        weights, at_modes = emitted.log_weights, torch.stack([emitted.log_prob(m) for m in emitted.loc.unbind(2)], 2)
        densest, fewest = at_modes.argmax(2), emitted.df.argmin(2)
        shown = weights.exp().gather(2, densest[..., None])
        yield (
            "E4",
            "largest share of images of which one component is the densest",
            densest.flatten().bincount(minlength=k).max() / x.shape[1],
        )
        yield (
            "E4",
            "share of images whose densest component is the likeliest",
            (densest == weights.argmax(2)).float().mean(),
        )
        yield (
            "E4",
            "share of images whose densest component has the fewest degrees of freedom",
            (densest == fewest).float().mean(),
        )
        yield "E4", "mean weight of the densest component", shown.mean()
    scale = emitted.scale
    of_rows = isinstance(scale, RowColumnDiagonal | RowColumnTriangular)
    if k == 1 and of_rows and not getattr(scale, "precision", False):  # as released
        full = isinstance(scale, RowColumnTriangular)
        u, v = (t.diagonal for t in scale.triangles) if full else scale._split(scale.factors)
        factor = emitted.df / (emitted.df - 2) if emitted.df is not None else torch.ones_like(u[..., 0])
        there = torch.ones_like(factor, dtype=torch.bool) if emitted.df is None else emitted.df > 2  # else no variance
        released, true = (u[..., :, None] * v[..., None, :]).flatten(-2), scale.sd().square()
        ratio = (released / true / factor[..., None])[there]
        yield "E9", "median of the released variance over the variance", ratio.median() if len(ratio) else float("nan")
        yield (
            "E16",
            "geometric mean of scales of rows over that of columns",
            (u.log().mean(-1) - v.log().mean(-1)).mean().exp(),
        )


@torch.no_grad()
def main(name, uri=None):
    stored = StoredSweep(find_sweep(name, uri or default_tracking_uri()), paper="vpae")
    x = stored.images.test[:N_IMAGES].flatten(1).float().div(255)[None]
    lines = {config.variant: line for line, config in LINES.items()}
    found = [
        (artefact, f"{row}, K = {k}", what, float(number))
        for _, run in stored.runs.iterrows()
        for row, k in [lines[run["variant"]]]
        for artefact, what, number in of_model(row, k, stored.model(run), x)
    ]
    table = pd.DataFrame(found, columns=["artefact", "row", "what", "value"])
    means = (
        table.groupby(["artefact", "row", "what"], sort=False)["value"]
        .agg(["count", "mean", "min", "max"])
        .reset_index()
    )
    failed = stored.all_runs["status"].ne("FINISHED").sum()
    n = len(stored.all_runs)
    means.loc[len(means)] = ["E15", "all", "runs that did not finish", n, failed / n, 0, 0]
    means.sort_values("artefact", kind="stable").to_csv(sys.stdout, index=False, float_format="%.4g")


if __name__ == "__main__":
    main(*sys.argv[1:])
