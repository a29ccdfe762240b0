"""A disk and a memory that are full, a clock that jumps, and numbers that overflow."""

import contextlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from tests.chaos.place import Place, Process, Unavailable, again_and_again
from tests.chaos.sweep import EPOCHS, NOT_STARTED, Sweep

FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


def fill_disk(place: Place, n: int) -> None:
    """The storage path is a tmpfs on which something else takes all but a random rest at a random moment; then it goes away."""
    if os.geteuid():
        raise Unavailable("mounting a tmpfs needs root")
    mounts: list[Path] = []

    def make() -> Sweep:
        sweep = place.sweep()
        sweep.storage.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(sweep.storage)], check=True)
        mounts.append(sweep.storage)
        return sweep

    def strike(sweep: Sweep, process: Process) -> None:
        filler, rest = sweep.storage / "filler", place.random.choice([0, 4, 40, 400]) * 1024
        free = shutil.disk_usage(sweep.storage).free
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free - rest))
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(place.random.uniform(10, 40))
        finally:
            filler.unlink()
        status = sweep.ends(process, {0, 1, 2})
        if status == 1 and not re.search("resume with|the same command continues", sweep.said()):
            raise AssertionError(f"it does not say how to go on: {sweep.said()[-1500:]}")
        if status == 2 and not re.search(f"error: .*(space|full|written|{NOT_STARTED})", sweep.said()):
            raise AssertionError(f"it does not say what is wrong: {sweep.said()[-1500:]}")
        sweep.check_no_process_is_left()

    try:
        again_and_again(place, n, strike, make=make)
    finally:
        for mount in mounts:
            subprocess.run(["umount", "-l", str(mount)], check=False)


def run_out_of_memory(place: Place, n: int) -> None:
    """Cohorts of three seeds, each out of memory from an epoch of its own on; parts sum in another order than the whole.

    There are as many cohorts of each model: one more than ``n`` where that is odd.
    """
    n += n % 2
    sweep = place.sweep(
        seeds=3 * n // 2, pause=0.1, flags=("--cohort-size=3",), environment={"CHAOS_FULL": str(place.random.random())}
    )
    with place.outcome(sweep, lambda: n):
        sweep.finish()
        if (splits := sweep.said().count("split into cohorts of 2 and 1")) != n:
            raise AssertionError(f"{n} cohorts were to be split, and {splits} were")
        if {status for _, _, status in sweep.runs()} != {"FINISHED"} or len(sweep.runs()) != 2 * sweep.seeds:
            raise AssertionError(f"not all runs are finished: {sweep.runs()}")
        expected = place.undisturbed.numbers()
        for name, numbers in sweep.numbers().items():
            if numbers.keys() != expected[name].keys():
                raise AssertionError(f"{name} lacks epochs or has others")
            worst = max(abs(value / expected[name][at] - 1) for at, value in numbers.items())
            if worst > 1e-3:
                raise AssertionError(f"{name} deviates by {worst:.1e}")
        sweep.check_nothing_is_left()


def diverge(place: Place, n: int) -> None:
    """In each cohort of three seeds one member; the others must be what they are in the same cohorts undisturbed.

    There are as many cohorts of each model: one more than ``n`` where that is odd.
    """
    n += n % 2
    flags = ("--cohort-size=3",)
    whole = place.sweep(seeds=3 * n // 2, pause=0, flags=flags)
    sweep = place.sweep(
        seeds=3 * n // 2, pause=0.1, flags=flags, environment={"CHAOS_DIVERGE": str(place.random.random())}
    )
    with place.outcome(whole, lambda: 0):
        whole.finish()
    with place.outcome(sweep, lambda: n):
        sweep.ends(sweep.start(), {1}, 900)
        statuses = {name: status for _, name, status in sweep.runs()}
        if list(statuses.values()).count("FAILED") != n or set(statuses.values()) != {"FAILED", "FINISHED"}:
            raise AssertionError(f"{n} runs were to fail: {statuses}")
        if sweep.said().count("diverged: the loss became nan in epoch") < n:
            raise AssertionError(f"the reasons are missing: {sweep.said()[-3000:]}")
        expected = whole.numbers()
        for name, numbers in sweep.numbers().items():
            last = max(epoch for _, epoch in numbers)
            if numbers != {(key, epoch): v for (key, epoch), v in expected[name].items() if epoch <= last}:
                raise AssertionError(f"{name} has other numbers than undisturbed")
            if (last == EPOCHS) != (statuses[name] == "FINISHED"):
                raise AssertionError(f"{name} is {statuses[name]} after epoch {last}")
        sweep.check_nothing_is_left()


def jump_clock(place: Place, n: int) -> None:
    """By up to a month to and fro, for every process of the sweep (libfaketime); the monotonic clock runs on, as it does then."""
    if not Path(FAKETIME).exists():
        raise Unavailable(f"the package libfaketime is not installed ({FAKETIME})")
    sweep = place.sweep()
    clock = sweep.folder / "clock"
    clock.write_text("+0\n")
    sweep.pause = 0.5
    sweep.environment = {
        "LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    with place.outcome(sweep, lambda: n):
        process = sweep.start()
        for _ in range(n):
            time.sleep(place.random.uniform(0, 1.5 * place.seconds / n))
            if process.poll() is not None:
                raise AssertionError(f"the sweep ended before the last jump: {sweep.said()[-1500:]}")
            clock.write_text(f"{place.random.uniform(-30, 30):+.6f}d\n")
        sweep.finish(process)
        sweep.check(place.undisturbed)
