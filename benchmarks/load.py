"""How a tracking store of 10,000 runs weighs on sweeps, analyses and the UI: ``python benchmarks/load.py build|measure|memory``.

build SEEDS FOLDER: a store with a sweep of 57 x SEEDS runs of 20 epochs x 4 metrics; the runs of the first seed by the product's
own calls, their copies for the others by SQL, as the product takes 0.04 CPU seconds a run. measure FOLDER...: CPU and wall
seconds with each of them, CSV on standard output. memory: the driver's resident memory over a sweep of 32 runs x 2,000 epochs.
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
from fishernet.config import TrialConfig
from fishernet.data import load_data
from fishernet.plan import compact
from sweeps.tracking import SweepTracking

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, METRICS = 20, ("test/mse", "test/loss", "train/loss", "epoch_seconds")
TINY = {"dataset": "digits", "hidden_width": 8, "hidden_layers": 1, "batch_size": 256, "epochs": EPOCHS}
LEFT = 4  # runs of the big sweep that are planned and not trained
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]


def row(part: str, what: str, value: float, unit: str) -> None:
    print(f"{part},{what},{value:.6g},{unit}", flush=True)


def configs(n_seeds: int) -> list[TrialConfig]:
    models, dims = ("FisherNet", "VAE", "AE"), range(2, 21)
    return [TrialConfig(model=m, latent_dim=d, seed=s, **TINY) for m in models for d in dims for s in range(n_seeds)]


def build(n_seeds: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    store, data = folder.absolute() / "mlflow.db", load_data("digits")
    tracking = SweepTracking.open("big", f"sqlite:///{store}", artifact_root=None, create=True)
    planned = [*configs(n_seeds), *configs(n_seeds + LEFT)[n_seeds : n_seeds + LEFT]]
    tracking.describe({**compact(planned), "data_fingerprint": data.fingerprint, "held_out": "test"}, {}, "", "")
    now = time.time()
    for config in configs(1):
        value = 1 / config.latent_dim
        epochs = [{"epoch": e, "time": now, "metrics": dict.fromkeys(METRICS, value / e)} for e in range(1, EPOCHS + 1)]
        tracking.log_epochs(config, epochs)
        tracking.finish(config, "FINISHED")
    assert tracking.close("KILLED")
    with contextlib.closing(sqlite3.connect(store)) as database, database:
        for table in ("runs", "params", "tags", "metrics", "latest_metrics"):
            columns = [name for _, name, *_ in database.execute(f"pragma table_info({table})")]
            values = [OF_SEED.get((table, name), OF_SEED.get(name, name)) for name in columns]
            database.execute(
                f"with recursive seeds(n) as (select 1 union all select n + 1 from seeds where n < {n_seeds - 1}) "
                f"insert into {table} ({', '.join(columns)}) select {', '.join(values)} from {table}, seeds where run_uuid in "
                "(select run_uuid from tags where key = 'fishernet.role' and value = 'trial')"
            )


# What the rows of a run with seed n have where those of seed 0 have something else.
OF_SEED = {
    "run_uuid": "printf('%08x', n) || substr(run_uuid, 9)",
    ("runs", "name"): "replace(name, '-s0', '-s' || n)",
    ("runs", "artifact_uri"): "replace(artifact_uri, run_uuid, printf('%08x', n) || substr(run_uuid, 9))",
    ("params", "value"): "iif(key = 'seed', n, value)",
    ("tags", "value"): "replace(replace(value, '\"seed\": 0', '\"seed\": ' || n), '-s0', '-s' || n)",
    ("metrics", "value"): "value * (1 + n * 1e-4)",
    ("latest_metrics", "value"): "value * (1 + n * 1e-4)",
}  # fmt: skip


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
                assert len(found) == 100 or part.endswith("-100")
                row(part, f"UI page of 100 runs {what} {turn}", cpu_of(process) - before, "CPU s")
                row(part, f"UI page of 100 runs {what} {turn}, wall", time.perf_counter() - started, "s")


def measure(folder: Path) -> None:
    store = folder.absolute() / "mlflow.db"
    uri = f"--tracking-uri=sqlite:///{store}"
    with contextlib.closing(sqlite3.connect(store)) as database:
        (n,) = database.execute("select count(*) from runs where lifecycle_stage = 'active'").fetchone()
    part = f"load-{n}"
    sweep = ["sweeps/latent_sweep.py", "--gpus=0", f"--storage-path={folder.absolute()}", uri]
    small = [*FLAGS, "--models=VAE", "--latent-dims=2", "--seeds=1", f"--name=small-{time.time():.0f}"]
    command(part, "a sweep of one run in the same store", *sweep, *small)
    command(part, f"--resume with {LEFT} of the runs left", *sweep, "--resume=big")
    command(part, "--resume with nothing left", *sweep, "--resume=big")
    with tempfile.TemporaryDirectory() as out:
        command(part, "analysis/mse_curves.py", "analysis/mse_curves.py", "--name=big", uri, f"--out={out}")
    pages(part, store)


def memory() -> None:
    """Resident memory of the driver, sampled by the fifth of the sweep's epochs it has behind it."""
    with tempfile.TemporaryDirectory() as scratch:
        words = [*FLAGS, "--epochs=2000", "--models=VAE", "--latent-dims=2-9", "--seeds=4", "--gpus=0", "--name=long"]
        driver = subprocess.Popen(
            [sys.executable, "sweeps/latent_sweep.py", *words, f"--storage-path={scratch}"],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        samples: list[tuple[float, float]] = []
        started = time.perf_counter()
        threading.Thread(target=driver.wait, daemon=True).start()
        while driver.poll() is None:
            with contextlib.suppress(OSError, IndexError):
                pages_used = int(Path(f"/proc/{driver.pid}/statm").read_text().split()[1])
                samples.append((time.perf_counter() - started, pages_used * resource.getpagesize() / 2**20))
            time.sleep(1)
        assert driver.returncode == 0
        for seconds, mib in samples[:: max(1, len(samples) // 20)]:
            row("memory", f"driver after {seconds:.0f} s", mib, "MiB")


if __name__ == "__main__":
    print("part,what,value,unit")
    what, *arguments = sys.argv[1:]
    if what == "build":
        build(int(arguments[0]), Path(arguments[1]))
    elif what == "measure":
        for folder in arguments:
            measure(Path(folder))
    else:
        memory()
