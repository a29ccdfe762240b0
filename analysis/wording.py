"""How analyses say lists and ranges."""

from __future__ import annotations

from collections.abc import Iterable


def listed(values: Iterable[object]) -> str:
    """``2, 5, 10``; numbers without trailing zeros."""
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
