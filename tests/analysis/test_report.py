"""One command from a sweep to the page, its files and its artifacts; the second time nothing is computed."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from analysis import exhibits
from analysis import reporting as report
from analysis.__main__ import main as analyse
from analysis.figures import claims, frechet, latent_space, mse_curves, samples
from analysis.figures import clusters as cluster_table
from analysis.scores import clusters, tasks
from tests.analysis.conftest import report_arguments


@pytest.fixture
def made(reported):
    return reported


def test_the_page_shows_every_figure_and_table_there_can_be(made):
    page = (made / report.PAGE).read_text()
    titles = set(re.findall(r'<h3 id="[^"]*">(.*?)</h3>', page))
    for start in [*(f"Figure {n}." for n in range(1, 11)), "Figure A1.", "Table 1.", "Table A2.", "Claims"]:
        assert any(title.startswith(start) for title in titles), start
    for stem in ("claims", "mse", "frechet_classifier", "image_scores_classifier", "cluster_trace"):
        for suffix in (".csv", ".tex"):
            assert (made / f"{stem}{suffix}").stat().st_size, stem
    for stem in ("mse_curves", "loss_and_mse", "latent_means", "cluster_overlap", "prior_samples_d02"):
        for suffix in (".png", ".pdf"):
            assert (made / f"{stem}{suffix}").stat().st_size, stem


def test_the_page_and_its_files_are_artifacts_of_the_sweeps_run(made, trained):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=trained.sweep.uri)
    names = {Path(file.path).name for file in client.list_artifacts(trained.sweep.parent_run_id, report.ARTIFACTS)}
    assert names == {path.name for path in made.iterdir() if path.is_file()}


def test_a_second_report_computes_nothing_and_is_the_same(made, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "_start_ray", lambda gpus: pytest.fail("Ray was started"))
    assert analyse(report_arguments(trained, tmp_path)) == 0
    assert (tmp_path / report.PAGE).read_text() == (made / report.PAGE).read_text()


def broken(*given, **named):
    raise ZeroDivisionError("division by zero")


def test_parts_that_fail_leave_the_page_and_all_other_parts(made, trained, tmp_path, monkeypatch, capsys):
    """In every place at once: a score group, a claim, a table, figures of each module, the page's own facts, and a file."""
    write = exhibits.write
    monkeypatch.setattr(
        exhibits,
        "write",
        lambda exhibit, folder: broken() if exhibit.stem == "loss_by_epoch" else write(exhibit, folder),
    )
    places = {
        "uncertainty_of_classes": (latent_space, "uncertainty_of_classes"), "prior_samples_d02": (samples, "mosaic"),
        "mse_curves": (mse_curves, "plot_mse_against_latents"), "claims": (claims, "parts"),
        "image_scores_classifier": (frechet, "other_scores_table"), "cluster_overlap": (cluster_table, "overlap_picture"),
        "facts": (report, "facts"), "k-means": (clusters, "tasks"),
    }  # fmt: skip
    for module, name in places.values():
        monkeypatch.setattr(module, name, broken)
    assert analyse(report_arguments(trained, tmp_path)) == 1
    titles = [re.findall(r'<h3 id="([^"]*)-title">', (folder / report.PAGE).read_text()) for folder in (made, tmp_path)]
    assert titles[0] == titles[1]
    page = (tmp_path / report.PAGE).read_text()
    for stem in (*places, "loss_by_epoch"):
        assert f"the traceback is in {tmp_path / f'traceback-{stem}.txt'}" in page, stem
        assert "ZeroDivisionError" in (tmp_path / f"traceback-{stem}.txt").read_text()
    there, before = ({p.name for p in folder.glob("*.png")} for folder in (tmp_path, made))
    assert {"latent_means.png", "uncertainty_of_one_image.png", "loss_and_mse.png", "mse_by_epoch.png"} < there < before
    assert (tmp_path / "frechet_classifier.csv").exists()


def test_fewer_test_images_than_neighbours_are_said_in_place_of_table_1(trained):
    from analysis.stored import StoredSweep

    few = StoredSweep(trained.sweep)
    few.__dict__["images"] = replace(trained.images, test=trained.images.test[:5])
    said = report.compute(few, {"distances": {"features": "inception", "gpus": 0}})
    sentence = "they need 6 test images or more; trained has 5."
    assert said["distances"][0].endswith(sentence)
    assert few.failures.n == 0  # it is foreseen
    table, *_ = few.failures.exhibits("x", "X", lambda: frechet.parts(few, "inception"))
    assert table.why.endswith(sentence)


def test_a_sweep_that_is_not_there_is_a_sentence_that_lists_those_that_are(trained, tmp_path, capsys):
    assert (
        analyse(["report", "--name", "trainde", "--tracking-uri", trained.sweep.uri, "--out", str(tmp_path / "out")])
        == 2
    )
    said = capsys.readouterr().err
    assert "There is no sweep named trainde" in said
    assert "Did you mean trained?" in said
    assert not (tmp_path / "out").exists()


def test_dimensions_without_runs_are_a_note_on_the_page_and_an_error_of_the_table(trained, tmp_path, capsys):

    uri = ["--name", "trained", "--tracking-uri", trained.sweep.uri, "--out", str(tmp_path)]
    assert analyse(["frechet", *uri, "--latent-dims", "2,9"]) == 2
    assert "--latent-dims asks for d = 9" in capsys.readouterr().err
