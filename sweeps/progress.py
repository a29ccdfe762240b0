"""One live line while a sweep runs; silent where the output is no terminal."""

import os
import shutil
import sys
import threading
import time
from contextlib import suppress
from typing import Self, TextIO


class Progress:
    """Counts runs and epochs and redraws a line twice a second.

    7/24 runs  312/1440 epochs  41.3 epochs/s  best test MSE FisherNet 0.0123, VAE 0.0145  0:27 left
    """

    def __init__(self, n_runs: int, n_epochs: int, held_out: str, stream: TextIO | None = None) -> None:
        stream = stream or sys.stderr  # asked for now: one that was closed has been replaced since the import
        self.n_runs, self.n_epochs, self.held_out, self.stream = n_runs, n_epochs, held_out, stream
        self.runs_done = self.epochs_done = self.failed = self.stopped_early = 0
        self.best: dict[str, float] = {}
        self.note = "starting workers (half a minute the first time)"
        self._first: tuple[float, int] | None = None
        self._live = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"  # which cannot clear a line
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._draw_until_stopped, daemon=True)

    def __enter__(self) -> Self:
        if self._live:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        if self._live:
            self._thread.join()
            self._write("")

    def advance(self, variant: str, n_epochs: int, mse: float | None) -> None:
        """Count epochs of one run; mse is its newest, None where it was not evaluated."""
        self.note = ""
        started, not_timed = self._first or (time.monotonic(), n_epochs)
        # Several at once are the history of a resumed run: trained before, so they say nothing about the speed now.
        self._first = (started, not_timed + n_epochs if self._first and n_epochs > 1 else not_timed)
        self.epochs_done += n_epochs
        if mse is not None:
            self.best[variant] = min(mse, self.best.get(variant, mse))

    def leave_out(self, n_epochs: int) -> None:
        """So many epochs will not be trained after all."""
        self.n_epochs -= n_epochs

    def say(self, message: str) -> None:
        """A line that stays, above the live one."""
        with self._lock, suppress(OSError, ValueError):  # a terminal that is gone stops no training
            print(("\r\x1b[K" if self._live else "") + message, file=self.stream, flush=True)

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
            best = ", ".join(f"{variant} {mse:.4f}" for variant, mse in sorted(self.best.items()))
            parts.append(f"best {self.held_out} MSE {best}")
        return "  ".join([*parts, *([self.note] if self.note else [])])

    def _draw_until_stopped(self) -> None:
        while not self._stopped.wait(0.5):
            self._write(self.line())

    def _write(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        with self._lock, suppress(OSError, ValueError):
            self.stream.write(f"\r\x1b[K{text[:width]}")
            self.stream.flush()
