"""Likelihoods of 8-bit values, and what they have to do with densities of dequantised ones."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from fishernet import contract
from fishernet.cohort import Cohort
from fishernet.families import trial_config
from fishernet.likelihoods import LIKELIHOODS, n_outputs

KNOWN = {"discretised-logistic": stats.logistic, "discretised-normal": stats.norm}
GREY = torch.arange(256, dtype=torch.float64) / 255
every_kind = pytest.mark.parametrize("name", KNOWN)


def made(name, k=0, n_pixels=1, **more):
    config = trial_config({"model": "AE", "likelihood": name, "components": k, "decoder_output": "linear", **more})
    return LIKELIHOODS[name].load()(config, 1, (1, 1, n_pixels)).double()


def of(likelihood, *numbers):
    """a of one pixel for 256 images."""
    return torch.tensor(numbers, dtype=torch.float64).expand(1, 256, -1)


@pytest.mark.parametrize("k", [0, 1, 2])
@every_kind
def test_masses_are_those_between_the_edges_that_scipy_knows_and_sum_to_one(name, k):
    locations, raw, logits = [0.3, 0.9][: max(1, k)], [-3.0, -5.0][: max(1, k)], [0.2, -1.0][:k]
    likelihood = made(name, k)
    masses = likelihood.log_prob(GREY[None, :, None], of(likelihood, *locations, *raw, *logits))[0].exp()
    assert masses.sum().item() == pytest.approx(1, abs=1e-12)
    expected = torch.zeros(256, dtype=torch.float64)
    weights = torch.softmax(torch.tensor(logits, dtype=torch.float64), 0).tolist() or [1.0]
    edges = [-math.inf, *(v / 256 for v in range(1, 256)), math.inf]
    for weight, loc, own in zip(weights, locations, raw, strict=True):
        known = KNOWN[name](loc, math.log1p(math.exp(own)) + 1e-6)
        expected += weight * torch.tensor([known.cdf(b) - known.cdf(a) for a, b in itertools.pairwise(edges)])
    assert torch.allclose(masses, expected, rtol=1e-8, atol=1e-14)


@every_kind
def test_masses_far_from_the_location_are_finite_with_finite_slopes(name):
    likelihood = made(name).float()
    for loc, raw in itertools.product((-30.0, 0.0, 0.5, 40.0), (-15.0, 0.0, 6.0)):
        a = torch.tensor([loc, raw]).expand(1, 256, 2).clone().requires_grad_()
        log_mass = likelihood.log_prob(GREY.float()[None, :, None], a)
        (slope,) = torch.autograd.grad(log_mass.sum(), a)
        assert log_mass.isfinite().all(), (loc, raw)
        assert slope.isfinite().all(), (loc, raw)
        assert (log_mass <= 0).all()


def test_the_slope_of_a_mass_far_out_is_that_of_its_density():
    """Of a value 10 sd from the location, and of one at 10,000: d ln p/d loc is (x - loc)/sd^2, to the width of the value."""
    likelihood = made("discretised-normal").float()
    for loc, sd in ((-10.0, 1.0), (-100.0, 0.01)):
        raw = math.log(math.expm1(sd - 1e-6))
        a = torch.tensor([loc, raw]).expand(1, 256, 2).clone().requires_grad_()
        (slope,) = torch.autograd.grad(likelihood.log_prob(GREY.float()[None, :, None], a).sum(), a)
        expected = (GREY.float() - loc) / sd**2
        assert torch.allclose(slope[0, 1:-1, 0], expected[1:-1], rtol=0.01)


def test_dequantised_values_never_have_fewer_bits_than_discretised_ones():
    """Jensen's inequality: of the same normal, the mean over u by quadrature."""
    discretised = made("discretised-normal")
    nodes, weights = (torch.tensor(t) for t in np.polynomial.legendre.leggauss(40))
    u, weights = (nodes + 1) / 2, weights / 2
    for loc, raw in ((0.3, -3.0), (0.0, -5.0), (1.2, 0.0)):
        scale = math.log1p(math.exp(raw)) + 1e-6
        y = (255 * GREY[:, None] + u) / 256
        density = torch.distributions.Normal(loc, scale).log_prob(y) @ weights
        bits_dequantised = 8 - density / math.log(2)
        bits = -discretised.log_prob(GREY[None, :, None], of(discretised, loc, raw))[0] / math.log(2)
        assert (bits_dequantised >= bits - 1e-12).all()
        assert (bits_dequantised > bits + 1e-6).any()


@pytest.mark.parametrize(("likelihood", "dequantisation", "bits"), [
    ("gaussian", "uniform-noise", 8), ("discretised-normal", "off", 0), ("gaussian", "off", None),
])  # fmt: skip
def test_the_uniform_density_has_eight_bits(likelihood, dequantisation, bits):
    config = trial_config(model="AE", likelihood=likelihood, dequantisation=dequantisation, latent_dim=2)
    model = Cohort([config], (1, 2, 3), 10).model
    found = model.bits_per_dim({"log_likelihood": torch.zeros(1, 4)})
    assert [*found] == ([] if bits is None else ["code_bits_per_dim"])
    assert all((value == bits).all() for value in found.values())
    less = model.bits_per_dim({"log_likelihood": torch.full((1, 4), -6 * math.log(2))})
    assert all((value == bits + 1).all() for value in less.values())


@every_kind
def test_draws_are_grey_values_of_these_masses(name):
    likelihood, n = made(name, 2), 20_000
    numbers = torch.tensor([0.3, 0.9, -4.0, -3.0, 0.2, -0.5], dtype=torch.float64)
    x = likelihood.sample(numbers.expand(1, n, -1), torch.Generator().manual_seed(3))[0, :, 0]
    values = (x * 255).round()
    assert torch.allclose(x * 255, values, atol=1e-9)
    masses = likelihood.log_prob(GREY[None, :, None], numbers.expand(1, 256, -1))[0].exp()
    found = torch.bincount(values.long(), minlength=256) / n
    assert ((found - masses).abs() < 6 * (masses / n).sqrt() + 3 / n).all()
    mean = likelihood.mean(numbers[None, None]).item()
    assert mean == pytest.approx((masses @ GREY).item(), abs=0.01)


def test_the_decoder_emits_a_scale_for_each_pixel_and_of_a_mixture_a_weight():
    for k, maps in ((0, 2), (1, 3), (3, 9)):
        config = trial_config(model="AE", likelihood="discretised-logistic", components=k, latent_dim=2, hidden_width=4)
        model = Cohort([config], (2, 3, 4), 10).model
        assert model.decode(torch.zeros(1, 1, 2)).shape[2] == n_outputs(config, (2, 3, 4)) == maps * 24


def test_a_vae_of_8_bit_values_is_scored_in_bits_of_its_elbo(small):
    images = contract.small_images()
    config = trial_config({**small, "model": "VAE", "likelihood": "discretised-logistic", "latent_dim": 2})
    metrics = contract.history(contract.made([config], images), images)[-1][0]
    assert metrics["test/bits_per_dim"] == pytest.approx(-metrics["test/elbo"] / (100 * math.log(2)), rel=1e-6)
