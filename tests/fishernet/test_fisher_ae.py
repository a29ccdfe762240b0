"""The Fisher divergence, its theorem, and the loss image by image (Fisher auto-encoders, sections 3 and 4)."""

import math

import numpy as np
import pytest
import torch
from torch.autograd.functional import jacobian

from fishernet.families import family, models_with, trial_config
from fishernet.networks.activations import ACTIVATIONS

SMALL = {"hidden_width": 6, "hidden_layers": 1, "activation": "tanh"}


def made(*configs, shape=(1, 2, 2), spread=1.0):
    """A model in float64 with weights far from their flat start."""
    model = family(configs[0].model).load()(list(configs), shape, 10).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("prior.") and name != "likelihood.xi":
                parameter.mul_(1 + spread * torch.rand(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def images(model, n=3):
    """x and eta of every member, padded with zeros as the cohort pads them."""
    generator = torch.Generator().manual_seed(2)
    shape = (len(model.configs), n)
    x = torch.rand(*shape, model.n_pixels, generator=generator, dtype=torch.float64)
    eta = torch.randn(*shape, max(model.latent_dims), generator=generator, dtype=torch.float64) * model.own
    return x, {"eta": eta}


def by_hand(model, i, x, eta):
    """Equation 11's three terms of member i and one image, from Jacobians of encoder, decoder and densities."""
    config, d = model.config, model.latent_dims[i]

    def alone(tensor):  # the image as a batch of one of every member, of which only member i is looked at
        return tensor.expand(len(model.configs), 1, -1)

    def posterior(x):
        heads = model.encode(alone(x))
        return heads["mean"][i, 0, :d], 0.5 * heads["log_variance"][i, 0, :d]

    def log_q(x, z):
        mean, log_sd = posterior(x)
        return (-0.5 * ((z - mean) / log_sd.exp()).square() - log_sd).sum()

    def log_p(x, z):
        padded = torch.cat([z, z.new_zeros(max(model.latent_dims) - d)])
        a = model.decode(alone(padded))
        f = model.likelihood.mean(a)[i, 0]
        v = model.likelihood.xi[i].exp()
        return -0.5 * ((x - f).square() / v + v.log() + math.log(2 * math.pi)).sum()

    def gradient(function, at):
        at = at.clone().requires_grad_() if not at.requires_grad else at
        return torch.autograd.grad(function(at), at, create_graph=True)[0]

    mean, log_sd = posterior(x)
    z = mean + log_sd.exp() * eta[:d]
    score = sum(k * model.prior.coefficients()[i, :d, k - 1] * z ** (k - 1) for k in range(1, config.prior_order + 1)) \
        if config.prior == "exponential" else -z  # fmt: skip
    of_p = torch.autograd.grad(log_p(x, z), z, create_graph=True)[0]
    if config.posterior_gradient == "held":
        of_p = of_p.detach()
    divergence = 0.5 * (-eta[:d] / log_sd.exp() - score - of_p).square().sum()
    hessian_trace = -model.n_pixels / model.likelihood.xi[i].exp()
    hyvarinen = hessian_trace + 0.5 * gradient(lambda at: log_p(at, z), x).square().sum()
    at = x.clone().requires_grad_()
    if config.stability == "total":
        moving = lambda at: log_q(at, posterior(at)[0] + posterior(at)[1].exp() * eta[:d])  # noqa: E731
        stability = 0.5 * gradient(moving, at).square().sum()
    elif config.stability == "partial":
        # ln q's gradient at a z that does not move with ``at`` but does with the parameters.
        stability = 0.5 * gradient(lambda at: log_q(at, z), at).square().sum()
    else:
        of_mean, of_log_sd = (jacobian(lambda at, k=k: posterior(at)[k], x, create_graph=True) for k in (0, 1))
        stability = 0.5 * ((of_mean / log_sd.exp()[:, None]).square().sum() + 2 * of_log_sd.square().sum())
    return divergence, hyvarinen, stability


@pytest.mark.parametrize("stability", ["partial", "total", "expected"])
@pytest.mark.parametrize("posterior_gradient", ["full", "held"])
@pytest.mark.parametrize("prior", [{}, {"prior": "exponential", "prior_start": "scattered"}])
@pytest.mark.parametrize("likelihood", ["gaussian", "gaussian-learned"])
def test_loss_and_gradients_are_equation_11_image_by_image(stability, posterior_gradient, prior, likelihood):
    values = {
        **SMALL, **prior, "stability": stability, "posterior_gradient": posterior_gradient, "likelihood": likelihood,
        "stability_weight": 0.7, "posterior_weight": 1.3,
    }  # fmt: skip
    more = {"noise_start": -0.5} if likelihood == "gaussian-learned" else {}
    model = made(*(trial_config(model="FisherAE", latent_dim=d, seed=d, **values, **more) for d in (2, 3)))
    x, noise = images(model)
    outcome = model(x, noise)
    expected = torch.zeros_like(outcome.loss)
    for i in range(2):
        for n in range(3):
            divergence, hyvarinen, stable = by_hand(model, i, x[i, n], noise["eta"][i, n])
            expected[i, n] = 1.3 * divergence + hyvarinen + 0.7 * stable
    torch.testing.assert_close(outcome.loss, expected, rtol=1e-10, atol=1e-10)
    parameters = dict(model.named_parameters())
    weights = torch.arange(1.0, 7, dtype=torch.float64).reshape(2, 3)  # a sum alone would hide images that are mixed up
    found, wanted = (
        torch.autograd.grad((loss * weights).sum(), [*parameters.values()], allow_unused=True)
        for loss in (outcome.loss, expected)
    )
    for name, one, other in zip(parameters, found, wanted, strict=True):
        if one is None or other is None:
            assert not (one if one is not None else torch.zeros(1)).any(), name
        else:
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_has_the_derivatives_that_the_loss_needs(activation):
    """Also the second ones, which the gradients of both pulled-back terms take."""
    model = made(trial_config(model="FisherAE", latent_dim=2, **{**SMALL, "activation": activation}))
    x, noise = images(model)
    terms = model(x, noise).terms
    weights = [*model.trunk.parameters(), *model.decoder.parameters()]
    for n in range(3):
        divergence, hyvarinen, stable = by_hand(model, 0, x[0, n], noise["eta"][0, n])
        for name, value in (("posterior_divergence", divergence), ("hyvarinen", hyvarinen), ("stability", stable)):
            torch.testing.assert_close(terms[name][0, n], value, rtol=1e-10, atol=1e-12)
            found, wanted = (
                torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
                for term in (terms[name][0, n], value)
            )
            for one, other in zip(found, wanted, strict=True):
                if one is not None or other is not None:
                    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def theorem_1(stability, nodes=180, **more):
    """D(p*(x) q(z given x) || p(x, z)) less E loss, and tr(S^-1)/2 = E |grad ln p*|^2/2; x one pixel, by quadrature."""
    mean, sd = 0.4, 0.3
    values = {**SMALL, "decoder_output": "linear", "stability": stability, "likelihood": "gaussian-learned", **more}
    config = trial_config(model="FisherAE", latent_dim=1, noise_start=-0.7, **values)
    model = made(config, shape=(1, 1, 1))
    at, weights = (torch.from_numpy(t) for t in np.polynomial.hermite_e.hermegauss(nodes))
    weights = weights / weights.sum()
    x, eta = torch.cartesian_prod(mean + sd * at, at).unbind(1)
    weight = torch.outer(weights, weights).flatten()
    loss = (model(x[None, :, None], {"eta": eta[None, :, None]}).loss[0] * weight).sum()
    q = model.posterior(x[None, :, None])
    x = x.requires_grad_()
    z = q.sample(eta[None, :, None])[0, :, 0].detach().requires_grad_()
    q = model.posterior(x[None, :, None])
    log_q = -0.5 * ((z[None, :, None] - q.mean).square() / q.log_variance.exp() + q.log_variance)
    log_p = model.log_likelihood(x[None, :, None], z[None, :, None])[0] - 0.5 * z.square()
    log_true = -0.5 * ((x - mean) / sd).square()
    gradients = torch.autograd.grad((log_true + log_q[0, :, 0] - log_p[0]).sum(), (x, z))
    divergence = 0.5 * sum((weight * g.square()).sum() for g in gradients)
    return (divergence - loss).item(), 0.5 / sd**2


def test_theorem_1_the_loss_is_the_divergence_up_to_a_constant_of_the_data():
    difference, constant = theorem_1("partial")
    assert difference == pytest.approx(constant, rel=1e-12)
    difference, constant = theorem_1("expected")  # its mean over z
    assert difference == pytest.approx(constant, rel=1e-12)


@pytest.mark.parametrize(("network", "tolerance"), [({"hidden_layers": 0}, 1e-12), ({"activation": "relu"}, 2e-3)])
def test_theorem_1_holds_of_linear_networks_and_of_ones_with_kinks(network, tolerance):
    """With kinks to the error of the quadrature, which is less than what ``total`` is off by."""
    difference, constant = theorem_1("partial", **network)
    assert difference == pytest.approx(constant, rel=tolerance)
    difference, constant = theorem_1("total", **network)
    assert abs(difference - constant) > 2 * tolerance * constant


def linear(d, v, **values):
    """A Fisher auto-encoder of linear networks, and its decoder's matrix (n_pixels, d) and offset."""
    values = {"hidden_layers": 0, "decoder_output": "linear", "likelihood": "gaussian-learned", **values}
    model = made(trial_config(model="FisherAE", latent_dim=d, noise_start=0, **values))
    with torch.no_grad():
        model.likelihood.xi.fill_(math.log(v))
    (layer,) = model.decoder.layers
    return model, layer.weight[0].T.detach(), layer.bias[0].detach()


def sigma_points(d):
    """Draws whose mean of any quadratic form is that of N(0, 1)."""
    one = torch.eye(d, dtype=torch.float64)
    return math.sqrt(d) * torch.cat([one, -one])[None]


def test_the_posteriors_divergence_is_that_of_two_gaussians():
    """(tr (Q - M) S (Q - M) + |M (mu - m)|^2)/2 of q = N(mu, S), Q = S^-1, and p(z given x) = N(m, M^-1)."""
    d, v = 3, math.exp(-1)
    model, b, offset = linear(d, v, stability_weight=0)
    x, _ = images(model, 1)
    q = model.posterior(x)
    mu, s = q.mean[0, 0].detach(), q.log_variance[0, 0].exp().detach()
    m = torch.eye(d, dtype=torch.float64) + b.T @ b / v
    apart = torch.diag(1 / s) - m
    centre = torch.linalg.solve(m, b.T @ (x[0, 0] - offset) / v)
    expected = 0.5 * ((apart @ torch.diag(s) @ apart).trace() + (m @ (mu - centre)).square().sum())
    found = model(x.expand(1, 2 * d, -1), {"eta": sigma_points(d)}).terms["posterior_divergence"].mean()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_latents_c_times_as_wide_have_their_divergence_divided_by_c_squared():
    c, exponential = 3.0, {"prior": "exponential", "prior_order": 2, "stability_weight": 0, **SMALL}
    narrow, wide = (made(trial_config(model="FisherAE", latent_dim=2, **exponential)) for _ in range(2))
    weights = {name: t.clone() for name, t in narrow.state_dict().items()}
    for name in ("heads_of_encoder.mean.weight", "heads_of_encoder.mean.bias"):
        weights[name] *= c
    weights["heads_of_encoder.log_variance.bias"] += 2 * math.log(c)
    weights["decoder.layers.0.weight"] /= c
    weights["prior.eta"][..., 0] /= c
    weights["prior.tau"] -= 2 * math.log(c)
    wide.load_state_dict(weights)
    x, noise = images(narrow)
    one, other = (model(x, noise).terms["posterior_divergence"] for model in (narrow, wide))
    torch.testing.assert_close(other, one / c**2, rtol=1e-10, atol=0)


def test_remark_1_with_the_true_posterior_the_loss_of_every_image_is_the_hyvarinen_score_of_its_density():
    """-tr S^-1 + |S^-1 (x - c)|^2/2 of x ~ N(c, S), S = B B^T + v."""
    v = math.exp(-1)
    model, b, offset = linear(1, v)
    m = 1 + (b.square().sum() / v).item()
    heads = model.heads_of_encoder
    with torch.no_grad():
        heads["mean"].weight.copy_((b / (m * v))[None])
        heads["mean"].bias.copy_(-(b.T @ offset)[None] / (m * v))
        heads["log_variance"].weight.zero_()
        heads["log_variance"].bias.fill_(-math.log(m))
    precision = torch.linalg.inv(b @ b.T + v * torch.eye(4, dtype=torch.float64))
    for x in images(model, 4)[0][0]:
        expected = -precision.trace() + 0.5 * (precision @ (x - offset)).square().sum()
        loss = model(x.expand(1, 2, -1), {"eta": sigma_points(1)}).loss.mean()
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)


def test_the_term_in_the_posteriors_is_least_squares_in_the_priors_coefficients():
    values = {"prior": "exponential", "prior_order": 4, "prior_top": "free", "stability_weight": 0, **SMALL}
    model = made(trial_config(model="FisherAE", latent_dim=2, **values))
    x, noise = images(model, 30)
    q = model.posterior(x)
    z = q.sample(noise["eta"]).detach().requires_grad_()
    (pull,) = torch.autograd.grad(model.log_likelihood(x, z)[0].sum(), z)
    wanted = (-noise["eta"] * torch.exp(-0.5 * q.log_variance) - pull)[0].detach()  # what the prior's score should be
    powers = torch.stack([k * z.detach()[0] ** (k - 1) for k in range(1, 5)], 2)  # (n, d, K)
    with torch.no_grad():
        for j in range(2):
            model.prior.eta[0, j] = torch.linalg.lstsq(powers[:, j], wanted[:, j : j + 1]).solution[:, 0]
    loss = model(x, noise).terms["posterior_divergence"].mean()
    (gradient,) = torch.autograd.grad(loss, model.prior.eta)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-8)


