"""Ctrl-C and SIGTERM (a cluster's scheduler, ``docker stop``) end a command in the same way, whatever it is doing."""

import os
import signal
from typing import Any


def exit_at_once() -> None:
    """While there is nothing to close. A KeyboardInterrupt amid imports of numpy or scipy comes out as errors of their own."""
    _answer(_exit)


def raise_keyboard_interrupt() -> None:
    """Once there is something to close; to be said again after ``ray.init``, which has an answer to SIGTERM of its own."""
    _answer(signal.default_int_handler)


def ignore() -> None:
    """For the moment in which the interpreter ends: all is written, and the exit status is decided."""
    _answer(signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _answer(handler: Any) -> None:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as a shell's & has it
        signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, lambda *_: _as_ctrl_c(handler))


def _as_ctrl_c(handler: Any) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        handler(signal.SIGTERM, None)
    else:
        signal.raise_signal(signal.SIGINT)  # while it trains, Ray Tune has a handler of its own


def _exit(*_: Any) -> None:
    os.write(2, b"interrupted before anything was started\n")
    os._exit(130)
