"""A plan trained on one device with torch and numpy alone, one record folder per run: what ``python -m fishernet`` does."""

import functools
import json
import sys
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import torch

from fishernet import interrupts
from fishernet.config import TrialConfig
from fishernet.data.images import ImageData
from fishernet.data.loading import images_of
from fishernet.pca import pca_test_mse
from fishernet.plan import Json, PlanError, SweepPlan, check_images, stackable, write_json
from fishernet.progress import LINE_SECONDS, Progress
from fishernet.provenance import machine, versions
from fishernet.splitting import FittedCohort
from fishernet.state import CheckpointError, CohortState, Pace


def train_plan(
    plan: SweepPlan, out: Path, *, data_dir: str | None, device: str, threads: int, cohort_size: int, checkpoint_every: int,
    command: str, progress_seconds: float = LINE_SECONDS,
) -> int:  # fmt: skip
    """Train what of the plan ``out`` holds no record of; returns 0 where all runs finished, 1 where some failed.

    ``threads`` 0 leaves torch's choice, ``cohort_size`` 0 stacks all on a GPU and nothing on a CPU, ``checkpoint_every`` 0 writes
    checkpoints as often as takes 2% of the time. ``command`` is recorded. Where stderr is no terminal, a line every
    ``progress_seconds`` says there how far all is. Raises PlanError, DataError, and OSError or
    SafetensorError where ``out`` cannot be written.
    """
    place = _device(device)
    if threads:
        torch.set_num_threads(threads)
    data = images_of(plan.example, data_dir)
    check_images(plan.configs, data.image_shape)
    interrupts.raise_keyboard_interrupt()
    try:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlanError(f"--out {out} cannot be made a folder: {error.strerror}") from None
    about = {
        "configs": [c.to_dict() for c in plan.configs],
        "pca_test_mse": pca_test_mse(data.train, data.test, [0, *plan.latent_dims]),
        "data_fingerprint": data.fingerprint,
        "held_out": data.held_out,
        "command": command,
        "versions": versions(),
        "machine": machine(),
    }
    recorded = {c: found for c in plan.configs if (found := _recorded(out / c.run_name / "record.json"))}
    for config, there in recorded.items():
        if there["config"] != config.to_dict():
            differing = [k for k, v in config.to_dict().items() if there["config"].get(k) != v]
            raise PlanError(
                f"--out {out} holds {config.run_name} of another plan, which differs in {', '.join(differing)}; "
                "choose another folder"
            )
    _check_data(out, data.fingerprint)
    write_json(out / "plan.json", about)
    size = cohort_size or (1 if place.type == "cpu" else plan.n_runs)
    print(f"{plan.n_runs} runs, {len(recorded)} already recorded, on {place}; records in {out}")
    left = [c for c in plan.configs if c not in recorded]
    progress = Progress(len(left), sum(c.epochs for c in left), data.held_out, seconds=progress_seconds)
    failures = sum(record["status"] == "failed" for record in recorded.values())
    with ExitStack() as stack:
        if not progress.live:  # on a terminal the lines of epochs say as much
            stack.enter_context(progress)
        for group in stackable(plan.configs):
            for start in range(0, len(group), size):
                failures += _train_cohort(
                    group[start : start + size], data, place, recorded, out, checkpoint_every, progress
                )
    return 1 if failures else 0


def _train_cohort(
    members: Sequence[TrialConfig], data: ImageData, place: torch.device, recorded: Collection[TrialConfig], out: Path,
    checkpoint_every: int, progress: Progress,
) -> int:  # fmt: skip
    """Train those of the members that have no record; returns how many failed."""
    if all(c in recorded for c in members):
        return 0
    # A cohort that was stopped amid writing its records goes on whole; else what is recorded is not trained again.
    if not (checkpoint := _checkpoint(out, members)).exists():
        members = [c for c in members if c not in recorded]
        checkpoint = _checkpoint(out, members)
    pace = Pace(checkpoint_every)
    cohort = FittedCohort(
        members, data, place, turn=checkpoint_every or 1, remedy="use a smaller batch_size in the plan",
        saved=functools.partial(_saved, members, checkpoint),
        say=lambda line: print(line, flush=True),
    )  # fmt: skip
    config_of = {c.run_name: c for c in members}
    for config, epochs in zip(members, cohort.history, strict=True):
        if config not in recorded and epochs:  # from a checkpoint
            progress.advance(config.variant, len(epochs), None)
    for records in cohort.train():
        if pace.due(cohort.epoch):
            with pace:
                cohort.save(checkpoint)
        for name, epochs in records.items():
            if config_of[name] not in recorded:
                newest = epochs[-1]["metrics"].get(f"{data.held_out}/mse")
                progress.advance(config_of[name].variant, len(epochs), newest)
            for record in epochs:
                mse = record["metrics"].get(f"{data.held_out}/mse")  # not of every epoch
                print(
                    f"{name} epoch {record['epoch']}/{cohort.config.epochs} {'' if mse is None else f'mse {mse:.5f} '}"
                    f"{record['metrics']['epoch_seconds']:.2f} s",
                    flush=True,
                )
    for name, reason in cohort.failures.items():
        print(f"{name} failed: {reason}", file=sys.stderr)
    progress.failed += len(cohort.failures)
    for config, epochs in zip(members, cohort.history, strict=True):
        if config not in recorded:  # of those that failed or stopped early
            progress.leave_out(config.epochs - len(epochs))
    progress.runs_done += sum(c not in recorded and c.run_name not in cohort.failures for c in members)
    cohort.write_records(out)
    checkpoint.unlink(missing_ok=True)
    return len(cohort.failures)


def _device(asked: str) -> torch.device:
    """The torch.device asked for; raises PlanError where it is none that this machine has."""
    device: torch.device | None
    try:
        device = torch.device(asked if asked != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise PlanError(f"--device is cpu, cuda, cuda:N or auto; got {asked!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise PlanError(f"--device {asked}: torch finds no GPU; leave --device out to train on the CPU")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PlanError(f"--device {asked}: the GPUs here are cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    return device


def _check_data(out: Path, fingerprint: str) -> None:
    """Raises PlanError where the folder's records are of other images: the data set of that name has changed."""
    before = fingerprint
    with suppress(OSError, ValueError, KeyError, TypeError):  # none yet, or a damaged one, which is written anew
        before = json.loads((out / "plan.json").read_text(encoding="utf-8"))["data_fingerprint"]
    if before != fingerprint:
        raise PlanError(
            f"--out {out} was begun on other images: their fingerprint was {before}, and is {fingerprint} now; "
            "bring the old data back, or choose another folder"
        )


def _checkpoint(out: Path, members: Sequence[TrialConfig]) -> Path:
    return out / "checkpoints" / f"{members[0].run_name}-to-{members[-1].run_name}.safetensors"


def _recorded(path: Path) -> Json | None:
    """The record in the file, or where it is missing or damaged none."""
    try:
        record: Json = json.loads(path.read_text(encoding="utf-8"))
        return record if record["config"] and record["status"] else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{path} is damaged ({error}); that run starts again")
        return None


def _saved(members: Sequence[TrialConfig], checkpoint: Path) -> CohortState:
    """The state in the file, or where it is missing or damaged the start."""
    if checkpoint.exists():
        try:
            return CohortState.load(checkpoint, members)
        except CheckpointError as error:
            print(f"{error}; these runs start again")
    return CohortState(list(members))
