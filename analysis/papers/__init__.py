"""The papers whose figures, tables and claims are held against a sweep: a folder each, its row in the folder's ``PAPER``.

Nothing here imports torch or pandas: the drivers read presets. A paper's claims are ``CLAIMS`` in ``claims.py`` of its folder,
which the report alone imports.
"""

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fishernet.plan import parse_numbers

Preset = Mapping[str, Any]  # flags of latent_sweep.py without their dashes
Arguments = Mapping[str, Any]  # by keyword, of what a row of FIGURES or SCORES names


@dataclass(frozen=True)
class Paper:
    """A row: what the report and the drivers ask of a paper. ``models`` are what it compares, its own first."""

    key: str  # its preset, --paper; with _ for - the name of its folder
    name: str  # as prose has it: "FisherNet paper"
    citation: str
    dataset: str
    models: tuple[str, ...]
    preset: Preset  # any flag beside the preset wins
    presets: Mapping[str, Preset] = field(default_factory=dict)  # further ones by name, as ``preset``
    other_datasets: tuple[str, ...] = ()  # that its claims are about as well
    own_model: bool = True  # a sweep of its data with the first of its models is about it, whatever its tag
    # Stem of an exhibit -> its number in the paper, and what the paper's shows: the caption's last sentence.
    figures: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    # Stem of a table -> a CSV of published numbers in the folder: variant, value, latent_dim and what else tells rows apart.
    tables: Mapping[str, str] = field(default_factory=dict)
    # Row of FIGURES or SCORES -> keyword arguments that make it show what the paper's shows.
    arguments: Mapping[str, Arguments] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """Its folder, as Python imports it."""
        return f"{__name__}.{self.key.replace('-', '_')}"

    @property
    def all_presets(self) -> dict[str, Preset]:
        """Its presets by name, that of its key first."""
        return {self.key: self.preset, **self.presets}


def n_runs(preset: Preset) -> int:
    """How many runs a preset is."""
    return len(preset["models"]) * len(parse_numbers(preset["latent_dims"])) * int(preset["seeds"])


_FOUND = [
    importlib.import_module(f"{__name__}.{found.name}").PAPER for found in pkgutil.iter_modules(__path__) if found.ispkg
]
OWN_IMAGES = "own-images"
PAPERS: dict[str, Paper] = {paper.key: paper for paper in _FOUND}
# "paper" is what the defaults of the configs are: the FisherNet paper's Table A1.
PRESETS: dict[str, Preset] = {
    "paper": PAPERS["fishernet"].preset,
    "quick": {
        "models": PAPERS["fishernet"].preset["models"], "latent_dims": "2,4,8", "seeds": "2",
        "dataset": "digits", "epochs": 60, "hidden_width": 128, "learning_rate": 1e-3, "batch_size": 32,
        # 64 pixels carry less signal than unit noise hides: from the usual 0, FisherNet's posterior would stay the prior.
        "noise_start": -4.0,
    },
    # Of images that are no named data set. Their number decides the epochs, and their variance noise_start (sweeps.planning).
    OWN_IMAGES: {
        "models": ["FisherNet", "VAE", "AE"], "latent_dims": "1-4,6,8,12,16", "seeds": "3",
        "learning_rate": 1e-3, "batch_size": 32,
    },
    **{name: preset for paper in PAPERS.values() for name, preset in paper.all_presets.items()},
}  # fmt: skip


def of_preset(preset: str | None) -> str:
    """The key of the paper that a preset is of; empty where it is of none."""
    found = PRESETS.get(preset or "")
    presets = ((key, own) for key, paper in PAPERS.items() for own in paper.all_presets.values())
    return next((key for key, own in presets if own is found), "")


def of_sweep(tag: str, dataset: str, models: Iterable[str]) -> Paper | None:
    """The paper that a sweep is about: that of its tag, else the one whose own model it trained on the paper's data."""
    there = set(models)
    fits = (p for p in PAPERS.values() if p.own_model and p.dataset == dataset and p.models[0] in there)
    return PAPERS.get(tag) or next(fits, None)


def arguments(paper: Paper | None, name: str) -> Arguments:
    """The keyword arguments that make a figure or score the paper's; none without a paper."""
    return paper.arguments.get(name, {}) if paper else {}
