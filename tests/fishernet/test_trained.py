"""The Python door: a model from its file alone, and the same checks for whatever is given as images."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import fishernet
from fishernet.cohort import Cohort
from fishernet.data import DataError
from fishernet.data.loading import load_data
from fishernet.families import family, trial_config
from fishernet.records import write_records
from fishernet.trained import ModelError, TrainedModel, load
from fishernet.training import train

SETTINGS = {
    "dataset": "digits",
    "hidden_width": 16,
    "hidden_layers": 1,
    "epochs": 2,
    "latent_dim": 3,
    "train_size": 300,
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Three models trained for two epochs, the folders of their runs, and the images."""
    folder, data = tmp_path_factory.mktemp("trained"), load_data("digits", train_size=300)
    runs = {}
    for model in ("FisherNet", "VAE", "AE"):
        config = trial_config(model=model, **SETTINGS)
        cohort = Cohort([config], data.image_shape, len(data.train))
        for _ in train(cohort, data):
            pass
        write_records(folder, cohort, data)
        runs[model] = folder / config.run_name
    return SimpleNamespace(runs=runs, images=data.test.numpy(), shape=data.image_shape)


def test_a_model_is_loaded_from_a_file_or_its_folder_alone_and_gives_what_training_stored(digits):
    for model, run in digits.runs.items():
        stored = np.load(run / "latents.npz")["means"]
        of_folder, of_file = fishernet.load(run), fishernet.load(str(run / "weights.safetensors"))
        assert of_folder.config == of_file.config == trial_config(model=model, **SETTINGS)
        np.testing.assert_allclose(of_folder.encode(digits.images), stored, atol=1e-5)
        pictures = np.load(run / "pictures.npz")["reconstructions"]
        shown = np.rint(of_file.reconstruct(digits.images[:10]) * 255)
        assert np.abs(shown - pictures.astype(float)).max() <= 1


def test_the_same_images_in_any_form_have_the_same_latents(digits):
    model, images = load(digits.runs["VAE"]), digits.images[:5]
    expected = model.encode(images)
    assert expected.shape == (5, 3)
    assert expected.dtype == np.float32
    forms = [
        images[:, 0], images.transpose(0, 2, 3, 1), images / 255, (images / 255).astype(np.float32), torch.from_numpy(images),
        torch.from_numpy(images / 255).requires_grad_(), images.astype(np.int64), images.tolist(), images[::-1][::-1],
    ]  # fmt: skip
    for form in forms:
        np.testing.assert_array_equal(model.encode(form), expected)
    assert model.encode(np.zeros_like(images[:2])).shape == (2, expected.shape[1])  # black images are images
    one = model.encode(images[:1, 0] > 127)
    np.testing.assert_array_equal(one, model.encode((images[:1] > 127) * np.uint8(255)))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda x: x / 127.5 - 1, r"must hold floats in \[0, 1\]; it runs from -1"),
        (lambda x: x.astype(float), r"must hold floats in \[0, 1\]; it runs from 0.0 to 255"),
        (lambda x: x.astype(np.int64) * 4, "must hold integers in 0..255"),
        (lambda x: x[:, :, :4], r"shape \(channels, height, width\) = \(1, 8, 8\); got \(1, 4, 8\)"),
        (lambda x: x.repeat(3, axis=1), r"= \(1, 8, 8\); got \(3, 8, 8\)"),
        (lambda x: x[0, 0, 0], "must have the axes"),
        (lambda x: x[0, 0], r"this is one image, \(8, 8\); give it an axis before"),
        (lambda x: "some-folder", "some-folder does not exist. Give an image file, a list of these, or a folder"),
        (lambda x: ["a.png", Path(__file__).parent], "a.png does not exist"),
        (lambda x: [Path(__file__).parent], "is a folder among files"),
        (lambda x: __file__, "cannot be read as an image"),
        (lambda x: x[:0], "holds no images"),
        (lambda x: np.where(x > 100, np.nan, 0.5), "NaN or infinite"),
        (lambda x: x.astype(str), "must hold uint8"),
        (lambda x: [[1, 2], [3]], "images must form one array"),
    ],
)
def test_what_are_no_such_images_is_refused_in_a_sentence(digits, wrong, sentence):
    model = load(digits.runs["VAE"])
    for method in (model.encode, model.reconstruct, model.posterior):
        with pytest.raises((ModelError, DataError), match=sentence):
            method(wrong(digits.images))


def save(folder, images):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(folder / f"{i:03}.png")
    return sorted(folder.iterdir())


def test_image_files_are_encoded_as_their_pixels_are_in_their_order(digits, tmp_path, monkeypatch):
    model, images = load(digits.runs["VAE"]), digits.images[:5]
    paths = save(tmp_path / "new" / "train", images)  # a part's name is any folder's here
    expected = model.encode(images)
    np.testing.assert_array_equal(model.encode(tmp_path / "new"), expected)
    np.testing.assert_array_equal(model.encode(os.fspath(paths[2])), model.encode(images[2:3]))
    np.testing.assert_array_equal(model.encode(paths[::-1]), model.encode(images[::-1]))
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    for at_home in ("~/new", ["~/new/train/" + path.name for path in paths], Path("~/new")):
        np.testing.assert_array_equal(model.encode(at_home), expected)
    np.testing.assert_array_equal(model.interpolate(paths[0], paths[1]), model.interpolate(images[0], images[1]))
    wide = save(tmp_path / "wide", images.repeat(2, axis=3))
    with pytest.raises(ModelError, match=r"got \(1, 8, 16\). Resize them to 8 x 8"):
        model.encode(wide)
    with pytest.raises(ModelError, match=r"got \(3, 8, 8\). Convert them to its colours"):
        model.encode(save(tmp_path / "colour", images.repeat(3, axis=1)))


