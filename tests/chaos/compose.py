"""Faults on the compose cluster, with real containers: ``python -m tests.chaos.compose --repetitions 10``.

Brings up docker-compose.yml as a project of its own and trains a sweep undisturbed. For each fault the same
sweep is then trained while the fault strikes at random moments, and again under another name until it has struck as often as
asked. Afterwards each sweep must be what it was undisturbed: every run there once and FINISHED, every metric of every epoch
there once and equal bit for bit, the weights too; no checkpoint, no driver's container and no claim on a core may be left.
Prints a table; exit status 1 where one was not so.
"""

import argparse
import hashlib
import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]
AWAY_SECONDS = 60  # how long something is paused, cut off or stopped
LONGEST_PEACE = 10  # seconds of training, at most, before the next strike
# Cores of each worker while a fault is waited for or lasts: a sweep lives to see several, and this machine has other work.
PACE = 0.15
EPOCHS, MODELS = 40, ("FisherNet", "VAE")
SETTINGS = (
    f"--dataset digits --models {' '.join(MODELS)} --latent-dims 2 --epochs {EPOCHS} --hidden-width 64 --batch-size 64 "
    "--learning-rate 1e-3"
).split()
COHORTS = ("--cohort-size", "1")
TIMINGS = ("train_seconds", "epoch_seconds")  # the metrics that differ from one training to the next


class Cluster:
    """The compose project: its commands, and what its tracking server holds."""

    def __init__(self, port: int, workers: int) -> None:
        self.project, self.port, self.workers = f"fishernet-chaos-{port}", port, workers
        self.token = secrets.token_hex(16)
        self.environment = {
            **os.environ, "POSTGRES_PASSWORD": secrets.token_hex(16), "RAY_AUTH_TOKEN": self.token,
            "MLFLOW_PORT": str(port), "RAY_DASHBOARD_PORT": str(port + 1), "WORKER_CPUS": "1",
        }  # fmt: skip
        os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
        self.client = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")

    def compose(self, *words: str, check: bool = True) -> str:
        command = ["docker", "compose", "-p", self.project, *words]
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False, timeout=900
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return done.stdout

    def up(self) -> None:
        """Until every service is healthy; --wait would give up on a node that comes up at its second start."""
        deadline, next_try = time.monotonic() + 300, 0.0
        while True:
            if time.monotonic() > next_try:
                self.compose("up", "-d", "--scale", f"worker={self.workers}", check=time.monotonic() > deadline)
                next_try = time.monotonic() + 30
            self.pace(1)
            states = self.compose("ps", "--format", "{{.Service}} {{.Health}}").splitlines()
            wanted = ["postgres", "mlflow", "head", *["worker"] * self.workers]
            if sorted(states) == sorted(f"{service} healthy" for service in wanted):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the cluster is not healthy after five minutes: {states}")
            time.sleep(3)

    def pace(self, cores: float) -> None:
        with suppress(RuntimeError):  # a node between two starts cannot be changed; the next call finds it
            docker("update", "--cpus", str(cores), *self.containers("worker"))

    def containers(self, service: str) -> list[str]:
        labels = {"project": self.project, "service": service, "oneoff": "False"}
        return docker("ps", "-q", *(f"--filter=label=com.docker.compose.{k}={v}" for k, v in labels.items())).split()

    def start_sweep(self, *words: str) -> subprocess.Popen[str]:
        """The service ``sweep`` without its report, which would take minutes."""
        driver = ["deploy/driver.sh", "python", "sweeps/latent_sweep.py", "--address=auto", "--storage-path=/results"]
        command = ["run", "--rm", "-T", "--no-deps", "--entrypoint", "sh", "sweep", *driver, *words]
        return subprocess.Popen(
            ["docker", "compose", "-p", self.project, *command], cwd=ROOT, env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def drivers(self) -> list[str]:
        """The containers of sweeps."""
        return docker("ps", "-aq", "--filter", f"name={self.project}-sweep-run").split()

    def cores_in_use(self) -> str:
        """``0.0/3.0``, as Ray's dashboard has it."""
        url, header = f"http://127.0.0.1:{self.port + 1}/api/cluster_status", {"Authorization": f"Bearer {self.token}"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=header), timeout=10) as answer:
            status = json.load(answer)["data"]["autoscalingStatus"]
        return re.findall(r"ResourceUsage: (\S+) CPU", status)[0]

    def runs(self, name: str, role: str) -> list[Any]:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            return []
        return list(self.client.search_runs([experiment.experiment_id], f"tags.`fishernet.role` = '{role}'"))

    def n_epochs(self, name: str) -> int:
        """How many epochs of the sweep MLflow holds; 0 also where it cannot be asked."""
        try:
            metrics = [run.data.to_proto().metrics for run in self.runs(name, "trial")]
        except (MlflowException, OSError):
            return 0
        return sum(max((metric.step for metric in of_run), default=0) for of_run in metrics)

    def records(self, name: str) -> dict[str, dict[str, Any]]:
        """Run name -> metric -> (epoch, value) of each; and the weights' checksums, as the server hands them out."""
        found: dict[str, dict[str, Any]] = {}
        for run in self.runs(name, "trial"):
            record: dict[str, Any] = {
                metric: sorted((m.step, m.value) for m in self.client.get_metric_history(run.info.run_id, metric))
                for metric in run.data.metrics if metric not in TIMINGS
            }  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                weights = load_file(self.client.download_artifacts(run.info.run_id, "weights.safetensors", folder))
                record["weights"] = {name: hashlib.sha256(array.tobytes()).digest() for name, array in weights.items()}
            if run.info.run_name in found:
                raise AssertionError(f"{run.info.run_name} is there twice")
            found[run.info.run_name] = record
        return found


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], check=False, capture_output=True, text=True, timeout=200)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


