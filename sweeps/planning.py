"""From flags to trial configs, and from trial configs to the cohorts that fill the given devices."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from analysis.papers import OWN_IMAGES, PRESETS
from fishernet.config import DATASET_NAMES, TrialConfig, Value
from fishernet.families import (
    FAMILIES,
    LikelihoodConfig,
    all_fields,
    family,
    matters,
    models_with,
    spelled,
    trial_config,
)
from fishernet.flags import Listed
from fishernet.likelihoods import n_outputs
from fishernet.networks import NETWORKS
from fishernet.plan import MOST_RUNS, PlanError, SweepPlan, flagged, parse_numbers, stackable
from fishernet.spelling import did_you_mean
from fishernet.wording import listed, two_columns

if TYPE_CHECKING:
    from torch import Tensor

    from fishernet.data.images import ImageData

Shape = tuple[int, int, int]  # of images: channels, height, width
DEFAULT_PRESET = "paper"
STEPS, LEAST_EPOCHS, MOST_SCORED = 4000, 20, 100  # of runs on one's own images
OURS = PRESETS[DEFAULT_PRESET]["models"]
# Numbers that a decoder emits up to which networks stack on a CPU: with one component they gain, with ten, 7,850 and more of
# 28 x 28 pixels, they lose (benchmarks/likelihoods.py).
STACKED_OUTPUTS = 4_000
# package.module:Class and, after another colon, its fields
OUTSIDE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*(?![\w-]*=)")


def add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """The axes, the preset, and one flag per field of TrialConfig; every default is None, so what was given can be told."""
    axes = parser.add_argument_group("what is trained (every combination of these three)")
    axes.add_argument(
        "--models", "--model", nargs="+", metavar="MODEL",
        help=f"any of {', '.join(FAMILIES)}, or a class from elsewhere as package.module:Class; MODEL:field=value,... sets "
        f"fields for that line alone, such as likelihood=gaussian-learned {_default('models')}",
    )  # fmt: skip
    axes.add_argument(
        "--latent-dims", "--latent-dim", action=Listed, metavar="DIMS",
        help=f"{_field('latent_dim').metadata['meaning']}: 2-20 or 2,5,10 {_default('latent_dims')}",
    )  # fmt: skip
    axes.add_argument(
        "--seeds", "--seed", action=Listed, metavar="SEEDS",
        help="how many seeds, counted from 0, or which: 5, or 0,1,7 ('3,' is seed 3 alone) " + _default("seeds"),
    )  # fmt: skip
    axes.add_argument(
        "--preset",
        choices=PRESETS,
        metavar="PRESET",
        help=f"defaults for all of these, which --help-all lists: {', '.join(PRESETS)} (default: {DEFAULT_PRESET}; where "
        f"--dataset is a path {OWN_IMAGES})",
    )
    axes.add_argument("--plan", type=Path, metavar="FILE", help="instead: a JSON list of trial configs, taken as it is")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for f in all_fields().values():
        if f.metadata["role"] != "axis":
            title = f"settings of {owners(f.name)}"
            group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
            group.add_argument(
                f"--{f.name.replace('_', '-')}",
                dest=f.name,
                metavar=f"{{{','.join(f.metadata['choices'])}}}" if f.metadata["choices"] else f.name.upper(),
                help=f"{f.metadata['meaning']} {_default(f.name, _defaults_of(f.name))}".replace("%", "%%"),
            )


def add_presets(parser: argparse.ArgumentParser) -> None:
    """A group without flags: what each preset sets."""
    flags = {
        name: " ".join(f"--{key.replace('_', '-')} {_words(value)}" for key, value in preset.items())
        for name, preset in PRESETS.items()
    }
    parser.add_argument_group("presets", f"What each sets; a flag beside it wins.\n\n{two_columns(flags)}")


def owners(name: str) -> str:
    """Whose runs have a field: ``every run``, or ``FisherNet, VAE``."""
    models = models_with(name)
    return "every run" if len(models) == len(FAMILIES) else ", ".join(models)


def import_models(argv: Sequence[str]) -> None:
    """Make the models from outside that are named on the command line known, so that their fields become flags.

    Raises PlanError where one cannot be imported.
    """
    of_models = False
    for word in argv:
        if word.startswith("--"):
            flag, _, word = word.partition("=")
            of_models = flag in ("--models", "--model")
        if of_models and (found := OUTSIDE.match(word)):
            try:
                family(found[0])
            except ValueError as error:
                raise PlanError(flagged(str(error))) from None


def _field(name: str) -> Field[Value]:
    return TrialConfig.__dataclass_fields__[name]


def _defaults_of(name: str) -> str:
    """``bernoulli; gaussian-learned for FisherNet``: that of most families, then others' own."""
    models: dict[object, list[str]] = {}
    for model in models_with(name):
        models.setdefault(FAMILIES[model].config.__dataclass_fields__[name].default, []).append(model)
    usual, *others = sorted(models, key=lambda default: -len(models[default]))
    return "; ".join([str(usual), *(f"{default} for {', '.join(models[default])}" for default in others)])


