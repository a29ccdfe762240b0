"""CelebA: 202,599 faces (Liu et al. 2015) in torchvision's layout, decoded once into a file that every process maps."""

import contextlib
import hashlib
import json
from pathlib import Path

import numpy as np

from fishernet.data import DATA_DIR_VARIABLE, DataError
from fishernet.data.decoding import decode_into
from fishernet.data.files import Parts, fingerprint
from fishernet.data.fitting import Fit
from fishernet.data.published import NOT_ALLOWED, downloaded

IMAGES, PARTITION, ARCHIVE = "img_align_celeba", "list_eval_partition.txt", "img_align_celeba.zip"
TRAIN, VALIDATION, TEST = "0", "1", "2"  # in the partition file


def load_celeba(_dataset: str, data_dir: Path, fit: Fit, download: bool) -> Parts:
    """The official training and test parts, 162,770 and 19,962 images in colour; the validation part is left out.

    Without ``fit`` they are 178 x 218. The pixels are kept beside the images as CROP-SIZE-KEY.npy, whose key is of the partition
    file, decoded by as many processes as there are cores, written whole or not at all, and mapped. Their fingerprint is kept
    with them, as it takes seconds. Where nothing is there torchvision's download is tried. Raises DataError where a file is
    missing or damaged.
    """
    folder, problem = data_dir / "celeba", ""
    if not folder.is_dir() or not any(folder.iterdir()):
        problem = downloaded(_fetch, data_dir, "celeba", [PARTITION]) if download else NOT_ALLOWED
    found = {part: [folder / IMAGES / name for name in names] for part, names in _partition(folder, problem).items()}
    paths = [*found[TRAIN], *found[TEST]]
    key = hashlib.sha256((folder / PARTITION).read_bytes()).hexdigest()[:12]
    decoded = folder / f"{fit.crop}-{fit.size}-{key}.npy"
    if not decoded.exists():
        _check_images(folder, paths)
        decode_into(decoded, paths, fit)
    try:
        images = np.load(decoded, mmap_mode="c")  # so that torch takes it as writable; nothing reaches the file
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(paths):
            raise ValueError(f"it holds {images.dtype} of shape {images.shape} for {len(paths):,} images")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{decoded} is damaged: {error}. Once it is deleted, the images are decoded again.") from None
    parts = Parts(images[: len(found[TRAIN])], images[len(found[TRAIN]) :], None, None)
    return parts._replace(fingerprint=_kept_fingerprint(decoded, parts))


def _fetch(root: Path) -> None:
    """The two files that are read, by torchvision; the short one first, as a host that refuses it would refuse the other."""
    from torchvision.datasets import CelebA
    from torchvision.datasets.utils import download_file_from_google_drive, extract_archive

    folder = root / "celeba"
    file_of = {name: (file_id, md5) for file_id, md5, name in CelebA.file_list}
    for name in (PARTITION, ARCHIVE):
        file_id, md5 = file_of[name]
        download_file_from_google_drive(file_id, str(folder), name, md5)
    extract_archive(str(folder / ARCHIVE))
    (folder / ARCHIVE).unlink()


def _kept_fingerprint(decoded: Path, parts: Parts) -> str:
    """That of the decoded images, from the file beside them where it is of this size and time, else computed and kept there."""
    beside, state = decoded.with_suffix(".json"), decoded.stat()
    about = {"size": state.st_size, "modified": state.st_mtime_ns}
    try:
        kept = json.loads(beside.read_text(encoding="utf-8"))
        if {name: kept[name] for name in about} == about:
            return str(kept["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or a damaged one
    found = fingerprint(parts)
    with contextlib.suppress(OSError):  # it costs seconds and nothing else
        beside.write_text(json.dumps({**about, "fingerprint": found}), encoding="utf-8")
    return found


def _partition(folder: Path, problem: str = "") -> dict[str, list[str]]:
    """The names of the images of each part, in the order of the file."""
    path = folder / PARTITION
    if not path.is_file() or not (folder / IMAGES).is_dir():
        raise DataError(
            f"celeba is read from two files of its authors: {PARTITION}, to be put into {folder}, and {ARCHIVE}, "
            f"whose images belong into {folder / IMAGES}. "
            + (f"Nothing is there, and {problem}; their host refuses most requests. " if problem else "")
            + f"Another folder is named with --data-dir or {DATA_DIR_VARIABLE}."
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
