"""What decoders' distributions say of images: a table of errors, pictures of standard deviations and components, calibration."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator

from analysis import style
from analysis.exhibits import Absent, Exhibit, Picture, Table, cells, seeds
from analysis.figures import frechet
from analysis.figures.plane import of_one_estimate
from analysis.figures.samples import GAP, LETTER, LINE, ORIGINAL, SPACE, Sheet, mosaic, row_labels
from analysis.frame import CURVE, AnalysisError, RunRow, spread
from analysis.parts import Part
from analysis.scores import FEATURES
from analysis.scores.images import DRAWS, shown
from analysis.scores.outputs import N_IMAGES, emits_more, floors
from analysis.stored import StoredSweep
from fishernet.families import DISCRETISED, LikelihoodConfig, family
from fishernet.likelihoods import SCALES
from fishernet.likelihoods.base import Emitted
from fishernet.trained import decode, posterior_means
from fishernet.wording import listed

# Stems.
TABLE, DISTRIBUTIONS, VARIANCES = "outputs", "output_distributions", "variances"
COMPONENTS, CALIBRATION, SIZE, DRAWN = "components", "calibration", "size_and_error", "draws"
ERRORS = {  # score -> column of the table of errors, and its digits
    "l2_percent": ("L2 (%)", 3),
    "l2_percent_released": ("L2 as released", 3),
    "l2_percent_likeliest": ("L2 likeliest", 3),
}
SPREADS = {  # the same of the table of distributions
    "bits_per_dim": ("bits/dim", 2),
    "code_bits_per_dim": ("code bits/dim", 2),
    "discretised_bits_per_dim": ("discretised bits/dim", 2),
    "discretised_code_bits_per_dim": ("discretised code bits/dim", 2),
    "coverage_90": ("in 90% interval", 3),
    "sd_rank_correlation": ("sd ~ error", 2),
    "without_mean": ("without mean", 2),
    "components_used": ("components used", 1),
    "largest_weight": ("largest weight", 2),
    "sd_at_floor": ("sd at floor", 2),
    "crps": ("CRPS", 4),
    "pit_deviation": ("PIT off", 3),
    "df_median": ("median df", 2),
    "without_variance": ("without sd", 2),
    "label_information": ("label (nats)", 2),
}
WEIGHTED = {  # the same of the likelihood by importance sampling, of densities and of 8-bit likelihoods
    "weighted_bits_per_dim": ("weighted bits/dim", 2),
    "discretised_weighted_bits_per_dim": ("discretised weighted bits/dim", 2),
}
LAST = (  # columns at the end of the table of errors, ours and what the paper says of each
    "to noise", "paper's to noise", "parameters", "paper's parameters", "s/epoch", "paper's s/epoch", "of MSE's",
)  # fmt: skip
TO_TEST, TO_NOISE = "reconstruction/frechet", f"reconstruction/{frechet.TO_NOISE}"  # of a network's scores
Told = dict[str, Any]  # a row of a paper's table: text and numbers by column
WHERE = {  # what emits a scale -> whose floor it is
    "diagonal": "of standard deviations (scale diagonal)",
    "full": "of the diagonal of a covariance factor (scale full)",
    "precision": "of the diagonal of a precision factor, an inverse sd (scale full)",
    "discretised": "of the scales of 8-bit likelihoods",
}
# That of the column "to noise" is of other features, other images and another range.
THEIR_NOISE = (
    "The paper's to noise does not compare with it: it is of Keras's Inception v3, of the first 1000 images in [0, 1], enlarged "
    "by repetition, and of noise in [-1, 1]; of mixtures of t's it is of the densest mode, of a flow of the mean of 50 draws, "
    "with a posterior of one draw. Ours is of the network said here, of the means of all held-out images, and of noise in [0, 1]."
)
N_SHOWN = 10  # images of a row, and components
AT_ONCE = 2**24  # numbers of training images that are compared at a time
SIZE_POINTS = np.array([250.0, 150.0])  # of the panel of sizes and errors, at the least, in points
FREE = 9.0  # points between a number and what is next to it
EVERY = 4  # levels from one mark of a curve to the next
LETTER_POINTS, HANDLE_POINTS = (
    4.4,
    46.0,
)  # widths in a key: of a letter; of a line before a name and what is around both
ROW_INCHES = 0.17  # of a row of a key
WHITE_SD = 0.5  # sd that is drawn white: no number between 0 and 1 has a larger one


def parts(
    stored: StoredSweep, *, published: Mapping[str, pd.DataFrame] = MappingProxyType({}), drawn: Sequence[str] = ()
) -> Iterator[Part | Exhibit]:
    """Tables, standard deviations, draws, components, calibration of a sweep whose decoders give more than images; else nothing.

    ``drawn``: the variants that draws are shown of; without, or where the sweep has none of them, of all that emit.
    ``published``: errors that a paper says, by stem: variant, latent_dim, value, row, its name there, components, and
    to_noise, the distance that it calls FID. Pictures name lines as the paper does.
    """
    said = published.get(TABLE)
    emitting = stored.runs[stored.runs["config"].map(emits_more)]
    if emitting.empty:
        return
    command = f"`{stored.sweep.command('figures distributions')}` computes them."
    if "outputs/l2_percent" in stored.runs:
        yield Part(TABLE, "Errors of what decoders emit", lambda: error_table(stored, said))
        yield Part(DISTRIBUTIONS, "What decoders' distributions say", lambda: distribution_table(stored.runs, said))
    else:
        yield Absent(TABLE, "Errors of what decoders emit", f"No run has scores of outputs; {command}")
    yield Part(VARIANCES, "Standard deviations of pixels", lambda: variances(stored, said))
    yield Part(DRAWN, "Draws from decoders", lambda: draws(stored, drawn, said))
    if (mixture_sizes(emitting) > 1).any():
        yield Part(COMPONENTS, "Components of one image", lambda: components(stored, said))
    if "outputs/parameters" in stored.runs and stored.runs["outputs/parameters"].nunique() > 1:
        yield Part(SIZE, "Size and error", lambda: size_and_error(stored.runs, said))
    if "outputs/coverage_90" in stored.runs:
        yield Part(CALIBRATION, "Calibration of intervals", lambda: calibration(stored.runs, said))


def mixture_sizes(runs: pd.DataFrame) -> pd.Series[int]:
    return runs["config"].map(lambda config: config.components)


def short_names(runs: pd.DataFrame) -> tuple[dict[str, str], str]:
    """By variant its label without the words that all lines have, and a sentence that says these; empty where there are none.

    Not counting lines with a setting, whose name stands for all their words.
    """
    words = {config.variant: config.words for config in runs["config"] if not config.setting}
    alike = [word for word in next(iter(words.values()), []) if all(word in own for own in words.values())]
    which = "All lines" if all(not config.setting for config in runs["config"]) else "All lines without a setting"
    names = {}
    for variant, config in zip(runs["variant"], runs["config"], strict=True):
        own = " ".join(word for word in config.words if word not in alike)
        names[variant] = f"{config.label} {own}".strip() if variant == config.variant else variant
    return names, f"{which}: {', '.join(alike)}." if alike else ""


def _columns(figure: Figure, names: Sequence[str]) -> int:
    """How many columns of a key with these names the figure's width has room for."""
    each = max(map(len, names)) * LETTER_POINTS + HANDLE_POINTS
    return max(1, min(len(names), int(72 * figure.get_figwidth() / each)))


