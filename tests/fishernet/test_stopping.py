"""Early stopping: when a run stops, what is kept of it, and that neither cohorts nor interruptions change that."""

import dataclasses
import json

import pytest
import torch

from fishernet import contract
from fishernet.cohort import load_model
from fishernet.data.images import ImageData, ResidentImages
from fishernet.evaluation import evaluate
from fishernet.families import trial_config
from fishernet.records import write_records
from fishernet.splitting import FittedCohort
from fishernet.state import CohortState
from fishernet.training import train

RATES = {"learning_rate": 0.05, "epochs": 12, "patience": 1, "stopping_size": 24, "batch_size": 8}


@pytest.fixture
def stopping(images):
    """A quarter of the training images to stop by."""
    return dataclasses.replace(images, train=images.train[:72], stopping=images.train[72:])


# Families with players, with a flow and, below, with batch normalisation: what else a run has in mid-patience.
OTHERS = [
    pytest.param({}, id="VAE"), pytest.param({"model": "MAE"}, id="MAE"),
    pytest.param({"model": "IAF", "flow_width": 8}, id="IAF", marks=pytest.mark.long),
]  # fmt: skip
every_other = pytest.mark.parametrize("other", OTHERS)


def config(d=3, seed=0, **values):
    return trial_config({**contract.SMALL, "model": "VAE", **RATES, "latent_dim": d, "seed": seed, **values})


def noted(cohort, losses):
    """The epoch after which member 0 stopped, where these are its losses by epoch; 0 where it did not."""
    for cohort.epoch, loss in enumerate(losses, 1):
        cohort.note_stopping_losses([loss] * len(cohort))
        if cohort.stopped:
            return cohort.stopped[0]
    return 0


@pytest.mark.parametrize(
    ("warmup", "best", "stops"), [(0, 30, 81), (100, 30, 150), (100, 120, 171), (0, 200, 0)], ids=str
)
def test_a_run_stops_when_it_has_waited_longer_than_its_patience_and_waits_from_the_warm_up_on(
    warmup, best, stops, images
):
    """Fifty epochs of patience end with the 51st that brings nothing lower, an equal loss included."""
    cohort = contract.made([config(epochs=200, patience=50, kl_warmup=warmup)], images)
    losses = [max(best - epoch, 0) + 1.0 for epoch in range(1, 201)]
    assert noted(cohort, losses) == stops
    assert cohort.best["best/epoch"].tolist() == [best]


def test_a_loss_that_is_no_number_is_no_reason_to_stop(images):
    """It is a failure, which the scores show."""
    cohort = contract.made([config(patience=2)], images)
    assert noted(cohort, [1.0, *[float("nan")] * 9]) == 0


def test_what_is_kept_and_scored_last_are_the_weights_of_the_lowest_loss(stopping, tmp_path):
    """Followed epoch by epoch: the last record has the scores of the weights that the best epoch ended with."""
    cohort, weights = contract.made([config()], stopping), {}
    for _ in train(cohort, stopping):
        weights[cohort.epoch] = cohort.member_weights(0)
    metrics = [record["metrics"] for record in cohort.history[0]]
    losses = [m["stopping/loss"] for m in metrics]
    best = losses.index(min(losses)) + 1
    assert cohort.stopped == {0: best + 2}
    assert len(metrics) == best + 2 < RATES["epochs"]
    assert [m["stopping/best_epoch"] for m in metrics][-3:] == [best] * 3
    for name, tensor in cohort.member_weights(0).items():
        assert torch.equal(tensor, weights[best][name]), name
    assert metrics[-1]["test/loss"] == metrics[best - 1]["test/loss"] != metrics[-2]["test/loss"]
    model = load_model(cohort.config, stopping.image_shape, 72, weights[best])
    cohort.model = model
    resident = ResidentImages.of(stopping.stopping, torch.device("cpu"))
    assert evaluate(cohort, resident)[0]["loss"] == pytest.approx(min(losses), rel=1e-6)


def test_a_run_that_stopped_early_is_finished(stopping, tmp_path):
    configs = [config(seed=s) for s in (0, 1)]
    cohort = contract.made(configs, stopping)
    contract.history(cohort, stopping)
    write_records(tmp_path, cohort, stopping)
    for c, records in zip(configs, cohort.history, strict=True):
        record = json.loads((tmp_path / c.run_name / "record.json").read_text())
        assert (record["status"], record["reason"]) == ("finished", None)
        assert record["epochs"][-1]["epoch"] == records[-1]["epoch"] < c.epochs


