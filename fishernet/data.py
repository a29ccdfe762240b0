"""Images as uint8 tensors in memory: Fashion-MNIST, MNIST, scikit-learn's digits, or one's own files."""

import gzip
import hashlib
import http.client
import math
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fishernet.plan import DataError as DataError
from fishernet.plan import unknown_dataset

Array = npt.NDArray[Any]
Parts = tuple[Array, Array, Array | None, Array | None]  # train, test, train labels, test labels

DATA_DIR_VARIABLE = "FISHERNET_DATA_DIR"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow"}  # by the module's name, what only some data are read with
LABELS_OF = {"train": "train_labels", "test": "test_labels", "images": "labels"}  # arrays of an .npz file

IDX_SHAPES = {
    "train-images-idx3-ubyte": (60000, 28, 28),
    "train-labels-idx1-ubyte": (60000,),
    "t10k-images-idx3-ubyte": (10000, 28, 28),
    "t10k-labels-idx1-ubyte": (10000,),
}
# Folder, and the md5 of each of those files *extracted*, computed from the .gz files whose md5 torchvision
# publishes (MNIST.resources); test_data.py checks both links. So one checksum serves the extracted file, the
# official .gz, and one that somebody packed anew.
IDX_DATASETS = {
    "fashion-mnist": ("FashionMNIST", (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965")),
    "mnist": ("MNIST", (
        "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637")),
}  # fmt: skip


@dataclass(frozen=True)
class ImageData:
    """Images, uint8 (n_images, channels, height, width), in memory; labels, int64 (n_images,), or None.

    ``name`` is the dataset's name or the path as given. ``fingerprint`` is the start of a sha256 over shapes
    and bytes of all that was read, before ``train_size`` and ``validation_size`` cut it: with equal ones
    two sweeps saw the same data. ``held_out`` says what ``test`` holds, "test" or "validation".
    """

    name: str
    train: torch.Tensor
    test: torch.Tensor
    train_labels: torch.Tensor | None
    test_labels: torch.Tensor | None
    fingerprint: str
    held_out: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.train.shape[1:]
        return channels, height, width


def load_data(
    dataset: str, data_dir: str | os.PathLike[str] | None = None, *, train_size: int = 0,
    validation_size: int = 0, download: bool = True,
) -> ImageData:  # fmt: skip
    """The images of a built-in dataset (a name in DATASETS) or of a path.

    fashion-mnist and mnist are read from data_dir, else $FISHERNET_DATA_DIR, else ~/.cache/fishernet,
    extracted or .gz; only when none of their files is there are they downloaded. A path is one of

    * an .npz file with arrays ``train`` and ``test`` (and ``train_labels``, ``test_labels``);
    * an .npz file with ``images`` (and ``labels``), or an .npy file: the last sixth (rounded down, at least
      one) is the test set, so shuffle what is sorted;
    * a folder of images, with subfolders train and test, or without: again the last sixth is the test set.
      Folders below that are classes, if two or more: labels count their sorted names, and they take turns.

    ``_pixels`` says which arrays are images, ``_decode`` which files. ``validation_size`` images from the end
    of the training set replace the test set, so that model selection never sees it; ``train_size`` then keeps
    the first of what remains (0: all). Raises DataError.
    """
    try:
        parts = _load(dataset, data_dir, download)
    except ModuleNotFoundError as error:
        package = PACKAGES.get(str(error.name).partition(".")[0])
        if not package:
            raise
        raise DataError(
            f"{dataset} is read with {package}, which is not installed here: pip install {package}."
        ) from None
    train, test, train_labels, test_labels = parts
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"{dataset}: training and test images must have one shape (channels, height, width); "
            f"got {train.shape[1:]} and {test.shape[1:]}. Resize one of them."
        )
    if len(train) < 2:
        raise DataError(f"{dataset}: training needs 2 images or more; got {len(train)} beside the test set.")
    if not 0 <= validation_size < len(train):
        raise DataError(
            f"validation_size is how many of the {len(train)} training images of {dataset} are held out; "
            f"got {validation_size}. Give at least 0 and less than {len(train)}."
        )
    n_left = len(train) - validation_size
    if not 0 <= train_size <= n_left:
        raise DataError(
            f"train_size is how many images to train on (0: all), and {dataset} has {n_left} of them "
            f"with validation_size {validation_size}; got {train_size}. Give at most {n_left}."
        )
    fingerprint = hashlib.sha256()
    for array in parts:
        fingerprint.update(b"none" if array is None else str(array.shape).encode() + array.tobytes())
    if validation_size:
        test, test_labels = train[n_left:], None if train_labels is None else train_labels[n_left:]
    n_train = train_size or n_left
    return ImageData(
        dataset,
        _tensor(train[:n_train]),
        _tensor(test),
        None if train_labels is None else _tensor(train_labels[:n_train]),
        None if test_labels is None else _tensor(test_labels),
        fingerprint.hexdigest()[:16],
        "validation" if validation_size else "test",
    )


def _load(dataset: str, data_dir: str | os.PathLike[str] | None, download: bool) -> Parts:
    if dataset not in DATASETS:
        return _load_path(dataset)
    # os.path, as pathlib raises for a ~user that does not exist
    folder = Path(os.path.expanduser(data_dir or os.environ.get(DATA_DIR_VARIABLE) or "~/.cache/fishernet"))  # noqa: PTH111
    return DATASETS[dataset](folder, download)


def _tensor(array: Array) -> torch.Tensor:
    """A copy: the array may be read-only, transposed, or a part that would keep the whole in memory."""
    return torch.from_numpy(np.array(array, order="C"))


def _load_idx(dataset: str, data_dir: Path, download: bool) -> Parts:
    """Fashion-MNIST or MNIST from data_dir, which may also be the folder FashionMNIST (MNIST) or its raw."""
    name, checksums = IDX_DATASETS[dataset]
    folders = [data_dir / name / "raw", data_dir / "raw", data_dir]
    folder = next((f for f in folders if any(_idx_file(f, file) for file in IDX_SHAPES)), None)
    if folder is None:
        problem = "downloading was not allowed"
        try:
            if download:
                folder = _download(name, folders[0])
        except (OSError, RuntimeError, ImportError, http.client.HTTPException) as error:
            problem = f"the download failed ({type(error).__name__}: {error})"
        if folder is None:
            raise DataError(
                f"{dataset} is the four files {', '.join(IDX_SHAPES)}, extracted or .gz; none is in "
                f"{' or '.join(map(str, folders))}, and {problem}. Name the folder that holds {name}/raw "
                f"with --data-dir or {DATA_DIR_VARIABLE}, or run once where there is a network."
            )
    paths = {file: path for file in IDX_SHAPES if (path := _idx_file(folder, file))}
    if missing := [file for file in IDX_SHAPES if file not in paths]:
        raise DataError(
            f"{dataset} is four files, and {folder} lacks {', '.join(missing)} (extracted or .gz). "
            f"Put what is missing there, or delete the others and run again to download all four."
        )
    train, train_labels, test, test_labels = (
        _read_idx(paths[file], dataset, md5, IDX_SHAPES[file]) for file, md5 in zip(IDX_SHAPES, checksums, strict=True)
    )
    return train[:, None], test[:, None], train_labels.astype(np.int64), test_labels.astype(np.int64)


def _idx_file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _download(name: str, raw: Path) -> Path:
    """Torchvision's verified download, moved to `raw` whole, so that a killed one leaves nothing there."""
    import torchvision.datasets

    raw.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=raw.parent, prefix=".download-") as temporary:
        getattr(torchvision.datasets, name)(temporary, download=True)
        try:
            (Path(temporary) / name / "raw").rename(raw)
        except OSError:
            if not all(_idx_file(raw, file) for file in IDX_SHAPES):
                raise  # otherwise another process has put the same files there in the meantime
    return raw


