"""Sizes and shapes of the uncertainty ellipses of two-dimensional posteriors."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from analysis.scores.tasks import Scored, ScoreTask, Tasks
from analysis.stored import StoredSweep
from fishernet.families import family
from fishernet.models.base import Autoencoder
from fishernet.trained import posterior_covariances, posterior_means

Array = npt.NDArray[np.floating]


def tasks(stored: StoredSweep, *, gpus: int = 0) -> Tasks:
    """Sizes of the ellipses of every two-dimensional run whose posterior has a known covariance, where it lacks them."""
    made = [
        ScoreTask(run, "ellipses", score_ellipses, partial(lambda run: (stored.model(run),), run))
        for _, run in stored.runs.iterrows()
        if run["latent_dim"] == 2 and family(run["model"]).has_ellipses and "ellipses" not in run["scores"]
    ]
    return Tasks(made, [stored.images.test] if made else [], gpus)


def score_ellipses(test: torch.Tensor, model: Autoencoder) -> Scored:
    """The statistics of a model's ellipses of the held-out images, uint8 (n, channels, height, width)."""
    statistics = ellipse_statistics(posterior_covariances(model, test), posterior_means(model, test))
    return Scored({f"ellipses/{name}": value for name, value in statistics.items()}, {"n_images": len(test)})


def ellipse_statistics(covariances: Array, means: Array) -> dict[str, float]:
    """Size, shape and place of uncertainty ellipses as numbers; covariances (n, 2, 2) and means (n, 2) of n images.

    All but the last are medians over images of the 1-sigma ellipse with semi-axes s1 >= s2:

        area                 pi s1 s2, in squared units of z
        area_to_spread       the same over the area of the means' 1-sigma ellipse, pi sqrt(det cov(means)): unlike the area it
                             does not change when a model stretches its latent space
        axis_ratio           s1 / s2
        tilt_degrees         the acute angle between the longest axis and the nearest coordinate axis, 0 to 45: 0 for a diagonal
                             covariance, 22.5 where every direction is as likely
        periphery_to_centre  the median area of the quarter of images whose means are farthest from the centroid of all, over
                             that of the nearest quarter

    Raises ValueError for shapes other than these.
    """
    if means.ndim != 2 or means.shape[1:] != (2,) or covariances.shape != (len(means), 2, 2):
        raise ValueError(f"means must be (n, 2) and covariances (n, 2, 2); got {means.shape} and {covariances.shape}")
    semi_axes, angles, _ = ellipse_axes(covariances)
    areas = math.pi * semi_axes.prod(axis=1)
    tilts = np.minimum(np.abs(angles), 90 - np.abs(angles))
    offsets = (means - means.mean(axis=0)).astype(float)
    distances = np.linalg.norm(offsets, axis=1)
    nearest, farthest = np.quantile(distances, [0.25, 0.75])
    # the root of the covariance's determinant, which rounding cannot make negative here
    spread = math.pi * np.linalg.svd(offsets, compute_uv=False).prod() / (len(means) - 1)
    return {
        "area": float(np.median(areas)),
        "area_to_spread": float(np.median(areas) / spread) if spread > 0 else math.inf,  # an encoder may be constant
        "axis_ratio": float(np.median(semi_axes[:, 0] / semi_axes[:, 1])),
        "tilt_degrees": float(np.median(tilts)),
        "periphery_to_centre": float(np.median(areas[distances >= farthest]) / np.median(areas[distances <= nearest])),
    }


def ellipse_axes(covariance: Array) -> tuple[Array, Array, Array]:
    """The 1-sigma ellipses of covariances (..., 2, 2): semi-axes (..., 2), angles (...) and eigenvectors (..., 2, 2).

    Semi-axes are square roots of eigenvalues, the longer first; the angle is the longer one's, in degrees from the z1 axis,
    from -90 to 90; eigenvectors are columns in the order of the semi-axes and point to the right.
    """
    # float64: of nearly equal eigenvalues, float32 gives no direction
    eigenvalues, vectors = np.linalg.eigh(np.asarray(covariance, dtype=float))
    semi_axes, vectors = np.sqrt(eigenvalues[..., ::-1]), vectors[..., ::-1]
    vectors = vectors * np.where(vectors[..., :1, :] < 0, -1.0, 1.0)  # eigh leaves the sign open
    return semi_axes, np.degrees(np.arctan2(vectors[..., 1, 0], vectors[..., 0, 0])), vectors


def sigma_points(mean: Array, covariance: Array, n_sigma: float) -> Array:
    """The ends of the n_sigma ellipse's axes, (4, 2): mean + and - the longer one, mean + and - the shorter one."""
    semi_axes, _, vectors = ellipse_axes(covariance)
    longer, shorter = n_sigma * (vectors * semi_axes).T
    return mean + np.stack([longer, -longer, shorter, -shorter])


def typical_image(covariances: Sequence[Array]) -> int:
    """The index whose ellipses are nearest to the median in every model at once; one (n, 2, 2) per model.

    Nearest in the sum over models of |ln(area / median area)| + |ln(axis ratio / median axis ratio)|.
    """
    distance = np.zeros(len(covariances[0]))
    for of_model in covariances:
        log_axes = np.log(ellipse_axes(of_model)[0])
        for value in (log_axes.sum(axis=1), log_axes[:, 0] - log_axes[:, 1]):
            distance += np.abs(value - np.median(value))
    return int(distance.argmin())
