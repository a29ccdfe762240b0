"""Options of networks, optimiser and posterior, each against its closed form."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from fishernet import contract
from fishernet.adam import Adam, Group
from fishernet.cohort import Cohort
from fishernet.data.images import ResidentImages
from fishernet.families import MODEL_NAMES, trial_config
from fishernet.likelihoods.logistic import Logistic, LogisticReleased
from fishernet.networks.stacked import Linear
from fishernet.training import train_epoch

SHAPE = (1, 28, 28)


def grown(**values):
    return Cohort([trial_config({"model": "VAE", **values})], SHAPE, 100).model


# --- Adam of normalised gradients


def test_normalised_adam_divides_each_members_gradient_by_its_own_norm():
    """Of a stack it takes the steps that each member takes alone, whatever the size of the others' gradients."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(3, *shape, generator=generator, dtype=torch.float64) for shape in ((7, 5), (5,), ())]
    factors = torch.tensor([1.0, 1e3, 1e-3], dtype=torch.float64)
    stack = [t.clone() for t in start]
    members = [[t[i : i + 1].clone() for t in start] for i in range(3)]
    adams = [Adam([Group(tensors, 0.01)], normalised=True) for tensors in (stack, *members)]
    for _ in range(4):
        gradients = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in start]
        gradients = [g * factors.view(3, *[1] * (g.dim() - 1)) for g in gradients]
        for t, g in zip(stack, gradients, strict=True):
            t.grad = g.clone()
        for i, own in enumerate(members):
            for t, g in zip(own, gradients, strict=True):
                t.grad = g[i : i + 1].clone()
        for adam in adams:
            adam.step()
    for i, own in enumerate(members):
        for t, expected in zip(stack, own, strict=True):
            assert torch.allclose(t[i : i + 1], expected, rtol=1e-12, atol=0)


