"""One writer per sweep: a lock on its folder that the operating system lets go when the driver dies, however it dies."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no flock; there two drivers of one sweep go unnoticed
    fcntl = None  # type: ignore[assignment]

from fishernet.plan import PlanError

LOCK = "lock"  # the file's name


@contextmanager
def hold_lock(folder: Path, name: str) -> Iterator[None]:
    """Hold ``folder``'s lock; raises PlanError where another process does, or where files there cannot be locked."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("ab+", buffering=0)
    except OSError as error:
        raise PlanError(
            f"the sweep's folder {folder} cannot be written to: {error.strerror}; choose another --storage-path"
        ) from None
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().decode(errors="replace").strip() or "by another process"
                raise PlanError(
                    f"the sweep {name} is being trained or imported already ({holder}); "
                    "wait for it, stop it, or choose another --name"
                ) from None
            except OSError as error:  # Lustre mounted without flock
                raise PlanError(
                    f"files below {folder} cannot be locked ({error.strerror}), which keeps a second driver away; choose "
                    "another --storage-path, or have that file system mounted with locks (Lustre: -o flock)"
                ) from None
        with suppress(OSError):  # it tells others who holds the lock; a full disk has no room for it
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
        with suppress(OSError):
            file.truncate(0)


def is_held(folder: Path) -> bool:
    """Whether a process holds that folder's lock now."""
    try:
        with (folder / LOCK).open("rb") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none, or no locks
        return False
    return False
