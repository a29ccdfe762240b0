"""What the commands of all analyses share: flags that name a sweep and a folder, and how errors are said."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path


def parser(prog: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser with --name, --tracking-uri and --out, to which an analysis adds its own flags."""
    parser = argparse.ArgumentParser(
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
        "sqlite:///fishernet-results/mlflow.db",
    )
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        type=Path,
        help="where figures and CSV files go; default: fishernet-results/SWEEP/figures",
    )
    return parser


def run(analysis: Callable[[], None]) -> int:
    """Run the analysis; return 0, or 2 after a sentence on stderr when what was asked for cannot be drawn."""
    # A server that is down is then reported in seconds: MLflow's own seven retries take some four minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from analysis.frame import AnalysisError  # here, as pandas and MLflow take seconds to import

    try:
        analysis()
    except AnalysisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def output_folder(out: Path | None, sweep_name: str) -> Path:
    """The folder figures go to, made if need be; raises AnalysisError when it cannot be written to."""
    from analysis.frame import AnalysisError

    folder = out or Path("fishernet-results") / sweep_name / "figures"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AnalysisError(
            f"--out {folder} is where figures go, and it cannot be made a folder: {error.strerror}."
        ) from error
    if not os.access(folder, os.W_OK):
        raise AnalysisError(f"--out {folder} is where figures go, and this user may not write there.")
    return folder
