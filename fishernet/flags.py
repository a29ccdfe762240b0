"""What the command lines of all packages share."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fishernet
from fishernet.commands import typed_as
from fishernet.spelling import did_you_mean


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations, and no ``--flag=--``, which argparse makes an empty list of.

    In a path ``~`` is the home, which a shell leaves alone after an equals sign; ``1_000`` is no number. Words are text in
    UTF-8, as MLflow and Ray keep them. A misspelt flag or choice is answered with the nearest.

    ``name`` is that of the command among ``fishernet``'s. Where some flags are ``usual``, ``--help`` shows these alone, and
    ``--help-all`` every flag.
    """

    def __init__(self, *, name: str = "", usual: Collection[str] = (), **kwargs: Any) -> None:
        prog = typed_as(name)
        if usual:
            kwargs["usage"] = f"{prog} [--FLAG VALUE ...]"
        super().__init__(prog=prog, allow_abbrev=False, **kwargs)
        # As argparse has it, "-6.5" is a value of the flag before it, and "-6.5..-1" and "-0.1,0.2" are flags themselves.
        self._negative_number_matcher = re.compile(r"-\.?\d")
        self.usual = {*usual, "-h", "--help-all"} if usual else set()
        self.add_argument("--help-all", action=_HelpAll, shown=bool(usual))
        self.add_argument("--version", action=_Version)
        for kind in (int, float):
            self.register("type", kind, number(kind))
        self.register("type", Path, lambda text: Path(os.path.expanduser(text)))  # noqa: PTH111 (for a word like ~nobody)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        words = sys.argv[1:] if args is None else args
        if word := next((word for word in words if word.startswith("--") and word.endswith("=--")), None):
            self.error(f"{word.removesuffix('=--')} takes a value; got '--'")
        for before, word in zip(["", *words], words, strict=False):
            if any("\ud800" <= letter <= "\udfff" for letter in word):
                flag = word.partition("=")[0] if word.startswith("--") else before
                self.error(f"{flag.encode('ascii', 'backslashreplace').decode()} takes text in UTF-8; got {word!a}")
        names = [name for action in self._actions for name in action.option_strings[:1]]  # without aliases
        for word in words[: words.index("--") if "--" in words else None]:
            flag = word.partition("=")[0]
            if (
                flag.startswith("--") and flag not in self._option_string_actions
            ):  # ahead of what may be missing beside it
                self.error(f"unrecognized arguments: {flag}{did_you_mean(flag, names)}")
        return super().parse_args(words, namespace)

    def format_help(self) -> str:
        """Of the usual flags, where some are."""
        with self._usual_alone():
            return super().format_help()

    @contextmanager
    def _usual_alone(self) -> Iterator[None]:
        """Hide the other flags, and groups that have none else."""
        hidden = [a for a in self._actions if self.usual and not self.usual & {*a.option_strings}]
        helps, abouts = [a.help for a in hidden], [group.description for group in self._action_groups]
        for action in hidden:
            action.help = argparse.SUPPRESS
        for group in self._action_groups:
            if self.usual and all(a.help is argparse.SUPPRESS for a in group._group_actions):
                group.description = None
        yield
        for action, text in zip(hidden, helps, strict=True):
            action.help = text
        for group, about in zip(self._action_groups, abouts, strict=True):
            group.description = about

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += did_you_mean(str(value), map(str, action.choices or ()))
            raise


class Listed(argparse.Action):
    """``--latent-dims 2,4 8`` as ``2,4,8``: values with commas or spaces between. ``type`` takes them all as one text."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, type: Callable[[str], Any] = str, **kwargs: Any
    ) -> None:
        super().__init__(option_strings, dest, nargs="+", **kwargs)
        self.of_text = type

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        text = values[0] if len(values) == 1 else ",".join(word.strip(",") for word in values)  # "3," is seed 3 alone
        try:
            setattr(namespace, self.dest, self.of_text(text))
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None


class _HelpAll(argparse.Action):
    """``--help-all`` prints the help of every flag and ends."""

    def __init__(self, option_strings: Sequence[str], dest: str, shown: bool) -> None:
        about = "show every flag and exit" if shown else argparse.SUPPRESS  # the same as --help where all are usual
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=about)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        assert isinstance(parser, Parser)
        parser.usual = set()
        parser.print_help()
        parser.exit()


class _Version(argparse.Action):
    """``--version`` prints fishernet's version and ends; it is looked up then alone."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help="print it and end")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"fishernet {fishernet.__version__}")
        parser.exit()


def number(kind: type[int] | type[float]) -> Callable[[str], float]:
    """The type ``kind`` of a flag, without the underscores that Python lets stand between digits."""

    def typed(text: str) -> float:
        if "_" in text:
            raise ValueError
        return kind(text)

    typed.__name__ = kind.__name__  # which argparse says
    return typed


def checkpoint_interval(text: str) -> int:
    """--checkpoint-every: ``auto`` as 0, or a number of epochs; raises ArgumentTypeError."""
    if text == "auto":
        return 0
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"auto, or a number of epochs between checkpoints, at least 1; got {text!r}")
    return int(text)
