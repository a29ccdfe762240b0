"""The training loop, its checkpoints and its scores; what every model must do is in test_contract.py."""

import hashlib
import itertools
import json
import os
import sys
import time
import weakref
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from fishernet.cohort import DRAWN_NUMBERS, Cohort, load_model
from fishernet.config import TrialConfig
from fishernet.contract import history, small_images
from fishernet.data.images import ImageData, ResidentImages
from fishernet.evaluation import evaluate, evaluating, evaluation_batch
from fishernet.families import MODEL_NAMES, family, trial_config
from fishernet.pca import pca_test_mse
from fishernet.records import write_records
from fishernet.state import CHECKPOINTS_SHARE, CheckpointError, Pace
from fishernet.training import (
    Step,
    _train_metrics,
    denormals_as_zero,
    give_freed_memory_back,
    keep_freed_memory,
    set_arithmetic,
    train,
    train_epoch,
)

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make(configs: list[TrialConfig], images: ImageData) -> Cohort:
    return Cohort(configs, images.image_shape, len(images.train))


def test_an_epoch_notes_the_largest_number_on_the_diagonal_of_m(small, images):
    """Of each member, over the epoch's images at the weights of their steps: here one step, so those at the start."""
    small |= {"batch_size": len(images.train)}
    resident = ResidentImages.of(images.train, torch.device("cpu"))
    cohort = make([trial_config(latent_dim=d, noise_start=-4, **small) for d in (2, 3)], images)
    x = resident.take(torch.arange(len(images.train)).expand(2, -1))
    expected = cohort.model.precision(cohort.model.posterior_mean(x)).diagonal(dim1=-2, dim2=-1).amax((1, 2))
    metrics = next(train(cohort, images))
    assert [record["metrics"]["train/largest_precision"] for record in metrics] == pytest.approx(expected.tolist())
    cohort.model.largest.fill_(1e9)  # of the epoch alone
    again = next(train(cohort, images))
    assert again[0]["metrics"]["train/largest_precision"] < 1e8


@pytest.mark.parametrize("sampler", ["cholesky", "cg"])
def test_evaluation_adds_nothing_to_what_an_epoch_notes(sampler, small, images):
    cohort = make([trial_config(latent_dim=2, sampler=sampler, **small)], images)
    evaluate(cohort, ResidentImages.of(images.test, torch.device("cpu")))
    cohort.model.train()
    assert [noted.tolist() for noted in cohort.model.extremes.values()] == [[0.0]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sampler": "cg", "cg_iterations": 1}, "conjugate gradients stopped after 1 iterations at a residual of"),
        ({"sampler": "cg"}, ""),
        ({"noise_start": -30}, "M's diagonal reaches"),
        ({"noise_start": -30, "sampler": "cholesky-float64"}, ""),
        ({"noise_start": -4}, ""),
        ({"model": "VAE"}, ""),
    ],
)
def test_draws_that_are_not_what_the_config_promises_are_said(settings, said, small, images):
    config = trial_config(latent_dim=3, **small | settings)
    metrics = history(make([config], images), images)
    words = {config.remark(epoch[0]) for epoch in metrics}
    assert all(sentence.startswith(said) if said else not sentence for sentence in words), words


def test_a_float64_factor_trains_as_the_float32_one_where_both_are_exact(small, images):
    losses = [
        [
            epoch[0]["train/loss"]
            for epoch in history(make([trial_config(sampler=s, latent_dim=3, **small)], images), images)
        ]
        for s in ("cholesky", "cholesky-float64")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] != losses[1]


