"""Distances between the features of real and of generated images: Fréchet, kernel, precision, recall, density, coverage.

Features are arrays (n, f), one row per image, all from one network. They are kept in float32, as networks make them,
and computed with in float64: the expansion |x - y|² = |x|² + |y|² - 2 x·y cancels, and its float32 error can exceed
the distance between neighbours. Nothing here is random but the choice of images for the kernel distance of large sets.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

K = 5  # nearest neighbours: Naeem et al. (2020) use 5; Kynkäänniemi et al. (2019) 3
# All pairs of as many images as the usual test sets have. Of larger sets so many are drawn: without it the pairs of
# 60,000 training images with one another would cost more than everything else together.
KERNEL_IMAGES = 10_000
BLOCK = 2**22  # entries of a matrix over pairs held at once, 32 MiB each in float64, of which about six are alive
EPS = np.finfo(np.float64).eps


@dataclass(frozen=True)
class Moments:
    """Mean (f,) and covariance (f, f) of n feature vectors.

    Raises ValueError where these are not finite, of one dimension and symmetric.
    """

    mean: np.ndarray
    covariance: np.ndarray
    n: int

    def __post_init__(self) -> None:
        f = self.mean.size
        if self.mean.shape != (f,) or self.covariance.shape != (f, f):
            raise ValueError(
                "The moments of f features are a mean of shape (f,) and a covariance of shape (f, f); "
                f"got {self.mean.shape} and {self.covariance.shape}."
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise ValueError("The mean and covariance of features are finite; got NaN or infinity.")
        asymmetry = np.abs(self.covariance - self.covariance.T).max(initial=0)
        if asymmetry > 1e-10 * np.abs(self.covariance).max(initial=0):  # the rounding of a product of three matrices
            raise ValueError(
                f"A covariance is symmetric; this one differs from its transpose by up to {asymmetry:.3g}."
            )


@dataclass(frozen=True)
class RealFeatures:
    """What is computed once of the real images.

    ``features`` (n, f) float32, their ``gaussian``, and ``radii`` (n,), each one's distance to its K-th nearest other.
    """

    features: np.ndarray
    gaussian: Moments
    radii: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Self:
        """All of it from features (n, f); raises ValueError unless they are finite and n > K."""
        features = _float32(features, "real")
        return cls(features, fit_gaussian(features), nearest_radii(features))

    def save(self, path: Path) -> None:
        """Write everything to path as .npz; a write that is cut off leaves no file of that name."""
        partial = path.with_name(f"{path.name}.partial")
        with partial.open("wb") as file:  # given a path, NumPy would add .npz to it
            np.savez(
                file,
                features=self.features,
                radii=self.radii,
                mean=self.gaussian.mean,
                covariance=self.gaussian.covariance,
                n=np.int64(self.gaussian.n),
            )
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What ``save`` wrote; raises ValueError where the file is damaged or something else."""
        data = path.read_bytes()
        try:
            archive = np.load(io.BytesIO(data), allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            features, radii, mean, covariance, n = (
                archive[name] for name in ("features", "radii", "mean", "covariance", "n")
            )
            if [a.dtype for a in (features, radii, mean, covariance)] != [np.float32, *[np.float64] * 3]:
                raise ValueError("its arrays are of other types")
            if features.shape != (int(n), len(mean)) or radii.shape != (int(n),):
                raise ValueError("its arrays do not fit together")
            return cls(features, Moments(mean, covariance, int(n)), radii)
        # What NumPy and zipfile raise for one changed byte, which may turn stored into compressed or encrypted.
        except (ValueError, KeyError, EOFError, OSError, RuntimeError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{path} is not a whole file of features of real images, and is made anew once deleted: {error}."
            ) from error


@dataclass(frozen=True)
class Scores:
    """``values`` by name, and ``remarks``, sentences on what a reader of the values would take for granted."""

    values: dict[str, float]
    remarks: list[str]


def score(real: RealFeatures, features: np.ndarray, seed: int = 0) -> Scores:
    """All distances of generated images, given by features (n, f), from the real ones.

    ``frechet`` and ``kid``: lower is better. ``precision``, ``recall`` and ``coverage`` in [0, 1] and ``density``
    from 0, about 1 for equal distributions: higher is better. ``seed`` chooses the images that enter ``kid``
    where a set has more than KERNEL_IMAGES; all else takes every image. Raises ValueError for features that are
    not finite, are not as many per image as the real ones, or are of K images or fewer.
    """
    generated = _float32(features, "generated")
    n_real, n_generated, f = len(real.features), len(generated), real.features.shape[1]
    if generated.shape[1] != f:
        raise ValueError(
            "Features of real and generated images come from one network; "
            f"the real images have {f} each, the generated ones {generated.shape[1]}."
        )
    remarks = []
    for whose, n in (("real", n_real), ("generated", n_generated)):
        if n <= f:
            remarks.append(
                f"The covariance of the {whose} images' {f} features is singular, as there are only {n} such images, "
                f"so frechet is biased; it compares only with sets of equal size, and needs more than {f} images."
            )
        if n > KERNEL_IMAGES:
            remarks.append(f"kid takes {KERNEL_IMAGES} of the {n} {whose} images, drawn with seed {seed}.")
    values = {
        "frechet": frechet_distance(real.gaussian, fit_gaussian(generated)),
        "kid": kernel_distance(real.features, generated, seed),
    }
    return Scores(values | neighbour_scores(real, generated), remarks)


def fit_gaussian(features: np.ndarray) -> Moments:
    """Mean and covariance of features (n, f) over n - 1, in float64; raises ValueError for n < 2 and non-finite ones."""
    _check(features, "", least=2)
    features = features.astype(np.float64)
    return Moments(features.mean(axis=0), np.atleast_2d(np.cov(features, rowvar=False)), len(features))


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Fréchet distance of two Gaussians (the FID, of Inception's features):

        |m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^(1/2)).

    Dowson and Landau (1982); Heusel et al. (2017), eq. 6. With C = L Lᵀ from the eigenvectors of each
    covariance, tr (C_a C_b)^(1/2) is the sum of the singular values of L_aᵀ L_b. Only the roots within L_a and
    L_b can be imaginary, which is checked. The squares of the singular values, eigenvalues of
    C_a^(1/2) C_b C_a^(1/2), would keep half the digits. Biased by terms of order 1/n where a and b are estimates
    of n images (Chong and Forsyth, 2020).

    Raises ValueError for unequal dimensions, and for a covariance with an eigenvalue below zero beyond rounding.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"Both Gaussians are of as many features; got {a.mean.size} and {b.mean.size}.")
    roots = np.linalg.svd(_factor(a).T @ _factor(b), compute_uv=False)
    offset = a.mean - b.mean
    distance = offset @ offset + np.trace(a.covariance) + np.trace(b.covariance) - 2 * roots.sum()
    # Never negative but by the rounding of this last difference, of equal sets for instance.
    return max(float(distance), 0.0)


