"""What an analysis shows: pictures and tables with their captions, written to files and to the terminal."""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import style


@dataclass(frozen=True)
class Picture:
    """A figure. ``caption`` says what it shows, of which runs, and what the paper's figure shows; ``data`` is what was drawn."""

    stem: str  # of its files: loss_and_mse.png, .pdf, .csv
    title: str  # "Figure 1. Loss and MSE against the latent dimension"
    caption: str
    figure: Figure
    data: pd.DataFrame | None = None


@dataclass(frozen=True)
class Table:
    """A table: ``data`` are its numbers, one observation a row, for the CSV; ``shown`` is what a reader sees, cells as text."""

    stem: str
    title: str
    caption: str
    data: pd.DataFrame
    shown: pd.DataFrame


@dataclass(frozen=True)
class Absent:
    """What these runs cannot show: why, and which command would change that."""

    stem: str
    title: str
    why: str


Exhibit = Picture | Table | Absent


def write(exhibit: Exhibit, folder: Path) -> list[Path]:
    """Its files in ``folder``: PNG, PDF (and CSV) of a picture; CSV and LaTeX of a table; nothing of what is absent."""
    stem = folder / exhibit.stem
    if isinstance(exhibit, Absent):
        return []
    paths = style.save(exhibit.figure, stem) if isinstance(exhibit, Picture) else [_write_latex(exhibit, stem)]
    if exhibit.data is not None:
        exhibit.data.to_csv(csv := stem.with_name(f"{stem.name}.csv"), index=False, lineterminator="\n")
        paths.append(csv)
    return paths


def as_text(exhibit: Exhibit) -> str:
    """What the terminal shows of it: a table's cells with its caption; of a picture the title; of what is absent why."""
    if isinstance(exhibit, Table):
        return f"{exhibit.title}\n\n{exhibit.shown.to_string(index=False)}\n\n{textwrap.fill(exhibit.caption, 110)}\n"
    return exhibit.title if isinstance(exhibit, Picture) else f"{exhibit.title}: not drawn. {exhibit.why}"


def cell(mean: float, sd: float, n_seeds: int, digits: int) -> str:
    """``12.3 ± 0.4``, or ``12.3`` where one seed leaves the spread unknown."""
    if pd.isna(mean):
        return ""
    return f"{mean:.{digits}f} ± {sd:.{digits}f}" if n_seeds > 1 else f"{mean:.{digits}f}"


def _write_latex(table: Table, stem: Path) -> Path:
    """A booktabs table, complete with caption and label."""
    path = stem.with_name(f"{stem.name}.tex")
    columns = [_latex(str(name)) for name in table.shown.columns]
    rows = [[_latex(str(value)) for value in row] for row in table.shown.itertuples(index=False)]
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{_latex(f'{table.title}. {table.caption}')}}}",
        f"  \\label{{tab:{table.stem}}}",
        f"  \\begin{{tabular}}{{{'l' * len(columns)}}}",
        "    \\toprule",
        *(f"    {' & '.join(row)} \\\\{rule}" for row, rule in _ruled(columns, rows)),
        "    \\bottomrule",
        "  \\end{tabular}",
        "\\end{table}",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _ruled(columns: list[str], rows: list[list[str]]) -> Iterable[tuple[list[str], str]]:
    yield columns, " \\midrule"
    for row in rows:
        yield row, ""


LATEX = {
    "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_", "{": "\\{", "}": "\\}",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$", "×": "$\\times$", "≤": "$\\leq$", "<": "$<$",
    ">": "$>$", "−": "$-$", "σ": "$\\sigma$",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
