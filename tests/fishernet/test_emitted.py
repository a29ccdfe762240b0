"""Likelihoods whose parameters the decoder emits: their densities, moments, draws and Fisher information."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from fishernet import contract
from fishernet.cohort import Cohort
from fishernet.data.images import ResidentImages
from fishernet.data.loading import load_data
from fishernet.families import family, trial_config
from fishernet.likelihoods import LIKELIHOODS, SCALES, n_outputs
from fishernet.likelihoods.base import Marginals
from fishernet.likelihoods.emitted import (
    Diagonal,
    Mixed,
    RowColumnTriangular,
    Scale,
    Triangular,
    from_matrix,
    log_chi_squared,
    log_density,
    softplus,
    to_matrix,
)
from fishernet.likelihoods.triangles import Triangle
from fishernet.models.vae import AE
from fishernet.posteriors import ImplicitPrecisionGaussian
from fishernet.trained import decode, reconstructed
from fishernet.training import train, train_epoch

FAMILIES = ("gaussian", "student-t", "matrix-normal", "matrix-t")
SHAPE = (2, 3, 4)
EMITTED = [(family, scale) for family in FAMILIES for scale in ("identity", "diagonal", "full")]
# A triangle is of one matrix or of the other; elsewhere cholesky_of does not matter.
FACTORS = [
    (*both, of) for both in EMITTED for of in ("covariance", "precision-matrix") if both[1] == "full" or of[0] == "p"
]
every_factor = pytest.mark.parametrize(("family", "scale", "cholesky_of"), FACTORS)
every_emitted = pytest.mark.parametrize(("family", "scale"), EMITTED)


def settings(family, scale, **more):
    return trial_config(
        {"model": "AE", "likelihood": family, "scale": scale, "decoder_output": "linear", "latent_dim": 3, **more}
    )


def made(family, scale, shape=SHAPE, **more):
    config = settings(family, scale, **more)
    return LIKELIHOODS[family].load()(config, 1, shape).double()


def raw(likelihood, n, seed=0, spread=0.5):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(1, n, likelihood.n_outputs, generator=generator, dtype=torch.float64)


# Another path from raw numbers to a density: numpy, entry by entry, and SciPy's distributions.


def positive(numbers, least=1e-6):
    return np.log1p(np.exp(numbers)) + least


def triangle(numbers, n):
    """By the sentence of ``Triangle``'s docstring, one entry after the other."""
    e, h = 1 - n % 2, n // 2
    rectangle = numbers[n:].reshape(n - e, h)
    dense = np.diag(positive(numbers[:n]))
    for i in range(n - e):
        for j in range(h):
            if j < i + e:
                dense[i + e, j] = rectangle[i, j]
            else:  # R[b, a + e]
                b, a = i, j - e
                dense[h + 1 + a, h + b] = rectangle[i, j]
    return dense


