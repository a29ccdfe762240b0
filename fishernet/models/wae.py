"""Wasserstein auto-encoders (Tolstikhin, Bousquet, Gelly, Schoelkopf, 2018): codes distributed as the prior."""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fishernet.models.base import Noise, Outcome
from fishernet.models.vae import AE
from fishernet.networks.activations import ACTIVATIONS
from fishernet.networks.dense import Dense
from fishernet.networks.normalisation import statistics_held

PLAYER, CLIP = "discriminator", 0.01
SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # of the kernels, as the WAE paper's released code has them


class WAE(AE):
    """-ln p(x given f(z)) + penalty_weight x penalty, z = mu(x); l the discriminator's logit, D = sigmoid(l), p ~ N(0, 1).

        penalty   the discriminator descends                    the autoencoder's penalty
        gan       softplus(-l(p)) + softplus(l(z))              softplus(-l(z))
        critic    D(z) - D(p), weights then clipped to +-0.01   -D(z)
        mmd       -                                             MMD^2 of the batch, inverse multiquadratic kernels

    With the unit Gaussian -ln p is |x - f|^2/2 and a constant: the reference code's lambda of 10 beside 0.05 |x - f|^2 is a
    penalty_weight of 100. The reference adds ln p(z) to the logit on CelebA, which is left out. MMD is of a batch and no
    number of an image: it counts in training alone, and in evaluation is scored of fixed blocks of images, beside the loss.
    """

    def build_networks(self, image_shape: tuple[int, int, int]) -> None:
        super().build_networks(image_shape)
        config, n = self.config, len(self.configs)
        if config.penalty != "mmd":
            hidden = [[config.discriminator_width] * n] * config.discriminator_layers
            self.discriminator = Dense([self.latent_dims, *hidden, [1] * n], ACTIVATIONS["relu"])

    @property
    def n_draws(self) -> int:
        """How often a batch needs draws from the prior."""
        return 1 if self.config.penalty == "mmd" else int(self.config.discriminator_steps)

    def noise(self, latent_dim: int) -> dict[str, Noise]:
        return {f"prior{k}": Noise(latent_dim) for k in range(self.n_draws)}

    def player_of(self, parameter: str) -> str:
        return PLAYER if parameter.startswith(f"{PLAYER}.") else ""

    def learning_rate_of(self, parameter: str) -> float:
        own = self.config.discriminator_learning_rate if self.player_of(parameter) else 0.0
        return float(own or super().learning_rate_of(parameter))

    def logit(self, z: Tensor) -> Tensor:
        """The discriminator's logit of codes (n_members, n, d): (n_members, n)."""
        with self.arithmetic():
            logit: Tensor = self.discriminator(z).to(z.dtype)[:, :, 0]
        return logit

    def forward(self, x: Tensor, noise: Mapping[str, Tensor]) -> Outcome:
        outcome = super().forward(x, noise)
        config, z = self.config, outcome.mean
        if config.penalty == "mmd":
            if not self.training:
                return outcome
            penalty = mmd_squared(z, noise["prior0"], self.own)[:, None].expand_as(outcome.loss)
        else:
            logit = self.logit(z)
            penalty = F.softplus(-logit) if config.penalty == "gan" else -torch.sigmoid(logit)
        terms = outcome.terms | {"penalty": penalty}
        return outcome._replace(loss=outcome.loss + config.penalty_weight * penalty, terms=terms)

    def of_a_block(self, mean: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.config.penalty != "mmd":
            return {}
        members = zip(
            mean.split(1), noise["prior0"].split(1), self.own.split(1), strict=True
        )  # one at a time, for the memory
        return {"penalty": torch.cat([mmd_squared(*of_member) for of_member in members])}

    def updates(self, x: Tensor, noise: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        if self.config.penalty != "mmd":
            with torch.no_grad(), statistics_held(self.trunk):  # the autoencoder's own pass takes them
                codes = self.posterior_mean(x)
            for k in range(self.n_draws):
                of_draws, of_codes = self.logit(noise[f"prior{k}"]), self.logit(codes)
                if self.config.penalty == "gan":
                    yield PLAYER, F.softplus(-of_draws) + F.softplus(of_codes)
                else:
                    yield PLAYER, torch.sigmoid(of_codes) - torch.sigmoid(of_draws)
                    with torch.no_grad():
                        for parameter in self.discriminator.parameters():
                            parameter.clamp_(-CLIP, CLIP)
        yield from super().updates(x, noise)


def mmd_squared(z: Tensor, draws: Tensor, own: Tensor) -> Tensor:
    """The unbiased squared maximum mean discrepancy of codes and draws, (n_members,); both (n_members, n, d).

    The sum over SCALES s of kernels C/(C + |a - b|^2), C = 2 d s with the member's own d: the mean over pairs of different
    codes, and of different draws, less twice that over all pairs of one of each (Gretton et al. 2012, lemma 6).
    """
    n = z.shape[1]
    own_dims = own.sum((1, 2))[:, None, None]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = (a[:, :, None] - b[:, None]).square().sum(3)
        return torch.stack([2 * own_dims * s / (2 * own_dims * s + squared) for s in SCALES]).sum(0)

    # Each point's kernel with itself is 1.
    within = [(kernel(a, a).sum((1, 2)) - n * len(SCALES)) / max(1, n * (n - 1)) for a in (z, draws)]
    return within[0] + within[1] - 2 * kernel(z, draws).mean((1, 2))
