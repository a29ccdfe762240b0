"""What an analysis shows: pictures, tables and pages with their captions, written to files and to the terminal."""

from __future__ import annotations

import base64
import html
import math
import os
import tempfile
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import ClassVar, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from analysis import style

WIDTH = 110  # characters of a line in the terminal
PROSE = 24  # characters: a cell longer than that, in a table with prose, is prose


class _Shown:
    """What every exhibit has in Python: a short sentence where it is printed, and ``save``."""

    stem: str
    title: str
    kind: ClassVar[str]

    def __repr__(self) -> str:
        return f"<{self.kind}: {self.title}; a notebook shows it, and .save(FOLDER) writes its files>"

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write its files into the folder, which is made where it is missing; their paths."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        return write(self, place)  # type: ignore[arg-type]  # each of the four is one


@dataclass(frozen=True, repr=False)
class Picture(_Shown):
    """A figure. ``caption`` says what it shows, of which runs, and what the paper's figure shows; ``data`` is what was drawn."""

    stem: str  # of its files: loss_and_mse.png, .pdf, .csv
    title: str  # "Figure 1. Loss and MSE against the latent dimension"
    caption: str
    figure: Figure
    data: pd.DataFrame | None = None
    kind = "picture"

    def _repr_html_(self) -> str:
        png = BytesIO()
        self.figure.savefig(png, format="png")
        source = base64.b64encode(png.getvalue()).decode()
        return _html(self, f'<img src="data:image/png;base64,{source}" alt="{html.escape(self.title)}">')


class Unfolding(NamedTuple):
    """What a page shows of a table of long texts: ``shown`` is shorter, and below it ``table`` and ``notes`` unfold."""

    shown: pd.DataFrame
    title: str  # what is clicked
    table: pd.DataFrame
    notes: Sequence[str]


@dataclass(frozen=True, repr=False)
class Table(_Shown):
    """A table: ``data`` are its numbers, one observation a row, for the CSV; ``shown`` is what a reader sees, cells as text."""

    stem: str
    title: str
    caption: str
    data: pd.DataFrame
    shown: pd.DataFrame
    unfolding: Unfolding | None = None
    commands: Sequence[str] = ()  # that would fill it, each a line, so that it can be copied
    kind = "table"

    def _repr_html_(self) -> str:
        return _html(self, self.shown.to_html(index=False))


@dataclass(frozen=True, repr=False)
class Page(_Shown):
    """An HTML page of its own that holds everything itself."""

    stem: str
    title: str
    caption: str
    html: str
    kind = "page"

    def _repr_html_(self) -> str:
        return _html(self, f'<iframe srcdoc="{html.escape(self.html)}" width="100%" height="900"></iframe>')


@dataclass(frozen=True, repr=False)
class Absent(_Shown):
    """What these runs cannot show: why, and which command would change that."""

    stem: str
    title: str
    why: str
    kind = "not drawn"

    def __repr__(self) -> str:
        return f"<{self.title}: not drawn. {self.why}>"

    def _repr_html_(self) -> str:
        return f"<h4>{html.escape(self.title)}</h4><p>{html.escape(self.why)}</p>"


Exhibit = Picture | Table | Page | Absent


class Exhibits(list["Exhibit"]):
    """Several, which a notebook shows one below the other."""

    def __repr__(self) -> str:
        if not self:
            return "<nothing of this sweep to show>"
        listed = ", ".join(f"[{i}] {exhibit.title} ({exhibit.kind})" for i, exhibit in enumerate(self))
        return f"<{listed}; a notebook shows them, and .save(FOLDER) writes their files>"

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the files of all into the folder, which is made where it is missing; their paths."""
        return [path for exhibit in self for path in exhibit.save(folder)]

    def _repr_html_(self) -> str:
        return "\n".join(exhibit._repr_html_() for exhibit in self)


def _html(exhibit: Picture | Table | Page, shown: str) -> str:
    """As a notebook shows it."""
    return f"<h4>{html.escape(exhibit.title)}</h4>{shown}<p>{html.escape(exhibit.caption)}</p>"


def annotated(exhibit: Exhibit, number: str, sentence: str) -> Exhibit:
    """The exhibit under its number in a paper, such as ``Figure 4``, ending with what the paper's shows."""
    title = f"{number}. {exhibit.title}" if number else exhibit.title
    if isinstance(exhibit, Absent):
        return replace(exhibit, title=title)
    return replace(exhibit, title=title, caption=f"{exhibit.caption} {sentence}".strip())


def write(exhibit: Exhibit, folder: Path) -> list[Path]:
    """Its files in ``folder``: PNG, PDF (and CSV) of a picture; CSV and LaTeX of a table; HTML of a page; else nothing.

    Each appears whole or, where it is cut short, not at all.
    """
    if isinstance(exhibit, Absent):
        return []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as partial:
        return [path.replace(folder / path.name) for path in _write(exhibit, Path(partial) / exhibit.stem)]


def _write(exhibit: Picture | Table | Page, stem: Path) -> list[Path]:
    if isinstance(exhibit, Page):
        (path := stem.with_name(f"{stem.name}.html")).write_text(exhibit.html, encoding="utf-8")
        return [path]
    paths = style.save(exhibit.figure, stem) if isinstance(exhibit, Picture) else [_write_latex(exhibit, stem)]
    if exhibit.data is not None:
        exhibit.data.to_csv(csv := stem.with_name(f"{stem.name}.csv"), index=False, lineterminator="\n")
        paths.append(csv)
    return paths


