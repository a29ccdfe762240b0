"""The plan of a sweep: its trial configs, the form of them that MLflow keeps, and the file they are read from."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from fishernet.config import TrialConfig, Value
from fishernet.families import BUILT_IN, MODEL_NAMES, all_fields, family, is_installed, trial_config

Json = dict[str, Any]  # an object of JSON, as files and MLflow hold it
MOST_RUNS = 100_000  # beyond it a plan takes minutes to write down
PLURAL = {"model": "models", "latent_dim": "latent-dims", "seed": "seeds"}  # fields whose flags take several


class PlanError(ValueError):
    """A plan that cannot be run; the message says which flag, file or field and what to do."""


def parse_numbers(text: str) -> list[int]:
    """``"2-5,10"`` as [2, 3, 4, 5, 10], in the order given, without repeats; raises ValueError with a sentence."""
    numbers: list[int] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"expected whole numbers and ranges such as 2-20 or 2,5,10; got {part!r}")
        if dash and int(last) < int(first):
            raise ValueError(f"a range goes upwards; got {part!r}")
        if dash and int(last) - int(first) >= 1_000_000:
            raise ValueError(f"a range of over a million; got {part!r}")
        numbers.extend(range(int(first), int(last if dash else first) + 1))
    if not numbers:
        raise ValueError(f"expected whole numbers and ranges such as 2-20 or 2,5,10; got {text!r}")
    return list(dict.fromkeys(numbers))


def format_numbers(numbers: Iterable[int]) -> str:
    """The inverse of ``parse_numbers`` for a set of numbers: ``"2-5,10"``."""
    runs: list[list[int]] = []
    for n in sorted(set(numbers)):
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


@dataclass(frozen=True)
class SweepPlan:
    """The trial configs of one sweep, which all see the same images; what ``sweeps.space.SearchPlan`` is to a search."""

    configs: tuple[TrialConfig, ...]

    @property
    def example(self) -> TrialConfig:
        return self.configs[0]

    @property
    def n_runs(self) -> int:
        return len(self.configs)

    @property
    def latent_dims(self) -> list[int]:
        return sorted({c.latent_dim for c in self.configs})

    @property
    def shared(self) -> Json:
        """The fields that all runs have alike: the parent run's parameters."""
        rows = [_off_axes(c) for c in self.configs]
        return {k: v for k, v in rows[0].items() if k != "model" and all(k in row and row[k] == v for row in rows)}

    def to_dict(self) -> Json:
        """{"base": fields, "grids": [{"fields", "latent_dims", "seeds"}]}: short enough for a tag.

        The base has what all share; of a field of some families, what all that have it share, as a config drops what its family
        has not. Not of families from elsewhere, whose fields nobody knows where they are not installed.
        """
        rows = [_off_axes(c) for c in self.configs]
        ours = {f.name for row in BUILT_IN for f in fields(row.config)}
        values = {k: v for row in reversed(rows) for k, v in row.items() if k in ours and k != "model"}
        base = self.shared | {k: v for k, v in values.items() if all(row.get(k, v) == v for row in rows)}
        cells: dict[str, dict[int, set[int]]] = {}  # what differs -> latent_dim -> seeds
        for config in self.configs:
            key = json.dumps({k: v for k, v in _off_axes(config).items() if k not in base})
            cells.setdefault(key, {}).setdefault(config.latent_dim, set()).add(config.seed)
        grids = []
        for key, seeds_of_dim in cells.items():
            dims_of_seeds: dict[str, list[int]] = {}
            for d, seeds in seeds_of_dim.items():
                dims_of_seeds.setdefault(format_numbers(seeds), []).append(d)
            grids += [
                {"fields": json.loads(key), "latent_dims": format_numbers(dims), "seeds": seeds}
                for seeds, dims in dims_of_seeds.items()
            ]
        return {"base": base, "grids": grids}

    @classmethod
    def from_dict(cls, plan: Json, *, installed: bool = False) -> Self:
        """The plan of ``to_dict``, by model, latent_dim and seed, or of a list ``configs`` as it stands.

        On request the runs of installed models alone. Raises KeyError, TypeError or ValueError where it is of another form.
        """
        if "configs" in plan:
            rows = list(plan["configs"])
        else:
            rows = [
                {**plan["base"], **grid["fields"], "latent_dim": d, "seed": seed}
                for grid in plan["grids"]
                for d in parse_numbers(grid["latent_dims"])
                for seed in parse_numbers(grid["seeds"])
            ]
        if installed:
            rows = [row for row in rows if is_installed(row.get("model", MODEL_NAMES[0]))]
        return cls(tuple(map(trial_config, rows)))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The plan of a file: JSON, a list of objects with the fields of TrialConfig, or one whose ``configs`` is such.

        Raises PlanError for a file that is missing, no JSON, or holds an impossible config.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PlanError(f"--plan {path} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise PlanError(f"--plan {path} is not JSON: {error}") from None
        rows = content.get("configs") if isinstance(content, dict) else content
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            raise PlanError(f"--plan {path} must be a list of trial configs, or an object whose 'configs' is one")
        configs = []
        for i, row in enumerate(rows, 1):
            try:
                configs.append(trial_config(row))
            except (KeyError, ValueError) as error:
                raise PlanError(f"--plan {path}, entry {i}: {error.args[0]}") from None
        plan = cls(tuple(configs))
        try:
            plan.check()
        except PlanError as error:
            raise PlanError(f"--plan {path}: {error}") from None
        return plan

    def write(self, path: Path) -> None:
        """The file of ``read``."""
        write_json(path, [config.to_dict() for config in self.configs])

    def check(self) -> None:
        """Raises PlanError where two configs would be one run and one line of a figure, or see different images."""
        if self.n_runs > MOST_RUNS:
            raise PlanError(f"a sweep has at most {MOST_RUNS:,} runs; these are {self.n_runs:,}")
        names: dict[str, TrialConfig] = {}
        for config in self.configs:
            other = names.setdefault(config.run_name, config)
            if other is not config:
                differing = [k for k, v in config.to_dict().items() if v != getattr(other, k, None)]
                what = f"differ only in {', '.join(differing)}" if differing else "are one and the same"
                raise PlanError(
                    f"two of the planned runs are named {config.run_name} and {what}; leave one out, name its settings by the "
                    "field setting, or give it a sweep of its own"
                )
        for name in TrialConfig.names("data"):
            if len(values := sorted({str(getattr(c, name)) for c in self.configs})) > 1:
                raise PlanError(f"the runs of one sweep see the same images, but {name} is {' and '.join(values)}")

    def extended(self, asked: Self, name: str) -> Self:
        """The plan with the new configs of ``asked``; raises PlanError where the new would not be comparable.

        New models, latent dimensions and seeds extend the sweep ``name``. The settings of a line (model and variant) that is
        there already, and those all lines shared, may not change.
        """
        line = {c.variant: c for c in self.configs}
        used: dict[str, set[Value]] = {}
        for config in self.configs:
            for name_of_field, value in config.to_dict().items():
                used.setdefault(name_of_field, set()).add(value)
        for config in asked.configs:
            mate = line.get(config.variant)
            reference = mate or self.example
            skip = {*config.names("axis", "label"), *(() if mate else config.names("choice"))}
            if config.setting and not mate:  # a new line that says in its name that its settings are others
                skip |= {*config.names()} - {*config.names("data"), "epochs"}
            there = {field: {value} for field, value in mate.to_dict().items()} if mate else used
            differences = [
                f"{field} is {getattr(reference, field, None)} there and {value} here"
                for field, value in config.to_dict().items()
                # A new line takes each of its settings from some line that is there, and those that no line has as it likes.
                if field not in skip and value not in there.get(field, {value})
            ]
            if differences:
                raise PlanError(
                    f"the sweep {name} exists, and these runs could not be compared with it: {'; '.join(differences)}. "
                    f"Choose another --name, or leave {'this' if len(differences) == 1 else 'these'} as it was"
                )
        both = self.joined(asked)
        both.check()
        return both

    def joined(self, other: Self) -> Self:
        """The configs of both, each once."""
        return type(self)(tuple(dict.fromkeys([*self.configs, *other.configs])))

    def describe(self) -> str:
        """``FisherNet, VAE x d = 2-20 x seeds 0-4 on fashion-mnist, 100 epochs: 190 runs``."""
        variants = ", ".join(dict.fromkeys(c.variant for c in self.configs))
        dims, seeds = format_numbers(self.latent_dims), format_numbers(c.seed for c in self.configs)
        epochs = format_numbers(c.epochs for c in self.configs)
        return (
            f"{variants} x d = {dims} x seeds {seeds} on {self.example.dataset}, {epochs} epoch{'s' * (epochs != '1')}: "
            f"{self.n_runs} run{'s' * (self.n_runs > 1)}"
        )


def check_images(configs: Iterable[TrialConfig], image_shape: tuple[int, int, int]) -> None:
    """Raises PlanError, naming the flag, where one of the configs does not go with images of that shape."""
    try:
        for config in configs:
            config.check_images(image_shape)
    except ValueError as error:
        raise PlanError(flagged(str(error))) from None


def flagged(message: str) -> str:
    """The sentence of a config's error with flags for fields: "latent_dim (...) must" -> "--latent-dims (...) must".

    A field of several words is one wherever it stands; one of a single word, such as noise, where the sentence begins with it,
    or says its value, or what it must be. What a stored plan has stays a field, and so does a sentence that begins with a flag.
    """
    if message.startswith("--"):
        return message
    for name, f in all_fields().items():
        flag = f"--{PLURAL.get(name, name.replace('_', '-'))}"
        alone = rf"(?<![\w./'-]){name}(?![\w.=/']| is \S+ there| of \S+ is )"
        if "_" not in name:
            value = "|".join(map(re.escape, f.metadata["choices"])) or "[0-9]+"
            alone = rf"^{name}(?= )|{alone}(?= (must be|({value})(?![\w-])))"
        message = re.sub(alone, flag, message)
    return message


def _off_axes(config: TrialConfig) -> Json:
    return {k: v for k, v in config.to_dict().items() if k not in ("latent_dim", "seed")}


def stackable(configs: Sequence[TrialConfig]) -> list[list[TrialConfig]]:
    """The configs in groups that may form cohorts, members of like latent_dim together so that padding wastes little."""
    groups: dict[tuple[TrialConfig, int], list[TrialConfig]] = {}
    for config in configs:
        dims_alone = 0 if family(config.model).padded else config.latent_dim
        groups.setdefault((config.without_axes(), dims_alone), []).append(config)
    return [sorted(group, key=lambda c: (c.latent_dim, c.seed)) for group in groups.values()]


def write_json(path: Path, content: object) -> None:
    """Through a temporary file, so that a reader never sees half of it; straight into what is no file, such as /dev/stdout."""
    if path.exists() and not path.is_file():
        path.write_text(json.dumps(content, indent=1))
        return
    temporary = path.with_name(path.name + ".writing")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)
