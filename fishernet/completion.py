"""What a shell needs to complete the commands: by shtab, from their own parsers."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from fishernet.data import DATASETS
from fishernet.families import FAMILIES, all_fields


def completion(shell: str, root: argparse.ArgumentParser, parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    """The shell's script; keys of ``parsers`` are the words of a command. Raises ModuleNotFoundError without shtab."""
    import shtab

    below = {"": root.add_subparsers(parser_class=argparse.ArgumentParser)}
    for words, made in parsers.items():
        for action in made._actions:
            _tell_values(action, shtab.FILE)
        group, _, name = words.rpartition(" ")
        if group not in below:
            below[group] = below[""].add_parser(group, help=group).add_subparsers()
        about = (made.description or "").partition("\n")[0].replace("%", "%%")
        below[group].add_parser(name, help=about, parents=[made], add_help=False)
    script: str = shtab.complete(root, shell)
    return script


def _tell_values(action: argparse.Action, file: object) -> None:
    """What may follow a flag: names where there are such, else files where it takes one."""
    field = all_fields().get(action.dest)
    if action.dest in ("models", "dataset"):
        action.choices = FAMILIES if action.dest == "models" else DATASETS
    elif field is not None and field.metadata["choices"]:
        action.choices = field.metadata["choices"]
    elif action.type is Path:
        action.complete = file  # type: ignore[attr-defined]  # shtab's
