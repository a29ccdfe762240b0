"""Commands as they are printed: to be pasted into any shell in any folder, and read by anyone."""

import os
import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = "fishernet"  # the command that has all others
# Set where a driver runs in a container (docker-compose.yml): what is typed outside before the driver's kind, which adds
# --address, --storage-path and the tracking server itself.
COMMAND_VARIABLE = "FISHERNET_COMMAND"
DRIVERS = {"sweep": "latent_sweep.py", "search": "hyperparameter_search.py"}  # kinds of experiments and what makes them


def python(*words: str) -> str:
    """``python WORDS`` with the Python that runs this."""
    return shlex.join([sys.executable, *words])


def script(path: str, *words: str) -> str:
    """The script at ``path`` of these packages' folder, such as analysis/report.py, with that Python."""
    return python(str(ROOT / path), *words)


def started_as() -> str:
    """``fishernet`` or ``python -m fishernet`` where one of these started this process, as their usage says it; else empty."""
    path = Path(sys.argv[0])
    if path.stem == INSTALLED:
        return INSTALLED
    return f"python -m {INSTALLED}" if path.parts[-2:] == (INSTALLED, "__main__.py") else ""


def typed_as(name: str, otherwise: str) -> str:
    """How one types the command of that name: ``fishernet sweep`` where fishernet was started, else ``otherwise``."""
    return f"{started_as()} {name}".strip() if started_as() and name else otherwise


def command(*words: str) -> str:
    """``fishernet WORDS`` with that Python, installed or not."""
    return script("fishernet/__main__.py", *words)


def driver(kind: str) -> list[str]:
    """The words that start the driver of that kind, sweep or search."""
    if outside := os.environ.get(COMMAND_VARIABLE):
        return [*shlex.split(outside), kind]
    return [sys.executable, str(ROOT / "sweeps" / DRIVERS[kind])]


def absolute_uri(uri: str) -> str:
    """The same tracking URI, also where it names a file relative to the current folder."""
    scheme, slashes, rest = uri.partition(":///")
    file, mark, query = rest.partition("?")
    if not slashes or scheme.split("+")[0] != "sqlite" or file in ("", ":memory:"):
        return uri
    return f"{scheme}:///{Path(file).absolute().as_posix()}{mark}{query}"


def hide_password(text: str) -> str:
    """The text, a URI or one that quotes it, without user and password: what stands before an @ in front of a host.

    A file's path may hold an @ and goes as it is: ``sqlite:///me@lab.db`` names no host. A database's password may hold slashes.
    """
    text = re.sub(r"(?<=://)(?<!http://)(?<!https://)[^\s/:@]+:[^\s@]*@", "", text)
    text = re.sub(r"(?<=://)[^\s/]*@", "", text)
    return re.sub(r"([?&](?:password|passwd|token)=)[^\s&]*", r"\1...", text, flags=re.I)
