"""Latent densities: samples follow what was fitted, densities integrate to one, flat dimensions stay flat."""

import sys

import numpy as np
import pytest

from analysis.frame import AnalysisError
from analysis.scores.densities import DENSITY_NAMES, fit

FITTED = ("mixture", "kde")
N = 4000


def two_bumps(n: int, seed: int = 0) -> np.ndarray:
    """Draws from two correlated Gaussians far from the prior's place."""
    rng = np.random.default_rng(seed)
    which = rng.random(n) < 0.3
    root = np.array([[0.5, 0.0], [0.4, 0.2]])
    return np.where(which[:, None], [3.0, -1.0], [-2.0, 2.0]) + rng.standard_normal((n, 2)) @ root.T


@pytest.fixture(scope="module", params=FITTED)
def fitted(request):
    return fit(request.param, two_bumps(N), seed=1)


def test_samples_have_the_moments_of_what_was_fitted_and_not_twice_its_spread(fitted):
    truth, drawn = two_bumps(200_000, 5), fitted.sample(50_000, np.random.default_rng(2))
    # Five standard errors of the fitted means; kde adds its kernel, of at most a quarter of Scott's width here.
    error = 5 * truth.std(0) / np.sqrt(N)
    assert (np.abs(drawn.mean(0) - truth.mean(0)) < error).all()
    inflated = 1.02 if "bandwidth" in fitted.settings else 1.0
    spread = np.cov(truth.T)
    np.testing.assert_allclose(np.cov(drawn.T), spread * inflated, atol=5 * spread.max() * np.sqrt(2 / N))
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(np.cov(2 * drawn.T), spread * inflated, atol=5 * spread.max() * np.sqrt(2 / N))


def test_the_density_integrates_to_one_and_beats_the_prior_on_new_points(fitted):
    axis = np.linspace(-8, 8, 200)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    cell = (axis[1] - axis[0]) ** 2
    assert np.exp(fitted.log_density(grid)).sum() * cell == pytest.approx(1, abs=0.01)
    new = two_bumps(1000, 9)
    assert fitted.log_density(new).mean() > fit("prior", new, 0).log_density(new).mean() + 1


def test_samples_of_a_mixture_are_drawn_from_the_density_that_it_states():
    """E ln p of the draws is the integral of p ln p, within five standard errors: the entropy tells a turned Gaussian."""
    mixture = fit("mixture", two_bumps(N), seed=1)
    axis = np.linspace(-8, 8, 160)
    log_p = mixture.log_density(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    p = np.exp(log_p) * (axis[1] - axis[0]) ** 2
    of_draws = mixture.log_density(mixture.sample(20_000, np.random.default_rng(3)))
    assert of_draws.mean() == pytest.approx((p * log_p).sum(), abs=5 * of_draws.std() / 20_000**0.5)


def test_a_kernel_is_as_wide_as_scotts_for_one_gaussian_and_narrower_where_there_are_many():
    """In two dimensions Scott's width is the best for a Gaussian (Silverman 1986, eq. 4.14)."""
    one = np.random.default_rng(0).standard_normal((N, 2))
    many = one / 40 + np.random.default_rng(1).integers(0, 4, (N, 2))
    assert fit("kde", one, 0).settings["of_scott"] >= 0.75
    assert fit("kde", many, 0).settings["of_scott"] == 0.25


def test_draws_of_a_kernel_density_vary_as_the_means_and_its_kernel_together():
    """cov = cov(means) (1 + h^2), h in Scott's n^(-1/(d+4)) of all n means; h^2 of the four fifths to choose by is rejected."""
    means, n = np.random.default_rng(0).standard_normal((60, 2)), 1_000_000
    kde = fit("kde", means, 0)
    h2 = (kde.settings["of_scott"] * 60 ** (-1 / 6)) ** 2
    ratio = np.cov(kde.sample(n, np.random.default_rng(0)).T) / np.cov(means.T, ddof=0)
    error = 5 * np.sqrt(2 / n)
    np.testing.assert_allclose(np.diag(ratio), 1 + h2, atol=(1 + h2) * error)
    assert h2 * (0.8 ** (-1 / 3) - 1) > (1 + h2) * error


@pytest.mark.parametrize("name", FITTED)
def test_equal_seeds_give_equal_samples_and_others_others(name):
    means = two_bumps(500)
    draws = [fit(name, means, 3).sample(50, np.random.default_rng(s)) for s in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("flat", [0.0, 1e-4])
def test_a_dimension_that_is_switched_off_stays_so(name, flat):
    means = np.column_stack([two_bumps(1000), 7 + flat * np.random.default_rng(0).standard_normal(1000)])
    drawn = fit(name, means, 0).sample(2000, np.random.default_rng(0))
    assert drawn.shape == (2000, 3)
    assert drawn[:, 2].mean() == pytest.approx(7, abs=1e-3)
    assert drawn[:, 2].std() <= 1.5 * flat + 1e-6
    assert drawn[:, 0].std() > 1


def test_the_density_of_latents_does_not_depend_on_their_scale_or_place():
    """p(z) of z = 100 y + 5 is p(y) / 100^d: whitening makes the choices, and so the fits, the same."""
    means, new = two_bumps(1000), two_bumps(50, 4)
    for name in FITTED:
        here, there = fit(name, means, 0), fit(name, 100 * means + 5, 0)
        np.testing.assert_allclose(there.log_density(100 * new + 5), here.log_density(new) - 2 * np.log(100), atol=1e-3)


def test_the_prior_is_standard_normal():
    prior = fit("prior", np.zeros((1, 3)), 0)
    drawn = prior.sample(100_000, np.random.default_rng(0))
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn.mean(0), 0, atol=5 / np.sqrt(1e5))
    np.testing.assert_allclose(np.cov(drawn.T), np.eye(3), atol=5 * np.sqrt(2 / 1e5))
    z = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 0.0]])
    np.testing.assert_allclose(prior.log_density(z), -1.5 * np.log(2 * np.pi) - np.array([0, 2.5]))