def test_without_stopping_the_best_weights_are_kept_where_patience_does_not_run_out(stopping):
    cohort = contract.made([config(patience=100)], stopping)
    metrics = [of_epoch[0] for of_epoch in contract.history(cohort, stopping)]
    assert not cohort.stopped
    losses = [m["stopping/loss"] for m in metrics]
    assert losses.index(min(losses)) < len(losses) - 1
    assert metrics[-1]["test/loss"] == metrics[losses.index(min(losses))]["test/loss"]


@every_other
def test_members_of_a_cohort_stop_each_at_its_own_epoch_with_the_numbers_it_has_alone(other, stopping):
    """In float64 to the order of summation; a member that has stopped trains along and is counted no more."""
    configs = [config(2, 0, **other), config(5, 1, **other), config(3, 2, **other)]
    together = contract.made(configs, stopping, dtype=torch.float64)
    contract.history(together, stopping)
    assert len(set(together.stopped.values())) > 1
    for i, c in enumerate(configs):
        alone = contract.made([c], stopping, dtype=torch.float64)
        contract.history(alone, stopping)
        assert alone.stopped.get(0) == together.stopped.get(i)
        for own, of_cohort in zip(alone.history[0], together.history[i], strict=True):
            assert own["epoch"] == of_cohort["epoch"]
            for name, value in own["metrics"].items():
                assert "seconds" in name or of_cohort["metrics"][name] == pytest.approx(value, rel=1e-7), name
        weights = together.member_weights(i)
        for name, tensor in alone.member_weights(0).items():
            assert torch.allclose(tensor, weights[name], rtol=1e-6, atol=1e-8), name


@every_other
def test_a_run_resumes_from_every_epoch_in_mid_patience_too_bit_for_bit(other, stopping, tmp_path):
    configs = [config(2, 0, kl_warmup=3, **other), config(5, 1, kl_warmup=3, **other)]
    whole = contract.made(configs, stopping)
    files, expected = {}, []
    for records in train(whole, stopping):
        expected.append([r and {k: v for k, v in r["metrics"].items() if "seconds" not in k} for r in records])
        files[whole.epoch] = tmp_path / f"{whole.epoch}.safetensors"
        whole.save(files[whole.epoch])
    assert whole.stopped
    waiting = 0
    for epoch, file in files.items():
        resumed = contract.made(configs, stopping)
        resumed.load(file)
        waiting += int(resumed.best["best/waited"].max() > 0)
        assert contract.history(resumed, stopping) == expected[epoch:]
        assert resumed.stopped == whole.stopped
        for name, tensor in whole.tensors().items():
            assert torch.equal(tensor, resumed.tensors()[name]), name
    assert waiting > 1


@every_other
def test_a_split_cohort_stops_its_members_as_cohorts_of_its_parts_do(other, stopping, tmp_path):
    """And is stored as one, from which the whole goes on; what has stopped in one part waits for the others."""
    configs = [config(2 + s % 2, s, **other) for s in range(4)]
    cohort = FittedCohort(
        configs, stopping, "cpu", turn=2, remedy="", saved=lambda: CohortState(list(configs)), say=print
    )
    cohort._parts = [CohortState(configs[:2]), CohortState(configs[2:])]
    told = {c.run_name: [] for c in configs}
    for records in cohort.train():
        cohort.save(tmp_path / "state.safetensors")
        for name, epochs in records.items():
            told[name] += epochs
    assert cohort.ended
    for part in (configs[:2], configs[2:]):
        alone = contract.made(part, stopping)
        contract.history(alone, stopping)
        for i, c in enumerate(part):
            assert cohort.stopped.get(c.run_name) == alone.stopped.get(i)
            losses = [r["metrics"]["train/loss"] for r in alone.history[i]]
            assert [r["metrics"]["train/loss"] for r in told[c.run_name]] == losses
    whole = CohortState.load(tmp_path / "state.safetensors", configs)
    assert whole.ended
    assert {configs[i].run_name: epoch for i, epoch in whole.stopped.items()} == cohort.stopped
    if leader_stopped := set(cohort.stopped.values()):
        assert whole.epoch >= max(leader_stopped)


