"""Where and with what a run is computed: host, processor, packages, commit."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from fishernet.plan import Json


def commit() -> str:
    """The commit of the checkout this package is part of; empty where it is installed or is no checkout."""
    checkout = Path(__file__).resolve().parents[1]
    # Without .git it is installed, perhaps below some other repository, whose commit would be the wrong one.
    return _output("git", "-C", str(checkout), "rev-parse", "HEAD") if (checkout / ".git").exists() else ""


def versions() -> dict[str, str]:
    """Python's and the packages' versions."""
    found = {"python": platform.python_version()}
    for package in ("fishernet", "torch", "ray", "mlflow", "optuna", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> Json:
    """Host, processor, cores, GPUs, system."""
    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() is empty on Linux
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")  # torch would take memory there
    return {
        "hostname": platform.node(),
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpus": gpus.splitlines(),
        "system": platform.platform(),
    }


def usable_cpus() -> int:
    """The CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_gpus() -> int:
    """The GPUs that torch can use; raises RuntimeError where it sees some and can use none."""
    import torch

    n = torch.cuda.device_count()  # asks the driver; the next asks CUDA
    if n and not torch.cuda.is_available():
        raise RuntimeError(
            f"torch sees {n} GPU{'s' * (n > 1)} here and cannot use {'them' if n > 1 else 'it'}, as the NVIDIA driver is too old "
            f"for CUDA {torch.version.cuda}: update the driver"
        )
    return n


def _output(*command: str) -> str:
    """What the command prints; empty where it is missing or fails."""
    # GIT_DIR, as a hook of git's has it, would have the commit of another checkout.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=True, env=environment)
        return done.stdout.decode(errors="replace").strip()
    except (OSError, subprocess.SubprocessError):
        return ""
