"""From flags to configs and cohorts, and what is refused on the way."""

import contextlib
import dataclasses
import itertools

import numpy as np
import pytest

from analysis.papers import PAPERS, PRESETS
from fishernet.cohort import Cohort
from fishernet.config import TrialConfig
from fishernet.data.loading import load_data
from fishernet.families import MODEL_NAMES, family, trial_config
from fishernet.plan import PlanError, SweepPlan
from sweeps import estimate, latent_sweep
from sweeps.latent_sweep import LatentSweep, _parse
from sweeps.planning import (
    Devices,
    flagged,
    make_cohorts,
    model_overrides,
    plan_from_flags,
    relative_cost,
    seeds_from_flag,
    suited,
)
from sweeps.started import _text

CPU = Devices(gpus=0, gpus_per_trial=1, cpus=2, cpus_per_trial=1)


def flags(*argv: str) -> list[TrialConfig]:
    return list(plan_from_flags(_parse(argv)).configs)


def extended(old: list[TrialConfig], asked: list[TrialConfig]) -> list[TrialConfig]:
    """As a driver extends the plan that it reads from MLflow."""
    stored = SweepPlan.from_dict(SweepPlan(tuple(old)).to_dict())
    return list(stored.extended(SweepPlan(tuple(asked)), "x").configs)


def test_the_paper_preset_is_the_default_and_is_the_papers_sweep():
    configs = flags()
    assert {(c.model, c.latent_dim, c.seed) for c in configs} == set(
        itertools.product(("FisherNet", "VAE", "CVAE", "AE"), range(2, 21), range(5))
    )
    assert {(c.dataset, c.epochs, c.batch_size, c.learning_rate) for c in configs} == {("fashion-mnist", 100, 64, 1e-4)}
    assert flags("--preset", "paper") == configs


@pytest.mark.parametrize(
    ("words", "paper"),
    [
        ("--preset fishernet", "fishernet"),
        ("--preset paper --epochs 3", "fishernet"),
        ("--preset fisher-ae-celeba", "fisher-ae"),
        ("--preset quick", ""),
        ("", ""),  # which images and models tell
        ("--resume s", ""),
    ],
)
def test_a_sweep_that_asks_for_a_papers_preset_is_about_that_paper(words, paper):
    assert LatentSweep(_parse(words.split()), words.split()).paper == paper
    if paper == "fishernet":
        assert [c for c in flags("--preset", "fishernet") if c.seed == 0] == [c for c in flags() if c.seed == 0]


