"""Distances of feature sets against closed forms, enumerations, naive loops and pytorch-fid."""

import itertools
import math

import numpy as np
import pytest
from pytorch_fid.fid_score import calculate_frechet_distance

from analysis.scores import distances
from analysis.scores.distances import (
    EPS,
    K,
    Moments,
    RealFeatures,
    fit_gaussian,
    frechet_distance,
    kernel_distance,
    score,
)

NEIGHBOUR_SCORES = ("precision", "recall", "density", "coverage")


def normal(n: int, f: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, f)).astype(np.float32)


def mixing(f: int, seed: int) -> np.ndarray:
    """A matrix that correlates features, with singular values from 0.1 to 3."""
    rng = np.random.default_rng(seed)
    return rotation(f, seed) * np.geomspace(0.1, 3, f) @ np.linalg.qr(rng.normal(size=(f, f)))[0]


def rotation(f: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(1000 + seed).normal(size=(f, f)))[0]


def gaussian(mean: np.ndarray, covariance: np.ndarray) -> Moments:
    return Moments(np.asarray(mean, dtype=float), (covariance + covariance.T) / 2, n=1000)


def neighbour_scores(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    return distances.neighbour_scores(RealFeatures.of(x), y)


# Fréchet distance


def test_the_gaussian_of_features_is_their_mean_and_covariance_over_n_minus_one():
    x = normal(7, 3).astype(np.float64)
    fitted = fit_gaussian(x)
    mean = sum(x) / 7
    np.testing.assert_allclose(fitted.mean, mean, rtol=1e-14)
    np.testing.assert_allclose(
        fitted.covariance, sum(np.outer(row - mean, row - mean) for row in x) / 6, rtol=1e-13, atol=1e-15
    )
    assert fitted.n == 7
    assert fit_gaussian(x[:, :1]).covariance.shape == (1, 1)


def test_equal_sets_have_frechet_distance_zero_to_the_rounding_of_their_traces():
    """Covariance eigenvalues over twelve orders: roots of eigenvalues of C_a C_b would leave 1e-8, not 1e-15."""
    f = 30
    scales = np.geomspace(1e-6, 1, f)
    a = gaussian(np.ones(f), rotation(f, 0) * scales**2 @ rotation(f, 0).T)
    assert 0 <= frechet_distance(a, a) <= 20 * EPS * np.trace(a.covariance)


def test_equal_covariances_leave_the_squared_offset_of_the_means():
    f = 12
    offset = np.linspace(-1, 2, f)
    covariance = mixing(f, 1) @ mixing(f, 1).T
    distance = frechet_distance(gaussian(np.zeros(f), covariance), gaussian(offset, covariance))
    assert distance == pytest.approx(offset @ offset, rel=1e-12)


def test_diagonal_gaussians_have_the_sum_of_squared_differences_of_means_and_deviations():
    means, deviations = np.array([[0.0, 1, -2, 3], [0.5, 1, 2, -1]]), np.array([[1.0, 0, 3, 0.2], [2.0, 0.5, 0, 0.2]])
    a, b = (gaussian(m, np.diag(s**2)) for m, s in zip(means, deviations, strict=True))
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-13)


def test_two_dimensions_without_commuting_covariances_follow_the_closed_form():
    """tr (AB)^(1/2) = (tr AB + 2 (det AB)^(1/2))^(1/2) for 2x2, by Cayley and Hamilton."""
    a, b = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.9], [-0.9, 3.0]])
    root = math.sqrt(np.trace(a @ b) + 2 * math.sqrt(np.linalg.det(a @ b)))
    distance = frechet_distance(gaussian(np.zeros(2), a), gaussian(np.zeros(2), b))
    assert distance == pytest.approx(np.trace(a) + np.trace(b) - 2 * root, rel=1e-12)


