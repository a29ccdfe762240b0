"""What stacking is worth on a CPU: steps of one thread by network width and cohort size: ``python benchmarks/cohort_size.py``.

Prints, per model, image size and hidden width, the time a member's step takes alone divided by the time it takes in a cohort:
above 1 stacking gains. Cohorts are of latent dimension 8, and one of each dimension of 2-20. sweeps/planning.py takes its
STACKED_WEIGHTS_ON_CPU from this.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from fishernet.cohort import Cohort
from fishernet.data.images import ResidentImages
from fishernet.families import trial_config
from fishernet.training import keep_freed_memory, train_epoch

COHORTS, STEPS, ROUNDS = {"4": [8] * 4, "8": [8] * 8, "19 of d = 2-20": list(range(2, 21))}, 20, 5


def step_seconds(cohorts: list[Cohort], images: ResidentImages) -> float:
    """Of one member."""
    started = time.perf_counter()
    for cohort in cohorts:
        train_epoch(cohort, images)
    return (time.perf_counter() - started) / STEPS / sum(map(len, cohorts))


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    print("model,side,hidden_width,weights,cohort,gain")
    for side in (8, 28):
        images = ResidentImages(torch.randint(0, 256, (64 * STEPS, side * side), dtype=torch.uint8))
        for model in ("VAE", "FisherNet", "CVAE"):
            for width in (32, 64, 128, 256, 448) if model != "CVAE" else (448,):
                for name, dims in COHORTS.items():
                    configs = [
                        trial_config(model=model, latent_dim=d, seed=s, hidden_width=width) for s, d in enumerate(dims)
                    ]
                    stacks = [[c] for c in (configs if len(set(dims)) > 1 else configs[:1])], [configs]
                    alone, together = ([Cohort(own, (1, side, side), 64 * STEPS) for own in some] for some in stacks)
                    for cohorts in (alone, together):
                        step_seconds(cohorts, images)  # warm-up
                    # In turn, so that a change of the machine's speed hits both.
                    gain = statistics.median(
                        step_seconds(alone, images) / step_seconds(together, images) for _ in range(ROUNDS)
                    )
                    weights = sum(parameter.numel() for parameter in alone[0].model.parameters())
                    print(f"{model},{side},{width},{weights},{name},{gain:.2f}", flush=True)


if __name__ == "__main__":
    main()
