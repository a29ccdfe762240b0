"""The likelihood of images under models with a posterior, by importance sampling (``fishernet.importance``).

Every run is scored on the same images, black and white ones with the same bits, and with the same random numbers.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch
from torch import Tensor

from analysis.errors import AnalysisError
from analysis.scores import CACHE, DRAWS, NLL_BY_IMAGE, NLL_IMAGES, NLL_SETS
from analysis.scores.tasks import Scored, ScoreTask, Tasks, gpus_of_flag
from analysis.stored import StoredSweep, config_of
from fishernet.cohort import stacked
from fishernet.config import TrialConfig
from fishernet.data.binarised import black_and_white
from fishernet.data.images import ResidentImages, at_equal_steps
from fishernet.evaluation import evaluating
from fishernet.families import family
from fishernet.importance import DRAWS_OF_A_STREAM, Evidence, drawn_at_once, evidence
from fishernet.likelihoods import LIKELIHOODS
from fishernet.models.base import Autoencoder
from fishernet.plan import stackable
from fishernet.priors import ImproperPriorError
from fishernet.state import checksum
from fishernet.training import set_arithmetic

GROUP = "likelihood"
HELD_OUT, TRAINING = NLL_SETS


def tasks(
    stored: StoredSweep, *, draws: int | None = None, nll_images: int = NLL_IMAGES, nll_of: Sequence[str] = (HELD_OUT,),
    gpus: int | None = None, cache: Path | None = CACHE,
) -> Tasks:  # fmt: skip
    """The likelihood of the first ``nll_images`` images (0: all) of the sets ``nll_of``, of runs that lack it.

    A run lacks it where it has none, or one of fewer draws or images than are asked for. Without ``draws`` only runs are scored
    whose numbers are probabilities of images, and with DRAWS; what other models cannot give is said where it was asked for.
    On so many GPUs, by default all there are, or on the CPU. A scoring that is ended goes on from what is kept in ``cache``.
    """
    lacking: dict[tuple[str, ...], list[pd.Series]] = {}  # names of sets -> the runs that lack these
    said = {}
    binary = functools.cache(partial(_are_binary, stored))
    for _, run in stored.runs.iterrows():
        config = config_of(run)
        if not family(config.model).posterior:
            continue
        names = tuple(name for name in nll_of if _lacks(run, config, name, draws or 1, nll_images))
        if why := refusal(config, binary):
            said[config.variant] = f"{config.variant} has no likelihood by importance sampling: {why}."
        elif names and (draws or is_probability(config)):
            lacking.setdefault(names, []).append(run)
    asked = bool(draws) or any(config.binarisation != "none" for config in stored.sweep.configs)
    gpus = gpus_of_flag(gpus) if lacking else 0
    made = []
    for names, of_names in lacking.items():
        for runs in stacks_of(of_names, gpus):
            arguments = partial(_arguments, stored, runs, names, draws or DRAWS, nll_images)
            made.append(ScoreTask(runs[0], GROUP, score_likelihood, arguments, runs[1:]))
    sets = images_of(stored, nll_of, nll_images) if made else {}
    shared = [sets, "cuda" if gpus else "cpu", cache and cache.expanduser() / GROUP]
    return Tasks(made, shared if made else [], gpus, list(said.values()) if asked else [])


def stacks_of(runs: Sequence[pd.Series], gpus: int) -> list[list[pd.Series]]:
    """The runs that are computed together: on GPUs those that could be a cohort, in as many stacks as there are GPUs; on a CPU
    each alone, as its cores take a run each.
    """
    if not gpus:
        return [[run] for run in runs]
    of_config: dict[TrialConfig, list[pd.Series]] = {}
    for run in runs:
        of_config.setdefault(config_of(run), []).append(run)
    groups = [[run for config in group for run in of_config[config]] for group in stackable(list(of_config))]
    return [group[i::gpus] for group in groups for i in range(min(gpus, len(group)))]


def is_probability(config: TrialConfig) -> bool:
    """Whether ln p(x given z) is the logarithm of an image's probability; else it is a density's, or of grey values nothing."""
    return not LIKELIHOODS[_likelihood(config)].density


def refusal(config: TrialConfig, binary: Callable[[], bool]) -> str:
    """Why there is no likelihood of the model's images, the end of a sentence; empty where there is one.

    ``binary`` tells whether the images are black and white; it is asked where the config does not make them so.
    """
    values = config.to_dict()
    if values.get("sampler") == "cg":
        return "sampler cg does not know the density of its draws; train it with sampler cholesky"
    if values.get("prior") == "exponential" and values.get("prior_top") == "free":
        return "its prior is no density; train it with prior_top negative"
    if _likelihood(config) == "bernoulli" and config.binarisation == "none" and not binary():
        return "likelihood bernoulli gives grey values no probability; train it with binarisation dynamic or once"
    return ""


def _are_binary(stored: StoredSweep) -> bool:
    """Whether every pixel of the sweep's images is black or white, whatever made them so: a file may have them."""
    try:
        data = stored.images
    except AnalysisError:  # which what needs the images says
        return False
    return black_and_white(data.test.numpy()) and black_and_white(data.train.numpy())


