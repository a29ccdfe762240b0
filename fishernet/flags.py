"""What the command lines of all packages share."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fishernet


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations, and no ``--flag=--``, which argparse makes an empty list of.

    In a path ``~`` is the home, which a shell leaves alone after an equals sign; ``1_000`` is no number. Words are text in
    UTF-8, as MLflow and Ray keep them.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)
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
        return super().parse_args(words, namespace)


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