def test_a_fisher_auto_encoders_preset_is_its_papers_section_4():
    configs = flags("--preset", "fisher-ae")
    assert {
        (c.dataset, c.network, c.latent_dim, c.epochs, c.batch_size, c.learning_rate, c.adam_beta1) for c in configs
    } == {("mnist", "fisherae-28", 8, 100, 128, 2e-4, 0.5)}
    assert [c.variant for c in configs if c.seed == 0] == [
        "FisherAE fisherae-28", "FisherAE exponential free fisherae-28 order=5", "VAE fisherae-28",
        "VAE gaussian fisherae-28", "WAE-GAN fisherae-28",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "preset"), [(name, preset) for paper in PAPERS.values() for name, preset in paper.all_presets.items()]
)
def test_every_line_of_a_papers_preset_is_planned_with_its_settings(name, preset):
    configs = flags("--preset", name)
    assert len({c.variant for c in configs}) == len(preset["models"])
    assert len(configs) == len(set(configs)) == len(preset["models"]) * len({(c.latent_dim, c.seed) for c in configs})
    for i, config in enumerate(configs):
        own, line = config.to_dict(), preset["models"][i * len(preset["models"]) // len(configs)]
        shared = {key: value for key, value in preset.items() if key in own and key not in model_overrides(line)}
        assert {key: own[key] for key in shared} == shared


def test_celeba_is_cropped_and_resized_as_usual_unless_told_and_others_are_as_they_are():
    def fit(*argv):
        (config,) = flags("--models", "AE", "--latent-dims", "2", "--seeds", "1", *argv)
        return config.crop, config.image_size

    assert fit("--dataset", "celeba") == (140, 64)
    assert fit("--dataset", "celeba", "--image-size", "32") == (140, 32)
    assert fit("--dataset", "celeba", "--crop", "0") == (0, 64)
    assert fit("--dataset", "celeba", "--crop", "0", "--image-size", "0") == (0, 0)
    assert fit("--dataset", "digits") == fit() == (0, 0)
    stored = {"model": "AE", "dataset": "celeba", "crop": 0, "image_size": 0}  # a record of an earlier version
    assert SweepPlan.from_dict({"configs": [stored]}).example.crop == 0


def test_the_critic_as_released_takes_five_steps_and_a_discriminator_one_unless_told():
    for line, n_steps in (("WAE", 1), ("WAE:penalty=critic", 5), ("WAE:penalty=critic,discriminator_steps=1", 1)):
        assert [c.discriminator_steps for c in flags("--models", line, "--latent-dims", "2", "--seeds", "1")] == [
            n_steps
        ]
    (released,) = (c for c in flags("--preset", "fisher-ae-released", "--seeds", "1") if c.model == "WAE")
    assert (released.discriminator_steps, released.discriminator_width) == (5, 128)
    assert (released.learning_rate, released.discriminator_learning_rate) == (1e-4, 1e-5)


def test_every_flag_beats_its_preset():
    configs = flags("--preset", "quick", "--epochs", "7", "--seeds", "4,", "--latent-dims", "3", "--models", "VAE")
    assert [(c.model, c.latent_dim, c.seed, c.epochs, c.dataset) for c in configs] == [("VAE", 3, 4, 7, "digits")]


def test_a_path_from_home_is_recorded_as_the_path_it_is(tmp_path, monkeypatch):
    """A shell leaves the ~ of --dataset=~/x as it is, and a worker may run as another user."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.npz").touch()
    assert {c.dataset for c in flags("--dataset=~/x.npz")} == {str((tmp_path / "x.npz").resolve())}
    assert {c.dataset for c in flags("--dataset=~/y.npz")} == {"~/y.npz"}  # refused as it was typed


# The values of others without which every other value of a field is refused.
NEEDED = {
    "noise": {"likelihood": "gaussian-learned"}, "decoder_output": {"likelihood": "gaussian"},
    "scale": {"likelihood": "gaussian"}, "components": {"likelihood": "discretised-logistic"}, "patience": {"stopping_size": 5},
    "decoder_fisher_weight": {"likelihood": "gaussian-learned"},
    "decoder_fisher_target": {"likelihood": "gaussian-learned", "decoder_fisher_weight": 1.0},
    "dequantisation": {"likelihood": "gaussian"}, "pixel_range": {"likelihood": "gaussian"},
}  # fmt: skip
ONE_VALUE = {
    ("CVAE", "network"),
    ("FisherNet", "components"),
    ("FisherAE", "components"),
    ("FisherAE", "scale"),
    ("MAE", "components"),
    ("MAE", "scale"),
}
PLURAL = {"latent_dim": "latent-dims", "seed": "seeds"}


def others(f, default):
    """Values of a field that are not its default, some of which it may refuse."""
    if f.type is str:
        return [c for c in f.metadata["choices"] if c != default] or ["mine", "mnist"]
    return [f.type(value) for value in (default + 1, 6, 0.5, -0.5, 0.99, 16) if f.type(value) != default]


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_every_field_of_a_family_is_a_flag_and_reaches_the_configs(model):
    for f in dataclasses.fields(family(model).config):
        if f.name == "model" or (model, f.name) in ONE_VALUE:
            continue
        needed = NEEDED.get(f.name, {})
        reached = []
        for value in others(f, getattr(trial_config(model=model), f.name)):
            with contextlib.suppress(ValueError):
                expected = trial_config(model=model, **({"latent_dim": 2, "seed": 0} | needed | {f.name: value}))
                flag = f"--{PLURAL.get(f.name, f.name.replace('_', '-'))}={value}{',' * (f.name == 'seed')}"
                axes = {"latent_dim": "--latent-dims=2", "seed": "--seeds=0,"}
                words = [word for name, word in axes.items() if name != f.name]
                words += [f"--{name.replace('_', '-')}={word}" for name, word in needed.items()]
                (found,) = flags("--preset=paper", "--models", model, flag, *words)
                assert found == expected
                reached.append(value)
        assert reached, f"no other value of {f.name} is a {model}'s"


def test_a_model_may_carry_fields_of_its_own():
    configs = flags(
        "--models", "VAE", "VAE:likelihood=gaussian-learned,learning-rate=0.5", "--latent-dims", "2", "--seeds", "1"
    )
    assert [c.run_name for c in configs] == ["VAE-d02-s0", "VAE-gaussian-learned-d02-s0"]
    assert [c.learning_rate for c in configs] == [1e-4, 0.5]


def test_a_flag_for_all_leaves_alone_the_models_that_have_no_such_field():
    configs = flags(
        "--objective",
        "eq24",
        "--kl-weight",
        "2",
        "--models",
        "FisherNet",
        "VAE",
        "AE",
        "--latent-dims",
        "2",
        "--seeds",
        "1",
    )
    assert [c.variant for c in configs] == ["FisherNet eq24 beta=2", "VAE beta=2", "AE"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--latent-dims", "0"], "--latent-dims .*from 1 to 65536; got 0"),
        (["--latent-dims", "2..20"], "--latent-dims: expected.*2-20"),
        (["--seeds", "0"], "--seeds 0 asks for no seeds"),
        (["--seeds", "1000000"], "--seeds 1000000 is how many"),
        (["--latent-dims", "2-1000000"], "a sweep has at most 100,000"),
        (["--models", "vea"], "--models .*one of FisherNet, VAE, CVAE, .*AE.*, or package.module:Class; got 'vea'"),
        (["--models", "VAE:beta=2"], "after the colon.*'beta=2'"),
        (["--models", "VAE:likelihod=gaussian"], r"after the colon.*Did you mean likelihood\?$"),
        (["--models", "FisherNet,VAE"], "takes models with spaces between, as in --models FisherNet VAE; got"),
        (["--models", "VAE,AE:hidden_width=9"], "as in --models VAE AE:hidden_width=9; got"),
        (["--models", "VAE:likelihood=gaussian,AE"], r"got 'AE'\. Another model follows after a space"),
        (["--latent-dims", "2", "many"], "--latent-dims: expected.*got 'many'"),
        (["--models", "VAE:latent_dim=2"], "after the colon"),
        (
            ["--models", "VAE", "AE", "--objective", "eq24"],
            "--objective is a field of FisherNet, and --models asks for VAE, AE",
        ),
        (["--models", "VAE:objective=eq24"], "VAE has no objective, which is a field of FisherNet"),
        (["--models", "VAE", "VAE"], "VAE-d02-s0 and are one and the same"),
        (["--models", "VAE", "VAE:epochs=5"], "differ only in epochs"),
        (["--models", "VAE", "AE:dataset=mnist"], "same images"),
        (["--epochs", "many"], "--epochs .*whole number"),
        (["--learning-rate", "0"], "--learning-rate .*positive"),
        (["--noise", "closed-form", "--models", "VAE"], "noise closed-form"),
        (
            ["--models", "FisherNet:likelihood=student-t,components=2"],
            "--components 2: .*of a mixture has no closed form",
        ),
        (["--models", "AE:likelihood=maf,scale=diagonal"], "--scale diagonal: .*likelihood maf has .*identity alone"),
        (["--models", "FisherAE:likelihood=bernoulli"], "likelihood bernoulli.* must be gaussian or gaussian-learned"),
        (
            ["--models", "FisherAE:prior=exponential,prior_order=5"],
            "prior.order 5 is odd.*Give an even --prior.order, or --prior.top free",
        ),
        (
            ["--models", "VAE", "--pixel-range", "symmetric"],
            "pixel.range symmetric is for .*got --likelihood bernoulli",
        ),
        *(
            (
                ["--models", f"{model}:prior=exponential,prior_top=free"],
                f"--prior-top free .* {model} is made of its KL.*FisherAE",
            )
            for model in ("VAE", "CVAE", "FAE", "PixelVAE")
        ),
        (
            ["--models", "VAE", "--prior", "exponential", "--prior-order", "5"],
            "--prior-order 5 is odd.* even --prior-order$",
        ),
        (["--models", "VAE", "--input-noise", "-0.1"], "--input-noise .*at least 0; got '?-0.1"),
        (["--models", "AE:log_variance=clamped"], "AE has no log_variance, which is a field of VAE, CVAE"),
        (["--models", "FisherNet", "--log-variance", "clamped"], "^--log-variance is a field of VAE.*leave it out$"),
        (
            ["--models", "FAE:fisher_target=5,fisher_weight=0"],
            "^--fisher-target 5 is a target without a weight: --fisher-w",
        ),
        (
            ["--models", "FAE:decoder_fisher_weight=0.1"],
            "^--decoder-fisher-weight 0.1 .*gaussian-learned.*got --likelihood bern",
        ),
        (["--models", "VAE", "--patience", "5"], "^--patience 5 .*--stopping-size must be at least 1; got 0"),
        (["--models", "WAE", "--crop", "-3"], "--crop .*at least -2; got '?-3"),
        (
            ["--models", "WAE", "--crop", "-2"],
            "--crop -2 stretches whole images .* side is --image-size, and that is 0",
        ),
        (["--plan", "x.json", "--epochs", "3"], "--plan.*goes without --epochs"),
    ],
)
def test_a_flag_that_cannot_be_is_named_in_a_sentence(argv, words):
    with pytest.raises(PlanError, match=words):
        flags(*argv)


def another(f):
    """A value that is not the field's default."""
    if f.metadata["choices"]:
        return next(word for word in f.metadata["choices"] if word != f.default)
    return next(value for value in (f.default + 1, f.default + 2, 0.5) if f.metadata["valid"](value))


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_a_field_of_a_line_that_changes_nothing_of_it_is_refused_with_what_would_make_it_matter(model):
    """It would be a second line of the same numbers. A plain flag is of all lines, and left alone."""
    usual, refused = trial_config(model=model), 0
    for name, f in ((f.name, f) for f in dataclasses.fields(usual)):
        value = another(f) if f.metadata["when"] else None
        if value is None or usual.matters(name, usual.to_dict()):
            continue
        try:
            trial_config(model=model, **{name: value})
        except ValueError:  # its family has a sentence of its own
            continue
        refused += 1
        with pytest.raises(PlanError, match=f"{name} changes nothing of this line: it matters with .*Leave {name} out"):
            flags("--models", model, f"{model}:{name}={value}")
        flag = f"--{name.replace('_', '-')}"
        assert len(flags("--models", model, flag, str(value))) == len(flags("--models", model))
    assert refused


def test_a_field_of_a_line_that_its_other_fields_make_matter_is_taken():
    for line in (
        "VAE:stability_weight=1,stability=total",
        "VAE:prior=exponential,prior_order=6",
        "AE:network=pooled-cnn,output_order=channels-last",
        "AE:likelihood=gaussian,scale=full,cholesky_of=covariance",
        "FisherNet:likelihood=student-t,information_about=location",
        "WAE:penalty=critic,discriminator_steps=5",
        "VAE:likelihood=discretised-normal,least_scale=0.1",
    ):
        assert len(flags("--models", line, "--latent-dims", "2", "--seeds", "1")) == 1


def test_a_sweep_is_extended_by_what_is_new():
    old = flags("--models", "VAE", "--latent-dims", "2-4", "--seeds", "2")
    asked = flags("--models", "VAE", "AE", "--latent-dims", "3-6", "--seeds", "3")
    both = extended(old, asked)
    assert both[: len(old)] == old
    assert set(both) == {*old, *asked}
    assert len(both) == len(set(both))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--epochs", "7"], "epochs is 100 there and 7 here"),
        (["--learning-rate", "0.1"], r"learning_rate is 0.0001 there and 0.1 here"),
        (["--dataset", "mnist"], "dataset is fashion-mnist there and mnist here"),
        (["--models", "AE", "--hidden-width", "3"], "hidden_width is 448 there and 3 here"),
        (["--models", "CVAE", "--batch-size", "3"], "batch_size is 64 there and 3 here"),
    ],
)
def test_an_extension_that_could_not_be_compared_is_refused_with_the_difference(change, words):
    old = flags("--models", "VAE", "FisherNet", "--latent-dims", "2-4")
    asked = flags("--models", "VAE", "--latent-dims", "2-4", *change) if "--models" not in change else flags(*change)
    with pytest.raises(PlanError, match=words):
        extended(old, asked)


