"""Every figure and table of the FisherNet paper from a sweep's runs, with a verdict per claim: one page, and its files.

python -m analysis.report --name SWEEP
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # started as a script: its own folder leads sys.path, and the packages are beside that folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis import command, frechet

if TYPE_CHECKING:
    from analysis.exhibits import Exhibit
    from analysis.frame import Sweep
    from analysis.page import Section
    from analysis.stored import StoredSweep

PAGE = "report.html"
ARTIFACTS = "report"  # folder of the parent run's artifacts
TUNING = "What the best setting of each model gains, and what is left of the differences between models."


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 0, or 2 after a sentence on stderr when there is nothing to report."""
    parser = command.parser(
        "fishernet-report",
        "All figures, tables and claims of the FisherNet paper from a sweep's records: one HTML page, and each as PNG, PDF,\n"
        "CSV and LaTeX. Scores are computed from the stored weights, once, and kept with their runs in MLflow.",
        "python -m analysis.report --name mine --out report",
        folder="report",
    )
    frechet.add_flags(parser)
    parser.add_argument("--no-scores", action="store_true", help="show the scores that the runs have; compute none")
    parser.add_argument("--search", metavar="NAME", help="show what this hyperparameter search found, too")
    command.add_picture_flags(parser)
    options = parser.parse_args(argv)
    return command.run(lambda: report(options))


def report(options: argparse.Namespace) -> None:
    """Compute what is missing, write the page and its files, log them to the sweep's parent run, print where they are."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from analysis import exhibits, frame, page
    from analysis.stored import StoredSweep

    sweep = frame.find_sweep(options.name, options.tracking_uri or frame.default_tracking_uri())
    searched = frame.find_sweep(options.search, sweep.uri, kind="search") if options.search else None
    stored = StoredSweep(sweep, data_dir=options.data_dir, seed=options.seed)
    print(f"sweep {sweep.name}: {len(stored.runs)} of {len(sweep.configs)} planned runs have finished")
    remarks = [] if options.no_scores else compute(stored, options)
    made = sections(stored, searched)
    folder = command.output_folder(options.out or Path("fishernet-results") / sweep.name / "report", sweep.name)
    html = page.render(
        f"{sweep.name}: the FisherNet paper's figures and tables", introduction(stored), facts(stored), made, remarks
    )
    with command.writing_to(folder):
        paths = [path for section in made for exhibit in section.exhibits for path in exhibits.write(exhibit, folder)]
        (folder / PAGE).write_text(html, encoding="utf-8")
    client = MlflowClient(tracking_uri=sweep.uri)
    try:
        for path in [folder / PAGE, *paths]:
            client.log_artifact(sweep.parent_run_id, str(path), ARTIFACTS)
    except (MlflowException, OSError) as error:
        print(f"The report could not be logged to the sweep's run in MLflow: {error}.")
    for exhibit in (exhibit for section in made for exhibit in section.exhibits):
        if isinstance(exhibit, exhibits.Absent):
            print(exhibits.as_text(exhibit))
        elif isinstance(exhibit, exhibits.Table) and exhibit.stem == "claims":
            print(exhibit.shown[["claim", "verdict"]].to_string(index=False))
    for remark in remarks:
        print(remark)
    print(f"\n{folder / PAGE}, and {len(paths)} files of its figures and tables beside it")


def compute(stored: "StoredSweep", options: argparse.Namespace) -> list[str]:
    """All scores that the runs lack; a sentence for each part that cannot be had."""
    from analysis.frame import AnalysisError
    from analysis.scores.groups import ensure_clusters, ensure_ellipses

    remarks: list[str] = []
    parts: list[Callable[[], list[str]]] = [
        lambda: ensure_clusters(stored),
        lambda: ensure_ellipses(stored),
        lambda: frechet.ensure(stored, options)[1],
    ]
    for part in parts:
        try:
            remarks += part()
        except AnalysisError as error:
            remarks.append(str(error))
    return remarks


def sections(stored: "StoredSweep", searched: "Sweep | None" = None) -> list["Section"]:
    """The report's parts; what cannot be shown stands in its place with the reason. ``searched``: a search shown as well."""
    from analysis import claims, cluster_table, latent_space, loss_curves, mse_curves, samples
    from analysis.page import Section

    distances: list[Exhibit] = []
    for features in frechet.FEATURES:
        title = f"Table 1. {frechet.DISTANCE[features]}"
        distances += _kept(f"frechet_{features}", title, partial(frechet.exhibits, stored, features))
    return [
        Section(
            "Claims",
            "What the paper says, what these runs show, and whether that bears it out.",
            _kept("claims", "Claims", lambda: claims.exhibits(stored)),
        ),
        Section(
            "Reconstruction",
            "How error and loss change with the latent dimension and during training (section 3.1).",
            [
                *_kept("mse", "Reconstruction error", lambda: mse_curves.exhibits(stored)),
                *_kept("loss_and_mse", "Figure 1. Loss and MSE", lambda: loss_curves.exhibits(stored)),
            ],
        ),
        *([Section("Tuning", TUNING, tuned)] if (tuned := tuning(stored, searched)) else []),
        Section(
            "Latent space",
            "Where the images lie, and how certain the models are of it (section 3.2).",
            _kept("latent_space", "Figures 4 to 6 and 9", lambda: latent_space.exhibits(stored)),
        ),
        Section(
            "Samples",
            "New images, and how far they are from real ones (section 3.3).",
            [*distances, *_kept("samples", "Figures 7, 8 and 10", lambda: samples.exhibits(stored))],
        ),
        Section(
            "Clusters",
            "Whether k-means finds the labels in the latent means (Appendix B).",
            _kept("cluster_trace", "Table A2 and Figure A1", lambda: cluster_table.exhibits(stored)),
        ),
    ]


