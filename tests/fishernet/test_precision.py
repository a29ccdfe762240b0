"""Reduced precision: it is used where it is asked for, in the networks' products alone, and costs only their rounding."""

import pytest
import torch

from fishernet.cohort import Cohort
from fishernet.data.images import ResidentImages
from fishernet.families import MODEL_NAMES, trial_config
from fishernet.training import set_arithmetic, train

ROUNDING = 2.0**-8  # bfloat16 has 8 significant bits


def passed(model: str, precision: str, images, small):
    """One training pass of the same weights, images and noise; its outcome and the gradients."""
    few = {"pixel_layers": 2, "pixel_channels": 8}
    config = trial_config(model=model, precision=precision, latent_dim=3, noise_start=-3.0, **few, **small)
    cohort = Cohort([config], images.image_shape, len(images.train))
    x = ResidentImages.of(images.train, cohort.device).take(torch.arange(32)[None])
    outcome = cohort.model(x, cohort.draw_noise(cohort.noise_streams("noise", 1), 32))
    outcome.loss.mean(1).sum().backward()
    return cohort.model, x, outcome, [p.grad for p in cohort.model.parameters()]


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_bfloat16_changes_the_products_by_its_rounding_and_leaves_everything_else_float32(model, images, small):
    _, _, full, full_gradients = passed(model, "float32", images, small)
    _, _, reduced, gradients = passed(model, "bfloat16", images, small)
    assert {t.dtype for t in (*reduced.terms.values(), reduced.loss, reduced.mean, reduced.output)} == {torch.float32}
    assert all(g.dtype == torch.float32 for g in gradients if g is not None)
    for ours, theirs in zip(gradients, full_gradients, strict=True):
        if theirs is None:  # another player's
            continue
        # Roundings of a dozen products in a row, and ReLUs that they push over their kink.
        assert (ours - theirs).norm() <= 40 * ROUNDING * theirs.norm() + 1e-6
    difference = (reduced.output - full.output).norm() / full.output.norm()
    assert ROUNDING / 100 < difference < 12 * ROUNDING


def test_the_precision_matrix_is_formed_and_factored_in_float32(images, small):
    """M's smallest eigenvalue is 1 beside one of hundreds: rounded to bfloat16 it would lose the prior's 1."""
    model, x, _, _ = passed("FisherNet", "bfloat16", images, small)
    with torch.no_grad():
        precision = model.precision(model.posterior_mean(x))
    assert precision.dtype == torch.float32
    assert torch.linalg.eigvalsh(precision.double()).min() >= 1 - 1e-5
    assert (precision.bfloat16().float() != precision).any()


def test_tf32_is_allowed_where_it_is_asked_for_and_nowhere_else(images, small):
    """Also in convolutions, where torch would use it unasked."""
    try:
        for precision, allowed in (("tf32", True), ("float32", False)):
            config = trial_config(model="VAE", precision=precision, **small)
            next(train(Cohort([config], images.image_shape, len(images.train)), images))
            assert (torch.get_float32_matmul_precision() == "high") == allowed
            assert torch.backends.cudnn.allow_tf32 == allowed
    finally:
        set_arithmetic("float32")
