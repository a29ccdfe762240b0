"""Where a cohort stands, on the CPU and in a file: what training goes on from."""

import json
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypedDict

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fishernet.config import TrialConfig
from fishernet.families import trial_config


class Record(TypedDict):
    """What a member reports of an epoch."""

    epoch: int
    time: float  # seconds since 1970
    metrics: dict[str, float]


FORMAT, READABLE = "fishernet-cohort-5", ("fishernet-cohort-4", "fishernet-cohort-5")  # 4 has no ``stopped``
CHECKPOINTS_SHARE = 0.02  # of the time, where nobody says how often


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: damaged, or of another cohort."""


@dataclass
class CohortState:
    """The members' weights and Adam's moments by name, the epochs they have behind them, and what those reported.

    ``stopped`` says of members that stopped early after which epoch.

    Every tensor but Adam's count of steps has a leading member axis, padded to the largest member; before the first epoch
    there need be none, as the seeds say the rest.
    """

    configs: list[TrialConfig]
    epoch: int = 0
    history: list[list[Record]] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    stopped: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.history = self.history or [[] for _ in self.configs]

    @property
    def ended(self) -> bool:
        return self.epoch == self.configs[0].epochs or len(self.failures | self.stopped) == len(self.configs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it, such that training goes on bit for bit; through a temporary file, so never half a file."""
        history = json.dumps(self.history).encode()
        # Among the tensors, as a file's header may not grow with the epochs.
        tensors = self.tensors | {"history": torch.frombuffer(bytearray(history), dtype=torch.uint8)}
        text = json.dumps({
            "configs": [c.to_dict() for c in self.configs], "epoch": self.epoch, "failures": self.failures,
            "stopped": self.stopped,
        })  # fmt: skip
        metadata = {"format": FORMAT, "state": text, "checksum": checksum(text, tensors)}
        path, temporary = Path(path), Path(f"{path}.writing")
        save_file(tensors, temporary, metadata)
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], configs: Sequence[TrialConfig]) -> Self:
        """The state of these configs from a file of ``save``; raises CheckpointError when it is damaged or another cohort's."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                # Cloned: the tensors are a view of the file, which a later checkpoint may overwrite in place.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
        except Exception as error:  # safetensors raises its own type, OSError or ValueError, by the kind of damage
            raise CheckpointError(f"{path} is not a readable checkpoint: {error}") from None
        if metadata.get("format") not in READABLE:
            raise CheckpointError(f"{path} is not a checkpoint of format {' or '.join(READABLE)}")
        if metadata.get("checksum") != checksum(metadata.get("state", ""), tensors):
            raise CheckpointError(f"{path} is damaged: its checksum does not match its content")
        state = json.loads(metadata["state"])
        if [trial_config(c) for c in state["configs"]] != list(configs):
            raise CheckpointError(f"{path} holds the state of other trial configs than this cohort's")
        history = json.loads(bytes(tensors.pop("history").numpy()))
        failures = {int(i): reason for i, reason in state["failures"].items()}
        stopped = {int(i): epoch for i, epoch in state.get("stopped", {}).items()}
        return cls(list(configs), state["epoch"], history, failures, tensors, stopped)

    def part(self, first: int, end: int) -> Self:
        """The state of the members ``first`` to ``end`` - 1, in the padding of all."""
        return type(self)(
            self.configs[first:end],
            self.epoch,
            [list(records) for records in self.history[first:end]],
            {i - first: reason for i, reason in self.failures.items() if first <= i < end},
            {name: t[first:end] if t.dim() else t for name, t in self.tensors.items()},
            {i - first: epoch for i, epoch in self.stopped.items() if first <= i < end},
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The state of one cohort of all the parts' members; parts that have ended early have no say in its epoch."""
        leader = max(parts, key=lambda part: (bool(part.tensors), part.epoch))
        firsts = [sum(len(part.configs) for part in parts[:i]) for i in range(len(parts))]
        n_members, tensors = sum(len(part.configs) for part in parts), {}
        for name, tensor in leader.tensors.items():
            tensors[name] = tensor
            if tensor.dim():
                own = [(first, part.tensors[name]) for first, part in zip(firsts, parts, strict=True) if part.tensors]
                shape = [max(sizes) for sizes in zip(*(t.shape[1:] for _, t in own), strict=True)]
                tensors[name] = tensor.new_zeros(n_members, *shape)
                for first, t in own:
                    copy_corner(tensors[name][first : first + len(t)], t)
        return cls(
            [config for part in parts for config in part.configs],
            leader.epoch,
            [records for part in parts for records in part.history],
            {
                first + i: reason
                for first, part in zip(firsts, parts, strict=True)
                for i, reason in part.failures.items()
            },
            tensors,
            {first + i: epoch for first, part in zip(firsts, parts, strict=True) for i, epoch in part.stopped.items()},
        )


class Pace:
    """When a checkpoint is due: every ``every`` epochs; 0 is as often as takes a fiftieth of the time.

    The state of a cohort on a GPU can be gigabytes, and its epoch a second.
    """

    def __init__(self, every: int) -> None:
        self._every, self._due, self._started = every, 0.0, 0.0

    def due(self, epoch: int) -> bool:
        return epoch % self._every == 0 if self._every else time.monotonic() >= self._due

    def __enter__(self) -> None:
        """Around the writing of a checkpoint, to learn what it costs."""
        self._started = time.monotonic()

    def __exit__(self, *error: object) -> None:
        now = time.monotonic()
        self._due = now + (now - self._started) / CHECKPOINTS_SHARE


def copy_corner(target: Tensor, source: Tensor) -> None:
    """Copy between tensors of the same members in different padding: the part that both have."""
    common = tuple(slice(min(sizes)) for sizes in zip(target.shape, source.shape, strict=True))
    target[common].copy_(source[common])


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of a safetensors file's content: what is said of the tensors, and their names, types, shapes and bytes."""
    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
