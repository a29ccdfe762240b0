"""What the figures of every analysis share: a colour per model, a look per variant, bands, ticks, files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, TypedDict

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, Locator, LogFormatterMathtext, LogLocator, MaxNLocator
from matplotlib.typing import CapStyleType, LineStyleType

from fishernet.families import FAMILIES, family

# Okabe & Ito's palette, which stays distinct under the common colour-vision deficiencies.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C510A", "#5E3C99")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
PCA_COLOUR = "#7F7F7F"
DASHES: tuple[LineStyleType, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
# The second, third, … variant of a model: its colour towards black (negative) or towards white. One more than dashes, so that
# both begin anew together only after twenty.
SHADES = (0.0, -0.45, 0.4, -0.7, -0.25)
KEY_COLOUR = "#333333"  # of legend entries that stand for every colour
BAND_ALPHA = 0.22
INCHES = (6.4, 3.6)
DPI = 200

RC: Any = {
    # A matplotlibrc of the user's, or of the current folder, counts for figures of the user's own.
    **{name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith("backend")},
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same figure on every machine
    "font.size": 9,
    "axes.labelsize": 10,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "pdf.fonttype": 42,  # text stays text, which journals ask for
}


class Stroke(TypedDict, total=False):
    """How a line of any colour is drawn: arguments of ``Axes.plot`` and ``Line2D``."""

    linestyle: LineStyleType
    linewidth: float
    marker: str
    alpha: float
    solid_capstyle: CapStyleType


class LineLook(Stroke, total=False):
    """How a line is drawn, and what a legend calls it."""

    color: str
    markerfacecolor: str | None
    label: str


@contextmanager
def new_figure() -> Iterator[tuple[Figure, Axes]]:
    """An empty figure and its axes, to be filled inside the block, where the sizes and colours above hold."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=INCHES, layout="constrained")  # not pyplot's: needs no display, leaves no state
        yield figure, figure.subplots()


@contextmanager
def new_grid(n_rows: int, n_columns: int, *, width: float) -> Iterator[tuple[Figure, np.ndarray]]:
    """An empty figure and its axes, an array (n_rows, n_columns), panels ``width`` inches wide."""
    with matplotlib.rc_context(RC):
        size = (max(INCHES[0] / 2, width * n_columns + 0.4), 1.9 * n_rows + 0.4)
        figure = Figure(figsize=size, layout="constrained")
        yield figure, figure.subplots(n_rows, n_columns, squeeze=False)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write the figure as PNG and PDF, undated so that equal figures are equal files; return the paths."""
    png, pdf = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")
    with matplotlib.rc_context(RC):
        figure.savefig(png, dpi=DPI)
        figure.savefig(pdf, metadata={"CreationDate": None})
    return [png, pdf]


def by_variant(means: pd.DataFrame) -> list[tuple[str, LineLook, pd.DataFrame]]:
    """Each variant with its look and its rows: one colour per model, shades and dashes among its variants."""
    seen: dict[str, int] = {}
    variants = []
    for variant in means["variant"].unique().tolist():
        rows = means[means["variant"] == variant]
        model = rows["model"].iloc[0]
        nth = seen.get(model, 0)
        seen[model] = nth + 1
        look: LineLook = {
            "color": _shade(colour(model), SHADES[nth % len(SHADES)]),
            "linestyle": DASHES[nth % len(DASHES)],
            "marker": marker(model),
            "markerfacecolor": "white" if nth else None,
        }
        variants.append((variant, look, rows))
    return variants


def colour(model: str) -> str:
    """A model's colour follows from its place among the families."""
    return PALETTE[_place(model) % len(PALETTE)]


def marker(model: str) -> str:
    """Another one where the colours begin anew, so that no two models share both."""
    place = _place(model)
    return MARKERS[(place + place // len(PALETTE)) % len(MARKERS)]


def _place(model: str) -> int:
    return [*FAMILIES].index(model) if model in FAMILIES else len(FAMILIES)


def label(variant: str, model: str) -> str:
    """The model's variant as legends write it; what sets a model apart explains its place among the others."""
    row = family(model)
    return f"{variant} (sees the image)" if row.sees_image else variant if row.prior else f"{variant} (no sampling)"


def line_with_band(axes: Axes, line: pd.DataFrame, x: str, look: LineLook) -> Line2D:
    """The mean against x with a band of one standard deviation each way; a bar where it is one point."""
    (drawn,) = axes.plot(line[x], line["mean"], **look)
    if len(line) > 1:
        low, high = line["mean"] - line["sd"], line["mean"] + line["sd"]
        axes.fill_between(line[x], low, high, color=look["color"], alpha=BAND_ALPHA, linewidth=0)
    elif line["sd"].notna().all():
        below = 1.9  # its marker
        axes.errorbar(line[x], line["mean"], yerr=line["sd"], color=look["color"], capsize=3, linewidth=1, zorder=below)
    return drawn


def spread_key(means: pd.DataFrame) -> Line2D | Patch:
    """The legend's last entry: what the bands are and over how many seeds."""
    least, most = means["n_seeds"].min(), means["n_seeds"].max()
    if most == 1:
        return Line2D([], [], linestyle="", label="one seed each")
    seeds = f"{most} seeds" if least == most else f"{least} to {most} seeds"
    return Patch(color=KEY_COLOUR, alpha=BAND_ALPHA, linewidth=0, label=f"± 1 SD, {seeds}")


def gap_key() -> Line2D:
    """An empty line of a legend, between what colours mean and what line styles mean."""
    return Line2D([], [], linestyle="", label=" ")


def whole_ticks(axes: Axes, values: Sequence[int]) -> None:
    """Whole numbers along x: the values themselves where they are few and apart, else round ones."""
    gaps = [b - a for a, b in pairwise(values)]
    # Closer than a twenty-fifth of the axis, two labels touch.
    if len(values) <= 10 and (not gaps or min(gaps) >= 0.04 * (values[-1] - values[0])):
        axes.set_xticks(values)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10]))
    if not gaps:
        axes.set_xlim(values[0] - 1, values[0] + 1)


def plain_log_ticks(axes: Axes, which: str = "y") -> None:
    """0.01, 0.02, 0.05 rather than powers of ten, of which an axis of one decade shows hardly one; also of x, as ``xy``.

    Beyond two decades along x and three along y, powers of ten alone, and of many decades some.
    """
    for axis in which:
        bottom, top = getattr(axes, f"get_{axis}lim")()
        drawn, ratio = getattr(axes, f"{axis}axis"), top / bottom
        few, some, many = (5, 5, 1e2) if axis == "x" else (1.6, 8, 1e3)  # labels are wider than high
        locator: Locator
        if ratio > many:
            locator = LogLocator(numticks=7)
        elif ratio > some:
            locator = LogLocator(subs=(1, 2, 5))
        elif ratio > few:
            locator = LogLocator(subs=(1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8))
        else:
            locator = MaxNLocator(4, steps=[1, 2, 5, 10])
        drawn.set_major_locator(locator)
        drawn.set_major_formatter(
            LogFormatterMathtext() if ratio > many else FuncFormatter(lambda value, _: f"{value:.4g}")
        )
    axes.minorticks_off()


def _shade(colour: str, towards: float) -> str:
    """The colour moved that far towards white, or towards black where negative."""
    end = 1.0 if towards > 0 else 0.0
    red, green, blue = (c + abs(towards) * (end - c) for c in to_rgb(colour))
    return to_hex((red, green, blue))