def _read_idx(path: Path, dataset: str, md5: str, shape: tuple[int, ...]) -> Array:
    """The array in an IDX file, gzipped or not, whose extracted content has this md5."""
    header = struct.pack(f">{1 + len(shape)}I", 0x0800 | len(shape), *shape)  # 0x08: unsigned bytes
    n_bytes = len(header) + math.prod(shape)
    remedy = f"Get it again, or delete the four files in {path.parent} and run again to download them"
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found == md5:
            return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
        owner = [name for name, (_, known) in IDX_DATASETS.items() if found in known]
        if owner:
            problem = f"belongs to {owner[0]}, whose files have the same names"
            remedy = f"Name the folder of {dataset} with --data-dir or {DATA_DIR_VARIABLE}"
        elif not content:
            problem = "is empty"
        elif not content.startswith(header):
            problem = f"begins with {content[: len(header)].hex()}, not with magic and sizes {header.hex()}"
        elif len(content) != n_bytes:
            problem = f"has {len(content)} bytes extracted, not {n_bytes}"
        elif len(shape) == 1 and max(content[len(header) :]) > 9:
            problem = f"holds the label {max(content[len(header) :])}, and labels are 0 to 9"
        else:
            problem = f"has the md5 {found} extracted, not {md5}"
    except (OSError, EOFError, zlib.error) as error:
        problem = f"cannot be read: {error}"
    raise DataError(
        f"{path} {problem}; it is not the {dataset} file of that name. {remedy}. "
        f"Images of your own go into an .npz file."
    )


