"""What a search varies: ranges given as text, the defaults of each model, and the plan of all studies of one search."""

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from fishernet.config import VARIABLE_ROLES, TrialConfig, Values
from fishernet.families import all_fields, family, matters, trial_config, typed_value
from fishernet.flags import number
from fishernet.plan import Json, PlanError, format_numbers

Value = int | float | str
SAMPLERS = {
    "tpe": "tree-structured Parzen estimator",
    "random": "independent draws",
    "cma-es": "covariance matrix adaptation; needs the package cmaes, and draws words and lists of values at random",
    "nsga-ii": "genetic, for MSE and KL divergence at once",
}
MULTI_OBJECTIVE = ("nsga-ii",)
DATABASE = "optuna.db"


def storage_url(storage_path: Path) -> str:
    """Optuna's storage of all searches below a storage path."""
    return f"sqlite:///{(storage_path / DATABASE).as_posix()}"


def fixable() -> tuple[str, ...]:
    """The fields that --fix may name: not those that say which study it is, what it is scored on, and how often."""
    return tuple(n for n, f in all_fields().items() if f.metadata["role"] in (*VARIABLE_ROLES, "computing"))


def searched() -> tuple[str, ...]:
    """The fields that a search may vary, words first, then factors of terms: others may depend on them, and what does not apply
    is never asked for.

    How things are computed is no matter of quality; and --sampler is Optuna's here.
    """
    names = [name for name, f in all_fields().items() if f.metadata["search"] is not None]
    return tuple(
        sorted(names, key=lambda name: (not isinstance(all_fields()[name].default, str), not name.endswith("_weight")))
    )


def default_space(model: str, scored: Collection[str] = ()) -> dict[str, str]:
    """The ranges that a search of the model varies by default; ``scored`` is what it scores beside the MSE, such as kl."""
    own = family(model).config.__dataclass_fields__
    return {
        name: own[name].metadata["search"]
        for name in searched()
        if name in own and own[name].metadata["search"] and own[name].metadata["search_with"] in ("", *scored)
    }


@dataclass(frozen=True)
class Range:
    """All numbers from low to high, both included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __str__(self) -> str:
        return f"{self.low!r}..{self.high!r}" + (":log" if self.log else f":step={self.step!r}" if self.step else "")


@dataclass(frozen=True)
class Choices:
    """One of several values."""

    values: tuple[Value, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.values))


Domain = Range | Choices


def parse_domain(name: str, text: str) -> Domain:
    """``1e-5..1e-2:log``, ``64..512:step=64``, ``relu,elu`` or one value for a field; raises PlanError with a sentence."""
    flag = f"--{name.replace('_', '-')}"
    meaning = all_fields()[name].metadata["meaning"]
    takes = f"{flag} ({meaning}) takes a range such as 2..8, 1e-5..1e-2:log or 64..512:step=64, or values such as 32,64"

    def typed(value: str) -> Any:
        try:
            return typed_value(name, value.strip())
        except ValueError as error:
            raise PlanError(f"{flag}{str(error).removeprefix(name)}") from None

    if ".." not in text:
        words = [word for word in text.split(",") if word.strip()]
        if not words:
            raise PlanError(f"{takes}; got {text!r}")
        values = tuple(typed(word) for word in words)
        if len(set(values)) < len(values):
            raise PlanError(f"{flag} lists a value twice: {text!r}")
        return Choices(values)
    ends, _, scale = text.partition(":")
    if isinstance(all_fields()[name].default, str):
        raise PlanError(f"{flag} ({meaning}) takes words, so they are listed, such as a,b; got the range {text!r}")
    low, high = map(typed, ends.split("..", 1))
    if not low < high:
        raise PlanError(f"{flag}: a range goes upwards; got {text!r}")
    if scale == "log":
        if low <= 0:
            raise PlanError(f"{flag}: a logarithmic range begins above 0; got {text!r}")
        return Range(low, high, log=True)
    if scale:
        key, _, size = scale.partition("=")
        try:
            step = number(type(low))(size)
        except ValueError:
            step = 0
        if key != "step" or not 0 < step <= high - low:
            raise PlanError(
                f"{flag}: after the colon comes log, or step= and a number between 0 and the range's length; got {text!r}"
            )
        return Range(low, high, step=step)
    return Range(low, high)


@dataclass(frozen=True)
class StudyPlan:
    """One study: a model at one latent dimension, or at those of a range, and what of it is varied."""

    base: TrialConfig  # what is not varied; its seed means nothing
    space: tuple[tuple[str, Domain], ...]

    @property
    def name(self) -> str:
        """``FisherNet-d10``; ``FisherNet`` where the latent dimension is varied."""
        variant = self.base.variant.replace(" ", "-")
        return variant if "latent_dim" in dict(self.space) else f"{variant}-d{self.base.latent_dim:02d}"

    def config(self, params: Values, number: int, seed: int) -> TrialConfig:
        """Trial ``number``'s config; its setting is named by the number, so that no two trials share a run."""
        return trial_config(
            {**self.base.to_dict(), **params, "seed": seed, "setting": trial_setting(self.base, number)}
        )

    def to_dict(self) -> Json:
        return {"base": self.base.to_dict(), "space": {name: str(domain) for name, domain in self.space}}

    @classmethod
    def from_dict(cls, content: Json) -> Self:
        space = tuple((name, parse_domain(name, text)) for name, text in content["space"].items())
        return cls(trial_config(content["base"]), space)


