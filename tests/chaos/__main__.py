"""Faults of sweeps on one machine, with real processes and real kills: ``python -m tests.chaos --repetitions 10``.

Trains one sweep undisturbed, and then the same runs once more under each fault, at random moments. Afterwards every run must be
FINISHED and there once, with the undisturbed sweep's numbers in every epoch and its weights, bit for bit, and no process,
checkpoint or temporary file may be left. Prints a table; exit status 1 where something was not so. Needs root for the full
disk (a tmpfs is mounted) and the package libfaketime for the clock; what cannot be had is said and left out.
"""

import argparse
import contextlib
import itertools
import os
import pickle
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tests.chaos.sweep import EPOCHS, NOT_STARTED, ROOT, Alone, Sweep, environment, processes_of

AWAY_SECONDS = 60  # how long MLflow is stopped
EARLIEST = (0.05, 0.3, 1, 3)  # seconds after the start that are always among the moments of a signal
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
# The files whose first lines run before a command can answer a signal; the last is this program's own.
FIRST = {str(ROOT / "sweeps/latent_sweep.py"), str(ROOT / "fishernet/__main__.py"), str(ROOT / "fishernet/interrupts.py"),
         str(ROOT / "tests/chaos/inside/sitecustomize.py")}  # fmt: skip
Process = subprocess.Popen[bytes]


class Unavailable(Exception):
    """What a fault needs and this machine has not."""


@dataclass
class Place:
    """Where one fault is tried: a folder, what its sweeps are compared with, and its own random numbers."""

    folder: Path
    undisturbed: Sweep
    seconds: float  # that the undisturbed sweep of a place took
    random: random.Random
    outcomes: list[str]  # one for each repetition that is over: what failed, or nothing

    kind: type[Sweep] = Sweep

    def sweep(self, **settings: object) -> Sweep:
        number = sum(path.is_dir() for path in self.folder.iterdir())
        return self.kind(self.folder / str(number), **settings)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def outcome(self, sweep: Sweep, count: Callable[[], int]) -> Iterator[None]:
        """Note how the body ended, ``count()`` times."""
        problem = ""
        try:
            yield
        except AssertionError as error:
            problem = str(error) or traceback.format_exc()
        sweep.stop()
        self.outcomes += [problem] * count()


def again_and_again(
    place: Place, n: int, strike: Callable[[Sweep, Process], None], *, moments: tuple[float, ...] = (),
    make: Callable[[], Sweep] | None = None, finished: Callable[[Sweep], None] = lambda sweep: None,
) -> None:  # fmt: skip
    """Strike a sweep's command at a random moment, start it again, strike again; once it finishes, compare and take a new one."""
    drawn = [*moments[:n], *(place.random.uniform(0, place.seconds) for _ in range(n - len(moments)))]
    place.random.shuffle(drawn)
    while drawn:
        sweep, struck = (make or place.sweep)(), 0
        with place.outcome(sweep, lambda: struck):  # noqa: B023 (called before the next round)
            while drawn:
                process = sweep.start()
                try:
                    process.wait(drawn[-1])
                except subprocess.TimeoutExpired:
                    drawn.pop()
                    struck += 1
                    strike(sweep, process)
                else:  # before the moment came: an earlier one, lest it never comes
                    drawn[-1] *= place.random.random()
                    if sweep.ends(process, {0, 2}) == 2:
                        if NOT_STARTED not in sweep.said():
                            raise AssertionError(f"exit status 2; it said: {sweep.said()[-1500:]}")
                        continue
                    break
            else:
                sweep.finish()
            sweep.check(place.undisturbed)
            finished(sweep)


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


