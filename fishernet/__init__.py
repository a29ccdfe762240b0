"""Probabilistic autoencoders: train them, compare them over latent dimensions and seeds, use what was trained.

``sweep`` trains a sweep, ``open_sweep`` gives its runs, best models and figures, ``load`` a trained model from what a run
stored, ``load_data`` images by name or path, ``trial_config`` the settings of a run. Whatever is asked for is imported then:
importing ``fishernet`` itself takes no time.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fishernet.data.loading import load_data as load_data
    from fishernet.families import trial_config as trial_config
    from fishernet.trained import load as load

DOORS = {
    "load": "fishernet.trained",
    "load_data": "fishernet.data.loading",
    "open_sweep": "analysis.opened",
    "sweep": "sweeps.started",
    "trial_config": "fishernet.families",
}
__all__ = ["__version__", *DOORS]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("fishernet")
    if name in DOORS:
        return getattr(importlib.import_module(DOORS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