def test_weight_decay_shrinks_the_weights_alone_and_xi_has_its_own_rate(small, images):
    """Loshchilov and Hutter 2019, algorithm 2, first step: Adam moves by rate x sign, decay takes rate x decay x weight off."""
    resident = ResidentImages.of(images.train, torch.device("cpu"))
    # One step an epoch; xi begins where decay would move it.
    small |= {"batch_size": len(images.train), "learning_rate": 1e-3, "noise_start": -1.0}
    states = []
    for fields in ({}, {"weight_decay": 0.5, "noise_learning_rate": 0.25}):
        cohort = make([trial_config(latent_dim=3, **small | fields)], images)
        before = {name: p.detach().clone() for name, p in cohort.model.named_parameters()}
        train_epoch(cohort, resident)
        states.append({name: p.detach() for name, p in cohort.model.named_parameters()})
    plain, decayed = states
    for name, start in before.items():
        if name == "likelihood.xi":
            assert (plain[name] - start).abs().item() == pytest.approx(1e-3, rel=1e-4)
            assert (decayed[name] - start).abs().item() == pytest.approx(0.25, rel=1e-4)
        else:
            shrunk = 1e-3 * 0.5 * start * name.endswith("weight")
            # float32: a weight below 1 is stored to 6e-8, and half of it shrinks by 1e-4
            assert torch.allclose(decayed[name], plain[name] - shrunk, rtol=0, atol=1e-7), name


class Draws(TorchFunctionMode):
    """Notes of every random number that torch draws: what for, by which function, from which seed, and what state it had."""

    def __init__(self) -> None:
        super().__init__()
        self.purpose, self.noted = "", []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.rand, torch.randn, torch.randperm):
            generator = kwargs["generator"]
            state = hashlib.sha256(generator.get_state().numpy().tobytes()).hexdigest()
            self.noted.append(((self.purpose, func.__name__), generator.initial_seed(), state))
        return func(*args, **kwargs)


@pytest.mark.parametrize(
    ("model", "n_streams"), [({"model": "VAE"}, 6), ({"sampler": "cg"}, 9), ({"model": "AE"}, 3)], ids=str
)
def test_every_use_of_randomness_has_a_stream_of_its_own_and_no_number_is_used_twice(
    model, n_streams, small, images, monkeypatch
):
    """Weights, each epoch's order, each kind of noise in each epoch and evaluation: six streams a seed, of AE three, of cg nine.

    A stream goes on from block to block. Evaluation alone draws the same again, and nothing is torch's global random state.
    """
    monkeypatch.setattr("fishernet.training.STEPS_PER_DRAW", 1)
    monkeypatch.setattr("fishernet.evaluation.EVALUATION_BATCH", 16)
    train_images, test_images = (ResidentImages.of(x, torch.device("cpu")) for x in (images.train, images.test))
    before = torch.get_rng_state()
    with Draws() as draws:
        draws.purpose = "weights"
        cohort = make([trial_config(latent_dim=2, seed=seed, **small | model) for seed in (0, 1)], images)
        for epoch in (1, 2):
            draws.purpose = f"epoch {epoch}"
            train_epoch(cohort, train_images)
            draws.purpose = f"evaluation {epoch}"
            evaluate(cohort, test_images)
    assert torch.equal(torch.get_rng_state(), before)
    first, again = ([note[1:] for note in draws.noted if note[0][0] == f"evaluation {epoch}"] for epoch in (1, 2))
    assert first == again
    noted = [note for note in draws.noted if note[0][0] != "evaluation 2"]
    streams = {(purpose, seed) for purpose, seed, _ in noted}
    assert len(streams) == 2 * n_streams
    assert len({seed for _, seed in streams}) == 2 * n_streams
    assert max(Counter(state for *_, state in noted).values()) == 1


def test_no_two_seeds_epochs_or_purposes_share_a_stream(small, images):
    """Also not where seed and epoch have the same sum, product or digits, and in the 32 bits that a CPU's generator takes."""
    cohort = make(
        [trial_config(model="AE", seed=seed, **small) for seed in (0, 1, 2, 3, 11, 12, 111, 2**31 - 1)], images
    )
    names = ("order", "noise", "evaluation")
    seeds = [g.initial_seed() for name in names for epoch in range(125) for g in cohort.streams(name, epoch)]
    seeds += [config.seed for config in cohort.configs]  # of the weights
    assert len({seed % 2**32 for seed in seeds}) == len(seeds) == 8 * (3 * 125 + 1)


