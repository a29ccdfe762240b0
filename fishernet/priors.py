"""Priors p(z). Tensors are (n_members, n, d); results per image (n_members, n)."""

from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor, nn

from fishernet.posteriors import LOG_2_PI, DiagonalGaussian, Posterior


class Prior(nn.Module, ABC):
    """p(z) of each member's own latents; ``own`` is (n_members, 1, d), 0 where a latent pads a smaller member."""

    own: Tensor

    def __init__(self, own: Tensor) -> None:
        super().__init__()
        self.register_buffer("own", own, persistent=False)

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """ln p(z), nats."""

    @abstractmethod
    def score(self, z: Tensor) -> Tensor:
        """The gradient of ln p(z) in z, (n_members, n, d)."""

    @abstractmethod
    def kl(self, q: Posterior) -> Tensor:
        """KL(q || p), nats, in closed form; raises NotImplementedError where there is none."""

    @abstractmethod
    def sample(self, member: int, n: int, generator: torch.Generator) -> Tensor:
        """n draws of one member's prior, (n, its own latent_dim), on the generator's device."""


class StandardNormal(Prior):
    """N(0, 1)."""

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z.square().sum(2) + self.own.sum(2) * LOG_2_PI)

    def score(self, z: Tensor) -> Tensor:
        return -z

    def kl(self, q: Posterior) -> Tensor:
        """sum (mu^2 + s^2 - 1 - ln s^2)/2 of a diagonal Gaussian (Kingma and Welling 2014, appendix B)."""
        if not isinstance(q, DiagonalGaussian):
            raise NotImplementedError(f"no closed form of KL({type(q).__name__} || N(0, 1))")
        return 0.5 * (q.mean.square() + q.log_variance.exp() - 1 - q.log_variance).sum(2)

    def sample(self, member: int, n: int, generator: torch.Generator) -> Tensor:
        d = int(cast("float", self.own[member].sum().item()))
        return torch.randn(n, d, generator=generator, device=generator.device)