def test_a_mixture_takes_more_gaussians_where_there_are_more():
    one = np.random.default_rng(0).standard_normal((N, 2))
    bumps = np.concatenate([one[: N // 10] / 20 + [np.cos(a), np.sin(a)] for a in np.linspace(0, 6, 10)])
    assert fit("mixture", one, 0).settings["components"] <= 5
    assert fit("mixture", bumps, 0).settings["components"] >= 10


def test_a_mixture_has_ten_means_and_more_for_each_of_its_gaussians():
    """Of forty places with four means each the likeliest mixture has forty Gaussians; 128 means to choose by allow ten."""
    rng = np.random.default_rng(0)
    places = np.repeat(rng.uniform(-10, 10, (40, 2)), 4, axis=0)
    assert fit("mixture", places + 0.01 * rng.standard_normal(places.shape), 0).settings["components"] <= 10


@pytest.mark.parametrize(
    ("means", "name", "says"),
    [
        (np.full((20, 2), np.nan), "mixture", "finite"),
        (np.zeros(20), "kde", "one row an image"),
        (np.zeros((3, 2)), "kde", "10 latent means or more; got 3"),
        (np.ones((20, 2)), "mixture", "All latent means are equal"),
        (np.zeros((20, 2)), "spline", f"one of {', '.join(DENSITY_NAMES)}; got 'spline'"),
    ],
)
def test_what_cannot_be_fitted_is_a_sentence(means, name, says):
    with pytest.raises(AnalysisError, match=says):
        fit(name, means, 0)


def test_mkde_without_nifty_or_with_too_many_dimensions_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "nifty8", None)  # what makes its import fail
    with pytest.raises(AnalysisError, match=r"needs NIFTy \(GPL\), which is not installed: .*`pip install .*mkde"):
        fit("mkde", two_bumps(100), 0)
    with pytest.raises(AnalysisError, match="up to 5 latent dimensions; got 6"):
        fit("mkde", np.zeros((100, 6)), 0)


def test_a_grid_density_is_constant_in_its_cells_and_draws_from_them():
    from analysis.scores.mkde import GridDensity

    edges = [np.array([0.0, 1.0, 2.0]), np.array([0.0, 2.0, 4.0])]
    grid = GridDensity(np.array([[1.0, 0.0], [0.0, 3.0]]), edges, {})
    np.testing.assert_allclose(
        np.exp(grid.log_density([[0.5, 1.0], [1.5, 3.0], [0.5, 3.0], [2.5, 1]])), [0.125, 0.375, 0, 0]
    )
    # A cell has its lower edges: the outermost means, where the grid begins without a margin, are inside.
    np.testing.assert_allclose(np.exp(grid.log_density([[0.0, 0.0], [1.0, 2.0], [0.0, -0.1]])), [0.125, 0.375, 0])
    drawn = grid.sample(40_000, np.random.default_rng(0))
    upper = (drawn >= [1.0, 2.0]).all(1)
    assert ((drawn < [1.0, 2.0]).all(1) ^ upper).all()
    assert upper.mean() == pytest.approx(0.75, abs=5 * np.sqrt(0.75 * 0.25 / 40_000))
    np.testing.assert_allclose(drawn[upper].mean(0), [1.5, 3.0], atol=0.02)


@pytest.mark.parametrize("latent_dim", [1, pytest.param(2, marks=pytest.mark.long)])
def test_mkde_finds_two_bumps(latent_dim):
    means, truth, new = (two_bumps(n, seed)[:, :latent_dim] for n, seed in ((N, 0), (50_000, 5), (1000, 9)))
    density = fit("mkde", means, 0)
    drawn = density.sample(20_000, np.random.default_rng(0))
    # The grid's cells and the smoothness prior blur; inference that has not converged would spread by a third and more.
    np.testing.assert_allclose(drawn.std(0), truth.std(0), rtol=0.1)
    np.testing.assert_allclose(drawn.mean(0), truth.mean(0), atol=0.15)
    likely = density.log_density(new)
    assert likely[np.isfinite(likely)].mean() > fit("prior", new, 0).log_density(new).mean() + 1
    np.testing.assert_array_equal(drawn, fit("mkde", means, 0).sample(20_000, np.random.default_rng(0)))
