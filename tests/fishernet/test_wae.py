"""WAE: two players, each of which moves its own numbers alone, and the discrepancy of codes and draws."""

import math

import numpy as np
import pytest
import torch

from fishernet.cohort import Cohort
from fishernet.data.images import ResidentImages
from fishernet.evaluation import evaluate
from fishernet.families import trial_config
from fishernet.models.wae import CLIP, SCALES, WAE, mmd_squared
from fishernet.networks.normalisation import BatchNorm
from fishernet.training import Step

SMALL = {"hidden_width": 6, "hidden_layers": 1}


def made(*dims, **values):
    return WAE(
        [trial_config(model="WAE", latent_dim=d, **SMALL, **values) for d in dims or (3,)], (1, 2, 2), 10
    ).double()


def batch(model, n=5):
    generator = torch.Generator().manual_seed(0)
    shape = (len(model.configs), n)
    x = torch.rand(*shape, 4, generator=generator, dtype=torch.float64)
    d = max(model.latent_dims)
    noise = {k: torch.randn(*shape, d, generator=generator, dtype=torch.float64) * model.own for k in model.noise(d)}
    return x, noise


def test_the_players_losses_and_whom_they_move():
    model = made(penalty_weight=7, discriminator_steps=2)
    x, noise = batch(model)
    z = model.posterior_mean(x)
    logit = torch.log
    for k, (player, loss) in enumerate(model.updates(x, noise)):
        d_codes, d_draws = model.logit(z).sigmoid(), model.logit(noise[f"prior{min(k, 1)}"]).sigmoid()
        gradients = torch.autograd.grad(loss.sum(), [*model.parameters()], allow_unused=True, retain_graph=True)
        moved = {
            name for (name, _), g in zip(model.named_parameters(), gradients, strict=True) if g is not None and g.any()
        }
        if k < 2:
            assert player == "discriminator"
            torch.testing.assert_close(loss, -logit(d_draws) - logit(1 - d_codes))
            assert moved
            assert all(name.startswith("discriminator.") for name in moved)
        else:
            assert player == ""
            error = 0.5 * (x - model.reconstruct(z)).square().sum(2) + 2 * math.log(2 * math.pi)
            torch.testing.assert_close(loss, error - 7 * logit(d_codes))
            assert {name for name in moved if model.player_of(name) == ""} == {
                name for name, _ in model.named_parameters() if model.player_of(name) == ""
            }
    assert k == 2


def test_a_step_takes_running_statistics_once():
    """The discriminator's pass through the encoder leaves them; the autoencoder's own moves them by a tenth."""
    config = trial_config(model="WAE", latent_dim=3, network="fisherae-28")
    model = WAE([config], (1, 28, 28), 10).train()
    norms = [layer for layer in model.trunk.modules() if isinstance(layer, BatchNorm)]
    x = torch.rand(1, 4, 784, generator=torch.Generator().manual_seed(0))
    noise = {name: torch.zeros(1, 4, 3) for name in model.noise(3)}
    players = model.updates(x, noise)
    next(players)
    assert all(not norm.running_mean.any() and (norm.running_var == 1).all() for norm in norms)
    next(players)
    assert norms
    assert all(norm.running_mean.any() for norm in norms)


def test_a_players_step_computes_no_gradient_of_anothers_weights(small, images):
    """They would be thrown away at that player's own step."""
    cohort = Cohort([trial_config(model="WAE", latent_dim=2, **small)], images.image_shape, len(images.train))
    resident = ResidentImages.of(images.train, torch.device("cpu"))
    model, seen = cohort.model, []
    for optimiser in cohort.optimisers.values():
        optimiser.step = lambda: seen.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )
    Step(cohort, resident)(torch.arange(10)[None], cohort.draw_noise(cohort.noise_streams("noise", 1), 10))
    discriminators, last = seen
    assert discriminators
    assert all(name.startswith("discriminator.") for name in discriminators)
    assert len(last) == len(list(model.parameters()))
    assert all(torch.equal(last[name], gradient) for name, gradient in discriminators.items())


def test_the_losses_are_finite_at_any_logit_with_the_gradients_of_their_formulas():
    model = made()
    x, noise = batch(model)
    for far in (-1000.0, 1000.0, 0.3):
        logits = torch.full((1, 5), far, dtype=torch.float64, requires_grad=True)
        model.logit = lambda z, logits=logits: logits
        losses = [loss for _, loss in model.updates(x, noise)]
        d = 1 / (1 + math.exp(-far)) if far > -700 else 0.0
        for loss, slope in zip(
            losses, (2 * d - 1, 100 * (d - 1)), strict=True
        ):  # D - 1 of draws and D of codes, which share it
            assert loss.isfinite().all()
            (gradient,) = torch.autograd.grad(loss.sum(), logits)
            torch.testing.assert_close(gradient, torch.full_like(gradient, slope))


def test_a_critics_weights_are_clipped_after_each_of_its_steps():
    model = made(penalty="critic", discriminator_steps=3)
    x, noise = batch(model)
    steps = list(model.updates(x, noise))
    assert [player for player, _ in steps] == ["discriminator"] * 3 + [""]
    assert max(p.abs().max() for p in model.discriminator.parameters()) <= CLIP
    outcome = model(x, noise)
    z = outcome.mean
    torch.testing.assert_close(outcome.terms["penalty"], -model.logit(z).sigmoid())


