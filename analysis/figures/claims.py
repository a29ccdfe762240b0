"""Which claims of a paper a sweep's runs confirm.

A paper's folder has in ``claims.py``: ``CLAIMS``; ``EPOCHS``, for how many a run must have been trained where a claim names none;
``EPOCH_DIMS``, the latent dimensions of claims about an epoch, where these are of other scores than mse ``BY_EPOCH``, and where
of other lines than the usual forms ``EPOCH_LINES``, their configs;
``ASKED``, configs of the lines that claims are about beside the usual forms of the paper's models, or instead of these with the
paper's settings; ``NOTE``, the end of the table's caption.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import pandas as pd

from analysis import frame, verdicts
from analysis.exhibits import Table
from analysis.figures import frechet
from analysis.papers import Paper
from analysis.scores import FEATURES
from analysis.stored import StoredSweep, usual_form
from analysis.verdicts import Claim, Command, Evidence, Scope, by_what
from fishernet.config import TrialConfig
from fishernet.families import matters, trial_config
from fishernet.wording import listed


class ClaimsModule(Protocol):
    """What ``claims.py`` in a paper's folder has; and maybe ``BY_EPOCH`` and ``EPOCH_LINES``, what claims read by epoch."""

    CLAIMS: Sequence[Claim]
    ASKED: tuple[TrialConfig, ...]  # the lines that they are about
    EPOCHS: int  # that the paper trains, or shows
    EPOCH_DIMS: tuple[int, ...]  # at which they read scores by epoch
    NOTE: str  # the last sentence below the table


def parts(stored: StoredSweep) -> Iterator[Table]:
    """The table of claims of the sweep's paper; raises AnalysisError where it has none, no run has finished, or MLflow fails."""
    sweep, paper = stored.sweep, stored.paper
    if paper is None:
        raise frame.AnalysisError(
            f"No paper here is about the models and images of sweep {sweep.name}; --paper KEY holds one's claims against it."
        )
    runs, made = stored.runs, claims_of(paper)
    usual = [usual_form(model).variant for model in paper.models]
    lines = [config.variant for config in getattr(made, "EPOCH_LINES", ())] or usual
    by_epoch = runs[runs["variant"].isin(lines) & runs["latent_dim"].isin(made.EPOCH_DIMS)]
    names = getattr(made, "BY_EPOCH", ("mse",))
    history = frame.load_epochs(sweep, by_epoch, [name if "/" in name else sweep.score(name) for name in names])
    features = frechet.features_of(runs) or next(iter(FEATURES))
    runs, left_out = frechet.of_one_network(runs, features, sweep.command)
    failed = frame.failed(stored.all_runs, sweep.score("mse"))
    evidence = Evidence(runs, history, sweep.held_out, left_out, failed, scope_of(paper))
    yield table(paper, evidence, partial(stored.command_for, also=made.ASKED))


def claims_of(paper: Paper) -> ClaimsModule:
    """The module of a paper's claims."""
    found: ClaimsModule = pkgutil.resolve_name(f"{paper.module}.claims")
    return found


def table(paper: Paper, evidence: Evidence, command_for: Command) -> Table:
    """All claims of the paper as ``verdicts.table`` gives them, with what sets these runs apart in its caption."""
    made = claims_of(paper)
    shown = verdicts.table(f"Claims of the {paper.name}", made.CLAIMS, evidence, command_for, remarks(paper, evidence))
    return replace(shown, caption=f"{shown.caption} {made.NOTE}")


def scope_of(paper: Paper) -> Scope:
    """The runs that the paper's claims are about: its images, its models' usual settings and those that it asks for."""
    made = claims_of(paper)
    return Scope(made.EPOCHS, partial(_apart, paper, made.ASKED))


def _apart(paper: Paper, asked: Iterable[TrialConfig], runs: pd.DataFrame, held_out: str) -> list[tuple[str, str]]:
    """What sets these runs apart from those that the claims are about, as ``verdicts.Scope.apart`` gives it."""
    found = [(f"images of {name}", "") for name in sorted(set(runs["dataset"]) - _datasets(paper))]
    found += [(f"the first {n:,} training images", "") for n in sorted(set(runs["train_size"]) - {0})]
    if held_out != "test":
        found.append((f"scores on {held_out} images", ""))
    elif sizes := sorted(set(runs.get("validation_size", ())) - {0}):
        found.append((f"{listed(sizes)} training images held out", ""))
    return found + _unusual_settings(runs, asked, claims_of(paper).EPOCHS)


def _datasets(paper: Paper) -> set[str]:
    return {paper.dataset, *paper.other_datasets}


def remarks(paper: Paper, evidence: Evidence) -> list[str]:
    """Sentences on what sets these runs apart from the paper's."""
    runs, epochs = evidence.runs, claims_of(paper).EPOCHS
    of_paper = runs[runs["model"].isin(paper.models)]
    sentences = []
    if (of_paper["epochs"] < epochs).any():
        trained = listed(sorted(of_paper["epochs"].unique()))
        sentences.append(f"Reduced run: trained for {trained} epochs, where the paper shows {epochs}.")
    if sizes := sorted(set(runs["train_size"]) - {0}):
        sentences.append(f"Reduced run: trained on {listed(sizes)} images, the first of the training set.")
    if others := sorted(set(runs["dataset"]) - _datasets(paper)):
        sentences.append(
            f"Other data: {', '.join(others)}, where the paper's claims are about {listed(_datasets(paper))}."
        )
    usual_forms = of_paper["variant"].isin(usual_form(model).variant for model in paper.models)
    if others := by_what(_unusual_settings(of_paper[usual_forms], claims_of(paper).ASKED, epochs)):
        sentences.append(
            f"Settings other than the usual ones, which are the paper's where it names them: {'; '.join(others)}."
        )
    if evidence.held_out != "test":
        sentences.append(f"Scored on {evidence.held_out} images, where the paper's claims are about test images.")
    told_apart = [choices != config.choices for choices, config in zip(runs["choices"], runs["config"], strict=True)]
    if varying := sorted(set(runs["variant"][told_apart])):
        sentences.append(f"Not counted, as their settings vary within one model: {', '.join(varying)}.")
    return sentences


# Fields that have words of their own, or decide nothing of a run's numbers.
SAID_ELSEWHERE = ("dataset", "train_size", "validation_size", "epochs", "evaluate_every")
OF_LENGTH = ("patience", "kl_warmup")  # which go with the number of epochs: of shorter runs that is said


def _unusual_settings(runs: pd.DataFrame, asked: Iterable[TrialConfig] = (), epochs: int = 0) -> list[tuple[str, str]]:
    """("learning_rate 0.001", "VAE"): what differs from a line's usual settings and has no words of its own.

    ``asked``: configs of lines that claims are about beside the models' usual forms, and ``epochs`` how long they are trained.
    """
    lines = {config.variant: config for config in asked}
    found = []
    for variant, of_variant in runs.groupby("variant", sort=False):
        usual = lines.get(str(variant)) or trial_config(model=of_variant["model"].iloc[0])
        said_elsewhere, values = {*usual.names("axis", "label"), *SAID_ELSEWHERE}, usual.to_dict()
        for name in (name for name in values if name in of_variant and name not in said_elsewhere):
            counted = of_variant[of_variant["epochs"] >= epochs] if name in OF_LENGTH else of_variant
            there = sorted(set(counted[name]))
            if there not in ([], [values[name]]) and matters(name, values):
                found.append((f"{name} {listed(there)}", str(variant)))
    return found
