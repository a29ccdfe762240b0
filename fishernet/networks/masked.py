"""Masked dense layers, whose outputs depend on some of their inputs alone (MADE: Germain et al. 2015)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fishernet.networks.stacked import Linear


class MaskedLinear(Linear):
    """x (W mask) + b per member. W has its full size, and is stored and counted so; what the mask hides has no gradient.

    mask is (n_members, n_in, n_out), or (1, n_in, n_out) for all members: 1 where an output may depend on an input, else 0.
    """

    mask: Tensor

    def __init__(self, n_in: Sequence[int], n_out: Sequence[int], mask: Tensor) -> None:
        super().__init__(n_in, n_out)
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], x, self.weight * self.mask)


def degrees(latent_dims: Sequence[int], width: int, *, reverse: bool) -> tuple[Tensor, Tensor]:
    """Places of the latents in the order, 1 to d, and how many of them each hidden neuron sees, 0 to d - 1, of each member.

    (n_members, largest d) and (n_members, width). Reversed are the places, not the vector: of a padded member that would put the
    padding in front.
    """
    largest = max(latent_dims)
    places = torch.zeros(len(latent_dims), largest, dtype=torch.long)
    hidden = torch.zeros(len(latent_dims), width, dtype=torch.long)
    for i, d in enumerate(latent_dims):
        order = torch.arange(1, d + 1)
        places[i, :d] = order.flip(0) if reverse else order
        hidden[i] = torch.arange(width) % d
    return places, hidden
