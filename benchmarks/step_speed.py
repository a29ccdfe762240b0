"""What a training step costs beside its arithmetic: ``python benchmarks/step_speed.py``.

For each model and latent dimension, the CPU time of a whole training step of all members (images gathered, noise, forward,
backward, Adam) beside that of its matrix products alone: the same shapes, in the same run, with nothing between them, as plain
sgemm. Their quotient is the share of the hardware's own speed that the step reaches; the last column has Adam's update counted
as work besides. Convolutions are counted as the products of their im2col form.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from fishernet.cohort import Cohort
from fishernet.config import TrialConfig
from fishernet.data.images import ResidentImages
from fishernet.families import trial_config
from fishernet.networks.conv import CONV_FILTERS, conv_sizes
from fishernet.training import keep_freed_memory, train_epoch

IMAGE_SHAPE, STEPS, ROUNDS = (1, 28, 28), 10, 9
Product = tuple[int, int, int]  # (m, k) times (k, n)


def dense_products(sizes: list[int], n: int, *, inputs: bool) -> list[Product]:
    """Forward and backward of Linear layers on n rows; the gradient of the first layer's input only where it is wanted."""
    products: list[Product] = []
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        products += [(n, n_in, n_out), (n_in, n, n_out)]
        if i or inputs:
            products.append((n, n_out, n_in))
    return products


def products(config: TrialConfig) -> list[Product]:
    """Every matrix product that a step of one member needs."""
    n, d, pixels = config.batch_size, config.latent_dim, IMAGE_SHAPE[1] * IMAGE_SHAPE[2]
    heads = 2 if config.model in ("VAE", "CVAE") else 1
    if config.model == "CVAE":
        return conv_products(n, d)
    hidden = [config.hidden_width] * config.hidden_layers
    found = dense_products([pixels, *hidden], n, inputs=False)
    found += heads * dense_products([hidden[-1], d], n, inputs=True)
    found += dense_products([d, *hidden, pixels], n, inputs=True)
    if config.model == "FisherNet":
        # Forward at the mean: the slopes, and the output, on which a sigmoid's information depends. Then d tangents an image.
        found += [(n, a, b) for a, b in pairwise([d, *hidden, pixels])]
        found += [(n * d, a, b) for a, b in pairwise([*hidden, pixels])]
        found += n * [(d, pixels, d)]  # J^T J
    return found


def conv_products(n: int, d: int) -> list[Product]:
    sizes, channels = conv_sizes(IMAGE_SHAPE), (IMAGE_SHAPE[0], *CONV_FILTERS)
    features = CONV_FILTERS[-1] * sizes[-1][0] * sizes[-1][1]
    found: list[Product] = []
    for i, (a, b) in enumerate(pairwise(channels)):
        rows = n * sizes[i + 1][0] * sizes[i + 1][1]
        found += [(rows, 9 * a, b), (9 * a, rows, b)] + [(rows, b, 9 * a)] * (i > 0)
    found += 2 * dense_products([features, d], n, inputs=True)
    found += dense_products([d, features], n, inputs=True)
    back = (CONV_FILTERS[-1], *reversed(CONV_FILTERS))
    for i, (a, b) in enumerate(pairwise(back)):
        # A transposed convolution is a convolution's gradient: its products are those of the smaller grid.
        rows = n * sizes[-1 - i][0] * sizes[-1 - i][1]
        found += [(rows, a, 9 * b), (a, rows, 9 * b), (rows, 9 * b, a)]
    rows = n * IMAGE_SHAPE[1] * IMAGE_SHAPE[2]
    last = (back[-1] * 9, IMAGE_SHAPE[0])
    return [*found, (rows, *last), (last[0], rows, last[1]), (rows, last[1], last[0])]


def flops(found: list[Product]) -> int:
    return 2 * sum(m * k * n for m, k, n in found)


def bare(found: list[Product]) -> Callable[[], None]:
    """The products on operands of their own, results into memory that is there."""
    batches: dict[Product, int] = {}
    for product in found:
        batches[product] = batches.get(product, 0) + 1
    work = []
    for (m, k, n), count in batches.items():
        a, b, out = torch.randn(count, m, k), torch.randn(count, k, n), torch.empty(count, m, n)
        work.append((a, b, out))

    def run() -> None:
        for a, b, out in work:
            if len(a) >= 64:  # those of single images, batched as in the step
                torch.bmm(a, b, out=out)
            else:
                for i in range(len(a)):
                    torch.mm(a[i], b[i], out=out[i])

    return run


def timed(run: Callable[[], object], times: int) -> float:
    started = time.process_time()
    for _ in range(times):
        run()
    return (time.process_time() - started) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="+", default=["VAE", "FisherNet", "AE", "CVAE"])
    parser.add_argument("--latent-dims", nargs="+", type=int, default=[2, 10, 20])
    parser.add_argument("--cohort-size", type=int, default=1, help="members trained as one stack, at most 8")
    parser.add_argument("--precision", default="float32", help="of the step; the products are float32")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, help="also write the table to this CSV file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    images = ResidentImages(torch.randint(0, 256, (64 * STEPS, 784), dtype=torch.uint8))
    header = ("model", "latent_dim", "threads", "mflop_per_image", "step_ms", "products_ms", "adam_ms", "torch_adamw_ms",
              "gflops", "share", "share_with_adam")  # fmt: skip
    rows: list[tuple[object, ...]] = [header]
    print(*header, sep=",")
    for model in args.models:
        for d in args.latent_dims:
            configs = [
                trial_config(model=model, latent_dim=d, seed=s, precision=args.precision)
                for s in range(args.cohort_size)
            ]
            cohort, found = Cohort(configs, IMAGE_SHAPE, len(images)), products(configs[0]) * args.cohort_size
            train_epoch(cohort, images)  # warm-up
            theirs = torch.optim.AdamW(
                [p for group in cohort.optimisers[""].groups for p in group.parameters], fused=True
            )
            parts = (partial(train_epoch, cohort, images), bare(found), cohort.optimisers[""].step, theirs.step)
            times = (1, STEPS, STEPS, STEPS)
            # In turn, and the least of each: other work on the machine only ever adds time.
            rounds = [[timed(part, n) for part, n in zip(parts, times, strict=True)] for _ in range(args.rounds)]
            epoch, alone, adam, adamw = (min(column) for column in zip(*rounds, strict=True))
            step, total = epoch / STEPS, flops(found)
            measured = (f"{1e3 * seconds:.2f}" for seconds in (step, alone, adam, adamw))
            shares = (f"{seconds / step:.2f}" for seconds in (alone, alone + adam))
            mflop, gflops = total / configs[0].batch_size / len(cohort) / 1e6, total / step / 1e9
            row = (model, d, args.threads, f"{mflop:.1f}", *measured, f"{gflops:.0f}", *shares)
            rows.append(row)
            print(*row, sep=",", flush=True)
    if args.out:
        with args.out.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
