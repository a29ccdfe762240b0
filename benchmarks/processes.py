"""CPU seconds of a command with all that it starts, Ray's daemons and workers too: Linux alone."""

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EVERY = 0.3  # seconds between two looks; what a process uses after the last one is not counted


@dataclass
class Used:
    """CPU seconds of the command itself and of it with all that it started, and seconds of wall time."""

    itself: float
    all: float
    wall: float


def look(times: dict[int, float], root: int) -> None:
    """Bring the CPU seconds of root and of what it has started up to now."""
    tick = os.sysconf("SC_CLK_TCK")
    for path in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            pid, parent = int(path.name), int(fields[1])
            if pid == root or pid in times or parent in times:
                times[pid] = (int(fields[11]) + int(fields[12])) / tick


def run(command: Sequence[str], cwd: Path) -> Used:
    """Run it to its end, which must be a good one."""
    times: dict[int, float] = {}
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            look(times, process.pid)
            time.sleep(EVERY)
        assert process.stderr is not None
        assert process.returncode == 0, process.stderr.read()
    return Used(times[process.pid], sum(times.values()), time.perf_counter() - started)
