"""The models of "Understanding VAEs in Fisher-Shannon Plane" (Zheng, Yao, Zhang, Tsang, Wang, AAAI 2019): FAE and MAE."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fishernet.models.base import Noise, Outcome
from fishernet.models.vae import VAE
from fishernet.networks import NETWORKS
from fishernet.networks.normalisation import statistics_held
from fishernet.networks.stacked import Linear
from fishernet.posteriors import LOG_2_PI, DiagonalGaussian

LARGEST_SQUARE = 88.0  # at which the released estimate clamps the square of a score
INFORMATION = "information"  # the player that learns to read latents from images


class FAE(VAE):
    """The VAE with a penalty on the Fisher information of its posterior, equations 6-11: loss = -ELBO + penalty, nats.

    With s^2 the posterior's variances, F fisher_target and lambda fisher_weight, by ``fisher_constraint``:

        mean            lambda |mean over batch and latents of 1/s^2 - F|
        trace           mean over images of lambda |sum_i 1/s_i^2 - F|, as equations 7 and 8 have it
        released-conv   as mean, of min(((z' - mu)/s^2)^2, 88) at a draw z' of its own (released convVAE.py): of equal widths the
                        clamp makes 21.7 of F = 20, of unequal ones far more
        released-mlp    mean_i ln s_i^2 relu(1 - s_i^2), without F and lambda (released VAE.py): a reward for narrow posteriors

    Equation 7 leaves open whether the absolute value stands inside the mean over images; the released code has it outside.
    The decoder's term is lambda_x |k exp(-xi) - F_x|, k pixels of learned noise variance exp(xi): the trace of the Fisher
    information of p(x given z) about f. The literal J(z) of the aggregate posterior has no closed form and is not built.
    """

    fisher_target: Tensor
    fisher_weight: Tensor

    def noise(self, latent_dim: int) -> dict[str, Noise]:
        drawn_anew = self.config.fisher_constraint == "released-conv"
        return super().noise(latent_dim) | ({"fisher": Noise(latent_dim)} if drawn_anew else {})

    def forward(self, x: Tensor, noise: Mapping[str, Tensor]) -> Outcome:
        q, stability = self.held_steady(self.shown(x, noise), noise["eta"])
        loss, terms, mean, a = self.outcome(x, q, noise, stability)
        reading = self.reading(q, noise)
        terms["fisher_reading"] = reading.detach()
        if self.config.fisher_constraint == "trace":
            penalty = self.fisher_weight * (reading - self.fisher_target).abs()
            terms["fisher_penalty"] = penalty.detach()
        else:
            penalty = self.batch_penalty(reading.mean(1, keepdim=True))
        if self.config.decoder_fisher_weight:
            penalty = penalty + self.decoder_penalty()
        return Outcome(loss + penalty, terms, mean, a)

    def reading(self, q: DiagonalGaussian, noise: Mapping[str, Tensor]) -> Tensor:
        """What is held against F, or without F the term itself, of each image, (n_members, n)."""
        constraint = self.config.fisher_constraint
        if constraint == "trace":
            return q.fisher_information()
        n_own = self.own.sum(2)
        if constraint == "mean":
            return q.fisher_information() / n_own
        if constraint == "released-conv":  # ((z' - mu)/s^2)^2 = (eta/s)^2
            squares = noise["fisher"].square() * torch.exp(-q.log_variance)
            return (squares.clamp(max=LARGEST_SQUARE) * self.own).sum(2) / n_own
        return (q.log_variance * torch.relu(1 - q.log_variance.exp()) * self.own).sum(2) / n_own

    def batch_penalty(self, reading: Tensor) -> Tensor:
        """Of the mean reading of a set of images, (n_members, 1)."""
        if self.config.fisher_constraint == "released-mlp":
            return reading
        return self.fisher_weight * (reading - self.fisher_target).abs()

    def penalty_alone(self, x: Tensor, n_draws: int, generator: torch.Generator) -> Tensor:
        """The penalties of an image in a batch of itself alone, (n_members, n); of the mean reading of n_draws draws, if any.

        The released likelihood, which takes image by image and minus the loss for ln w, is the true one less this.
        """
        q = self.posterior(x)
        drawn_anew = self.config.fisher_constraint == "released-conv"
        shape = (n_draws if drawn_anew else 1, *q.mean.shape)
        readings = [self.reading(q, {"fisher": eta.to(x)}) for eta in torch.randn(shape, generator=generator)]
        penalty = self.batch_penalty(torch.stack(readings).mean(0))
        return penalty + self.decoder_penalty() if self.config.decoder_fisher_weight else penalty

    def decoder_penalty(self) -> Tensor:
        """(n_members, 1)."""
        information = self.n_pixels * torch.exp(-self.likelihood.get_parameter("xi"))[:, None]
        weight, target = self.config.decoder_fisher_weight, self.config.decoder_fisher_target
        penalty: Tensor = weight * (information - target).abs()
        return penalty

    def held_out_loss(self, means: Mapping[str, Tensor]) -> Tensor:
        loss = self.loss_of_an_image(means)
        trace = self.config.fisher_constraint == "trace"
        loss = loss + (means["fisher_penalty"] if trace else self.batch_penalty(means["fisher_reading"][:, None])[:, 0])
        return loss + self.decoder_penalty()[:, 0] if self.config.decoder_fisher_weight else loss


class Reader(nn.Module):
    """r(z given x): a diagonal Gaussian from a network of the encoder's shape."""

    def __init__(self, trunk: nn.Module, latent_dims: list[int]) -> None:
        super().__init__()
        self.trunk = trunk
        n_features: list[int] = trunk.n_features  # type: ignore[assignment]
        self.mean, self.log_variance = (Linear(n_features, latent_dims) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(x)
        return self.mean(features), self.log_variance(features)


class MAE(VAE):
    """The VAE whose decoder is held at a mutual information of M nats between latents and images, section 4.3.

    loss = -ELBO + C |I - M|, M information_target and C information_weight, with the bound of Barber and Agakov 2003
        I = (d/2) ln(2 pi e) + mean over the batch of ln r(z given x~) <= I(x, z),   z ~ N(0, 1), x~ ~ p(x given z),
    r a network of its own, whose optimiser always ascends the bound: one joint descent would make r worse where I > M. The
    decoder learns from I through x~ with r held; the encoder has no part in it. x~ is sampled (Bernoulli: straight-through), as
    from the mean image z can be read off and the bound has no limit. The released code has no such term.
    """

    information_target: Tensor
    information_weight: Tensor

    def build_networks(self, image_shape: tuple[int, int, int]) -> None:
        super().build_networks(image_shape)
        trunk = NETWORKS[self.config.network].load("Encoder")(self.configs, image_shape)
        self.reader = Reader(trunk, self.latent_dims)

    def player_of(self, parameter: str) -> str:
        return INFORMATION if parameter.startswith("reader.") else ""

    def noise(self, latent_dim: int) -> dict[str, Noise]:
        own = super().noise(latent_dim) | {"prior": Noise(latent_dim)}
        sampled = self.config.information_sample == "straight-through"
        return own | ({"image": Noise(self.n_pixels, self.likelihood.random)} if sampled else {})

    def imagined(self, noise: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """z of the prior and an image x~ of it."""
        z = noise["prior"]
        with statistics_held(self.decoder):  # the decoder's are of codes of images
            a = self.decode(z)
        return z, self.likelihood.draw(a, noise["image"]) if "image" in noise else self.likelihood.mean(a)

    def log_reading(self, z: Tensor, x: Tensor, *, held: bool) -> Tensor:
        """ln r(z given x), nats, (n_members, n); ``held`` without a gradient in r's weights, and its statistics stay."""
        weights = {name: p.detach() if held else p for name, p in self.reader.named_parameters()}
        seen = self.ranged(x)
        with self.arithmetic(), statistics_held(self.reader) if held else nullcontext():
            mean, log_variance = (head.to(x.dtype) for head in functional_call(self.reader, weights, (seen,)))
        squares = (z - mean).square() * torch.exp(-log_variance)
        return -0.5 * ((squares + log_variance + LOG_2_PI) * self.own).sum(2)

    def updates(self, x: Tensor, noise: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        z, image = self.imagined(noise)
        yield INFORMATION, -self.log_reading(z, image.detach(), held=False)
        outcome = self.informed(x, noise, z, image)
        yield "", outcome.loss
        self.likelihood.observe(x, outcome.output.detach())

    def forward(self, x: Tensor, noise: Mapping[str, Tensor]) -> Outcome:
        return self.informed(x, noise, *self.imagined(noise))

    def informed(self, x: Tensor, noise: Mapping[str, Tensor], z: Tensor, image: Tensor) -> Outcome:
        """``forward`` with what was imagined."""
        loss, terms, mean, a = super().forward(x, noise)
        information = 0.5 * self.own.sum(2) * (1 + LOG_2_PI) + self.log_reading(z, image, held=True)
        terms["information"] = information.detach()
        return Outcome(loss + self.batch_penalty(information.mean(1, keepdim=True)), terms, mean, a)

    def batch_penalty(self, information: Tensor) -> Tensor:
        """Of the mean over a set of images, (n_members, 1)."""
        return self.information_weight * (information - self.information_target).abs()

    def held_out_loss(self, means: Mapping[str, Tensor]) -> Tensor:
        return self.loss_of_an_image(means) + self.batch_penalty(means["information"][:, None])[:, 0]
