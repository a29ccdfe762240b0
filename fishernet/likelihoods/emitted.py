"""Likelihoods whose parameters the decoder emits: normal and multivariate t, of any scale, and mixtures of these.

Ciobanu, "Vanilla Probabilistic Autoencoder" (EPiC 79, 2021). For an image x of d pixels, component k has a location mu, a
scale L and, of a t, degrees of freedom nu; with y = L^-1 (x - mu)

    normal:  ln p = -(|y|^2 + d ln 2 pi)/2 - ln|L|
    t:       ln p = lnG((nu + d)/2) - lnG(nu/2) - (d/2) ln(nu pi) - ((nu + d)/2) ln(1 + |y|^2/nu) - ln|L|
    mixture: ln p = ln sum_k pi_k p_k(x)

in nats, x in [0, 1]. L is the identity; diagonal; or a triangle. Matrix families have L = A (x) B, A of the rows and B of the
columns of the image: diagonals, or triangles. The "matrix t" is TensorFlow Probability's: the multivariate t of the image's
vector. The matrix t of the literature (scipy.stats.matrix_t) is another density, and left out.

The raw output a, cut in this order: per pixel K locations, K standard deviations; per image K logits, K degrees of freedom,
K scales. Where paper and released code differ (github.com/aciobanusebi/vanilla-probabilistic-ae) the code is followed: a
standard deviation is softplus + least_scale, where the paper has a variance; a full scale is a triangle L with L L^T = Sigma
(cholesky_of covariance), where the paper squares L. cholesky_of precision-matrix is ours: L^-1 = P^T with P the triangle,
which divides by nothing. nu is softplus + 1e-6.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fishernet.families import LikelihoodConfig
from fishernet.likelihoods import LIKELIHOODS, emits, scale_numbers
from fishernet.likelihoods.base import Emitted, Likelihood, Marginals, Root, squared_length
from fishernet.likelihoods.pixels import Gaussian, root_slope
from fishernet.likelihoods.triangles import Triangle, row_norms, solve, solved, times, whitened_squares
from fishernet.networks.activations import ACTIVATIONS

LEAST_DF = 1e-6
# ln of the largest factor by which a draw of a t is further from its location than a normal's: finite in float32 of L = 1.
LARGEST_LOG_FACTOR = 60.0
# Draws that float32 has no number for end at this distance; their normals are coloured 2^100 times smaller, which is exact.
LARGEST, SMALLER = 1e38, 2.0**-100
softplus, softplus_slope = ACTIVATIONS["softplus"].function, ACTIVATIONS["softplus"].slope


def log_density(squared: Tensor, d: int, df: Tensor | None) -> Tensor:
    """ln p of a vector of d numbers whose whitened squared length is given, less ln|L|; normal without df, else t.

    The t in float64: of df = 1e6 the normaliser's gradient has no right digit in float32.
    """
    if df is None:
        return -0.5 * (squared + d * math.log(2 * math.pi))
    nu, wide = df.double(), squared.double()
    half = 0.5 * (nu + d)
    normaliser = torch.lgamma(half) - torch.lgamma(0.5 * nu) - 0.5 * d * torch.log(nu * math.pi)
    return (normaliser - half * torch.log1p(wide / nu)).to(squared.dtype)


def log_chi_squared(df: Tensor, generator: torch.Generator | None) -> Tensor:
    """ln of a draw of chi-square: ln 2 + ln G(nu/2 + 1) + (2/nu) ln U, finite where the draw itself rounds to 0 (float64)."""
    half = 0.5 * df.double()
    gamma = torch._standard_gamma(half + 1, generator=generator)
    minus_log_u = torch.empty_like(half).exponential_(generator=generator)
    return math.log(2) + gamma.log() - minus_log_u / half


class Scale(ABC):
    """L of a batch; vectors are (n_members, n, K, n_pixels), and where K is 1 any number of them in its place."""

    n_rows = 0  # of ``information``'s first part

    @property
    @abstractmethod
    def log_det(self) -> Tensor:
        """ln|L|, (n_members, n, K)."""

    @abstractmethod
    def whiten(self, r: Tensor) -> Tensor:
        """L^-1 r."""

    def terms(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """|L^-1 r|^2 and ln|L|, (n_members, n, K): all that a density asks for."""
        return squared_length(self.whiten(r)), self.log_det

    @abstractmethod
    def colour(self, eta: Tensor) -> Tensor:
        """L eta."""

    @abstractmethod
    def sd(self) -> Tensor:
        """sqrt of the diagonal of L L^T, (n_members, n, K, n_pixels)."""

    @property
    @abstractmethod
    def floored(self) -> Tensor:
        """The emitted standard deviations that ``least_scale`` bounds from below, (n_members, n, K, how many).

        None of factors of the precision matrix, whose diagonals are inverse ones.
        """

    @abstractmethod
    def information(self, tangent: Tensor) -> tuple[Tensor, Tensor]:
        """Rows g and a number t with g g + t t = tr(P P)/2, P = L^-1 dSigma L^-T, t = tr P/sqrt(2 d), for a raw tangent.

        That is the normal's Fisher information of its scale, its trace apart, which alone the t's degrees of freedom meet.
        (..., numbers of the scale) to (..., n_rows) and (...).
        """


class Identity(Scale):
    """L = 1."""

    def __init__(self, like: Tensor) -> None:
        self.like = like

    @property
    def log_det(self) -> Tensor:
        return self.like.new_zeros(())

    def whiten(self, r: Tensor) -> Tensor:
        return r

    def colour(self, eta: Tensor) -> Tensor:
        return eta

    def sd(self) -> Tensor:
        return torch.ones_like(self.like)

    @property
    def floored(self) -> Tensor:
        return self.like[..., :0]

    def information(self, tangent: Tensor) -> tuple[Tensor, Tensor]:
        return tangent, tangent.sum(-1)  # of no numbers


class Diagonal(Scale):
    """L = diag(s), s = softplus(raw) + least_scale."""

    def __init__(self, raw: Tensor, least: float) -> None:
        self.raw, self.least, self.n_rows = raw, least, raw.shape[-1]

    @cached_property
    def s(self) -> Tensor:
        return softplus(self.raw) + self.least

    @property
    def log_det(self) -> Tensor:
        return self.s.log().sum(-1)

    def whiten(self, r: Tensor) -> Tensor:
        return r / self.s

    def terms(self, r: Tensor) -> tuple[Tensor, Tensor]:
        return cast("tuple[Tensor, Tensor]", _DiagonalTerms.apply(r, self.raw, self.least))

    def colour(self, eta: Tensor) -> Tensor:
        return eta * self.s

    def sd(self) -> Tensor:
        return self.s

    @property
    def floored(self) -> Tensor:
        return self.s

    def relative(self, tangent: Tensor) -> Tensor:
        """ds/s, (..., n_pixels)."""
        return softplus_slope(self.raw) * tangent / self.s

    def information(self, tangent: Tensor) -> tuple[Tensor, Tensor]:
        return _apart(math.sqrt(2) * self.relative(tangent))


class _DiagonalTerms(torch.autograd.Function):
    """|r/s|^2 and the sum of ln s, (...), of vectors r (..., n) and s = softplus(raw) + least, in few passes."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, raw: Tensor, least: float) -> tuple[Tensor, Tensor]:
        s = softplus(raw).add_(least)
        y = r / s
        ctx.save_for_backward(y, s, raw)
        return y.square().sum(-1), s.log().sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_squared: Tensor, of_log_det: Tensor) -> tuple[Tensor, Tensor, None]:
        y, s, raw = ctx.saved_tensors
        of_y = y * (2 * of_squared)[..., None]
        of_s = torch.addcmul(of_log_det[..., None], of_y, y, value=-1).div_(s)
        return of_y.div_(s), of_s.mul_(softplus_slope(raw)), None


