"""Triangles that a decoder emits for every image, packed, and what is solved and multiplied with them."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fishernet.networks.activations import ACTIVATIONS

softplus, softplus_slope = ACTIVATIONS["softplus"].function, ACTIVATIONS["softplus"].slope


class Triangle:
    """A lower triangular matrix of n (n + 1)/2 raw numbers: its diagonal softplus + least, its strict part as it is.

    The strict part is packed as a rectangle without a gap: with e = 1 where n is even, else 0, and h = n // 2, R is
    (n - e, h), R[i, j] holds entry (i + e, j) where j < i + e, and R[b, a + e] entry (h + 1 + a, h + b), b <= a. So products
    are two of triangles that ``tril`` and ``triu`` cut out of R (``_halves``), and no number is ever gathered.
    """

    def __init__(self, raw: Tensor, n: int, least: float) -> None:
        self.n, self.least = n, least
        self.e, self.h = 1 - n % 2, n // 2
        self.k = n - self.h - 1
        self.raw_diagonal, packed = raw.split([n, n * (n - 1) // 2], dim=-1)
        self.diagonal, self.rectangle = softplus(self.raw_diagonal) + least, self._rectangle(packed)

    def _rectangle(self, packed: Tensor) -> Tensor:
        """R, (..., n - e, h)."""
        return packed.unflatten(-1, (self.n - self.e, self.h)) if self.h else packed[..., None].mT

    @cached_property
    def halves(self) -> tuple[Tensor, Tensor]:
        return _halves(self.rectangle, self.n)

    def dense(self) -> Tensor:
        """(..., n, n)."""
        return _dense(self.diagonal, self.rectangle)

    def tangent(self, raw: Tensor) -> Tensor:
        """How the matrix changes with its raw numbers, (..., n, n)."""
        diagonal, packed = raw.split([self.n, raw.shape[-1] - self.n], dim=-1)
        return _dense(softplus_slope(self.raw_diagonal) * diagonal, self._rectangle(packed))

    def log_det(self) -> Tensor:
        return self.diagonal.log().sum(-1)

    def transposed_product(self, r: Tensor) -> Tensor:
        """F^T r for vectors r, without the dense F."""
        product = self.diagonal * r
        if not self.h:
            return product
        return product + cast("Tensor", _StrictProduct.apply(self.rectangle, r))

    def solve(self, r: Tensor) -> Tensor:
        """F^-1 r for vectors r, by two triangles of half the size."""
        h, e, n = self.h, self.e, self.n
        if not h:
            return r / self.diagonal
        left, block = self.halves
        upper = F.pad(left[..., : h - e, :], (0, 0, e, 0)) + torch.diag_embed(self.diagonal[..., :h])
        lower = F.pad(block.mT, (0, n - h - self.k, n - h - self.k, 0)) + torch.diag_embed(self.diagonal[..., h:])
        first = solve(upper, r[..., :h])
        second = solve(lower, r[..., h:] - times(left[..., h - e :, :], first))
        return torch.cat([first, second], dim=-1)


def _halves(rectangle: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Of a ``Triangle``'s R the first h columns below the first e rows, (n - e, h), and the transposed strict rest, (k, k)."""
    return rectangle.tril(-(n % 2)), _upper(rectangle, n).triu()


