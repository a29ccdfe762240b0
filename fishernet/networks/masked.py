"""Linear layers some of whose weights are 0 for good: what autoregressive networks are made of."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fishernet.networks.stacked import Linear


class MaskedLinear(Linear):
    """x (W * mask) + b per member. W has its full size, and is stored and counted so; what the mask hides has no gradient.

    mask is (n_members, n_in, n_out), or (1, n_in, n_out) for all members, 0 or 1.
    """

    mask: Tensor

    def __init__(self, n_in: Sequence[int], n_out: Sequence[int], mask: Tensor) -> None:
        super().__init__(n_in, n_out)
        self.register_buffer("mask", mask.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], x, self.weight * self.mask)
