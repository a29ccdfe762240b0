"""The latent explorer: one page in which one moves through the latent spaces of a sweep's runs, decoded as one goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from analysis.errors import AnalysisError
from analysis.exhibits import Absent, Exhibit, Page
from analysis.explorer import gather, page
from analysis.parts import Part
from analysis.stored import StoredSweep, model_flag
from fishernet.families import family
from fishernet.services import schema
from fishernet.spelling import did_you_mean
from fishernet.wording import listed

STEM, TITLE = "explorer", "Latent explorer"
LARGEST = 64  # latents that are shown: as many sliders, and as many tangents for an ellipse
N_LINES = 2  # that lie side by side


def parts(
    stored: StoredSweep, *, models: Sequence[str] = (), latent_dims: Sequence[int] = (), seed: int | None = None
) -> Iterator[Part]:
    """The page, or Absent where no run can be shown.

    ``models``: lines as a sweep labels them, as --models of a sweep takes them, or the name of a model; by default two, those
    with ellipses first. ``latent_dims``: by default the smallest that all of them have. ``seed``: by default the run with the
    least error. Raises AnalysisError for lines and latent dimensions that are not there, and what StoredSweep raises.
    """
    yield Part(STEM, TITLE, lambda: explorer(stored, models, latent_dims, seed))


def explorer(
    stored: StoredSweep, models: Sequence[str] = (), latent_dims: Sequence[int] = (), seed: int | None = None
) -> Exhibit:
    """As ``parts``."""
    if large := [d for d in latent_dims if d > LARGEST]:
        raise AnalysisError(
            f"--latent-dims {large[0]}: the explorer has a slider for each latent and takes up to {LARGEST}; give less."
        )
    runs = stored.runs[stored.runs["latent_dim"] <= LARGEST]
    if runs.empty:
        least = stored.runs["latent_dim"].min()
        return Absent(
            STEM, TITLE, f"It takes up to {LARGEST} latents; the runs of {stored.sweep.name} have {least} and more."
        )
    lines = [_line(runs, asked, stored) for asked in models] or _usual_lines(runs)
    if not lines:
        return Absent(STEM, TITLE, gather.SEES_IMAGE.format(listed(runs["variant"].unique())))
    runs = runs[runs["variant"].isin(lines)]
    dims = sorted(latent_dims) or [_smallest(runs)]
    chosen = [_best(stored, line, d, stored.seed if seed is None else seed) for d in dims for line in dict.fromkeys(lines)
              if latent_dims or models or ((runs["variant"] == line) & (runs["latent_dim"] == d)).any()]  # fmt: skip
    shown = gather.gather(stored, chosen)
    html = page.render(stored.sweep.name, shown)
    of = ", ".join(f"{run.name} ({run.about})" for run in shown.runs)
    caption = (
        f"Move through the latent space of {of}; the decoder is in the page. {len(shown.images)} {stored.sweep.held_out} images "
        "are shown. `--models`, `--latent-dims` and `--seed` of `fishernet explore` choose other runs."
    )
    return Page(STEM, TITLE, caption, html)


def _line(runs: pd.DataFrame, asked: str, stored: StoredSweep) -> str:
    """The label of the line that is asked for; of a model's name its first."""
    rows = runs.drop_duplicates("variant")
    flags = [model_flag(c, choices) for c, choices in zip(rows["config"], rows["choices"], strict=True)]
    for names in (rows["variant"], flags, rows["model"]):
        for variant, name in zip(rows["variant"], names, strict=True):
            if name.casefold() == asked.casefold():
                return str(variant)
    known = [*rows["variant"], *filter(None, flags), *rows["model"]]
    several = "," in asked and {part.casefold() for part in asked.split(",")} <= {name.casefold() for name in known}
    raise AnalysisError(
        f"--models {asked}: no run of such a line has finished in {stored.sweep.name}; it has {', '.join(rows['variant'])}"
        + (". Several lines have spaces between." if several else did_you_mean(asked, known) or ".")
    )


def _usual_lines(runs: pd.DataFrame) -> list[str]:
    """Two of different models, those with ellipses first; decoders that see the image decode no point alone."""
    rows = runs.drop_duplicates("model")
    rows = rows[~rows["model"].map(lambda model: family(model).sees_image).astype(bool)]
    plain = rows["model"].map(lambda model: not family(model).has_ellipses).astype(bool)
    return [str(variant) for variant in pd.concat([rows[~plain], rows[plain]])["variant"]][:N_LINES]


def _smallest(runs: pd.DataFrame) -> int:
    """The smallest latent dimension that every line has, else the smallest."""
    shared = [set(own) for _, own in runs.groupby("variant")["latent_dim"]]
    return int(min(set.intersection(*shared) or runs["latent_dim"]))


def _best(stored: StoredSweep, line: str, latent_dim: int, seed: int | None) -> pd.Series:
    """The run of the line with the least error, or of that seed."""
    try:
        stored.pick(line, latent_dim)
    except AnalysisError as error:  # there is none
        own = stored.sweep.tags.get(schema.COMMAND)
        raise AnalysisError(f"{error} The sweep's own command was `{own}`." if own else str(error)) from None
    runs = stored.runs[(stored.runs["variant"] == line) & (stored.runs["latent_dim"] == latent_dim)]
    if seed is not None:
        runs = runs[runs["seed"] == seed]
    if runs.empty:
        raise AnalysisError(f"--seed {seed}: no run of {line} at d = {latent_dim} with it has finished.")
    return runs.sort_values(stored.sweep.score("mse")).iloc[0]
