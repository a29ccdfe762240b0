"""Untrained models in the place of a sweep's runs: what a figure or a score makes of them, without a store."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from fishernet.families import family, trial_config

SHAPE = (1, 8, 8)


def made_model(seed=0, **values):
    """A model as a cohort makes it, evaluated."""
    config = trial_config({"latent_dim": 3, "hidden_width": 8, "hidden_layers": 1, "seed": seed, **values})
    model = family(config.model).load()([config], SHAPE, 10)
    return config, model.eval()


def made_sweep(*lines, seeds=(0, 1, 2), n=60, labels=True, paper=None):
    """What a StoredSweep gives, of untrained runs of these lines (dicts of config fields) on random images."""
    images = torch.randint(0, 256, (2 * n, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows, models = [], {}
    for i, (line, seed) in enumerate((line, seed) for line in lines for seed in seeds):
        config, model = made_model(seed, **line)
        models[f"run{i}"] = model
        rows.append(
            config.to_dict()
            | {
                "config": config,
                "variant": config.variant,
                "choices": config.choices,
                "run_id": f"run{i}",
                "scores": {},
            }
        )
    runs = pd.DataFrame(rows)

    def pick(variant, d):
        found = runs[(runs["variant"] == variant) & (runs["latent_dim"] == d)]
        return found.iloc[0]

    data = SimpleNamespace(
        train=images[:n], test=images[n:], test_labels=torch.arange(n) % 3 if labels else None, image_shape=SHAPE
    )
    return SimpleNamespace(
        runs=runs, images=data, paper=paper, pick=pick, model=lambda run: models[run["run_id"]], variants=[], reasons={},
        sweep=SimpleNamespace(held_out="test", name="made", configs=[], command=lambda *words: " ".join(words)),
        lines={config.variant: config for config in runs["config"]},
    )  # fmt: skip


def scored(stored, levels=None):
    """The same with the robustness scores that its runs lack, as tasks compute them."""
    from analysis.scores import robustness

    asked = robustness.tasks(stored, levels or robustness.LEVELS)
    for task in asked.tasks:
        found = task.function(*asked.shared, *task.arguments())
        at = stored.runs.index[stored.runs["run_id"] == task.run["run_id"]][0]
        for name, value in found.metrics.items():
            stored.runs.loc[at, name] = value
        stored.runs.at[at, "scores"] = {**stored.runs.at[at, "scores"], task.group: found.about}
    stored.runs = stored.runs.copy()
    return stored


def finite(frame):
    return bool(np.isfinite(frame.select_dtypes("number")).all(axis=None))
