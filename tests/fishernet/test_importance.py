"""The importance-weighted likelihood against evidences that are known exactly."""

import itertools
import math

import pytest
import torch

from fishernet import contract
from fishernet.data.images import ResidentImages
from fishernet.families import family, trial_config
from fishernet.importance import DRAWS_OF_A_STREAM, Evidence, evidence, uniforms

K = 9  # pixels


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def grown(d=2, **values):
    config = trial_config({**contract.SMALL, "hidden_width": 8, "model": "VAE", **values, "latent_dim": d})
    return family(config.model).load()([config], (1, 3, 3), 50).double()


def linear(d, model, **values):
    """x = W z + b + noise of unit variance, with the exact posterior mean as the encoder; and its evidence."""
    more = {"likelihood": "gaussian", "decoder_output": "linear", "hidden_layers": 0, "objective": "eq24"}
    grow = grown(d, model=model, **more, **values)
    w, b = torch.randn(d, K, dtype=torch.float64), torch.randn(K, dtype=torch.float64)
    layer = grow.decoder.layers[0]
    layer.weight.data, layer.bias.data = w[None].clone(), b[None].clone()
    precision = torch.eye(d, dtype=torch.float64) + w @ w.T
    gain = torch.linalg.solve(precision, w)
    head = grow.heads_of_encoder["mean"]
    head.weight.data, head.bias.data = gain.T[None].clone(), -(gain @ b)[None]
    known = torch.distributions.MultivariateNormal(b, w.T @ w + torch.eye(K, dtype=torch.float64))
    return grow, precision, known


def resident(x):
    """Grey values that are black or white, as uint8."""
    return ResidentImages((255 * x).to(torch.uint8), torch.float64)


def all_of(model, images, n, **more):
    return Evidence.joined([block for (block,) in evidence(model, images, n, **more)])


@pytest.mark.parametrize("model", ["FisherNet", "VAE"])
def test_with_the_exact_posterior_every_single_weight_is_the_evidence(model):
    """FisherNet's posterior is exact of a linear decoder; the VAE's, with one latent and the posterior's variance."""
    grow, precision, known = linear(3 if model == "FisherNet" else 1, model)
    if model == "VAE":
        head = grow.heads_of_encoder["log_variance"]
        head.weight.data.zero_()
        head.bias.data = -precision.log()
    x = torch.rand(1, 20, K, dtype=torch.float64)
    for _ in range(3):
        eta = torch.randn(1, 20, precision.shape[0], dtype=torch.float64)
        weights = grow.log_weight(x, grow.posterior(x), {"eta": eta})
        assert torch.allclose(weights[0], known.log_prob(x[0]), rtol=1e-10, atol=1e-12)


def test_a_single_draw_is_off_by_the_divergence_of_the_posteriors_and_more_draws_by_less():
    """Linear, with a diagonal q: KL(q, exact posterior) in closed form; over 40 images and the draws of K = 1 of each."""
    grow, precision, known = linear(2, "VAE")
    variances = torch.tensor([0.3, 0.2], dtype=torch.float64)
    head = grow.heads_of_encoder["log_variance"]
    head.weight.data.zero_()
    head.bias.data = variances.log()[None]
    divergence = 0.5 * ((precision.diagonal() * variances).sum() - 2 - variances.log().sum() - torch.logdet(precision))
    images = resident(torch.rand(3000, K).round())
    found = all_of(grow, images, 200)
    excess = known.log_prob(images.take(torch.arange(3000)[None])[0]) - found.log_evidence.T
    errors = excess.std(1) / 3000**0.5
    assert found.draws == (1, 10, 20, 100, 200)
    assert excess[0].mean().item() == pytest.approx(divergence.item(), abs=5 * errors[0].item())
    means = excess.mean(1).tolist()
    assert all(a > b for a, b in itertools.pairwise(means))
    assert means[-1] > -5 * errors[-1].item()
    assert divergence > 10 * errors[0]


def quadrature(model, x):
    """ln p(x) by a sum over a grid of z, d = 2."""
    line = torch.linspace(-8, 8, 401, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)[None]
    log_prior = model.prior.log_prob(z)[0]
    values = []
    for image in x:
        log_likelihood = model.log_likelihood(image.expand(1, z.shape[1], K), z)[0][0]
        values.append(torch.logsumexp(log_likelihood + log_prior, 0) + 2 * math.log(line[1] - line[0]))
    return torch.stack(values)


