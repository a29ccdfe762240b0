"""CelebA: 202,599 faces (Liu et al. 2015) in torchvision's layout, decoded once into a file that every process maps."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fishernet.data import DATA_DIR_VARIABLE, DataError
from fishernet.data.files import Array, Parts
from fishernet.data.fitting import Fit
from fishernet.data.folders import decode

IMAGES, PARTITION = "img_align_celeba", "list_eval_partition.txt"
TRAIN, VALIDATION, TEST = "0", "1", "2"  # in the partition file
AT_ONCE = 1000  # images in memory while they are decoded


def load_celeba(_dataset: str, data_dir: Path, fit: Fit) -> Parts:
    """The official training and test parts, 162,770 and 19,962 images in colour; the validation part is left out.

    Without ``fit`` they are 178 x 218. The pixels are kept beside the images as CROP-SIZE-KEY.npy, whose key is of the partition
    file, written whole or not at all, and mapped. Raises DataError where a file is missing or damaged.
    """
    folder = data_dir / "celeba"
    found = {part: [folder / IMAGES / name for name in names] for part, names in _partition(folder).items()}
    paths = [*found[TRAIN], *found[TEST]]
    key = hashlib.sha256((folder / PARTITION).read_bytes()).hexdigest()[:12]
    decoded = folder / f"{fit.crop}-{fit.size}-{key}.npy"
    if not decoded.exists():
        _check_images(folder, paths)
        _decode_into(decoded, paths, fit)
    images = np.load(decoded, mmap_mode="c")  # so that torch takes it as writable; nothing reaches the file
    return Parts(images[: len(found[TRAIN])], images[len(found[TRAIN]) :], None, None)


def _partition(folder: Path) -> dict[str, list[str]]:
    """The names of the images of each part, in the order of the file."""
    path = folder / PARTITION
    if not path.is_file() or not (folder / IMAGES).is_dir():
        raise DataError(
            f"celeba is read from two files of its authors: {PARTITION}, to be put into {folder}, and img_align_celeba.zip, "
            f"whose images belong into {folder / IMAGES}. They are not downloaded, as their host refuses most requests. Another "
            f"folder is named with --data-dir or {DATA_DIR_VARIABLE}."
        )
    parts: dict[str, list[str]] = {TRAIN: [], VALIDATION: [], TEST: []}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or words[1] not in parts or Path(words[0]).name != words[0]:
            raise DataError(
                f"{path}, line {number}, must be the name of an image and 0, 1 or 2 (training, validation, test); "
                f"got {line[:80]!r}."
            )
        parts[words[1]].append(words[0])
    for part, meaning in ((TRAIN, "training"), (TEST, "test")):
        if not parts[part]:
            raise DataError(f"{path} names no {meaning} image ({part}). Bring the original file back.")
    return parts


def _check_images(folder: Path, paths: list[Path]) -> None:
    there = {path.name for path in (folder / IMAGES).iterdir()}
    if missing := [path.name for path in paths if path.name not in there]:
        raise DataError(
            f"{folder / IMAGES} lacks {len(missing):,} of the {len(paths):,} images that {PARTITION} names, such as "
            f"{missing[0]}. Unpack img_align_celeba.zip again."
        )


def _decode_into(target: Path, paths: list[Path], fit: Fit) -> None:
    with _partial(target) as partial:
        whole: Array | None = None
        for start in range(0, len(paths), AT_ONCE):
            pixels, _ = decode(paths[start : start + AT_ONCE], fit)
            if whole is None:
                shape = (len(paths), *pixels.shape[1:])
                whole = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
            if pixels.shape[1:] != whole.shape[1:]:
                raise DataError(
                    f"{paths[start]} and those after it have the shape {pixels.shape[1:]}, the images before {whole.shape[1:]}; "
                    "the images of celeba are 178 x 218 in colour. Unpack img_align_celeba.zip again."
                )
            whole[start : start + len(pixels)] = pixels


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A file beside the target, which it becomes at the end of the block and is removed where that raises."""
    try:
        number, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=".npy")
    except OSError as error:
        raise DataError(
            f"{target.parent} is where decoded images are kept, and cannot be written to: {error}."
        ) from None
    os.close(number)
    try:
        yield Path(name)
        Path(name).replace(target)
    except OSError as error:
        raise DataError(f"{target}, where decoded images are kept, cannot be written: {error}.") from None
    finally:
        Path(name).unlink(missing_ok=True)
