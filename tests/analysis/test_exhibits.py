"""Exhibits become the files and the text that are promised."""

import math
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.exhibits import Absent, Exhibits, Page, Picture, Table, as_text, cell, cells, decimals, seeds, write

PROSE = "FisherNet − VAE, 95% at d_2: see `latent_sweep.py --name a_b` & more. " * 3


def table(**columns: list[object]) -> Table:
    shown = pd.DataFrame(columns)
    return Table("numbers", "Numbers", "50% of {them} & #1", shown, shown)


def test_a_table_becomes_csv_and_latex_and_a_picture_png_pdf_and_csv(tmp_path):
    assert {p.name for p in write(table(a=[1]), tmp_path)} == {"numbers.csv", "numbers.tex"}
    picture = Picture("curve", "Curve", "", Figure(), pd.DataFrame({"x": [1]}))
    assert {p.name for p in write(picture, tmp_path)} == {"curve.csv", "curve.pdf", "curve.png"}
    assert write(Absent("none", "None", "no runs"), tmp_path) == []
    assert all(path.stat().st_size for path in tmp_path.iterdir())


def test_latex_escapes_what_it_would_read_as_commands(tmp_path):
    write(table(model=["a_b"], says=["1 ± 2 & 3%"], run=["`x --name y`"]), tmp_path)
    text = (tmp_path / "numbers.tex").read_text()
    assert r"a\_b & 1 $\pm$ 2 \& 3\% & \texttt{x -{}-name y} \\" in text
    assert r"50\% of \{them\} \& \#1" in text
    assert r"\begin{tabular}{lll}" in text


def test_latex_shows_bars_quotes_and_arrows_as_themselves(tmp_path):
    """In OT1, LaTeX's usual encoding, the letters | and " of a roman font are a dash and a closing quote."""
    write(table(says=['ln|M|, "a" → b']), tmp_path)
    quote = r"{\ttfamily\char34}"
    text = (tmp_path / "numbers.tex").read_text()
    assert rf"ln\textbar{{}}M\textbar{{}}, {quote}a{quote} $\to$ b" in text


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path, monkeypatch):
    def full(self, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space left"):
        write(Picture("curve", "Curve", "", Figure(), None), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_prose_gets_columns_that_break_their_lines(tmp_path):
    write(table(id=["FN1"], says=[PROSE], shows=[PROSE]), tmp_path)
    assert r"\begin{tabular}{lp{0.38\linewidth}p{0.38\linewidth}}" in (tmp_path / "numbers.tex").read_text()


def test_the_terminal_shows_columns_or_where_a_cell_is_prose_paragraphs():
    assert "a  b\n 1  2" in as_text(table(a=[1], b=[2]))
    text = as_text(table(id=["FN1", "FN2"], says=[PROSE, PROSE], verdict=["confirmed", "not asked of these data"]))
    assert "FN1  confirmed\n  says: FisherNet" in text
    assert "FN2  not asked of these data\n  says: FisherNet" in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    ("mean", "sd", "n", "shown"),
    [(0.12345, 0.00056, 3, "0.123 ± 0.001"), (0.12345, float("nan"), 1, "0.123"), (float("nan"), 0.0, 0, "")],
)
def test_a_cell_shows_the_spread_where_it_is_known(mean, sd, n, shown):
    assert cell(mean, sd, n, 3) == shown


def test_cells_are_found_by_their_dimension_and_seeds_are_counted():
    means = pd.DataFrame({"latent_dim": [2, 5], "mean": [1.0, 2.0], "sd": [0.1, float("nan")], "n_seeds": [3, 1]})
    assert cells(means, "latent_dim", 1) == {2: "1.0 ± 0.1", 5: "2.0"}
    assert seeds(means) == "1 to 3 seeds"
    assert seeds(means.iloc[:1]) == "3 seeds"
    assert seeds(means.iloc[1:]).startswith("one seed")


@pytest.mark.parametrize("scale", [1e-9, 3e-4, 0.04, 1.0, 5e3])
def test_no_column_of_numbers_is_all_zeros_to_the_digits_shown(scale):
    values = [scale * factor for factor in (0.6, 1.0, 1.7)]
    for least in (0, 1, 5):
        shown = [f"{value:.{decimals(values, least)}f}" for value in values]
        assert all(float(text) == pytest.approx(value, rel=0.1) for text, value in zip(shown, values, strict=True))
    assert decimals([0.0, math.nan], 3) == 3


@pytest.mark.parametrize("made", ["picture", "table", "page", "not drawn"])
def test_in_python_an_exhibit_is_a_sentence_that_says_what_it_is_and_how_to_keep_it(made, tmp_path):
    exhibit = {
        "picture": Picture("curve", "Curve", "", Figure(), pd.DataFrame({"x": range(1000)})),
        "table": table(a=[*range(1000)]),
        "page": Page("explorer", "Explorer", "", "<html>" * 1000),
        "not drawn": Absent("none", "None", "No run has finished."),
    }[made]
    said = repr(Exhibits([exhibit]))
    assert exhibit.title in said
    assert f"({made})" in said
    assert ".save(FOLDER)" in said
    for text in (repr(exhibit), said):
        assert len(text) < 150
        assert "\n" not in text
    written = Exhibits([exhibit]).save(tmp_path / "new" / "folder")
    assert sorted(written) == sorted((tmp_path / "new" / "folder").iterdir())
    assert bool(written) == (made != "not drawn")
