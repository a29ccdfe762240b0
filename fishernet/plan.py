"""A plan: the list of trial configs of one sweep, its compact form, and the file it is read from."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fishernet.config import TrialConfig
from fishernet.families import family, is_installed, trial_config

MOST_RUNS = 100_000  # beyond it a plan takes minutes to write down


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


def compact(configs: Sequence[TrialConfig]) -> dict[str, Any]:
    """The configs as {"base": fields all share, "grids": [{"fields", "latent_dims", "seeds"}]}: short enough for a tag."""
    rows = [{k: v for k, v in c.to_dict().items() if k not in ("latent_dim", "seed")} for c in configs]
    base = {k: v for k, v in rows[0].items() if k != "model" and all(k in row and row[k] == v for row in rows)}
    cells: dict[str, dict[int, set[int]]] = {}  # what differs -> latent_dim -> seeds
    for row, config in zip(rows, configs, strict=True):
        key = json.dumps({k: v for k, v in row.items() if k not in base})
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


def expand(plan: dict[str, Any], *, installed: bool = False) -> list[TrialConfig]:
    """The configs of ``compact``'s form, by model, latent_dim and seed; on request those of installed models alone."""
    return [
        trial_config({**plan["base"], **grid["fields"], "latent_dim": d, "seed": seed})
        for grid in plan["grids"]
        if not installed or is_installed({**plan["base"], **grid["fields"]}["model"])
        for d in parse_numbers(grid["latent_dims"])
        for seed in parse_numbers(grid["seeds"])
    ]


def check_plan(configs: Sequence[TrialConfig]) -> None:
    """Raises PlanError where two configs would be one run and one line of a figure, or see different images."""
    if len(configs) > MOST_RUNS:
        raise PlanError(f"a sweep has at most {MOST_RUNS:,} runs; these are {len(configs):,}")
    names: dict[str, TrialConfig] = {}
    for config in configs:
        other = names.setdefault(config.run_name, config)
        if other is not config:
            differing = [k for k, v in config.to_dict().items() if v != getattr(other, k, None)]
            what = f"differ only in {', '.join(differing)}" if differing else "are one and the same"
            raise PlanError(
                f"two of the planned runs are named {config.run_name} and {what}; leave one out, name its settings by the field "
                "setting, or give it a sweep of its own"
            )
    for name in TrialConfig.names("data"):
        if len(values := sorted({str(getattr(c, name)) for c in configs})) > 1:
            raise PlanError(f"the runs of one sweep see the same images, but {name} is {' and '.join(values)}")


def read_plan(path: Path) -> list[TrialConfig]:
    """The configs of a plan file: JSON, a list of objects with the fields of TrialConfig, or one whose ``configs`` is such.

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
    try:
        check_plan(configs)
    except PlanError as error:
        raise PlanError(f"--plan {path}: {error}") from None
    return configs


def stackable(configs: Sequence[TrialConfig]) -> list[list[TrialConfig]]:
    """The configs in groups that may form cohorts, members of like latent_dim together so that padding wastes little."""
    groups: dict[tuple[TrialConfig, int], list[TrialConfig]] = {}
    for config in configs:
        dims_alone = 0 if family(config.model).padded else config.latent_dim
        groups.setdefault((config.without_axes(), dims_alone), []).append(config)
    return [sorted(group, key=lambda c: (c.latent_dim, c.seed)) for group in groups.values()]


def write_json(path: Path, content: Any) -> None:
    """Through a temporary file, so that a reader never sees half of it; straight into what is no file, such as /dev/stdout."""
    if path.exists() and not path.is_file():
        path.write_text(json.dumps(content, indent=1))
        return
    temporary = path.with_name(path.name + ".writing")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)
