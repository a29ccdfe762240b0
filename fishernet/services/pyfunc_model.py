"""A run's model as MLflow keeps and loads it: this file is copied beside the weights, so nothing is pickled.

Loading it takes fishernet where it is loaded, and no code of anybody else's but that of a model from outside.
"""

from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

METHODS = ("encode", "reconstruct")


class ImageModel(PythonModel):
    """Images (n, channels, height, width) to latents or to images; ``model`` is the ``fishernet.trained.TrainedModel``."""

    def load_context(self, context: Any) -> None:
        """Read the weights."""
        from fishernet.trained import load

        self.model = load(context.artifacts["weights"])

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """The parameter ``method``: ``encode`` gives latents (n, d), ``reconstruct`` images; raises ValueError for another."""
        method = (params or {}).get("method", METHODS[0])
        if method not in METHODS:
            raise ValueError(f"the parameter method is {' or '.join(METHODS)}; got {method!r}")
        made: np.ndarray = getattr(self.model, method)(model_input)
        return made


set_model(ImageModel())
