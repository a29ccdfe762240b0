"""The likelihood of images by importance sampling (Burda, Grosse, Salakhutdinov 2016; Wu, Burda, Salakhutdinov, Grosse 2017).

    ln p_K(x) = ln (1/K) sum_k w_k,    ln w_k = ln p(x given z_k) + ln p(z_k) - ln q(z_k given x),    z_k ~ q(z given x).

Its mean is a lower bound of ln p(x) that rises with K, so the NLL is an upper bound that falls with K. The weights have the
density of the draw itself, not the KL divergence in closed form, and no other term of the loss.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from fishernet.cohort import stream_seed
from fishernet.data.images import ResidentImages, dequantised
from fishernet.evaluation import evaluating
from fishernet.models.base import Autoencoder

NUMBERS_OF_DRAWS = (1, 10, 100, 1000, 5000)
DRAWS_OF_A_STREAM = 100  # of one image; fixed, as the numbers depend on it
# Numbers that the decoder emits at a time: with more a core's cache does not hold them, with fewer images the calls cost more.
OUTPUTS_AT_ONCE = 2**18
OUTPUTS_ON_A_GPU = 2**22  # which wants as much to do at a time as a large batch of training has


@dataclass(frozen=True)
class Evidence:
    """ln p_K(x) of images, nats, (n_images, len(draws)) in float64, and how many of all draws count, (n_images,).

    The effective number is (sum w)^2 / sum w^2, from 1 to K: near 1 a single draw decides and ln p_K is far below ln p.
    """

    draws: tuple[int, ...]  # 1, 10, 100, 1000, 5000 below K, a tenth of K, and K
    log_evidence: Tensor
    effective: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Of all images, in the order of the parts."""
        return cls(parts[0].draws, torch.cat([p.log_evidence for p in parts]), torch.cat([p.effective for p in parts]))

    def scores(self, n_pixels: int, *, density: bool = False) -> dict[str, float]:
        """Means over the images: ``nll``, nats, and ``bits_per_dim`` = nll/(n_pixels ln 2) at the most draws and at each number.

        Of a ``density`` 8 bits are added, as one over [0, 1] is one over 256 grey values when divided by 256.
        ``nll/standard_error`` is over images, 0 of a single one; ``nll/ess`` the median effective number of draws.
        """

        def bits(nats: float) -> float:
            return 8 * density + nats / n_pixels / math.log(2)

        nll = -self.log_evidence
        n, means = len(nll), nll.mean(0).tolist()
        found = {"nll": means[-1], "nll/standard_error": float(nll[:, -1].std() / math.sqrt(n)) if n > 1 else 0.0}
        found |= {"nll/ess": float(self.effective.median()), "bits_per_dim": bits(means[-1])}
        for k, mean in zip(self.draws, means, strict=True):
            found |= {f"nll/k{k}": mean, f"bits_per_dim/k{k}": bits(mean)}
        return found


def drawn_at_once(n_outputs: int, device: str = "cpu") -> int:
    """How many images to draw latents of at a time, of so many numbers that the decoder emits for each."""
    return max(1, min(500, OUTPUTS_AT_ONCE // n_outputs) if device == "cpu" else OUTPUTS_ON_A_GPU // n_outputs)


def evidence(
    model: Autoencoder,
    images: ResidentImages,
    n_draws: int = 5000,
    *,
    seed: int = 0,
    first: int = 0,
    at_once: int = 500,
    density: bool = False,
) -> Iterator[list[Evidence]]:
    """Of each member of a stack, block by block of ``at_once`` images from number ``first`` on, where model and images are.

    Each image is encoded once. Its random numbers are its own, by (seed, number of the image, latent dimension) alone, so
    neither ``at_once`` nor where one begins nor who else is in the stack changes a result; what was yielded may be kept and the
    rest computed later. The networks compute in the model's numbers, sums of weights in float64. With ``density`` images are
    ``dequantised`` with ``uniforms`` of their own. Else they must be those of a discrete likelihood where nats are to be
    compared: binarised ones the same bits for every model. Raises NotImplementedError for a model whose draws have no density.
    """
    draws = (*sorted({k for k in (*NUMBERS_OF_DRAWS, n_draws // 10) if 0 < k < n_draws}), n_draws)
    for start in range(first, len(images), at_once):
        block = range(start, min(start + at_once, len(images)))
        yield [_of_weights(draws, own) for own in _log_weights(model, images, block, n_draws, seed, density)]


def _of_weights(draws: tuple[int, ...], log_weights: Tensor) -> Evidence:
    """From ln w of each image and draw."""
    log_evidence = [torch.logsumexp(log_weights[:, :k], 1) - math.log(k) for k in draws]
    effective = torch.exp(2 * torch.logsumexp(log_weights, 1) - torch.logsumexp(2 * log_weights, 1))
    return Evidence(draws, torch.stack(log_evidence, 1), effective)


@torch.no_grad()
def _log_weights(
    model: Autoencoder, images: ResidentImages, block: range, n_draws: int, seed: int, density: bool
) -> Tensor:
    """ln w of each member's images and draws, (n_members, len(block), n_draws), float64, on the CPU."""
    device, dims = images.pixels.device, model.latent_dims
    x = images.take(torch.arange(block.start, block.stop, device=device).expand(len(dims), -1))
    if density:
        x = dequantised(x, uniforms(seed, block, x.shape[2]).to(x))
    columns = []
    with evaluating(model):
        q = model.posterior(x)
        if not q.density:
            raise NotImplementedError(
                f"{type(q).__name__} cannot know the density of draws; of a run with sampler cg take its weights with "
                "sampler cholesky"
            )
        for part in range(-(-n_draws // DRAWS_OF_A_STREAM)):
            etas = {d: torch.stack([_draws(d, seed, image, part) for image in block]) for d in set(dims)}
            eta = torch.stack([F.pad(etas[d], (0, max(dims) - d)) for d in dims]).to(device, x.dtype)
            columns += [
                model.log_weight(x, q, {"eta": eta[:, :, k]})
                for k in range(min(DRAWS_OF_A_STREAM, n_draws - part * DRAWS_OF_A_STREAM))
            ]
    return torch.stack(columns, 2).cpu().double()


def uniforms(seed: int, block: range, n_pixels: int) -> Tensor:
    """u of the images of these numbers, (len(block), n_pixels) in [0, 1): each image's by (seed, its number) alone."""
    streams = (torch.Generator().manual_seed(stream_seed(seed, "dequantisation", image)) for image in block)
    return torch.stack([torch.rand(n_pixels, generator=stream) for stream in streams])


def _draws(d: int, seed: int, image: int, part: int) -> Tensor:
    """Standard normal, (DRAWS_OF_A_STREAM, d), made on the CPU, so that every device sees the same numbers."""
    generator = torch.Generator().manual_seed(stream_seed(seed, "likelihood", image, part))
    return torch.randn(DRAWS_OF_A_STREAM, d, generator=generator)
