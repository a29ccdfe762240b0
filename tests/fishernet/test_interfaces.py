"""What families may ask of the core beyond the built-in models, each tried by a model that needs it."""

import math
from itertools import pairwise

import pytest
import torch
from made_models import CRITIC_STEPS, WARM_UP, EmittedNormal

from fishernet import contract, likelihoods
from fishernet.data.images import ResidentImages
from fishernet.families import trial_config
from fishernet.plan import stackable
from fishernet.posteriors import DiagonalGaussian, PrecisionGaussian
from fishernet.priors import StandardNormal
from fishernet.training import train, train_epoch

MADE = ("TwoPlayers", "WarmUp", "Dithered", "Smooth")
IMPORTANT = (
    contract.a_member_of_a_cohort_trains_as_it_would_alone,
    contract.what_pads_a_member_stays_zero,
    contract.killed_and_resumed_equals_uninterrupted,
    contract.evaluation_leaves_no_trace,
    contract.stored_weights_reopen_to_the_same_model,
)


@pytest.mark.parametrize("model", MADE)
@pytest.mark.parametrize("check", IMPORTANT, ids=lambda check: check.__name__)
def test_the_contract_holds_for_models_that_need_more_of_the_core(check, model, tmp_path):
    check({"model": f"made_models:{model}"}, tmp_path)


def one(model, small, **values):
    return trial_config(model=f"made_models:{model}", latent_dim=3, **small | values)


def test_each_player_takes_its_own_steps_with_its_own_optimiser(small, images):
    cohort = contract.made([one("TwoPlayers", small)], images)
    before = {name: p.detach().clone() for name, p in cohort.model.named_parameters()}
    n_batches = math.ceil(len(images.train) / small["batch_size"])
    train_epoch(cohort, ResidentImages.of(images.train, cohort.device))
    assert {player: int(adam.n_steps) for player, adam in cohort.optimisers.items()} == {
        "": n_batches, "critic": CRITIC_STEPS * n_batches,
    }  # fmt: skip
    assert {name for name in cohort.tensors() if name.endswith("step")} == {"adam/step", "adam/critic/step"}
    # The critic's bias cancels in what it is asked, so it alone stays.
    moved = {name for name, p in cohort.model.named_parameters() if (p != before[name]).any()}
    assert moved == {*before} - {"critic.bias"}


def test_the_autoencoder_trains_as_without_a_critic_that_its_loss_does_not_know(small, images):
    """The critic's gradients end at the codes, and its step moves no other parameter; noise is drawn by name, in order."""
    alone = contract.made([trial_config(model="VAE", latent_dim=3, **small)], images)
    with_critic = contract.made([one("TwoPlayers", small)], images)
    resident = ResidentImages.of(images.train, alone.device)
    for cohort in (alone, with_critic):
        cohort.draw_noise = lambda streams, n, cohort=cohort: {
            name: torch.full((1, n, width.width), 0.5) for name, width in cohort.model.noise(3).items()
        }
        train_epoch(cohort, resident)
    for name, weight in alone.member_weights(0).items():
        assert torch.equal(weight, with_critic.member_weights(0)[name]), name


def test_what_depends_on_the_epoch_is_there_before_its_first_step_and_not_in_evaluation(small, images):
    """Without learning, KL is the same in each epoch, so the loss rises with its factor 1/3, 2/3, 1, 1."""
    still = small | {"learning_rate": 1e-30, "epochs": WARM_UP + 1}
    records = contract.history(contract.made([one("WarmUp", still)], images), images)
    metrics = [of_epoch[0] for of_epoch in records]
    kl = metrics[0]["test/kl"]
    rises = [after["train/loss"] - before["train/loss"] for before, after in pairwise(metrics)]
    # Noise and order differ from epoch to epoch; what they move is far below a third of the divergence.
    plain = contract.history(contract.made([trial_config(model="VAE", latent_dim=3, **still)], images), images)
    jitter = [b[0]["train/loss"] - a[0]["train/loss"] for a, b in pairwise(plain)]
    expected = [kl / WARM_UP] * (WARM_UP - 1) + [0.0]
    for rise, own, share in zip(rises, jitter, expected, strict=True):
        assert rise - own == pytest.approx(share, abs=0.05 * kl / WARM_UP)
    assert len({m["test/loss"] for m in metrics}) == 1


def test_uniform_noise_is_uniform_and_each_name_has_its_own(small, images):
    cohort = contract.made([one("Dithered", small), one("Dithered", small, seed=1)], images)
    noise = cohort.draw_noise(cohort.noise_streams("noise", 1), 500)
    assert [*noise] == ["u", "eta"]
    u = noise["u"]
    assert u.shape == (2, 500, 100)
    assert u.min() >= 0
    assert u.max() < 1
    # Of 50,000 numbers: a mean is known to 0.29/sqrt(n), the variance 1/12 to about 0.0745/sqrt(n).
    for member in u:
        assert abs(member.mean() - 0.5) < 5 * 0.29 / member.numel() ** 0.5
        assert abs(member.var() - 1 / 12) < 5 * 0.0745 / member.numel() ** 0.5
    assert noise["eta"].var() > 0.5  # normal, not uniform
    assert not torch.equal(u[0], u[1])


