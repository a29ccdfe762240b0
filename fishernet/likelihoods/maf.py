"""A masked autoregressive flow about the decoded image (Papamakarios et al. 2017; Ciobanu 2021)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fishernet.families import LikelihoodConfig
from fishernet.likelihoods.base import DiagonalRoot, Likelihood, squared_length
from fishernet.likelihoods.pixels import root_slope
from fishernet.networks.masked import MaskedLinear
from fishernet.posteriors import LOG_2_PI


def hidden_degrees(n_pixels: int, width: int) -> list[int]:
    """ceil(k (d - 1)/(width + 1)), k = 1 ... width: a unit of degree m sees the first m pixels and moves those after it."""
    return [-(-k * (n_pixels - 1) // (width + 1)) for k in range(1, width + 1)]


class MAF(Likelihood):
    """u_i = (x_i - shift_i(x_<i)) exp(-s_i(x_<i)), u ~ N(f, 1): ln p = -|u - f|^2/2 - (d/2) ln 2 pi - sum_i s_i, in nats.

    f is the decoded image. Shift and s come of one hidden layer of ``maf_width`` rectified units; its weights are one set for
    all images, as in the released code, where the paper has them of the decoder. s is unbounded: where exp overflows the
    run stops with the reason. Pixels are in the order of the image's rows.
    """

    def __init__(self, config: LikelihoodConfig, n_members: int, image_shape: Sequence[int]) -> None:
        super().__init__(config, n_members, image_shape)
        d, width = self.n_pixels, config.maf_width
        self.degrees = hidden_degrees(d, width)
        degrees, pixels = torch.tensor(self.degrees), torch.arange(1, d + 1)
        self.hidden = MaskedLinear([d] * n_members, [width] * n_members, (degrees >= pixels[:, None])[None])
        reached = (pixels > degrees[:, None]).repeat_interleave(2, dim=1)
        self.last = MaskedLinear([width] * n_members, [2 * d] * n_members, reached[None])

    def shift_and_log_scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the pixels before say of each, (n_members, n, n_pixels) both."""
        shift, log_scale = self.last(torch.relu(self.hidden(x))).unflatten(2, (-1, 2)).unbind(3)
        return shift, log_scale

    def log_prob(self, x: Tensor, a: Tensor) -> Tensor:
        shift, log_scale = self.shift_and_log_scale(x)
        away = torch.addcmul(super().mean(a), shift - x, torch.exp(-log_scale))  # f - u
        return -0.5 * (squared_length(away) + self.n_pixels * LOG_2_PI) - log_scale.sum(2)

    def flow(self, u: Tensor) -> Tensor:
        """x of u. Pixels between two degrees see the same pixels, so there are as many passes as degrees, and one more."""
        x = torch.zeros_like(u)
        for first, end in pairwise(sorted({0, *self.degrees, self.n_pixels})):
            shift, log_scale = self.shift_and_log_scale(x)
            own = (u * torch.exp(log_scale) + shift)[..., first:end]
            x = torch.cat([x[..., :first], own, x[..., end:]], dim=2)
        return x

    def mean(self, a: Tensor) -> Tensor:
        """The flow of f, which is near the mean and costs no draws; the released code shows the mean of 50 draws."""
        return self.flow(super().mean(a))

    def sample(self, a: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.draw(a, torch.randn(a.shape, generator=generator, device=a.device, dtype=a.dtype))

    def draw(self, a: Tensor, noise: Tensor) -> Tensor:
        return self.flow(super().mean(a) + noise)

    def root_information(self, a: Tensor) -> DiagonalRoot:
        """Of f it is 1, whatever the flow: u - f is standard normal."""
        return DiagonalRoot(root_slope(a).square() if self.sigmoid else torch.ones_like(a))
