"""Faults on the compose cluster, with real containers: ``python -m tests.chaos.compose --repetitions 3``.

Brings up docker-compose.yml with three workers as a project of its own, trains one sweep undisturbed and then the same sweep
once per fault and repetition, each fault at a random moment of the training. Afterwards every run must be FINISHED and there
once, each epoch's test MSE must be there once and equal the undisturbed sweep's bit for bit, its weights must be readable
through the server, and checkpoints and driver containers must be gone. Prints a table; exit status 1 where one was not so.
"""

import argparse
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient
from mlflow.utils.proto_json_utils import MlflowException

ROOT = Path(__file__).resolve().parents[2]
PROJECT, WORKERS = "fishernet-chaos", 3
AWAY_SECONDS = 60  # how long something is paused, cut off or stopped
SETTINGS = {
    "dataset": "digits", "models": "FisherNet VAE", "latent-dims": "2", "seeds": "2", "epochs": "30",
    "hidden-width": "128", "batch-size": "16", "learning-rate": "1e-3", "cohort-size": "1",
}  # fmt: skip


class Cluster:
    """The compose project: its commands, and what its tracking server holds."""

    def __init__(self, port: int) -> None:
        self.environment = {
            **os.environ, "POSTGRES_PASSWORD": secrets.token_hex(16), "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "MLFLOW_PORT": str(port), "RAY_DASHBOARD_PORT": str(port + 1), "WORKER_CPUS": "1",
        }  # fmt: skip
        os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
        self.client = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")

    def compose(self, *words: str, check: bool = True) -> str:
        command = ["docker", "compose", "-p", PROJECT, *words]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False, timeout=900
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return done.stdout

    def up(self) -> None:
        """Until every worker is healthy; --wait would give up on a node that comes up at its second start."""
        deadline = time.monotonic() + 300
        while True:
            self.compose("up", "-d", "--scale", f"worker={WORKERS}", check=time.monotonic() > deadline)
            states = self.compose("ps", "--format", "{{.Service}} {{.Health}}").splitlines()
            if states.count("worker healthy") == WORKERS and "head healthy" in states:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the cluster is not healthy after five minutes: {states}")
            time.sleep(2)

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "-q", service).split()

    def start_sweep(self, *words: str) -> subprocess.Popen[str]:
        """The service ``sweep`` without its report, so that a repetition takes a minute."""
        driver = ["deploy/driver.sh", "python", "sweeps/latent_sweep.py", "--address=auto", "--storage-path=/results"]
        command = ["run", "--rm", "-T", "--entrypoint", "sh", "sweep", *driver, *words]
        return subprocess.Popen(
            ["docker", "compose", "-p", PROJECT, *command], cwd=ROOT, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def drivers(self) -> list[str]:
        """The containers of sweeps."""
        words = ["docker", "ps", "-aq", "--filter", f"name={PROJECT}-sweep-run"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()

    def runs(self, name: str) -> list[Any]:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            return []
        return list(self.client.search_runs([experiment.experiment_id], "tags.`fishernet.role` = 'trial'"))

    def histories(self, name: str) -> dict[str, list[tuple[int, float]]]:
        """Run name -> (epoch, test MSE); a run that is there twice is an error."""
        found: dict[str, list[tuple[int, float]]] = {}
        for run in self.runs(name):
            if run.info.run_name in found:
                raise AssertionError(f"{run.info.run_name} is there twice")
            history = self.client.get_metric_history(run.info.run_id, "test/mse")
            found[run.info.run_name] = sorted((m.step, m.value) for m in history)
        return found

    def n_epochs(self, name: str) -> int:
        try:
            return sum(map(len, self.histories(name).values()))
        except (MlflowException, OSError):
            return 0


def docker(*words: str) -> None:
    done = subprocess.run(["docker", *words], check=False, capture_output=True, text=True, timeout=200)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(words)}: {done.stderr.strip()}")


def kill_processes(cluster: Cluster) -> None:
    """Every process of one worker but its first: the container ends, and its restart policy brings the node back."""
    docker("exec", random.choice(cluster.containers("worker")), "python", "-c", "import os; os.kill(-1, 9)")


def remove_worker(cluster: Cluster) -> None:
    docker("rm", "-f", random.choice(cluster.containers("worker")))


def pause_worker(cluster: Cluster) -> None:
    container = random.choice(cluster.containers("worker"))
    docker("pause", container)
    time.sleep(AWAY_SECONDS)
    docker("unpause", container)


def cut_off_worker(cluster: Cluster) -> None:
    container = random.choice(cluster.containers("worker"))
    docker("network", "disconnect", f"{PROJECT}_default", container)
    time.sleep(AWAY_SECONDS)
    docker("network", "connect", "--alias", "worker", f"{PROJECT}_default", container)


def stop_mlflow(cluster: Cluster) -> None:
    cluster.compose("stop", "mlflow")
    time.sleep(AWAY_SECONDS)
    cluster.compose("start", "mlflow")


def restart_postgres(cluster: Cluster) -> None:
    cluster.compose("restart", "postgres")


def restart_head(cluster: Cluster) -> None:
    cluster.compose("restart", "head")


def kill_driver(cluster: Cluster) -> None:
    docker("kill", *cluster.drivers())


# Fault -> what does it, and whether the sweep must end by it and be resumed.
FAULTS: dict[str, tuple[Callable[[Cluster], None], bool]] = {
    "a worker's processes killed with kill -9; Docker restarts it": (kill_processes, False),
    "a worker's container removed": (remove_worker, False),
    f"a worker paused for {AWAY_SECONDS} s": (pause_worker, False),
    f"a worker cut off from the network for {AWAY_SECONDS} s": (cut_off_worker, False),
    f"MLflow stopped for {AWAY_SECONDS} s": (stop_mlflow, False),
    "PostgreSQL restarted": (restart_postgres, False),
    "the head restarted, the sweep resumed": (restart_head, True),
    "the driver's container killed with kill -9, the sweep resumed": (kill_driver, True),
}


def train(cluster: Cluster, name: str, fault: Callable[[Cluster], None] | None, after: float, resumes: bool) -> float:
    """Train the sweep ``name`` with a fault ``after`` seconds of training; returns how long the training took."""
    words = [f"--name={name}", *(w for k, v in SETTINGS.items() for w in (f"--{k}", *v.split()))]
    sweep = cluster.start_sweep(*words)
    while not cluster.n_epochs(name):
        if sweep.poll() is not None:
            raise AssertionError(f"the sweep did not start: {sweep.communicate()[0][-1500:]}")
        time.sleep(0.2)
    began = time.monotonic()
    if fault:
        time.sleep(after)
        if sweep.poll() is not None:
            raise AssertionError("the sweep had ended before the fault")
        fault(cluster)
    said = sweep.communicate(timeout=600)[0]
    took = time.monotonic() - began
    if resumes and sweep.returncode:
        cluster.up()
        sweep = cluster.start_sweep("--resume", name)
        said += sweep.communicate(timeout=600)[0]
    if sweep.returncode:
        raise AssertionError(f"exit status {sweep.returncode}: {said[-1500:]}")
    if "Traceback" in said:
        raise AssertionError(f"a traceback: {said[-1500:]}")
    return took


def check(cluster: Cluster, name: str, undisturbed: dict[str, list[tuple[int, float]]]) -> None:
    """Raises AssertionError where the sweep is not what it would have been without the fault."""
    statuses = {run.info.run_name: run.info.status for run in cluster.runs(name)}
    if set(statuses.values()) != {"FINISHED"}:
        raise AssertionError(f"not all runs are finished: {statuses}")
    found = cluster.histories(name)
    if found != undisturbed:
        differing = [n for n in undisturbed if found.get(n) != undisturbed[n]]
        raise AssertionError(f"other numbers than undisturbed, or lost or doubled epochs: {differing}")
    with tempfile.TemporaryDirectory() as folder:
        for run in cluster.runs(name):
            path = cluster.client.download_artifacts(run.info.run_id, "weights.safetensors", folder)
            if not Path(path).stat().st_size:
                raise AssertionError(f"the weights of {run.info.run_name} are empty")
    if cluster.compose("run", "--rm", "-T", "--no-deps", "--entrypoint", "ls", "sweep", f"/results/{name}").split() != [
        "figures", "lock",
    ]:  # fmt: skip
        raise AssertionError("checkpoints are left")
    if cluster.drivers():
        raise AssertionError("a driver's container is left")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10, metavar="N", help="of each fault (default: 10)")
    parser.add_argument("--only", default="", metavar="REGEX", help="faults whose name this is found in (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and choices (default: 0)")
    parser.add_argument(
        "--port", type=int, default=5070, help="of MLflow on loopback; the next is Ray's (default: 5070)"
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the cluster is taken down then too
    random.seed(args.seed)
    cluster = Cluster(args.port)
    results: dict[str, list[str]] = {}
    try:
        cluster.up()
        took = train(cluster, "undisturbed", None, 0, False)
        undisturbed = cluster.histories("undisturbed")
        check(cluster, "undisturbed", undisturbed)
        print(f"undisturbed: {len(undisturbed)} runs, training {took:.0f} s", flush=True)
        for repetition in range(args.repetitions):
            for number, (fault, (do, resumes)) in enumerate(FAULTS.items()):
                if not re.search(args.only, fault):
                    continue
                after, began = random.uniform(0, 0.8 * took), time.monotonic()
                try:
                    train(cluster, f"fault-{number}-{repetition}", do, after, resumes)
                    check(cluster, f"fault-{number}-{repetition}", undisturbed)
                    result = "as undisturbed"
                except (AssertionError, RuntimeError, subprocess.SubprocessError) as error:
                    result = f"failed: {error}"
                results.setdefault(fault, []).append(result)
                print(f"{fault}, at {after:.0f} s: {result} ({time.monotonic() - began:.0f} s)", flush=True)
                if left := cluster.drivers():
                    docker("rm", "-f", *left)
                cluster.up()
    finally:
        if left := cluster.drivers():
            docker("rm", "-f", *left)
        cluster.compose("down", "-v", "--remove-orphans", "-t", "5", check=False)
        print("\n| fault | repetitions | as undisturbed |\n|---|---|---|")
        for fault, outcomes in results.items():
            print(f"| {fault} | {len(outcomes)} | {outcomes.count('as undisturbed')} |")
    return int(any(outcome != "as undisturbed" for outcomes in results.values() for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
