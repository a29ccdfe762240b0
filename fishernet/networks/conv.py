"""Convolutional networks, Table A1's, for images of any size and number of channels, and their Jacobian."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fishernet.config import TrialConfig
from fishernet.networks.activations import ACTIVATIONS, GATES, Activation, gated_layers
from fishernet.networks.stacked import Linear, StackedLayer, each_member

# Zacherl, Frank, Enßlin 2021, Table A1: filters and strides of the encoder; its decoder is their mirror image. Kernels are 3x3.
CONV_FILTERS = (32, 32, 64)
CONV_STRIDES = (2, 1, 2)


class Conv(StackedLayer):
    """3x3 convolution, padding 1, of one member's images, (n, channels, height, width)."""

    def __init__(self, n_members: int, n_in: int, n_out: int, stride: int) -> None:
        super().__init__([(n_out, n_in, 3, 3)] * n_members, [n_out] * n_members)
        self.stride = stride

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.conv2d(x, weight, bias, stride=self.stride, padding=1)

    def transposed(self, y: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
        """The transpose of the linear map, back to images of that size."""
        return _up(y, weight, None, self.stride, size)


class ConvTranspose(StackedLayer):
    """Transposed 3x3 convolution back to exactly ``size``: the mirror image of ``Conv`` at any image size."""

    def __init__(self, n_members: int, n_in: int, n_out: int, stride: int, size: tuple[int, int]) -> None:
        super().__init__([(n_in, n_out, 3, 3)] * n_members, [n_out] * n_members)
        self.stride, self.size = stride, size

    def fan_in(self, shape: tuple[int, ...]) -> int:
        return shape[1] * 9  # torch's own convention for transposed convolutions

    def fan_out(self, shape: tuple[int, ...]) -> int:
        return shape[0] * 9

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return _up(x, weight, bias, self.stride, self.size)

    def transposed(self, y: Tensor, weight: Tensor, size: Sequence[int]) -> Tensor:
        """The transpose of the linear map; ``size``, of its inputs, follows from that of y."""
        return F.conv2d(y, weight, stride=self.stride, padding=1)


def _up(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, size: Sequence[int]) -> Tensor:
    # A stride of 2 maps both 2n - 1 and 2n pixels to n; output_padding says which of them this layer came from.
    padding = [s - ((n - 1) * stride + 1) for s, n in zip(size, x.shape[-2:], strict=True)]
    return F.conv_transpose2d(x, weight, bias, stride=stride, padding=1, output_padding=padding)


class Encoder(nn.Module):
    """Table A1's convolutions, each with the activation, flattened: (n_members, n, pixels) to (n_members, n, features)."""

    def __init__(self, configs: Sequence[TrialConfig], image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        n_members, self.image_shape = len(configs), image_shape
        self.activation, pairs = _activation(configs[0])
        channels = (image_shape[0], *CONV_FILTERS)
        self.layers = nn.ModuleList(
            Conv(n_members, n_in, pairs * n_out, stride)
            for (n_in, n_out), stride in zip(pairwise(channels), CONV_STRIDES, strict=True)
        )
        self.n_features = [CONV_FILTERS[-1] * math.prod(conv_sizes(image_shape)[-1])] * n_members

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(2, self.image_shape)
        return torch.stack(
            [self._features(own, layers) for own, layers in zip(x, each_member(self.layers), strict=True)]
        )

    def _features(self, x: Tensor, parameters: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        # Member by member: on a CPU a grouped convolution is slower than its groups; channels-last is 1.3-2x faster there.
        x = x.contiguous(memory_format=torch.channels_last)
        for layer, own in zip(self.layers, parameters, strict=True):
            # In place where it can be: large activations cost memory traffic, not arithmetic.
            x = self.activation.overwrite(layer(x, *own))
        return x.flatten(1)


@dataclass(frozen=True)
class Linearised:
    """The Jacobian of a ``Decoder`` at a batch of points; exact, and differentiable in the weights.

    Tangents are pushed by hand through the layers without their biases, d tangents an image as d images.
    """

    first: Tensor  # (n_members, n_in, features)
    weights: Sequence[Tensor]  # of each convolution, (n_members, ...)
    others: Tensor | None  # (n_members, n_in, n_others)
    slopes: Sequence[
        Tensor
    ]  # of ``first`` (n_members, n, features), then images (n_members, n, channels, height, width)
    layers: Sequence[Conv | ConvTranspose]
    first_shape: tuple[int, int, int]

    def part(self, members: slice, n_in: int) -> Self:
        """Of these members and of the first n_in inputs alone."""
        return replace(
            self,
            first=self.first[members, :n_in],
            weights=[weight[members] for weight in self.weights],
            others=None if self.others is None else self.others[members, :n_in],
            slopes=[slope[members] for slope in self.slopes],
        )

    def jacobian(self) -> Tensor:
        """J^T as tangents, (n_members, n, n_in, n_out)."""
        n, n_in = self.slopes[0].shape[1], self.first.shape[1]
        images = self._images(self.first[:, None] * self.slopes[0][:, :, None], n_in)
        if self.others is None:
            return images
        return torch.cat([images, self.others[:, None].expand(-1, n, -1, -1)], dim=3)

    def push(self, tangent: Tensor) -> Tensor:
        """J v for one v per point: (n_members, n, n_in) to (n_members, n, n_out)."""
        images = self._images((torch.bmm(tangent, self.first) * self.slopes[0])[:, :, None], 1)[:, :, 0]
        return images if self.others is None else torch.cat([images, torch.bmm(tangent, self.others)], dim=2)

    def _images(self, tangents: Tensor, n_in: int) -> Tensor:
        """From the first layer's slopes on: (n_members, n, n_in, features) to (n_members, n, n_in, n_pixels)."""
        pushed = []
        for i, own in enumerate(tangents):
            x = own.flatten(0, 1).unflatten(1, self.first_shape).contiguous(memory_format=torch.channels_last)
            for layer, weight, slope in zip(self.layers, self.weights, self.slopes[1:], strict=False):
                x = layer(x, weight[i])
                x = (x.unflatten(0, (-1, n_in)) * slope[i][:, None]).flatten(0, 1)
            pushed.append(self.layers[-1](x, self.weights[-1][i]).flatten(1).unflatten(0, (-1, n_in)))
        return torch.stack(pushed)

    def pull(self, cotangent: Tensor) -> Tensor:
        """J^T w for one w per point: (n_members, n, n_out) to (n_members, n, n_in)."""
        images, last = [], self.slopes[-1]
        n_pixels = cotangent.shape[2] - (0 if self.others is None else self.others.shape[2])
        for i, own in enumerate(cotangent):
            y = own[:, :n_pixels].unflatten(1, (-1, *last.shape[-2:])).contiguous(memory_format=torch.channels_last)
            y = self.layers[-1].transposed(y, self.weights[-1][i], last.shape[-2:]) * last[i]
            for k in range(len(self.layers) - 2, -1, -1):
                slope = self.slopes[k] if k else self.slopes[0].unflatten(2, self.first_shape)
                y = self.layers[k].transposed(y, self.weights[k][i], slope.shape[-2:]) * slope[i]
            images.append(y.flatten(1))
        pulled = torch.bmm(torch.stack(images), self.first.mT)
        if self.others is None:
            return pulled
        return pulled + torch.bmm(cotangent[:, :, n_pixels:], self.others.mT)


class Decoder(nn.Module):
    """The mirror image of ``Encoder``, with a last 3x3 convolution to the image's channels (implied by Table A1).

    Each of ``maps`` outputs per pixel is so many more channels; ``others`` outputs per image are linear in z.
    """

    def __init__(
        self, configs: Sequence[TrialConfig], image_shape: tuple[int, int, int], maps: int, others: int
    ) -> None:
        super().__init__()
        self.activation, pairs = _activation(configs[0])
        latent_dims = [c.latent_dim for c in configs]
        n_members, sizes = len(latent_dims), conv_sizes(image_shape)
        self.first_shape = (CONV_FILTERS[-1], *sizes[-1])
        self.first_activation = GATES[2] if pairs == 2 else self.activation
        channels = (CONV_FILTERS[-1], *reversed(CONV_FILTERS))
        self.first = Linear(latent_dims, [pairs * math.prod(self.first_shape)] * n_members)
        self.layers = nn.ModuleList(
            ConvTranspose(n_members, n_in, pairs * n_out, stride, size)
            for (n_in, n_out), stride, size in zip(
                pairwise(channels), reversed(CONV_STRIDES), reversed(sizes[:-1]), strict=True
            )
        )
        self.last = Conv(n_members, channels[-1], image_shape[0] * maps, 1)
        self.others = Linear(latent_dims, [others] * n_members) if others else None

    def forward(self, z: Tensor) -> Tensor:
        x = self.first_activation.function(self.first(z)).unflatten(2, self.first_shape)
        members = each_member([*self.layers, self.last])
        images = torch.stack([self._image(features, layers) for features, layers in zip(x, members, strict=True)])
        return torch.cat([images, self.others(z)], dim=2) if self.others else images

    def linearise(self, z: Tensor) -> tuple[Tensor, Linearised]:
        """The output at z, (n_members, n, n_out), and the Jacobian there as an operator."""
        before = self.first(z)
        slopes = [self.activation.slope(before)]
        x = self.activation.function(before).unflatten(2, self.first_shape)
        *convolutions, last = zip(*each_member([*self.layers, self.last]), strict=True)
        layers = [cast("ConvTranspose", layer) for layer in self.layers]
        for layer, parameters in zip(layers, convolutions, strict=True):
            before = torch.stack([layer(own, *both) for own, both in zip(x, parameters, strict=True)])
            slopes.append(self.activation.slope(before))
            x = self.activation.function(before)
        images = torch.stack([self.last(own, *both) for own, both in zip(x, last, strict=True)]).flatten(2)
        a = torch.cat([images, self.others(z)], dim=2) if self.others else images
        weights = [layer.weight for layer in (*layers, self.last)]
        others = self.others.weight if self.others else None
        return a, Linearised(self.first.weight, weights, others, slopes, [*layers, self.last], self.first_shape)

    def _image(self, x: Tensor, parameters: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        for layer, own in zip(self.layers, parameters[:-1], strict=True):
            # In place where it can be: large activations cost memory traffic, not arithmetic.
            x = self.activation.overwrite(layer(x, *own))
        return self.last(x, *parameters[-1]).flatten(1)


def _activation(config: TrialConfig) -> tuple[Activation, int]:
    """The function between the layers of one member's images, (n, channels, ...), and of how many channels it makes one."""
    return (GATES[1], 2) if gated_layers(config) else (ACTIVATIONS[config.activation], 1)


def conv_sizes(image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Height and width before and after each convolution: 28-14-14-7 for Fashion-MNIST."""
    sizes = [image_shape[1:]]
    for stride in CONV_STRIDES:
        height, width = sizes[-1]
        sizes.append((math.ceil(height / stride), math.ceil(width / stride)))
    return sizes
