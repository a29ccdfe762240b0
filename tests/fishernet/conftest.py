"""Small images that stand in for a data set, and the settings of a small network."""

import pytest
import torch

from fishernet.data import ImageData


@pytest.fixture
def images() -> ImageData:
    """96 smooth 10x10 images to train on and 40 to test on: three latent numbers explain them nearly."""
    generator = torch.Generator().manual_seed(5)
    z, mixing = torch.randn(136, 3, generator=generator), torch.randn(3, 100, generator=generator)
    pixels = torch.sigmoid(z @ mixing).mul(255).byte().view(136, 1, 10, 10)
    labels = (z[:, 0] > 0).long()
    return ImageData("made", pixels[:96], pixels[96:], labels[:96], labels[96:], "0" * 16, "test")


SMALL = {"hidden_width": 16, "hidden_layers": 2, "batch_size": 20, "learning_rate": 1e-3, "epochs": 3}


@pytest.fixture
def small() -> dict[str, object]:
    return dict(SMALL)