def pack(dense):
    """The raw numbers of a triangle, by asking which entry each number is."""
    n = len(dense)
    numbers = np.zeros(n * (n + 1) // 2)
    numbers[:n] = np.log(np.expm1(np.diag(dense) - 1e-6))
    for i in range(n, len(numbers)):
        unit = np.zeros_like(numbers)
        unit[i] = 1
        at = np.tril(triangle(unit, n), -1)
        numbers[i] = dense[np.unravel_index(at.argmax(), at.shape)]
    return numbers


def components(config, shape, a):
    """Weight, location, dense L and df of each component."""
    channels, height, width = shape
    d, k, row = math.prod(shape), max(1, config.components), LIKELIHOODS[config.likelihood]
    n, m = height, channels * width
    maps = 2 if config.scale == "diagonal" and not row.matrix else 1
    on_pixels, rest = a[: k * maps * d].reshape(k * maps, d), a[k * maps * d :]
    logits, rest = (rest[:k], rest[k:]) if config.components else (np.zeros(k), rest)
    dfs, rest = (positive(rest[:k]), rest[k:]) if row.heavy else ([None] * k, rest)
    order = np.arange(d).reshape(shape).transpose(1, 0, 2).ravel()  # the pixel at each place of the matrix, row by row
    for i, own in enumerate(rest.reshape(k, -1) if rest.size else [rest] * k):
        factor = np.eye(d)
        if config.scale == "diagonal":
            factor = np.diag(positive(on_pixels[k + i])) if maps == 2 else factor
            if row.matrix:
                kron = np.kron(np.diag(positive(own[:n])), np.diag(positive(own[n:])))
                factor[order[:, None], order] = kron
        if config.scale == "full":
            if row.matrix:
                split = n * (n + 1) // 2
                kron = np.kron(triangle(own[:split], n), triangle(own[split:], m))
                factor[order[:, None], order] = kron
            else:
                factor = triangle(own, d)
            if config.cholesky_of == "precision-matrix":
                factor = np.linalg.inv(factor).T
        yield special.log_softmax(logits)[i], on_pixels[i], factor, dfs[i]


def reference(config, shape, a, x):
    """ln p of one image."""
    each = []
    for log_weight, loc, factor, df in components(config, shape, a):
        covariance = factor @ factor.T
        known = stats.multivariate_normal(loc, covariance) if df is None else stats.multivariate_t(loc, covariance, df)
        each.append(log_weight + known.logpdf(x))
    return special.logsumexp(each)


@pytest.mark.parametrize("k", [0, 1, 3])
@every_factor
def test_densities_are_those_that_scipy_knows_of_the_same_raw_numbers(family, scale, k, cholesky_of):
    for shape in (SHAPE, (1, 2, 5)):  # sides that are even and odd
        config = settings(family, scale, components=k, cholesky_of=cholesky_of)
        likelihood = LIKELIHOODS[family].load()(config, 1, shape).double()
        generator = torch.Generator().manual_seed(1)
        a, x = raw(likelihood, 2), torch.rand(1, 2, math.prod(shape), dtype=torch.float64, generator=generator)
        found = likelihood.log_prob(x, a)[0]
        expected = [reference(config, shape, *both) for both in zip(a[0].numpy(), x[0].numpy(), strict=True)]
        assert found.numpy() == pytest.approx(expected, rel=1e-8)  # SciPy inverts by eigenvalues


def test_the_mean_of_a_full_scale_takes_no_triangle_and_few_images_at_a_time(monkeypatch):
    """Which would be the largest arrays of all: 308,505 numbers an image of 28 x 28."""
    config = trial_config(
        model="AE", likelihood="student-t", scale="full", components=3, decoder_output="linear", latent_dim=2
    )
    model = family("AE").load()([config], (1, 4, 3), 10)
    a = torch.randn(1, 5, model.likelihood.n_outputs)
    expected = model.likelihood.distribution(a).mean()
    monkeypatch.setattr("fishernet.likelihoods.triangles.Triangle.__init__", lambda *_: pytest.fail("a triangle"))
    assert torch.equal(model.likelihood.mean(a), expected)
    decoded, decoder = [], model.decoder.forward
    monkeypatch.setattr(model.decoder, "forward", lambda z: decoded.append(z.shape[1]) or decoder(z))
    monkeypatch.setattr("fishernet.trained.OUTPUTS", 7 * model.likelihood.n_outputs)
    reconstructed(model, torch.zeros(16, 1, 4, 3, dtype=torch.uint8))
    decode(model, torch.zeros(16, 2), (1, 4, 3))
    assert decoded == [7, 7, 2] * 2


@pytest.mark.parametrize("decoder_output", ["linear", "sigmoid"])
def test_the_last_function_of_the_decoder_is_of_locations_alone(decoder_output):
    likelihood = made("student-t", "diagonal", decoder_output=decoder_output, components=2)
    a = raw(likelihood, 3)
    loc, sd = (a[..., i * 24 : (i + 2) * 24].unflatten(-1, (2, 24)) for i in (0, 2))
    marginals = likelihood.marginals(a)
    assert torch.equal(marginals.loc, torch.sigmoid(loc) if decoder_output == "sigmoid" else loc)
    assert torch.equal(marginals.scale, torch.nn.functional.softplus(sd) + 1e-6)


def test_the_matrix_normal_is_scipys_and_the_matrix_t_is_tensorflows_not_the_literatures():
    shape, rng = (1, 3, 2), np.random.default_rng(0)
    likelihood = made("matrix-normal", "full", shape, cholesky_of="covariance")
    heavy = made("matrix-t", "full", shape, cholesky_of="covariance")
    numbers, x = rng.normal(size=likelihood.n_outputs), rng.normal(size=(3, 2))
    a, image = torch.tensor(numbers)[None, None], torch.tensor(x.ravel())[None, None]
    rows, columns = triangle(numbers[6:12], 3), triangle(numbers[12:], 2)
    covariances = rows @ rows.T, columns @ columns.T
    known = stats.matrix_normal(numbers[:6].reshape(3, 2), *covariances).logpdf(x)
    assert likelihood.log_prob(image, a).item() == pytest.approx(known, rel=1e-9)
    with_df = torch.tensor(np.concatenate([numbers[:6], [1.5], numbers[6:]]))[None, None]
    df = positive(1.5)
    vectorised = stats.multivariate_t(numbers[:6], np.kron(*covariances), df).logpdf(x.ravel())
    assert heavy.log_prob(image, with_df).item() == pytest.approx(vectorised, rel=1e-9)
    if hasattr(stats, "matrix_t"):
        literature = stats.matrix_t(numbers[:6].reshape(3, 2), *covariances, df=df).logpdf(x)
        assert abs(literature - vectorised) > 0.05
        # Of one column they agree when its spread is multiplied by the degrees of freedom.
        column = stats.matrix_t(np.zeros((3, 1)), covariances[0], [[df]], df=df).logpdf(x[:, :1])
        assert column == pytest.approx(stats.multivariate_t(np.zeros(3), covariances[0], df).logpdf(x[:, 0]), rel=1e-9)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("pair", [("gaussian", "matrix-normal"), ("student-t", "matrix-t")])
def test_with_unit_scale_a_matrix_family_trains_as_its_vectors_do_bit_for_bit(pair, k, images, small):
    one, other = (
        contract.history(
            contract.made([trial_config(small | settings(f, "identity", components=k).to_dict() | small)], images),
            images,
        )
        for f in pair
    )
    assert one == other


def test_a_diagonal_matrix_scale_is_a_diagonal_of_products():
    likelihood = made("matrix-normal", "diagonal")
    a, x = raw(likelihood, 4), torch.rand(1, 4, 24, dtype=torch.float64)
    u, v = softplus(a[..., 24:27]) + 1e-6, softplus(a[..., 27:]) + 1e-6
    s = from_matrix(u[..., :, None] * v[..., None, :], SHAPE)
    diagonal = Diagonal(torch.zeros_like(s)[:, :, None], 0.0)
    diagonal.s = s[:, :, None]
    y = diagonal.whiten(x[:, :, None] - a[:, :, None, :24])
    log_p = (log_density(y.square().sum(-1), 24, None) - s[:, :, None].log().sum(-1))[:, :, 0]
    torch.testing.assert_close(likelihood.log_prob(x, a), log_p, rtol=1e-13, atol=0)
    assert torch.equal(likelihood.marginals(a).scale[:, :, 0], s)


def test_a_matrix_and_its_image_are_one_another():
    x = torch.arange(24.0).view(1, 24)
    matrix = to_matrix(x, SHAPE)
    assert torch.equal(from_matrix(matrix, SHAPE), x)
    assert torch.equal(matrix[0, 1], torch.cat([x[0, 4:8], x[0, 16:20]]))  # the second row of both channels


def test_a_t_of_many_degrees_of_freedom_is_normal():
    t, normal = made("student-t", "diagonal"), made("gaussian", "diagonal")
    a, x = raw(normal, 5), torch.rand(1, 5, 24, dtype=torch.float64)
    with_df = torch.cat([a, torch.full((1, 5, 1), 1e9, dtype=torch.float64)], dim=2)
    assert torch.allclose(t.log_prob(x, with_df), normal.log_prob(x, a), rtol=0, atol=2e-6)


@every_emitted
def test_a_mixture_of_equal_components_is_one_and_the_logit_of_one_has_no_gradient(family, scale):
    """Exactly: a softmax of one number is 1 whatever it is."""
    single, three = made(family, scale, components=1), made(family, scale, components=3)
    a, x = raw(single, 4).requires_grad_(), torch.rand(1, 4, 24, dtype=torch.float64)
    per_image = single.n_outputs - single.maps * 24 - 1
    maps, logit, rest = a.split([single.maps * 24, 1, per_image], dim=2)
    heavy = int(LIKELIHOODS[family].heavy)
    df, of_scale = rest.split([heavy, per_image - heavy], dim=2)
    maps = maps.unflatten(2, (-1, 24)).repeat_interleave(3, dim=2).flatten(2)
    repeated = torch.cat([maps, logit.expand(-1, -1, 3), df.repeat(1, 1, 3), of_scale.repeat(1, 1, 3)], dim=2)
    found = single.log_prob(x, a)
    assert torch.allclose(three.log_prob(x, repeated), found, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), a)
    assert gradient[..., single.maps * 24].count_nonzero() == 0
    assert gradient[..., : single.maps * 24].count_nonzero() > 0


