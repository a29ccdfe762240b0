"""Stacked networks: layers whose every parameter holds one slice per cohort member, (n_members, ...)."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# FisherNet paper, Table A1: filters and strides of the CVAE's encoder; its decoder is their mirror image. Kernels are 3x3.
CONV_FILTERS = (32, 32, 64)
CONV_STRIDES = (2, 1, 2)


class Activation(NamedTuple):
    """A function applied to every number, and its derivative; ``overwrite`` may write into its argument."""

    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    overwrite: Callable[[Tensor], Tensor]


def _softplus(x: Tensor) -> Tensor:
    """ln(1 + e^x). Beyond 40 it is x to the last digit of float64, and so is its slope 1: torch's own limit of 20 is not that."""
    return F.softplus(x, threshold=40)


def _silu_slope(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def _gelu_slope(x: Tensor) -> Tensor:
    """Phi(x) + x phi(x), Phi and phi the standard normal's distribution and density."""
    return torch.special.ndtr(x) + x * torch.exp(-0.5 * x.square()) / math.sqrt(2 * math.pi)


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(F.relu, lambda x: (x > 0).to(x.dtype), F.relu_),
    # exp only where it is used: where x is large it would overflow, and its gradient with it
    "elu": Activation(F.elu, lambda x: x.clamp(max=0).exp(), F.elu),
    "gelu": Activation(F.gelu, _gelu_slope, F.gelu),
    "silu": Activation(F.silu, _silu_slope, F.silu),
    "softplus": Activation(_softplus, torch.sigmoid, _softplus),
    "tanh": Activation(torch.tanh, lambda x: 1 - torch.tanh(x).square(), torch.tanh),
}


class StackedLayer(nn.Module):
    """A weight and a bias with a leading member axis; members may differ in width and are padded with zeros.

    ``shapes[i]`` is the weight's shape member i would have alone. Only that corner is ever initialised, saved or counted;
    what lies outside it starts at 0 and, where its inputs or the gradients of its outputs are 0, stays 0 under Adam.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], bias_sizes: Sequence[int]) -> None:
        super().__init__()
        self.shapes, self.bias_sizes = list(shapes), list(bias_sizes)
        largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
        self.weight = nn.Parameter(torch.zeros(len(shapes), *largest))
        self.bias = nn.Parameter(torch.zeros(len(shapes), max(bias_sizes)))

    def fan_in(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape[1:])

    @torch.no_grad()
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Uniform in +-1/sqrt(fan_in), torch's default for its own layers; drawn in each member's own shape."""
        for i, (shape, size, generator) in enumerate(zip(self.shapes, self.bias_sizes, generators, strict=True)):
            bound = 1 / math.sqrt(self.fan_in(shape))
            _corner(self.weight[i], shape).copy_((torch.rand(shape, generator=generator) * 2 - 1) * bound)
            self.bias[i, :size] = (torch.rand(size, generator=generator) * 2 - 1) * bound

    def member_view(self, i: int, name: str, tensor: Tensor) -> Tensor:
        """Member i's unpadded part of ``tensor``, which has the shape of this layer's parameter ``name``."""
        return _corner(tensor[i], self.shapes[i]) if name == "weight" else tensor[i, : self.bias_sizes[i]]


def each_member(layers: Iterable[nn.Module]) -> Iterator[tuple[tuple[Tensor, Tensor], ...]]:
    """Member by member, weight and bias of every layer. Indexed one by one, each would have a gradient the size of all."""
    parameters = [(layer.get_parameter("weight").unbind(), layer.get_parameter("bias").unbind()) for layer in layers]
    return zip(*(zip(*both, strict=True) for both in parameters), strict=True)


def _corner(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    return tensor[tuple(slice(n) for n in shape)]


class Linear(StackedLayer):
    """x W + b per member; x is (n_members, n, n_in), W (n_members, n_in, n_out): so its gradient needs no transposed copy."""

    def __init__(self, n_in: Sequence[int], n_out: Sequence[int]) -> None:
        super().__init__(list(zip(n_in, n_out, strict=True)), n_out)

    def fan_in(self, shape: tuple[int, ...]) -> int:
        return shape[0]

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], x, self.weight)


class Conv(StackedLayer):
    """3x3 convolution, padding 1, of one member's images, (n, channels, height, width)."""

    def __init__(self, n_members: int, n_in: int, n_out: int, stride: int) -> None:
        super().__init__([(n_out, n_in, 3, 3)] * n_members, [n_out] * n_members)
        self.stride = stride

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, stride=self.stride, padding=1)


class ConvTranspose(StackedLayer):
    """Transposed 3x3 convolution back to exactly ``size``: the mirror image of ``Conv`` at any image size."""

    def __init__(self, n_members: int, n_in: int, n_out: int, stride: int, size: tuple[int, int]) -> None:
        super().__init__([(n_in, n_out, 3, 3)] * n_members, [n_out] * n_members)
        self.stride, self.size = stride, size

    def fan_in(self, shape: tuple[int, ...]) -> int:
        return shape[1] * 9  # torch's own convention for transposed convolutions

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        # A stride of 2 maps both 2n - 1 and 2n pixels to n; output_padding says which of them this layer came from.
        padding = [s - ((n - 1) * self.stride + 1) for s, n in zip(self.size, x.shape[-2:], strict=True)]
        return F.conv_transpose2d(x, weight, bias, stride=self.stride, padding=1, output_padding=padding)


