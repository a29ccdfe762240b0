"""The images of one sweep in memory, and on the device that trains."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FEW = 20  # images: with fewer to score on, a mean over them tells hardly anything of other images


@dataclass(frozen=True, repr=False)
class ImageData:
    """Images, uint8 (n_images, channels, height, width), in memory; labels, int64 (n_images,), or None.

    ``name`` is the dataset's name or the path as given. ``fingerprint`` is the start of a sha256 over shapes
    and bytes of all that was read, before ``train_size``, ``validation_size`` and ``stopping_size`` cut it: with equal ones
    two sweeps saw the same data. ``held_out`` says what ``test`` holds, "test" or "validation". ``stopping`` are the images
    that early stopping goes by, if any. ``remarks``
    say what was converted or left out on the way, and where labels come from: phrases for the user.
    """

    name: str
    train: Tensor
    test: Tensor
    train_labels: Tensor | None
    test_labels: Tensor | None
    fingerprint: str
    held_out: str
    remarks: tuple[str, ...] = ()
    stopping: Tensor | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.shape[1:]
        return channels, height, width

    def __repr__(self) -> str:
        return f"<{self.name}: {self}>"

    def __str__(self) -> str:
        """``60000 to train, 10000 for test, 28x28 grey``, and the remarks."""
        channels, height, width = self.image_shape
        counts = f"{len(self.train)} to train, {len(self.test)} for {self.held_out}"
        if self.stopping is not None:
            counts += f", {len(self.stopping)} to stop by"
        return "; ".join([f"{counts}, {height}x{width} {'grey' if channels == 1 else 'colour'}", *self.remarks])

    @property
    def caution(self) -> str:
        """A sentence where so few images are held out that scores of them are chance; else empty."""
        n = len(self.test)
        if n >= FEW:
            return ""
        of = "one image" if n == 1 else f"{n} images"
        return (
            f"errors and scores are of {of} held out for {self.held_out}: of so few they say hardly anything of others"
        )


def at_equal_steps(n: int, n_images: int) -> npt.NDArray[np.int64]:
    """Places of n of so many images, every so many-th from the first on: of all classes as many as of all images, even where
    images are sorted by how rare they are.
    """
    return np.arange(n) * n_images // n


def dequantised(x: Tensor, u: Tensor) -> Tensor:
    """(v + u)/256 of x = v/255: images that have a density where u is uniform on [0, 1) (Theis et al. 2016, section 3.1)."""
    return (255 * x + u) / 256


@dataclass(frozen=True)
class ResidentImages:
    """An image set on the device as uint8, (n, n_pixels), moved there once."""

    pixels: Tensor
    dtype: torch.dtype = torch.float32  # of the grey values

    @classmethod
    def of(cls, images: Tensor, device: torch.device, dtype: torch.dtype = torch.float32) -> Self:
        return cls(images.flatten(1).to(device), dtype)

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, index: Tensor, thresholds: Tensor | None = None) -> Tensor:
        """Images as grey values in [0, 1]: index (n_members, n) to (n_members, n, n_pixels).

        With ``thresholds``, uint8 in that shape, 1 where a grey value of 0..255 exceeds its own and else 0.
        """
        # A copy of whole rows: indexing would look up every pixel by itself.
        rows = self.pixels.index_select(0, index.flatten()).view(*index.shape, -1)
        return rows.to(self.dtype).div_(255) if thresholds is None else (rows > thresholds).to(self.dtype)
