"""What a search varies: ranges as text, defaults of each model, conditions, and plans that can be extended."""

import itertools
import json

import pytest

from fishernet.families import all_fields, matters, models_with, trial_config
from fishernet.plan import PlanError, check_images
from sweeps.hyperparameter_search import _parse, plan_from_flags
from sweeps.space import (
    SAMPLERS,
    Choices,
    Range,
    SearchPlan,
    grid_size,
    parse_domain,
    searched,
    suggestions,
)


def flags(*argv: str) -> SearchPlan:
    return plan_from_flags(_parse(argv), 100)


def spaces(plan: SearchPlan) -> dict[str, dict[str, str]]:
    return {study.name: {name: str(domain) for name, domain in study.space} for study in plan.studies}


def test_without_flags_every_model_is_searched_over_its_own_ranges_with_equal_budgets():
    plan = flags()
    assert [study.name for study in plan.studies] == [f"{model}-d10" for model in ("FisherNet", "VAE", "CVAE", "AE")]
    assert (plan.n_trials, plan.seeds, plan.sampler, plan.epochs) == (40, (0, 1, 2), "tpe", 50)
    common = {"learning_rate", "batch_size", "weight_decay", "activation"}
    dense, noise = {"hidden_width", "hidden_layers"}, {"noise_start", "noise_learning_rate"}
    expected = {
        "FisherNet": common | dense | noise,
        "VAE": common | dense | noise | {"likelihood"},
        "CVAE": common | noise | {"likelihood"},  # convolutions have no such width
        "AE": common | dense,  # and a fixed likelihood nothing to learn
    }
    for study in plan.studies:
        assert set(dict(study.space)) == expected[study.base.model]
        assert study.base == trial_config(model=study.base.model, latent_dim=10, epochs=50, validation_size=100)


@pytest.mark.parametrize(
    ("model", "own"),
    [("FAE", {"fisher_target": "0.0..40.0", "fisher_weight": "0.01..10.0:log"}),
     ("MAE", {"information_target": "0.0..30.0", "information_weight": "0.1..10.0:log"})],
)  # fmt: skip
def test_targets_and_their_weights_are_varied_where_the_divergence_is_scored_too(model, own):
    """By the MSE alone they would go where posteriors are narrowest."""
    both, alone = flags("--models", model, "--sampler", "nsga-ii"), flags("--models", model)
    assert own.items() <= spaces(both)[f"{model}-d10"].items()
    assert not own.keys() & spaces(alone)[f"{model}-d10"].keys()


def test_what_is_asked_of_the_images_covers_every_network_and_likelihood_that_a_trial_may_have():
    def kinds(*argv: str) -> set[tuple[str, str]]:
        return {(config.network, config.likelihood) for config in flags("--models", *argv).configs}

    assert kinds("AE", "CVAE", "--likelihood", "gaussian") == {("dense", "gaussian"), ("conv", "gaussian")}
    assert kinds("AE", "--network", "dense,fisherae-64", "--likelihood", "gaussian,matrix-t") == {
        (network, likelihood) for network in ("dense", "fisherae-64") for likelihood in ("gaussian", "matrix-t")
    }


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("196", None), ("196,392", None), ("196,390", 390), ("196..588:step=196", None), ("196..588:step=98", 294),
     ("196..600", 197), ("190..588", 190)],
)  # fmt: skip
def test_a_latent_dimension_that_some_trial_may_have_and_no_code_of_the_network_is_refused_beforehand(text, wrong):
    plan = flags("--models", "AE", "--network", "pooled-cnn", "--latent-dim", text)
    if wrong is None:
        check_images(plan.configs, (1, 28, 28))
        return
    with pytest.raises(PlanError, match=rf"^--latent-dims .* --network pooled-cnn .*; got {wrong}$"):
        check_images(plan.configs, (1, 28, 28))


