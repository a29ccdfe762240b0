"""Scores of a cohort on held-out images, and what is kept of each run at its end."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fishernet.cohort import Cohort
from fishernet.data.images import ResidentImages

# Images per forward pass in evaluation, and their pixels; scores are sums over images, so it only decides speed and memory.
EVALUATION_BATCH, EVALUATION_NUMBERS = 500, 500 * 1024
EVALUATION_OUTPUTS = 2**26  # and numbers that the decoder emits: of a full covariance 308,505 an image


def evaluation_batch(n_pixels: int, least: int, n_outputs: int = 0) -> int:
    """Fewer images where they or what the decoder emits for them are larger.

    So no evaluation needs the memory that a training batch of ``least`` does not.
    """
    most = min(EVALUATION_BATCH, EVALUATION_NUMBERS // n_pixels, EVALUATION_OUTPUTS // max(1, n_outputs))
    return max(min(least, EVALUATION_BATCH), most)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within, and the mode that was there afterwards: batch normalisation then uses its running statistics."""
    mode = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(mode)


@torch.no_grad()
def evaluate(cohort: Cohort, images: ResidentImages, batch_size: int = 0) -> list[dict[str, float]]:
    """One dict of scores per member, means over the images.

    mse: equations 32-33 of the FisherNet paper, mean squared error per pixel of the reconstruction from the posterior mean;
    mse_sample: the same from one posterior sample; loss: the training objective, and each of its terms, per image.
    Of a mixture mse is of its mean; mse_densest_mode and mse_likeliest are of one component's image. Where the likelihood is
    of 8-bit values, bits_per_dim.
    The noise is the same at every call (its stream is the seed's), so curves over epochs carry no sampling jitter of
    their own; the global random state and the training mode are left as found. ``batch_size`` 0 takes ``evaluation_batch``.
    """
    model, batch_size = cohort.model, batch_size or _batch(cohort, images)
    noise_streams = cohort.noise_streams("evaluation", 0)
    # Drawn per fixed block of images, whatever the batch size, so that scores do not depend on it.
    sums: dict[str, Tensor] = {}
    at_once = min(EVALUATION_BATCH, cohort.images_per_draw())
    with evaluating(model):
        for block in torch.arange(len(images), device=cohort.device).split(at_once):
            noise, codes = cohort.draw_noise(noise_streams, len(block)), []
            for part in torch.arange(len(block), device=cohort.device).split(batch_size):
                x = images.take(block[part].expand(len(cohort), -1))
                own = {name: n[:, part] for name, n in noise.items()}
                loss, terms, mean, output = model(model.seen(x, own), own)
                codes.append(mean)
                scores = {
                    "mse": _mse(
                        x, model.reconstruction(x, mean)
                    ),  # first: MLflow's comparison opens with the first metric
                    "mse_sample": _mse(x, model.likelihood.mean(output)),
                    **{f"mse_{name}": _mse(x, f) for name, f in model.other_reconstructions(mean).items()},
                    "loss": loss,
                    **terms,
                    **model.bits_per_dim(terms),
                }
                for name, values in scores.items():
                    # float64: summed over the images, divided once
                    sums[name] = sums.get(name, 0) + values.double().sum(1)
            for name, value in model.of_a_block(torch.cat(codes, 1), noise).items():
                sums[name] = sums.get(name, 0) + len(block) * value.double()
        means = {name: total / len(images) for name, total in sums.items()}
        means["loss"] = model.held_out_loss(means)
    table = torch.stack(list(means.values())).cpu()
    return [dict(zip(means, column.tolist(), strict=True)) for column in table.T]


def _batch(cohort: Cohort, images: ResidentImages) -> int:
    n_outputs = len(cohort) * cohort.model.likelihood.n_outputs
    return evaluation_batch(images.pixels.shape[1], cohort.config.batch_size, n_outputs)


def _mse(x: Tensor, f: Tensor) -> Tensor:
    return (x - f).square().mean(2)


@torch.no_grad()
def latent_means(cohort: Cohort, images: ResidentImages) -> list[Tensor]:
    """Each member's posterior means of the images, (n_images, latent_dim), on the CPU."""
    with evaluating(cohort.model):
        batches = [
            cohort.model.posterior_mean(images.take(index.expand(len(cohort), -1))).cpu()
            for index in torch.arange(len(images), device=cohort.device).split(_batch(cohort, images))
        ]
    means = torch.cat(batches, dim=1)
    return [means[i, :, : c.latent_dim].contiguous() for i, c in enumerate(cohort.configs)]


@torch.no_grad()
def reconstructions(cohort: Cohort, images: ResidentImages, n: int) -> Tensor:
    """Each member's reconstructions of the first n images from the posterior mean, uint8, (n_members, n, n_pixels)."""
    x = images.take(torch.arange(min(n, len(images)), device=cohort.device).expand(len(cohort), -1))
    with evaluating(cohort.model):
        f = cohort.model.reconstruction(x, cohort.model.posterior_mean(x))
    return f.mul(255).round().clamp(0, 255).byte().cpu()