def test_a_prior_that_is_no_density_has_no_elbo_and_no_kl():
    for top, there in (("free", False), ("negative", True)):
        model = made(trial_config(model="FisherAE", latent_dim=2, prior="exponential", prior_top=top, **SMALL))
        x, noise = images(model)
        with torch.no_grad():
            terms = model.eval()(x, noise).terms
        assert ({"elbo", "kl"} <= set(terms)) == there
        assert "log_likelihood" in terms


def test_as_released_it_is_not():
    difference, constant = theorem_1("total")
    assert abs(difference - constant) > 1e-3


def test_as_released_the_stability_term_teaches_the_mean_nothing_and_held_the_divergence_the_decoder_nothing():
    model = made(trial_config(model="FisherAE", latent_dim=2, stability="total", posterior_gradient="held", **SMALL))
    x, noise = images(model)
    terms = model(x, noise).terms
    of_mean = [p for name, p in model.named_parameters() if name.startswith("heads_of_encoder.mean")]
    found = torch.autograd.grad(terms["stability"].sum(), of_mean, allow_unused=True, retain_graph=True)
    assert not any(g.any() for g in found if g is not None)
    model = made(trial_config(model="FisherAE", latent_dim=2, posterior_gradient="held", **SMALL))
    terms = model(x, noise).terms
    of_decoder = [*model.decoder.parameters()]
    found = torch.autograd.grad(terms["posterior_divergence"].sum(), of_decoder, allow_unused=True)
    assert not any(g.any() for g in found if g is not None)
    model = made(trial_config(model="FisherAE", latent_dim=2, **SMALL))
    terms = model(x, noise).terms
    bias = model.heads_of_encoder["mean"].bias  # which moves z and no derivative of the mean
    found = torch.autograd.grad(terms["stability"].sum(), bias, allow_unused=True, retain_graph=True)
    assert found[0] is None or not found[0].any()
    found = torch.autograd.grad(terms["posterior_divergence"].sum(), [*model.decoder.parameters()][:1])
    assert found[0].abs().max() > 1e-3


