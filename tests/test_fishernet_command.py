"""The command ``fishernet``: its commands, what a misspelt word is answered with, and what --help shows."""

import subprocess
import sys
from pathlib import Path

import pytest

from analysis.__main__ import COMMANDS as ANALYSES
from analysis.figures import FIGURES
from fishernet import __main__ as fishernet
from fishernet.families import FAMILIES, trial_config
from fishernet.spelling import did_you_mean
from sweeps import hyperparameter_search, latent_sweep
from sweeps.planning import plan_from_flags

ROOT = Path(__file__).resolve().parents[1]


def said(capsys, words):
    """Exit status, output and errors of ``fishernet WORDS``."""
    try:
        status = fishernet.main(words.split())
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("sweep --epoch 3", "--epochs"),
        ("sweep --epoch=3", "--epochs"),
        ("sweep --latent 3", "--latent-dims"),
        ("sweep --val 3", "--validation-size"),
        ("sweep --preset quik", "quick"),
        ("sweep --models fishernett", "FisherNet"),
        ("sweep --models VAE:likelihood=gausian", "gaussian"),
        ("sweep --likelihood gausian", "gaussian"),
        ("sweep --dataset fashion_mnist", "fashion-mnist"),
        ("sweep --models VAE:likelihod=gaussian", "likelihood"),
        ("search --trails 3", "--trials"),
        ("search --fix hiden_width=9", "hidden_width"),
        ("search --sampler cma", "cma-es"),
        ("report --nme x", "--name"),
        ("report --paper fishernat", "fishernet"),
        ("figures mse", "mse-curves"),
        ("figures frechet --feature x", "--features"),
        ("figures frechet --images recon", "reconstruction"),
        ("mse-curves --name x", "figures mse-curves"),
        ("import --nme x", "--name"),
        ("train --pln x", "--plan"),
        ("swep", "sweep"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_nearest(words, meant, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, error = said(capsys, words)
    assert status == 2
    assert error.strip().endswith(f". Did you mean {meant}?"), error
    assert len(error.splitlines()) < 12  # the usage of a hundred flags would hide the sentence
    assert not list(tmp_path.iterdir())


def test_a_word_like_none_is_answered_with_nothing():
    assert did_you_mean("zzz", ["vae", "ae"]) == did_you_mean("--", ["--epochs"]) == did_you_mean("", ["vae"]) == ""


@pytest.mark.parametrize("make", [latent_sweep.make_parser, hyperparameter_search.make_parser])
def test_help_shows_the_usual_flags_and_help_all_every_flag(make, capsys):
    shown = {}
    for word in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as end:
            make().parse_args([word])
        assert end.value.code == 0
        shown[word] = capsys.readouterr().out
    parser = make()
    flags = {a.option_strings[0] for a in parser._actions if a.dest != "version"}
    named = {text: {flag for flag in flags if f"  {flag}" in shown[text]} for text in shown}
    assert named["--help-all"] >= flags - {"-h"}
    assert named["--help"] - {"-h"} == parser.usual - {"-h"}
    assert len(named["--help"]) < 20
    assert parser.format_help() == shown["--help"]  # asking once hides and shows nothing for good


def test_flags_that_a_page_recommends_are_shown_by_its_commands_help(capsys):
    shown = said(capsys, "report --help")[1]
    assert all(f"  {flag}" in shown for flag in ("--draws", "--no-scores", "--paper"))
    assert "--nll-images" not in shown


def test_every_usual_flag_is_one_of_the_flags():
    for make in (latent_sweep.make_parser, hyperparameter_search.make_parser):
        parser = make()
        assert parser.usual <= {name for action in parser._actions for name in action.option_strings}


@pytest.mark.parametrize("word", ["vae", "VAE", "fishernet:objective=eq24", "fisherNET"])
def test_a_model_may_be_written_in_any_case(word):
    (config,) = plan_from_flags(latent_sweep._parse(["--models", word, "--latent-dims=2", "--seeds=1"])).configs
    assert config.model.casefold() == word.partition(":")[0].casefold()
    assert config.model in FAMILIES
    assert trial_config(model=word.partition(":")[0]).model == config.model
    assert len({name.casefold() for name in FAMILIES}) == len(FAMILIES)


def test_every_analysis_is_a_command_below_figures_and_what_is_no_figure_by_its_own_name(capsys):
    for name in ANALYSES:
        status, help_of_figure, _ = said(capsys, f"figures {name} --help")
        assert status == 0
        assert "--tracking-uri" in help_of_figure
    own = fishernet.analyses()
    assert {"report", "explore"} <= {*own}
    assert {*own} == {*ANALYSES, "papers"} - {name for name, row in FIGURES.items() if not row.alone} - {"search"}
    for name in own:
        assert said(capsys, f"{name} --help" if name != "papers" else name)[0] == 0
    listed = said(capsys, "--help")[1]
    assert all(f"\n  {name} " in listed for name in (*fishernet.COMMANDS, *own, "figures"))


def test_the_help_of_fishernet_and_of_a_sweep_imports_nothing_slow():
    slow = "torch numpy ray mlflow optuna pandas matplotlib scipy"
    for words in ([], ["sweep"], ["list"], ["delete"], ["report"]):
        program = f"import sys\nfor n in {slow.split()}: sys.modules[n] = None\n"
        program += f"from fishernet.__main__ import main\nmain([*{words}, '--help'])"
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("usage: ")


@pytest.mark.parametrize("start", [["-m", "fishernet"], [str(ROOT / "fishernet" / "__main__.py")]])
def test_a_command_says_how_it_was_typed(start):
    done = subprocess.run(
        [sys.executable, *start, "sweep", "--epoch", "3"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "usage: python -m fishernet sweep" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_completes_commands_flags_and_names(shell, capsys, tmp_path):
    pytest.importorskip("shtab", reason="shtab makes the completion; it is an optional dependency")
    status, script, _ = said(capsys, f"--print-completion {shell}")
    assert status == 0
    for word in ("sweep", "mse-curves", "latent-dims", "fashion-mnist", "gaussian-learned", "FisherNet"):
        assert word in script, word
    if shell == "bash":
        file = tmp_path / "completion"
        file.write_text(
            script + "\nCOMP_WORDS=(fishernet sweep --epo); COMP_CWORD=2; _shtab_fishernet; echo ${COMPREPLY[@]}"
        )
        done = subprocess.run(["bash", str(file)], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["--epochs"]