def _default(name: str, own: object = None) -> str:
    """That of the usual preset, and whether others have another."""
    values = [_words(of_preset.get(name, own)) for of_preset in (PRESETS[DEFAULT_PRESET], *PRESETS.values())]
    return f"(default: {values[0]}{'; some presets have another' * (len({*values}) > 1)})"


def _words(value: object) -> str:
    """A preset's value as help shows it; of lines with fields how many, as they would fill a screen."""
    if isinstance(value, list) and any(":" in line for line in value):
        return f"({len(value)} lines)"
    return " ".join(value) if isinstance(value, list) else str(value)


def plan_flags_given(args: argparse.Namespace) -> list[str]:
    """The flags of ``add_plan_flags`` that were typed."""
    names = ["models", "latent_dims", "seeds", "preset", "plan", *all_fields()]
    return [f"--{n.replace('_', '-')}" for n in names if getattr(args, n, None) is not None]


def preset_of(args: argparse.Namespace) -> str:
    """The preset that counts: the one asked for, else that of one's own images where the dataset is a path."""
    own = args.dataset is not None and args.dataset not in DATASET_NAMES
    return args.preset or (OWN_IMAGES if own else DEFAULT_PRESET)


def suited(args: argparse.Namespace, images: ImageData) -> tuple[dict[str, Any], str]:
    """What follows from one's own images where no flag says it: these fields, and a sentence on them; without both none.

    ``epochs`` such that there are STEPS optimiser steps, and LEAST_EPOCHS at least; ``evaluate_every`` so that a run is scored
    MOST_SCORED times at most; ``noise_start`` the logarithm of the images' variance per pixel about their mean: the noise of a
    model that has learned nothing, from which it falls. From the usual 0, a variance of 1, it would hide dark images.
    """
    if args.plan or preset_of(args) != OWN_IMAGES:
        return {}, ""
    batch, n = int(args.batch_size or PRESETS[OWN_IMAGES]["batch_size"]), len(images.train)
    steps = math.ceil(n / batch)
    found: dict[str, Any] = {}
    words = []
    if args.epochs is None:
        found["epochs"] = max(LEAST_EPOCHS, math.ceil(STEPS / steps))
        words.append(f"epochs {found['epochs']}, as {n} images make {steps} step{'s' * (steps > 1)} an epoch")
    if args.evaluate_every is None and args.patience is None:
        epochs = int(args.epochs or found["epochs"])
        found["evaluate_every"] = max(1, epochs // MOST_SCORED)
        words += [f"scored every {found['evaluate_every']}"] if found["evaluate_every"] > 1 else []
    if args.noise_start is None and (variance := _variance(images.train)) > 0:
        symmetric = args.pixel_range == "symmetric"  # the variance is of 2x - 1
        found["noise_start"] = round(math.log(4 * variance if symmetric else variance), 1)
        words.append(f"noise from {found['noise_start']}, ln of their variance")
    if args.decoder_output is None and args.pixel_range != "symmetric":
        words.append("decoders linear where the error is squared")
    if args.likelihood is None and args.binarisation is None:
        words.append("gaussian-learned for bernoulli")
    return found, "; ".join(words)


def _variance(images: Tensor) -> float:
    """Of grey values in [0, 1] about the mean image, per pixel, over uint8 images (n, ...)."""
    total = squares = 0.0
    for pixels in images.flatten(1).split(max(1, 2**22 // len(images)), dim=1):  # 32 MiB as float64
        values = pixels.double() / 255
        squares += float(values.var(0, correction=0).sum())
        total += pixels.shape[1]
    return squares / total


def plan_from_flags(args: argparse.Namespace, suited: Mapping[str, Any] = MappingProxyType({})) -> SweepPlan:
    """The sweep that the flags ask for, checked; raises PlanError naming the flag, its meaning and the value.

    ``suited`` are fields that go before the defaults, and after what flags and the preset say.
    """
    if args.plan is not None:
        if others := [flag for flag in plan_flags_given(args) if flag != "--plan"]:
            raise PlanError(f"--plan holds complete trial configs, so it goes without {', '.join(others)}")
        return SweepPlan.read(args.plan)
    preset = {**suited, **PRESETS[preset_of(args)]}

    def given(name: str) -> Any:
        return preset.get(name) if getattr(args, name) is None else getattr(args, name)

    settings = {name: given(name) for name, f in all_fields().items() if f.metadata["role"] != "axis"}
    settings = {name: value for name, value in settings.items() if value is not None}
    for name in settings:
        if getattr(args, name) is not None and not any(_has(text, name) for text in given("models")):
            raise PlanError(
                f"--{name.replace('_', '-')} is a field of {owners(name)}, and --models asks for "
                f"{', '.join(given('models'))}; leave it out"
            )
    if "dataset" in settings:
        settings["dataset"] = dataset_from_flag(settings["dataset"])
    latent_dims, seeds = _axis("--latent-dims", given("latent_dims")), seeds_from_flag(given("seeds"))
    n_runs = len(given("models")) * len(latent_dims) * len(seeds)
    if n_runs > MOST_RUNS:
        raise PlanError(f"--models x --latent-dims x --seeds are {n_runs:,} runs; a sweep has at most {MOST_RUNS:,}")
    configs = []
    for text in given("models"):
        own = model_overrides(text)
        values = {**settings, **own}
        if preset_of(args) == OWN_IMAGES:
            values = {**_of_grey_values(values), **values}
        for d in latent_dims:
            for seed in seeds:
                try:
                    configs.append(trial_config({**values, "latent_dim": d, "seed": seed}))
                except (KeyError, ValueError) as error:
                    raise PlanError(flagged(str(error.args[0]))) from None
        refuse_idle(text, configs[-1], [name for name in own if not matters(name, configs[-1].to_dict())])
    plan = SweepPlan(tuple(configs))
    plan.check()
    return plan


def _of_grey_values(values: Mapping[str, Any]) -> dict[str, str]:
    """What suits images of one's own in a config of these values: a likelihood of grey values, and a decoder that learns by it.

    Bernoulli's is of black and white. A squared error's gradient does not pass a sigmoid that the first steps have driven to
    black, as most pixels of dark images do. With ``pixel_range`` symmetric the decoder keeps its tanh, as it has to.
    """
    try:
        own = family(values["model"]).config.__dataclass_fields__
    except ValueError:  # which is said of the config
        return {}
    if "likelihood" not in own:
        return {}
    found = {}
    likelihood = values.get("likelihood", own["likelihood"].default)
    if "likelihood" not in values and likelihood == "bernoulli" and values.get("binarisation", "none") == "none":
        found["likelihood"] = likelihood = "gaussian-learned"
    linear = likelihood in ("gaussian", "gaussian-learned") and values.get("pixel_range", "unit") == "unit"
    return found | ({"decoder_output": "linear"} if linear else {})


def _has(text: str, name: str) -> bool:
    """Whether the model of a word of --models has the field; of one that is no model, yes: it is refused by itself."""
    try:
        return name in family(model_overrides(text)["model"]).config.__dataclass_fields__
    except (PlanError, ValueError):
        return True


def dataset_from_flag(dataset: str) -> str:
    """The name, or the absolute path where it is one: workers may run elsewhere."""
    path = os.path.expanduser(dataset)  # noqa: PTH111 (Path raises for a ~user that does not exist, and for a long name)
    if dataset and dataset not in DATASET_NAMES and os.path.exists(path):  # noqa: PTH110
        return os.path.realpath(path)
    return dataset


def _axis(flag: str, text: str) -> list[int]:
    try:
        return parse_numbers(text)
    except ValueError as error:
        raise PlanError(f"{flag}: {error}") from None


def seeds_from_flag(text: str) -> list[int]:
    """``5`` as the seeds 0 to 4, ``0,1,7`` as these; raises PlanError."""
    if not text.strip().isdecimal():
        return _axis("--seeds", text)
    if len(text) > 9:
        raise PlanError(f"--seeds is how many seeds to train, or which, separated by commas; got {text[:20]}...")
    if int(text) == 0:
        raise PlanError("--seeds 0 asks for no seeds; for seed 0 alone write --seeds 1")
    if int(text) > 100_000:
        raise PlanError(f"--seeds {text} is how many seeds to train; for that seed alone write --seeds {text},")
    return list(range(int(text)))


def model_overrides(text: str) -> dict[str, str]:
    """``VAE:likelihood=gaussian`` as {"model": "VAE", "likelihood": "gaussian"}; raises PlanError."""
    outside = OUTSIDE.match(text)
    word = outside[0] if outside else text.partition(":")[0]
    if "," in word:
        raise PlanError(
            f"--models takes models with spaces between, as in --models {word.replace(',', ' ')}{text[len(word) :]}; got {text!r}"
        )
    model, rest = spelled(word), text[len(word) :].removeprefix(":")
    overrides = {"model": model}
    for pair in filter(None, rest.split(",")):
        name, equals, value = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name in TrialConfig.names("axis") or name not in all_fields():
            own = FAMILIES[model].config.names() if model in FAMILIES else all_fields()
            meant = did_you_mean(name, [field for field in own if field not in TrialConfig.names("axis")])
            if spelled(pair.strip().partition(":")[0]) in FAMILIES:
                meant = ". Another model follows after a space"
            raise PlanError(
                f"--models {text}: after the colon come fields of a trial config, such as likelihood=gaussian-learned; "
                f"got {pair!r}{meant}"
            )
        if model in FAMILIES and name not in FAMILIES[model].config.__dataclass_fields__:
            raise PlanError(
                f"--models {text}: {model} has no {name}, which is a field of {', '.join(models_with(name))}"
            )
        overrides[name] = value.strip()
    return overrides


def refuse_idle(text: str, config: TrialConfig, idle: Sequence[str]) -> None:
    """Raises PlanError where a line of --models sets fields that change nothing of it: it would be another line's twin."""
    for name in idle:
        here = " and ".join(f"{other} is {listed([getattr(config, other)])}" for other in config.waits_for(name))
        raise PlanError(
            f"--models {text}: {name} changes nothing of this line: it matters with {config.takes(name)}, and here {here}. "
            f"Leave {name} out, or give that too"
        )


@dataclass(frozen=True)
class Devices:
    """What the trials run on: ``slots`` of them at a time, as a trial takes its cores and its share of a GPU from one node."""

    gpus: int
    gpus_per_trial: float
    cpus: int
    cpus_per_trial: int
    nodes: tuple[tuple[int, int], ...] = ()  # CPU cores and GPUs of each, where there are several

    @property
    def slots(self) -> int:
        nodes = self.nodes or ((self.cpus, self.gpus),)
        if not self.gpus:
            return sum(cpus // self.cpus_per_trial for cpus, _ in nodes)
        fits = (min(cpus // self.cpus_per_trial, self._on(gpus)) for cpus, gpus in nodes)
        return min(sum(fits), self._on(self.gpus))

    def _on(self, gpus: int) -> int:
        return int(gpus / self.gpus_per_trial + 1e-9)

    @property
    def resources(self) -> dict[str, float]:
        return {"cpu": self.cpus_per_trial, "gpu": self.gpus_per_trial if self.gpus else 0}

    def __str__(self) -> str:
        kind = f"{self.gpus} GPU{'s' * (self.gpus > 1)}" if self.gpus else f"{self.cpus} CPU cores, no GPU"
        few = ", for want of CPU cores beside them" if self.gpus and self.slots < self._on(self.gpus) else ""
        return f"{kind}: {self.slots} trial{'s' * (self.slots > 1)} at a time{few}"


def _products(config: TrialConfig, image_shape: Shape) -> float:
    """Multiplications per image."""
    n_pixels = math.prod(image_shape)
    return NETWORKS[config.network].n_products(config, n_pixels, max(n_pixels, _emitted(config, image_shape)))


def _emitted(config: TrialConfig, image_shape: Shape) -> int:
    """Numbers that the decoder emits for an image."""
    return n_outputs(config, image_shape) if isinstance(config, LikelihoodConfig) else math.prod(image_shape)


def relative_cost(config: TrialConfig, image_shape: Shape) -> float:
    """A run's arithmetic up to a common factor: multiplications per image, d tangents through the decoder included."""
    products, row = _products(config, image_shape), family(config.model)
    tangents = config.latent_dim * products / 2 if row.tangents else 0
    return config.epochs * (3 * row.cost * products + tangents)


def make_cohorts(
    configs: Sequence[TrialConfig], devices: Devices, cohort_size: str | int, image_shape: Shape
) -> list[list[TrialConfig]]:
    """The configs in cohorts, the dearest first, so that none of the slots ends long after the others.

    ``auto`` on GPUs: each stackable group in as many equal cohorts as there are slots, each with members of every latent_dim,
    so that they cost the same. On a CPU the same for networks and decoders' outputs small enough to gain from it, and cohorts of
    one for the others. Cohorts of a given size have members of like latent_dim.
    """
    cohorts: list[list[TrialConfig]] = []
    for group in stackable(configs):
        if cohort_size == "auto":
            network, cost = NETWORKS[group[0].network], family(group[0].model).cost
            small = _emitted(group[0], image_shape) <= STACKED_OUTPUTS
            stacks = devices.gpus or (small and cost * _products(group[0], image_shape) <= network.stacked_below)
            n = min(len(group), devices.slots) if stacks else len(group)
            cohorts += [group[i::n] for i in range(n)]
        else:
            n = math.ceil(len(group) / int(cohort_size))
            bounds = [round(i * len(group) / n) for i in range(n + 1)]
            cohorts += [group[a:b] for a, b in itertools.pairwise(bounds)]
    return sorted(cohorts, key=lambda cohort: -sum(relative_cost(c, image_shape) for c in cohort))
