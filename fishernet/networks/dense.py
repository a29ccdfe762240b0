"""Dense networks, Table A1's k-448-448-448-d and back at the defaults, and their Jacobian."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn

from fishernet.config import TrialConfig
from fishernet.networks import hidden_layers_of_decoder
from fishernet.networks.activations import ACTIVATIONS, GATES, Activate, Activation, gated_layers
from fishernet.networks.stacked import Linear


class Encoder(nn.Sequential):
    """The hidden layers, each with the activation; without any the image itself."""

    def __init__(self, configs: Sequence[TrialConfig], image_shape: tuple[int, int, int]) -> None:
        sizes, gated = _hidden(configs, configs[0].hidden_layers), gated_layers(configs[0])
        activation = GATES[2] if gated else ACTIVATIONS[configs[0].activation]
        pixels = [math.prod(image_shape)] * len(configs)
        layers = [Dense([pixels, *sizes], activation, n_gated=len(sizes) * gated), Activate(activation)]
        super().__init__(*(layers if sizes else []))
        self.n_features = sizes[-1] if sizes else pixels


@dataclass(frozen=True)
class Linearised:
    """The Jacobian of a ``Dense`` at a batch of points: J^T = W_1 D_1 ... D_(L-1) W_L, D the slopes of its activations.

    Exact (of ReLU networks off the kinks), and differentiable in the weights. Hand-pushed tangents cost one matrix
    product a layer; the first layer's cost none, as the tangents enter as the unit vectors.
    """

    weights: list[Tensor]  # (n_members, n_in, n_out)
    slopes: list[Tensor]  # (n_members, n, width)

    def part(self, members: slice, n_in: int) -> Self:
        """Of these members and of the first n_in inputs alone."""
        first, *rest = self.weights
        return type(self)([first[members, :n_in], *(w[members] for w in rest)], [s[members] for s in self.slopes])

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


class Dense(nn.Module):
    """Linear layers with the activation between them (none after the last), and the same map linearised at a point.

    The first ``n_gated`` layers give pairs, of which the activation makes one number each.
    """

    def __init__(self, sizes: Sequence[Sequence[int]], activation: Activation, n_gated: int = 0) -> None:
        super().__init__()
        self.activation = activation
        self.layers = nn.ModuleList(
            Linear(n_in, [2 * n for n in n_out] if i < n_gated else n_out)
            for i, (n_in, n_out) in enumerate(pairwise(sizes))
        )

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            if i:  # what the layer before has just made may be overwritten where no gradient needs it
                x = (self.activation.function if x.requires_grad else self.activation.overwrite)(x)
            x = layer(x)
        return x

    def linearise(self, x: Tensor) -> tuple[Tensor, Linearised]:
        """The output at x, (n_members, n, n_out), and the Jacobian there as an operator."""
        slopes = []
        for i, layer in enumerate(self.layers):
            if i:
                slopes.append(self.activation.slope(x))
                x = self.activation.function(x)
            x = layer(x)
        return x, Linearised([layer.get_parameter("weight") for layer in self.layers], slopes)


class Decoder(Dense):
    """The hidden layers mirrored, or as many as ``decoder_layers`` says."""

    def __init__(
        self, configs: Sequence[TrialConfig], image_shape: tuple[int, int, int], maps: int, others: int
    ) -> None:
        n_outputs = [maps * math.prod(image_shape) + others] * len(configs)
        gated = gated_layers(configs[0])
        super().__init__(
            [[c.latent_dim for c in configs], *_hidden(configs, hidden_layers_of_decoder(configs[0])), n_outputs],
            GATES[2] if gated else ACTIVATIONS[configs[0].activation],
            n_gated=hidden_layers_of_decoder(configs[0]) * gated,
        )


def _hidden(configs: Sequence[TrialConfig], n_layers: int) -> list[list[int]]:
    return [[configs[0].hidden_width] * len(configs)] * n_layers