def _load_digits(_data_dir: Path, _download: bool) -> Parts:
    """scikit-learn's 8x8 digits, which come with the package; the last 360 of 1797 are the test set."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)[:, None]  # values are 0 to 16
    return images[:-360], images[-360:], digits.target[:-360], digits.target[-360:]


DATASETS: dict[str, Callable[[Path, bool], Parts]] = {
    "fashion-mnist": partial(_load_idx, "fashion-mnist"),
    "mnist": partial(_load_idx, "mnist"),
    "digits": _load_digits,
}


def _load_path(dataset: str) -> Parts:
    # os.path says no where pathlib raises: for a ~user that does not exist, for a name that is too long
    path = os.path.expanduser(dataset)  # noqa: PTH111
    if os.path.isdir(path):  # noqa: PTH112
        return _load_folder(Path(path))
    if os.path.isfile(path) and path.lower().endswith((".npz", ".npy")):  # noqa: PTH113
        return _load_arrays(Path(path))
    raise unknown_dataset(dataset)


def _split(images: Array, labels: Array | None) -> Parts:
    n_train = len(images) - min(max(1, len(images) // 6), len(images) - 1)
    if labels is None:
        return images[:n_train], images[n_train:], None, None
    return images[:n_train], images[n_train:], labels[:n_train], labels[n_train:]


def _load_arrays(path: Path) -> Parts:
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
    for name, label_name in LABELS_OF.items():
        if name in arrays:
            arrays[name] = _pixels(arrays[name], f"array {name} of {path}")
        if label_name in arrays:
            labels = arrays[label_name]
            if labels.shape != arrays[name].shape[:1] or labels.dtype.kind not in "biu":
                raise DataError(
                    f"array {label_name} of {path} must be {len(arrays[name])} whole numbers, one per image; "
                    f"got {labels.dtype} of shape {labels.shape}. Mend it, or leave it out."
                )
            arrays[label_name] = labels.astype(np.int64)
    if "images" in arrays:
        return _split(arrays["images"], arrays.get("labels"))
    return arrays["train"], arrays["test"], arrays.get("train_labels"), arrays.get("test_labels")


def _pixels(array: Array, what: str) -> Array:
    """The array as uint8 (n_images, channels, height, width); raises DataError, which begins with `what`.

    Axes are (n, height, width), (n, channels, height, width) or (n, height, width, channels), with 1 or 3
    channels; where the last two both fit, they come first, as in ImageData. Values are floats in [0, 1],
    integers in 0..255, or booleans; integers of at most 1 are refused, as they are a mask and 255 is white.
    """
    shape = array.shape
    if array.size == 0:
        raise DataError(f"{what} holds no images: its shape is {shape}. Give at least one.")
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
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(f"{what} holds NaN or infinite values. Remove those images, or fill the values in.")
    largest = 1 if kind == "f" else 255
    if low < 0 or high > largest:
        remedy = "Divide it by 255." if kind == "f" and low >= 0 and high <= 255 else "Rescale it."
        noun = "floats in [0, 1]" if kind == "f" else "integers in 0..255"
        raise DataError(f"{what} must hold {noun}; it runs from {low} to {high}. {remedy}")
    if kind == "f":
        return np.rint(array * 255).astype(np.uint8)
    if high <= 1:
        raise DataError(f"{what} holds integers of at most 1, where 255 is white. Save it as bool or float.")
    return array.astype(np.uint8)


def _load_folder(folder: Path) -> Parts:
    present = [folder / part for part in ("train", "test") if (folder / part).is_dir()]
    if len(present) == 1:
        raise DataError(
            f"{folder} has a subfolder {present[0].name} without its counterpart. Make both train and test, "
            f"or put the images directly into the folder: the last sixth is then the test set."
        )
    parts = [_image_files(part) for part in present or [folder]]
    classes = sorted({class_name for files in parts for _, class_name in files if class_name})
    images = _decode([path for files in parts for path, _ in files])
    labels = [
        np.array([classes.index(name) for _, name in files])
        if len(classes) > 1 and all(name for _, name in files)
        else None
        for files in parts
    ]
    n_train = len(parts[0])
    if present:
        return images[:n_train], images[n_train:], labels[0], labels[1]
    return _split(images, labels[0])


def _image_files(folder: Path) -> list[tuple[Path, str]]:
    """(path, class) of the images below the folder; the class is the first subfolder on the way, or "".

    Sorted by path within a class. Classes take turns in proportion to their sizes: sorted by path alone, the
    first images (train_size) and the last (the test set, validation_size) would be those of one class.
    """
    by_class: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        hidden = any(part.startswith(".") for part in inside)  # as the ._x.png that macOS puts into archives
        if path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file():
            by_class.setdefault(inside[0] if len(inside) > 1 else "", []).append(path)
    if not by_class:
        raise DataError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}). Put some there.")
    if "" in by_class and len(by_class) > 1:
        raise DataError(
            f"{folder} holds images both directly ({by_class[''][0].name}) and in subfolders, which stand "
            f"for classes. Move all of them into subfolders, or none."
        )
    turns = [((i + 0.5) / len(p), path, name) for name, p in by_class.items() for i, path in enumerate(p)]
    return [(path, name) for _, path, name in sorted(turns)]


def _decode(paths: list[Path]) -> Array:
    """The files' pixels, uint8 (n_images, channels, height, width): grey if every file is grey, else RGB.

    Alpha is dropped. Grey of more than 8 bits is refused: such files often use 10 or 12 of 16 bits, so that
    no one scale is right.
    """
    from PIL import Image

    images: list[Array] = []
    for path in paths:
        try:
            with Image.open(path) as image:
                mode = image.mode
                pixels = np.asarray(image.convert("L" if mode in ("1", "L", "LA") else "RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path} cannot be read as an image: {error}. Replace or delete it.") from error
        if mode[0] in "IF":  # I, I;16, I;16B, F
            raise DataError(f"{path} has more than 8 bits per pixel (Pillow's {mode}). Convert it to 8 bits.")
        images.append(pixels.reshape(*pixels.shape[:2], -1))
        (h0, w0), (h, w) = images[0].shape[:2], pixels.shape[:2]
        if (h, w) != (h0, w0):
            raise DataError(
                f"images must have one size; {paths[0]} is {w0} x {h0} and {path} is {w} x {h}. Resize them."
            )
    n_channels = max(image.shape[2] for image in images)
    stacked = np.stack([np.broadcast_to(image, (h0, w0, n_channels)) for image in images])
    return stacked.transpose(0, 3, 1, 2)
