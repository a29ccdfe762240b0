"""Folders of image files: which files are images of which part and class, and their pixels as their owner sees them."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from fishernet.data import DataError
from fishernet.data.files import Array, Parts, split
from fishernet.data.fitting import Fit

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")  # whatever the suffix says; an MPO is a JPEG to all
# Of more pages than one only the first would be read; the others of an MPO are previews and depths of the same picture.
ONE_PICTURE = ("MPO",)
GREY_MODES = ("1", "L", "LA")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
PART_OF = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "val": "val", "valid": "val",
    "validation": "val", "validating": "val", "dev": "val", "eval": "val", "evaluation": "val",
}  # fmt: skip
# What may stand beside these words in a folder's name.
FILLING = {"set", "data", "dataset", "split", "part", "images", "image", "imgs", "img"}
# Of operating systems, archives and storage boxes, by name in lower case; so is what begins with a dot.
NOBODYS = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin", "lost+found"}
PNG_DEPTH = 24  # the byte of a PNG's header that holds its bits per channel
BITS_PER_SAMPLE, SAMPLE_FORMAT = 258, 339  # tags of a TIFF


def load_folder(folder: Path, fit: Fit) -> Parts:
    """Images of ``train`` and ``test`` below the folder, however these are spelt, or of the folder, the last sixth as test set.

    The folders below that are classes, if two or more: labels count their sorted names, and they take turns. Links to folders
    are followed, each real folder once. Raises DataError.
    """
    found = _part_folders(folder)
    parts = {part: found[part][0] for part in ("train", "test")} if found else {"": folder}
    read = _Reading({os.path.realpath(path) for path in parts.values()}, os.path.realpath(folder))
    if len(read.tops) < len(parts):
        raise DataError(
            f"{parts['train']} and {parts['test']} are links to one folder: every test image would be trained on."
        )
    files = {part: read.images(path) for part, path in parts.items()}
    for path in sorted(folder.iterdir()) if found else ():
        if path not in parts.values() and not _is_nobodys(path.name):
            read.count_unread(path)
    classes = sorted({class_name for part in files.values() for _, class_name in part if class_name})
    images, remarks = decode([path for part in files.values() for path, _ in part], fit)
    labels = {
        part: np.array([classes.index(name) for _, name in of_part])
        if len(classes) > 1 and all(name for _, name in of_part)
        else None
        for part, of_part in files.items()
    }
    remarks = [*read.remarks(folder), *remarks]
    if any(of_part is not None for of_part in labels.values()):
        shown = ", ".join(classes[:10]) + (f", ... ({len(classes)})" if len(classes) > 10 else "")
        remarks.append(f"labels are the folders {shown}")
        for part, other in (("train", "test"), ("test", "train")) if found else ():
            alone = {name for _, name in files[part]} - {name for _, name in files[other]} - {""}
            if alone and labels[part] is not None and labels[other] is not None:
                remarks.append(f"only {part} has {', '.join(sorted(alone)[:10])}")
            elif labels[part] is None:
                remarks.append(f"{part} has no labels")
    if found:
        n_train = len(files["train"])
        return Parts(images[:n_train], images[n_train:], labels["train"], labels["test"], tuple(remarks))
    return split(images, labels[""], tuple(remarks))


def read_images(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], fit: Fit) -> Array:
    """Images as they are, uint8 (n_images, channels, height, width): of a file, of files in their order, or of a folder.

    A folder's are all below it, by sorted path, whatever their folders are called. Raises DataError.
    """
    if not isinstance(source, str | os.PathLike):
        paths = [_at_home(path) for path in source]
    elif (top := _at_home(source)).is_dir():
        inside = (path for path in top.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        paths = sorted(path for path in inside if not any(map(_is_nobodys, path.relative_to(top).parts)))
        if not paths:
            raise DataError(f"{top} holds no images ({', '.join(IMAGE_SUFFIXES)}). Put some there.")
    else:
        paths = [top]
    for path in paths:
        if not path.is_file():
            what = "is a folder among files" if path.is_dir() else "does not exist"
            raise DataError(f"{path} {what}. Give an image file, a list of these, or a folder of them.")
    return decode(paths, fit)[0]


def _at_home(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.expanduser(path))  # noqa: PTH111 (for a word like ~nobody)


def part_of(name: str, siblings: Iterator[str] | tuple[str, ...] = ()) -> str:
    """train, test or val where the name of a folder means that part of a data set, in any case and spelling; else empty.

    ``Training set`` does, and ``mnist_train`` where ``mnist_test`` stands beside it.
    """
    part, rest = _part_and_rest(name)
    if not part or not rest:
        return part
    return part if any(other and other != part and r == rest for other, r in map(_part_and_rest, siblings)) else ""


def _part_and_rest(name: str) -> tuple[str, tuple[str, ...]]:
    """The part that a word of the name means, if any, and its other words but those that fill."""
    words = re.findall(r"[^\W\d_]+", name.casefold())
    words = [
        re.sub(rf"^(.+?)(?:{'|'.join(FILLING)})$", lambda m: m[1] if m[1] in PART_OF else m[0], word) for word in words
    ]
    parts = {PART_OF[word] for word in words if word in PART_OF}
    rest = tuple(word for word in words if word not in PART_OF and word not in FILLING)
    return (parts.pop(), rest) if len(parts) == 1 else ("", rest)


def _part_folders(folder: Path) -> dict[str, list[Path]]:
    """train and test, where the folder has parts, and val where it has that too; raises DataError for parts that are unclear."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not _is_nobodys(path.name))
    names = tuple(path.name for path in inside)
    found: dict[str, list[Path]] = {}
    for path in inside:
        if part := part_of(path.name, names):
            found.setdefault(part, []).append(path)
    for part in ("train", "test"):
        if len(found.get(part, ())) > 1:
            raise DataError(
                f"{folder} has several subfolders that mean {part}: {', '.join(path.name for path in found[part])}. "
                "Put their images into one, or rename what is something else."
            )
    if found and not found.keys() >= {"train", "test"}:
        names_found = " and ".join(path.name for paths in found.values() for path in paths)
        raise DataError(
            f"{folder} has a subfolder {names_found} without its counterpart. Make both train and test (rename what models "
            "are to be scored on to test), or put the images directly into the folder: the last sixth is then the test set. "
            "A class goes by another name."
        )
    return found


