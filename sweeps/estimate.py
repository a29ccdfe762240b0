"""How long a plan will take, from a few measured steps."""

import time
from collections.abc import Sequence

import torch

from fishernet.cohort import Cohort
from fishernet.config import TrialConfig
from fishernet.data import ImageData
from fishernet.training import ResidentImages, keep_freed_memory, train_epoch
from sweeps.planning import Devices

WARM_UP_STEPS, MEASURED_STEPS = 2, 4
# An image is evaluated without gradients but decoded twice (from the mean and from a sample): about half a training pass.
EVALUATION_COST = 0.5


def estimate_seconds(cohorts: Sequence[Sequence[TrialConfig]], devices: Devices, data: ImageData) -> float:
    """Wall time of the cohorts on the devices: a step at each stackable group's smallest and largest d, linear in between."""
    keep_freed_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(devices.cpus_per_trial)
    total, longest = 0.0, 0.0
    measured: dict[tuple[str, int, int], float] = {}
    for cohort in cohorts:
        key = (cohort[0].variant, len(cohort), cohort[-1].latent_dim)
        ends = sorted({c[-1].latent_dim for c in cohorts if (c[0].variant, len(c)) == key[:2]})
        low, high = ends[0], ends[-1]
        for d in {low, high}:
            if (*key[:2], d) not in measured:
                example = next(c for c in cohorts if (c[0].variant, len(c), c[-1].latent_dim) == (*key[:2], d))
                measured[(*key[:2], d)] = _step_seconds(example, devices, data)
        share = (key[2] - low) / (high - low) if high > low else 0.0
        step = (1 - share) * measured[(*key[:2], low)] + share * measured[(*key[:2], high)]
        images = len(data.train) + EVALUATION_COST * len(data.test) / cohort[0].evaluate_every
        seconds = step * images / cohort[0].batch_size * cohort[0].epochs
        total, longest = total + seconds, max(longest, seconds)
    torch.set_num_threads(threads)
    return max(total / devices.slots, longest)


def _step_seconds(members: Sequence[TrialConfig], devices: Devices, data: ImageData) -> float:
    cohort = Cohort(members, data.image_shape, len(data.train), "cuda" if devices.gpus else "cpu")
    batch = members[0].batch_size

    def steps(n: int) -> float:
        images = ResidentImages.of(data.train[: n * batch], cohort.device)
        started = time.perf_counter()
        train_epoch(cohort, images)
        if devices.gpus:
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / max(1, len(images) / batch)

    steps(WARM_UP_STEPS)
    return steps(MEASURED_STEPS)