def test_the_mean_over_draws_of_partial_is_expected():
    """Exactly: a polynomial of degree 4 in eta, so nodes of a quadrature do for draws."""
    model = made(*(trial_config(model="FisherAE", latent_dim=2, stability=s, **SMALL) for s in ("partial",)))
    other = made(trial_config(model="FisherAE", latent_dim=2, stability="expected", **SMALL))
    nodes, weights = (torch.from_numpy(t) for t in np.polynomial.hermite_e.hermegauss(5))
    weights = weights / weights.sum()
    eta = torch.cartesian_prod(nodes, nodes)[None]
    x = images(model, 1)[0].expand(1, len(eta[0]), -1)
    mean = (model(x, {"eta": eta}).terms["stability"][0] * torch.outer(weights, weights).flatten()).sum()
    expected = other(x, {"eta": eta}).terms["stability"][0, 0]
    torch.testing.assert_close(mean, expected, rtol=1e-10, atol=0)
    names = [name for name, _ in model.named_parameters() if name.startswith(("trunk.", "heads_of_encoder."))]
    found, wanted = (
        torch.autograd.grad(term, [made_model.get_parameter(name) for name in names], allow_unused=True)
        for term, made_model in ((mean, model), (expected, other))
    )
    for name, one, wants in zip(names, found, wanted, strict=True):
        if wants is None:  # the mean's bias moves no derivative
            assert one is None or not one.any(), name
        else:
            torch.testing.assert_close(one, wants, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_of_a_linear_decoder_the_divergence_is_least_at_the_true_mean_and_at_less_than_the_elbos_width():
    """mu = M^-1 B^T x/v and sigma_j^2 = (M^2)_jj^(-1/2), M = 1 + B^T B/v: below the ELBO's 1/M_jj where latents correlate."""
    d, v = 3, math.exp(-1)
    values = {"hidden_layers": 0, "decoder_output": "linear", "stability_weight": 0, "likelihood": "gaussian-learned"}
    model = made(trial_config(model="FisherAE", latent_dim=d, noise_start=-1, **values))
    (decoder,) = model.decoder.layers
    with torch.no_grad():
        decoder.bias.zero_()
    b = decoder.weight[0].T.detach()  # (n_pixels, d)
    m = torch.eye(d, dtype=torch.float64) + b.T @ b / v
    heads = model.heads_of_encoder
    square = (m @ m).diagonal()
    with torch.no_grad():
        heads["mean"].weight.copy_((torch.linalg.solve(m, b.T) / v).T[None])
        heads["mean"].bias.zero_()
        heads["log_variance"].weight.zero_()
        heads["log_variance"].bias.copy_(-0.5 * square.log()[None])
    # A quadratic form's mean over normal draws is its mean over these.
    eta = math.sqrt(d) * torch.cat([torch.eye(d, dtype=torch.float64), -torch.eye(d, dtype=torch.float64)])[None]
    x = images(model, 1)[0].expand(1, 2 * d, -1)
    least = model(x, {"eta": eta}).terms["posterior_divergence"].mean()
    torch.testing.assert_close(least, (square.sqrt() - m.diagonal()).sum(), rtol=1e-10, atol=1e-12)
    for parameter in (heads["mean"].bias, heads["log_variance"].bias):
        (gradient,) = torch.autograd.grad(model(x, {"eta": eta}).terms["posterior_divergence"].mean(), parameter)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)
    assert (square.rsqrt() < 1 / m.diagonal()).all()