class Server:
    """An ``mlflow server`` on loopback."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "tmp").mkdir()
        self.folder, self.port = folder, free_port()
        self.store, self.uri = folder / "mlflow.db", f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        words = [
            "server", f"--backend-store-uri=sqlite:///{self.store}", f"--artifacts-destination={self.folder / 'artifacts'}",
            "--host=127.0.0.1", f"--port={self.port}", "--workers=1",
        ]  # fmt: skip
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *words], cwd=self.folder, env=environment(self.folder), stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 200
        while socket.socket().connect_ex(("127.0.0.1", self.port)):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError("the MLflow server does not start")
            time.sleep(0.2)

    def stop(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        for pid in processes_of(self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def stop_mlflow_midway(place: Place, n: int) -> None:
    """One sweep whose training outlasts n stops of a minute, half of them by kill -9."""
    server = Server(place.folder / "server")
    sweep = place.sweep(seeds=6, pause=n * (AWAY_SECONDS + 15) / (6 * EPOCHS), store=server.store, uri=server.uri)
    with place.outcome(sweep, lambda: n):
        process = sweep.begin()
        for i in range(n):
            time.sleep(place.random.uniform(0, 8))
            if process.poll() is not None:
                raise AssertionError(f"the sweep ended before stop {i + 1}: {sweep.said()[-1500:]}")
            server.stop((signal.SIGKILL, signal.SIGTERM)[i % 2])
            time.sleep(AWAY_SECONDS)
            server.start()
        sweep.finish(process)
        if not re.search("does not answer.*answers again", sweep.said(), re.S):
            raise AssertionError(f"it said nothing of the server: {sweep.said()}")
        check_with_server(sweep, place.undisturbed, server)
    server.stop()


def stop_mlflow_at_the_end(place: Place, n: int) -> None:
    """For a minute from a random one of the sweep's last epochs on, while weights, pictures and statuses are written."""
    server = Server(place.folder / "server")
    for i in range(n):
        sweep = place.sweep(name=f"end-{i}", seeds=1, store=server.store, uri=server.uri)
        with place.outcome(sweep, lambda: 1):
            process, last = sweep.begin(), place.random.randint(2 * EPOCHS - 4, 2 * EPOCHS)
            sweep.wait_for(process, lambda: sweep.n_epochs() >= last)  # noqa: B023
            time.sleep(place.random.uniform(0, 1))
            server.stop((signal.SIGKILL, signal.SIGTERM)[i % 2])
            time.sleep(AWAY_SECONDS)
            server.start()
            sweep.finish(process)
            check_with_server(sweep, place.undisturbed, server)
    server.stop()


def check_with_server(sweep: Sweep, undisturbed: Sweep, server: Server) -> None:
    link = sweep.folder / "artifacts"  # where the server keeps them, so that their weights are found
    shutil.copytree(server.folder / "artifacts", link)
    sweep.check(undisturbed)


def lock_database(place: Place, n: int) -> None:
    """By another writer, for up to 20 s each, until the sweep has ended."""
    sweep = place.sweep(seeds=6, pause=n * 12 / (6 * EPOCHS))
    with place.outcome(sweep, lambda: n):
        process = sweep.begin()
        for _ in range(n):
            with contextlib.closing(sqlite3.connect(sweep.store, timeout=100, isolation_level=None)) as store:
                store.execute("begin exclusive")
                time.sleep(place.random.uniform(1, 20))
                if process.poll() is not None:
                    raise AssertionError(f"the sweep ended too early: {sweep.said()[-1500:]}")
            time.sleep(place.random.uniform(0, 3))
        sweep.finish(process)
        sweep.check(place.undisturbed)


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
    """Cohorts of three seeds, each out of memory from an epoch of its own on; parts sum in another order than the whole."""
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
    """In each cohort of three seeds one member; the others must be what they are in the same cohorts undisturbed."""
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


