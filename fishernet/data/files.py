"""Images of one's own as arrays: .npz and .npy files, and what every source of images gives."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fishernet.data import DataError

Array = np.ndarray  # of numbers whose type is looked at

LABELS_OF = {"train": "train_labels", "test": "test_labels", "images": "labels"}  # arrays of an .npz file
OVERSHOOT = 0.2  # what resampling adds at the most to a range of 0 to 1, about
WHITES = (1023, 4095, 16383, 65535)  # of 10, 12, 14 and 16 bits


class Parts(NamedTuple):
    """What a source of images gives: uint8 (n_images, channels, height, width), int64 labels or None, and remarks.

    Of the training images the first ``n_train`` are to train on and the rest to hold out; 0 is all, and then whatever is held
    out is taken from their end.
    """

    train: Array
    test: Array
    train_labels: Array | None
    test_labels: Array | None
    remarks: tuple[str, ...] = ()
    n_train: int = 0
    fingerprint: str = ""  # where it is known without reading them


def fingerprint(parts: Parts) -> str:
    """The start of a sha256 over shapes and bytes of images and labels."""
    digest = hashlib.sha256()
    for array in parts[:4]:
        if array is None:
            digest.update(b"none")
        else:
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def split(images: Array, labels: Array | None, remarks: tuple[str, ...] = ()) -> Parts:
    """The last sixth, rounded down but at least one, as the test set."""
    n_train = len(images) - min(max(1, len(images) // 6), len(images) - 1)
    if labels is None:
        return Parts(images[:n_train], images[n_train:], None, None, remarks)
    return Parts(images[:n_train], images[n_train:], labels[:n_train], labels[n_train:], remarks)


def load_arrays(path: Path) -> Parts:
    """The arrays train and test (train_labels, test_labels), or images (labels), or the only one of an .npy file."""
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            loaded = {"images": loaded}
        names = sorted(loaded)
        arrays = {name: loaded[name] for pair in LABELS_OF.items() for name in pair if name in names}
    except Exception as error:  # whatever damaged bytes lead numpy to, be it its tokeniser or too large an array
        raise DataError(
            f"{path} cannot be read as arrays of numbers: {error}. Write it again with np.savez or np.save, "
            f"without Python objects, which would need unpickling."
        ) from error
    needed, allowed = {"train", "test"}, {"train", "test", "train_labels", "test_labels"}
    if "images" in arrays:
        needed, allowed = {"images"}, {"images", "labels"}
    if not needed <= arrays.keys() <= allowed:
        raise DataError(
            f"{path} must hold either train and test (and train_labels, test_labels) or images (and labels); "
            f"it holds {', '.join(names) or 'nothing'}. Name its arrays so in np.savez."
        )
    unread = [name for name in names if name not in arrays]
    remarks = [f"not read: {', '.join(unread)}"] if unread else []
    for name, label_name in LABELS_OF.items():
        if name in arrays:
            arrays[name] = pixels(arrays[name], f"array {name} of {path}")
        if label_name in arrays:
            arrays[label_name], how = _labels(arrays[label_name], len(arrays[name]), f"array {label_name} of {path}")
            remarks += [f"{label_name} {how}"] if how else []
    if "images" in arrays:
        parts = split(arrays["images"], arrays.get("labels"))
    else:
        parts = Parts(arrays["train"], arrays["test"], arrays.get("train_labels"), arrays.get("test_labels"))
    if parts.train_labels is not None and parts.test_labels is not None:
        alone = np.setdiff1d(parts.test_labels, parts.train_labels)
        shown = ", ".join(map(str, alone[:10])) + ", ..." * (len(alone) > 10)
        why = " (the last sixth is test: shuffle what is sorted)" if "images" in arrays else ""
        remarks += [f"only test has the labels {shown}{why}"] if len(alone) else []
    return parts._replace(remarks=tuple(remarks))


def _labels(array: Array, n: int, what: str) -> tuple[Array, str]:
    """Labels as int64 (n,), and how they were read where they are not whole numbers of that shape; raises DataError.

    Floats that are whole count as such, (n, 1) as (n,), and rows of one 1 among 0s (one-hot) as the place of the 1.
    """
    said = []
    labels = array
    if labels.shape == (n, 1):
        said, labels = ["of one column"], labels[:, 0]
    elif labels.ndim == 2 and len(labels) == n and labels.dtype.kind in "biuf":
        ones = labels == 1
        if ((ones | (labels == 0)).all() and (ones.sum(1) == 1).all()) and n:
            said, labels = ["were one-hot"], ones.argmax(1)
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.rint(labels)).all():
        said = [*said, "were whole floats"]
    elif labels.dtype.kind not in "biu":
        labels = np.empty(0)
    least, most = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    if labels.shape != (n,) or (n and not (least <= int(labels.min()) and int(labels.max()) <= most)):
        raise DataError(
            f"{what} must be {n} whole numbers, one per image (as one-hot rows, too); got {array.dtype} of shape "
            f"{array.shape}. Mend it, or leave it out."
        )
    return labels.astype(np.int64), " and ".join(said)


def pixels(array: Array, what: str) -> Array:
    """The array as uint8 (n_images, channels, height, width); raises DataError, which begins with `what`.

    Axes are (n, height, width), (n, channels, height, width) or (n, height, width, channels), with 1 or 3
    channels; where the last two both fit, they come first, as in ImageData. Values are floats in [0, 1],
    integers in 0..255, or booleans; integers of 0 and 1 alone are refused, as they are a mask and 255 is white.
    """
    shape = array.shape
    if array.size == 0:
        raise DataError(f"{what} holds no images: its shape is {shape}. Give at least one.")
    if array.ndim == 3 and shape[2] == 3:
        raise DataError(
            f"{what} may be one colour image, or {shape[0]} grey ones that are 3 pixels wide: its shape is {shape}. "
            "Add the axis that is missing: (n, height, width, 3) or (n, 1, height, 3)."
        )
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3):
        raise DataError(
            f"{what} must have the axes (n, height, width), (n, channels, height, width) or "
            f"(n, height, width, channels), channels 1 or 3; got {shape}. Reshape it; drop an alpha channel."
        )
    kind = array.dtype.kind
    if kind not in "biuf":
        raise DataError(f"{what} must hold uint8, or floats in [0, 1]; it holds {array.dtype}. Convert it.")
    if kind == "b":
        return array * np.uint8(255)
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{what} holds NaN or infinite values. Remove those images, or fill the values in.")
    largest = 1 if kind == "f" else 255
    if low < 0 or high > largest:
        noun = "floats in [0, 1]" if kind == "f" else "integers in 0..255"
        raise DataError(f"{what} must hold {noun}; it runs from {low} to {high}. {_remedy(low, high)}")
    if kind == "f":
        return np.rint(array * 255).astype(np.uint8)
    if high == 1:
        raise DataError(f"{what} holds integers of at most 1, where 255 is white. Save it as bool or float.")
    return array.astype(np.uint8)


def _remedy(low: float, high: float) -> str:
    """What makes floats in [0, 1] of values in this range, judged by its ends."""
    if low >= -OVERSHOOT and high <= 1 + OVERSHOOT:
        return "Clip it: np.clip(x, 0, 1)."
    if low < 0:
        return (
            "Rescale it: (x + 1) / 2 where it is meant to run from -1 to 1."
            if low >= -1 and high <= 1
            else "Rescale it."
        )
    if high <= 16:
        return "Divide it by 16, or by whatever is white in it."
    if high <= 255:
        return "Divide it by 255."
    white = next((white for white in WHITES if high <= white), None)
    bits = (
        f": divide it by {white} where it has {white.bit_length()} bits, by what is white in it otherwise"
        if white
        else ""
    )
    return f"Rescale it{bits}."
