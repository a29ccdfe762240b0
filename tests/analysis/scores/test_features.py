"""Feature vectors are pytorch-fid's own, or a good classifier's; no file, network or cache can surprise their user."""

import dataclasses
import functools
import http.server
import itertools
import os
import pickle
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_fid import inception
from safetensors.torch import save_file
from torch import nn

from analysis.frame import AnalysisError
from analysis.scores import distances, features
from analysis.scores.distances import RealFeatures
from analysis.scores.features import Classifier, Extractor, Inception, Random, real_features, train_classifier
from analysis.scores.images import chosen_features
from fishernet.data import DATA_DIR_VARIABLE
from fishernet.data.images import ImageData
from fishernet.data.loading import load_data

RELEASED = "pt_inception-2015-12-05-6726825d.pth"


def fid_network() -> nn.Module:
    """pytorch-fid's architecture, of random weights under which an image still matters at the last layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
        for name, block in {
            "5b": inception.FIDInceptionA(192, pool_features=32),
            "5c": inception.FIDInceptionA(256, pool_features=64),
            "5d": inception.FIDInceptionA(288, pool_features=64),
            "6b": inception.FIDInceptionC(768, channels_7x7=128),
            "6c": inception.FIDInceptionC(768, channels_7x7=160),
            "6d": inception.FIDInceptionC(768, channels_7x7=160),
            "6e": inception.FIDInceptionC(768, channels_7x7=192),
            "7b": inception.FIDInceptionE_1(1280),
            "7c": inception.FIDInceptionE_2(2048),
        }.items():
            setattr(network, f"Mixed_{name}", block)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
    return network


@pytest.fixture(scope="module")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A torch.hub folder to which such weights have been "downloaded"."""
    home = tmp_path_factory.mktemp("torch")
    weights = home / "hub" / "checkpoints" / RELEASED
    weights.parent.mkdir(parents=True)
    torch.save(fid_network().state_dict(), weights)
    yield home
    weights.unlink()  # 95 MB, which pytest would keep for three runs


@pytest.fixture(scope="module")
def weights(torch_home: Path) -> Path:
    return torch_home / "hub" / "checkpoints" / RELEASED


@pytest.fixture(scope="module")
def of_file(weights: Path) -> Inception:
    return Inception(weights)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits")


@pytest.fixture(scope="module")
def classifier(digits: ImageData) -> Classifier:
    return train_classifier(digits)


@pytest.fixture
def grey() -> torch.Tensor:
    return torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch.hub folder, and loopback addresses reached without a proxy."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "hub" / "checkpoints"


def says(error: pytest.ExceptionInfo[AnalysisError], *parts: object) -> bool:
    """It is one line, and has these parts."""
    text = str(error.value)
    return "\n" not in text and all(str(part) in text for part in parts)


def test_inception_gives_what_pytorch_fid_gives(of_file, torch_home, grey, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    by_hand = inception.InceptionV3().eval()
    expected = by_hand(grey[:2].repeat(1, 3, 1, 1))[0][:, :, 0, 0].numpy()
    assert expected.shape == (2, 2048)
    found = of_file.features(grey[:2])
    assert found.dtype == np.float32
    # float32's rounding; two images differ in every feature, by far more
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())
    assert np.abs(expected[0] - expected[1]).max() > 1e-2 * expected.max()


