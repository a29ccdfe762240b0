"""What a run stored comes back as it was: model, latents, images."""

import gc
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fishernet
from analysis import frame
from analysis.frame import AnalysisError
from analysis.stored import StoredSweep, config_of, model_flag
from fishernet.families import trial_config
from fishernet.trained import ModelError, decode, load_weights, posterior_covariances, posterior_means
from tests.analysis.conftest import TRAINED_DIMS, TRAINED_VARIANTS


@pytest.mark.parametrize("variant", TRAINED_VARIANTS)
def test_the_stored_weights_give_the_stored_latents_and_the_logged_mse(trained, variant):
    run = trained.pick(variant, 5)
    model, images = trained.model(run), trained.images.test
    means, labels = trained.latents(run)
    # float32: batches of another size sum in another order
    np.testing.assert_allclose(posterior_means(model, images), means, atol=1e-5)
    assert (labels == trained.images.test_labels.numpy()).all()
    mse = (decode(model, means, trained.images.image_shape) - images / 255).square().mean().item()
    assert mse == pytest.approx(run["test/mse"], rel=1e-4)


def test_a_model_is_loaded_by_the_id_of_its_run(trained):
    run = trained.pick("VAE", 5)
    for source in (run["run_id"], f"runs:/{run['run_id']}"):
        model = fishernet.load(source, tracking_uri=trained.sweep.uri)
        assert model.config == config_of(run)
        np.testing.assert_allclose(model.encode(trained.images.test), trained.latents(run)[0], atol=1e-5)
    with pytest.raises(ModelError, match=r"f{32}: MLflow at sqlite.* fails: .*f{32}"):
        fishernet.load("f" * 32, tracking_uri=trained.sweep.uri)


def test_the_posterior_of_fishernet_is_the_inverse_of_its_precision_and_the_vaes_is_diagonal(trained):
    images = trained.images.test[:7]
    model = trained.model(trained.pick("FisherNet", 5))
    covariances = torch.from_numpy(posterior_covariances(model, images))
    precision = model.precision(torch.from_numpy(posterior_means(model, images))[None])[0]
    torch.testing.assert_close(precision @ covariances, torch.eye(5).expand(7, 5, 5), atol=1e-3, rtol=0)
    vae = trained.model(trained.pick("VAE", 5))
    covariances = posterior_covariances(vae, images)
    variances = vae.encode(images.flatten(1).float()[None] / 255)["log_variance"][0].exp()
    np.testing.assert_allclose(np.diagonal(covariances, axis1=1, axis2=2), variances.detach(), rtol=1e-5)
    assert not (covariances * (1 - np.eye(5))).any()
    with pytest.raises(ModelError, match="AE has no uncertainty: AE has no posterior"):
        posterior_covariances(trained.model(trained.pick("AE", 5)), images)


def test_pictures_show_the_lowest_seed_or_the_one_asked_for(trained):
    assert trained.pick("VAE", 2)["seed"] == 0
    assert StoredSweep(trained.sweep, seed=1).pick("VAE", 2)["seed"] == 1
    with pytest.raises(AnalysisError, match=r"--seed 7 chooses .* only seeds 0, 1 have finished"):
        StoredSweep(trained.sweep, seed=7).pick("VAE", 2)


def test_what_is_missing_comes_with_the_command_that_trains_it(trained):
    with pytest.raises(AnalysisError, match="No run of VAE gaussian-learned at d = 15") as error:
        trained.pick("VAE gaussian-learned", 15)
    assert "--name trained --models VAE:likelihood=gaussian-learned --latent-dims 15" in str(error.value)
    with pytest.raises(AnalysisError, match=r"--name trained --plan FILE .*`, the file with these settings at d = 15"):
        trained.pick("VAE tuned", 15)  # a search's best setting, which no flag names


@pytest.mark.parametrize(
    "config",
    [
        trial_config(),
        trial_config(model="VAE", likelihood="gaussian-learned", noise="closed-form"),
        trial_config(objective="eq24", decoder_output="linear"),
        trial_config(sampler="cg"),
        trial_config(model="VAE", kl_weight=4.0),
        trial_config(objective="eq24", kl_weight=0.5),
    ],
)
def test_a_variant_as_a_flag_makes_the_same_variant(config):
    from sweeps.planning import model_overrides

    assert trial_config(model_overrides(model_flag(config))).variant == config.variant


def test_a_setting_that_looks_like_a_field_is_left_to_a_plan_file():
    assert model_flag(trial_config(model="VAE", setting="beta=4-tuned")) == ""


def test_runs_of_one_variant_that_are_told_apart_have_flags_of_their_own(store):
    stored = StoredSweep(frame.find_sweep("odd", store.uri))
    assert "--models CVAE:learning_rate=0.001 --latent" in stored.command_for(["CVAE learning_rate=0.001"], [3])


