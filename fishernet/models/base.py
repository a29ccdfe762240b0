"""What every model is: networks, a likelihood, a prior, and a loss; everything is stacked over the members of a cohort."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fishernet.config import TrialConfig
from fishernet.data.images import dequantised
from fishernet.families import family
from fishernet.likelihoods import LIKELIHOODS
from fishernet.likelihoods.base import Likelihood
from fishernet.networks import NETWORKS
from fishernet.networks.stacked import Linear, Stacked, StackedLayer
from fishernet.posteriors import Posterior
from fishernet.priors import Prior, prior_of

DEQUANTISATION, INPUT_NOISE = "dequantisation", "input"  # the names of their noise


class Noise(NamedTuple):
    """How many random numbers an image needs, and of which kind: standard normal, or uniform in [0, 1)."""

    width: int
    kind: Literal["normal", "uniform"] = "normal"


class Outcome(NamedTuple):
    """What one pass of a batch gives, per image, (n_members, n)."""

    loss: Tensor  # lower is better; nats, or what its config's ``loss_unit`` says
    terms: dict[str, Tensor]  # what the loss is made of, and the ELBO where it is known
    mean: Tensor  # the posterior mean, (n_members, n, d)
    output: Tensor  # the decoder's raw output at one posterior sample, (n_members, n, n_outputs)


class Autoencoder(nn.Module, ABC):
    """f = decoder(z), x in [0, 1]^k, for configs that differ only in latent_dim, seed and the numbers of ``numbers``.

    z is (n_members, n, d) with d the largest latent_dim; the surplus of a smaller member is 0 in its weights, means and
    noise, and every gradient there is 0, so it trains as it would alone. Where a formula would see the surplus, as ln 2 pi
    for each latent does, ``own``, (n_members, 1, d), is 1 for a member's own latents and 0 for what pads it.
    """

    heads: ClassVar[tuple[str, ...]] = ("mean",)  # what the encoder gives, d numbers each
    recordable = True  # a step has no branch that looks at its numbers, so that a CUDA graph can replay it
    pulls_back = False  # the loss has gradients in images or latents, of which it then wants gradients in the weights
    by_information: ClassVar[bool] = False  # the posterior's precision is M, the decoder's Fisher information plus 1
    config: Any
    own: Tensor
    annealing: Tensor
    kl_weight: Tensor  # of the families that have it

    def __init__(self, configs: Sequence[TrialConfig], image_shape: tuple[int, int, int], n_train: int) -> None:
        super().__init__()
        self.config = configs[0]  # of this family's class
        self.configs, self.image_shape, self.n_train = list(configs), image_shape, n_train
        self.n_pixels = math.prod(image_shape)
        self.latent_dims = [c.latent_dim for c in configs]
        own = torch.arange(max(self.latent_dims)) < torch.tensor(self.latent_dims)[:, None]
        self.register_buffer("own", own[:, None].to(torch.get_default_dtype()), persistent=False)
        # Numbers of the loss in which the members of one cohort may differ, (n_members, 1).
        for f in fields(self.config):
            if f.metadata["per_member"]:
                values = torch.tensor([[getattr(c, f.name)] for c in configs])
                self.register_buffer(f.name, values, persistent=False)
        # The share of the KL divergence in the epoch's loss; on the device, where a CUDA graph reads it anew.
        self.register_buffer("annealing", torch.ones(()), persistent=False)
        self.likelihood: Likelihood = LIKELIHOODS[self.config.likelihood].load()(self.config, len(configs), image_shape)
        self.prior: Prior = prior_of(self.config, self.own, self.latent_dims)
        self.build_networks(image_shape)
        # Encoder and decoder first: models that add to them start from the same weights there.
        initialised: set[nn.Module] = set()
        generators = [torch.Generator().manual_seed(c.seed) for c in configs]
        for network in (self.trunk, self.heads_of_encoder, self.decoder, self):
            for layer in network.modules():
                if isinstance(layer, Stacked) and layer not in initialised:
                    if isinstance(layer, StackedLayer):
                        layer.initialisation = self.config.initialisation
                    layer.initialise(generators)
                    initialised.add(layer)
                if isinstance(layer, Linear):
                    layer.pulls_back = self.pulls_back

    def build_networks(self, image_shape: tuple[int, int, int]) -> None:
        """Those of ``config.network``; a model with networks of its own calls ``use_networks`` with them."""
        network = NETWORKS[self.config.network]
        self.use_networks(
            network.load("Encoder")(self.configs, image_shape),
            network.load("Decoder")(self.configs, image_shape, self.likelihood.maps, self.likelihood.others),
        )

    def use_networks(self, trunk: nn.Module, decoder: nn.Module) -> None:
        """``trunk``, which says its ``n_features``, with a linear head for each of ``heads``, and ``decoder``."""
        self.trunk, self.decoder = trunk, decoder
        n_features: list[int] = trunk.n_features  # type: ignore[assignment]
        linear = NETWORKS[self.config.network].heads
        self.heads_of_encoder = nn.ModuleDict(
            {name: Linear(n_features, self.latent_dims) if linear else nn.Identity() for name in self.heads}
        )

    def encode(self, x: Tensor) -> dict[str, Tensor]:
        """Each head's output, (n_members, n, d)."""
        with self.arithmetic():
            return self.heads_from(self.trunk(self.ranged(x)), x.dtype)

    def ranged(self, x: Tensor) -> Tensor:
        """x, or 2x - 1 where ``pixel_range`` is symmetric."""
        return 2 * x - 1 if self.config.pixel_range == "symmetric" else x

    def heads_from(self, features: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """Each head's output of the trunk's features."""
        heads = {name: head(features).to(dtype) for name, head in self.heads_of_encoder.items()}
        if getattr(self.config, "code", "real") == "rectified":
            return {name: torch.relu(head) for name, head in heads.items()}
        return heads

    def decode(self, z: Tensor) -> Tensor:
        """The decoder's raw output a, (n_members, n, n_outputs)."""
        with self.arithmetic():
            a: Tensor = self.decoder(z).to(z.dtype)
        return a

    def arithmetic(self) -> AbstractContextManager[object]:
        """Within it the networks' matrix products, and their gradients, are of ``config.precision``'s numbers."""
        if self.config.precision != "bfloat16":
            return nullcontext()  # tf32 is a matter of the process: ``training.set_arithmetic``
        return torch.autocast(next(self.parameters()).device.type, torch.bfloat16)

    def posterior_mean(self, x: Tensor) -> Tensor:
        return self.encode(x)["mean"]

    def posterior(self, x: Tensor) -> Posterior:
        """q(z given x); raises NotImplementedError where the model has none (``Family.posterior``)."""
        raise NotImplementedError(f"{type(self).__name__} has no posterior")

    def log_likelihood(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """ln p(x given z), nats, (n_members, n), and the decoder's raw output a."""
        a = self.decode(z)
        return self.likelihood.log_prob(x, a), a

    def log_weight(self, x: Tensor, q: Posterior, noise: Mapping[str, Tensor]) -> Tensor:
        """ln p(x given z) + ln p(z) - ln q(z given x) at one draw z ~ q, nats, (n_members, n).

        Its mean over draws is the ELBO, the logarithm of the mean of its exponential a lower bound of ln p(x) that is the
        tighter the more draws (Burda, Grosse, Salakhutdinov 2016, eq. 8). Raises NotImplementedError where ln q is unknown.
        """
        z, log_q = q.draw(noise)
        if log_q is None:
            raise NotImplementedError(f"{type(q).__name__} cannot know the density of its draws")
        return self.log_likelihood(x, z)[0] + self.prior.log_prob(z) - log_q

    def reconstruct(self, z: Tensor) -> Tensor:
        """f, the expected image of each z, (n_members, n, n_pixels)."""
        return self.likelihood.mean(self.decode(z))

    def image_of(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """What a sample shows of each z, (n_members, n, n_pixels): the expected image, f.

        Where pixels depend on those before there is no such image in closed form, and it is a draw.
        """
        return self.reconstruct(z)

    def reconstruction(self, x: Tensor, z: Tensor) -> Tensor:
        """What of z is compared with the image x in scores: f, for decoders that see the image given the image itself."""
        return self.reconstruct(z)

    def held_out_loss(self, means: Mapping[str, Tensor]) -> Tensor:
        """The loss of a set of images from the means of loss and terms over it, (n_members,).

        Where a part of the loss is a function of a mean over the batch, a mean of losses would depend on the batches' size.
        """
        return means["loss"]

    def of_a_block(self, mean: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scores of a set of images that are of none of them, (n_members,), by name, from posterior means (n_members, n, d).

        Evaluation asks for them once for each block of images, and gives the mean over blocks, weighed by their sizes.
        """
        return {}

    def penalty_alone(self, x: Tensor, n_draws: int, generator: torch.Generator) -> Tensor | None:
        """What the loss adds to minus the bound of each image in a batch of itself alone, (n_members, n); None where nothing.

        ``n_draws`` are those that it is the mean of where it is drawn, by ``generator``.
        """
        return None

    def other_reconstructions(self, z: Tensor) -> dict[str, Tensor]:
        """By name, what else could be shown of each z where the likelihood is a mixture, (n_members, n, n_pixels)."""
        if getattr(self.config, "components", 0) < 2:
            return {}
        return self.likelihood.distribution(self.decode(z)).estimates()

    def noise(self, latent_dim: int) -> dict[str, Noise]:
        """The random numbers that a pass needs for each image of a member, by name. The first has the numbers that other
        models of that seed have.
        """
        return {"eta": Noise(latent_dim)}

    def all_noise(self, latent_dim: int) -> dict[str, Noise]:
        """``noise``, and what dequantisation and noisy inputs need."""
        spread = {DEQUANTISATION: Noise(self.n_pixels, "uniform")} if self.dequantises else {}
        shown = {INPUT_NOISE: Noise(self.n_pixels)} if getattr(self.config, "input_noise", 0.0) else {}
        return {**self.noise(latent_dim), **spread, **shown}

    @property
    def dequantises(self) -> bool:
        """Whether the images that the loss sees are spread over [0, 1]."""
        return bool(self.config.dequantisation == "uniform-noise")

    def seen(self, x: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """The images that the loss is of: x = v/255, or ``dequantised``."""
        return dequantised(x, noise[DEQUANTISATION]) if self.dequantises else x

    def shown(self, x: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """What the encoder sees of x: x, and in training with ``input_noise`` x + sqrt(input_noise) n, not clipped."""
        if not self.training or INPUT_NOISE not in noise:
            return x
        return x + math.sqrt(self.config.input_noise) * noise[INPUT_NOISE]

    def bits_per_dim(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Bits per grey value of the ELBO, or of ln p(x given its code) where there is no posterior, (n_members, n), by name.

        Empty where the likelihood is of no 8-bit values. A code that is free costs bits of its own, which the latter leaves out.
        """
        if not (self.dequantises or self.likelihood.discrete):
            return {}
        name, nats = (
            ("bits_per_dim", "elbo") if family(self.config.model).posterior else ("code_bits_per_dim", "log_likelihood")
        )
        # A density over [0, 1] is one over 256 values when divided by 256.
        added = 0 if self.likelihood.discrete else 8
        return {name: added - terms[nats] / (self.n_pixels * math.log(2))} if nats in terms else {}

    @property
    def extremes(self) -> dict[str, Tensor]:
        """By metric, the largest value that training has met since these were set to 0, (n_members,)."""
        return {}

    @abstractmethod
    def forward(self, x: Tensor, noise: Mapping[str, Tensor]) -> Outcome:
        """Loss and terms of images x, (n_members, n, n_pixels) in [0, 1], at one posterior sample drawn with ``noise``.

        ``noise`` has an array (n_members, n, width) for each name of ``self.noise``, padded with zeros.
        """

    def updates(self, x: Tensor, noise: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """One optimiser step of every player on a batch: (player, its loss, (n_members, n)), one after the other.

        ``x`` is what the loss is of (``seen``).

        After each yield the training loop takes that player's step and comes back. The player "" owns the parameters that
        ``player_of`` gives to no other; its loss is the run's.
        """
        outcome = self(x, noise)
        yield "", outcome.loss
        self.likelihood.observe(x, outcome.output.detach())

    def player_of(self, parameter: str) -> str:
        """The player whose optimiser moves a parameter of this name."""
        return ""

    def learning_rate_of(self, parameter: str) -> float:
        """The step size of Adam for a parameter of this name."""
        own = getattr(self.config, "noise_learning_rate", 0.0) if parameter == "likelihood.xi" else 0.0
        return float(own or self.config.learning_rate)

    def begin_epoch(self, epoch: int) -> None:
        """Called before each epoch, counted from 1; what depends on it is written into buffers, which a CUDA graph reads anew.

        Nothing of it is stored: an epoch depends on its number alone. Here it is the share of the KL divergence, e/kl_warmup up
        to 1 (Sønderby et al. 2016, section 3.2, warm-up).
        """
        if warmup := getattr(self.config, "kl_warmup", 0):
            self.annealing.fill_(min(1.0, epoch / warmup))

    @property
    def kl_factor(self) -> Tensor:
        """What multiplies the KL divergence in the loss, (n_members, 1): kl_weight, in training times the epoch's share of it."""
        annealed = self.training and self.config.kl_warmup > 0
        return self.kl_weight * self.annealing if annealed else self.kl_weight

    def noise_prior(self, like: Tensor) -> Tensor | float:
        """Minus ln of the likelihood's prior of its own parameters, per image, in the shape of ``like``; 0 without any."""
        log_prior = self.likelihood.log_prior(self.n_train)
        return 0.0 if log_prior is None else -log_prior.expand_as(like)
