"""A tracking server that goes away, and a tracking database that another writer has locked."""

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.chaos.place import Place, free_port
from tests.chaos.sweep import EPOCHS, Sweep, environment, processes_of
from tests.mlflow_server import SETTINGS

AWAY_SECONDS = 60  # how long MLflow is stopped


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
                [sys.executable, "-m", "mlflow", *words], cwd=self.folder, env=environment(self.folder) | SETTINGS, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):  # its port is there before its workers answer
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            time.sleep(0.2)
        raise AssertionError("the MLflow server does not start")

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