def test_mmd_is_its_double_sum_unbiased_and_blind_to_padding():
    generator = torch.Generator().manual_seed(0)
    z, draws = (torch.randn(1, 6, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    own = torch.ones(1, 1, 3, dtype=torch.float64)

    def kernel(a, b):
        return sum(6 * s / (6 * s + (a - b).square().sum()) for s in SCALES)

    pairs = [(i, j) for i in range(6) for j in range(6)]
    apart = [(i, j) for i, j in pairs if i != j]
    expected = sum(kernel(t[0, i], t[0, j]) for t in (z, draws) for i, j in apart) / 30
    expected -= 2 * sum(kernel(z[0, i], draws[0, j]) for i, j in pairs) / 36
    torch.testing.assert_close(mmd_squared(z, draws, own)[0], expected)
    padded = [torch.nn.functional.pad(t, (0, 2)) for t in (z, draws, own)]
    torch.testing.assert_close(mmd_squared(*padded), mmd_squared(z, draws, own))
    same = torch.randn(4000, 2, 8, 1, generator=generator, dtype=torch.float64)
    found = mmd_squared(same[:, 0], same[:, 1], torch.ones(4000, 1, 1, dtype=torch.float64))
    assert abs(found.mean()) < 5 * found.std() / math.sqrt(4000)  # 0 where both are of one distribution
    assert mmd_squared(z + 2, draws, own) > 0.5
    assert mmd_squared(z[:, :1], draws[:, :1], own).isfinite().all()  # an epoch's last batch may be one image


def test_the_discrepancy_counts_in_training_alone():
    model = made(penalty="mmd", penalty_weight=3)
    x, noise = batch(model)
    assert [player for player, _ in model.updates(x, noise)] == [""]
    training = model(x, noise)
    evaluated = model.eval()(x, noise)
    torch.testing.assert_close(training.loss - 3 * training.terms["penalty"], evaluated.loss)
    assert not hasattr(model, "discriminator")


def test_the_discriminator_has_a_rate_of_its_own_where_it_is_given_one():
    names = [name for name, _ in made().named_parameters()]
    for own, expected in ((0.0, 1e-4), (0.02, 0.02)):
        model = made(discriminator_learning_rate=own)
        rates = {model.player_of(name): model.learning_rate_of(name) for name in names}
        assert rates == {"discriminator": expected, "": 1e-4}


def test_the_discrepancy_is_scored_of_blocks_of_500_images_whatever_the_batch():
    images = torch.randint(0, 256, (700, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    configs = [trial_config(model="WAE", penalty="mmd", latent_dim=d, **SMALL) for d in (1, 3)]
    cohort, held_out = Cohort(configs, (1, 2, 2), 10), ResidentImages.of(images, torch.device("cpu"))
    streams, whole = cohort.noise_streams("evaluation", 0), []
    with torch.no_grad():
        for block in torch.arange(700).split(500):
            noise = cohort.draw_noise(streams, len(block))["prior0"]
            z = cohort.model.posterior_mean(held_out.take(block.expand(2, -1)))
            whole.append(len(block) / 700 * mmd_squared(z, noise, cohort.model.own))
    for batch_size in (0, 33):
        found = evaluate(cohort, held_out, batch_size=batch_size)
        assert [scores["penalty"] for scores in found] == pytest.approx(sum(whole).tolist(), rel=1e-5)
        for scores in found:  # and no part of the loss
            assert scores["loss"] == pytest.approx(-scores["log_likelihood"], rel=1e-6)


@pytest.mark.parametrize("beta", [1.0, -0.1])
def test_betas_of_adam_lie_below_one(beta):
    with pytest.raises(ValueError, match=r"adam_beta1 .* must be from 0 to below 1"):
        trial_config(model="WAE", adam_beta1=beta)


def test_the_discriminators_best_logit_is_the_log_ratio_of_densities():
    """There its loss is 2 ln 2 - 2 JS (Goodfellow et al. 2014, theorem 1)."""
    model, (mean, sd) = made(1), (0.7, 0.6)
    nodes, weights = (torch.from_numpy(t) for t in np.polynomial.hermite_e.hermegauss(120))
    weights = weights / weights.sum()
    codes = mean + sd * nodes  # of q, with the weights that the nodes have under p

    def log_p(z):
        return -0.5 * z.square()

    def log_q(z):
        return -0.5 * ((z - mean) / sd).square() - math.log(sd)

    model.posterior_mean = lambda x: codes[None, :, None]

    def loss(logit):
        model.logit = lambda z: logit(z[:, :, 0])
        player, found = next(iter(model.updates(None, {"prior0": nodes[None, :, None]})))
        assert player == "discriminator"
        return (found[0] * weights).sum().item()

    def divergence_from_mixture(own, z):  # KL of p or q from (p + q)/2
        mixture = torch.logaddexp(log_p(z), log_q(z)) - math.log(2)
        return ((own(z) - mixture) * weights).sum().item()

    js = 0.5 * (divergence_from_mixture(log_p, nodes) + divergence_from_mixture(log_q, codes))
    best = loss(lambda z: log_p(z) - log_q(z))
    assert best == pytest.approx(2 * math.log(2) - 2 * js, rel=1e-6)
    for shift in (lambda z: 0.1 + 0 * z, lambda z: 0.1 * z, lambda z: -0.1 * z.sin()):
        assert loss(lambda z, shift=shift: log_p(z) - log_q(z) + shift(z)) > best
