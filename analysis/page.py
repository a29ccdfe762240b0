"""What an analysis shows as one HTML page that holds everything itself: it opens from a folder, offline, and prints."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from io import BytesIO
from urllib.parse import quote

import matplotlib
import pandas as pd
from PIL import Image

from analysis import style
from analysis.exhibits import Absent, Exhibit, Page, Picture, Table
from fishernet.wording import first_sentence

PIXELS_PER_INCH = 110  # of the page: a figure of 6.4 inches is as wide as a line of text, its 9 pt letters 14 pixels
DENSITY = 2  # image pixels per pixel of the page: sharp on the screens of phones, and 200 dpi on paper
EMPTY = ("", "-", "–", "—")
# 12.3, −0.2, 1.5e-05, 10,000, 87 %, 2.3 s, 12.3 ± 0.4, 12.3 ± 0.4 (3): the number that a row is sorted by, and what may follow
NUMBER = re.compile(
    r"([+−-]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[+−-]?\d+)?)(?:\s*±\s*\S+)?(?:\s?[%×a-z/]{1,8})?(?:\s*\(.*\))?", re.I
)
LONG = 32  # characters: a column with such a cell is prose, whose lines may break
BROAD = 140  # characters: a table wider than that is printed across the page
# Cell -> class of its pill; what is not asked of these data, and answers to questions, are of none of these.
VERDICTS = {
    "confirmed": "yes",
    "contradicted": "no",
    "undecided": "open",
    "too short": "open",
    "flat because poor": "poor",
}


@dataclass(frozen=True)
class Section:
    """A heading, text below it (a blank line parts paragraphs) and exhibits in their order."""

    title: str
    text: str
    exhibits: Sequence[Exhibit]


def render(
    title: str,
    introduction: Sequence[str],
    facts: Mapping[str, str],
    sections: Sequence[Section],
    notes: Sequence[str],
) -> str:
    """The page as HTML: title, introduction, contents, sections, what was run, notes. Equal arguments make equal pages.

    Texts are plain and all escaped; `backticks` make code of what they enclose. Pictures lie in the page, and so does the
    CSV of every table; links to an exhibit's other files expect these beside the page, as ``exhibits.write`` names them.
    The page's policy lets no script run but its own, and nothing be loaded.
    """
    css, script = (resources.files("analysis").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    anchors = {f"section-{n}": section for n, section in enumerate(sections, 1)}
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{css}</style>
</head>
<body>
<header>
<h1>{_inline(title)}</h1>
{_paragraphs(introduction)}
</header>
{_contents(anchors, bool(facts), bool(notes))}
<main>
{_joined(_section(anchor, section) for anchor, section in anchors.items())}
{_facts(facts)}
{_notes(notes)}
</main>
<script>{script}</script>
</body>
</html>
"""


def _contents(anchors: Mapping[str, Section], facts: bool, notes: bool) -> str:
    entries = []
    for anchor, section in anchors.items():
        inner = _joined(_entry(exhibit.stem, exhibit.title) for exhibit in section.exhibits)
        entries.append(_entry(anchor, section.title, f"\n<ol>\n{inner}\n</ol>\n" if inner else ""))
    entries += [_entry("runs", "What was run")] if facts else []
    entries += [_entry("notes", "Notes")] if notes else []
    return f'<nav aria-label="Contents">\n<p>Contents</p>\n<ol>\n{_joined(entries)}\n</ol>\n</nav>' if entries else ""


def _entry(anchor: str, title: str, inner: str = "") -> str:
    return f'<li><a href="#{quote(anchor)}">{_inline(title)}</a>{inner}</li>'


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    rows = _joined(f"<div><dt>{_inline(name)}</dt><dd>{_inline(value)}</dd></div>" for name, value in facts.items())
    return f'<section>\n<h2 id="runs">What was run</h2>\n<dl>\n{rows}\n</dl>\n</section>'


def _section(anchor: str, section: Section) -> str:
    exhibits = _joined(_exhibit(exhibit) for exhibit in section.exhibits)
    text = _paragraphs(part for part in section.text.split("\n\n") if part.strip())
    return f'<section>\n<h2 id="{anchor}">{_inline(section.title)}</h2>\n{text}\n{exhibits}\n</section>'


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = _joined(f"<li>{_inline(note)}</li>" for note in notes)
    return f'<section>\n<h2 id="notes">Notes</h2>\n<ul>\n{items}\n</ul>\n</section>'


def _exhibit(exhibit: Exhibit) -> str:
    """A figure element that is named by its heading."""
    if isinstance(exhibit, Absent):
        kind, body = "absent", f"<p>{_inline(exhibit.why)}</p>"
    elif isinstance(exhibit, Page):
        link = f'<a href="{quote(exhibit.stem)}.html">Open the page</a> ({len(exhibit.html) / 1e6:.1f} MB, beside this one)'
        kind, body = "page", f"<p>{link}</p>\n<figcaption>\n<p>{_inline(exhibit.caption)}</p>\n</figcaption>"
    else:
        kind, shown = ("picture", _image(exhibit)) if isinstance(exhibit, Picture) else _table(exhibit)
        body = f"{shown}\n<figcaption>\n<p>{_inline(exhibit.caption)}</p>\n{_files(exhibit)}\n</figcaption>"
    stem = escape(exhibit.stem)
    heading = f'<h3 id="{stem}-title">{_inline(exhibit.title)}</h3>'
    return f'<figure class="{kind}" id="{stem}" aria-labelledby="{stem}-title">\n{heading}\n{body}\n</figure>'


