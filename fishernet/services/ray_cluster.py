"""Ray, started: a private one of this machine, or a cluster that is there. Its settings and private names stand here alone.

Ray takes a second to import and reads variables when it is imported. So functions import it, once these are set; importing this
module takes no time.
"""

import os
import re
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from fishernet.provenance import usable_cpus
from fishernet.services.mlflow_store import reason_of

# Where the user has set none: a Ray that says and sends nothing, at the niceness of its driver.
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
    "PL_DISABLE_FORK": "1",  # Tune's own for its workers, see keep_workers
}
# What of Ray is private and used here, as seen in Ray 2.60; tests/test_boundaries.py fails when one of them is gone.
PRIVATE = (
    "ray._private.ray_constants.ENABLE_RAY_CLUSTER",
    "ray._private.ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR",
    "ray._private.utils.set_sigterm_handler",
    "ray.job_config.JobConfig._runtime_env_has_working_dir",
    "ray.tune.execution.class_cache.DEFAULT_ENV_VARS",
    "ray.tune.execution.class_cache.ENV_VARS_TO_PROPAGATE",
)
PACKAGES = str(
    Path(__file__).resolve().parents[2]
)  # the folder that the workers import these packages from, installed or not
# Ray gives its processes 30 s to come up, which a busy machine may need for loading them the first time.
STARTS = 3
# A cluster that has just come up, or come back, may not have its workers yet.
WAIT_FOR_NODES_SECONDS = 60
# A socket of Ray's: what comes behind its folder, and how many bytes of a path the system takes (sockaddr_un).
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
LONGEST_SOCKET = 103 if sys.platform == "darwin" else 107

Node = dict[str, float]  # what a node has of each resource, such as CPU and GPU

_private = False  # whether the Ray that is connected is this process's own: its workers inherit this environment


class ClusterError(RuntimeError):
    """Why there is no Ray, as a sentence."""


def prepare(*, private: bool) -> ModuleType:
    """Ray, imported with these settings; ``private``: to be started on this machine. Raises ClusterError where it cannot be."""
    if private:
        settle_private_ray()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        from ray._private import utils
    except Exception as error:  # by a variable of Ray's
        raise ClusterError(f"Ray cannot be imported here: {reason_of(error)}") from error
    utils.set_sigterm_handler = lambda handler: None  # the driver's own answer stays, also while Ray starts
    return ray


def start(*, gpus: int, cpus: int | None = None) -> list[Node]:
    """Start a private Ray on this machine, which listens on loopback alone; its nodes.

    ``gpus`` and ``cpus`` are what it may give away (cpus: all that this process may use); it starts a worker for each core.
    Raises ClusterError where one runs in this process already, or where it does not start.
    """
    global _private
    ray = prepare(private=True)
    if ray.is_initialized():
        raise ClusterError("Ray runs in this process already, and a private one is to be started")
    constants = ray._private.ray_constants
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a private cluster on loopback
    # Ray's own way to have all its processes listen on loopback alone, which it takes by default on macOS and Windows.
    constants.ENABLE_RAY_CLUSTER = False
    os.environ[constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    os.environ["PYTHONPATH"] = _python_path()
    _private = True
    if cpus is None and usable_cpus() < (os.cpu_count() or 1):
        cpus = usable_cpus()  # Ray counts cores that taskset or SLURM leave to others; a container's limits it knows
    for attempt in range(1, STARTS + 1):
        job_config = ray.job_config.JobConfig()
        # By PYTHONPATH alone. Workers would look first in the driver's current folder, where a file may have a package's name.
        job_config._runtime_env_has_working_dir = lambda: True
        try:
            # "local" keeps away from any other Ray on this machine, running or dead.
            ray.init(
                address="local", num_cpus=cpus, num_gpus=gpus, include_dashboard=False, job_config=job_config,
                log_to_driver=False, logging_level="ERROR",
            )  # fmt: skip
        except Exception as error:  # Ray's own are many, down to a bare Exception when its processes are not up in 30 s
            ray.shutdown()
            if attempt == STARTS:
                raise ClusterError(start_error(error)) from None
        else:
            break
    return _nodes(ray)


def join(address: str, *, gpus: int) -> list[Node]:
    """Connect to the cluster at ``address``; its living nodes, once it has ``gpus`` GPUs and a CPU core.

    It has a minute for that. Raises ClusterError where it cannot be reached, or has no CPU core then.
    """
    ray = prepare(private=False)
    try:
        _check_answers(address)
        ray.init(
            address=address, runtime_env={"env_vars": {"PYTHONPATH": _python_path()}}, log_to_driver=False,
            logging_level="ERROR",
        )  # fmt: skip
    except Exception as error:  # Ray's own are many
        reason = " ".join(str(error).split())[:300]
        raise ClusterError(f"--address {address}: no Ray cluster can be joined there ({reason})") from None
    nodes = _nodes(ray, gpus)
    if not ray.cluster_resources().get("CPU"):
        raise ClusterError(
            f"--address {address}: that Ray cluster has no CPU cores to give; start a worker beside it "
            "(ray start --address=HOST:PORT, or docker compose up -d)"
        )
    return nodes


def stop() -> None:
    """End the private Ray, or leave the cluster; nothing where there is neither."""
    if ray := sys.modules.get("ray"):
        ray.shutdown()


def keep_workers() -> None:
    """Have Tune's trials run in the workers that a private Ray has started.

    These inherited the variables that Tune would hand on; asked for again, other workers would be started for the trials.
    """
    from ray.tune.execution import class_cache

    if _private:
        class_cache.DEFAULT_ENV_VARS.clear()
        class_cache.ENV_VARS_TO_PROPAGATE.clear()


def settle_private_ray() -> None:
    """Before Ray is imported to be started on this machine: none of its settings is another cluster's, or ends its processes.

    Of its settings numbers and switches are kept: a word where it expects a number ends Ray, and this process with it. Its files
    go to RAY_TMPDIR, else TMPDIR, where these can hold them, else to /tmp. Raises ClusterError where no folder can.
    """
    for name in [name for name in os.environ if name.startswith(("RAY_", "TUNE_")) and name != "RAY_TMPDIR"]:
        if not re.fullmatch(r"\d{1,9}|\d{1,9}\.\d+|true|false|disabled", os.environ[name]):
            del os.environ[name]
    asked = [os.environ[name] for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)]
    problems: list[str] = []
    for folder in [*asked, "/tmp"]:
        if not (problem := socket_problem(folder)):
            break
        problems.append(problem)
    else:
        raise ClusterError(
            f"Ray cannot be started on this machine: {problems[0]}; set RAY_TMPDIR to a short path of a folder that can be "
            "written to"
        )
    os.environ["RAY_TMPDIR"] = str(Path(folder).absolute())
    if problems:
        print(f"{problems[0]}; they go below {folder}", file=sys.stderr)


