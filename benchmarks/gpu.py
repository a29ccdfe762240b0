"""The paper's sweep on one GPU, with torch alone: ``python benchmarks/gpu.py``.

Per model and precision, model-epochs per second of a cohort (d = 2-20 x seeds) and of one run at a time, by the same training
loop with evaluation each epoch; what the whole sweep of 100 epochs would take; and the FLOP/s of the steps' matrix products
(benchmarks/step_speed.py) in the time without evaluation, beside those of one large product of the same precision. A short
--train-size and one model a call keep within a time limit; every row is in the file as soon as it is measured.
"""

import argparse
import contextlib
import csv
import sys
import time
from pathlib import Path
from typing import Any, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from step_speed import flops, products

from fishernet.cohort import Cohort
from fishernet.config import TrialConfig
from fishernet.data import ImageData, load_data
from fishernet.evaluation import evaluate
from fishernet.training import ResidentImages, Step, set_arithmetic, train_epoch

EPOCHS_OF_THE_PAPER = 100


def epoch_seconds(configs: list[TrialConfig], data: ImageData, device: str, epochs: int) -> tuple[float, float, bool]:
    """Training and evaluation of the fastest of the epochs, after one to warm up; and whether steps were a CUDA graph's."""
    set_arithmetic(configs[0].precision)
    cohort = Cohort(configs, data.image_shape, len(data.train), device)
    images, test_images = (ResidentImages.of(part, cohort.device) for part in (data.train, data.test))
    step, seconds = Step(cohort, images), []
    for _ in range(epochs + 1):
        started = time.perf_counter()
        train_epoch(cohort, images, step).cpu()
        trained = time.perf_counter()
        evaluate(cohort, test_images)  # its numbers come back to the CPU, so it waits for the GPU
        seconds.append((trained - started, time.perf_counter() - trained))
    return *min(seconds[1:], key=sum), step.graph is not None


def peak(precision: str, device: str) -> float:
    """FLOP/s of a large product."""
    n = 8192 if device != "cpu" else 1024
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    set_arithmetic(precision)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", default=["FisherNet", "VAE", "CVAE"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "tf32", "bfloat16"])
    parser.add_argument("--latent-dims", nargs=2, type=int, default=[2, 20], metavar=("FIRST", "LAST"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2, help="that are timed, after one that is not")
    parser.add_argument("--train-size", type=int, default=0)
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, help="also write the table to this CSV file")
    args = parser.parse_args()
    data = load_data("fashion-mnist", args.data_dir, train_size=args.train_size)
    dims = range(args.latent_dims[0], args.latent_dims[1] + 1)
    with contextlib.ExitStack() as stack:
        files = [sys.stdout]
        if args.out:
            files.append(stack.enter_context(args.out.open("w", newline="", encoding="utf-8")))
        write(files, "model", "precision", "members", "graph", "train_s", "evaluate_s", "model_epochs_per_s", "one_at_a_time",
              "times", "minutes_of_100_epochs", "tflops", "share_of_peak")  # fmt: skip
        for model in args.models:
            for precision in args.precisions:
                settings: dict[str, Any] = {"model": model, "precision": precision, "train_size": args.train_size}
                configs = [TrialConfig(latent_dim=d, seed=s, **settings) for d in dims for s in range(args.seeds)]
                train_s, evaluate_s, graph = epoch_seconds(configs, data, args.device, args.epochs)
                together = train_s + evaluate_s
                alone = sum(epoch_seconds([configs[len(configs) // 2]], data, args.device, args.epochs)[:2])
                work = sum(flops(products(c)) / c.batch_size for c in configs) * len(data.train)
                write(files, model, precision, len(configs), graph, f"{train_s:.2f}", f"{evaluate_s:.2f}",
                      f"{len(configs) / together:.2f}", f"{1 / alone:.2f}", f"{len(configs) * alone / together:.1f}",
                      f"{EPOCHS_OF_THE_PAPER * together / 60:.1f}", f"{work / train_s / 1e12:.2f}",
                      f"{work / train_s / peak(precision, args.device):.2f}")  # fmt: skip


def write(files: list[TextIO], *row: object) -> None:
    for file in files:
        csv.writer(file, lineterminator="\n").writerow(row)
        file.flush()


if __name__ == "__main__":
    main()
