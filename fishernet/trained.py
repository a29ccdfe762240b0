"""``load``: a trained model from what a run stored, and what one does with it in Python; NumPy arrays in and out."""

import json
import operator
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fishernet.cohort import load_model
from fishernet.config import TrialConfig
from fishernet.data.files import pixels
from fishernet.data.fitting import Fit
from fishernet.data.folders import read_images
from fishernet.families import family, trial_config
from fishernet.models.base import Autoencoder
from fishernet.state import checksum

Array = npt.NDArray[np.float32]

WEIGHTS = "weights.safetensors"
RUN_ID = re.compile(r"(?:runs:/)?([0-9a-f]{32})(?:/artifacts)?/?")
# Images per forward pass, their pixels, and the numbers that a decoder emits for them; they decide memory alone.
BATCH, NUMBERS, OUTPUTS = 2000, 2000 * 1024, 2**26

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Images = npt.ArrayLike | Tensor | Paths


class ModelError(ValueError):
    """A trained model cannot be used so; the message says what was given and what to do."""


class LatentGaussian(NamedTuple):
    """The posterior q(z given x) of n images: ``mean`` (n, d), and ``covariance`` (n, d, d) in squared units of z."""

    mean: Array
    covariance: Array


class TrainedModel:
    """One trained model. Images are (n, channels, height, width) or (n, height, width), latents (n, d).

    What is given as images passes the checks that a data set passes: uint8, floats in [0, 1] or booleans, as an array, a
    tensor or nested lists; channels may come last. Or it is the path of an image file, a list of these, or a folder, whose
    images go by sorted path: they are cropped and resized as those of the model's data set. What comes out as images is float32
    in [0, 1], (n, channels, height, width).
    """

    def __init__(self, network: Autoencoder, image_shape: tuple[int, int, int]) -> None:
        self.network, self.image_shape = network, image_shape

    @property
    def config(self) -> TrialConfig:
        """What it was trained with."""
        return self.network.config

    def __repr__(self) -> str:
        channels, height, width = self.image_shape
        colour = "grey" if channels == 1 else "colour"
        config = self.config
        return f"<{config.variant} d={config.latent_dim} seed {config.seed} of {height}x{width} {colour} images>"

    def encode(self, images: Images) -> Array:
        """The posterior means of images, or the codes of a model without a posterior, (n, d)."""
        return posterior_means(self.network, self._pixels(images))

    def decode(self, latents: npt.ArrayLike | Tensor) -> Array:
        """The expected images of latents (n, d); a linear decoder's values are clipped to [0, 1]."""
        z = np.asarray(_on_cpu(latents), dtype=np.float32)
        if z.ndim != 2 or z.shape[1] != self.config.latent_dim or not np.isfinite(z).all():
            raise ModelError(
                f"latents are finite numbers of the shape (n, {self.config.latent_dim}); got the shape {z.shape}"
                + (", some of them not finite" if not np.isfinite(z).all() else "")
            )
        return decode(self.network, z, self.image_shape).numpy()

    def reconstruct(self, images: Images) -> Array:
        """decode(encode(images))."""
        return self.decode(self.encode(images))

    def posterior(self, images: Images) -> LatentGaussian:
        """q(z given x); raises ModelError for a model without one.

        By the decoder's Fisher information it is M^-1 (FisherNet paper, equation 20), else the encoder's variances.
        """
        x = self._pixels(images)
        return LatentGaussian(posterior_means(self.network, x), posterior_covariances(self.network, x))

    def sample(self, n: int, *, seed: int = 0) -> Array:
        """The expected images of n draws from the prior; of a decoder that goes pixel by pixel drawn images, about a second
        each. Raises ModelError for a model without a prior.
        """
        if not family(self.config.model).prior:
            raise ModelError(
                f"{self.config.label} has no prior to draw from: its codes have no density. Interpolate between images, "
                "or fit a density to encode(images) and decode its draws"
            )
        n = _count("n", n, "how many images to draw", 1)
        device = next(self.network.parameters()).device
        generator = torch.Generator(device).manual_seed(seed)
        with torch.no_grad():
            return decode(self.network, self.network.prior.sample(0, n, generator), self.image_shape, generator).numpy()

    def interpolate(self, first: Images, last: Images, steps: int = 8) -> Array:
        """Images on the straight line between two images' latents, both ends included: (steps, channels, height, width)."""
        steps = _count("steps", steps, "how many images there are with both ends", 2)
        ends = []
        for image in (first, last):
            if not _are_paths(image):
                x = np.asarray(_on_cpu(image))
                image = x if x.ndim == 4 else x[None]
            ends.append(self.encode(image))
        if any(len(z) != 1 for z in ends):
            raise ModelError(f"interpolate goes from one image to one other; got {len(ends[0])} and {len(ends[1])}")
        share = np.linspace(0, 1, steps, dtype=np.float32)[:, None]
        return self.decode((1 - share) * ends[0] + share * ends[1])

    def _pixels(self, images: Images) -> Tensor:
        """Uint8 (n, channels, height, width); raises DataError, or ModelError where they are of another shape."""
        n_channels, height, width = self.image_shape
        if _are_paths(images):
            x = read_images(images, Fit(self.config.crop, self.config.image_size))
            if x.shape[1] == 1:  # a grey file among colour ones is three equal channels in a data set too
                x = np.repeat(x, n_channels, axis=1)
        else:
            try:
                array = np.asarray(_on_cpu(images))
            except ValueError as error:  # lists of several lengths
                raise ModelError(f"images must form one array: {error}") from None
            one = [(n_channels, height, width), (height, width, n_channels)] if n_channels > 1 else [(height, width)]
            if array.shape in one:
                raise ModelError(f"this is one image, {array.shape}; give it an axis before: images[None]")
            x = pixels(array, "the array of images")
        if x.shape[1:] != self.image_shape:
            raise ModelError(
                f"this model is of images with the shape (channels, height, width) = {self.image_shape}; got {x.shape[1:]}. "
                + (f"Resize them to {height} x {width}" if x.shape[1] == n_channels else "Convert them to its colours")
            )
        return torch.from_numpy(np.array(x, order="C"))