def _upper(rectangle: Tensor, n: int) -> Tensor:
    """Of a ``Triangle``'s R the rows and columns whose upper triangle is the transposed rest, (k, k)."""
    return rectangle[..., : n - n // 2 - 1, 1 - n % 2 :]


class _Dense(torch.autograd.Function):
    """A ``Triangle``'s diagonal (..., n) and R as a matrix, (..., n, n). Of its gradient the triangle alone is read."""

    @staticmethod
    def forward(ctx: Any, diagonal: Tensor, rectangle: Tensor) -> Tensor:
        dense = diagonal.new_zeros(*diagonal.shape, diagonal.shape[-1])
        left, block = _places(dense)
        left.copy_(rectangle)
        block.copy_(_upper(rectangle, dense.shape[-1]))
        dense.diagonal(dim1=-2, dim2=-1).copy_(diagonal)
        return dense.tril_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        left, block = _places(cotangent)
        of_rectangle = left.clone(memory_format=torch.contiguous_format)
        shared = _upper(of_rectangle, cotangent.shape[-1])
        above = torch.ones(block.shape[-2:], dtype=torch.bool, device=block.device).triu()
        shared.copy_(torch.where(above, block, shared))
        return cotangent.diagonal(dim1=-2, dim2=-1), of_rectangle


def _dense(diagonal: Tensor, rectangle: Tensor) -> Tensor:
    return cast("Tensor", _Dense.apply(diagonal, rectangle))


def _places(dense: Tensor) -> tuple[Tensor, Tensor]:
    """Where R's two triangles lie in a matrix (..., n, n): its lower one (n - e, h), and transposed its upper one (k, k)."""
    n = dense.shape[-1]
    h = n // 2
    return dense[..., 1 - n % 2 :, :h], dense[..., h + 1 :, h : n - 1].mT


class _StrictProduct(torch.autograd.Function):
    """F^T r of the strict part of a ``Triangle`` F, image by image: on a CPU what ``tril`` copies then stays in its cache.

    Of 784 pixels that is 1.2 MB an image, and a third of the time that the whole batch at once takes.
    """

    @staticmethod
    def forward(ctx: Any, rectangle: Tensor, r: Tensor) -> Tensor:
        ctx.save_for_backward(rectangle, r)
        n, product = r.shape[-1], _zeros(r)
        h = n // 2
        for of_image, own, out in _by_image(rectangle, r, product):
            left, block = _halves(of_image, n)
            torch.bmm(own[..., n - left.shape[1] :], left, out=out[..., :h])
            out[..., h : h + block.shape[1]] += torch.bmm(own[..., h + 1 :], block.mT)
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        rectangle, r = ctx.saved_tensors
        n, cotangent = r.shape[-1], cotangent.contiguous()
        of_rectangle, of_r = torch.empty_like(rectangle, memory_format=torch.contiguous_format), _zeros(r)
        h, e = n // 2, 1 - n % 2
        k = n - h - 1
        for of_image, own, w, d_image, d_own in _by_image(rectangle, r, cotangent, of_rectangle, of_r):
            left, block = _halves(of_image, n)
            torch.bmm(own[..., e:].mT, w[..., :h], out=d_image).tril_(e - 1)
            d_image[:, :k, e:] += torch.bmm(w[..., h : h + k].mT, own[..., h + 1 :]).triu_()
            d_own[..., e:] = torch.bmm(w[..., :h], left.mT)
            d_own[..., h + 1 :] += torch.bmm(w[..., h : h + k], block)
        return of_rectangle, of_r


def _zeros(like: Tensor) -> Tensor:
    """In order, so that ``_by_image`` has views of it to write to."""
    return torch.zeros_like(like, memory_format=torch.contiguous_format)


def _by_image(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of each image's matrices, (1, p, q), and vectors, (1, number of them, n); on a GPU of all images at once.

    Matrices are (n_members, n, K, p, q), vectors (n_members, n, K, n) or, of K = 1, any number of them.
    """
    k = tensors[0].shape[2]
    flat = [
        t.flatten(0, 2) if t.dim() == 5 else t.flatten(0, 1) if k == 1 else t.flatten(0, 2)[:, None] for t in tensors
    ]
    yield from zip(*(t.split(1 if t.device.type == "cpu" else len(t)) for t in flat), strict=True)


class _WhitenedSquares(torch.autograd.Function):
    """|A^-1 R B^-T|^2 of lower triangles A (..., n, n) and B (..., m, m) and matrices R (..., n, m): (...).

    Four solves and two products a step, laid out so that LAPACK and BLAS copy little. Gradients of A and B have numbers above
    the diagonal too, which ``_Dense`` does not read.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, r: Tensor) -> Tensor:
        half = solved(a, r, upper=False)
        y = solved(b, half.mT, upper=False)  # transposed
        ctx.save_for_backward(a, b, half, y)
        return y.square().sum((-2, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b, half, y = ctx.saved_tensors
        of_half = solved(b.mT, y * (2 * cotangent)[..., None, None], upper=True)  # transposed
        of_r = solved(a.mT, of_half.mT, upper=True)
        return (of_r @ half.mT).neg_(), (of_half @ y.mT).neg_(), of_r


def whitened_squares(a: Tensor, b: Tensor, r: Tensor) -> Tensor:
    """|A^-1 R B^-T|^2, (...), of ``Triangle.dense`` matrices A and B."""
    return cast("Tensor", _WhitenedSquares.apply(a, b, r))


def row_norms(triangle: Triangle, precision: bool) -> Tensor:
    """sqrt of the diagonal of F F^T, or of its inverse where F is of the precision matrix."""
    dense = triangle.dense()
    if precision:
        unit = torch.eye(triangle.n, device=dense.device, dtype=dense.dtype)
        dense = torch.linalg.solve_triangular(dense, unit, upper=False).mT
    return dense.square().sum(-1).sqrt()


def solved(triangle: Tensor, matrix: Tensor, *, upper: bool) -> Tensor:
    """A^-1 R as X^T of X A^T = R^T: of many small matrices LAPACK solves these twice as fast."""
    return torch.linalg.solve_triangular(triangle.mT, matrix.mT, upper=not upper, left=False).mT


def times(matrix: Tensor, r: Tensor) -> Tensor:
    """Matrices (n_members, n, K, p, q) times vectors (n_members, n, K, q); of one matrix an image, with any number of them."""
    if matrix.shape[2] == 1:
        return r @ matrix[:, :, 0].mT
    return (matrix @ r[..., None])[..., 0]


def solve(matrix: Tensor, r: Tensor, *, upper: bool = False) -> Tensor:
    """The inverse of triangular matrices times vectors, as ``times``."""
    if matrix.shape[2] == 1:
        return torch.linalg.solve_triangular(matrix[:, :, 0], r.mT, upper=upper).mT
    return torch.linalg.solve_triangular(matrix, r[..., None], upper=upper)[..., 0]