def test_an_exponential_prior_of_order_2_is_the_normal_one_in_every_number():
    exponential = {"prior": "exponential", "prior_order": 2}
    for name in ("FisherAE", "VAE"):
        with torch.no_grad():
            normal, learned = (made(trial_config(model=name, latent_dim=3, **SMALL, **v)) for v in ({}, exponential))
            learned.prior.tau.fill_(math.log(0.5))  # which starts in float32
            x, noise = images(normal)
            one, other = normal.eval()(x, noise), learned.eval()(x, noise)
        for term, value in one.terms.items():
            torch.testing.assert_close(other.terms[term], value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(other.loss, one.loss, rtol=1e-12, atol=1e-12)


def test_a_vae_held_steady_adds_the_term_and_without_it_nothing_changes():
    plain, steady = (made(trial_config(model="VAE", latent_dim=2, stability_weight=w, **SMALL)) for w in (0, 0.5))
    x, noise = images(plain)
    one, other = plain(x, noise), steady(x, noise)
    torch.testing.assert_close(other.loss, one.loss + 0.5 * other.terms["stability"], rtol=1e-12, atol=0)
    assert "stability" not in one.terms
    with torch.no_grad():
        torch.testing.assert_close(steady(x, noise).loss, other.loss, rtol=1e-12, atol=0)
        assert not steady(x, noise).loss.requires_grad


def test_a_bernoulli_fisher_autoencoder_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"likelihood bernoulli, .* must be gaussian or gaussian-learned"):
        trial_config(model="FisherAE", likelihood="bernoulli")


