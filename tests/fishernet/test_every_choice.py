"""Choices that two models or two papers brought meet in one: each combination is refused in a sentence, or it trains."""

import pytest
import torch

from fishernet.cohort import Cohort
from fishernet.data.images import ResidentImages
from fishernet.evaluation import evaluate, latent_means, reconstructions
from fishernet.families import MODEL_NAMES, family, trial_config
from fishernet.likelihoods import LIKELIHOODS, SCALES
from fishernet.training import Step, train_epoch

TINY = {
    "latent_dim": 2, "hidden_width": 4, "hidden_layers": 1, "batch_size": 3, "pixel_layers": 2, "pixel_channels": 3,
    "flow_width": 4, "maf_width": 3,
}  # fmt: skip
PIXELS = torch.randint(0, 256, (6, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
OPTIONS = [
    {}, {"dequantisation": "uniform-noise"}, {"network": "conv"}, {"prior": "exponential"}, {"gating": "sigmoid"},
    {"code": "rectified"}, {"binarisation": "dynamic"},
]  # fmt: skip


def cases():
    """Every likelihood, scale and number of components without further options; with each of these every likelihood once by
    default, and all of them in the long tests.
    """
    for i, model in enumerate(MODEL_NAMES):
        for j, option in enumerate(OPTIONS):
            name = f"{model}-{'-'.join(option) or 'plain'}"
            if option:
                yield pytest.param(model, option, i + j, id=name)
            yield pytest.param(model, option, None, id=f"{name}-all", marks=[pytest.mark.long] * bool(option))


@pytest.mark.parametrize(("model", "option", "first"), list(cases()))
def test_every_likelihood_scale_and_mixture_is_refused_in_a_sentence_or_trains_with_every_option(model, option, first):
    """``first``: of each likelihood the first that trains, from that place on; None: all."""
    trained = 0
    for likelihood in LIKELIHOODS:
        spreads = [(scale, components) for scale in SCALES for components in (0, 2)]
        start = (first or 0) % len(spreads)
        for scale, components in spreads[start:] + spreads[:start]:
            own = {"model": model, "likelihood": likelihood, "scale": scale, "components": components, **option}
            config, refusal = None, ""
            try:
                config = trial_config({**TINY, **own})
            except ValueError as error:
                refusal = str(error)
            if config is None:
                assert any(str(value) in refusal for value in own.values()), (own, refusal)
                continue
            cohort, images = Cohort([config], (1, 4, 4), 6), ResidentImages(PIXELS)
            assert train_epoch(cohort, images).isfinite().all(), own
            scores = evaluate(cohort, images)[0]
            assert all(value == value for value in scores.values()), own
            assert latent_means(cohort, images)[0].shape == (6, 2)
            assert reconstructions(cohort, images, 2).shape == (1, 2, 16)
            trained += 1
            if first is not None:
                break
    assert trained


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_what_every_player_trains_on_are_the_dequantised_images(model, monkeypatch):
    """Whoever overrides ``updates``: the loop decides what images are."""
    cls = family(model).load()
    updates, met = cls.updates, []

    def spied(self, x, noise):
        met.append((x, noise))
        yield from updates(self, x, noise)

    monkeypatch.setattr(cls, "updates", spied)
    config = trial_config({**TINY, "model": model, "likelihood": "gaussian", "dequantisation": "uniform-noise"})
    cohort, images = Cohort([config], (1, 4, 4), 6), ResidentImages(PIXELS)
    index = torch.arange(3)[None]
    noise = cohort.draw_noise(cohort.noise_streams("noise", 1), 3)
    seen_by_encoder = []
    cohort.model.trunk.register_forward_pre_hook(lambda module, given: seen_by_encoder.append(given[0].detach()))
    Step(cohort, images)(index, noise)
    expected = (PIXELS[:3].float() + noise["dequantisation"]) / 256
    torch.testing.assert_close(met[0][0], expected)
    assert seen_by_encoder
    for x in seen_by_encoder:
        torch.testing.assert_close(x, expected)
