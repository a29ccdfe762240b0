"""Images of several sizes become one size, and nothing is stretched unless that is asked for."""

import numpy as np
import pytest
from PIL import Image

from fishernet.data import STRETCH, DataError
from fishernet.data.fitting import Fit
from fishernet.data.loading import images_of, load_data
from fishernet.families import trial_config

RANDOM = np.random.default_rng(0)


def test_the_crop_is_the_centre_and_a_resize_by_a_whole_factor_is_the_mean_over_pixels():
    x = RANDOM.integers(0, 256, (3, 1, 10, 14), dtype=np.uint8)
    np.testing.assert_array_equal(Fit(crop=6).array(x, "x"), x[:, :, 2:8, 4:10])
    np.testing.assert_array_equal(Fit(size=10).array(x, "x"), x[:, :, :, 2:12])
    np.testing.assert_array_equal(Fit().array(x, "x"), x)
    # A triangle two pixels of the result wide: weights 1, 3, 3, 1 of 8 in each direction, away from the border.
    half = Fit(size=5).array(x, "x")[:, 0, 2, 2].astype(float)
    weights = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    np.testing.assert_allclose(half, (x[:, 0, 3:7, 5:9] * weights).sum((1, 2)), atol=1)


def test_a_flat_picture_stays_flat_and_a_circle_stays_a_circle():
    assert (Fit(size=7).array(np.full((1, 3, 50, 31), 99, np.uint8), "x") == 99).all()
    rows, columns = np.mgrid[:200, :300]
    disc = (255 * ((rows - 99.5) ** 2 + (columns - 149.5) ** 2 < 60**2)).astype(np.uint8)
    small = Fit(size=50).array(disc[None, None], "x")[0, 0].astype(float)
    np.testing.assert_allclose(small, small.T, atol=1)
    assert small.sum() / 255 == pytest.approx(np.pi * 15**2, rel=0.01)


def test_a_folder_of_unequal_images_is_read_with_a_size_and_says_without_one_what_to_give(tmp_path):
    for i, (width, height) in enumerate([(40, 30), (33, 64), (20, 20), (50, 50), (28, 21), (64, 64)]):
        Image.fromarray(RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(
        DataError, match=r"images must have one size; .* give --image-size N, which makes all of them N x N"
    ):
        load_data(str(tmp_path))
    data = images_of(trial_config(dataset=str(tmp_path), image_size=16))
    assert data.image_shape == (3, 16, 16)
    centre = np.asarray(Image.open(tmp_path / "2.png"))[2:18, 2:18]
    cropped = load_data(str(tmp_path), crop=16)
    np.testing.assert_array_equal(cropped.train[2].permute(1, 2, 0), centre)
    assert cropped.fingerprint != data.fingerprint
    with pytest.raises(
        DataError, match=r"2.png is 20 x 20, and --crop asks for its central 21 x 21 pixels. Give at most 20"
    ):
        load_data(str(tmp_path), crop=21)


def test_a_whole_image_is_stretched_where_that_is_asked_for():
    """Wide stripes of a picture twice as wide as high become half as wide, and both its edges are there."""
    x = np.zeros((1, 1, 20, 40), np.uint8)
    x[..., 30:] = 200
    stretched = Fit(STRETCH, 20).array(x, "x")[0, 0]
    assert (stretched[:, :14] == 0).all()
    assert (stretched[:, 16:] == 200).all()
    assert (Fit(0, 20).array(x, "x")[0, 0, :, 19] == 0).all()  # the central square ends before it
    with pytest.raises(DataError, match=r"crop -2 stretches whole images .* side is image_size"):
        load_data("digits", crop=STRETCH)


def test_named_images_and_arrays_are_fitted_too(tmp_path):
    assert load_data("digits", image_size=4).image_shape == (1, 4, 4)
    np.save(tmp_path / "x.npy", RANDOM.integers(0, 256, (12, 9, 5, 3), dtype=np.uint8))
    assert load_data(str(tmp_path / "x.npy"), crop=4, image_size=8).image_shape == (3, 8, 8)
    with pytest.raises(DataError, match=r"x.npy is 5 x 9, and --crop asks"):
        load_data(str(tmp_path / "x.npy"), crop=6)
