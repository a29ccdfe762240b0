"""What a training step costs beside its arithmetic: ``python benchmarks/step_speed.py``.

For each model and latent dimension, the CPU time of a whole training step of all members (images gathered, noise, forward,
backward, Adam) beside that of its matrix products alone: the same shapes, in the same run, with nothing between them, as plain
sgemm. Their quotient is the share of the hardware's own speed that the step reaches; the last column has Adam's update counted
as work besides. Products are counted where they happen, in one step of each model.
"""

import argparse
import csv
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fishernet.cohort import Cohort
from fishernet.data.images import ResidentImages
from fishernet.families import BUILT_IN, trial_config
from fishernet.training import keep_freed_memory, train_epoch

IMAGE_SHAPE, STEPS, ROUNDS = (1, 28, 28), 10, 9
Product = tuple[int, int, int]  # (m, k) times (k, n)


class Products(TorchDispatchMode):
    """Within it, every matrix product of a step is noted by its shape, those of gradients too: so of any model, whatever it does.

    Convolutions count as the products of their im2col form; a transposed one is a convolution's gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Product] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("mm", "addmm", "bmm", "baddbmm"):
            a, b = args[-2:]
            self.found += [(a.shape[-2], a.shape[-1], b.shape[-1])] * math.prod(a.shape[:-2])
        elif name == "convolution":
            x, weight, transposed = args[0], args[1], args[6]
            self.found.append(_convolution(x, out, weight, transposed))
        elif name == "convolution_backward":
            gradient, x, weight, transposed, wanted = args[0], args[1], args[2], args[7], args[10]
            m, k, n = _convolution(x, gradient, weight, transposed)
            self.found += [(m, n, k)] * wanted[0] + [(k, m, n)] * wanted[1]
        elif name in UNKNOWN:
            raise NotImplementedError(f"{name} is a matrix product that is not counted")
        return out


# Matrix products that no model has; one that came to have them would be counted wrongly.
UNKNOWN = ("mv", "addmv", "dot", "vdot", "addbmm", "addr", "ger", "_grouped_mm", "_int_mm", "linear")


def _convolution(x: Tensor, y: Tensor, weight: Tensor, transposed: bool) -> Product:
    grid, (first, second, height, width) = x if transposed else y, weight.shape
    rows = grid.shape[0] * math.prod(grid.shape[2:])
    return (rows, first, second * height * width) if transposed else (rows, second * height * width, first)


def products(cohort: Cohort, images: ResidentImages) -> list[Product]:
    """Every matrix product of a training step of all members."""
    batch = ResidentImages(images.pixels[: cohort.config.batch_size])
    with Products() as noted:
        train_epoch(cohort, batch)
    return noted.found


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
    parser.add_argument("--models", nargs="+", default=[row.name for row in BUILT_IN])
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
            cohort = Cohort(configs, IMAGE_SHAPE, len(images))
            found = products(cohort, images)
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