def load(source: str | os.PathLike[str], *, tracking_uri: str | None = None) -> TrainedModel:
    """The model of a weights.safetensors, of a folder that has one, or of an MLflow run by its id.

    ``tracking_uri`` is where MLflow has the run; by default MLFLOW_TRACKING_URI, else the drivers' own mlflow.db.
    Raises ModelError where it is missing, damaged, or of a model that is not installed.
    """
    path = Path(source)
    if path.is_dir():  # a run's own, or MLflow's of it
        path = next((place for place in (path / WEIGHTS, path / "artifacts" / WEIGHTS) if place.is_file()), path)
    if path.is_file():
        return TrainedModel(*load_weights(path))
    if match := RUN_ID.fullmatch(os.fspath(source)):
        from fishernet.services.mlflow_store import TrackingError, run_file  # MLflow takes seconds, and few need it

        try:
            with run_file(match[1], WEIGHTS, tracking_uri) as found:
                return TrainedModel(*load_weights(found))
        except TrackingError as error:
            raise ModelError(f"{source}: {error}") from error
    raise ModelError(
        f"{source} is neither a {WEIGHTS}, nor a folder with one, nor the id of an MLflow run (32 hexadecimal "
        "digits). Of a sweep by its name, fishernet.open_sweep(NAME).best() is the model with the least error"
    )


