"""CelebA is read in its official parts, decoded once, and mapped; what is missing or damaged is a sentence."""

import hashlib
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from fishernet.data import DataError
from fishernet.data.decoding import decode_into
from fishernet.data.files import Parts, fingerprint
from fishernet.data.fitting import Fit
from fishernet.data.images import ResidentImages
from fishernet.data.loading import load_data

N_TRAIN, N_VALIDATION, N_TEST = 40, 8, 12


@pytest.fixture
def place(tmp_path):
    """Sixty JPEGs of 178 x 218, each of one grey that is its number times four, and their partition file."""
    images = tmp_path / "celeba" / "img_align_celeba"
    images.mkdir(parents=True)
    parts = [0] * N_TRAIN + [1] * N_VALIDATION + [2] * N_TEST
    for i in range(60):
        Image.new("RGB", (178, 218), (4 * i, 4 * i, 0)).save(images / f"{i:06}.jpg", quality=95)
    lines = [f"{i:06}.jpg {part}" for i, part in enumerate(parts)]
    (images.parent / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def greys(images):
    return [round(float(image[:2].float().mean()) / 4) for image in images]


def test_the_official_parts_are_read_cropped_and_resized(place):
    data = load_data("celeba", place, crop=140, image_size=64)
    assert tuple(data.train.shape) == (N_TRAIN, 3, 64, 64)
    assert greys(data.train) == list(range(N_TRAIN))
    assert greys(data.test) == list(range(60 - N_TEST, 60))
    assert data.test_labels is None
    held_out = load_data("celeba", place, crop=140, image_size=64, validation_size=5)
    assert greys(held_out.test) == list(range(N_TRAIN - 5, N_TRAIN))
    usual = load_data("celeba", place)
    assert torch.equal(usual.train, data.train)
    assert usual.fingerprint == data.fingerprint
    whole = load_data("celeba", place, crop=0, image_size=0)
    assert tuple(whole.train.shape) == (N_TRAIN, 3, 218, 178)
    picture = Image.open(place / "celeba" / "img_align_celeba" / "000007.jpg")
    expected = np.asarray(Fit(140, 64).image(picture, "7")).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.train[7], expected)


def test_images_are_decoded_once_and_mapped(place):
    first = load_data("celeba", place, crop=140, image_size=64)
    (kept,) = (place / "celeba").glob("140-64-*.npy")
    for path in (place / "celeba" / "img_align_celeba").iterdir():
        path.unlink()
    again = load_data("celeba", place, crop=140, image_size=64)
    assert again.fingerprint == first.fingerprint
    again.train[0] = 255  # a page of one's own
    np.testing.assert_array_equal(np.load(kept)[0], first.train[0])
    partition = place / "celeba" / "list_eval_partition.txt"
    partition.write_text(partition.read_text().replace("000039.jpg 0", "000039.jpg 1"))
    with pytest.raises(DataError, match="lacks 51 of the 51 images"):  # another split is decoded anew
        load_data("celeba", place, crop=140, image_size=64)


def test_a_damaged_and_a_missing_image_leave_nothing_behind(place):
    path = place / "celeba" / "img_align_celeba" / "000009.jpg"
    content = path.read_bytes()
    path.write_bytes(content[:200])
    with pytest.raises(DataError, match=r"000009\.jpg cannot be read as an image"):
        load_data("celeba", place, image_size=16)
    path.unlink()
    with pytest.raises(DataError, match=r"lacks 1 of the 52 images that .* such as 000009\.jpg\. Unpack"):
        load_data("celeba", place, image_size=16)
    assert not [p for p in (place / "celeba").iterdir() if p.suffix == ".npy"]
    path.write_bytes(content)
    assert len(load_data("celeba", place, image_size=16).train) == N_TRAIN


def test_without_its_files_the_two_are_named_and_where_they_go(tmp_path, place):
    with pytest.raises(
        DataError, match=r"list_eval_partition\.txt, to be put into .*celeba, and img_align_celeba\.zip"
    ):
        load_data("celeba", tmp_path / "elsewhere")
    partition = place / "celeba" / "list_eval_partition.txt"
    partition.write_text("000001.jpg 7\n")
    with pytest.raises(DataError, match=r"line 1, must be the name of an image and 0, 1 or 2"):
        load_data("celeba", place)
    partition.write_text("000001.jpg 0\n")
    with pytest.raises(DataError, match="names no test image"):
        load_data("celeba", place)


def drive(monkeypatch, download):
    """Google's host, whose client torchvision imports."""
    monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace(download=download))


