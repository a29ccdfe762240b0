"""The Ray Tune trial: one cohort, translated from Tune's config and to Tune's reports."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from ray import tune

from fishernet.config import TrialConfig
from fishernet.data.images import ImageData
from fishernet.data.loading import images_of
from fishernet.families import trial_config
from fishernet.plan import Json
from fishernet.splitting import FittedCohort
from fishernet.state import CheckpointError, CohortState, Pace, Record
from sweeps.checkpoints import RECORDS_FOLDER, STAGING, STATE_FILE

_last_images: tuple[tuple[object, ...], ImageData] | None = None  # a reused worker process keeps its images


def train_cohort(config: Json) -> None:
    """Train ``config["job"]`` (see ``Job.to_dict``), reporting once per epoch; its first report repeats a resumed history.

    Reports {"epochs": {run_name: [records]}, "failures": {run_name: reason}, "notes": [...], "finished": 0 or 1}. The last
    one carries a checkpoint with the members' record folders beside the state.
    """
    job = config["job"]
    configs = [trial_config(member) for member in job["members"]]
    device = "cuda" if job["gpu"] else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            "this trial was given a GPU, but torch finds none on its node; check the driver and torch's CUDA"
        )
    if device == "cuda":
        torch.cuda.empty_cache()  # a reused process still holds the last cohort's memory
    else:
        torch.set_num_threads(job["threads"])
    data = _images_of(configs[0], job["data_dir"])
    notes: list[str] = []
    pace = Pace(job["checkpoint_every"])
    cohort = FittedCohort(
        configs, data, device, turn=job["checkpoint_every"] or 1,
        remedy="use a smaller --batch-size, or " + (
            "--gpus-per-trial 1, which leaves it the whole GPU" if device == "cuda"
            else "more --cpus-per-trial, so that fewer trials share the memory"
        ),
        saved=lambda: _newest(configs, _candidates(job), notes), say=notes.append,
    )  # fmt: skip

    def report(epochs: dict[str, list[Record]], *, finished: bool, save: bool) -> None:
        with ExitStack() as stack:
            checkpoint = None
            if save:
                stack.enter_context(pace)
                # Not in TMPDIR: what a killed process leaves there nobody would clear, and in a container that may be memory.
                Path(job["staging"]).mkdir(parents=True, exist_ok=True)
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=STAGING, dir=job["staging"]))
                cohort.save(Path(folder) / STATE_FILE)
                if finished:
                    cohort.write_records(Path(folder) / RECORDS_FOLDER)
                checkpoint = tune.Checkpoint.from_directory(folder)
            # Only now, as a cohort may be split, and say so, while its records are written.
            metrics = {"epochs": epochs, "failures": cohort.failures, "notes": notes.copy(), "finished": int(finished)}
            notes.clear()
            tune.report(metrics, checkpoint=checkpoint)

    if cohort.epoch:
        history = {c.run_name: records for c, records in zip(configs, cohort.history, strict=True)}
        report(history, finished=cohort.ended, save=cohort.ended)
    for epochs in cohort.train():
        report(epochs, finished=cohort.ended, save=cohort.ended or pace.due(cohort.epoch))


def _images_of(config: TrialConfig, data_dir: str | None) -> ImageData:
    global _last_images
    key = (data_dir, *(getattr(config, name) for name in config.names("data")))
    if _last_images is None or _last_images[0] != key:
        _last_images = (key, images_of(config, data_dir))
    return _last_images[1]


def _candidates(job: Json) -> Iterator[Path]:
    """State files this cohort may continue from, the newest first: this launch's own, then those found before it."""
    if checkpoint := tune.get_checkpoint():
        newest = Path(checkpoint.path)
        yield from (folder / STATE_FILE for folder in sorted(newest.parent.glob("checkpoint_*"), reverse=True))
    yield from map(Path, job["checkpoints"])


def _newest(configs: list[TrialConfig], candidates: Iterator[Path], notes: list[str]) -> CohortState:
    """The first state file that is whole, else the start; notes take a sentence for each that is not."""
    damaged = False
    for path in candidates:
        try:
            state = CohortState.load(path, configs)
        except CheckpointError as error:
            damaged = True
            notes.append(str(error))
        else:
            if damaged:
                notes.append(f"continuing from epoch {state.epoch} of {path.parent.name}")
            return state
    if damaged:
        notes.append("no usable checkpoint is left; these runs start again")
    return CohortState(configs)