def socket_problem(folder: str) -> str:
    """Why Ray's sockets cannot be in that folder, as half a sentence; empty where they can. The folder is made."""
    path = Path(folder).absolute()
    if len(os.fsencode(path)) + len(SOCKET) > LONGEST_SOCKET:
        room = LONGEST_SOCKET - len(SOCKET)
        return f"the temporary folder {path} is too long a path for Ray's sockets, which leave it {room} bytes"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"the temporary folder {path} cannot be made ({error.strerror}), and Ray's sockets go there"
    if not os.access(path, os.W_OK | os.X_OK):
        return f"the temporary folder {path} cannot be written to, and Ray's sockets go there"
    return ""


def start_error(error: BaseException) -> str:
    """Why Ray did not start on this machine, and what helps against that, as a sentence."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    said = f"Ray did not start on this machine ({reason})"
    if re.search(r"too many open files|Errno 24\b", reason, re.I):
        return f"{said}; allow more open files: ulimit -n 4096"
    if re.search(r"no space left|Errno 28\b|quota", reason, re.I):
        return f"{said}; make room there, or set RAY_TMPDIR to a short path of another folder"
    if re.search(r"Errno (13|30)\b", reason) and os.environ.get("RAY_TMPDIR", "/tmp") in reason:
        return f"{said}; set RAY_TMPDIR to a short path of a folder that can be written to"
    if re.search(r"cannot allocate|out of memory|Errno 12\b|resource temporarily|can't start new thread", reason, re.I):
        return f"{said}; free memory or end other processes, or raise the limits of this shell (ulimit -a)"
    if re.search(r"timed out|overloaded|Failed to (start|connect to|get) |start(ed)? successfully", reason):
        return f"{said}; is it very busy, or out of memory?"
    return said


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


def _nodes(ray: ModuleType, gpus: int = 0) -> list[Node]:
    """The living nodes, once they have a CPU core and the GPUs, for which they have a minute."""
    deadline = time.monotonic() + WAIT_FOR_NODES_SECONDS
    while (there := ray.cluster_resources()).get("CPU", 0) < 1 or there.get("GPU", 0) < gpus:
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _python_path() -> str:
    """Where workers import from: these packages' folder, then as here."""
    return os.pathsep.join(dict.fromkeys(filter(None, [PACKAGES, *os.environ.get("PYTHONPATH", "").split(os.pathsep)])))


def _check_answers(address: str) -> None:
    """Raises OSError at once where nothing listens: Ray would try for a minute and print its own lines."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
