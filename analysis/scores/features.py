"""Feature vectors of images: by Inception v3 as pytorch-fid has it, by a small classifier of the sweep's own data set, or, of
images without labels, by a small network with random weights.

Only a Fréchet distance on Inception's features is the FID (Heusel et al., 2017); on the others' it is a Fréchet distance on
classifier or random features, and numbers of two networks do not compare.
"""

from __future__ import annotations

import hashlib
import json
import math
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from pytorch_fid import inception  # type: ignore[import-untyped]
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.errors import AnalysisError
from analysis.scores.distances import RealFeatures
from fishernet.data.images import ImageData
from fishernet.training import keep_freed_memory

Features = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]  # told how much is done, and of how much
Device = torch.device | str

SILENT_SECONDS = 20  # torch.hub sets no limit: where a firewall drops packets it would wait for minutes

# The classifier's training. On Fashion-MNIST four passes reach 92% in 75 seconds of one busy CPU core.
PASSES = 4
LEAST_STEPS = 400  # small data sets pass more often
BATCH_SIZE = 128
LEARNING_RATE = 5e-3  # the peak of the one-cycle schedule
LARGEST_GRID = 7  # rows and columns left of an image of 28 pixels; larger images are averaged to it
LARGEST_SIDE = (
    64  # pixels: larger images are averaged to it before the classifier sees them, or its training would take hours
)