@pytest.mark.filterwarnings("ignore")  # SciPy announces the end of sqrtm(disp=False), which pytorch-fid calls
@pytest.mark.parametrize("f", [3, 24])
def test_frechet_distance_equals_that_of_pytorch_fid(f):
    x, y = normal(400, f, 1) @ mixing(f, 1), 0.3 + normal(300, f, 2) @ mixing(f, 2)
    a, b = fit_gaussian(x), fit_gaussian(y)
    assert np.abs(a.covariance @ b.covariance - b.covariance @ a.covariance).max() > 0.1
    reference = calculate_frechet_distance(
        x.mean(axis=0), np.cov(x, rowvar=False), y.mean(axis=0), np.cov(y, rowvar=False)
    )
    # Schur's method, theirs, keeps about half the digits of the smallest eigenvalues of a product.
    assert frechet_distance(a, b) == pytest.approx(reference, rel=1e-9)


def test_frechet_distance_is_symmetric_and_does_not_depend_on_the_axes():
    f = 16
    x, y, q = normal(200, f, 1) @ mixing(f, 1), 0.2 + normal(150, f, 2) @ mixing(f, 2), rotation(f, 3)
    distance = frechet_distance(fit_gaussian(x), fit_gaussian(y))
    assert distance > 1
    assert frechet_distance(fit_gaussian(y), fit_gaussian(x)) == pytest.approx(distance, rel=1e-12)
    assert frechet_distance(fit_gaussian(x @ q), fit_gaussian(y @ q)) == pytest.approx(distance, rel=1e-10)


