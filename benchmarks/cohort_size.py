"""What stacking is worth on a CPU: steps of one thread by network width and cohort size: ``python benchmarks/cohort_size.py``.

Prints, per model, image size and hidden width, the time a member's step takes alone divided by the time it takes in a cohort:
above 1 stacking gains. sweeps/planning.py takes its STACKED_WEIGHTS_ON_CPU from this.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from fishernet.cohort import Cohort
from fishernet.config import TrialConfig
from fishernet.training import ResidentImages, keep_freed_memory, train_epoch
from sweeps.planning import n_weights

SIZES, STEPS, ROUNDS = (1, 4, 8), 20, 5


def step_seconds(cohort: Cohort, images: ResidentImages) -> float:
    started = time.perf_counter()
    train_epoch(cohort, images)
    return (time.perf_counter() - started) / STEPS / len(cohort)


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    print("model,side,hidden_width,weights,cohort_size,gain")
    for side in (8, 28):
        images = ResidentImages(torch.randint(0, 256, (64 * STEPS, side * side), dtype=torch.uint8))
        for model in ("VAE", "FisherNet", "CVAE"):
            for width in (32, 64, 128, 256, 448) if model != "CVAE" else (448,):
                cohorts = {}
                for size in SIZES:
                    configs = [TrialConfig(model=model, latent_dim=8, seed=s, hidden_width=width) for s in range(size)]
                    cohorts[size] = Cohort(configs, (1, side, side), 64 * STEPS)
                    train_epoch(cohorts[size], images)  # warm-up
                # Sizes in turn, so that a change of the machine's speed hits all of them.
                rounds = [{size: step_seconds(c, images) for size, c in cohorts.items()} for _ in range(ROUNDS)]
                for size in SIZES[1:]:
                    gain = statistics.median(r[1] / r[size] for r in rounds)
                    weights = n_weights(TrialConfig(model=model, latent_dim=8, hidden_width=width), side * side)
                    print(f"{model},{side},{width},{weights},{size},{gain:.2f}", flush=True)


if __name__ == "__main__":
    main()
