"""Black and white images: drawn with the probability that their grey values say, the same bits for every model and cohort."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from fishernet import contract
from fishernet.data import DataError
from fishernet.data.binarised import drawn
from fishernet.data.images import ResidentImages
from fishernet.data.loading import load_data
from fishernet.families import trial_config
from fishernet.training import train_epoch

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def mnist():
    try:
        return load_data("mnist", download=False)
    except DataError as error:
        pytest.skip(str(error))


def test_thresholds_make_a_grey_value_white_with_exactly_its_share_of_255():
    """Counted over all 255 thresholds, not sampled; with 256 of them it would be v/256."""
    values = torch.arange(256, dtype=torch.uint8)[:, None]
    thresholds = torch.arange(255, dtype=torch.uint8)
    white = torch.stack([
        ResidentImages(values).take(torch.arange(256)[None], t.expand(1, 256, 1))[0, :, 0] for t in thresholds
    ])  # fmt: skip
    assert torch.equal(white.sum(0), torch.arange(256).float())


def test_drawn_thresholds_are_uniform_on_0_to_254_and_each_members_own(small, images):
    cohort = contract.made([trial_config(model="VAE", seed=s, **small) for s in (0, 1)], images)
    drawn = cohort.draw_thresholds(cohort.streams("binarisation", 1), 500, 100)
    assert drawn.shape == (2, 500, 100)
    assert (int(drawn.min()), int(drawn.max())) == (0, 254)
    # Of 50,000 numbers: each of 255 is met 196 times, known to 14; the largest of 255 such deviations stays below five.
    for member in drawn:
        assert (torch.bincount(member.flatten().long()) - 50_000 / 255).abs().max() < 5 * (50_000 / 255) ** 0.5
    assert not torch.equal(drawn[0], drawn[1])


def test_training_images_are_black_and_white_drawn_anew_in_every_epoch_alike_for_every_model(small, images):
    seen = {}
    for model in ("VAE", "AE", "FisherNet"):
        cohort = contract.made([trial_config(model=model, latent_dim=3, binarisation="dynamic", **small)], images)
        resident = ResidentImages.of(images.train, CPU)
        batches, take = [], resident.take
        object.__setattr__(
            resident, "take", lambda index, t=None, take=take, to=batches: to.append(take(index, t)) or to[-1]
        )
        orders = [cohort.draw_orders(epoch, 96)[0].argsort() for epoch in (1, 2)]
        for _ in orders:
            train_epoch(cohort, resident)
        epochs = [torch.cat([b[0] for b in batches[i : i + 5]])[order] for i, order in zip((0, 5), orders, strict=True)]
        seen[model] = torch.stack(epochs)
    for epochs in seen.values():
        assert torch.equal(epochs, seen["VAE"])
        assert set(epochs.unique().tolist()) == {0.0, 1.0}
        assert not torch.equal(*epochs)
    # The mean of two draws of p: a sum of 19,200 numbers of variance p(1 - p).
    p = images.train.flatten(1).double() / 255
    error = (2 * p * (1 - p)).sum().sqrt()
    assert abs(seen["VAE"].sum() - 2 * p.sum()) < 5 * error


def test_members_of_a_cohort_and_runs_alone_see_the_same_bits(images):
    contract.a_member_of_a_cohort_trains_as_it_would_alone({"model": "VAE", "binarisation": "dynamic"}, None)


def test_a_run_on_images_drawn_anew_resumes_bit_for_bit(images, tmp_path):
    contract.killed_and_resumed_equals_uninterrupted({"model": "VAE", "binarisation": "dynamic"}, tmp_path)


@pytest.fixture
def file(images, tmp_path):
    np.savez(tmp_path / "x.npz", train=images.train[:, 0], test=images.test[:, 0])
    return str(tmp_path / "x.npz")


@pytest.mark.parametrize("how", ["dynamic", "once", "threshold"])
def test_held_out_images_are_made_black_and_white_once(how, file, images):
    data = load_data(file, stopping_size=20, binarisation=how)
    again = load_data(file, stopping_size=20, binarisation=how)
    for name, grey in (("train", images.train[:76]), ("stopping", images.train[76:]), ("test", images.test)):
        bits = getattr(data, name)
        assert torch.equal(bits, getattr(again, name))
        if name == "train" and how == "dynamic":
            assert torch.equal(bits, grey)
            continue
        assert set(bits.unique().tolist()) == {0, 255}
        p = grey.double() / 255
        if how == "threshold":
            assert torch.equal(bits == 255, p > 0.5)
        else:
            assert abs((bits / 255.0 - p).sum()) < 5 * (p * (1 - p)).sum().sqrt()
    assert data.fingerprint == load_data(file).fingerprint


def test_each_set_has_random_numbers_of_its_own(tmp_path):
    """Of equal images, which share a stream, the bits would be equal."""
    grey = np.full((20, 8, 8), 128, np.uint8)
    np.savez(tmp_path / "x.npz", train=np.concatenate([grey, grey]), test=grey)
    data = load_data(str(tmp_path / "x.npz"), stopping_size=20, binarisation="once")
    sets = [data.train, data.stopping, data.test, load_data(data.name, validation_size=20, binarisation="once").test]
    for i, bits in enumerate(sets):
        assert not any(torch.equal(bits, other) for other in sets[:i])


def test_a_bit_is_numpys_binomial_of_one_trial():
    images = np.random.default_rng(0).integers(256, size=(2500, 1, 4, 4), dtype=np.uint8)
    expected = np.random.RandomState(5).binomial(1, images / 255)
    assert np.array_equal(drawn(images, np.random.RandomState(5)), 255 * expected)


def test_the_held_out_bits_of_mnist_are_those_of_the_released_code(mnist):
    """Stopping and test images: 1,012,148 and 1,038,341 white pixels, and the digests of RandomState(777).binomial's bits."""
    data = load_data("mnist", stopping_size=10_000, binarisation="dynamic", download=False)
    white = [int((x == 255).sum()) for x in (data.stopping, data.test)]
    assert white == [1_012_148, 1_038_341]
    random = np.random.RandomState(777)
    for bits, grey in ((data.stopping, mnist.train[50_000:]), (data.test, mnist.test)):
        expected = random.binomial(1, grey.numpy() / 255).astype(np.uint8) * 255
        assert hashlib.sha256(bits.numpy().tobytes()).digest() == hashlib.sha256(expected.tobytes()).digest()
    assert torch.equal(data.train, mnist.train[:50_000])


