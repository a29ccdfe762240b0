"""Which package may import which: data flows one way."""

import ast
import graphlib
import json
import os
import pkgutil
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from fishernet.families import BUILT_IN
from fishernet.services import mlflow_deletion, ray_cluster

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "fishernet": {"ray", "mlflow", "optuna", "pandas", "matplotlib", "sweeps", "analysis"},
    "sweeps": {"mlflow", "optuna", "pandas", "matplotlib"},
    "analysis": {"mlflow", "sweeps", "ray", "optuna"},
}
# Scores are computed by Ray tasks, in one place.
# One file of the drivers speaks to Optuna, one of the analyses reads its studies.
ALLOWED = {
    "analysis/scores/tasks.py": {"ray"},
    "analysis/studies.py": {"optuna"},
    "analysis/figures/search.py": {"optuna"},
    "fishernet/services/mlflow_deletion.py": {"mlflow"},
    "fishernet/services/mlflow_models.py": {"mlflow"},
    "fishernet/services/mlflow_store.py": {"mlflow"},
    "fishernet/services/pyfunc_model.py": {"mlflow"},
    "fishernet/services/ray_cluster.py": {"ray"},
    "sweeps/studies.py": {"optuna"},
}
SERVICES = ROOT / "fishernet" / "services"
SCHEMA, RAY = SERVICES / "schema.py", SERVICES / "ray_cluster.py"
TAG = re.compile(
    r"fishernet\.(kind|role|sweep|config|variant|reason|plan|command|note|versions|machine|scores|search|paper)\b"
)


def imports(path: Path) -> set[str]:
    """The top-level package of every import in the file, inside functions too."""
    return imported(ast.parse(path.read_text()))


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def modules() -> dict[str, Path]:
    """By dotted name; links, which are commands, left out."""
    paths = [p for package in FORBIDDEN for p in sorted((ROOT / package).rglob("*.py")) if not p.is_symlink()]
    return {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in paths}


@pytest.mark.parametrize(
    "path",
    [p for package in FORBIDDEN for p in (ROOT / package).rglob("*.py") if "sys.path" in p.read_text() and not p.is_symlink()],
    ids=lambda path: str(path.relative_to(ROOT)),
)  # fmt: skip
def test_a_script_finds_the_packages_before_it_imports_them(path):
    """Where nothing is installed, its own folder leads sys.path; and Ctrl-C amid imports would be a traceback."""
    body = ast.parse(path.read_text()).body
    own = [i for i, node in enumerate(body) if imported(ast.Module([node], [])) & {*FORBIDDEN}]
    place = next(
        (i for i, node in enumerate(body) if isinstance(node, ast.If) and "__package__" in ast.unparse(node)), -1
    )
    assert 0 <= place <= min(own)


def test_no_modules_import_each_other():
    """Also through others, for types alone, or within functions: what is read first would have no place to begin."""
    known, graph = modules(), {}
    for name, path in known.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                found |= {name if name in known else node.module for name in whole}
        graph[name] = found & known.keys() - {name}
    assert sum(map(len, graph.values())) > 3 * len(known)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def quoted(annotation: ast.expr) -> bool:
    literal = {n for n in ast.walk(annotation) if isinstance(n, ast.Subscript) and "Literal" in ast.unparse(n.value)}
    within = {inner for n in literal for inner in ast.walk(n)}
    return any(
        isinstance(n, ast.Constant) and isinstance(n.value, str) for n in ast.walk(annotation) if n not in within
    )


