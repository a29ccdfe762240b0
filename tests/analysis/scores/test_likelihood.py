"""Which runs get a likelihood, of which images, and that what a run has is not computed again."""

import itertools
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from analysis import scores
from analysis.errors import AnalysisError
from analysis.scores import images, likelihood
from analysis.scores.likelihood import GROUP, images_of, refusal, score_likelihood, stacks_of, tasks
from fishernet import contract
from fishernet.data.images import ImageData, ResidentImages, at_equal_steps
from fishernet.families import family, trial_config
from fishernet.importance import Evidence, evidence

SHAPE = (1, 3, 3)
BINARY = {"binarisation": "dynamic"}
HERE = ("cpu", None)  # nothing is kept


def config(model="VAE", **values):
    return trial_config({**contract.SMALL, "hidden_width": 8, "latent_dim": 2, "model": model, **BINARY, **values})


def grown(made):
    torch.manual_seed(0)
    return family(made.model).load()([made], SHAPE, 50)


def stored(*configs, has=None):
    """A sweep whose runs have these scores of the group, of 6 images to train on and 5 held out."""
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(0, 256, (6, *SHAPE), generator=generator, dtype=torch.uint8)
    held_out = 255 * torch.randint(0, 2, (5, *SHAPE), generator=generator, dtype=torch.uint8)
    runs = pd.DataFrame([
        {"config": c, "model": c.model, "variant": c.variant, "latent_dim": 2, "seed": 0, "scores": {GROUP: has} if has else {}}
        for c in configs
    ])  # fmt: skip
    data = ImageData("made", grey, held_out, None, None, "0", "test", ())
    return SimpleNamespace(
        runs=runs, images=data, sweep=SimpleNamespace(configs=configs), model=lambda run: grown(run["config"])
    )


def score(images, device, cache, model, names, draws, asked):
    """Of one model alone."""
    (found,) = score_likelihood(images, device, cache, [model], names, draws, asked)
    return found


def scored(made, names=("held-out",), draws=20):
    sweep = stored(made)
    return score(images_of(sweep, names, 0), *HERE, grown(made), names, draws, 0)


def test_models_with_a_density_of_their_draws_are_scored_and_the_others_are_not_or_say_why():
    lines = [config(model) for model in ("VAE", "FAE", "MAE", "IAF", "PixelVAE", "FisherNet", "AE", "WAE")]
    asked = tasks(stored(*lines, config("FisherNet", sampler="cg")), draws=10)
    assert [task.run["model"] for task in asked.tasks] == ["VAE", "FAE", "MAE", "IAF", "PixelVAE", "FisherNet"]
    (said,) = asked.said
    assert said.startswith("FisherNet cg has no likelihood")
    assert "sampler cholesky" in said


def test_grey_images_are_scored_where_that_is_asked_for_and_never_as_probabilities_of_bernoulli():
    grey = {"binarisation": "none"}
    density, bits, nothing = (
        config(likelihood="gaussian", **grey),
        config(likelihood="logistic", **grey),
        config(**grey),
    )
    usual = tasks(stored(density, bits, nothing))
    assert [task.run["config"] for task in usual.tasks] == [bits]
    assert not usual.said  # of a sweep that nobody asked about
    asked = tasks(stored(density, bits, nothing), draws=10)
    assert [task.run["config"] for task in asked.tasks] == [density, bits]
    assert "bernoulli gives grey values no probability" in asked.said[0]


@pytest.mark.parametrize("dequantisation", ["off", "uniform-noise"])
def test_a_density_is_of_spread_images_and_has_bits_beside_those_of_probabilities(dequantisation):
    density = config(likelihood="gaussian", binarisation="none", dequantisation=dequantisation)
    assert not refusal(density, lambda: False)
    found = scored(density)
    assert (found.about["held-out"]["probability"], found.about["held-out"]["dequantised"]) == (False, True)
    pixels = ResidentImages.of(stored(density).images.test, torch.device("cpu"))
    own = Evidence.joined([block for (block,) in evidence(grown(density), pixels, 20, density=True)])
    assert found.metrics["likelihood/nll"] == pytest.approx(-own.log_evidence[:, -1].mean().item())
    bits = 8 + found.metrics["likelihood/nll"] / (9 * math.log(2))
    assert found.metrics["likelihood/bits_per_dim"] == pytest.approx(bits)
    assert bits > 8 + 0.5 * math.log2(2 * math.pi)  # which a unit normal has at zero error


