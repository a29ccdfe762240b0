"""The model: a VAE whose networks are ordinary modules, with batch normalisation."""

import math

from torch import nn

from fishernet.models.vae import VAE
from fishernet.networks.plain import Plain
from outside.row import FAMILY


class NormVAE(VAE):
    """Dense networks with one normalised layer each way."""

    family = FAMILY

    def build_networks(self, image_shape):
        n_pixels, d = math.prod(image_shape), self.config.latent_dim

        def encoder(config):
            width = config.norm_width
            return nn.Sequential(nn.Linear(n_pixels, width), nn.BatchNorm1d(width), nn.ReLU())

        def decoder(config):
            width = config.norm_width
            return nn.Sequential(nn.Linear(d, width), nn.Tanh(), nn.Linear(width, n_pixels))

        self.use_networks(Plain(encoder, self.configs, n_pixels), Plain(decoder, self.configs, d))