def test_runs_of_one_seed_are_paired_whatever_the_model_and_its_latent_dim(small, images):
    """They begin with the same encoder and see the same images in the same order, so differences over seeds are paired."""
    cohorts = [
        make([trial_config(model=model, latent_dim=d, seed=s, **small) for d, s in ((2, 3), (5, 3), (2, 4))], images)
        for model in ("FisherNet", "VAE", "AE")
    ]
    orders = torch.cat([cohort.draw_orders(2, 96) for cohort in cohorts])
    first_weights = torch.cat([cohort.model.trunk[0].layers[0].weight for cohort in cohorts])
    for own in (orders, first_weights):
        of_seed_3, of_seed_4 = own[[0, 1, 3, 4, 6, 7]], own[[2, 5, 8]]
        assert torch.equal(of_seed_3, of_seed_3[:1].expand_as(of_seed_3))
        assert torch.equal(of_seed_4, of_seed_4[:1].expand_as(of_seed_4))
        assert not torch.equal(own[0], own[2])
    for i in (0, 2):
        noise = [cohort.draw_noise(cohort.noise_streams("noise", 1), 7)["eta"][i, :, :2] for cohort in cohorts[:2]]
        assert torch.equal(*noise)


def test_models_of_one_seed_share_their_draws_of_the_posterior_whatever_else_they_draw(small, images):
    """Block after block, so that paired differences between lines have as little noise as may be."""
    lines = (
        ("VAE", {}),
        ("FAE", {"fisher_constraint": "released-conv"}),
        ("MAE", {}),
        ("IAF", {}),
        ("FisherNet", {"sampler": "cg"}),
    )
    cohorts = [
        make([trial_config(model=model, latent_dim=2, seed=3, **values, **small)], images) for model, values in lines
    ]
    for name in ("noise", "evaluation"):
        streams = [cohort.noise_streams(name, 1) for cohort in cohorts]
        for _ in range(3):
            first, *others = (c.draw_noise(own, 16)["eta"] for c, own in zip(cohorts, streams, strict=True))
            assert all(torch.equal(first, other) for other in others)
    drawn = cohorts[2].draw_noise(cohorts[2].noise_streams("noise", 1), 16)
    assert not torch.equal(drawn["eta"], drawn["prior"])


def test_noise_is_standard_normal_and_not_of_twice_its_variance(small, images):
    """Second and fourth moments 1 and 3, within five standard errors, sqrt(2/n) and sqrt(96/n)."""
    cohort = make([trial_config(sampler="cg", latent_dim=d, **small) for d in (2, 3)], images)
    eta, n_star = cohort.draw_noise(cohort.noise_streams("noise", 1), 20_000).values()
    for draws in (eta[0, :, :2], eta[1], n_star):
        n = draws.numel()
        squares = draws.double().square()
        assert abs(draws.double().mean()) < 5 / n**0.5
        assert abs(squares.mean() - 1) < 5 * (2 / n) ** 0.5
        assert abs(squares.square().mean() - 3) < 5 * (96 / n) ** 0.5
        assert abs(2 * squares.mean() - 1) > 5 * (2 / n) ** 0.5


@pytest.mark.parametrize("model", ["FisherNet", "VAE"])
def test_a_step_follows_the_gradient_of_each_members_mean_loss_over_its_batch(model, small, images):
    """Looked at itself, as Adam hides any factor of the gradient; also where a batch is smaller than the others."""
    cohort = make([trial_config(model=model, latent_dim=d, seed=d, **small) for d in (2, 5)], images)
    resident = ResidentImages.of(images.train, torch.device("cpu"))
    for n in (20, 16):
        index, noise = torch.arange(2 * n).view(2, n), cohort.draw_noise(cohort.noise_streams("noise", 1), n)
        loss = cohort.model(resident.take(index), noise).loss
        expected = torch.autograd.grad(loss[0].sum() / n + loss[1].sum() / n, list(cohort.model.parameters()))
        assert torch.allclose(Step(cohort, resident)(index, noise), loss.sum(1), rtol=1e-6)
        for (name, parameter), gradient in zip(cohort.model.named_parameters(), expected, strict=True):
            assert gradient.norm() > 0, name
            assert (parameter.grad - gradient).norm() < 1e-5 * gradient.norm(), name


