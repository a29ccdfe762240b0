"""What every command of the analyses does when it is interrupted or cannot write."""

import re
import sys

import pytest

from analysis import command, exhibits
from analysis.__main__ import COMMANDS, run, script
from analysis.__main__ import main as analyse
from analysis.figures import FIGURES
from fishernet.commands import typed_as

NO_SCORES = {"report": ["--no-scores"], "frechet": ["--images", "prior", "--features", "classifier"]}


def test_an_interrupt_is_one_line_and_exit_status_130(capsys):
    def interrupted():
        raise KeyboardInterrupt

    assert run(interrupted) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_interrupt_amid_the_imports_is_no_other(capsys, monkeypatch):
    class Slow:
        def find_spec(self, name, path, target=None):
            if name == "analysis.frame":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "analysis.frame")
    monkeypatch.setattr(sys, "meta_path", [Slow(), *sys.meta_path])
    assert run(lambda: None) == 130
    assert capsys.readouterr().err == "interrupted\n"


def full_disk(*_):
    raise OSError(28, "No space left on device")


WITH_NOTHING = "distributions"  # the sweep's decoders give images alone


@pytest.mark.parametrize("analysis", [*(name for name in FIGURES if name != WITH_NOTHING), "report"])
def test_a_full_disk_is_a_sentence(analysis, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exhibits, "write", full_disk)
    monkeypatch.setattr(command, "ensure", lambda stored, name, **arguments: [])
    arguments = ["--name", "trained", "--tracking-uri", trained.sweep.uri, "--out", str(tmp_path), "--paper=fishernet"]
    assert analyse([analysis, *arguments, *NO_SCORES.get(analysis, [])]) == 2
    said = capsys.readouterr().err
    assert said == f"error: --out {tmp_path} is where figures go, and writing there failed: No space left on device.\n"


def test_a_full_disk_is_a_sentence_of_a_search_too(searched, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(exhibits, "write", full_disk)
    assert analyse(["search", "--name", "found", "--tracking-uri", searched.uri, "--out", str(tmp_path)]) == 2
    assert "writing there failed: No space left on device." in capsys.readouterr().err


def test_each_command_has_its_former_names(capsys):
    """Scripts and installed programs of before: ``python analysis/cluster_table.py``, ``fishernet-mse-curves``."""
    formers = {"clusters": ["analysis/cluster_table.py", "fishernet-clusters"], "search": ["search.py"],
               "mse-curves": ["/x/analysis/mse_curves.py", "fishernet-mse-curves"], "report": ["fishernet-report"]}  # fmt: skip
    for name, paths in formers.items():
        for path in paths:
            with pytest.raises(SystemExit) as stop:
                script(path)(["--help"])
            assert stop.value.code == 0
            below = "" if name == "report" else "figures "
            assert capsys.readouterr().out.startswith(f"usage: {typed_as(below + name)} ")


def test_a_command_that_stands_alone_is_named_so_however_it_is_asked_for(capsys, monkeypatch):
    for argv in (["fishernet"], ["/x/analysis/script.py"], ["/x/bin/fishernet-report"]):
        monkeypatch.setattr(sys, "argv", argv)
        for name in ("explore", "report"):
            with pytest.raises(SystemExit):
                analyse([name, "--help"])
            said = capsys.readouterr().out
            assert said.startswith(f"usage: fishernet {name} ")
            assert f"\n  fishernet {name} --name mine" in said


def test_the_list_of_commands_says_a_whole_sentence_of_each_in_lines_that_fit(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    with pytest.raises(SystemExit):
        analyse([])
    listed = capsys.readouterr().out.partition("NAME is one of:\n")[2].partition("\n\n")[0]
    assert max(map(len, listed.splitlines())) <= 70
    sentences = re.sub(r"\s+", " ", listed)
    for name, row in COMMANDS.items():
        about = " ".join(row.about.split())
        assert f"{name} {about[: about.index('.') + 1]}" in sentences


def test_a_figure_of_which_the_sweep_has_nothing_says_so(trained, tmp_path, capsys):
    arguments = ["--name", "trained", "--tracking-uri", trained.sweep.uri, "--out", str(tmp_path)]
    assert analyse([WITH_NOTHING, *arguments]) == 0
    assert f"No run of sweep trained has what {WITH_NOTHING} shows." in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag", ["--noise-levels", "--mask-levels"])
@pytest.mark.parametrize("text", ["-0.1", "-0.1,0.2", "0.2,-.1"])
def test_a_level_below_0_is_refused_in_a_sentence_that_names_its_flag(flag, text, capsys):
    with pytest.raises(SystemExit) as ended:
        analyse(["robustness", "--name", "any", flag, text])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"{flag}: numbers" in said
    assert text in said


def test_without_a_name_the_commands_are_listed(capsys):
    with pytest.raises(SystemExit):
        analyse([])
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in (*COMMANDS, "papers"))


def test_papers_stand_side_by_side(capsys):
    assert analyse(["papers"]) == 0
    shown = capsys.readouterr().out
    for words in ("FisherNet paper", "Entropy 23:1640", "--preset fishernet", "380 runs", "FN12"):
        assert words in shown
