"""A model from outside the repository: the package tests/plugin, found by its entry point or named by its class."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fishernet import contract

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "tests" / "plugin"
CLASS = "outside.model:NormVAE"


def ran(*words: str, cwd: Path, installed: bool = True) -> subprocess.CompletedProcess[str]:
    """A command of the product, with the package on Python's path or not."""
    path = [str(ROOT), *([str(PLUGIN)] if installed else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_the_contract(check, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PLUGIN))
    check({"model": CLASS}, tmp_path)


def test_its_package_is_short():
    lines = [line for file in (*PLUGIN.rglob("*.py"), *PLUGIN.rglob("entry_points.txt")) for line in file.open()]
    assert len(lines) <= 60


def test_it_is_in_the_help_with_its_own_field_where_it_is_installed(tmp_path):
    script = str(ROOT / "sweeps" / "latent_sweep.py")
    here, elsewhere = (
        ran(script, "--help-all", cwd=tmp_path).stdout,
        ran(script, "--help-all", cwd=tmp_path, installed=False).stdout,
    )
    assert "settings of NormVAE:" in here
    assert "--norm-width" in here
    assert "NormVAE" not in elsewhere
    # Named by its class it needs no entry point, only to be importable.
    named = ran(script, "--models", CLASS, "--latent-dims", "2", "--seeds", "1", "--norm-width", "9",
                "--write-plan", "/dev/stdout", cwd=tmp_path)  # fmt: skip
    assert '"norm_width": 9' in named.stdout
    unknown = ran(script, "--models", CLASS, "--dry-run", cwd=tmp_path, installed=False)
    assert unknown.returncode == 2
    assert "outside.model:NormVAE cannot be imported: No module named 'outside'" in unknown.stderr


@pytest.mark.long
def test_it_is_swept_searched_drawn_and_reported_and_left_out_where_it_is_not_installed(tmp_path):
    flags = ["--dataset=digits", "--train-size=300", "--latent-dims=2,3", "--epochs=2", "--hidden-width=8"]
    flags += ["--hidden-layers=1", "--gpus=0"]
    sweep = str(ROOT / "sweeps" / "latent_sweep.py")
    swept = ran(sweep, "--models", "NormVAE", "VAE", *flags, "--norm-width", "16", "--seeds", "2",
                "--name", "mine", "--report", cwd=tmp_path)  # fmt: skip
    assert swept.returncode == 0, swept.stdout + swept.stderr
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/fishernet-results/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("mine").experiment_id], "tags.`fishernet.role` = 'trial'")
    fields = {run.data.params["model"]: run.data.params for run in runs}
    assert fields["NormVAE"]["norm_width"] == "16"
    assert "norm_width" not in fields["VAE"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    page = (tmp_path / "fishernet-results/mine/report/report.html").read_text()
    assert "NormVAE" in page

    search = str(ROOT / "sweeps" / "hyperparameter_search.py")
    searched = ran(search, "--models", "NormVAE", "--latent-dims", "2", "--trials", "2", "--seeds", "1", "--dataset", "digits",
                   "--train-size", "300", "--epochs", "2", "--gpus", "0", "--name", "search", cwd=tmp_path)  # fmt: skip
    assert searched.returncode == 0, searched.stdout + searched.stderr
    found = client.search_runs(
        [client.get_experiment_by_name("search").experiment_id], "tags.`fishernet.role` = 'trial'"
    )
    assert {run.data.params["norm_width"] for run in found} <= {"16", "24", "32"}

    drawn = ran(str(ROOT / "analysis" / "mse_curves.py"), "--name", "mine", cwd=tmp_path, installed=False)
    assert drawn.returncode == 0, drawn.stderr
    assert "VAE" in drawn.stdout
    assert "4 runs of NormVAE are left out" in drawn.stdout + drawn.stderr
