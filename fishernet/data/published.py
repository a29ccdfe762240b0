"""Data sets by name as torchvision lays them out: checked against its checksums, downloaded by it where nothing is there."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import math
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fishernet.data import DATA_DIR_VARIABLE, DataError
from fishernet.data.files import Array, Parts

SIDE = 28  # of images in IDX files
EMNIST_ZIP = "gzip.zip"
NOT_ALLOWED = "downloading was not allowed"


@dataclass(frozen=True)
class Published:
    """Where torchvision keeps a data set below its root, the md5 of each file, how it is fetched into a root, and read."""

    folder: str
    checksums: dict[str, str]
    fetch: Callable[[Path], object]
    read: Callable[[Path], Parts]


def load_published(dataset: str, data_dir: Path, download: bool) -> Parts:
    """The data set from its folder below data_dir, every file of which is verified; raises DataError that names what is not.

    Only where none of the files is there are they downloaded, and put into place whole.
    """
    source = SOURCES[dataset](dataset)
    folder = data_dir / source.folder
    names = " and ".join([", ".join([*source.checksums][:-1]), [*source.checksums][-1]]).removeprefix(" and ")
    missing = [name for name in source.checksums if not (folder / name).is_file()]
    if len(missing) == len(source.checksums):
        if problem := downloaded(source.fetch, data_dir, source.folder, source.checksums) if download else NOT_ALLOWED:
            raise DataError(
                f"{dataset} is {names} in {folder}; none is there, and {problem}. Name the folder that holds {source.folder} "
                f"with --data-dir or {DATA_DIR_VARIABLE}, or run once where there is a network."
            )
    elif missing:
        raise DataError(
            f"{dataset} is {names}, and {folder} lacks {', '.join(missing)}. Put what is missing there, or delete the others and "
            "run again to download all."
        )
    for name, md5 in source.checksums.items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != md5:
            raise DataError(
                f"{folder / name} is damaged, or another file: its md5 is {found}, and that of {dataset} is {md5}. Get it again, "
                f"or delete the files in {folder} and run again to download them."
            )
    return source.read(data_dir)


def downloaded(fetch: Callable[[Path], object], data_dir: Path, folder: str, names: Collection[str]) -> str:
    """Empty once ``fetch`` has put these files into data_dir/folder; else why they are not there, a part of a sentence.

    It fetches into a folder beside, so that a killed one leaves nothing in the place of the data.
    """
    target = data_dir / folder
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as temporary:
            fetch(Path(temporary))
            try:
                (Path(temporary) / folder).rename(target)
            except OSError:
                if not all((target / name).is_file() for name in names):
                    raise  # otherwise another process has put the same files there in the meantime
    except Exception as error:  # of several packages, which raise what they like
        return f"the download failed ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    return ""


def _torchvision(name: str) -> Any:
    return getattr(importlib.import_module("torchvision.datasets"), name)


def _labels(values: Any) -> Array:
    return np.asarray(values, np.int64)


def _cifar(name: str, dataset: str) -> Published:
    """Five batches of training images and one of test images, pickled: read by torchvision, and only once they are verified."""
    cls = _torchvision(name)
    meta = {cls.meta["filename"]: cls.meta["md5"]}

    def read(root: Path) -> Parts:
        train, test = cls(str(root), train=True), cls(str(root), train=False)
        pixels = [part.data.transpose(0, 3, 1, 2) for part in (train, test)]
        return Parts(pixels[0], pixels[1], _labels(train.targets), _labels(test.targets))

    return Published(
        cls.base_folder,
        dict([*cls.train_list, *cls.test_list]) | meta,
        lambda root: cls(str(root), download=True),
        read,
    )


def _svhn(dataset: str) -> Published:
    cls = _torchvision("SVHN")
    files = {split: cls.split_list[split][1:] for split in ("train", "test")}

    def part(root: Path, split: str, download: bool = False) -> Any:
        return cls(str(root / "SVHN"), split=split, download=download)

    def read(root: Path) -> Parts:
        train, test = part(root, "train"), part(root, "test")
        return Parts(train.data, test.data, _labels(train.labels), _labels(test.labels))

    return Published(
        "SVHN",
        dict(files.values()),
        lambda root: [part(root, split, True) for split in files],
        read,
    )


def _kmnist(dataset: str) -> Published:
    cls = _torchvision("KMNIST")
    names = [name for name, _ in cls.resources]

    def read(root: Path) -> Parts:
        paths = [root / "KMNIST" / "raw" / name for name in names]
        return _of_idx([(str(path), path.read_bytes()) for path in paths])

    return Published("KMNIST/raw", dict(cls.resources), lambda root: cls(str(root), download=True), read)


def _emnist(dataset: str) -> Published:
    """One archive has all splits. Its images lie on their side, rows for columns, and the labels of letters begin at 1."""
    cls, split = _torchvision("EMNIST"), dataset.removeprefix("emnist-")

    def fetch(root: Path) -> None:
        from torchvision.datasets.utils import download_url

        download_url(cls.url, str(root / "EMNIST" / "raw"), EMNIST_ZIP, cls.md5)

    def read(root: Path) -> Parts:
        path = root / "EMNIST" / "raw" / EMNIST_ZIP
        names = [f"gzip/emnist-{split}-{part}-ubyte.gz" for part in ("train-images-idx3", "train-labels-idx1",
                                                                     "test-images-idx3", "test-labels-idx1")]  # fmt: skip
        with zipfile.ZipFile(path) as archive:
            parts = _of_idx([(f"{name} in {path}", archive.read(name)) for name in names])
        first = int(split == "letters")
        train, test, train_labels, test_labels, *_ = parts
        assert train_labels is not None
        assert test_labels is not None
        return Parts(train.swapaxes(2, 3), test.swapaxes(2, 3), train_labels - first, test_labels - first)

    return Published("EMNIST/raw", {EMNIST_ZIP: cls.md5}, fetch, read)


def _of_idx(files: list[tuple[str, bytes]]) -> Parts:
    """Gzipped IDX files by name, in the order training images, their labels, test images, their labels."""
    train, train_labels, test, test_labels = (
        _idx(what, content, n_axes) for (what, content), n_axes in zip(files, (3, 1, 3, 1), strict=True)
    )
    return Parts(train[:, None], test[:, None], _labels(train_labels), _labels(test_labels))


def _idx(what: str, content: bytes, n_axes: int) -> Array:
    """The array of bytes of a gzipped IDX file (LeCun et al. 1998): magic, sizes, values."""
    try:
        content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{what} cannot be read: {error}. Get it again.") from None
    sizes = np.frombuffer(content[4 : 4 + 4 * n_axes], ">u4").tolist()
    if content[:4] != bytes([0, 0, 8, n_axes]) or len(content) != 4 + 4 * n_axes + math.prod(sizes):
        raise DataError(f"{what} is no IDX file of bytes with {n_axes} axes, or is cut short. Get it again.")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_axes).reshape(sizes)


SOURCES: dict[str, Callable[[str], Published]] = {
    "cifar10": partial(_cifar, "CIFAR10"),
    "cifar100": partial(_cifar, "CIFAR100"),
    "kmnist": _kmnist,
    "svhn": _svhn,
    **dict.fromkeys(
        ("emnist-balanced", "emnist-letters", "emnist-digits", "emnist-byclass", "emnist-bymerge"), _emnist
    ),
}