def load_weights(
    path: Path, config: TrialConfig | None = None, device: str | torch.device = "cpu"
) -> tuple[Autoencoder, tuple[int, int, int]]:
    """The network of a weights.safetensors and the shape of its images; ``config`` where another source says it.

    Raises ModelError where the file is damaged or its weights are of another shape.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            channels, height, width = json.loads(about["image_shape"])
            n_train = int(about["n_train"])
            weights = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
        # Runs of before 0.1 have none.
        if (claimed := about.pop("checksum", "")) and claimed != checksum(json.dumps(about, sort_keys=True), weights):
            raise ValueError("its checksum does not match its content")
        config = config or trial_config(json.loads(about["config"]))
        return load_model(config, (channels, height, width), n_train, weights, device), (channels, height, width)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        reason = f"it says nothing of {error}" if isinstance(error, KeyError) else error
        whose = f"The weights of {config.run_name}, {path.name}," if config else str(path)
        raise ModelError(f"{whose} cannot be used: {reason}") from error


@torch.no_grad()
def posterior_means(network: Autoencoder, images: Tensor) -> Array:
    """The posterior means of uint8 images (n, channels, height, width): (n, d)."""
    return np.concatenate([network.posterior_mean(x)[0].cpu().numpy() for x in _batches(network, images)])


@torch.no_grad()
def posterior_covariances(network: Autoencoder, images: Tensor) -> Array:
    """The posterior covariances of uint8 images (n, channels, height, width): (n, d, d), in squared units of z.

    Raises ModelError for a model without a posterior.
    """
    parts = []
    for x in _batches(network, images):
        try:
            covariance = network.posterior(x).covariance()
        except NotImplementedError as error:
            raise ModelError(f"{network.config.label} has no uncertainty: {error}") from None
        parts.append(covariance[0].cpu().numpy())
    return np.concatenate(parts)


@torch.no_grad()
def decode(
    network: Autoencoder,
    z: npt.ArrayLike | Tensor,
    image_shape: Sequence[int],
    generator: torch.Generator | None = None,
) -> Tensor:
    """The expected images of latents z (n, d): float32 (n, channels, height, width) in [0, 1], on the CPU.

    With a ``generator`` what a sample shows, which a model that decodes pixel by pixel draws.
    """
    device = next(network.parameters()).device
    latents = torch.as_tensor(np.asarray(_on_cpu(z), dtype=np.float32), device=device)
    parts = latents.split(images_at_once(network))
    shown = network.reconstruct if generator is None else partial(network.image_of, generator=generator)
    images = torch.cat([shown(part[None])[0].cpu() for part in parts])
    return images.clamp(0, 1).reshape(-1, *image_shape)  # a linear decoder output may leave the grey values' range


@torch.no_grad()
def reconstructed(network: Autoencoder, images: Tensor) -> Tensor:
    """What scores compare with uint8 images (n, channels, height, width), from their posterior means: as ``decode`` gives it.

    A decoder that sees the image is told each pixel's predecessors.
    """
    parts = [network.reconstruction(x, network.posterior_mean(x))[0].cpu() for x in _batches(network, images)]
    return torch.cat(parts).clamp(0, 1).reshape(images.shape)


def images_at_once(network: Autoencoder) -> int:
    """How many images to take at a time: fewer where they, or what the decoder emits for each, are larger."""
    return max(1, min(BATCH, NUMBERS // network.n_pixels, OUTPUTS // network.likelihood.n_outputs))


def _batches(network: Autoencoder, images: Tensor) -> Iterator[Tensor]:
    device = next(network.parameters()).device
    for part in images.split(images_at_once(network)):
        yield part.flatten(1).to(device).float().div(255)[None]


def _are_paths(images: Any) -> TypeGuard[Paths]:
    """Whether a path, or a list of paths."""
    some = images if isinstance(images, list | tuple) and images else [images]
    return all(isinstance(path, str | os.PathLike) for path in some)


def _count(name: str, value: int, meaning: str, least: int) -> int:
    """An integer of any type; raises ModelError for another number, text, or less than ``least``."""
    try:
        count = operator.index(value)
    except TypeError:
        count = least - 1
    if count < least:
        raise ModelError(f"{name} is {meaning}, a whole number from {least}; got {value!r}")
    return count


def _on_cpu(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