def said_names(runs: pd.DataFrame, said: pd.DataFrame | None) -> tuple[dict[str, str], str]:
    """As ``short_names``, and of a variant that is a row of the paper's its name there."""
    names, alike = short_names(runs)
    told = {t["variant"]: _row(t) for t in _rows_of(said) if t["variant"] in names}
    if told:
        alike = f"{alike} Names are the paper's, of one component where no K is said."
    return names | told, alike.strip()


def _rows_of(said: pd.DataFrame | None) -> list[Told]:
    return [] if said is None else [{str(k): v for k, v in told.items()} for told in said.to_dict("records")]


def _in_order(runs: pd.DataFrame, said: pd.DataFrame | None) -> pd.DataFrame:
    """The runs in the order of the paper's rows; those that it has not go last, as they were."""
    place = {variant: i for i, variant in enumerate(dict.fromkeys(told["variant"] for told in _rows_of(said)))}
    return runs.sort_values("variant", key=lambda column: column.map(place).fillna(len(place)), kind="stable")


def _row(told: Told) -> str:
    """A paper's name of a row: ``N_mu, K = 10``, of one component ``N_mu``."""
    return f"{told['row']}, K = {told['components']}" if told["components"] > 1 else str(told["row"])


def error_table(stored: StoredSweep, said: pd.DataFrame | None = None) -> Table:
    """Errors by variant and latent_dim, mean and sd over seeds, below what needs no model."""
    runs = _in_order(stored.runs, said)
    means, why = _means(runs, ERRORS), ""
    if "train_seconds" in runs:
        means["seconds"] = spread(runs.assign(value=runs["train_seconds"]), CURVE).assign(score="seconds")
        plain = runs["train_seconds"][runs["config"].map(is_squared_error)].mean()
        if plain > 0:
            relative = runs["train_seconds"] / plain
            means["relative"] = spread(runs.assign(value=relative), CURVE).assign(score="relative")
    distances, network = distance_columns(runs)
    for score in distances:
        means[score] = spread(runs.assign(value=runs[score])[runs[score].notna()], CURVE).assign(score=score)
    try:
        below = floors(stored.images.train, stored.images.test[:N_IMAGES], int(runs["latent_dim"].min()))
    except AnalysisError as error:
        below, why = {}, str(error)
    title = ERRORS["l2_percent"][0]
    first = [{"model": name, title: f"{value:.3f}"} for name, value in below.items()]
    columns = {**ERRORS, **distances, "seconds": ("s/epoch", 1), "relative": ("of MSE's", 1)}
    rows, alike = _rows(runs, means, columns, said)
    for row, told, (variant, d) in zip(rows, _told(runs, said), _cells(runs), strict=True):
        if "outputs/parameters" in runs:  # of all seeds the same
            of_line = runs[(runs["variant"] == variant) & (runs["latent_dim"] == d)]["outputs/parameters"].dropna()
            row["parameters"] = f"{of_line.iloc[0]:.0f}" if len(of_line) else ""
        if told:
            row["paper's L2"] = f"{told['value']:.3f}"
            if told.get("parameters", math.nan) > 0:
                row["paper's parameters"] = f"{told['parameters']:.0f}"
            if told.get("seconds_per_epoch", math.nan) > 0:
                row["paper's s/epoch"] = f"{told['seconds_per_epoch']:.1f}"
            if told.get("to_noise", math.nan) > 0:
                row["paper's to noise"] = f"{told['to_noise']:.0f}"
    data = pd.concat(
        [pd.DataFrame([{"score": "l2_percent", "variant": name, "mean": value}]) for name, value in below.items()]
        + list(means.values()),
        ignore_index=True,
    )
    shown = pd.DataFrame([*first, *rows]).fillna("")
    front = [name for name in ("model", "paper's row", title, "paper's L2") if name in shown]
    last = [name for name in LAST if name in shown]
    shown = shown[front + [name for name in shown if name not in [*front, *last]] + last]
    beside = THEIR_NOISE if "paper's to noise" in shown else ""
    caption = (
        f"{_what(runs)} {alike} L2 is "
        "100 × the mean squared error per pixel of clipped images: of the mean of p(x given the code), of a t its location; as "
        "released, of mixtures of t's the component at whose mode the density is highest, of a flow the mean of 50 draws, of "
        "a model with a posterior the image at one draw of it; of the likeliest component. The first rows need no model. "
        "s/epoch: a run's share of its cohort's last epoch; of MSE's: divided by the mean of the autoencoder with squared error. "
        f"{say_floors(runs)} {network} {beside} {why}"
    )
    return Table(TABLE, "Errors of what decoders emit", " ".join(caption.split()), data, shown)


