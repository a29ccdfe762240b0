"""Datasets, arrays and folders become uint8 tensors, and every way to get them wrong is a sentence."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fishernet.config import TrialConfig
from fishernet.data import DATA_DIR_VARIABLE, DATASETS, DataError
from fishernet.data.idx import IDX_DATASETS, IDX_SHAPES, _download
from fishernet.data.loading import _tensor, load_data

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def data_dir():
    """The real FashionMNIST/raw and MNIST/raw, wherever this machine keeps them."""
    folder = Path(os.environ.get(DATA_DIR_VARIABLE) or ROOT.parent / "shared" / "data")
    for name in ("FashionMNIST", "MNIST"):
        if not all((folder / name / "raw" / f"{file}.gz").is_file() for file in IDX_SHAPES):
            pytest.skip(f"needs {name}/raw/*.gz in {DATA_DIR_VARIABLE} or ../shared/data")
    return folder


@pytest.fixture(scope="session")
def extracted(data_dir, tmp_path_factory):
    """A data folder of the same files, extracted."""
    folder = tmp_path_factory.mktemp("extracted")
    for name in ("FashionMNIST", "MNIST"):
        (folder / name / "raw").mkdir(parents=True)
        for file in IDX_SHAPES:
            content = gzip.decompress((data_dir / name / "raw" / f"{file}.gz").read_bytes())
            (folder / name / "raw" / file).write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def fashion(data_dir):
    return load_data("fashion-mnist", data_dir, download=False)


@pytest.fixture(autouse=True)
def no_data_dir_in_the_environment(monkeypatch):
    monkeypatch.delenv(DATA_DIR_VARIABLE, raising=False)


def grey(n, height=4, width=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width), dtype=np.uint8)


def save_npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def save_images(folder, images, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}{suffix}")
    return str(folder)


def equal(a, b):
    """Whether two ImageData hold the same images and labels."""
    pairs = [(getattr(a, f), getattr(b, f)) for f in ("train", "test", "train_labels", "test_labels")]
    return all((x is None) == (y is None) and (x is None or torch.equal(x, y)) for x, y in pairs)


# -- the built-in datasets


@pytest.mark.parametrize(("dataset", "mean", "std"), [("fashion-mnist", 0.2860, 0.3530), ("mnist", 0.1307, 0.3081)])
def test_the_training_images_have_the_known_mean_and_standard_deviation(dataset, mean, std, data_dir):
    """Both numbers are the ones everybody normalises with, to their four digits."""
    data = load_data(dataset, data_dir, download=False)
    assert data.train.shape == (60000, 1, 28, 28)
    assert data.test.shape == (10000, 1, 28, 28)
    assert data.image_shape == (1, 28, 28)
    assert data.train.dtype == data.test.dtype == torch.uint8
    # From the counts of the 256 grey values: exact, and no float copy of 47 million pixels.
    counts = torch.bincount(data.train.flatten(), minlength=256).double()
    values = torch.arange(256) / 255.0
    found_mean = (counts * values).sum() / counts.sum()
    found_std = ((counts * values**2).sum() / counts.sum() - found_mean**2).sqrt()
    assert abs(found_mean - mean) < 5e-5
    assert abs(found_std - std) < 5e-5


def test_fashion_mnist_has_every_class_equally_often(fashion):
    assert fashion.train_labels.dtype == fashion.test_labels.dtype == torch.int64
    assert torch.bincount(fashion.train_labels).tolist() == [6000] * 10
    assert torch.bincount(fashion.test_labels).tolist() == [1000] * 10
    assert (fashion.name, fashion.held_out) == ("fashion-mnist", "test")


def test_extracted_and_gzipped_files_give_equal_tensors(fashion, extracted):
    data = load_data("fashion-mnist", extracted, download=False)
    assert equal(data, fashion)
    assert data.fingerprint == fashion.fingerprint


@pytest.mark.parametrize("dataset", IDX_DATASETS)
def test_the_checksums_follow_from_those_torchvision_publishes(dataset, data_dir):
    """Its md5 of the .gz vouches for the content, whose md5 is the one in IDX_DATASETS."""
    import torchvision.datasets

    name, checksums = IDX_DATASETS[dataset]
    published = dict(getattr(torchvision.datasets, name).resources)
    for file, checksum in zip(IDX_SHAPES, checksums, strict=True):
        packed = (data_dir / name / "raw" / f"{file}.gz").read_bytes()
        assert hashlib.md5(packed).hexdigest() == published[f"{file}.gz"]
        assert hashlib.md5(gzip.decompress(packed)).hexdigest() == checksum


@pytest.mark.parametrize("inside", ["", "FashionMNIST", "FashionMNIST/raw"])
def test_data_dir_may_name_the_folder_of_the_dataset_or_its_raw(inside, extracted, fashion):
    data = load_data("fashion-mnist", extracted / inside, download=False)
    assert data.fingerprint == fashion.fingerprint


def test_data_dir_goes_before_the_environment_which_goes_before_the_cache(extracted, fashion, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match=str(tmp_path / ".cache" / "fishernet")):
        load_data("fashion-mnist", download=False)
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(extracted))
    assert load_data("fashion-mnist", download=False).fingerprint == fashion.fingerprint
    with pytest.raises(DataError, match=str(tmp_path / "elsewhere")):
        load_data("fashion-mnist", tmp_path / "elsewhere", download=False)


def test_a_read_only_folder_of_gz_files_is_read_and_not_written(data_dir, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in IDX_SHAPES:
        (raw / f"{file}.gz").symlink_to(data_dir / "MNIST" / "raw" / f"{file}.gz")
    folders = [raw, raw.parent, tmp_path]
    for folder in folders:
        folder.chmod(0o555)
    # root writes regardless of modes, so the times of the folders are compared as well
    before = [(sorted(folder.iterdir()), folder.stat().st_mtime_ns) for folder in folders]
    data = load_data("mnist", tmp_path)
    after = [(sorted(folder.iterdir()), folder.stat().st_mtime_ns) for folder in folders]
    for folder in folders:
        folder.chmod(0o755)
    assert len(data.train) == 60000
    assert after == before


def test_reading_gz_files_imports_neither_torchvision_nor_what_only_drivers_need(data_dir):
    program = (
        "import sys; from fishernet.data.loading import load_data; "
        f"data = load_data('mnist', {str(data_dir)!r}); "
        "print(len(data.train), *{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    n_train, *modules = run.stdout.split()
    assert n_train == "60000"
    assert "torch" in modules
    unwanted = {"torchvision", "sklearn", "PIL", "ray", "mlflow", "optuna", "pandas"}
    assert not unwanted & set(modules)


def test_digits_are_scaled_to_grey_values_and_the_last_360_are_the_test_set():
    from sklearn.datasets import load_digits

    data = load_data("digits")
    assert data.train.shape == (1437, 1, 8, 8)
    assert data.test.shape == (360, 1, 8, 8)
    images, labels = load_digits(return_X_y=True)
    both = torch.cat([data.train, data.test]).flatten(1).double()
    # half a grey level: the rounding of v 255/16
    assert (both - torch.from_numpy(images) * 255 / 16).abs().max() <= 0.5
    assert torch.cat([data.train_labels, data.test_labels]).tolist() == labels.tolist()


# -- downloading


@pytest.fixture
def mirror(data_dir, tmp_path, monkeypatch):
    """A folder of MNIST's files that a web server on this machine hands to torchvision's own download."""
    import torchvision.datasets

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path / "mirror"
    folder.mkdir()
    for file in IDX_SHAPES:
        (folder / f"{file}.gz").symlink_to(data_dir / "MNIST" / "raw" / f"{file}.gz")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    yield folder
    server.shutdown()
    server.server_close()


def test_a_download_comes_from_torchvision_and_is_then_read_from_the_folder(mirror, tmp_path):
    data = load_data("mnist", tmp_path / "new")
    assert data.train.shape == (60000, 1, 28, 28)
    assert [path.name for path in (tmp_path / "new" / "MNIST").iterdir()] == ["raw"]
    assert equal(data, load_data("mnist", tmp_path / "new", download=False))


def test_a_download_that_another_process_finished_first_is_as_good(mirror, tmp_path):
    raw = tmp_path / "new" / "MNIST" / "raw"
    assert _download("MNIST", raw) == _download("MNIST", raw) == raw
    (raw / "t10k-labels-idx1-ubyte").unlink()
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(OSError, match="not empty"):
        _download("MNIST", raw)


@pytest.mark.parametrize("missing", list(IDX_SHAPES)[::3])
def test_a_failed_download_is_a_sentence_and_leaves_no_half_of_the_files(missing, mirror, tmp_path):
    (mirror / f"{missing}.gz").unlink()
    with pytest.raises(DataError) as caught:
        load_data("mnist", tmp_path / "new")
    message = str(caught.value)
    for words in ("download failed", missing, str(tmp_path / "new"), "--data-dir", DATA_DIR_VARIABLE):
        assert words in message
    assert list((tmp_path / "new" / "MNIST").iterdir()) == []


@pytest.mark.parametrize("dataset", IDX_DATASETS)
def test_without_download_the_places_looked_at_and_the_remedies_are_named(dataset, tmp_path):
    with pytest.raises(DataError) as caught:
        load_data(dataset, tmp_path, download=False)
    folder = tmp_path / IDX_DATASETS[dataset][0] / "raw"
    for words in (dataset, f"{folder} or {tmp_path / 'raw'} or {tmp_path}", "--data-dir", DATA_DIR_VARIABLE):
        assert words in str(caught.value)
    assert "not allowed" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# -- damaged files


def changed(content, position, value):
    return content[:position] + bytes([value]) + content[position + 1 :]


def packed(content):
    return gzip.compress(content, 1)


IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
DAMAGE = {
    "an empty file": (LABELS, lambda c: b"", "is empty"),
    "an empty gz file": (f"{LABELS}.gz", lambda c: b"", "is empty"),
    "a truncated gz file": (f"{LABELS}.gz", lambda c: packed(c)[:-100], "cannot be read"),
    "a gz file that is none": (f"{LABELS}.gz", lambda c: c, "cannot be read"),
    "a damaged gz file": (f"{LABELS}.gz", lambda c: changed(packed(c), 500, 0), "cannot be read"),
    "a truncated file": (LABELS, lambda c: c[:-1], "has 10007 bytes extracted, not 10008"),
    "a wrong magic": (LABELS, lambda c: changed(c, 3, 3), "begins with 0000080300002710,"),
    "a wrong count": (LABELS, lambda c: changed(c, 7, 17), "begins with 0000080100002711,"),
    "a label of ten": (LABELS, lambda c: changed(c, 8, 10), "holds the label 10"),
    "a changed label": (LABELS, lambda c: changed(c, 8, (c[8] + 1) % 10), "has the md5"),
    "a changed pixel": (IMAGES, lambda c: changed(c, 1000, c[1000] ^ 1), "has the md5"),
    "a changed pixel, packed": (f"{IMAGES}.gz", lambda c: packed(changed(c, 1000, c[1000] ^ 1)), "has the md5"),
}


@pytest.fixture
def linked(extracted, tmp_path):
    """A data folder whose files may be replaced one by one."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in IDX_SHAPES:
        (raw / file).symlink_to(extracted / "FashionMNIST" / "raw" / file)
    return raw


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_with_what_is_wrong_and_what_to_do(damage, linked):
    name, transform, words = DAMAGE[damage]
    content = (linked / name.removesuffix(".gz")).read_bytes()
    (linked / name.removesuffix(".gz")).unlink()
    (linked / name).write_bytes(transform(content))
    with pytest.raises(DataError) as caught:
        load_data("fashion-mnist", linked.parents[1])
    assert str(caught.value).startswith(f"{linked / name} {words}")
    assert f"Get it again, or delete the four files in {linked} and run again" in str(caught.value)


