"""TrialConfig: every number that decides what one run computes."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from fishernet.data import DATASETS

# The likelihood each model takes where none is named: FisherNet's is the paper's equation 9. The paper names none for
# VAE and CVAE; Bernoulli comes closest to its plateau (section 3.1.2). AE's unit Gaussian is the squared error.
LIKELIHOOD_OF_MODEL = {
    "FisherNet": "gaussian-learned",
    "VAE": "bernoulli",
    "CVAE": "bernoulli",
    "AE": "gaussian",
}
MODEL_NAMES = tuple(LIKELIHOOD_OF_MODEL)
DATASET_NAMES = tuple(DATASETS)  # any other name is a path
LARGEST_NUMBER = 2**31 - 1  # of a whole-number field
AXES = ("model", "latent_dim", "seed")
ACTIVATION_NAMES = ("relu", "elu", "gelu", "silu", "softplus", "tanh")
# What makes a line of its own in a figure; sizes and rates do not.
# Models that have the field; in the others' configs it stays at its default.
MODELS_WITH = {
    "objective": ("FisherNet",),
    "sampler": ("FisherNet",),
    "kl_weight": ("FisherNet", "VAE", "CVAE"),
}
MODELLING_CHOICES = ("likelihood", "noise", "objective", "sampler", "decoder_output", "activation", "kl_weight")


def _at_least(minimum: float) -> Callable[[Any], bool]:
    return lambda value: math.isfinite(value) and value >= minimum


def _between(least: float, most: float) -> Callable[[Any], bool]:
    return lambda value: least <= value <= most


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _field(default: Any, meaning: str, *, choices: tuple[str, ...] = (), valid: Callable[[Any], bool] | None = None,
           must: str = "") -> Any:  # fmt: skip
    return field(default=default, metadata={"meaning": meaning, "choices": choices, "valid": valid, "must": must})


@dataclass(frozen=True)
class TrialConfig:
    """One run, completely: equal configs on one machine give equal numbers.

    The field names are the command line's flags, the plan's keys, the MLflow parameters and the DataFrame's columns.
    Raises ValueError with the field, its meaning, the value given and what is allowed.
    """

    model: str = _field("FisherNet", "which autoencoder", choices=MODEL_NAMES)
    latent_dim: int = _field(2, "number of latent dimensions d", valid=_between(1, 2**16), must="from 1 to 65536")
    seed: int = _field(
        0,
        "seed of initial weights, data order and noise",
        valid=lambda s: 0 <= s < 2**31,
        must="from 0 to 2^31 - 1",
    )
    dataset: str = _field(
        "fashion-mnist",
        "fashion-mnist, mnist, digits, or the path of an .npz/.npy file or of a folder of images",
        valid=bool,
        must="a name or a path",
    )
    epochs: int = _field(100, "passes over the training set", valid=_at_least(1), must="at least 1")
    batch_size: int = _field(64, "images per optimiser step", valid=_at_least(1), must="at least 1")
    learning_rate: float = _field(1e-4, "step size of Adam", valid=_positive, must="positive")
    weight_decay: float = _field(
        0.0,
        "each step also shrinks the weights, not biases or xi, by learning_rate x this (AdamW); 0 is Adam",
        valid=_at_least(0),
        must="at least 0",
    )
    hidden_width: int = _field(448, "neurons per hidden dense layer", valid=_between(1, 2**16), must="from 1 to 65536")
    hidden_layers: int = _field(
        3,
        "hidden dense layers of encoder and of decoder; 0 makes both linear",
        valid=_between(0, 1000),
        must="from 0 to 1000",
    )
    activation: str = _field("relu", "function between the layers of encoder and decoder", choices=ACTIVATION_NAMES)
    decoder_output: str = _field(
        "sigmoid", "last function of the decoder (the papers leave it open)", choices=("sigmoid", "linear")
    )
    likelihood: str = _field(
        "auto",
        "p(x given f): grey values as probabilities, unit variance, or one learned variance exp(xi); auto takes "
        "gaussian-learned for FisherNet, bernoulli for VAE and CVAE, gaussian for AE",
        choices=("auto", "bernoulli", "gaussian", "gaussian-learned"),
    )
    noise: str = _field(
        "learned",
        "how gaussian-learned finds xi: by gradient as in the paper, or as the closed-form optimum of a running mean",
        choices=("learned", "closed-form"),
    )
    noise_start: float = _field(0.0, "xi at the first step", valid=_between(-80, 80), must="from -80 to 80")
    noise_learning_rate: float = _field(
        0.0, "step size of Adam for xi; 0 takes learning_rate", valid=_at_least(0), must="at least 0"
    )
    objective: str = _field(
        "eq25",
        "FisherNet's loss: eq25 drops ln|M| and holds M constant, as the paper; eq25-residual lets the gradient through "
        "the sample's residual; eq24 keeps ln|M|, with the gradient through M",
        choices=("eq25", "eq25-residual", "eq24"),
    )
    kl_weight: float = _field(
        1.0,
        "factor of the KL divergence in the loss (beta), for FisherNet of what its objective keeps of it: |z|^2/2, with eq24 "
        "also ln|M|/2; AE has no KL divergence",
        valid=_at_least(0),
        must="at least 0",
    )
    sampler: str = _field(
        "cholesky",
        "how FisherNet draws from N(mu, M^-1): cholesky of the explicit M, in float32, or cholesky-float64, where M's "
        "eigenvalues exceed 1e5; or cg, conjugate gradients of eq. 28-31, which never forms M",
        choices=("cholesky", "cholesky-float64", "cg"),
    )
    cg_tolerance: float = _field(
        1e-4,
        "cg stops at this residual norm relative to the right-hand side's",
        valid=_positive,
        must="positive",
    )
    cg_iterations: int = _field(
        100, "cg stops after this many iterations at the latest", valid=_at_least(1), must="at least 1"
    )
    precision: str = _field(
        "float32",
        "numbers of the networks' matrix products: float32; tf32, 10-bit mantissas where a GPU has them, also in the "
        "gradient of M; bfloat16, 7-bit mantissas. All else stays float32, such as M and the products of sampler cg",
        choices=("float32", "tf32", "bfloat16"),
    )
    train_size: int = _field(
        0,
        "train on this many images, the first of the training set; 0 is all",
        valid=_at_least(0),
        must="at least 0",
    )
    validation_size: int = _field(
        0, "hold this many images out of the end of the training set for model selection", valid=_at_least(0),
        must="at least 0",
    )  # fmt: skip
    evaluate_every: int = _field(
        1,
        "epochs between evaluations; the last epoch is always evaluated",
        valid=_at_least(1),
        must="at least 1",
    )
    setting: str = _field(
        "",
        "a name for these settings, such as tuned; in the run's name it stands for whatever sets the run apart",
        valid=lambda name: re.fullmatch(r"([a-z0-9][a-z0-9.=-]{0,59})?", name) is not None,
        must="up to 60 lower-case letters, digits and .-=",
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, _typed(f, getattr(self, f.name)))
        for name, models in MODELS_WITH.items():
            if self.model not in models:
                object.__setattr__(self, name, self.__dataclass_fields__[name].default)
        if self.likelihood == "auto":
            object.__setattr__(self, "likelihood", LIKELIHOOD_OF_MODEL[self.model])
        if self.likelihood == "bernoulli" and self.decoder_output != "sigmoid":
            raise ValueError(
                "likelihood bernoulli reads the decoder's output as a probability, so decoder_output must be sigmoid; "
                f"got {self.decoder_output}"
            )
        if self.noise == "closed-form" and self.likelihood != "gaussian-learned":
            raise ValueError(
                "noise closed-form sets the variance of likelihood gaussian-learned; "
                f"got likelihood {self.likelihood}, which has none to set"
            )

        if self.sampler == "cg" and self.objective != "eq25":
            raise ValueError(
                "sampler cg never forms M, so it has neither ln|M| nor a gradient through M, and objective must be eq25; "
                f"got {self.objective}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrialConfig":
        """A config from field names and values, text included; raises KeyError on names that are no fields."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise KeyError(f"not fields of TrialConfig: {unknown}; the fields are {[f.name for f in fields(cls)]}")
        return cls(**values)

    @classmethod
    def typed(cls, name: str, value: Any) -> Any:
        """The value in the type of field ``name``; raises ValueError that names the field, as the constructor does."""
        return _typed(cls.__dataclass_fields__[name], value)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def variant(self) -> str:
        """The model and whatever sets it apart from its paper's form: the label of its line in every figure.

        Only the modelling choices count, not sizes and rates; a ``setting`` stands for all of it.
        """
        if self.setting:
            return f"{self.model} {self.setting}"
        usual = _usual(self.model)
        choices = {
            name: getattr(self, name) for name in MODELLING_CHOICES if getattr(self, name) != getattr(usual, name)
        }
        words = (f"beta={value:g}" if name == "kl_weight" else value for name, value in choices.items())
        return " ".join([self.model, *words])

    @property
    def run_name(self) -> str:
        """Short and readable in a list: ``FisherNet-d02-s0``."""
        return f"{self.variant.replace(' ', '-')}-d{self.latent_dim:02d}-s{self.seed}"


