"""The two widths that divergences ask of a posterior, from a linear decoder's weights."""

import numpy as np
import pytest
import torch

from analysis.exhibits import Absent, Picture
from analysis.figures import posterior_widths
from analysis.frame import AnalysisError
from tests.analysis.conftest import exhibits_of
from tests.analysis.made_sweep import made_model, made_sweep

LINEAR = {"model": "FisherAE", "hidden_layers": 0, "decoder_output": "linear", "likelihood": "gaussian-learned"}


@pytest.mark.parametrize("noise_start", [0.0, -4.0])
def test_widths_are_those_of_the_decoders_weights_and_the_noise(noise_start):
    """M = 1 + B^T B/v; the Fisher divergence is least at s^2 = (M^2)_jj^(-1/2), the KL divergence at 1/M_jj."""
    _, model = made_model(**LINEAR, noise_start=noise_start)
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = posterior_widths.widths(model, images)
    (b,) = (p[0].detach().double().numpy() for n, p in model.decoder.named_parameters() if n.endswith("weight"))
    b = b if b.shape == (64, 3) else b.T
    m = np.eye(3) + b.T @ b / np.exp(noise_start)
    assert abs(m[0, 1]) > 1e-3  # correlated, so that the two differ
    np.testing.assert_allclose(found["fisher"], np.tile(1 / np.sqrt((m @ m).diagonal()), 4), rtol=1e-6)
    np.testing.assert_allclose(found["kl"], np.tile(1 / m.diagonal(), 4), rtol=1e-6)
    with torch.no_grad():
        q = model.posterior(images.flatten(1)[None] / 255)
    np.testing.assert_allclose(found["s2"].to_numpy().reshape(4, 3), q.log_variance[0].exp(), rtol=1e-5)
    assert all(p.dtype == torch.float32 for p in model.parameters())  # the model is left as it was


def test_lines_that_have_these_widths_are_drawn_and_else_a_sentence_stands_there():
    others = ({"model": "VAE"}, {"model": "AE"}, {"model": "FisherNet"}, {"model": "FisherAE", "prior": "exponential"})
    stored = made_sweep(LINEAR, {"model": "VAE", "likelihood": "gaussian"}, *others, seeds=(0,))
    (picture,) = exhibits_of(posterior_widths, stored)
    assert isinstance(picture, Picture)
    assert set(picture.data["variant"]) == {"FisherAE gaussian-learned linear", "VAE gaussian"}
    assert (picture.data["fisher"] <= picture.data["kl"] * (1 + 1e-9)).all()
    with pytest.raises(AnalysisError, match="--latent-dim 7"):
        exhibits_of(posterior_widths, stored, 7)
    (absent,) = exhibits_of(posterior_widths, made_sweep(*others, seeds=(0,)))
    assert isinstance(absent, Absent)