class RowColumnDiagonal(Diagonal):
    """L = diag(u) (x) diag(v), u of the rows and v of the columns: a pixel's s is u v."""

    def __init__(self, raw: Tensor, image_shape: Sequence[int], least: float) -> None:
        self.raw, self.shape, self.n_rows = raw, image_shape, math.prod(image_shape)
        self.factors = softplus(raw) + least
        self.u, self.v = self._split(self.factors)

    @cached_property
    def s(self) -> Tensor:
        return from_matrix(self.u[..., :, None] * self.v[..., None, :], self.shape)

    @property
    def log_det(self) -> Tensor:
        return self.v.shape[-1] * self.u.log().sum(-1) + self.u.shape[-1] * self.v.log().sum(-1)

    def terms(self, r: Tensor) -> tuple[Tensor, Tensor]:
        return cast("Tensor", _RowColumnSquares.apply(to_matrix(r, self.shape), self.u, self.v)), self.log_det

    @property
    def floored(self) -> Tensor:
        return self.factors

    def _split(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        channels, height, width = self.shape
        u, v = numbers.split([height, channels * width], dim=-1)
        return u, v

    def relative(self, tangent: Tensor) -> Tensor:
        du, dv = self._split(softplus_slope(self.raw) * tangent / self.factors)
        return from_matrix(du[..., :, None] + dv[..., None, :], self.shape)


class _RowColumnSquares(torch.autograd.Function):
    """Of matrices R (..., n, m), u (..., n) and v (..., m) the sum of (R_ij/(u_i v_j))^2: (...), in few passes."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, u: Tensor, v: Tensor) -> Tensor:
        s = u[..., :, None] * v[..., None, :]
        y = r / s
        ctx.save_for_backward(y, s, u, v)
        return y.square().sum((-2, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, s, u, v = ctx.saved_tensors
        of_y = y * (2 * cotangent)[..., None, None]
        energy = of_y * y
        return of_y.div_(s), energy.sum(-1).neg_() / u, energy.sum(-2).neg_() / v


class Triangular(Scale):
    """L a triangle, or of cholesky_of precision-matrix L^-T one."""

    def __init__(self, raw: Tensor, n_pixels: int, least: float, precision: bool) -> None:
        self.factor, self.precision = Triangle(raw, n_pixels, least), precision
        self.sign, self.n_rows = -1 if precision else 1, raw.shape[-1]

    @property
    def log_det(self) -> Tensor:
        return self.sign * self.factor.log_det()

    def whiten(self, r: Tensor) -> Tensor:
        return self.factor.transposed_product(r) if self.precision else self.factor.solve(r)

    def colour(self, eta: Tensor) -> Tensor:
        dense = self.factor.dense()
        return solve(dense.mT, eta, upper=True) if self.precision else times(dense, eta)

    def sd(self) -> Tensor:
        return row_norms(self.factor, self.precision)

    @property
    def floored(self) -> Tensor:
        return self.factor.diagonal[..., :0] if self.precision else self.factor.diagonal

    def information(self, tangent: Tensor) -> tuple[Tensor, Tensor]:
        relative = torch.linalg.solve_triangular(self.factor.dense(), self.factor.tangent(tangent), upper=False)
        rows, trace = _apart(math.sqrt(2) * relative.diagonal(dim1=-2, dim2=-1))
        below = torch.tril_indices(self.factor.n, self.factor.n, -1, device=tangent.device)
        return torch.cat([rows, relative[..., below[0], below[1]]], dim=-1), self.sign * trace


class RowColumnTriangular(Scale):
    """L = A (x) B of two triangles, or their inverses transposed: y is A^-1 R B^-T, or A^T R B, R the image as a matrix."""

    def __init__(self, raw: Tensor, image_shape: Sequence[int], least: float, precision: bool) -> None:
        channels, height, width = image_shape
        self.shape, self.sizes, self.precision = image_shape, (height, channels * width), precision
        self.triangles = [Triangle(own, n, least) for own, n in zip(self._split(raw), self.sizes, strict=True)]
        self.a, self.b = (triangle.dense() for triangle in self.triangles)
        n, m = self.sizes
        self.sign, self.n_rows = -1 if precision else 1, n * n + m * m

    @property
    def log_det(self) -> Tensor:
        (n, m), (rows, columns) = self.sizes, self.triangles
        return self.sign * (m * rows.log_det() + n * columns.log_det())

    def _split(self, raw: Tensor) -> tuple[Tensor, ...]:
        return raw.split([n * (n + 1) // 2 for n in self.sizes], dim=-1)

    def whiten(self, r: Tensor) -> Tensor:
        matrix = to_matrix(r, self.shape)
        if self.precision:
            return from_matrix(self.a.mT @ matrix @ self.b, self.shape)
        half = solved(self.a, matrix, upper=False)
        return from_matrix(solved(self.b, half.mT, upper=False).mT, self.shape)

    def terms(self, r: Tensor) -> tuple[Tensor, Tensor]:
        if self.precision:
            return super().terms(r)
        return whitened_squares(self.a, self.b, to_matrix(r, self.shape)), self.log_det

    def colour(self, eta: Tensor) -> Tensor:
        matrix = to_matrix(eta, self.shape)
        if not self.precision:
            return from_matrix(self.a @ matrix @ self.b.mT, self.shape)
        half = solved(self.a.mT, matrix, upper=True)
        return from_matrix(solved(self.b.mT, half.mT, upper=True).mT, self.shape)

    def sd(self) -> Tensor:
        rows, columns = (row_norms(triangle, self.precision) for triangle in self.triangles)
        return from_matrix(rows[..., :, None] * columns[..., None, :], self.shape)

    @property
    def floored(self) -> Tensor:
        diagonals = torch.cat([triangle.diagonal for triangle in self.triangles], dim=-1)
        return diagonals[..., :0] if self.precision else diagonals

    def information(self, tangent: Tensor) -> tuple[Tensor, Tensor]:
        """P is P_A (x) 1 + 1 (x) P_B, and tr(P P) = m tr(P_A P_A) + n tr(P_B P_B) + 2 tr P_A tr P_B."""
        n, m = self.sizes
        rows, trace = [], tangent.new_zeros(())
        for own, triangle, size, other in zip(self._split(tangent), self.triangles, (n, m), (m, n), strict=True):
            relative = torch.linalg.solve_triangular(triangle.dense(), triangle.tangent(own), upper=False)
            symmetric = relative + relative.mT
            of_own = symmetric.diagonal(dim1=-2, dim2=-1).sum(-1)
            without = symmetric - of_own[..., None, None] / size * torch.eye(size, device=own.device, dtype=own.dtype)
            rows.append(math.sqrt(other / 2) * without.flatten(-2))
            trace = trace + other * of_own
        return torch.cat(rows, dim=-1), self.sign * trace / math.sqrt(2 * n * m)


class Mixed(Emitted):
    """A mixture of K normals or t's; of one without logits where ``log_weights`` is None."""

    def __init__(self, log_weights: Tensor | None, loc: Tensor, scale: Scale, df: Tensor | None) -> None:
        self.log_weights, self.loc, self.scale, self.df = log_weights, loc, scale, df

    def component_log_prob(self, x: Tensor) -> Tensor:
        """ln p_k(x), (n_members, n, K)."""
        squared, log_det = self.scale.terms(self.loc - x[:, :, None])
        return log_density(squared, x.shape[2], self.df) - log_det

    def log_prob(self, x: Tensor) -> Tensor:
        log_p = self.component_log_prob(x)
        return log_p[:, :, 0] if self.log_weights is None else torch.logsumexp(self.log_weights + log_p, 2)

    def _weights(self) -> Tensor:
        return self.loc.new_zeros(self.loc.shape[:3]) if self.log_weights is None else self.log_weights

    def mean(self) -> Tensor:
        if self.log_weights is None:
            return self.loc[:, :, 0]
        return (self.log_weights.exp()[..., None] * self.loc).sum(2)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        normal = torch.randn(self.loc.shape, generator=generator, device=self.loc.device, dtype=self.loc.dtype)
        stretched, log_factor = normal, normal.new_zeros(())
        if self.df is not None:
            log_factor = 0.5 * (self.df.double().log() - log_chi_squared(self.df, generator))
            stretched = normal * log_factor.clamp(max=LARGEST_LOG_FACTOR).exp().to(normal.dtype)[..., None]
        drawn = self.loc + self.scale.colour(stretched)
        finite = drawn.isfinite().all(-1, keepdim=True)
        if not finite.all():
            drawn = torch.where(finite, drawn, self.loc + self._far(normal, log_factor))
        if self.log_weights is None:
            return drawn[:, :, 0]
        chosen = torch.multinomial(self.log_weights.exp().flatten(0, 1), 1, generator=generator)
        return _chosen(drawn, chosen.view(drawn.shape[:2]))

    def _far(self, normal: Tensor, log_factor: Tensor) -> Tensor:
        """e^log_factor L normal where that overflows on the way: its direction, with LARGEST as its largest number at most.

        A triangular solve alone multiplies up by 1e20 and more, where the diagonals are small.
        """
        coloured = self.scale.colour(normal * SMALLER).nan_to_num(0.0).double()
        largest = coloured.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        log_size = largest.log() - math.log(SMALLER) + log_factor[..., None]
        return (coloured / largest * log_size.clamp(max=math.log(LARGEST)).exp()).to(normal.dtype)

    def marginals(self) -> Marginals:
        return Marginals(self._weights(), self.loc, self.scale.sd().expand_as(self.loc), self.df)

    def estimates(self) -> dict[str, Tensor]:
        """Of K components the location where the mixture's density is highest, and that of the greatest weight.

        The former is what the released code shows of mixtures of t's.
        """
        if self.loc.shape[2] == 1:
            return {}
        at_modes = torch.stack([self.log_prob(mode) for mode in self.loc.unbind(2)], dim=2)
        return {
            "densest_mode": _chosen(self.loc, at_modes.argmax(2)),
            "likeliest": _chosen(self.loc, self._weights().argmax(2)),
        }


class Emitting(Likelihood):
    """Of ``Mixed``: the family by ``likelihood``, its scale by ``scale``, K by ``components``."""

    def __init__(self, config: LikelihoodConfig, n_members: int, image_shape: Sequence[int]) -> None:
        super().__init__(config, n_members, image_shape)
        self.config, self.row, self.image_shape = config, LIKELIHOODS[config.likelihood], tuple(image_shape)
        self.n_components, self.mixed = max(1, config.components), config.components > 0
        self.maps, self.others = emits(config, image_shape)
        self.scale_maps, self.scale_others = scale_numbers(config, image_shape)
        self.location_alone = getattr(config, "information_about", "") == "location"

    def split(self, a: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Raw numbers (..., n_outputs) as locations (..., K, n_pixels), scales (..., K, numbers), and df and logits (..., K)."""
        k, d = self.n_components, self.n_pixels
        sizes = [k * d, k * self.scale_maps * d, k * self.mixed, k * self.row.heavy, k * self.scale_others]
        loc, maps, logits, df, others = a.split(sizes, dim=-1)  # in one cut, whose gradient is one concatenation
        scale = maps.unflatten(-1, (k, d)) if self.scale_maps else others.unflatten(-1, (k, self.scale_others))
        return loc.unflatten(-1, (k, d)), scale, df if self.row.heavy else None, logits if self.mixed else None

    def scale_of(self, raw: Tensor, loc: Tensor) -> Scale:
        """The scale of these raw numbers, (..., K, numbers)."""
        kind, least = self.config.scale, self.config.least_scale
        precision = self.config.cholesky_of == "precision-matrix"
        if kind == "identity":
            return Identity(loc)
        if kind == "diagonal":
            return RowColumnDiagonal(raw, self.image_shape, least) if self.row.matrix else Diagonal(raw, least)
        if self.row.matrix:
            return RowColumnTriangular(raw, self.image_shape, least, precision)
        return Triangular(raw, self.n_pixels, least, precision)

    def distribution(self, a: Tensor) -> Mixed:
        loc, scale, df, logits = self.split(a)
        loc = super().mean(loc)
        return Mixed(
            None if logits is None else torch.log_softmax(logits, -1),
            loc, self.scale_of(scale, loc), None if df is None else softplus(df) + LEAST_DF,
        )  # fmt: skip

    def log_prob(self, x: Tensor, a: Tensor) -> Tensor:
        return self.distribution(a).log_prob(x)

    def mean(self, a: Tensor) -> Tensor:
        """Of locations and weights alone: the triangles of a full scale are larger than all else."""
        loc, _, df, logits = self.split(a)
        loc = super().mean(loc)
        return Mixed(None if logits is None else torch.log_softmax(logits, -1), loc, Identity(loc), df).mean()

    def sample(self, a: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.distribution(a).sample(generator)

    def marginals(self, a: Tensor) -> Marginals:
        return self.distribution(a).marginals()

    def root_information(self, a: Tensor) -> Root:
        """Of one component; of a mixture no closed form is known."""
        if self.mixed:
            raise NotImplementedError("the Fisher information of a mixture has no closed form; leave components at 0")
        return EmittedRoot(self, a)

    @property
    def n_rows(self) -> int:
        height, width = self.image_shape[1], self.image_shape[0] * self.image_shape[2]
        if self.location_alone:
            return self.n_pixels
        of_scale = {"identity": 0, "diagonal": self.n_pixels + 1, "full": self.scale_others + 1}[self.config.scale]
        if self.row.matrix and self.config.scale == "full":
            of_scale = height**2 + width**2 + 1
        return self.n_pixels + of_scale + self.row.heavy


class EmittedRoot:
    """A root of the Fisher information of one component about a. Its rows, of a tangent of location, scale and nu:

        sqrt c L^-1 t_mu;   sqrt c g;   sqrt(c_t) t + c_tn/sqrt(c_t) t_nu;   sqrt(I_nu - c_tn^2/c_t) t_nu

    with g and t of ``Scale.information``; of the normal c = c_t = 1 and the last row is none. Of the t (Lange, Little, Taylor
    1989, appendix B) c = (nu + d)/(nu + d + 2), c_t = nu/(nu + d + 2), c_tn = -sqrt(2 d)/((nu + d)(nu + d + 2)) and
    I_nu = (psi'(nu/2) - psi'((nu + d)/2))/4 - d/(nu (nu + d)) + d/(2 nu (nu + d + 2)).
    information_about location keeps the first alone.
    """

    def __init__(self, likelihood: Emitting, a: Tensor) -> None:
        self.likelihood, self.a = likelihood, a
        self.n_rows = likelihood.n_rows
        loc, scale, df, _ = likelihood.split(a)
        self.slope = root_slope(loc).square() if likelihood.sigmoid else None
        self.scale = likelihood.scale_of(scale, loc)
        self.raw_df = df
        if df is not None:
            d, nu = likelihood.n_pixels, (softplus(df) + LEAST_DF).double()
            both = (nu + d) * (nu + d + 2)
            self.c = torch.sqrt((nu + d) / (nu + d + 2)).to(a.dtype)
            c_t, c_tn = nu / (nu + d + 2), -math.sqrt(2 * d) / both
            i_nu = 0.25 * (torch.polygamma(1, 0.5 * nu) - torch.polygamma(1, 0.5 * (nu + d)))
            i_nu = i_nu - d / (nu * (nu + d)) + 0.5 * d / (nu * (nu + d + 2))
            left = i_nu if isinstance(self.scale, Identity) else i_nu - c_tn.square() / c_t
            self.of_trace, self.crossed = c_t.sqrt().to(a.dtype), (c_tn / c_t.sqrt()).to(a.dtype)
            # Of df beyond 1e6 it is 0 to rounding, and the root's gradient would be infinite.
            self.of_df = left.clamp(min=1e-30).sqrt().to(a.dtype)

    def push(self, tangent: Tensor) -> Tensor:
        if tangent.dim() == 3:
            return self.push(tangent[:, :, None])[:, :, 0]
        locations, scales, df, _ = self.likelihood.split(tangent)
        loc = locations[..., 0, :] if self.slope is None else self.slope * locations[..., 0, :]
        rows = [self.scale.whiten(loc)]
        scaled = not isinstance(self.scale, Identity)
        if scaled and not self.likelihood.location_alone:
            of_scale, trace = self.scale.information(scales[..., 0, :])
            rows += [of_scale, trace[..., None]]
        if self.raw_df is None or df is None:
            return torch.cat(rows, dim=-1)
        rows = [self.c[..., None] * own for own in rows]
        if not self.likelihood.location_alone:
            change = softplus_slope(self.raw_df)[..., None] * df
            if scaled:
                rows[2] = self.of_trace[..., None] * trace[..., None] + self.crossed[..., None] * change
            rows.append(self.of_df[..., None] * change)
        return torch.cat(rows, dim=-1)

    def pull(self, rows: Tensor) -> Tensor:
        """The transpose of ``push``, which is linear: its derivative."""
        with torch.enable_grad():
            tangent = rows.new_zeros(*rows.shape[:-1], self.a.shape[2]).requires_grad_()
            (pulled,) = torch.autograd.grad(self.push(tangent), tangent, rows)
        return pulled

    def gram(self, tangent: Tensor) -> Tensor:
        return self.pull(self.push(tangent))

    def part(self, members: slice) -> Self:
        return type(self)(self.likelihood, self.a[members])


def gaussian(config: LikelihoodConfig, n_members: int, image_shape: Sequence[int]) -> Likelihood:
    """Unit variance without weights is the ``Gaussian``; with a scale or components the emitted normal."""
    plain = config.scale == "identity" and not config.components
    return (Gaussian if plain else Emitting)(config, n_members, image_shape)


def to_matrix(x: Tensor, image_shape: Sequence[int]) -> Tensor:
    """Images (..., n_pixels) as (..., height, channels x width), each row's channels together."""
    return x.unflatten(-1, tuple(image_shape)).transpose(-3, -2).flatten(-2)


def from_matrix(x: Tensor, image_shape: Sequence[int]) -> Tensor:
    """The inverse of ``to_matrix``."""
    return x.unflatten(-1, (image_shape[0], image_shape[2])).transpose(-3, -2).flatten(-3)


def _chosen(of_components: Tensor, index: Tensor) -> Tensor:
    """(n_members, n, K, n_pixels) at (n_members, n)."""
    at = index[:, :, None, None].expand(-1, -1, 1, of_components.shape[3])
    return of_components.gather(2, at)[:, :, 0]


def _apart(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows less what they have in common, and that along the unit vector in this direction."""
    common = rows.mean(-1, keepdim=True)
    return rows - common, common[..., 0] * math.sqrt(rows.shape[-1])