@dataclass
class _Reading:
    """The walk through a data set's folders. ``tops``: the real folders of its parts, which no link inside leads to again."""

    tops: set[str]
    folder: str
    seen: set[str] = field(default_factory=set)
    unread: Counter[str] = field(default_factory=Counter)  # by what they are: a suffix, or a folder beside the parts
    again: list[Path] = field(default_factory=list)  # links to what is read already

    def images(self, top: Path) -> list[tuple[Path, str]]:
        """(path, class) of the images below the folder; the class is the first subfolder on the way, or "".

        Sorted by path within a class. Classes take turns in proportion to their sizes: sorted by path alone, the
        first images (train_size) and the last (the test set, validation_size) would be those of one class.
        """
        by_class: dict[str, list[Path]] = {}
        for path in sorted(self._files(top)):
            inside = path.relative_to(top).parts
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                self.unread[path.suffix.lower() or "without suffix"] += 1
            elif not path.is_file():
                what = "a link to a file that is not there" if path.is_symlink() else "no file"
                raise DataError(f"{path} is {what}. Bring it back, or delete it.")
            else:
                # macOS writes é as two characters where others write one
                name = unicodedata.normalize("NFC", inside[0]) if len(inside) > 1 else ""
                by_class.setdefault(name, []).append(path)
        if not by_class:
            raise DataError(
                f"{top} holds no images ({', '.join(IMAGE_SUFFIXES)}). Put some there.{self._other_suffixes()}"
            )
        if "" in by_class and len(by_class) > 1:
            raise DataError(
                f"{top} holds images both directly ({by_class[''][0].name}) and in subfolders, which stand "
                f"for classes. Move all of them into subfolders, or none."
            )
        turns = [((i + 0.5) / len(p), path, name) for name, p in by_class.items() for i, path in enumerate(p)]
        return [(path, name) for _, path, name in sorted(turns)]

    def _files(self, top: Path) -> Iterator[Path]:
        """Everything below the folder that is no folder and not hidden; what links lead to after all that is really there."""
        folders: list[Path] = [top]
        links: list[Path] = []
        while folders or links:
            folder = folders.pop() if folders else links.pop(0)
            real = os.path.realpath(folder)
            if folder != top and (real in self.seen | self.tops or _is_above(real, self.folder)):
                self.again.append(folder)
                continue
            self.seen.add(real)
            try:
                inside = sorted(path for path in folder.iterdir() if not _is_nobodys(path.name))
            except OSError as error:
                raise DataError(
                    f"{folder} cannot be looked into: {error.strerror}. Make it readable, or move it."
                ) from None
            names = tuple(path.name for path in inside)
            for path in inside:
                if not path.is_dir():
                    yield path
                elif part_of(path.name, names):
                    raise DataError(
                        f"{path} is named as a part of a data set, below a folder that is none. Parts come first: give the "
                        f"folder that holds train and test, with classes inside these, or rename it if it is a class."
                    )
                else:
                    (links if path.is_symlink() else folders).append(path)

    def count_unread(self, path: Path) -> None:
        """Count what stands beside train and test: a file, or all files below a folder."""
        if not path.is_dir():
            self.unread[path.suffix.lower() or "without suffix"] += 1
            return
        for folder, folders, files in os.walk(path):
            folders[:] = [name for name in folders if not _is_nobodys(name)]
            self.unread[f"in {path.name}"] += sum(not _is_nobodys(name) for name in files)
            del folder

    def remarks(self, folder: Path) -> list[str]:
        """What was left out, as phrases."""
        said = []
        if n := self.unread.total():
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.unread.most_common(5) if count)
            said.append(f"{n} file{'s' * (n > 1)} not read ({kinds}{', ...' if len(self.unread) > 5 else ''})")
        if self.again:
            shown = ", ".join(os.path.relpath(path, folder) for path in self.again[:3])
            said.append(
                f"not read again: {shown}{', ...' if len(self.again) > 3 else ''}, which lead to what is read already"
            )
        return said

    def _other_suffixes(self) -> str:
        others = ", ".join(f"{count} {kind}" for kind, count in self.unread.most_common(5))
        return f" It holds other files: {others}." if others else ""