def test_ranges_read_as_they_were_meant_and_survive_their_text():
    for name, text, domain in (
        ("learning_rate", "1e-5..1e-2:log", Range(1e-5, 1e-2, log=True)),
        ("hidden_width", "128,256,448", Choices((128, 256, 448))),
        ("hidden_width", "64..512:step=64", Range(64, 512, step=64)),
        ("noise_start", "-6..0", Range(-6.0, 0.0)),
        ("activation", "relu, elu", Choices(("relu", "elu"))),
        ("weight_decay", "0", Choices((0.0,))),
    ):
        assert parse_domain(name, text) == domain
        assert parse_domain(name, str(domain)) == domain
    assert isinstance(parse_domain("hidden_width", "64..512").low, int)


def test_a_negative_range_needs_no_equals_sign():
    assert (
        spaces(flags("--models", "FisherNet", "--noise-start", "-6.5..-1"))["FisherNet-d10"]["noise_start"]
        == "-6.5..-1.0"
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--learning-rate", "1e-2..1e-5"], r"--learning-rate: a range goes upwards; got '1e-2..1e-5'"),
        (["--learning-rate", "0..1:log"], r"--learning-rate \(step size of Adam\) must be positive; got '0'"),
        (["--weight-decay", "0..1:log"], r"--weight-decay: a logarithmic range begins above 0"),
        (["--learning-rate", "a..b"], r"--learning-rate.*must be a number"),
        (["--learning-rate", "1e-5..1e-2:lin"], r"--learning-rate: after the colon comes log"),
        (["--hidden-width", "64..128:step=100"], r"--hidden-width: after the colon comes log, or step="),
        (["--hidden-width", "64..128:step=x"], r"--hidden-width: after the colon comes log, or step="),
        (["--hidden-width", "1.5..3"], r"--hidden-width.*whole number"),
        (["--hidden-width", ","], r"--hidden-width .* takes a range such as"),
        (["--hidden-width", "8,8"], r"--hidden-width lists a value twice"),
        (["--activation", "relu..elu"], r"--activation .* takes words"),
        (["--activation", "sigmoid"], r"--activation.*one of relu"),
        (["--fix", "learning_rate"], r"--fix takes NAME=VALUE"),
        (["--fix", "epochs=3"], r"--fix takes NAME=VALUE"),
        (["--fix", "learning_rate=-1"], r"--fix: learning_rate .*positive"),
        (["--fix", "activation=elu", "--fix", "activation=relu"], r"--fix names activation twice"),
        (["--fix", "activation=elu", "--activation", "relu,elu"], r"both say what activation is"),
        (["--models", "Vea"], r"--models.* must be one of FisherNet"),
        (["--models", "VAE:beta=2"], r"after the colon.*'beta=2'"),
        (["--models", "VAE:epochs=2"], r"epochs is the same in all studies"),
        (["--models", "VAE", "VAE"], r"two of the studies are named VAE-d10"),
        (["--models", "VAE", "--objective", "eq25,eq24"], r"--objective changes nothing in VAE-d10"),
        (["--models", "AE", "--kl-weight", "0.1..1"], r"--kl-weight changes nothing in AE-d10"),
        (["--models", "CVAE", "--hidden-width", "8,16"], r"--hidden-width changes nothing in CVAE-d10"),
        (["--models", "AE", "--noise-start", "-1..0"], r"--noise-start changes nothing"),
        (["--models", "VAE:likelihood=bernoulli", "--decoder-output", "linear,sigmoid"], r"bernoulli reads"),
        (
            ["--models", "FAE", "--fix", "fisher_target=5", "--fisher-weight", "0,0.1"],
            r"fisher_target 5 .* without a weight",
        ),
        (["--models", "AE", "--sampler", "nsga-ii"], r"--sampler nsga-ii scores the KL divergence"),
        (["--sampler", "grid"], r"--sampler is one of tpe, random, cma-es, nsga-ii; got 'grid'"),
        (["--trials", "0"], r"--trials is a whole number.*at least 1; got '0'"),
        (["--seeds", "0"], r"--seeds 0 asks for no seeds"),
        (["--epochs", "x"], r"--epochs .*whole number"),
        (["--first-rung", "51"], r"--first-rung 51 comes after the last of --epochs 50"),
        (["--reduction-factor", "1"], r"--reduction-factor is a whole number.*at least 2"),
        (["--latent-dims", "5-2"], r"--latent-dims: a range goes upwards"),
        (["--latent-dims", "20..2"], r"--latent-dim: a range goes upwards"),
        (["--trials", "90000"], r"a search has at most 100,000"),
    ],
)
def test_what_cannot_be_searched_is_named_in_a_sentence(argv, words):
    with pytest.raises(PlanError, match=words):
        flags(*argv)


