"""Images per second beside a plain DataLoader loop and pythae's trainer: ``python benchmarks/images_per_second.py``.

The same networks (Table A1's, the dense ones also with other widths) and losses, batches of 64, Adam, on the same CPU threads in
one run. The plain loops are as one writes them; FisherNet's takes its Jacobian by torch.func. pythae has no FisherNet, and is
left out where it is not installed (``pip install pythae``). CPU seconds, the least of several rounds.
"""

import argparse
import contextlib
import csv
import io
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
from fishernet.data.images import ResidentImages
from fishernet.families import trial_config
from fishernet.training import keep_freed_memory, train_epoch

PIXELS, LATENT_DIM, BATCH, DEPTH = 784, 10, 64, 3
CONV_MODEL = "CVAE"  # whose width is fixed


def dense(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def networks(model: str, width: int) -> tuple[nn.Module, nn.Module]:
    """Encoder (n, 784) to the heads side by side, and decoder to logits (n, 784)."""
    heads = 2 if model in ("VAE", "CVAE") else 1
    if model != CONV_MODEL:
        hidden = [width] * DEPTH
        return dense([PIXELS, *hidden, heads * LATENT_DIM]), dense([LATENT_DIM, *hidden, PIXELS])
    encoder = nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * 49, heads * LATENT_DIM),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(LATENT_DIM, 64 * 49), nn.ReLU(), nn.Unflatten(1, (64, 7, 7)),
        nn.ConvTranspose2d(64, 64, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(64, 32, 3, 1, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 32, 3, 2, 1, 1), nn.ReLU(), nn.Conv2d(32, 1, 3, 1, 1), nn.Flatten(),
    )  # fmt: skip
    return encoder, decoder


class Plain(nn.Module):
    """The models as one writes them; the mean loss of a batch."""

    def __init__(self, model: str, width: int) -> None:
        super().__init__()
        self.model = model
        self.encoder, self.decoder = networks(model, width)
        self.xi = nn.Parameter(torch.tensor(-4.0))  # FisherNet's

    def forward(self, x: Tensor) -> Tensor:
        if self.model == "AE":
            return 0.5 * (x - torch.sigmoid(self.decoder(self.encoder(x)))).square().sum(1).mean()
        if self.model == "FisherNet":
            return self.equation_25(x)
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        error = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(1)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        return (error + kl).mean()

    def equation_25(self, x: Tensor) -> Tensor:
        mean = self.encoder(x)
        with torch.no_grad():
            jacobian = torch.func.vmap(torch.func.jacfwd(lambda z: torch.sigmoid(self.decoder(z))))(mean)
            precision = jacobian.mT @ jacobian * torch.exp(-self.xi) + torch.eye(LATENT_DIM)
            factor = torch.linalg.cholesky(precision).mT
            residual = torch.linalg.solve_triangular(factor, torch.randn_like(mean)[..., None], upper=True)[..., 0]
        z = mean + residual
        error = (x - torch.sigmoid(self.decoder(z))).square().sum(1)
        return 0.5 * (z.square().sum(1) + error * torch.exp(-self.xi) + PIXELS * self.xi).mean()


def ours(model: str, width: int, members: int, pixels: Tensor) -> Callable[[], Any]:
    configs = [
        trial_config(model=model, latent_dim=LATENT_DIM, hidden_width=width, seed=seed, noise_start=-4.0)
        for seed in range(members)
    ]
    return partial(train_epoch, Cohort(configs, (1, 28, 28), len(pixels)), ResidentImages(pixels))


def loader_loop(model: str, width: int, pixels: Tensor) -> Callable[[], Any]:
    loader = DataLoader(TensorDataset(pixels.float() / 255), BATCH, shuffle=True)
    plain = Plain(model, width)
    optimiser = torch.optim.Adam(plain.parameters(), 1e-4)

    def epoch() -> None:
        for (x,) in loader:
            optimiser.zero_grad()
            plain(x).backward()
            optimiser.step()

    return epoch


def pythae_trainer(model: str, width: int, pixels: Tensor, folder: str) -> Callable[[], Any] | None:
    if model == "FisherNet":
        return None
    try:
        from pythae import models
        from pythae.data.datasets import BaseDataset
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig
    except ImportError:
        return None
    logging.disable(logging.WARNING)  # it logs each training
    net_in, net_out = networks(model, width)

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net_in

        def forward(self, x: Tensor) -> Any:
            heads = self.net(x.flatten(1)).chunk(1 if model == "AE" else 2, 1)
            return ModelOutput(embedding=heads[0], log_covariance=heads[-1])

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net_out

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.net(z)).unflatten(1, (1, 28, 28)))

    shape = {"input_dim": (1, 28, 28), "latent_dim": LATENT_DIM}
    if model == "AE":
        network = models.AE(models.AEConfig(**shape), Encoder(), Decoder())
    else:
        network = models.VAE(models.VAEConfig(**shape, reconstruction_loss="bce"), Encoder(), Decoder())
    data = BaseDataset(pixels.float().unflatten(1, (1, 28, 28)) / 255, torch.zeros(len(pixels)))
    settings = BaseTrainerConfig(
        output_dir=folder, num_epochs=1, learning_rate=1e-4, per_device_train_batch_size=BATCH,
        train_dataloader_num_workers=0, no_cuda=True,
    )  # fmt: skip
    trainer = BaseTrainer(network, data, training_config=settings)
    trainer.prepare_training()

    def epoch() -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            trainer.train_step(1)

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--widths", nargs="+", type=int, default=[32, 128, 448])
    parser.add_argument("--models", nargs="+", default=["FisherNet", "VAE", CONV_MODEL, "AE"])
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="also write the table to this CSV file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    keep_freed_memory()  # all of them profit
    pixels = torch.randint(0, 256, (args.images, PIXELS), dtype=torch.uint8)
    header = ("model", "hidden_width", "trainer", "images_per_cpu_second", "times_plain_loop")
    rows: list[tuple[Any, ...]] = [header]
    print(*header, sep=",")
    folder = tempfile.TemporaryDirectory()
    for model, width in ((m, w) for m in args.models for w in (args.widths if m != CONV_MODEL else [448])):
        runs: dict[str, tuple[Callable[[], Any] | None, int]] = {
            "plain DataLoader loop": (loader_loop(model, width, pixels), 1),
            "pythae": (pythae_trainer(model, width, pixels, folder.name), 1),
            "fishernet, alone": (ours(model, width, 1, pixels), 1),
            "fishernet, cohort of 8": (ours(model, width, 8, pixels), 8),
        }
        least = dict.fromkeys(runs, math.inf)
        for _ in range(args.rounds):  # in turn, so that a change of the machine's speed hits all of them
            for name, (epoch, members) in runs.items():
                if epoch is not None:
                    started = time.process_time()
                    epoch()
                    least[name] = min(least[name], (time.process_time() - started) / members)
        plain = least["plain DataLoader loop"]
        for name, seconds in least.items():
            if seconds < math.inf:
                row = (model, width, name, f"{args.images / seconds:.0f}", f"{plain / seconds:.2f}")
                rows.append(row)
                print(*row, sep=",", flush=True)
    folder.cleanup()
    if args.out:
        with args.out.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
