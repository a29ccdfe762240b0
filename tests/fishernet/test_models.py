"""Losses, evidence and sizes against closed forms."""

import dataclasses
import math

import pytest
import torch

from fishernet import fisher
from fishernet.cohort import Cohort
from fishernet.families import MODEL_NAMES, family, trial_config
from fishernet.likelihoods import LIKELIHOODS
from fishernet.models.base import Autoencoder
from fishernet.models.fishernet import FisherNet
from fishernet.models.vae import VAE
from fishernet.networks.conv import Conv, ConvTranspose, conv_sizes
from fishernet.networks.stacked import Linear, StackedLayer

SHAPE = (1, 3, 4)
K = 12


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def linear_model(
    cls: type[Autoencoder], d: int = 3, **fields: object
) -> tuple[Autoencoder, torch.Tensor, torch.Tensor]:
    """A linear decoder x = W z + b + n with the exact posterior mean as its encoder, W (k, d), and the evidence's covariance."""
    config = trial_config(
        model=cls.__name__, latent_dim=d, hidden_layers=0, decoder_output="linear", likelihood="gaussian-learned",
        noise_start=-1.3, **fields,
    )  # fmt: skip
    model = cls([config], SHAPE, 50)
    layer = model.decoder.layers[0]
    layer.weight.data.normal_()
    w, b, variance = layer.weight.data[0].T, layer.bias.data[0], math.exp(-1.3)
    posterior_covariance = torch.linalg.inv(w.T @ w / variance + torch.eye(d))
    gain = posterior_covariance @ w.T / variance  # (d, k): mu = gain (x - b)
    model.heads_of_encoder["mean"].weight.data[0] = gain.T
    model.heads_of_encoder["mean"].bias.data[0] = -gain @ b
    return model, w, w @ w.T + variance * torch.eye(K)