def say_floors(runs: pd.DataFrame) -> str:
    """The least emitted scales, of which a density on 8-bit values depends; empty where none is emitted."""
    found: dict[str, set[float]] = {}
    for config in runs["config"]:
        emitted = "discretised" if config.likelihood in DISCRETISED else config.scale
        if emitted == "full" and config.cholesky_of == "precision-matrix":
            emitted = "precision"
        if emitted != "identity":
            found.setdefault(emitted, set()).add(config.least_scale)
    told = [
        f"{listed([f'{least:.3g}' for least in sorted(own)])} {WHERE[emitted]}"
        for emitted, own in sorted(found.items())
    ]
    return f"What is added to an emitted scale, its floor, is {'; '.join(told)}." if told else ""


def is_squared_error(config: LikelihoodConfig) -> bool:
    """Whether a line is the autoencoder that a loss of squared errors trains, its decoder as deep as its encoder."""
    row = family(config.model)
    return (
        not (row.posterior or row.prior)
        and config.likelihood == "gaussian"
        and not emits_more(config)
        and config.decoder_layers < 0
    )


def distance_columns(runs: pd.DataFrame) -> tuple[dict[str, tuple[str, int]], str]:
    """Columns of distances of reconstructions, and what they are: to held-out images, and to noise under a name of its own."""
    features = frechet.features_of(runs)
    told = {
        f"{features}/{TO_TEST}": ("FID" if features == "inception" else "Fréchet to test", 1),
        f"{features}/{TO_NOISE}": ("to noise", 0),
    }
    there = {name: column for name, column in told.items() if name in runs and runs[name].notna().any()}
    if not there:
        return {}, ""
    what = f"{FEATURES[features]}, of reconstructions: to held-out images, the lower the better"
    if len(there) < len(told):
        return there, f"{what}."
    real = runs.get(f"{features}/real_to_noise", pd.Series(dtype=float)).mean()
    return there, (
        f"{what}; and to uniform noise, which the released code prints as FID, and by which lower is noisier: held-out images "
        f"themselves have {real:.0f}."
    )


def distribution_table(runs: pd.DataFrame, said: pd.DataFrame | None = None) -> Table:
    """Bits, calibration and use of components by variant and latent_dim, mean and sd over seeds."""
    runs = _in_order(runs, said)
    weighted, how = _weighted(runs)
    bits = {name: column for name, column in SPREADS.items() if name.endswith("bits_per_dim")}
    columns = bits | WEIGHTED | {name: column for name, column in SPREADS.items() if name not in bits}
    means = _means(runs, SPREADS) | weighted
    rows, alike = _rows(runs, means, columns, said)
    data = pd.concat(means.values(), ignore_index=True)
    caption = (
        f"{_what(runs)} {alike} Bits/dim: of the ELBO of dequantised images, an upper bound. Code bits/dim: "
        "of ln p(x given its code) of these, without the code's own bits. Discretised: the same of the mass that a normal has "
        "between the edges of each grey value, of the lowest and the highest with its tail; beside it stand likelihoods of 8-bit "
        f"values. {how} "
        "In 90% interval: the share of pixels within their own, of dequantised images where these were trained on. "
        "sd ~ error: Spearman's correlation over pixels. Without mean: the share of components, by weight, whose degrees of "
        "freedom are 1 or fewer. Components used: the exponential of the entropy of the mean weights. Sd at floor: the share "
        "below twice the floor, of emitted standard deviations, those of rows and columns, the diagonals of covariance factors; "
        "none of precision factors. CRPS: continuous ranked probability score, in units of x, lower is better; none of t's "
        "without a mean. "
        f"{say_floors(runs)}"
    )
    return Table(
        DISTRIBUTIONS,
        "What decoders' distributions say",
        " ".join(caption.split()),
        data,
        pd.DataFrame(rows).fillna(""),
    )


