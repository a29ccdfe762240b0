"""Likelihoods of 8-bit grey values: the mass of a continuous density between a value's edges.

Salimans et al., "PixelCNN++" (2017), section 2.1, of logistic and of normal densities. The grey value v = 255 x has the mass
F((v + 1)/256) - F(v/256), and the lowest and the highest have the tails too, so that the 256 masses sum to 1. These are the
edges of dequantised images, (v + u)/256: by Jensen's inequality a dequantised density never has fewer bits. Pixels are
independent. Per pixel the decoder emits K locations, K scales (softplus + least_scale, in units of x) and of a mixture K
logits: unlike those of ``emitted``, its weights are each pixel's own.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fishernet.families import LikelihoodConfig
from fishernet.likelihoods import emits
from fishernet.likelihoods.base import Likelihood
from fishernet.networks.activations import ACTIVATIONS

LEVELS = 256


class Discretised(Likelihood):
    """ln p in nats per image, of probabilities: at most 0."""

    discrete = True

    def __init__(self, config: LikelihoodConfig, n_members: int, image_shape: Sequence[int]) -> None:
        super().__init__(config, n_members, image_shape)
        self.maps, self.others = emits(config, image_shape)
        self.n_components, self.mixed, self.least = max(1, config.components), config.components > 0, config.least_scale
        self.logistic = config.likelihood == "discretised-logistic"

    def split(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ln weights, locations and scales of each pixel, (n_members, n, K, n_pixels)."""
        k = self.n_components
        loc, raw, *logits = a.unflatten(2, (self.maps, self.n_pixels)).split(k, dim=2)
        log_weights = torch.log_softmax(logits[0], dim=2) if self.mixed else torch.zeros_like(loc)
        return log_weights, super().mean(loc), ACTIVATIONS["softplus"].function(raw) + self.least

    def log_prob(self, x: Tensor, a: Tensor) -> Tensor:
        log_weights, loc, scale = self.split(a)
        return torch.logsumexp(log_weights + log_mass(x, loc, scale, logistic=self.logistic), dim=2).sum(2)

    def mean(self, a: Tensor) -> Tensor:
        """The weighted locations, each moved into [0, 1], where all the mass is."""
        log_weights, loc, _ = self.split(a)
        return (log_weights.exp() * loc.clamp(0, 1)).sum(2)

    def sample(self, a: Tensor, generator: torch.Generator | None = None) -> Tensor:
        log_weights, loc, scale = self.split(a)
        if self.logistic:
            drawn = torch.rand(loc.shape, generator=generator, device=a.device, dtype=a.dtype).logit(eps=1e-7)
        else:
            drawn = torch.randn(loc.shape, generator=generator, device=a.device, dtype=a.dtype)
        weights = log_weights.exp().transpose(2, 3)
        chosen = torch.multinomial(weights.flatten(0, 2), 1, generator=generator).view(*weights.shape[:3])
        value = ((loc + scale * drawn) * LEVELS).floor().clamp(0, LEVELS - 1) / (LEVELS - 1)
        return value.gather(2, chosen[:, :, None])[:, :, 0]


def log_mass(x: Tensor, loc: Tensor, scale: Tensor, *, logistic: bool = False) -> Tensor:
    """ln P of grey values x = v/255, (n_members, n, n_pixels), under normal or logistic densities (n_members, n, K, n_pixels)."""
    value = (x * (LEVELS - 1)).round()[:, :, None]
    between = logistic_between if logistic else _normal_between
    below = F.logsigmoid if logistic else _log_ndtr
    low, high = (value / LEVELS - loc) / scale, ((value + 1) / LEVELS - loc) / scale
    mass = torch.where(value == 0, below(high), between(low, high))
    return torch.where(value == LEVELS - 1, below(-low), mass)


def logistic_between(low: Tensor, high: Tensor) -> Tensor:
    """ln(sigmoid(high) - sigmoid(low)) = ln of sigmoid(high) sigmoid(-low) (1 - exp(low - high)), without cancellation."""
    return F.logsigmoid(high) + F.logsigmoid(-low) + torch.log(-torch.expm1(low - high))


def _normal_between(low: Tensor, high: Tensor) -> Tensor:
    """ln(Phi(high) - Phi(low)), of whichever side has the shorter tail: there neither rounds to 1."""
    right = low + high > 0
    low, high = torch.where(right, -high, low), torch.where(right, -low, high)
    log_high = _log_ndtr(high)
    return log_high + torch.log(-torch.expm1(_log_ndtr(low) - log_high))


def _log_ndtr(x: Tensor) -> Tensor:
    """ln Phi. Left of -1 by the scaled complement: the slope of torch's own is wrong by a factor of 6 at -1e4 (float32)."""
    left = x.clamp(max=-1)
    tail = -0.5 * left.square() + torch.log(0.5 * torch.special.erfcx(-left / math.sqrt(2)))
    return torch.where(x < -1, tail, torch.special.log_ndtr(x.clamp(min=-1)))
