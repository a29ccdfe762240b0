"""How a tracking store of 10,000 runs weighs on sweeps, analyses and the UI: ``python benchmarks/load.py fill|measure|memory``.

fill SEEDS FOLDER: a sweep of 19 x SEEDS runs of an epoch, with the driver's memory and the time by tenth of its runs. measure
FOLDER...: CPU and wall seconds of commands and pages with the stores in them. memory: the driver's resident memory over a sweep
of 32 runs x 2,000 epochs. CSV on standard output.
"""

import contextlib
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import processes

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--dataset=digits", "--hidden-width=8", "--hidden-layers=1", "--batch-size=256", "--models=VAE", "--gpus=0"]


def row(part: str, what: str, value: float, unit: str) -> None:
    print(f"{part},{what},{value:.6g},{unit}", flush=True)


def sweep(folder: Path, *words: str) -> Iterator[tuple[float, float]]:
    """Train it; every second, wall seconds since its start and the resident memory of the driver in MiB."""
    driver = subprocess.Popen(
        [sys.executable, "sweeps/latent_sweep.py", *TINY, *words, f"--storage-path={folder.absolute()}"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    started = time.perf_counter()
    threading.Thread(target=driver.wait, daemon=True).start()
    while driver.poll() is None:
        with contextlib.suppress(OSError, IndexError):
            pages_used = int(Path(f"/proc/{driver.pid}/statm").read_text().split()[1])
            yield time.perf_counter() - started, pages_used * resource.getpagesize() / 2**20
        time.sleep(1)
    assert driver.returncode == 0


def n_finished(store: Path) -> int:
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(store, timeout=60)) as found:
        return int(found.execute("select count(*) from runs where status = 'FINISHED'").fetchone()[0])
    return 0


def fill(n_seeds: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    n, tenth = 19 * n_seeds, 0
    for seconds, mib in sweep(folder, "--name=big", "--latent-dims=2-20", f"--seeds={n_seeds}", "--epochs=1"):
        if (done := 10 * n_finished(folder / "mlflow.db") // n) > tenth:
            tenth = done
            row(f"fill-{n}", f"{done} tenths of the runs finished after", seconds, "s")
            row(f"fill-{n}", f"driver's memory after {done} tenths", mib, "MiB")
    row(f"fill-{n}", "the whole sweep", seconds, "s")


def command(part: str, what: str, *words: str) -> None:
    used = processes.run([sys.executable, *words], ROOT)
    row(part, what, used.itself, "CPU s")
    row(part, f"{what}, wall", used.wall, "s")


@contextlib.contextmanager
def server(store: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = "5123"
    words = ["-m", "mlflow", "server", "--port", port, "--workers", "1", "--backend-store-uri", f"sqlite:///{store}"]
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60):
                break
            time.sleep(1)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait()


def cpu_of(process: subprocess.Popen[bytes]) -> float:
    times: dict[int, float] = {}
    processes.look(times, process.pid)
    return sum(times.values())


def pages(part: str, store: Path) -> None:
    """The list of runs as MLflow's page asks for it: 100 at a time, the newest first, and sorted by a metric."""
    with server(store) as (uri, process):
        about = urllib.request.urlopen(f"{uri}/api/2.0/mlflow/experiments/get-by-name?experiment_name=big", timeout=120)
        experiment = json.load(about)["experiment"]["experiment_id"]
        for what, order in (("newest", "attributes.start_time DESC"), ("by test/mse", "metrics.`test/mse` ASC")):
            query = {
                "experiment_ids": [experiment],
                "max_results": 100,
                "order_by": [order],
                "run_view_type": "ACTIVE_ONLY",
            }
            for turn in ("first", "again"):
                request = urllib.request.Request(
                    f"{uri}/ajax-api/2.0/mlflow/runs/search",
                    json.dumps(query).encode(),
                    {"Content-Type": "application/json"},
                )
                before, started = cpu_of(process), time.perf_counter()
                found = json.load(urllib.request.urlopen(request, timeout=300))["runs"]
                assert found
                row(part, f"UI page of 100 runs {what} {turn}", cpu_of(process) - before, "CPU s")
                row(part, f"UI page of 100 runs {what} {turn}, wall", time.perf_counter() - started, "s")


def measure(folder: Path) -> None:
    store = folder.absolute() / "mlflow.db"
    uri = f"--tracking-uri=sqlite:///{store}"
    part = f"load-{n_finished(store)}"
    script = ["sweeps/latent_sweep.py", "--gpus=0", f"--storage-path={folder.absolute()}"]
    small = [*TINY, "--latent-dims=2", "--seeds=1", "--epochs=1", f"--name=small-{time.time():.0f}"]
    command(part, "a sweep of one run in the same store", *script, *small)
    command(part, "--resume with nothing left", *script, "--resume=big")
    with tempfile.TemporaryDirectory() as out:
        command(part, "analysis/mse_curves.py", "analysis/mse_curves.py", "--name=big", uri, f"--out={out}")
    pages(part, store)


def memory() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        words = ["--epochs=2000", "--latent-dims=2-9", "--seeds=4", "--name=long"]
        samples = list(sweep(Path(scratch), *words))
    for seconds, mib in samples[:: max(1, len(samples) // 20)]:
        row("memory", f"driver after {seconds:.0f} s", mib, "MiB")


if __name__ == "__main__":
    print("part,what,value,unit")
    what, *arguments = sys.argv[1:]
    if what == "fill":
        fill(int(arguments[0]), Path(arguments[1]))
    elif what == "measure":
        for folder in arguments:
            measure(Path(folder))
    else:
        memory()