def _is_nobodys(name: str) -> bool:
    """Hidden, or the operating system's own."""
    return name.startswith(".") or name.lower() in NOBODYS


def _is_above(path: str, other: str) -> bool:
    return Path(other).is_relative_to(path)


def decode(paths: list[Path], fit: Fit) -> tuple[Array, list[str]]:
    """The files' pixels, uint8 (n_images, channels, height, width): grey if every file is grey, else RGB; and remarks.

    As viewers show them: turned as their EXIF says, transparent pixels on white. Refused are more than 8 bits per channel, as
    such files often use 10 or 12 of 16 so that no one scale is right, colour spaces that only a profile explains, and several
    pages. Colour profiles are not applied.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    images: list[Array] = []
    said: Counter[str] = Counter()
    for path in paths:
        try:
            content = path.read_bytes()
            # Not the path: Pillow maps a plain TIFF into memory and then turns some of them wrongly.
            with Image.open(BytesIO(content), formats=FORMATS) as image:
                if problem := _problem(image, content):
                    raise DataError(f"{path} {problem}")
                image.load()
                upright: Image.Image = image
                try:
                    upright = ImageOps.exif_transpose(image)
                except Exception:  # whatever damaged metadata lead Pillow to; the pixels are there
                    said["of unreadable EXIF, taken as upright"] += 1
                said["of CMYK, converted without a colour profile"] += image.mode == "CMYK"
                target = "L" if image.mode in GREY_MODES else "RGB"
                if upright.has_transparency_data:
                    rgba = upright.convert("RGBA")
                    said["with transparent pixels, shown on white"] += np.asarray(rgba)[..., 3].min() < 255
                    upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
                pixels = np.asarray(fit.image(upright.convert(target), path))
        except DataError:
            raise
        except UnidentifiedImageError:
            raise DataError(
                f"{path} cannot be read as an image: it is no {', '.join(FORMATS)}. Replace or delete it."
            ) from None
        except Exception as error:  # whatever damaged bytes lead Pillow to
            raise DataError(f"{path} cannot be read as an image: {error}. Replace or delete it.") from error
        images.append(pixels.reshape(*pixels.shape[:2], -1))
        (h0, w0), (h, w) = images[0].shape[:2], pixels.shape[:2]
        if (h, w) != (h0, w0):
            raise DataError(
                f"images must have one size; {paths[0]} is {w0} x {h0} and {path} is {w} x {h}. "
                "Resize them, or give --image-size N, which makes all of them N x N."
            )
    n_channels = max(image.shape[2] for image in images)
    stacked = np.stack([np.broadcast_to(image, (h0, w0, n_channels)) for image in images])
    return stacked.transpose(0, 3, 1, 2), [f"{n} {what}" for what, n in said.items() if n]


def _problem(image: Any, content: bytes) -> str:
    """Why an opened file cannot be taken, the end of a sentence; empty where it can.

    By what the file is, not by what Pillow makes of it, which opens 16 bits of colour as 8.
    """
    bits = 8
    if image.format == "PNG":
        bits = content[PNG_DEPTH]
        if image.mode == "L" and bits < 8 and isinstance(grey := image.info.get("transparency"), int):
            image.info["transparency"] = grey * (255 // (2**bits - 1))  # Pillow scales the pixels and not this
    elif image.format == "TIFF":
        bits = max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))
    if bits > 8 or image.mode[0] in "IF":  # I, I;16, I;16B, F
        return (
            f"has more than 8 bits per channel (Pillow's {image.mode}). Convert it to 8 bits: divide by what is white in it, "
            "which may be 1023 or 4095 as well as 65535, and multiply by 255."
        )
    # 1 is whole and without sign, 4 unstated
    if image.format == "TIFF" and not set(image.tag_v2.get(SAMPLE_FORMAT, (1,))) <= {1, 4}:
        return "holds numbers with a sign. Convert it to 8 bits without."
    if image.mode not in GREY_MODES + COLOUR_MODES:
        return f"is in the colour space {image.mode}. Convert it to RGB or grey."
    if (n := getattr(image, "n_frames", 1)) > 1 and image.format not in ONE_PICTURE:
        return f"holds {n} pages or frames, where an image is one. Save the one that is meant, or each as a file."
    return ""
