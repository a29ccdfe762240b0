"""What the ways to a network cost: ``python benchmarks/networks.py``, one thread, ratios within this run.

1. The Jacobian of the convolutional decoder, pushed by hand against torch.func (vmap of jvp), and its push and pull.
2. A training step of a VAE of n members: stacked layers against ``networks.plain``, by vmap and member by member.
3. Forward and backward pass of the Fisher auto-encoder's convolutions against the same layers as ordinary modules, in training.
Every figure is the smallest of several repetitions, the ways taking turns.
"""

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn

from fishernet.families import VAEConfig, trial_config
from fishernet.models.vae import VAE
from fishernet.networks import conv, plain, rows
from fishernet.networks.rows import ARCHITECTURES, Row
from fishernet.networks.stacked import StackedLayer
from fishernet.training import keep_freed_memory

SHAPE, BATCH = (1, 28, 28), 64


def best_of(ways: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Seconds of each way, the smallest of its repetitions."""
    best = dict.fromkeys(ways, math.inf)
    for _, (name, way) in itertools.product(range(repetitions), ways.items()):
        start = time.process_time()  # of one thread: other work on the machine does not count
        way()
        best[name] = min(best[name], time.process_time() - start)
    return best


ROWS: list[tuple[object, ...]] = [("what", "way", "ms", "of_the_first")]


def report(title: str, seconds: Mapping[str, float]) -> None:
    first = next(iter(seconds.values()))
    ROWS.extend((title.replace(",", ""), name, f"{1e3 * s:.2f}", f"{s / first:.3f}") for name, s in seconds.items())
    cells = ", ".join(f"{name} {1e3 * s:.1f} ms ({s / first:.2f})" for name, s in seconds.items())
    print(f"{title}: {cells}", flush=True)


def jacobians(d: int, repetitions: int) -> None:
    """By hand and by torch.func, of one member's decoder at 64 points; the second of ordinary modules of the same sizes."""
    configs = [trial_config(model="CVAE", latent_dim=d)]
    decoder, z = conv.Decoder(configs, SHAPE, 1, 0), torch.randn(1, BATCH, d)
    for layer in (decoder.first, *decoder.layers, decoder.last):
        layer.initialise([torch.Generator().manual_seed(0)])
    up = partial(nn.ConvTranspose2d, kernel_size=3, padding=1)
    ordinary = plain.Plain(
        lambda config: nn.Sequential(
            nn.Linear(d, 64 * 7 * 7), nn.ReLU(), nn.Unflatten(1, (64, 7, 7)),
            up(64, 64, stride=2, output_padding=1), nn.ReLU(), up(64, 32, stride=1), nn.ReLU(),
            up(32, 32, stride=2, output_padding=1), nn.ReLU(), nn.Conv2d(32, 1, 3, padding=1), nn.Flatten(),
        ),
        configs,
        d,
    )  # fmt: skip
    with torch.no_grad():
        by_hand, by_func = decoder.linearise(z)[1], ordinary.linearise(z)[1]
        v, w = torch.randn(1, BATCH, d), torch.randn(1, BATCH, math.prod(SHAPE))
        ways = {"by hand": by_hand.jacobian, "torch.func": by_func.jacobian}
        report(f"Jacobian of the convolutional decoder, d = {d}", best_of(ways, repetitions))
        ways = {"by hand": lambda: by_hand.push(v), "torch.func": lambda: by_func.push(v)}
        report(f"push, d = {d}", best_of(ways, repetitions))
        ways = {"by hand": lambda: by_hand.pull(w), "torch.func": lambda: by_func.pull(w)}
        report(f"pull, d = {d}", best_of(ways, repetitions))


class Ordinary(VAE):
    """The VAE's dense networks as ordinary modules."""

    def build_networks(self, image_shape: tuple[int, int, int]) -> None:
        k, width, d = math.prod(image_shape), self.config.hidden_width, self.config.latent_dim

        def encoder(config: VAEConfig) -> nn.Module:
            return nn.Sequential(nn.Linear(k, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())

        def decoder(config: VAEConfig) -> nn.Module:
            return nn.Sequential(
                nn.Linear(d, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, k)
            )

        self.use_networks(plain.Plain(encoder, self.configs, k), plain.Plain(decoder, self.configs, d))


def steps(n_members: int, width: int, repetitions: int) -> None:
    """Forward and backward pass of n members."""
    configs = [
        trial_config(model="VAE", latent_dim=10, seed=s, hidden_width=width, hidden_layers=2) for s in range(n_members)
    ]
    stacked, vmapped, looped = VAE(configs, SHAPE, 100), Ordinary(configs, SHAPE, 100), Ordinary(configs, SHAPE, 100)
    looped.trunk.by_vmap = looped.decoder.by_vmap = False
    x, noise = torch.rand(n_members, BATCH, math.prod(SHAPE)), {"eta": torch.randn(n_members, BATCH, 10)}

    def step(model: VAE) -> None:
        model.zero_grad()
        model(x, noise).loss.mean(1).sum().backward()

    ways = {
        name: lambda model=model: step(model)
        for name, model in {"stacked": stacked, "plain by vmap": vmapped, "plain member by member": looped}.items()
    }
    report(f"VAE, {n_members} members of width {width}", best_of(ways, repetitions))


def ordinary(rows: Sequence[Row], n_in: int, last: int) -> nn.Sequential:
    """A table's rows as torch's own modules."""
    layers: list[nn.Module] = []
    for row in rows:
        n_out = row.channels or last
        layers += [nn.Upsample(scale_factor=row.up, mode="nearest")] * (row.up > 1)
        kind = nn.ConvTranspose2d if row.transposed else nn.Conv2d
        layers += [kind(n_in, n_out, row.kernel, row.stride, row.padding), *[nn.BatchNorm2d(n_out)] * row.norm]
        layers += [nn.ReLU(inplace=True)] * (row.activation == "relu")
        layers += [nn.LeakyReLU(0.01, inplace=True)] * (row.activation == "leaky-relu")
        layers += [nn.AvgPool2d(row.pool)] * (row.pool > 1)
        n_in = n_out
    return nn.Sequential(*layers)


def convolutions(network: str, shape: tuple[int, int, int], d: int, batch: int, repetitions: int) -> None:
    """Encoder and decoder of one member, forward and backward."""
    configs, table = [trial_config(model="AE", network=network, latent_dim=d)], ARCHITECTURES[network]
    encoder, decoder = rows.Encoder(configs, shape), rows.Decoder(configs, shape, 1, 0)
    for layer in [*encoder.modules(), *decoder.modules()]:
        if isinstance(layer, StackedLayer):
            layer.initialise([torch.Generator().manual_seed(0)])
    first: nn.Module = nn.Unflatten(1, (d, 1, 1))
    if table.first:
        first = nn.Sequential(nn.Linear(d, math.prod(table.first)), nn.Unflatten(1, table.first))
    theirs = (
        ordinary(table.encoder, shape[0], 0),
        nn.Sequential(first, ordinary(table.decoder, table.first[0] if table.first else d, shape[0])),
    )
    x, z = torch.rand(1, batch, math.prod(shape)), torch.randn(1, batch, d)

    def run(encode: nn.Module, decode: nn.Module, x: Tensor, z: Tensor) -> None:
        for module, at in ((encode, x), (decode, z)):
            module.zero_grad()
            module(at).square().mean().backward()

    ways = {
        "ordinary modules": partial(run, *theirs, x[0].unflatten(1, shape), z[0]), "ours": partial(run, encoder, decoder, x, z)
    }  # fmt: skip
    report(f"{network}, {batch} images, encoder and decoder", best_of(ways, repetitions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--out", type=Path, help="also write the figures to this CSV file")
    args = parser.parse_args()
    repetitions = args.repetitions
    torch.set_num_threads(1)
    keep_freed_memory()
    for d in (2, 10, 20):
        jacobians(d, repetitions)
    for n_members, width in ((1, 448), (5, 448), (1, 64), (10, 64)):
        steps(n_members, width, repetitions)
    convolutions("fisherae-28", (1, 28, 28), 8, 32, max(3, repetitions // 4))
    convolutions("fisherae-64", (3, 64, 64), 64, 8, max(3, repetitions // 4))
    if args.out:
        args.out.write_text("".join(",".join(map(str, row)) + "\n" for row in ROWS), encoding="utf-8")


if __name__ == "__main__":
    main()