def test_another_likelihood_is_a_line_of_its_own_and_extends_a_sweep():
    old = flags("--models", "VAE", "--latent-dims", "2", "--seeds", "1")
    asked = flags("--models", "VAE:likelihood=gaussian-learned", "--latent-dims", "2", "--seeds", "1")
    assert extended(old, asked) == old + asked


def test_a_named_setting_is_a_line_of_its_own_and_extends_a_sweep_whatever_its_rates():
    old = flags("--models", "VAE", "--latent-dims", "2", "--seeds", "1")
    tuned = "VAE:setting=tuned,learning-rate=0.01,hidden-width=3,activation=elu"
    asked = flags("--models", tuned, "--latent-dims", "2", "--seeds", "1")
    assert extended(old, asked) == old + asked
    longer = flags("--models", tuned, "--latent-dims", "2", "--seeds", "1", "--epochs", "200")
    with pytest.raises(PlanError, match="epochs is 100 there and 200 here"):
        extended(old, longer)
    again = flags("--models", tuned.replace("0.01", "0.02"), "--latent-dims", "3", "--seeds", "1")
    with pytest.raises(PlanError, match=r"learning_rate is 0.01 there and 0.02 here"):
        extended(old + asked, again)


@pytest.mark.parametrize("size", ["auto", "1", "3"])
@pytest.mark.parametrize("devices", [CPU, Devices(4, 1, 16, 1), Devices(1, 0.25, 16, 1)])
def test_every_config_is_in_exactly_one_cohort_of_like_members(size, devices):
    configs = flags("--latent-dims", "2-6", "--seeds", "3")
    cohorts = make_cohorts(configs, devices, size, (1, 28, 28))
    assert sorted(c.run_name for cohort in cohorts for c in cohort) == sorted(c.run_name for c in configs)
    for cohort in cohorts:
        assert len({(c.model, c.likelihood) for c in cohort}) == 1
        assert [c.latent_dim for c in cohort] == sorted(c.latent_dim for c in cohort)
    costs = [sum(relative_cost(c, (1, 28, 28)) for c in cohort) for cohort in cohorts]
    assert costs == sorted(costs, reverse=True)
    if size != "auto":
        assert max(len(cohort) for cohort in cohorts) <= int(size)


