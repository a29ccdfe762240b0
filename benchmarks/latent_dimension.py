"""FisherNet's samplers as the latent dimension grows: ``python benchmarks/latent_dimension.py``.

For each d a FisherNet is trained with conjugate gradients for a few epochs, so that M has the spectrum of a model in use.
Then, in a process of its own for each, the CPU seconds and peak memory of a training step are measured: with conjugate
gradients, with the explicit M, and of a VAE of the same width. The error is that of the samples' covariance: conjugate
gradients and the exact solution are given the same right-hand sides theta ~ N(0, M), so that

    |cov(z_cg) - cov(z_exact)|_F / |M^-1|_F

has no Monte Carlo floor; the largest over the images is shown.
"""

import argparse
import csv
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from fishernet.cohort import Cohort
from fishernet.config import TrialConfig
from fishernet.data.images import ResidentImages
from fishernet.data.loading import load_data
from fishernet.families import trial_config
from fishernet.fisher import cg_residual, latent_precision
from fishernet.likelihoods.base import DiagonalRoot
from fishernet.models.fishernet import FisherNet
from fishernet.networks.dense import Linearised
from fishernet.training import keep_freed_memory, train_epoch

BATCH, STEPS, ROUNDS = 64, 5, 5
N_IMAGES, N_DRAWS = 4, 2000  # of the covariance's error
Weights = dict[str, torch.Tensor]


def trained(config: TrialConfig, data: Any, epochs: int) -> Weights:
    cohort, images = Cohort([config], data.image_shape, len(data.train)), ResidentImages(data.train.flatten(1))
    for _ in range(epochs):
        train_epoch(cohort, images)
    return {name: tensor.clone() for name, tensor in cohort.model.state_dict().items()}


def step_cost(config: TrialConfig, weights: Weights | None, pixels: torch.Tensor, queue: Any) -> None:
    """CPU seconds of a step, and by how many MiB the process grew for it."""
    torch.set_num_threads(1)
    keep_freed_memory()
    images = ResidentImages(pixels[: BATCH * STEPS])
    cohort = Cohort([config], (1, 28, 28), len(images))
    if weights:
        cohort.model.load_state_dict(weights)
    before, best = resident("VmRSS"), float("inf")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here: importing torch takes more than a step
    for _ in range(ROUNDS):
        started = time.process_time()
        train_epoch(cohort, images)
        best = min(best, (time.process_time() - started) / STEPS)
    queue.put((best, resident("VmHWM") - before))


def resident(name: str) -> float:
    """MiB of physical memory: VmRSS now, VmHWM at the most (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def in_a_process(*arguments: Any) -> tuple[float, float]:
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=step_cost, args=(*arguments, queue))
    process.start()
    process.join()
    if process.exitcode:
        return float("nan"), float("nan")  # it did not fit into memory
    result: tuple[float, float] = queue.get()
    return result


@torch.no_grad()
def covariance_error(config: TrialConfig, weights: Weights, pixels: torch.Tensor) -> tuple[float, int]:
    """The largest error over the images, and how many iterations a batch takes."""
    model = FisherNet([config], (1, 28, 28), len(pixels))
    model.load_state_dict(weights)
    x = ResidentImages(pixels).take(torch.arange(BATCH)[None])
    linearised, root = model.root_information(model.posterior_mean(x))
    shape = (1, BATCH, config.latent_dim)
    noise = torch.randn(1, BATCH, model.n_pixels), torch.randn(shape)
    counted = _Counted(linearised)
    cg_residual(counted, root, *noise, tolerance=config.cg_tolerance, max_iterations=config.cg_iterations)
    errors = []
    for i in range(N_IMAGES):
        one = Linearised(linearised.weights, [slope[:, i : i + 1] for slope in linearised.slopes])
        own = root.root[:, i : i + 1]
        factor = torch.linalg.cholesky(latent_precision(one.jacobian() * own[:, :, None])[0, 0])
        many = Linearised(one.weights, [slope.expand(-1, N_DRAWS, -1) for slope in one.slopes])
        n_star, eta = torch.randn(1, N_DRAWS, model.n_pixels), torch.randn(1, N_DRAWS, config.latent_dim)
        limits = {"tolerance": config.cg_tolerance, "max_iterations": config.cg_iterations}
        z = cg_residual(many, DiagonalRoot(own.expand(-1, N_DRAWS, -1)), n_star, eta, **limits)[0][0]
        theta = (many.pull(own * n_star) + eta)[0]
        exact = torch.cholesky_solve(theta.T, factor).T
        difference = (z.T @ z - exact.T @ exact) / N_DRAWS
        errors.append(float(difference.norm() / torch.cholesky_inverse(factor).norm()))
    return max(errors), counted.n_pushes


class _Counted(Linearised):
    """Counts the applications of M."""

    def __init__(self, of: Linearised) -> None:
        super().__init__(of.weights, of.slopes)
        object.__setattr__(self, "n_pushes", 0)

    n_pushes: int

    def push(self, tangent: torch.Tensor) -> torch.Tensor:
        object.__setattr__(self, "n_pushes", self.n_pushes + 1)
        return super().push(tangent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latent-dims", nargs="+", type=int, default=[20, 64, 128, 256, 512])
    parser.add_argument("--tolerances", nargs="+", type=float, default=[1e-1, 1e-2, 1e-3, 1e-4])
    parser.add_argument("--explicit-up-to", type=int, default=128, help="the explicit M is timed up to this d")
    parser.add_argument("--epochs", type=int, default=10, help="of the model whose M is measured")
    parser.add_argument("--train-size", type=int, default=6000)
    parser.add_argument("--noise-start", type=float, default=-4.0)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, help="also write the table to this CSV file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    data = load_data("fashion-mnist", args.data_dir, train_size=args.train_size)
    pixels = data.train.flatten(1)
    header = (
        "latent_dim",
        "sampler",
        "tolerance",
        "iterations",
        "covariance_error",
        "step_ms",
        "times_vae",
        "step_mib",
    )
    rows: list[tuple[Any, ...]] = [header]
    print(*header, sep=",")
    for d in args.latent_dims:
        usual = {"latent_dim": d, "noise_start": args.noise_start, "learning_rate": args.learning_rate}
        config = trial_config(model="FisherNet", sampler="cg", cg_tolerance=1e-2, **usual)
        weights = trained(config, data, args.epochs)
        vae, vae_mib = in_a_process(trial_config(model="VAE", latent_dim=d), None, pixels)
        found: list[tuple[Any, ...]] = [("VAE", "", "", "", vae, vae_mib)]
        for tolerance in args.tolerances:
            own = trial_config(model="FisherNet", sampler="cg", cg_tolerance=tolerance, **usual)
            error, iterations = covariance_error(own, weights, pixels)
            found.append(("cg", tolerance, iterations, f"{error:.1e}", *in_a_process(own, weights, pixels)))
        if d <= args.explicit_up_to:
            exact = trial_config(model="FisherNet", **usual)
            found.append(("cholesky", "", "", "", *in_a_process(exact, weights, pixels)))
        for *what, seconds, mib in found:
            row = (d, *what, f"{1e3 * seconds:.1f}", f"{seconds / vae:.1f}", f"{mib:.0f}")
            rows.append(row)
            print(*row, sep=",", flush=True)
    if args.out:
        with args.out.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
