"""The page says everything once, lets nothing in or out, and sorts, scrolls and prints in a real browser."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analysis import page
from analysis.exhibits import Absent, Exhibit, Picture, Table, Unfolding, write
from tests.analysis.browser import Browser

HOSTILE = "<script>window.ran = 1</script> <img src=x onerror='window.ran = 1'> \"&amp;\" --> `</code><b>`"
LONG_NAME = "a-sweep-of-many-words-" * 5 + "x" * 80
VOID = {"meta", "link", "img"}


class Document(HTMLParser):
    """The page's elements in order, each with tag, attributes, text (of its descendants too) and whether it was closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[dict[str, Any]] = []
        self.open: list[dict[str, Any]] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append({"tag": tag, "text": "", **{name: value or "" for name, value in attrs}})
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def all(self, *tags: str, **attributes: str) -> list[dict[str, Any]]:
        return [e for e in self.elements if e["tag"] in tags and attributes.items() <= e.items()]


def picture(stem: str, title: str, caption: str, data: pd.DataFrame | None = None) -> Picture:
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([1, 3, 2])
    return Picture(stem, title, caption, figure, data)


def table(stem: str = "scores", title: str = "Scores", caption: str = "", **shown: list[str]) -> Table:
    data = pd.DataFrame({"model": ["VAE, learned", 'a "b"', "100%"], "value": [0.1, 1 / 3, float("nan")]})
    return Table(stem, title, caption, data, pd.DataFrame(shown or {"model": ["VAE"], "value": ["0.1"]}))


SCORES = {
    "model": ["VAE", "FisherNet", "CVAE", "AE", "PCA"],
    "value": ["12.3 ± 0.4", "", "9.1", "−0.2 ± 10.0", "100"],
    "note": ["run 10", "run 9", "—", "run 100", "run 9"],
}
WIDE = {"model": ["FisherNet, closed-form noise", "VAE"]} | {
    f"d = {d}": ["0.01234 ± 0.00056"] * 2 for d in range(2, 21)
}
CLAIMS = {
    "claim": ["FN1", "FN2", "FN3", "FN4", "FN5", "FN6"],
    "what the paper says": ["FisherNet with d = 2 has a lower MSE than VAE and CVAE after 12 epochs."] * 6,
    "Verdict": ["confirmed", "contradicted", "undecided", "too short", "not asked of these data", "flat because poor"],
}


def unfolding() -> Unfolding:
    numbers = pd.DataFrame({"claim": ["FN1", "FN2"], HOSTILE: ["0.1 [0.0, 0.2]", HOSTILE], "seeds": [3, 2]})
    return Unfolding(
        pd.DataFrame(CLAIMS), "The numbers", numbers, [HOSTILE, "FN2: `python x.py` trains what is missing."]
    )


def exhibits() -> list[Exhibit]:
    return [
        picture("curves", "Figure 2. MSE", "Test MSE. Lower is better.", pd.DataFrame({"d": [2]})),
        table("scores", "Table 1. Scores", "See `python x.py --name a`.", **SCORES),
        table("wide", "Every dimension", "All.", **WIDE),
        replace(table("claims", "Claims", "All.", **CLAIMS), unfolding=unfolding()),
        Absent("fid", "Table 3. FID", "No run has it; `python analysis/frechet.py` computes it."),
        picture("strips", "Figure 7. Images", "One seed."),
        table("hostile", f"T {HOSTILE}", f"C {HOSTILE}", **{f"H {HOSTILE}": [f"D {HOSTILE}"], LONG_NAME: [LONG_NAME]}),
        picture("hostile-picture", f"P {HOSTILE}", HOSTILE),
        Absent("hostile-absent", f"A {HOSTILE}", f"{HOSTILE} {LONG_NAME} `{LONG_NAME}`"),
    ]