def test_auto_fills_gpus_evenly_and_leaves_large_networks_alone_on_a_cpu():
    configs = flags("--latent-dims", "2-20", "--seeds", "5", "--models", "VAE")
    assert [len(c) for c in make_cohorts(configs, Devices(4, 1, 16, 1), "auto", (1, 28, 28))].count(24) >= 3
    assert {len(c) for c in make_cohorts(configs, CPU, "auto", (1, 28, 28))} == {1}
    of_all_dims = make_cohorts(
        flags("--latent-dims", "2-20", "--seeds", "8", "--models", "FisherNet"),
        Devices(4, 1, 16, 1),
        "auto",
        (1, 28, 28),
    )
    costs = [sum(relative_cost(c, (1, 28, 28)) for c in cohort) for cohort in of_all_dims]
    assert len(costs) == 4
    assert max(costs) < 1.01 * min(costs)
    small = flags("--latent-dims", "2-20", "--seeds", "5", "--models", "VAE", "--hidden-width", "64")
    assert sorted(len(c) for c in make_cohorts(small, CPU, "auto", (1, 8, 8))) == [47, 48]


def test_auto_stacks_decoders_that_emit_little_and_leaves_wide_ones_alone_on_a_cpu():
    """Of 28 x 28 pixels one component gains in a stack, also with full scales, and ten lose (benchmarks/likelihoods.py)."""
    common = ("--preset", "vpae", "--seeds", "6", "--models")
    for line, stacks in (
        ("AE:likelihood=gaussian", True), ("AE:scale=diagonal,components=1", True), ("AE:likelihood=maf", True),
        ("AE:likelihood=matrix-t,scale=full,components=1", True), ("AE:components=10", False),
        ("AE:likelihood=matrix-normal,scale=diagonal,components=10", False), ("AE:likelihood=student-t,components=10", False),
    ):  # fmt: skip
        configs = flags(*common, line)
        cohorts = make_cohorts(configs, CPU, "auto", (1, 28, 28))
        assert (max(map(len, cohorts)) > 1) == stacks, line
        assert len(make_cohorts(configs, Devices(1, 1, 2, 1), "auto", (1, 28, 28))) == 1