def test_each_image_has_its_nll_in_a_file_of_its_set():
    found = scored(config(), ("held-out", "training"))
    for name, start, n in (("held-out", "likelihood/", 5), ("training", "likelihood/training/", 6)):
        nll = found.files[f"scores/likelihood-{name}.json"]["nll"]
        assert len(nll) == n
        assert sum(nll) / n == pytest.approx(found.metrics[f"{start}nll"], abs=1e-4)
        assert found.about[name]["by_image"]


def test_a_density_at_the_grey_values_themselves_is_taken_anew():
    density = config(likelihood="gaussian", binarisation="none")
    before = {"draws": 100, "images": 5, "asked": 0, "probability": False}
    assert len(tasks(stored(density, has={"held-out": before}), draws=10).tasks) == 1
    assert not tasks(stored(density, has={"held-out": {**before, "dequantised": True}}), draws=10).tasks


def test_images_that_a_file_has_in_black_and_white_are_scored_whatever_the_config_made_of_them():
    """Such as a fixed binarisation from elsewhere. One grey pixel anywhere, and they are not."""
    made, draws = config(binarisation="none"), {"draws": 10}
    sweep = stored(made)
    white = sweep.images.train > 127
    sweep.images = replace(sweep.images, train=255 * white.to(torch.uint8))
    assert len(tasks(sweep).tasks) == 1
    assert len(tasks(sweep, **draws).tasks) == 1
    for name in ("train", "test"):
        one = getattr(sweep.images, name).clone()
        one[-1, 0, 0, 0] = 128
        grey = SimpleNamespace(**{**vars(sweep), "images": replace(sweep.images, **{name: one})})
        assert not tasks(grey).tasks
        assert "grey values" in tasks(grey, **draws).said[0]


@pytest.mark.parametrize(
    ("has", "asked", "again"),
    [
        ({"draws": 100, "images": 5, "asked": 0}, {}, False),
        ({"draws": 7, "images": 5, "asked": 1000}, {}, False),  # no number of draws was asked for
        ({"draws": 100, "images": 5, "asked": 0}, {"draws": 50, "nll_images": 3}, False),
        ({"draws": 100, "images": 5, "asked": 0}, {"draws": 200}, True),
        ({"draws": 100, "images": 3, "asked": 3}, {"nll_images": 4}, True),
        ({"draws": 100, "images": 3, "asked": 3}, {"nll_images": 0}, True),
        ({"draws": 100, "images": 5, "asked": 0}, {"nll_of": ("held-out", "training")}, True),
    ],
)
def test_what_a_run_has_is_computed_again_where_more_is_asked_for(has, asked, again):
    found = tasks(stored(config(), has={"held-out": has}), **asked)
    assert len(found.tasks) == again
    if "nll_of" in asked:
        assert list(found.tasks[0].arguments()[1]) == ["training"]


def test_training_images_that_are_scored_are_of_all_that_there_are():
    """The first thousand of reversed MNIST are of rare digits, as it is sorted by place: shares of classes must be the set's."""
    labels = torch.tensor([1] * 900 + [0] * 5800)
    for n in (100, 1000):
        found = labels[at_equal_steps(n, len(labels))]
        assert len(found) == n
        assert found.float().mean() == pytest.approx(900 / 6700, abs=1 / n)
    made = config("IAF")
    train = stored(made).images.train
    for n, places in ((3, [0, 2, 4]), (4, [0, 1, 3, 4]), (0, range(6)), (7, range(6))):
        assert images_of(stored(made), ("training",), n)["training"].equal(train[list(places)])
    run = {"draws": 100, "images": 3, "asked": 3, "probability": True}
    asked = {"draws": 20, "nll_images": 3, "nll_of": ("training",)}
    for about, n_tasks in ((run, 1), (run | {"at_equal_steps": True}, 0)):
        found = tasks(stored(made, has={"training": about}), **asked)
        assert len(found.tasks) == n_tasks
    about = score(images_of(stored(made), ("training",), 3), *HERE, grown(made), ("training",), 20, 3).about
    assert about["training"] == {**run, "draws": 20, "at_equal_steps": True, "by_image": True}


