"""What a process finds around it, made harmless before a library reads it: variables, streams, home, rights of new files.

Others set these for programs of their own (Jupyter, SLURM, a service manager, a proxy); torch, Ray, MLflow and matplotlib read
them when they are imported. Every command begins here.
"""

import functools
import getpass
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from fishernet import interrupts

# Whatever the user has set: figures need no screen and look the same everywhere, a record is written when MLflow has answered,
# and what a process of Ray's prints cannot end it.
VARIABLES = {
    "MPLBACKEND": "agg",
    "MATPLOTLIBRC": os.devnull,
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "PYTHONIOENCODING": "utf-8:backslashreplace",
}
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


def entry_point(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """A command's ``main``. Without arguments it has the process to itself: settled before, and ended with its status."""

    @functools.wraps(main)
    def whole(argv: Sequence[str] | None = None) -> int:
        if argv is not None:
            return main(argv)
        begin_again_in_utf8()
        settle()
        try:
            return interrupts.leave(main(None))
        except SystemExit as end:  # argparse's
            return interrupts.leave(int(end.code or 0))

    return whole


def begin_again_in_utf8() -> None:
    """Start this process's command line once more where words and file names are no UTF-8: in a locale without it.

    There ``--name größe`` would be another name, or none that can be written down. What is printed keeps its encoding.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.environ.setdefault("PYTHONIOENCODING", getattr(sys.stdout, "encoding", None) or "utf-8")
        os.execv(sys.executable, sys.orig_argv)


def settle() -> None:
    """Make this process's surroundings harmless; ends it with a sentence and status 2 where that cannot be."""
    interrupts.outlive_readers()
    os.umask(os.umask(0) & 0o077)  # whoever makes a file may read and write it
    os.environ.update(VARIABLES)
    # PYTHONWARNINGS=error and -W error: a library's deprecation of another would end either.
    os.environ.pop("PYTHONWARNINGS", None)
    warnings.filters[:] = [rule for rule in warnings.filters if rule[0] != "error"]  # type: ignore[index]
    try:
        Path.cwd()
    except OSError as error:
        _refuse(f"the current folder is gone or cannot be read ({error.strerror}); start the command in another one")
    if os.path.expanduser("~") == "~":  # noqa: PTH111 (a user without a home, for whom Path.home raises)
        os.environ["HOME"] = str(Path("fishernet-results").absolute())
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        os.environ["LOGNAME"] = f"user-{os.getuid()}"
    # No variable keeps matplotlib from reading this one.
    try:
        Path("matplotlibrc").read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        pass
    except (OSError, ValueError) as error:
        _refuse(
            f"the file matplotlibrc in the current folder cannot be read ({error}), without which matplotlib does not start "
            "there; rename it, or start the command in another folder"
        )


def wrong_variable(variables: Iterable[Any]) -> str:
    """Which of MLflow's variables (``mlflow.environment_variables``) holds what it cannot take, as a sentence; empty if none."""
    for variable in variables:
        if os.environ.get(str(getattr(variable, "name", ""))):  # the module has other things, too
            try:
                variable.get()
            except (ValueError, TypeError) as error:
                return f"the variable {variable.name} holds what MLflow cannot take ({error}); correct or unset it"
    return ""


def pass_by_proxy(uri: str) -> None:
    """A server on this machine is reached without a proxy, on which the same address would mean the proxy's own machine."""
    if urlsplit(uri).hostname in LOCAL_HOSTS:
        kept = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        os.environ["no_proxy"] = ",".join(filter(None, [kept, *LOCAL_HOSTS]))


def proxy_of(uri: str) -> str:
    """The proxy by which requests to that server go; empty where they go there straight."""
    parts = urlsplit(uri)
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all") or ""
    found = found if "://" in found or not found else f"http://{found}"
    return "" if not found or proxy_bypass(f"{parts.hostname}:{parts.port or ''}".rstrip(":")) else found


def _refuse(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    interrupts.leave(2)
