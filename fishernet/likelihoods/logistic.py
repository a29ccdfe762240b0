"""The discretised logistic likelihood: 256 grey values as the bins of a density, of a mean and a scale for each pixel.

Kingma et al. 2016 (IAF), appendix C; the bounds are those of the Fisher-Shannon paper's code (Zheng et al., AAAI 2019).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fishernet.likelihoods.base import Likelihood
from fishernet.likelihoods.discretised import logistic_between

N_VALUES = 256
LEAST_MEAN = 1 / 512  # means lie within [1/512, 1 - 1/512]
LOG_SCALES = -4.5, 0.0
RELEASED_FLOOR = 1e-7  # which the code adds to every probability


class Logistic(Likelihood):
    """P(v) = sigmoid((b(v + 1) - mean)/scale) - sigmoid((b(v) - mean)/scale), b(v) = v/256 the edges of grey value v = 255 x.

    The lowest bin begins at minus infinity and the highest ends at infinity, so that the values' probabilities sum to 1. The
    decoder emits a and ln scale for each pixel: mean = sigmoid(a) within [1/512, 1 - 1/512], ln scale within [-4.5, 0].
    """

    maps = 2

    def mean(self, a: Tensor) -> Tensor:
        return torch.sigmoid(a[..., : self.n_pixels]).clamp(LEAST_MEAN, 1 - LEAST_MEAN)

    def log_scale(self, a: Tensor) -> Tensor:
        """ln scale, in units of x, (n_members, n, n_pixels)."""
        return a[..., self.n_pixels :].clamp(*LOG_SCALES)

    def log_prob(self, x: Tensor, a: Tensor) -> Tensor:
        mean, inverse = self.mean(a), torch.exp(-self.log_scale(a))
        value = (x * (N_VALUES - 1)).round()
        low, high = (value / N_VALUES - mean) * inverse, ((value + 1) / N_VALUES - mean) * inverse
        edges = torch.where(value == 0, F.logsigmoid(high), F.logsigmoid(-low))
        return torch.where((value == 0) | (value == N_VALUES - 1), edges, logistic_between(low, high)).sum(2)

    def sample(self, a: Tensor, generator: torch.Generator | None = None) -> Tensor:
        uniform = torch.rand(self.mean(a).shape, generator=generator, device=a.device, dtype=a.dtype)
        value = (self.draw(a, uniform) * N_VALUES).floor().clamp(0, N_VALUES - 1)
        return value / (N_VALUES - 1)

    random = "uniform"

    def draw(self, a: Tensor, noise: Tensor) -> Tensor:
        """A quantile of the density, not rounded to a grey value."""
        return self.mean(a) + torch.exp(self.log_scale(a)) * torch.logit(noise, eps=1e-7)


class LogisticReleased(Logistic):
    """As in the released code: bins of 1/256 at floor(256 x), none of them open, and 1e-7 added; it does not sum to 1.

    At mean 1/2 and scale 1 the 256 grey values carry 0.245.
    """

    def log_prob(self, x: Tensor, a: Tensor) -> Tensor:
        mean, inverse = self.mean(a), torch.exp(-self.log_scale(a))
        low = ((x * N_VALUES).floor() / N_VALUES - mean) * inverse
        return torch.log(torch.sigmoid(low + inverse / N_VALUES) - torch.sigmoid(low) + RELEASED_FLOOR).sum(2)