class Dense(nn.Module):
    """Linear layers with the activation between them (none after the last), and the same map linearised at a point."""

    def __init__(self, sizes: Sequence[Sequence[int]], activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.layers = nn.ModuleList(Linear(n_in, n_out) for n_in, n_out in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(self.activation.function(x) if i else x)
        return x

    def linearise(self, x: Tensor) -> tuple[Tensor, "Linearised"]:
        """The output at x, (n_members, n, n_out), and the Jacobian there as an operator."""
        slopes = []
        for i, layer in enumerate(self.layers):
            if i:
                slopes.append(self.activation.slope(x))
                x = self.activation.function(x)
            x = layer(x)
        return x, Linearised([layer.get_parameter("weight") for layer in self.layers], slopes)


@dataclass(frozen=True)
class Linearised:
    """The Jacobian of a ``Dense`` at a batch of points: J^T = W_1 D_1 ... D_(L-1) W_L, D the slopes of its activations.

    Exact (of ReLU networks off the kinks), and differentiable in the weights. Hand-pushed tangents cost one matrix
    product a layer; the first layer's cost none, as the tangents enter as the unit vectors.
    """

    weights: list[Tensor]  # (n_members, n_in, n_out)
    slopes: list[Tensor]  # (n_members, n, width)

    def part(self, members: slice, n_in: int) -> "Linearised":
        """Of these members and of the first n_in inputs alone."""
        first, *rest = self.weights
        return Linearised([first[members, :n_in], *(w[members] for w in rest)], [s[members] for s in self.slopes])

    def jacobian(self) -> Tensor:
        """J^T as tangents, (n_members, n, n_in, n_out)."""
        first, *rest = self.weights
        n_in = first.shape[1]
        tangents = first[:, None]  # (n_members, 1, n_in, width): a linear map has one Jacobian
        for i, (weight, slope) in enumerate(zip(rest, self.slopes, strict=True)):
            # (n_members, n, n_in, width), the largest array of all: in place where no gradient needs it
            in_place = i and not torch.is_grad_enabled()
            tangents = tangents.mul_(slope[:, :, None]) if in_place else tangents * slope[:, :, None]
            tangents = torch.bmm(tangents.flatten(1, 2), weight).unflatten(1, (-1, n_in))
        return tangents

    def push(self, tangent: Tensor) -> Tensor:
        """J v for one v per point: (n_members, n, n_in) to (n_members, n, n_out)."""
        first, *rest = self.weights
        tangent = torch.bmm(tangent, first)
        for weight, slope in zip(rest, self.slopes, strict=True):
            tangent = torch.bmm(tangent * slope, weight)
        return tangent

    def pull(self, cotangent: Tensor) -> Tensor:
        """J^T w for one w per point: (n_members, n, n_out) to (n_members, n, n_in)."""
        first, *rest = self.weights
        for weight, slope in zip(reversed(rest), reversed(self.slopes), strict=True):
            cotangent = torch.bmm(cotangent, weight.mT) * slope
        return torch.bmm(cotangent, first.mT)


class ConvEncoder(nn.Module):
    """Table A1's convolutions, each with the activation, flattened: (n_members, n, pixels) to (n_members, n, features)."""

    def __init__(self, n_members: int, image_shape: tuple[int, int, int], activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.image_shape = image_shape
        channels = (image_shape[0], *CONV_FILTERS)
        self.layers = nn.ModuleList(
            Conv(n_members, n_in, n_out, stride)
            for (n_in, n_out), stride in zip(pairwise(channels), CONV_STRIDES, strict=True)
        )
        self.n_features = CONV_FILTERS[-1] * math.prod(conv_sizes(image_shape)[-1])

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


class ConvDecoder(nn.Module):
    """The mirror image of ``ConvEncoder``, with a last 3x3 convolution to the image's channels (implied by Table A1)."""

    def __init__(self, latent_dims: Sequence[int], image_shape: tuple[int, int, int], activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        n_members, sizes = len(latent_dims), conv_sizes(image_shape)
        self.first_shape = (CONV_FILTERS[-1], *sizes[-1])
        channels = (CONV_FILTERS[-1], *reversed(CONV_FILTERS))
        self.first = Linear(latent_dims, [math.prod(self.first_shape)] * n_members)
        self.layers = nn.ModuleList(
            ConvTranspose(n_members, n_in, n_out, stride, size)
            for (n_in, n_out), stride, size in zip(
                pairwise(channels), reversed(CONV_STRIDES), reversed(sizes[:-1]), strict=True
            )
        )
        self.last = Conv(n_members, channels[-1], image_shape[0], 1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.activation.function(self.first(z)).unflatten(2, self.first_shape)
        members = each_member([*self.layers, self.last])
        return torch.stack([self._image(features, layers) for features, layers in zip(x, members, strict=True)])

    def _image(self, x: Tensor, parameters: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        for layer, own in zip(self.layers, parameters[:-1], strict=True):
            # In place where it can be: large activations cost memory traffic, not arithmetic.
            x = self.activation.overwrite(layer(x, *own))
        return self.last(x, *parameters[-1]).flatten(1)


def conv_sizes(image_shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Height and width before and after each convolution: 28-14-14-7 for Fashion-MNIST."""
    sizes = [image_shape[1:]]
    for stride in CONV_STRIDES:
        height, width = sizes[-1]
        sizes.append((math.ceil(height / stride), math.ceil(width / stride)))
    return sizes
