"""The families of models: one config class and one row each. Nothing here imports torch.

A model from outside is a row under the entry point ``fishernet.families``, or is named as ``package.module:Class``, a class
whose ``family`` is its row.
"""

import functools
import importlib.metadata
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from typing import Any, ClassVar

from fishernet.config import TrialConfig, Value, Values, at_least, between, field, positive, typed, with_default
from fishernet.likelihoods import LIKELIHOODS, SCALES, emits, n_outputs, with_scale
from fishernet.networks import NETWORKS
from fishernet.spelling import did_you_mean

# Metrics of FisherNet's epochs that tell where the arithmetic of its draws ends.
CG_RESIDUAL, LARGEST_PRECISION = "train/cg_residual", "train/largest_precision"
# Of M's diagonal. Its smallest eigenvalue may be 1, and float32 rounds M by 6e-8 of its largest: beyond this the draws'
# covariance and ln|M| are off by 1% and more (docs/performance.md).
LARGEST_IN_FLOAT32 = 1e5
# Of FisherNet: a tangent of a full scale is a matrix as large as the image is long, squared.
MOST_OUTPUTS_OF_FULL = 4096
LOGISTIC = ("logistic", "logistic-released")
LEARNED = {"likelihood": "gaussian-learned"}
WITH_CG = {"sampler": "cg"}
EMITTED = {"scale": SCALES[1:]}
HEAVY = tuple(name for name, row in LIKELIHOODS.items() if row.heavy)
DISCRETISED = tuple(name for name, row in LIKELIHOODS.items() if row.per_pixel)
MIXTURES = tuple(name for name, row in LIKELIHOODS.items() if row.mixes)
ENTRY_POINT = "fishernet.families"