def test_a_model_whose_step_takes_longer_than_a_vaes_costs_as_much_more_and_is_not_stacked_where_that_gains_nothing():
    of_model = {
        m: flags("--models", m, "--latent-dims", "8", "--seeds", "4", "--hidden-width", "64") for m in MODEL_NAMES
    }
    costs = {model: relative_cost(configs[0], (1, 8, 8)) for model, configs in of_model.items()}
    factors = {"VAE": 1, "FAE": 1.1, "WAE": 1.4, "IAF": 1.8, "FisherAE": 2.3, "MAE": 2.5, "PixelVAE": 10}
    assert {model: costs[model] / costs["VAE"] for model in factors} == pytest.approx(factors)
    first = make_cohorts([*of_model["VAE"], *of_model["PixelVAE"]], CPU, 1, (1, 8, 8))[0]
    assert first[0].model == "PixelVAE"
    of_width = [
        flags("--models", m, "--latent-dims", "8", "--seeds", "4", "--hidden-width", "256") for m in ("VAE", "PixelVAE")
    ]
    assert [len(make_cohorts(configs, CPU, "auto", (1, 8, 8))) for configs in of_width] == [2, 4]


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 4, 25), (3, 2, 9)])
@pytest.mark.parametrize(
    ("likelihood", "scale"),
    [("gaussian", "diagonal"), ("matrix-normal", "diagonal"), ("matrix-t", "full"), ("student-t", "identity")],
)
def test_a_dense_models_cost_is_that_of_its_weights_whatever_the_shape_of_the_images(likelihood, scale, shape):
    """Three products with each weight matrix a step: of a factor of rows and columns as many as these are."""
    config = trial_config(
        model="AE", likelihood=likelihood, scale=scale, latent_dim=5, hidden_width=7, hidden_layers=1, epochs=2
    )
    model = Cohort([config], shape, 10).model
    weights = sum(parameter.numel() for name, parameter in model.named_parameters() if name.endswith("weight"))
    assert relative_cost(config, shape) == 2 * 3 * weights