def test_the_training_loss_of_an_epoch_is_the_mean_over_every_image_once(small, images):
    """Of weights that stand still, at a rate of 1e-30: 96 images in batches of 20 and one of 16, which counts less."""
    cohort = make([trial_config(model="AE", latent_dim=2, **small | {"learning_rate": 1e-30})], images)
    loss = cohort.model(ResidentImages.of(images.train, torch.device("cpu")).take(torch.arange(96)[None]), {}).loss[0]
    batches = loss[cohort.draw_orders(1, 96)[0]].split(20)
    assert next(train(cohort, images))[0]["metrics"]["train/loss"] == pytest.approx(loss.mean().item(), rel=1e-6)
    mean_of_batch_means = torch.stack([batch.mean() for batch in batches]).mean().item()
    assert mean_of_batch_means != pytest.approx(loss.mean().item(), rel=1e-5)


def test_the_loss_of_an_epoch_is_summed_in_float64():
    """2^24 + 3 of four steps, where float32 has even numbers alone."""
    cohort = make([trial_config(model="AE", latent_dim=2)], small_images())
    losses = torch.tensor([[2.0**24], [1.0], [1.0], [1.0]])
    assert _train_metrics(cohort, losses, 1)[0]["train/loss"] == 2**24 + 3


def test_members_of_a_cohort_share_the_time_of_its_epochs(small, images, monkeypatch):
    """By a clock that each look moves on by 8 s: 8 of training and 16 in all, of four members."""
    looks = itertools.count(0.0, 8.0)
    monkeypatch.setattr("fishernet.training.time", SimpleNamespace(perf_counter=lambda: next(looks), time=time.time))
    cohort = make([trial_config(model="AE", latent_dim=2, seed=seed, **small) for seed in range(4)], images)
    for record in next(train(cohort, images)):
        assert (record["metrics"]["train_seconds"], record["metrics"]["epoch_seconds"]) == (2.0, 4.0)


@pytest.mark.parametrize("model", MODEL_NAMES)
def test_scores_are_the_means_over_the_images_of_the_loss_its_terms_and_the_error_of_one_sample(model, small, images):
    cohort = make([trial_config(model=model, latent_dim=2, **small)], images)
    cohort.model.eval()
    resident = ResidentImages.of(images.test, torch.device("cpu"))
    x, noise = resident.take(torch.arange(40)[None]), cohort.draw_noise(cohort.noise_streams("evaluation", 0), 40)
    with torch.no_grad(), evaluating(cohort.model):  # a model may have other terms then
        outcome = cohort.model(x, noise)
    expected = {
        "mse": (x - cohort.model.reconstruction(x, cohort.model.posterior_mean(x))).square().mean(),
        "mse_sample": (x - torch.sigmoid(outcome.output)).square().mean(),
        "loss": outcome.loss.mean(),
        **{name: values.mean() for name, values in outcome.terms.items()},
    }
    scores = evaluate(cohort, resident)[0]
    assert scores == pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-5)
    assert next(iter(scores)) == "mse"  # MLflow's comparison opens with it
    assert (scores["mse"] == scores["mse_sample"]) == (not family(model).posterior)


def test_the_reported_mse_is_that_of_equations_32_and_33(small, images):
    config = trial_config(model="VAE", latent_dim=2, **small)
    cohort = make([config], images)
    metrics = history(cohort, images)[-1][0]
    x = images.test.flatten(1).double() / 255
    total = 0.0
    model = load_model(config, images.image_shape, len(images.train), cohort.member_weights(0))
    for image in x:
        f = model.reconstruct(model.posterior_mean(image.float()[None, None]))[0, 0].detach().double()
        total += float(sum((a - b) ** 2 for a, b in zip(image, f, strict=True))) / len(image)
    assert metrics["test/mse"] == pytest.approx(total / len(x), rel=1e-5)


