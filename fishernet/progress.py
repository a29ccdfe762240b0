"""How far training is: one live line on a terminal; in a file a plain line at once, at the first epoch, and each minute."""

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Self, TextIO

LINE_SECONDS = 60.0  # between plain lines
REDRAW_SECONDS = 0.5


@contextmanager
def repeating(do: Callable[[], object], seconds: float) -> Iterator[None]:
    """While the block runs, call ``do`` every so many seconds, in a thread of its own."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            do()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def is_live(stream: TextIO) -> bool:
    """Whether a line can be drawn over another there: on a terminal that can clear one."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


class Progress:
    """Counts runs and epochs and redraws a line twice a second, or, where it is no terminal, writes one every ``seconds``.

    7/24 runs  312/1440 epochs  41.3 epochs/s  0:27 left  best test MSE A 0.0123, B 0.0145
    """

    def __init__(
        self,
        n_runs: int,
        n_epochs: int,
        held_out: str,
        stream: TextIO | None = None,
        seconds: float = LINE_SECONDS,
        note: str = "",
    ) -> None:
        stream = stream or sys.stderr  # asked for now: one that was closed has been replaced since the import
        self.n_runs, self.n_epochs, self.held_out, self.stream = n_runs, n_epochs, held_out, stream
        self.runs_done = self.epochs_done = self.failed = self.stopped_early = 0
        self.best: dict[str, float] = {}
        self.note = note  # until the first epoch
        self._first: tuple[float, int] | None = None
        self.live, self._seconds = is_live(stream), seconds
        self._lock, self._stack = threading.Lock(), ExitStack()

    def __enter__(self) -> Self:
        if self.live:
            self._stack.callback(lambda: self._write(""))
            self._stack.enter_context(repeating(lambda: self._write(self.line()), REDRAW_SECONDS))
        else:
            if self.note:
                self.say_line()
            self._stack.enter_context(repeating(self.say_line, self._seconds))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def advance(self, variant: str, n_epochs: int, mse: float | None) -> None:
        """Count epochs of one run; mse is its newest, None where it was not evaluated."""
        begins = bool(self.note)
        self.note = ""
        started, not_timed = self._first or (time.monotonic(), n_epochs)
        # Several at once are the history of a resumed run: trained before, so they say nothing about the speed now.
        self._first = (started, not_timed + n_epochs if self._first and n_epochs > 1 else not_timed)
        self.epochs_done += n_epochs
        if mse is not None:
            self.best[variant] = min(mse, self.best.get(variant, mse))
        if begins and not self.live:
            self.say_line()

    def leave_out(self, n_epochs: int) -> None:
        """So many epochs will not be trained after all."""
        self.n_epochs -= n_epochs

    def say(self, message: str) -> None:
        """A line that stays, above the live one."""
        with self._lock, suppress(OSError, ValueError):  # a terminal that is gone stops no training
            print(("\r\x1b[K" if self.live else "") + message, file=self.stream, flush=True)

    def say_line(self) -> None:
        """The line as it is now, with the time, as one that stays."""
        self.say(f"{time.strftime('%H:%M')}  {self.line()}")

    def line(self) -> str:
        parts = [f"{self.runs_done}/{self.n_runs} runs", f"{self.epochs_done}/{self.n_epochs} epochs"]
        if self.stopped_early:
            parts.append(f"{self.stopped_early} stopped early")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self._first and (elapsed := time.monotonic() - self._first[0]) > 1:
            speed = (self.epochs_done - self._first[1]) / elapsed
            parts.append(f"{speed:.3g} epochs/s")
            if speed:
                left = int((self.n_epochs - self.epochs_done) / speed)
                parts.append(f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left")
        if self.best:
            best = ", ".join(f"{variant} {mse:#.3g}" for variant, mse in sorted(self.best.items()))
            parts.append(f"best {self.held_out} MSE {best}")
        return "  ".join([*parts, *([self.note] if self.note else [])])

    def _write(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        with self._lock, suppress(OSError, ValueError):
            self.stream.write(f"\r\x1b[K{text[:width]}")
            self.stream.flush()
