"""The VAE with an autoregressive decoder: PixelVAE (Gulrajani et al. 2017), in the form of the Fisher-Shannon paper's code."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fishernet.models.vae import VAE
from fishernet.networks import NETWORKS
from fishernet.networks.normalisation import BatchNorm
from fishernet.networks.stacked import Stacked, StackedLayer, each_member


class MaskedConv(Stacked):
    """A 3x3 convolution whose output at a pixel sees the pixels before it, row by row, and with ``centre`` the pixel itself.

    The last ``n_free`` input channels are not masked (van den Oord et al. 2016, masks A and B). Without biases: the normalisation
    behind it would take them away.
    """

    mask: Tensor

    def __init__(self, n_members: int, n_in: int, n_out: int, *, centre: bool, n_free: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_members, n_out, n_in, 3, 3))
        mask = torch.zeros(n_in, 3, 3)
        mask[:, 0], mask[:, 1, 0], mask[:, 1, 1] = 1, 1, float(centre)
        mask[n_in - n_free :] = 1
        self.register_buffer("mask", mask, persistent=False)

    @torch.no_grad()
    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        """Uniform in +-1/sqrt(fan_in), as torch's own convolutions."""
        shape = self.weight.shape[1:]
        for own, generator in zip(self.weight, generators, strict=True):
            own.copy_((torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(math.prod(shape[1:])))

    def member_view(self, i: int, name: str, tensor: Tensor) -> Tensor:
        return tensor[i]

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Of one member's images, (n, channels, height, width), with its weight."""
        return F.conv2d(x, weight * self.mask, padding=1)


class PixelwiseLinear(StackedLayer):
    """A 1x1 convolution."""

    def __init__(self, n_members: int, n_in: int, n_out: int) -> None:
        super().__init__([(n_out, n_in, 1, 1)] * n_members, [n_out] * n_members)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias)


class PixelNetwork(nn.Module):
    """An image and a map of the latents to the likelihood's numbers of every pixel, each of which sees the pixels before it.

    ``pixel_layers`` masked 3x3 convolutions, the first without its centre, each with batch normalisation and ReLU, and one 1x1.
    """

    def __init__(
        self,
        n_members: int,
        image_shape: tuple[int, int, int],
        n_layers: int,
        n_channels: int,
        maps: int,
        *,
        free: bool,
    ) -> None:
        super().__init__()
        self.image_shape, colours = image_shape, image_shape[0]
        first = MaskedConv(n_members, 2 * colours, n_channels, centre=False, n_free=colours * free)
        rest = [MaskedConv(n_members, n_channels, n_channels, centre=True) for _ in range(n_layers - 1)]
        self.layers = nn.ModuleList([first, *rest])
        self.norms = nn.ModuleList(BatchNorm(n_members, n_channels) for _ in self.layers)
        self.last = PixelwiseLinear(n_members, n_channels, maps * colours)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """x and the latents' map, (n_members, n, n_pixels), to (n_members, n, maps n_pixels)."""
        return self._maps(x.unflatten(2, self.image_shape), latents.unflatten(2, self.image_shape)).flatten(2)

    def at(self, row: int, column: int, x: Tensor, latents: Tensor) -> Tensor:
        """The numbers of one pixel alone, (n_members, n, maps colours), of a model in evaluation.

        From the part of both that it sees: a layer reaches one pixel up and to both sides, and the first of the latents' map
        one down.
        """
        top, left = max(0, row - len(self.layers)), max(0, column - len(self.layers))
        rows, columns = slice(top, row + 2), slice(left, column + len(self.layers) + 1)
        parts = (both.unflatten(2, self.image_shape)[..., rows, columns] for both in (x, latents))
        return self._maps(*parts)[..., row - top, column - left]

    def _maps(self, x: Tensor, latents: Tensor) -> Tensor:
        """(n_members, n, maps colours, height, width), of images or of a part of each."""
        both = torch.cat([x, latents], dim=2)
        # Unbound once: indexed one by one, each would have a gradient the size of all.
        weights = zip(*(layer.get_parameter("weight").unbind() for layer in self.layers), strict=True)
        last = (parameters for (parameters,) in each_member([self.last]))
        return torch.stack([
            self._image(i, own, *of_member)
            for i, (own, *of_member) in enumerate(zip(both, weights, last, strict=True))
        ])  # fmt: skip

    def _image(self, i: int, x: Tensor, weights: Sequence[Tensor], last: tuple[Tensor, Tensor]) -> Tensor:
        for layer, norm, weight in zip(self.layers, self.norms, weights, strict=True):
            x = F.relu(norm(layer(x, weight), i))
        a: Tensor = self.last(x, *last)
        return a


class PixelVAE(VAE):
    """p(x given z) = prod_i p(x_i given x_1 ... x_(i-1), z), pixels row by row; posterior, KL and loss are the VAE's.

    The decoder makes an image-shaped map of z, with ReLU, which a network of masked convolutions sees beside the image.
    ``pixel_mask`` released also hides the map from the first convolution where the image is hidden: then pixel i sees it at
    places before i alone, and the first pixel nothing of z. Colours of one pixel are independent given what is before.
    ``mse`` and ``output`` are teacher-forced: each pixel is told those before it of the image itself.
    """

    def build_networks(self, image_shape: tuple[int, int, int]) -> None:
        network, config = NETWORKS[self.config.network], self.config
        self.use_networks(
            network.load("Encoder")(self.configs, image_shape), network.load("Decoder")(self.configs, image_shape, 1, 0)
        )
        self.pixels = PixelNetwork(
            len(self.configs), image_shape, config.pixel_layers, config.pixel_channels, self.likelihood.maps,
            free=config.pixel_mask == "image",
        )  # fmt: skip

    def pixel_outputs(self, x: Tensor, latents: Tensor) -> Tensor:
        """a of every pixel given those before it in x, (n_members, n, n_outputs); ``latents`` is ``decode(z)``."""
        with self.arithmetic():
            a: Tensor = self.pixels(x, F.relu(latents)).to(x.dtype)
        return a

    def log_likelihood(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        a = self.pixel_outputs(x, self.decode(z))
        return self.likelihood.log_prob(x, a), a

    def reconstruction(self, x: Tensor, z: Tensor) -> Tensor:
        """Teacher-forced."""
        return self.likelihood.mean(self.pixel_outputs(x, self.decode(z)))

    def reconstruct(self, z: Tensor) -> Tensor:
        """The expected value of each pixel given those before it, which are set to theirs (Bernoulli: rounded): a pass each."""
        rounded = self.config.likelihood == "bernoulli"

        def expected(a: Tensor) -> Tensor:
            f = self.likelihood.mean(a)
            return f.round() if rounded else f

        return self.likelihood.mean(self._in_order(z, expected)[1])

    def image_of(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of p(x given z), pixel by pixel."""
        return self._in_order(z, partial(self.likelihood.sample, generator=generator))[0]

    @torch.no_grad()  # of hundreds of passes
    def _in_order(self, z: Tensor, value: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Images whose pixels are ``value`` of their numbers given those before, and the numbers, a."""
        latents = F.relu(self.decode(z))
        colours, height, width = self.pixels.image_shape
        x = latents.new_zeros(*latents.shape[:2], colours, height * width)
        a = latents.new_zeros(*latents.shape[:2], self.likelihood.maps * colours, height * width)
        for place in range(height * width):
            with self.arithmetic():
                a[..., place] = self.pixels.at(*divmod(place, width), x.flatten(2), latents).to(a.dtype)
            x[..., place] = value(a.flatten(2)).view_as(x)[..., place]
        return x.flatten(2), a.flatten(2)
