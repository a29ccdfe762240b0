"""How long a plan will take, from a few measured steps."""

import time
from collections.abc import Sequence

import torch

from fishernet.cohort import Cohort
from fishernet.config import TrialConfig
from fishernet.data.images import ImageData, ResidentImages
from fishernet.splitting import is_out_of_memory
from fishernet.training import (
    Step,
    give_freed_memory_back,
    keep_freed_memory,
    set_arithmetic,
    train_epoch,
)
from sweeps.planning import Devices

WARM_UP_STEPS, MEASURED_STEPS = 2, 4
STEPS_ON_A_GPU = 10, 30  # the first are not yet a CUDA graph's, and each takes a millisecond
# An image is evaluated without gradients but decoded twice (from the mean and from a sample): about half a training pass.
EVALUATION_COST = 0.5
# Seconds that no step shows: of a sweep's start and end, and of a trial. Measured on two slow cores that did nothing else, by
# sweeps of short runs (docs/performance-scheduling.md).
START_AND_END, TRIAL = 27.0, 0.04


def estimate_or_say_why_not(
    cohorts: Sequence[Sequence[TrialConfig]], devices: Devices, data: ImageData
) -> float | None:
    """Seconds of wall time the cohorts will take; None, after a line, where that cannot be measured here."""
    if devices.gpus and not torch.cuda.is_available():
        print("time       unknown: the cluster's GPUs are not on this machine, where a step would be measured")
        return None
    try:
        return estimate_seconds(cohorts, devices, data)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        print("time       unknown: a cohort does not fit the memory here; training would halve it until it fits")
        return None


def estimate_seconds(cohorts: Sequence[Sequence[TrialConfig]], devices: Devices, data: ImageData) -> float:
    """Wall time of the cohorts on the devices, start and end included, where nothing else computes.

    Measured is a step at each stackable group's smallest and largest d, by itself; what lies in between is taken as linear.
    """
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(devices.cpus_per_trial)
    shapes: dict[tuple[str, int], dict[int, Sequence[TrialConfig]]] = {}  # (variant, members) -> largest d -> a cohort
    for cohort in cohorts:
        shapes.setdefault((cohort[0].variant, len(cohort)), {}).setdefault(cohort[-1].latent_dim, cohort)
    measured = {
        shape: {d: _step_seconds(of_d[d], devices, data) for d in {min(of_d), max(of_d)}}
        for shape, of_d in shapes.items()
    }
    total, longest = 0.0, 0.0
    for cohort in cohorts:
        steps = measured[cohort[0].variant, len(cohort)]
        low, high = min(steps), max(steps)
        share = (cohort[-1].latent_dim - low) / (high - low) if high > low else 0.0
        step = (1 - share) * steps[low] + share * steps[high]
        images = len(data.train) + EVALUATION_COST * len(data.test) / cohort[0].evaluate_every
        seconds = step * images / cohort[0].batch_size * cohort[0].epochs
        total, longest = total + seconds, max(longest, seconds)
    torch.set_num_threads(threads)
    give_freed_memory_back()  # the driver lives as long as the sweep, beside those who train
    return START_AND_END + TRIAL * len(cohorts) + max(total / devices.slots, longest)


def _step_seconds(members: Sequence[TrialConfig], devices: Devices, data: ImageData) -> float:
    set_arithmetic(members[0].precision)
    cohort = Cohort(members, data.image_shape, len(data.train), "cuda" if devices.gpus else "cpu")
    images = ResidentImages.of(data.train, cohort.device)
    step, batch = Step(cohort, images), members[0].batch_size

    def seconds(n: int) -> float:
        some = ResidentImages(images.pixels[: n * batch])
        started = time.perf_counter()
        train_epoch(cohort, some, step)
        if devices.gpus:
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / max(1, len(some) / batch)

    warm_up, measured = STEPS_ON_A_GPU if devices.gpus else (WARM_UP_STEPS, MEASURED_STEPS)
    seconds(warm_up)
    return seconds(measured)