def test_a_file_of_black_and_white_images_is_taken_as_it_is(tmp_path):
    """Such as Larochelle and Murray's fixed draw of MNIST, as bool or as floats of 0 and 1."""
    bits = np.random.default_rng(0).random((30, 6, 6)) > 0.5
    for kind in (bool, np.float32):
        np.savez(tmp_path / "x.npz", train=bits[:20].astype(kind), test=bits[20:].astype(kind))
        data = load_data(str(tmp_path / "x.npz"), stopping_size=5)
        assert torch.equal(torch.cat([data.train, data.stopping, data.test])[:, 0] == 255, torch.from_numpy(bits))


@pytest.mark.parametrize("grey", ["train", "test"])
def test_static_is_of_a_file_in_black_and_white_and_refuses_grey_images(grey, tmp_path):
    """One grey pixel anywhere, and the bits would be another draw than the one that the word promises."""
    sets = {name: np.random.default_rng(0).integers(0, 2, (2500, 2, 2), np.uint8) * 255 for name in ("train", "test")}
    np.savez(tmp_path / "x.npz", **sets)
    file = str(tmp_path / "x.npz")
    data, plain = load_data(file, stopping_size=5, binarisation="static"), load_data(file, stopping_size=5)
    for name in ("train", "stopping", "test"):
        assert torch.equal(getattr(data, name), getattr(plain, name))
    sets[grey][2400, 0, 1] = 254
    np.savez(tmp_path / "x.npz", **sets)
    with pytest.raises(DataError, match=r"binarisation static is of images .* has grey ones\. Give a file"):
        load_data(file, binarisation="static")


@pytest.mark.parametrize(
    ("name", "trained_on", "held"),
    [("reversed-mnist", (5800, 100), None), ("reversed-mnist-released", (5000, 100), (800, 50))],
)
def test_reversed_mnist_has_many_zeros_few_others_and_holds_out_other_images(name, trained_on, held, mnist):
    """The first of each class in the order of the file; 5,923 zeros are there, of which the first 50,000 hold 4,932."""
    size = 1250 if held else 10_000
    data = load_data(name, stopping_size=size, download=False)
    counts = torch.bincount(data.train_labels, minlength=10).tolist()
    assert counts == [trained_on[0], *[trained_on[1]] * 9]
    assert len(data.stopping) == size
    assert torch.equal(data.test, mnist.test)
    places = {image.tobytes(): i for i, image in reversed([*enumerate(mnist.train.numpy())])}
    own, others = ([places[image.tobytes()] for image in part.numpy()] for part in (data.train, data.stopping))
    assert not set(own) & set(others)
    assert own == sorted(own)
    for digit in range(10):
        first = (mnist.train_labels == digit).nonzero()[:, 0].tolist()
        n = trained_on[min(digit, 1)]
        assert [i for i in own if mnist.train_labels[i] == digit] == first[:n]
        if held:
            assert [i for i in others if mnist.train_labels[i] == digit] == first[n : n + held[min(digit, 1)]]
    few = load_data(name, stopping_size=size, train_size=len(own) // 10, download=False)
    for digit, n in enumerate(torch.bincount(few.train_labels, minlength=10).tolist()):
        assert abs(n - counts[digit] / 10) <= 10
    assert few.train_labels.tolist() == [
        int(mnist.train_labels[places[image.tobytes()]]) for image in few.train.numpy()
    ]
    with pytest.raises(
        DataError, match=f"{name} has .* images beside those to train on and to test; got validation_size 0"
    ):
        load_data(name, stopping_size=54_000, download=False)


def test_svhn_without_its_files_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(
        DataError, match=r"svhn is (read with|train_32x32\.mat and test_32x32\.mat in .*FISHERNET_DATA_DIR)"
    ):
        load_data("svhn", tmp_path, download=False)


def test_sizes_that_leave_nothing_to_train_on_are_refused(file):
    with pytest.raises(DataError, match="stopping_size is how many of the 96 training images"):
        load_data(file, stopping_size=96)
    with pytest.raises(DataError, match=r"with validation_size 10 and stopping_size 20; got 80\. Give at most 66"):
        load_data(file, stopping_size=20, validation_size=10, train_size=80)
    data = load_data(file, stopping_size=20, validation_size=10)
    assert (len(data.train), len(data.stopping), len(data.test), data.held_out) == (66, 20, 10, "validation")
    whole = load_data(file)
    assert torch.equal(torch.cat([data.train, data.stopping, data.test]), whole.train)
    assert str(replace(data, remarks=())) == "66 to train, 10 for validation, 20 to stop by, 10x10 grey"
