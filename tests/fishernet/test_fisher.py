"""The latent precision, the Jacobian and both samplers against their definitions."""

import math

import pytest
import torch

from fishernet.families import LARGEST_IN_FLOAT32, trial_config
from fishernet.fisher import alike, cg_residual, cholesky_residual, latent_precision
from fishernet.likelihoods.base import DiagonalRoot
from fishernet.models.fishernet import FisherNet
from fishernet.networks.activations import ACTIVATIONS
from fishernet.networks.dense import Dense
from fishernet.posteriors import ImplicitPrecisionGaussian, PrecisionGaussian

N_SAMPLES = 40_000


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def small_decoder(n_members: int = 2, d: int = 3, width: int = 16, n_out: int = 12, activation: str = "relu") -> Dense:
    sizes = [[n] * n_members for n in (d, width, width, n_out)]
    decoder = Dense(sizes, ACTIVATIONS[activation])
    for layer in decoder.layers:
        layer.initialise([torch.Generator().manual_seed(i) for i in range(n_members)])
        layer.weight.data.mul_(3)  # so that J^T J is not small beside 1
    return decoder


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_jacobian_equals_finite_differences_and_autograd(activation):
    decoder, z = small_decoder(activation=activation), torch.randn(2, 5, 3)
    output, linearised = decoder.linearise(z)
    jacobian = linearised.jacobian()
    assert torch.equal(output, decoder(z))
    step = 1e-6  # the difference quotient's own error is of the order of step^2, and of rounding / step
    for i in range(3):
        shift = torch.zeros(3)
        shift[i] = step
        difference = (decoder(z + shift) - decoder(z - shift)) / (2 * step)
        assert torch.allclose(jacobian[:, :, i], difference, atol=1e-8)
    full = torch.autograd.functional.jacobian(lambda one: decoder(one), z)  # (2, 5, n_out, 2, 5, 3)
    for member in range(2):
        for n in range(5):
            assert torch.allclose(jacobian[member, n].T, full[member, n, :, member, n], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_slope_of_an_activation_is_its_derivative_everywhere(activation):
    x = torch.cat([torch.linspace(-40, 40, 2001) + 1e-3, torch.tensor([-1e4, 1e4])]).requires_grad_()
    y = ACTIVATIONS[activation].function(x)
    slope = ACTIVATIONS[activation].slope(x)
    assert torch.allclose(slope, torch.autograd.grad(y.sum(), x)[0], rtol=1e-12, atol=1e-15)
    if activation not in ("relu", "leaky-relu"):  # whose slopes are constant on each side
        assert torch.autograd.grad(slope.sum(), x)[0].isfinite().all()
    assert torch.equal(ACTIVATIONS[activation].overwrite(x.detach().clone()), y.detach())


def test_push_and_pull_are_the_jacobian_and_its_transpose():
    decoder, z = small_decoder(activation="gelu"), torch.randn(2, 5, 3)
    linearised = decoder.linearise(z)[1]
    jacobian, v, w = linearised.jacobian(), torch.randn(2, 5, 3), torch.randn(2, 5, 12)
    assert torch.allclose(linearised.push(v), torch.einsum("mndk,mnd->mnk", jacobian, v), rtol=1e-12, atol=1e-13)
    assert torch.allclose(linearised.pull(w), torch.einsum("mndk,mnk->mnd", jacobian, w), rtol=1e-12, atol=1e-13)


def test_the_latent_precision_of_a_linear_gaussian_decoder_is_its_posterior_precision():
    """Equation 20 for f = W z: J^T J / s^2 + 1, symmetric, every eigenvalue at least 1."""
    weight, noise_variance = torch.randn(1, 3, 12), 0.25
    precision = latent_precision(weight[:, None] * noise_variance**-0.5)
    assert torch.allclose(precision[0, 0], weight[0] @ weight[0].T / noise_variance + torch.eye(3), rtol=1e-13)
    assert torch.linalg.eigvalsh(precision).min() >= 1


@pytest.mark.parametrize(
    ("likelihood", "output"),
    [("gaussian-learned", "sigmoid"), ("gaussian-learned", "linear"), ("bernoulli", "sigmoid")],
)
def test_the_latent_precision_is_the_variance_of_the_score_plus_one(likelihood, output):
    """Equations 16-18: I_d(z) is the covariance of d ln p(x|z)/dz over x ~ p(x|z); a factor of two is rejected."""
    config = trial_config(likelihood=likelihood, decoder_output=output, hidden_width=8, hidden_layers=1)
    model = FisherNet([config], (1, 3, 3), 100)
    model.decoder.layers[-1].weight.data.mul_(6)
    z = torch.randn(1, 1, 2)
    a = model.decoder(z)
    n = 200_000
    f = model.likelihood.mean(a).expand(1, n, 9)
    x = torch.bernoulli(f) if likelihood == "bernoulli" else f + torch.randn_like(f)
    _, linearised = model.decoder.linearise(z)
    a_many = a.detach().expand(1, n, 9).clone().requires_grad_()
    score_a = torch.autograd.grad(model.likelihood.log_prob(x, a_many).sum(), a_many)[0]
    score = torch.einsum("dk,nk->nd", linearised.jacobian()[0, 0], score_a[0]).detach()
    products = torch.einsum("ni,nj->nij", score, score)
    expected = (model.precision(z)[0, 0] - torch.eye(2)).detach()
    error = products.std(0) / n**0.5
    assert ((products.mean(0) - expected).abs() <= 5 * error).all()
    for wrong in (0.5, 2.0):
        assert (products.mean(0) - wrong * expected).abs().diagonal().gt(5 * error.diagonal()).all()


def draw(sampler: str, decoder: Dense, z: torch.Tensor, root_information: torch.Tensor) -> torch.Tensor:
    many = z.expand(2, N_SAMPLES, 3)
    eta, n_star = torch.randn(2, N_SAMPLES, 3), torch.randn(2, N_SAMPLES, 12)
    linearised = decoder.linearise(many)[1]
    if sampler == "cg":
        return cg_residual(linearised, DiagonalRoot(root_information), n_star, eta, tolerance=1e-10, max_iterations=50)[
            0
        ]
    return cholesky_residual(latent_precision(linearised.jacobian() * root_information[:, :, None]), eta)[0]


@pytest.mark.parametrize("sampler", ["cholesky", "cg"])
def test_samples_have_the_inverse_precision_as_their_covariance(sampler):
    decoder, z, root_information = small_decoder(), torch.randn(2, 1, 3), torch.rand(2, 1, 12) + 0.5
    with torch.no_grad():
        residual = draw(sampler, decoder, z, root_information)
        precision = latent_precision(decoder.linearise(z)[1].jacobian() * root_information[:, :, None])
    products = torch.einsum("mni,mnj->mnij", residual, residual)
    covariance, error = products.mean(1), products.std(1) / N_SAMPLES**0.5
    expected = torch.linalg.inv(precision[:, 0])
    assert ((covariance - expected).abs() <= 5 * error).all()
    assert (residual.mean(1).abs() <= 5 * residual.std(1) / N_SAMPLES**0.5).all()
    for wrong in (0.5, 2.0):
        assert (
            (covariance - wrong * expected).diagonal(dim1=1, dim2=2).abs().gt(5 * error.diagonal(dim1=1, dim2=2)).all()
        )


def test_conjugate_gradients_solve_equation_31_to_their_tolerance():
    decoder, z, root_information = small_decoder(), torch.randn(2, 50, 3), torch.rand(2, 50, 12) + 0.5
    eta, n_star = torch.randn(2, 50, 3), torch.randn(2, 50, 12)
    with torch.no_grad():
        linearised = decoder.linearise(z)[1]
        precision = latent_precision(linearised.jacobian() * root_information[:, :, None])
        theta = linearised.pull(root_information * n_star) + eta
        for tolerance in (1e-2, 1e-6, 1e-12):
            solution, remainder = cg_residual(
                linearised, DiagonalRoot(root_information), n_star, eta, tolerance=tolerance, max_iterations=100
            )
            left = torch.einsum("mnij,mnj->mni", precision, solution)
            assert ((left - theta).norm(dim=-1) <= 1.01 * tolerance * theta.norm(dim=-1)).all()
            assert (remainder <= 1.001 * tolerance).all()
        one, remainder = cg_residual(
            linearised, DiagonalRoot(root_information), n_star, eta, tolerance=1e-12, max_iterations=1
        )
        left = (torch.einsum("mnij,mnj->mni", precision, one) - theta).norm(dim=-1) / theta.norm(dim=-1)
        assert (left > 1e-6).any()
        assert torch.allclose(remainder, left.amax(1), rtol=1e-9)


def test_a_member_that_is_not_finite_leaves_the_others_draws_alone():
    decoder, z, root_information = small_decoder(), torch.randn(2, 20, 3), torch.ones(2, 20, 12)
    eta, n_star = torch.randn(2, 20, 3), torch.randn(2, 20, 12)
    with torch.no_grad():
        alone, _ = cg_residual(
            decoder.linearise(z)[1], DiagonalRoot(root_information), n_star, eta, tolerance=1e-8, max_iterations=20
        )
        z[1] = float("nan")
        root_information = torch.stack([root_information[0], torch.full_like(root_information[1], torch.nan)])
        linearised = decoder.linearise(z)[1]
        together, remainder = cg_residual(
            linearised, DiagonalRoot(root_information), n_star, eta, tolerance=1e-8, max_iterations=20
        )
        exact, _ = cholesky_residual(latent_precision(linearised.jacobian() * root_information[:, :, None]), eta)
    assert torch.equal(alone[0], together[0])
    assert not together[1].isfinite().any()
    assert remainder[0] <= 1e-8
    assert exact[0].isfinite().all()


def test_the_log_determinant_is_that_of_the_precision():
    half = torch.randn(2, 4, 3, 12)
    precision = latent_precision(half)
    assert torch.allclose(
        cholesky_residual(precision, torch.randn(2, 4, 3))[1], torch.logdet(precision), rtol=1e-12, atol=1e-12
    )


def test_a_precision_that_cannot_be_factorised_gives_no_finite_sample():
    """Parallel tangents of length 1e9: M = A + 1 loses its 1 to rounding, and its factorisation fails."""
    half = torch.randn(1, 30, 1, 12).expand(1, 30, 8, 12) * 1e9
    residual, log_det = cholesky_residual(latent_precision(half), torch.randn(1, 30, 8))
    failed = torch.linalg.cholesky_ex(latent_precision(half)).info > 0
    assert failed.any()
    assert residual[failed].isnan().all()
    assert log_det[failed].isnan().all()


class LinearDecoder:
    """f = z J^T, whose Jacobian is J everywhere; jacobian is J^T, (1, d, n_out)."""

    def __init__(self, jacobian: torch.Tensor) -> None:
        self.transposed = jacobian

    def push(self, tangent: torch.Tensor) -> torch.Tensor:
        return tangent @ self.transposed

    def pull(self, cotangent: torch.Tensor) -> torch.Tensor:
        return cotangent @ self.transposed.mT


def of_spectrum(decades: float, d: int, n_out: int) -> torch.Tensor:
    """J^T in float32, (1, d, n_out), with J J^T + 1's eigenvalues log-spaced from 1 to 10^decades along random directions."""
    left, right = (torch.linalg.qr(torch.randn(n, d))[0] for n in (d, n_out))
    return ((left * (torch.logspace(0, decades, d) - 1).sqrt()) @ right.mT).float()[None]


def test_conjugate_gradients_that_are_cut_short_say_how_far_they_got():
    """M's eigenvalues log-spaced over five decades, d = 128: a hundred iterations leave a tenth of the right-hand side."""
    jacobian = of_spectrum(5, 128, 400)
    decoder, ones = LinearDecoder(jacobian), torch.ones(1, 1, 400, dtype=torch.float32)
    n_star, eta = torch.randn(1, 20, 400).float(), torch.randn(1, 20, 128).float()
    theta = n_star.double() @ jacobian.double().mT + eta
    remainders = []
    for limit in (100, 1000):
        z, (remainder,) = cg_residual(decoder, DiagonalRoot(ones), n_star, eta, tolerance=1e-4, max_iterations=limit)  # type: ignore[arg-type]
        left = z.double() @ jacobian.double() @ jacobian.double().mT + z - theta
        # The residual is updated along the way, in float32, and the true one moves away from it.
        assert 1 / 3 < remainder / (left.norm(dim=-1) / theta.norm(dim=-1)).max() < 1.01
        remainders.append(float(remainder))
    assert remainders[0] > 0.02
    assert remainders[1] <= 1e-4 * 1.001


def errors_of_draws(decades: float, dtype: torch.dtype) -> tuple[float, float]:
    """Of M's factor: the error of ln|M|, and of the draws' covariance in units of the true one, the largest of 60 matrices."""
    jacobian = torch.cat([of_spectrum(decades, 2, 40) for _ in range(60)])[None]  # (1, 60, 2, 40)
    exact = latent_precision(jacobian.double())
    precision = latent_precision(jacobian, dtype)
    draws, log_det = cholesky_residual(precision.repeat_interleave(2, 1), torch.eye(2).float().repeat(60, 1)[None])
    roots = draws[0].unflatten(0, (60, 2)).mT.double()  # L^-T: one draw for each unit vector
    values, vectors = torch.linalg.eigh(exact[0])
    whitening = vectors * values.sqrt()[:, None]
    seen = whitening.mT @ roots @ roots.mT @ whitening
    off = (torch.linalg.eigvalsh(seen) - 1).abs().max()
    return float((log_det[0, ::2] - exact[0].logdet()).abs().max()), float(off)


def test_a_float32_factor_is_good_to_one_percent_up_to_its_limit_and_not_two_decades_beyond():
    for error in errors_of_draws(math.log10(LARGEST_IN_FLOAT32), torch.float32):
        assert error < 0.02
    for error in errors_of_draws(math.log10(LARGEST_IN_FLOAT32) + 2, torch.float32):
        assert not error < 0.1  # or NaN, of a matrix that could not be factorised
    for error in errors_of_draws(math.log10(LARGEST_IN_FLOAT32) + 2, torch.float64):
        assert error < 1e-3  # the rounding of the draws themselves to float32, seen along M's steepest direction


def test_products_of_m_are_float32_whatever_the_networks_are():
    seen = []

    class Watching(LinearDecoder):
        def push(self, tangent: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_float32_matmul_precision())
            return super().push(tangent)

    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        arguments = DiagonalRoot(torch.ones(1, 1, 12)), torch.randn(1, 3, 12), torch.randn(1, 3, 4)
        cg_residual(Watching(torch.randn(1, 4, 12)), *arguments, tolerance=1e-4, max_iterations=9)  # type: ignore[arg-type]
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {"highest"}


@pytest.mark.parametrize("most_padding", [1.0, 1.5, 3.0])
def test_no_member_is_padded_beyond_the_factor_and_every_one_is_there_once(most_padding):
    for dims in ([2, 3, 5, 6], [6, 5, 3, 2], [4, 2, 6, 3, 5, 9], [1, 10, 1], [7], [2, 2, 3, 3]):
        runs = alike(dims, most_padding)
        members = [own for run, _ in runs for own in dims[run]]
        assert members == dims
        for run, widest in runs:
            assert widest == max(dims[run]) <= most_padding * min(dims[run])


@pytest.mark.parametrize("kind", [PrecisionGaussian, ImplicitPrecisionGaussian])
def test_the_covariance_of_a_wide_precision_is_that_of_float64(kind):
    """Eigenvalues 1 and 1e7: of float32's factor nothing would be left of the widest direction."""
    root = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    precision = (root * torch.tensor([1e7, 1.0], dtype=torch.float64)) @ root.T
    mean, own = torch.zeros(1, 1, 2), torch.ones(1, 1, 2)

    def form(dtype):
        return precision[None, None].to(dtype or torch.float32)

    if kind is PrecisionGaussian:
        q = PrecisionGaussian(mean, form, own)
    else:
        q = ImplicitPrecisionGaussian(mean, form, None, None, own, tolerance=1e-4, max_iterations=1, note=None)
    assert q.covariance().dtype == mean.dtype
    assert torch.allclose(q.covariance()[0, 0].double(), torch.linalg.inv(precision), rtol=1e-5)