def test_the_first_step_of_normalised_adam_is_adams_and_later_ones_forget_how_large_gradients_were():
    gradients = torch.randn(2, 1, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = {}
    for normalised in (False, True):
        for scale in (1.0, 100.0):
            parameter = torch.zeros(1, 40, dtype=torch.float64)
            adam, path = Adam([Group([parameter], 0.1)], normalised=normalised), []
            for gradient, size in zip(gradients, (1.0, scale), strict=True):
                parameter.grad = size * gradient
                adam.step()
                path.append(parameter.clone())
            ends[normalised, scale] = path
    # Adam's first step is lr g/(|g| + eps): the sign, to eps over the gradient, which normalised is 1/sqrt(40) of 1.
    assert torch.allclose(ends[True, 1.0][0], ends[False, 1.0][0], rtol=1e-4)
    assert torch.allclose(ends[True, 1.0][1], ends[True, 100.0][1], rtol=1e-6)
    assert not torch.allclose(ends[False, 1.0][1], ends[False, 100.0][1], rtol=1e-2)


def test_the_optimiser_of_a_config_is_the_one_it_names(small, images):
    for name in ("adam", "adam-normalised"):
        cohort = contract.made([trial_config(model="VAE", optimiser=name, **small)], images)
        assert cohort.optimisers[""].normalised == (name == "adam-normalised")


# --- first weights


@pytest.mark.parametrize(
    ("scheme", "sd", "kurtosis"),
    [
        ("torch", lambda n, m: 1 / math.sqrt(3 * n), 1.8),
        ("he-normal", lambda n, m: math.sqrt(2 / n), 3.0),
        ("glorot-uniform", lambda n, m: math.sqrt(2 / (n + m)), 1.8),
    ],
)
def test_first_weights_have_the_spread_and_the_shape_that_their_name_says(scheme, sd, kurtosis):
    """Heads too. Of n weights the sd is known to sqrt((kurtosis - 1)/4n) of itself."""
    model = grown(initialisation=scheme, hidden_width=60, latent_dim=50)
    layers = [layer for layer in model.modules() if isinstance(layer, Linear)]
    assert len(layers) == 9
    for layer in layers:
        weight = layer.weight.detach().double().flatten()
        n, m = layer.shapes[0]
        assert weight.std() == pytest.approx(sd(n, m), rel=5 * math.sqrt((kurtosis - 1) / 4 / len(weight)))
        assert weight.std() != pytest.approx(2 * sd(n, m), rel=0.3)
        spread = (weight / weight.std()).pow(4).mean()
        assert spread == pytest.approx(kurtosis, abs=5 * 10 / math.sqrt(len(weight)))
        assert layer.bias.abs().max() <= 1 / math.sqrt(n)


@pytest.mark.parametrize(("scheme", "least", "most"), [("he-normal", 1e-3, 0.1), ("torch", 0, 1e-14)])
def test_after_twenty_layers_images_still_differ_with_he_normal_weights_and_with_torchs_no_more(scheme, least, most):
    """The variance between images of the last activations."""
    model = grown(initialisation=scheme, hidden_width=300, hidden_layers=20)
    x = torch.rand(1, 200, 784, generator=torch.Generator().manual_seed(0)).round()
    with torch.no_grad():
        features = model.trunk(x)[0].double()
    assert least <= features.var(0).mean() <= most


# --- sizes


@pytest.mark.parametrize(("d", "n"), [(40, 1_230_264), (10, 1_203_204)])
def test_five_layers_of_300_have_as_many_parameters_as_counted_by_hand(d, n):
    config = trial_config(model="VAE", latent_dim=d, hidden_layers=5, hidden_width=300)
    assert Cohort([config], SHAPE, 100).parameter_counts() == [n == 1_194_184 + 902 * d and n]


# --- gates


@pytest.mark.parametrize("network", ["dense", "conv"])
def test_a_gated_layer_is_the_product_of_one_half_and_the_sigmoid_of_the_other(network):
    model = grown(gating="sigmoid", network=network, hidden_width=6, hidden_layers=1, latent_dim=2)
    x = torch.rand(1, 3, 784)
    if network == "dense":
        layer = model.trunk[0].layers[0]
        h, g = (x @ layer.weight + layer.bias[:, None]).chunk(2, dim=2)
        assert torch.allclose(model.trunk(x), h * torch.sigmoid(g), atol=1e-6)
        first, last = model.decoder.layers
        z = torch.randn(1, 3, 2)
        h, g = first(z).chunk(2, dim=2)
        assert torch.allclose(model.decode(z), last(h * torch.sigmoid(g)), atol=1e-6)
        return
    y = x[0].unflatten(1, SHAPE)
    for layer in model.trunk.layers:
        h, g = layer(y, layer.weight[0], layer.bias[0]).chunk(2, dim=1)
        y = h * torch.sigmoid(g)
    assert torch.allclose(model.trunk(x)[0], y.flatten(1), atol=1e-6)


# --- the posterior's width


def test_a_clamped_log_variance_lies_within_minus_6_and_2(images, small):
    cohort = contract.made([trial_config(model="VAE", log_variance="clamped", latent_dim=3, **small)], images)
    cohort.model.heads_of_encoder["log_variance"].bias.data = torch.tensor([[-50.0, 50.0, 0.0]])
    log_variance = cohort.model.posterior(torch.rand(1, 4, 100)).log_variance
    assert log_variance[..., 0].unique().tolist() == [-6.0]
    assert log_variance[..., 1].unique().tolist() == [2.0]
    assert log_variance[..., 2].abs().max() < 2


# --- logistic likelihoods


def logistic(kind, mean, log_scale):
    likelihood = kind(trial_config(model="VAE", likelihood="logistic"), 1, (1, 1, 1))
    a = torch.tensor([[[math.log(mean / (1 - mean)), log_scale]]], dtype=torch.float64).expand(1, 256, 2)
    return likelihood, a


@pytest.mark.parametrize(("mean", "log_scale"), [(0.5, 0.0), (0.01, -4.5), (0.999, -2.0), (0.3, -9.0), (0.7, 3.0)])
def test_the_256_grey_values_have_probability_1_together(mean, log_scale):
    likelihood, a = logistic(Logistic, mean, log_scale)
    x = torch.arange(256, dtype=torch.float64).view(1, 256, 1) / 255
    assert likelihood.log_prob(x, a).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_a_grey_value_has_the_mass_of_its_bin_under_the_logistic_density():
    """By its distribution function in float64, at a mean and scale where no difference cancels; and samples have these shares."""
    likelihood, a = logistic(Logistic, 0.4, -2.0)
    x = torch.arange(256, dtype=torch.float64) / 255
    edges = np.concatenate([[-np.inf], np.arange(1, 256) / 256, [np.inf]])
    cdf = 1 / (1 + np.exp(-(edges - 0.4) / np.exp(-2.0)))
    assert likelihood.log_prob(x.view(1, 256, 1), a)[0].exp().numpy() == pytest.approx(np.diff(cdf), rel=1e-10)
    drawn = likelihood.sample(a[:, :1].expand(1, 40_000, 2), torch.Generator().manual_seed(0))[0, :, 0]
    share = (drawn <= 100 / 255).double().mean().item()
    assert share == pytest.approx(cdf[101], abs=5 * math.sqrt(0.25 / 40_000))
    assert torch.equal((drawn * 255).round() / 255, drawn)


def test_gradients_of_the_logistic_stay_finite_where_a_value_is_far_from_the_mean():
    likelihood, a = logistic(Logistic, 0.002, -4.5)
    a = a.float().requires_grad_()
    likelihood.log_prob(torch.arange(256).view(1, 256, 1) / 255, a).sum().backward()
    assert a.grad.isfinite().all()


def test_the_released_logistic_does_not_sum_to_one():
    """0.2449 at mean 1/2 and scale 1: sigmoid(1/2) - sigmoid(-1/2) and 256 times 1e-7, the bin of 255 moved by one."""
    likelihood, a = logistic(LogisticReleased, 0.5, 0.0)
    x = torch.arange(256, dtype=torch.float64).view(1, 256, 1) / 255
    total = likelihood.log_prob(x, a).exp().sum().item()
    assert total == pytest.approx(0.2449, abs=5e-5)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"model": "FisherNet", "likelihood": "logistic"}, ["likelihood logistic", "Fisher information", "FisherNet"]),
        (
            {"model": "VAE", "likelihood": "logistic", "decoder_output": "linear"},
            ["likelihood logistic", "decoder_output"],
        ),
    ],
)
def test_options_that_exclude_each_other_are_refused_in_a_sentence(values, parts):
    with pytest.raises(ValueError, match=r".") as error:
        trial_config(values)
    assert all(part in str(error.value) for part in parts), str(error.value)


# --- Fields that wait for others


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_a_field_that_does_not_matter_changes_no_number(model):
    """A step of training gives the same weights, bit for bit, whatever it is; what matters, its own module's tests say."""
    images, tried = contract.small_images(), 0
    images = dataclasses.replace(images, train=images.train[:20], train_labels=None)

    def trained(**values):
        cohort = contract.made(contract.configs_of({"model": model, **values}, (2,), (0,)), images)
        train_epoch(cohort, ResidentImages.of(images.train, contract.CPU))
        return cohort.tensors()

    usual, expected = trial_config(model=model), trained()
    for name, f in ((f.name, f) for f in dataclasses.fields(usual)):
        if usual.matters(name, usual.to_dict()):
            continue
        values = f.metadata["choices"] or (f.default + 1, f.default + 2, 0.5)
        value = next(v for v in values if v != f.default and (not f.metadata["valid"] or f.metadata["valid"](v)))
        try:
            found = trained(**{name: value})
        except ValueError:  # refused by its family
            continue
        tried += 1
        for tensor, own in expected.items():
            assert torch.equal(own, found[tensor]), f"{name} {value} changes {tensor}"
    assert tried > 3
