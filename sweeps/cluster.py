"""The Ray that trials run on: a private one of this machine, or a cluster that is there."""

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fishernet.surroundings import by_python_path, ray_start_error
from sweeps.planning import Devices, usable_cpus

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0 it silences Tune's tables
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # `uv run` would rebuild the environment in every worker
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow is the record; TensorBoard's writer imports torch in the driver
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # Ray would run its workers at 15, behind everything else on the machine
    "PL_DISABLE_FORK": "1",  # Tune's own for its workers, see sweeps/launch.py
}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402  (reads these variables when it is imported)
from ray._private import ray_constants, utils  # noqa: E402
from ray.job_config import JobConfig  # noqa: E402

utils.set_sigterm_handler = lambda handler: None  # the driver's own answer stays, also while Ray starts

# Ray gives its processes 30 s to come up, which a busy machine may need for loading them the first time.
STARTS = 3
# A cluster that has just come up, or come back, may not have its workers yet.
WAIT_FOR_NODES_SECONDS = 60


private = False  # whether the Ray that is connected is this process's own: its workers inherit this environment


class ClusterError(RuntimeError):
    """Why there is no Ray for the trials, as a sentence that names the flag."""


def connect(
    address: str | None, devices: Callable[[list[dict[str, float]]], Devices], *, gpus: int, cpus: int | None = None
) -> Devices:
    """Start a private Ray on this machine, or join the cluster at ``address``; returns what ``devices`` makes of its nodes.

    ``gpus`` and ``cpus`` are what a private Ray may give to trials (cpus: all that this process may use); it starts a
    worker for each core. ``devices`` takes the resources of each living node, and raises where it has fewer GPUs than asked
    for: Ray itself would wait for ever. A cluster has a minute to have ``gpus`` GPUs and a CPU core. Raises ClusterError when
    it cannot be reached or has no CPU core then.
    """
    global private
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    # Workers import these packages from where the driver has them, also when they are not installed there.
    path = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")]))
    try:
        if address is None:
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a private cluster on loopback
            # Ray's own way to have all its processes listen on loopback alone, which it takes by default on macOS and Windows.
            ray_constants.ENABLE_RAY_CLUSTER = False
            os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
            os.environ["PYTHONPATH"] = path
            private = True
            _start_private_ray(gpus, usable_cpus() if cpus is None else cpus, quiet)
        else:
            _check_answers(address)
            ray.init(address=address, runtime_env={"env_vars": {"PYTHONPATH": path}}, **quiet)
    except Exception as error:  # Ray's own are many, down to a bare Exception when its processes are not up in 30 s
        if address is None:
            raise ClusterError(ray_start_error(error)) from None
        reason = " ".join(str(error).split())[:300]
        raise ClusterError(f"--address {address}: no Ray cluster can be joined there ({reason})") from None
    deadline = time.monotonic() + WAIT_FOR_NODES_SECONDS
    while (there := ray.cluster_resources()).get("CPU", 0) < 1 or (address and there.get("GPU", 0) < gpus):
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    if not there.get("CPU"):
        raise ClusterError(
            f"--address {address}: that Ray cluster has no CPU cores to give; start a worker beside it "
            "(ray start --address=HOST:PORT, or docker compose up -d)"
        )
    return devices([node["Resources"] for node in ray.nodes() if node["Alive"]])


def end_processes() -> None:
    """Kill all that this process has started: amid its start Ray cannot be shut down. On Linux; elsewhere Ray does it itself."""
    stopped: set[int] = set()
    # All are stopped before any is killed: one that runs may start others, and one that is dead is nobody's parent.
    while started := _descendants(os.getpid()) - stopped:
        for pid in started:
            _signal(pid, signal.SIGSTOP)
        stopped |= started
    for pid in stopped:
        _signal(pid, signal.SIGKILL)


def _descendants(pid: int) -> set[int]:
    """Ids of the processes that a process has started, and that those have, as Linux lists them."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            # Bytes: the name in it may be cut amid a letter.
            parent = int(path.read_bytes().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found: set[int] = set()
    new = children.get(pid, [])
    while new:
        found.update(new)
        new = [child for parent in new for child in children.get(parent, [])]
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(OSError):  # it has ended meanwhile
        os.kill(pid, number)


def _start_private_ray(gpus: int, cpus: int, quiet: dict[str, Any]) -> None:
    # Ray counts cores that taskset or SLURM leave to others; limits of a container it knows by itself.
    n_cpus = cpus if cpus < (os.cpu_count() or 1) else None
    for attempt in range(1, STARTS + 1):
        try:
            # "local" keeps away from any other Ray on this machine, running or dead.
            ray.init(
                address="local", num_cpus=n_cpus, num_gpus=gpus, include_dashboard=False,
                job_config=by_python_path(JobConfig()), **quiet,
            )  # fmt: skip
        except Exception:  # a bare one where its processes are not up in time
            ray.shutdown()
            if attempt == STARTS:
                raise
        else:
            return


def _check_answers(address: str) -> None:
    """Raises OSError at once where nothing listens: Ray would try for a minute and print its own lines."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