def _weighted(runs: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], str]:
    """Mean and spread of ``WEIGHTED`` where runs have them, by equal draws of equal images, and what these are."""
    kept, notes = of_one_estimate(runs)
    of_bits = np.array(
        [_of_bits(config, scores) for config, scores in zip(runs["config"], runs["scores"], strict=True)]
    )
    if "likelihood/bits_per_dim" not in kept or not of_bits.any():
        return {}, ""
    bits = kept["likelihood/bits_per_dim"].where(of_bits)
    discretised = runs["config"].map(lambda config: config.likelihood in DISCRETISED)
    found = {}
    for name, own in zip(WEIGHTED, (bits[~discretised], bits[discretised]), strict=True):
        if own.notna().any():
            found[name] = spread(runs.loc[own.index].assign(value=own).dropna(subset="value"), CURVE).assign(score=name)
    said = {
        (about["draws"], about["images"])
        for about in (s["likelihood"]["held-out"] for s in runs["scores"][bits.notna()])
    }
    how = " or ".join(f"{draws:,} draws of each of the first {images:,}" for draws, images in sorted(said))
    notes = [
        f"Weighted: the likelihood by importance sampling, {how} held-out images, a bound that is no larger",
        *notes,
    ]
    return found, " ".join(f"{note}." for note in notes)


def _of_bits(config: LikelihoodConfig, scores: Mapping[str, Any]) -> bool:
    """Whether a run's likelihood is of 8-bit values or of these dequantised, and not of black and white images."""
    about = scores.get("likelihood", {}).get("held-out")
    return about is not None and bool(about.get("dequantised") or config.likelihood in DISCRETISED)


def _means(runs: pd.DataFrame, scores: Mapping[str, object]) -> dict[str, pd.DataFrame]:
    """Of each score that some run has, its mean and spread over seeds."""
    columns = {score: runs[f"outputs/{score}"] for score in scores if f"outputs/{score}" in runs}
    return {
        score: spread(runs.assign(value=values)[np.isfinite(values)], CURVE).assign(score=score)
        for score, values in columns.items()
    }


def _n_images(runs: pd.DataFrame) -> int:
    """How many images the scores are of."""
    return max((about["outputs"]["n_images"] for about in runs["scores"] if "outputs" in about), default=N_IMAGES)


def _what(runs: pd.DataFrame) -> str:
    counts = spread(runs.assign(value=runs["outputs/l2_percent"]), CURVE)
    return f"Of the first {_n_images(runs)} held-out images; mean ± standard deviation over {seeds(counts)}."


def _cells(runs: pd.DataFrame) -> list[tuple[str, int]]:
    """Variants and latent dimensions in the order of tables."""
    distinct = runs.drop_duplicates(CURVE)
    return list(zip(distinct["variant"], distinct["latent_dim"], strict=True))


def _rows(
    runs: pd.DataFrame,
    means: Mapping[str, pd.DataFrame],
    columns: Mapping[str, tuple[str, int]],
    said: pd.DataFrame | None = None,
) -> tuple[list[dict[str, str]], str]:
    """A row of cells for each variant and latent_dim, with the paper's name of it, and what all lines have in common."""
    names, alike = short_names(runs)
    several = runs["latent_dim"].nunique() > 1
    rows = []
    for (variant, d), told in zip(_cells(runs), _told(runs, said), strict=True):
        row = {"model": f"{names[variant]}, d = {d}" if several else names[variant]}
        if told:
            row["paper's row"] = _row(told)
        for score, (title, digits) in columns.items():
            if score in means:
                line = means[score][(means[score]["variant"] == variant) & (means[score]["latent_dim"] == d)]
                row[title] = cells(line, "latent_dim", digits).get(d, "")
        rows.append(row)
    return rows, alike


def _told(runs: pd.DataFrame, said: pd.DataFrame | None) -> list[Told]:
    """What a paper says of each of ``_cells``; empty where it says nothing."""
    theirs = {(t["variant"], t["latent_dim"]): t for t in _rows_of(said)}
    return [theirs.get(cell, {}) for cell in _cells(runs)]


class Spread(NamedTuple):
    """A row of images and one of their standard deviations."""

    name: str
    mean: torch.Tensor  # (n, channels, height, width) in [0, 1]
    sd: torch.Tensor  # of the same shape, in units of x; infinite, or NaN where there is none


def variances(stored: StoredSweep, said: pd.DataFrame | None = None) -> Exhibit:
    """The first held-out images, and of each line that emits a scale or degrees of freedom its reconstructions and their sd."""
    images = stored.images.test[:N_SHOWN]
    names, alike = said_names(stored.runs, said)
    rows, parts, configs = [], [], []
    for run in _runs(stored, lambda config: config.components < 2, said):
        distribution = _distribution(stored, run, images)
        marginals = distribution.marginals()
        if marginals is None:  # a flow has none
            continue
        shape = (-1, *stored.images.image_shape)
        sd = marginals.variance().sqrt()[0].reshape(shape)
        rows.append(Spread(names[run["variant"]], distribution.mean()[0].clamp(0, 1).reshape(shape), sd))
        configs.append(run["config"])
        mean_sd = sd.flatten(1).mean(1).tolist()
        parts.append(_data(run, len(images)).assign(image=range(len(images)), mean_sd=mean_sd))
    title = "Standard deviations of pixels"
    if not rows:
        return Absent(VARIANCES, title, "No line emits the scale of one component.")
    caption = (
        f"The first {len(images)} held-out images; of each line their reconstructions above the standard deviation of each "
        f"pixel, from the law of total variance; black is 0, white {WHITE_SD:g} or more, or infinite. A t of 2 degrees of "
        f"freedom or fewer has no finite one. {alike} {say_floors(pd.DataFrame({'config': configs}))}"
    )
    caption = " ".join(caption.split())
    return Picture(VARIANCES, title, caption, plot_variances(images / 255, rows), pd.concat(parts, ignore_index=True))


