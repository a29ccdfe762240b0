"""Convolutional networks written as tables of rows, with batch normalisation: those of two papers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fishernet.config import TrialConfig
from fishernet.networks.activations import ACTIVATIONS, GATES, Activate
from fishernet.networks.dense import Dense
from fishernet.networks.normalisation import BatchNorm
from fishernet.networks.stacked import Linear, StackedLayer, each_member


class Row(NamedTuple):
    """A convolution, or a transposed one, and what stands about it."""

    channels: int  # that it gives; 0 is those of the image
    kernel: int
    stride: int
    padding: int
    norm: bool = False
    activation: str = ""
    transposed: bool = False
    pool: int = 1  # average pooling after it
    up: int = 1  # nearest upsampling before it
    gated: bool = False  # it gives pairs (h, g), of which h sigmoid(g) is normalised


class Architecture(NamedTuple):
    """Encoder and decoder for square images of one size; the decoder begins with a linear map to ``first`` where there is one.

    With ``hidden`` neurons between that map is of two gated layers.
    """

    encoder: tuple[Row, ...]
    decoder: tuple[Row, ...]
    first: tuple[int, int, int] | None = None  # channels, height, width
    hidden: int = 0


def _gated(channels: int, kernel: int, stride: int = 1) -> Row:
    return Row(channels, kernel, stride, kernel // 2, norm=True, gated=True)


def _up(channels: int, kernel: int, stride: int, padding: int) -> Row:
    return Row(channels, kernel, stride, padding, norm=True, activation="relu", transposed=True)


ARCHITECTURES = {
    # Fisher auto-encoder's paper, table 2; the last row of its encoder is the heads, linear in all that is before it.
    "fisherae-28": Architecture(
        (
            Row(64, 3, 2, 2, activation="leaky-relu"),
            Row(128, 3, 2, 2, norm=True, activation="leaky-relu"),
            Row(256, 3, 2, 2, norm=True, activation="leaky-relu"),
            Row(512, 3, 2, 1, norm=True, activation="leaky-relu"),
        ),
        (_up(512, 5, 1, 1), _up(256, 5, 1, 1), _up(128, 5, 2, 1), _up(64, 5, 1, 1), Row(0, 4, 2, 0, transposed=True)),
    ),
    # Its table 4 as released: as printed it does not fit together.
    "fisherae-64": Architecture(
        (
            Row(64, 5, 1, 2, activation="leaky-relu", pool=2),
            Row(128, 5, 1, 2, norm=True, activation="leaky-relu", pool=2),
            Row(256, 5, 1, 2, norm=True, activation="leaky-relu", pool=2),
            Row(512, 5, 1, 2, activation="leaky-relu"),
        ),
        (*(Row(c, 5, 1, 2, norm=True, activation="relu", up=2) for c in (256, 128, 64)), Row(0, 5, 1, 2)),
        first=(512, 8, 8),
    ),
    # The released code of the Fisher-Shannon paper, its convVAE.
    "fae-28": Architecture(
        (_gated(32, 7), _gated(32, 3, 2), _gated(64, 5), _gated(64, 3, 2), _gated(6, 3)),
        (*[_gated(64, 3)] * 4, Row(0, 1, 1, 0)),
        first=(1, 28, 28),
        hidden=300,
    ),
}


class Convolution(StackedLayer):
    """A row's convolution; members may differ in how many channels come in."""

    def __init__(self, row: Row, n_in: Sequence[int], n_out: int) -> None:
        self.row = row
        square = (row.kernel, row.kernel)
        super().__init__(
            [(n, n_out, *square) if row.transposed else (n_out, n, *square) for n in n_in], [n_out] * len(n_in)
        )

    def apply_to(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Of one member's images, (n, channels, height, width)."""
        convolve = F.conv_transpose2d if self.row.transposed else F.conv2d
        return convolve(x, weight, bias, stride=self.row.stride, padding=self.row.padding)


class Stack(nn.Module):
    """Rows one after the other: (n_members, n, channels, height, width) to the same of the last row."""

    def __init__(self, rows: Sequence[Row], n_in: Sequence[int], last: int, normalised: bool) -> None:
        super().__init__()
        self.rows, self.convolutions, self.norms = list(rows), nn.ModuleList(), nn.ModuleDict()
        for k, row in enumerate(rows):
            channels = row.channels or last
            self.convolutions.append(Convolution(row, n_in, channels * (2 if row.gated else 1)))
            if row.norm and normalised:
                self.norms[str(k)] = BatchNorm(len(n_in), channels)
            n_in = [channels] * len(n_in)

    def forward(self, x: Tensor) -> Tensor:
        # Member by member: on a CPU a grouped convolution is slower than its groups, and channels-last faster.
        return torch.stack([
            self._one(own.contiguous(memory_format=torch.channels_last), i, parameters)
            for i, (own, parameters) in enumerate(zip(x, each_member(self.convolutions), strict=True))
        ])  # fmt: skip

    def _one(self, x: Tensor, i: int, parameters: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        for k, (row, layer, own) in enumerate(zip(self.rows, self.convolutions, parameters, strict=True)):
            if row.up > 1:
                x = F.interpolate(x, scale_factor=row.up, mode="nearest")
            x = layer.apply_to(x, *own)  # type: ignore[operator]  # a Convolution
            if row.gated:
                x = GATES[1].function(x)
            if str(k) in self.norms:
                x = self.norms[str(k)](x, i)
            if row.activation:
                x = ACTIVATIONS[row.activation].overwrite(x)
            if row.pool > 1:
                x = F.avg_pool2d(x, row.pool)
        return x


class Encoder(nn.Module):
    """The architecture of ``config.network``, flattened: (n_members, n, pixels) to (n_members, n, features)."""

    def __init__(self, configs: Sequence[TrialConfig], image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_shape, n = image_shape, len(configs)
        rows = ARCHITECTURES[configs[0].network].encoder
        self.stack = Stack(rows, [image_shape[0]] * n, image_shape[0], configs[0].normalisation == "batch")
        side = sizes(rows, image_shape[1])[-1]
        self.n_features = [rows[-1].channels * side**2] * n

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x.unflatten(2, self.image_shape)).flatten(2)


class Decoder(nn.Module):
    """z, (n_members, n, d), to a, (n_members, n, maps n_pixels + others); others are linear in z."""

    def __init__(
        self, configs: Sequence[TrialConfig], image_shape: tuple[int, int, int], maps: int, others: int
    ) -> None:
        super().__init__()
        architecture, dims = ARCHITECTURES[configs[0].network], [c.latent_dim for c in configs]
        self.shape = architecture.first
        features = [math.prod(self.shape)] * len(dims) if self.shape else dims
        self.first: nn.Module | None = None
        if architecture.hidden:
            sizes = [dims, [architecture.hidden] * len(dims), features]
            self.first = nn.Sequential(Dense(sizes, GATES[2], n_gated=2), Activate(GATES[2]))
        elif self.shape:
            self.first = Linear(dims, features)
        n_in = [self.shape[0]] * len(dims) if self.shape else dims
        self.stack = Stack(architecture.decoder, n_in, image_shape[0] * maps, configs[0].normalisation == "batch")
        self.others = Linear(dims, [others] * len(dims)) if others else None

    def forward(self, z: Tensor) -> Tensor:
        x = self.first(z) if self.first else z
        a: Tensor = self.stack(x.unflatten(2, self.shape or (-1, 1, 1))).flatten(2)
        return torch.cat([a, self.others(z)], dim=2) if self.others else a


def sizes(rows: Sequence[Row], side: int) -> list[int]:
    """The images' side before the first row and after each."""
    found = [side]
    for row in rows:
        side *= row.up
        if row.transposed:
            side = (side - 1) * row.stride - 2 * row.padding + row.kernel
        else:
            side = (side + 2 * row.padding - row.kernel) // row.stride + 1
        side //= row.pool
        found.append(side)
    return found