def test_scores_are_those_of_the_importance_samples_and_say_what_made_them():
    made = config("IAF")
    found = scored(made, ("held-out", "training"))
    pixels = ResidentImages.of(stored(made).images.test, torch.device("cpu"))
    own = Evidence.joined([block for (block,) in evidence(grown(made), pixels, 20)]).scores(9)
    assert {name: value for name, value in found.metrics.items() if "/training/" not in name} == pytest.approx(
        {f"likelihood/{name}": value for name, value in own.items()}
    )
    assert set(own) == {name.removeprefix("likelihood/training/") for name in found.metrics if "/training/" in name}
    assert found.about["training"] == {"draws": 20, "images": 6, "asked": 0, "probability": True, "by_image": True}


@pytest.mark.parametrize(
    "line",
    [
        {}, {"model": "FAE", "fisher_constraint": "released-conv"}, {"model": "IAF"}, {"model": "PixelVAE"},
        {"model": "FisherNet", "likelihood": "gaussian-learned"}, {"model": "VAE", "network": "conv"},
    ],
    ids=lambda line: line.get("network", line.get("model", "VAE")),
)  # fmt: skip
def test_a_stack_scores_each_of_its_models_as_it_would_be_alone(line, tmp_path):
    """Of several latent dimensions and seeds, as they lie on a GPU, with what is kept of a stack that was ended."""
    configs = [config(**{**line, "latent_dim": d, "seed": seed}) for d, seed in ((2, 0), (4, 1), (2, 2))]
    names, shape = ("held-out", "training"), (1, 8, 8)
    pixels = 255 * torch.randint(0, 2, (5, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images, models = {"held-out": pixels, "training": pixels.flip(0)}, []
    for made in configs:
        torch.manual_seed(made.seed)
        models.append(family(made.model).load()([made], shape, 50))
    together = score_likelihood(images, "cpu", tmp_path, models, names, 20, 0)
    alone = [score(images, *HERE, model, names, 20, 0) for model in models]
    assert [found.about for found in together] == [found.about for found in alone]
    for found, own in zip(together, alone, strict=True):
        assert found.metrics == pytest.approx(own.metrics, rel=2e-6)
    assert len({found.metrics["likelihood/nll"] for found in together}) == 3
    assert not [*tmp_path.iterdir()]


def test_runs_are_stacked_on_gpus_where_they_could_be_a_cohort_and_alone_on_a_cpu():
    lines = [config(model, latent_dim=d, seed=s) for model in ("VAE", "FAE") for d in (2, 3) for s in (0, 1)]
    runs = [pd.Series({"config": line}) for line in (*lines, config(hidden_width=9))]
    assert [len(stack) for stack in stacks_of(runs, 0)] == [1] * 9
    for gpus, sizes in ((1, [4, 4, 1]), (3, [2, 1, 1, 2, 1, 1, 1])):
        stacks = stacks_of(runs, gpus)
        assert [len(stack) for stack in stacks] == sizes
        for stack in stacks:
            assert len({run["config"].without_axes() for run in stack}) == 1
        assert sorted(map(id, (run["config"] for stack in stacks for run in stack))) == sorted(
            id(run["config"]) for run in runs
        )


def killed(at, arguments):
    """A scoring that is ended once so many blocks are kept."""
    keep, n = likelihood._keep, itertools.count(1)

    def kept(file, done):
        keep(file, done)
        if next(n) == at:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likelihood, "_keep", kept)
        with pytest.raises(KeyboardInterrupt):
            score(*arguments)


@pytest.fixture
def in_blocks(monkeypatch):
    """Blocks of two images; gives the numbers of the images at which a scoring begins to compute."""
    begins = []

    def spied(*args, first, **kwargs):
        begins.append(first)
        return evidence(*args, first=first, **kwargs)

    monkeypatch.setattr(likelihood, "drawn_at_once", lambda *_: 2)
    monkeypatch.setattr(likelihood, "evidence", spied)
    return begins


def test_an_ended_scoring_goes_on_where_it_stopped_with_the_same_numbers(in_blocks, tmp_path):
    made, names = config("FAE"), ("held-out", "training")
    images, model = images_of(stored(made), names, 0), grown(made)
    whole = score(images, *HERE, model, names, 20, 0)
    arguments = (images, "cpu", tmp_path, model, names, 20, 0)
    killed(4, arguments)  # three blocks are the 5 held-out images, and the fourth is of the training images
    in_blocks.clear()
    assert score(*arguments) == whole
    assert in_blocks == [5, 2]
    assert not [*tmp_path.iterdir()]  # which nobody needs any more
    in_blocks.clear()
    assert score(*arguments) == whole
    assert in_blocks == [0, 0]


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.analysis.scores import test_likelihood as t
keep, t.likelihood.drawn_at_once = t.likelihood._keep, lambda *_: 2
def kept(file, done):
    keep(file, done)
    if len(done[0].effective) == 4:
        file.with_name(file.name + ".1").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
t.likelihood._keep = kept
made = t.config("FAE")
images = t.images_of(t.stored(made), ("held-out",), 0)
t.score(images, "cpu", Path(sys.argv[1]), t.grown(made), ("held-out",), 20, 0)
"""


@pytest.mark.long
def test_a_scoring_killed_in_a_process_of_its_own_goes_on_in_another(in_blocks, tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert subprocess.run(command, cwd=Path(__file__).parents[3], check=False).returncode == -signal.SIGKILL
    made = config("FAE")
    arguments = (grown(made), ("held-out",), 20, 0)
    images = images_of(stored(made), ("held-out",), 0)
    found = score(images, "cpu", tmp_path, *arguments)
    assert in_blocks == [4]
    assert found == score(images, *HERE, *arguments)


@pytest.mark.parametrize("other", ["draws", "weights", "images", "damaged", "cut", "empty"])
def test_what_is_kept_of_other_numbers_or_damaged_is_not_taken(other, in_blocks, tmp_path):
    made = config()
    sweep, model = stored(made), grown(made)
    images = images_of(sweep, ("held-out",), 0)
    killed(2, (images, "cpu", tmp_path, model, ("held-out",), 20, 0))
    (file,) = tmp_path.iterdir()
    content, draws = file.read_bytes(), 20 + (other == "draws")
    if other == "weights":
        model.heads_of_encoder["mean"].bias.data += 1
    elif other == "images":
        images = {"held-out": images["held-out"].flip(0)}
    elif other in ("damaged", "cut", "empty"):
        last = bytes([content[-1] ^ 1])
        file.write_bytes({"damaged": content[:-1] + last, "cut": content[:-9], "empty": b""}[other])
    in_blocks.clear()
    found = score(images, "cpu", tmp_path, model, ("held-out",), draws, 0)
    assert in_blocks == [0]
    assert found == score(images, *HERE, model, ("held-out",), draws, 0)


def test_a_cache_that_cannot_be_kept_costs_no_score(in_blocks, tmp_path):
    (tmp_path / "file").touch()
    made = config()
    arguments = (grown(made), ("held-out",), 20, 0)
    images = images_of(stored(made), ("held-out",), 0)
    found = score(images, "cpu", tmp_path / "file" / "below", *arguments)
    assert found == score(images, *HERE, *arguments)


@pytest.mark.parametrize(
    ("values", "added"),
    [
        ({}, 0.1 * abs(4 - 20)),
        ({"fisher_target": 1.0, "fisher_weight": 0.5}, 0.5 * 3),
        ({"fisher_constraint": "trace"}, 0.1 * abs(8 - 20)),
        ({"fisher_constraint": "released-mlp"}, math.log(0.25) * 0.75),  # a reward: it makes the NLL smaller
    ],
)
def test_the_penalty_in_every_weight_moves_the_nll_by_it(values, added):
    """Of two latents with s^2 = 1/4 for every image, as the released code would have it."""
    made = config("FAE", **values)
    model = grown(made)
    head = model.heads_of_encoder["log_variance"]
    head.weight.data.zero_()
    head.bias.data.fill_(math.log(0.25))
    found = score(images_of(stored(made), ("held-out",), 0), *HERE, model, ("held-out",), 20, 0).metrics
    assert found["likelihood/nll_penalised"] - found["likelihood/nll"] == pytest.approx(added, abs=1e-4)
    assert "likelihood/nll_penalised" not in scored(config()).metrics


def test_the_decoders_term_is_among_the_penalties_of_an_image():
    """lambda_x |k exp(-xi) - F_x| of k = 9 pixels, beside lambda |1/s^2 - F|."""
    values = {"likelihood": "gaussian-learned", "fisher_weight": 0.5, "fisher_target": 3.0}
    both = grown(config("FAE", **values, decoder_fisher_weight=0.2, decoder_fisher_target=2.0))
    one = grown(config("FAE", **values))
    x, added = torch.rand(1, 4, 9), 0.2 * abs(9 * math.exp(-both.likelihood.xi.item()) - 2)
    alone = [model.penalty_alone(x, 1, torch.Generator().manual_seed(0)) for model in (both, one)]
    assert torch.allclose(alone[0] - alone[1], torch.full((1, 4), added), atol=1e-5)
    assert added > 0.1


def test_the_released_penalty_is_read_from_draws_of_an_image_alone():
    """E min(e^2/v, 88) at v = 1/4 is 4 to 1e-5; two images of other widths are not averaged before the distance is taken."""
    made = config("FAE", fisher_constraint="released-conv", fisher_target=5.0, fisher_weight=1.0)
    model = grown(made).eval()
    model.reading = lambda q, noise: noise["fisher"].square().mean(2) * torch.tensor([[4.0, 6.0]])
    x = torch.zeros(1, 2, 9)
    found = model.penalty_alone(x, 20_000, torch.Generator().manual_seed(0))
    assert found[0].tolist() == pytest.approx([1.0, 1.0], abs=5 * 6 / 20_000**0.5)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"model": "FisherNet", "sampler": "cg"}, "density of draws"),
        ({"model": "FisherAE", "prior": "exponential", "prior_top": "free"}, "no density"),
    ],
)
def test_what_is_refused_beforehand_could_not_have_been_computed(values, word):
    made = config(**values)
    assert refusal(made, lambda: True)
    with pytest.raises(AnalysisError, match=word):
        scored(made)


def test_models_that_see_the_image_are_asked_for_no_images_of_latents_alone():
    runs = [row for _, row in stored(config("PixelVAE"), config()).runs.iterrows()]
    assert [images.image_sets_of(run, ("reconstruction", "prior")) for run in runs] == [[], ["reconstruction", "prior"]]
    (said,) = images.say_sees_image(runs)
    assert said.startswith("PixelVAE sees the image")


def test_the_flags_of_the_score_are_numbers_that_make_sense():
    from analysis.flags import parser

    made = parser("x", "", "", scores.SCORES["likelihood"].flags, "figures")
    given = made.parse_args(["--draws", "5", "--nll-images", "0", "--nll-of", "training"])
    assert (given.draws, given.nll_images, given.nll_of) == (5, 0, ["training"])
    for words in (["--draws", "0"], ["--draws", "1.5"], ["--nll-images", "-1"]):
        with pytest.raises(SystemExit):
            made.parse_args(words)
