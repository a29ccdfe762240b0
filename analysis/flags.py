"""Flags of the analyses as rows of tables have them, and those that all commands share. Nothing slow is imported."""

import argparse
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from analysis.errors import AnalysisError
from analysis.papers import PAPERS, Arguments
from fishernet.commands import typed_as
from fishernet.flags import Parser
from fishernet.plan import parse_numbers
from fishernet.services.mlflow_store import DEFAULT_STORAGE
from fishernet.spelling import did_you_mean


@dataclass(frozen=True)
class Flag:
    """A flag; ``options`` are ``add_argument``'s. It is the keyword argument of its name in what the row names."""

    name: str
    options: Arguments

    @property
    def keyword(self) -> str:
        """``--latent-dims`` as ``latent_dims``."""
        return self.name.removeprefix("--").replace("-", "_")

    def checked(self, value: object) -> object:
        """A value given in Python, as the command line would have made it of text; raises AnalysisError naming the argument."""
        kind, choices = self.options.get("type", str), self.options.get("choices")
        several = isinstance(value, list | tuple)
        items = [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
        try:
            if "nargs" in self.options:
                return items
            if isinstance(value, bool) or (several and (kind in (int, str) or not items)):
                raise ValueError
            made = kind(",".join(items))
        except argparse.ArgumentTypeError as error:
            raise AnalysisError(f"{self.keyword} takes {error}.") from None
        except ValueError:
            takes = "a whole number" if kind is int else "one value" if several else "a value"
            raise AnalysisError(f"{self.keyword} ({self.options['help']}) takes {takes}; got {value!r}.") from None
        if choices and made not in choices:
            raise AnalysisError(
                f"{self.keyword} is one of {', '.join(map(str, choices))}; got {value!r}"
                + (did_you_mean(str(made), map(str, choices)) or ".")
            )
        return made


def dims(text: str, most: int | None = None) -> list[int]:
    """``2,5,10-20`` as numbers from 1, up to ``most`` of them."""
    try:
        found = parse_numbers(text) if all(part.strip() for part in text.split(",")) else []
    except ValueError:
        found = []
    if not found or found[0] < 1 or (most and len(found) > most):
        some = f"up to {most} latent dimensions" if most else "latent dimensions"
        raise argparse.ArgumentTypeError(f"{some} with commas between, as in 2,5,10; got {text!r}")
    return found


def count(text: str, least: int = 1) -> int:
    """A whole number from ``least``."""
    if not text.isdecimal() or len(text) > 9 or int(text) < least:
        raise argparse.ArgumentTypeError(f"a whole number from {least}; got {text!r}")
    return int(text)


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"a number above 0; got {text!r}")
    return number


def levels(text: str, most: float = math.inf) -> list[float]:
    """``0.1,0.5`` as numbers from 0 to ``most``, each once, ascending."""
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(0 <= level <= most and math.isfinite(level) for level in found):
        bounds = f"from 0 to {most:g}" if math.isfinite(most) else "of at least 0"
        raise argparse.ArgumentTypeError(f"numbers {bounds} with commas between, as in 0.1,0.5; got {text!r}")
    return found


PLACE = (
    Flag("--name", {"metavar": "SWEEP", "help": "the sweep to draw; default: the one started last"}),
    Flag(
        "--tracking-uri",
        {
            "metavar": "URI",
            "help": "MLflow's records, sqlite:///PATH or http://HOST:PORT; default: $MLFLOW_TRACKING_URI, else "
            f"sqlite:///{DEFAULT_STORAGE}/mlflow.db",
        },
    ),
)
PAPER = Flag(
    "--paper",
    {
        "choices": (*PAPERS, "none"),
        "help": "the paper whose figure numbers, published numbers and claims are shown, or none; default: the one whose "
        "preset was trained, or whose data and model",
    },
)
PICTURES = (  # of what is drawn from stored models
    Flag(
        "--data-dir",
        {
            "type": os.path.expanduser,
            "metavar": "FOLDER",
            "help": "where the data sets are; default: $FISHERNET_DATA_DIR, else ~/.cache/fishernet",
        },
    ),
    Flag(
        "--seed",
        {"type": int, "metavar": "N", "help": "the seed whose run pictures show; default: the lowest of each"},
    ),
)


def parser(
    name: str, description: str, example: str, flags: Iterable[Flag], folder: str, usual: Iterable[Flag] = ()
) -> Parser:
    """A parser with --name, --tracking-uri, --out, whose default is ``folder``, and these flags, each once.

    Of ``flags`` the ``usual`` ones alone are shown at first, where some are; the other arguments are the Parser's.
    """
    shown = [flag.name for flag in usual]
    made = Parser(
        name=name,
        usual=["--name", "--tracking-uri", "--out", *shown] if shown else [],
        description=description,
        epilog=f"example:\n  {typed_as(name)} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    help_of_out = f"where figures and CSV files go; default: {DEFAULT_STORAGE}/SWEEP/{folder}"
    out = Flag("--out", {"metavar": "FOLDER", "type": Path, "help": help_of_out})
    for flag in {flag.name: flag for flag in (*PLACE, out, *flags)}.values():
        made.add_argument(flag.name, **flag.options)
    return made


def given(options: argparse.Namespace, flags: Iterable[Flag]) -> dict[str, object]:
    """The keyword arguments that these flags were given."""
    return {flag.keyword: value for flag in flags if (value := getattr(options, flag.keyword)) is not None}
