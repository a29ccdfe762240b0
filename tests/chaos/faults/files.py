"""Checkpoints and stored weights that are damaged."""

import pickle
import random
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save

from fishernet.cohort import Cohort
from fishernet.data.loading import load_data
from fishernet.families import trial_config
from fishernet.records import write_records
from fishernet.state import CheckpointError, CohortState
from fishernet.trained import ModelError, load_weights
from fishernet.training import train
from tests.chaos.place import Place, Process, again_and_again
from tests.chaos.sweep import Sweep

DAMAGES = ("cut off", "one bit flipped", "empty", "a pickle", "another's safetensors")


class Marker:
    """Unpickled, it makes the file ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def damage(path: Path, kind: str, drawn: random.Random, marker: Path) -> None:
    """Damage the file at a random place."""
    content = bytearray(path.read_bytes())
    if not content and kind in ("cut off", "one bit flipped"):
        pass  # the kill came just as it was written: nothing is left to damage
    elif kind == "cut off":
        del content[drawn.randrange(1, len(content)) :]
    elif kind == "one bit flipped":
        content[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
    elif kind == "empty":
        content.clear()
    elif kind == "a pickle":
        content[:] = pickle.dumps(Marker(marker))
    elif kind == "another's safetensors":
        content[:] = save({"weight": np.full(drawn.randrange(1, 50), drawn.random())}, {"format": "pt"})
    path.write_bytes(content)


def damage_newest_checkpoint(place: Place, n: int) -> None:
    """The driver killed, the newest checkpoint of each cohort damaged, the sweep resumed; the kinds of damage in turn."""
    kinds = [DAMAGES[i % len(DAMAGES)] for i in range(n)]
    marker = place.folder / "marker"
    damaged: list[Path] = []  # which the next commands must name

    def strike(sweep: Sweep, process: Process) -> None:
        process.kill()
        process.wait()
        sweep.check_no_process_is_left()
        said = "".join(output.read_text(errors="replace") for output in sweep.outputs)
        damaged[:] = [path for path in damaged if str(path) not in said and path.exists()]
        kind = kinds.pop()
        for path in sweep.newest_checkpoints():
            if path not in damaged:
                damage(path, kind, place.random, marker)
                damaged.append(path)

    def make() -> Sweep:
        damaged.clear()
        return place.sweep()

    def finished(sweep: Sweep) -> None:
        said = "".join(output.read_text(errors="replace") for output in sweep.outputs)
        if silent := [path for path in damaged if str(path) not in said]:
            raise AssertionError(f"nothing was said of {silent}: {said[-3000:]}")
        if marker.exists():
            raise AssertionError("a pickle was executed")

    again_and_again(place, n, strike, make=make, finished=finished)


def load_damaged(place: Place, n: int) -> None:
    """Every kind of file and of damage at n random places: an error of the program's own says so."""
    config = trial_config(
        model="VAE", latent_dim=2, seed=0, dataset="digits", epochs=2, hidden_width=8, hidden_layers=1
    )
    data = load_data("digits")
    cohort = Cohort([config], data.image_shape, len(data.train))
    for _ in train(cohort, data):
        pass
    cohort.save(place.folder / "state.safetensors")
    write_records(place.folder, cohort, data)

    def same(a: object, b: object) -> bool:
        """A bit of a header's key may be flipped that nobody reads."""
        return isinstance(a, torch.nn.Module) and repr(a.state_dict()) == repr(b.state_dict())  # type: ignore[attr-defined]

    whole = {
        "state": (place.folder / "state.safetensors", lambda path: CohortState.load(path, [config]), CheckpointError),
        "weights": (
            place.folder / config.run_name / "weights.safetensors", lambda path: load_weights(path, config)[0], ModelError,
        ),
    }  # fmt: skip
    marker = place.folder / "marker"
    for name, (path, load, error) in whole.items():
        for kind in DAMAGES:
            for i in range(n):
                copy = place.folder / f"{name}-{i}"
                shutil.copy(path, copy)
                damage(copy, kind, place.random, marker)
                try:
                    found = load(copy)
                    place.outcomes.append("" if same(found, load(path)) else f"{name}, {kind}: not noticed")
                except error:
                    place.outcomes.append("a pickle was executed" if marker.exists() else "")
                except Exception as other:
                    place.outcomes.append(f"{name}, {kind}: {type(other).__name__}: {other}")
