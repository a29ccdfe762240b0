"""What a user does in Python: train a sweep of an array, look at it, use its best model."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fishernet
from analysis.errors import AnalysisError
from analysis.opened import OpenSweep
from analysis.stored import StoredSweep
from fishernet.data.loading import load_data

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "models": ["VAE", "AE"],
    "latent_dims": [2, 3],
    "seeds": 1,
    "epochs": 2,
    "hidden_width": 8,
    "hidden_layers": 1,
    "gpus": 0,
}


def test_a_sweep_that_is_refused_is_a_value_error_with_the_sentence_of_the_command(tmp_path):
    with pytest.raises(ValueError, match=r"--epochs .* must be a whole number"):
        fishernet.sweep("x", "digits", epochs="many", storage_path=tmp_path)
    with pytest.raises(ValueError, match=r"unrecognized arguments"):
        fishernet.sweep("x", "digits", epoch=3, storage_path=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_is_opened_with_its_runs_best_models_and_figures(trained):
    sweep = OpenSweep(StoredSweep(trained.sweep))
    assert repr(sweep) == f"<sweep trained: {len(sweep.runs)} of {len(trained.sweep.configs)} runs finished>"
    best = sweep.best("VAE", 5)
    ours = sweep.runs[(sweep.runs["variant"] == "VAE") & (sweep.runs["latent_dim"] == 5)]
    assert best.config == ours.loc[ours["test/mse"].idxmin(), "config"]
    assert sweep.best().config == sweep.runs.loc[sweep.runs["test/mse"].idxmin(), "config"]
    shown = sweep.figure("mse-curves")
    assert {exhibit.stem for exhibit in shown} >= {"mse", "mse_curves"}
    assert all(exhibit._repr_html_().startswith("<h4>") for exhibit in shown)
    assert any("data:image/png" in exhibit._repr_html_() for exhibit in shown)
    assert shown._repr_html_().count("<h4>") == len(shown) > 2
    with pytest.raises(AnalysisError, match="No run of VAE at d = 99 has finished in trained; it has "):
        sweep.best("VAE", 99)
    with pytest.raises(AnalysisError, match=r"it has .*\. Did you mean VAE\?$"):
        sweep.best("VEA")
    with pytest.raises(AnalysisError, match="There is no figure nothing; there are "):
        sweep.figure("nothing")
    with pytest.raises(AnalysisError, match="Did you mean mse-curves"):
        sweep.figure("mse-curve")
    assert sweep.best("vae", 5).config == best.config


def test_a_models_name_is_enough_where_none_of_its_lines_is_named_so(trained):
    stored = StoredSweep(trained.sweep)
    stored.__dict__["runs"] = trained.runs[trained.runs["variant"] == "VAE gaussian-learned"]
    assert OpenSweep(stored).best("VAE").config.variant == "VAE gaussian-learned"
    with pytest.raises(AnalysisError, match=r"Did you mean VAE\?$"):
        OpenSweep(stored).best("VEA")


@pytest.mark.long
def test_an_array_is_swept_opened_and_swept_on_and_an_interrupt_leaves_the_caller_alive(tmp_path, capsys):
    images = load_data("digits").train.numpy()[:300]
    sweep = fishernet.sweep("mine", images, storage_path=tmp_path, **SMALL)
    assert "4 of 4 runs" in capsys.readouterr().out or len(sweep.runs) == 4
    assert len(sweep.runs) == 4
    model = sweep.best("AE")
    assert model.reconstruct(images[:3]).shape == (3, 1, 8, 8)
    assert len(fishernet.sweep("mine", images, storage_path=tmp_path, **{**SMALL, "seeds": 2}).runs) == 8
    code = (
        "import fishernet\n"
        "settings = {'models': 'VAE', 'latent_dims': 2, 'seeds': 1, 'epochs': 9999, 'gpus': 0}\n"
        f"try: fishernet.sweep('long', 'digits', storage_path={str(tmp_path)!r}, **settings)\n"
        "except KeyboardInterrupt: print('alive')\n"
    )
    started = subprocess.Popen([sys.executable, "-u", "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline()  # its first, before Ray starts
    started.send_signal(signal.SIGINT)
    said = started.stdout.read()
    assert started.wait(timeout=120) == 0
    assert said.splitlines()[-1] == "alive"
    assert not np.isnan(sweep.runs["test/mse"]).any()


def test_arguments_of_a_figure_are_those_of_its_command_and_others_are_refused_by_name(trained):
    sweep = OpenSweep(StoredSweep(trained.sweep))
    by_epoch = [sweep.figure("mse-curves", epoch_dims=dims)[-1].caption for dims in ([2, 5], (2, 5), "2,5")]
    assert len({*by_epoch}) == 1
    assert "d = 2, 5;" in by_epoch[0]
    assert "d = 5;" in sweep.figure("mse-curves", epoch_dims=5)[-1].caption
    for name, argument, value, said in (
        ("mse-curves", "epoch_dim", 2, "takes epoch_dims. Did you mean epoch_dims"),
        ("mse-curves", "epoch_dims", "two", "got 'two'"),
        ("mse-curves", "epoch_dims", [], r"got \[\]"),
        ("robustness", "latent_dim", [2], r"a whole number; got \[2\]"),
        ("latent-space", "image", True, "a whole number; got True"),
        ("samples", "density", "normal", "is one of mkde, .*; got 'normal'"),
        ("samples", "density", "mixtur", r"got 'mixtur'\. Did you mean mixture\?$"),
        ("claims", "paper", "none", "which takes none"),
    ):
        with pytest.raises(AnalysisError, match=f"^{argument} .*{said}"):
            sweep.figure(name, **{argument: value})


@pytest.mark.parametrize(("argument", "value"), [("line", 3), ("latent_dim", "2"), ("latent_dim", 2.0)])
def test_the_best_model_of_what_cannot_be_is_refused_by_the_arguments_name(argument, value, trained):
    with pytest.raises(AnalysisError, match=f"^{argument} is .*; got {value!r}"):
        OpenSweep(StoredSweep(trained.sweep)).best(**{argument: value})
