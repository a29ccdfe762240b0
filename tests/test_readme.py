"""Every command in the README is one that the programs accept."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fishernet import __main__
from fishernet.data.loading import load_data
from fishernet.families import trial_config
from sweeps import import_records

ROOT = Path(__file__).resolve().parents[1]
NAMES = (
    "install", "using", "cluster", "searching", "metrics", "papers", "report", "explorer", "results/fisher-shannon/README",
    "results/fisher-ae/README", "results/vpae/README", "results/fashion-mnist/README",
)  # fmt: skip
PAGES = ["README.md", *(f"docs/{name}.md" for name in NAMES)]
README = "\n".join((ROOT / page).read_text() for page in PAGES)
BLOCKS = [block.replace("\\\n", " ") for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)]
LINES = [line for block in BLOCKS for line in block.splitlines() if line.strip()]


def arguments(script: str) -> list[list[str]]:
    """What follows ``script`` in each of the README's commands, comments left out."""
    calls = []
    for line in LINES:
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            if script in words:
                calls.append(words[words.index(script) + 1 :])
    return calls


def test_the_first_two_commands_set_up_everything_and_run_the_sweep_and_the_tests():
    for command, last in zip(BLOCKS[:2], ("sweeps/latent_sweep.py", "pytest"), strict=True):
        words = shlex.split(command)
        assert words[:4] == ["python3", "-m", "venv", ".venv"]
        assert "constraints.txt" in words
        assert last in words


SWEEPS = arguments("sweeps/latent_sweep.py") + [words[1:] for words in arguments("fishernet") if words[0] == "sweep"]


@pytest.mark.parametrize("argv", SWEEPS, ids=" ".join)
def test_every_sweep_in_the_readme_is_accepted(argv):
    from sweeps.latent_sweep import _parse
    from sweeps.planning import plan_from_flags

    args = _parse(argv)
    args.dataset = None if args.dataset == "my-images.npz" else args.dataset
    assert args.plan or plan_from_flags(args)  # a plan file is another command's


@pytest.mark.parametrize("argv", arguments("sweeps/hyperparameter_search.py"), ids=" ".join)
def test_every_search_in_the_readme_is_accepted(argv):
    from sweeps.hyperparameter_search import _parse, plan_from_flags

    assert plan_from_flags(_parse(argv), 10_000)


def test_the_other_commands_in_the_readme_name_flags_that_exist(capsys):
    fishernet = arguments("fishernet")
    named = [words for words in fishernet if not words[0].startswith("-")]
    commands = sorted({tuple(words[: 1 + (words[0] == "figures")]) for words in named})
    assert {("sweep",), ("report",), ("list",), ("figures", "distributions")} <= {*commands}
    asked = [
        (__main__.main, [*command], [words for words in named if tuple(words[: len(command)]) == command])
        for command in commands
    ]
    asked.append((__main__.main, [], [words for words in fishernet if words[0].startswith("-")]))
    asked.append((import_records.main, [], arguments("sweeps/import_records.py")))
    for main, command, calls in asked:
        assert calls, command
        with pytest.raises(SystemExit) as stop:
            main([*command, "--help-all"] if command else ["--help"])
        assert stop.value.code == 0
        help_text = capsys.readouterr().out
        for flag in {word for argv in calls for word in argv if word.startswith("--")}:
            assert flag in help_text, (command, flag)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"python -m analysis ([\w-]+)", README)) - {"papers"}))
def test_every_analysis_the_readme_names_explains_itself_at_once_and_has_the_flags_it_is_given(name):
    program = "import sys; sys.modules['torch'] = sys.modules['mlflow'] = sys.modules['pandas'] = None; import runpy; "
    program += f"sys.argv[1:] = [{name!r}, '--help-all']; runpy.run_module('analysis', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    given = {word for words in arguments("analysis") if words[0] == name for word in words if word.startswith("--")}
    for flag in ("--name", "--tracking-uri", "--out", *given):
        assert flag in done.stdout


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "analysis").glob("*.py") if path.is_symlink()))
def test_a_script_of_before_runs_the_command_of_its_name(script):
    done = subprocess.run(
        [sys.executable, str(ROOT / "analysis" / script), "--help"],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "usage: fishernet " in done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_links_to_exists_and_no_line_is_long(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
    prose = [
        line
        for line in path.read_text().splitlines()
        if line[:1] not in "|!" and not line.startswith(("python ", "mlflow "))
    ]
    assert [line for line in prose if len(line) > 120] == []


def test_the_python_of_the_readme_runs_on_the_sweep_that_it_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data = load_data("digits")
    config = trial_config(model="VAE", dataset="digits", latent_dim=3, epochs=1, hidden_width=8, hidden_layers=1)
    (tmp_path / "plan.json").write_text(json.dumps([config.to_dict()]))
    assert __main__.main(["train", "--plan=plan.json", "--out=records", "--device=cpu"]) == 0
    assert import_records.main(["records", "--name=quick"]) == 0
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    found: dict[str, object] = {}
    exec(code, found)
    assert found["images"].shape == data.test.shape
    assert found["covariance"].shape == (len(data.test), 3, 3)