def test_a_gz_file_packed_anew_is_as_good_as_the_official_one(linked, fashion):
    file = linked / "t10k-labels-idx1-ubyte"
    file.with_suffix(".gz").write_bytes(packed(file.read_bytes()))
    file.unlink()
    assert load_data("fashion-mnist", linked.parents[1]).fingerprint == fashion.fingerprint


def test_files_of_the_other_dataset_are_recognised(extracted):
    """FashionMNIST and MNIST use the same file names, so that one is easily copied over the other."""
    with pytest.raises(DataError) as caught:
        load_data("fashion-mnist", extracted / "MNIST", download=False)
    for words in ("train-images-idx3-ubyte belongs to mnist", "Name the folder of fashion-mnist", "--data-dir"):
        assert words in str(caught.value)
    assert "delete" not in str(caught.value)  # it is a good file of the other dataset


def test_a_missing_file_among_the_four_is_named(linked):
    (linked / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError) as caught:
        load_data("fashion-mnist", linked.parents[1])
    assert f"{linked} lacks train-labels-idx1-ubyte (" in str(caught.value)
    assert "Put what is missing there, or delete the others" in str(caught.value)


# -- arrays of one's own


def test_train_and_test_of_an_npz_file_arrive_unchanged(tmp_path):
    train, test = grey(7), grey(3, seed=1)
    path = save_npz(tmp_path / "x.npz", train=train, test=test, train_labels=np.arange(7, dtype=np.uint8))
    data = load_data(path)
    assert data.name == path
    assert data.train.tolist() == train[:, None].tolist()
    assert data.test.tolist() == test[:, None].tolist()
    assert data.train_labels.tolist() == list(range(7))
    assert data.train_labels.dtype == torch.int64
    assert data.test_labels is None