def trial_setting(base: TrialConfig, number: int) -> str:
    """``t017``, after what sets the study's own line apart: ``gaussian-learned-t017``."""
    return base.named(f"t{number:03d}")


@dataclass(frozen=True)
class SearchPlan:
    """All studies of a search: equal budgets, one set of seeds, one split of the images."""

    studies: tuple[StudyPlan, ...]
    n_trials: int  # suggestions for each study
    seeds: tuple[int, ...]  # the members of every trial
    sampler: str
    sampler_seed: int
    first_rung: int  # epochs before a trial can be stopped; as many as it trains: none is
    reduction_factor: int

    @property
    def example(self) -> TrialConfig:
        return self.studies[0].base

    @property
    def configs(self) -> Iterator[TrialConfig]:
        """Of every study each combination of the listed words, at the ends of its latent dimensions and a step from the first."""
        for study in self.studies:
            domain = dict(study.space).get("latent_dim", Choices((study.base.latent_dim,)))
            if isinstance(domain, Choices):
                dims = domain.values
            else:
                dims = (domain.low, min(domain.low + (domain.step or 1), domain.high), domain.high)
            for values in _conditions(study.base.to_dict(), dict(study.space)):
                yield from (trial_config({**values, "latent_dim": d}) for d in dims)

    @property
    def epochs(self) -> int:
        return self.example.epochs

    @property
    def multi_objective(self) -> bool:
        return self.sampler in MULTI_OBJECTIVE

    @property
    def rungs(self) -> list[int]:
        """The epochs after which trials are compared; none where each trains to its end."""
        if self.multi_objective:
            return []
        powers = (self.first_rung * self.reduction_factor**k for k in itertools.count())
        return list(itertools.takewhile(lambda epoch: epoch < self.epochs, powers))

    @property
    def expected_share(self) -> float:
        """The share of the epochs that is trained where exactly one of ``reduction_factor`` trials passes each rung."""
        ends = [*self.rungs, self.epochs]
        steps = zip([0, *ends], ends, strict=False)
        return sum((b - a) / self.reduction_factor**k for k, (a, b) in enumerate(steps)) / self.epochs

    @property
    def shared(self) -> Json:
        """The fields that all studies fix alike: the parent run's parameters."""
        rows = [{k: v for k, v in s.base.to_dict().items() if k not in dict(s.space)} for s in self.studies]
        alike = {k: v for k, v in rows[0].items() if all(row.get(k) == v for row in rows)}
        return {k: v for k, v in alike.items() if k not in ("seed", "setting")} | {
            "trials": self.n_trials, "sampler": self.sampler,
        }  # fmt: skip

    @property
    def n_runs(self) -> int:
        return len(self.studies) * self.n_trials * len(self.seeds)

    def members(self, study: StudyPlan, params: Values, number: int) -> tuple[TrialConfig, ...]:
        return tuple(study.config(params, number, seed) for seed in self.seeds)

    def describe(self) -> str:
        """``FisherNet-d10, VAE-d10 on fashion-mnist: 40 trials each of seeds 0-2, 50 epochs, rungs after 5, 15, 45; tpe``."""
        rungs = f"rungs after {', '.join(map(str, self.rungs))}" if self.rungs else "none stopped early"
        names = ", ".join(study.name for study in self.studies)
        return (
            f"{names} on {self.example.dataset}: {self.n_trials} trials each of seeds {format_numbers(self.seeds)}, "
            f"{self.epochs} epochs, {rungs}; {self.sampler}"
        )

    def to_dict(self) -> Json:
        return {
            "search": {
                "studies": [study.to_dict() for study in self.studies], "n_trials": self.n_trials,
                "seeds": list(self.seeds), "sampler": self.sampler, "sampler_seed": self.sampler_seed,
                "first_rung": self.first_rung, "reduction_factor": self.reduction_factor,
            }
        }  # fmt: skip

    @classmethod
    def from_dict(cls, plan: Json) -> Self:
        content = plan["search"]
        studies = tuple(map(StudyPlan.from_dict, content["studies"]))
        return cls(**{**content, "studies": studies, "seeds": tuple(content["seeds"])})

    def extended(self, asked: Self, name: str) -> Self:
        """The plan with more trials or more studies; raises PlanError where anything else is another."""
        own, other = self.to_dict()["search"], asked.to_dict()["search"]
        words = {"sampler_seed": "sampler-seed", "first_rung": "first-rung", "reduction_factor": "reduction-factor"}
        differences = [
            f"--{words.get(key, key)} is {own[key]} there and {other[key]} here"
            for key in ("seeds", "sampler", "sampler_seed", "first_rung", "reduction_factor")
            if own[key] != other[key]
        ]
        known = {study.name: study for study in self.studies}
        for study in asked.studies:
            there = known.get(study.name)
            if there is not None and there != study:
                before, after = _flat(there), _flat(study)
                differences += [
                    f"{key} of {study.name} is {before.get(key)} there and {after.get(key)} here"
                    for key in sorted({*before, *after})
                    if before.get(key) != after.get(key)
                ]
        images = ("dataset", "epochs", "train_size", "validation_size")
        differences += [
            f"--{key.replace('_', '-')} is {getattr(self.example, key)} there and {getattr(asked.example, key)} here"
            for key in images
            if getattr(self.example, key) != getattr(asked.example, key)
        ]
        if asked.n_trials < self.n_trials:
            differences.append(f"--trials is {self.n_trials} there and {asked.n_trials} here, which is less")
        if differences:
            raise PlanError(
                f"the search {name} exists, and with these its trials could not be compared: {'; '.join(differences)}. "
                f"Choose another --name, or leave {'this' if len(differences) == 1 else 'these'} as it was"
            )
        added = tuple(study for study in asked.studies if study.name not in known)
        return replace(self, studies=(*self.studies, *added), n_trials=asked.n_trials)