def test_a_member_that_diverges_is_stopped_and_the_others_go_on_unharmed(small, images):
    """One member's weights are made infinite after its first epoch; the others' numbers stay bit for bit the same."""
    configs = [trial_config(latent_dim=d, **small) for d in (2, 3, 4)]
    untouched = history(make(configs, images), images)
    cohort = make(configs, images)
    seen = []
    for records in train(cohort, images):
        seen.append(records)
        if cohort.epoch == 1:
            cohort.model.decoder.layers[0].weight.data[1] = float("inf")
    assert [r is None for r in (records[1] for records in seen)] == [False, True, True]
    assert cohort.failures == {1: "diverged: the loss became nan in epoch 2, step 1 of 5"}
    assert len(cohort.history[1]) == 1
    for before, after in zip(untouched, seen, strict=True):
        for i in (0, 2):
            assert before[i] == {k: v for k, v in after[i]["metrics"].items() if "seconds" not in k}


def test_training_ends_when_every_member_has_diverged(small, images):
    cohort = make([trial_config(latent_dim=2, **small | {"learning_rate": 1e30})], images)
    assert list(train(cohort, images)) == [[None]]
    assert "epoch 1" in cohort.failures[0]


def test_members_of_a_cohort_differ_in_latent_dim_and_seed_alone(small, images):
    with pytest.raises(ValueError, match="these differ in learning_rate"):
        make([trial_config(**small), trial_config(**small | {"learning_rate": 0.5})], images)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "pickle", "missing"])
def test_a_damaged_checkpoint_is_found_and_changes_nothing(damage, small, images, tmp_path):
    cohort = make([trial_config(latent_dim=2, **small)], images)
    next(train(cohort, images))
    path = tmp_path / "state.safetensors"
    cohort.save(path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-100])
    elif damage == "flip":
        content[-50] ^= 0x10
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("{}")
    elif damage == "pickle":
        torch.save({"state": 1}, path)
    else:
        path.unlink()
    fresh = make([trial_config(latent_dim=2, **small)], images)
    before = {name: tensor.clone() for name, tensor in fresh.tensors().items()}
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        fresh.load(path)
    assert fresh.epoch == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in fresh.tensors().items())


def test_no_flipped_bit_of_a_checkpoint_goes_unnoticed(small, images, tmp_path):
    """Such as the F of a tensor's type F32, which makes an I of it and other numbers of the same bytes."""
    cohort = make([trial_config(latent_dim=2, **small)], images)
    path = tmp_path / "state.safetensors"
    cohort.save(path)
    content = path.read_bytes()
    types = [at for at in range(len(content)) if content.startswith(b'"F32"', at)]
    random = np.random.default_rng(0)
    for at in [types[0] + 1, *random.integers(len(content), size=200)]:
        damaged = bytearray(content)
        damaged[at] ^= 0x0F if at == types[0] + 1 else 1 << random.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            cohort.load(path)


def test_a_checkpoint_of_another_cohort_is_refused(small, images, tmp_path):
    cohort = make([trial_config(latent_dim=2, **small)], images)
    cohort.save(tmp_path / "state.safetensors")
    with pytest.raises(CheckpointError, match="other trial configs"):
        make([trial_config(latent_dim=3, **small)], images).load(tmp_path / "state.safetensors")