def test_a_download_is_tried_once_and_its_refusal_names_the_two_files(tmp_path, monkeypatch):
    tried = []

    def refused(id, output, **how):
        tried.append(Path(output).name)
        raise ConnectionError("Too many users have viewed or downloaded this file recently")

    drive(monkeypatch, refused)
    with pytest.raises(
        DataError,
        match=r"list_eval_partition\.txt, to be put into .*, and img_align_celeba\.zip, whose images belong into .*"
        r"the download failed \(ConnectionError: Too many users.*--data-dir",
    ):
        load_data("celeba", tmp_path)
    assert tried == ["list_eval_partition.txt"]
    assert not list(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="Nothing is there, and downloading was not allowed"):
        load_data("celeba", tmp_path, download=False)
    (tmp_path / "celeba" / "img_align_celeba").mkdir(parents=True)  # half of it: somebody puts it there by hand
    with pytest.raises(DataError, match="is read from two files"):
        load_data("celeba", tmp_path)
    assert len(tried) == 1


def test_what_is_downloaded_is_the_two_files_moved_into_place_whole(place, tmp_path, monkeypatch):
    given = {"list_eval_partition.txt": place / "celeba" / "list_eval_partition.txt"}
    given["img_align_celeba.zip"] = Path(shutil.make_archive(str(tmp_path / "img_align_celeba"), "zip", place / "celeba",
                                                             "img_align_celeba"))  # fmt: skip
    rows = [(name, hashlib.md5(path.read_bytes()).hexdigest(), name) for name, path in given.items()]
    monkeypatch.setattr(datasets.CelebA, "file_list", [*rows, ("other", "", "list_attr_celeba.txt")])
    drive(monkeypatch, lambda id, output, **how: shutil.copy(given[id], output))
    there = load_data("celeba", place)
    data = load_data("celeba", tmp_path / "elsewhere")
    assert torch.equal(data.train, there.train)
    assert {p.name for p in (tmp_path / "elsewhere" / "celeba").iterdir() if p.suffix not in (".npy", ".json")} == {
        "img_align_celeba", "list_eval_partition.txt",
    }  # fmt: skip


def test_the_bytes_do_not_depend_on_the_number_of_processes(place):
    folder = place / "celeba" / "img_align_celeba"
    paths = sorted(folder.iterdir())
    for n in (1, 3):
        decode_into(place / f"{n}.npy", paths, Fit(140, 16), n)
    assert (place / "1.npy").read_bytes() == (place / "3.npy").read_bytes()
    images = np.load(place / "3.npy")
    assert images.shape == (60, 3, 16, 16)
    expected = [np.asarray(Fit(140, 16).image(Image.open(path), path)).transpose(2, 0, 1) for path in paths]
    np.testing.assert_array_equal(images, expected)


def test_of_damaged_images_in_several_processes_the_first_is_named_and_nothing_is_left(place):
    folder = place / "celeba" / "img_align_celeba"
    paths = sorted(folder.iterdir())
    for number in (25, 50):
        paths[number].write_bytes(paths[number].read_bytes()[:300])
    with pytest.raises(DataError, match=r"000025\.jpg cannot be read as an image"):
        decode_into(place / "all.npy", paths, Fit(140, 16), 3)
    Image.new("RGB", (178, 200)).save(paths[25])
    Image.new("L", (178, 218)).save(paths[50])
    with pytest.raises(DataError, match=r"000025\.jpg is 178 x 200"):
        decode_into(place / "all.npy", paths, Fit(), 3)
    assert not [path for path in place.iterdir() if path.suffix == ".npy"]


def test_a_kept_fingerprint_is_that_of_the_images_and_goes_with_them(place):
    first = load_data("celeba", place, crop=140, image_size=16)
    kept = next((place / "celeba").glob("140-16-*.json"))
    decoded = kept.with_suffix(".npy")
    assert first.fingerprint == fingerprint(Parts(first.train.numpy(), first.test.numpy(), None, None))
    kept.write_text(kept.read_text().replace(first.fingerprint, "0123456789abcdef"))
    assert load_data("celeba", place, crop=140, image_size=16).fingerprint == "0123456789abcdef"  # not read again
    os.utime(decoded, ns=(0, 0))  # as another file would have
    assert load_data("celeba", place, crop=140, image_size=16).fingerprint == first.fingerprint
    kept.write_text("{")
    assert load_data("celeba", place, crop=140, image_size=16).fingerprint == first.fingerprint


def test_a_file_of_pixels_that_is_cut_short_is_named_and_not_read(place):
    load_data("celeba", place, crop=140, image_size=16)
    decoded = next((place / "celeba").glob("140-16-*.npy"))
    decoded.write_bytes(decoded.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"140-16-.*npy is damaged: .* decoded again"):
        load_data("celeba", place, crop=140, image_size=16)


def test_training_images_stay_mapped_where_a_worker_puts_them(place):
    data = load_data("celeba", place, crop=140, image_size=16)
    images = ResidentImages.of(data.train, torch.device("cpu"))
    assert images.pixels.data_ptr() == data.train.data_ptr()
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        decoded = next((place / "celeba").glob("140-16-*.npy"))
        assert str(decoded) in mapped.read_text()


def test_a_crop_larger_than_the_image_is_refused_and_names_the_image(place):
    with pytest.raises(
        DataError, match=r"\.jpg is 178 x 218, and --crop asks for its central 200 x 200 pixels\. Give at most 178"
    ):
        load_data("celeba", place, crop=200)
