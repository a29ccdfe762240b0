"""Original images above their reconstructions, as one PNG."""

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 56  # pixels an image should measure on the screen, about
LARGEST = 4 * SIDE  # larger ones are averaged to it
GAP = 4  # pixels between images


def reconstruction_picture(pictures_npz: Path, out_png: Path) -> None:
    """Draw ``originals`` above ``reconstructions``, uint8 (n, channels, height, width), grey or colour.

    Images are enlarged by a whole factor, so that every pixel stays a square; large ones are reduced. Raises ValueError
    for a file that does not hold two such arrays.
    """
    try:
        with np.load(pictures_npz) as arrays:
            rows = [arrays["originals"], arrays["reconstructions"]]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{pictures_npz} does not hold originals and reconstructions: {error}") from error
    shape = rows[0].shape
    if rows[1].shape != shape or len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
        raise ValueError(
            f"{pictures_npz} must hold two arrays (n, 1 or 3, height, width); got {shape} and {rows[1].shape}"
        )
    n, channels, height, width = shape
    factor = max(1, round(SIDE / max(height, width)))
    reduction = min(1.0, LARGEST / max(height, width))
    high, wide = max(1, round(reduction * factor * height)), max(1, round(reduction * factor * width))
    filter_ = Image.Resampling.BOX if reduction < 1 else Image.Resampling.NEAREST
    canvas = Image.new("L" if channels == 1 else "RGB", (n * (wide + GAP) - GAP, 2 * high + GAP), "white")
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            pixels = image[0] if channels == 1 else image.transpose(1, 2, 0)  # (height, width[, 3])
            enlarged = Image.fromarray(np.ascontiguousarray(pixels)).resize((wide, high), filter_)
            canvas.paste(enlarged, (column * (wide + GAP), row * (high + GAP)))
    canvas.save(out_png)
