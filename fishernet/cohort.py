"""A cohort: trial configs alike but for latent_dim, seed and some numbers of the loss, trained in lockstep."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fishernet.adam import Adam, Group
from fishernet.config import TrialConfig
from fishernet.families import family
from fishernet.models.base import Autoencoder, Noise
from fishernet.networks.stacked import Stacked
from fishernet.state import CohortState, Record, copy_corner

DRAWN_NUMBERS = 2**24  # 64 MiB: of cg's noise, as wide as an image


class Cohort:
    """The members' stacked model and optimiser, the epochs they have behind them, and what those reported.

    Raises ValueError when the configs differ in more than latent_dim, seed and the numbers that are each member's own, and
    where one does not go with images of that shape.
    """

    def __init__(
        self,
        configs: Sequence[TrialConfig],
        image_shape: tuple[int, int, int],
        n_train: int,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shared = [c.without_axes().to_dict() for c in configs]
        if differing := sorted(name for name, value in shared[0].items() if any(c.get(name) != value for c in shared)):
            raise ValueError(
                f"members of a cohort differ only in latent_dim and seed; these differ in {', '.join(differing)}"
            )
        for config in configs:
            config.check_images(image_shape)
        self.configs, self.config = list(configs), configs[0]
        self.device, self.dtype = torch.device(device), dtype
        self.model: Autoencoder = family(self.config.model).load()(configs, image_shape, n_train)
        self.model = self.model.to(self.device, dtype)
        self.optimisers = _optimisers(self.model, self.config)
        self.epoch = 0
        self.history: list[list[Record]] = [[] for _ in configs]
        self.failures: dict[int, str] = {}
        self.stopped: dict[int, int] = {}  # member -> the epoch after which it stopped early
        self.best: dict[str, Tensor] = {}  # with patience: each member's best weights, and when they were
        if self.config.patience:
            self.best = {f"best/model/{name}": t.detach().clone() for name, t in self.model.state_dict().items()}
            for name, start in (("loss", torch.inf), ("epoch", 0.0), ("waited", 0.0)):
                self.best[f"best/{name}"] = torch.full((len(self),), start, dtype=torch.float64, device=self.device)

    def __len__(self) -> int:
        return len(self.configs)

    def streams(self, name: str, epoch: int) -> list[torch.Generator]:
        """One generator per member, seeded by (seed, name, epoch) alone: no state to keep, none shared with a neighbour."""
        return [torch.Generator(self.device).manual_seed(stream_seed(c.seed, name, epoch)) for c in self.configs]

    def noise_streams(self, name: str, epoch: int) -> dict[str, list[torch.Generator]]:
        """``streams`` of each kind of random numbers that the model asks for, by its name. The first kind's are those of ``name``
        alone: models of one seed share its numbers whatever else they draw.
        """
        kinds = self.model.all_noise(1)
        return {kind: self.streams(f"{name}/{kind}" if i else name, epoch) for i, kind in enumerate(kinds)}

    def draw_orders(self, epoch: int, n: int) -> Tensor:
        """Each member's order of the training images in this epoch, (n_members, n)."""
        return torch.stack([torch.randperm(n, generator=g, device=self.device) for g in self.streams("order", epoch)])

    def images_per_draw(self) -> int:
        """For how many images to draw noise at once, that a member's stays below DRAWN_NUMBERS; the same in every cohort."""
        return max(1, DRAWN_NUMBERS // max(1, sum(noise.width for noise in self.model.all_noise(1).values())))

    def draw_noise(self, streams: Mapping[str, Sequence[torch.Generator]], n: int) -> dict[str, Tensor]:
        """Random numbers for n images: what the model asks for, (n_members, n, width), drawn in each member's own width.

        Drawn in float32 whatever the cohort's numbers are, so that these decide nothing else.
        """
        draws = {}
        asked = [self.model.all_noise(c.latent_dim) for c in self.configs]
        for name in asked[0]:
            padded = torch.zeros(len(self), n, max(own[name].width for own in asked), device=self.device)
            for member, (own, generator) in enumerate(zip(asked, streams[name], strict=True)):
                padded[member, :, : own[name].width] = _draw(own[name], n, generator)
            draws[name] = padded.to(self.dtype)
        return draws

    def draw_thresholds(self, generators: Sequence[torch.Generator], n: int, n_pixels: int) -> Tensor:
        """What a grey value 0..255 must exceed to be drawn as white, uint8 uniform on 0..254, (n_members, n, n_pixels).

        v exceeds it with probability v/255 exactly.
        """
        like = {"dtype": torch.uint8, "device": self.device}
        return torch.stack([torch.randint(255, (n, n_pixels), generator=g, **like) for g in generators])  # type: ignore[call-overload]

    @property
    def ended(self) -> bool:
        """Whether no member is left to train, or no epoch."""
        return self.epoch == self.config.epochs or len(self.failures | self.stopped) == len(self)

    def stop_member(self, i: int, reason: str) -> None:
        """Mark member i as failed and set all its numbers to 0; it trains on from there, finite and counted no more."""
        self.failures[i] = reason
        self._zero(i, self.tensors())

    @torch.no_grad()
    def note_stopping_losses(self, losses: Sequence[float]) -> None:
        """Take note of each member's loss on the stopping images, and finish those that have waited too long for a lower one.

        A member waits in every epoch from ``kl_warmup`` on that brings no strictly lower loss, and stops when it has waited
        more than ``patience`` epochs since the lowest.
        """
        for i, loss in enumerate(losses):
            if i in self.failures or i in self.stopped or not math.isfinite(loss):
                continue
            best, waited = self.best["best/loss"], self.best["best/waited"]
            if loss < best[i]:
                best[i], waited[i], self.best["best/epoch"][i] = loss, 0, self.epoch
                for name, tensor in self.model.state_dict().items():
                    self.best[f"best/model/{name}"][i].copy_(tensor[i])
            elif self.epoch >= getattr(self.config, "kl_warmup", 0):
                waited[i] += 1
                if waited[i] > self.config.patience:
                    self.finish_member(i)

    def finish_member(self, i: int) -> None:
        """Stop member i early: its best weights are its result, and it trains along from there, counted no more."""
        self.stopped[i] = self.epoch
        self.put_best_back(i)

    @torch.no_grad()
    def put_best_back(self, *members: int) -> None:
        """Let the weights of these members be their best; nothing changes without patience."""
        if self.best:
            for name, tensor in self.model.state_dict().items():
                for i in members:
                    if i not in self.failures:
                        tensor[i].copy_(self.best[f"best/model/{name}"][i])

    @torch.no_grad()
    def let_finite(self, i: int) -> None:
        """Of a member that trains along and has become infinite set all but its best weights to 0."""
        self._zero(i, {name: t for name, t in self.tensors().items() if not name.startswith("best/")})

    @torch.no_grad()
    def _zero(self, i: int, tensors: dict[str, Tensor]) -> None:
        for tensor in tensors.values():
            if tensor.dim() and len(tensor) == len(self):
                tensor[i].zero_()

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the cohort's state by name: weights, buffers, Adam's moments, and with patience the best weights."""
        tensors = {f"model/{name}": t for name, t in self.model.state_dict().items()}
        for player, optimiser in self.optimisers.items():
            tensors[f"adam/{player}/step" if player else "adam/step"] = optimiser.n_steps
        for name, parameter in self.model.named_parameters():
            for key, t in self.optimisers[self.model.player_of(name)].moments(parameter).items():
                tensors[f"adam/{key}/{name}"] = t
        return tensors | self.best

    def state(self) -> CohortState:
        """Where the cohort stands; on a CPU its tensors are the cohort's own, so they move on with it."""
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.tensors().items()}
        history = [list(records) for records in self.history]
        return CohortState(self.configs, self.epoch, history, dict(self.failures), tensors, dict(self.stopped))

    def restore(self, state: CohortState) -> None:
        """Go on from the state of these configs; its padding may be another than this cohort's."""
        with torch.no_grad():
            for name, t in self.tensors().items():
                if (stored := state.tensors.get(name)) is not None:
                    copy_corner(t, stored)
        self.epoch, self.failures, self.stopped = state.epoch, dict(state.failures), dict(state.stopped)
        self.history = [list(records) for records in state.history]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole state, such that ``load`` continues bit for bit."""
        self.state().save(path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Continue from a file of ``save``. Raises CheckpointError, changing nothing, when it is damaged or another cohort's."""
        self.restore(CohortState.load(path, self.configs))

    def member_weights(self, i: int) -> dict[str, Tensor]:
        """Member i's weights under the names and in the shapes it has alone, without the member axis."""
        return {name: view.detach().cpu().contiguous() for name, view in _views(self.model, i).items()}

    def parameter_counts(self) -> list[int]:
        """How many trained numbers each member has."""
        trained = {name for name, _ in self.model.named_parameters()}
        return [
            sum(t.numel() for name, t in self.member_weights(i).items() if name in trained) for i in range(len(self))
        ]


