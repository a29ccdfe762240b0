"""What a paper's folder brings to a page: numbers of figures, published numbers, claims; and what a page without one lacks."""

import gzip
import importlib
import inspect
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis import papers
from analysis import reporting as report
from analysis.exhibits import Absent, Picture, annotated
from analysis.figures import FIGURES, claims
from analysis.flags import PICTURES
from analysis.frame import find_sweep
from analysis.papers import PAPERS, PRESETS, Paper, published
from analysis.papers.fishernet import PAPER
from analysis.scores import SCORES
from analysis.stored import StoredSweep
from analysis.verdicts import CONFIRMED, CONTRADICTED, Evidence
from fishernet.families import FAMILIES, trial_config
from sweeps.planning import model_overrides

SCORED = ("test/kl", "test/loss", "test/fisher_information", "test/posterior_entropy", "nll", "train_seconds")
HISTORY = ["run_id", "epoch", "metric", "value"]
BEFORE = Path(__file__).parents[1] / "fixtures" / "before"


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A sweep that an earlier version recorded, moved here from /results."""
    folder = tmp_path_factory.mktemp("before")
    shutil.copytree(BEFORE / "artifacts", folder / "artifacts")
    with gzip.open(BEFORE / "mlflow.db.gz") as packed, (folder / "mlflow.db").open("wb") as file:
        shutil.copyfileobj(packed, file)
    return find_sweep(None, f"sqlite:///{(folder / 'mlflow.db').as_posix()}")


def stems(sections):
    return [exhibit.stem for section in sections for exhibit in section.exhibits]


def test_a_sweep_of_an_earlier_version_opens_and_reports_what_it_reported_then(before):
    """Means, verdicts and ellipses are compared with what that version wrote of the same store."""
    stored = StoredSweep(before, paper="fishernet")
    assert len(stored.runs) == len(before.configs) == 5
    made = {exhibit.stem: exhibit for section in report.sections(stored) for exhibit in section.exhibits}
    kept = {path.stem: path for path in (BEFORE / "report").glob("*.csv")}
    assert set(kept) == {"claims", "mse_by_epoch", "mse_curves", "loss_and_mse", "loss_by_epoch",
                         "uncertainty_of_one_image"}  # fmt: skip
    for stem, path in kept.items():
        then = pd.read_csv(path)
        now = made[stem].data.reset_index(drop=True)
        assert list(now) == list(then)
        for name in then:
            column = now[name].replace("", float("nan"))
            if pd.api.types.is_numeric_dtype(then[name]):
                assert pd.to_numeric(column).tolist() == pytest.approx(then[name].tolist(), rel=1e-4, nan_ok=True), name
            else:
                assert column.astype(object).equals(then[name].astype(object)), name
    # One run's files are not among those that are kept: what needs them says so.
    assert {stem for stem, exhibit in made.items() if isinstance(exhibit, Absent)} == {
        "latent_means", "ellipse_sizes", "density_samples", "frechet_inception", "frechet_classifier", "prior_samples_d02",
        "prior_samples_d15", "density_samples_images_d05", "reconstructions", "cluster_trace", "fisher_shannon_plane", "nll",
    }  # fmt: skip
    assert "cannot be had from MLflow" in made["latent_means"].why


def test_a_page_about_no_paper_has_no_claims_no_numbers_of_figures_and_no_published_numbers(before, capsys):
    stored = StoredSweep(before)  # of digits, which no paper here is about
    assert stored.paper is None
    sections = report.sections(stored)
    assert "claims" not in stems(sections)
    for exhibit in (exhibit for section in sections for exhibit in section.exhibits):
        assert not re.match(r"(Figure|Table) \w+\.", exhibit.title), exhibit.title
        text = exhibit.why if isinstance(exhibit, Absent) else exhibit.caption
        assert "The paper's" not in text, exhibit.stem
    assert "paper" not in " ".join(report.introduction(stored))


def test_the_paper_of_a_sweep_is_that_of_its_tag_or_of_its_images_and_model():
    assert papers.of_sweep("", "fashion-mnist", {"FisherNet", "VAE"}) is PAPER
    assert papers.of_sweep("", "fashion-mnist", {"VAE", "CVAE"}) is None  # none of the paper's own model
    assert papers.of_sweep("", "digits", {"FisherNet"}) is None
    assert papers.of_sweep("fishernet", "digits", {"VAE"}) is PAPER
    assert papers.of_sweep("", "mnist", {"AE", "VAE"}) is None  # what the VPAE paper is about, any sweep may train
    assert papers.of_sweep("vpae", "mnist", {"AE"}) is PAPERS["vpae"]
    assert papers.of_sweep("of another version", "digits", {"VAE"}) is None


def test_a_preset_of_a_paper_is_known_by_its_key_and_paper_is_the_first_ones():
    assert papers.of_preset("fishernet") == papers.of_preset("paper") == "fishernet"
    assert papers.of_preset("quick") == papers.of_preset(None) == ""
    assert set(PRESETS) == {
        "paper",
        "quick",
        "own-images",
        *(name for paper in PAPERS.values() for name in paper.all_presets),
    }
    for key, paper in PAPERS.items():
        assert {papers.of_preset(name) for name in paper.all_presets} == {key}


@pytest.mark.parametrize("paper", PAPERS.values(), ids=PAPERS)
def test_a_papers_row_names_families_files_and_claims_that_there_are(paper):
    assert paper.key in PAPERS
    assert set(paper.models) <= set(FAMILIES)
    for preset in paper.all_presets.values():
        fields = {name: value for name, value in preset.items() if name not in ("models", "latent_dims", "seeds")}
        for line in preset["models"]:
            trial_config({**fields, **model_overrides(line)})
    for table in published.tables(paper, paper.dataset).values():
        assert {"variant", "value"} <= set(table)
        assert table["value"].notna().all()
    assert published.tables(paper, "images of one's own") == {}


def test_rows_name_modules_that_take_their_flags_and_what_papers_say():
    """A flag, a paper's argument or published numbers that a figure or score does not take would be an error when it is drawn."""
    for name, row in {**FIGURES, **SCORES}.items():
        module = importlib.import_module(row.module)
        takes = set(inspect.signature(module.parts if name in FIGURES else module.tasks).parameters)
        given = {flag.keyword for flag in row.flags} - {flag.keyword for flag in PICTURES}
        for paper in PAPERS.values():
            given |= set(papers.arguments(paper, name))
        assert given | ({"published"} if getattr(row, "published", False) else set()) <= takes, name
    assert not set(FIGURES) & set(SCORES)  # a paper gives arguments to either by its name
    for paper in PAPERS.values():
        assert set(paper.arguments) <= {*FIGURES, *SCORES}


