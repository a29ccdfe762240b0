"""The likelihoods by name, and how many numbers each wants of the decoder. Nothing here imports torch."""

import math
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

SCALES = ("identity", "diagonal", "full")


class Emission(Protocol):
    """What the number of outputs depends on: a LikelihoodConfig, whose module has this table's names."""

    @property
    def likelihood(self) -> str: ...
    @property
    def scale(self) -> str: ...
    @property
    def components(self) -> int: ...


@dataclass(frozen=True)
class LikelihoodRow:
    """What it is in words, what makes it, as "package.module:Name", and what a config may ask of it."""

    meaning: str
    likelihood: str
    scales: tuple[str, ...] = ("identity",)  # of ``SCALES``
    mixes: bool = False  # has mixtures, of ``components``
    per_pixel: bool = False  # and their weights are each pixel's own
    maps: int = 1  # numbers per pixel that a component takes whatever ``scale`` is: its location
    matrix: bool = False  # the scale is a Kronecker product of one of rows and one of columns
    heavy: bool = False  # a component has degrees of freedom
    density: bool = True  # ln p is one, of any x: dequantised images have it
    information: bool = True  # its Fisher information is known

    def load(self) -> Any:
        """What makes a ``fishernet.likelihoods.base.Likelihood`` of (config, n_members, image_shape)."""
        return pkgutil.resolve_name(self.likelihood)


_DISCRETISED = "fishernet.likelihoods.discretised:Discretised"
_EMITTED = "fishernet.likelihoods.emitted:Emitting"
LIKELIHOODS = {
    "bernoulli": LikelihoodRow("grey values as probabilities", "fishernet.likelihoods.pixels:Bernoulli", density=False),
    "gaussian": LikelihoodRow(
        "unit variance, or as scale says", "fishernet.likelihoods.emitted:gaussian", SCALES, mixes=True
    ),
    "gaussian-learned": LikelihoodRow("one learned variance exp(xi)", "fishernet.likelihoods.pixels:GaussianLearned"),
    "logistic": LikelihoodRow(
        "256 grey values under a logistic density of the decoder's mean and scale",
        "fishernet.likelihoods.logistic:Logistic",
        maps=2,
        density=False,
        information=False,
    ),
    "logistic-released": LikelihoodRow(
        "the same without its tails, as the Fisher-Shannon paper's code has it",
        "fishernet.likelihoods.logistic:LogisticReleased",
        maps=2,
        density=False,
        information=False,
    ),
    "student-t": LikelihoodRow("multivariate t, degrees of freedom emitted", _EMITTED, SCALES, mixes=True, heavy=True),
    "matrix-normal": LikelihoodRow(
        "normal whose scale is rows times columns", _EMITTED, SCALES, mixes=True, matrix=True
    ),
    "matrix-t": LikelihoodRow(
        "multivariate t whose scale is rows times columns", _EMITTED, SCALES, mixes=True, matrix=True, heavy=True
    ),
    "maf": LikelihoodRow("a masked autoregressive flow of unit noise", "fishernet.likelihoods.maf:MAF"),
    "discretised-logistic": LikelihoodRow(
        "256 grey values between the edges of a logistic density",
        _DISCRETISED,
        mixes=True,
        per_pixel=True,
        maps=2,
        density=False,
        information=False,
    ),
    "discretised-normal": LikelihoodRow(
        "the same of a normal density",
        _DISCRETISED,
        mixes=True,
        per_pixel=True,
        maps=2,
        density=False,
        information=False,
    ),
}


def with_scale(*scales: str) -> tuple[str, ...]:
    """The likelihoods that have one of these scales."""
    return tuple(name for name, row in LIKELIHOODS.items() if {*scales} & {*row.scales})


def scale_numbers(config: Emission, image_shape: Sequence[int]) -> tuple[int, int]:
    """What the scale of one component takes: numbers per pixel, and numbers per image.

    A full scale is a triangle, n (n + 1)/2 numbers; of a matrix family one of the rows and one of the columns.
    """
    channels, height, width = image_shape
    sizes = (height, channels * width) if LIKELIHOODS[config.likelihood].matrix else (math.prod(image_shape),)
    if config.scale == "full":
        return 0, sum(n * (n + 1) // 2 for n in sizes)
    if config.scale == "identity":
        return 0, 0
    return (0, sum(sizes)) if len(sizes) > 1 else (1, 0)


def emits(config: Emission, image_shape: Sequence[int]) -> tuple[int, int]:
    """What the decoder emits: numbers per pixel (maps), and numbers per image beside them (others).

    A mixture of K has K of each, and K logits of its weights, also where K is 1; without one (components 0) there is none.
    """
    row, k = LIKELIHOODS[config.likelihood], max(1, config.components)
    maps, others = scale_numbers(config, image_shape)
    logits = config.components
    if row.per_pixel:
        return k * (row.maps + maps) + logits, 0
    return k * (row.maps + maps), k * (row.heavy + others) + logits


def n_outputs(config: Emission, image_shape: Sequence[int]) -> int:
    """How many numbers the decoder emits for an image."""
    maps, others = emits(config, image_shape)
    return maps * math.prod(image_shape) + others