def plot_variances(originals: torch.Tensor, rows: Sequence[Spread]) -> Figure:
    """The originals above a pair of strips for each row, its name on the left."""
    strip = mosaic(originals, len(originals))
    height, width = strip.shape[:2]
    labels, left = row_labels(row.name for row in rows)
    sheet = Sheet(left + width, height + len(rows) * (2 * (height + GAP) + SPACE))
    sheet.image(strip, left, 0)
    sheet.text(ORIGINAL, left - LETTER, height / 2, ha="right")
    for i, row in enumerate(rows):
        top = height + i * (2 * (height + GAP) + SPACE) + SPACE
        sheet.image(mosaic(row.mean, len(row.mean)), left, top)
        if row.sd.isfinite().any():
            shown = torch.nan_to_num(row.sd / WHITE_SD, nan=1.0, posinf=1.0).clamp(0, 1)
            sheet.image(mosaic(shown, len(shown)), left, top + height + GAP)
        else:
            sheet.text("no finite standard deviation", left, top + 1.5 * height + GAP)
        sheet.text(labels[row.name], left - LETTER, top + height, ha="right")
    return sheet.figure


class Strips(NamedTuple):
    """Draws of a line; of each kind none where it has none."""

    name: str
    draws: torch.Tensor | None  # (n, channels, height, width) in [0, 1]
    decoded: torch.Tensor | None  # of the same shape


def draws(stored: StoredSweep, drawn: Sequence[str] = (), said: pd.DataFrame | None = None) -> Exhibit:
    """Of each line images drawn from p(x given the code of the first held-out image), above what random codes decode to."""
    runs = stored.runs[stored.runs["variant"].isin(drawn)]
    if runs.empty:
        runs = stored.runs[stored.runs["config"].map(emits_more)]
    runs = runs[~runs["model"].map(lambda name: family(name).sees_image)]
    names, alike = said_names(stored.runs, said)
    image, shape = stored.images.test[:1], stored.images.image_shape
    rows, parts = [], []
    for run in _of_lines(stored, _in_order(runs, said)):
        model, config = stored.model(run), run["config"]
        code = np.repeat(posterior_means(model, image), N_SHOWN, axis=0)
        generator = torch.Generator().manual_seed(int(run["seed"]))
        of_image = shown(DRAWS, generator, model, code, shape) if emits_more(config) else None
        codes = torch.randn(N_SHOWN, code.shape[1], generator=torch.Generator().manual_seed(0))
        rectified = getattr(config, "code", "real") == "rectified"
        decoded = None
        if rectified or (family(run["model"]).prior and getattr(config, "prior", "normal") == "normal"):
            decoded = decode(model, (codes.clamp(min=0) if rectified else codes).numpy(), shape).clamp(0, 1)
        rows.append(Strips(names[run["variant"]], of_image, decoded))
        expected = decode(model, code, shape).clamp(0, 1)
        for kind, images in (("draw", of_image), ("random code", decoded)):
            if images is not None:
                apart = (images - expected).square().flatten(1).mean(1).sqrt().tolist()
                parts.append(_data(run, N_SHOWN).assign(kind=kind, image=range(N_SHOWN), rms_from_mean=apart))
    if not parts:
        return Absent(DRAWN, "Draws from decoders", "No line has a distribution to draw from, or codes to draw.")
    caption = (
        f"The first held-out image; of each line {N_SHOWN} draws from p(x given its code), clipped, above the expected images of "
        f"{N_SHOWN} random codes, the same for all lines: draws of N(0, 1), of a rectified code max(0, .) of these. {alike}"
    )
    figure = plot_draws(image / 255, rows)
    return Picture(DRAWN, "Draws from decoders", caption, figure, pd.concat(parts, ignore_index=True))


def plot_draws(original: torch.Tensor, rows: Sequence[Strips]) -> Figure:
    """The original above a pair of strips for each row, its name on the left."""
    height, width = mosaic(original.expand(N_SHOWN, -1, -1, -1), N_SHOWN).shape[:2]
    labels, left = row_labels(row.name for row in rows)
    sheet = Sheet(left + width, height + len(rows) * (2 * (height + GAP) + SPACE))
    sheet.image(mosaic(original, 1), left, 0)
    sheet.text(ORIGINAL, left - LETTER, height / 2, ha="right")
    for i, row in enumerate(rows):
        top = height + i * (2 * (height + GAP) + SPACE) + SPACE
        for images, place, without in (
            (row.draws, top, "a loss of squared errors, from which nothing is drawn"),
            (row.decoded, top + height + GAP, "its codes have no distribution"),
        ):
            if images is None:
                sheet.text(without, left, place + height / 2)
            else:
                sheet.image(mosaic(images, N_SHOWN), left, place)
        sheet.text(labels[row.name], left - LETTER, top + height, ha="right")
    return sheet.figure


