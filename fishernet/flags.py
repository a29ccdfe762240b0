"""What the command lines of all packages share."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations, and no ``--flag=--``, which argparse makes an empty list of."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        words = sys.argv[1:] if args is None else args
        if word := next((word for word in words if word.startswith("--") and word.endswith("=--")), None):
            self.error(f"{word.removesuffix('=--')} takes a value; got '--'")
        return super().parse_args(words, namespace)


def checkpoint_interval(text: str) -> int:
    """--checkpoint-every: ``auto`` as 0, or a number of epochs; raises ArgumentTypeError."""
    if text == "auto":
        return 0
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"auto, or a number of epochs between checkpoints, at least 1; got {text!r}")
    return int(text)