def rendered() -> str:
    shown = exhibits()
    return page.render(
        f"{LONG_NAME} {HOSTILE}",
        ["An introduction.", HOSTILE],
        {"sweep": LONG_NAME, f"N {HOSTILE}": f"V {HOSTILE}", "commands": f"`python a.py --name {LONG_NAME}`\n`b`"},
        [
            page.Section("Reconstruction", "One paragraph.\n\nAnother.", shown[:4]),
            page.Section(f"S {HOSTILE}", HOSTILE, shown[4:]),
        ],
        [HOSTILE, LONG_NAME],
    )


@pytest.fixture(scope="module")
def html() -> str:
    return rendered()


@pytest.fixture(scope="module")
def document(html: str) -> Document:
    return Document(html)


def test_equal_arguments_make_equal_pages(html):
    assert rendered() == html


def test_the_page_refers_to_itself_to_data_and_to_files_beside_it(document):
    ids = [e["id"] for e in document.elements if "id" in e]
    assert len(ids) == len(set(ids))
    for element in document.elements:
        assert not {"srcset", "action", "poster", "background"} & element.keys()
        for address in (element[name] for name in ("src", "href") if name in element):
            if address.startswith("#"):
                assert unquote(address[1:]) in ids
            else:
                assert re.match(r"data:(image/png|text/csv)?[;,]|[\w-]+\.(csv|tex|pdf)$", address), address[:80]
    (css,) = document.all("style")
    assert not re.search(r"url\(|@import|https?:", css["text"])


def test_only_the_page_s_own_script_may_run_and_nothing_may_be_loaded(document):
    (policy,) = [e["content"] for e in document.all("meta") if e.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    (script,) = document.all("script")
    digest = base64.b64encode(hashlib.sha256(script["text"].encode()).digest()).decode()
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert rules["img-src"] == "data:"
    assert "connect-src" not in rules


def test_hostile_text_is_shown_and_is_no_markup(document):
    plain = HOSTILE.replace("`", "")
    shown = {
        "title": "", "h1": "", "p": "", "li": "", "dt": "N ", "dd": "V ", "h2": "S ", "h3": "T ", "figcaption": "C ", "th": "H ",
    }  # fmt: skip
    for tag, before in shown.items():
        expected = HOSTILE if tag == "title" else before + plain
        assert any(expected in e["text"] for e in document.all(tag)), tag
    assert document.all("img", alt=f"P {HOSTILE}. {HOSTILE}")
    assert not document.all("b")
    assert not [name for e in document.elements for name in e if name.startswith("on")]


def test_every_exhibit_is_there_once_under_its_title_and_in_the_contents(document):
    for exhibit in exhibits():
        title = exhibit.title.replace("`", "")
        assert len(document.all("figure", id=exhibit.stem)) == 1
        assert [e["text"] for e in document.all("h3", id=f"{exhibit.stem}-title")] == [title]
        assert [e["text"] for e in document.all("a", href=f"#{exhibit.stem}")] == [title]
    assert len(document.all("figure")) == len(exhibits())


def test_headings_descend_one_level_at_a_time(document):
    levels = [int(e["tag"][1]) for e in document.all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert document.all("html", lang="en")


def test_an_absent_exhibit_says_why_with_its_command_as_code(document):
    (absent,) = document.all("figure", id="fid")
    assert "No run has it; python analysis/frechet.py computes it." in absent["text"]
    assert document.all("code", text="python analysis/frechet.py")
    assert "absent" in absent["class"]


def test_a_picture_keeps_its_place_and_has_two_pixels_for_each_of_the_page(document):
    image = document.all("img")[0]
    assert image["alt"] == "Figure 2. MSE. Test MSE."
    png = Image.open(BytesIO(base64.b64decode(image["src"].partition(",")[2])))
    assert (int(image["width"]), int(image["height"])) == (330, 220)  # 3 x 2 inches at 110 pixels
    assert png.size == (660, 440)


def test_links_lead_to_the_files_that_write_makes_and_the_inlined_csv_is_one_of_them(tmp_path):
    shown = exhibits()[:4]
    document = Document(page.render("T", [], {}, [page.Section("S", "", shown)], []))
    linked = {e["href"] for e in document.all("a") if e["href"][0] != "#" and "download" not in e}
    written = {path for exhibit in shown for path in write(exhibit, tmp_path)}
    assert linked == {path.name for path in written if path.suffix != ".png"}
    downloads = document.all("a", text="Download CSV")
    assert [e["download"] for e in downloads] == ["scores.csv", "wide.csv", "claims.csv"]
    for link in downloads:
        assert unquote(link["href"].partition(",")[2]) == (tmp_path / link["download"]).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12.3 ± 0.4", "12.3"),
        ("12.3 ± 0.4 (3)", "12.3"),
        ("−0.2", "-0.2"),
        ("-0.2 ± 0.1", "-0.2"),
        ("+.5", "+.5"),
        ("1,510,547", "1510547"),
        ("1.2e-05", "1.2e-05"),
        ("1.2e−05", "1.2e-05"),
        ("87 %", "87"),
        ("2.3 s", "2.3"),
        ("3 of 5", None),
        ("2021-03-04", None),
        ("FN1", None),
        ("", None),
        ("—", None),
    ],
)
def test_a_cell_is_sorted_by_the_number_it_states(text, value):
    section = page.Section("S", "", [table(a=["x"], b=[text])])
    (cell,) = Document(page.render("T", [], {}, [section], [])).all("td")
    assert cell.get("data-value") == value
    assert ("number" in cell.get("class", "").split()) is (value is not None)
    assert ("empty" in cell.get("class", "").split()) is (text in ("", "—"))