def test_a_table_of_two_data_sets_gives_the_rows_of_the_one_that_was_swept(tmp_path, monkeypatch):
    (tmp_path / "both.csv").write_text("variant,dataset,value\nX,mnist,1\nX,fashion-mnist,2\n")
    monkeypatch.setattr(published.resources, "files", lambda package: tmp_path)
    paper = Paper("x", "X paper", "", "mnist", ("VAE",), {}, tables={"mse": "both.csv"})
    assert published.tables(paper, "fashion-mnist")["mse"]["value"].tolist() == [2]
    assert published.tables(paper, "digits") == {}


def test_an_exhibit_gets_its_number_and_last_sentence_and_what_is_absent_its_number():
    absent = annotated(Absent("a", "Means", "No run."), "Figure 4", "The paper's shows it.")
    assert (absent.title, absent.why) == ("Figure 4. Means", "No run.")
    picture = annotated(Picture("a", "Means", "All means.", None), "", "The paper's shows it.")
    assert (picture.title, picture.caption) == ("Means", "All means. The paper's shows it.")


@pytest.mark.parametrize("paper", PAPERS.values(), ids=PAPERS)
@pytest.mark.parametrize(("model", "d", "scored"), [("VAE", 2, True), ("FisherNet", 40, True), ("AE", 2, False)])
def test_the_claims_of_every_paper_say_something_of_any_sweep(paper, model, d, scored):
    numbers = {"test/mse": 0.02} | (dict.fromkeys(SCORED, 1.0) if scored else {})
    configs = [trial_config(model=model, latent_dim=d, seed=seed, dataset="digits") for seed in range(3)]
    runs = [
        c.to_dict() | {"run_id": str(c.seed), "variant": c.variant, "config": c, "choices": c.choices} | numbers
        for c in configs
    ]
    evidence = Evidence(pd.DataFrame(runs), pd.DataFrame(columns=HISTORY), scope=claims.scope_of(paper))
    shown = claims.table(paper, evidence, lambda variants, dims: "train them.").shown
    assert shown["claim"].tolist() == [claim.id for claim in claims.claims_of(paper).CLAIMS]
    assert not shown["verdict"].isin([CONFIRMED, CONTRADICTED]).any()
