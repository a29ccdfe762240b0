"""What the commands of all analyses share: flags that name a sweep and a folder, and how errors are said."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.parts import Failures, Part
from fishernet.flags import Parser
from fishernet.services import mlflow_store
from fishernet.services.mlflow_store import DEFAULT_STORAGE, READING, default_tracking_uri, set_environment
from fishernet.services.schema import folder_name

if TYPE_CHECKING:
    from analysis.exhibits import Exhibit
    from analysis.stored import StoredSweep

Make = Callable[["StoredSweep", argparse.Namespace], Iterable["Exhibit | Part"]]


def parser(prog: str, description: str, example: str, folder: str = "figures") -> argparse.ArgumentParser:
    """A parser with --name, --tracking-uri and --out, whose default is ``folder``; an analysis adds its own flags."""
    parser = Parser(
        prog=prog,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", metavar="SWEEP", help="the sweep to draw; default: the one started last")
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow's records, sqlite:///PATH or http://HOST:PORT; default: $MLFLOW_TRACKING_URI, else "
        f"sqlite:///{DEFAULT_STORAGE}/mlflow.db",
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=Path,
        help=f"where figures and CSV files go; default: {DEFAULT_STORAGE}/SWEEP/{folder}",
    )
    return parser


def add_picture_flags(parser: argparse.ArgumentParser) -> None:
    """--data-dir and --seed, for what is drawn from stored models."""
    parser.add_argument(
        "--data-dir",
        type=os.path.expanduser,
        metavar="FOLDER",
        help="where the data sets are; default: $FISHERNET_DATA_DIR, else ~/.cache/fishernet",
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="the seed whose run pictures show; default: the lowest of each"
    )


def main(parser: argparse.ArgumentParser, make: Make, argv: Sequence[str] | None) -> int:
    """An analysis from its flags to its files: write what ``make`` shows and print it; 0, 1 where a part of it failed as nobody
    foresaw, or 2 after a sentence.
    """
    options = parser.parse_args(argv)
    return run(lambda: _show(make, options))


def _show(make: Make, options: argparse.Namespace) -> int:
    from analysis import frame
    from analysis.stored import StoredSweep

    sweep = frame.find_sweep(options.name, options.tracking_uri or default_tracking_uri())
    if options.name is None:
        print(f"sweep {sweep.name}, the one started last (--name takes another)\n")
    if sweep.moved:
        print(sweep.moved)
    stored = StoredSweep(sweep, data_dir=getattr(options, "data_dir", None), seed=getattr(options, "seed", None))
    folder = output_path(options.out, sweep.name)  # not made yet: what is refused leaves nothing behind
    stored.failures = failures = Failures(folder, passing=(frame.AnalysisError,))
    made: list[Exhibit] = []  # all of it before the first file is written
    for item in make(stored, options):
        made += failures.exhibits(*item) if isinstance(item, Part) else [item]
    show(made, output_folder(options.out, sweep.name), failures)
    if missing := frame.say_missing(sweep, frame.missing_cells(sweep, stored.all_runs)):
        print(missing)
    return int(failures.n > 0)


def show(made: Iterable["Exhibit"], folder: Path, failures: Failures) -> None:
    """Print each and write its files; raises AnalysisError when the folder does not take them."""
    from analysis import exhibits

    for exhibit in made:
        shown, paths = written(exhibit, folder, failures)
        print(exhibits.as_text(shown))
        for path in paths:
            print(f"  {path}")


def written(exhibit: "Exhibit", folder: Path, failures: Failures) -> "tuple[Exhibit, list[Path]]":
    """The exhibit and its files; where it cannot be written, such as a figure that cannot be laid out, why in its place.

    Raises AnalysisError when the folder does not take any.
    """
    from analysis import exhibits
    from analysis.frame import AnalysisError

    why: list[str] = []
    with failures.part(exhibit.stem, why.append, passing=(AnalysisError,)), writing_to(folder):
        return exhibit, exhibits.write(exhibit, folder)
    return exhibits.Absent(exhibit.stem, exhibit.title, why[0]), []


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """A full disk or a folder that was taken away as an AnalysisError."""
    from analysis.frame import AnalysisError

    try:
        yield
    except OSError as error:
        raise AnalysisError(
            f"--out {folder} is where figures go, and writing there failed: {error.strerror or error}."
        ) from error


def run(analysis: Callable[[], int | None]) -> int:
    """Run the analysis; return its status, 0 where it gives none, or after a line on stderr 2 when what was asked for cannot be
    drawn, 130 when interrupted.
    """
    set_environment(READING)
    try:
        try:
            from analysis.frame import AnalysisError  # here, as pandas and MLflow take seconds to import

            mlflow_store.prepare_mlflow()
        except mlflow_store.TrackingError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except Exception as error:  # by a variable of theirs
            print(f"error: pandas cannot be imported here: {error}", file=sys.stderr)
            return 2
        try:
            return analysis() or 0
        except AnalysisError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def output_path(out: Path | None, sweep_name: str, below: str = "figures") -> Path:
    """The folder files go to: ``out``, else the sweep's."""
    return out or Path(DEFAULT_STORAGE) / folder_name(sweep_name) / below


def output_folder(out: Path | None, sweep_name: str, below: str = "figures") -> Path:
    """That folder, made if need be; raises AnalysisError where it cannot be had."""
    from analysis.frame import AnalysisError

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
