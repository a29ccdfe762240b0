"""Fashion-MNIST and MNIST: four IDX files each, read as they are published, downloaded where they are missing."""

import gzip
import hashlib
import http.client
import math
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np

from fishernet.data import DATA_DIR_VARIABLE, DataError
from fishernet.data.files import Array, Parts

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


def load_idx(dataset: str, data_dir: Path, download: bool) -> Parts:
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
    return Parts(train[:, None], test[:, None], train_labels.astype(np.int64), test_labels.astype(np.int64))


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