TYPED = {
    "batch_size": "8,16", "learning_rate": "0.1..0.2:log", "weight_decay": "0.1..0.3", "hidden_width": "5..9:step=2",
    "hidden_layers": "1..2", "activation": "elu,tanh", "decoder_output": "sigmoid,linear", "noise_start": "-3.0..-1.0",
    "likelihood": "gaussian,gaussian-learned", "noise": "learned,closed-form", "noise_learning_rate": "0.1..0.5",
    "objective": "eq25,eq24", "kl_weight": "0.5..2.0", "network": "dense,conv",
}  # fmt: skip


def test_range_flags_reach_the_studies_that_they_matter_to():
    argv = [f"--{name.replace('_', '-')}={text}" for name, text in TYPED.items()]
    (study,) = flags("--models", "FisherNet", *argv).studies
    assert {name: str(domain) for name, domain in study.space} == TYPED
    typed = set(TYPED) - {"network"}  # CVAE has but one
    for study, left_out in zip(
        flags("--models", "CVAE", "AE", "FisherNet", *(word for word in argv if "--network" not in word)).studies,
        ({"hidden_width", "hidden_layers", "objective"}, {"objective", "kl_weight"}, set()),
        strict=True,
    ):
        assert set(dict(study.space)) == typed - left_out


@pytest.mark.parametrize("name", sorted(set(searched()) - set(TYPED)))
def test_every_other_field_that_may_be_searched_is_a_range_flag(name):
    """And reaches a study, or is refused in a sentence that names it."""
    f, model = all_fields()[name], models_with(name)[0]
    text = ",".join(f.metadata["choices"][:2]) or {int: "2,4", float: "0.25..0.5"}[f.type]
    argv = ["--models", model, f"--{name.replace('_', '-')}={text}"]
    refusal = ""
    try:
        spaces_found = spaces(flags(*argv))
    except PlanError as error:
        refusal = str(error)
    if refusal:
        assert name.replace("_", "-") in refusal.replace("_", "-")
    else:
        assert [space.get(name, text) for space in spaces_found.values()] == [text]


def test_what_is_fixed_is_not_varied_and_names_the_study_where_it_is_a_modelling_choice():
    plan = flags(
        "--models", "VAE:likelihood=gaussian-learned", "FisherNet", "--fix", "learning_rate=0.5", "--hidden-width", "9"
    )
    assert [study.name for study in plan.studies] == ["VAE-gaussian-learned-d10", "FisherNet-d10"]
    for study in plan.studies:
        assert not {"learning_rate", "hidden_width", "likelihood"} & set(dict(study.space))
        assert (study.base.learning_rate, study.base.hidden_width) == (0.5, 9)
    members = plan.members(plan.studies[0], {"batch_size": 16}, 7)
    assert [c.run_name for c in members] == [f"VAE-gaussian-learned-t007-d10-s{seed}" for seed in (0, 1, 2)]


def test_the_latent_dimension_is_varied_where_that_is_asked():
    one = flags("--models", "VAE", "--latent-dims", "2..20").studies
    assert [study.name for study in one] == ["VAE"]
    assert dict(one[0].space)["latent_dim"] == Range(2, 20)
    assert [study.name for study in flags("--models", "VAE", "--latent-dims", "2,5-6").studies] == [
        "VAE-d02",
        "VAE-d05",
        "VAE-d06",
    ]


def test_the_kl_weight_is_varied_by_default_where_the_divergence_is_scored_and_there_alone():
    """By the MSE alone it would go to its lower end, where the model is a plain autoencoder."""
    for sampler in SAMPLERS:
        (study,) = flags("--models", "VAE", "--sampler", sampler).studies
        assert ("kl_weight" in dict(study.space)) == (sampler == "nsga-ii")


