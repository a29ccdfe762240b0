"""How output says lists and ranges."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping

MOST_NAMES = 3  # of those that share a reason; of more how many there are
NARROWEST, WIDEST = 60, 120  # characters of a line of help, between which it fills the terminal
RUN_ID = re.compile(r"[0-9a-f]{32}")  # as MLflow makes it, in the name of a traceback's file


def listed(values: Iterable[object]) -> str:
    """``2, 5, 10``; numbers without trailing zeros."""
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def grouped(reasons: Iterable[tuple[str, str]], noun: str = "runs") -> list[tuple[str, str]]:
    """Pairs of what and why, those with one reason as one: ``("30 runs", why)``, up to three by their names.

    Reasons that differ in nothing but what they name, or in a run's id, are one too; the first is given and said to be that.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for what, why in reasons:
        groups.setdefault(RUN_ID.sub("", why.replace(what, "")), []).append((what, why))
    pairs = []
    for group in groups.values():
        names, whys = [what for what, _ in group], [why for _, why in group]
        named = listed(names) if len(group) <= MOST_NAMES else f"{len(group)} {noun}"
        of_first = f" (of {names[0]})" if len(set(whys)) > 1 and names[0] not in whys[0] else ""
        pairs.append((named, whys[0] + of_first))
    return pairs


def first_sentence(text: str) -> str:
    """What stands before the first ``.``, ``!`` or ``?`` that a space follows, that mark included, on one line."""
    return re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0].replace("\n", " ")


def two_columns(rows: Mapping[str, str]) -> str:
    """Names and what is said of each, as lines of help: as wide as the terminal, in the second column where they go on."""
    width = min(max(shutil.get_terminal_size().columns - 2, NARROWEST), WIDEST)
    first = max(map(len, rows)) + 4
    return "\n".join(
        textwrap.fill(about, width, initial_indent=f"  {name:<{first - 2}}", subsequent_indent=" " * first,
                      break_long_words=False, break_on_hyphens=False)
        for name, about in rows.items()
    )  # fmt: skip
