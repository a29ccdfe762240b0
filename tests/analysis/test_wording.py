"""What is said once for many."""

import pandas as pd

from analysis.exhibits import Absent, Table
from analysis.page import Section
from analysis.reporting import each_once, without_absent
from fishernet.wording import first_sentence, grouped, two_columns

ID = "0123456789abcdef" * 2


def test_what_shares_a_reason_is_one_line_by_name_up_to_three_and_then_by_number():
    runs = [f"VAE d={d} seed=0" for d in range(1, 31)]
    assert grouped((run, "the images have no labels") for run in runs) == [("30 runs", "the images have no labels")]
    assert grouped((run, "why") for run in runs[:3]) == [(", ".join(runs[:3]), "why")]
    assert grouped([("a", "one"), ("b", "two"), ("c", "one")]) == [("a, c", "one"), ("b", "two")]


def test_reasons_that_differ_in_what_they_name_alone_are_one_and_the_first_is_given():
    reasons = [(f"VAE d={d}", f"weights of VAE d={d} cannot be had") for d in range(5)]
    assert grouped(reasons) == [("5 runs", "weights of VAE d=0 cannot be had")]
    runs = ["VAE d=2 seed=0", "VAE d=2 seed=1"]
    files = [
        (runs[0], f"the traceback is in clusters-{ID}.txt"),
        (runs[1], f"the traceback is in clusters-{ID[::-1]}.txt"),
    ]
    assert grouped(files) == [(", ".join(runs), f"the traceback is in clusters-{ID}.txt (of {runs[0]})")]


def test_a_note_that_another_says_too_is_said_once():
    said = ["No labels.", "Clusters: not drawn. No labels.", "Few images.", "Few images.", "In its place."]
    assert each_once(said, ["In its place."]) == ["Clusters: not drawn. No labels.", "Few images."]


def test_what_a_page_without_a_paper_cannot_show_is_a_note_for_each_reason():
    table = Table("mse", "Error", "", pd.DataFrame(), pd.DataFrame())
    drawn = [
        Section("Latent space", "", [Absent("a", "Means", "No labels."), table, Absent("b", "Shoes", "No labels.")]),
        Section("Clusters", "", [Absent("c", "Trace", "No labels.")]),
        Section("Samples", "", [Absent("d", "FID", "Not computed.")]),
    ]
    kept, notes = without_absent(drawn)
    assert [(section.title, section.exhibits) for section in kept] == [("Latent space", [table])]
    assert notes == ["Means, Shoes, Trace: not drawn. No labels.", "FID: not drawn. Not computed."]


def test_a_first_sentence_is_whole_and_on_one_line():
    assert (
        first_sentence("At d = 2:\nmeans, ellipses (0.5 wide). Writes files.")
        == "At d = 2: means, ellipses (0.5 wide)."
    )
    assert first_sentence("  no end") == "no end"


def test_two_columns_fit_the_terminal_and_lose_no_word(monkeypatch):
    monkeypatch.setenv("COLUMNS", "66")
    rows = {"a": "word " * 40, "long-name": "--flag-one 1-2 --flag-two 3"}
    text = two_columns(rows)
    assert max(map(len, text.splitlines())) <= 64
    assert text.split() == ["a", *rows["a"].split(), "long-name", *rows["long-name"].split()]
    assert "--flag-one 1-2 --flag-two 3" in text
