"""What every command of the analyses does when it is interrupted or cannot write."""

import sys

import pytest

from analysis import (
    claims,
    cluster_table,
    command,
    exhibits,
    frechet,
    latent_space,
    loss_curves,
    mse_curves,
    report,
    samples,
    search,
)
from tests.analysis import test_search

searched = test_search.searched  # the fixture
COMMANDS = [claims, cluster_table, frechet, latent_space, loss_curves, mse_curves, samples]
NO_SCORES = {report: ["--no-scores"], frechet: ["--images", "prior", "--features", "classifier"]}


def test_an_interrupt_is_one_line_and_exit_status_130(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert command.run(interrupted) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interrupt_amid_the_imports_is_no_other(capsys, monkeypatch):
    class Slow:
        def find_spec(self, name, path, target=None):
            if name == "analysis.frame":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "analysis.frame")
    monkeypatch.setattr(sys, "meta_path", [Slow(), *sys.meta_path])
    assert command.run(lambda: None) == 130
    assert capsys.readouterr().err == "interrupted\n"


def full_disk(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("analysis", [*COMMANDS, report], ids=lambda module: module.__name__)
def test_a_full_disk_is_a_sentence(analysis, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exhibits, "write", full_disk)
    monkeypatch.setattr(frechet, "ensure", lambda stored, options: ("classifier", []))
    monkeypatch.setattr("analysis.scores.groups.ensure_clusters", lambda stored: [])
    arguments = ["--name", "trained", "--tracking-uri", trained.sweep.uri, "--out", str(tmp_path)]
    assert analysis.main([*arguments, *NO_SCORES.get(analysis, [])]) == 2
    said = capsys.readouterr().err
    assert said == f"error: --out {tmp_path} is where figures go, and writing there failed: No space left on device.\n"


def test_a_full_disk_is_a_sentence_of_a_search_too(searched, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exhibits, "write", full_disk)
    assert search.main(["--name", "found", "--tracking-uri", searched.uri, "--out", str(tmp_path)]) == 2
    assert "writing there failed: No space left on device." in capsys.readouterr().err
