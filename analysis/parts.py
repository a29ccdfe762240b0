"""Parts of a page or of a sweep's end, each by itself: one that cannot be had takes no other along, whatever it raises."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from analysis.errors import AnalysisError

if TYPE_CHECKING:
    from analysis.exhibits import Exhibit


class Part(NamedTuple):
    """An exhibit, or several that share their numbers, to be made when its turn comes; stem and title are of what stands there
    where it cannot be made.
    """

    stem: str
    title: str
    make: Callable[[], Exhibit | Iterable[Exhibit | Part]]


class Failures:
    """Counts the parts that failed in a way that nobody foresaw, and keeps their tracebacks in ``folder``, else on stderr.

    ``passing``: exceptions that are not caught, as the caller knows what to do.
    """

    def __init__(self, folder: Path | None = None, *, passing: tuple[type[Exception], ...] = ()) -> None:
        self.folder, self.passing, self.n = folder, passing, 0

    @property
    def status(self) -> int:
        """The exit status: 1 where a part failed."""
        return int(self.n > 0)

    @contextmanager
    def part(
        self, stem: str, say: Callable[[str], object], *, passing: tuple[type[Exception], ...] | None = None
    ) -> Iterator[None]:
        """Run the block; where it raises, ``say`` gets a sentence on why. An AnalysisError is foreseen, and its own sentence."""
        try:
            yield
        except Exception as error:  # KeyboardInterrupt is none
            cause = getattr(error, "cause", None) or error  # of what Ray's workers raise
            if isinstance(cause, self.passing if passing is None else passing):
                raise
            if isinstance(cause, AnalysisError):
                say(str(cause))
                return
            self.n += 1
            text = " ".join(str(cause).split())[:300]
            say(f"{type(cause).__name__}{f': {text}' if text else ''}; {self._keep(stem)}.")

    def exhibits(self, stem: str, title: str, make: Callable[[], Exhibit | Iterable[Exhibit | Part]]) -> list[Exhibit]:
        """What ``make`` gives, each Part by itself; where one cannot be had, the reason in its place."""
        from analysis.exhibits import Absent  # pandas and matplotlib, which a driver does without until it draws

        made: list[Exhibit] = []
        with self.part(stem, lambda why: made.append(Absent(stem, title, why))):
            found = make()
            for item in found if isinstance(found, Iterable) else [found]:
                made += self.exhibits(*item) if isinstance(item, Part) else [item]
        return made

    def _keep(self, stem: str) -> str:
        if self.folder is not None:
            path = self.folder / f"traceback-{stem}.txt"
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                path.write_text(traceback.format_exc(), encoding="utf-8")
            except OSError:
                pass
            else:
                return f"the traceback is in {path}"
        traceback.print_exc(file=sys.stderr)
        return "the traceback is on standard error"


def all_of(parts: Iterable[Exhibit | Part]) -> Iterator[Exhibit]:
    """Every exhibit of the parts; raises what they raise."""
    for item in parts:
        if not isinstance(item, Part):
            yield item
            continue
        made = item.make()
        if isinstance(made, Iterable):
            yield from all_of(made)
        else:
            yield made
