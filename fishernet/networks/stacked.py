"""Stacked layers: every parameter holds one slice per cohort member, (n_members, ...)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, Self, cast

import torch
from torch import Tensor, nn


class Jacobian(Protocol):
    """The Jacobian J of a decoder at a batch of points, as an operator on tangents: what ``Decoder.linearise`` gives."""

    def part(self, members: slice, n_in: int) -> Self:
        """Of these members and of the first n_in inputs alone."""

    def jacobian(self) -> Tensor:
        """J^T as tangents, (n_members, n or 1, n_in, n_out)."""

    def push(self, tangent: Tensor) -> Tensor:
        """J v for one v per point: (n_members, n, n_in) to (n_members, n, n_out)."""

    def pull(self, cotangent: Tensor) -> Tensor:
        """J^T w for one w per point: (n_members, n, n_out) to (n_members, n, n_in)."""


class Stacked(nn.Module, ABC):
    """A module whose ``padded`` parameters and buffers have a leading member axis and may differ in size between members."""

    padded: tuple[str, ...] = ()

    @abstractmethod
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Draw each member's first weights from its own generator, in the member's own shape."""

    @abstractmethod
    def member_view(self, i: int, name: str, tensor: Tensor) -> Tensor:
        """Member i's unpadded part of ``tensor``, which has the shape of this module's own ``name``."""


class StackedLayer(Stacked):
    """A weight and a bias with a leading member axis; members may differ in width and are padded with zeros.

    ``shapes[i]`` is the weight's shape member i would have alone. Only that corner is ever initialised, saved or counted;
    what lies outside it starts at 0 and, where its inputs or the gradients of its outputs are 0, stays 0 under Adam.
    """

    padded = ("weight", "bias")
    initialisation = "torch"
    dense = False  # its weights are a matrix

    def __init__(self, shapes: Sequence[tuple[int, ...]], bias_sizes: Sequence[int]) -> None:
        super().__init__()
        self.shapes, self.bias_sizes = list(shapes), list(bias_sizes)
        largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
        self.weight = nn.Parameter(torch.zeros(len(shapes), *largest))
        self.bias = nn.Parameter(torch.zeros(len(shapes), max(bias_sizes)))

    def fan_in(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape[1:])

    def fan_out(self, shape: tuple[int, ...]) -> int:
        return shape[0] * math.prod(shape[2:])

    @torch.no_grad()
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Drawn in each member's own shape: uniform in +-1/sqrt(fan_in), torch's default for its own layers.

        glorot-uniform: in +-sqrt(6/(fan_in + fan_out)), biases 0 (Glorot and Bengio 2010, eq. 16). he-normal, of dense layers
        alone: weights of standard deviation sqrt(2/fan_in) (He et al. 2015, eq. 10).
        """
        glorot = self.initialisation == "glorot-uniform"
        for i, (shape, size, generator) in enumerate(zip(self.shapes, self.bias_sizes, generators, strict=True)):
            fan_in, bound = self.fan_in(shape), 1 / math.sqrt(self.fan_in(shape))
            if self.initialisation == "he-normal" and self.dense:
                weight = torch.randn(shape, generator=generator) * math.sqrt(2 / fan_in)
            else:
                reach = math.sqrt(6 / (fan_in + self.fan_out(shape))) if glorot else bound
                weight = (torch.rand(shape, generator=generator) * 2 - 1) * reach
            _corner(self.weight[i], shape).copy_(weight)
            if not glorot:
                self.bias[i, :size] = (torch.rand(size, generator=generator) * 2 - 1) * bound

    def member_view(self, i: int, name: str, tensor: Tensor) -> Tensor:
        return _corner(tensor[i], self.shapes[i]) if name == "weight" else tensor[i, : self.bias_sizes[i]]


def each_member(layers: Iterable[nn.Module]) -> Iterator[tuple[tuple[Tensor, Tensor], ...]]:
    """Member by member, weight and bias of every layer. Indexed one by one, each would have a gradient the size of all.

    By attribute: ``torch.func.functional_call`` puts a tensor in a parameter's place.
    """
    parameters = [(cast("Tensor", layer.weight).unbind(), cast("Tensor", layer.bias).unbind()) for layer in layers]
    return zip(*(zip(*both, strict=True) for both in parameters), strict=True)


def _corner(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    return tensor[tuple(slice(n) for n in shape)]


class Linear(StackedLayer):
    """x W + b per member; x is (n_members, n, n_in), W (n_members, n_in, n_out): so its gradient needs no transposed copy.

    ``pulls_back`` where gradients of gradients in x are wanted: autograd's own would give W's transposed, whose copies cost as
    much as the products.
    """

    dense = True
    pulls_back = False

    def __init__(self, n_in: Sequence[int], n_out: Sequence[int]) -> None:
        super().__init__(list(zip(n_in, n_out, strict=True)), n_out)

    def fan_in(self, shape: tuple[int, ...]) -> int:
        return shape[0]

    def fan_out(self, shape: tuple[int, ...]) -> int:
        return shape[1]

    def forward(self, x: Tensor) -> Tensor:
        if not self.pulls_back or not x.requires_grad or torch.is_autocast_enabled(x.device.type):
            return torch.baddbmm(self.bias[:, None], x, self.weight)
        y = torch.baddbmm(self.bias[:, None], x.detach(), self.weight)
        return cast("Tensor", _Pulled.apply(y, x, self.weight))


class _Pulled(torch.autograd.Function):
    """y = x W + b, whose gradient in W and b is y's own, with that in x."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor, None]:
        (weight,) = ctx.saved_tensors
        return cotangent, _Pull.apply(cotangent, weight), None


class _Pull(torch.autograd.Function):
    """w W^T, whose gradient in W comes as W lies in memory."""

    @staticmethod
    def forward(ctx: Any, cotangent: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(cotangent, weight)
        return torch.bmm(cotangent, weight.mT)

    @staticmethod
    def backward(ctx: Any, pulled: Tensor) -> tuple[Tensor, Tensor]:
        cotangent, weight = ctx.saved_tensors
        return torch.bmm(pulled, weight), torch.bmm(pulled.mT, cotangent)