def test_the_common_scale_of_rows_and_columns_is_free():
    """(c A, B/c) is the same density."""
    rows, columns = np.tril(np.random.default_rng(1).normal(size=(2, 4, 4)))
    for factor in (rows, columns):
        np.fill_diagonal(factor, np.abs(np.diag(factor)) + 0.5)
    found = []
    for c in (1.0, 3.0):
        numbers = torch.tensor(np.concatenate([pack(c * rows), pack(columns / c)]))[None, None, None]
        scale = RowColumnTriangular(numbers, (1, 4, 4), 1e-6, precision=False)
        y = scale.whiten(torch.linspace(0, 1, 16, dtype=torch.float64)[None, None, None])
        found.append(log_density(y.square().sum(-1), 16, None) - scale.log_det)
    assert found[0].item() == pytest.approx(found[1].item(), rel=1e-8)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_the_factor_of_the_precision_matrix_of_a_covariance_is_the_same_density(n):
    rng = np.random.default_rng(n)
    factor = np.tril(rng.normal(size=(n, n)))
    np.fill_diagonal(factor, rng.uniform(0.5, 2, n))
    inverse = np.linalg.cholesky(np.linalg.inv(factor @ factor.T))
    r = torch.tensor(rng.normal(size=n))[None, None, None]
    covariance, precision = (
        Triangular(torch.tensor(pack(own))[None, None, None], n, 1e-6, precision=is_precision)
        for own, is_precision in ((factor, False), (inverse, True))
    )
    assert covariance.log_det.item() == pytest.approx(precision.log_det.item(), rel=1e-8, abs=1e-9)
    lengths = [scale.whiten(r).square().sum().item() for scale in (covariance, precision)]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-8)
    for scale in (covariance, precision):
        assert torch.allclose(scale.whiten(scale.colour(r)), r, rtol=1e-8)
        known = np.sqrt(np.diag(factor @ factor.T))
        assert scale.sd().numpy().ravel() == pytest.approx(known, rel=1e-8)


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7, 784])
def test_a_packed_triangle_multiplies_and_divides_as_the_dense_one(n):
    generator = torch.Generator().manual_seed(n)
    numbers = torch.randn(1, 1, 1, n * (n + 1) // 2, generator=generator, dtype=torch.float64) / n**0.5
    r = torch.randn(1, 1, 3, n, generator=generator, dtype=torch.float64)
    packed = Triangle(numbers + 0.0, n, 1e-6)
    packed.diagonal = packed.diagonal + 1
    dense = packed.dense()[0, 0, 0]
    if n < 10:
        assert (dense - torch.tensor(triangle(numbers.numpy().ravel(), n))).tril(-1).abs().max() == 0
    if n == 784:
        assert packed.halves[0].shape[-2:] == (783, 392)
    assert torch.equal(dense, dense.tril())
    assert torch.allclose(packed.transposed_product(r)[0, 0], r[0, 0] @ dense, rtol=1e-12, atol=1e-12)
    solved = torch.linalg.solve_triangular(dense, r[0, 0].T, upper=False).T
    assert torch.allclose(packed.solve(r)[0, 0], solved, rtol=1e-12, atol=1e-12 * solved.abs().max().item())


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7])
@pytest.mark.parametrize(("k", "n_vectors"), [(1, 1), (1, 3), (2, 2)])
def test_the_product_with_a_packed_triangle_has_the_gradients_of_the_dense_one(n, k, n_vectors):
    generator = torch.Generator().manual_seed(n)
    numbers = torch.randn(2, 2, k, n * (n + 1) // 2, generator=generator, dtype=torch.float64).requires_grad_()
    # However the vectors lie in memory.
    r, w = (torch.randn(2, 2, n, n_vectors, generator=generator, dtype=torch.float64).mT for _ in range(2))
    r.requires_grad_()
    packed = Triangle(numbers, n, 1e-6)
    product = packed.transposed_product(r)
    ours = torch.autograd.grad(product, (numbers, r), w, retain_graph=True)
    dense = (packed.dense().mT @ r[..., None])[..., 0]
    torch.testing.assert_close(product, dense, rtol=1e-12, atol=1e-12)
    for gradient, known in zip(ours, torch.autograd.grad(dense, (numbers, r), w), strict=True):
        torch.testing.assert_close(gradient, known, rtol=1e-12, atol=1e-12)


def by_autograd(scale, r):
    """|L^-1 r|^2 by ``whiten``, whose gradient is autograd's own, and ln|L|."""
    return scale.whiten(r).square().sum(-1), scale.log_det.expand(r.shape[:-1])


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 3), SHAPE, (1, 7, 6)])
@every_factor
def test_the_terms_of_a_density_and_their_gradients_are_those_of_the_whitened_vector(
    family, scale, cholesky_of, shape, k
):
    likelihood = LIKELIHOODS[family].load()(settings(family, scale, cholesky_of=cholesky_of, components=k), 2, shape)
    generator = torch.Generator().manual_seed(k)
    a = torch.randn(2, 3, likelihood.n_outputs, generator=generator, dtype=torch.float64).requires_grad_()
    r = torch.randn(2, 3, k, math.prod(shape), generator=generator, dtype=torch.float64).requires_grad_()
    of_squared, of_log_det = torch.randn(2, 2, 3, k, generator=generator, dtype=torch.float64)
    found = []
    for way in (by_autograd, lambda scale, r: scale.terms(r), Scale.terms):
        loc, raw_scale, _, _ = likelihood.split(a)
        squared, log_det = way(likelihood.scale_of(raw_scale, loc), r)
        weighed = (of_squared * squared + of_log_det * log_det).sum()
        found.append((squared, log_det, *torch.autograd.grad(weighed, (a, r), materialize_grads=True)))
    known = found[0]
    assert known[3].abs().max() > 0
    assert (scale == "identity") == (known[2].abs().max() == 0)
    for ours in found[1:]:
        for own, other in zip(ours, known, strict=True):
            torch.testing.assert_close(own.expand_as(other), other, rtol=1e-11, atol=1e-11)


# Moments and draws.


def of_df(family, scale, k, df):
    """A likelihood and raw numbers of one image, of t's with about so many degrees of freedom in each component."""
    likelihood = made(family, scale, components=k)
    a = raw(likelihood, 1)
    if LIKELIHOODS[family].heavy:
        at = likelihood.maps * 24 + k
        a[..., at : at + max(1, k)] = df
    return likelihood, a


def drawn(likelihood, a, n):
    """n images of one a, (n, n_pixels)."""
    return likelihood.sample(a.expand(1, n, -1), torch.Generator().manual_seed(7))[0]


@pytest.mark.parametrize("k", [0, 3])
@every_emitted
def test_draws_have_the_mean_and_the_covariance_that_the_marginals_say(family, scale, k):
    """Of a t with many degrees of freedom, as fewer have no fourth moment to know the error by."""
    likelihood, a = of_df(family, scale, k, 30.0)
    n = 20_000
    x = drawn(likelihood, a, n)
    marginals = likelihood.marginals(a)
    mean, variance = marginals.mean()[0, 0], marginals.variance()[0, 0]
    assert ((x.mean(0) - mean).abs() < 6 * (variance / n).sqrt()).all()
    centred = (x - mean).square()
    error = centred.std(0) / n**0.5
    assert ((centred.mean(0) - variance).abs() < 6 * error).all()
    assert ((centred.mean(0) - 2 * variance).abs() > 6 * error).all()  # a factor of two would show
    # And between pixels: the covariance of the mixture from the dense factors of the other path.
    parts = [*components(settings(family, scale, components=k), SHAPE, a[0, 0].numpy())]
    expected = -np.outer(mean, mean)
    for log_weight, loc, factor, df in parts:
        own = factor @ factor.T * (1 if df is None else df / (df - 2))
        expected = expected + np.exp(log_weight) * (own + np.outer(loc, loc))
    r = (x - mean).numpy()
    products = r[:, :, None] * r[:, None, :]
    assert (np.abs(products.mean(0) - expected) < 6 * products.std(0) / n**0.5).all()


@pytest.mark.parametrize("k", [0, 3])
@every_emitted
def test_draws_put_through_their_marginals_are_uniform(family, scale, k):
    """Of t's at 3 degrees of freedom: a pixel's are those of all together, no more for the pixels beside it."""
    likelihood, a = of_df(family, scale, k, 3.0)
    n = 10_000
    pit = likelihood.marginals(a.expand(1, n, -1)).cdf(drawn(likelihood, a, n)[None])[0]
    apart = [stats.kstest(pixel, "uniform").statistic for pixel in pit.numpy().T]
    assert max(apart) < 2.4 / n**0.5  # one in 5,000 of 24 pixels


def test_a_t_has_a_variance_above_two_degrees_of_freedom_and_a_mean_above_one():
    df = torch.tensor([4.0, 2.0, 1.5, 1.0, 0.5])[None, :, None]
    marginals = Marginals(torch.zeros(1, 5, 1), torch.full((1, 5, 1, 1), 0.3), torch.full((1, 5, 1, 1), 0.5), df)
    assert marginals.mean().flatten().tolist() == pytest.approx([0.3] * 5)
    variance = marginals.variance().flatten().tolist()
    assert variance[0] == pytest.approx(0.5)
    assert variance[1:3] == [math.inf, math.inf]
    assert all(math.isnan(v) for v in variance[3:])


