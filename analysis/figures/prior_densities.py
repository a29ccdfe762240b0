"""Learned priors: the density of each latent over the histogram of the codes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.figure import Figure

from analysis import style
from analysis.exhibits import Absent, Exhibit, Picture
from analysis.frame import chosen_dim
from analysis.parts import Part
from analysis.scores.outputs import noise_of
from analysis.scores.sampling import ImproperPrior, has_normal_prior, prior_samples
from analysis.stored import StoredSweep, config_of
from fishernet.families import family
from fishernet.models.base import Autoencoder
from fishernet.priors import ImproperPriorError
from fishernet.trained import images_at_once, posterior_means

STEM, TITLE = "prior_densities", "Learned priors over the codes"
MOST_LATENTS, MOST_LINES, N_BINS, N_POINTS = 8, 4, 60, 400
Array = npt.NDArray[np.floating]


def parts(stored: StoredSweep, latent_dim: int | None = None) -> Iterator[Part | Exhibit]:
    """A picture of the lines with a learned prior, or Absent. Raises AnalysisError where d has no such run."""
    runs = stored.runs
    runs = runs[[getattr(config_of(run), "prior", "normal") != "normal" for _, run in runs.iterrows()]]
    if runs.empty:
        yield Absent(STEM, TITLE, "No run has a prior that it learned; `--models` with `prior=exponential` trains one.")
        return
    d = chosen_dim(runs, latent_dim, "run with a learned prior")
    variants = list(runs.loc[runs["latent_dim"] == d, "variant"].unique())
    yield Part(STEM, TITLE, lambda: picture(stored, variants, d))


def picture(stored: StoredSweep, variants: list[str], d: int) -> Exhibit:
    """A row per variant, a panel per latent, of the run that pictures show; a sentence on each prior that is no density."""
    panels: dict[str, tuple[Array, Array, Array]] = {}
    said, numbers, left_out = [], [], []
    for variant in variants:
        if len(panels) == MOST_LINES:
            left_out.append(variant)
            continue
        run = stored.pick(variant, d)
        model = stored.model(run)
        if has_normal_prior(model):
            continue
        z = codes(model, stored.images.test, int(run["seed"]))[:, :MOST_LATENTS]
        try:
            drawn = prior_samples(model, int(run["seed"]))[:, :MOST_LATENTS]
            # Wide enough for both: a prior may have its mass where no code is.
            low = np.minimum(z.min(0), np.quantile(drawn, 0.005, axis=0))
            high = np.maximum(z.max(0), np.quantile(drawn, 0.995, axis=0))
            at = np.linspace(low, high, N_POINTS)
            p = np.stack([densities(model, of)[:, j] for j, of in enumerate(at.T)], 1)
        except (ImproperPrior, ImproperPriorError) as error:
            said.append(f"{variant} is left out: {error}.")
            continue
        panels[variant] = z, at, p
        numbers += [
            pd.DataFrame(
                {
                    "variant": variant,
                    "latent_dim": d,
                    "seed": run["seed"],
                    "latent": j + 1,
                    "z": at[:, j],
                    "density": p[:, j],
                }
            )
            for j in range(p.shape[1])
        ]
    if not panels:
        return Absent(STEM, TITLE, " ".join(said) or "No run has a prior that it learned.")
    caption = " ".join(filter(None, [
        f"Line: the density of each latent that the prior learned, d = {d}. Bars: one draw of the posterior for each "
        f"{stored.sweep.held_out} image. Where the two are apart, samples of the prior are no codes: "
        "the Fisher divergence compares derivatives of densities where codes are, and not how much of the mass is where.",
        f"The first {MOST_LATENTS} latents." * (d > MOST_LATENTS), *said,
        f"Left out: {', '.join(left_out)}." * bool(left_out),
    ]))  # fmt: skip
    models = {variant: stored.lines[variant].model for variant in panels}
    return Picture(STEM, TITLE, caption, plot(panels, models), pd.concat(numbers, ignore_index=True))


@torch.no_grad()
def codes(model: Autoencoder, images: torch.Tensor, seed: int) -> Array:
    """A draw of the posterior for each uint8 image, or without a posterior its code, (n, d)."""
    if not family(model.config.model).posterior:
        return posterior_means(model, images)
    drawn, generator = [], torch.Generator().manual_seed(seed)
    for part in images.flatten(1).split(images_at_once(model)):
        x = part.float().div(255)[None]
        drawn.append(model.posterior(x).draw(noise_of(model, len(part), generator)).z[0])
    found: Array = torch.cat(drawn).numpy()
    return found


@torch.no_grad()
def densities(model: Autoencoder, at: Array) -> Array:
    """p(z_j) at these places, (n, d); raises ImproperPriorError where that is no density by construction."""
    z = torch.as_tensor(at, dtype=torch.float64)[None, :, None].expand(1, -1, model.latent_dims[0])
    found: Array = model.prior.log_densities(z)[0].exp().numpy()  # type: ignore[operator]
    return found


def plot(panels: dict[str, tuple[Array, Array, Array]], models: dict[str, str]) -> Figure:
    """``panels``: variant -> codes (n, d), places and densities (m, d)."""
    n_columns = max(p.shape[1] for _, _, p in panels.values())
    with style.new_grid(len(panels), n_columns, width=1.6) as (figure, grid):
        for row, (variant, (z, at, p)) in zip(grid, panels.items(), strict=True):
            for axes in row[p.shape[1] :]:
                axes.set_axis_off()
            for j in range(p.shape[1]):
                axes = row[j]
                axes.hist(z[:, j], bins=N_BINS, range=(at[0, j], at[-1, j]), density=True, color="#C8C8C8")
                axes.plot(at[:, j], p[:, j], color=style.colour(models[variant]))
                axes.set_xlabel(f"$z_{{{j + 1}}}$")
                axes.set_yticks([])
            row[0].set_ylabel(variant if len(variant) < 24 else variant.replace(" ", "\n", 2), fontsize=8)
    return figure