def test_no_annotation_is_quoted():
    """A quoted type is one that is not known where it stands: it has another place, or the module postpones them all."""
    assert quoted(ast.parse('list["Later"]', mode="eval").body)
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            of = node.returns if isinstance(node, ast.FunctionDef) else getattr(node, "annotation", None)
            assert of is None or not quoted(of), f"{path}:{node.lineno}"


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_nothing_across_its_boundary(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        allowed = ALLOWED.get(path.relative_to(ROOT).as_posix(), set())
        assert not imports(path) & (FORBIDDEN[package] - allowed), path


def test_the_rest_of_fishernet_never_imports_its_services():
    door = ROOT / "fishernet" / "trained.py"  # opens the model of an MLflow run, and imports MLflow then
    for path in sorted({*(ROOT / "fishernet").rglob("*.py")} - {door}):
        assert path.parent == SERVICES or "fishernet.services" not in path.read_text(), path


def test_ray_is_started_and_its_private_names_are_used_in_one_module():
    """Whoever else starts Ray would know its settings a second time; whoever else uses what is private breaks unnoticed."""

    def uses(path: Path) -> set[str]:
        text, found = path.read_text(), set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute):
                found.add(ast.unparse(node))
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        # Public is what the documentation imports: from ray, from ray.tune, and from their packages without an underscore.
        inner = re.compile(r"ray\.(init|shutdown)$|ray\..*\b_|ray\.tune\.(execution|_)")
        return {name for name in found if inner.match(name)}

    own = uses(RAY) - {"ray.init", "ray.shutdown"}
    assert "ray.init" in uses(RAY)
    assert {name for name in own if not any(known.startswith(name) for known in ray_cluster.PRIVATE)} == set()
    others = [path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py") if path != RAY]
    assert {path.name: uses(path) for path in others if uses(path)} == {}


@pytest.mark.parametrize("name", mlflow_deletion.PRIVATE)
def test_what_of_mlflow_is_private_and_used_is_there(name):
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    assert callable(getattr(SqlAlchemyStore, name))
    assert f".{name}(" in (SERVICES / "mlflow_deletion.py").read_text()


@pytest.mark.parametrize("name", ray_cluster.PRIVATE)
def test_what_of_ray_is_private_and_used_is_there(name):
    """In another version it may have gone, and assigning to it would do nothing."""
    assert pkgutil.resolve_name(name) is not None
    assert name.rpartition(".")[2] in RAY.read_text()


def test_the_names_of_tags_stand_in_one_module():
    """Whoever else writes one would know MLflow a second time."""

    def tags(path: Path) -> set[str]:
        return {text for text in strings(ast.parse(path.read_text())) if TAG.search(text)}

    assert len(tags(SCHEMA)) >= 12
    others = [path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py") if path != SCHEMA]
    assert {path.name: tags(path) for path in others if tags(path)} == {}


def strings(tree: ast.Module) -> set[str]:
    """Every string in the code, docstrings left out."""
    documented = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    docstrings = {ast.get_docstring(node, clean=False) for node in documented}
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)} - docstrings


def names(tree: ast.Module) -> set[str]:
    """Every name that the code imports."""
    return {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) for alias in n.names}