@pytest.mark.parametrize(("n", "n_test"), [(3, 1), (6, 1), (11, 1), (12, 2), (60, 10)])
@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_the_last_sixth_of_a_single_array_is_the_test_set(n, n_test, suffix, tmp_path):
    path, images = tmp_path / f"x{suffix}", grey(n)
    if suffix == ".npz":
        np.savez(path, images=images, labels=np.arange(n))
    else:
        np.save(path, images)
    data = load_data(str(path))
    assert torch.cat([data.train, data.test]).tolist() == images[:, None].tolist()
    assert len(data.test) == n_test
    if suffix == ".npz":
        assert data.test_labels.tolist() == list(range(n - n_test, n))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_may_come_first_or_last(channels, tmp_path):
    first = np.random.default_rng(0).integers(0, 256, (12, channels, 4, 5), dtype=np.uint8)
    last = first.transpose(0, 2, 3, 1)
    data = [load_data(save_npz(tmp_path / "x.npz", images=array)) for array in (first, last)]
    assert data[0].image_shape == (channels, 4, 5)
    assert data[0].train.tolist() == first[:10].tolist()
    assert equal(*data)


def test_where_both_readings_fit_channels_come_first(tmp_path):
    images = grey(12 * 3, 5, 3).reshape(12, 3, 5, 3)
    data = load_data(save_npz(tmp_path / "x.npz", images=images))
    assert data.image_shape == (3, 5, 3)
    assert data.train.tolist() == images[:10].tolist()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int16", "int64", ">u2", "uint8"])
