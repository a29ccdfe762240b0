"""The networks by name. Nothing here imports torch."""

import itertools
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Sizes(Protocol):
    """What a network's cost depends on: a TrialConfig, whose module has this table's names."""

    @property
    def latent_dim(self) -> int: ...
    @property
    def hidden_width(self) -> int: ...
    @property
    def hidden_layers(self) -> int: ...
    @property
    def decoder_layers(self) -> int: ...


@dataclass(frozen=True)
class Network:
    """A row: an encoder and a decoder for the members of a cohort, and what they cost.

    ``module`` holds the classes Encoder and Decoder:
        Encoder(configs, image_shape): (n_members, n, n_pixels) to features, (n_members, n, largest of ``n_features``)
        Decoder(configs, image_shape, maps, others): z, (n_members, n, d), to a, (n_members, n, maps n_pixels + others)
    ``n_products`` counts the multiplications per image of encoder and decoder together, about. On a CPU, members are worth
    stacking while a step is mostly overhead: up to ``stacked_below`` products.
    """

    module: str
    n_products: Callable[[Sizes, int, int], float]  # of a config, n_pixels and n_outputs
    stacked_below: float = 0
    heads: bool = True  # linear layers from features to latents; else the features are the code: no posterior
    image_side: int = 0  # of the only images it takes, square ones; 0 is any
    pooled: bool = False  # its code is filters of the image at half its sides
    tangents: bool = True  # its decoder has ``linearise``, which posteriors by its Fisher information need

    def problem(self, image_shape: tuple[int, int, int]) -> str:
        """Why it does not take images of this shape, the end of a sentence; empty where it does."""
        _, height, width = image_shape
        if self.image_side in (0, height) and self.image_side in (0, width):
            return ""
        return (
            f"takes images of {self.image_side} x {self.image_side} pixels; these have {height} x {width}. "
            f"--image-size {self.image_side} makes them so"
        )

    def pooled_pixels(self, image_shape: tuple[int, int, int]) -> int:
        """What a latent_dim is a multiple of: the pixels of one filter of a ``pooled`` code, 1 of any other."""
        return math.prod(pooled_shape(image_shape)) if self.pooled else 1

    def load(self, name: str) -> Any:
        """The class Encoder or Decoder."""
        return pkgutil.resolve_name(f"{self.module}:{name}")


def pooled_shape(image_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Height and width of the image once each square of 2 x 2 is one."""
    return -(-image_shape[1] // 2), -(-image_shape[2] // 2)


def hidden_layers_of_decoder(config: Sizes) -> int:
    return config.hidden_layers if config.decoder_layers < 0 else config.decoder_layers


def _dense_products(config: Sizes, n_pixels: int, n_outputs: int) -> int:
    halves = (n_pixels, config.hidden_layers), (n_outputs, hidden_layers_of_decoder(config))
    widths = ([n, *[config.hidden_width] * layers, config.latent_dim] for n, layers in halves)
    return sum(a * b for own in widths for a, b in itertools.pairwise(own))


NETWORKS = {
    # Up to so many, stacking gains 1.1x to 5.6x (benchmarks/results/cohort_size.csv), beyond it nothing worth losing single
    # trials for; nor does a convolution gain.
    "dense": Network("fishernet.networks.dense", _dense_products, stacked_below=300_000),
    # 10 million multiplications of encoder and decoder at 784 pixels
    "conv": Network("fishernet.networks.conv", lambda config, n_pixels, n_outputs: 13_000 * (n_pixels + n_outputs)),
    "pooled-cnn": Network(
        "fishernet.networks.pooled",
        lambda config, n_pixels, n_outputs: 9 * config.latent_dim * (4 + -(-n_outputs // n_pixels)),
        heads=False,
        tangents=False,
        pooled=True,
    ),
    # at the paper's 8 and 64 latents and one number a pixel, of which little depends
    "fisherae-28": Network("fishernet.networks.rows", lambda config, *numbers: 102e6, image_side=28, tangents=False),
    "fisherae-64": Network("fishernet.networks.rows", lambda config, *numbers: 3.2e9, image_side=64, tangents=False),
    "fae-28": Network("fishernet.networks.rows", lambda config, *numbers: 205e6, image_side=28, tangents=False),
}
