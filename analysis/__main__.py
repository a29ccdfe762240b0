"""Draw what sweeps recorded: ``fishernet figures NAME``; without a name it lists what there is.

All parsers are here. What an analysis needs, seconds of imports, comes when its flags are right.
"""

import argparse
import importlib
import pkgutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.errors import AnalysisError
from analysis.figures import FIGURES
from analysis.flags import PAPER, PICTURES, Flag, given, parser
from analysis.papers import PAPERS, n_runs
from analysis.scores import DRAWS_FLAG, SCORES
from fishernet.flags import Parser
from fishernet.services import mlflow_store
from fishernet.services.mlflow_store import READING, set_environment
from fishernet.surroundings import entry_point
from fishernet.wording import first_sentence, two_columns

MOST_LINES = 7  # of a preset that `papers` writes out
SCORE_FLAGS = tuple(flag for row in SCORES.values() for flag in row.flags)
NO_SCORES = Flag("--no-scores", {"action": "store_true", "help": "show the scores that the runs have; compute none"})
SEARCH = Flag("--search", {"metavar": "NAME", "help": "show what this hyperparameter search found, too"})
OPTUNA = Flag(
    "--optuna", {"metavar": "URL", "help": "Optuna's storage, sqlite:///PATH; default: where the search said it is"}
)


@dataclass(frozen=True)
class Command:
    """``run`` takes the command's name and its flags, and gives the exit status."""

    about: str
    run: Callable[[str, argparse.Namespace], int]
    example: str = "--name mine"
    flags: tuple[Flag, ...] = ()
    folder: str = "figures"
    usual: tuple[Flag, ...] = ()  # of its flags those that --help shows, the others --help-all; all where none is named


def _figure(name: str, options: argparse.Namespace) -> int:
    row, command = FIGURES[name], importlib.import_module("analysis.command")
    scores = {score: given(options, SCORES[score].flags) for score in row.scores}
    place = given(options, (PAPER, *(flag for flag in row.flags if flag in PICTURES)))
    own = given(options, [flag for flag in row.flags if flag not in PICTURES])
    status: int = command.draw(
        name, options.name, options.tracking_uri, options.out, scores=scores, **place, **own
    ).status
    return status


def _report(_: str, options: argparse.Namespace) -> int:
    scores = None if options.no_scores else {score: given(options, row.flags) for score, row in SCORES.items()}
    place = given(options, (PAPER, SEARCH, *PICTURES))
    report = importlib.import_module("analysis.reporting").report
    status: int = report(options.name, options.tracking_uri, options.out, scores=scores, **place).status
    return status


def _search(_: str, options: argparse.Namespace) -> int:
    draw = importlib.import_module("analysis.figures.search").draw
    status: int = draw(options.name, options.tracking_uri, options.out, options.optuna).status
    return status


COMMANDS = {
    "report": Command(
        "All figures and tables of a sweep's records, with the claims and numbers of the paper that it is about: one HTML\n"
        "page, and each as PNG, PDF, CSV and LaTeX. Scores are computed from the stored weights, once, and kept with their runs\n"
        "in MLflow.",
        _report, "--name mine --out report", (PAPER, *SCORE_FLAGS, NO_SCORES, SEARCH, *PICTURES), "report",
        (PAPER, SEARCH, DRAWS_FLAG, NO_SCORES),
    ),
    **{
        name: Command(row.about, _figure, f"--name mine {row.example}".strip(), (PAPER, *row.all_flags))
        for name, row in FIGURES.items()
    },
    "search": Command(
        "Draw a hyperparameter search's history, importances, parallel coordinates, slices and Pareto front, and list its best\n"
        "settings, from Optuna's studies and MLflow's runs; each figure as PNG, PDF and CSV.",
        _search, "--name tuning", (OPTUNA,),
    ),
}  # fmt: skip
FORMER = {"cluster_table": "clusters"}  # names of scripts that are no longer those of their commands


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 0, 1 where a part failed as nobody foresaw, or 2 after a sentence on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        return run_command(words[0], words[1:])
    listed = two_columns(
        {name: first_sentence(command.about) for name, command in COMMANDS.items()}
        | {"papers": "The papers here, side by side."}
    )
    names = Parser(
        name="figures",
        description=f"Draw what sweeps recorded.\n\nNAME is one of:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names.add_argument("command", metavar="NAME", choices=(*COMMANDS, "papers"), help="--help after it lists its flags")
    names.parse_args(words if words[:1] == ["papers"] else words[:1] or ["--help"])
    print(papers_side_by_side())
    return 0


def script(path: str) -> Callable[..., int]:
    """The command of a script or an installed program of that name: ``mse_curves.py``, ``fishernet-mse-curves``."""
    name = Path(path).stem.removeprefix("fishernet-")
    command = FORMER.get(name, name.removesuffix("-figures")).replace("_", "-")

    @entry_point
    def of_name(argv: Sequence[str] | None = None) -> int:
        return run_command(command, list(sys.argv[1:] if argv is None else argv))

    return of_name


def installed() -> int:
    """The command of the installed program that this was started as."""
    return script(sys.argv[0])()


def run_command(name: str, words: Sequence[str]) -> int:
    """That command with these flags."""
    options = make_parser(name).parse_args(words)
    return run(lambda: COMMANDS[name].run(name, options))


def make_parser(name: str) -> Parser:
    """Of the command of that name; ``fishernet`` has figures under ``figures``, and what else there is by its own name."""
    row = COMMANDS[name]
    figure = name == "search" or (name in FIGURES and not FIGURES[name].alone)
    whole = f"figures {name}" if figure else name
    return parser(whole, row.about, row.example, row.flags, row.folder, row.usual)


def run(analysis: Callable[[], int | None]) -> int:
    """Run the analysis; return its status, 0 where it gives none, or after a line on stderr 2 when what was asked for cannot be
    drawn, 130 when interrupted.
    """
    set_environment(READING)
    try:
        try:
            importlib.import_module("analysis.frame")  # here, as pandas and MLflow take seconds to import
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


def papers_side_by_side() -> str:
    """The papers here: citation, commands, models, how many runs each preset is, and the claims."""
    claims_of = pkgutil.resolve_name("analysis.figures.claims:claims_of")
    shown = []
    for paper in PAPERS.values():
        claims = claims_of(paper).CLAIMS
        commands = "".join(
            f"  command   fishernet sweep --preset {name}\n"
            f"  models    {_lines(preset['models'])} on {preset.get('dataset', paper.dataset)}, "
            f"d = {preset['latent_dims']}: {n_runs(preset)} runs\n"
            for name, preset in paper.all_presets.items()
        )
        shown.append(
            f"{paper.name}\n  {paper.citation}\n{commands}  claims    {', '.join(claim.id for claim in claims)}\n"
        )
    return "\n".join(shown)


def _lines(models: Sequence[str]) -> str:
    """Few lines by their fields, many by how many there are of each model."""
    if len(models) <= MOST_LINES:
        return ", ".join(models)
    counts = Counter(model.partition(":")[0] for model in models)
    return f"{len(models)} lines: {', '.join(f'{n} of {model}' for model, n in counts.items())}"


if __name__ == "__main__":
    sys.exit(main())