def test_a_value_that_does_not_matter_is_not_suggested():
    (study,) = flags("--models", "VAE", "--noise", "learned,closed-form").studies
    for likelihood, noise in itertools.product(("bernoulli", "gaussian-learned"), ("learned", "closed-form")):

        def first(name, domain, chosen={"likelihood": likelihood, "noise": noise}):  # noqa: B006 (never changed)
            return chosen.get(name) or (domain.values[0] if isinstance(domain, Choices) else domain.low)

        asked = dict(suggestions(study, first))
        assert ("noise_start" in asked) == (likelihood == "gaussian-learned")
        assert ("noise_learning_rate" in asked) == (likelihood == "gaussian-learned" and noise == "learned")
        trial_config({**study.base.to_dict(), **asked})  # and every combination is a config


def met(name):
    """Values with which all that a field waits for is there."""
    found = {}
    for other, words in (all_fields()[name].metadata["when"] or ({},))[0].items():
        found |= met(other) | {other: 1.0 if callable(words) else words if isinstance(words, str) else words[0]}
    return found


def test_what_matters_changes_the_config_of_some_model():
    values = trial_config(likelihood="gaussian-learned").to_dict()
    for name in set(searched()) & set(values):
        assert matters(name, values | met(name)), name
    assert not matters("kl_weight", trial_config(model="AE").to_dict())


def test_rungs_are_epochs_before_the_last():
    assert flags("--epochs", "27", "--first-rung", "1").rungs == [1, 3, 9]
    assert flags("--epochs", "28", "--first-rung", "1").rungs == [1, 3, 9, 27]
    assert flags("--epochs", "20", "--first-rung", "20").rungs == []
    assert flags("--models", "VAE", "--sampler", "nsga-ii").rungs == []


def test_a_plan_survives_its_json_form():
    plan = flags("--noise-start", "-4..-1", "--latent-dims", "2..9", "--sampler", "random", "--seeds", "4,7")
    assert SearchPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_search_is_extended_by_trials_and_studies_and_by_nothing_else():
    old = flags("--models", "VAE", "--trials", "5")
    more = old.extended(flags("--models", "VAE", "AE", "--trials", "8"), "x")
    assert (more.n_trials, [study.name for study in more.studies]) == (8, ["VAE-d10", "AE-d10"])
    for argv, words in (
        (["--trials", "4"], "--trials is 5 there and 4 here, which is less"),
        (["--trials", "5", "--seeds", "5"], "--seeds is"),
        (["--trials", "5", "--epochs", "9", "--first-rung", "5"], "epochs of VAE-d10 is 50 there and 9 here"),
        (
            ["--trials", "5", "--learning-rate", "1..2"],
            "learning_rate of VAE-d10 is 1e-05..0.01:log there and 1.0..2.0 here",
        ),
        (["--trials", "5", "--sampler", "random"], "--sampler is tpe there and random here"),
    ):
        with pytest.raises(PlanError, match=words):
            old.extended(flags("--models", "VAE", *argv), "x")


def test_a_fixed_value_counts_where_one_of_the_listed_choices_needs_it():
    (study,) = flags("--models", "VAE", "--fix", "noise_start=-2").studies
    assert study.base.noise_start == -2
    assert "noise_start" not in dict(study.space)


def test_a_small_space_is_counted():
    (study,) = flags("--models", "AE", "--learning-rate", "1,2", "--batch-size", "1..9:step=4", "--weight-decay", "0",
                     "--hidden-width", "3", "--hidden-layers", "1..2", "--activation", "relu").studies  # fmt: skip
    assert grid_size(study.space) == 2 * 3 * 2
    assert grid_size(flags().studies[0].space) == float("inf")


def test_no_target_is_suggested_whose_weight_is_zero():
    """Every combination of what is listed is a config."""
    (study,) = flags("--models", "FAE", "--fisher-target", "5,20", "--fisher-weight", "0,0.1").studies
    for weight in (0.0, 0.1):
        first = {name: domain.values[0] if isinstance(domain, Choices) else domain.low for name, domain in study.space}
        chosen = {**first, "fisher_weight": weight}
        params = dict(suggestions(study, lambda name, _, chosen=chosen: chosen[name]))
        assert ("fisher_target" in params) == (weight > 0)
        assert study.config(params, 0, 0).fisher_weight == weight
