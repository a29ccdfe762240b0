"""The likelihoods by name. Nothing here imports torch."""

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LikelihoodRow:
    """What it is in words, and its class as "package.module:Class"."""

    meaning: str
    likelihood: str

    def load(self) -> Any:
        """The class, a ``fishernet.likelihoods.base.Likelihood``."""
        module, _, name = self.likelihood.partition(":")
        return getattr(importlib.import_module(module), name)


LIKELIHOODS = {
    "bernoulli": LikelihoodRow("grey values as probabilities", "fishernet.likelihoods.pixels:Bernoulli"),
    "gaussian": LikelihoodRow("unit variance", "fishernet.likelihoods.pixels:Gaussian"),
    "gaussian-learned": LikelihoodRow("one learned variance exp(xi)", "fishernet.likelihoods.pixels:GaussianLearned"),
    "logistic": LikelihoodRow(
        "256 grey values under a logistic density of the decoder's mean and scale",
        "fishernet.likelihoods.logistic:Logistic",
    ),
    "logistic-released": LikelihoodRow(
        "the same without its tails, as the Fisher-Shannon paper's code has it",
        "fishernet.likelihoods.logistic:LogisticReleased",
    ),
}