def test_every_grey_value_survives_every_dtype(dtype, tmp_path):
    values = np.arange(256)
    array = values / 255 if np.dtype(dtype).kind == "f" else values
    images = np.broadcast_to(array.astype(dtype).reshape(1, 16, 16), (3, 16, 16))
    data = load_data(save_npz(tmp_path / "x.npz", images=images))
    assert data.train[0].flatten().tolist() == values.tolist()


def test_floats_are_rounded_to_the_nearest_grey_value(tmp_path):
    images = np.broadcast_to([[0, 0.0019, 0.0021, 0.4, 0.999, 1]], (3, 1, 6))
    data = load_data(save_npz(tmp_path / "x.npz", images=images))
    assert data.train[0].flatten().tolist() == [0, 0, 1, 102, 255, 255]


def test_booleans_become_black_and_white(tmp_path):
    images = grey(6) > 100
    data = load_data(save_npz(tmp_path / "x.npz", images=images))
    assert data.train.bool().tolist() == images[:5, None].tolist()
    assert sorted(data.train.unique().tolist()) == [0, 255]


@pytest.mark.parametrize("kind", ["digits", "npz", "folder"])
@pytest.mark.parametrize("cuts", [{}, {"train_size": 4}, {"validation_size": 3}])
def test_tensors_own_exactly_their_memory(kind, cuts, tmp_path):
    """A view would be pickled, and kept in memory, with all of the array it was cut from."""
    colour = grey(24, 4, 15).reshape(24, 4, 5, 3)
    sources = {
        "digits": lambda: "digits",
        "npz": lambda: save_npz(tmp_path / "x.npz", images=colour, labels=np.arange(24)),
        "folder": lambda: save_images(tmp_path / "images", colour),
    }
    data = load_data(sources[kind](), **cuts)
    for tensor in (data.train, data.test, data.train_labels, data.test_labels):
        if tensor is not None:
            assert tensor.is_contiguous()
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_a_tensor_shares_no_memory_with_a_read_only_array_or_the_array_it_is_a_part_of():
    source = np.zeros((6, 4, 5, 3), np.uint8)
    source.flags.writeable = False
    for part in (source, source[:2], source.transpose(0, 3, 1, 2)):
        _tensor(part).add_(1)
    assert not source.any()


