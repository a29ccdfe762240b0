"""A sweep's figures from its records to files and the terminal: what the commands of all analyses do."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from analysis import exhibits, figures, frame
from analysis.errors import AnalysisError
from analysis.exhibits import Absent, Exhibit, annotated, as_text
from analysis.papers import Arguments, Paper
from analysis.parts import Failures, Part
from analysis.scores import ensure
from analysis.stored import StoredSweep
from fishernet.services.mlflow_store import DEFAULT_STORAGE, default_tracking_uri
from fishernet.services.schema import folder_name
from fishernet.wording import grouped


def draw(
    figure: str, name: str | None = None, tracking_uri: str | None = None, out: Path | None = None, *,
    data_dir: str | None = None, seed: int | None = None, paper: str | None = None,
    scores: Mapping[str, Arguments] | None = None, **arguments: object,
) -> Failures:  # fmt: skip
    """Write what that row of FIGURES shows of a sweep, print it and what is missing. Defaults are the flags'.

    ``scores``: what is computed first, rows of SCORES with their arguments. Raises AnalysisError.
    """
    sweep = frame.find_sweep(name, tracking_uri or default_tracking_uri())
    if name is None:
        print(f"sweep {sweep.name}, the one started last (--name takes another)\n")
    if sweep.moved:
        print(sweep.moved)
    stored = StoredSweep(sweep, data_dir=data_dir, seed=seed, paper=paper)
    folder = output_path(out, sweep.name)  # not made yet: what is refused leaves nothing behind
    stored.failures = failures = Failures(folder, passing=(AnalysisError,))
    for score, asked in (scores or {}).items():
        for failure in ensure(stored, score, **asked):
            print(failure)
    made: list[Exhibit] = []  # all of it before the first file is written
    for item in figures.parts(stored, figure, **arguments):
        made += of_paper(stored.paper, failures.exhibits(*item) if isinstance(item, Part) else [item])
    show(made, output_folder(out, sweep.name), failures)
    if not made:
        print(f"No run of sweep {sweep.name} has what {figure} shows.")
    missing = frame.missing_cells(sweep, stored.all_runs)
    if said := frame.say_missing(sweep, missing):
        print(said)
    failed = missing[missing["state"].str.startswith("failed")]
    reasons = ((f"{run.variant} d={run.latent_dim} seed={run.seed}", str(run.state)) for run in failed.itertuples())
    for names, state in grouped(reasons):
        print(f"  {names} {state}")
    return failures


def of_paper(paper: Paper | None, made: Iterable[Exhibit]) -> list[Exhibit]:
    """The exhibits with the paper's numbers of figures and what it shows; as they are without a paper."""
    numbers = paper.figures if paper else {}
    return [annotated(exhibit, *numbers.get(exhibit.stem, ("", ""))) for exhibit in made]


def show(made: Iterable[Exhibit], folder: Path, failures: Failures) -> None:
    """Print each and write its files; raises AnalysisError when the folder does not take them."""
    for i, exhibit in enumerate(made):
        shown, paths = written(exhibit, folder, failures)
        print("\n" * (i > 0) + as_text(shown))
        for path in paths:
            print(f"  {path}")


def written(exhibit: Exhibit, folder: Path, failures: Failures) -> tuple[Exhibit, list[Path]]:
    """The exhibit and its files; where it cannot be written, such as a figure that cannot be laid out, why in its place.

    Raises AnalysisError when the folder does not take any.
    """
    why: list[str] = []
    with failures.part(exhibit.stem, why.append, passing=(AnalysisError,)), writing_to(folder):
        return exhibit, exhibits.write(exhibit, folder)
    return Absent(exhibit.stem, exhibit.title, why[0]), []


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """A full disk or a folder that was taken away as an AnalysisError."""
    try:
        yield
    except OSError as error:
        raise AnalysisError(
            f"--out {folder} is where figures go, and writing there failed: {error.strerror or error}."
        ) from error


def output_path(out: Path | None, sweep_name: str, below: str = "figures") -> Path:
    """The folder files go to: ``out``, else the sweep's."""
    return out or Path(DEFAULT_STORAGE) / folder_name(sweep_name) / below


def output_folder(out: Path | None, sweep_name: str, below: str = "figures") -> Path:
    """That folder, made if need be; raises AnalysisError where it cannot be had."""
    folder = output_path(out, sweep_name, below)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AnalysisError(
            f"--out {folder} is where figures go, and it cannot be made a folder: {error.strerror}."
        ) from error
    if not os.access(folder, os.W_OK):
        raise AnalysisError(f"--out {folder} is where figures go, and this user may not write there.")
    return folder
