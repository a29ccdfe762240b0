"""Processes that are killed or interrupted, and several sweeps at once."""

import contextlib
import importlib.util
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.place import Place, Process, again_and_again, free_port
from tests.chaos.sweep import EPOCHS, NOT_STARTED, ROOT, Sweep, environment

EARLIEST = (0.05, 0.3, 1, 3)  # seconds after the start that are always among the moments of a signal
# The files whose first lines run before a command can answer a signal; the last is this program's own.
FIRST = {str(ROOT / "sweeps/latent_sweep.py"), str(ROOT / "fishernet/__main__.py"), str(ROOT / "fishernet/interrupts.py"),
         str(ROOT / "tests/chaos/inside/sitecustomize.py")}  # fmt: skip


def kill_workers(place: Place, n: int) -> None:
    """A random worker, each time a random number of epochs after the last; Tune starts a trial again three times at most."""
    sweep = place.sweep(seeds=8, pause=1)
    with place.outcome(sweep, lambda: n):
        process = sweep.begin()
        for _ in range(n):
            until = sweep.n_epochs() + place.random.randint(3, 16 * EPOCHS // n - 5)
            sweep.wait_for(process, lambda: sweep.n_epochs() >= until and bool(sweep.workers()))  # noqa: B023
            time.sleep(place.random.uniform(0, 0.6))
            if workers := sweep.workers():
                os.kill(place.random.choice(workers), signal.SIGKILL)
        sweep.finish(process)
        if (lost := sweep.said().count("is lost; it goes on elsewhere")) < n:
            raise AssertionError(f"{n} workers were killed, and {lost} said to be lost")
        sweep.check(place.undisturbed)


def kill_driver(place: Place, n: int) -> None:
    def strike(sweep: Sweep, process: Process) -> None:
        process.kill()
        process.wait()

    again_and_again(place, n, strike)


def interrupt(number: int, everyone: bool) -> Callable[[Place, int], None]:
    """A signal to the driver, or to its whole process group as a terminal's Ctrl-C is."""

    def strike(sweep: Sweep, process: Process) -> None:
        (os.killpg if everyone else os.kill)(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(900)
        if not before_its_first_line(sweep.said()):
            sweep.ends(process, {130, 0})
        if process.returncode == 130 and not re.search(
            r"interrupted.*(resume with|the same command continues|before anything was started)", sweep.said(), re.S
        ):
            raise AssertionError(f"it does not say how to go on: {sweep.said()[-1500:]}")
        sweep.check_no_process_is_left()

    return lambda place, n: again_and_again(place, n, strike, moments=EARLIEST)


def before_its_first_line(said: str) -> bool:
    """Whether all that was said is nothing, or Python's own traceback of an interrupt amid its start and the first imports."""
    frames = re.findall(r'File "([^"]+)", line \d+, in (.*)', said)
    own = [(file, function) for file, function in frames if file.startswith(str(ROOT)) and "site-packages" not in file]
    return not said or ("KeyboardInterrupt" in said and all(f in FIRST and where == "<module>" for f, where in own))


def start_twice(place: Place, n: int) -> None:
    """The same command beside itself, the first time at the same instant: one of the two is refused with a sentence."""
    sweep = place.sweep(seeds=6, pause=0.5 * place.seconds * n / EPOCHS / 6)
    with place.outcome(sweep, lambda: n):
        running, said, refused = sweep.start(), sweep.outputs[-1], 0
        while refused < n:
            other, other_said = sweep.start(), sweep.outputs[-1]
            while running.poll() is None and other.poll() is None:
                time.sleep(0.3)
            if other.poll() is None:
                running, other, said, other_said = other, running, other_said, said
            if NOT_STARTED in other_said.read_text():
                continue
            if other.returncode != 2 or "is being trained or imported already (process" not in other_said.read_text():
                raise AssertionError(
                    f"start {refused + 1} ended with {other.returncode}: {other_said.read_text()[-1500:]}"
                )
            refused += 1
            time.sleep(place.random.uniform(0, 3))
        sweep.outputs.append(said)
        sweep.finish(running)
        sweep.check(place.undisturbed)


def share_cluster(place: Place, n: int) -> None:
    """n + 1 sweeps on one hand-started Ray and one SQLite store, each started at a random moment of the one before."""
    port = free_port()
    first = place.sweep(name="shared-0")
    auth = {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0", "PYTHONUNBUFFERED": "1"}
    words = [
        "start", "--head", "--block", "--num-cpus=2", f"--port={port}", "--node-ip-address=127.0.0.1",
        "--include-dashboard=false", "--disable-usage-stats",
        # Ray's client server, which it starts where grpc is installed, would take port 10001.
        *([f"--ray-client-server-port={free_port()}"] if importlib.util.find_spec("grpc") else []),
    ]  # fmt: skip
    with (first.folder / "ray-output").open("wb") as output:
        head = subprocess.Popen(
            [Path(sys.executable).with_name("ray"), *words], cwd=first.folder, stdout=output, stderr=subprocess.STDOUT,
            env=environment(first.folder) | auth | {"CHAOS_PAUSE": str(first.pause)}, start_new_session=True,
        )  # fmt: skip
    flags = ("--cohort-size=1", f"--address=127.0.0.1:{port}")
    sweeps = [
        Sweep(first.folder, name=f"shared-{i}", seeds=2, flags=flags, environment=auth, storage=first.storage)
        for i in range(n + 1)
    ]
    with place.outcome(first, lambda: n):
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in (first.folder / "ray-output").read_text():
            if head.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"Ray does not start: {(first.folder / 'ray-output').read_text()[-1000:]}")
            time.sleep(0.5)
        before = sweeps[0].start()
        for earlier, later in itertools.pairwise(sweeps):
            until = place.random.randint(0, 2 * 2 * EPOCHS // 2)
            earlier.wait_for(before, lambda: earlier.n_epochs() >= until)  # noqa: B023
            process = later.start()
            later.wait_for(process, later.planned)
            earlier.finish(before)
            before = process
        sweeps[-1].finish(before)
        for sweep in sweeps:
            sweep.check(place.undisturbed, processes=False)
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(60)
        first.check_no_process_is_left()
