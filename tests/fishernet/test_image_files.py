"""Every kind of image file and of folder is read as its owner sees it, or refused in a sentence that names the file."""

import itertools
import os
import random
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from fishernet.data import DataError
from fishernet.data.folders import part_of
from fishernet.data.loading import load_data

HEIGHT, WIDTH = 5, 7
ORIENTATION = 0x0112
# EXIF 2.32, section 4.6.4: what the stored rows and columns are of the picture.
UPRIGHT = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90,
}  # fmt: skip


def png(width, depth, colour_type, rows, *chunks):
    """A PNG file of packed rows."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(pixels, photometric, bits, **tags):
    """An uncompressed little-endian TIFF of bytes (height, width, samples x bytes per sample)."""
    height, width, n_bytes = pixels.shape
    samples = n_bytes * 8 // bits
    entries = {
        256: (3, [width]), 257: (3, [height]), 258: (3, [bits] * samples), 259: (3, [1]), 262: (3, [photometric]),
        273: (4, [0]), 277: (3, [samples]), 278: (3, [height]), 279: (4, [pixels.size]),
        **{int(tag[1:]): (3, values) for tag, values in tags.items()},
    }  # fmt: skip
    after = 8 + 2 + 12 * len(entries) + 4
    extra, fields = b"", b""
    data_at = after + sum(2 * len(v) for k, v in entries.values() if k == 3 and len(v) > 2)
    entries[273] = (4, [data_at])
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}{'HI'[kind - 3]}", *values)
        if len(packed) > 4:
            packed, extra = struct.pack("<I", after + len(extra)), extra + packed
        fields += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    return (
        b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + fields + bytes(4) + extra + pixels.tobytes()
    )


def ending(path, suffix):
    return path.with_name(path.name + suffix)  # with_suffix would take what follows a dot for one


class Maker:
    """Writes random files and knows what a viewer shows of each: an array (height, width[, 3]), or None where it is refused."""

    def __init__(self, seed):
        self.r, self.choose = np.random.default_rng(seed), random.Random(seed)

    def pixels(self, channels):
        shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
        array = self.r.integers(0, 256, shape, dtype=np.uint8)
        array[0, 0] = 255  # no set is all dark
        return array

    def orientation(self):
        which, exif = self.choose.randint(1, 8), Image.Exif()
        exif[ORIENTATION] = which
        return which, exif

    def lossless(self, path):
        """Grey or colour, with or without alpha, turned or not, in a format that keeps every bit."""
        kind = self.choose.choice(["png", "bmp", "tif", "tiff", "webp", "PNG", "TIF"])
        channels = self.choose.choice([1, 3] if kind == "bmp" else [3, 4] if kind == "webp" else [1, 2, 3, 4])
        array = self.pixels(channels)
        which, exif = self.orientation() if kind != "bmp" else (1, None)
        how = {"lossless": True, "exact": True} if kind == "webp" else {}
        if kind.lower() in ("tif", "tiff"):
            directory = TiffImagePlugin.ImageFileDirectory_v2()
            directory[ORIENTATION] = which
            how |= {"tiffinfo": directory, "compression": self.choose.choice([None, "tiff_lzw", "tiff_adobe_deflate"])}
        elif exif:
            how["exif"] = exif
        Image.fromarray(array).save(path := ending(path, f".{kind}"), **how)
        return path, UPRIGHT[which](on_white(array))

    def jpeg(self, path):
        """What Pillow decodes, turned here."""
        mode = self.choose.choice(["L", "RGB", "CMYK"])
        which, exif = self.orientation()
        image = Image.fromarray(self.pixels(3)).convert(mode)
        image.save(path := ending(path, self.choose.choice([".jpg", ".jpeg", ".JPG"])), exif=exif, quality=90)
        with Image.open(path) as opened:
            return path, UPRIGHT[which](np.asarray(opened.convert("L" if mode == "L" else "RGB")))

    def palette(self, path):
        """A palette of few or many colours, some of which may be transparent."""
        n = self.choose.choice([2, 4, 16, 256])
        palette, index = self.r.integers(0, 256, (n, 3), dtype=np.uint8), self.r.integers(0, n, (HEIGHT, WIDTH))
        alpha = self.choose.choice([None, self.r.integers(0, 256, n, dtype=np.uint8)])
        image = Image.fromarray(index.astype(np.uint8)).copy()
        image.putpalette(palette.tobytes())
        kind = ".png" if alpha is not None else self.choose.choice([".png", ".bmp", ".tif"])
        image.save(path := ending(path, kind), **({} if alpha is None else {"transparency": alpha.tobytes()}))
        shown = palette[index]
        return path, shown if alpha is None else on_white(np.dstack([shown, alpha[index]]))

    def few_bits(self, path):
        """Grey PNGs of 1, 2, 4 and 8 bits, one of whose values may be transparent."""
        depth = self.choose.choice([1, 2, 4, 8])
        index = self.r.integers(0, 2**depth, (HEIGHT, WIDTH))
        index[0, 0] = 2**depth - 1
        bits = ((index[..., None] >> np.arange(depth)[::-1]) & 1).reshape(HEIGHT, -1)
        clear = self.choose.choice([None, int(self.r.integers(0, 2**depth))])
        chunks = [] if clear is None else [(b"tRNS", struct.pack(">H", clear))]
        ending(path, ".png").write_bytes(png(WIDTH, depth, 0, [np.packbits(row).tobytes() for row in bits], *chunks))
        return ending(path, ".png"), np.where(
            index == (-1 if clear is None else clear), 255, index * (255 // (2**depth - 1))
        )

    def one_colour_is_transparent(self, path):
        array = self.pixels(3)
        clear = array[self.choose.randrange(HEIGHT), self.choose.randrange(WIDTH)]
        chunk = (b"tRNS", struct.pack(">3H", *map(int, clear)))
        ending(path, ".png").write_bytes(png(WIDTH, 8, 2, [row.tobytes() for row in array], chunk))
        return ending(path, ".png"), np.where((array == clear).all(2)[..., None], 255, array)

    def black_and_white(self, path):
        array = self.pixels(1) > 100
        Image.fromarray(array).save(path := ending(path, self.choose.choice([".png", ".bmp", ".tif"])))
        return path, array * 255

    def deep_png(self, path):
        colour_type, channels = self.choose.choice([(0, 1), (2, 3), (4, 2), (6, 4)])
        rows = self.r.integers(0, self.choose.choice([1024, 4096, 65536]), (HEIGHT, WIDTH * channels))
        ending(path, ".png").write_bytes(png(WIDTH, 16, colour_type, [row.astype(">u2").tobytes() for row in rows]))
        return ending(path, ".png"), None

    def deep_tiff(self, path):
        bits, samples = self.choose.choice([(16, 1), (16, 3), (32, 1), (32, 3), (16, 4), (64, 1)])
        pixels = self.r.integers(0, 256, (HEIGHT, WIDTH, bits // 8 * samples), dtype=np.uint8)
        extra = {"t338": [2]} if samples == 4 else {}
        ending(path, ".tif").write_bytes(tiff(pixels, 2 if samples > 1 else 1, bits, **extra))
        return ending(path, ".tif"), None

    def plain_tiff(self, path):
        """White may be 0, and rows may be columns."""
        photometric, which = self.choose.choice([0, 1, 2]), self.choose.randint(1, 8)
        array = self.pixels(3 if photometric == 2 else 1)
        array[0, 0] = 255 * (photometric > 0)
        ending(path, ".tif").write_bytes(tiff(array.reshape(HEIGHT, WIDTH, -1), photometric, 8, t274=[which]))
        return ending(path, ".tif"), UPRIGHT[which](255 - array if photometric == 0 else array)

    def signed_tiff(self, path):
        ending(path, ".tif").write_bytes(tiff(self.pixels(1)[..., None], 1, 8, t339=[2]))
        return ending(path, ".tif"), None

    def pages(self, path):
        images = [Image.fromarray(self.pixels(3)) for _ in range(self.choose.randint(2, 4))]
        kind = self.choose.choice([".tif", ".png", ".webp"])
        images[0].save(path := ending(path, kind), save_all=True, append_images=images[1:])
        return path, None

    def colour_space(self, path):
        Image.fromarray(self.pixels(3), "LAB").save(path := ending(path, ".tif"))
        return path, None

    def suffix_that_lies(self, path):
        kind = self.choose.choice(["PNG", "JPEG", "BMP", "TIFF"])
        suffix = self.choose.choice([".png", ".jpg", ".webp", ".TIFF"])
        Image.fromarray(self.pixels(1)).save(path := ending(path, suffix), kind)
        with Image.open(path) as opened:
            return path, np.asarray(opened)

    def no_image(self, path):
        path = ending(path, self.choose.choice([".png", ".jpg", ".bmp", ".webp", ".tif"]))
        kind = self.choose.choice(["empty", "text", "gif", "noise", "pickle"])
        if kind == "gif":
            Image.fromarray(self.pixels(1)).save(path, "GIF")
        else:
            path.write_bytes(
                {"empty": b"", "text": b"\x89PNG or not", "noise": self.r.bytes(300), "pickle": b"\x80\x04N."}[kind]
            )
        return path, None

    def truncated(self, path):
        """Where what is left holds every pixel, it may be read."""
        kind = self.choose.choice(["PNG", "BMP", "TIFF", "WEBP", "JPEG"])
        image = Image.fromarray(self.r.integers(0, 256, (60, 70, 3), dtype=np.uint8))
        path = ending(path, {"JPEG": ".jpg"}.get(kind, f".{kind.lower()}"))
        image.save(path, kind, **({"lossless": True} if kind == "WEBP" else {}))
        with Image.open(path) as opened:
            whole = np.asarray(opened)
        path.write_bytes(path.read_bytes()[: self.choose.randrange(path.stat().st_size - 30)])
        return path, ("if whole", whole)

    def damaged_metadata(self, path):
        """The pixels are there, and nothing can be known of how they are turned."""
        array = self.pixels(3)
        exif = b"Exif\0\0" + self.choose.choice(
            [b"II*\0\xff\xff\xff\x7f", b"MM\0*", b"nonsense", b"", self.r.bytes(20)]
        )
        Image.fromarray(array).save(path := ending(path, ".png"), exif=exif)
        return path, array

    def link(self, path):
        made, shown = self.lossless(path.with_name(f".{path.name}-hidden"))
        path = ending(path, made.suffix)
        path.symlink_to(made)
        return path, shown

    def link_to_nothing(self, path):
        ending(path, ".png").symlink_to(path.with_name("gone.png"))
        return ending(path, ".png"), None


def on_white(array):
    """The picture as shown on white: array (height, width[, channels]), the last of two or four channels being alpha."""
    if array.ndim == 2 or array.shape[2] == 3:
        return array
    alpha = array[..., -1:] / 255
    shown = np.rint(array[..., :-1] * alpha + 255 * (1 - alpha))
    return shown[..., 0] if array.shape[2] == 2 else shown


NAMES = ("{}", "Größe {}", "写真 {}", "a b  {}", "x.y.{}", "-{}", "#{}%", "{}'s", "a{}\u0301", "UPPER{}")  # fmt: skip
KINDS = [
    name for name, value in vars(Maker).items() if callable(value) and name not in ("__init__", "pixels", "orientation")
]
BESIDE = (
    ".DS_Store",
    "._x.png",
    "Thumbs.db",
    "desktop.ini",
    "__MACOSX/._0.png",
    ".ipynb_checkpoints/0.png",
    "@eaDir/0.jpg",
)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged metadata
def test_an_image_file_is_read_as_it_is_seen_or_refused_by_name(tmp_path):
    maker, wrong, n_read, n_refused = Maker(0), [], 0, 0
    for case, kind in zip(range(20 * len(KINDS)), itertools.cycle(KINDS), strict=False):
        folder = tmp_path / f"{case}-{kind}"
        folder.mkdir()
        made = [getattr(maker, kind)(folder / NAMES[case % len(NAMES)].format(i)) for i in range(3)]
        for name in maker.choose.sample(BESIDE, 2):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"nobody's")
        # Three of one kind are mostly of one size and colour; where not, the first alone with two copies.
        if len({s.shape if isinstance(s, np.ndarray) else 0 for _, s in made}) > 1 or kind == "truncated":
            for path, _ in made[1:]:
                path.unlink()
            made = [made[0]] * 3
            for i in (1, 2):
                (folder / f"{made[0][0].stem}-{i}{made[0][0].suffix}").write_bytes(made[0][0].read_bytes())
        expected = [shown for _, shown in made]
        try:
            data = load_data(str(folder))
        except DataError as error:
            n_refused += 1
            if isinstance(expected[0], np.ndarray) or str(folder) + os.sep not in str(error):
                wrong.append(f"{case} {kind}: {error}")
            continue
        except Exception as error:
            wrong.append(f"{case} {kind}: {type(error).__name__}: {error}")
            continue
        n_read += 1
        if expected[0] is None:
            wrong.append(
                f"{case} {kind}: {made[0][0].name} was read, of range {data.train.min()} to {data.train.max()}"
            )
            continue
        read = torch.cat([data.train, data.test]).permute(0, 2, 3, 1).numpy().astype(int)
        # A folder's order is its names': compare as sets of pictures, to the rounding of a blend.
        for shown in (e[1] if isinstance(e, tuple) else e for e in expected):
            shown = np.asarray(shown).astype(int).reshape(*shown.shape[:2], -1)
            if shown.shape[:2] != read.shape[1:3] or np.abs(read - shown).max((1, 2, 3)).min() > 1:
                wrong.append(f"{case} {kind}: {made[0][0].name} is not as shown")
                break
    assert not wrong, "\n".join(wrong)
    assert n_read > 100
    assert n_refused > 100


def save(folder, n, value=200, name="{}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.fromarray(np.full((4, 4), value + i, np.uint8)).save(folder / name.format(i))


def refusal(folder):
    with pytest.raises(DataError) as caught:
        load_data(str(folder))
    return str(caught.value)


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("training", "testing"), ("Train", "Test"), ("TRAINING", "test"), ("Training Set", "Test-Set"),
     ("train_images", "test_images"), ("trainset", "testset"), ("mnist_train", "mnist_test"), ("train-60k", "test-10k")],
)  # fmt: skip
def test_parts_are_parts_in_any_case_and_spelling(train, test, tmp_path):
    for part, n, value in ((train, 12, 100), (test, 4, 200)):
        for i, digit in enumerate("01"):
            save(tmp_path / part / digit, n, value + 20 * i)
    data = load_data(str(tmp_path))
    assert (len(data.train), len(data.test)) == (24, 8)
    assert sorted(data.test.unique().tolist()) == [*range(200, 204), *range(220, 224)]
    assert sorted(set(data.train_labels.tolist())) == sorted(set(data.test_labels.tolist())) == [0, 1]
    assert ((data.train.flatten(1)[:, 0] >= 120) == (data.train_labels == 1)).all()
    assert data.remarks == ("labels are the folders 0, 1",)


@pytest.mark.parametrize("name", ["val", "Valid", "validation", "dev", "eval", "Evaluation", "val_set"])
def test_a_part_that_is_not_read_is_mentioned_and_never_a_class(name, tmp_path):
    save(tmp_path / "train", 6)
    save(tmp_path / "test", 3)
    save(tmp_path / name / "cat", 2)
    (tmp_path / "labels.csv").write_text("0,1")
    assert str(load_data(str(tmp_path))) == (
        f"6 to train, 3 for test, 4x4 grey; 3 files not read (2 in {name}, 1 .csv)"
    )
    for part in ("train", "test"):
        for path in (tmp_path / part).iterdir():
            path.unlink()
        (tmp_path / part).rmdir()
        assert "without its counterpart" in refusal(tmp_path)


def test_parts_inside_classes_are_refused_and_so_are_those_in_a_folder_round_them(tmp_path):
    save(tmp_path / "a" / "cat" / "train", 3)
    save(tmp_path / "a" / "cat" / "test", 3)
    save(tmp_path / "b" / "mnist_png" / "training" / "0", 3)
    save(tmp_path / "c" / "train" / "train", 3)
    save(tmp_path / "c" / "test", 3)
    for folder, named in (("a", "a/cat/"), ("b", "b/mnist_png/training"), ("c", "c/train/train")):
        message = refusal(tmp_path / folder)
        assert str(tmp_path / named) in message
        assert "Parts come first" in message


def test_two_folders_that_mean_one_part_are_refused(tmp_path):
    for name in ("train", "Training", "test"):
        save(tmp_path / name, 3)
    assert "several subfolders that mean train: Training, train" in refusal(tmp_path)


@pytest.mark.parametrize(
    "name", ["trainer", "contest", "latest", "steam train", "cats", "0", "testament", "images", "Ätest"]
)
def test_a_name_that_holds_such_a_word_is_no_part(name):
    assert part_of(name, (name, "bus")) == ""


def test_links_to_folders_are_followed_each_real_folder_once(tmp_path):
    save(tmp_path / "set" / "cat", 6, 100)
    save(tmp_path / "elsewhere" / "dog", 6, 200)
    (tmp_path / "set" / "dog").symlink_to(tmp_path / "elsewhere" / "dog")
    data = load_data(str(tmp_path / "set"))
    assert (len(data.train), len(data.test)) == (10, 2)
    assert ((data.train.flatten(1)[:, 0] >= 200) == (data.train_labels == 1)).all()
    (tmp_path / "set" / "a-dog").symlink_to(tmp_path / "set" / "dog")
    (tmp_path / "set" / "cat" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "cat" / "up").symlink_to(tmp_path)
    again = load_data(str(tmp_path / "set"))
    assert len(again.train) + len(again.test) == 12
    assert any("not read again: " in remark for remark in again.remarks)


def test_a_link_from_training_to_test_images_reads_them_once_as_test(tmp_path):
    save(tmp_path / "train", 6, 100)
    save(tmp_path / "test", 3, 200)
    (tmp_path / "train" / "more").symlink_to(tmp_path / "test")
    data = load_data(str(tmp_path))
    assert len(data.train) == 6
    assert data.train.max() < 200
    for path in (tmp_path / "test").iterdir():
        path.unlink()
    (tmp_path / "test").rmdir()
    (tmp_path / "test").symlink_to(tmp_path / "train")
    assert "links to one folder" in refusal(tmp_path)


def test_classes_of_one_name_in_two_unicode_forms_are_one_class(tmp_path):
    for part, names in (("train", ("caf\u00e9", "bar")), ("test", ("cafe\u0301", "bar"))):
        for name in names:
            save(tmp_path / part / name, 3)
    data = load_data(str(tmp_path))
    assert sorted(set(data.test_labels.tolist())) == sorted(set(data.train_labels.tolist())) == [0, 1]


def test_a_class_that_only_one_part_has_is_named(tmp_path):
    for place in ("train/cat", "train/dog", "test/dog", "test/eel"):
        save(tmp_path / place, 3)
    assert load_data(str(tmp_path)).remarks[-2:] == ("only train has cat", "only test has eel")


def test_files_that_are_not_read_are_counted(tmp_path):
    save(tmp_path, 6)
    for name in ("a.gif", "b.gif", "notes.txt", "README", ".hidden"):
        (tmp_path / name).write_text("no image")
    assert str(load_data(str(tmp_path))) == (
        "5 to train, 1 for test, 4x4 grey; 4 files not read (2 .gif, 1 without suffix, 1 .txt)"
    )


def test_dark_images_are_refused_whatever_holds_them(tmp_path):
    save(tmp_path / "masks", 6, 3)
    message = refusal(tmp_path / "masks")
    assert str(tmp_path / "masks") in message
    assert "brightest pixel of all images is 8 of 255, below a tenth of white" in message


def test_a_folder_that_cannot_be_looked_into_is_a_sentence(tmp_path):
    save(tmp_path / "cat", 3)
    save(tmp_path / "dog", 3)
    (tmp_path / "dog").chmod(0)
    if os.access(tmp_path / "dog", os.R_OK):
        pytest.skip("this user reads every folder")
    assert "dog cannot be looked into" in refusal(tmp_path)