def test_the_network_of_the_download_is_that_of_the_same_file(of_file, torch_home, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    assert Inception().fingerprint == of_file.fingerprint


def test_colour_images_enter_inception_as_they_are(of_file, grey):
    colours = torch.cat([grey, grey.flip(0), 1 - grey], dim=1)[:2]
    expected = of_file.network(colours)[0].flatten(1).numpy()
    assert np.array_equal(of_file.features(colours), expected)
    assert not np.allclose(expected, of_file.features(grey[:2]), rtol=1e-2)


def test_weights_as_safetensors_are_the_same_weights(of_file, weights, tmp_path):
    path = tmp_path / "weights.safetensors"
    state = torch.load(weights, weights_only=True)
    save_file(state, path)
    assert Inception(path).fingerprint == of_file.fingerprint
    state["Conv2d_1a_3x3.conv.weight"][0, 0, 0, 0] += 1
    save_file(state, path)
    assert Inception(path).fingerprint != of_file.fingerprint
    path.unlink()


@pytest.mark.parametrize("name", features.FEATURE_NAMES)
def test_features_depend_on_neither_batches_nor_order(name, request, digits, monkeypatch):
    extractor: Extractor = (
        Random(digits.image_shape)
        if name == "random"
        else request.getfixturevalue({"inception": "of_file", "classifier": "classifier"}[name])
    )
    assert extractor.name == name
    images = digits.test[:3].float() / 255
    seen = []
    at_once = extractor.features(images)
    monkeypatch.setattr(type(extractor), "batch_size", 2)
    reversed_in_twos = extractor.features(images.flip(0), lambda done, of: seen.append((done, of)))
    assert at_once.shape == (3, extractor.n_features)
    np.testing.assert_allclose(reversed_in_twos[::-1], at_once, rtol=1e-4, atol=1e-5 * np.abs(at_once).max())
    assert seen == [(2, 3), (3, 3)]


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused_before_it_runs(tmp_path, no_cache):
    marker, foreign = tmp_path / "marker", tmp_path / RELEASED
    torch.save({"Conv2d_1a_3x3.conv.weight": Touch(marker)}, foreign)
    with pytest.raises(AnalysisError) as error:
        Inception(foreign)
    assert says(error, "--inception-weights", foreign, "might run code")
    no_cache.mkdir(parents=True)
    (no_cache / RELEASED).write_bytes(foreign.read_bytes())
    with pytest.raises(AnalysisError) as error:
        Inception()
    assert says(error, no_cache / RELEASED, "delete that file", "--inception-weights", "--features classifier")
    assert not marker.exists()
    torch.load(foreign, weights_only=False)  # so this is what was refused
    assert marker.exists()


def of_another_shape(weights: Path) -> dict[str, torch.Tensor]:
    state = torch.load(weights, weights_only=True)
    return {name: torch.zeros(()).expand(2, *tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("write", "part"),
    [
        (lambda path, weights: None, "cannot be read"),
        (lambda path, weights: path.mkdir(), "cannot be read"),
        (lambda path, weights: path.write_bytes(b""), "is damaged"),
        (lambda path, weights: path.write_bytes(b"<!DOCTYPE html>"), "is damaged"),
        (lambda path, weights: path.write_bytes(weights.read_bytes()[:-1000]), "is damaged"),
        (lambda path, weights: path.write_bytes(weights.read_bytes()[:1000]), "is damaged"),
        (lambda path, weights: path.write_bytes(pickle.dumps(nn.Linear(1, 1), protocol=2)), "is damaged"),
        (lambda path, weights: torch.save(nn.Linear(1, 1), path), "run code"),
        (lambda path, weights: torch.save([1, 2], path), "got list"),
        (lambda path, weights: torch.save({}, path), "Missing key(s)"),
        (lambda path, weights: torch.save({1: torch.zeros(2)}, path), "names or shapes differ"),
        (lambda path, weights: torch.save({"fc.bias": "none"}, path), "names or shapes differ"),
        (lambda path, weights: torch.save(of_another_shape(weights), path), "size mismatch"),
    ],
)
def test_a_file_that_holds_no_such_weights_is_named_in_a_sentence(write, part, weights, tmp_path):
    path = tmp_path / RELEASED
    write(path, weights)
    with pytest.raises(AnalysisError) as error:
        Inception(path)
    assert says(error, "--inception-weights", path, part)
    # what was replaced to build the network is back
    assert inception.load_state_dict_from_url is torch.hub.load_state_dict_from_url


def test_a_damaged_safetensors_file_is_named_in_a_sentence(tmp_path):
    path = tmp_path / "weights.safetensors"
    for content in (None, b"", b"\x08\0\0\0\0\0\0\0{}      "):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(AnalysisError) as error:
            Inception(path)
        assert says(error, "--inception-weights", path)


def test_without_a_network_one_sentence_says_what_to_do(no_cache, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, but nobody listens: a connection is refused
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/{RELEASED}"
        monkeypatch.setattr(inception, "FID_WEIGHTS_URL", address)
        with pytest.raises(AnalysisError) as error:
            Inception()
    assert says(
        error, "Inception's weights cannot be downloaded (", "refused); give --inception-weights FILE",
        "or use --features classifier.",
    )  # fmt: skip
    assert list(no_cache.iterdir()) == []


def test_a_network_that_never_answers_is_given_up(no_cache, monkeypatch):
    monkeypatch.setattr(features, "SILENT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/{RELEASED}"
        monkeypatch.setattr(inception, "FID_WEIGHTS_URL", address)
        with pytest.raises(AnalysisError) as error:
            Inception()
    assert says(error, "cannot be downloaded (timed out)")
    assert socket.getdefaulttimeout() is None


def test_a_download_of_other_content_is_refused_and_not_kept(no_cache, tmp_path, monkeypatch):
    """A portal's log-in page, or a download cut short, must not become the weights of every later run."""
    served = tmp_path / "served"
    served.mkdir()
    (served / RELEASED).write_bytes(b"please log in")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=served)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(inception, "FID_WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}/{RELEASED}")
        with pytest.raises(AnalysisError) as error:
            Inception()
        server.shutdown()
    assert says(error, "cannot be downloaded (invalid hash value", "6726825d")
    assert list(no_cache.iterdir()) == []


def test_the_classifier_tells_digits_apart(classifier):
    assert classifier.test_accuracy > 0.9  # 0.1 is chance


def test_features_are_what_the_last_layer_reads_before_its_relu(classifier, digits):
    found = classifier.features(digits.test.float() / 255)
    assert found.dtype == np.float32
    assert found.min() < 0
    last = classifier.network[1][1]
    logits = np.maximum(found, 0) @ last.weight.numpy().T + last.bias.numpy()
    # labels are 0 to 9, so classes are their positions
    assert (logits.argmax(1) == digits.test_labels.numpy()).mean() == pytest.approx(classifier.test_accuracy, abs=1e-12)


def test_the_seed_decides_every_bit_and_global_randomness_is_left_alone(digits, monkeypatch):
    monkeypatch.setattr(features, "LEAST_STEPS", 1)
    monkeypatch.setattr(features, "PASSES", 2)
    state = torch.random.get_rng_state()
    first = train_classifier(digits, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)
    again = train_classifier(digits, seed=3)
    assert again.fingerprint == first.fingerprint
    assert again.training == first.training
    assert train_classifier(digits, seed=4).fingerprint != first.fingerprint


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 13), (1, 33, 40), (3, 57, 60)])
def test_images_of_any_shape_and_labels_of_any_number_will_do(shape, monkeypatch):
    monkeypatch.setattr(features, "LEAST_STEPS", 40)
    shades = torch.tensor([20, 120, 220, 20, 120, 220], dtype=torch.uint8)
    images = shades[:, None, None, None].expand(6, *shape).clone()
    labels = torch.tensor([-7, 2, 40, -7, 2, 40])
    data = ImageData("shades", images, images[1:3], labels, labels[1:3], "", "test")
    steps = []
    made = train_classifier(data, progress=lambda *done: steps.append(done))
    assert made.test_accuracy == 1
    assert made.features(images.float() / 255).shape == (6, made.n_features)
    assert steps == [(step, 40) for step in range(1, 41)]