def test_the_variance_of_a_matrix_family_is_no_product_of_the_factors_diagonals():
    """What the paper shows as such: of a triangle not even standard deviations."""
    likelihood = made("matrix-normal", "full", cholesky_of="covariance")
    scale = likelihood.scale_of(raw(likelihood, 1)[..., None, 24:], None)
    released = from_matrix(
        scale.a.diagonal(dim1=-2, dim2=-1)[..., :, None] * scale.b.diagonal(dim1=-2, dim2=-1)[..., None, :], SHAPE
    )
    assert (released / scale.sd().square() - 1).abs().max() > 0.5
    assert (released / scale.sd() - 1).abs().max() > 0.2


@pytest.mark.parametrize("df", [1e-4, 0.02, 0.5, 30.0])
def test_the_logarithm_of_chi_square_is_drawn_where_chi_square_itself_rounds_to_zero(df):
    """Its mean is psi(nu/2) + ln 2, its variance psi'(nu/2)."""
    n = 100_000
    draws = log_chi_squared(torch.full((n,), df), torch.Generator().manual_seed(1))
    assert draws.isfinite().all()
    sd = special.polygamma(1, df / 2) ** 0.5
    assert abs(draws.mean().item() - special.digamma(df / 2) - math.log(2)) < 6 * sd / n**0.5
    likelihood = made("student-t", "identity").float()
    a = torch.zeros(1, 1000, likelihood.n_outputs)
    a[..., -1] = math.log(math.expm1(df))
    assert likelihood.sample(a, torch.Generator().manual_seed(1)).isfinite().all()


@pytest.mark.parametrize(("family", "scale", "cholesky_of"), [own for own in FACTORS if LIKELIHOODS[own[0]].heavy])
def test_draws_of_few_degrees_of_freedom_are_finite_whatever_the_scale_is(family, scale, cholesky_of):
    """In float32, of narrow diagonals and strict parts that a solve multiplies up; those that overflow keep their direction."""
    likelihood, n = made(family, scale, (1, 4, 4), cholesky_of=cholesky_of).float(), 2000
    generator = torch.Generator().manual_seed(3)
    a = 0.5 * torch.randn(1, n, likelihood.n_outputs, generator=generator)
    if scale == "diagonal":
        a[..., 16:] = -5.0
    if scale == "full":  # the diagonals of the triangles, after locations and degrees of freedom
        starts = {"student-t": [(17, 16)], "matrix-t": [(17, 4), (27, 4)]}[family]
        for start, size in starts:
            a[..., start : start + size] = -5.0
    a[..., 16 * likelihood.maps] = math.log(math.expm1(0.02))
    at = likelihood.distribution(a)
    drawn = at.sample(torch.Generator().manual_seed(1))
    assert drawn.isfinite().all()
    normal = torch.randn(at.loc.shape, generator=torch.Generator().manual_seed(1))
    along, away = at.scale.colour(normal)[:, :, 0].double(), (drawn - at.loc[:, :, 0]).double()
    far = (away.abs().amax(-1) > 1e37) & along.isfinite().all(-1)
    cosine = torch.nn.functional.cosine_similarity(along[far], away[far], dim=-1)
    assert (cosine > 0.999).all()


@pytest.mark.parametrize("scale", SCALES)
def test_a_draw_that_is_finite_is_the_location_and_the_coloured_normal_times_its_factor(scale):
    """To the bit, as draws that are recorded were made so."""
    likelihood = made("student-t", scale).float()
    a = raw(likelihood, 5).float()
    at, generators = likelihood.distribution(a), [torch.Generator().manual_seed(4) for _ in range(2)]
    normal = torch.randn(at.loc.shape, generator=generators[0])
    factor = (0.5 * (at.df.double().log() - log_chi_squared(at.df, generators[0]))).clamp(max=60).exp().float()
    assert torch.equal(at.sample(generators[1]), (at.loc + at.scale.colour(normal * factor[..., None]))[:, :, 0])


def test_a_mixture_shows_the_component_of_fewest_degrees_of_freedom_where_its_density_is_highest():
    """Whatever its weight is; the likeliest is another, and the mean another still."""
    likelihood = made("student-t", "identity", (1, 28, 28), components=2)
    a = torch.zeros(1, 1, likelihood.n_outputs, dtype=torch.float64)
    a[..., 784:1568] = 1.0  # the second location
    a[..., 1568:] = torch.tensor([0.0, math.log(1e-9), 1e6, math.log(math.expm1(0.1))])
    distribution = likelihood.distribution(a)
    estimates = distribution.estimates()
    assert estimates["densest_mode"].unique().tolist() == [1.0]
    assert estimates["likeliest"].unique().tolist() == [0.0]
    assert distribution.mean().max().item() == pytest.approx(1e-9, rel=1e-6)


def test_of_equal_normals_far_apart_the_densest_is_the_likeliest():
    likelihood = made("gaussian", "identity", components=3)
    a = torch.zeros(1, 1, likelihood.n_outputs, dtype=torch.float64)
    a[..., : 3 * 24] = torch.tensor([0.0, 50.0, -50.0], dtype=torch.float64).repeat_interleave(24)
    a[..., 3 * 24 :] = torch.tensor([0.1, 0.3, 0.2])
    estimates = likelihood.distribution(a).estimates()
    assert torch.equal(estimates["densest_mode"], estimates["likeliest"])
    assert estimates["likeliest"].unique().tolist() == [50.0]
    assert made("gaussian", "identity", components=1).distribution(a[..., :25]).estimates() == {}


@pytest.mark.parametrize(("error", "df"), [(1.0, 0.0204), (1.5, 0.0308), (5.0, 0.1088), (15.0, 0.393)])
def test_the_best_degrees_of_freedom_of_a_unit_scale_are_the_noise_level(error, df):
    """Of one image with this mean squared error in percent, by bisection of the slope."""
    squared, low, high = torch.tensor(7.84 * error, dtype=torch.float64), math.log(1e-4), math.log(10)
    for _ in range(60):
        nu = torch.tensor(0.5 * (low + high), dtype=torch.float64).exp().requires_grad_()
        (slope,) = torch.autograd.grad(log_density(squared, 784, nu), nu)
        low, high = (nu.log().item(), high) if slope > 0 else (low, nu.log().item())
    assert math.exp(low) == pytest.approx(df, rel=0.01)


@pytest.mark.parametrize("df", [1e-3, 1e-2, 1.0, 1e2, 1e4, 1e6])
def test_the_density_of_a_t_has_float32s_digits_whatever_its_degrees_of_freedom(df):
    """Value and slope in df, against float64; both meet the same float32 inputs."""
    results = []
    for dtype in (torch.float32, torch.float64):
        nu = torch.tensor(df).to(dtype).requires_grad_()
        value = log_density(torch.tensor(800.0).to(dtype), 784, nu)
        results.append((value.item(), torch.autograd.grad(value, nu)[0].item()))
    assert results[0] == pytest.approx(results[1], rel=1e-5)


