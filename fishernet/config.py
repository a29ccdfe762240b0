"""TrialConfig: every number that decides what one run computes, and what each of these fields says of itself."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass
from typing import Any, ClassVar, Self

from fishernet.data import DATASETS, usual_fit
from fishernet.networks import NETWORKS
from fishernet.spelling import did_you_mean

DATASET_NAMES = tuple(DATASETS)  # any other name is a path
LARGEST_NUMBER = 2**31 - 1  # of a whole-number field

# What a field is to the rest of the product: an axis of the sweep; which images; how long; the size of a network; a rate or
# number of training; a choice, which makes a line of its own in every figure; how things are computed; a name.
NORMALISED = ("fisherae-28", "fisherae-64", "fae-28")  # networks
ROLES = ("axis", "data", "schedule", "size", "rate", "choice", "computing", "label")
# A search may vary these.
VARIABLE_ROLES = ("size", "rate", "choice")


Value = str | int | float  # of a field
Fields = dict[str, Value]  # by name
Values = Mapping[str, Any]  # by name, still to be made of the fields' types: text of flags, numbers of JSON
Rule = Callable[[Any], bool]  # whether a value of the field's type is allowed
When = Mapping[str, str | tuple[str, ...] | Rule]  # by field, the values with which another matters


def at_least(minimum: float) -> Rule:
    return lambda value: math.isfinite(value) and value >= minimum


def between(least: float, most: float) -> Rule:
    return lambda value: least <= value <= most


def share(value: float) -> bool:
    return 0 <= value < 1


def positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


def field(
    default: Any,
    meaning: str,
    *,
    role: str,
    choices: tuple[str, ...] = (),
    valid: Rule | None = None,
    must: str = "",
    when: When | tuple[When, ...] = (),
    search: str | None = "",
    search_with: str = "",
    symbol: str = "",
    per_member: bool = False,
) -> Any:
    """A field of a config that speaks for itself: its flag, its help, its errors and its place in a search follow.

    role is one of ``ROLES``; ``when`` says which values of other fields it needs to matter, such as
    {"likelihood": "gaussian-learned"}, a tuple of words where several do, ``positive`` of a number; of a tuple of such any is
    enough. ``search`` is the range that a search varies by default, "" where only a flag varies it, None where nothing may;
    ``search_with`` names what a search must score beside the MSE for that default to hold; ``symbol`` stands before a number in a
    label, as in beta=4; the members of one cohort may differ in a ``per_member`` number.
    ``default`` is ``dataclasses.MISSING`` where a value must be given.
    """
    if role not in ROLES:
        raise ValueError(f"a field's role is one of {', '.join(ROLES)}; got {role!r}")
    metadata = {
        "meaning": meaning, "role": role, "choices": choices, "valid": valid, "must": must,
        "when": (when,) if isinstance(when, Mapping) else when, "search": search if role in VARIABLE_ROLES else None,
        "search_with": search_with, "symbol": symbol, "per_member": per_member,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrialConfig:
    """What every run has, whatever its model; a family's own fields stand in a subclass (``fishernet.families``).

    One run, completely: equal configs on one machine give equal numbers. The field names are the command line's flags,
    the plan's keys, the MLflow parameters and the DataFrame's columns.
    Raises ValueError with the field, its meaning, the value given and what is allowed.
    """

    loss_unit: ClassVar[str] = "nats"

    model: str = field(dataclasses.MISSING, "which autoencoder", role="axis", valid=bool, must="a name")
    latent_dim: int = field(
        2, "number of latent dimensions d", role="axis", valid=between(1, 2**16), must="from 1 to 65536"
    )
    seed: int = field(
        0,
        "seed of initial weights, data order and noise",
        role="axis",
        valid=lambda s: 0 <= s < 2**31,
        must="from 0 to 2^31 - 1",
    )
    dataset: str = field(
        "fashion-mnist",
        f"{', '.join(DATASET_NAMES)}, or the path of an .npz/.npy file or of a folder of images",
        role="data",
        valid=bool,
        must="a name or a path",
    )
    epochs: int = field(100, "passes over the training set", role="schedule", valid=at_least(1), must="at least 1")
    batch_size: int = field(
        64, "images per optimiser step", role="rate", valid=at_least(1), must="at least 1", search="32,64,128,256"
    )
    learning_rate: float = field(
        1e-4, "step size of Adam", role="rate", valid=positive, must="positive", search="1e-5..1e-2:log"
    )
    weight_decay: float = field(
        0.0,
        "each step also shrinks the weights, not biases or xi, by learning_rate x this (AdamW); 0 is Adam",
        role="rate",
        valid=at_least(0),
        must="at least 0",
        search="1e-6..1e-1:log",
    )
    optimiser: str = field(
        "adam",
        "adam; adam-normalised first divides the gradient of each of a run's tensors by its norm",
        role="rate",
        choices=("adam", "adam-normalised"),
    )
    adam_beta1: float = field(
        0.9, "how much of Adam's running mean of gradients a step keeps", role="rate", valid=share, must="from 0 to below 1",
    )  # fmt: skip
    adam_beta2: float = field(
        0.999, "the same of squared gradients", role="rate", valid=share, must="from 0 to below 1",
    )  # fmt: skip
    hidden_width: int = field(
        448, "neurons per hidden dense layer", role="size", valid=between(1, 2**16), must="from 1 to 65536",
        when={"network": "dense"}, search="128,256,448",
    )  # fmt: skip
    hidden_layers: int = field(
        3,
        "hidden dense layers of encoder and of decoder; 0 makes both linear",
        role="size",
        valid=between(0, 1000),
        must="from 0 to 1000",
        when={"network": "dense"},
        search="1..4",
    )
    decoder_layers: int = field(
        -1,
        "hidden dense layers of the decoder where it has others than the encoder; -1 is as hidden_layers",
        role="size",
        valid=between(-1, 1000),
        must="from -1 to 1000",
        when={"network": "dense"},
    )
    decoder_output: str = field(
        "sigmoid",
        "last function of the decoder (the papers leave it open)",
        role="choice",
        choices=("sigmoid", "linear"),
    )
    activation: str = field(
        "relu",
        "function between the layers of encoder and decoder",
        role="choice",
        choices=("relu", "leaky-relu", "elu", "gelu", "silu", "softplus", "tanh"),
        when={"network": ("dense", "conv", "pooled-cnn")},
        search="relu,elu,silu,tanh",
    )
    network: str = field(
        "dense",
        "layers of encoder and decoder: dense; conv, the FisherNet paper's convolutions (Table A1); pooled-cnn, the VPAE "
        "paper's one convolution and pooling (its Table 2), whose code is larger than the image; fisherae-28 and "
        "fisherae-64, those of the Fisher auto-encoder's paper for images of that side; fae-28, the gated convolutions of the "
        "Fisher-Shannon paper's code",
        role="choice",
        choices=tuple(NETWORKS),
    )
    normalisation: str = field(
        "batch",
        "of networks that normalise by batch: batch, or unnormalised, without",
        role="choice",
        choices=("batch", "unnormalised"),
        when={"network": NORMALISED},
    )
    initialisation: str = field(
        "torch",
        "first weights: torch, uniform within 1/sqrt(fan_in), biases too; glorot-uniform, within "
        "sqrt(6/(fan_in + fan_out)), biases 0; he-normal, of dense layers, of variance 2/fan_in",
        role="rate",
        choices=("torch", "glorot-uniform", "he-normal"),
    )
    precision: str = field(
        "float32",
        "numbers of the networks' matrix products: float32; tf32, 10-bit mantissas where a GPU has them, also in the "
        "gradient of M; bfloat16, 7-bit mantissas. All else stays float32, such as M and the products of sampler cg",
        role="computing",
        choices=("float32", "tf32", "bfloat16"),
    )
    train_size: int = field(
        0,
        "train on this many images, the first of the training set, of reversed MNIST at equal steps; 0 is all",
        role="data",
        valid=at_least(0),
        must="at least 0",
    )
    validation_size: int = field(
        0,
        "hold this many images out of the end of the training set for model selection",
        role="data",
        valid=at_least(0),
        must="at least 0",
    )
    binarisation: str = field(
        "none",
        "black and white images: dynamic draws the training images anew in every epoch, white with probability of the grey "
        "value, and the others once; once draws all once, by this product's own random numbers; threshold takes grey values "
        "above half as white; static says that the file of images has them in black and white already, as Larochelle and "
        "Murray's fixed draw of MNIST, and refuses others",
        role="data",
        choices=("none", "dynamic", "static", "once", "threshold"),
    )
    stopping_size: int = field(
        0,
        "hold this many images out of the end of the training set, ahead of those for model selection, to stop early by",
        role="data",
        valid=at_least(0),
        must="at least 0",
    )
    crop: int = field(
        -1,
        "keep the central crop x crop pixels of each image; 0 keeps all, -1 is the data set's usual: 140 of celeba, else 0; -2 "
        "stretches the whole image to image_size, as the Fisher auto-encoders' released code does",
        role="data",
        valid=at_least(-2),
        must="at least -2",
    )
    image_size: int = field(
        -1,
        "resize the images, or their largest central squares, to image_size x image_size pixels; 0 leaves them, -1 is "
        "the data set's usual: 64 of celeba, else 0",
        role="data",
        valid=between(-1, 4096),
        must="from -1 to 4096",
    )
    patience: int = field(
        0,
        "stop a run early after more than this many epochs without a lower loss on the stopping_size images, and keep its "
        "best weights; 0 trains all epochs and keeps the last",
        role="schedule",
        valid=at_least(0),
        must="at least 0",
    )
    evaluate_every: int = field(
        1,
        "epochs between evaluations; the last epoch is always evaluated",
        role="schedule",
        valid=at_least(1),
        must="at least 1",
    )
    setting: str = field(
        "",
        "a name for these settings, such as tuned; in the run's name it stands for whatever sets the run apart",
        role="label",
        valid=lambda name: re.fullmatch(r"([a-z0-9][a-z0-9.=-]{0,59})?", name) is not None,
        must="up to 60 lower-case letters, digits and .-=",
    )

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, typed(f, getattr(self, f.name)))
        for name, value in zip(
            ("crop", "image_size"), usual_fit(self.dataset, self.crop, self.image_size), strict=True
        ):
            object.__setattr__(self, name, value)  # as it is recorded
        if self.patience and not self.stopping_size:
            raise ValueError(
                f"patience {self.patience} stops a run by its loss on images held out for it, so stopping_size must be at "
                "least 1; got 0"
            )

    @classmethod
    def names(cls, *roles: str) -> tuple[str, ...]:
        """The fields of these roles, all without one, in the order of the class."""
        return tuple(f.name for f in dataclasses.fields(cls) if not roles or f.metadata["role"] in roles)

    @classmethod
    def matters(cls, name: str, values: Values) -> bool:
        """Whether a field changes what a config of this class with these values computes."""
        f = cls.__dataclass_fields__.get(name)
        return f is not None and (not f.metadata["when"] or any(cls._meet(when, values) for when in f.metadata["when"]))

    @classmethod
    def _meet(cls, when: When, values: Values) -> bool:
        for other, needed in when.items():
            value = values[other]
            if callable(needed):
                met = needed(typed(cls.__dataclass_fields__[other], value))
            else:
                met = value == needed if isinstance(needed, str) else value in needed
            if not met or not cls.matters(other, values):
                return False
        return True

    @classmethod
    def waits_for(cls, name: str) -> tuple[str, ...]:
        """The fields that decide whether a field matters."""
        return tuple(dict.fromkeys(other for when in cls.__dataclass_fields__[name].metadata["when"] for other in when))

    @classmethod
    def takes(cls, name: str) -> str:
        """With what a field matters, in words: ``likelihood gaussian-learned and noise learned``; empty where it always does."""
        return ", or ".join(
            " and ".join(
                f"{other} above 0"
                if callable(needed)
                else f"{other} {needed if isinstance(needed, str) else ' or '.join(needed)}"
                for other, needed in when.items()
            )
            for when in cls.__dataclass_fields__[name].metadata["when"]
        )

    def check_images(self, image_shape: tuple[int, int, int]) -> None:
        """Raises ValueError, naming the field, where what it asks for does not go with images (channels, height, width)."""
        row = NETWORKS[self.network]
        if problem := row.problem(image_shape):
            raise ValueError(f"network {self.network} {problem}")
        if self.latent_dim % (pooled := row.pooled_pixels(image_shape)):
            below = max(pooled, self.latent_dim // pooled * pooled)
            raise ValueError(
                f"latent_dim ({self.__dataclass_fields__['latent_dim'].metadata['meaning']}) of network {self.network} is the "
                f"pixels of the image at half its sides, {pooled} of these images, times the number of filters, such as {below} "
                f"or {below + pooled}; got {self.latent_dim}"
            )

    def remark(self, metrics: Mapping[str, float]) -> str:
        """A sentence where an epoch with these metrics was not what the config promises; else empty."""
        return ""

    @property
    def loss_in_words(self) -> str:
        """What the loss counts and what it leaves out; empty where its metrics say all."""
        return ""

    def to_dict(self) -> Fields:
        return dataclasses.asdict(self)

    @property
    def data(self) -> Values:
        """What ``load_data`` takes of it: which images, and how they are read."""
        return {name: getattr(self, name) for name in self.names("data")}

    @property
    def choices(self) -> Fields:
        """The modelling choices that set it apart from its model's usual form, by field; sizes and rates do not count.

        The family's own come first, then those of every model, then the numbers.
        """
        usual = usual_config(type(self), self.model)  # type: ignore[arg-type]  # a class is hashable
        own = [name for name in self.names("choice") if getattr(self, name) != getattr(usual, name)]
        shared = TrialConfig.__dataclass_fields__
        own.sort(key=lambda name: (self.__dataclass_fields__[name].type is not str, name in shared))
        return {name: getattr(self, name) for name in own}

    @property
    def label(self) -> str:
        """The model's name as people read it: of package.module:Class the class."""
        return self.model.rpartition(":")[2]

    @property
    def variant(self) -> str:
        """The model and whatever sets it apart from its paper's form: the label of its line in every figure.

        It is for people alone: what a line is, ``model`` and ``choices`` say.
        """
        return " ".join([self.label, *self.words])

    @property
    def words(self) -> list[str]:
        """What its label says after the model: the modelling choices, or the ``setting``, which stands for all of them."""
        if self.setting:
            return [self.setting]
        return [
            f"{self.__dataclass_fields__[name].metadata['symbol'] or name}={value:g}"
            if isinstance(value, int | float)
            else value
            for name, value in self.choices.items()
        ]

    def named(self, name: str) -> str:
        """The name of a setting of its line: ``gaussian-learned-tuned``."""
        return "-".join([*self.words, name])

    @property
    def run_name(self) -> str:
        """Short and readable in a list: ``FisherNet-d02-s0``."""
        return f"{self.variant.replace(' ', '-')}-d{self.latent_dim:02d}-s{self.seed}"

    def without_axes(self) -> Self:
        """What the members of one cohort have in common: latent_dim, seed and the numbers that may differ set to one value."""
        alike: Values = {f.name: f.default for f in dataclasses.fields(self) if f.metadata["per_member"]}
        return dataclasses.replace(self, latent_dim=1, seed=0, **alike)