def test_slots_are_bounded_by_gpus_and_by_cpus():
    assert Devices(2, 0.25, 64, 1).slots == 8
    assert Devices(2, 0.25, 4, 1).slots == 4
    assert Devices(0, 1, 7, 2).slots == 3
    assert str(Devices(8, 1, 2, 1)) == "8 GPUs: 2 trials at a time, for want of CPU cores beside them"
    assert str(Devices(8, 0.5, 64, 1)) == "8 GPUs: 16 trials at a time"


def test_a_trial_takes_what_it_needs_from_one_node():
    """Ray would wait for ever for a node that has what only several have together."""
    assert Devices(0, 1, 6, 2, ((1, 0), (1, 0), (4, 0))).slots == 2
    assert Devices(4, 1, 68, 4, ((64, 0), (2, 2), (2, 2))).slots == 0
    assert Devices(3, 0.5, 80, 1, ((64, 0), (8, 2), (8, 2))).slots == 6  # --gpus 3 of 4


def of_own_images(tmp_path, pixels, *words):
    """The args of a command on an array of one's own, and its images."""
    np.save(tmp_path / "x.npy", pixels)
    args = _parse(["--dataset", str(tmp_path / "x.npy"), *words])
    return args, load_data(args.dataset)


def test_of_ones_own_images_epochs_make_enough_steps_and_noise_starts_at_their_variance(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 120, (240, 6, 5, 3), dtype=np.uint8)
    args, images = of_own_images(tmp_path, pixels)
    found, said = suited(args, images)
    grey = pixels[:200] / 255  # the last sixth tests
    assert found["noise_start"] == pytest.approx(np.log(grey.var(axis=0).mean()), abs=0.05 + 1e-9)
    assert found["epochs"] == 572  # ceil(4000 / 7): of batches of 32, seven see 200 images
    assert found["evaluate_every"] == 5
    assert said.startswith("epochs 572, as 200 images make 7 steps an epoch; scored every 5; noise from -")
    configs = plan_from_flags(args, found).configs
    assert {(c.epochs, c.evaluate_every, c.batch_size, c.learning_rate) for c in configs} == {(572, 5, 32, 1e-3)}
    assert {c.noise_start for c in configs if c.model == "FisherNet"} == {found["noise_start"]}
    assert {c.variant for c in configs} == {"FisherNet linear", "VAE gaussian-learned linear", "AE linear"}
    assert {c.noise_start for c in configs if c.model != "AE"} == {found["noise_start"]}
    bits = plan_from_flags(of_own_images(tmp_path, pixels, "--models=VAE", "--binarisation=once")[0]).configs
    assert {c.variant for c in bits} == {"VAE"}
    assert len({c.seed for c in configs}) == 3  # below which no dimension is decided


