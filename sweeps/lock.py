"""One driver per sweep: a lock on its folder that the operating system lets go when the driver dies, however it dies."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no flock; there two drivers of one sweep go unnoticed
    fcntl = None  # type: ignore[assignment]

from fishernet.plan import PlanError


@contextmanager
def hold_lock(folder: Path, name: str) -> Iterator[None]:
    """Hold ``folder``'s lock; raises PlanError when another driver of this sweep does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+")
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
                raise PlanError(
                    f"the sweep {name} is being trained already ({file.read().strip() or 'by another process'}); "
                    "wait for it, stop it, or choose another --name"
                ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
        file.truncate(0)