def tuning(stored: "StoredSweep", searched: "Sweep | None") -> list["Exhibit"]:
    """Tuned against usual settings, where the sweep trained both: nobody misses them elsewhere. And what the search found."""
    from analysis import search

    made: list[Exhibit] = []
    if stored.runs["setting"].map(search.is_tuned).any():
        made += _kept("tuned_settings", "Paper setting against tuned setting", lambda: search.tuning(stored, searched))
    if searched:
        made += _kept("best_settings", "Best settings", lambda: search.search_exhibits(searched))
    return made


def introduction(stored: "StoredSweep") -> list[str]:
    """What the reader looks at, and what is missing."""
    from analysis.frame import missing_cells, say_missing

    epochs = sorted(stored.runs["epochs"].unique().tolist())
    trained = f"{epochs[0]} epochs" if len(epochs) == 1 else f"{epochs[0]} to {epochs[-1]} epochs"
    seeds = stored.runs["seed"].nunique()
    dims = ", ".join(str(d) for d in sorted(stored.runs["latent_dim"].unique()))
    text = (
        f"{len(stored.runs)} runs of {', '.join(stored.variants)}, d = {dims}, {seeds} seed{'s' * (seeds > 1)}, {trained}, "
        f"on {stored.sweep.configs[0].dataset}. Spreads are standard deviations over seeds. The paper's own numbers, of one "
        "run each, stand beside these where it gives them."
    )
    missing = say_missing(stored.sweep, missing_cells(stored.sweep, stored.all_runs))
    return [text, missing] if missing else [text]


def facts(stored: "StoredSweep") -> dict[str, str]:
    """How the sweep was made, from its parent run."""
    sweep, config = stored.sweep, stored.sweep.configs[0]
    found = {
        "Sweep": sweep.name,
        "Command": sweep.tags.get("fishernet.command", ""),
        "Runs": f"{len(stored.runs)} finished of {len(sweep.configs)} planned",
        "Images": f"{config.dataset}, fingerprint {sweep.plan.get('data_fingerprint', 'unknown')}, scored on {sweep.held_out}",
        "Commit": sweep.tags.get("mlflow.source.git.commit", ""),
        "Machine": _listed(sweep.tags.get("fishernet.machine", "{}")),
        "Versions": _listed(sweep.tags.get("fishernet.versions", "{}")),
        "Parent run": sweep.parent_run_id,
    }
    return {name: value for name, value in found.items() if value}


def _listed(text: str) -> str:
    """``{"torch": "2.15"}`` as ``torch 2.15``."""
    return ", ".join(f"{name} {value}" for name, value in json.loads(text).items() if value)


def _kept(stem: str, title: str, make: Callable[[], Iterable["Exhibit"]]) -> list["Exhibit"]:
    """What ``make`` yields; where it cannot, the reason in its place."""
    from analysis.exhibits import Absent
    from analysis.frame import AnalysisError

    def all_but_failures() -> Iterator["Exhibit"]:
        try:
            yield from make()
        except AnalysisError as error:
            yield Absent(stem, title, str(error))

    return list(all_but_failures())


if __name__ == "__main__":
    sys.exit(main())