@dataclass(frozen=True)
class LikelihoodConfig(TrialConfig):
    """Of models whose decoder's output enters one of ``fishernet.likelihoods``."""

    code_may_be_features: ClassVar[bool] = False  # the encoder needs no layer of its own for the code

    likelihood: str = field(
        "bernoulli",
        f"p(x given f): {'; '.join(f'{name}, {row.meaning}' for name, row in LIKELIHOODS.items())}",
        role="choice",
        choices=tuple(LIKELIHOODS),
    )
    scale: str = field(
        "identity",
        "spread of the likelihood about the emitted image: identity; diagonal, a standard deviation for each pixel (of matrix "
        "families for each row and column); full, a triangle (of matrix families one of rows and one of columns)",
        role="choice",
        choices=SCALES,
        when={"likelihood": with_scale("diagonal", "full")},
    )
    components: int = field(
        0,
        "components of a mixture, each with its own image and scale; 0 is none, 1 a mixture of one with a weight to spare",
        role="choice",
        valid=between(0, 1000),
        must="from 0 to 1000",
        when={"likelihood": MIXTURES},
        symbol="K",
    )
    cholesky_of: str = field(
        "precision-matrix",
        "what the triangle of a full scale is a factor of: the precision-matrix, so that nothing is divided by; or the "
        "covariance, as in the released code of the VPAE paper",
        role="choice",
        choices=("precision-matrix", "covariance"),
        when={"scale": "full"},
    )
    least_scale: float = field(
        1e-6,
        "what is added to the softplus of an emitted standard deviation, or of the diagonal of a factor, in units of x "
        "(1/x of a factor of the precision matrix)",
        role="rate",
        valid=positive,
        must="positive",
        when=(EMITTED, {"likelihood": DISCRETISED}),
    )
    maf_width: int = field(
        10,
        "hidden units of likelihood maf's one layer",
        role="size",
        valid=between(1, 2**16),
        must="from 1 to 65536",
        when={"likelihood": "maf"},
    )
    dequantisation: str = field(
        "off",
        "uniform-noise spreads the 256 grey values of images over [0, 1], (v + u)/256 with u new at every pass, so that a "
        "density of them has bits per dimension",
        role="choice",
        choices=("off", "uniform-noise"),
        search=None,  # other images
    )
    pixel_range: str = field(
        "unit",
        "where the encoder, the likelihood's noise and the Fisher divergence see images: unit, in [0, 1]; symmetric, in [-1, 1]. "
        "Scores and densities are of images in [0, 1] either way",
        role="choice",
        choices=("unit", "symmetric"),
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
        if self.likelihood in LOGISTIC and self.decoder_output != "sigmoid":
            raise ValueError(
                f"likelihood {self.likelihood} has its mean between 0 and 1, so decoder_output must be sigmoid; "
                f"got {self.decoder_output}"
            )
        if not (NETWORKS[self.network].heads or self.code_may_be_features):
            raise ValueError(
                f"network {self.network}: its code is its features, without layers that a {self.label} needs for its "
                "posterior; the AE has it"
            )
        row = LIKELIHOODS[self.likelihood]
        if self.scale not in row.scales:
            raise ValueError(
                f"scale {self.scale}: likelihood {self.likelihood} has scale {' or '.join(row.scales)} alone; "
                f"others have {', '.join(with_scale(self.scale))}"
            )
        if self.components and not row.mixes:
            raise ValueError(
                f"components {self.components}: likelihood {self.likelihood} has no mixtures, so components must be 0; "
                f"{', '.join(MIXTURES)} have them"
            )
        if self.dequantisation != "off" and not row.density:
            raise ValueError(
                f"dequantisation {self.dequantisation}: likelihood {self.likelihood} is no density of grey values, so "
                "dequantisation must be off"
            )
        if self.pixel_range == "symmetric" and (
            self.likelihood not in ("gaussian", "gaussian-learned")
            or self.scale != "identity"
            or self.components
            or self.decoder_output != "sigmoid"
        ):
            raise ValueError(
                "pixel_range symmetric is for likelihood gaussian or gaussian-learned with scale identity, components 0 and "
                f"decoder_output sigmoid, whose image in [-1, 1] is a tanh; got likelihood {self.likelihood}, scale "
                f"{self.scale}, components {self.components} and decoder_output {self.decoder_output}. Take these, or "
                "pixel_range unit"
            )
        if self.noise == "closed-form" and self.likelihood != "gaussian-learned":
            raise ValueError(
                "noise closed-form sets the variance of likelihood gaussian-learned; "
                f"got likelihood {self.likelihood}, which has none to set"
            )

    def check_images(self, image_shape: tuple[int, int, int]) -> None:
        super().check_images(image_shape)
        _, height, width = image_shape
        if LIKELIHOODS[self.likelihood].matrix and 1 in (height, width):
            raise ValueError(
                f"likelihood {self.likelihood} has a scale of rows times one of columns, and these images, {height} x {width} "
                f"pixels, are one {'row' if height == 1 else 'column'}; take likelihood "
                f"{'student-t' if LIKELIHOODS[self.likelihood].heavy else 'gaussian'}, whose scale is the pixels'"
            )


@dataclass(frozen=True)
class CodeConfig(LikelihoodConfig):
    """Of models that push no tangents: layers may be gated, and the encoder's heads may end in a function."""

    code: str = field(
        "real",
        "last function of the encoder's heads: none, or rectified, max(0, .), as in the released code of the VPAE paper",
        role="choice",
        choices=("real", "rectified"),
    )
    gating: str = field(
        "none",
        "sigmoid makes h sigmoid(g) of every hidden layer's pair (h, g) in the place of its activation",
        role="choice",
        choices=("none", "sigmoid"),
        when={"network": ("dense", "conv")},
    )


@dataclass(frozen=True)
class NoisyInputConfig(CodeConfig):
    """Of models that may be trained to restore images from noisy ones."""

    input_noise: float = field(
        0.0,
        "variance of the Gaussian noise that is added in training to what the encoder sees, in squared units of x in [0, 1]; the "
        "loss compares with the clean image (denoising autoencoders: Vincent et al. 2008)",
        role="choice",
        valid=at_least(0),
        must="at least 0",
        symbol="input-noise",
    )


@dataclass(frozen=True)
class AEConfig(NoisyInputConfig):
    """The unit Gaussian is the squared error."""

    code_may_be_features: ClassVar[bool] = True

    likelihood: str = with_default(LikelihoodConfig, "likelihood", "gaussian")
    output_order: str = field(
        "channels-first",
        "where network pooled-cnn has the numbers of its outputs: channels-first, each where it is shown; channels-last, "
        "scrambled as in the released code of the VPAE paper",
        role="choice",
        choices=("channels-first", "channels-last"),
        when={"network": "pooled-cnn"},
    )


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
    kl_warmup: int = field(
        0,
        "epochs over which kl_weight comes in: its share in epoch e is e/kl_warmup, at most 1; 0 has all of it from the start",
        role="schedule",
        valid=at_least(0),
        must="at least 0",
    )


EXPONENTIAL = {"prior": "exponential"}


@dataclass(frozen=True)
class DiagonalConfig(NoisyInputConfig):
    """Of models with a diagonal Gaussian posterior, whose prior may be learned and whose encoder may be held steady."""

    needs_density: ClassVar[bool] = True  # the loss has ln p(z), so that the prior must be a density

    posterior_sd: str = field(
        "log-variance",
        "what the encoder emits for the posterior's spread: log-variance, or softplus-sd, whose softplus is the standard "
        "deviation, as in the released code of the VPAE paper",
        role="choice",
        choices=("log-variance", "softplus-sd"),
    )
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
        when={"stability_weight": positive},
    )
    stability_weight: float = field(
        0.0, "factor of the stability term; 0 leaves it out", role="choice", valid=at_least(0), must="at least 0",
        symbol="stability",
    )  # fmt: skip

    log_variance: str = field(
        "free",
        "the posterior's ln s^2 as the encoder gives it, or clamped to [-6, 2]",
        role="choice",
        choices=("free", "clamped"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prior != "exponential":
            return
        if self.prior_top == "free" and self.needs_density:
            raise ValueError(
                f"prior_top free leaves the exponential prior no density, and the loss of {self.label} is made of its KL "
                "divergence. Give prior_top negative with an even prior_order; FisherAE, whose loss has its score alone, "
                "takes free"
            )
        if self.prior_top == "negative" and self.prior_order % 2:
            free = "" if self.needs_density else ", or prior_top free, as the paper's order 5 has it"
            raise ValueError(
                f"prior_order {self.prior_order} is odd, and no odd power makes a density whatever the sign of its "
                f"coefficient. Give an even prior_order{free}"
            )


@dataclass(frozen=True)
class VAEConfig(ELBOConfig, DiagonalConfig):
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
    information_about: str = field(
        "all-outputs",
        "which of the likelihood's numbers M is the information about: all-outputs, or the location alone, as if its scale "
        "were known",
        role="choice",
        choices=("all-outputs", "location"),
        when=(EMITTED, {"likelihood": HEAVY}),
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
        if self.components:
            raise ValueError(
                f"components {self.components}: the Fisher information of a mixture has no closed form, so components of "
                f"{self.label} must be 0"
            )
        if not LIKELIHOODS[self.likelihood].information:
            known = ", ".join(name for name, row in LIKELIHOODS.items() if row.information)
            raise ValueError(
                f"likelihood {self.likelihood}: its Fisher information has no closed form, and {self.label} needs it; it "
                f"is known of {known}"
            )
        if self.sampler == "cg" and self.objective != "eq25":
            raise ValueError(
                "sampler cg never forms M, so it has neither ln|M| nor a gradient through M, and objective must be eq25; "
                f"got {self.objective}"
            )

    def check_images(self, image_shape: tuple[int, int, int]) -> None:
        super().check_images(image_shape)
        outputs = n_outputs(self, image_shape)
        if self.scale == "full" and outputs > MOST_OUTPUTS_OF_FULL and self.information_about == "all-outputs":
            raise ValueError(
                f"information_about all-outputs: with scale full the decoder emits {outputs:,} numbers for these images, and "
                f"above {MOST_OUTPUTS_OF_FULL:,} a triangle would be solved for each image and latent dimension; take "
                "information_about location, scale diagonal, or a matrix likelihood"
            )

    @property
    def loss_in_words(self) -> str:
        """Equation 25 or 24, as ``fishernet.models.FisherNet`` computes it.

        The paper's likelihood, of one variance for all pixels, is written out, without its constant; any other is whole.
        """
        with_log_det, beta, symmetric = self.objective == "eq24", self.kl_weight, self.pixel_range == "symmetric"
        papers = self.likelihood in ("gaussian", "gaussian-learned") and self.scale == "identity"
        noise = "ξ = 0" if self.likelihood == "gaussian" else "exp(ξ) the learned variance of the noise"
        weight = "" if beta == 1 else "β"
        log_det = "" if with_log_det else " and ln|M|/2, which is no constant"
        name = "Bernoulli" if self.likelihood == "bernoulli" else self.likelihood
        formula = (
            f"({weight}|z*|² + ξ²/p + kξ + |x − f(z*)|² exp(−ξ))/2 with k pixels{' in [−1, 1]' * symmetric}, p training images "
            f"and {noise}"
            if papers
            else f"{weight}|z*|²/2 − ln p(x given z*), the likelihood being {name}"
            f"{f' of scale {self.scale}' * (self.scale != 'identity')}"
        )
        # E ln q(z*) = (ln|M| - d - d ln 2 pi)/2, whose last term cancels with the prior's.
        constant = "k ln(π/2)/2 − d/2 (for 784 pixels 177" if symmetric else "k ln(2π)/2 − d/2 (for 784 pixels 720"
        left_out = f"As in the paper it leaves out {constant} nats less d/2)" if papers else "It leaves out −d/2"
        return (
            f"The loss is that of equation {24 if with_log_det else 25}{weight and f' with kl_weight β = {beta:g}'} at one "
            f"posterior sample z* per image, {f'{weight}ln|M|/2 + ' if with_log_det else ''}{formula}. "
            f"{left_out}{log_det}; with that{weight and ' and β = 1'} it would be minus the evidence lower bound."
        )

    def remark(self, metrics: Mapping[str, float]) -> str:
        """Where conjugate gradients stopped short, or float32 is too coarse for M."""
        left = metrics.get(CG_RESIDUAL, 0)
        if left > 1.001 * self.cg_tolerance:  # whose square is what is compared
            return (
                f"conjugate gradients stopped after {self.cg_iterations} iterations at a residual of {left:.2g}, and "
                f"cg_tolerance is {self.cg_tolerance:g}: the draws that it learns and is scored by are too narrow in the widest "
                f"directions; take --cg-iterations {max(5 * self.latent_dim, 2 * self.cg_iterations)}, or --sampler cholesky, "
                f"which costs as much as {-(-self.latent_dim // 2)} iterations"
            )
        largest = metrics.get(LARGEST_PRECISION, 0)
        if largest > LARGEST_IN_FLOAT32 and self.sampler == "cholesky":
            return (
                f"M's diagonal reaches {largest:.3g}; beyond {LARGEST_IN_FLOAT32:.0e} the draws that it learns and is scored by, "
                "and ln|M|, may be off by more than 1% in float32; --sampler cholesky-float64 has both in float64"
            )
        return ""


@dataclass(frozen=True)
class FisherAEConfig(DiagonalConfig):
    """The unit Gaussian on [0, 1] is the paper's; a Bernoulli decoder has no term that compares x with f."""

    needs_density: ClassVar[bool] = False
    loss_unit: ClassVar[str] = "inverse squared units of z and x"

    likelihood: str = with_default(LikelihoodConfig, "likelihood", "gaussian", search="gaussian,gaussian-learned")
    stability_weight: float = with_default(DiagonalConfig, "stability_weight", 1.0)
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
        if self.likelihood not in ("gaussian", "gaussian-learned") or self.scale != "identity" or self.components:
            raise ValueError(
                f"likelihood {self.likelihood}, scale {self.scale}, components {self.components}: the Fisher divergence compares "
                f"images where ln p is quadratic in x alone, so likelihood of {self.label} must be gaussian or gaussian-learned, "
                "of scale identity and without components"
            )

    @property
    def loss_in_words(self) -> str:
        """Equation 11, as ``fishernet.models.fisher_ae.FisherAE`` computes it."""
        v, range_of = "1" if self.likelihood == "gaussian" else "the learned variance of the noise", ""
        if self.pixel_range == "symmetric":
            range_of = "; x and f are in [−1, 1]"
        weight, of_stability = ("" if w == 1 else f"{w:g} · " for w in (self.posterior_weight, self.stability_weight))
        form = {
            "partial": "|∇_x ln q(z given x)|²/2 with z held",
            "total": "|∇_x ln q(z given x)|²/2 with z moving along, as released",
            "expected": "the mean over z of |∇_x ln q(z given x)|²/2",
        }[self.stability]
        steady = f" + {of_stability}{form}" if self.stability_weight else ""
        held = ", whose gradient in the decoder is left out" if self.posterior_gradient == "held" else ""
        return (
            f"The loss is that of the Fisher auto-encoder's equation 11 at one posterior sample z per image, {weight}|∇_z ln q(z "
            f"given x) − ∇_z ln p(x, z)|²/2{held} + |x − f(z)|²/(2v²) − k/v{steady}, with k pixels and v = {v}{range_of}. It "
            "is in inverse squared units of z and x, not in nats, and compares with no ELBO."
        )


DISCRIMINATES = {"penalty": ("gan", "critic")}


@dataclass(frozen=True)
class WAEConfig(CodeConfig):
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
        must="from 1 to 65536", when=DISCRIMINATES,
    )  # fmt: skip
    discriminator_layers: int = field(
        1, "hidden layers of the discriminator", role="size", valid=between(0, 100), must="from 0 to 100",
        when=DISCRIMINATES,
    )  # fmt: skip
    discriminator_steps: int = field(
        0, "steps of the discriminator before each of the autoencoder; 0 takes 1, and of penalty critic 5, as released",
        role="rate", valid=between(0, 100), must="from 0 to 100", when=DISCRIMINATES,
    )  # fmt: skip
    discriminator_learning_rate: float = field(
        0.0, "step size of Adam for the discriminator; 0 takes learning_rate", role="rate", valid=at_least(0),
        must="at least 0", when=DISCRIMINATES, search="1e-5..1e-2:log",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.discriminator_steps:
            object.__setattr__(self, "discriminator_steps", 5 if self.penalty == "critic" else 1)

    @property
    def label(self) -> str:
        """With its penalty, as papers write it: WAE-GAN, WAE-MMD."""
        return f"{super().label}-{self.penalty if self.penalty == 'critic' else self.penalty.upper()}"

    @property
    def words(self) -> list[str]:
        """Without the penalty, which its label says."""
        return super().words if self.setting else [word for word in super().words if word != self.penalty]

    @property
    def loss_in_words(self) -> str:
        """The autoencoder's loss, as ``fishernet.models.wae.WAE`` computes it."""
        penalty = {
            "gan": "ln(1 + exp(−l(z))), l being the logit of a discriminator that tells codes from draws of N(0, 1)",
            "critic": "−D(z), D being a critic with clipped weights between 0 (codes) and 1 (draws of N(0, 1))",
            "mmd": "the squared maximum mean discrepancy of a batch's codes and draws of N(0, 1), which is no number of an "
            "image and so no part of the held-out loss",
        }[self.penalty]
        return (
            f"The loss is −ln p(x given f(z)) at the code z of each image, + {self.penalty_weight:g} times {penalty}."
        )


READS_F = {"fisher_constraint": ("mean", "trace", "released-conv")}


def check_weighed(config: TrialConfig, target: str, weight: str) -> None:
    """Raises ValueError where a target is given whose term ``weight`` leaves out: it would name a line and change nothing."""
    value = getattr(config, target)
    if value != config.__dataclass_fields__[target].default and not getattr(config, weight):
        raise ValueError(
            f"{target} {value:g} is a target without a weight: {weight} is 0, which leaves its term out. Give {weight} a number "
            f"above 0, or leave {target} out"
        )


@dataclass(frozen=True)
class FAEConfig(VAEConfig):
    """The VAE and a term that holds its posterior's Fisher information at F."""

    fisher_constraint: str = field(
        "mean",
        "what the Fisher-Shannon paper's F is held against: mean, of 1/s^2 over batch and latents; trace, sum 1/s^2 of each "
        "image; released-conv, the released estimate of the mean, clamped at 88; released-mlp, a term without F that rewards "
        "narrow posteriors",
        role="choice",
        choices=("mean", "trace", "released-conv", "released-mlp"),
    )
    fisher_target: float = field(
        20.0, "the value F that the posterior's Fisher information is held at", role="choice", valid=at_least(0),
        must="at least 0", when=READS_F, symbol="F", per_member=True, search="0..40", search_with="kl",
    )  # fmt: skip
    fisher_weight: float = field(
        0.1, "factor lambda of the distance of the posterior's Fisher information from fisher_target", role="choice",
        valid=at_least(0), must="at least 0", when=READS_F, symbol="lambda", per_member=True,
        # By the MSE alone both would go where posteriors are narrowest.
        search="1e-2..10:log", search_with="kl",
    )  # fmt: skip
    decoder_fisher_target: float = field(
        0.0, "the value F_x that the likelihood's Fisher information, pixels/noise variance, is held at", role="choice",
        valid=at_least(0), must="at least 0", when=LEARNED, symbol="F_x",
    )  # fmt: skip
    decoder_fisher_weight: float = field(
        0.0, "factor lambda_x of the distance of the likelihood's Fisher information from decoder_fisher_target; 0 leaves it out",
        role="choice", valid=at_least(0), must="at least 0", when=LEARNED, symbol="lambda_x",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("fisher_target", "fisher_weight"):
            value, usual = getattr(self, name), self.__dataclass_fields__[name].default
            if self.fisher_constraint == "released-mlp" and value != usual:
                raise ValueError(
                    f"{name} {value:g}: the term of fisher_constraint released-mlp has neither target nor weight. Leave {name} "
                    f"out, or take fisher_constraint {', '.join(READS_F['fisher_constraint'])}"
                )
        check_weighed(self, "fisher_target", "fisher_weight")
        check_weighed(self, "decoder_fisher_target", "decoder_fisher_weight")
        if self.decoder_fisher_weight and (self.likelihood != "gaussian-learned" or self.noise != "learned"):
            raise ValueError(
                f"decoder_fisher_weight {self.decoder_fisher_weight:g} moves the noise variance of likelihood gaussian-learned "
                f"with noise learned; got likelihood {self.likelihood} and noise {self.noise}, which it cannot move"
            )

    @classmethod
    def matters(cls, name: str, values: Values) -> bool:
        weight = {"fisher_target": "fisher_weight", "decoder_fisher_target": "decoder_fisher_weight"}.get(name)
        return (weight is None or float(values[weight]) > 0) and super().matters(name, values)


@dataclass(frozen=True)
class NormalPriorConfig(ELBOConfig, CodeConfig):
    """Of VAEs whose terms take the prior N(0, 1) and a steady encoder for granted."""

    likelihood: str = with_default(VAEConfig, "likelihood", "bernoulli")
    posterior_sd: str = with_default(DiagonalConfig, "posterior_sd", "log-variance")
    log_variance: str = with_default(DiagonalConfig, "log_variance", "free")


@dataclass(frozen=True)
class MAEConfig(NormalPriorConfig):
    """The VAE and a term that holds the information between images and latents at M."""

    information_target: float = field(
        10.0, "the value M, nats, that the mutual information of latents and images is held at", role="choice",
        valid=at_least(0), must="at least 0", symbol="M", per_member=True, search="0..30", search_with="kl",
    )  # fmt: skip
    information_weight: float = field(
        1.0, "factor C of the distance of the mutual information from information_target", role="choice",
        valid=at_least(0), must="at least 0", symbol="C", per_member=True, search="1e-1..10:log", search_with="kl",
    )  # fmt: skip
    information_sample: str = field(
        "straight-through",
        "the images whose information about their latents is estimated: straight-through, drawn from the likelihood; mean, the "
        "expected images, of which there is no upper bound",
        role="choice",
        choices=("straight-through", "mean"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weighed(self, "information_target", "information_weight")
        drawn = ("bernoulli", "gaussian", "gaussian-learned", *LOGISTIC)
        if self.information_sample != "mean" and (
            self.likelihood not in drawn or self.scale != "identity" or self.components
        ):
            raise ValueError(
                f"information_sample {self.information_sample} needs draws with a gradient, which likelihoods {', '.join(drawn)} "
                f"with scale identity and components 0 have; got likelihood {self.likelihood}, scale {self.scale} and components "
                f"{self.components}. Take one of these, or information_sample mean"
            )

    @classmethod
    def matters(cls, name: str, values: Values) -> bool:
        if name == "information_target" and float(values["information_weight"]) == 0:
            return False
        return super().matters(name, values)


@dataclass(frozen=True)
class IAFConfig(NormalPriorConfig):
    """The VAE whose posterior is moved by an inverse autoregressive flow."""

    activation: str = with_default(TrialConfig, "activation", "relu", when=())  # the flow's too
    flow_steps: int = field(
        2, "steps of the flow, every second one in reversed order", role="size", valid=between(1, 100), must="from 1 to 100",
    )  # fmt: skip
    flow_width: int = field(
        320, "neurons of the hidden layer of each of the flow's steps", role="size", valid=between(1, 2**16),
        must="from 1 to 65536",
    )  # fmt: skip


@dataclass(frozen=True)
class PixelVAEConfig(VAEConfig):
    """The VAE whose decoder draws pixel by pixel and sees those before."""

    pixel_layers: int = field(
        8, "masked 3x3 convolutions of the decoder", role="size", valid=between(1, 100), must="from 1 to 100"
    )
    pixel_channels: int = field(
        64, "channels of each masked convolution", role="size", valid=between(1, 4096), must="from 1 to 4096"
    )
    pixel_mask: str = field(
        "image",
        "what the first masked convolution hides of places that are not before: image, the image alone; released, also what the "
        "latents say there",
        role="choice",
        choices=("image", "released"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.likelihood == "maf" or emits(self, (1, 2, 2))[1]:
            raise ValueError(
                f"likelihood {self.likelihood} with scale {self.scale} and components {self.components} asks for numbers of a "
                f"whole image, and the decoder of {self.label} gives them pixel by pixel; take another, such as bernoulli"
            )


@dataclass(frozen=True)
class Family:
    """A row: what the rest of the product asks of a model without importing it."""

    name: str
    config: type[TrialConfig]
    model: str  # "package.module:Class"
    posterior: bool = True  # q(z given x) to draw from
    covariance: bool = True  # that of the posterior has a closed form
    prior: bool = True  # p(z) to draw from
    tangents: bool = False  # a step pushes d tangents through the decoder, which is most of its cost
    padded: bool = True  # members of different latent_dim stack
    cost: float = 1.0  # of a step, without tangents, beside that of a VAE with the same networks
    sees_image: bool = False  # in scores the decoder is told the image; without it, it takes a pass for each pixel

    @property
    def has_ellipses(self) -> bool:
        """Whether the uncertainty of an image's latents is a covariance that is known."""
        return self.posterior and self.covariance

    def load(self) -> Any:
        """The model's class."""
        return pkgutil.resolve_name(self.model)


BUILT_IN = (
    Family("FisherNet", FisherNetConfig, "fishernet.models.fishernet:FisherNet", tangents=True),
    Family("VAE", VAEConfig, "fishernet.models.vae:VAE"),
    Family("CVAE", CVAEConfig, "fishernet.models.vae:VAE"),
    Family("AE", AEConfig, "fishernet.models.vae:AE", posterior=False, prior=False),
    Family("FisherAE", FisherAEConfig, "fishernet.models.fisher_ae:FisherAE", cost=2.3),
    Family("WAE", WAEConfig, "fishernet.models.wae:WAE", posterior=False, cost=1.4),
    Family("FAE", FAEConfig, "fishernet.models.fisher_shannon:FAE", cost=1.1),
    Family("MAE", MAEConfig, "fishernet.models.fisher_shannon:MAE", cost=2.5),
    Family("IAF", IAFConfig, "fishernet.models.iaf:IAF", covariance=False, cost=1.8),
    Family("PixelVAE", PixelVAEConfig, "fishernet.models.pixel_vae:PixelVAE", sees_image=True, cost=10),
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
                f"model (which autoencoder) must be one of {', '.join(FAMILIES)}, or package.module:Class; got {model!r}"
                + did_you_mean(model, FAMILIES),
            )
        FAMILIES[model] = _from_class(model)
        all_fields.cache_clear()
    return FAMILIES[model]


def spelled(model: str) -> str:
    """A model's name as its row has it, whatever the case it is written in; any other word as it is."""
    return next((name for name in FAMILIES if name.casefold() == model.casefold()), model)


def is_installed(model: str) -> bool:
    """Whether this installation has the model."""
    try:
        family(model)
    except UnknownModel:
        return False
    return True


def _from_class(path: str) -> Family:
    try:
        row = pkgutil.resolve_name(path).family
    except Exception as error:  # another's code, which may raise anything
        raise UnknownModel(path, f"model (which autoencoder): {path} cannot be imported: {error}") from None
    if not isinstance(row, Family):
        raise UnknownModel(
            path, f"model (which autoencoder): {path}.family must be a fishernet.families.Family; got {row!r}"
        )
    return row


def trial_config(values: Values | None = None, **more: Any) -> TrialConfig:
    """The config of the family that ``model`` names, from field names and values, text included.

    Fields that only other families have are left out: plans and runs of earlier versions hold them. Raises KeyError on
    names that are no fields, ValueError on values that are not allowed.
    """
    values = {"model": MODEL_NAMES[0], **(values or {}), **more}
    values["model"] = spelled(str(values["model"]))
    config = family(values["model"]).config
    own = config.names()  # and no class variables
    if unknown := sorted(set(values) - set(own) - set(all_fields())):
        raise KeyError(
            f"not fields of TrialConfig: {unknown}; the fields are {list(own)}{did_you_mean(unknown[0], own)}"
        )
    return config(**{name: value for name, value in values.items() if name in own})


@functools.cache
def all_fields() -> dict[str, Field[Value]]:
    """Every field of every family by name, those that all have first; of one that several have, the first family's."""
    found = {f.name: f for f in fields(TrialConfig)}
    for row in FAMILIES.values():
        for f in fields(row.config):
            found.setdefault(f.name, f)
    return found


def models_with(name: str) -> list[str]:
    """The models that have a field."""
    return [model for model, row in FAMILIES.items() if name in row.config.__dataclass_fields__]


def typed_value(name: str, value: object) -> Value:
    """The value in the type of field ``name``; raises ValueError that names the field, as a config does."""
    return typed(all_fields()[name], value)


def matters(name: str, values: Values) -> bool:
    """Whether a field changes what a config with these values computes."""
    return family(values["model"]).config.matters(name, values)