@pytest.mark.parametrize("stability", ["partial", "total", "expected"])
def test_images_in_minus_1_to_1_with_unit_noise_are_those_in_0_to_1_with_a_quarter_of_it(stability):
    """The posteriors' divergence is equal, the two terms in units of x are a quarter; densities are of x either way."""
    values = {**SMALL, "model": "FisherAE", "latent_dim": 2, "stability": stability}
    symmetric = made(trial_config(pixel_range="symmetric", **values))
    unit = made(trial_config(likelihood="gaussian-learned", noise_start=-math.log(4), **values))
    weights = symmetric.state_dict()
    first = "trunk.0.layers.0"
    weights[f"{first}.bias"] = weights[f"{first}.bias"] - weights[f"{first}.weight"].sum(1)
    weights[f"{first}.weight"] = 2 * weights[f"{first}.weight"]
    weights["likelihood.xi"] = torch.tensor([-math.log(4)], dtype=torch.float64)
    unit.load_state_dict(weights)
    x, noise = images(symmetric)
    one, other = (model(x, noise).terms for model in (symmetric, unit))
    torch.testing.assert_close(one["posterior_divergence"], other["posterior_divergence"], rtol=1e-10, atol=1e-10)
    for name in ("hyvarinen", "stability"):
        torch.testing.assert_close(one[name], 0.25 * other[name], rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        one, other = (model(x, noise).terms for model in (symmetric, unit))
    for name in ("log_likelihood", "elbo", "kl"):
        torch.testing.assert_close(one[name], other[name], rtol=1e-10, atol=1e-10)


def test_a_vaes_stability_term_is_in_units_of_the_images_range_too():
    values = {**SMALL, "model": "VAE", "latent_dim": 2, "likelihood": "gaussian", "stability_weight": 0.3}
    model = made(trial_config(pixel_range="symmetric", **values))
    x, noise = images(model)
    outcome = model(x, noise)
    doubled = 2 * x - 1

    def of(seen):  # the encoder alone, of an image in [-1, 1]
        heads = model.heads_from(model.trunk(seen), seen.dtype)
        return heads["mean"], heads["log_variance"]

    for n in range(x.shape[1]):
        at = doubled[:, n : n + 1].clone().requires_grad_()
        mean, log_variance = of(at)
        z = (mean + torch.exp(0.5 * log_variance) * noise["eta"][:, n : n + 1]).detach()
        log_q = -0.5 * ((z - mean).square() * torch.exp(-log_variance) + log_variance).sum()
        expected = 0.5 * torch.autograd.grad(log_q, at)[0].square().sum()
        assert outcome.terms["stability"][0, n].item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("model", models_with("input_noise"))
def test_of_noisy_inputs_the_encoder_alone_sees_the_noise_and_in_training_alone(model):
    config = trial_config(model=model, latent_dim=2, input_noise=0.3, likelihood="gaussian", pixel_layers=1, **SMALL)
    network = family(model).load()([config], (1, 4, 4), 10).double()
    asked, seen = network.all_noise(2), []
    generator = torch.Generator().manual_seed(0)
    noise = {k: torch.randn(1, 3, own.width, generator=generator, dtype=torch.float64) for k, own in asked.items()}
    x = torch.rand(1, 3, 16, generator=generator, dtype=torch.float64)
    network.trunk.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    met = []
    log_prob = network.likelihood.log_prob
    network.likelihood.log_prob = lambda image, a: met.append(image.detach()) or log_prob(image, a)
    for training, expected in ((True, x + math.sqrt(0.3) * noise["input"]), (False, x)):
        network.train(training)
        network(x, noise)
        torch.testing.assert_close(seen.pop(), expected)
        assert not seen
        torch.testing.assert_close(met.pop(), x)