@functools.lru_cache
def _usual(model: str) -> TrialConfig:
    return TrialConfig(model=model)


def matters(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a field changes what a config with these other fields computes."""
    model, likelihood = config["model"], config["likelihood"]
    if name in MODELS_WITH:
        return bool(model in MODELS_WITH[name])
    if name in ("noise", "noise_start"):
        return bool(likelihood == "gaussian-learned")
    if name == "noise_learning_rate":
        return bool(likelihood == "gaussian-learned" and config["noise"] == "learned")
    if name in ("hidden_width", "hidden_layers"):
        return bool(model != "CVAE")
    return bool(name not in ("cg_tolerance", "cg_iterations") or config["sampler"] == "cg")


def _typed(f: "dataclasses.Field[Any]", value: Any) -> Any:
    """The value in the field's type, from text as well; raises ValueError that names the field."""
    kind = f.type if isinstance(f.type, type) else {"int": int, "float": float, "str": str}[str(f.type)]
    meaning, choices, valid = f.metadata["meaning"], f.metadata["choices"], f.metadata["valid"]
    must = f"one of {', '.join(choices)}" if choices else f.metadata["must"]
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float) and not value.is_integer()):
            raise ValueError
        if kind is not str and "_" in str(value):  # 1_000 is a number to Python alone
            raise ValueError
        typed = kind(value)
        fits = (not choices or typed in choices) and (not valid or valid(typed))
    except (TypeError, ValueError, OverflowError):
        noun = {int: "a whole number", float: "a number", str: "a word"}[kind]
        raise ValueError(f"{f.name} ({meaning}) must be {noun}, {must}; got {value!r}") from None
    if not fits or (kind is int and abs(typed) > LARGEST_NUMBER):
        raise ValueError(f"{f.name} ({meaning}) must be {must}; got {value!r}")
    return typed
