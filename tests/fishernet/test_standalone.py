"""``python -m fishernet``: what is trained once is not trained again, and never on other images."""

import json

import numpy as np
import pytest

from fishernet import records
from fishernet.__main__ import main
from fishernet.data.loading import load_data
from fishernet.families import trial_config
from fishernet.pca import pca_test_mse
from fishernet.plan import SweepPlan

N_EPOCHS = 3


@pytest.fixture
def at(tmp_path, monkeypatch):
    """A folder with 60 images in x.npy and a plan of three seeds on them."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.random.default_rng(0).integers(0, 255, (60, 4, 4), dtype=np.uint8))
    configs = [
        trial_config(model="AE", dataset="x.npy", hidden_width=4, epochs=N_EPOCHS, seed=seed) for seed in range(3)
    ]
    (tmp_path / "plan.json").write_text(json.dumps([config.to_dict() for config in configs]))
    return tmp_path


def run(out: str) -> int:
    return main(["--plan=plan.json", f"--out={out}", "--device=cpu", "--cohort-size=3", "--checkpoint-every=1"])


def errors(folder) -> list[list[float]]:
    found = [json.loads((folder / f"AE-d02-s{seed}" / "record.json").read_text())["epochs"] for seed in range(3)]
    return [[epoch["metrics"]["test/mse"] for epoch in epochs] for epochs in found]


def test_a_cohort_that_was_stopped_amid_writing_its_records_is_not_trained_again(at, monkeypatch, capsys):
    assert run("undisturbed") == 0
    whole = records.write_json

    def stopped(path, value):
        whole(path, value)
        if path.name == "record.json":
            raise KeyboardInterrupt

    monkeypatch.setattr(records, "write_json", stopped)
    assert run("out") == 130
    monkeypatch.undo()
    monkeypatch.chdir(at)
    assert [path.parent.name for path in (at / "out").glob("*/record.json")] == ["AE-d02-s0"]
    capsys.readouterr()
    assert run("out") == 0
    assert " epoch " not in capsys.readouterr().out
    assert errors(at / "out") == errors(at / "undisturbed")
    assert not list((at / "out" / "checkpoints").iterdir())


def test_of_a_cohort_whose_record_was_damaged_only_that_run_is_trained_again(at, capsys):
    assert run("out") == 0
    (at / "out" / "AE-d02-s1" / "record.json").write_text("{")
    capsys.readouterr()
    assert run("out") == 0
    said = [line.split()[0] for line in capsys.readouterr().out.splitlines() if " epoch " in line]
    assert said == ["AE-d02-s1"] * N_EPOCHS


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"network": "fisherae-28"},
            "--network fisherae-28 takes images of 28 x 28 pixels; these have 4 x 4. --image-size 28 makes them so",
        ),
        (
            {"network": "pooled-cnn", "latent_dim": 6},
            "4 of these images, times the number of filters, such as 4 or 8; got 6",
        ),
    ],
)
def test_what_does_not_go_with_the_images_is_refused_before_anything_is_written(values, said, at, capsys):
    plan = [{"model": "AE", "dataset": "x.npy"}, {"model": "AE", "dataset": "x.npy", **values}]
    (at / "plan.json").write_text(json.dumps(plan))
    assert run("out") == 2
    assert said in capsys.readouterr().err
    assert not (at / "out").exists()


def test_the_plans_pca_is_fitted_to_the_training_images_and_measured_on_the_test_images(at):
    assert run("out") == 0
    data = load_data("x.npy")
    floors = json.loads((at / "out" / "plan.json").read_text())["pca_test_mse"]
    expected = pca_test_mse(data.train, data.test, [0, 2])
    assert floors == {str(d): pytest.approx(mse, rel=1e-9) for d, mse in expected.items()}
    assert floors["2"] != pytest.approx(pca_test_mse(data.test, data.train, [2])[2], rel=1e-3)


def test_a_folder_that_was_begun_on_other_images_is_refused_and_left_as_it_was(at, capsys):
    assert run("out") == 0
    plan = (at / "out" / "plan.json").read_text()
    np.save("x.npy", np.random.default_rng(1).integers(0, 255, (60, 4, 4), dtype=np.uint8))
    assert run("out") == 2
    assert "--out out was begun on other images" in capsys.readouterr().err
    assert (at / "out" / "plan.json").read_text() == plan


def test_a_log_file_is_told_how_far_all_is(at, capsys, monkeypatch):
    """A line every so many seconds on stderr: here after every epoch's record, as the clock is the loop's own."""
    from fishernet import progress, standalone

    told = []
    monkeypatch.setattr(
        progress.Progress, "advance", after(progress.Progress.advance, lambda bar: told.append(bar.line()))
    )
    plan = SweepPlan.read(at / "plan.json")
    assert standalone.train_plan(
        plan, at / "out", data_dir=None, device="cpu", threads=0, cohort_size=3, checkpoint_every=1, command="",
        progress_seconds=1e-4,
    ) == 0  # fmt: skip
    assert [line.partition("  best")[0] for line in told] == [f"0/3 runs  {n}/9 epochs" for n in range(1, 10)]
    assert "/3 runs  " in capsys.readouterr().err


def test_what_a_checkpoint_holds_counts_as_done(at, monkeypatch):
    from fishernet import standalone
    from fishernet.progress import Progress

    plan, told = SweepPlan.read(at / "plan.json"), []
    way = {"data_dir": None, "device": "cpu", "threads": 0, "cohort_size": 3, "checkpoint_every": 1, "command": ""}

    def note(bar):
        told.append(bar.line().partition("  best")[0])
        if told[-1] == "0/3 runs  4/9 epochs":  # amid the second epoch, which is in the checkpoint
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", after(Progress.advance, note))
        with pytest.raises(KeyboardInterrupt):
            standalone.train_plan(plan, at / "out", **way)
    told.clear()
    monkeypatch.setattr(Progress, "__enter__", note)
    monkeypatch.setattr(Progress, "__exit__", lambda bar, *_: note(bar))
    assert standalone.train_plan(plan, at / "out", **way) == 0
    assert told[0] == "0/3 runs  0/9 epochs"
    assert told[-1].startswith("3/3 runs  9/9 epochs")


def after(function, do):
    def both(bar, *given):
        function(bar, *given)
        do(bar)

    return both
