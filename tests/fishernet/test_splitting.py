"""A cohort that does not fit is trained in parts, and nothing but the log tells of it."""

import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fishernet import splitting
from fishernet.cohort import Cohort
from fishernet.families import trial_config
from fishernet.records import write_records
from fishernet.splitting import FittedCohort, is_out_of_memory
from fishernet.state import CohortState
from fishernet.training import train

TIMES = ("epoch_seconds", "train_seconds")


class Memory(TorchDispatchMode):
    """Refuses, as a full device does, every tensor of more than ``limit`` numbers that any operation of torch makes."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit, self.refused = limit, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel() > self.limit:
                self.refused += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is")
        return made


def numbers(history):
    """Every metric but the times, by member and epoch."""
    return [[{k: v for k, v in r["metrics"].items() if k not in TIMES} for r in records] for records in history]


def fitted(configs, images, turn=1, file=None):
    said: list[str] = []

    def saved():
        return CohortState.load(file, configs) if file and file.exists() else CohortState(list(configs))

    return FittedCohort(configs, images, "cpu", turn=turn, remedy="buy more", saved=saved, say=said.append), said


def run(cohort, file=None, turn=1):
    told: dict[str, list[dict]] = {c.run_name: [] for c in cohort.configs}
    for records in cohort.train():
        for name, epochs in records.items():
            told[name] += epochs
        if file and cohort.epoch % turn == 0:
            cohort.save(file)
    return told


def trained(configs, images):
    cohort = Cohort(configs, images.image_shape, len(images.train))
    for _ in train(cohort, images):
        pass
    return cohort


def test_out_of_memory_is_told_from_other_errors():
    def allocate_on_the_cpu():
        torch.empty(2**62, dtype=torch.uint8)

    def behind_another():
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except torch.OutOfMemoryError:
            raise RuntimeError("operation failed during capture") from None

    def in_every_way_to_convolve():
        raise RuntimeError("GET was unable to find an engine to execute this computation")

    for fails in (allocate_on_the_cpu, behind_another, in_every_way_to_convolve, lambda: bytearray(2**62)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            fails()
        assert is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "model",
    [
        {"noise_start": -2.0},
        {"model": "VAE", "likelihood": "gaussian-learned", "noise": "closed-form"},
        {"model": "AE"},
    ],
    ids=str,
)
def test_held_out_images_reach_no_weight(model, small, images):
    """Others in their place, fewer, with other labels, leave the cohort and its training metrics as they were, bit for bit."""
    others = replace(images, test=255 - images.test[:7], test_labels=1 - images.test_labels[:7])
    configs = [trial_config(latent_dim=d, seed=d, **small | model) for d in (2, 3)]
    trained_on = []
    for data in (images, others):
        cohort, _ = fitted(configs, data)
        run(cohort)
        trained_on.append((cohort._live.tensors(), numbers(cohort.history)))
    (tensors, history), (tensors_of_others, history_of_others) = trained_on
    for name, tensor in tensors.items():
        assert torch.equal(tensor, tensors_of_others[name]), name
    for epochs, epochs_of_others in zip(history, history_of_others, strict=True):
        for metrics, of_others in zip(epochs, epochs_of_others, strict=True):
            differing = {name for name, value in metrics.items() if of_others[name] != value}
            assert {"test/mse", "test/loss"} <= differing
            assert all(name.startswith("test/") for name in differing)


# What is the largest tensor: weights, 5 members x 100 x 64; images of a training step, 5 x 48 x 100; those of an evaluation,
# 5 x 40 x 100. A convolution is computed member by member, so there the limit on images does not matter.
PLACES = {
    "building": ({"hidden_width": 64}, 20_000),
    "step": ({"batch_size": 48}, 21_000),
    "evaluation": ({"batch_size": 20}, 15_000),
    "down to one": ({"batch_size": 48}, 5_000),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("model", [{"model": "FisherNet", "sampler": "cg"}, {"model": "VAE"}, {"model": "AE"}], ids=str)
def test_a_split_cohort_gives_the_numbers_of_the_whole(model, place, small, images, monkeypatch):
    """Bit for bit those of its parts as cohorts of their own; of the whole to rounding, as any cohort of another size."""
    monkeypatch.setattr("fishernet.training.STEPS_PER_DRAW", 1)  # else the largest tensor is cg's noise
    settings, limit = PLACES[place]
    configs = [trial_config(latent_dim=2 + s % 2, seed=s, **small | settings | model) for s in range(5)]
    cohort, said = fitted(configs, images)
    with Memory(limit):
        told = run(cohort)
    assert "does not fit the memory of this process: split into cohorts of 3 and 2" in said[0]
    assert sorted(len(part.configs) for part in cohort._parts) == {"down to one": [1] * 5}.get(place, [2, 3])
    assert cohort.failures == {}
    assert numbers(told.values()) == numbers(cohort.history)
    parts = [trained(part.configs, images) for part in cohort._parts]
    assert numbers(cohort.history) == numbers(records for part in parts for records in part.history)
    for ours, whole in zip(numbers(cohort.history), numbers(trained(configs, images).history), strict=True):
        for epoch, expected in zip(ours, whole, strict=True):
            assert epoch == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("turn", "full_after"), [(1, 1), (2, 3), (3, 4), (10, 2)])
def test_memory_that_runs_out_between_checkpoints_costs_no_number_and_doubles_none(
    turn, full_after, small, images, tmp_path
):
    """The whole cohort trains until something else takes the memory in mid-epoch; its damaged state is not gone on from."""
    configs = [
        trial_config(model="VAE", latent_dim=2, seed=s, **small | {"epochs": 6, "batch_size": 48}) for s in range(4)
    ]
    file = tmp_path / "state.safetensors"
    cohort, said = fitted(configs, images, turn, file)
    memory, told = Memory(float("inf")), {c.run_name: [] for c in configs}
    with memory:
        for records in cohort.train():
            for name, epochs in records.items():
                told[name] += epochs
            if cohort.epoch % turn == 0:
                cohort.save(file)
            if cohort.epoch >= full_after:
                memory.limit = 15_000  # a step of 4 members x 48 x 100
    assert len(said) == 1
    assert memory.refused == 1
    assert [[r["epoch"] for r in records] for records in told.values()] == [[1, 2, 3, 4, 5, 6]] * 4
    assert [[r["epoch"] for r in records] for records in cohort.history] == [[1, 2, 3, 4, 5, 6]] * 4
    for ours, whole in zip(numbers(told.values()), numbers(trained(configs, images).history), strict=True):
        for epoch, expected in zip(ours, whole, strict=True):
            assert epoch == pytest.approx(expected, rel=1e-4)


def test_turns_end_where_checkpoints_are_due_and_are_gone_back_on_to_the_last(small, images, tmp_path):
    """Checkpoints after every second epoch, and memory that ends in the fourth: parts go on from the second, done once more."""
    configs = [
        trial_config(model="VAE", latent_dim=2, seed=s, **small | {"epochs": 7, "batch_size": 48}) for s in range(4)
    ]
    file = tmp_path / "state.safetensors"
    first = Cohort(configs, images.image_shape, len(images.train))
    next(train(first, images))
    first.save(file)
    cohort, _ = fitted(configs, images, 2, file)
    began, ends, memory = [], [], Memory(float("inf"))
    cohort._on_device = lambda part, of=cohort._on_device: (began.append(part.epoch), of(part))[1]
    with memory:
        for _ in cohort.train():
            ends.append(cohort.epoch)
            if cohort.epoch % 2 == 0:
                cohort.save(file)
            if cohort.epoch == 3:
                memory.limit = 15_000  # a step of 4 members x 48 x 100
    assert ends == [2, 3, 4, 6, 7]
    assert began == [1, 2, 2, 4, 4, 6, 6]


def test_a_split_cohort_is_stored_as_one_and_goes_on_whole_or_split_bit_for_bit(small, images, tmp_path):
    configs = [trial_config(model="VAE", latent_dim=d, seed=0, **small | {"batch_size": 48}) for d in (2, 3, 4, 5)]
    undisturbed, _ = fitted(configs, images)
    file = tmp_path / "state.safetensors"
    with Memory(15_000):
        expected = run(undisturbed)
        interrupted, _ = fitted(configs, images, 1, file)
        next(interrupted.train())
        interrupted.save(file)
        resumed, said = fitted(configs, images, 1, file)
        assert resumed.epoch == 1
        told = run(resumed)
    assert len(said) == 1
    assert [[r["epoch"] for r in records] for records in told.values()] == [[2, 3]] * 4
    assert numbers(resumed.history) == numbers(expected.values())
    whole = Cohort(configs, images.image_shape, len(images.train))
    whole.load(file)
    for _ in train(whole, images):
        pass
    for ours, records in zip(numbers(whole.history), numbers(expected.values()), strict=True):
        for epoch, value in zip(ours, records, strict=True):
            assert epoch == pytest.approx(value, rel=1e-4)


def test_a_member_that_does_not_fit_alone_fails_with_the_remedy_and_the_others_finish(small, images, tmp_path):
    """At d = 60 the weights between the last hidden layer and the latent space alone are beyond the limit."""
    configs = [
        trial_config(model="AE", latent_dim=d, **small | {"hidden_width": 70, "hidden_layers": 1}) for d in (2, 3, 130)
    ]
    cohort, said = fitted(configs, images)
    with Memory(9000):
        run(cohort)
        cohort.write_records(tmp_path)
    assert cohort.failures == {"AE-d130-s0": "AE-d130-s0 does not fit the memory of this process even alone; buy more"}
    assert len(said) == 2
    records = [json.loads((tmp_path / c.run_name / "record.json").read_text()) for c in configs]
    assert [record["status"] for record in records] == ["finished", "finished", "failed"]
    assert records[2]["reason"].endswith("buy more")
    cohort.save(tmp_path / "state.safetensors")
    resumed, _ = fitted(configs, images, file=tmp_path / "state.safetensors")
    assert resumed.ended
    assert resumed.failures == cohort.failures
    restored = Cohort(
        configs, images.image_shape, len(images.train)
    )  # of the failed, which was the widest, nothing is left
    restored.load(tmp_path / "state.safetensors")
    assert restored.failures == {2: records[2]["reason"]}


def test_records_are_written_in_parts_where_only_they_do_not_fit(small, images, tmp_path):
    configs = [trial_config(latent_dim=d, seed=0, **small) for d in (2, 3)]
    cohort, said = fitted(configs, images)
    run(cohort)
    cohort.write_records(tmp_path / "whole")
    assert said == []
    with Memory(7000):  # an evaluation of 2 x 40 x 100
        cohort.write_records(tmp_path / "parts")
    assert len(said) == 1
    write_records(tmp_path / "expected", trained(configs, images), images)
    for config in configs:
        means = [
            dict(np.load(tmp_path / kind / config.run_name / "latents.npz"))["means"]
            for kind in ("whole", "parts", "expected")
        ]
        assert np.array_equal(means[0], means[2])
        assert means[1] == pytest.approx(means[2], rel=1e-4, abs=1e-5)
    assert [len(records) for records in cohort.history] == [3, 3]


def test_records_that_do_not_fit_are_computed_without_what_training_held(small, images, tmp_path, monkeypatch):
    """Else they would find no room beside the cohort that they are to replace."""
    cohort, _ = fitted([trial_config(seed=0, **small)], images)
    run(cohort)
    trained_there, tried = weakref.ref(cohort._live), []

    def write(*args):
        tried.append(trained_there() is None)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        write_records(*args)

    monkeypatch.setattr(splitting, "write_records", write)
    cohort.write_records(tmp_path)
    assert tried == [False, True]
    assert json.loads(next(tmp_path.glob("*/record.json")).read_text())["status"] == "finished"


def test_what_is_to_be_said_of_numbers_is_said_once_for_the_cohort(images, small):
    configs = [trial_config(latent_dim=3, seed=s, sampler="cg", cg_iterations=1, **small) for s in range(3)]
    cohort, said = fitted(configs, images)
    run(cohort)
    (line,) = said
    assert line.startswith("FisherNet-cg-d03-s0 and 2 other runs of its cohort, epoch 1: conjugate gradients stopped")
