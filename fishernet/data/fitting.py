"""Images of several sizes made one size: a central square, resized."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fishernet.data import STRETCH, DataError

if TYPE_CHECKING:
    from PIL.Image import Image


class Fit(NamedTuple):
    """The central ``crop`` x ``crop`` pixels, then ``size`` x ``size`` by bilinear filtering over the pixels that fall into one.

    0 leaves a step out; without ``crop`` resizing starts from the largest central square, so that nothing is stretched. With
    the crop STRETCH it starts from the whole image.
    """

    crop: int = 0
    size: int = 0

    def image(self, image: Image, name: object) -> Image:
        """The image fitted; raises DataError, which begins with ``name``, where the crop is larger than it."""
        from PIL.Image import Resampling

        if max(self.crop, 0) > min(image.size):
            raise DataError(
                f"{name} is {image.width} x {image.height}, and --crop asks for its central {self.crop} x {self.crop} pixels. "
                f"Give at most {min(image.size)}, or leave that image out."
            )
        if not any(self):
            return image
        if self.crop == STRETCH:
            return image.resize((self.size, self.size), Resampling.BILINEAR)
        side = self.crop or min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        return square if self.size in (0, side) else square.resize((self.size, self.size), Resampling.BILINEAR)

    def array(self, images: np.ndarray, name: object) -> np.ndarray:
        """Uint8 (n, channels, height, width) fitted one by one; raises as ``image`` does."""
        if not any(self) or not len(images):
            return images
        from PIL.Image import fromarray

        fitted = [
            np.stack([np.asarray(self.image(fromarray(channel), name)) for channel in channels]) for channels in images
        ]
        return np.stack(fitted)
