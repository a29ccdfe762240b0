"""The tutorial notebook does what it says, in a kernel of this environment."""

import re
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="the extra test has nbclient and ipykernel")
nbformat = pytest.importorskip("nbformat")

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def said(cell):
    """What it printed, and what it shows as text or as HTML."""
    shown = (output.get("text") or str(output.get("data", "")) for output in cell.outputs)
    return "\n".join(shown)


def outputs(notebook, of):
    """Of the one cell whose source begins with ``of``."""
    (cell,) = (cell for cell in code(notebook) if cell.source.startswith(of))
    return said(cell)


def check(notebook):
    """The three jobs' results."""
    start = outputs(notebook, "sweep = fishernet.sweep")
    assert "defaults   " in start
    assert "30 runs" in start
    answer = outputs(notebook, 'sweep.figure("mse-curves")')
    assert "Which latent dimension" in answer
    assert "data:image/png;base64," in answer
    (needed,) = re.findall(r"<td>AE linear</td>\s*<td>(\d+)</td>", answer.replace("\\n", "\n"))
    assert 2 <= int(needed) <= 6  # three factors
    new = outputs(notebook, "model = sweep.best")
    error, mean = re.search(r"codes \(5, 3\) MSE (\S+); the mean image has (\S+)", new).groups()
    assert float(error) < 0.2 * float(mean)
    assert "<sweep blobs: 30 of 30 runs finished>" in outputs(notebook, "again = fishernet.open_sweep")
    assert "image/png" in outputs(notebook, "import matplotlib")
    assert "<th>t</th>" in outputs(notebook, "runs = digits.runs")


def test_the_notebook_holds_the_outputs_of_its_own_run_and_is_small():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    check(notebook)
    assert NOTEBOOK.stat().st_size < 400_000
    assert not re.search(r"/(home|root|work|Users)/", NOTEBOOK.read_text())


@pytest.mark.long
def test_the_notebook_runs_from_start_to_end(tmp_path):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in code(notebook):
        cell.outputs = []
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    check(notebook)