@pytest.mark.parametrize("model", ["VAE", "FisherNet"])
def test_members_may_differ_in_the_numbers_of_their_loss(model, small, images):
    """A cohort of several kl_weights trains each as alone: one stack is a sweep over beta."""
    configs = [trial_config(model=model, latent_dim=3, kl_weight=beta, **small) for beta in (0.3, 1.0, 4.0)]
    assert stackable(configs) == [configs]
    together = contract.made(configs, images, dtype=torch.float64)
    resident = ResidentImages.of(images.train, together.device, torch.float64)
    losses = train_epoch(together, resident)
    for i, config in enumerate(configs):
        alone = contract.made([config], images, dtype=torch.float64)
        assert torch.allclose(losses[:, i], train_epoch(alone, resident)[:, 0], rtol=1e-9)
    assert not torch.allclose(losses[:, 0], losses[:, 2], rtol=1e-3)


def test_a_second_derivative_reaches_the_weights(small, images):
    """Of the made model Smooth: its penalty changes what is learned, which a first derivative alone would not."""
    penalised, plain = (
        contract.made([config], images)
        for config in (one("Smooth", small), trial_config(model="VAE", latent_dim=3, **small))
    )
    for cohort in (penalised, plain):
        next(train(cohort, images))
    weights = [cohort.member_weights(0)["decoder.layers.0.weight"] for cohort in (penalised, plain)]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("network", ["dense", "conv"])
def test_the_likelihood_says_how_many_numbers_the_decoder_emits(network, small, images, monkeypatch):
    row = likelihoods.LikelihoodRow("a scale for each pixel", "made_models:EmittedNormal")
    monkeypatch.setitem(likelihoods.LIKELIHOODS, "gaussian", row)
    config = one("Emitted", small, likelihood="gaussian", network=network, epochs=8)
    cohort = contract.made([config], images)
    assert isinstance(cohort.model.likelihood, EmittedNormal)
    assert cohort.model.decode(torch.zeros(1, 2, 3)).shape == (1, 2, 201)
    assert cohort.model.reconstruct(torch.zeros(1, 2, 3)).shape == (1, 2, 100)
    records = contract.history(cohort, images)
    assert records[-1][0]["test/loss"] < records[0][0]["test/loss"]


def test_a_diagonal_posterior_scores_its_own_draw():
    """ln q(z) is the density that torch knows, and what pads a member counts for nothing, whatever its variance is."""
    own = torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 1.0, 1.0]]], dtype=torch.float64)
    mean, log_variance = torch.randn(2, 5, 3, dtype=torch.float64) * own, torch.randn(2, 5, 3, dtype=torch.float64)
    eta = torch.randn(2, 5, 3, dtype=torch.float64) * own
    z, log_q = DiagonalGaussian(mean, log_variance, own).draw({"eta": eta})
    for i, d in enumerate((2, 3)):
        known = torch.distributions.Normal(mean[i, :, :d], torch.exp(0.5 * log_variance[i, :, :d]))
        assert torch.allclose(log_q[i], known.log_prob(z[i, :, :d]).sum(1), rtol=1e-12, atol=1e-12)


def test_a_posterior_of_given_precision_scores_its_own_draw():
    own = torch.ones(1, 1, 3, dtype=torch.float64)
    half = torch.randn(1, 5, 3, 7, dtype=torch.float64)
    precision = half @ half.mT + torch.eye(3, dtype=torch.float64)
    mean, eta = torch.randn(1, 5, 3, dtype=torch.float64), torch.randn(1, 5, 3, dtype=torch.float64)
    z, log_q = PrecisionGaussian(mean, precision.to, own).draw({"eta": eta})
    known = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    assert torch.allclose(log_q, known.log_prob(z), rtol=1e-11)


def test_the_standard_normal_prior_is_the_density_torch_knows_over_a_members_own_latents():
    own = torch.tensor([[[1.0, 1.0, 0.0]], [[1.0, 1.0, 1.0]]], dtype=torch.float64)
    z = (torch.randn(2, 5, 3, dtype=torch.float64) * own).requires_grad_()
    prior = StandardNormal(own)
    known = torch.distributions.Normal(0.0, 1.0)
    for i, d in enumerate((2, 3)):
        assert torch.allclose(prior.log_prob(z)[i], known.log_prob(z[i, :, :d]).sum(1), rtol=1e-12, atol=1e-12)
    assert torch.allclose(prior.score(z), torch.autograd.grad(prior.log_prob(z).sum(), z)[0], rtol=1e-12, atol=1e-12)
    q = DiagonalGaussian(z.detach(), torch.full_like(z, -0.7) * own, own)
    for i, d in enumerate((2, 3)):
        normal = torch.distributions.Normal(q.mean[i, :, :d], torch.exp(0.5 * q.log_variance[i, :, :d]))
        assert torch.allclose(
            prior.kl(q)[i], torch.distributions.kl_divergence(normal, known).sum(1), rtol=1e-12, atol=1e-12
        )
