"""What a process finds around it, made harmless before a library reads it: variables, streams, home, rights of new files.

Others set these for programs of their own (Jupyter, SLURM, a service manager, a proxy); torch, Ray, MLflow and matplotlib read
them when they are imported. Every command begins here.
"""

import functools
import getpass
import os
import re
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
# A socket of Ray's: what comes behind its folder, and how many bytes of a path the system takes (sockaddr_un).
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107


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


def settle_private_ray() -> None:
    """Before Ray is imported to be started on this machine: none of its settings is another cluster's, or ends its processes.

    Of its settings numbers and switches are kept: a word where it expects a number ends Ray, and this process with it. Its files
    go to RAY_TMPDIR, else TMPDIR, where these can hold them, else to /tmp. Raises OSError where no folder can.
    """
    for name in [name for name in os.environ if name.startswith(("RAY_", "TUNE_")) and name != "RAY_TMPDIR"]:
        if not re.fullmatch(r"\d{1,9}|\d{1,9}\.\d+|true|false|disabled", os.environ[name]):
            del os.environ[name]
    asked = [os.environ[name] for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)]
    problems: list[str] = []
    for folder in [*asked, "/tmp"]:
        if not (problem := socket_problem(folder)):
            break
        problems.append(problem)
    else:
        raise OSError(f"{problems[0]}; set RAY_TMPDIR to a short path of a folder that can be written to")
    os.environ["RAY_TMPDIR"] = str(Path(folder).absolute())
    if problems:
        print(f"{problems[0]}; they go below {folder}", file=sys.stderr)


def socket_problem(folder: str) -> str:
    """Why Ray's sockets cannot be in that folder, as half a sentence; empty where they can. The folder is made."""
    path = Path(folder).absolute()
    if len(os.fsencode(path)) + len(SOCKET) > LONGEST_SOCKET:
        room = LONGEST_SOCKET - len(SOCKET)
        return f"the temporary folder {path} is too long a path for Ray's sockets, which leave it {room} bytes"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"the temporary folder {path} cannot be made ({error.strerror}), and Ray's sockets go there"
    if not os.access(path, os.W_OK | os.X_OK):
        return f"the temporary folder {path} cannot be written to, and Ray's sockets go there"
    return ""


def by_python_path(job_config: Any) -> Any:
    """The same ``ray.job_config.JobConfig`` for workers that import by PYTHONPATH alone.

    Ray would have them look first in the driver's current folder, where a file may have the name of one of these packages.
    """
    job_config._runtime_env_has_working_dir = lambda: True
    return job_config


def ray_start_error(error: BaseException) -> str:
    """Why Ray did not start on this machine, and what helps against that, as a sentence."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    said = f"Ray did not start on this machine ({reason})"
    if re.search(r"too many open files|Errno 24\b", reason, re.I):
        return f"{said}; allow more open files: ulimit -n 4096"
    if re.search(r"no space left|Errno 28\b|quota", reason, re.I):
        return f"{said}; make room there, or set RAY_TMPDIR to a short path of another folder"
    if re.search(r"Errno (13|30)\b", reason) and os.environ.get("RAY_TMPDIR", "/tmp") in reason:
        return f"{said}; set RAY_TMPDIR to a short path of a folder that can be written to"
    if re.search(r"cannot allocate|out of memory|Errno 12\b|resource temporarily|can't start new thread", reason, re.I):
        return f"{said}; free memory or end other processes, or raise the limits of this shell (ulimit -a)"
    if re.search(r"timed out|overloaded|Failed to (start|connect to|get) |start(ed)? successfully", reason):
        return f"{said}; is it very busy, or out of memory?"
    return said


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