def test_many_images_are_seen_a_few_times_all_the_same(tmp_path):
    args, images = of_own_images(tmp_path, np.random.default_rng(0).integers(0, 255, (9000, 2, 2), dtype=np.uint8))
    assert suited(args, images)[0]["epochs"] == 20  # of 235 steps, which are more than 4000


def test_what_a_flag_says_of_ones_own_images_is_not_chosen_for_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (240, 4, 4), dtype=np.uint8)
    given = ["--epochs=7", "--batch-size=50", "--noise-start=-1", "--evaluate-every=2", "--decoder-output=sigmoid"]
    given += ["--likelihood=gaussian-learned"]
    args, images = of_own_images(tmp_path, pixels, *given)
    assert suited(args, images) == ({}, "")
    args, images = of_own_images(tmp_path, pixels, "--batch-size=50", "--models", "FisherNet:epochs=9", "VAE")
    found, _ = suited(args, images)
    assert found["epochs"] == 1000
    assert {(c.model, c.epochs) for c in plan_from_flags(args, found).configs} == {("FisherNet", 9), ("VAE", 1000)}


def test_ones_own_images_may_be_seen_in_a_symmetric_range(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 120, (240, 4, 4), dtype=np.uint8)
    args, images = of_own_images(tmp_path, pixels, "--pixel-range=symmetric")
    found, said = suited(args, images)
    assert found["noise_start"] == pytest.approx(
        np.log((2 * pixels[:200] / 255 - 1).var(axis=0).mean()), abs=0.05 + 1e-9
    )
    assert "linear" not in said
    assert {c.decoder_output for c in plan_from_flags(args, found).configs} == {"sigmoid"}
    args, images = of_own_images(tmp_path, pixels, "--models", "AE", "VAE:pixel_range=symmetric")
    configs = plan_from_flags(args, suited(args, images)[0]).configs
    assert {(c.model, c.decoder_output) for c in configs} == {("AE", "linear"), ("VAE", "sigmoid")}


def test_a_preset_and_a_named_data_set_are_what_they_were_whatever_the_images(tmp_path):
    args, images = of_own_images(tmp_path, np.full((60, 4, 4), 200, np.uint8), "--preset=paper")
    assert suited(args, images) == ({}, "")
    own = [dataclasses.replace(c, dataset="fashion-mnist") for c in plan_from_flags(args).configs]
    assert own == flags() == flags("--preset", "paper")
    assert suited(_parse(["--dataset=digits"]), images) == ({}, "")
    assert {c.epochs for c in flags("--dataset=digits")} == {100}


def test_images_without_contrast_choose_no_noise(tmp_path):
    args, images = of_own_images(tmp_path, np.full((60, 4, 4), 200, np.uint8))
    assert "noise_start" not in suited(args, images)[0]


def test_a_plan_of_images_that_are_elsewhere_asks_for_a_preset(tmp_path, capsys):
    words = ["--dataset", str(tmp_path / "x.npy"), "--write-plan", str(tmp_path / "plan.json")]
    assert latent_sweep.main(words) == 2
    assert "epochs and noise_start follow from the images" in capsys.readouterr().err
    assert latent_sweep.main([*words, "--preset=paper"]) == 0
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 255, (240, 4, 4), dtype=np.uint8))
    assert latent_sweep.main(words) == 0
    assert {config.epochs for config in SweepPlan.read(tmp_path / "plan.json").configs} == {572}


