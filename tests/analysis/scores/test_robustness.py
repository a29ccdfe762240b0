"""Damage has the size it says, scores are their formulas, and a model that sees nothing has a flat curve."""

import argparse
import math

import numpy as np
import pytest
import torch

from analysis.flags import levels
from analysis.scores.robustness import LEVELS, corrupted, doubled_at, nmi, robustness
from fishernet.families import family, trial_config

IMAGES = torch.randint(0, 256, (300, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = np.arange(300) % 3


def made(**values):
    config = trial_config(**{"model": "VAE", "latent_dim": 2, "hidden_width": 8, "hidden_layers": 1, **values})
    return family(config.model).load()([config], (3, 6, 5), 10).eval()


def test_noise_has_the_variance_and_a_mask_the_share_that_the_level_says():
    x = IMAGES.float() / 255
    noise = corrupted(IMAGES, "gaussian", 0.2, 0) - x
    n = noise.numel()
    assert abs(noise.mean()) < 5 * math.sqrt(0.2 / n)
    assert abs(noise.square().mean() - 0.2) < 5 * 0.2 * math.sqrt(2 / n)
    masked = corrupted(IMAGES + 1, "mask", 0.7, 0) == 0
    black = (IMAGES + 1 == 0).all(1)
    hidden = masked.all(1) & ~black
    share, pixels = hidden.sum() / (~black).sum(), (~black).sum()
    assert abs(share - 0.7) < 5 * math.sqrt(0.21 / pixels)
    kept = ~masked.all(1)
    assert torch.equal(corrupted(IMAGES, "mask", 0.7, 0).permute(0, 2, 3, 1)[kept], x.permute(0, 2, 3, 1)[kept])


def test_damage_is_the_same_for_every_model_and_another_for_each_seed_and_level():
    assert torch.equal(corrupted(IMAGES, "mask", 0.5, 1), corrupted(IMAGES, "mask", 0.5, 1))
    one, other = (corrupted(IMAGES, "gaussian", v, s) - IMAGES / 255 for v, s in ((0.1, 1), (0.1, 2)))
    assert abs(np.corrcoef(one.flatten(), other.flatten())[0, 1]) < 0.05
    weak, strong = (corrupted(IMAGES, "gaussian", v, 1) - IMAGES / 255 for v in (0.1, 0.2))
    assert abs(np.corrcoef(weak.flatten(), strong.flatten())[0, 1]) < 0.05
    assert torch.equal(corrupted(IMAGES, "gaussian", 0, 1), IMAGES.float() / 255)


def test_scores_are_their_formulas_image_by_image():
    model = made()
    scores = robustness(model, IMAGES[:40], LABELS[:40], 3)
    for kind, level in (("gaussian", 0.2), ("mask", 0.5), ("gaussian", 0.0)):
        squares, entropies = [], []
        for x, own in zip(IMAGES[:40].double() / 255, corrupted(IMAGES[:40], kind, level, 3), strict=True):
            f = model.reconstruct(model.posterior_mean(own.reshape(1, 1, -1)))[0, 0].detach().double()
            squares.append((x.flatten() - f).square().mean())
            entropies.append(-(x.flatten() * f.log() + (1 - x.flatten()) * (1 - f).log()).mean())
        assert scores[f"{kind}/{level:g}/mse"] == pytest.approx(float(sum(squares)) / 40, rel=1e-5)
        assert scores[f"{kind}/{level:g}/bce"] == pytest.approx(float(sum(entropies)) / 40, rel=1e-5)
    assert scores["gaussian/0/mse"] == scores["mask/0/mse"]
    assert len(scores) == 3 * sum(map(len, LEVELS.values()))


def test_a_linear_decoder_has_no_cross_entropy_and_images_without_labels_no_nmi():
    scores = robustness(made(likelihood="gaussian", decoder_output="linear"), IMAGES[:20], None, 0)
    assert {name.rpartition("/")[2] for name in scores} == {"mse"}


def test_a_model_that_ignores_its_input_has_a_flat_curve():
    model = made()
    with torch.no_grad():
        model.heads_of_encoder["mean"].weight.zero_()
    scores = robustness(model, IMAGES[:30], None, 0)
    assert len({round(value, 12) for name, value in scores.items() if name.endswith("mse")}) == 1


def test_nmi_is_1_of_separate_classes_and_near_0_of_one_cloud():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 100)
    apart = rng.normal(size=(400, 3)) + 50 * np.eye(4)[labels][:, :3]
    assert nmi(apart.astype(np.float32), labels, 0) == pytest.approx(1)
    assert nmi(rng.normal(size=(400, 3)).astype(np.float32), labels, 0) < 0.05
    assert math.isnan(nmi(np.full((9, 2), np.nan, np.float32), np.arange(9) % 3, 0))


def test_the_level_at_which_the_error_doubles():
    assert doubled_at([0, 0.1, 0.3], [1.0, 1.5, 2.5]) == pytest.approx(0.2)
    assert doubled_at([0, 0.1], [1.0, 1.9]) == math.inf


@pytest.mark.parametrize(("kind", "level"), [("gaussian", -0.1), ("mask", -0.1), ("mask", 1.2), ("gaussian", math.nan)])
def test_a_level_that_no_damage_has_is_refused(kind, level):
    with pytest.raises(ValueError, match=f"a level of {kind} is .* got {level:g}"):
        corrupted(IMAGES, kind, level, 0)


def test_levels_of_flags_are_numbers_from_0():
    assert levels("0.5,0.1,0.1") == [0.1, 0.5]
    for text in ("-0.1", "0.1,-1", "nan", "inf", "", "0.1;0.2", "1e400"):
        with pytest.raises(argparse.ArgumentTypeError, match="of at least 0 with commas between"):
            levels(text)
    with pytest.raises(argparse.ArgumentTypeError, match="numbers from 0 to 1 with commas"):
        levels("0.5,1.1", most=1.0)


def test_of_images_in_minus_1_to_1_a_masked_pixel_is_grey():
    images = IMAGES[:5]
    grey = robustness(made(likelihood="gaussian", pixel_range="symmetric"), images, None, 0, {"mask": (0.0, 1.0)})
    model = made(likelihood="gaussian", pixel_range="symmetric")
    f = model.reconstruct(model.posterior_mean(torch.full((1, 5, 90), 0.5)))[0]
    x = images.flatten(1).float() / 255
    assert grey["mask/1/mse"] == pytest.approx((x - f).square().mean().item(), rel=1e-5)
    assert torch.equal(corrupted(images, "mask", 1.0, 0), torch.zeros(5, 3, 6, 5))


def test_kinds_share_the_clean_image_bit_for_bit_whatever_the_order_of_levels():
    scores = robustness(made(), IMAGES[:20], LABELS[:20], 0, {"gaussian": (0.1, 0.0), "mask": (0.0, 0.5)})
    assert {name.rpartition("/")[0] for name in scores} == {"gaussian/0.1", "gaussian/0", "mask/0", "mask/0.5"}
    for score in ("mse", "bce", "nmi"):
        assert scores[f"gaussian/0/{score}"] == scores[f"mask/0/{score}"]
    assert scores["gaussian/0.1/mse"] != scores["gaussian/0/mse"]