def kernel_distance(x: np.ndarray, y: np.ndarray, seed: int = 0) -> float:
    """Kernel inception distance, the unbiased estimate of the squared maximum mean discrepancy,

        mean over i≠j of k(x_i, x_j) + mean over i≠j of k(y_i, y_j) - 2 mean over i,j of k(x_i, y_j),
        k(x, y) = (x·y / f + 1)³.

    Bińkowski et al. (2018); Gretton et al. (2012), eq. 3. Zero on average for equal distributions, so single
    values may be negative. Over all pairs, where implementations often average over small subsets: the same
    expectation, less noise. Of a set of more than KERNEL_IMAGES so many are drawn with ``seed``. Raises ValueError
    for fewer than two images in a set and for features that are not finite.
    """
    rng = np.random.default_rng(seed)
    x, y = _drawn(x, rng), _drawn(y, rng)
    return _mean_kernel(x) + _mean_kernel(y) - 2 * _kernel_sum(x, y) / (len(x) * len(y))


def neighbour_scores(real: RealFeatures, generated: np.ndarray) -> dict[str, float]:
    """Precision, recall, density and coverage of generated features (m, f) by balls around points.

    The ball of a point is closed and reaches to its K-th nearest other in its own set.
    ``precision``: share of generated points in some real ball; ``recall``: of real points in some generated ball
    (Kynkäänniemi et al., 2019, eq. 1 and 2). ``density``: number of real balls a generated point lies in, averaged
    and divided by K; ``coverage``: share of real balls that hold a generated point (Naeem et al., 2020). Higher is
    better.

    Whether a point on the rim is inside is decided exactly, so equal sets have precision, recall and coverage 1,
    also where images repeat, and without ties density (K + 1) / K: each ball holds its centre and K others (1 in
    the authors' code, whose balls are open; they differ in ties alone).
    """
    radii = nearest_radii(generated)
    n_balls = np.zeros(len(generated), dtype=np.int64)
    covered, recalled = np.zeros((2, len(real.features)), dtype=bool)
    for rows, block in _distance_blocks(real.features, generated):
        in_real = block.within(real.radii[rows, None])
        n_balls += in_real.sum(axis=0)
        covered[rows] = in_real.any(axis=1)
        recalled[rows] = block.within(radii[None, :]).any(axis=1)
    return {
        "precision": float((n_balls > 0).mean()),
        "recall": float(recalled.mean()),
        "density": float(n_balls.mean() / K),
        "coverage": float(covered.mean()),
    }


def nearest_radii(features: np.ndarray) -> np.ndarray:
    """Distance (n,) of each point to its K-th nearest other one, n > K; repetitions of a point count as others."""
    radii = np.empty(len(features))
    # Twice as many candidates as needed, whose exact distances decide, as the order of the others may be rounding. It
    # takes more than K neighbours that are equally far to within slack, and not equal, to make a radius too large by that.
    n_near = min(2 * K, len(features) - 1)
    for rows, block in _distance_blocks(features, features):
        i = np.arange(len(block.squared))
        block.squared[i, rows.start + i] = np.inf  # not a neighbour of itself
        near = np.argpartition(block.squared, n_near - 1, axis=1)[:, :n_near]
        distances = block.exact(i.repeat(n_near), near.ravel()).reshape(near.shape)
        radii[rows] = np.partition(distances, K - 1, axis=1)[:, K - 1]
    return radii


