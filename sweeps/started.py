"""``fishernet.sweep``: a sweep started from Python, as a process of its own."""

from __future__ import annotations

import hashlib
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fishernet.services.mlflow_store import DEFAULT_STORAGE, default_tracking_uri

INTERRUPTED = 130
Images = npt.ArrayLike | os.PathLike[str]  # an array, a name or a path


def sweep(
    name: str,
    images: Images | None = None,
    *,
    storage_path: str | os.PathLike[str] = DEFAULT_STORAGE,
    **settings: Any,
) -> Any:
    """Train a sweep and open it (``fishernet.open_sweep``); the same name again trains what is missing.

    ``settings`` are the flags of sweeps/latent_sweep.py: ``models=["VAE", "AE"], latent_dims=[2, 4], seeds=3, epochs=20``.
    ``images`` is an array, (n, height, width) or with channels, the last sixth of which tests, or a path or a data set's name.
    The driver is a process of its own, whose lines are printed as they come: an interrupt stops it as Ctrl-C does, closes its
    books and raises KeyboardInterrupt, and the same call goes on. Raises ValueError where it refuses what it is asked for, and
    RuntimeError where it ends in another way.
    """
    if images is not None:
        settings["dataset"] = images if isinstance(images, str | os.PathLike) else _kept(images, Path(storage_path))
    command = [
        sys.executable,
        "-u",
        "-m",
        "sweeps.latent_sweep",
        "--name",
        name,
        "--storage-path",
        os.fspath(storage_path),
    ]
    for key, value in settings.items():
        flag = f"--{key.replace('_', '-')}"
        command += [flag, *map(str, value)] if key == "models" and not isinstance(value, str) else [flag, _text(value)]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(_root()), os.environ.get("PYTHONPATH")]))},
    )  # fmt: skip
    assert started.stdout is not None
    last = ""
    try:
        for line in started.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
        status = started.wait()
    except KeyboardInterrupt:
        started.send_signal(signal.SIGINT)
        for line in started.stdout:
            print(line, end="", flush=True)
        started.wait()
        raise
    if status == 2:
        raise ValueError(last.partition("error: ")[2] or last)
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status not in (0, 1):  # 1: some runs failed, which the sweep says of each
        raise RuntimeError(f"the sweep ended with status {status}: {last}")
    uri = settings.get("tracking_uri") or default_tracking_uri(Path(storage_path))
    # By name: what draws stands beside the drivers, not below them.
    return importlib.import_module("analysis.opened").open_sweep(name, tracking_uri=uri)


def _text(value: object) -> str:
    """A list with commas, one of a single number too: ``--seeds 7`` would be seven seeds, ``--seeds 7,`` is that one."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return str(value)
    values = [*map(str, value)]
    return ",".join(values) + "," * (len(values) == 1)


def _root() -> Path:
    return Path(__file__).resolve().parents[1]


def _kept(images: npt.ArrayLike, storage: Path) -> str:
    """The path of the array as a file below ``storage``, by its content, where a sweep and its analyses find it again."""
    array = np.ascontiguousarray(images)
    digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.data.tobytes()).hexdigest()[:16]
    path = storage / "images" / f"{digest}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        writing = path.with_suffix(".writing.npy")
        np.save(writing, array, allow_pickle=False)
        writing.replace(path)
    return str(path)