@pytest.mark.long
def test_the_best_weights_have_their_running_statistics_and_a_resumed_run_too(tmp_path):
    """FAE with the gated convolutions of the paper's code, which normalise by batch."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (30, 1, 28, 28), generator=generator, dtype=torch.uint8)
    data = ImageData("made", pixels[:16], pixels[16:22], None, None, "0", "test", (), pixels[22:])
    configs = [config(2, s, model="FAE", network="fae-28", epochs=6, kl_warmup=0) for s in (0, 1)]
    whole, expected = contract.made(configs, data), []
    for records in train(whole, data):
        expected.append([r and {k: v for k, v in r["metrics"].items() if "seconds" not in k} for r in records])
        if whole.epoch == 2:
            whole.save(tmp_path / "state.safetensors")
    assert whole.stopped
    resumed = contract.made(configs, data)
    resumed.load(tmp_path / "state.safetensors")
    assert contract.history(resumed, data) == expected[2:]
    for i, records in enumerate(whole.history):
        metrics = [record["metrics"] for record in records]
        losses = [m["stopping/loss"] for m in metrics]
        assert metrics[-1]["test/loss"] == pytest.approx(metrics[losses.index(min(losses))]["test/loss"], rel=1e-6), i


@pytest.mark.parametrize("other", ["goes on", "fails", "fails in its scores"])
def test_a_member_that_diverges_while_it_trains_along_keeps_its_best_weights_and_its_record(
    other, stopping, monkeypatch
):
    """Also where training ends because all others have failed."""
    cohort = contract.made([config(2, 0, patience=100), config(3, 1, patience=100)], stopping)

    def spoil(i):
        cohort.model.decoder.layers[0].weight.data[i] = float("inf")

    for _ in train(cohort, stopping):
        if cohort.epoch == 2:
            cohort.finish_member(0)
            kept = cohort.member_weights(0)
        if cohort.epoch == 4 and other == "fails in its scores":
            monkeypatch.setattr("fishernet.training.evaluate", lambda *args: (spoil(1), evaluate(*args))[1])
        elif cohort.epoch == 4:
            spoil(0 if other == "goes on" else 1)
    assert set(cohort.failures) == (set() if other == "goes on" else {1})
    assert cohort.epoch == (RATES["epochs"] if other == "goes on" else 5)
    assert len(cohort.history[0]) == 2
    for name, tensor in cohort.member_weights(0).items():
        assert torch.equal(tensor, kept[name]), name


def test_patience_without_images_to_stop_by_is_refused(images, small):
    with pytest.raises(
        ValueError, match="patience 3 stops a run by its loss on images held out for it, so stopping_size"
    ):
        trial_config(model="VAE", patience=3, **small)
    with pytest.raises(ValueError, match="patience needs images to stop by"):
        next(train(contract.made([config()], images), images))


@pytest.mark.parametrize("model", ["VAE", "FisherNet"])
def test_the_weight_of_the_divergence_comes_in_over_the_warm_up_and_is_whole_in_evaluation(model, images, small):
    """Without learning, so that the divergence is the same in each epoch: a loss with warm-up is less by its missing share."""
    still = small | {"learning_rate": 1e-30, "epochs": 4, "objective": "eq24", "noise_start": -2.0}
    histories = [
        contract.history(contract.made([trial_config(model=model, latent_dim=3, kl_warmup=n, **still)], images), images)
        for n in (0, 3)
    ]
    plain, warm = ([epoch[0] for epoch in h] for h in histories)
    missing = [a["train/loss"] - b["train/loss"] for a, b in zip(plain, warm, strict=True)]
    assert missing[2:] == pytest.approx([0, 0], abs=1e-5)
    assert missing[0] == pytest.approx(2 * missing[1], rel=0.3)  # the noise of two epochs differs
    assert abs(missing[0]) > 1e-3
    for a, b in zip(plain, warm, strict=True):
        assert a["test/loss"] == pytest.approx(b["test/loss"], rel=1e-6)


def test_a_warm_up_of_100_epochs_is_0_01_to_1_and_weighs_each_members_own(images, small):
    """Sønderby et al. 2016, section 3.2; the members have kl_weight 1 and 2."""
    own = [trial_config(model="VAE", latent_dim=3, kl_warmup=100, kl_weight=beta, **small) for beta in (1.0, 2.0)]
    model = contract.made(own, images).model.train()
    shares = []
    for epoch in (1, 2, 50, 100, 150):
        model.begin_epoch(epoch)
        shares.append(model.kl_factor[:, 0].tolist())
    assert shares == [pytest.approx([share, 2 * share], rel=1e-7) for share in (0.01, 0.02, 0.5, 1.0, 1.0)]
    model.begin_epoch(1)
    assert model.eval().kl_factor[:, 0].tolist() == [1.0, 2.0]
