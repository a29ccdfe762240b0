"""Data sets in torchvision's layout: made here, small, with the checksums of what was made."""

import gzip
import hashlib
import pickle
import zipfile

import numpy as np
import pytest
from torchvision import datasets
from torchvision.datasets import utils

from fishernet.data import DATASETS, DataError
from fishernet.data.loading import load_data
from fishernet.data.published import SOURCES

RNG = np.random.default_rng(0)


def md5(content):
    return hashlib.md5(content).hexdigest()


def idx(array):
    sizes = np.array(array.shape, ">u4").tobytes()
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes(), mtime=0)


def some(n, *shape):
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Five batches of four images and one of three; rows are red, green and blue planes, as in the originals."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = {f"data_batch_{i}": some(4, 3, 32, 32) for i in range(1, 6)} | {"test_batch": some(3, 3, 32, 32)}
    files = {
        name: pickle.dumps({"data": x.reshape(len(x), -1), "labels": [i % 10 for i in range(len(x))]})
        for name, x in pixels.items()
    } | {"batches.meta": pickle.dumps({"label_names": list("abcdefghij")})}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    lists = [[name, md5(files[name])] for name in pixels]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", lists[:-1])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", lists[-1:])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": md5(files["batches.meta"])})
    return tmp_path, np.concatenate([pixels[f"data_batch_{i}"] for i in range(1, 6)]), pixels["test_batch"]


def test_cifar10_has_the_pixels_and_labels_of_its_batches_in_their_order(cifar):
    root, train, test = cifar
    data = load_data("cifar10", root, download=False)
    np.testing.assert_array_equal(data.train, train)
    np.testing.assert_array_equal(data.test, test)
    assert data.train_labels.tolist() == [0, 1, 2, 3] * 5
    assert data.test_labels.tolist() == [0, 1, 2]


def test_one_flipped_bit_is_a_damaged_file_that_is_named_and_never_unpickled(cifar, monkeypatch):
    root, *_ = cifar
    path = root / "cifar-10-batches-py" / "data_batch_3"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(
        pickle, "load", lambda *given, **named: pytest.fail("a file that is not verified was unpickled")
    )
    with pytest.raises(DataError, match=rf"{path} is damaged, or another file: its md5 is {md5(content)}"):
        load_data("cifar10", root, download=False)


def test_a_file_that_is_missing_among_others_is_named(cifar):
    root, *_ = cifar
    (root / "cifar-10-batches-py" / "data_batch_2").unlink()
    with pytest.raises(DataError, match="lacks data_batch_2"):
        load_data("cifar10", root)


def test_kmnist_is_read_from_its_four_verified_archives(tmp_path, monkeypatch):
    folder = tmp_path / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    arrays = some(5, 28, 28), np.arange(5, dtype=np.uint8), some(4, 28, 28), np.array([9, 8, 7, 6], np.uint8)
    names = [name for name, _ in datasets.KMNIST.resources]
    for name, array in zip(names, arrays, strict=True):
        (folder / name).write_bytes(idx(array))
    monkeypatch.setattr(datasets.KMNIST, "resources", [(n, md5(idx(a))) for n, a in zip(names, arrays, strict=True)])
    data = load_data("kmnist", tmp_path, download=False)
    np.testing.assert_array_equal(data.train[:, 0], arrays[0])
    np.testing.assert_array_equal(data.test[:, 0], arrays[2])
    assert data.test_labels.tolist() == [9, 8, 7, 6]


@pytest.mark.parametrize(("split", "first"), [("letters", 1), ("balanced", 0)])
def test_emnist_stands_upright_and_its_labels_begin_at_0(tmp_path, monkeypatch, split, first):
    folder = tmp_path / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    train, test, labels = some(5, 28, 28), some(4, 28, 28), np.arange(5, dtype=np.uint8) + first
    content = {"train-images-idx3": train, "train-labels-idx1": labels, "test-images-idx3": test,
               "test-labels-idx1": labels[:4]}  # fmt: skip
    with zipfile.ZipFile(folder / "gzip.zip", "w") as archive:
        for name, array in content.items():
            archive.writestr(f"gzip/emnist-{split}-{name}-ubyte.gz", idx(array))
    monkeypatch.setattr(datasets.EMNIST, "md5", md5((folder / "gzip.zip").read_bytes()))
    data = load_data(f"emnist-{split}", tmp_path, download=False)
    np.testing.assert_array_equal(data.train[:, 0], train.transpose(0, 2, 1))
    np.testing.assert_array_equal(data.test[:, 0], test.transpose(0, 2, 1))
    assert data.train_labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", SOURCES)
def test_files_of_another_content_are_refused_by_the_published_checksums(name, tmp_path):
    source = SOURCES[name](name)
    (tmp_path / source.folder).mkdir(parents=True)
    for file in source.checksums:
        (tmp_path / source.folder / file).write_bytes(b"something else")
    with pytest.raises(
        DataError, match=rf"is damaged, or another file: .* that of {name} is {next(iter(source.checksums.values()))}"
    ):
        load_data(name, tmp_path, download=False)


@pytest.mark.parametrize("name", SOURCES)
def test_a_download_that_is_refused_is_a_sentence_and_leaves_nothing(name, tmp_path, monkeypatch):
    def refused(*given, **named):
        raise OSError("the network is unreachable")

    monkeypatch.setattr(utils, "_urlretrieve", refused)
    with pytest.raises(DataError, match=rf"{name} is .* none is there, and the download failed \(.*FISHERNET_DATA_DIR"):
        load_data(name, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_is_downloaded_is_moved_into_place_whole(tmp_path, monkeypatch):
    content = {"train_32x32.mat": b"train", "test_32x32.mat": b"test"}
    split_list = {name.partition("_")[0]: ["", name, md5(bytes_)] for name, bytes_ in content.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", split_list)
    fetched = []

    def svhn(root, split, download):
        fetched.append((split, download))
        from pathlib import Path

        Path(root).mkdir(parents=True, exist_ok=True)
        (Path(root) / split_list[split][1]).write_bytes(content[split_list[split][1]])
        return type("Part", (), {"data": some(3, 3, 32, 32), "labels": np.arange(3)})

    svhn.split_list = split_list
    monkeypatch.setattr(datasets, "SVHN", svhn)
    assert load_data("svhn", tmp_path).train.shape == (3, 3, 32, 32)
    assert fetched[:2] == [("train", True), ("test", True)]
    assert {path.name for path in (tmp_path / "SVHN").iterdir()} == set(content)


def test_every_named_data_set_has_a_reader_that_exists():
    import importlib

    for name, row in DATASETS.items():
        module, _, function = row.reader.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), name
