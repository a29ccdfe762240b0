"""The exponential family: its score, normaliser, moments and exact draws; Stein's method beside them."""

import math

import pytest
import torch

from fishernet.posteriors import DiagonalGaussian
from fishernet.priors import ExponentialFamily, ImproperPriorError, StandardNormal, svgd, svgd_direction

ETA = torch.tensor([[[0.3, -0.4, 0.2, -0.05], [-0.5, 0.8, 0.0, -0.3]]], dtype=torch.float64)  # the second has two peaks


def made(eta=ETA, top="negative"):
    prior = ExponentialFamily(
        torch.ones(1, 1, eta.shape[1], dtype=torch.float64), [eta.shape[1]], eta.shape[2], top, "standard"
    ).double()
    with torch.no_grad():
        prior.eta.copy_(eta[..., : prior.eta.shape[2]])
        if top == "negative":
            prior.tau.copy_((-eta[..., -1]).log())
    return prior


def moments(eta, orders=4):
    """E z^k of each dimension by a sum over a fine grid, and ln Z."""
    z = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    exponent = sum(eta[0, :, k - 1, None] * z**k for k in range(1, eta.shape[2] + 1))
    log_z = torch.logsumexp(exponent, 1) + math.log(24 / 400_000)
    density = exponent.softmax(1)
    return torch.stack([(density * z**k).sum(1) for k in range(1, orders + 1)], 1), log_z


def test_the_score_is_the_gradient_of_the_log_density():
    z = torch.randn(1, 5, 2, dtype=torch.float64, requires_grad=True)
    for prior in (made(), StandardNormal(torch.ones(1, 1, 2, dtype=torch.float64))):
        (gradient,) = torch.autograd.grad(prior.log_prob(z).sum(), z)
        torch.testing.assert_close(prior.score(z), gradient, rtol=1e-12, atol=1e-12)


def test_the_normaliser_is_the_integral_and_its_gradient_the_moments():
    prior, (expected, log_z) = made(), moments(ETA)
    found = prior.log_normaliser()
    torch.testing.assert_close(found[0], log_z, rtol=0, atol=1e-10)
    (gradient,) = torch.autograd.grad(found.sum(), prior.eta)
    torch.testing.assert_close(gradient[0], expected[:, :3], rtol=1e-9, atol=1e-9)


def test_order_2_is_a_gaussian():
    prior = made(torch.tensor([[[0.6, -2.0]]], dtype=torch.float64))  # N(0.15, 1/4)
    z = torch.linspace(-1, 1, 7, dtype=torch.float64)[None, :, None]
    expected = torch.distributions.Normal(*torch.tensor([0.15, 0.5], dtype=torch.float64)).log_prob(z[..., 0])
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-10, atol=1e-10)


def test_the_kl_divergence_is_the_mean_over_draws_and_of_a_gaussian_the_closed_form():
    own = torch.ones(1, 1, 2, dtype=torch.float64)
    q = DiagonalGaussian(torch.tensor([[[0.4, -1.0]]]).double(), torch.tensor([[[-1.0, 0.3]]]).double(), own)
    nodes = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    weights = torch.softmax(-0.5 * nodes.square(), 0)
    total = 0.0
    for j in range(2):  # it factorises
        own_j = torch.ones(1, 1, 1, dtype=torch.float64)
        z = q.mean[0, 0, j] + (0.5 * q.log_variance[0, 0, j]).exp() * nodes
        log_q = -0.5 * (nodes.square() + math.log(2 * math.pi) + q.log_variance[0, 0, j])
        log_p = made(ETA[:, j : j + 1]).log_prob(z[None, :, None])[0]
        total = total + (weights * (log_q - log_p)).sum()
        del own_j
    torch.testing.assert_close(made().kl(q)[0, 0], total, rtol=1e-8, atol=1e-8)
    normal = made(torch.tensor([[[0.0, -0.5], [0.0, -0.5]]], dtype=torch.float64))
    torch.testing.assert_close(normal.kl(q), StandardNormal(own).kl(q), rtol=1e-10, atol=1e-10)


def test_exact_draws_have_the_moments_of_the_density():
    n = 200_000
    draws = made().sample(0, n, torch.Generator().manual_seed(0)).double()
    expected, _ = moments(ETA, 8)
    for k in range(1, 5):
        error = ((expected[:, 2 * k - 1] - expected[:, k - 1].square()) / n).sqrt()
        assert ((draws**k).mean(0) - expected[:, k - 1]).abs().div(error).max() < 5, k