@dataclass(frozen=True)
class _Block:
    """Distances between b points and m: ``squared`` (b, m), to within ``slack`` (b, m), and exact ones on request."""

    x: np.ndarray
    y: np.ndarray
    squared: np.ndarray
    slack: np.ndarray

    def within(self, radii: np.ndarray) -> np.ndarray:
        """Whether the distance is at most the radius, (b, 1) or (1, m); decided exactly where slack leaves it open."""
        margin = radii**2 - self.squared
        inside = margin > self.slack
        i, j = np.nonzero(np.abs(margin) <= self.slack)
        inside[i, j] = self.exact(i, j) <= np.broadcast_to(radii, inside.shape)[i, j]
        return inside

    def exact(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """|x_i - y_j| from differences: zero for equal points alone, and bit for bit a function of the two points."""
        distances = np.empty(len(i))
        step = max(1, BLOCK // self.x.shape[1])
        for start in range(0, len(i), step):
            some = slice(start, start + step)
            difference = self.x[i[some]].astype(np.float64) - self.y[j[some]]
            distances[some] = np.sqrt((difference**2).sum(axis=1))
        return distances


def _distance_blocks(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, _Block]]:
    """Blocks of rows of x with their distances to all of y."""
    centre = y.mean(axis=0, dtype=np.float64)  # a common offset would cost digits of |x|² + |y|² - 2 x·y
    x_centred, y_centred = x - centre, y - centre
    x_norms, y_norms = (x_centred**2).sum(axis=1), (y_centred**2).sum(axis=1)
    # Higham (2002), section 3.1: sums and dot products of f terms err by at most f EPS/2 times the sum of absolute
    # values, here 2 (|x|² + |y|²) with that of the expansion; 8 more for centring, the last sums and radii squared.
    rounding = 2 * (x.shape[1] + 8) * EPS
    for rows in _row_blocks(len(x), len(y)):
        norms = x_norms[rows, None] + y_norms
        squared = norms - 2 * (x_centred[rows] @ y_centred.T)
        yield rows, _Block(x[rows], y, squared, rounding * norms)


def _row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    step = max(1, BLOCK // n_columns)
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def _mean_kernel(x: np.ndarray) -> float:
    """Mean of k(x_i, x_j) over i≠j."""
    n, f = x.shape
    own = ((x**2).sum(axis=1) / f + 1) ** 3
    return (_kernel_sum(x, x) - float(own.sum())) / (n * (n - 1))


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    """Sum of k(x_i, y_j) over all i and j."""
    total = 0.0
    for rows in _row_blocks(len(x), len(y)):
        base = x[rows] @ y.T / x.shape[1] + 1
        total += float(np.vdot(base**2, base))
    return total


def _drawn(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The features in float64, at most KERNEL_IMAGES of them."""
    _check(features, "", least=2)
    if len(features) > KERNEL_IMAGES:
        features = features[rng.choice(len(features), KERNEL_IMAGES, replace=False)]
    return features.astype(np.float64)


def _factor(gaussian: Moments) -> np.ndarray:
    """L with L Lᵀ the covariance, from its eigenvectors."""
    eigenvalues, vectors = np.linalg.eigh(gaussian.covariance)
    # A sum over n images and an eigen-decomposition of f dimensions round by at most n and f times EPS times the
    # largest eigenvalue, the measure that numpy.linalg.matrix_rank takes too.
    rounding = max(gaussian.n, len(eigenvalues)) * EPS * eigenvalues[-1]
    if eigenvalues[0] < -rounding:
        raise ValueError(
            f"A covariance has no negative eigenvalue beyond rounding ({rounding:.3g}); this one has {eigenvalues[0]:.3g}, "
            "so its root is imaginary and the Fréchet distance undefined."
        )
    return vectors * np.sqrt(np.maximum(eigenvalues, 0))


def _float32(features: np.ndarray, whose: str) -> np.ndarray:
    """The features in float32; raises ValueError unless they are finite there and of more than K images."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is said below
        features = np.asarray(features, dtype=np.float32)
    _check(features, whose, least=K + 1)
    return features


def _check(features: np.ndarray, whose: str, least: int) -> None:
    images = f"{whose} images".strip()
    if features.ndim != 2 or features.shape[1] < 1:
        raise ValueError(f"Features of {images} are an array (images, features); got the shape {features.shape}.")
    if len(features) < least:
        raise ValueError(f"Features of at least {least} {images} are needed; got {len(features)}.")
    n_odd = int((~np.isfinite(features)).any(axis=1).sum())
    if n_odd:
        raise ValueError(f"Features of {images} are finite; {n_odd} of {len(features)} images have NaN or infinity.")