class Mixture(NamedTuple):
    """Components of one image, by falling weight."""

    name: str
    images: torch.Tensor  # (K, channels, height, width) in [0, 1]
    weights: Sequence[float]
    log_densities: Sequence[float]  # of the mixture at each component's mode, nats
    nearest: Sequence[float]  # root mean square distance per pixel of the nearest training image, in units of x


def components(stored: StoredSweep, said: pd.DataFrame | None = None) -> Exhibit:
    """Of each mixture, the locations of its components at the first held-out image, with their weights."""
    images = stored.images.test[:1]
    names, alike = said_names(stored.runs, said)
    rows, parts = [], []
    for run in _runs(stored, lambda config: config.components > 1, said):
        distribution = _distribution(stored, run, images)
        marginals = distribution.marginals()
        if marginals is None:
            continue
        weights = marginals.log_weights[0, 0].exp()
        order = weights.argsort(descending=True)[:N_SHOWN]
        modes = marginals.loc[0, 0][order]
        with torch.no_grad():
            log_densities = [float(distribution.log_prob(mode[None, None])) for mode in modes]
        away = nearest(modes.clamp(0, 1), stored.images.train)
        of_modes = modes.clamp(0, 1).reshape(-1, *stored.images.image_shape)
        rows.append(Mixture(names[run["variant"]], of_modes, weights[order].tolist(), log_densities, away))
        parts.append(
            _data(run, len(order)).assign(
                component=(order + 1).tolist(), weight=weights[order].tolist(), log_density=log_densities, nearest=away
            )
        )
    title = "Components of one image"
    if not rows:
        return Absent(COMPONENTS, title, "No line is a mixture of images.")
    caption = (
        f"The first held-out image, and of each mixture the locations of up to {N_SHOWN} components at its code, the heaviest "
        "first. Below each its weight; ln p, nats, of the mixture at its mode; and its distance from the nearest training image, "
        f"the root of the mean square over pixels. {alike}"
    )
    return Picture(COMPONENTS, title, caption, plot_components(images / 255, rows), pd.concat(parts, ignore_index=True))


def plot_components(original: torch.Tensor, rows: Sequence[Mixture]) -> Figure:
    """A row of images for each mixture, numbers below them; the original at the top."""
    first = mosaic(original, 1)
    height, width = first.shape[:2]
    labels, left = row_labels(row.name for row in rows)
    most = max(len(row.weights) for row in rows)
    across, down = max(width, 6 * LETTER) + 2 * GAP, height + 3 * LINE + SPACE
    sheet = Sheet(left + most * across + len("nearest ") * LETTER, height + SPACE + len(rows) * down)
    sheet.image(first, left, 0)
    sheet.text(ORIGINAL, left - LETTER, height / 2, ha="right")
    for i, row in enumerate(rows):
        top = height + SPACE + i * down
        sheet.text(labels[row.name], left - LETTER, top + height / 2, ha="right")
        for k, image in enumerate(row.images):
            sheet.image(mosaic(image[None], 1), left + k * across, top)
        told = (("weight", row.weights, ".2f"), ("ln p", row.log_densities, ".0f"), ("nearest", row.nearest, ".3f"))
        for j, (name, values, form) in enumerate(told):
            middle = top + height + (j + 0.5) * LINE
            for k, value in enumerate(values):
                sheet.text(f"{value:{form}}", left + k * across + width / 2, middle, ha="center")
            sheet.text(name, left + len(row.weights) * across + LETTER, middle)
    return sheet.figure