@pytest.mark.parametrize(
    ("eta", "n_improper"),
    [([0.0, -0.5, 0.0, 0.0, 0.01], 1), ([0.0, -0.5, 0.0, 0.001], 1), ([0.0, -0.5, 0.0, -0.001], 0)],
)
def test_what_is_no_density_is_not_drawn_from_and_has_no_log_density(eta, n_improper):
    prior = made(torch.tensor([[eta]], dtype=torch.float64), top="free")
    assert prior.improper(0) == n_improper
    assert not prior.density
    with pytest.raises(ImproperPriorError, match="highest order is free"):
        prior.log_prob(torch.zeros(1, 1, 1, dtype=torch.float64))
    if n_improper:
        with pytest.raises(ImproperPriorError, match="no density in 1 of 1 dimensions"):
            prior.sample(0, 3, torch.Generator())
    else:
        assert prior.sample(0, 3, torch.Generator()).shape == (3, 1)


def test_a_members_own_part_is_what_it_would_be_alone():
    own = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])
    for start in ("standard", "scattered"):
        together, alone = (
            ExponentialFamily(o, d, 4, "negative", start) for o, d in ((own, (1, 2)), (torch.ones(1, 1, 1), (1,)))
        )
        together.initialise([torch.Generator().manual_seed(s) for s in (1, 2)])
        alone.initialise([torch.Generator().manual_seed(1)])
        for name in together.padded:
            assert torch.equal(together.member_view(0, name, getattr(together, name)), getattr(alone, name)[0])
        z = torch.tensor([[[0.7, 0.0]], [[0.7, 0.2]]])
        assert torch.equal(together.log_prob(z)[0], alone.log_prob(z[:1, :, :1])[0])
        assert together.score(z)[0, 0, 1] == 0


def test_the_svgd_direction_is_its_double_sum():
    z, score = (torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    squared = torch.stack([torch.stack([(a - b).square().sum() for b in z]) for a in z])
    h = squared.flatten().median() / math.log(8)
    expected = torch.stack([
        sum((-squared[i, j] / h).exp() * (score[j] + 2 / h * (z[i] - z[j])) for j in range(7)) / 7 for i in range(7)
    ])  # fmt: skip
    torch.testing.assert_close(svgd_direction(score, z), expected, rtol=1e-12, atol=1e-12)
    repulsion = svgd_direction(torch.zeros_like(z), z)
    torch.testing.assert_close(repulsion.sum(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_particles_reach_a_gaussian_and_one_kernel_for_all_coordinates_collapses_where_there_are_many():
    start = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    found = svgd(lambda z: -(z - 1) * 4, start, n_steps=1500, step_size=5e-3)
    assert found.mean().item() == pytest.approx(1, rel=0.05)
    assert found.var().item() == pytest.approx(0.25, rel=0.05)
    many = torch.randn(100, 64, generator=torch.Generator().manual_seed(1))
    steps = {"n_steps": 400, "step_size": 1e-2}
    one = svgd(lambda z: -z, many, **steps).var(0).mean()
    few = many[:, :8]  # a coordinate's own kernel knows no other
    each = svgd(lambda z: -z, few, each_coordinate=True, **steps).var(0).mean()
    assert one < 0.5 < 0.8 < each
    for n in (1, 2):
        with pytest.raises(ValueError, match=f"at least 3 particles, .*; got {n}"):
            svgd(lambda z: -z, many[:n], n_steps=1, step_size=1)
    assert svgd(lambda z: -z, many[:3], n_steps=1, step_size=1).isfinite().all()


def test_one_particle_under_a_fixed_width_climbs_the_density():
    """No other repels it, and its own kernel is 1 and flat: phi is the score."""
    z = torch.tensor([[0.3, -2.0]], dtype=torch.float64)
    score = torch.tensor([[1.5, 0.25]], dtype=torch.float64)
    assert torch.equal(svgd_direction(score, z, width=0.7), score)


def test_a_kernel_for_each_of_64_coordinates_keeps_the_spread_of_a_gaussian():
    """N(1, 1/4): mean and standard deviation within 5%, where one kernel for all keeps a part of it."""
    start = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))
    steps = {"n_steps": 150, "step_size": 2e-2}
    each, one = (svgd(lambda z: -4 * (z - 1), start, each_coordinate=own, **steps) for own in (True, False))
    assert each.mean().item() == pytest.approx(1, rel=0.05)
    assert each.std(0).mean().item() == pytest.approx(0.5, rel=0.05)
    assert one.std(0).mean().item() < 0.35


def test_particles_reach_a_quartic_of_two_modes():
    """Moments within 5% of the sum over a grid."""
    eta = torch.tensor([0.0, 1.0, 0.0, -0.25])

    def score(z):
        return sum(k * eta[k - 1] * z ** (k - 1) for k in range(1, 5))

    grid = torch.linspace(-6, 6, 4001)
    p = torch.softmax(sum(eta[k - 1] * grid**k for k in range(1, 5)), 0)
    z = svgd(score, torch.randn(250, 1, generator=torch.Generator().manual_seed(0)), n_steps=600, step_size=1e-2)
    for order in (2, 4):
        assert (z**order).mean().item() == pytest.approx((p * grid**order).sum().item(), rel=0.05)
    assert abs(z.mean().item()) < 0.1
