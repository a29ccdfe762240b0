"""Widths of diagonal posteriors beside those that the Fisher divergence and the KL divergence ask for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import style
from analysis.exhibits import Absent, Exhibit, Picture
from analysis.frame import chosen_dim, some_lines
from analysis.parts import Part
from analysis.stored import StoredSweep, config_of
from fishernet.families import family
from fishernet.models.base import Autoencoder

STEM, TITLE = "posterior_widths", "Widths of posteriors"
MOST_IMAGES, MOST_LINES = 50, 6
STEP = 1e-4  # of a latent, for central differences in float64
ASKED = {"fisher": r"$(M^2)_{jj}^{-1/2}$", "kl": r"$1/M_{jj}$"}


def parts(stored: StoredSweep, latent_dim: int | None = None) -> Iterator[Part | Exhibit]:
    """A picture of the lines with a diagonal posterior and Gaussian noise, or Absent. Raises AnalysisError where d has none."""
    runs = stored.runs[[_has_widths(run) for _, run in stored.runs.iterrows()]]
    if runs.empty:
        why = "They are of models with a diagonal posterior, the prior N(0, 1) and likelihood gaussian or gaussian-learned."
        yield Absent(STEM, TITLE, why)
        return
    d = chosen_dim(runs, latent_dim, "run with such a posterior")
    variants = list(runs.loc[runs["latent_dim"] == d, "variant"].unique())
    yield Part(STEM, TITLE, lambda: picture(stored, variants, d))


def _has_widths(run: pd.Series) -> bool:
    config, row = config_of(run).to_dict(), family(run["model"])
    return (
        row.has_ellipses
        and not row.tangents  # whose posterior is M's
        and not row.sees_image
        and config.get("prior", "normal") == "normal"
        and config["likelihood"] in ("gaussian", "gaussian-learned")
        and config["scale"] == "identity"
        and not config["components"]
    )


def picture(stored: StoredSweep, variants: list[str], d: int) -> Exhibit:
    """A panel per variant, of the run that pictures show: s^2 of each image and latent against what is asked for."""
    models = {variant: stored.lines[variant].model for variant in variants}
    variants, left_out = some_lines(variants, models, MOST_LINES, stored.paper.models if stored.paper else ())
    found = {
        variant: widths(stored.model(stored.pick(variant, d)), stored.images.test[:MOST_IMAGES]) for variant in variants
    }
    data = pd.concat(
        [of.assign(variant=variant, latent_dim=d, seed=stored.pick(variant, d)["seed"]) for variant, of in found.items()],
        ignore_index=True,
    )  # fmt: skip
    caption = (
        f"Posterior variance s² of each latent of the first {data['image'].nunique()} {stored.sweep.held_out} images, d = {d}, "
        "against what is best of a linear decoder: for the Fisher divergence of posteriors (M²)ⱼⱼ^(−1/2) (dots), for the KL "
        "divergence 1/Mⱼⱼ (crosses). M = 1 + JᵀJ/v, J is the decoder's Jacobian at the posterior mean, v the noise variance. "
        "On the grey line the two are equal. (M²)ⱼⱼ^(−1/2) is never above 1/Mⱼⱼ: of correlated latents the Fisher divergence "
        f"makes narrower posteriors. {left_out}"
    ).strip()
    return Picture(STEM, TITLE, caption, plot(found, models), data)


@torch.no_grad()
def widths(model: Autoencoder, images: torch.Tensor) -> pd.DataFrame:
    """A row per uint8 image and latent: image, latent, s2, fisher (M^2)_jj^(-1/2), kl 1/M_jj, of a model of one member."""
    exact: Any = copy.deepcopy(model).double()
    x = images.flatten(1)[None].double() / 255
    q = exact.posterior(x)
    d, v = q.mean.shape[2], exact.likelihood.log_variance.exp().item()
    columns = []
    for j in range(d):
        step = torch.zeros(d, dtype=torch.float64)
        step[j] = STEP
        columns.append((exact.reconstruct(q.mean + step) - exact.reconstruct(q.mean - step))[0] / (2 * STEP))
    jacobian = torch.stack(columns, 2)  # (n, n_pixels, d)
    m = torch.eye(d, dtype=torch.float64) + jacobian.mT @ jacobian / v
    asked = {"fisher": m.square().sum(2).rsqrt(), "kl": m.diagonal(dim1=1, dim2=2).reciprocal()}  # M is symmetric
    index = np.indices((len(images), d)).reshape(2, -1)
    return pd.DataFrame(
        {"image": index[0], "latent": index[1] + 1, "s2": q.log_variance[0].exp().flatten().numpy()}
        | {name: of.flatten().numpy() for name, of in asked.items()}
    )


def plot(found: dict[str, pd.DataFrame], models: dict[str, str]) -> Figure:
    """``found``: variant -> ``widths``."""
    columns = min(3, len(found))
    with style.new_grid(-(-len(found) // columns), columns, width=2.3) as (figure, grid):
        panels = [axes for row in grid for axes in row]
        for axes in panels[len(found) :]:
            axes.set_axis_off()
        for axes, (variant, of) in zip(panels, found.items(), strict=False):
            ends = [of[["s2", *ASKED]].min().min(), of[["s2", *ASKED]].max().max()]
            axes.plot(ends, ends, color=style.PCA_COLOUR, linewidth=1, zorder=1)
            for name, marker in zip(ASKED, "ox", strict=True):
                colour = style.colour(models[variant]) if name == "fisher" else style.KEY_COLOUR
                axes.plot(of[name], of["s2"], linestyle="", marker=marker, markersize=3, alpha=0.5, color=colour)
            axes.set(xscale="log", yscale="log")
            style.plain_log_ticks(axes, "xy")
            axes.set_title(style.label(variant, models[variant]), fontsize=9)
        keys = [
            Line2D([], [], color=style.KEY_COLOUR, linestyle="", marker=marker, markersize=4, label=words)
            for words, marker in zip(ASKED.values(), "ox", strict=True)
        ]
        figure.legend(handles=keys, loc="outside right upper")
        figure.supxlabel("variance that is asked for", fontsize=10)
        figure.supylabel("posterior variance $s^2$", fontsize=10)
    return figure