@pytest.mark.parametrize(("shape", "seen"), [((1, 512, 512), (64, 64)), ((3, 128, 96), (64, 48))])
def test_the_classifier_sees_large_images_averaged_and_says_so(shape, seen, monkeypatch):
    """So that neither its training nor a batch grows with the images' pixels."""
    monkeypatch.setattr(features, "LEAST_STEPS", 20)
    shades = torch.tensor([20, 220] * 3, dtype=torch.uint8)
    images, labels = shades[:, None, None, None].expand(6, *shape).clone(), torch.tensor([0, 1] * 3)
    largest = []
    hook = nn.modules.module.register_module_forward_hook(lambda _, x, y: largest.append(y.numel() // len(y)))
    made = train_classifier(ImageData("shades", images, images[:2], labels, labels[:2], "", "test"))
    found = made.features(images)
    hook.remove()
    # 64 feature maps of the convolutions, at half the height and width
    assert max(largest) <= 64 * seen[0] * seen[1] // 4
    assert made.test_accuracy == 1
    np.testing.assert_array_equal(found, made.features(images.float() / 255))
    assert made.remarks(shape) == [
        f"The classifier sees images of {shape[1]} x {shape[2]} pixels averaged to {seen[0]} x {seen[1]}."
    ]
    assert made.remarks((1, 28, 28)) == []


@pytest.mark.parametrize("kind", [Inception, Classifier])
@pytest.mark.parametrize("side", [28, 64, 299, 512, 4096])
def test_a_batch_has_at_most_so_many_pixels(kind, side):
    n = kind.batch_of(kind, (3, side, side))
    assert 1 <= n <= kind.batch_size
    assert n == 1 or n * side**2 <= kind.batch_pixels
    assert side > 64 or n == kind.batch_size  # what usual images get


def test_test_images_and_their_labels_decide_the_accuracy_alone(monkeypatch):
    """With wrong labels of the test images the accuracy is 0, and the weights are what they were."""
    monkeypatch.setattr(features, "LEAST_STEPS", 40)
    shades = torch.tensor([20, 120, 220, 20, 120, 220], dtype=torch.uint8)
    images, labels = shades[:, None, None, None].expand(6, 1, 8, 8).clone(), torch.tensor([0, 1, 2, 0, 1, 2])
    right = ImageData("shades", images, images[:3], labels, labels[:3], "", "test")
    wrong = dataclasses.replace(right, test=images[1:3], test_labels=labels[:2])
    of_right, of_wrong = train_classifier(right), train_classifier(wrong)
    assert (of_right.test_accuracy, of_wrong.test_accuracy) == (1, 0)
    assert of_wrong.fingerprint == of_right.fingerprint


def test_every_pass_of_the_classifier_takes_each_image_once_in_an_order_of_its_own():
    """But for the rest that fills no batch: 12 images in batches of 5 are two, and two images wait."""
    batches = list(itertools.islice(features._batches(12, 5, seed=0), 6))
    passes = [torch.cat(batches[i : i + 2]).tolist() for i in (0, 2, 4)]
    assert all(len(set(order)) == 10 and set(order) <= set(range(12)) for order in passes)
    assert len({tuple(order) for order in passes}) == 3


def test_without_two_classes_there_is_no_classifier(digits):
    for missing in ("train_labels", "test_labels"):
        with pytest.raises(AnalysisError) as error:
            train_classifier(dataclasses.replace(digits, **{missing: None}))
        assert says(error, "digits", "labels", "--features inception")
    with pytest.raises(AnalysisError) as error:
        train_classifier(dataclasses.replace(digits, train_labels=torch.full_like(digits.train_labels, 4)))
    assert says(error, "digits", "2 classes", "label 4")


def test_images_of_another_shape_are_refused(classifier, grey):
    with pytest.raises(AnalysisError) as error:
        classifier.features(grey)
    assert says(error, "(1, 8, 8)", "(1, 28, 28)")


def test_a_classifier_read_back_is_the_one_written(classifier, digits, tmp_path):
    path = tmp_path / "classifier.safetensors"
    classifier.save(path)
    read = Classifier.load(path)
    assert read.training == classifier.training
    assert read.training.data == digits.fingerprint
    assert read.fingerprint == classifier.fingerprint
    images = digits.test[:50].float() / 255
    assert np.array_equal(read.features(images), classifier.features(images))


def test_a_file_that_is_no_classifier_is_named_in_a_sentence(classifier, tmp_path):
    path = tmp_path / "classifier.safetensors"
    classifier.save(path)
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[-100] ^= 1  # in the weights, where safetensors itself sees nothing
    save_file({"x": torch.zeros(2)}, path)
    foreign = path.read_bytes()
    for content in (b"", whole[:50], whole[:-50], bytes(changed), foreign, whole.replace(b"n_classes", b"n_glasses")):
        path.write_bytes(content)
        with pytest.raises(AnalysisError) as error:
            Classifier.load(path)
        assert says(error, path, "no classifier")
    path.write_bytes(whole)
    Classifier.load(path)
    with pytest.raises(AnalysisError) as error:
        Classifier.load(tmp_path / "absent")
    assert says(error, tmp_path / "absent")


class Corners(Extractor):
    """The first two pixels; it counts the images it has seen."""

    name = "corners"
    n_features = 2
    batch_size = 4
    batch_pixels = 4 * 28 * 28

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, "cpu")
        self.n_seen = 0

    def _of(self, images: torch.Tensor) -> torch.Tensor:
        self.n_seen += len(images)
        return images[:, 0, 0, :2]


def test_features_of_real_images_are_computed_once_for_each_network_and_set_of_images(grey, tmp_path):
    images, cache = torch.cat([grey, 1 - grey]), tmp_path / "new" / "folder"
    extractor = Corners(nn.Linear(1, 1))
    expected = RealFeatures.of(images[:, 0, 0, :2].numpy())
    for _ in range(2):
        real = real_features(extractor, images, cache)
        assert extractor.n_seen == 10
        assert np.array_equal(real.features, expected.features)
        assert np.array_equal(real.radii, expected.radii)
    (path,) = cache.iterdir()
    assert path.name.startswith(f"real-corners-{extractor.fingerprint}-")
    real_features(extractor, images.flip(0), cache)
    assert extractor.n_seen == 20
    retrained = Corners(nn.Linear(1, 1))
    real_features(retrained, images, cache)
    assert retrained.n_seen == 10
    assert len(list(cache.iterdir())) == 3
    real_features(extractor, images, None)
    assert extractor.n_seen == 30


def test_a_damaged_cache_is_made_anew(grey, tmp_path):
    images, extractor = torch.cat([grey, 1 - grey]), Corners(nn.Linear(1, 1))
    real_features(extractor, images, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[:-30], b"other"):
        path.write_bytes(damaged)
        real = real_features(extractor, images, tmp_path)
        assert np.array_equal(real.features, images[:, 0, 0, :2].numpy())
        assert list(tmp_path.iterdir()) == [path]
        RealFeatures.load(path)
    assert extractor.n_seen == 40


@pytest.mark.parametrize("place", ["file/cache", "~nobody-of-this-name/cache"])
def test_a_cache_that_cannot_be_kept_costs_no_result_and_is_named(place, grey, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    images, said = torch.cat([grey, 1 - grey]), []
    cache = Path(place) if place.startswith("~") else tmp_path / place
    real = real_features(Corners(nn.Linear(1, 1)), images, cache, say=said.append)
    assert np.array_equal(real.features, images[:, 0, 0, :2].numpy())
    (sentence,) = said
    assert sentence.startswith(f"Features of the real images are kept in {cache} (--cache), and writing there failed: ")


@pytest.mark.long
def test_the_classifier_of_fashion_mnist_is_right_on_91_percent():
    if DATA_DIR_VARIABLE not in os.environ:
        pytest.skip(f"Fashion-MNIST is not downloaded for a test; {DATA_DIR_VARIABLE} names the folder that holds it")
    assert train_classifier(load_data("fashion-mnist", download=False)).test_accuracy >= 0.91


def test_random_features_are_the_same_everywhere_and_take_no_random_number_from_others(digits):
    before = torch.random.get_rng_state()
    one, other = Random(digits.image_shape), Random(digits.image_shape)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert one.fingerprint == other.fingerprint
    assert np.array_equal(one.features(digits.test), other.features(digits.test))
    assert Random((3, 9, 70)).features(torch.rand(2, 3, 9, 70)).shape == (2, 64)
    assert "averaged" in Random((3, 9, 70)).remarks((3, 9, 70))[0]


def test_a_distance_on_random_features_is_nothing_of_the_same_images_and_grows_with_their_damage(digits):
    extractor, images = Random(digits.image_shape), digits.test.float() / 255
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))

    def gaussian(level):
        return distances.fit_gaussian(extractor.features((images + level * noise).clamp(0, 1)))

    whole = gaussian(0)
    same, *damaged = (distances.frechet_distance(whole, gaussian(level)) for level in (0, 0.1, 0.2, 0.4))
    assert same < 1e-6  # of traces of about 30, to the rounding of a matrix root
    assert damaged[0] > 1e-3
    assert all(later > 2 * sooner for sooner, later in itertools.pairwise(damaged)), damaged


def test_without_labels_auto_is_random_and_with_them_or_scores_that_are_there_it_is_not(digits):
    def stored(labels, scores):
        images = SimpleNamespace(train_labels=labels, test_labels=labels)
        return SimpleNamespace(images=images, runs=pd.DataFrame({"scores": [{}, scores]}))

    assert chosen_features(stored(None, {}), "auto", None, 0) == "random"
    assert chosen_features(stored(digits.test_labels, {}), "auto", None, 0) == "classifier"
    assert chosen_features(stored(None, {"classifier": {}}), "auto", None, 0) == "classifier"
    assert chosen_features(stored(digits.test_labels, {"random": {}}), "auto", None, 0) == "random"
    assert chosen_features(stored(None, {}), "auto", Path("weights"), 0) == "inception"
    assert chosen_features(stored(None, {}), "classifier", None, 0) == "classifier"
