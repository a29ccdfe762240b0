"""What a sweep costs beside its training: ``python benchmarks/scheduling.py logging pace plan ray``, CSV on standard output.

logging: 3 cohorts of 95 members report 100 epochs of 10 metrics to sweeps/tracking.py as the driver's callback does, all at
once, into SQLite and into an MLflow server. pace: the same in the 600 s that a GPU would take, into SQLite. plan: plans of
1,000 and 10,000 runs, per run at the start and at the end. ray: sweeps of tiny runs by the command, with --cohort-size 1 and
auto: what 24 runs more and what 19 epochs more cost.
"""

import argparse
import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import processes
from fishernet.config import TrialConfig
from fishernet.families import trial_config
from fishernet.plan import SweepPlan
from sweeps.planning import Devices, make_cohorts
from sweeps.tracking import SweepTracking

ROOT = Path(__file__).resolve().parents[1]
METRICS, MEMBERS, EPOCHS = 10, 95, 100
PACE = 600 / 300  # seconds of a stacked epoch: 300 of them in ten minutes


def row(part: str, what: str, value: float, unit: str) -> None:
    print(f"{part},{what},{value:.6g},{unit}", flush=True)


def grid(seeds: int, *models: str) -> list[TrialConfig]:
    return [trial_config(model=m, latent_dim=d, seed=s) for m in models for d in range(2, 21) for s in range(seeds)]


def record(epoch: int) -> dict[str, object]:
    return {"epoch": epoch, "time": time.time(), "metrics": {f"metric_{i}": epoch + i / 7 for i in range(METRICS)}}


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder / 'server.db'}",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def log(part: str, uri: str, pace: float) -> None:
    tracking = SweepTracking.open(part, uri, artifact_root=None, create=True)
    configs = grid(5, "FisherNet", "VAE", "CVAE")
    cohorts = [configs[i : i + MEMBERS] for i in range(0, len(configs), MEMBERS)]
    started, cpu, in_calls, longest = time.perf_counter(), time.process_time(), 0.0, 0.0
    for cohort in cohorts:
        for epoch in range(1, EPOCHS + 1):
            called = time.perf_counter()
            for config in cohort:
                tracking.log_epochs(config, [record(epoch)])
            seconds = time.perf_counter() - called
            in_calls, longest = in_calls + seconds, max(longest, seconds)
            time.sleep(max(0.0, pace - seconds))
        for config in cohort:
            tracking.finish(config, "FINISHED")
    handed_over, backlog = time.perf_counter(), tracking.backlog
    tracking.flush()
    ended = time.perf_counter()
    tracking.close("FINISHED")
    n_rows = len(configs) * EPOCHS * METRICS
    row(part, "rows", n_rows, "1")
    row(part, "seconds until all is handed over", handed_over - started, "s")
    row(part, "driver's thread in calls", in_calls, "s")
    row(part, "longest call for a stacked epoch", longest, "s")
    row(part, "records waiting then", backlog, "1")
    row(part, "seconds until all is written after that", ended - handed_over, "s")
    row(part, "CPU of the driver's process", time.process_time() - cpu, "s")
    row(part, "rows per second of wall", n_rows / (ended - started), "1/s")


def logging() -> None:
    with tempfile.TemporaryDirectory() as scratch, server(Path(scratch)) as http:
        for store, uri in (("sqlite", f"sqlite:///{scratch}/mlflow.db"), ("server", http)):
            log(f"logging-{store}", uri, 0.0)


def pace() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        log("pace-sqlite", f"sqlite:///{scratch}/mlflow.db", PACE)


def plan() -> None:
    clock = time.process_time
    for n_seeds in (13, 132):  # 988 and 10,032 runs
        began = clock()
        configs = grid(n_seeds, "FisherNet", "VAE", "CVAE", "AE")
        whole = SweepPlan(tuple(configs))
        whole.check()
        cohorts = make_cohorts(configs, Devices(0, 1, 2, 1), 1, (1, 28, 28))
        assert SweepPlan.from_dict(whole.to_dict()) == whole
        row(f"plan-{len(configs)}", "planning per run", (clock() - began) / len(configs), "CPU s")
        with tempfile.TemporaryDirectory() as scratch:
            uri = f"sqlite:///{scratch}/mlflow.db"
            tracking = SweepTracking.open("plan", uri, artifact_root=None, create=True)
            for name, part in (("first", cohorts[:300]), ("middle", cohorts[300:-300]), ("last", cohorts[-300:])):
                before = clock()
                for (config,) in part:
                    tracking.ensure(config)
                    tracking.log_epochs(config, [record(1)])
                    tracking.finish(config, "FINISHED")
                tracking.flush()
                row(f"plan-{len(configs)}", f"ensure and finish, {name} runs", (clock() - before) / len(part), "CPU s")
            tracking.close("FINISHED")
            before = clock()
            again = SweepTracking.open("plan", uri, artifact_root=None, create=False)
            assert len(again.runs()) == len(configs)
            row(
                f"plan-{len(configs)}",
                "reading all runs at a resume, per run",
                (clock() - before) / len(configs) / 2,
                "CPU s",
            )
            again.close("FINISHED")


def ray() -> None:
    sizes = (
        "--dataset=fashion-mnist --train-size=500 --hidden-width=8 --hidden-layers=1 --batch-size=256 --gpus=0 --models=VAE "
        "--latent-dims=2-9"
    )
    for cohort_size in ("1", "auto"):
        for seeds, epochs in ((1, 1), (4, 1), (4, 20)):
            with tempfile.TemporaryDirectory() as scratch:
                words = [
                    *sizes.split(),
                    f"--seeds={seeds}",
                    f"--epochs={epochs}",
                    f"--cohort-size={cohort_size}",
                    "--name=x",
                ]
                command = [sys.executable, str(ROOT / "sweeps" / "latent_sweep.py"), *words, "--storage-path", scratch]
                used = processes.run(command, ROOT)
                part, what = f"ray-cohort-size-{cohort_size}", f"{8 * seeds} runs x {epochs} epochs"
                row(part, what, used.wall, "s")
                row(part, f"{what} driver", used.itself, "CPU s")
                row(part, f"{what} all processes", used.all, "CPU s")


if __name__ == "__main__":
    parts = {"logging": logging, "pace": pace, "plan": plan, "ray": ray}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*parts, "all"], default="all")
    chosen = parser.parse_args().parts
    print("part,what,value,unit")
    for part in parts if "all" in chosen else chosen:
        parts[part]()
