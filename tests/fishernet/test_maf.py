"""The masked autoregressive flow as a likelihood."""

import math

import pytest
import torch

from fishernet import contract
from fishernet.cohort import Cohort
from fishernet.data.images import ResidentImages
from fishernet.families import trial_config
from fishernet.likelihoods import LIKELIHOODS
from fishernet.likelihoods.maf import hidden_degrees
from fishernet.training import train_epoch

AE = {"model": "AE", "likelihood": "maf", "decoder_output": "linear", "latent_dim": 3}


def made(shape, width=10, n_members=1):
    """With random weights and biases, in float64."""
    likelihood = LIKELIHOODS["maf"].load()(trial_config({**AE, "maf_width": width}), n_members, shape).double()
    generator = torch.Generator().manual_seed(4)
    for parameter in likelihood.parameters():
        spread = 0.5 / parameter.shape[1] ** 0.5
        parameter.data = spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    likelihood.hidden.bias.data += 1  # no unit is off throughout
    return likelihood


def test_degrees_and_masks_are_those_of_the_released_flow():
    likelihood = made((1, 28, 28))
    assert hidden_degrees(784, 10) == [72, 143, 214, 285, 356, 428, 499, 570, 641, 712]
    assert likelihood.hidden.mask.sum() == 3920
    assert likelihood.last.mask.sum() == 7840
    assert sum(p.numel() for p in likelihood.parameters()) == 25098


def test_the_model_has_as_many_parameters_as_the_papers_and_starts_where_the_autoencoder_does():
    released = {
        **AE, "latent_dim": 32, "hidden_layers": 0, "code": "rectified", "initialisation": "glorot-uniform",
    }  # fmt: skip
    flow, plain = (
        Cohort([trial_config({**released, "likelihood": name})], (1, 28, 28), 10) for name in ("maf", "gaussian")
    )
    assert flow.parameter_counts() == [76090]
    for name, weight in plain.member_weights(0).items():
        if not name.startswith("likelihood"):
            assert torch.equal(weight, flow.member_weights(0)[name])


@pytest.mark.parametrize("width", [1, 3, 10])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 3), (2, 3, 3)])
def test_a_pixel_is_moved_by_the_pixels_before_it_alone(shape, width):
    likelihood, d = made(shape, width), math.prod(shape)
    x = torch.rand(1, 1, d, dtype=torch.float64)
    for part in (0, 1):
        jacobian = torch.autograd.functional.jacobian(
            lambda x, part=part: likelihood.shift_and_log_scale(x)[part][0, 0], x
        )[:, 0, 0]
        assert jacobian.triu().count_nonzero() == 0
        assert d == 1 or jacobian.count_nonzero() > 0


@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 28, 28)])
def test_a_draw_takes_as_many_passes_as_degrees_and_is_that_of_a_pass_for_each_pixel_to_the_bit(shape, monkeypatch):
    likelihood, d = made(shape), math.prod(shape)
    u = torch.randn(1, 2, d, dtype=torch.float64)
    x = torch.zeros_like(u)
    for i in range(d):
        shift, log_scale = likelihood.shift_and_log_scale(x)
        x[..., i] = (u * log_scale.exp() + shift)[..., i]
    calls, network = [], likelihood.shift_and_log_scale
    monkeypatch.setattr(likelihood, "shift_and_log_scale", lambda x: calls.append(1) or network(x))
    assert x.isfinite().all()
    assert torch.equal(likelihood.flow(u), x)
    assert len(calls) == len({*likelihood.degrees}) + 1
    shift, log_scale = network(x)
    assert torch.allclose((x - shift) * torch.exp(-log_scale), u, atol=1e-9)


def test_the_density_integrates_to_one():
    """Of two pixels, on a grid; to the grid's error."""
    likelihood = made((1, 1, 2), 3)
    line = torch.linspace(-9, 9, 601, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)[None]
    a = torch.tensor([0.3, -0.2], dtype=torch.float64).expand_as(x)
    assert likelihood.log_prob(x, a).exp().sum().item() * (line[1] - line[0]).item() ** 2 == pytest.approx(1, abs=1e-4)


def test_its_density_is_that_of_what_it_draws():
    """Minus the mean of ln p is the entropy, which is the normal's and the mean of what the flow stretches by."""
    likelihood, n = made((1, 2, 3)), 20_000
    a = torch.zeros(1, n, 6, dtype=torch.float64)
    x = likelihood.sample(a, torch.Generator().manual_seed(1))
    stretch = likelihood.shift_and_log_scale(x)[1].sum(2)
    surprise = -likelihood.log_prob(x, a) - stretch  # |u|^2/2 and the constant
    entropy = 3 * (1 + math.log(2 * math.pi))
    assert abs(surprise.mean().item() - entropy) < 6 * surprise.std().item() / n**0.5


@pytest.mark.parametrize("decoder_output", ["linear", "sigmoid"])
def test_its_information_about_the_image_is_the_variance_of_the_score(decoder_output):
    likelihood, n = made((1, 2, 2)), 20_000
    likelihood.sigmoid = decoder_output == "sigmoid"
    a = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64).expand(1, n, 4).clone().requires_grad_()
    x = likelihood.sample(a.detach(), torch.Generator().manual_seed(1))
    (score,) = torch.autograd.grad(likelihood.log_prob(x, a).sum(), a)
    root = likelihood.root_information(a[:, :1].detach()).root[0, 0]
    products = score[0, :, :, None] * score[0, :, None, :]
    error = 6 * products.std(0) / n**0.5
    assert ((products.mean(0) - root.square().diag()).abs() <= error).all()
    assert ((products.mean(0) - 2 * root.square().diag()).abs() > error).any()


def test_a_flow_without_weights_is_the_unit_normal():
    flow, normal = (
        LIKELIHOODS[name].load()(trial_config({**AE, "likelihood": name}), 1, (1, 3, 4)) for name in ("maf", "gaussian")
    )
    a, x = torch.randn(1, 5, 12), torch.rand(1, 5, 12)
    assert torch.allclose(flow.log_prob(x, a), normal.log_prob(x, a), rtol=1e-6)
    assert torch.equal(flow.mean(a), normal.mean(a))


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_weights_that_the_mask_hides_are_never_learned_and_decay_changes_no_density(weight_decay, images, small):
    config = trial_config({**AE, **small, "weight_decay": weight_decay})
    cohort = contract.made([config], images)
    layers = cohort.model.likelihood.hidden, cohort.model.likelihood.last
    hidden = [(layer.weight.detach()[layer.mask == 0]).clone() for layer in layers]
    seen = [(layer.weight.detach()[layer.mask == 1]).clone() for layer in layers]
    train_epoch(cohort, ResidentImages.of(images.train, cohort.device))
    n_steps = math.ceil(len(images.train) / config.batch_size)
    shrunk = (1 - config.learning_rate * weight_decay) ** n_steps
    for layer, before, moved in zip(layers, hidden, seen, strict=True):
        after = layer.weight.detach()
        assert torch.allclose(after[layer.mask == 0], before * shrunk, rtol=1e-5)
        assert weight_decay or torch.equal(after[layer.mask == 0], before)
        assert not torch.allclose(after[layer.mask == 1], moved * shrunk, rtol=1e-5)
    x = images.test.flatten(1)[None] / 255
    a = cohort.model.decode(cohort.model.posterior_mean(x))
    density = cohort.model.likelihood.log_prob(x, a)
    with torch.no_grad():
        for layer in layers:
            layer.weight[layer.mask == 0] = 1e6
    assert torch.equal(cohort.model.likelihood.log_prob(x, a), density)