ONE, INDEX = np.full((6, 4, 5), 200, np.uint8), np.arange(120).reshape(6, 4, 5)
BAD_ARRAYS = {
    "nan": ({"images": np.where(INDEX == 7, np.nan, 0)}, ["array images of", "NaN", "Remove"]),
    "infinity": ({"images": np.where(INDEX == 7, np.inf, 0)}, ["array images of", "infinite", "Remove"]),
    "minus infinity": ({"images": np.where(INDEX == 7, -np.inf, 0)}, ["infinite", "Remove"]),
    "floats to 255": ({"images": ONE / 1.0}, ["floats in [0, 1]", "from 200.0 to 200.0", "Divide it by 255"]),
    "negative floats": ({"images": -1.0 * ONE / 255}, ["floats in [0, 1]", "-0.78", "Rescale"]),
    "large floats": ({"images": ONE * 2.0}, ["floats in [0, 1]", "400.0", "Rescale"]),
    "large integers": ({"images": ONE.astype(int) * 2}, ["integers in 0..255", "400.0", "Rescale"]),
    "negative integers": ({"images": -ONE.astype(int)}, ["integers in 0..255", "-200.0", "Rescale"]),
    "a mask": ({"images": ONE // 200}, ["at most 1", "bool or float"]),
    "complex numbers": ({"images": ONE * 1j}, ["uint8", "complex128", "Convert"]),
    "text": ({"images": np.full((6, 4, 5), "a")}, ["uint8", "<U1", "Convert"]),
    "objects": ({"images": ONE.astype(object)}, ["cannot be read", "unpickling", "np.savez"]),
    "no images": ({"images": ONE[:0]}, ["array images of", "no images", "(0, 4, 5)", "Give"]),
    "one image": ({"images": ONE[:1]}, ["2 images or more", "got 1"]),
    "two images": ({"images": ONE[:2]}, ["2 images or more", "got 1"]),
    "two axes": ({"images": ONE[:, 0]}, ["(n, height, width)", "(6, 5)", "Reshape"]),
    "four channels": ({"images": np.stack([ONE] * 4, 3)}, ["channels 1 or 3", "(6, 4, 5, 4)", "alpha"]),
    "only train": ({"train": ONE}, ["train and test", "it holds train.", "Name"]),
    "only labels": ({"train_labels": np.arange(6)}, ["it holds train_labels.", "Name"]),
    "other names": ({"x_train": ONE, "y_train": ONE}, ["it holds x_train, y_train.", "Name"]),
    "both forms": ({"images": ONE, "train": ONE, "test": ONE}, ["either", "images, test, train.", "Name"]),
    "labels of the other form": ({"train": ONE, "test": ONE, "labels": np.arange(6)}, ["labels, te", "Name"]),
    "two sizes": ({"train": ONE, "test": ONE[:, 1:]}, ["one shape", "(1, 4, 5) and (1, 3, 5)", "Resize"]),
    "too few labels": ({"images": ONE, "labels": np.arange(5)}, ["array labels", "6 whole", "(5,)", "leave"]),
    "too many test labels": (
        {"train": ONE, "test": ONE[:2], "test_labels": np.arange(3)},
        ["array test_labels of", "2 whole numbers", "(3,)", "leave"],
    ),
    "two-hot labels": ({"images": ONE, "labels": np.eye(6, dtype=int) + np.eye(6, k=1, dtype=int)}, ["6 whole", "(6, 6)"]),
    "labels of two columns": ({"images": ONE, "labels": np.arange(12).reshape(6, 2)}, ["6 whole", "(6, 2)", "leave"]),
    "fractional labels": ({"images": ONE, "labels": np.arange(6) / 2}, ["6 whole", "float64", "leave"]),
    "labels of NaN": ({"images": ONE, "labels": np.full(6, np.nan)}, ["6 whole", "float64", "leave"]),
    "labels in words": ({"images": ONE, "labels": np.array(list("abcdef"))}, ["6 whole", "<U1", "leave"]),
    "labels beyond int64": ({"images": ONE, "labels": np.full(6, 2**63, np.uint64)}, ["6 whole", "uint64", "leave"]),
    "floats of a 16-step scale": ({"images": INDEX % 17 / 1.0}, ["from 0.0 to 16.0", "Divide it by 16"]),
    "floats beyond 1 by resampling": ({"images": INDEX / 119 * 1.0000002}, ["1.0000002", "Clip it"]),
    "floats below 0 by resampling": ({"images": INDEX / 119 - 0.05}, ["-0.05", "Clip it"]),
    "floats from -1 to 1": ({"images": INDEX / 59.5 - 1}, ["from -1.0 to 1.0", "(x + 1) / 2"]),
    "floats of 12 bits": ({"images": INDEX * 30.0}, ["3570.0", "Rescale", "divide it by 4095 where it has 12 bits"]),
    "integers of 16 bits": ({"images": INDEX * 500}, ["59500.0", "Rescale", "divide it by 65535 where it has 16 bits"]),
    "integers of a 16-step scale": ({"images": (INDEX % 17).astype(np.uint8)}, ["16 of 255", "below a tenth of white"]),
    "floats divided twice": ({"images": INDEX / 119 / 255}, ["1 of 255", "below a tenth of white"]),
    "black": ({"images": ONE * 0.0}, ["0 of 255", "below a tenth of white"]),
    "one colour image": ({"images": np.zeros((8, 8, 3), np.uint8)}, ["one colour image", "(8, 8, 3)", "Add the axis"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_an_array_that_holds_no_images_is_a_sentence(case, tmp_path):
    arrays, words = BAD_ARRAYS[case]
    path = save_npz(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError) as caught:
        load_data(path)
    for word in [path, *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("convert", "said"),
    [(lambda n: np.eye(3)[n], "labels were one-hot"), (lambda n: n[:, None], "labels of one column"),
     (lambda n: n / 1, "labels were whole floats"), (lambda n: n[:, None] / 1, "labels of one column and were whole floats"),
     (lambda n: np.eye(3, dtype=bool)[n], "labels were one-hot"), (lambda n: n.astype(np.uint8), None)],
)  # fmt: skip
def test_labels_in_another_form_are_converted_and_that_is_said(convert, said, tmp_path):
    classes = np.array([0, 1, 2, 0, 2, 1])
    data = load_data(save_npz(tmp_path / "x.npz", images=ONE, labels=convert(classes)))
    assert torch.cat([data.train_labels, data.test_labels]).tolist() == classes.tolist()
    assert data.remarks == ((said,) if said else ())


def test_labels_that_only_the_test_images_have_are_named(tmp_path):
    ordered, mixed = np.array([0, 0, 1, 1, 1, 2]), np.array([2, 0, 1, 1, 0, 2])
    said = "only test has the labels 2"
    (remark,) = load_data(save_npz(tmp_path / "x.npz", images=ONE, labels=ordered)).remarks
    assert remark == f"{said} (the last sixth is test: shuffle what is sorted)"
    parts = {"train": ONE[:5], "test": ONE[5:]}
    assert load_data(
        save_npz(tmp_path / "x.npz", **parts, train_labels=ordered[:5], test_labels=ordered[5:])
    ).remarks == (said,)
    assert load_data(save_npz(tmp_path / "x.npz", images=ONE, labels=mixed)).remarks == ()


def test_a_path_that_a_named_data_set_hides_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_data("digits").remarks == ()
    save_npz(tmp_path / "digits.npz", images=ONE)
    (tmp_path / "digits.npz").rename("digits")
    (remark,) = load_data("digits").remarks
    assert remark.endswith("./digits")


def test_arrays_that_are_not_read_are_named(tmp_path):
    data = load_data(save_npz(tmp_path / "x.npz", train=ONE, test=ONE, val=ONE, val_labels=np.arange(6)))
    assert str(data) == "6 to train, 6 for test, 4x5 grey; not read: val, val_labels"


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
@pytest.mark.parametrize("content", [b"", b"not numpy", b"PK\x03\x04 half a zip file", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_not_numpys_is_a_sentence(suffix, content, tmp_path):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_data(str(path))
    for words in (str(path), "cannot be read", "np.savez"):
        assert words in str(caught.value)


def test_a_pickle_is_never_executed(tmp_path):
    path, victim = tmp_path / "x.npy", tmp_path / "written"

    class Malicious:
        def __reduce__(self):
            return (Path.touch, (victim,))

    np.save(path, np.array([Malicious()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="unpickling"):
        load_data(str(path))
    assert not victim.exists()


# -- folders of images


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".PNG"])
def test_a_flat_folder_is_read_in_the_order_of_its_names(suffix, tmp_path):
    images = grey(12)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").write_text("no image")
    (tmp_path / "images" / "._000.png").write_text("what macOS puts into archives")
    data = load_data(save_images(tmp_path / "images", images, suffix))
    assert data.train.tolist() == images[:10, None].tolist()
    assert data.test.tolist() == images[10:, None].tolist()
    assert data.train_labels is None


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_are_read(suffix, tmp_path):
    data = load_data(save_images(tmp_path / "images", np.full((6, 16, 16), 100, np.uint8), suffix))
    assert data.image_shape[1:] == (16, 16)
    assert (data.train.int() - 100).abs().max() <= 2  # a constant image loses a rounding or two


def test_train_and_test_folders_with_classes_give_labels_by_sorted_name(tmp_path):
    images = grey(9)
    for part, class_name, rows in (
        ("train", "dog", images[:3]), ("train", "cat", images[3:6]), ("test", "dog", images[6:8]),
        ("test", "eel", images[8:]),
    ):  # fmt: skip
        save_images(tmp_path / part / class_name, rows)
    data = load_data(str(tmp_path))
    assert data.train_labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert data.train.tolist() == images[[3, 0, 4, 1, 5, 2], None].tolist()
    assert sorted(data.test_labels.tolist()) == [1, 1, 2]
    for label, rows in ((1, images[6:8]), (2, images[8:])):
        assert data.test[data.test_labels == label].tolist() == rows[:, None].tolist()


def test_classes_take_turns_so_that_every_cut_holds_them_in_proportion(tmp_path):
    save_images(tmp_path / "cat", grey(12))
    save_images(tmp_path / "dog", grey(24, seed=1))
    data = load_data(str(tmp_path), train_size=12, validation_size=6)
    assert torch.bincount(data.train_labels).tolist() == [4, 8]
    assert torch.bincount(data.test_labels).tolist() == [2, 4]
    assert torch.bincount(load_data(str(tmp_path)).test_labels).tolist() == [2, 4]


def test_a_part_without_classes_has_no_labels_and_does_not_shift_the_others(tmp_path):
    images = grey(6)
    for class_name, rows in (("a", images[:2]), ("b", images[2:4])):
        save_images(tmp_path / "train" / class_name, rows)
    save_images(tmp_path / "test", images[4:])
    data = load_data(str(tmp_path))
    assert data.train_labels.tolist() == [0, 1, 0, 1]
    assert data.test_labels is None


def test_a_single_subfolder_is_no_class(tmp_path):
    save_images(tmp_path / "all", grey(6))
    assert load_data(str(tmp_path)).train_labels is None


def test_grey_and_colour_together_are_all_colour(tmp_path):
    grey_image, colour = grey(1)[0], grey(1, 4, 20).reshape(4, 5, 4)
    colour[..., 3] = 255  # an alpha channel that hides nothing
    save_images(tmp_path, [grey_image, colour, grey_image])
    data = load_data(str(tmp_path))
    assert data.image_shape == (3, 4, 5)
    assert data.train[0].tolist() == [grey_image.tolist()] * 3
    assert data.train[1].tolist() == colour[..., :3].transpose(2, 0, 1).tolist()


def test_transparent_pixels_show_white_and_that_is_said(tmp_path):
    """Whatever the file has behind them, which no viewer shows."""
    values, alpha = grey(2)[:, None], np.where(INDEX % 3, 255, 0)[:2, None]
    for i in range(2):
        Image.fromarray(np.stack([values[i, 0], alpha[i, 0].astype(np.uint8)], 2)).save(tmp_path / f"{i}.png")
    Image.fromarray(values[0, 0]).save(tmp_path / "2.png")
    data = load_data(str(tmp_path))
    assert data.train.tolist() == np.where(alpha, values, 255).tolist()
    assert data.remarks == ("2 with transparent pixels, shown on white",)


def test_grey_with_alpha_and_black_and_white_stay_grey(tmp_path):
    values = grey(1)[0]
    Image.fromarray(np.stack([values, np.full_like(values, 255)], 2)).save(tmp_path / "0.png")
    Image.fromarray(values > 100).save(tmp_path / "1.png")
    Image.fromarray(values).save(tmp_path / "2.png")
    data = load_data(str(tmp_path))
    assert data.train.tolist() == [[values.tolist()], [((values > 100) * 255).tolist()]]


def empty_folder(folder):
    (folder / "notes.txt").write_text("no image")
    return [str(folder), "no images", ".png", "Put some there"]


def empty_test_folder(folder):
    save_images(folder / "train", grey(3))
    (folder / "test").mkdir()
    return [str(folder / "test"), "no images", "Put some there"]


def lonely_train_folder(folder):
    save_images(folder / "train", grey(3))
    return [str(folder), "train without its counterpart", "Make both"]


def two_sizes(folder):
    save_images(folder, [*grey(2, 4, 5), *grey(2, 6, 7)])
    return [f"{folder / '000.png'} is 5 x 4", f"{folder / '002.png'} is 7 x 6", "Resize"]


def unreadable_image(folder):
    save_images(folder, grey(3))
    (folder / "001.png").write_bytes(b"no image")
    return [str(folder / "001.png"), "cannot be read as an image", "delete it"]


def truncated_image(folder):
    save_images(folder, grey(3, 40, 50))
    (folder / "001.png").write_bytes((folder / "001.png").read_bytes()[:500])
    return [str(folder / "001.png"), "cannot be read as an image", "delete it"]


def sixteen_bits(folder):
    save_images(folder, [*grey(2), grey(1)[0].astype(np.uint16)])
    return [str(folder / "002.png"), "more than 8 bits", "I;16", "Convert it to 8 bits", "4095"]


def floating_point(folder):
    save_images(folder, grey(3).astype(np.float32), ".tif")
    return [str(folder / "000.tif"), "more than 8 bits", "Convert it to 8 bits"]


def images_beside_classes(folder):
    save_images(folder, grey(3))
    save_images(folder / "cat", grey(3))
    return [str(folder), "(000.png)", "classes", "Move all of them"]


def one_image(folder):
    save_images(folder, grey(1))
    return [str(folder), "2 images or more", "got 1"]


@pytest.mark.parametrize(
    "make",
    [empty_folder, empty_test_folder, lonely_train_folder, two_sizes, unreadable_image, truncated_image,
     sixteen_bits, floating_point, images_beside_classes, one_image],
)  # fmt: skip
def test_a_folder_that_cannot_be_used_is_a_sentence(make, tmp_path):
    words = make(tmp_path)
    with pytest.raises(DataError) as caught:
        load_data(str(tmp_path))
    for word in words:
        assert word in str(caught.value)


# -- names and sizes


@pytest.mark.parametrize(
    ("given", "meant"), [("Fashion-MNIST", "fashion-mnist"), ("fashon_mnist", "fashion-mnist"), ("digit", "digits")]
)
def test_a_misspelt_name_is_answered_with_the_nearest(given, meant):
    with pytest.raises(DataError, match=rf"^dataset {given} does not exist; .*\. Did you mean {meant}\?$"):
        load_data(given)


def test_a_path_that_does_not_exist_is_answered_with_the_names_there_are(tmp_path):
    path = tmp_path / "nowhere.npz"
    with pytest.raises(DataError) as caught:
        load_data(str(path))
    for words in (*DATASETS, f"{path} does not exist", ".npz or .npy file", "folder of images"):
        assert words in str(caught.value)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("dataset", "module", "package"), [("digits", "sklearn", "scikit-learn"), ("images", "PIL", "pillow")]
)
def test_a_package_that_the_data_need_is_named_where_it_is_missing(dataset, module, package, tmp_path, monkeypatch):
    if dataset == "images":
        dataset = save_images(tmp_path / "images", grey(6))
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(DataError, match=f"is read with {package}, which is not installed here: pip install {package}"):
        load_data(dataset)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("1,2")
    with pytest.raises(DataError, match=r"x\.csv is another kind of file"):
        load_data(str(path))
    (one,) = Path(save_images(tmp_path / "images", grey(1))).iterdir()
    with pytest.raises(DataError, match=r"png is one image, and a data set is a folder of them.*model\.encode\(path\)"):
        load_data(one)


def test_train_size_keeps_the_first_training_images():
    whole, part = load_data("digits"), load_data("digits", train_size=100)
    assert part.train.tolist() == whole.train[:100].tolist()
    assert part.train_labels.tolist() == whole.train_labels[:100].tolist()
    assert torch.equal(part.test, whole.test)
    assert part.held_out == "test"


def test_validation_images_are_the_last_of_training_and_hide_the_test_set():
    whole, held = load_data("digits"), load_data("digits", validation_size=37)
    assert held.held_out == "validation"
    assert held.test.tolist() == whole.train[1400:].tolist()
    assert held.test_labels.tolist() == whole.train_labels[1400:].tolist()
    assert held.train.tolist() == whole.train[:1400].tolist()
    assert held.train_labels.tolist() == whole.train_labels[:1400].tolist()


def test_train_size_counts_after_the_validation_images_are_gone():
    assert len(load_data("digits", train_size=1400, validation_size=37).train) == 1400
    with pytest.raises(DataError) as caught:
        load_data("digits", train_size=1401, validation_size=37)
    for words in ("train_size", "digits has 1400", "validation_size 37", "got 1401", "Give at most 1400"):
        assert words in str(caught.value)


@pytest.mark.parametrize("validation_size", [-1, 1437, 5000])
def test_validation_must_leave_images_to_train_on(validation_size):
    with pytest.raises(DataError) as caught:
        load_data("digits", validation_size=validation_size)
    for words in ("validation_size", "1437 training images of digits", f"got {validation_size}.", "less than 1437"):
        assert words in str(caught.value)
    assert len(load_data("digits", validation_size=1436).train) == 1


def test_the_fingerprint_ignores_the_cuts_and_the_name(tmp_path):
    images, labels = grey(12), np.arange(12)
    paths = [save_npz(tmp_path / f"{name}.npz", images=images, labels=labels) for name in "ab"]
    prints = {load_data(path).fingerprint for path in paths}
    prints |= {load_data(paths[0], train_size=3, validation_size=2).fingerprint}
    assert len(prints) == 1
    assert len(prints.pop()) == 16


def test_the_fingerprint_changes_with_pixels_labels_split_and_shape(tmp_path):
    images, labels = grey(12), np.arange(12)
    pixel, label = images.copy(), labels.copy()
    pixel[-1, -1, -1] ^= 1
    label[-1] = 0
    variants = [
        {"images": images},
        {"images": pixel},
        {"images": images.reshape(12, 5, 4)},
        {"images": images, "labels": labels},
        {"images": images, "labels": label},
        {"train": images[:9], "test": images[9:]},
        {"train": images[:9], "test": images[9:], "train_labels": labels[:9]},
    ]
    prints = {load_data(save_npz(tmp_path / "x.npz", **arrays)).fingerprint for arrays in variants}
    assert len(prints) == len(variants)


def test_the_help_of_the_flag_names_every_built_in_dataset():
    (dataset,) = (field for field in dataclasses.fields(TrialConfig) if field.name == "dataset")
    assert dataset.metadata["meaning"].startswith(", ".join(DATASETS))
    assert dataset.default in DATASETS


@pytest.mark.parametrize("name", ["image_size", "crop", "train_size", "validation_size", "stopping_size"])
@pytest.mark.parametrize("value", ["16", 16.5, True, None, [16]])
def test_what_is_no_whole_number_is_refused_by_its_name_before_anything_is_read(name, value):
    with pytest.raises(DataError, match=rf"^{name} \(.*\) must be a whole number; got {re.escape(repr(value))}\."):
        load_data("no-such-file.npz", **{name: value})


def test_other_arguments_that_cannot_be_are_refused_by_their_names_too():
    for given, said in (
        ({"image_size": -2}, "image_size .* from -1 to 4096; got -2"),
        ({"stopping_size": -1}, "stopping_size .* at least 0; got -1"),
        ({"binarisation": "Static"}, "binarisation .* Did you mean static[?]$"),
        ({"data_dir": 3}, "data_dir is the folder"),
    ):
        with pytest.raises(DataError, match=said):
            load_data("digits", **given)
    with pytest.raises(DataError, match="dataset is the name of a data set or a path; got ndarray"):
        load_data(np.zeros((9, 4, 4)))


def test_a_path_object_is_a_path(tmp_path):
    np.save(tmp_path / "x.npy", np.full((12, 4, 4), 255, np.uint8))
    assert len(load_data(tmp_path / "x.npy").train) == 10


def test_a_small_test_set_is_said(tmp_path):
    for n, small in ((12, True), (6 * 19, True), (6 * 20, False)):
        np.save(tmp_path / "x.npy", np.full((n, 4, 4), 255, np.uint8))
        assert bool(load_data(str(tmp_path / "x.npy")).caution) == small
    np.save(tmp_path / "x.npy", np.full((4, 4, 4), 255, np.uint8))
    assert "of one image held out for test" in load_data(str(tmp_path / "x.npy")).caution
