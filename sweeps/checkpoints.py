"""The checkpoints that Ray keeps of a sweep's cohorts, below its folder: found, and removed once they have served."""

import json
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fishernet.config import TrialConfig
from fishernet.families import trial_config

STATE_FILE, RECORDS_FOLDER, STAGING = "state.safetensors", "records", "staging-"
Members = tuple[TrialConfig, ...]


def find_checkpoints(folder: Path) -> dict[Members, list[str]]:
    """The state files of the sweep in ``folder``: members of the cohort -> paths, the most advanced first.

    Those whose header is damaged are named and left out; the rest of a file is checked when it is loaded.
    """
    found: dict[Members, list[tuple[int, str]]] = {}
    for path in (folder / "ray").glob(f"*/*/checkpoint_*/{STATE_FILE}"):
        try:
            with safe_open(path, framework="numpy") as file:
                state = json.loads(file.metadata()["state"])
            members = tuple(trial_config(c) for c in state["configs"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            print(f"{path} is not a readable checkpoint ({error}); the one before it is used, or its runs start again")
            continue
        found.setdefault(members, []).append((state["epoch"], str(path)))
    return {members: [path for _, path in sorted(paths, reverse=True)] for members, paths in found.items()}


def remove_checkpoints(folder: Path, job_id: str | None = None) -> None:
    """Delete what Ray keeps of a job, in all launches; without one, what is left once no run is unfinished."""
    if job_id is None:
        shutil.rmtree(folder / "ray", ignore_errors=True)
    for path in (folder / "ray").glob(f"*/{job_id}"):
        shutil.rmtree(path, ignore_errors=True)


def remove_staging(folder: Path) -> None:
    """Delete what processes that were killed left behind while they wrote a checkpoint."""
    for left in (folder / "ray").glob(f"{STAGING}*"):
        shutil.rmtree(left, ignore_errors=True)
