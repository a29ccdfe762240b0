"""What a step of a full covariance costs: ``python benchmarks/full_covariance.py``.

CPU time of value and gradient of ln p of a batch of 28 x 28 images, of the packed triangle as a factor of the precision matrix
and of the covariance, beside the textbook way: the 308,505 numbers written into 784 x 784 matrices, one solve each. All in one
process, in turns; the quotients are what to read.
"""

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from fishernet.families import trial_config
from fishernet.likelihoods import LIKELIHOODS
from fishernet.training import keep_freed_memory

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128, help="images (default: 128)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median counts (default: 5)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    ways = {"precision": packed("precision-matrix"), "covariance": packed("covariance"), "textbook": textbook}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds + 1):
        for name, log_prob in ways.items():
            a = (0.01 * torch.randn(1, args.batch, D + D * (D + 1) // 2)).requires_grad_()
            x, started = torch.rand(1, args.batch, D), time.process_time()
            log_prob(x, a).sum().backward()
            seconds[name].append(time.process_time() - started)
    medians = {name: sorted(own[1:])[args.rounds // 2] for name, own in seconds.items()}
    for name, median in medians.items():
        print(f"{name:12} {median:6.3f} s, {median / medians['textbook']:.2f} of the textbook's")


if __name__ == "__main__":
    main()
