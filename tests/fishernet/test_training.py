"""The training loop, its checkpoints and its scores; what every model must do is in test_contract.py."""

import json
import time

import numpy as np
import pytest
import torch

from fishernet.cohort import Cohort, load_model
from fishernet.config import TrialConfig
from fishernet.contract import history
from fishernet.data import ImageData
from fishernet.evaluation import evaluate, pca_test_mse
from fishernet.families import MODEL_NAMES, trial_config
from fishernet.state import CHECKPOINTS_SHARE, CheckpointError, Pace
from fishernet.training import ResidentImages, Step, set_arithmetic, train, train_epoch

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make(configs: list[TrialConfig], images: ImageData) -> Cohort:
    return Cohort(configs, images.image_shape, len(images.train))


def test_weight_decay_shrinks_the_weights_alone_and_xi_has_its_own_rate(small, images):
    """Loshchilov and Hutter 2019, algorithm 2, first step: Adam moves by rate x sign, decay takes rate x decay x weight off."""
    resident = ResidentImages.of(images.train, torch.device("cpu"))
    small |= {"batch_size": len(images.train), "learning_rate": 1e-3}  # one step an epoch
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


def test_pca_is_the_floor_that_a_singular_value_decomposition_gives(images):
    x, y = images.train.flatten(1).double() / 255, images.test.flatten(1).double() / 255
    mean = x.mean(0)
    axes = torch.linalg.svd(x - mean, full_matrices=False).Vh
    for d, mse in pca_test_mse(images.train, images.test, [0, 1, 5, 90]).items():
        residual = (y - mean) - (y - mean) @ axes[:d].T @ axes[:d]
        assert mse == pytest.approx(float(residual.square().mean()), rel=1e-9, abs=1e-14)


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