def test_weights_of_another_shape_or_cut_off_are_a_sentence(trained, tmp_path):
    run = trained.pick("VAE", TRAINED_DIMS[0])
    path = trained.artifact(run, "weights.safetensors")
    with pytest.raises(ModelError, match=r"The weights of VAE-d03-s0, weights.safetensors, cannot be used"):
        load_weights(path, trial_config(model="VAE", latent_dim=3, hidden_width=16))
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"cut.safetensors, cannot be used"):
        load_weights(tmp_path / "cut.safetensors", trial_config(model="VAE"))


def test_a_flipped_bit_of_weights_or_latents_is_a_sentence_and_never_another_model(trained, tmp_path):
    run, random = trained.pick("VAE", TRAINED_DIMS[0]), np.random.default_rng(0)
    config, means, noticed = config_of(run), trained.latents(run)[0], {"weights.safetensors": 0, "latents.npz": 0}
    weights = load_weights(trained.artifact(run, "weights.safetensors"), config)[0].state_dict()
    for name in noticed:
        content = trained.artifact(run, name).read_bytes()
        damaged = StoredSweep(trained.sweep)
        path = damaged._files[run["run_id"], name] = tmp_path / name
        for at in random.integers(len(content), size=150):
            flipped = bytearray(content)
            flipped[at] ^= 1 << random.integers(8)
            path.write_bytes(flipped)
            try:
                if name == "latents.npz":  # some bytes of a zip file mean nothing
                    assert np.array_equal(damaged.latents(run)[0], means)
                else:
                    found = load_weights(path, config)[0].state_dict()
                    assert all(torch.equal(found[key], tensor) for key, tensor in weights.items())
            except (AnalysisError, ModelError) as error:
                noticed[name] += name in str(error)
    assert min(noticed.values()) > 100


def test_damaged_samples_of_a_density_are_a_sentence(trained, tmp_path, monkeypatch):
    from analysis.scores import sampling

    run, damaged = trained.pick("VAE", TRAINED_DIMS[0]), StoredSweep(trained.sweep)
    with monkeypatch.context() as context:  # it goes to the run's artifacts otherwise
        files = SimpleNamespace(list_artifacts=lambda *_: [SimpleNamespace(path="latent_samples/mixture.npz")])
        context.setattr(sampling.mlflow_store, "files_of", lambda *_: files)
        path = damaged._files[run["run_id"], "latent_samples/mixture.npz"] = tmp_path / "mixture.npz"
        np.savez_compressed(path, samples=np.zeros((3, 2), np.float32), settings=np.array('{"steps": 9}'))
        found, settings = sampling.find(damaged, run, "mixture", 3)
        assert found.shape == (3, 2)
        assert settings == {"steps": 9}
        assert sampling.find(damaged, run, "mixture", 3, {"steps": 9})
        assert not sampling.find(damaged, run, "mixture", 3, {"steps": 8})
        for content in (b"PK\x03\x04 cut", path.read_bytes()[:100], b""):
            path.write_bytes(content)
            with pytest.raises(AnalysisError, match=r"mixture.npz of run .* is damaged.* samples are drawn again"):
                sampling.find(damaged, run, "mixture", 3)


def test_what_was_downloaded_goes_with_the_sweep_and_no_warning(trained):
    sweep = StoredSweep(trained.sweep)
    path = sweep.artifact(sweep.pick("VAE", 2), "weights.safetensors")
    assert path.is_file()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del sweep
        gc.collect()
    assert not path.exists()
    assert not [warning for warning in said if "fishernet-" in str(warning.message)]


def test_an_artifact_that_is_gone_is_a_sentence(trained):
    with pytest.raises(AnalysisError, match=r"absent.npz of VAE d=2 seed=0 cannot be had from MLflow"):
        trained.artifact(trained.pick("VAE", 2), "absent.npz")


def test_images_of_another_sweep_are_refused(trained):
    other = replace(trained.sweep, plan={**trained.sweep.plan, "data_fingerprint": "0123"})
    with pytest.raises(AnalysisError, match="trained on images with fingerprint 0123"):
        _ = StoredSweep(other).images


def test_training_images_that_were_drawn_anew_in_every_epoch_are_drawn_once(trained):
    """Black where they are black and white where they are white, whoever looks: densities, distances and likelihoods."""
    config = {**trained.sweep.configs[0].to_dict(), "binarisation": "dynamic"}
    dynamic = replace(trained.sweep, plan={**trained.sweep.plan, "configs": [config]})
    data, again = (StoredSweep(dynamic).images for _ in range(2))
    assert data.train.equal(again.train)
    assert data.train.unique().tolist() == data.test.unique().tolist() == [0, 255]
    grey, white = trained.images.train, data.train == 255
    assert grey.shape == white.shape
    assert not white[grey == 0].any()
    assert white[grey == 255].all()
    assert white.float().mean() == pytest.approx(grey.float().mean().item() / 255, abs=0.01)


def test_decoded_images_stay_within_grey_values(trained):
    images = decode(trained.model(trained.pick("AE", 2)), np.random.default_rng(0).normal(size=(3, 2)) * 50, (1, 8, 8))
    assert images.shape == (3, 1, 8, 8)
    assert images.min() >= 0
    assert images.max() <= 1
