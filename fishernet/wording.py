"""How output says lists and ranges."""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST_NAMES = 3  # of those that share a reason; of more how many there are
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
