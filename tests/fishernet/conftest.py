"""Small images that stand in for a data set, and the settings of a small network."""

import pytest

from fishernet.contract import SMALL, small_images
from fishernet.data.images import ImageData


@pytest.fixture
def images() -> ImageData:
    return small_images()


@pytest.fixture
def small() -> dict[str, object]:
    return dict(SMALL)