def test_a_runs_record_holds_the_held_out_images_alone_to_the_nearest_grey_value(small, images, tmp_path):
    cohort = make([trial_config(model="VAE", latent_dim=d, **small) for d in (2, 3)], images)
    write_records(tmp_path, cohort, images)
    x = ResidentImages.of(images.test, torch.device("cpu")).take(torch.arange(40)[None].expand(2, -1))
    means = cohort.model.posterior_mean(x).detach()
    restored = cohort.model.reconstruct(means).detach().numpy()
    for i, config in enumerate(cohort.configs):
        latents, pictures = (np.load(tmp_path / config.run_name / f"{name}.npz") for name in ("latents", "pictures"))
        np.testing.assert_allclose(latents["means"], means[i, :, : config.latent_dim], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(latents["labels"], images.test_labels)
        np.testing.assert_array_equal(pictures["originals"], images.test[:10])
        error = pictures["reconstructions"].reshape(10, -1) - 255 * restored[i, :10]
        assert np.abs(error).max() <= 0.5 + 1e-3  # float32 has 1e-5 of 255


def test_pca_is_the_floor_that_a_singular_value_decomposition_gives(images):
    x, y = images.train.flatten(1).double() / 255, images.test.flatten(1).double() / 255
    mean = x.mean(0)
    axes = torch.linalg.svd(x - mean, full_matrices=False).Vh
    for d, mse in pca_test_mse(images.train, images.test, [0, 1, 5, 90]).items():
        residual = (y - mean) - (y - mean) @ axes[:d].T @ axes[:d]
        assert mse == pytest.approx(float(residual.square().mean()), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize(
    ("n_pixels", "n"), [(64, 500), (784, 500), (1024, 500), (3 * 128**2, 64), (512**2, 64), (4096, 125)]
)
def test_an_evaluation_takes_no_more_images_at_once_than_training_where_they_are_large(n_pixels, n):
    assert evaluation_batch(n_pixels, least=64) == n


def test_an_evaluation_takes_fewer_images_the_more_numbers_all_members_emit(small, images, monkeypatch):
    cohort = make([trial_config(model="AE", seed=seed, **small | {"batch_size": 20}) for seed in range(3)], images)
    monkeypatch.setattr("fishernet.evaluation.EVALUATION_OUTPUTS", 25 * 3 * cohort.model.likelihood.n_outputs)
    taken, take = [], ResidentImages.take
    monkeypatch.setattr(
        ResidentImages, "take", lambda self, index, *_: taken.append(index.shape[1]) or take(self, index)
    )
    evaluate(cohort, ResidentImages.of(images.test, cohort.device))
    assert taken == [25, 15]


def test_an_epoch_keeps_no_array_of_each_step(small, images):
    """A small one among the large ones of a step would hold their places open: the heap grew by what a step takes, and again."""
    cohort = make([trial_config(model="AE", **small)], images)
    step, alive = Step(cohort, ResidentImages.of(images.train, cohort.device)), []

    def watched(index, noise):
        alive.append(sum(reference() is not None for reference in losses))
        loss = step(index, noise)
        losses.append(weakref.ref(loss))
        return loss

    losses: list[weakref.ref[torch.Tensor]] = []
    summed = train_epoch(cohort, step.images, watched)
    assert len(summed) == len(alive) > 3
    assert max(alive) <= 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library is Linux's")
def test_freed_memory_that_was_kept_can_be_given_back():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    keep_freed_memory()
    blocks = [torch.ones(2**22) for _ in range(20)]  # 16 MiB each
    del blocks
    kept = resident()
    give_freed_memory_back()
    assert kept - resident() > 15 * 2**24


def test_denormal_moments_become_zero_and_weights_stay_the_same(small, images):
    """Of weights whose gradient is 0, as those of a unit that has died; each of the others grows at the next step."""

    def moments(cohort):
        return torch.cat([m.flatten() for a in cohort.optimisers.values() for g in a.groups for m in g.exp_avg])

    def is_denormal(numbers):
        return (numbers != 0) & (numbers.abs() < torch.finfo(torch.float32).tiny)

    trained = []
    for epoch in (train_epoch, train_epoch.__wrapped__):
        cohort = make([trial_config(model="VAE", **small)], images)
        layer = next(m for m in cohort.model.modules() if hasattr(m, "weight"))
        layer.bias.data[:, 0] = -1e6
        for optimiser in cohort.optimisers.values():
            for group in optimiser.groups:
                for first in group.exp_avg:
                    first.fill_(1e-40)
        losses = epoch(cohort, ResidentImages.of(images.train, torch.device("cpu")))
        trained.append((losses, [p.detach() for p in cohort.model.parameters()], moments(cohort)))
    (losses, weights, flushed), (others, as_many, kept) = trained
    assert torch.equal(losses, others)
    assert all(map(torch.equal, weights, as_many))
    assert not is_denormal(flushed).any()
    assert is_denormal(kept).sum() >= images.train[0].numel()
    assert torch.equal(flushed, torch.where(is_denormal(kept), 0, kept))


def test_denormals_are_as_before_when_an_epoch_ends(small, images):
    def are_zero():
        return bool(torch.tensor(1e-40) * 1 == 0)

    cohort = make([trial_config(**small)], images)
    resident = ResidentImages.of(images.train, torch.device("cpu"))
    train_epoch(cohort, resident)
    assert not are_zero()
    with denormals_as_zero():
        assert are_zero()
        train_epoch(cohort, resident)
        assert are_zero()
    assert not are_zero()


def test_noise_as_wide_as_large_images_is_drawn_for_few_of_them(small, images):
    cohorts = {s: make([trial_config(model="FisherNet", sampler=s, **small)], images) for s in ("cholesky", "cg")}
    n_pixels = images.train[0].numel()
    assert cohorts["cholesky"].images_per_draw() == DRAWN_NUMBERS
    assert cohorts["cg"].images_per_draw() == DRAWN_NUMBERS // (n_pixels + 1)


def test_a_linear_autoencoder_never_beats_pca(small, images):
    """The AE without hidden layers is linear, so PCA of the training images bounds its training error, and it comes near."""
    config = trial_config(
        model="AE",
        latent_dim=2,
        decoder_output="linear",
        **small | {"hidden_layers": 0, "epochs": 300, "learning_rate": 1e-2},
    )
    cohort = make([config], images)
    mse = history(cohort, images)[-1][0]["train/loss"]
    floor = pca_test_mse(images.train, images.train, [2])[2]
    constant = 0.5 * 100 * torch.log(torch.tensor(2 * torch.pi)).item()
    error = 2 * (mse - constant) / 100
    assert floor * 0.999 < error < floor * 1.2


def test_a_checkpoint_is_json_and_tensors(small, images, tmp_path):
    """Nothing in it is executed when it is read: its state is text that JSON parses."""
    from safetensors import safe_open

    cohort = make([trial_config(latent_dim=2, **small)], images)
    cohort.save(tmp_path / "state.safetensors")
    with safe_open(tmp_path / "state.safetensors", framework="pt") as file:
        state = json.loads(file.metadata()["state"])
    assert trial_config(state["configs"][0]) == cohort.configs[0]
    assert not list(tmp_path.glob("*.writing"))


def test_checkpoints_take_no_more_than_their_share_of_the_time_unless_a_number_of_epochs_is_asked_for():
    pace, starts, lengths = Pace(0), [], []
    while len(starts) < 4:
        if pace.due(epoch=1):
            starts.append(time.monotonic())
            with pace:
                begun = time.monotonic()
                time.sleep(0.005)
                lengths.append(time.monotonic() - begun)
    for first, second, length in zip(starts, starts[1:], lengths, strict=False):
        assert second - first >= length / CHECKPOINTS_SHARE
    assert [epoch for epoch in range(1, 8) if Pace(3).due(epoch)] == [3, 6]


@on_a_gpu
@pytest.mark.parametrize("variant", [{"model": name} for name in MODEL_NAMES], ids=lambda v: v["model"])
def test_a_recorded_step_trains_as_the_plain_one(variant, small, images):
    """Also with the smaller last batch of each epoch between the replays, and after an evaluation."""
    set_arithmetic("float32")
    scores = []
    for recordable in (True, False):
        cohort = Cohort(
            [trial_config(latent_dim=d, **small | variant) for d in (2, 3)],
            images.image_shape,
            len(images.train),
            "cuda",
        )
        resident = ResidentImages.of(images.train, cohort.device)
        step = Step(cohort, resident)
        step.recordable = recordable
        losses = []
        for _ in range(4):
            losses.append(train_epoch(cohort, resident, step))
            evaluate(cohort, resident)
        assert (step.graph is not None) == recordable
        scores.append(torch.stack(losses))
    assert torch.equal(*scores)