def nearest(images: torch.Tensor, train: torch.Tensor) -> list[float]:
    """Of images (n, n_pixels) in [0, 1], the distance of the nearest of uint8 ones, root mean square over pixels."""
    found = torch.full((len(images),), math.inf)
    for part in train.flatten(1).split(max(1, AT_ONCE // images.shape[1])):
        found = torch.minimum(found, torch.cdist(images, part.float().div(255)).min(1).values)
    return [float(own) / math.sqrt(images.shape[1]) for own in found]


def size_and_error(runs: pd.DataFrame, said: pd.DataFrame | None = None) -> Exhibit:
    """L2 of the mean against the number of trained numbers, a point for each line."""
    scored = runs[runs["outputs/parameters"].notna()]
    data = spread(scored.assign(value=scored["outputs/l2_percent"]), CURVE)
    first = scored.drop_duplicates(CURVE).set_index(CURVE)
    data = data.join(first[["outputs/parameters", "config"]], on=CURVE).rename(
        columns={"outputs/parameters": "parameters"}
    )
    caption = (
        "L2 of the mean of p(x given the code) against the number of trained numbers, mean over seeds; bars are "
        "standard deviations over them. Hollow marks are mixtures, and a line leads to one from the same with a single component."
    )
    names, alike = said_names(scored, said)
    if numbers := _numbered(data):
        caption += f" Lines of one colour and one mark have numbers, which the key explains. {alike}"
    caption = " ".join(f"{caption} {say_floors(scored)}".split())
    figure = plot_sizes(data, {variant: (number, names[variant]) for variant, number in numbers.items()})
    return Picture(SIZE, "Size and error", caption, figure, data.drop(columns="config"))


def _numbered(data: pd.DataFrame) -> dict[str, int]:
    """From 1 on, by size, the variants that another has the colour and the mark of: floors, factors, widths tell them apart."""
    looks = {
        str(row["variant"]): (row["config"].likelihood, row["config"].scale, row["config"].components > 1)
        for row in data.sort_values("parameters", kind="stable").to_dict("records")
    }
    counts = Counter(looks.values())
    shared = [variant for variant, look in looks.items() if counts[look] > 1]
    return {variant: i for i, variant in enumerate(shared, 1)}


def plot_sizes(data: pd.DataFrame, numbered: Mapping[str, tuple[int, str]] = MappingProxyType({})) -> Figure:
    """Colour by scale, mark by likelihood, both axes logarithmic; ``mixtures_over_singles`` are joined.

    ``numbered``: by variant the number beside its point, and its name in a second key.
    """
    likelihoods = list(dict.fromkeys(config.likelihood for config in data["config"]))
    marks = dict(zip(likelihoods, itertools.cycle(style.MARKERS), strict=False))
    colours = dict(zip(SCALES, style.PALETTE, strict=False))
    with style.new_figure() as (figure, axes):
        for row in data.sort_values("parameters").to_dict("records"):
            config, at = row["config"], (row["parameters"], row["mean"])
            look = colours[config.scale]
            axes.errorbar(
                *at, yerr=row["sd"] if row["n_seeds"] > 1 else None, color=look, marker=marks[config.likelihood], linestyle="",
                markerfacecolor="white" if config.components > 1 else look, elinewidth=0.8,
            )  # fmt: skip
        for single, mixture in mixtures_over_singles(data):
            pair = data.iloc[[single, mixture]]
            look = colours[pair["config"].iloc[0].scale]
            axes.plot(pair["parameters"], pair["mean"], color=look, linewidth=0.6, zorder=1)
        axes.set(xscale="log", yscale="log", xlabel="trained numbers", ylabel="L2 (%)")
        style.plain_log_ticks(axes)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        key = [
            Line2D([], [], color=style.KEY_COLOUR, marker=marks[name], linestyle="", label=name) for name in likelihoods
        ]
        there = {config.scale for config in data["config"]}
        key += [
            Line2D([], [], color=colours[s], marker="o", linestyle="", label=f"scale {s}") for s in SCALES if s in there
        ]
        figure.legend(handles=key, loc="outside right upper")
        if numbered:
            _write_numbers(axes, data, {variant: number for variant, (number, _) in numbered.items()})
            told = [f"{number}  {name}" for number, name in numbered.values()]
            n_columns = _columns(figure, told)
            figure.set_size_inches(style.INCHES[0], style.INCHES[1] + ROW_INCHES * math.ceil(len(told) / n_columns))
            own = [Line2D([], [], linestyle="", label=words) for words in told]
            figure.legend(handles=own, loc="outside lower center", ncols=n_columns, handlelength=0, handletextpad=0)
    return figure


def _write_numbers(axes: Axes, data: pd.DataFrame, numbers: Mapping[str, int]) -> None:
    """Each number near its point, at the first place around it that is free of points and other numbers."""
    points = np.log(data[["parameters", "mean"]].to_numpy(dtype=float))
    extent = np.where(np.ptp(points, axis=0) > 0, np.ptp(points, axis=0), 1.0)
    at = (points - points.min(0)) / extent * SIZE_POINTS
    taken = [*at]
    for place, variant, value in zip(at, data["variant"], data[["parameters", "mean"]].to_numpy(), strict=True):
        if variant not in numbers:
            continue
        offsets = [
            radius * np.array([math.cos(angle), math.sin(angle)])
            for radius in (1.2 * FREE, 1.8 * FREE, 2.4 * FREE, 3 * FREE, 4 * FREE)
            for angle in np.linspace(0.25, 2.25, 12, endpoint=False) * math.pi
        ]
        room = [min(math.dist(place + offset, other) for other in taken) for offset in offsets]
        chosen = next((i for i, free in enumerate(room) if free >= FREE), int(np.argmax(room)))
        taken.append(place + offsets[chosen])
        axes.annotate(
            str(numbers[variant]), tuple(value), tuple(offsets[chosen]), textcoords="offset points", fontsize=7, ha="center",
            va="center", color=style.KEY_COLOUR, arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": style.PCA_COLOUR},
        )  # fmt: skip


def mixtures_over_singles(data: pd.DataFrame) -> list[tuple[int, int]]:
    """By place, the line with a single component and the mixture that differs from it in their number alone."""
    configs = list(enumerate(data["config"]))
    own = {"components", "seed", "setting"}  # what a mixture may have otherwise
    alike = [tuple(item for item in config.to_dict().items() if item[0] not in own) for _, config in configs]
    singles = sorted((config.components, i) for i, config in configs if config.components < 2)  # 1 goes before 0
    single = {alike[i]: i for _, i in singles}
    return [(single[alike[i]], i) for i, config in configs if config.components > 1 and alike[i] in single]


def calibration(runs: pd.DataFrame, said: pd.DataFrame | None = None) -> Exhibit:
    """Share of pixels within their central interval against its level, a panel for each likelihood."""
    rows = [
        (run["variant"], run["latent_dim"], run["seed"], run["config"], level, share)
        for _, run in runs.iterrows()
        for level, share in zip(
            *(run["scores"].get("outputs", {}).get(n, ()) for n in ("levels", "coverage")), strict=True
        )
    ]
    data = pd.DataFrame(rows, columns=["variant", "latent_dim", "seed", "config", "level", "value"])
    title = "Calibration of intervals"
    if data.empty:
        return Absent(CALIBRATION, title, "No run has the coverage of intervals.")
    names, alike = said_names(runs, said)
    caption = (
        f"Share of pixels of the first {_n_images(runs)} held-out images within the central interval of each level that their "
        "own distribution gives, mean over seeds and latent dimensions; of dequantised images where these were trained on. On "
        "the grey line intervals cover what they say; above it they are too wide, below it too narrow. Lines of one colour and "
        f"one dash in a panel have marks and names. {alike} {say_floors(runs)}"
    )
    means = data.groupby(["variant", "level"], sort=False)["value"].mean()
    configs = data.drop_duplicates("variant").set_index("variant")["config"]
    curves = [
        Curve(names[variant], _look(config), means[variant])
        for variant, config in zip(configs.index, configs, strict=True)
    ]
    return Picture(CALIBRATION, title, " ".join(caption.split()), plot_calibration(curves), data.drop(columns="config"))


Look = tuple[str, str, int]  # likelihood, scale and components of a line


class Curve(NamedTuple):
    """The calibration of a line."""

    name: str
    look: Look
    shares: pd.Series[float]  # of pixels, by level


def _look(config: LikelihoodConfig) -> Look:
    return config.likelihood, config.scale, config.components


def plot_calibration(curves: Sequence[Curve]) -> Figure:
    """Curves over level by likelihood, scale and components: a panel, a colour and a dash; those alike in these have marks."""
    likelihoods = list(dict.fromkeys(curve.look[0] for curve in curves))
    sizes = sorted({curve.look[2] for curve in curves})
    dashes = {k: style.DASHES[i % len(style.DASHES)] for i, k in enumerate(sizes)}
    colours = dict(zip(SCALES, style.PALETTE, strict=False))
    counts, seen = Counter(curve.look for curve in curves), Counter[Look]()
    marked = []
    with style.new_grid(1, len(likelihoods), width=2.2) as (figure, axes):
        panels = dict(zip(likelihoods, axes[0], strict=True))
        for name, panel in panels.items():
            panel.plot([0, 1], [0, 1], color=style.PCA_COLOUR, linewidth=0.8)
            panel.set(title=name, xlabel="level", xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 0.5, 1))
        for curve in curves:
            likelihood, scale, k = curve.look
            (line,) = panels[likelihood].plot(
                curve.shares.index, curve.shares, color=colours[scale], linestyle=dashes[k]
            )
            if counts[curve.look] > 1:
                nth = seen[curve.look]
                line.set(
                    marker=style.MARKERS[nth % len(style.MARKERS)], markevery=(nth % EVERY, EVERY), label=curve.name
                )
                marked.append(line)
                seen[curve.look] += 1
        axes[0][0].set_ylabel("share of pixels within")
        there = {curve.look[1] for curve in curves}
        key = [Line2D([], [], color=colours[s], label=s) for s in SCALES if s in there]
        key += [
            Line2D([], [], color=style.KEY_COLOUR, linestyle=dashes[k], label=f"K = {k}" if k else "no mixture")
            for k in sizes
        ]
        n_columns = _columns(figure, [str(line.get_label()) for line in [*key, *marked]]) if marked else len(key)
        rows = math.ceil(len([*key, *marked]) / n_columns)
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + ROW_INCHES * (rows - 1))
        figure.legend(handles=[*key, *marked], loc="outside lower center", ncols=n_columns)
    return figure


