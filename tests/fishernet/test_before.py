"""What earlier versions wrote goes on: checkpoints of format 4, kept under tests/fixtures/before."""

import json
from pathlib import Path

import pytest

from fishernet import contract
from fishernet.families import trial_config
from fishernet.plan import SweepPlan

FORMAT_4 = Path(__file__).parents[1] / "fixtures" / "before" / "format-4"


@pytest.mark.parametrize("model", ["FisherNet", "VAE", "AE", "CVAE"])
def test_a_checkpoint_of_an_earlier_version_trains_on_to_the_numbers_it_had_then(model, images):
    """After one of three epochs, the CVAE, whose checkpoint is large, from the first.

    Float32 sums may differ between machines in their last digits; on one all but the VAE's, 4e-8 away, have every bit.
    """
    kept = json.loads((FORMAT_4 / f"{model}.json").read_text())
    cohort = contract.made([trial_config(values) for values in kept["configs"]], images)
    if (checkpoint := FORMAT_4 / f"{model}.safetensors").exists():
        cohort.load(checkpoint)
    assert cohort.epoch == (model != "CVAE")
    contract.history(cohort, images)
    for records, losses in zip(cohort.history, kept["losses"], strict=True):
        assert [r["metrics"]["train/loss"] for r in records] == pytest.approx(losses, rel=1e-6)


def test_a_plan_of_an_earlier_version_is_read_without_the_fields_of_other_families():
    kept = json.loads((FORMAT_4 / "VAE.json").read_text())["configs"]
    assert "objective" in kept[0]
    configs = tuple(trial_config(values) for values in kept)
    assert all("objective" not in config.to_dict() for config in configs)
    assert SweepPlan.from_dict(SweepPlan(configs).to_dict()).configs == configs
    # A plan tag of then has what all runs share once, the fields of FisherNet among them.
    base = {k: v for k, v in kept[0].items() if k not in ("model", "latent_dim", "seed")}
    tag = {"base": base, "grids": [{"fields": {"model": "VAE"}, "latent_dims": "2", "seeds": "0"}]}
    assert SweepPlan.from_dict(tag).configs == configs[:1]
