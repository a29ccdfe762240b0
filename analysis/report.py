"""Every figure and table of the FisherNet paper from a sweep's runs, with a verdict per claim: one page, and its files.

python -m analysis.report --name SWEEP
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if not __package__:  # started as a script: its own folder leads sys.path, and the packages are beside that folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis import command, frechet
from analysis.parts import Failures
from fishernet.services import mlflow_store, schema
from fishernet.surroundings import entry_point

if TYPE_CHECKING:
    from analysis.exhibits import Exhibit
    from analysis.frame import Sweep
    from analysis.page import Section
    from analysis.stored import StoredSweep

PAGE = "report.html"
ARTIFACTS = "report"  # folder of the parent run's artifacts
TUNING = "What the best setting of each model gains, and what is left of the differences between models."


@entry_point
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


def report(options: argparse.Namespace) -> int:
    """Compute what is missing, write the page and its files, log them to the sweep's parent run, print where they are.

    Returns 1 where a part failed in a way that nobody foresaw; the page is there with all others.
    """
    from analysis import exhibits, frame, page
    from analysis.stored import StoredSweep

    sweep = frame.find_sweep(options.name, options.tracking_uri or mlflow_store.default_tracking_uri())
    searched = frame.find_sweep(options.search, sweep.uri, kind="search") if options.search else None
    stored = StoredSweep(sweep, data_dir=options.data_dir, seed=options.seed)
    print(f"sweep {sweep.name}: {len(stored.runs)} of {len(sweep.configs)} planned runs have finished")
    if sweep.moved:
        print(sweep.moved)
    folder = command.output_path(options.out, sweep.name, "report")
    stored.failures = failures = Failures(folder)
    said = {} if options.no_scores else compute(stored, options)
    remarks = [sentence for sentences in said.values() for sentence in sentences]
    drawn = sections(stored, searched, {name: sentences[0] for name, sentences in said.items() if sentences})
    command.output_folder(options.out, sweep.name, "report")
    made, paths = [], []
    for section in drawn:  # what cannot be written could not be shown either
        written = [command.written(exhibit, folder, failures) for exhibit in section.exhibits]
        paths += [path for _, files in written for path in files]
        made.append(replace(section, exhibits=[exhibit for exhibit, _ in written]))
    above: list[str] = []
    about: dict[str, str] = {}
    with failures.part("introduction", remarks.append):
        above = introduction(stored)
    with failures.part("facts", remarks.append):
        about = facts(stored)
    html = page.render(f"{sweep.name}: the FisherNet paper's figures and tables", above, about, made, remarks)
    with command.writing_to(folder):
        (folder / PAGE).write_text(html, encoding="utf-8")
    try:
        files = mlflow_store.files_of(sweep.uri, sweep.parent_run_id)
        for path in [folder / PAGE, *paths]:
            files.log_artifact(str(path), ARTIFACTS)
    except mlflow_store.failures() as error:
        print(f"The report could not be logged to the sweep's run in MLflow: {error}.")
    for exhibit in (exhibit for section in made for exhibit in section.exhibits):
        if isinstance(exhibit, exhibits.Absent):
            print(exhibits.as_text(exhibit))
        elif isinstance(exhibit, exhibits.Table) and exhibit.stem == "claims":
            print(exhibit.shown[["claim", "verdict"]].to_string(index=False))
    for remark in remarks:
        print(remark)
    print(f"\n{folder / PAGE}, and {len(paths)} files of its figures and tables beside it")
    return int(failures.n > 0)


def compute(stored: "StoredSweep", options: argparse.Namespace) -> dict[str, list[str]]:
    """All scores that the runs lack; by group a sentence for each part that cannot be had."""
    import torch

    from analysis.scores import groups

    gpus = torch.cuda.device_count() if options.gpus is None else options.gpus
    parts: dict[str, Callable[[], list[str]]] = {
        "clusters": lambda: groups.ensure_clusters(stored),
        "ellipses": lambda: groups.ensure_ellipses(stored),
        frechet.chosen_features(options, gpus): lambda: frechet.ensure(stored, options)[1],
    }
    said: dict[str, list[str]] = {name: [] for name in parts}
    for name, part in parts.items():
        with stored.failures.part(name, said[name].append):
            said[name] += part()
    return said


def sections(
    stored: "StoredSweep", searched: "Sweep | None" = None, reasons: Mapping[str, str] = MappingProxyType({})
) -> list["Section"]:
    """The report's parts; what cannot be shown stands in its place with the reason, as far as ``reasons`` know it by the group of
    scores. ``searched``: a search shown as well.
    """
    from analysis import claims, cluster_table, latent_space, loss_curves, mse_curves, samples
    from analysis.page import Section

    kept = stored.failures.exhibits
    distances: list[Exhibit] = []
    for features in frechet.FEATURES:
        title = f"Table 1. {frechet.DISTANCE[features]}"
        distances += kept(
            f"frechet_{features}", title, partial(frechet.parts, stored, features, reasons.get(features, ""))
        )
    return [
        Section(
            "Claims",
            "What the paper says, what these runs show, and whether that bears it out.",
            kept("claims", "Claims", lambda: claims.exhibits(stored)),
        ),
        Section(
            "Reconstruction",
            "How error and loss change with the latent dimension and during training (section 3.1).",
            [
                *kept("mse", "Reconstruction error", lambda: mse_curves.parts(stored)),
                *kept("loss_and_mse", "Figure 1. Loss and MSE", lambda: loss_curves.parts(stored)),
            ],
        ),
        *([Section("Tuning", TUNING, tuned)] if (tuned := tuning(stored, searched)) else []),
        Section(
            "Latent space",
            "Where the images lie, and how certain the models are of it (section 3.2).",
            kept("latent_space", "Figures 4 to 6 and 9", lambda: latent_space.parts(stored)),
        ),
        Section(
            "Samples",
            "New images, and how far they are from real ones (section 3.3).",
            [*distances, *kept("samples", "Figures 7, 8 and 10", lambda: samples.parts(stored))],
        ),
        Section(
            "Clusters",
            "Whether k-means finds the labels in the latent means (Appendix B).",
            kept("cluster_trace", "Table A2 and Figure A1", lambda: cluster_table.parts(stored)),
        ),
    ]


def tuning(stored: "StoredSweep", searched: "Sweep | None") -> list["Exhibit"]:
    """Tuned against usual settings, where the sweep trained both: nobody misses them elsewhere. And what the search found."""
    from analysis import search

    kept = stored.failures.exhibits
    made: list[Exhibit] = []
    if stored.runs["setting"].map(search.is_tuned).any():
        made += kept("tuned_settings", "Paper setting against tuned setting", lambda: search.tuning(stored, searched))
    if searched:
        made += kept("best_settings", "Best settings", lambda: search.search_parts(searched))
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
        "Command": sweep.tags.get(schema.COMMAND, ""),
        "Runs": f"{len(stored.runs)} finished of {len(sweep.configs)} planned",
        "Images": f"{config.dataset}, fingerprint {sweep.plan.get('data_fingerprint', 'unknown')}, scored on {sweep.held_out}",
        "Commit": sweep.tags.get(schema.COMMIT, ""),
        "Machine": _listed(schema.json_tag(sweep.tags, schema.MACHINE)),
        "Versions": _listed(schema.json_tag(sweep.tags, schema.VERSIONS)),
        "Parent run": sweep.parent_run_id,
    }
    return {name: value for name, value in found.items() if value}


def _listed(facts: Mapping[str, Any]) -> str:
    """``{"torch": "2.15"}`` as ``torch 2.15``."""
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value)


if __name__ == "__main__":
    sys.exit(main())