def _draw(noise: Noise, n: int, generator: torch.Generator) -> Tensor:
    draw = torch.randn if noise.kind == "normal" else torch.rand
    return draw(n, noise.width, generator=generator, device=generator.device)


def _optimisers(model: Autoencoder, config: TrialConfig) -> dict[str, Adam]:
    """Of each player, Adam with weight decay of the weights alone; some parameters may have a rate of their own.

    Biases and xi are no weights: shrinking xi would pull the noise variance towards 1.
    """
    groups: dict[str, dict[tuple[float, float], list[Tensor]]] = {}
    for name, parameter in model.named_parameters():
        rate = model.learning_rate_of(name)
        # A normalisation's scale, one number per feature and member, is no weight either.
        decay = config.weight_decay if name.endswith("weight") and parameter.dim() > 2 else 0.0
        own = groups.setdefault(model.player_of(name), {})
        own.setdefault((rate, decay), []).append(parameter)
    return {
        player: Adam(
            [Group(parameters, rate, decay) for (rate, decay), parameters in own.items()],
            (config.adam_beta1, config.adam_beta2),
            normalised=config.optimiser == "adam-normalised",
        )
        for player, own in groups.items()
    }


def _views(model: Autoencoder, i: int) -> dict[str, Tensor]:
    """Member i's part of the state, without the member axis and what pads it; to write to as well."""
    owners = {
        f"{prefix}.{name}": (layer, name)
        for prefix, layer in model.named_modules()
        if isinstance(layer, Stacked)
        for name in layer.padded
    }
    views = {}
    for key, tensor in model.state_dict().items():
        owner = owners.get(key)
        views[key] = owner[0].member_view(i, owner[1], tensor) if owner else tensor[i]
    return views


