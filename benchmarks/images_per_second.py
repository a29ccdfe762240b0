"""Images per second beside a plain DataLoader loop and pythae's trainer: ``python benchmarks/images_per_second.py``.

The same dense VAE (Table A1's with another width), Bernoulli likelihood, batches of 64, Adam, on the same CPU threads in one run.
pythae, if it is not installed, is left out: ``pip install pythae``. CPU seconds, the least of several rounds.
"""

import argparse
import csv
import logging
import math
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fishernet.cohort import Cohort
from fishernet.config import TrialConfig
from fishernet.training import ResidentImages, keep_freed_memory, train_epoch

PIXELS, LATENT_DIM, BATCH, DEPTH = 784, 10, 64, 3


def dense(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class PlainVAE(nn.Module):
    """As one writes it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = [width] * DEPTH
        self.encoder = dense([PIXELS, *hidden, 2 * LATENT_DIM])
        self.decoder = dense([LATENT_DIM, *hidden, PIXELS])

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        error = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(1)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return (error + kl).mean()


def ours(width: int, members: int, pixels: Tensor) -> Callable[[], Any]:
    configs = [
        TrialConfig(model="VAE", latent_dim=LATENT_DIM, hidden_width=width, seed=seed) for seed in range(members)
    ]
    return partial(train_epoch, Cohort(configs, (1, 28, 28), len(pixels)), ResidentImages(pixels))


def loader_loop(width: int, pixels: Tensor) -> Callable[[], Any]:
    loader = DataLoader(TensorDataset(pixels.float() / 255), BATCH, shuffle=True)
    model = PlainVAE(width)
    optimiser = torch.optim.Adam(model.parameters(), 1e-4)

    def epoch() -> None:
        for (x,) in loader:
            optimiser.zero_grad()
            model(x).backward()
            optimiser.step()

    return epoch


def pythae_trainer(width: int, pixels: Tensor, folder: str) -> Callable[[], Any] | None:
    try:
        from pythae.data.datasets import BaseDataset
        from pythae.models import VAE, VAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig
    except ImportError:
        return None
    logging.getLogger("pythae").setLevel(logging.ERROR)

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = dense([PIXELS, *[width] * DEPTH, 2 * LATENT_DIM])

        def forward(self, x: Tensor) -> Any:
            mean, log_variance = self.net(x.flatten(1)).chunk(2, 1)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = dense([LATENT_DIM, *[width] * DEPTH, PIXELS])

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.net(z)).unflatten(1, (1, 28, 28)))

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENT_DIM, reconstruction_loss="bce")
    model = VAE(config, Encoder(), Decoder())
    data = BaseDataset(pixels.float().unflatten(1, (1, 28, 28)) / 255, torch.zeros(len(pixels)))
    settings = BaseTrainerConfig(
        output_dir=folder, num_epochs=1, learning_rate=1e-4, per_device_train_batch_size=BATCH,
        train_dataloader_num_workers=0, no_cuda=True,
    )  # fmt: skip
    trainer = BaseTrainer(model, data, training_config=settings)
    trainer.prepare_training()
    return partial(trainer.train_step, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--widths", nargs="+", type=int, default=[32, 128, 448])
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="also write the table to this CSV file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    keep_freed_memory()  # all of them profit
    pixels = torch.randint(0, 256, (args.images, PIXELS), dtype=torch.uint8)
    header = ("hidden_width", "trainer", "images_per_cpu_second", "times_plain_loop")
    rows: list[tuple[Any, ...]] = [header]
    print(*header, sep=",")
    folder = tempfile.TemporaryDirectory()
    for width in args.widths:
        runs: dict[str, tuple[Callable[[], Any] | None, int]] = {
            "plain DataLoader loop": (loader_loop(width, pixels), 1),
            "pythae": (pythae_trainer(width, pixels, folder.name), 1),
            "fishernet, alone": (ours(width, 1, pixels), 1),
            "fishernet, cohort of 8": (ours(width, 8, pixels), 8),
        }
        least = dict.fromkeys(runs, math.inf)
        for _ in range(args.rounds):  # in turn, so that a change of the machine's speed hits all of them
            for name, (epoch, members) in runs.items():
                if epoch is not None:
                    started = time.process_time()
                    epoch()
                    least[name] = min(least[name], (time.process_time() - started) / members)
        for name, seconds in least.items():
            if seconds < math.inf:
                row = (width, name, f"{args.images / seconds:.0f}", f"{least['plain DataLoader loop'] / seconds:.2f}")
                rows.append(row)
                print(*row, sep=",", flush=True)
    folder.cleanup()
    if args.out:
        with args.out.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
