"""The VPAE paper's convolutional network: one convolution and a pooling, and the way back (Ciobanu 2021, Table 2).

Its code is the pooled activations themselves: 320 filters of 14 x 14, 62,720 numbers of a 28 x 28 image, 80 times its pixels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fishernet.families import AEConfig
from fishernet.likelihoods import LIKELIHOODS
from fishernet.networks import pooled_shape
from fishernet.networks.activations import ACTIVATIONS
from fishernet.networks.stacked import StackedLayer, each_member


class Same(StackedLayer):
    """3x3 convolutions, padding 1, of members that may differ in channels."""

    def __init__(self, n_in: Sequence[int], n_out: Sequence[int]) -> None:
        super().__init__([(after, before, 3, 3) for before, after in zip(n_in, n_out, strict=True)], n_out)

    def forward(self, x: Tensor) -> Tensor:
        """(n_members, n, channels, height, width)."""
        members = zip(x, each_member([self]), strict=True)
        return torch.stack([F.conv2d(own, *parameters, padding=1) for own, (parameters,) in members])


def n_filters(configs: Sequence[AEConfig], image_shape: tuple[int, int, int]) -> list[int]:
    """Filters of each member: latent_dim over the pooled pixels."""
    return [config.latent_dim // math.prod(pooled_shape(image_shape)) for config in configs]


class Encoder(nn.Module):
    """Convolution, activation, 2x2 maximum; its features are the code, filter by filter."""

    def __init__(self, configs: Sequence[AEConfig], image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_shape, self.activation = image_shape, ACTIVATIONS[configs[0].activation]
        self.layer = Same([image_shape[0]] * len(configs), n_filters(configs, image_shape))
        self.n_features = [config.latent_dim for config in configs]

    def forward(self, x: Tensor) -> Tensor:
        images = self.activation.function(self.layer(x.unflatten(2, self.image_shape)))
        pooled = F.max_pool2d(images.flatten(0, 1), 2, ceil_mode=True)
        return pooled.flatten(1).unflatten(0, images.shape[:2])


class Decoder(nn.Module):
    """Convolution to as many channels as the outputs fill, and each number twice in both directions.

    ``output_order`` channels-first: the outputs are the channels one after the other, so that a location lies where it is
    shown. channels-last, as released: they are the numbers of the array (height, width, channels) one after the other, the
    mixture's logits and degrees of freedom first, so that a location is read from a pixel elsewhere.
    """

    def __init__(self, configs: Sequence[AEConfig], image_shape: tuple[int, int, int], maps: int, others: int) -> None:
        super().__init__()
        height, width = image_shape[1:]
        n_maps, n_outputs = maps * math.prod(image_shape), maps * math.prod(image_shape) + others
        n_channels = -(-n_outputs // (height * width))
        filters = n_filters(configs, image_shape)
        self.shape, self.size = (max(filters), *pooled_shape(image_shape)), (height, width)
        self.layer = Same(filters, [n_channels] * len(configs))
        order = torch.arange(n_channels * height * width)
        if configs[0].output_order == "channels-last":
            config = configs[0]
            ahead = config.components + max(1, config.components) * LIKELIHOODS[config.likelihood].heavy
            order = order.view(n_channels, height, width).permute(1, 2, 0).flatten()
            order = torch.cat([order[ahead : ahead + n_maps], order[:ahead], order[ahead + n_maps :]])
        self.register_buffer("order", order[:n_outputs], persistent=False)

    order: Tensor

    def forward(self, z: Tensor) -> Tensor:
        channels = self.layer(z.unflatten(2, self.shape))
        height, width = self.size
        large = channels.repeat_interleave(2, dim=3)[:, :, :, :height].repeat_interleave(2, dim=4)[..., :width]
        return large.flatten(2)[:, :, self.order]