def share_cluster(place: Place, n: int) -> None:
    """n + 1 sweeps on one hand-started Ray and one SQLite store, each started at a random moment of the one before."""
    port = free_port()
    first = place.sweep(name="shared-0")
    auth = {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0", "PYTHONUNBUFFERED": "1"}
    words = [
        "start", "--head", "--block", "--num-cpus=2", f"--port={port}", "--node-ip-address=127.0.0.1",
        "--include-dashboard=false", f"--ray-client-server-port={free_port()}", "--disable-usage-stats",
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


class Marker:
    """Unpickled, it makes the file ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def damage(path: Path, kind: str, drawn: random.Random, marker: Path) -> None:
    """Damage the file at a random place."""
    content = bytearray(path.read_bytes())
    if not content and kind in ("cut off", "one bit flipped"):
        pass  # the kill came just as it was written: nothing is left to damage
    elif kind == "cut off":
        del content[drawn.randrange(1, len(content)) :]
    elif kind == "one bit flipped":
        content[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
    elif kind == "empty":
        content.clear()
    elif kind == "a pickle":
        content[:] = pickle.dumps(Marker(marker))
    elif kind == "another's safetensors":
        import numpy as np
        from safetensors.numpy import save

        content[:] = save({"weight": np.full(drawn.randrange(1, 50), drawn.random())}, {"format": "pt"})
    path.write_bytes(content)


DAMAGES = ("cut off", "one bit flipped", "empty", "a pickle", "another's safetensors")


def damage_newest_checkpoint(place: Place, n: int) -> None:
    """The driver killed, the newest checkpoint of each cohort damaged, the sweep resumed; the kinds of damage in turn."""
    kinds = [DAMAGES[i % len(DAMAGES)] for i in range(n)]
    marker = place.folder / "marker"
    damaged: list[Path] = []  # which the next commands must name

    def strike(sweep: Sweep, process: Process) -> None:
        process.kill()
        process.wait()
        sweep.check_no_process_is_left()
        said = "".join(output.read_text(errors="replace") for output in sweep.outputs)
        damaged[:] = [path for path in damaged if str(path) not in said and path.exists()]
        kind = kinds.pop()
        for path in sweep.newest_checkpoints():
            if path not in damaged:
                damage(path, kind, place.random, marker)
                damaged.append(path)

    def make() -> Sweep:
        damaged.clear()
        return place.sweep()

    def finished(sweep: Sweep) -> None:
        said = "".join(output.read_text(errors="replace") for output in sweep.outputs)
        if silent := [path for path in damaged if str(path) not in said]:
            raise AssertionError(f"nothing was said of {silent}: {said[-3000:]}")
        if marker.exists():
            raise AssertionError("a pickle was executed")

    again_and_again(place, n, strike, make=make, finished=finished)


def load_damaged(place: Place, n: int) -> None:
    """Every kind of file and of damage at n random places: an error of the program's own says so."""
    import torch

    from analysis.frame import AnalysisError
    from analysis.stored import load_weights
    from fishernet.cohort import Cohort
    from fishernet.data import load_data
    from fishernet.families import trial_config
    from fishernet.records import write_records
    from fishernet.state import CheckpointError, CohortState
    from fishernet.training import train

    config = trial_config(
        model="VAE", latent_dim=2, seed=0, dataset="digits", epochs=2, hidden_width=8, hidden_layers=1
    )
    data = load_data("digits")
    cohort = Cohort([config], data.image_shape, len(data.train))
    for _ in train(cohort, data):
        pass
    cohort.save(place.folder / "state.safetensors")
    write_records(place.folder, cohort, data)

    def same(a: object, b: object) -> bool:
        """A bit of a header's key may be flipped that nobody reads."""
        return isinstance(a, torch.nn.Module) and repr(a.state_dict()) == repr(b.state_dict())  # type: ignore[attr-defined]

    whole = {
        "state": (place.folder / "state.safetensors", lambda path: CohortState.load(path, [config]), CheckpointError),
        "weights": (
            place.folder / config.run_name / "weights.safetensors", lambda path: load_weights(path, config), AnalysisError,
        ),
    }  # fmt: skip
    marker = place.folder / "marker"
    for name, (path, load, error) in whole.items():
        for kind in DAMAGES:
            for i in range(n):
                copy = place.folder / f"{name}-{i}"
                shutil.copy(path, copy)
                damage(copy, kind, place.random, marker)
                try:
                    found = load(copy)
                    place.outcomes.append("" if same(found, load(path)) else f"{name}, {kind}: not noticed")
                except error:
                    place.outcomes.append("a pickle was executed" if marker.exists() else "")
                except Exception as other:
                    place.outcomes.append(f"{name}, {kind}: {type(other).__name__}: {other}")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


ALONE = "python -m fishernet: "
FAULTS: dict[str, Callable[[Place, int], None]] = {
    f"{ALONE}killed with kill -9, started again": kill_driver,
    f"{ALONE}Ctrl-C at any moment, started again": interrupt(signal.SIGINT, everyone=True),
    f"{ALONE}SIGTERM at any moment, started again": interrupt(signal.SIGTERM, everyone=False),
    f"{ALONE}the disk full at --out, then freed, started again": fill_disk,
    f"{ALONE}killed and its checkpoint damaged, started again": damage_newest_checkpoint,
    f"{ALONE}the clock jumps by days": jump_clock,
    f"{ALONE}a cohort out of memory": run_out_of_memory,
    f"{ALONE}a member that diverges": diverge,
    "a checkpoint or stored weights damaged, loaded": load_damaged,
    "a worker killed with kill -9": kill_workers,
    "the driver killed with kill -9, resumed": kill_driver,
    "Ctrl-C at any moment, resumed": interrupt(signal.SIGINT, everyone=True),
    "SIGTERM at any moment, resumed": interrupt(signal.SIGTERM, everyone=False),
    "the tracking database locked by another writer": lock_database,
    "the disk full at the storage path, then freed, resumed": fill_disk,
    "the driver killed and the newest checkpoints damaged, resumed": damage_newest_checkpoint,
    "the same sweep started twice": start_twice,
    "a member that diverges": diverge,
    "a cohort out of memory": run_out_of_memory,
    "MLflow's server stopped for a minute in the middle": stop_mlflow_midway,
    "MLflow's server stopped for a minute at the very end": stop_mlflow_at_the_end,
    "two sweeps at once on one cluster and one store": share_cluster,
}


def main() -> NoReturn:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10, metavar="N", help="of each fault (default: 10)")
    parser.add_argument("--only", default="", metavar="REGEX", help="faults whose name this is found in (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and choices (default: 0)")
    parser.add_argument("--jobs", type=int, default=3, metavar="N", help="faults tried at the same time (default: 3)")
    parser.add_argument(
        "--undisturbed", type=Path, metavar="FOLDER",
        help="where the undisturbed sweeps are kept for later calls; made where it is missing",
    )  # fmt: skip
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & has the sweeps ignore it otherwise
    chosen = {name: fault for name, fault in FAULTS.items() if re.search(args.only, name)}
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    outcomes: dict[str, list[str]] = {}
    seconds: dict[type[Sweep], float] = {}
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    def tried(number: int, name: str, fault: Callable[[Place, int], None]) -> None:
        of = outcomes[name] = []
        kind = Alone if name.startswith(ALONE) else Sweep
        place = Place(folder / str(number), undisturbed, seconds[kind], random.Random(f"{args.seed}/{name}"), of, kind)
        place.folder.mkdir()
        say(f"{name}: begins")
        try:
            fault(place, args.repetitions)
        except Unavailable as error:
            say(f"{name}: left out, as {error}")
        except Exception:
            of.append(traceback.format_exc())
        for problem in dict.fromkeys(filter(None, of)):
            say(f"{name}: {of.count(problem)} failed: {problem}")
        say(f"{name}: {of.count('')} of {len(of)} as undisturbed")
        if not any(of):
            shutil.rmtree(place.folder, ignore_errors=True)

    try:
        kept = (args.undisturbed or folder / "undisturbed").absolute()
        usual, timed = Sweep(kept / "usual"), kept / "seconds"
        undisturbed = Sweep(kept / "all", seeds=max(8, 3 * args.repetitions // 2), pause=0)
        if not timed.exists():
            usual.finish()
            timed.write_text(str(time.monotonic() - began))
        if not undisturbed.planned():
            undisturbed.finish()
        seconds[Sweep] = float(timed.read_text())
        started = time.monotonic()
        alone = Alone(folder / "alone")
        alone.finish()
        seconds[Alone] = time.monotonic() - started
        for sweep in (usual, alone, undisturbed):
            sweep.check(undisturbed)
        say(
            f"undisturbed: {len(undisturbed.runs())} runs; a sweep of {len(usual.runs())} took {seconds[Sweep]:.0f} s, "
            f"and without Ray {seconds[Alone]:.0f} s"
        )
        list(ThreadPoolExecutor(args.jobs).map(lambda item: tried(item[0], *item[1]), enumerate(chosen.items())))
    except BaseException:
        traceback.print_exc()
        outcomes.setdefault("not all was tried", []).append("see above")
    for pid in processes_of(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    failed = any(any(of) for of in outcomes.values())
    if failed:
        print(f"what failed is kept in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n| fault | repetitions | as undisturbed |\n|---|---|---|")
    for name, of in outcomes.items():
        print(f"| {name} | {len(of)} | {of.count('')} |")
    sys.stdout.flush()
    os._exit(failed)  # not waiting for what still goes on


if __name__ == "__main__":
    main()