@torch.no_grad()
def stacked(models: Sequence[Autoencoder]) -> Autoencoder:
    """Models that could be a cohort, each a stack of one, as one in evaluation mode: member i computes as models[i] does."""
    first = models[0]
    if len(models) == 1:
        return first
    stack = type(first)([model.config for model in models], first.image_shape, first.n_train)
    for i, model in enumerate(models):
        own = _views(model, 0)
        for name, view in _views(stack, i).items():
            view.copy_(own[name])
    return stack.to(next(first.parameters())).eval()


def load_model(
    config: TrialConfig, image_shape: tuple[int, int, int], n_train: int, weights: dict[str, Tensor],
    device: str | torch.device = "cpu",
) -> Autoencoder:  # fmt: skip
    """One run's model from its ``member_weights``, a stack of one in evaluation mode; raises ValueError when they do not fit."""
    model: Autoencoder = family(config.model).load()([config], image_shape, n_train)
    try:
        model.load_state_dict({name: t[None] for name, t in weights.items()})
    except RuntimeError as error:
        raise ValueError(
            f"these weights do not fit {config.run_name} on images of shape {image_shape}: {error}"
        ) from None
    return model.to(device).eval()


def stream_seed(*names: object) -> int:
    """The seed of a stream of random numbers, such as (seed, "noise", epoch): by its names alone."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # 63 bits, of which a CPU's generator takes 32