def test_files_are_cropped_and_resized_and_grey_ones_shown_in_colour_as_in_the_models_data_set(tmp_path):
    config = trial_config(model="AE", latent_dim=2, hidden_width=4, hidden_layers=1, crop=16, image_size=8, dataset="x")
    model = TrainedModel(family("AE").load()([config], (3, 8, 8), 10).eval(), (3, 8, 8))
    values = np.random.default_rng(0).integers(0, 256, (12, 1, 20, 24), dtype=np.uint8)
    paths = save(tmp_path / "folder", [values[0], *values[1:].repeat(3, axis=1)])
    data = load_data(tmp_path / "folder", crop=16, image_size=8)
    np.testing.assert_array_equal(model.encode(paths), model.encode(torch.cat([data.train, data.test])))
    assert len(model.encode(paths[0])) == 1
    assert repr(model) == "<AE d=2 seed 0 of 8x8 colour images>"
    assert repr(data) == f"<{tmp_path / 'folder'}: 10 to train, 2 for test, 8x8 colour>"
    with pytest.raises(ModelError, match=r"this is one image, \(8, 8, 3\); give it an axis before"):
        model.encode(np.zeros((8, 8, 3), np.uint8))


def test_the_posterior_of_fishernet_is_the_inverse_of_its_precision(digits):
    model, x = load(digits.runs["FisherNet"]), digits.images[:4]
    mean, covariance = model.posterior(x)
    np.testing.assert_array_equal(mean, model.encode(x))
    precision = model.network.precision(torch.from_numpy(mean)[None])[0].detach().numpy()
    np.testing.assert_allclose(precision @ covariance, np.eye(3)[None].repeat(4, 0), atol=1e-4)
    with pytest.raises(ModelError, match="AE has no uncertainty"):
        load(digits.runs["AE"]).posterior(x)


def test_samples_are_decoded_draws_of_the_prior_and_a_plain_autoencoder_has_none(digits):
    model = load(digits.runs["VAE"])
    first = model.sample(6, seed=3)
    assert first.shape == (6, *digits.shape)
    assert 0 <= first.min() < first.max() <= 1
    np.testing.assert_array_equal(first, model.sample(6, seed=3))
    assert not np.array_equal(first, model.sample(6, seed=4))
    z = model.network.prior.sample(0, 6, torch.Generator().manual_seed(3))
    np.testing.assert_array_equal(first, model.decode(z))
    for n in (0, -1, "6", 2.5, None):
        with pytest.raises(ModelError, match=f"n is .* from 1; got {n!r}"):
            model.sample(n)
    with pytest.raises(ModelError, match="AE has no prior to draw from"):
        load(digits.runs["AE"]).sample(1)


def test_interpolation_begins_and_ends_at_the_reconstructions(digits):
    model, (a, b) = load(digits.runs["AE"]), digits.images[:2]
    between = model.interpolate(a, b, steps=5)
    np.testing.assert_allclose(between[[0, -1]], model.reconstruct(digits.images[:2]), atol=1e-5)
    middle = model.encode(digits.images[:2]).mean(0, keepdims=True)
    np.testing.assert_allclose(between[2:3], model.decode(middle), atol=1e-5)
    for steps in (1, "5", 2.5):
        with pytest.raises(ModelError, match=f"steps is .* from 2; got {steps!r}"):
            model.interpolate(a, b, steps=steps)
    with pytest.raises(ModelError, match="from one image to one other; got 3 and 1"):
        model.interpolate(digits.images[:3], b)


@pytest.mark.parametrize(
    ("z", "got"), [(np.zeros((2, 4)), r"\(2, 4\)"), (np.zeros(3), r"\(3,\)"), (np.full((1, 3), np.inf), "not finite")]
)
def test_latents_of_another_shape_are_refused(digits, z, got):
    with pytest.raises(ModelError, match=got):
        load(digits.runs["AE"]).decode(z)


def test_what_is_no_trained_model_is_a_sentence(digits, tmp_path):
    with pytest.raises(
        ModelError, match=r"nowhere is neither a weights.safetensors, nor a folder with one, nor the id"
    ):
        load("nowhere")
    with pytest.raises(ModelError, match="neither"):
        load(tmp_path)
    content = bytearray((digits.runs["AE"] / "weights.safetensors").read_bytes())
    content[-5] ^= 4
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="its checksum does not match its content"):
        load(tmp_path)
    with pytest.raises(ModelError, match=r"there is no MLflow store at .*nowhere.db"):
        load("0" * 32, tracking_uri=f"sqlite:///{tmp_path}/nowhere.db")


def test_importing_the_package_takes_nothing_along():
    code = (
        "import sys, fishernet; assert fishernet.__version__.count('.') == 2; assert 'load' in dir(fishernet);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'mlflow', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        fishernet.lode  # noqa: B018
