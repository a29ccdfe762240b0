"""What a likelihood p(x given f) is: its density, mean, samples, Fisher information and the prior of its own parameters.

All are functions of the decoder's raw output a, (n_members, n, n_outputs): ``maps`` numbers per pixel, then ``others`` per
image. x is (n_members, n, n_pixels) and results per image (n_members, n).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, Self, cast

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

    def part(self, members: slice) -> Self:
        return type(self)(self.root[members])


class _SquaredLength(torch.autograd.Function):
    """Autograd's own gradient of a square is three passes over its numbers; this is one."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return y.square().sum(-1)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return y * (2 * cotangent)[..., None]


def squared_length(y: Tensor) -> Tensor:
    """|y|^2 of vectors (..., n): (...)."""
    return cast("Tensor", _SquaredLength.apply(y))


FURTHEST = 1e100  # of quantiles, in units of x: a t of hardly any degrees of freedom has none that is finite


class Marginals(NamedTuple):
    """What each pixel's own distribution is: a mixture over K components, of normals or of t distributions."""

    log_weights: Tensor  # (n_members, n, K)
    loc: Tensor  # (n_members, n, K, n_pixels), in units of x
    scale: Tensor  # of the same shape and units; of a t its scale, which is no standard deviation
    df: Tensor | None = None  # degrees of freedom, (n_members, n, K); None of normals

    def mean(self) -> Tensor:
        """sum_k pi_k loc_k, (n_members, n, n_pixels): the mean, and of a t without one (df <= 1) its centre."""
        return (self.log_weights.exp()[..., None] * self.loc).sum(2)

    def variance(self) -> Tensor:
        """sum_k pi_k (v_k + loc_k^2) - mean^2, (n_members, n, n_pixels), in squared units of x.

        Of a t, v = df/(df - 2) scale^2; infinite for df <= 2, and NaN for df <= 1, where there is no mean to vary about.
        """
        weights, own = self.log_weights.exp()[..., None], self.scale.square()
        if self.df is not None:
            df = self.df[..., None]
            own = own * torch.where(df > 2, df / (df - 2), torch.where(df > 1, torch.inf, torch.nan))
        about = (self.loc - self.mean()[:, :, None]).square()
        return torch.where(weights > 0, weights * (own + about), 0).sum(2)

    def cdf(self, x: Tensor) -> Tensor:
        """F(x) = sum_k pi_k F_k((x - loc_k)/scale_k) of each pixel's own distribution, x and result (n_members, n, n_pixels).

        In float64. Uniform where the distribution is the true one. That of a t takes SciPy.
        """
        y = (x[:, :, None].double() - self.loc) / self.scale
        return (self.log_weights.double().exp()[..., None] * self._of_components("stdtr", torch.special.ndtr, y)).sum(2)

    def quantile(self, p: float) -> Tensor:
        """What a pixel is below with probability p, (n_members, n, n_pixels) in float64, in units of x.

        By bisection: a mixture's lies between the least and the largest of its components' own. Raises ValueError unless
        0 < p < 1.
        """
        if not 0 < p < 1:
            raise ValueError(f"a quantile is of a probability above 0 and below 1; got {p!r}")
        of_unit = self._of_components("stdtrit", torch.special.ndtri, torch.tensor(p, dtype=torch.float64))
        own = (self.loc.double() + self.scale * of_unit).clamp(-FURTHEST, FURTHEST)
        low, high = own.amin(2), own.amax(2)
        while True:
            middle = low + (high - low) / 2
            if not ((middle > low) & (middle < high)).any():
                return middle
            above = self.cdf(middle) >= p
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)

    def interval(self, level: float) -> tuple[Tensor, Tensor]:
        """Each pixel's central interval, in which it lies with probability ``level``: its ends, as ``quantile``."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def _of_components(self, of_t: str, of_normal: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        """A function of the unit normal, or SciPy's of df and value, at ``values``: (n_members, n, K, n_pixels) or what fits."""
        if self.df is None:
            return of_normal(values)
        from scipy import special

        found = getattr(special, of_t)(self.df.double().cpu().numpy()[..., None], values.cpu().numpy())
        return torch.as_tensor(found, dtype=torch.float64, device=values.device)


class Emitted(ABC):
    """p(x given a) of a batch: what the decoder's numbers say of each image, taken apart once."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """ln p(x), nats per image, constants included, (n_members, n)."""

    @abstractmethod
    def mean(self) -> Tensor:
        """The image that is shown and scored, (n_members, n, n_pixels): the mean; of a t, which may have none, its location."""

    @abstractmethod
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One image for each a, (n_members, n, n_pixels), finite whatever the parameters are."""

    def marginals(self) -> Marginals | None:
        """Each pixel's own distribution; None where it is neither normal nor t nor a mixture of these."""
        return None

    def estimates(self) -> dict[str, Tensor]:
        """Other images that could be shown in place of ``mean``, by name, where they differ; in its shape."""
        return {}


class Likelihood(nn.Module, ABC):
    """p(x given f). Built before the networks, whose decoder emits as many numbers as it says."""

    maps: int = 1  # numbers per pixel that the decoder emits
    others: int = 0  # numbers per image beside them
    discrete = False  # ln p is of the 256 grey values that images have, and no density

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

    @property
    def n_rows(self) -> int:
        """How many rows the root of its information has."""
        return self.n_outputs

    def distribution(self, a: Tensor) -> Emitted:
        """p(x given a) of this batch."""
        return Bound(self, a)

    def marginals(self, a: Tensor) -> Marginals | None:
        """Each pixel's own distribution, where it is normal or t or a mixture of these."""
        return None

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


class Bound(Emitted):
    """A likelihood at an a: of those that are functions of a alone."""

    def __init__(self, likelihood: Likelihood, a: Tensor) -> None:
        self.likelihood, self.a = likelihood, a

    def log_prob(self, x: Tensor) -> Tensor:
        return self.likelihood.log_prob(x, self.a)

    def mean(self) -> Tensor:
        return self.likelihood.mean(self.a)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.likelihood.sample(self.a, generator)

    def marginals(self) -> Marginals | None:
        return self.likelihood.marginals(self.a)
