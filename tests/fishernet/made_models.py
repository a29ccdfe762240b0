"""Families made for tests: each needs one of the interfaces that no built-in model needs. Named as ``made_models:Class``."""

import math
from dataclasses import dataclass

import torch

from fishernet.families import Family, VAEConfig
from fishernet.likelihoods.base import Likelihood
from fishernet.models.base import Noise
from fishernet.models.vae import VAE
from fishernet.networks.stacked import Linear

CRITIC_STEPS = 2
WARM_UP = 3


class TwoPlayers(VAE):
    """A critic that learns to tell codes from prior draws, ahead of the autoencoder's step."""

    family = Family("TwoPlayers", VAEConfig, "made_models:TwoPlayers")

    def build_networks(self, image_shape):
        super().build_networks(image_shape)
        self.critic = Linear(self.latent_dims, [1] * len(self.latent_dims))

    def player_of(self, parameter):
        return "critic" if parameter.startswith("critic.") else ""

    def noise(self, latent_dim):
        return {**super().noise(latent_dim), **{f"prior{k}": Noise(latent_dim) for k in range(CRITIC_STEPS)}}

    def updates(self, x, noise):
        for k in range(CRITIC_STEPS):
            with torch.no_grad():
                codes = self.posterior_mean(x)
            told = self.critic(noise[f"prior{k}"]) - self.critic(codes)
            yield "critic", torch.nn.functional.softplus(-told)[:, :, 0]
        yield from super().updates(x, noise)


class WarmUp(VAE):
    """The KL divergence comes in over the first epochs."""

    family = Family("WarmUp", VAEConfig, "made_models:WarmUp")

    def build_networks(self, image_shape):
        super().build_networks(image_shape)
        self.register_buffer("annealing", torch.ones(()), persistent=False)

    def begin_epoch(self, epoch):
        self.annealing.fill_(min(1.0, epoch / WARM_UP))

    def forward(self, x, noise):
        outcome = super().forward(x, noise)
        factor = self.annealing if self.training else 1.0
        return outcome._replace(loss=outcome.loss + (factor - 1) * outcome.terms["kl"])


class Dithered(VAE):
    """Sees images of black and white: a pixel is white where a uniform number is below its grey value."""

    family = Family("Dithered", VAEConfig, "made_models:Dithered")

    def noise(self, latent_dim):
        return {"u": Noise(self.n_pixels, "uniform"), **super().noise(latent_dim)}

    def forward(self, x, noise):
        return super().forward((noise["u"] < x).to(x.dtype), noise)


class Smooth(VAE):
    """Punishes the gradient of ln p(x given z) in z: a derivative within the loss, so second ones in training."""

    family = Family("Smooth", VAEConfig, "made_models:Smooth")

    def forward(self, x, noise):
        outcome = super().forward(x, noise)
        training = torch.is_grad_enabled()
        with torch.enable_grad():  # evaluation runs without
            z = outcome.mean if training else outcome.mean.requires_grad_()
            log_likelihood, _ = self.log_likelihood(x, z)
            (slope,) = torch.autograd.grad(log_likelihood.sum(), z, create_graph=training)
        return outcome._replace(loss=outcome.loss + 1e-4 * slope.square().sum(2))


class EmittedNormal(Likelihood):
    """N(mean, sd^2) with a standard deviation for each pixel and one shift of the whole image, all of the decoder."""

    maps, others = 2, 1

    def mean(self, a):
        return a[..., : self.n_pixels] + a[..., -1:]

    def log_prob(self, x, a):
        log_sd = a[..., self.n_pixels : 2 * self.n_pixels]
        r = (x - self.mean(a)) * torch.exp(-log_sd)
        return -(0.5 * r.square() + log_sd + 0.5 * math.log(2 * math.pi)).sum(2)

    def sample(self, a, generator=None):
        raise NotImplementedError


@dataclass(frozen=True)
class EmittedConfig(VAEConfig):
    """Of the likelihood that the test puts in the table under the name of the Gaussian."""


class Emitted(VAE):
    """The decoder emits more numbers than there are pixels."""

    family = Family("Emitted", EmittedConfig, "made_models:Emitted")