def log_evidence(model: Autoencoder, covariance: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    bias = model.decoder.layers[0].bias.data[0]
    return torch.distributions.MultivariateNormal(bias, covariance).log_prob(x)


@pytest.mark.usefixtures("double_precision")
def test_the_elbo_of_a_linear_fishernet_is_its_evidence_at_every_draw():
    """ln p(x,z) - ln q(z|x) is ln p(x) at every z when q is the exact posterior, as N(mu, M^-1) then is."""
    model, _, covariance = linear_model(FisherNet)
    x = torch.randn(1, 7, K)
    for _ in range(3):
        outcome = model(x, {"eta": torch.randn(1, 7, 3)})
        assert torch.allclose(outcome.terms["elbo"], log_evidence(model, covariance, x), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("double_precision")
def test_equation_24_is_minus_the_evidence_up_to_its_constant():
    """At mu and with E|eta|^2 = d: eq24 = -ln p(x) - (k ln 2 pi)/2 + d/2 + xi^2/2p. Exact at |eta|^2 = d."""
    model, _, covariance = linear_model(FisherNet, objective="eq24")
    x, eta = torch.randn(1, 7, K), torch.randn(1, 7, 3)
    eta *= math.sqrt(3) / eta.norm(dim=2, keepdim=True)
    constant = 0.5 * 3 - 0.5 * K * math.log(2 * math.pi) + 1.3**2 / (2 * 50)
    assert torch.allclose(
        model(x, {"eta": eta}).loss, constant - log_evidence(model, covariance, x), rtol=1e-12, atol=1e-12
    )


@pytest.mark.usefixtures("double_precision")
def test_equation_25_of_a_linear_decoder_is_a_regularised_autoencoder():
    """The sampling terms cancel to d: E loss = (|mu|^2 + |x - W mu|^2/s^2 + k xi + xi^2/p + d)/2; it is no evidence.

    The mean over the 2d points +-sqrt(d) e_i is the exact expectation of a quadratic of a standard normal.
    """
    model, w, _ = linear_model(FisherNet)
    x = torch.randn(1, 7, K)
    points = [sign * math.sqrt(3) * torch.eye(3)[i].expand(1, 7, 3) for i in range(3) for sign in (-1, 1)]
    loss = torch.stack([model(x, {"eta": eta}).loss for eta in points]).mean(0)
    mu = model.posterior_mean(x)
    error = (x - mu @ w.T - model.decoder.layers[0].bias[:, None]).square().sum(2)
    closed = 0.5 * (mu.square().sum(2) + error * math.exp(1.3) + K * -1.3 + 1.3**2 / 50 + 3)
    assert torch.allclose(loss, closed, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("double_precision")
def test_the_terms_of_equation_25_sum_to_the_loss():
    for objective, names in {
        "eq25": ("half_squared_z", "half_log_noise", "half_weighted_error", "noise_prior"),
        "eq24": ("half_squared_z", "half_log_noise", "half_weighted_error", "noise_prior", "half_log_det"),
    }.items():
        model = FisherNet([trial_config(objective=objective, noise_start=-2.0, hidden_width=8)], SHAPE, 50)
        outcome = model(torch.rand(1, 5, K), {"eta": torch.randn(1, 5, 2)})
        assert torch.allclose(sum(outcome.terms[name] for name in names), outcome.loss, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("double_precision")
def test_the_vae_bound_of_a_linear_decoder_is_below_its_evidence_by_the_posterior_divergence():
    """ELBO = ln p(x) - KL(q || p(z|x)): q diagonal, exact by sigma points."""
    model, w, covariance = linear_model(VAE)
    head = model.heads_of_encoder["log_variance"]
    head.weight.data.zero_()
    head.bias.data[0] = torch.tensor([-1.0, -2.0, 0.3])
    x = torch.randn(1, 7, K)
    points = [sign * math.sqrt(3) * torch.eye(3)[i].expand(1, 7, 3) for i in range(3) for sign in (-1, 1)]
    elbo = torch.stack([model(x, {"eta": eta}).terms["elbo"] for eta in points]).mean(0)
    precision = w.T @ w * math.exp(1.3) + torch.eye(3)
    q = torch.distributions.MultivariateNormal(torch.zeros(3), torch.diag(head.bias.data[0].exp()))
    p = torch.distributions.MultivariateNormal(torch.zeros(3), precision_matrix=precision)
    divergence = torch.distributions.kl_divergence(q, p)
    assert divergence > 0.01
    assert torch.allclose(elbo, log_evidence(model, covariance, x) - divergence, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "gaussian-learned"])
def test_a_likelihood_is_the_density_torch_knows(likelihood):
    model = VAE([trial_config(model="VAE", likelihood=likelihood, hidden_width=8)], SHAPE, 50)
    x, a = torch.rand(1, 5, K).round(), torch.randn(1, 5, K)
    f = torch.sigmoid(a)
    if likelihood == "bernoulli":
        expected = torch.distributions.Bernoulli(f).log_prob(x).sum(2)
    else:
        if likelihood == "gaussian-learned":
            model.likelihood.xi.data.fill_(-2.0)
        expected = torch.distributions.Normal(f, model.likelihood.xi.exp().sqrt()).log_prob(x).sum(2)
    assert torch.allclose(model.likelihood.log_prob(x, a), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "gaussian-learned"])
def test_samples_of_a_likelihood_have_its_moments_and_each_member_and_pixel_its_own_chance(likelihood):
    """Mean f, covariance diag f (1 - f) or exp(xi), within five standard errors; the generator alone decides them."""
    configs = [trial_config(model="VAE", likelihood=likelihood, hidden_width=8, seed=seed) for seed in (0, 1)]
    model, n = VAE(configs, (1, 1, 2), 50).likelihood, 20_000
    if likelihood == "gaussian-learned":
        model.xi.data.copy_(torch.tensor([-2.0, 1.0]))
    f = torch.tensor([0.3, 0.6])
    a = f.logit().expand(2, n, 2)
    x, again, other = (model.sample(a, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(x, again)
    assert not torch.equal(x, other)
    together = torch.cat([*(x - f)], dim=1).double()  # both pixels of member 0, then of member 1
    variances = (
        torch.cat([f * (1 - f)] * 2) if likelihood == "bernoulli" else model.xi.detach().exp().repeat_interleave(2)
    )
    assert (together.mean(0).abs() < 5 * (variances / n).sqrt()).all()
    sd = variances.double().sqrt()
    assert ((torch.cov(together.T) - variances.diag()).abs() < 5 * (2 / n) ** 0.5 * sd[:, None] * sd).all()


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "gaussian-learned"])
def test_the_root_of_the_information_is_the_standard_deviation_of_the_score(likelihood):
    """Of Bernoulli f (1 - f), of N(f, s^2) with f = sigmoid(a) (f (1 - f)/s)^2, also where float32 rounds f to 0 or 1."""
    model = VAE([trial_config(model="VAE", likelihood=likelihood, noise_start=-2.0, hidden_width=8)], SHAPE, 50)
    a = torch.tensor([-300.0, -110.0, -40.0, -3.0, 0.0, 0.5, 17.0, 60.0, 110.0, 300.0])
    slope = torch.sigmoid(a) * torch.sigmoid(-a)
    expected = slope.sqrt() if likelihood == "bernoulli" else slope / model.likelihood.xi.exp().sqrt()
    assert torch.allclose(model.likelihood.root_information(a[None, None]).root[0, 0], expected, rtol=1e-12, atol=1e-12)
    single = a.float().requires_grad_()
    root = model.float().likelihood.root_information(single[None, None]).root
    assert torch.allclose(root[0, 0].double(), expected, rtol=1e-5)
    assert torch.autograd.grad(root.sum(), single)[0].isfinite().all()


@pytest.mark.parametrize("objective", ["eq24", "eq25-residual"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian-learned"])
@pytest.mark.parametrize("output", [-120.0, -60.0, 17.0, 60.0])
def test_a_saturated_pixel_leaves_every_gradient_finite(objective, likelihood, output):
    """Where the information rounds to 0, the gradient of its square root is infinite: 0 times that were not a number."""
    model = FisherNet([trial_config(objective=objective, likelihood=likelihood, hidden_width=8)], SHAPE, 50)
    model.decoder.layers[-1].bias.data[..., 0] = output
    model(torch.rand(1, 5, K), {"eta": torch.randn(1, 5, 2)}).loss.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("start", [-80.0, 0.0, 13.0, 80.0])
def test_closed_form_noise_forgets_where_it_started_with_the_first_batch(start):
    config = trial_config(
        model="VAE", likelihood="gaussian-learned", noise="closed-form", noise_start=start, hidden_width=8
    )
    model = VAE([config], SHAPE, 50)
    x = torch.rand(1, 5, K)
    a = torch.logit((x + 0.1).clamp(max=0.99))
    model.likelihood.observe(x, a)
    assert torch.allclose(model.likelihood.xi.exp(), (x - torch.sigmoid(a)).square().mean(), rtol=1e-5)


@pytest.mark.usefixtures("double_precision")
def test_closed_form_noise_settles_at_the_mean_squared_error():
    config = trial_config(model="VAE", likelihood="gaussian-learned", noise="closed-form", hidden_width=8)
    model = VAE([config], SHAPE, 50)
    x, a = torch.rand(1, 5, K), torch.randn(1, 5, K)
    mse = (x - torch.sigmoid(a)).square().mean()
    model.likelihood.observe(x, a)
    assert torch.allclose(model.likelihood.xi.exp(), mse)  # the first batch sets it at once
    xi = model.likelihood.xi.clone().requires_grad_()
    model.likelihood.xi = xi
    gradient = torch.autograd.grad(model.likelihood.log_prob(x, a).sum(), xi)[0]
    assert gradient.abs() < 1e-12 * K * 5  # and there the likelihood is stationary


@pytest.mark.usefixtures("double_precision")
def test_closed_form_noise_is_a_mean_in_which_each_batch_counts_99_percent_of_the_next():
    """exp(xi) = sum_i 0.99^(t-i) m_i / sum_i 0.99^(t-i) of the batches' mean squared errors m_i."""
    config = trial_config(model="VAE", likelihood="gaussian-learned", noise="closed-form", hidden_width=8)
    likelihood, errors = VAE([config], SHAPE, 50).likelihood, []
    for i in range(1, 201):
        x, a = torch.rand(1, 1 + i % 7, K), torch.full((1, 1 + i % 7, K), 0.02 * i)
        errors.append((x - torch.sigmoid(a)).square().mean())
        likelihood.observe(x, a)
        if i in (2, 20, 200):
            weights = 0.99 ** torch.arange(i - 1.0, -1, -1)
            assert torch.allclose(
                likelihood.xi.exp(), (weights * torch.stack(errors)).sum() / weights.sum(), rtol=1e-10
            )


@pytest.mark.parametrize(
    ("layer", "torchs"),
    [
        (lambda n: Linear([30] * n, [20] * n), lambda: torch.nn.Linear(30, 20)),
        (lambda n: Conv(n, 2, 5, 1), lambda: torch.nn.Conv2d(2, 5, 3)),
        (lambda n: ConvTranspose(n, 2, 5, 1, (4, 4)), lambda: torch.nn.ConvTranspose2d(2, 5, 3)),
    ],
    ids=["Linear", "Conv", "ConvTranspose"],
)
def test_initial_weights_and_biases_are_distributed_as_those_of_torchs_own_layer(layer, torchs):
    """Uniform between the same bounds; a factor of sqrt(2) of the bounds is rejected, and a distribution that leans to them."""
    n = 400
    ours: StackedLayer = layer(n)
    ours.initialise([torch.Generator().manual_seed(seed) for seed in range(n)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = [torchs() for _ in range(n)]
    for name in ("weight", "bias"):
        values = ours.get_parameter(name).detach().flatten()
        drawn = torch.cat([layer.get_parameter(name).detach().flatten() for layer in theirs])
        # The largest of m uniform numbers falls short of the bound by 10/m once in e^10 samples.
        shortfall = 10 / len(values)
        assert 1 - shortfall < values.abs().max() / drawn.abs().max() < 1 / (1 - shortfall)
        bound = drawn.abs().max()
        assert abs(values.mean()) < 5 * bound / (3 * len(values)) ** 0.5
        # x^2 of a uniform x has the mean b^2/3 and the variance 4 b^4/45.
        assert abs(values.square().mean() - bound**2 / 3) < bound**2 * (5 * (4 / 45 / len(values)) ** 0.5 + shortfall)


def test_table_a1_halves_the_image_at_its_first_and_third_convolution():
    assert conv_sizes((1, 28, 28)) == [(28, 28), (14, 14), (14, 14), (7, 7)]


def gradient_of(objective: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    model = FisherNet([trial_config(objective=objective, hidden_width=8, noise_start=-2.0)], SHAPE, 50)
    x, eta = torch.rand(1, 5, K), torch.randn(1, 5, 2)
    if objective == "eq25":
        mean = model.posterior_mean(x)
        fixed = model.posterior(x).residual({"eta": eta})[0].detach()
        log_likelihood = model.likelihood.log_prob(x, model.decoder(mean + fixed))
        loss = 0.5 * (mean + fixed).square().sum(2) - log_likelihood - model.likelihood.log_prior(model.n_train)
        by_hand = torch.autograd.grad(loss.sum(), list(model.parameters()))
        returned = torch.autograd.grad(model(x, {"eta": eta}).loss.sum(), list(model.parameters()))
        assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(by_hand, returned, strict=True))
        return dict(zip([n for n, _ in model.named_parameters()], returned, strict=True))
    grads = torch.autograd.grad(model(x, {"eta": eta}).loss.sum(), list(model.parameters()))
    return dict(zip([n for n, _ in model.named_parameters()], grads, strict=True))


@pytest.mark.usefixtures("double_precision")
def test_equation_25_holds_the_precision_constant_and_equation_24_does_not():
    eq25, residual, eq24 = (gradient_of(name) for name in ("eq25", "eq25-residual", "eq24"))
    for name in ("decoder.layers.0.weight", "likelihood.xi"):
        assert not torch.allclose(eq25[name], residual[name], rtol=1e-3)
        assert not torch.allclose(residual[name], eq24[name], rtol=1e-3)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("fields", [{}, {"activation": "softplus", "kl_weight": 0.3}, {"activation": "gelu"}], ids=str)
def test_the_gradient_of_equation_24_is_that_of_its_value(fields):
    """Central differences of the loss itself, the log-determinant and the draw included."""
    torch.manual_seed(3)
    model = FisherNet([trial_config(objective="eq24", hidden_width=8, noise_start=-2.0, **fields)], SHAPE, 50)
    x, eta, step = torch.rand(1, 5, K), torch.randn(1, 5, 2), 1e-6
    for parameter in (model.likelihood.xi, model.decoder.layers[0].weight, model.decoder.layers[-1].bias):
        gradient = torch.autograd.grad(model(x, {"eta": eta}).loss.sum(), parameter)[0].flatten()
        flat = parameter.data.view(-1)
        for i in range(0, len(flat), max(1, len(flat) // 5)):
            flat[i] += step
            up = model(x, {"eta": eta}).loss.sum().item()
            flat[i] -= 2 * step
            down = model(x, {"eta": eta}).loss.sum().item()
            flat[i] += step
            assert abs((up - down) / (2 * step) - gradient[i].item()) < 1e-5 * max(1, abs(gradient[i].item()))


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    ("fields", "divergence"),
    [
        ({"model": "VAE"}, ("kl",)),
        ({"model": "FisherNet"}, ("half_squared_z",)),
        ({"model": "FisherNet", "objective": "eq24"}, ("half_squared_z", "half_log_det")),
        ({"model": "AE"}, ()),
    ],
    ids=str,
)
def test_the_kl_weight_multiplies_the_divergence_in_the_loss_and_leaves_every_term_as_it_was(fields, divergence):
    x, eta = torch.rand(1, 5, K), torch.randn(1, 5, 2)
    once, weighted = (
        family(fields["model"]).load()([trial_config(hidden_width=8, kl_weight=beta, **fields)], SHAPE, 50)(
            x, {"eta": eta}
        )
        for beta in (1.0, 2.5)
    )
    extra = sum((once.terms[name] for name in divergence), torch.zeros(1, 5))
    assert torch.allclose(weighted.loss - once.loss, 1.5 * extra, rtol=1e-10, atol=1e-12)
    assert all(torch.equal(weighted.terms[name], value) for name, value in once.terms.items())  # the elbo too


@pytest.mark.parametrize("d", [2, 5, 20])
def test_table_a1_networks_have_the_counted_parameters(d):
    """784-448-448-448-d and back: 1,508,753 + 897 d with FisherNet's xi, 1,508,752 + 1,346 d with the VAE's two heads."""
    counts = {
        model: Cohort([trial_config(model=model, latent_dim=d)], (1, 28, 28), 60000).parameter_counts()
        for model in MODEL_NAMES
    }
    assert counts["FisherNet"] == [1_508_753 + 897 * d]
    assert counts["VAE"] == [1_508_752 + 1_346 * d]
    assert counts["AE"] == [1_508_752 + 897 * d]
    # by hand: 3x3 kernels 1-32-32-64, dense 3136-2d, dense d-3136, 3x3 kernels 64-64-32-32 and 32-1
    encoder = (9 + 1) * 32 + (9 * 32 + 1) * 32 + (9 * 32 + 1) * 64 + (3136 + 1) * 2 * d
    decoder = (d + 1) * 3136 + (9 * 64 + 1) * 64 + (9 * 64 + 1) * 32 + (9 * 32 + 1) * 32 + (9 * 32 + 1)
    assert counts["CVAE"] == [encoder + decoder]


@pytest.mark.parametrize("model", MODEL_NAMES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 7, 5), (3, 1, 1)])
def test_every_model_takes_every_image_shape(model, shape):
    config = trial_config(model=model, latent_dim=3, hidden_width=8, pixel_layers=2, pixel_channels=2)
    autoencoder = family(model).load()([config, config], shape, 10)
    x = torch.rand(2, 4, math.prod(shape))
    noise = {name: torch.randn(2, 4, own.width) for name, own in autoencoder.noise(3).items()}
    for _, loss in autoencoder.updates(x, noise):
        loss.sum().backward()
    outcome = autoencoder(x, noise)
    assert outcome.output.shape == x.shape
    assert autoencoder.reconstruct(outcome.mean).shape == x.shape
    assert outcome.loss.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in autoencoder.parameters())


@pytest.mark.parametrize(("most_padding", "n_runs"), [(1.0, 4), (1.5, 2), (3.0, 1)])
def test_the_precision_of_members_of_several_latent_dims_is_that_of_each_alone(
    most_padding, n_runs, small, monkeypatch
):
    """Values and gradients, whichever members push their tangents together; the surplus of a smaller one is the prior's 1."""
    monkeypatch.setitem(fisher.MOST_PADDING, "cpu", most_padding)
    dims = [2, 2, 3, 5, 6]
    assert len(fisher.alike(dims, most_padding)) == n_runs
    configs = [trial_config(latent_dim=d, seed=s, **small | {"objective": "eq24"}) for s, d in enumerate(dims)]
    stack = FisherNet(configs, (1, 8, 8), 100).double()
    z = torch.zeros(len(dims), 7, max(dims), dtype=torch.float64)
    for i, d in enumerate(dims):
        z[i, :, :d] = torch.randn(7, d, dtype=torch.float64)
    together = stack.precision(z)
    sum((together[i, :, :d, :d] * torch.arange(1.0, d + 1.0)).sum() for i, d in enumerate(dims)).backward()
    for i, (d, config) in enumerate(zip(dims, configs, strict=True)):
        model = FisherNet([config], (1, 8, 8), 100).double()
        alone = model.precision(z[i : i + 1, :, :d])
        assert torch.allclose(together[i, :, :d, :d], alone[0], rtol=1e-12, atol=1e-12)
        rest = together[i].detach().clone()
        rest[:, :d, :d] = torch.eye(d)
        assert torch.equal(rest, torch.eye(max(dims), dtype=torch.float64).expand(7, -1, -1))
        (alone * torch.arange(1.0, d + 1.0)).sum().backward()
        first, own = stack.decoder.layers[0].weight.grad[i], model.decoder.layers[0].weight.grad[0]
        assert torch.allclose(first[:d], own, rtol=1e-10, atol=1e-12)
        assert not first[d:].any()


@pytest.mark.usefixtures("double_precision")
def test_the_importance_weight_of_a_linear_fishernet_is_its_evidence_at_every_draw():
    """ln p(x given z) + ln p(z) - ln q(z given x) is ln p(x) wherever q is the exact posterior."""
    model, _, covariance = linear_model(FisherNet)
    x = torch.randn(1, 7, K)
    q = model.posterior(x)
    for _ in range(3):
        weight = model.log_weight(x, q, {"eta": torch.randn(1, 7, 3)})
        assert torch.allclose(weight, log_evidence(model, covariance, x), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("double_precision")
def test_the_mean_importance_weight_of_a_vae_is_its_evidence_and_not_its_square():
    """E exp(weight) = p(x) whatever q: within five standard errors of the mean of 20,000, and a factor of two is rejected."""
    model, _, covariance = linear_model(VAE)
    head = model.heads_of_encoder["log_variance"]
    head.weight.data.zero_()
    head.bias.data[0] = -0.2
    x = 0.3 * torch.randn(1, 1, K)
    many, n = x.expand(1, 20_000, K), 20_000
    with torch.no_grad():
        weights = model.log_weight(many, model.posterior(many), {"eta": torch.randn(1, n, 3)})[0]
        ratio = torch.exp(weights - log_evidence(model, covariance, x)[0])
    error = ratio.std() / n**0.5
    assert error < 0.1
    assert abs(ratio.mean() - 1) < 5 * error
    assert abs(2 * ratio.mean() - 1) > 5 * error


@pytest.mark.parametrize("pulls_back", [False, True])
def test_a_layers_gradients_of_gradients_are_those_of_its_formula_and_lie_as_its_weights_do(pulls_back):
    """y = x W + b, w pulled back by it is w W^T. Autograd's own second derivative in W comes transposed, to be copied."""
    generator = torch.Generator().manual_seed(0)
    layer = Linear([4, 3], [5, 2]).double()
    layer.initialise([generator] * 2)
    layer.pulls_back = pulls_back
    x, w = (torch.randn(2, 6, n, generator=generator, dtype=torch.float64).requires_grad_() for n in (4, 5))

    def both(x, w, weight, bias):
        y = torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)
        (pulled,) = torch.autograd.grad(y.tanh(), x, w, create_graph=True)
        return y, pulled

    y, pulled = both(x, w, *layer.parameters())
    torch.testing.assert_close(y, x @ layer.weight + layer.bias[:, None])
    torch.testing.assert_close(pulled, (w / y.cosh().square()) @ layer.weight.mT)
    assert torch.autograd.gradcheck(both, (x, w, *layer.parameters()))
    (gradient,) = torch.autograd.grad(torch.autograd.grad(layer(x), x, w, create_graph=True)[0].sum(), layer.weight)
    assert gradient.is_contiguous() == pulls_back


def test_layers_of_losses_with_gradients_in_their_inputs_are_told_so():
    for fields, told in (({"model": "FisherAE"}, True), ({"stability_weight": 0.5}, True), ({}, False)):
        config = trial_config(**{"model": "VAE"} | fields)
        model = family(config.model).load()([config], (1, 4, 4), 10)
        assert {layer.pulls_back for layer in model.modules() if type(layer) is Linear} == {told}


ASKED_OF_FISHERNET = [
    {"likelihood": name, "scale": scale} for name, row in LIKELIHOODS.items() if row.information for scale in row.scales
]


@pytest.mark.parametrize("objective", ["eq25", "eq24"])
@pytest.mark.parametrize(
    "values",
    [*ASKED_OF_FISHERNET, *({"likelihood": name, "pixel_range": "symmetric"} for name in ("gaussian", "gaussian-learned"))],
    ids=lambda values: "-".join(values.values()),
)  # fmt: skip
def test_a_fishernet_says_in_words_what_it_computes_whatever_the_likelihood(values, objective):
    """The loss is evaluated as the sentence has it, and what it says is left out makes it minus the ELBO.

    The d/2 is the mean over images of |eta|^2/2, and the prior of xi is none of the ELBO's.
    """
    config = trial_config({**values, "model": "FisherNet", "latent_dim": 3, "hidden_width": 8, "objective": objective})
    config = dataclasses.replace(config, noise_start=-2.0)
    said = config.loss_in_words
    model = FisherNet([config], (1, 4, 4), n_train=100).double()
    noise = {name: torch.randn(1, 5, own.width, dtype=torch.float64) for name, own in model.noise(3).items()}
    x = torch.rand(1, 5, 16, dtype=torch.float64)
    loss, terms = model(x, noise)[:2]
    z, _ = model.posterior(x).draw(noise)
    squares, k = z.square().sum(2), 16
    if "z*|²/2 − ln p(x given z*), the likelihood being" in said:
        stated = squares / 2 - model.likelihood.log_prob(x, model.decode(z))
        assert config.likelihood in said.lower()
        assert config.scale == "identity" or f"of scale {config.scale}." in said
    else:
        assert "(|z*|² + ξ²/p + kξ + |x − f(z*)|² exp(−ξ))/2 with k pixels" in said
        xi = 0.0 if "ξ = 0" in said else -2.0
        error = (model.reconstruct(z) - x) * (2 if "in [−1, 1]" in said else 1)
        stated = (squares + xi**2 / 100 + k * xi + error.square().sum(2) * math.exp(-xi)) / 2
    if said.count("ln|M|/2 +"):
        stated = stated + terms["half_log_det"]
    torch.testing.assert_close(loss, stated)
    per_pixel = {
        "k ln(2π)/2 − d/2": math.log(2 * math.pi) / 2,
        "k ln(π/2)/2 − d/2": math.log(math.pi / 2) / 2,
        "−d/2": 0.0,
    }
    constant = next(value for words, value in per_pixel.items() if f"it leaves out {words}" in said.lower())
    if constant:
        assert f"for 784 pixels {784 * constant:.0f} nats" in said
    left_out = k * constant - noise["eta"].square().sum(2) / 2
    if "and ln|M|/2, which is no constant" in said:
        left_out = left_out + terms["half_log_det"]
    torch.testing.assert_close(loss + left_out - terms["noise_prior"], -terms["elbo"])