def as_text(exhibit: Exhibit) -> str:
    """What the terminal shows of it: a table or a page with its caption, a picture's title, or why something is absent."""
    if isinstance(exhibit, Page):
        return f"{exhibit.title}\n\n{textwrap.fill(exhibit.caption, WIDTH)}\n"
    if isinstance(exhibit, Table):
        rows, caption = _rows_as_text(exhibit.shown), textwrap.fill(exhibit.caption, WIDTH)
        return "\n".join([f"{exhibit.title}\n\n{rows}\n\n{caption}\n", *(f"{line}\n" for line in exhibit.commands)])
    return exhibit.title if isinstance(exhibit, Picture) else f"{exhibit.title}: not drawn. {exhibit.why}"


def _rows_as_text(shown: pd.DataFrame) -> str:
    """Aligned columns; where a cell is prose, a paragraph for each row instead."""
    if shown.astype(str).map(len).max().max() <= WIDTH / 2:
        text = shown.to_string(index=False)
        head, n_columns = str(shown.columns[0]), len(shown.columns)
        if text.find("\n") <= WIDTH or len(shown) >= n_columns or not shown[head].is_unique:
            return text
        return shown.set_index(head).T.rename_axis(columns=None).to_string()  # as many rows as it had columns
    texts = shown.astype(str)
    short = [name for name in texts.columns if texts[name].map(len).max() <= PROSE]
    paragraphs = []
    for row in texts.to_dict("records"):
        lines = ["  ".join(row[name] for name in short)]
        lines += [
            textwrap.fill(f"{name}: {row[name]}", WIDTH, initial_indent="  ", subsequent_indent="    ")
            for name in row
            if name not in short
        ]
        paragraphs.append("\n".join(lines))
    return "\n".join(paragraphs)


def cell(mean: float, sd: float, n_seeds: int, digits: int) -> str:
    """``12.3 ± 0.4``, or ``12.3`` where one seed leaves the spread unknown."""
    if pd.isna(mean):
        return ""
    return f"{mean:.{digits}f} ± {sd:.{digits}f}" if n_seeds > 1 else f"{mean:.{digits}f}"


def cells(line: pd.DataFrame, key: str, digits: int) -> dict[object, str]:
    """``cell`` of each row of means, by the row's value of ``key``, such as latent_dim."""
    columns = zip(line[key], line["mean"], line["sd"], line["n_seeds"], strict=True)
    return {of: cell(mean, sd, n, digits) for of, mean, sd, n in columns}


def decimals(values: Iterable[float], least: int) -> int:
    """How many decimals a column of these numbers shows: three digits of the median magnitude, and not less than ``least``."""
    sizes = sorted(abs(value) for value in values if math.isfinite(value) and value)
    return max(least, 2 - math.floor(math.log10(sizes[len(sizes) // 2]))) if sizes else least


def seeds(means: pd.DataFrame) -> str:
    """Over how many seeds the means were taken: ``3 seeds``, ``2 to 3 seeds``, ``one seed``."""
    least, most = means["n_seeds"].min(), means["n_seeds"].max()
    if most == 1:
        return "one seed, so the spread is unknown"
    return f"{most} seeds" if least == most else f"{least} to {most} seeds"


def _write_latex(table: Table, stem: Path) -> Path:
    """A booktabs table, complete with caption and label; columns of prose share the width of the page."""
    path = stem.with_name(f"{stem.name}.tex")
    columns = {_latex(str(name)): [_latex(str(value)) for value in table.shown[name]] for name in table.shown}
    prose = [max(map(len, cells), default=0) > WIDTH / 2 for cells in columns.values()]
    paragraph = f"p{{{0.75 / max(1, sum(prose)):.2f}\\linewidth}}"
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        "  \\small",
        f"  \\caption{{{_latex(f'{table.title}. {table.caption}')}}}",
        f"  \\label{{tab:{table.stem}}}",
        f"  \\begin{{tabular}}{{{''.join(paragraph if long else 'l' for long in prose)}}}",
        "    \\toprule",
        f"    {' & '.join(columns)} \\\\",
        "    \\midrule",
        *(f"    {' & '.join(row)} \\\\" for row in zip(*columns.values(), strict=True)),
        "    \\bottomrule",
        "  \\end{tabular}",
        "\\end{table}",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


LATEX = {
    "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$", "×": "$\\times$", "≤": "$\\leq$", "<": "$<$",
    ">": "$>$", "−": "$-$", "σ": "$\\sigma$",
    "→": "$\\to$", "|": "\\textbar{}", '"': "{\\ttfamily\\char34}",  # whose roman letters have others in the place of these two
}  # fmt: skip


def _latex(text: str) -> str:
    """The text as LaTeX sets it; `backticked` parts as code."""
    parts = ["".join(LATEX.get(character, character) for character in part) for part in text.split("`")]
    code = [f"\\texttt{{{part}}}" for part in parts[1::2]]
    whole = "".join(part for pair in zip_longest(parts[::2], code, fillvalue="") for part in pair)
    return whole.replace("--", "-{}-")  # which would be a dash