def _image(picture: Picture) -> str:
    """The picture as PNG. Its size is said beforehand, so that nothing moves when it appears."""
    drawn, png = BytesIO(), BytesIO()
    with matplotlib.rc_context(style.RC):
        picture.figure.savefig(drawn, format="png", dpi=DENSITY * PIXELS_PER_INCH)
    # 256 colours of its own: no eye tells the difference, and the page is less than half as large.
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(png, "PNG", optimize=True)
    width, height = (round(PIXELS_PER_INCH * inches) for inches in picture.figure.get_size_inches())
    alt = escape(f"{picture.title}. {first_sentence(picture.caption)}")
    source = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    return f'<img src="{source}" width="{width}" height="{height}" alt="{alt}">'


def _table(table: Table) -> tuple[str, str]:
    """Its class, its cells, and below them what unfolds."""
    more = table.unfolding
    kind, body = _cells(more.shown if more else table.shown, f"{escape(table.stem)}-title")
    if more is None:
        return kind, body
    inner = _cells(more.table, f"{escape(table.stem)}-more")[1]
    notes = [*more.notes, *table.commands]
    below = f"<ul>\n{_joined(f'<li>{_inline(note)}</li>' for note in notes)}\n</ul>" if notes else ""
    title = f'<summary id="{escape(table.stem)}-more">{_inline(more.title)}</summary>'
    return kind, f"{body}\n<details>\n{title}\n{inner}\n{below}\n</details>"


def _cells(shown: pd.DataFrame, title: str) -> tuple[str, str]:
    """Its class, and its cells in a box that scrolls where they are wider than the page; the first column names the rows.

    ``title`` is the id of the element that names the box.
    """
    columns = [(str(name), [str(cell).strip() for cell in cells]) for name, cells in shown.items()]
    kinds = [_kind(cells) for _, cells in columns]
    head = "".join(
        f'<th scope="col"{_class(kind)}>{_inline(name)}</th>' for (name, _), kind in zip(columns, kinds, strict=True)
    )
    by_column = [
        [_cell(cell, kind, name, "td" if i else 'th scope="row"') for cell in cells]
        for i, ((name, cells), kind) in enumerate(zip(columns, kinds, strict=True))
    ]
    rows = _joined(f"<tr>{''.join(row)}</tr>" for row in zip(*by_column, strict=True))
    # What a line of the table takes, so that letters on paper can be as small as it needs to fit.
    characters = sum(min(LONG, max(map(len, [name, *cells]))) + 3 for name, cells in columns)
    return (
        "table broad" if characters > BROAD else "table",
        '<p class="hint" hidden>Wider than the page: scroll sideways.</p>\n'
        f'<div class="scroll" role="region" aria-labelledby="{title}">\n'
        f'<table style="--characters: {characters}">\n'
        f"<thead>\n<tr>{head}</tr>\n</thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>",
    )


def _kind(cells: Sequence[str]) -> str:
    """``number`` for a column of nothing but numbers, ``long`` for one with prose, else empty."""
    filled = [cell for cell in cells if cell not in EMPTY]
    if filled and all(map(NUMBER.fullmatch, filled)):
        return "number"
    return "long" if any(len(cell) > LONG for cell in filled) else ""


def _cell(text: str, kind: str, column: str, tag: str) -> str:
    """One cell with what it is sorted by: the number it states; last where it is empty; else its text."""
    number = NUMBER.fullmatch(text)
    value = f' data-value="{number[1].replace("−", "-").replace(",", "")}"' if number else ""
    kinds = f"{kind} empty".strip() if text in EMPTY else kind
    shown = _inline(text.replace("± ", "±\N{NO-BREAK SPACE}"))
    if column.strip().lower() == "verdict" and text not in EMPTY:
        shown = f'<span class="verdict {VERDICTS.get(text.lower(), "other")}">{shown}</span>'
    return f"<{tag}{_class(kinds)}{value}>{shown}</{tag[:2]}>"


def _files(exhibit: Picture | Table) -> str:
    """Links to the files beside the page, and for a table to the CSV inside it, which travels with the page."""
    kinds = {"PDF": "pdf"} if isinstance(exhibit, Picture) else {"LaTeX": "tex"}
    if exhibit.data is not None:
        kinds["CSV"] = "csv"
    links = ", ".join(f'<a href="{quote(exhibit.stem)}.{end}">{kind}</a>' for kind, end in sorted(kinds.items()))
    inlined = f"{_inlined_csv(exhibit)} " if isinstance(exhibit, Table) else ""
    return f'<p class="files">{inlined}<span>Beside this page: {links}</span></p>'


def _inlined_csv(table: Table) -> str:
    text = table.data.to_csv(index=False, lineterminator="\n")
    return f'<a download="{escape(table.stem)}.csv" href="data:text/csv;charset=utf-8,{quote(text, safe=",")}">Download CSV</a>'


def _paragraphs(texts: Iterable[str]) -> str:
    return _joined(f"<p>{_inline(text)}</p>" for text in texts)


def _inline(text: str) -> str:
    """The text escaped, `backticked` parts as code, whose words the style sheet keeps whole."""
    return re.sub(r"`([^`]+)`", lambda code: f"<code>{_words(code[1])}</code>", escape(text))


def _words(code: str) -> str:
    return re.sub(r"(\S+)", r"<span>\1</span>", code)


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def _joined(parts: Iterable[str]) -> str:
    return "\n".join(parts)