def with_default(owner: type[TrialConfig], name: str, default: Any, **changes: Any) -> Any:
    """The field of another config with another default, and what else is said to change of its metadata."""
    metadata = {**owner.__dataclass_fields__[name].metadata, **changes}
    return dataclasses.field(default=default, metadata=metadata)


@functools.cache
def usual_config(config: type[TrialConfig], model: str) -> TrialConfig:
    """A model's config of defaults."""
    return config(model=model)


def typed(f: Field[Value], value: object) -> Value:
    """The value in the field's type, from text as well; raises ValueError that names the field."""
    kind: type = f.type  # type: ignore[assignment]  # no module of configs has postponed annotations
    meaning, choices, valid = f.metadata["meaning"], f.metadata["choices"], f.metadata["valid"]
    must = f"one of {', '.join(choices)}" if choices else f.metadata["must"]
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float) and not value.is_integer()):
            raise ValueError
        if kind is not str and "_" in str(value):  # 1_000 is a number to Python alone
            raise ValueError
        number = kind(value)
        fits = (not choices or number in choices) and (not valid or valid(number))
    except (TypeError, ValueError, OverflowError):
        noun = {int: "a whole number", float: "a number", str: "a word"}[kind]
        raise ValueError(f"{f.name} ({meaning}) must be {noun}, {must}; got {value!r}") from None
    if not fits or (kind is int and abs(number) > LARGEST_NUMBER):
        meant = did_you_mean(value, choices) if isinstance(value, str) else ""
        raise ValueError(f"{f.name} ({meaning}) must be {must}; got {value!r}{meant}")
    return number
