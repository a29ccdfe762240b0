"""The Ray Tune trial: one cohort, translated from Tune's config and to Tune's reports."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STATE_FILE, RECORDS_FOLDER = "state.safetensors", "records"
_last_data: tuple[tuple[Any, ...], Any] | None = None  # a reused worker process keeps its images


def train_cohort(config: dict[str, Any]) -> None:
    """Train ``config["job"]`` (see ``Job.to_dict``), reporting once per epoch; its first report repeats a resumed history.

    Reports {"epochs": {run_name: [records]}, "failures": {run_name: reason}, "notes": [...], "finished": 0 or 1}. The last
    one carries a checkpoint with the members' record folders beside the state.
    """
    import torch
    from ray import tune

    from fishernet.cohort import Cohort
    from fishernet.config import TrialConfig
    from fishernet.records import write_records
    from fishernet.training import train

    job = config["job"]
    configs = [TrialConfig.from_dict(member) for member in job["members"]]
    device = "cuda" if job["gpu"] else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            "this trial was given a GPU, but torch finds none on its node; check the driver and torch's CUDA"
        )
    if device == "cuda":
        torch.cuda.empty_cache()  # a reused process still holds the last cohort's memory
    else:
        torch.set_num_threads(job["threads"])
    data = _load_data(configs[0], job["data_dir"])
    cohort = Cohort(configs, data.image_shape, len(data.train), device)
    notes = _load_newest(cohort, _candidates(job))
    names = [c.run_name for c in configs]

    def report(epochs: dict[str, list[Any]], *, finished: bool, save: bool) -> None:
        metrics = {
            "epochs": epochs,
            "failures": {names[i]: reason for i, reason in cohort.failures.items()},
            "notes": notes.copy(),
            "finished": int(finished),
        }
        notes.clear()
        if not save:
            tune.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            cohort.save(Path(folder) / STATE_FILE)
            if finished:
                write_records(Path(folder) / RECORDS_FOLDER, cohort, data)
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))

    def ended() -> bool:
        return cohort.epoch == cohort.config.epochs or len(cohort.failures) == len(cohort)

    if cohort.epoch:
        history = dict(zip(names, cohort.history, strict=True))
        report(history, finished=ended(), save=ended())
    for records in train(cohort, data):
        epochs = {name: [record] for name, record in zip(names, records, strict=True) if record is not None}
        report(epochs, finished=ended(), save=ended() or cohort.epoch % job["checkpoint_every"] == 0)


def _load_data(config: Any, data_dir: str | None) -> Any:
    from fishernet.data import load_data

    global _last_data
    key = (config.dataset, data_dir, config.train_size, config.validation_size)
    if _last_data is None or _last_data[0] != key:
        sizes = {"train_size": config.train_size, "validation_size": config.validation_size}
        _last_data = (key, load_data(config.dataset, data_dir, **sizes))
    return _last_data[1]


def _candidates(job: dict[str, Any]) -> Iterator[Path]:
    """State files this cohort may continue from, the newest first: this launch's own, then those found before it."""
    from ray import tune

    if checkpoint := tune.get_checkpoint():
        newest = Path(checkpoint.path)
        yield from (folder / STATE_FILE for folder in sorted(newest.parent.glob("checkpoint_*"), reverse=True))
    yield from map(Path, job["checkpoints"])


def _load_newest(cohort: Any, candidates: Iterator[Path]) -> list[str]:
    """Continue from the first state file that is whole; returns a sentence for each that is not."""
    from fishernet.cohort import CheckpointError

    notes = []
    for path in candidates:
        try:
            cohort.load(path)
        except CheckpointError as error:
            notes.append(str(error))
        else:
            return notes and [*notes, f"continuing from epoch {cohort.epoch} of {path.parent.name}"]
    return notes and [*notes, "no usable checkpoint is left; these runs start again"]


def find_checkpoints(folder: Path) -> dict[tuple[Any, ...], list[str]]:
    """The state files below ``folder``: members of the cohort -> paths, the most advanced first. Damaged ones are left out."""
    import json

    from safetensors import SafetensorError, safe_open

    from fishernet.config import TrialConfig

    found: dict[tuple[Any, ...], list[tuple[int, str]]] = {}
    for path in folder.glob(f"*/*/checkpoint_*/{STATE_FILE}"):
        try:
            with safe_open(path, framework="numpy") as file:
                state = json.loads(file.metadata()["state"])
            members = tuple(TrialConfig.from_dict(c) for c in state["configs"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            continue
        found.setdefault(members, []).append((state["epoch"], str(path)))
    return {members: [path for _, path in sorted(paths, reverse=True)] for members, paths in found.items()}