@pytest.mark.parametrize("name", ["bernoulli", "gaussian", "gaussian-learned"])
def test_a_likelihood_of_pixels_is_its_own_distribution_to_the_bit(name):
    likelihood = LIKELIHOODS[name].load()(trial_config(model="VAE", likelihood=name, noise_start=-2.0), 2, (1, 3, 4))
    a, x = torch.randn(2, 5, 12), torch.rand(2, 5, 12)
    distribution = likelihood.distribution(a)
    assert torch.equal(distribution.log_prob(x), likelihood.log_prob(x, a))
    assert torch.equal(distribution.mean(), likelihood.mean(a))
    generators = (torch.Generator().manual_seed(3) for _ in range(2))
    assert torch.equal(distribution.sample(next(generators)), likelihood.sample(a, next(generators)))
    marginals = distribution.marginals()
    if name == "bernoulli":
        assert marginals is None
    else:
        normal = torch.distributions.Normal(marginals.loc, marginals.scale)
        known = normal.log_prob(x[:, :, None]).sum(3)[:, :, 0]
        assert torch.allclose(known, likelihood.log_prob(x, a), rtol=1e-5)
        assert torch.allclose(marginals.mean(), likelihood.mean(a))


# Sizes.

RELEASED = {
    "model": "AE", "latent_dim": 32, "hidden_layers": 0, "decoder_output": "linear", "code": "rectified",
    "initialisation": "glorot-uniform",
}  # fmt: skip
TABLE_1 = {
    ("gaussian", "identity", 0): 50992,
    ("gaussian", "identity", 1): 51025,
    ("gaussian", "diagonal", 1): 76897,
    ("gaussian", "full", 1): 10205785,
    ("student-t", "identity", 1): 51058,
    ("student-t", "diagonal", 1): 76930,
    ("student-t", "full", 1): 10205818,
    ("matrix-normal", "identity", 1): 51025,
    ("matrix-normal", "diagonal", 1): 52873,
    ("matrix-normal", "full", 1): 77821,
    ("matrix-t", "identity", 1): 51058,
    ("matrix-t", "diagonal", 1): 52906,
    ("matrix-t", "full", 1): 77854,
    ("gaussian", "identity", 10): 284170,
    ("gaussian", "diagonal", 10): 542890,
    ("student-t", "identity", 10): 284500,
    ("student-t", "diagonal", 10): 543220,
    ("matrix-normal", "identity", 10): 284170,
    ("matrix-normal", "diagonal", 10): 302650,
    ("matrix-normal", "full", 10): 552130,
    ("matrix-t", "identity", 10): 284500,
    ("matrix-t", "diagonal", 10): 302980,
    ("matrix-t", "full", 10): 552460,
}


@pytest.mark.parametrize("row", TABLE_1, ids=lambda row: "-".join(map(str, row)))
def test_the_papers_models_have_as_many_parameters_as_its_table_1_says(row):
    likelihood, scale, k = row
    config = trial_config({**RELEASED, "likelihood": likelihood, "scale": scale, "components": k})
    cohort = Cohort([config], (1, 28, 28), 10)
    assert cohort.parameter_counts() == [TABLE_1[row]]
    emitted = cohort.model.likelihood.n_outputs
    assert n_outputs(config, (1, 28, 28)) == emitted == cohort.model.decode(torch.zeros(1, 1, 32)).shape[2]


def test_the_papers_vae_has_as_many_parameters_and_a_posterior_no_narrower_than_ln_2():
    config = trial_config(
        {
            **RELEASED,
            "model": "VAE",
            "likelihood": "gaussian",
            "scale": "diagonal",
            "posterior_sd": "softplus-sd",
            "kl_weight": 2,
        }
    )
    cohort = Cohort([config], (1, 28, 28), 10)
    assert cohort.parameter_counts() == [101984]
    x = torch.rand(1, 20, 784)
    q = cohort.model.posterior(x)
    sd, emitted = q.covariance().diagonal(dim1=-2, dim2=-1).sqrt(), cohort.model.encode(x)["log_variance"]
    assert torch.allclose(sd, torch.nn.functional.softplus(emitted), rtol=1e-5)
    assert (sd >= math.log(2) - 1e-6).all()
    assert q.mean.min() == 0


@pytest.mark.parametrize("network", ["dense", "conv"])
@every_emitted
def test_the_arithmetic_of_outputs_is_what_a_decoder_emits_for_images_of_any_shape(family, scale, network):
    for shape, k in itertools.product(((1, 1, 1), (3, 5, 4)), (0, 2)):
        config = settings(family, scale, components=k, network=network, hidden_width=4)
        model = AE([config], shape, 10)  # a cohort of matrices would refuse a single pixel
        assert model.decode(torch.zeros(1, 2, 3)).shape[2] == n_outputs(config, shape) == model.likelihood.n_outputs


def test_first_weights_are_uniform_within_glorots_bounds_and_biases_zero():
    cohort = Cohort([trial_config(RELEASED), trial_config(RELEASED, seed=1)], (1, 28, 28), 10)
    weights = cohort.member_weights(0)
    bound = (6 / (784 + 32)) ** 0.5
    for name in ("heads_of_encoder.mean", "decoder.layers.0"):
        weight = weights[f"{name}.weight"]
        assert weight.abs().max() <= bound
        # Uniform: the variance is bound^2/3, known of n numbers to 0.9/sqrt(n) of itself.
        assert weight.square().mean().item() == pytest.approx(bound**2 / 3, rel=5 * 0.9 / weight.numel() ** 0.5)
        assert weights[f"{name}.bias"].count_nonzero() == 0
    assert not torch.equal(weight, cohort.member_weights(1)[f"{name}.weight"])


def test_the_decoder_may_have_layers_of_its_own():
    config = trial_config({**RELEASED, "decoder_layers": 1, "hidden_width": 256})
    assert Cohort([config], (1, 28, 28), 10).parameter_counts() == [784 * 32 + 32 + 32 * 256 + 256 + 256 * 784 + 784]


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"likelihood": "gaussian-learned", "scale": "diagonal"}, ["scale diagonal", "gaussian-learned", "student-t"]),
        ({"likelihood": "bernoulli", "decoder_output": "sigmoid", "scale": "full"}, ["scale full", "bernoulli"]),
        ({"likelihood": "gaussian-learned", "components": 2}, ["components 2", "gaussian-learned", "matrix-t"]),
        ({"likelihood": "bernoulli", "decoder_output": "sigmoid", "dequantisation": "uniform-noise"},
         ["dequantisation uniform-noise", "bernoulli", "off"]),
        ({"model": "FisherNet", "likelihood": "student-t", "components": 1}, ["components 1", "FisherNet", "0"]),
        ({"likelihood": "maf", "components": 1}, ["components 1", "maf"]),
        ({"likelihood": "maf", "scale": "diagonal"}, ["scale diagonal", "maf", "identity"]),
        ({"model": "FisherNet", "likelihood": "discretised-normal"}, ["discretised-normal", "FisherNet", "student-t"]),
        ({"likelihood": "discretised-normal", "dequantisation": "uniform-noise"}, ["discretised-normal", "off"]),
        ({"components": 1001}, ["components", "0 to 1000"]),
        ({"least_scale": 0}, ["least_scale", "positive"]),
        ({"cholesky_of": "correlation"}, ["cholesky_of", "precision-matrix"]),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_in_a_sentence_that_names_the_flag(values, parts):
    with pytest.raises(ValueError, match=r".") as error:
        trial_config({"model": "AE", **values})
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_a_run_is_named_by_its_likelihood():
    config = settings("student-t", "diagonal", components=10, decoder_output="sigmoid")
    assert config.variant == "AE student-t diagonal K=10"


# Images of 8-bit values.