def test_no_flag_of_a_sweep_lists_presets_defaults_and_a_table_lists_them_once():
    parser = latent_sweep.make_parser()
    helps = {action.option_strings[0]: action.help for action in parser._actions if action.option_strings}
    for preset in PRESETS:
        assert [flag for flag, text in helps.items() if f" for {preset}" in text] == []
    assert helps["--epochs"].endswith("(default: 100; some presets have another)")
    assert helps["--gpus"].endswith("(default: all there are)")
    assert "What each sets" not in parser.format_help()
    parser.usual = set()  # as --help-all
    listed = " ".join(parser.format_help().partition("What each sets")[2].split())
    for preset, sets in PRESETS.items():
        assert f" {preset} --models " in listed
        assert all(f"--{name.replace('_', '-')} " in listed for name in sets)
    assert "--latent-dims 2,4,8 --seeds 2 --dataset digits --epochs 60 " in listed


@pytest.mark.parametrize("words", [["2,4,8"], ["2", "4", "8"], ["2,4", "8"], ["2,", "4,", "8"], ["2", ",4", ",", "8"]])
def test_numbers_are_listed_with_commas_or_spaces(words):
    configs = flags("--models", "VAE", "--latent-dims", *words, "--seeds", *words)
    assert [(c.latent_dim, c.seed) for c in configs] == list(itertools.product((2, 4, 8), repeat=2))
    assert [c.seed for c in flags("--models", "VAE", "--latent-dims", "2", "--seeds", "3,")] == [3]


def test_an_estimate_counts_start_and_end_and_each_trial_beside_the_steps(monkeypatch):
    """3 epochs of 1,437 images in steps of 50, and evaluation at half the cost of training."""
    data = load_data("digits")
    monkeypatch.setattr(estimate, "_step_seconds", lambda members, *_: 0.01 * members[0].latent_dim)
    configs = flags("--models", "VAE", "--latent-dims", "2-4", "--seeds", "1", "--epochs", "3", "--batch-size", "50")
    cohorts = [[config] for config in configs]
    epoch = (len(data.train) + len(data.test) / 2) / 50
    assert estimate.estimate_seconds(cohorts, Devices(0, 1, 1, 1), data) == pytest.approx(
        estimate.START_AND_END + 3 * estimate.TRIAL + 3 * epoch * (0.02 + 0.03 + 0.04)
    )


@pytest.mark.parametrize("seeds", [[7], (7,), [0, 7], range(2, 4), np.array([5]), {3: None}])
def test_lists_of_python_mean_on_the_command_line_what_they_hold(seeds):
    assert seeds_from_flag(_text(seeds)) == [*seeds]
    assert seeds_from_flag(_text(3)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("values", "begins", "names", "no_fields"),
    [
        ({"model": "VAE", "patience": 5}, "--patience 5", ["--stopping-size must"], ["stopping_size"]),
        ({"decoder_output": "linear", "likelihood": "bernoulli"}, "--likelihood bernoulli", ["--decoder-output"], ["r_output"]),
        ({"sampler": "cg", "objective": "eq24"}, "--sampler cg", ["--objective must be eq25"], []),
        ({"model": "FAE", "decoder_fisher_weight": 1}, "--decoder-fisher-weight 1", ["--noise learned"], ["decoder_fisher"]),
        ({"latent_dim": 0}, "--latent-dims (number", [], ["latent_dim "]),
    ],
)  # fmt: skip
def test_a_refusal_names_flags_wherever_it_names_fields(values, begins, names, no_fields):
    with pytest.raises(ValueError, match=r".") as error:
        trial_config(values)
    said = flagged(str(error.value))
    assert said.startswith(begins)
    assert all(name in said for name in names), said
    assert not any(name in said for name in no_fields), said
    assert flagged(said) == said


def test_words_that_only_look_like_fields_stay():
    for text in (
        "network /data/train_size/x.npz cannot be read", "two of the runs differ in nothing; a seed alone says noise and scale",
        "--fix takes NAME=VALUE; got 'learning_rate'", "the search x exists: learning_rate of AE is 0.1 there and 0.2 here",
    ):  # fmt: skip
        assert flagged(text).removeprefix("--") == text.removeprefix("--")
