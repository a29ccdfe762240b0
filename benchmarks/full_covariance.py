"""What a step of a full covariance costs: ``python benchmarks/full_covariance.py``.

CPU time of value and gradient of ln p of a batch of 28 x 28 images, of the packed triangle as a factor of the precision matrix
and of the covariance, beside the textbook way: the 308,505 numbers written into 784 x 784 matrices, one solve each. All in one
process, in turns; the quotients are what to read.
Then a whole training step of N_mu_Sigma of the VPAE paper by either factor, each in a process of its own, whose largest resident
memory stands beside it (Linux).
"""

import argparse
import csv
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from analysis.papers.vpae import DIM, SHARED, TABLE_1
from fishernet.cohort import Cohort
from fishernet.data.images import ResidentImages
from fishernet.families import trial_config
from fishernet.likelihoods import LIKELIHOODS
from fishernet.training import Step, keep_freed_memory

IMAGE_SHAPE, D = (1, 28, 28), 784


def packed(cholesky_of: str) -> Callable[[Tensor, Tensor], Tensor]:
    config = trial_config(
        model="AE", likelihood="gaussian", scale="full", cholesky_of=cholesky_of, decoder_output="linear"
    )
    return LIKELIHOODS["gaussian"].load()(config, 1, IMAGE_SHAPE).log_prob  # type: ignore[no-any-return]


def textbook(x: Tensor, a: Tensor) -> Tensor:
    """The strict part by index, in rows."""
    loc, raw, strict = a.split([D, D, D * (D - 1) // 2], dim=2)
    diagonal = torch.nn.functional.softplus(raw) + 1e-6
    below = torch.tril_indices(D, D, -1)
    factor = torch.diag_embed(diagonal).index_put((*_all(a), below[0], below[1]), strict.flatten(0, 1))
    y = torch.linalg.solve_triangular(factor, (x - loc)[..., None], upper=False)[..., 0]
    return -0.5 * (y.square().sum(2) + D * math.log(2 * math.pi)) - diagonal.log().sum(2)


def _all(a: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros(1, 1, dtype=torch.long), torch.arange(a.shape[1])[:, None]


def whole_step(cholesky_of: str, batch: int, rounds: int) -> None:
    """Print CPU seconds of a training step, the median of the rounds after a first, and the process's largest memory in GB."""
    values = {**SHARED, **TABLE_1["N_mu_Sigma", 1], "cholesky_of": cholesky_of, "latent_dim": DIM}
    images = ResidentImages(torch.randint(256, (batch, D), dtype=torch.uint8))
    cohort = Cohort([trial_config(values)], IMAGE_SHAPE, len(images))
    step, index, seconds = Step(cohort, images), torch.arange(batch)[None], []
    for _ in range(rounds + 1):
        started = time.process_time()
        step(index, {})
        seconds.append(time.process_time() - started)
    # Not getrusage's, which the process that started this one may have reached.
    (most,) = (
        line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    print(sorted(seconds[1:])[rounds // 2], int(most) * 1024 / 1e9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128, help="images (default: 128)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts (default: 5)")
    parser.add_argument(
        "--step-of", choices=("precision-matrix", "covariance"), help="only a whole step by this factor"
    )
    parser.add_argument("--out", type=Path, help="also write the table to this CSV file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if args.step_of:
        whole_step(args.step_of, args.batch, args.rounds)
        return
    table: list[tuple[str, ...]] = []

    def add(*row: str) -> None:
        table.append(row)
        print(*row, sep=",", flush=True)

    add("what", "by", "seconds", "of_textbook", "gigabytes")
    ways = {"precision-matrix": packed("precision-matrix"), "covariance": packed("covariance"), "textbook": textbook}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds + 1):
        for name, log_prob in ways.items():
            a = (0.01 * torch.randn(1, args.batch, D + D * (D + 1) // 2)).requires_grad_()
            x, started = torch.rand(1, args.batch, D), time.process_time()
            log_prob(x, a).sum().backward()
            seconds[name].append(time.process_time() - started)
    medians = {name: sorted(own[1:])[args.rounds // 2] for name, own in seconds.items()}
    for name, median in medians.items():
        add("density", name, f"{median:.3f}", f"{median / medians['textbook']:.2f}", "")
    for name in ("precision-matrix", "covariance"):
        asked = [f"--step-of={name}", f"--batch={args.batch}", f"--rounds={args.rounds}"]
        done = subprocess.run([sys.executable, __file__, *asked], capture_output=True, text=True, check=True)
        median, most = map(float, done.stdout.split())
        add("step", name, f"{median:.3f}", "", f"{most:.2f}")
    if args.out:
        with args.out.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(table)


if __name__ == "__main__":
    main()
