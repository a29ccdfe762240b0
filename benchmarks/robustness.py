"""What the robustness scores of a run cost: ``python benchmarks/robustness.py``, CPU seconds of one thread.

10,000 images of 28 x 28 pixels at the 14 usual levels, as a report scores them, without and with NMI.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from analysis.scores.robustness import LEVELS, MOST_IMAGES, robustness
from fishernet.families import family, trial_config
from fishernet.training import keep_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["VAE", "FisherAE", "WAE"])
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--images", type=int, default=MOST_IMAGES)
    parser.add_argument("--out", type=Path, help="also write the table to this CSV file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    images = torch.randint(0, 256, (args.images, 1, 28, 28), dtype=torch.uint8)
    rows = [("model", "images", "levels", "seconds", "seconds_with_nmi")]
    print(*rows[0], sep=",")
    for model in args.models:
        config = trial_config(model=model, latent_dim=args.latent_dim)
        made = family(model).load()([config], (1, 28, 28), 60_000).eval()
        seconds = []
        for labels in (None, np.arange(args.images) % 10):
            started = time.process_time()
            robustness(made, images, labels, 0)
            seconds.append(time.process_time() - started)
        n_levels = sum(map(len, LEVELS.values()))
        rows.append((model, str(args.images), str(n_levels), *(f"{s:.1f}" for s in seconds)))
        print(*rows[-1], sep=",", flush=True)
    if args.out:
        args.out.write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