def test_a_model_is_named_by_its_family_and_by_papers_alone():
    """Whoever else names one would have to be changed with each new family. A paper may be cited by its name."""
    named = re.compile(rf"\b({'|'.join(row.name for row in BUILT_IN)})\b(?! paper)")
    own = (ROOT / "fishernet" / "families.py", ROOT / "fishernet" / "models", ROOT / "analysis" / "papers")
    assert any(named.search(text) for text in strings(ast.parse(own[0].read_text())))
    files = [path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py")]
    others = [path for path in files if not any(path.is_relative_to(place) for place in own)]
    trees = {path: ast.parse(path.read_text()) for path in others}
    found = {p: {text for text in strings(tree) | names(tree) if named.search(text)} for p, tree in trees.items()}
    assert {path: texts for path, texts in found.items() if texts} == {}


def test_drivers_read_presets_and_nothing_heavy_with_them():
    """Of ``analysis`` a driver imports at its top the papers alone and what counts failures; the rest when it draws."""
    heavy = "torch numpy pandas matplotlib mlflow ray optuna scipy"
    program = (
        f"import sys\nfor name in {heavy.split()}:\n    sys.modules[name] = None\n"
        "from analysis.papers import PAPERS, PRESETS\nassert PAPERS and PRESETS\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    allowed = {
        "analysis.papers",
        "analysis.parts",
        "analysis.studies",
    }  # the last in studies.py alone, which speaks to Optuna too
    for path in (ROOT / "sweeps").rglob("*.py"):
        at_top = {n.module for n in ast.parse(path.read_text()).body if isinstance(n, ast.ImportFrom) and n.module}
        assert {module for module in at_top if module.startswith("analysis")} <= allowed, path


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


SWEEP_ERRORS = [
    "--bogus", "--gpus -1", "--gpus-per-trial 0.3", "--latent-dims 0", "--models Foo", "--epochs -1", "--seeds 0", "--name ../x",
    "--resume a --name b", "--resume nowhere", "--dataset nowhere.npz", "--tracking-uri foo://x", "--tracking-uri http://127.0.0.1:9",
    "--cpus-per-trial 99999", "--checkpoint-every 0",
]  # fmt: skip
USAGE_ERRORS = {
    "sweeps.latent_sweep": [
        *SWEEP_ERRORS, "--cohort-size 0", "--latent-dims x", "--plan nowhere.json", "--plan no.json", "--write-plan /no/x",
        "--register a/b", "--register .",
    ],
    "sweeps.hyperparameter_search": [*SWEEP_ERRORS, "--trials 0", "--sampler foo", "--learning-rate 1..x", "--fix foo=1"],
    "fishernet.__main__": ["swep", "--bogus", "--out x", "sweep --epoch 3", "figures mse", "report --nme x", "list x", "delete"],
    "fishernet.standalone_command": [
        "", "--bogus", "--plan", "--plan nowhere.json --out x", "--plan no.json --out x", "--plan x --out y --cohort-size -1",
        "--plan x --out y --threads -2", "--plan x --out y --threads a", "--plan x --out y --checkpoint-every 0", "--out x",
    ],
    "analysis.__main__": [
        "nothing", "mse-curves --epoch-dims two", "samples --latent-dims 0",
        *(
            f"report {words}" for words in (
                "--bogus", "--features foo", "--gpus x", "--name", "--tracking-uri", "--out", "--seed x", "--data-dir", "extra",
                "--gpus", "--paper foo",
            )
        ),
    ],
}  # fmt: skip


@pytest.mark.parametrize("program", USAGE_ERRORS)
def test_help_and_usage_errors_come_before_anything_slow_is_imported(program, tmp_path):
    """Torch alone takes seconds; here importing what is slow would be an error with a traceback."""
    (tmp_path / "no.json").write_text("{")
    text = (
        "import contextlib, io, json, sys, traceback\n"
        "for name in ('torch', 'ray', 'mlflow', 'optuna', 'pandas', 'numpy', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        f"from {program} import main\n"
        "ends = []\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):\n"
        "        try:\n"
        "            status = main(words.split())\n"
        "        except SystemExit as end:\n"
        "            status = end.code\n"
        "        except BaseException:\n"
        "            status = traceback.format_exc()\n"
        "    ends.append([status, said.getvalue()])\n"
        "print(json.dumps(ends))\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")} | {"PYTHONPATH": str(ROOT)}
    asked = ["--help", *USAGE_ERRORS[program]]
    done = subprocess.run(
        [sys.executable, "-c", text, json.dumps(asked)], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    for words, (status, said) in zip(asked, json.loads(done.stdout), strict=True):
        assert "Traceback" not in said, (words, said)
        assert status == (0 if words == "--help" else 2), (words, status, said)
        assert words == "--help" or "error: " in said, (words, said)
    assert {path.name for path in tmp_path.iterdir()} == {"no.json"}


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "benchmarks").glob("*.py")))
def test_what_a_benchmark_imports_is_there(script, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as where it is started as a script
    assert runpy.run_path(str(ROOT / "benchmarks" / script), run_name="imported")["__doc__"]


def test_why_scores_are_missing_is_looked_up_by_the_row_of_the_score():
    from analysis.scores import SCORES

    asked = {
        name
        for path in (ROOT / "analysis" / "figures").glob("*.py")
        for name in re.findall(r'reasons\.get\("?([\w-]+)"?\)', path.read_text())
    }
    assert asked - {"features"} <= {*SCORES}  # image scores have theirs by the network that gave the features, too
    assert {"k-means", "corruptions", "t-sne-clusters"} <= asked


FORMER_NAMES = re.compile(
    r"python -m analysis|\b(analysis|sweeps)/[a-z_]+\.py|latent_sweep\.py|hyperparameter_search\.py"
)


def test_what_is_printed_names_commands_as_fishernet_has_them():
    """No text names a script or module where there is a command, but docstrings that no program prints as its help."""
    for path in (path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py")):
        tree = ast.parse(source := path.read_text())
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, *(() if "=__doc__" in source else (ast.Module,)))
        docs = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, kinds)}
        texts = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert [text for text in texts - docs if FORMER_NAMES.search(text)] == [], path