@pytest.mark.parametrize("model", ["VAE", "IAF", "MAE", "FisherNet", pytest.param("PixelVAE", marks=pytest.mark.long)])
@torch.no_grad()
def test_the_likelihood_of_black_and_white_images_is_that_of_a_quadrature(model):
    """Of 2000 draws: each image's estimate is known to sqrt(1/ESS); taking the closed form of KL for ln q - ln p is not right."""
    few = {"pixel_layers": 2, "pixel_channels": 3}  # whose grid is 401^2 images
    grow = grown(model=model, likelihood="bernoulli", noise_start=-2.0, **few).eval()
    for p in grow.decoder.parameters():
        p.mul_(3)
    images = resident(torch.rand(6, K).round())
    exact = quadrature(grow, images.take(torch.arange(6)[None])[0])
    found = all_of(grow, images, 2000)
    errors = 1 / found.effective.sqrt()
    assert found.effective.min() > 100
    assert ((found.log_evidence[:, -1] - exact).abs() < 5 * errors).all()
    if model != "VAE":
        return
    x = images.take(torch.arange(6)[None])
    q = grow.posterior(x)
    shift = 2.0 + q.mean  # a posterior far enough from the prior that the closed form matters
    q.mean = shift
    wrong, right = [], []
    for _ in range(4000):
        noise = {"eta": torch.randn(1, 6, 2, dtype=torch.float64)}
        right.append(grow.log_weight(x, q, noise)[0])
        wrong.append(grow.log_likelihood(x, q.draw(noise).z)[0][0] - grow.prior.kl(q)[0])
    estimates = [torch.logsumexp(torch.stack(w), 0) - math.log(4000) for w in (right, wrong)]
    weights = torch.stack(right)
    effective = torch.exp(2 * torch.logsumexp(weights, 0) - torch.logsumexp(2 * weights, 0))
    assert ((estimates[0] - exact).abs() < 5 / effective.sqrt()).all()
    assert ((estimates[1] - exact).abs() > 10 / effective.sqrt()).all()


def test_where_the_decoder_ignores_z_and_q_is_the_prior_one_draw_is_exact_and_all_draws_count():
    model = grown()
    for head in model.heads_of_encoder.values():
        head.weight.data.zero_()
        head.bias.data.zero_()
    model.decoder.layers[0].weight.data.zero_()
    images = resident(torch.rand(7, K).round())
    x = images.take(torch.arange(7)[None])
    exact = model.log_likelihood(x, torch.zeros(1, 7, 2, dtype=torch.float64))[0][0]
    found = all_of(model, images, 10)
    for column in found.log_evidence.T:
        assert torch.allclose(column, exact, rtol=1e-12, atol=1e-12)
    assert torch.allclose(found.effective, torch.full((7,), 10.0, dtype=torch.float64))


def test_the_evidence_of_a_tenth_of_the_draws_is_kept_whatever_their_number():
    """What the last tenfold of draws gained is the one number that says how far the bound still falls."""
    images = resident(torch.rand(2, K).round())
    for n, draws in ((50, (1, 5, 10, 50)), (100, (1, 10, 100)), (700, (1, 10, 70, 100, 700)), (5, (1, 5))):
        assert all_of(grown(), images, n).draws == draws


