"""Grey images made black and white once, at load; what is drawn anew in every epoch is in ``training.ResidentImages``."""

import hashlib

import numpy as np
import numpy.typing as npt

RELEASED_SEED = 777  # of the Fisher-Shannon paper's code, and of vae_vampprior's, from which it stems
RELEASED_SIZES = {"stopping": 10_000, "test": 10_000}  # MNIST as they split it
AT_ONCE = 1000  # images

Images = npt.NDArray[np.uint8]


def thresholded(images: Images) -> Images:
    """White, 255, where the grey value is above half."""
    return (images > 127).astype(np.uint8) * np.uint8(255)


def black_and_white(images: Images) -> bool:
    """Whether every pixel is 0 or 255."""
    return all(bool(((part == 0) | (part == 255)).all()) for part in np.array_split(images, 1 + len(images) // AT_ONCE))


def drawn(images: Images, random: np.random.RandomState) -> Images:
    """White with probability v/255 of grey value v: the bits of ``RandomState.binomial(1, v/255)``, one uniform number a pixel.

    That function's own: white where u > 1 - p for p <= 1/2, else where u <= p.
    """
    bits = np.empty_like(images)
    for first in range(0, len(images), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        p = images[part] / 255
        u = random.random_sample(p.shape)
        bits[part] = np.where(p <= 0.5, u > 1 - p, u <= p)
    return bits * np.uint8(255)


def drawn_once(dataset: str, sets: dict[str, Images]) -> dict[str, Images]:
    """Each set of images drawn once, from a stream of its own; of MNIST with 10,000 images to stop by the released code's bits.

    ``sets`` are among train, stopping, validation and test. The released code draws 10,000 validation images, by which it stops,
    and then the test images, both from RandomState(777).
    """
    held_out = {name: images for name, images in sets.items() if name != "train"}
    released = {name: len(images) for name, images in held_out.items()} == RELEASED_SIZES and dataset == "mnist"
    shared = np.random.RandomState(RELEASED_SEED)
    return {
        name: drawn(sets[name], shared if released and name != "train" else _stream(name))
        for name in sorted(sets)  # stopping before test
    }


def _stream(name: str) -> np.random.RandomState:
    """A set's own random numbers, the same in every run of every sweep."""
    return np.random.RandomState(int.from_bytes(hashlib.sha256(f"binarised/{name}".encode()).digest()[:4], "little"))