def _flat(study: StudyPlan) -> Json:
    content = study.to_dict()
    return {**content["base"], **content["space"]}


def make_study(model: str, base: Values, domains: Mapping[str, Domain], fixed: Values, *, kl_scored: bool) -> StudyPlan:
    """A model's study from what was typed: ``domains`` and ``fixed`` beside its defaults; raises PlanError.

    ``base`` holds the fields that no flag of the space touches. A domain of one value is fixed.
    """
    texts = default_space(model, ["kl"] if kl_scored else [])
    space: dict[str, Domain] = {name: parse_domain(name, text) for name, text in texts.items()} | dict(domains)
    singles = {name: d.values[0] for name, d in space.items() if isinstance(d, Choices) and len(d.values) == 1}
    values = {**base, **singles, **fixed, "model": model}
    order = ("latent_dim", *searched())
    space = {name: space[name] for name in dict.fromkeys(order) if name in space and name not in {**singles, **fixed}}
    try:
        usual = {**{f.name: f.default for f in fields(family(model).config)}, **values}
        possible = [trial_config(config) for config in _conditions(usual, space)]
        numbers = {name: domain for name, domain in space.items() if name not in _lists(space)}
        for known in map(TrialConfig.to_dict, possible):
            for name, domain in numbers.items():
                if matters(name, known):
                    for value in domain.values if isinstance(domain, Choices) else (domain.low, domain.high):
                        trial_config({**known, name: value})
    except (KeyError, ValueError) as error:
        raise PlanError(str(error.args[0])) from None
    space = {name: domain for name, domain in space.items() if any(matters(name, c.to_dict()) for c in possible)}
    try:
        config = trial_config(usual)
    except ValueError:  # the model's usual choice does not go with what is fixed, but every listed one does
        config = possible[0]
    if not space:
        raise PlanError(f"nothing of {config.variant} is left to vary: every value is fixed; give at least one range")
    return StudyPlan(config, tuple(space.items()))