def test_neither_the_size_of_blocks_nor_where_one_begins_nor_more_draws_change_a_number():
    model = grown()
    images = resident(torch.rand(11, K).round())
    n = DRAWS_OF_A_STREAM + 20
    whole = all_of(model, images, n)
    for more in ({"at_once": 3}, {"at_once": 1}):
        assert torch.allclose(all_of(model, images, n, **more).log_evidence, whole.log_evidence, rtol=1e-12, atol=1e-12)
    rest = all_of(model, images, n, first=4, at_once=5)
    assert torch.allclose(rest.log_evidence, whole.log_evidence[4:], rtol=1e-12, atol=1e-12)
    fewer = all_of(model, images, 100)
    common = [whole.draws.index(k) for k in fewer.draws]
    assert torch.allclose(fewer.log_evidence, whole.log_evidence[:, common], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(all_of(model, images, n, seed=1).log_evidence, whole.log_evidence, rtol=1e-6)


def test_of_a_density_the_images_are_spread_over_their_grey_values_and_the_evidence_is_known_exactly():
    """FisherNet's posterior is exact of a linear decoder: at every draw ln p((v + u)/256), of a normal in closed form."""
    model, _, known = linear(2, "FisherNet")
    values = torch.randint(0, 256, (30, K))
    u = uniforms(3, range(30), K).double()
    found = all_of(model, ResidentImages(values.to(torch.uint8), torch.float64), 3, seed=3, density=True, at_once=7)
    exact = known.log_prob((values + u) / 256)
    assert torch.allclose(found.log_evidence, exact[:, None], rtol=1e-10, atol=1e-12)
    bits = -(exact / K - math.log(256)) / math.log(2)  # ln P of a grey value is about ln p - ln 256
    assert found.scores(K, density=True)["bits_per_dim"] == pytest.approx(bits.mean().item(), rel=1e-10)
    assert found.scores(K, density=True)["bits_per_dim/k1"] == pytest.approx(bits.mean().item(), rel=1e-10)
    assert found.scores(K, density=True)["nll"] == found.scores(K)["nll"]


def test_what_spreads_an_image_is_uniform_and_its_own():
    u = uniforms(0, range(500), 40)
    assert torch.equal(u[300:302], uniforms(0, range(300, 302), 40))
    assert not torch.equal(u[300:302], uniforms(1, range(300, 302), 40))
    assert 0 <= u.min() < u.max() < 1
    assert abs(u.mean() - 0.5) < 6 / (12 * u.numel()) ** 0.5
    assert abs(u.square().mean() - 1 / 3) < 6 * (4 / 45 / u.numel()) ** 0.5
    assert len(u.unique(dim=0)) == 500


@pytest.mark.parametrize("model", ["VAE", "FAE", "IAF", "PixelVAE", "FisherNet", "MAE"])
def test_of_a_stack_every_member_has_the_likelihood_that_it_has_alone(model):
    """Members of other seeds and latent dimensions, the smaller padded; each keeps its own random numbers."""
    small = {**contract.SMALL, "hidden_width": 8, "model": model, "likelihood": "bernoulli"}
    configs = [trial_config(small, latent_dim=d, seed=seed) for d, seed in ((2, 0), (3, 1), (2, 2))]
    images = resident(torch.rand(5, K).round())
    stack = family(model).load()(configs, (1, 3, 3), 50).double()
    n = DRAWS_OF_A_STREAM + 2
    found = [Evidence.joined(parts) for parts in zip(*evidence(stack, images, n, at_once=3), strict=True)]
    assert len(found) == 3
    for config, own in zip(configs, found, strict=True):
        alone = all_of(family(model).load()([config], (1, 3, 3), 50).double(), images, n)
        torch.testing.assert_close(own.log_evidence, alone.log_evidence, rtol=1e-9, atol=0)
        torch.testing.assert_close(own.effective, alone.effective, rtol=1e-6, atol=0)
    assert not torch.allclose(found[0].log_evidence, found[2].log_evidence, rtol=1e-6)


def test_a_penalty_of_the_loss_has_no_part_in_the_likelihood():
    """FAE of two weights lambda, with the same networks; and the VAE's own."""
    images = resident(torch.rand(5, K).round())
    found = [
        all_of(grown(model=model, **more), images, 50).log_evidence
        for model, more in (("FAE", {"fisher_weight": 10.0}), ("FAE", {"fisher_weight": 0.0}), ("VAE", {}))
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_scores_are_means_over_images_in_nats_and_bits():
    log_evidence = torch.tensor([[-10.0, -8.0], [-14.0, -12.0], [-9.0, -7.0]], dtype=torch.float64)
    scores = Evidence((1, 10), log_evidence, torch.tensor([1.0, 5.0, 9.0], dtype=torch.float64)).scores(4)
    assert scores == pytest.approx({
        "nll": 9.0, "nll/k1": 11.0, "nll/k10": 9.0, "nll/ess": 5.0, "bits_per_dim": 9 / 4 / math.log(2),
        "bits_per_dim/k1": 11 / 4 / math.log(2), "bits_per_dim/k10": 9 / 4 / math.log(2),
        "nll/standard_error": math.sqrt(7.0 / 3),
    })  # fmt: skip
    assert Evidence((1,), log_evidence[:1, :1], torch.ones(1)).scores(4)["nll/standard_error"] == 0


def test_a_model_whose_draws_have_no_density_says_so():
    images = resident(torch.rand(2, K).round())
    with pytest.raises(NotImplementedError, match="cannot know the density of draws"):
        next(evidence(grown(model="FisherNet", sampler="cg"), images, 1))
    with pytest.raises(NotImplementedError, match="AE has no posterior"):
        next(evidence(grown(model="AE"), images, 1))
