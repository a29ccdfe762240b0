"""What every density of latents can do."""

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Array64 = npt.NDArray[np.float64]
Settings = dict[str, str | int | float | list[float] | None]


class Density(ABC):
    """A fitted density of latents; ``settings``, JSON values, say what it was fitted with."""

    settings: Settings

    @abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Independent draws, (n, d)."""

    @abstractmethod
    def log_density(self, z: npt.ArrayLike) -> Array64:
        """ln p(z) of each row, (n,), in nats; -inf where the density is 0."""
