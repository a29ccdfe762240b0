"""Batch normalisation (Ioffe and Szegedy 2015) of stacked members."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fishernet.networks.stacked import Stacked

MOMENTUM, EPSILON = 0.1, 1e-5  # torch's own


class BatchNorm(Stacked):
    """Batch normalisation with statistics of each member's own; running ones where the model is evaluated.

    In training an image's output depends on the others of its batch: so do derivatives in an image, as those of the Fisher
    divergence.
    """

    running_mean: Tensor
    running_var: Tensor
    momentum = MOMENTUM

    def __init__(self, n_members: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_members, channels))
        self.bias = nn.Parameter(torch.zeros(n_members, channels))
        self.register_buffer("running_mean", torch.zeros(n_members, channels))
        self.register_buffer("running_var", torch.ones(n_members, channels))

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Nothing is drawn."""

    def member_view(self, i: int, name: str, tensor: Tensor) -> Tensor:
        return tensor[i]

    def forward(self, x: Tensor, i: int) -> Tensor:
        """Of member i's images."""
        # A batch of one number a channel has no variance.
        training = self.training and x.shape[0] * x.shape[2] * x.shape[3] > 1
        return F.batch_norm(
            x, self.running_mean[i], self.running_var[i], self.weight[i], self.bias[i], training, self.momentum, EPSILON
        )  # fmt: skip


@contextmanager
def statistics_held(network: nn.Module) -> Iterator[None]:
    """Within, passes through the network leave its running statistics as they are: for images that are none of the data's."""
    norms = [layer for layer in network.modules() if isinstance(layer, BatchNorm)]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm in norms:
            norm.momentum = MOMENTUM
