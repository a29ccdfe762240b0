"""Commands as they are printed: to be pasted in any folder, and read by anyone; what resumes a sweep, in any shell."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = "fishernet"  # the command that has all others
# Set where a driver runs in a container (docker-compose.yml): what is typed outside before the driver's kind, which adds
# --address, --storage-path and the tracking server itself.
COMMAND_VARIABLE = "FISHERNET_COMMAND"


def python(*words: str) -> str:
    """``python WORDS`` with the Python that runs this."""
    return shlex.join([sys.executable, *words])


def program() -> list[str]:
    """The words that start ``fishernet`` in any folder and shell: the installed program beside that Python, else its file."""
    installed = Path(sys.executable).with_name(INSTALLED)
    return [str(installed)] if installed.is_file() else [sys.executable, str(ROOT / INSTALLED / "__main__.py")]


def fishernet(*words: str) -> list[str]:
    """``fishernet WORDS`` as one types it in this shell: by its name alone where the shell finds this one."""
    found = shutil.which(INSTALLED)
    start = program()
    return [*([INSTALLED] if found and [str(Path(found).absolute())] == start else start), *words]


def typed_as(name: str) -> str:
    """The command of that name in usage lines, however it was started: ``fishernet sweep``.

    ``python -m fishernet sweep`` where that was typed, or no such program is installed.
    """
    by_module = Path(sys.argv[0]).parts[-2:] == (INSTALLED, "__main__.py") or len(program()) > 1
    return f"{f'python -m {INSTALLED}' if by_module else INSTALLED} {name}".strip()


def driver(kind: str) -> list[str]:
    """The words that start the driver of that kind, sweep or search."""
    outside = os.environ.get(COMMAND_VARIABLE)
    return [*shlex.split(outside), kind] if outside else fishernet(kind)


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
