"""Which package may import which: data flows one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "fishernet": {"ray", "mlflow", "optuna", "pandas", "matplotlib", "sweeps", "analysis"},
    "sweeps": {"optuna", "pandas", "matplotlib"},
    "analysis": {"sweeps", "ray", "optuna"},
}
# Scores are computed by Ray tasks, in one place.
# One file of the drivers speaks to Optuna, one of the analyses reads its studies.
ALLOWED = {"analysis/scores/tasks.py": {"ray"}, "sweeps/studies.py": {"optuna"}, "analysis/search.py": {"optuna"}}


def imports(path: Path) -> set[str]:
    """The top-level package of every import in the file, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_nothing_across_its_boundary(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        allowed = ALLOWED.get(path.relative_to(ROOT).as_posix(), set())
        assert not imports(path) & (FORBIDDEN[package] - allowed), path


def test_training_a_plan_loads_torch_and_numpy_and_no_tracker(tmp_path):
    """``python -m fishernet`` must run where Ray, MLflow and pandas are not installed: here their import is an error."""
    (tmp_path / "plan.json").write_text(
        '[{"dataset": "%s", "hidden_width": 8, "epochs": 1, "model": "FisherNet"}]' % (tmp_path / "x.npy")
    )
    program = (
        "import sys, numpy as np\n"
        "for name in ('ray', 'mlflow', 'optuna', 'pandas', 'matplotlib', 'torchvision', 'sklearn', 'PIL'):\n"
        "    sys.modules[name] = None\n"
        f"np.save({str(tmp_path / 'x.npy')!r}, np.random.default_rng(0).integers(0, 255, (60, 4, 4), dtype=np.uint8))\n"
        "from fishernet.__main__ import main\n"
        f"sys.exit(main(['--plan', {str(tmp_path / 'plan.json')!r}, '--out', {str(tmp_path / 'out')!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "FisherNet-d02-s0" / "record.json").exists()


@pytest.mark.parametrize("driver", ["latent_sweep", "hyperparameter_search"])
def test_help_and_usage_errors_come_before_torch_is_imported(driver):
    program = (
        "import sys\nfor name in ('torch', 'ray', 'mlflow', 'optuna'):\n    sys.modules[name] = None\n"
        f"from sweeps.{driver} import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    for argv, status in ((["--help"], 0), (["--gpus", "-1"], 2), (["--bogus"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", program, *argv], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