def test_dequantised_images_are_spread_evenly_over_their_grey_values():
    config = settings("student-t", "identity", dequantisation="uniform-noise")
    cohort = Cohort([config, trial_config(config.to_dict(), seed=1)], (1, 10, 10), 10)
    values = torch.randint(256, (2, 300, 100))
    noise = cohort.draw_noise(cohort.noise_streams("noise", 1), 300)
    seen = cohort.model.seen(values / 255, noise)
    within = 256 * seen.double() - values
    assert within.min() > -1e-4
    assert within.max() < 1 + 1e-4
    assert abs(within.mean() - 0.5) < 6 * (1 / 12 / within.numel()) ** 0.5
    assert abs(within.var() - 1 / 12) < 6 * 0.0745 / within.numel() ** 0.5
    assert not torch.equal(seen[0], seen[1])


def test_bits_per_dimension_of_a_unit_normal_are_at_least_those_of_no_error(small):
    """8 + log2(2 pi)/2 = 9.3257, more than the 8 of no model at all; the metric is a code's."""
    images = contract.small_images()
    config = trial_config(
        {**small, **settings("gaussian", "identity", components=1, dequantisation="uniform-noise").to_dict(), **small}
    )
    metrics = contract.history(contract.made([config], images), images)[-1][0]
    expected = 8 - metrics["test/log_likelihood"] / (100 * math.log(2))
    assert metrics["test/code_bits_per_dim"] == pytest.approx(expected, rel=1e-6)
    assert metrics["test/code_bits_per_dim"] >= 8 + 0.5 * math.log2(2 * math.pi)
    vae = trial_config(
        {**small, "model": "VAE", "likelihood": "gaussian", "dequantisation": "uniform-noise", "latent_dim": 3}
    )
    metrics = contract.history(contract.made([vae], images), images)[-1][0]
    assert metrics["test/bits_per_dim"] == pytest.approx(8 - metrics["test/elbo"] / (100 * math.log(2)), rel=1e-6)
    assert "test/code_bits_per_dim" not in metrics


def test_evaluation_scores_what_else_a_mixture_could_show(small):
    images = contract.small_images()
    config = trial_config({**settings("student-t", "identity", components=3).to_dict(), **small})
    cohort = contract.made([config], images)
    metrics = contract.history(cohort, images)[-1][0]
    x = images.test.flatten(1)[None] / 255
    distribution = cohort.model.likelihood.distribution(cohort.model.decode(cohort.model.posterior_mean(x)))
    for name, image in {
        "mse": distribution.mean(),
        **{f"mse_{k}": v for k, v in distribution.estimates().items()},
    }.items():
        assert metrics[f"test/{name}"] == pytest.approx((x - image).square().mean().item(), rel=1e-5)
    single = trial_config({**config.to_dict(), "components": 1})
    assert not [name for name in contract.history(contract.made([single], images), images)[-1][0] if "mse_l" in name]


# Fisher information.


def fisher(family, scale, shape=SHAPE, **more):
    return made(family, scale, shape, **{"model": "FisherNet", **more})


def information(likelihood, a):
    """R^T R of each a, (n, n_outputs, n_outputs)."""
    unit = torch.eye(likelihood.n_outputs, dtype=torch.float64).expand(1, a.shape[1], -1, -1)
    rows = likelihood.root_information(a).push(unit)[0]
    assert rows.shape[2] == likelihood.n_rows
    return rows @ rows.mT


def scores(likelihood, a, n):
    """The gradient of ln p at n draws from it, (n, n_outputs)."""
    repeated = a.expand(1, n, -1).clone().requires_grad_()
    x = likelihood.sample(repeated.detach(), torch.Generator().manual_seed(2))
    (score,) = torch.autograd.grad(likelihood.log_prob(x, repeated).sum(), repeated)
    return score[0]


def assert_is_the_variance_of(score, claimed):
    products = score[:, :, None] * score[:, None, :]
    error = 6 * products.std(0) / len(score) ** 0.5 + 1e-9
    found = products.mean(0)
    assert ((found - claimed).abs() <= error).all(), ((found - claimed).abs() / error).max()
    # An information twice as large would show.
    assert ((found - 2 * claimed).abs() > error).any()


@pytest.mark.parametrize("decoder_output", ["linear", "sigmoid"])
@every_factor
def test_the_information_of_raw_numbers_is_the_variance_of_the_score(family, scale, decoder_output, cholesky_of):
    likelihood = fisher(family, scale, shape=(1, 2, 3), decoder_output=decoder_output, cholesky_of=cholesky_of)
    a = raw(likelihood, 1, seed=3)
    assert_is_the_variance_of(scores(likelihood, a, 20_000), information(likelihood, a)[0])


def test_the_information_of_a_t_about_its_degrees_of_freedom_is_the_quadrature_of_its_squared_score():
    """Of 784 pixels at df 0.03; |y|^2/d is F-distributed. Trigamma minus trigamma there is all of it, so 1e-7 is asked."""
    d, df = 784, 0.03
    likelihood = fisher("student-t", "identity", shape=(1, 28, 28))
    a = torch.zeros(1, 1, d + 1, dtype=torch.float64)
    a[..., -1] = math.log(math.expm1(df - 1e-6))
    tangent = torch.zeros_like(a)
    tangent[..., -1] = 1
    slope = 1 - math.exp(-(df - 1e-6))
    found = likelihood.root_information(a).push(tangent)[0, 0, -1].item() ** 2 / slope**2

    def score(log_f):
        """In nu, at |y|^2 = d F."""
        f = math.exp(log_f)
        ratio = d * f / df
        return 0.5 * (
            special.digamma((df + d) / 2) - special.digamma(df / 2) - d / df - math.log1p(ratio)
            + (df + d) / df * ratio / (1 + ratio)
        )  # fmt: skip

    # ln F = ln of a beta quotient: with b = 1/(1 + d F/nu) ~ Beta(nu/2, d/2), in t = b^(nu/2) the density has no pole.
    def integrand(t):
        log_b = math.log(t) * 2 / df
        log_f = math.log(df / d) + math.log(-math.expm1(log_b)) - log_b
        log_density = (d / 2 - 1) * math.log(-math.expm1(log_b)) - special.betaln(df / 2, d / 2) + math.log(2 / df)
        return (
            score(log_f) ** 2 * math.exp(log_density)
            if log_f < 650
            else 0.25
            * (special.digamma((df + d) / 2) - special.digamma(df / 2) - log_f - math.log(d / df) + 1) ** 2
            * math.exp(log_density)
        )

    expected = integrate.quad(integrand, 0, 1, epsabs=0, epsrel=1e-10, limit=500, points=[0.5, 0.9, 0.95])[0]
    assert found == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("scale", ["identity", "diagonal", "full"])
