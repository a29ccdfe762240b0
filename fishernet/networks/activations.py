"""The functions between layers, each with its derivative."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fishernet.config import TrialConfig

LEAK = 0.01  # the slope of a leaky ReLU below 0, torch's default


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
    "leaky-relu": Activation(F.leaky_relu, lambda x: torch.where(x > 0, 1.0, LEAK).to(x.dtype), F.leaky_relu_),
    # exp only where it is used: where x is large it would overflow, and its gradient with it
    "elu": Activation(F.elu, lambda x: x.clamp(max=0).exp(), F.elu),
    "gelu": Activation(F.gelu, _gelu_slope, F.gelu),
    "silu": Activation(F.silu, _silu_slope, F.silu),
    "softplus": Activation(_softplus, torch.sigmoid, _softplus),
    "tanh": Activation(torch.tanh, lambda x: 1 - torch.tanh(x).square(), torch.tanh),
}


def _no_slope(x: Tensor) -> Tensor:
    raise NotImplementedError("a gated layer has no slope for each number")


# What stands in an activation's place where layers are gated: of a pair (h, g) side by side h sigmoid(g), half as wide (Dauphin
# et al. 2017, eq. 1).
GATES = {dim: Activation(partial(F.glu, dim=dim), _no_slope, partial(F.glu, dim=dim)) for dim in (1, 2)}


def gated_layers(config: TrialConfig) -> bool:
    """Whether the hidden layers are pairs with a gate; families that push tangents have no such field."""
    return getattr(config, "gating", "none") == "sigmoid"


class Activate(nn.Module):
    """An activation as a layer."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation.function(x)