# Ray names its processes by what they do; this one trains.
KILL_TRIALS = """
import os, pathlib
for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    if path.read_bytes().startswith(b"ray::ImplicitFunc"):
        os.kill(int(path.parent.name), 9)
        print("killed")
"""


def kill_trial(cluster: Cluster) -> None:
    workers = cluster.containers("worker")
    while "killed" not in docker("exec", random.choice(workers), "python", "-c", KILL_TRIALS):
        time.sleep(0.2)  # between two trials there may be none


def kill_processes(cluster: Cluster) -> None:
    """Every process of one worker but its first: the container ends, and its restart policy brings the node back."""
    with suppress(RuntimeError):  # Docker's exec ends with its container
        docker("exec", random.choice(cluster.containers("worker")), "python", "-c", "import os; os.kill(-1, 9)")


def remove_worker(cluster: Cluster) -> None:
    docker("rm", "-f", random.choice(cluster.containers("worker")))


def pause_worker(cluster: Cluster) -> None:
    container = random.choice(cluster.containers("worker"))
    docker("pause", container)
    time.sleep(AWAY_SECONDS)
    docker("unpause", container)


def cut_off_worker(cluster: Cluster) -> None:
    container, network = random.choice(cluster.containers("worker")), f"{cluster.project}_default"
    docker("network", "disconnect", network, container)
    time.sleep(AWAY_SECONDS)
    docker("network", "connect", "--alias", "worker", network, container)


def stop_mlflow(cluster: Cluster) -> None:
    cluster.compose("stop", "mlflow")
    time.sleep(AWAY_SECONDS)
    cluster.compose("start", "mlflow")


def restart(cluster: Cluster, service: str) -> None:
    cluster.compose("restart", "-t", random.choice(("0", "10")), service)  # by SIGKILL at once, or by SIGTERM


def kill_driver(cluster: Cluster) -> None:
    docker("kill", *cluster.drivers())


@dataclass(frozen=True)
class Fault:
    name: str
    strike: Callable[[Cluster], None]
    ends_sweep: bool = False  # the sweep is then resumed
    at_the_end: bool = False  # once for each sweep, of three seeds: shortly before training ends


FAULTS = (
    Fault("a trial's process killed with kill -9", kill_trial),
    Fault("all processes of a Ray node killed with kill -9; Docker restarts it", kill_processes),
    Fault("a Ray node killed and its container removed", remove_worker),
    Fault(f"a worker paused for {AWAY_SECONDS} s", pause_worker),
    Fault(f"a worker cut off from the network for {AWAY_SECONDS} s", cut_off_worker),
    Fault("the head restarted, the sweep resumed", lambda cluster: restart(cluster, "head"), ends_sweep=True),
    Fault("the driver's container killed with kill -9, the sweep resumed", kill_driver, ends_sweep=True),
    Fault(f"MLflow stopped for {AWAY_SECONDS} s in the middle", stop_mlflow),
    Fault(f"MLflow stopped for {AWAY_SECONDS} s while the training ends", stop_mlflow, at_the_end=True),
    Fault("PostgreSQL restarted", lambda cluster: restart(cluster, "postgres")),
)


def train(cluster: Cluster, name: str, seeds: int, fault: Fault | None = None, strikes: int = 0) -> list[int]:
    """Train the sweep ``name``, struck by the fault up to so many times; how many epochs MLflow held at each."""
    struck: list[int] = []
    said, n_total = "", seeds * len(MODELS) * EPOCHS
    sweep = cluster.start_sweep("--name", name, "--seeds", str(seeds), *SETTINGS, *COHORTS)
    while fault and len(struck) < strikes and (n := _await_moment(cluster, name, sweep, n_total, fault.at_the_end)):
        struck.append(n)
        fault.strike(cluster)
        if fault.ends_sweep:
            said += sweep.communicate(timeout=600)[0]
            if sweep.returncode == 0:
                break  # it was closing its books
        cluster.up()
        if fault.ends_sweep:
            sweep = cluster.start_sweep("--resume", name, *COHORTS)  # as the interrupted command says
        elif fault.at_the_end:
            break
        else:
            cluster.pace(PACE)
    cluster.pace(1)
    said += sweep.communicate(timeout=1200)[0]
    if sweep.returncode or "Traceback" in said:
        said = said[max(0, said.find("Traceback") - 500) :][:4000] if "Traceback" in said else said[-3000:]
        raise AssertionError(f"exit status {sweep.returncode} after strikes at {struck}: {said}")
    if fault and fault.at_the_end and not re.search(r"writing \d+ records to MLflow", said):
        return []  # it was back before the training had ended
    return struck


