"""The command ``fishernet``, also ``python -m fishernet``: it starts one of the others by its name, each imported only then."""

import sys

if __name__ == "__main__":  # ahead of the imports, in which Ctrl-C would be a traceback
    if not __package__:  # started by its path: its own folder leads sys.path, and the packages are beside that folder
        sys.path[0] = __file__.rpartition("fishernet")[0] or "."
    from fishernet.interrupts import exit_at_once

    exit_at_once()

import argparse
import importlib
import re
from collections.abc import Sequence
from typing import Any

from fishernet import commands
from fishernet.flags import Parser
from fishernet.spelling import did_you_mean
from fishernet.surroundings import entry_point

# Name -> (module with its ``main`` and ``make_parser``, what it does). By name: the packages of most stand above this one.
COMMANDS = {
    "sweep": ("sweeps.latent_sweep", "train models x latent dimensions x seeds as Ray Tune trials, recorded in MLflow"),
    "search": ("sweeps.hyperparameter_search", "find each model's best setting with Optuna, on validation images"),
    "list": ("sweeps.listing", "the sweeps and searches there are: runs, size, data set, date"),
    "delete": ("sweeps.deletion", "remove one everywhere: its runs and files in MLflow, its folder, its studies"),
    "train": ("fishernet.standalone_command", "train a plan on one device without Ray and MLflow"),
    "import": ("sweeps.import_records", "take the records of `train` into MLflow"),
}
ANALYSIS, FIGURES = "analysis.__main__", "figures"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of the command that the first word names; 2 after a sentence where it names none.

    Where --plan or --out come first, they are those of ``train``.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    own = words[:1] and words[0] in COMMANDS
    if words and words[0].startswith("--") and {word.partition("=")[0] for word in words} & {"--plan", "--out"}:
        words, own = ["train", *words], ["train"]
    if own:
        module, rest = COMMANDS[words[0]][0], words[1:]
    elif words and (words[0] == FIGURES or words[0] in analyses()):
        module, rest = ANALYSIS, words[1:] if words[0] == FIGURES else words
    else:
        return int(_itself(argv))
    if argv is None:  # it has the process to itself
        sys.argv[1:] = rest
    status: int = importlib.import_module(module).main(None if argv is None else rest)
    return status


@entry_point
def _itself(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser()
    if words and not words[0].startswith("-"):
        figures = importlib.import_module(ANALYSIS).COMMANDS
        known = {**{name: name for name in [*COMMANDS, *analyses(), FIGURES]}, **{f: f"{FIGURES} {f}" for f in figures}}
        meant = f". Did you mean {known[words[0]]}?" if words[0] in known else did_you_mean(words[0], known)
        parser.error(f"there is no command {words[0]}{meant}")
    asked = parser.parse_args(words or ["--help"])
    if asked.print_completion:
        from fishernet.completion import completion

        made = {name: importlib.import_module(module).make_parser() for name, (module, _) in COMMANDS.items()}
        row = importlib.import_module(ANALYSIS)
        for name in row.COMMANDS:
            made[name if name in analyses() else f"{FIGURES} {name}"] = row.make_parser(name)
        try:
            print(completion(asked.print_completion, parser, made))
        except ModuleNotFoundError:
            parser.error("--print-completion needs the package shtab, which is not installed here: pip install shtab")
    return 0


def make_parser() -> Parser:
    """Of the command itself: help, version, completion."""
    row = importlib.import_module(ANALYSIS)
    listed = {name: about for name, (_, about) in COMMANDS.items()}
    for name in [name for name in analyses() if name in row.COMMANDS]:  # of the first sentence what fits a line
        first = re.split(r"[,.:]\s", row.COMMANDS[name].about.replace("\n", " "))[0]
        listed[name] = first[0].lower() + first[1:]
    listed |= {
        "papers": "the papers here, side by side",
        FIGURES: f"one figure or table by name; {FIGURES} alone lists them",
    }
    width = max(map(len, listed)) + 2
    parser = Parser(
        usage=f"{commands.typed_as('COMMAND')} ...",
        description="Probabilistic autoencoders over latent dimensions, models and seeds.\n\nCOMMAND is one of:\n"
        + "\n".join(f"  {name:<{width}}{about}" for name, about in listed.items()),
        epilog="COMMAND --help lists its flags. Without a COMMAND, --plan FILE --out FOLDER are flags of train.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--print-completion", choices=("bash", "zsh", "tcsh"), metavar="SHELL",
        help="print what completes these commands in bash, zsh or tcsh, and exit",
    )  # fmt: skip
    return parser


def analyses() -> list[str]:
    """The analyses that are commands of their own: those whose row says so, and all that are no figures, such as the report."""
    row: Any = importlib.import_module(ANALYSIS)
    figures = {name for name, figure in row.FIGURES.items() if not figure.alone}
    return [name for name in (*row.COMMANDS, "papers") if name not in figures and name not in COMMANDS]


if __name__ == "__main__":
    sys.exit(main())