def _conditions(usual: Values, space: Mapping[str, Domain]) -> Iterator[Json]:
    """Every combination of the listed words, on which other fields may depend."""
    lists = _lists(space)
    for combination in itertools.product(*lists.values()):
        values = dict(usual)
        for name, value in zip(lists, combination, strict=True):
            if matters(name, values):
                values[name] = value
        yield values


def _lists(space: Mapping[str, Domain]) -> dict[str, tuple[Value, ...]]:
    """The varied fields that are words, with theirs."""
    return {name: d.values for name, d in space.items() if isinstance(d, Choices) and isinstance(d.values[0], str)}


def can_matter(name: str, study: StudyPlan) -> bool:
    """Whether a field changes what some trial of the study computes."""
    space = dict(study.space)
    largest = {of: d.high if isinstance(d, Range) else max(d.values) for of, d in space.items()}
    numbers = {of: value for of, value in largest.items() if not isinstance(value, str)}
    return any(matters(name, values) for values in _conditions({**study.base.to_dict(), **numbers}, space))


def grid_size(space: Sequence[tuple[str, Domain]]) -> float:
    """How many settings there are; infinite where a number varies continuously."""
    return math.prod(_n_values(name, domain) for name, domain in space)


def _n_values(name: str, domain: Domain) -> float:
    if isinstance(domain, Choices):
        return len(domain.values)
    if isinstance(all_fields()[name].default, int):
        return int(domain.high - domain.low) // int(domain.step or 1) + 1
    return int((domain.high - domain.low) / domain.step + 1e-9) + 1 if domain.step else math.inf


def suggestions(study: StudyPlan, suggest: Callable[[str, Domain], Value]) -> Iterator[tuple[str, Value]]:
    """Each varied field that matters with the value ``suggest(name, domain)`` gives it, in the order they depend on another."""
    values = study.base.to_dict()
    for name, domain in study.space:
        if matters(name, values):
            values[name] = suggest(name, domain)
            yield name, values[name]


def middle(name: str, domain: Domain) -> Value:
    """A value halfway: what an estimate of time takes."""
    if isinstance(domain, Choices):
        return domain.values[len(domain.values) // 2]
    value = math.sqrt(domain.low * domain.high) if domain.log else (domain.low + domain.high) / 2
    return round(value) if isinstance(all_fields()[name].default, int) else value
