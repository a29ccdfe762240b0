"""The families of models: one config class and one row each. Nothing here imports torch.

A model from outside is a row under the entry point ``fishernet.families``, or is named as ``package.module:Class``, a class
whose ``family`` is its row.
"""

import functools
import importlib
import importlib.metadata
import sys
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

from fishernet.config import TrialConfig, at_least, between, field, positive, typed, with_default
from fishernet.likelihoods import LIKELIHOODS
from fishernet.networks import NETWORKS

# Metrics of FisherNet's epochs that tell where the arithmetic of its draws ends.
CG_RESIDUAL, LARGEST_PRECISION = "train/cg_residual", "train/largest_precision"
# Of M's diagonal. Its smallest eigenvalue may be 1, and float32 rounds M by 6e-8 of its largest: beyond this the draws'
# covariance and ln|M| are off by 1% and more (docs/performance.md).
LARGEST_IN_FLOAT32 = 1e5
LEARNED = {"likelihood": "gaussian-learned"}
WITH_CG = {"sampler": "cg"}
ENTRY_POINT = "fishernet.families"


@dataclass(frozen=True)
class LikelihoodConfig(TrialConfig):
    """Of models whose decoder's output enters one of ``fishernet.likelihoods``."""

    likelihood: str = field(
        "bernoulli",
        f"p(x given f): {'; '.join(f'{name}, {row.meaning}' for name, row in LIKELIHOODS.items())}",
        role="choice",
        choices=tuple(LIKELIHOODS),
    )
    noise: str = field(
        "learned",
        "how gaussian-learned finds xi: by gradient as in the paper, or as the closed-form optimum of a running mean",
        role="choice",
        choices=("learned", "closed-form"),
        when=LEARNED,
    )
    noise_start: float = field(
        0.0,
        "xi at the first step",
        role="rate",
        valid=between(-80, 80),
        must="from -80 to 80",
        when=LEARNED,
        search="-6..0",
    )
    noise_learning_rate: float = field(
        0.0,
        "step size of Adam for xi; 0 takes learning_rate",
        role="rate",
        valid=at_least(0),
        must="at least 0",
        when={**LEARNED, "noise": "learned"},
        search="1e-4..1e-1:log",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
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


@dataclass(frozen=True)
class AEConfig(LikelihoodConfig):
    """The unit Gaussian is the squared error."""

    likelihood: str = with_default(LikelihoodConfig, "likelihood", "gaussian")


@dataclass(frozen=True)
class ELBOConfig(LikelihoodConfig):
    """Of models whose loss weighs a KL divergence."""

    kl_weight: float = field(
        1.0,
        "factor of the KL divergence in the loss (beta), for FisherNet of what its objective keeps of it: |z|^2/2, with eq24 "
        "also ln|M|/2",
        role="choice",
        valid=at_least(0),
        must="at least 0",
        # By the MSE alone it would go to its lower end, where a VAE is a plain autoencoder.
        search="1e-2..10:log",
        search_with="kl",
        symbol="beta",
        per_member=True,
    )


EXPONENTIAL = {"prior": "exponential"}


@dataclass(frozen=True)
class PriorConfig(LikelihoodConfig):
    """Of models with a diagonal Gaussian posterior, whose prior may be learned and whose encoder may be held steady."""

    prior: str = field(
        "normal",
        "p(z): normal, N(0, 1); exponential, a product of exp(eta_1 z + ... + eta_K z^K)/Z with learned eta",
        role="choice",
        choices=("normal", "exponential"),
    )
    prior_order: int = field(
        4,
        "highest power K of the exponential prior",
        role="choice",
        valid=between(2, 12),
        must="from 2 to 12",
        when=EXPONENTIAL,
        symbol="order",
    )
    prior_top: str = field(
        "negative",
        "eta_K: negative makes the prior a density; free, as in the Fisher auto-encoder's paper, does not",
        role="choice",
        choices=("negative", "free"),
        when=EXPONENTIAL,
    )
    prior_start: str = field(
        "standard",
        "the exponential prior at the first step: standard, about N(0, 1); scattered, each eta from N(0, 0.01^2)",
        role="rate",
        choices=("standard", "scattered"),
        when=EXPONENTIAL,
    )
    stability: str = field(
        "partial",
        "what the stability term holds small: |grad_x ln q(z given x)|^2/2 with z held (partial, the paper's theorem 1), with "
        "z moving along (total, as released), or the mean of partial over z (expected)",
        role="choice",
        choices=("partial", "total", "expected"),
    )
    stability_weight: float = field(
        0.0, "factor of the stability term; 0 leaves it out", role="choice", valid=at_least(0), must="at least 0",
        symbol="stability",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior == "exponential" and self.prior_top == "negative" and self.prior_order % 2:
            raise ValueError(
                f"prior_order {self.prior_order} is odd, and no odd power makes a density whatever the sign of its "
                "coefficient. Give an even prior_order, or prior_top free, as the paper's order 5 has it"
            )

    @classmethod
    def matters(cls, name: str, values: Mapping[str, Any]) -> bool:
        if name == "stability" and float(values["stability_weight"]) == 0:
            return False
        return super().matters(name, values)


@dataclass(frozen=True)
class VAEConfig(ELBOConfig, PriorConfig):
    """The paper names no likelihood; Bernoulli comes closest to its plateau (section 3.1.2)."""

    likelihood: str = with_default(LikelihoodConfig, "likelihood", "bernoulli", search="bernoulli,gaussian-learned")


@dataclass(frozen=True)
class CVAEConfig(VAEConfig):
    """The VAE with the convolutions of Table A1."""

    network: str = with_default(TrialConfig, "network", "conv")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network != "conv":
            raise ValueError(
                f"network {self.network}: {self.label} is the VAE with network conv; of another network take the VAE"
            )


@dataclass(frozen=True)
class FisherNetConfig(ELBOConfig):
    """The likelihood is the paper's equation 9."""

    likelihood: str = with_default(LikelihoodConfig, "likelihood", "gaussian-learned")
    objective: str = field(
        "eq25",
        "FisherNet's loss: eq25 drops ln|M| and holds M constant, as the paper; eq25-residual lets the gradient through "
        "the sample's residual; eq24 keeps ln|M|, with the gradient through M",
        role="choice",
        choices=("eq25", "eq25-residual", "eq24"),
    )
    sampler: str = field(
        "cholesky",
        "how FisherNet draws from N(mu, M^-1): cholesky of the explicit M, in float32, or cholesky-float64, where M's "
        "eigenvalues exceed 1e5; or cg, conjugate gradients of eq. 28-31, which never forms M",
        role="choice",
        choices=("cholesky", "cholesky-float64", "cg"),
        search=None,  # the same distribution
    )
    cg_tolerance: float = field(
        1e-4,
        "cg stops at this residual norm relative to the right-hand side's",
        role="computing",
        valid=positive,
        must="positive",
        when=WITH_CG,
    )
    cg_iterations: int = field(
        100,
        "cg stops after this many iterations at the latest",
        role="computing",
        valid=at_least(1),
        must="at least 1",
        when=WITH_CG,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not NETWORKS[self.network].tangents:
            raise ValueError(
                f"network {self.network} has no Jacobian of its decoder, which the posterior of {self.label} is made of; network "
                f"must be {' or '.join(name for name, row in NETWORKS.items() if row.tangents)}"
            )
        if self.sampler == "cg" and self.objective != "eq25":
            raise ValueError(
                "sampler cg never forms M, so it has neither ln|M| nor a gradient through M, and objective must be eq25; "
                f"got {self.objective}"
            )

    @property
    def loss_in_words(self) -> str:
        """Equation 25 or 24, as ``fishernet.models.FisherNet`` computes it."""
        bernoulli, with_log_det, beta = self.likelihood == "bernoulli", self.objective == "eq24", self.kl_weight
        noise = "ξ = 0" if self.likelihood == "gaussian" else "exp(ξ) the learned variance of the noise"
        weight = "" if beta == 1 else "β"
        log_det = "" if with_log_det else " and ln|M|/2, which is no constant"
        formula = (
            f"{weight}|z*|²/2 − ln p(x given z*), the likelihood being Bernoulli"
            if bernoulli
            else f"({weight}|z*|² + ξ²/p + kξ + |x − f(z*)|² exp(−ξ))/2 with k pixels, p training images and {noise}"
        )
        # E ln q(z*) = (ln|M| - d - d ln 2 pi)/2, whose last term cancels with the prior's.
        left_out = "−d/2" if bernoulli else "k ln(2π)/2 − d/2 (for 784 pixels 720 nats less d/2)"
        return (
            f"The loss is that of equation {24 if with_log_det else 25}{weight and f' with kl_weight β = {beta:g}'} at one "
            f"posterior sample z* per image, {f'{weight}ln|M|/2 + ' if with_log_det else ''}{formula}. As in the paper it "
            f"leaves out {left_out}{log_det}; with that{weight and ' and β = 1'} "
            "it would be minus the evidence lower bound."
        )

    def remark(self, metrics: Mapping[str, float]) -> str:
        """Where conjugate gradients stopped short, or float32 is too coarse for M."""
        left = metrics.get(CG_RESIDUAL, 0)
        if left > 1.001 * self.cg_tolerance:  # whose square is what is compared
            return (
                f"conjugate gradients stopped after {self.cg_iterations} iterations at a residual of {left:.2g}, and "
                f"cg_tolerance is {self.cg_tolerance:g}: draws are too narrow in the widest directions; set cg_iterations to "
                f"{max(5 * self.latent_dim, 2 * self.cg_iterations)}, or sampler to cholesky, which costs as much as "
                f"{-(-self.latent_dim // 2)} iterations"
            )
        largest = metrics.get(LARGEST_PRECISION, 0)
        if largest > LARGEST_IN_FLOAT32 and self.sampler == "cholesky":
            return (
                f"M's diagonal reaches {largest:.2g}; beyond {LARGEST_IN_FLOAT32:g} float32 may leave draws and ln|M| off by "
                "more than 1%; sampler cholesky-float64 forms and factors M in float64"
            )
        return ""


@dataclass(frozen=True)
class FisherAEConfig(PriorConfig):
    """The unit Gaussian on [0, 1] is the paper's; a Bernoulli decoder has no term that compares x with f."""

    likelihood: str = with_default(LikelihoodConfig, "likelihood", "gaussian", search="gaussian,gaussian-learned")
    stability_weight: float = with_default(PriorConfig, "stability_weight", 1.0)
    posterior_weight: float = field(
        1.0, "factor of the posteriors' Fisher divergence", role="choice", valid=at_least(0), must="at least 0",
        symbol="posterior",
    )  # fmt: skip
    posterior_gradient: str = field(
        "full",
        "whether the decoder learns from the posteriors' divergence: full, as the paper has it; held, not, as released",
        role="choice",
        choices=("full", "held"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.likelihood not in ("gaussian", "gaussian-learned"):
            raise ValueError(
                f"likelihood {self.likelihood} has no Fisher divergence that compares images: the gradient of ln p in x does "
                f"not see x. likelihood of {self.label} must be gaussian or gaussian-learned"
            )


@dataclass(frozen=True)
class WAEConfig(LikelihoodConfig):
    """A deterministic code, whose distribution over images is brought to the prior's."""

    likelihood: str = with_default(LikelihoodConfig, "likelihood", "gaussian")
    penalty: str = field(
        "gan",
        "what tells codes from draws of N(0, 1): gan, a discriminator; critic, as released with the Fisher auto-encoder, one "
        "with clipped weights; mmd, the maximum mean discrepancy of inverse multiquadratic kernels",
        role="choice",
        choices=("gan", "critic", "mmd"),
    )
    penalty_weight: float = field(
        100.0, "factor of the penalty, beside -ln p(x given f)", role="choice", valid=at_least(0), must="at least 0",
        symbol="penalty", search="1..1000:log",
    )  # fmt: skip
    discriminator_width: int = field(
        256, "neurons of each hidden layer of the discriminator", role="size", valid=between(1, 2**16),
        must="from 1 to 65536",
    )  # fmt: skip
    discriminator_layers: int = field(
        1, "hidden layers of the discriminator", role="size", valid=between(0, 100), must="from 0 to 100",
    )  # fmt: skip
    discriminator_steps: int = field(
        1, "steps of the discriminator before each of the autoencoder", role="rate", valid=between(1, 100),
        must="from 1 to 100",
    )  # fmt: skip
    discriminator_learning_rate: float = field(
        0.0, "step size of Adam for the discriminator; 0 takes learning_rate", role="rate", valid=at_least(0),
        must="at least 0", search="1e-5..1e-2:log",
    )  # fmt: skip

    @classmethod
    def matters(cls, name: str, values: Mapping[str, Any]) -> bool:
        if name.startswith("discriminator_") and values["penalty"] == "mmd":
            return False
        return super().matters(name, values)


@dataclass(frozen=True)
class Family:
    """A row: what the rest of the product asks of a model without importing it."""

    name: str
    config: type[TrialConfig]
    model: str  # "package.module:Class"
    posterior: bool = True  # q(z given x) to draw from
    prior: bool = True  # p(z) to draw from
    tangents: bool = False  # a step pushes d tangents through the decoder, which is most of its cost
    padded: bool = True  # members of different latent_dim stack

    def load(self) -> Any:
        """The model's class."""
        module, _, name = self.model.partition(":")
        return getattr(importlib.import_module(module), name)


BUILT_IN = (
    Family("FisherNet", FisherNetConfig, "fishernet.models.fishernet:FisherNet", tangents=True),
    Family("VAE", VAEConfig, "fishernet.models.vae:VAE"),
    Family("CVAE", CVAEConfig, "fishernet.models.vae:VAE"),
    Family("FisherAE", FisherAEConfig, "fishernet.models.fisher_ae:FisherAE"),
    Family("WAE", WAEConfig, "fishernet.models.wae:WAE", posterior=False),
    Family("AE", AEConfig, "fishernet.models.vae:AE", posterior=False, prior=False),
)


def _installed() -> dict[str, Family]:
    """The rows of this package and of those that are installed beside it; one that cannot be had is a line on stderr."""
    rows = {family.name: family for family in BUILT_IN}
    for point in importlib.metadata.entry_points(group=ENTRY_POINT):
        try:
            family = point.load()
            if not isinstance(family, Family):
                raise TypeError(f"it is a {type(family).__name__} and no fishernet.families.Family")
            if family.name in rows:
                raise ValueError(f"there is a model of that name already, {rows[family.name].model}")
            rows[family.name] = family
        except Exception as error:  # another's code, which may raise anything
            print(f"the model {point.name} of {point.value} is left out: {error}", file=sys.stderr)
    return rows


FAMILIES = _installed()
MODEL_NAMES = tuple(FAMILIES)


class UnknownModel(ValueError):
    """A model that this installation does not have; the message says which it has."""

    def __init__(self, model: str, message: str) -> None:
        super().__init__(message)
        self.model = model


def family(model: str) -> Family:
    """The row of a model by its name or as ``package.module:Class``, which then is known; raises UnknownModel."""
    if model not in FAMILIES:
        if ":" not in model:
            raise UnknownModel(
                model,
                f"model (which autoencoder) must be one of {', '.join(FAMILIES)}, or package.module:Class; got {model!r}",
            )
        FAMILIES[model] = _from_class(model)
        all_fields.cache_clear()
    return FAMILIES[model]


def is_installed(model: str) -> bool:
    """Whether this installation has the model."""
    try:
        family(model)
    except UnknownModel:
        return False
    return True


def _from_class(path: str) -> Family:
    module, _, name = path.partition(":")
    try:
        row = getattr(importlib.import_module(module), name).family
    except Exception as error:  # another's code, which may raise anything
        raise UnknownModel(path, f"model (which autoencoder): {path} cannot be imported: {error}") from None
    if not isinstance(row, Family):
        raise UnknownModel(
            path, f"model (which autoencoder): {path}.family must be a fishernet.families.Family; got {row!r}"
        )
    return row


def trial_config(values: Mapping[str, Any] | None = None, **more: Any) -> TrialConfig:
    """The config of the family that ``model`` names, from field names and values, text included.

    Fields that only other families have are left out: plans and runs of earlier versions hold them. Raises KeyError on
    names that are no fields, ValueError on values that are not allowed.
    """
    values = {"model": MODEL_NAMES[0], **(values or {}), **more}
    config = family(str(values["model"])).config
    own = config.__dataclass_fields__
    if unknown := sorted(set(values) - set(own) - set(all_fields())):
        raise KeyError(f"not fields of TrialConfig: {unknown}; the fields are {list(own)}")
    return config(**{name: value for name, value in values.items() if name in own})


@functools.cache
def all_fields() -> dict[str, Field[Any]]:
    """Every field of every family by name, those that all have first; of one that several have, the first family's."""
    found = {f.name: f for f in fields(TrialConfig)}
    for row in FAMILIES.values():
        for f in fields(row.config):
            found.setdefault(f.name, f)
    return found


def models_with(name: str) -> list[str]:
    """The models that have a field."""
    return [model for model, row in FAMILIES.items() if name in row.config.__dataclass_fields__]


def typed_value(name: str, value: Any) -> Any:
    """The value in the type of field ``name``; raises ValueError that names the field, as a config does."""
    return typed(all_fields()[name], value)


def matters(name: str, values: Mapping[str, Any]) -> bool:
    """Whether a field changes what a config with these values computes."""
    return family(values["model"]).config.matters(name, values)