def test_the_information_of_a_t_goes_to_the_normals_as_its_degrees_of_freedom_grow(scale):
    t, normal = fisher("student-t", scale, (1, 2, 3)), fisher("gaussian", scale, (1, 2, 3))
    a = raw(normal, 1)
    n_maps = normal.maps * 6
    with_df = torch.cat([a[..., :n_maps], torch.full((1, 1, 1), 1e7, dtype=torch.float64), a[..., n_maps:]], dim=2)
    kept = [i for i in range(t.n_outputs) if i != n_maps]
    expected = torch.eye(6, dtype=torch.float64)[None] if scale == "identity" else information(normal, a)
    assert torch.allclose(information(t, with_df)[:, kept][:, :, kept], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", ["identity", "diagonal", "full"])
@pytest.mark.parametrize("family", ["student-t", "matrix-t"])
def test_the_information_about_degrees_of_freedom_is_the_variance_of_their_score(family, scale):
    """Its row of E s s^T, s by autograd at draws; without -c_tn^2/c_t its own entry would be a seventh larger."""
    likelihood, n = fisher(family, scale, (1, 2, 3)), 100_000
    a, at = raw(likelihood, 1), likelihood.maps * 6
    a[..., at] = 4.0
    many = a.expand(1, n, -1).clone().requires_grad_()
    (score,) = torch.autograd.grad(likelihood.log_prob(drawn(likelihood, a, n)[None], many).sum(), many)
    products = score[0, :, at, None] * score[0]
    error, expected = products.std(0) / n**0.5, information(likelihood, a)[0, at]
    assert ((products.mean(0) - expected).abs() < 5 * error + 1e-12).all()
    assert 5 * error[at] < 0.1 * expected[at]


def decoder_of(model, mean):
    """a and its Jacobian by autograd, (n_outputs,) and (n_outputs, d)."""

    def a(z):
        return model.decode(z[None, None])[0, 0]

    return a(mean), torch.autograd.functional.jacobian(a, mean)


@pytest.mark.parametrize(
    ("network", "about"),
    [
        ("dense", "all-outputs"),
        ("dense", "location"),
        ("conv", "all-outputs"),
        pytest.param("conv", "location", marks=pytest.mark.long),
    ],
)
@every_emitted
def test_the_latent_precision_is_the_information_seen_through_the_decoder(family, scale, network, about, small):
    """M = J^T R^T R J + 1 with J by autograd; push and pull are each other's transpose; both samplers solve the same M."""
    if family == "gaussian" and scale == "identity":
        likelihood_settings = {"likelihood": "student-t"}
    else:
        likelihood_settings = {"likelihood": family, "scale": scale}
    values = {
        **small, "model": "FisherNet", "latent_dim": 3, "network": network, "information_about": about, "sampler": "cg",
        "cg_tolerance": 1e-13, **likelihood_settings,
    }  # fmt: skip
    model = Cohort([trial_config(values)], (1, 4, 5), 10, dtype=torch.float64).model
    mean = torch.randn(1, 2, 3, dtype=torch.float64)
    m = model.precision(mean)
    noise = {name: torch.randn(1, 2, own.width, dtype=torch.float64) for name, own in model.noise(3).items()}
    jacobian, root = model.root_information(mean)
    tangent, rows = torch.randn(1, 2, model.likelihood.n_outputs, dtype=torch.float64), noise["n_star"]
    assert torch.allclose((root.push(tangent) * rows).sum(), (tangent * root.pull(rows)).sum(), rtol=1e-10, atol=1e-12)
    assert torch.allclose(root.gram(tangent), root.pull(root.push(tangent)), rtol=1e-10, atol=1e-12)
    q = ImplicitPrecisionGaussian(
        mean, lambda dtype: m, jacobian, root, model.own, tolerance=1e-13, max_iterations=100, note=lambda left: None
    )
    residual = q.residual(noise)[0]
    for i in range(2):
        a, slope = decoder_of(model, mean[0, i])
        of_a = information(model.likelihood, a[None, None])[0]
        expected = slope.T @ of_a @ slope + torch.eye(3, dtype=torch.float64)
        assert torch.allclose(m[0, i], expected, rtol=1e-10, atol=1e-12)
        unit = torch.eye(len(a), dtype=torch.float64)[None, None]
        r = model.likelihood.root_information(a[None, None].detach()).push(unit)[0, 0]  # R^T
        theta = slope.T @ (r @ rows[0, i]) + noise["eta"][0, i]
        assert torch.allclose(residual[0, i], torch.linalg.solve(m[0, i], theta), rtol=1e-8)


def test_a_full_scale_of_large_images_wants_the_information_of_the_location_alone(small):
    values = {**small, "model": "FisherNet", "likelihood": "gaussian", "scale": "full"}
    with pytest.raises(ValueError, match=r"information_about.*5,150 numbers.*location"):
        Cohort([trial_config(values)], (1, 10, 10), 10)
    model = Cohort([trial_config({**values, "information_about": "location"})], (1, 10, 10), 10).model
    assert model.precision(torch.zeros(1, 2, 2)).isfinite().all()


@pytest.mark.parametrize("df", [None, (0.3, 3.0, 40.0), (0.02, 0.02, 1e6)])
def test_quantiles_and_intervals_are_where_the_distribution_function_says(df):
    """Three components of two pixels, against SciPy's distributions; a quantile is found where F is p, to rounding."""
    weights, loc, scale = [0.2, 0.5, 0.3], [[0.1, 0.4, 0.9], [0.5, 0.5, 0.5]], [[0.05, 0.2, 0.1], [0.1, 1e-5, 2.0]]
    wide = {"dtype": torch.float64}
    given = Marginals(
        torch.tensor(weights, **wide).log()[None, None], torch.tensor(loc, **wide).T[None, None],
        torch.tensor(scale, **wide).T[None, None], None if df is None else torch.tensor(df, **wide)[None, None],
    )  # fmt: skip

    def below(pixel, x):
        own = [
            stats.norm(m, s) if df is None else stats.t(df[k], m, s)
            for k, (m, s) in enumerate(zip(loc[pixel], scale[pixel], strict=True))
        ]
        return sum(w * c.cdf(x) for w, c in zip(weights, own, strict=True))

    for p in (0.025, 0.3, 0.5, 0.95):
        found = given.quantile(p)
        assert found.shape == (1, 1, 2)
        for pixel in range(2):
            assert below(pixel, found[0, 0, pixel].item()) == pytest.approx(p, abs=1e-9)
    low, high = given.interval(0.9)
    for pixel in range(2):
        assert below(pixel, high[0, 0, pixel].item()) - below(pixel, low[0, 0, pixel].item()) == pytest.approx(
            0.9, abs=1e-9
        )


def test_the_quantile_of_one_normal_is_its_location_and_so_many_deviations():
    given = Marginals(torch.zeros(1, 2, 1), torch.tensor([[[[0.3]], [[0.7]]]]), torch.tensor([[[[0.1]], [[0.2]]]]))
    assert given.quantile(0.975)[0, :, 0].tolist() == pytest.approx(
        [0.3 + 0.1 * 1.959964, 0.7 + 0.2 * 1.959964], rel=1e-6
    )
    for p in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="above 0 and below 1"):
            given.quantile(p)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("name", "other"), [("matrix-normal", "gaussian"), ("matrix-t", "student-t")])
@pytest.mark.parametrize("shape", [(1, 1, 20), (1, 20, 1), (3, 1, 20)])
def test_a_scale_of_rows_and_columns_wants_both(name, other, scale, shape, small):
    values = {**small, "model": "AE", "scale": scale}
    with pytest.raises(ValueError, match=rf"^likelihood {name} .* one (row|column); take likelihood {other}, "):
        Cohort([trial_config({**values, "likelihood": name})], shape, 10)
    Cohort([trial_config({**values, "likelihood": other})], shape, 10)
    Cohort([trial_config({**values, "likelihood": name})], (1, 2, 10), 10)


