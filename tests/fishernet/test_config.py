"""TrialConfig and plans: what is accepted, what is refused and in which words."""

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fishernet.config import TrialConfig
from fishernet.families import MODEL_NAMES, family, trial_config
from fishernet.plan import PlanError, SweepPlan, format_numbers, parse_numbers, stackable


def test_the_defaults_are_table_a1():
    config = trial_config()
    assert (config.hidden_width, config.hidden_layers, config.batch_size) == (448, 3, 64)
    assert (config.learning_rate, config.epochs, config.objective, config.noise_start) == (1e-4, 100, "eq25", 0.0)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"latent_dim": 0}, ["latent_dim", "number of latent dimensions", "from 1 to", "0"]),
        ({"latent_dim": "ten"}, ["latent_dim", "whole number", "'ten'"]),
        ({"latent_dim": 2.5}, ["latent_dim", "whole number", "2.5"]),
        ({"epochs": 10**400}, ["epochs", "at least 1"]),
        ({"hidden_width": 10**8}, ["hidden_width", "65536"]),
        ({"epochs": True}, ["epochs", "whole number"]),
        ({"model": "vea"}, ["model", "one of", "VAE", "'vea'"]),
        ({"learning_rate": -1.0}, ["learning_rate", "positive", "-1.0"]),
        ({"learning_rate": "nan"}, ["learning_rate", "positive"]),
        ({"seed": -1}, ["seed", "2^31"]),
        ({"likelihood": "poisson"}, ["likelihood", "bernoulli", "'poisson'"]),
        ({"noise_start": float("inf")}, ["noise_start", "-80 to 80"]),
        ({"likelihood": "bernoulli", "decoder_output": "linear"}, ["likelihood bernoulli", "decoder_output", "linear"]),
        ({"model": "VAE", "noise": "closed-form"}, ["noise closed-form", "gaussian-learned", "bernoulli"]),
        ({"sampler": "cg", "objective": "eq24"}, ["sampler cg", "eq25", "eq24"]),
    ],
)
def test_an_impossible_value_is_refused_in_a_sentence(values, parts):
    with pytest.raises(ValueError, match=r".") as error:
        trial_config(**values)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_an_unknown_field_is_named_with_the_known_ones():
    with pytest.raises(KeyError, match=r"latent_dims.*latent_dim"):
        trial_config({"latent_dims": 3})


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_a_config_of_a_model_has_the_fields_of_its_family_alone(model):
    own = {f.name for f in fields(family(model).config)}
    assert set(trial_config(model=model, objective="eq25", kl_weight=1.0).to_dict()) == own
    assert ("objective" in own) == (model == "FisherNet")


def test_types_return_from_text_through_the_dataclass():
    config = trial_config(model="VAE", latent_dim=7, learning_rate=3e-4, likelihood="gaussian")
    assert trial_config({k: str(v) for k, v in config.to_dict().items()}) == config


def test_every_field_says_what_it_means():
    assert all(len(f.metadata["meaning"]) > 5 for f in fields(TrialConfig))


def test_a_variant_names_what_sets_it_apart_from_its_paper():
    assert trial_config(model="VAE").variant == "VAE"
    assert trial_config(model="VAE", likelihood="gaussian-learned", noise="closed-form").variant == (
        "VAE gaussian-learned closed-form"
    )
    assert trial_config(objective="eq24", latent_dim=12, seed=3).run_name == "FisherNet-eq24-d12-s3"
    assert trial_config(model="VAE", activation="elu", kl_weight=0.5, weight_decay=1.0).variant == "VAE elu beta=0.5"


def test_a_setting_names_a_run_in_place_of_what_sets_it_apart():
    config = trial_config(objective="eq24", kl_weight=0.5, setting="tuned", latent_dim=12)
    assert (config.variant, config.run_name) == ("FisherNet tuned", "FisherNet-tuned-d12-s0")
    for name in ("Tuned", "a b", "a/b", "-a", "x" * 61):
        with pytest.raises(ValueError, match="setting"):
            trial_config(setting=name)


@given(st.sets(st.integers(0, 300), min_size=1))
def test_numbers_survive_their_short_form(numbers):
    assert parse_numbers(format_numbers(numbers)) == sorted(numbers)


@pytest.mark.parametrize("text", ["", ",", "a", "2-", "5-2", "-3", "1.5", "2--4", "1-99999999999"])
def test_what_is_no_list_of_numbers_is_refused(text):
    with pytest.raises(ValueError, match=r"got|range"):
        parse_numbers(text)


def test_a_plan_survives_its_compact_form():
    configs = [
        trial_config(model=m, latent_dim=d, seed=s, epochs=5)
        for m in ("VAE", "FisherNet")
        for d in (2, 3, 4, 9)
        for s in (0, 1, 5)
    ] + [trial_config(model="VAE", likelihood="gaussian", latent_dim=2, epochs=5)]
    again = SweepPlan.from_dict(SweepPlan(tuple(configs)).to_dict())
    assert set(again.configs) == set(configs)
    assert again.n_runs == len(configs)
    models = ("FisherNet", "VAE", "CVAE", "AE")
    paper = SweepPlan(
        tuple(trial_config(model=m, latent_dim=d, seed=s) for m in models for d in range(2, 21) for s in range(5))
    )
    assert SweepPlan.from_dict(json.loads(json.dumps(paper.to_dict()))) == paper
    assert len(json.dumps(paper.to_dict())) < 2000


def test_stackable_groups_differ_in_latent_dim_and_seed_alone_and_are_sorted():
    configs = [trial_config(model=m, latent_dim=d, seed=s) for s in (1, 0) for d in (9, 2) for m in ("VAE", "AE")]
    groups = stackable(configs)
    assert [[(c.latent_dim, c.seed) for c in g] for g in groups] == [[(2, 0), (2, 1), (9, 0), (9, 1)]] * 2
    assert [{c.model for c in g} for g in groups] == [{"VAE"}, {"AE"}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[", "not JSON"),
        ("[]", "must be a list"),
        ("[1]", "must be a list"),
        ('[{"latent_dim": 0}]', "entry 1.*latent_dim"),
        ('[{"latent_dimension": 2}]', "entry 1.*not fields"),
        ('[{"seed": 1}, {"seed": 1}]', "FisherNet-d02-s1 and are one and the same"),
        ('[{"seed": 1}, {"seed": 1, "epochs": 7}]', "differ only in epochs"),
        ('[{"dataset": "mnist"}, {"seed": 1}]', "same images.*dataset"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused_in_a_sentence(content, words, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(PlanError, match=words):
        SweepPlan.read(path)


def test_a_missing_plan_file_is_named(tmp_path):
    with pytest.raises(PlanError, match=r"nowhere\.json cannot be read"):
        SweepPlan.read(tmp_path / "nowhere.json")


def test_a_plan_of_distinct_runs_passes():
    SweepPlan(tuple(trial_config(seed=s, latent_dim=d) for s in range(3) for d in (2, 3))).check()
