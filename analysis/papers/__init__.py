"""The papers whose figures, tables and claims are held against a sweep: a folder each, its row in the folder's ``PAPER``.

A folder is named as its paper's key, with _ for -.

Nothing here imports torch or pandas: the drivers read presets. A paper's claims are ``CLAIMS`` in ``claims.py`` of its folder,
which the report alone imports.
"""

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fishernet.plan import parse_numbers


@dataclass(frozen=True)
class Paper:
    """A row: what the report and the drivers ask of a paper. ``models`` are what it compares, its own first."""

    key: str  # of its preset and --paper; of its folder
    name: str  # as prose has it: "FisherNet paper"
    citation: str
    dataset: str
    models: tuple[str, ...]
    preset: Mapping[str, Any]  # flags of latent_sweep.py without their dashes; any flag beside the preset wins
    # Stem of an exhibit -> its number in the paper, and what the paper's shows: the caption's last sentence.
    figures: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    # Stem of a table -> a CSV of published numbers in the folder: variant, value, latent_dim and what else tells rows apart.
    tables: Mapping[str, str] = field(default_factory=dict)
    # Row of FIGURES or SCORES -> keyword arguments that make it show what the paper's shows.
    arguments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # further ones by name, as ``preset``

    @property
    def package(self) -> str:
        """The folder, as Python imports it."""
        return f"{__name__}.{self.key.replace('-', '_')}"

    @property
    def all_presets(self) -> dict[str, Mapping[str, Any]]:
        """By name, that of its key first."""
        return {self.key: self.preset, **self.presets}

    @property
    def n_runs(self) -> int:
        """How many runs its preset is."""
        dims, seeds = parse_numbers(self.preset["latent_dims"]), int(self.preset["seeds"])
        return len(self.preset["models"]) * len(dims) * seeds


PAPERS: dict[str, Paper] = {
    paper.key: paper
    for found in pkgutil.iter_modules(__path__)
    if found.ispkg
    for paper in [importlib.import_module(f"{__name__}.{found.name}").PAPER]
}
# "paper" is what the defaults of the configs are: the FisherNet paper's Table A1.
PRESETS: dict[str, Mapping[str, Any]] = {
    "paper": PAPERS["fishernet"].preset,
    "quick": {
        "models": PAPERS["fishernet"].preset["models"], "latent_dims": "2,4,8", "seeds": "2",
        "dataset": "digits", "epochs": 60, "hidden_width": 128, "learning_rate": 1e-3, "batch_size": 32,
        # 64 pixels carry less signal than unit noise hides: from the usual 0, FisherNet's posterior would stay the prior.
        "noise_start": -4.0,
    },
    **{name: preset for paper in PAPERS.values() for name, preset in paper.all_presets.items()},
}  # fmt: skip


def of_preset(preset: str | None) -> str:
    """The key of the paper that a preset is of; empty where it is of none."""
    found = PRESETS.get(preset or "")
    of_paper = ((key, own) for key, paper in PAPERS.items() for own in paper.all_presets.values())
    return next((key for key, own in of_paper if own is found), "")


def of_sweep(tag: str, dataset: str, models: Iterable[str]) -> Paper | None:
    """The paper that a sweep is about: that of its tag, else the one whose own model it trained on the paper's data."""
    there = set(models)
    fits = (paper for paper in PAPERS.values() if paper.dataset == dataset and paper.models[0] in there)
    return PAPERS.get(tag) or next(fits, None)


def arguments(paper: Paper | None, name: str) -> Mapping[str, Any]:
    """The keyword arguments that make a figure or score the paper's; none without a paper."""
    return paper.arguments.get(name, {}) if paper else {}
