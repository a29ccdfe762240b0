"""A cohort: trial configs that differ only in latent_dim and seed, trained in lockstep as one stacked model."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from fishernet.adam import Adam, Group
from fishernet.config import TrialConfig
from fishernet.models import MODELS, Autoencoder
from fishernet.networks import StackedLayer
from fishernet.state import CohortState, Record, copy_corner

DRAWN_NUMBERS = 2**24  # 64 MiB: of cg's noise, as wide as an image


class Cohort:
    """The members' stacked model and optimiser, the epochs they have behind them, and what those reported.

    Raises ValueError when the configs differ in more than latent_dim and seed.
    """

    def __init__(
        self,
        configs: Sequence[TrialConfig],
        image_shape: tuple[int, int, int],
        n_train: int,
        device: str | torch.device = "cpu",
    ) -> None:
        for name in sorted({f.name for f in fields(TrialConfig)} - {"latent_dim", "seed"}):
            if len({getattr(c, name) for c in configs}) > 1:
                raise ValueError(f"members of a cohort differ only in latent_dim and seed; these differ in {name}")
        self.configs, self.config, self.device = list(configs), configs[0], torch.device(device)
        self.model: Autoencoder = MODELS[self.config.model](configs, image_shape, n_train).to(self.device)
        self.optimiser = _optimiser(self.model, self.config)
        self.epoch = 0
        self.history: list[list[Record]] = [[] for _ in configs]
        self.failures: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.configs)

    def streams(self, name: str, epoch: int) -> list[torch.Generator]:
        """One generator per member, seeded by (seed, name, epoch) alone: no state to keep, none shared with a neighbour."""
        return [torch.Generator(self.device).manual_seed(_stream_seed(c.seed, name, epoch)) for c in self.configs]

    def draw_orders(self, epoch: int, n: int) -> Tensor:
        """Each member's order of the training images in this epoch, (n_members, n)."""
        return torch.stack([torch.randperm(n, generator=g, device=self.device) for g in self.streams("order", epoch)])

    def images_per_draw(self) -> int:
        """For how many images to draw noise at once, that a member's stays below DRAWN_NUMBERS; the same in every cohort."""
        return max(1, DRAWN_NUMBERS // max(1, sum(self.model.noise_widths(1))))

    def draw_noise(self, generators: Sequence[torch.Generator], n: int) -> list[Tensor]:
        """Standard normals for n images: what the model asks for, (n_members, n, width), drawn in each member's own width."""
        draws = []
        widths = [self.model.noise_widths(c.latent_dim) for c in self.configs]
        for i in range(len(widths[0])):
            padded = torch.zeros(len(self), n, max(w[i] for w in widths), device=self.device)
            for member, (w, generator) in enumerate(zip(widths, generators, strict=True)):
                padded[member, :, : w[i]] = torch.randn(n, w[i], generator=generator, device=self.device)
            draws.append(padded)
        return draws

    def stop_member(self, i: int, reason: str) -> None:
        """Mark member i as failed and set all its numbers to 0; it trains on from there, finite and counted no more."""
        self.failures[i] = reason
        with torch.no_grad():
            for tensor in self._tensors().values():
                if tensor.dim() and len(tensor) == len(self):
                    tensor[i].zero_()

    def _tensors(self) -> dict[str, Tensor]:
        """Every tensor of the cohort's state by name: weights, buffers and Adam's moments."""
        tensors = {f"model/{name}": t for name, t in self.model.state_dict().items()}
        tensors["adam/step"] = self.optimiser.n_steps
        for name, parameter in self.model.named_parameters():
            for key, t in self.optimiser.moments(parameter).items():
                tensors[f"adam/{key}/{name}"] = t
        return tensors

    def state(self) -> CohortState:
        """Where the cohort stands; on a CPU its tensors are the cohort's own, so they move on with it."""
        tensors = {name: t.detach().cpu().contiguous() for name, t in self._tensors().items()}
        history = [list(records) for records in self.history]
        return CohortState(self.configs, self.epoch, history, dict(self.failures), tensors)

    def restore(self, state: CohortState) -> None:
        """Go on from the state of these configs; its padding may be another than this cohort's."""
        with torch.no_grad():
            for name, t in self._tensors().items():
                if (stored := state.tensors.get(name)) is not None:
                    copy_corner(t, stored)
        self.epoch, self.failures = state.epoch, dict(state.failures)
        self.history = [list(records) for records in state.history]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole state, such that ``load`` continues bit for bit."""
        self.state().save(path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Continue from a file of ``save``. Raises CheckpointError, changing nothing, when it is damaged or another cohort's."""
        self.restore(CohortState.load(path, self.configs))

    def member_weights(self, i: int) -> dict[str, Tensor]:
        """Member i's weights under the names and in the shapes it has alone, without the member axis."""
        weights = {}
        owners = {
            f"{prefix}.{name}": (layer, name)
            for prefix, layer in self.model.named_modules()
            if isinstance(layer, StackedLayer)
            for name in ("weight", "bias")
        }
        for key, tensor in self.model.state_dict().items():
            owner = owners.get(key)
            member = owner[0].member_view(i, owner[1], tensor) if owner else tensor[i]
            weights[key] = member.detach().cpu().contiguous()
        return weights

    def parameter_counts(self) -> list[int]:
        """How many trained numbers each member has."""
        trained = {name for name, _ in self.model.named_parameters()}
        return [
            sum(t.numel() for name, t in self.member_weights(i).items() if name in trained) for i in range(len(self))
        ]


def _optimiser(model: Autoencoder, config: TrialConfig) -> Adam:
    """Adam with weight decay of the weights alone; xi may have its own rate.

    Biases and xi are no weights: shrinking xi would pull the noise variance towards 1.
    """
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        rate = config.noise_learning_rate if name == "likelihood.xi" else 0.0
        decay = config.weight_decay if name.endswith("weight") else 0.0
        groups.setdefault((rate or config.learning_rate, decay), []).append(parameter)
    return Adam([Group(parameters, rate, decay) for (rate, decay), parameters in groups.items()])


def load_model(
    config: TrialConfig, image_shape: tuple[int, int, int], n_train: int, weights: dict[str, Tensor],
    device: str | torch.device = "cpu",
) -> Autoencoder:  # fmt: skip
    """One run's model from its ``member_weights``, a stack of one in evaluation mode; raises ValueError when they do not fit."""
    model = MODELS[config.model]([config], image_shape, n_train)
    try:
        model.load_state_dict({name: t[None] for name, t in weights.items()})
    except RuntimeError as error:
        raise ValueError(
            f"these weights do not fit {config.run_name} on images of shape {image_shape}: {error}"
        ) from None
    return model.to(device).eval()


def _stream_seed(seed: int, name: str, epoch: int) -> int:
    digest = hashlib.sha256(f"{seed}/{name}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # 63 bits, of which a CPU's generator takes 32