def test_singular_covariances_follow_their_closed_forms():
    """Orthogonal supports have no common root; twice the deviations leave tr C (2 - 1)²."""
    f, n = 40, 8
    low, high = np.eye(f)[: f // 2], np.eye(f)[f // 2 :]
    x = normal(n, f // 2, 1) @ low
    a, b, doubled = fit_gaussian(x), fit_gaussian(normal(n, f // 2, 2) @ high), fit_gaussian(2 * x - x.mean(axis=0))
    offset = a.mean - b.mean
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    # Each of f eigenvalues that are zero but for rounding adds a root of up to (n EPS)^(1/2) of the largest.
    tolerance = 2 * f * math.sqrt(n * EPS) * traces
    assert frechet_distance(a, b) == pytest.approx(offset @ offset + traces, abs=tolerance)
    assert frechet_distance(a, doubled) == pytest.approx(np.trace(a.covariance), abs=tolerance)


@pytest.mark.parametrize(("n", "f"), [(6, 300), (100, 100), (3000, 40)])
def test_rounding_of_singular_covariances_is_not_taken_for_an_imaginary_root(n, f):
    x = 50 + normal(n, 3) @ normal(3, f, 1)
    assert frechet_distance(fit_gaussian(x), fit_gaussian(normal(n, f, 2))) > 0


def test_a_covariance_with_a_negative_eigenvalue_is_refused():
    odd = gaussian(np.zeros(3), np.diag([1.0, 0.5, -1e-9]))
    for a, b in ((odd, gaussian(np.zeros(3), np.eye(3))), (gaussian(np.zeros(3), np.eye(3)), odd)):
        with pytest.raises(ValueError, match=r"no negative eigenvalue beyond rounding .* this one has -1e-09"):
            frechet_distance(a, b)


def test_a_gaussian_refuses_what_is_no_mean_and_covariance():
    eye = np.eye(2)
    for mean, covariance, why in (
        (np.zeros(3), eye, "shape"),
        (np.zeros(2), np.triu(np.ones((2, 2))), "symmetric"),
        (np.array([0, np.nan]), eye, "finite"),
        (np.zeros(2), np.full((2, 2), np.inf), "finite"),
    ):
        with pytest.raises(ValueError, match=why):
            Moments(mean, covariance, 10)
    with pytest.raises(ValueError, match="as many features; got 2 and 3"):
        frechet_distance(gaussian(np.zeros(2), np.eye(2)), gaussian(np.zeros(3), np.eye(3)))


# Kernel distance


def test_kernel_distance_equals_a_double_loop():
    x, y = normal(9, 4, 1) @ mixing(4, 1), 0.5 + normal(7, 4, 2).astype(np.float64)

    def mean_kernel(a, b, but_own):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (but_own and i == j)]
        return math.fsum((float(a[i] @ b[j]) / 4 + 1) ** 3 for i, j in pairs) / len(pairs)

    expected = mean_kernel(x, x, True) + mean_kernel(y, y, True) - 2 * mean_kernel(x, y, False)
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)


def moment_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared MMD of two populations, as (x·y/f + 1)³ = Σ_p C(3, p) <x^(⊗p), y^(⊗p)> / f^p."""
    f = x.shape[1]
    total = 0.0
    for p, letters in ((1, "ni->i"), (2, "ni,nj->ij"), (3, "ni,nj,nk->ijk")):
        gap = np.einsum(letters, *[x] * p) / len(x) - np.einsum(letters, *[y] * p) / len(y)
        total += math.comb(3, p) * (gap**2).sum() / f**p
    return total


def test_kernel_distance_is_unbiased_over_all_samples_of_small_populations():
    """No Monte-Carlo error: the average over every sample with replacement is the populations' squared MMD."""
    x, y = normal(3, 2, 1).astype(float), 0.5 + normal(4, 2, 2).astype(float)
    samples = [
        (x[list(i)], y[list(j)])
        for i in itertools.product(range(3), repeat=2)
        for j in itertools.product(range(4), repeat=3)
    ]
    mean = np.mean([kernel_distance(a, b) for a, b in samples])
    assert mean == pytest.approx(moment_distance(x, y), rel=1e-12)
    with_own_pairs = np.mean([moment_distance(a, b) for a, b in samples])  # the biased estimate
    assert with_own_pairs > 1.5 * mean


def test_kernel_distance_is_zero_on_average_for_one_distribution_and_sees_a_shift():
    f, n, shift = 8, 60, 0.25
    draws = [(normal(n, f, 2 * i), normal(n, f, 2 * i + 1)) for i in range(200)]
    null = np.array([kernel_distance(x, y) for x, y in draws])
    shifted = np.array([kernel_distance(x, y + np.float32(shift)) for x, y in draws])
    error = null.std() / math.sqrt(len(null))
    assert abs(null.mean()) <= 4 * error
    assert (null < 0).any()  # unbiased estimates of zero are
    # At least the first moments' part, 3 |shift|²/f, of the squared MMD.
    assert shifted.mean() > 3 * shift**2
    assert abs(shifted.mean()) > 4 * error


def test_kernel_distance_of_large_sets_is_that_of_a_choice_by_seed(monkeypatch):
    x, y = normal(90, 3, 1), normal(40, 3, 2)
    whole = kernel_distance(x, y)
    assert kernel_distance(x, y, seed=1) == whole
    monkeypatch.setattr(distances, "KERNEL_IMAGES", 50)
    assert kernel_distance(x, y, seed=1) == kernel_distance(x, y, seed=1)
    values = np.array([kernel_distance(x, y, seed=seed) for seed in range(400)])
    assert len(set(values)) > 390
    # Drawn without preference, so right on average: 5 standard errors, which are small beside the value's own.
    assert values.mean() == pytest.approx(whole, abs=5 * values.std() / math.sqrt(len(values)))


# Precision, recall, density and coverage


def naive_scores(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The definitions in loops over points, on squared distances in exact integers where x and y are whole."""

    def squared(a, b):
        return sum((p - q) ** 2 for p, q in zip(a.tolist(), b.tolist(), strict=True))

    def radii(points):
        return [sorted(squared(a, b) for j, b in enumerate(points) if j != i)[K - 1] for i, a in enumerate(points)]

    real, generated = radii(x), radii(y)
    in_real = np.array([[squared(a, b) <= real[i] for b in y] for i, a in enumerate(x)])
    in_generated = np.array([[squared(a, b) <= generated[j] for j, b in enumerate(y)] for a in x])
    return {
        "precision": in_real.any(axis=0).mean(),
        "recall": in_generated.any(axis=1).mean(),
        "density": in_real.sum() / (K * len(y)),
        "coverage": in_real.any(axis=1).mean(),
    }


@pytest.mark.parametrize(("n", "m", "f"), [(6, 6, 1), (30, 20, 2), (25, 40, 8)])
def test_neighbour_scores_equal_loops_over_the_definitions(n, m, f):
    x, y = normal(n, f, 1), np.float32(0.7) * normal(m, f, 2) + np.float32(0.4)
    assert neighbour_scores(x, y) == pytest.approx(naive_scores(x, y), rel=1e-12)


@pytest.mark.parametrize("offset", [0, 1000])
def test_neighbour_scores_are_exact_where_points_tie_and_repeat(offset):
    """Points of a small grid: nearly every neighbour is as far as another one, and offset they need all digits."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x, y = rng.integers(0, 5, size=(40, 2)), rng.integers(1, 7, size=(50, 2))
        as_floats = [(points / 64 + offset).astype(np.float32) for points in (x, y)]
        assert neighbour_scores(*as_floats) == pytest.approx(naive_scores(x, y), rel=1e-12)


@pytest.mark.parametrize("f", [2, 64])
def test_equal_sets_in_another_order_are_precise_complete_and_of_density_six_fifths(f):
    x = 100 + normal(300, f)
    y = np.random.default_rng(1).permutation(x)
    expected = {"precision": 1, "recall": 1, "density": (K + 1) / K, "coverage": 1}
    assert neighbour_scores(x, y) == pytest.approx(expected, rel=1e-12)


def test_repeating_every_point_changes_nothing_for_balls_that_shrink_to_points():
    """Eight copies: the fifth neighbour is a copy and every radius zero."""
    x = 100 + normal(60, 32)
    copies = x.repeat(8, axis=0)
    assert (distances.nearest_radii(copies) == 0).all()
    complete = {"precision": 1, "recall": 1, "coverage": 1}
    assert neighbour_scores(x, copies) == pytest.approx(complete | {"density": (K + 1) / K})
    assert neighbour_scores(copies, x) == pytest.approx(complete | {"density": 8 / K})
    assert neighbour_scores(copies, copies) == pytest.approx(complete | {"density": 8 / K})
    nudged = x * np.float32(1 + 1e-6)  # ten units in the last place, outside balls without extent
    assert neighbour_scores(copies, nudged)["precision"] == 0


@pytest.mark.parametrize(("f", "centres"), [(32, [-(2**23), 2**23]), (256, [2**24 - 10])])
def test_radii_are_exact_where_float32_has_no_digits_left(f, centres):
    """Whole numbers near 2^23 and 2^24, next to one another in float32, in two far clusters or far from the origin."""
    rng = np.random.default_rng(0)
    x = np.concatenate([centre + rng.integers(0, 5, size=(80, f)) for centre in centres])
    assert (x.astype(np.float32) == x).all()
    squared = ((x[:, None] - x) ** 2).sum(axis=2)  # of integers, so without rounding
    np.fill_diagonal(squared, np.iinfo(np.int64).max)
    np.testing.assert_array_equal(distances.nearest_radii(x.astype(np.float32)), np.sqrt(np.sort(squared)[:, K - 1]))


def test_disjoint_sets_score_zero():
    x = normal(50, 4)
    assert neighbour_scores(x, x + np.float32(100)) == dict.fromkeys(NEIGHBOUR_SCORES, 0)


def test_a_dropped_mode_keeps_precision_and_halves_recall_and_coverage():
    """The generated points are the real ones of one of two modes, so in balls of that mode alone."""
    mode = normal(40, 4)
    x = np.concatenate([mode, mode + np.float32(100)])
    expected = {"precision": 1, "recall": 0.5, "density": (K + 1) / K, "coverage": 0.5}
    assert neighbour_scores(x, mode) == pytest.approx(expected)
    reverse = neighbour_scores(mode, x)
    assert reverse["precision"] == 0.5
    assert reverse["recall"] == reverse["coverage"] == 1


def test_images_that_are_all_one_are_precise_and_cover_little():
    x = normal(200, 4)
    values = neighbour_scores(x, x[:1].repeat(100, axis=0))
    assert values["precision"] == 1
    assert values["recall"] == 1 / 200
    assert values["coverage"] < 0.2


def test_density_and_coverage_have_their_expectations_over_all_splits_of_one_sample():
    """Of one distribution every split of n + m points is as likely, so these averages are exact:

    density 1, and coverage 1 - Π_t (n - 1 - t) / (n + m - 1 - t), t < K: that the K nearest others are all real.
    """
    n, m = 7, 5
    points = normal(n + m, 2)
    scores = []
    for of_real in itertools.combinations(range(n + m), n):
        is_real = np.isin(np.arange(n + m), of_real)
        scores.append(neighbour_scores(points[is_real], np.concatenate([points[~is_real], 1e6 + normal(1, 2)])))
    # The sixth generated point, which K asks for, is far from all: it counts in density's average alone.
    density = np.mean([values["density"] for values in scores]) * (m + 1) / m
    missed = [math.prod((n - 1 - t) / (n + m - 1 - t) for t in range(k)) for k in (K - 1, K, K + 1)]
    coverage = np.mean([values["coverage"] for values in scores])
    assert density == pytest.approx(1, rel=1e-12)
    assert coverage == pytest.approx(1 - missed[1], rel=1e-12)
    assert abs(coverage - (1 - missed[0])) > 0.01
    assert abs(coverage - (1 - missed[2])) > 0.001


def test_recall_is_precision_with_the_sets_exchanged():
    x, y = normal(80, 3, 1), np.float32(1.5) * normal(70, 3, 2)
    there, back = neighbour_scores(x, y), neighbour_scores(y, x)
    assert there["precision"] == back["recall"]
    assert there["recall"] == back["precision"]
    assert there["precision"] != there["recall"]


# All of them


@pytest.mark.parametrize("entries", [1, 700, 5000])
def test_scores_do_not_depend_on_the_blocks(monkeypatch, entries):
    x, y = normal(120, 6, 1), np.float32(0.1) + normal(90, 6, 2)
    whole = score(RealFeatures.of(x), y).values
    monkeypatch.setattr(distances, "BLOCK", entries)
    real = RealFeatures.of(x)
    values = score(real, y).values
    assert {name: values[name] for name in NEIGHBOUR_SCORES} == {name: whole[name] for name in NEIGHBOUR_SCORES}
    assert values == pytest.approx(whole, rel=1e-9)  # sums in another order, of which kid is a small difference


def test_scores_carry_every_distance_and_nothing_to_remark_on_large_sets():
    x, y = normal(60, 5, 1), normal(50, 5, 2)
    real = RealFeatures.of(x)
    scores = score(real, y)
    assert scores.remarks == []
    assert scores.values == {
        "frechet": frechet_distance(fit_gaussian(x), fit_gaussian(y)),
        "kid": kernel_distance(x, y),
    } | distances.neighbour_scores(real, y)
    assert score(real, y.astype(np.float64)) == scores


def test_few_images_are_scored_with_a_remark_for_each_set():
    f = 20
    few, many = normal(f, f, 1), normal(f + 1, f, 2)
    both = score(RealFeatures.of(few), few + np.float32(1))
    assert all(map(math.isfinite, both.values.values()))
    assert len(both.remarks) == 2
    assert "real images' 20 features is singular, as there are only 20 such images" in both.remarks[0]
    assert "generated images' 20 features is singular" in both.remarks[1]
    assert len(score(RealFeatures.of(few), many).remarks) == len(score(RealFeatures.of(many), few).remarks) == 1
    assert score(RealFeatures.of(many), many).remarks == []


def test_a_choice_of_images_for_the_kernel_distance_is_remarked(monkeypatch):
    monkeypatch.setattr(distances, "KERNEL_IMAGES", 50)
    x, y = normal(60, 3, 1), normal(40, 3, 2)
    scores = score(RealFeatures.of(x), y, seed=3)
    assert scores.remarks == ["kid takes 50 of the 60 real images, drawn with seed 3."]
    assert scores.values["kid"] == kernel_distance(x, y, seed=3)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e39])  # the last is beyond float32
def test_features_that_are_not_finite_are_refused(odd):
    x = normal(20, 3).astype(np.float64)
    spoilt = x.copy()
    spoilt[4, 1] = odd
    with pytest.raises(ValueError, match="generated images are finite; 1 of 20 images have NaN or infinity"):
        score(RealFeatures.of(x), spoilt)
    with pytest.raises(ValueError, match="real images are finite; 1 of 20"):
        RealFeatures.of(spoilt)
    if not math.isfinite(odd):
        for refuses in (fit_gaussian, lambda features: kernel_distance(features, x)):
            with pytest.raises(ValueError, match="1 of 20 images have NaN"):
                refuses(spoilt)


def test_features_of_another_shape_are_refused():
    real = RealFeatures.of(normal(20, 3))
    for features, why in (
        (normal(20, 4), "the real images have 3 each, the generated ones 4"),
        (normal(K, 3), "at least 6 generated images are needed; got 5"),
        (normal(20, 3)[0], r"an array \(images, features\)"),
        (normal(20, 3)[:, :0], r"an array \(images, features\)"),
    ):
        with pytest.raises(ValueError, match=why):
            score(real, features)
    with pytest.raises(ValueError, match="at least 2 images are needed; got 1"):
        fit_gaussian(normal(1, 3))


# Files


def is_equal(a: RealFeatures, b: RealFeatures) -> bool:
    pairs = [
        (a.features, b.features),
        (a.radii, b.radii),
        (a.gaussian.mean, b.gaussian.mean),
        (a.gaussian.covariance, b.gaussian.covariance),
    ]
    return a.gaussian.n == b.gaussian.n and all(p.dtype == q.dtype and np.array_equal(p, q) for p, q in pairs)


def test_real_features_come_back_from_their_file(tmp_path):
    real, path = RealFeatures.of(normal(30, 4)), tmp_path / "real"
    real.save(path)
    assert is_equal(RealFeatures.load(path), real)
    assert [file.name for file in tmp_path.iterdir()] == ["real"]
    assert real.features.dtype == np.float32
    assert score(RealFeatures.load(path), normal(20, 4, 1)) == score(real, normal(20, 4, 1))


def test_a_changed_byte_is_a_sentence_or_changes_nothing(tmp_path):
    real, path = RealFeatures.of(normal(K + 1, 1)), tmp_path / "real.npz"
    real.save(path)
    data = path.read_bytes()
    # At the end is the archive's directory: its last entry and the pointer to it, byte by byte.
    positions = [*range(0, len(data) - 75, 20), *range(len(data) - 75, len(data))]
    refused = []
    for i in positions:
        path.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        try:
            assert is_equal(RealFeatures.load(path), real)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > len(positions) / 3  # the rest are dates and the like
    assert all("real.npz is not a whole file of features" in sentence for sentence in refused)
    assert any("encrypted" in sentence for sentence in refused)  # RuntimeError, of all


def test_files_that_are_cut_off_or_something_else_are_a_sentence(tmp_path):
    path = tmp_path / "real.npz"
    real = RealFeatures.of(normal(20, 3))
    real.save(path)
    data = path.read_bytes()
    arrays = dict(np.load(path))

    def refused():
        with pytest.raises(ValueError, match=r"real\.npz is not a whole file .* made anew once deleted"):
            RealFeatures.load(path)

    for content in (b"", b"PK", b"no archive at all", data[:100], data[: len(data) // 2], data[:-1]):
        path.write_bytes(content)
        refused()
    with path.open("wb") as file:
        np.save(file, real.features)
    refused()
    for name, other in (
        ("features", arrays["features"][:-1]),
        ("features", arrays["features"].astype(np.float64)),
        ("radii", arrays["radii"][:-1]),
        ("mean", arrays["mean"][:-1]),
        ("covariance", arrays["covariance"] * np.nan),
        ("n", np.int64(19)),
        ("radii", np.array([None] * 20)),  # pickled
    ):
        np.savez(path, **(arrays | {name: other}))
        refused()
    del arrays["radii"]
    np.savez(path, **arrays)
    refused()
    with pytest.raises(FileNotFoundError):
        RealFeatures.load(tmp_path / "none.npz")