def test_of_a_linear_decoder_with_emitted_deviations_the_precision_is_a_closed_form(small):
    """M = W_mu^T diag(1/s^2) W_mu + 2 W_s^T diag((s'/s)^2) W_s + 1, s' the slope of the softplus."""
    values = {**small, "model": "FisherNet", "likelihood": "gaussian", "scale": "diagonal", "hidden_layers": 0}
    model = Cohort([trial_config({**values, "decoder_output": "linear"})], (1, 4, 5), 10, dtype=torch.float64).model
    z = torch.randn(1, 4, 2, dtype=torch.float64)
    weight = model.decoder.layers[0].weight[0]
    w_mu, w_s = weight[:, :20], weight[:, 20:]
    raw_s = model.decode(z)[0, :, 20:]
    s, slope = torch.nn.functional.softplus(raw_s) + 1e-6, torch.sigmoid(raw_s)
    for i in range(4):
        expected = w_mu / s[i].square() @ w_mu.T + 2 * w_s * (slope[i] / s[i]).square() @ w_s.T
        assert torch.allclose(
            model.precision(z)[0, i], expected + torch.eye(2, dtype=torch.float64), rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize(("distance", "equal"), [(1.0, False), (60.0, True)])
def test_the_information_of_a_mixture_is_below_that_of_its_complete_data_and_equal_where_components_are_apart(
    distance, equal
):
    """Complete data: which component it was is seen. Blocks pi_k I_k of the components, diag pi - pi pi^T of the logits."""
    single, mixture = fisher("gaussian", "diagonal", (1, 1, 2)), made("gaussian", "diagonal", (1, 1, 2), components=2)
    parts = [torch.tensor([[[loc, loc, 0.3, -0.2]]], dtype=torch.float64) for loc in (0.0, distance)]
    logits = torch.tensor([0.4, -0.3], dtype=torch.float64)
    pi = torch.softmax(logits, 0)
    a = torch.cat([*(p[0, 0, :2] for p in parts), *(p[0, 0, 2:] for p in parts), logits])[None, None]
    complete = torch.zeros(10, 10, dtype=torch.float64)
    for k, part in enumerate(parts):
        at = torch.tensor([2 * k, 2 * k + 1, 4 + 2 * k, 5 + 2 * k])
        complete[at[:, None], at] = pi[k] * information(single, part)[0]
    complete[8:, 8:] = pi.diag() - pi[:, None] * pi
    score = scores(mixture, a, 40_000)
    if equal:
        assert_is_the_variance_of(score, complete)
    else:
        # In every direction; a variance of n squares is known to sqrt(their variance/n).
        values, directions = torch.linalg.eigh(complete)
        along = (score @ directions).square()
        assert (along.mean(0) <= values + 6 * along.std(0) / 200 + 1e-12).all()
        assert (along.mean(0) < 0.9 * values - 6 * along.std(0) / 200).any()
    with pytest.raises(NotImplementedError, match="components"):
        mixture.root_information(a)


def test_a_full_covariance_trains_as_the_textbooks_dense_matrices_do(monkeypatch):
    """The paper's t_df_mu_Sigma, released factor and floor: five steps have the losses of F gathered and y = F^-1 r solved.

    Of MNIST its first epoch has the mean loss -901.64 in the author's notebook; ours, of seed 0, has -894.50.
    """
    settings = {
        "likelihood": "student-t", "scale": "full", "components": 1, "cholesky_of": "covariance", "least_scale": 1e-5,
        "code": "rectified", "hidden_layers": 0, "decoder_output": "linear", "initialisation": "glorot-uniform",
        "batch_size": 16, "latent_dim": 4,
    }  # fmt: skip
    images = contract.small_images()
    d = math.prod(images.image_shape)

    def textbook(self, x):
        dense, nu = self.scale.factor.dense(), self.df[..., 0]
        r = (x - self.loc[:, :, 0])[..., None]
        squared = torch.linalg.solve_triangular(dense[:, :, 0], r, upper=False).square().sum((2, 3))
        half = 0.5 * (nu + d)
        constant = torch.lgamma(half) - torch.lgamma(0.5 * nu) - 0.5 * d * torch.log(math.pi * nu)
        log_det = dense[:, :, 0].diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return constant - half * torch.log1p(squared / nu) - log_det

    def losses():
        cohort = Cohort(
            [trial_config(model="AE", **settings)], images.image_shape, len(images.train), dtype=torch.float64
        )
        return train_epoch(cohort, ResidentImages.of(images.train, cohort.device, cohort.dtype))[:5]

    packed = losses()
    monkeypatch.setattr(Mixed, "log_prob", textbook)
    assert torch.allclose(packed, losses(), rtol=1e-9)
    assert packed[-1] < packed[0]


@pytest.mark.long
def test_a_mixture_of_ts_shows_a_component_that_ignores_the_image_where_its_mean_reconstructs():
    """Of unit scale and K = 10, as the paper trains it, on digits.

    Over four seeds the densest mode has three times the mean's error and more; of the likeliest component it is little larger.
    """
    settings = {
        "dataset": "digits", "likelihood": "student-t", "components": 10, "code": "rectified", "latent_dim": 16,
        "hidden_layers": 0, "decoder_output": "linear", "initialisation": "glorot-uniform", "batch_size": 32,
        "learning_rate": 3e-3, "epochs": 20, "evaluate_every": 20,
    }  # fmt: skip
    data = load_data("digits")
    cohort = Cohort(
        [trial_config(model="AE", seed=seed, **settings) for seed in range(4)], data.image_shape, len(data.train)
    )
    *_, last = train(cohort, data)
    errors = {
        name: [record["metrics"][f"test/{name}"] for record in last]
        for name in ("mse", "mse_densest_mode", "mse_likeliest")
    }
    mean, densest, likeliest = (np.array(own) for own in errors.values())
    assert densest.mean() > 3 * mean.mean()
    assert (densest > 2 * mean).all()
    assert ((likeliest > mean) & (likeliest < 1.5 * mean)).all()


# ln p of four images of six pixels and two means of each, as the version before emitted scales had them in float64 (xi = -1.3).
BEFORE = {
    "bernoulli": ("-0x1.ab53a9b3e3e09p+3", "-0x1.a5b2289d02088p+2", "-0x1.4657b452b1ba8p+3", "-0x1.82e7c4e03b01bp+4"),
    "gaussian": ("-0x1.857d2bb8405c1p+2", "-0x1.7c45d5e4fd2d3p+2", "-0x1.a2fa038d50eacp+2", "-0x1.a9d6ceb1e78a6p+2"),
    "gaussian-learned": ("-0x1.db423f15cad1cp+1", "-0x1.97a00b6108ba0p+1", "-0x1.59d4116a1e3a4p+2", "-0x1.730243c0c1592p+2"),
}  # fmt: skip
MEANS_BEFORE = "0x1.1af415d3ef268p-12", "0x1.d6386c3974776p-6"


@pytest.mark.parametrize("name", BEFORE)
@pytest.mark.parametrize("trains", [True, False])
def test_likelihoods_of_one_number_a_pixel_have_the_numbers_that_they_had(name, trains):
    """To rounding: float64 libraries differ in the last digit, and without a gradient a Bernoulli's is summed otherwise."""
    config = trial_config(model="VAE", likelihood=name, noise_start=-1.3)
    likelihood = LIKELIHOODS[name].load()(config, 1, (1, 2, 3)).double()
    if name == "gaussian-learned":
        likelihood.xi.data.fill_(-1.3)  # which float32 rounds
    a = torch.linspace(-9, 9, 24, dtype=torch.float64).view(1, 4, 6).requires_grad_(trains)
    x = (torch.arange(24, dtype=torch.float64).view(1, 4, 6) * 37 % 256) / 255
    at = likelihood.distribution(a)
    assert at.log_prob(x)[0].tolist() == pytest.approx([float.fromhex(own) for own in BEFORE[name]], rel=2e-15)
    assert at.mean()[0, :2, 1].tolist() == pytest.approx([float.fromhex(own) for own in MEANS_BEFORE], rel=2e-15)
    assert likelihood.n_outputs == 6