def test_a_verdict_is_a_pill_of_its_kind_and_only_in_the_column_of_that_name(document):
    pills = [(e["text"], e["class"]) for e in document.all("span") if e.get("class", "").startswith("verdict")]
    kinds = ["yes", "no", "open", "open", "other", "poor"]
    assert pills == [(text, f"verdict {kind}") for text, kind in zip(CLAIMS["Verdict"], kinds, strict=True)]


def test_what_is_not_given_leaves_no_empty_heading():
    document = Document(page.render("T", [], {}, [], []))
    assert [e["tag"] for e in document.all("h1", "h2", "h3", "nav", "ul", "dl")] == ["h1"]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(scheme):
    """(L1 + 0.05) / (L2 + 0.05) >= 4.5 for relative luminances L (WCAG 2.1, 1.4.3)."""
    css = resources.files("analysis").joinpath("page.css").read_text("utf-8")
    colours = dict(re.findall(r"--([\w-]+): #([0-9a-f]{6});", css.split(":root {")[1 + scheme]))

    def luminance(name: str) -> float:
        parts = [int(colours[name][i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    pairs = [(text, back) for text in ("ink", "soft", "link") for back in ("paper", "panel")]
    for text, back in [*pairs, *((name, f"{name}-back") for name in ("yes", "no", "open", "poor"))]:
        dark, light = sorted([luminance(text), luminance(back)])
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, back)


@pytest.fixture(scope="module")
def file(html, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


def column(browser: Browser, n: int) -> list[str]:
    return browser.js(f"[...document.querySelectorAll('#scores tbody tr')].map(row => row.cells[{n}].textContent)")


def click(browser: Browser, n: int) -> str:
    """Click the nth column's name; the order it then states."""
    return browser.js(
        f"(head => {{ head.querySelector('button').click(); return head.getAttribute('aria-sort') }})"
        f"(document.querySelectorAll('#scores thead th')[{n}])"
    )


def test_it_opens_from_a_folder_without_a_complaint_or_a_request(browser, file):
    browser.open(file)
    assert browser.of("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded") == []
    asked = [event["request"]["url"] for event in browser.of("Network.requestWillBeSent")]
    assert asked[0] == file.as_uri()
    assert all(url.startswith("data:image/png") for url in asked[1:])
    assert browser.js("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_numbers_unfold_below_their_table_and_are_open_on_paper(browser, file):
    browser.open(file)
    inner = "document.querySelector('#claims details table')"
    assert browser.js(f"{inner}.checkVisibility()") is False
    assert browser.js("document.querySelector('#claims > .scroll table').tBodies[0].rows.length") == 6
    browser.js("document.querySelector('#claims summary').click()")
    assert browser.js(f"{inner}.checkVisibility()") is True
    assert browser.js(f"[...{inner}.tBodies[0].rows].map(row => row.cells[0].textContent)") == ["FN1", "FN2"]
    assert browser.js("document.querySelector('#claims details li:last-child code').textContent") == "python x.py"
    browser.js("document.querySelector('#claims summary').click()")
    browser.js("dispatchEvent(new Event('beforeprint'))")
    assert browser.js(f"{inner}.checkVisibility()") is True


def test_what_is_smuggled_in_neither_runs_nor_asks_the_network(browser, file):
    browser.open(file)
    browser.js("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    assert browser.js("typeof window.ran") == "undefined"
    refused = browser.js(
        "new Promise(done => { addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));"
        " fetch('http://127.0.0.1:9/').catch(() => setTimeout(() => done('asked'), 1000)) })"
    )
    assert refused == "connect-src"


def test_a_click_sorts_numbers_by_value_with_empty_cells_last_and_a_third_restores(browser, file):
    browser.open(file)
    assert click(browser, 1) == "ascending"
    assert column(browser, 0) == ["AE", "CVAE", "VAE", "PCA", "FisherNet"]
    assert click(browser, 1) == "descending"
    assert column(browser, 0) == ["PCA", "VAE", "CVAE", "AE", "FisherNet"]
    assert click(browser, 1) == "none"
    assert column(browser, 0) == SCORES["model"]


def test_words_sort_with_numbers_in_them_by_value_and_equals_keep_their_order(browser, file):
    browser.open(file)
    click(browser, 1)
    assert click(browser, 2) == "ascending"
    assert column(browser, 0) == ["FisherNet", "PCA", "VAE", "AE", "CVAE"]
    states = browser.js("[...document.querySelectorAll('#scores th[aria-sort]')].map(h => h.ariaSort)")
    assert states == ["none", "none", "ascending"]


@pytest.mark.parametrize(("key", "text"), [("Enter", "\r"), (" ", " ")])
def test_the_keyboard_sorts_too(browser, file, key, text):
    browser.open(file)
    browser.js("document.querySelectorAll('#scores th button')[0].focus()")
    browser.press(key, text)
    assert column(browser, 0) == sorted(SCORES["model"])


def test_on_a_phone_the_page_does_not_scroll_sideways_and_wide_tables_do_with_a_hint(browser, file):
    browser.open(file, width=360)
    assert browser.js("innerWidth") == 360
    assert browser.js("document.documentElement.scrollWidth") == 360
    boxes = browser.js(
        "Object.fromEntries([...document.querySelectorAll('figure > .scroll')].map(box => [box.closest('figure').id,"
        " [box.scrollWidth > box.clientWidth, box.previousElementSibling.checkVisibility(), box.tabIndex]]))"
    )
    assert boxes["wide"] == boxes["claims"] == boxes["hostile"] == [True, True, 0]
    assert boxes["scores"] == [False, False, -1]
    assert browser.js("[...document.images].every(image => image.getBoundingClientRect().right <= 360)")


def test_on_paper_every_table_is_as_wide_as_its_sheet_or_less_and_the_contents_are_gone(browser, file):
    browser.open(file, width=688)  # 182 mm
    browser.call("Emulation.setEmulatedMedia", media="print")
    wide = browser.js(
        "[...document.querySelectorAll('table')].filter(table => table.getBoundingClientRect().width >"
        " (table.closest('.broad') ? 1017 : 688)).map(table => table.closest('figure').id)"
    )
    hidden = browser.js("['nav', '.hint', 'a[download]'].every(one => !document.querySelector(one).checkVisibility())")
    name = browser.js("getComputedStyle(document.querySelector('a[href=\"scores.csv\"]'), '::after').content")
    browser.call("Emulation.setEmulatedMedia", media="")
    assert wide == []
    assert hidden
    assert "scores.csv" in name
