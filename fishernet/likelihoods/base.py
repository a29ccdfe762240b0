"""What a likelihood p(x given f) is: its density, mean, samples, Fisher information and the prior of its own parameters.

All are functions of the decoder's raw output a, (n_members, n, n_outputs): ``maps`` numbers per pixel, then ``others`` per
image. x is (n_members, n, n_pixels) and results per image (n_members, n).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, Protocol, Self

import torch
from torch import Tensor, nn

from fishernet.families import LikelihoodConfig


class Root(Protocol):
    """A root R of the Fisher information about a, R^T R = I: what is pushed through it has I as its inner product."""

    n_rows: int

    def push(self, tangent: Tensor) -> Tensor:
        """R t: (n_members, n, ..., n_outputs) to (n_members, n, ..., n_rows)."""

    def pull(self, rows: Tensor) -> Tensor:
        """R^T w: (n_members, n, ..., n_rows) to (n_members, n, ..., n_outputs)."""

    def gram(self, tangent: Tensor) -> Tensor:
        """I t = R^T R t, in the shape of the tangent."""

    def part(self, members: slice) -> Self:
        """Of these members alone."""


class DiagonalRoot:
    """R = diag(root), root (n_members, n, n_outputs): independent outputs."""

    def __init__(self, root: Tensor) -> None:
        self.root, self.n_rows = root, root.shape[2]

    def push(self, tangent: Tensor) -> Tensor:
        return tangent * (self.root[:, :, None] if tangent.dim() == 4 else self.root)

    pull = push

    def gram(self, tangent: Tensor) -> Tensor:
        return tangent * (self._information[:, :, None] if tangent.dim() == 4 else self._information)

    @cached_property
    def _information(self) -> Tensor:
        return self.root.square()

    def part(self, members: slice) -> "DiagonalRoot":
        return DiagonalRoot(self.root[members])


class Likelihood(nn.Module, ABC):
    """p(x given f). Built before the networks, whose decoder emits as many numbers as it says."""

    maps: int = 1  # numbers per pixel that the decoder emits
    others: int = 0  # numbers per image beside them

    def __init__(self, config: LikelihoodConfig, n_members: int, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.sigmoid = config.decoder_output == "sigmoid"
        self.n_members, self.n_pixels = n_members, math.prod(image_shape)

    @property
    def n_outputs(self) -> int:
        """How many numbers the decoder emits for an image."""
        return self.maps * self.n_pixels + self.others

    def mean(self, a: Tensor) -> Tensor:
        """f, the expected image, (n_members, n, n_pixels)."""
        return torch.sigmoid(a) if self.sigmoid else a

    @abstractmethod
    def log_prob(self, x: Tensor, a: Tensor) -> Tensor:
        """ln p(x given f) in nats per image, constants included, (n_members, n)."""

    random: Literal["normal", "uniform"] = "normal"  # what ``draw`` takes

    def draw(self, a: Tensor, noise: Tensor) -> Tensor:
        """An image x ~ p(x given f) made of random numbers of the kind ``random``, one a pixel, with a gradient in a.

        Raises NotImplementedError where no such way is known.
        """
        raise NotImplementedError(f"{type(self).__name__} has no draw with a gradient")

    @abstractmethod
    def sample(self, a: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One image x ~ p(x given f) for each a, (n_members, n, n_pixels)."""

    def root_information(self, a: Tensor) -> Root:
        """A root of the Fisher information about a.

        With J the Jacobian of a, the information about z is J^T R^T R J: equation 18 of the FisherNet paper, where the slope of
        the decoder's last function is counted here instead of in J. The root, as the square of a saturated pixel rounds to 0,
        where the gradient of a square root is infinite. Raises NotImplementedError where no closed form is known.
        """
        raise NotImplementedError(f"{type(self).__name__} has no Fisher information in closed form")

    def hyvarinen(self, x: Tensor, a: Tensor) -> Tensor:
        """The Hyvarinen score of p(x given f): its Laplacian of ln p in x, plus |grad ln p|^2/2, (n_members, n).

        In inverse squared units of x. Raises NotImplementedError where pixels have no smooth density.
        """
        raise NotImplementedError(f"{type(self).__name__} has no Hyvarinen score")

    @property
    def constant(self) -> float:
        """What of -ln p depends on no parameter, nats per image: the paper's losses leave it out."""
        return 0.0

    def parts(self, log_prob: Tensor) -> dict[str, Tensor]:
        """Minus ln p, without its constant, taken apart: terms of the paper's losses, nats per image, (n_members, n)."""
        return {}

    def log_prior(self, n_train: int) -> Tensor | None:
        """ln of the prior of its own parameters, shared out over the training images, (n_members, 1); None without any."""
        return None

    @property
    def noise_variance(self) -> Tensor | None:
        """The noise variance, (n_members,), in squared units of x; None where it has no noise."""
        return None

    def observe(self, x: Tensor, a: Tensor) -> None:
        """Take note of a training batch, after the optimiser's step."""