class Extractor(ABC):
    """A fixed network that gives each image a feature vector; ``network`` is in eval mode and takes no gradient."""

    name: ClassVar[str]
    n_features: ClassVar[int]
    batch_size: ClassVar[int]
    batch_pixels: ClassVar[int]  # of all its images; with larger ones a batch has fewer

    def __init__(self, network: nn.Module, device: Device) -> None:
        self.network = network.eval().requires_grad_(False).to(device)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: Device) -> Self:
        """Itself, moved to the device."""
        self.network.to(device)
        return self

    @cached_property
    def fingerprint(self) -> str:
        """Start of a sha256 of the weights: with equal ones, features compare."""
        return _sha256(self.network.state_dict())

    def batch_of(self, image_shape: Sequence[int]) -> int:
        """How many images of (channels, height, width) make a batch."""
        return max(1, min(self.batch_size, self.batch_pixels // (image_shape[1] * image_shape[2])))

    def remarks(self, image_shape: Sequence[int]) -> list[str]:
        """What a reader of scores by these features would take for granted, as sentences."""
        return []

    def features(self, images: Tensor, progress: Progress | None = None) -> Features:
        """Features (n, n_features) of images (n, channels, height, width) in [0, 1], or uint8, of one channel or three.

        The same images give the same features; neither order nor batches matter but to float32's rounding, in which
        processors and thread counts differ too. ``progress`` is told the number of images done after each batch.
        """
        features = np.empty((len(images), self.n_features), np.float32)
        batch_size = self.batch_of(images.shape[1:])
        with torch.inference_mode(), _exact_convolutions():
            for start in range(0, len(images), batch_size):
                batch = images[start : start + batch_size].to(self.device)
                batch = batch.float() / 255 if batch.dtype == torch.uint8 else batch
                features[start : start + len(batch)] = self._of(batch).cpu().numpy()
                if progress:
                    progress(start + len(batch), len(images))
        return features

    @abstractmethod
    def _of(self, images: Tensor) -> Tensor:
        """Features (n, n_features) of one batch on the network's device."""


class Inception(Extractor):
    """The 2048 averages of the last layer of Inception v3, with the weights of the original FID (Heusel et al., 2017).

    Everything is pytorch-fid's own, from the bilinear resize to 299 pixels on. ``weights`` is a file with the state dict
    of pytorch-fid's release, as torch.save or safetensors writes it; without, pytorch-fid's download is used and kept in
    torch.hub's folder. Grey images are given thrice, as red, green and blue. Raises AnalysisError when there are no
    such weights; no file that is read can run code.
    """

    name = "inception"
    n_features = 2048
    batch_size = 32  # whose activations at 299 pixels take half a GB
    batch_pixels = 32 * 512 * 512

    def __init__(self, weights: Path | None = None, device: Device = "cpu") -> None:
        if weights is None:
            network = _inception(_downloaded_weights(), "What was downloaded as Inception's weights")
        else:
            network = _inception(_weights_in(weights), f"--inception-weights {weights}")
        super().__init__(network, device)

    def _of(self, images: Tensor) -> Tensor:
        return self.network(images.expand(-1, 3, -1, -1))[0].flatten(1)


def _downloaded_weights() -> object:
    """What pytorch-fid's own loader finds or downloads, here verified by the sha256 in its name, and as weights alone."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENT_SECONDS)
    try:
        return inception.load_state_dict_from_url(inception.FID_WEIGHTS_URL, check_hash=True, weights_only=True)
    except Exception as error:  # of the network, of the folder, or whatever a damaged file leads torch.load to
        reason = getattr(error, "reason", error)  # of a URLError, whose own text is markup
        cached = Path(torch.hub.get_dir()) / "checkpoints" / inception.FID_WEIGHTS_URL.rpartition("/")[2]
        if cached.exists():
            problem = f"in {cached} cannot be read ({type(error).__name__}); delete that file,"
        else:
            problem = f"cannot be downloaded ({reason});"
        raise AnalysisError(
            f"Inception's weights {problem} give --inception-weights FILE, or use --features classifier."
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _weights_in(path: Path) -> object:
    """What the file holds, read without running code; raises AnalysisError."""
    what = "is the state dict of pytorch-fid's pt_inception-2015-12-05-6726825d.pth"
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise AnalysisError(
            f"--inception-weights {what}, and {path} cannot be read: {error.strerror or error}."
        ) from error
    except Exception as error:  # torch.load raises whatever damaged bytes lead it to
        raise AnalysisError(
            f"--inception-weights {what}; {path} is damaged or no file of weights alone ({type(error).__name__}), "
            f"and is not read further, as it might run code. Get the file again, or use --features classifier."
        ) from error


def _inception(weights: object, whose: str) -> nn.Module:
    """pytorch-fid's network with these weights, every one of them in its place; raises AnalysisError."""
    if not isinstance(weights, Mapping):
        raise AnalysisError(f"{whose} must be a state dict, names and tensors; got {type(weights).__name__}.")
    # The one way to build the network without pytorch-fid's download: its constructor asks no one else for weights.
    download = inception.load_state_dict_from_url
    inception.load_state_dict_from_url = lambda *_, **__: weights
    try:
        return inception.InceptionV3()
    except (RuntimeError, AttributeError) as error:  # the second where a name is no string
        mismatch = " ".join(str(error).split())
        raise AnalysisError(
            f"{whose} must be the state dict of pytorch-fid's Inception; names or shapes differ: {mismatch[:240]} …"
        ) from error
    finally:
        inception.load_state_dict_from_url = download


@dataclass(frozen=True)
class Training:
    """What a classifier was trained on, ``data`` being the images' fingerprint, and its accuracy on their test set."""

    image_shape: tuple[int, int, int]
    n_classes: int
    data: str
    seed: int
    test_accuracy: float


class Classifier(Extractor):
    """The inputs of the last hidden layer's ReLU, 128 of them, in a small convolutional classifier.

    They are taken before the ReLU as a Fréchet distance knows mean and covariance alone, and an average half of what
    ReLU gives is 0: far from a Gaussian, and without variance in units that no image excites.
    """

    name = "classifier"
    n_features = 128
    batch_size = 500
    batch_pixels = 500 * 64 * 64
    network: nn.Sequential

    def __init__(self, network: nn.Sequential, training: Training, device: Device = "cpu") -> None:
        super().__init__(network, device)
        self.training = training

    @property
    def test_accuracy(self) -> float:
        """The fraction of test images whose label it gives."""
        return self.training.test_accuracy

    def save(self, path: Path) -> None:
        """Write it to path as safetensors, with its Training as metadata."""
        weights = {name: weight.cpu().contiguous() for name, weight in self.network.state_dict().items()}
        metadata = {self.name: json.dumps(asdict(self.training)), "fingerprint": self.fingerprint}
        save_file(weights, path, metadata)

    @classmethod
    def load(cls, path: Path, device: Device = "cpu") -> Self:
        """What ``save`` wrote; raises AnalysisError where the file is damaged or something else."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
            values = json.loads(metadata[cls.name])
            training = Training(**values | {"image_shape": tuple(values["image_shape"])})
            network = _classifier_network(training.image_shape, training.n_classes)
            network.load_state_dict(load_file(path))
            classifier = cls(network, training, device)
            if classifier.fingerprint != metadata["fingerprint"]:  # safetensors has no checksum of its own
                raise ValueError("its weights are not those that were written")
        except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise AnalysisError(
                f"{path} is no classifier that can be read ({error}); it is damaged or something else. "
                f"Delete it, and the next run trains the classifier anew."
            ) from error
        return classifier

    def _of(self, images: Tensor) -> Tensor:
        if tuple(images.shape[1:]) != self.training.image_shape:
            raise AnalysisError(
                f"The classifier was trained on images of (channels, height, width) {self.training.image_shape}; "
                f"got {tuple(images.shape[1:])}. Train one on the data set these belong to."
            )
        return self.network[0](_reduced(images))

    def remarks(self, image_shape: Sequence[int]) -> list[str]:
        return _say_reduced("classifier", image_shape)


class Random(Extractor):
    """64 outputs of the classifier's convolutional layers with random weights, drawn once and for all; they ask for no labels.

    Random features tell distributions of images apart where a network trained on other images knows nothing of these (Naeem et
    al., 2020, who take a VGG16 with 64). They see brightness, colours, edges and roughly where these are. They do not know what
    is shown: a sample that nobody would take for real may be near, where its grey values and edges are. Weights are normal with
    variance 2/fan_in (He et al., 2015), so that features neither vanish nor grow with depth.
    """

    name = "random"
    n_features = 64
    batch_size = Classifier.batch_size
    batch_pixels = Classifier.batch_pixels

    def __init__(self, image_shape: tuple[int, int, int], device: Device = "cpu") -> None:
        with torch.random.fork_rng(devices=[]):  # whose numbers are replaced
            network = _features_network(image_shape, self.n_features)
        generator = torch.Generator().manual_seed(0)
        for name, weights in network.named_parameters():
            if weights.dim() > 1:
                nn.init.kaiming_normal_(weights, nonlinearity="relu", generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(weights)
        super().__init__(network, device)

    def _of(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(_reduced(images))
        return features

    def remarks(self, image_shape: Sequence[int]) -> list[str]:
        return _say_reduced("network", image_shape)


def _say_reduced(who: str, image_shape: Sequence[int]) -> list[str]:
    seen = _seen_shape(image_shape)
    if tuple(seen) == tuple(image_shape[1:]):
        return []
    return [f"The {who} sees images of {image_shape[1]} x {image_shape[2]} pixels averaged to {seen[0]} x {seen[1]}."]


def _seen_shape(image_shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of what the classifier sees of an image (channels, height, width)."""
    height, width = image_shape[-2:]
    factor = min(1.0, LARGEST_SIDE / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _reduced(images: Tensor) -> Tensor:
    """Images in [0, 1] as the classifier sees them: large ones averaged over areas."""
    seen = _seen_shape(images.shape[1:])
    return images if seen == tuple(images.shape[2:]) else F.interpolate(images, size=seen, mode="area")


def train_classifier(
    data: ImageData, seed: int = 0, device: Device = "cpu", progress: Progress | None = None
) -> Classifier:
    """A classifier of the training images' labels, with its accuracy on the test images.

    Cross-entropy, AdamW (Loshchilov and Hutter, 2019), and a one-cycle learning rate (Smith and Topin, 2018), which
    makes few passes enough. On a CPU the seed decides every bit, for one number of threads. ``progress`` is told the
    number of steps done after each. Raises AnalysisError unless there are labels of two classes or more.
    """
    if data.train_labels is None or data.test_labels is None:
        raise AnalysisError(
            f"--features classifier learns from labels, and {data.name} has none of its training or test images. "
            f"Add them, or use --features inception."
        )
    classes, targets = data.train_labels.unique(return_inverse=True)
    if len(classes) < 2:
        raise AnalysisError(
            f"--features classifier needs labels of 2 classes or more, and all training images of {data.name} have "
            f"the label {classes.item()}. Use --features inception."
        )
    keep_freed_memory()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed the GPUs too
        network = _classifier_network(data.image_shape, len(classes)).to(device)
    _train(network, data.train.to(device), targets.to(device), seed, progress)
    right = classes[likeliest_classes(network, data.test)] == data.test_labels
    training = Training(data.image_shape, len(classes), data.fingerprint, seed, right.double().mean().item())
    return Classifier(network, training, device)


def _classifier_network(image_shape: tuple[int, int, int], n_classes: int) -> nn.Sequential:
    """From images to features, then from features to logits."""
    to_features = _features_network(image_shape, Classifier.n_features)
    to_logits = nn.Sequential(nn.ReLU(), nn.Linear(Classifier.n_features, n_classes))
    # channels_last: on a CPU a step takes a fifth less time
    return nn.Sequential(to_features, to_logits).to(memory_format=torch.channels_last)


def _features_network(image_shape: tuple[int, int, int], n_features: int) -> nn.Sequential:
    channels = image_shape[0]
    grid = [min(LARGEST_GRID, math.ceil(size / 4)) for size in _seen_shape(image_shape)]
    return nn.Sequential(
        nn.Conv2d(channels, 32, 5, stride=2, padding=2, bias=False),  # the stride leaves a quarter of the work
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, bias=False),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((grid[0], grid[1])),
        nn.Flatten(),
        nn.Linear(64 * grid[0] * grid[1], n_features),
    )


def _train(network: nn.Sequential, images: Tensor, targets: Tensor, seed: int, progress: Progress | None) -> None:
    """Train the network on images, uint8, and their classes."""
    batch_size = min(BATCH_SIZE, len(images))
    steps_per_pass = len(images) // batch_size  # an odd rest waits: BatchNorm cannot take a batch of one
    n_steps = steps_per_pass * max(PASSES, math.ceil(LEAST_STEPS / steps_per_pass))
    optimiser = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, n_steps)
    network.train()
    with _exact_convolutions():
        for step, index in zip(range(n_steps), _batches(len(images), batch_size, seed), strict=False):
            loss = F.cross_entropy(network(_reduced(images[index].float() / 255)), targets[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if progress:
                progress(step + 1, n_steps)


def _batches(n: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Indices of n images in batches of one size, every pass in a new order, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(n, generator=generator)[: n - n % batch_size].split(batch_size)


@torch.no_grad()
def likeliest_classes(network: nn.Sequential, images: Tensor) -> Tensor:
    """The likeliest class of each image, uint8, on the CPU."""
    device = next(network.parameters()).device
    network.eval()
    with _exact_convolutions():
        n = max(1, min(Classifier.batch_size, Classifier.batch_pixels // images[0, 0].numel()))
        batches = (_reduced(batch.to(device).float() / 255) for batch in images.split(n))
        return torch.cat([network(batch).argmax(1).cpu() for batch in batches])


def _exact_convolutions() -> AbstractContextManager[None]:
    """Convolutions on a GPU in float32, not TensorFloat-32 (10 bits), and by algorithms that repeat their results."""
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


FEATURE_NAMES = (Inception.name, Classifier.name, Random.name)


def real_features(
    extractor: Extractor, images: Tensor, cache: Path | None, progress: Progress | None = None,
    say: Callable[[str], object] = print,
) -> RealFeatures:  # fmt: skip
    """The features of real images and what distances need of them, kept below the folder ``cache``, if one is given.

    The file's name holds the network's fingerprint and a hash of the images, so nothing else is found there; a damaged
    one is made anew. Where the folder cannot be written to, ``say`` is told so, and nothing is kept.
    """
    if cache is None:
        return RealFeatures.of(extractor.features(images, progress))
    name = f"real-{extractor.name}-{extractor.fingerprint}-{_sha256({'images': images})}.npz"
    with suppress(OSError, ValueError, RuntimeError):  # not there yet, damaged, or ~ of a user without a home
        return RealFeatures.load(cache.expanduser() / name)
    real = RealFeatures.of(extractor.features(images, progress))
    try:
        folder = cache.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        real.save(folder / name)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        say(
            f"Features of the real images are kept in {cache} (--cache), and writing there failed: {reason}. They were computed."
        )
    return real


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    """Start of a sha256 over names, shapes, types and values."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()[:16]