def _await_moment(cluster: Cluster, name: str, sweep: subprocess.Popen[str], n_total: int, at_the_end: bool) -> int:
    """Wait for a random moment of the training; how many epochs MLflow then holds, 0 if it has ended."""
    wanted = [cluster.n_epochs(name) + 1, *([n_total - random.randint(1, n_total // 4)] if at_the_end else [])]
    for n_wanted in wanted:
        while cluster.n_epochs(name) < n_wanted:
            if sweep.poll() is not None:
                return 0
            time.sleep(0.5)
        cluster.pace(PACE)
    if not at_the_end:
        time.sleep(random.uniform(0, LONGEST_PEACE))
    n = cluster.n_epochs(name)
    return n if sweep.poll() is None and n < n_total else 0


def check(cluster: Cluster, name: str, undisturbed: dict[str, dict[str, Any]]) -> None:
    """Raises AssertionError where the sweep is not what it would have been without the fault."""
    statuses = [(run.info.run_name, run.info.status) for role in ("sweep", "trial") for run in cluster.runs(name, role)]
    if sorted(statuses) != sorted((run, "FINISHED") for run in (name, *undisturbed)):
        raise AssertionError(f"not each run is there once and finished: {statuses}")
    found = cluster.records(name)
    if differing := [
        f"{run} {key}" for run, record in undisturbed.items() for key in record.keys() | found[run].keys()
        if record.get(key) != found[run].get(key)
    ]:  # fmt: skip
        raise AssertionError(f"other numbers than undisturbed, or lost or doubled epochs: {differing}")
    left = cluster.compose("run", "--rm", "-T", "--no-deps", "--entrypoint", "ls", "sweep", f"/results/{name}").split()
    if left != ["figures", "lock"]:
        raise AssertionError(f"in the sweep's folder are left {left}")
    if cluster.drivers():
        raise AssertionError("a driver's container is left")
    deadline = time.monotonic() + 200  # a node that was cut off learns late that it was given up, and starts anew
    while (cores := cluster.cores_in_use()) != f"0.0/{cluster.workers}.0":
        if time.monotonic() > deadline:
            raise AssertionError(f"{cores} cores are in use after the sweep")
        time.sleep(1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10, metavar="N", help="of each fault (default: 10)")
    parser.add_argument("--only", default="", metavar="REGEX", help="faults whose name this is found in (default: all)")
    parser.add_argument("--workers", type=int, default=3, metavar="N", help="of the cluster (default: 3)")
    parser.add_argument("--seeds", type=int, default=12, metavar="N", help="of each model in a sweep (default: 12)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and choices (default: 0)")
    parser.add_argument(
        "--port", type=int, default=5070,
        help="of MLflow on loopback, the next is Ray's; a second cluster beside the first takes another (default: 5070)",
    )  # fmt: skip
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the cluster is taken down then too
    random.seed(args.seed)
    cluster, rows, failed = Cluster(args.port, args.workers), [], False
    try:
        cluster.up()
        began = time.monotonic()
        train(cluster, "undisturbed", args.seeds)
        undisturbed = cluster.records("undisturbed")
        check(cluster, "undisturbed", undisturbed)
        print(f"undisturbed: {len(undisturbed)} runs ({time.monotonic() - began:.0f} s)", flush=True)
        for number, fault in enumerate(FAULTS):
            if not re.search(args.only, fault.name):
                continue
            seeds = min(3, args.seeds) if fault.at_the_end else args.seeds
            expected = {run: undisturbed[run] for run in undisturbed if int(run.rpartition("-s")[2]) < seeds}
            n_struck = n_sweeps = n_same = 0
            while n_struck < args.repetitions and n_sweeps < 2 * args.repetitions:
                name, began = f"fault-{number}-{n_sweeps}", time.monotonic()
                n_sweeps += 1
                try:
                    struck = train(cluster, name, seeds, fault, args.repetitions - n_struck)
                    check(cluster, name, expected)
                    n_struck, n_same = n_struck + len(struck), n_same + 1
                    result = f"struck at epochs {struck} of {len(expected) * EPOCHS}, as undisturbed"
                except (AssertionError, RuntimeError, OSError, MlflowException, subprocess.SubprocessError) as error:
                    result, failed = f"FAILED: {error}", True
                print(f"{fault.name}: {result} ({time.monotonic() - began:.0f} s)", flush=True)
                if left := cluster.drivers():
                    docker("rm", "-f", *left)
                cluster.up()
            rows.append(f"| {fault.name} | {n_struck} | {n_sweeps} | {n_same} |")
    finally:
        if left := cluster.drivers():
            docker("rm", "-f", *left)
        cluster.compose("down", "-v", "--remove-orphans", "-t", "5", check=False)
        print("\n| fault | moments | in sweeps | as undisturbed |\n|---|---|---|---|", *rows, sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