def _likelihood(config: TrialConfig) -> str:
    return str(config.to_dict()["likelihood"])


def _lacks(run: pd.Series, config: TrialConfig, name: str, draws: int, n_images: int) -> bool:
    about = run["scores"].get(GROUP, {}).get(name)
    if about is not None and name == TRAINING and about["asked"] and not about.get("at_equal_steps"):
        return True  # of a version that took the first images
    if about is not None and not (is_probability(config) or about.get("dequantised")):
        return True  # of a version that took the density at the grey values themselves
    return about is None or about["draws"] < draws or (about["asked"] or math.inf) < (n_images or math.inf)


def images_of(stored: StoredSweep, names: Sequence[str], n: int) -> dict[str, Tensor]:
    """n images (0: all) of each set, uint8 (n, channels, height, width): the first that are held out, of training images
    those at equal steps, as a set may begin with what is rare in it.
    """
    data = stored.images
    spread = data.train[at_equal_steps(n, len(data.train))] if 0 < n < len(data.train) else data.train
    return {name: data.test[: n or None] if name == HELD_OUT else spread for name in names}


def _arguments(
    stored: StoredSweep, runs: Sequence[pd.Series], names: Sequence[str], draws: int, asked: int
) -> tuple[list[Autoencoder], Sequence[str], int, int]:
    return [stored.model(run) for run in runs], names, draws, asked


def score_likelihood(
    images: Mapping[str, Tensor], device: str, cache: Path | None, models: Sequence[Autoencoder], names: Sequence[str],
    draws: int, asked: int,
) -> tuple[Scored, ...]:  # fmt: skip
    """``Evidence.scores`` of these sets: likelihood/nll, …, of training images likelihood/training/nll, ….

    Of models that could be a cohort, each a stack of one, computed as one stack; of each in their order.

    Densities are of dequantised images, (v + u)/256 with one u a grey value for every model; the 8 bits of 256 values are in
    their bits per dimension, which so compare with those of probabilities.
    Of models with a ``penalty_alone`` also likelihood/nll_penalised: with it in every weight, as the Fisher-Shannon paper's
    code has it.
    What is done is kept in the folder ``cache`` until all is. Raises AnalysisError where the model's draws or its prior have no
    density.
    """
    set_arithmetic("float32")  # whatever the models were trained in
    models = [model.to(device) for model in models]
    stack, scored, files = stacked(models), tuple(Scored({}, {}) for _ in models), []
    for name in names:
        pixels = ResidentImages.of(images[name], torch.device(device))
        if cache:
            files.append(cache / f"{_fingerprint(stack, pixels, draws)}.safetensors")
        density = not is_probability(stack.config)
        try:
            found = kept_evidence(stack, pixels, draws, files[-1] if cache else None)
        except (NotImplementedError, ImproperPriorError) as error:
            raise AnalysisError(f"{error}.") from error
        start = f"{GROUP}/" if name == HELD_OUT else f"{GROUP}/{name}/"
        for model, own, of_own in zip(models, scored, found, strict=True):
            of_own_scores = of_own.scores(model.n_pixels, density=density)
            own.metrics |= {start + score: value for score, value in of_own_scores.items()}
            if (added := penalty(model, pixels)) is not None:
                own.metrics[f"{start}nll_penalised"] = -float(of_own.log_evidence[:, -1].mean()) + added
            own.about[name] = {"draws": draws, "images": len(pixels), "asked": asked, "probability": not density}
            own.about[name] |= {"dequantised": True} if density else {}
            own.about[name] |= {"at_equal_steps": True} if name == TRAINING and asked else {}
            own.about[name]["by_image"] = True
            own.files[NLL_BY_IMAGE.format(name)] = {
                "nll": [round(nll, 4) for nll in (-of_own.log_evidence[:, -1]).tolist()]
            }
    for file in files:
        with suppress(OSError):
            file.unlink()
    return scored


