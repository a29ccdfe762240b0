"""Ctrl-C and SIGTERM (a cluster's scheduler, ``docker stop``) end a command in the same way, whatever it is doing."""

import atexit
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn, TextIO

Handler = Callable[[int, FrameType | None], object]  # of a signal


def exit_at_once(before: Callable[[], object] = bool) -> None:
    """While there is nothing to close; ``before`` is called first. Also while a thread imports: a KeyboardInterrupt amid imports
    comes out as errors of their own (numpy, scipy), or leaves the lock of all imports taken for ever.
    """

    def leave_at_once(*_: object) -> None:
        try:
            with suppress(OSError):  # in `command 2>&1 | tee log` Ctrl-C ends tee as well
                os.write(2, b"interrupted before anything was started\n")
            before()
        finally:
            os._exit(130)

    _answer(leave_at_once)


def raise_keyboard_interrupt() -> None:
    """Once there is something to close."""
    _answer(signal.default_int_handler)


def ignore() -> None:
    """For the moment in which the interpreter ends: all is written, and the exit status is decided."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Lasting:
    """A stream that loses what cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def outlive_readers() -> None:
    r"""From now on nothing that is printed stops anything, nor does a stream that is not there.

    What goes to a reader that has gone, or to a full disk, is lost: Ctrl-C ends the tee of `| tee log` too. A character that the
    stream's encoding lacks is written as its number, as ``\xb1``. A stream that was closed before Python started is os.devnull,
    as a file that is opened later would get its number, and what libraries print.
    """
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
        if mode == "w" and not isinstance(stream := getattr(sys, name), _Lasting):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, _Lasting(stream))


def leave(status: int) -> NoReturn:
    """End the process once all is written and closed: what is registered with atexit, and no more of the interpreter's end.

    The rest would look for two seconds through all that torch, Ray and MLflow have made, and threads of a Ray that was
    interrupted while it started have crashed in it.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it has gone
            stream.flush()
    os._exit(status)


def _answer(handler: Handler) -> None:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as a shell's & has it
        signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, lambda *_: _as_ctrl_c(handler))


def _as_ctrl_c(handler: Handler) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        handler(signal.SIGTERM, None)
    else:
        signal.raise_signal(signal.SIGINT)  # while it trains, Ray Tune has a handler of its own
