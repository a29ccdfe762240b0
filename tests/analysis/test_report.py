"""One command from a sweep to the page, its files and its artifacts; the second time nothing is computed."""

import re
from pathlib import Path

import pytest

from analysis import report
from analysis.scores import tasks


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    """The folder of a report on the sweep ``trained``, its scores computed by Ray tasks."""
    folder = tmp_path_factory.mktemp("report")
    assert report.main(arguments(trained, folder)) == 0
    return folder


def arguments(trained, folder: Path) -> list[str]:
    return [
        "--name", "trained", "--tracking-uri", trained.sweep.uri, "--out", str(folder), "--cache", str(folder / "cache"),
        "--features", "classifier", "--images", "reconstruction",
    ]  # fmt: skip


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
    assert report.main(arguments(trained, tmp_path)) == 0
    assert (tmp_path / report.PAGE).read_text() == (made / report.PAGE).read_text()


def test_a_sweep_that_is_not_there_is_a_sentence_that_lists_those_that_are(trained, tmp_path, capsys):
    assert report.main(["--name", "trainde", "--tracking-uri", trained.sweep.uri, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "There is no sweep named trainde" in said
    assert "Did you mean trained?" in said
    assert not (tmp_path / "out").exists()


def test_dimensions_without_runs_are_a_note_on_the_page_and_an_error_of_the_table(trained, tmp_path, capsys):
    from analysis import frechet

    uri = ["--name", "trained", "--tracking-uri", trained.sweep.uri, "--out", str(tmp_path)]
    assert frechet.main([*uri, "--latent-dims", "2,9"]) == 2
    assert "--latent-dims asks for d = 9" in capsys.readouterr().err