def kept_evidence(stack: Autoencoder, pixels: ResidentImages, draws: int, file: Path | None) -> list[Evidence]:
    """``evidence`` of each member. After each block all there is goes to ``file``, from which an ended scoring goes on.

    Blocks begin where they would have begun, so that the numbers are the same. A file that cannot be kept costs time alone.
    """
    n = len(stack.configs)
    outputs = n * max(pixels.pixels.shape[1], stack.likelihood.n_outputs)
    parts: list[list[Evidence]] = (
        [[part] for part in kept] if (kept := file and _read(file)) else [[] for _ in range(n)]
    )
    for block in evidence(
        stack, pixels, draws, first=sum(len(part.effective) for part in parts[0]),
        at_once=drawn_at_once(outputs, pixels.pixels.device.type), density=not is_probability(stack.config),
    ):  # fmt: skip
        for own, part in zip(parts, block, strict=True):
            own.append(part)
        if file:
            with suppress(OSError):
                _keep(file, [Evidence.joined(own) for own in parts])
    return [Evidence.joined(own) for own in parts]


def _keep(file: Path, done: Sequence[Evidence]) -> None:
    """Whole or not at all, whoever else writes the same."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        "log_evidence": torch.stack([own.log_evidence for own in done]),
        "effective": torch.stack([own.effective for own in done]),
    }
    about = {"draws": json.dumps(done[0].draws), "checksum": checksum("", tensors)}
    writing = file.with_name(f"{file.name}.{os.getpid()}")
    writing.write_bytes(safetensors.torch.save(tensors, about))
    writing.replace(file)


def _read(file: Path) -> list[Evidence]:
    """What was kept of each member; nothing where there is none, or it is damaged."""
    try:
        with safetensors.safe_open(file, "pt") as content:
            tensors, about = {name: content.get_tensor(name) for name in content.keys()}, content.metadata()  # noqa: SIM118
        if checksum("", tensors) != about["checksum"]:
            return []
        draws = tuple(json.loads(about["draws"]))
        return [Evidence(draws, *own) for own in zip(tensors["log_evidence"], tensors["effective"], strict=True)]
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError):
        return []


def _fingerprint(stack: Autoencoder, pixels: ResidentImages, draws: int) -> str:
    """Of all that decides the numbers: weights and config, images, draws, and where they are computed."""
    configs = [config.to_dict() for config in stack.configs]
    told = hashlib.sha256(json.dumps([configs, draws, DRAWS_OF_A_STREAM, str(pixels.dtype)]).encode())
    told.update(pixels.pixels.device.type.encode())
    for tensor in (*stack.state_dict().values(), pixels.pixels):
        told.update(tensor.cpu().flatten().view(torch.uint8).numpy())
    return told.hexdigest()[:32]


@torch.no_grad()
def penalty(model: Autoencoder, pixels: ResidentImages) -> float | None:
    """The mean over images of the penalty of each alone, nats; None where the model has none."""
    x, generator = (
        pixels.take(torch.arange(len(pixels), device=pixels.pixels.device)[None]),
        torch.Generator().manual_seed(0),
    )
    with evaluating(model):
        alone = model.penalty_alone(x, DRAWS, generator)
    return None if alone is None else float(alone.double().mean())