def _runs(stored: StoredSweep, wanted: Callable[[LikelihoodConfig], bool], said: pd.DataFrame | None) -> list[RunRow]:
    """The run that pictures show of each line that emits more than an image, at its smallest latent dimension."""
    runs = stored.runs[stored.runs["config"].map(lambda c: emits_more(c) and _spreads(c) and wanted(c))]
    return _of_lines(stored, _in_order(runs, said))


def _of_lines(stored: StoredSweep, runs: pd.DataFrame) -> list[RunRow]:
    """The run that pictures show of each line among the runs, at its smallest latent dimension."""
    smallest = runs.groupby("variant", sort=False)["latent_dim"].min()
    return [stored.pick(str(variant), int(d)) for variant, d in smallest.items()]


def _spreads(config: LikelihoodConfig) -> bool:
    """Whether a mixture, or one component whose spread is not the same everywhere."""
    return bool(config.components > 1 or config.scale != "identity" or config.likelihood in ("student-t", "matrix-t"))


@torch.no_grad()
def _distribution(stored: StoredSweep, run: RunRow, images: torch.Tensor) -> Emitted:
    """p(x given the posterior mean) of images."""
    model = stored.model(run)
    x = images.flatten(1).float().div(255)[None]
    return model.likelihood.distribution(model.decode(model.posterior_mean(x)))


def _data(run: RunRow, n_rows: int) -> pd.DataFrame:
    return pd.DataFrame([run[["variant", "latent_dim", "seed", "run_id"]].to_dict()] * n_rows)
