"""Scores are computed from stored weights by real Ray tasks, logged to their runs, and never computed twice."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.frame import AnalysisError, find_sweep
from analysis.papers import PAPERS, arguments
from analysis.scores import clusters, distances, ensure, likelihood, sampling, tasks
from analysis.scores import images as scores_of_images
from analysis.scores.features import Extractor
from analysis.scores.sampling import latent_samples
from analysis.stored import StoredSweep
from fishernet.families import trial_config
from fishernet.models.vae import AE
from fishernet.services.mlflow_store import sqlite_path
from fishernet.trained import decode

SETS = ("reconstruction", "prior", "mixture")


class Halves(Extractor):
    """The mean grey values of both halves of an image; it keeps those of every set it is given."""

    name = "halves"
    n_features = 2
    batch_size = 1000
    batch_pixels = 1000 * 16

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(1, 1), "cpu")
        self.seen: list[np.ndarray] = []

    def features(self, images, progress=None):
        self.seen.append(super().features(images, progress))
        return self.seen[-1]

    def _of(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1).unflatten(1, (2, -1)).mean(2)


def mean_grey() -> AE:
    """Its one latent number is the mean grey value, and what it decodes is an image of that grey."""
    config = trial_config(model="AE", latent_dim=1, hidden_layers=0, decoder_output="linear")
    model = AE([config], (1, 4, 4), 100)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.heads_of_encoder["mean"].weight.fill_(1 / 16)
        model.decoder.layers[0].weight.fill_(1)
    return model


@pytest.mark.parametrize("swapped", [False, True])
def test_densities_are_fitted_to_training_images_and_reconstructions_are_of_held_out_ones(swapped, monkeypatch):
    """Training images are dark and held-out ones bright, or the other way round: so is all that comes of them."""
    monkeypatch.setattr(sampling, "N_SAMPLES", 300)
    generator = torch.Generator().manual_seed(0)
    dark, bright = (
        torch.randint(low, low + 60, (200, 1, 4, 4), dtype=torch.uint8, generator=generator) for low in (20, 170)
    )
    train, test = (bright, dark) if swapped else (dark, bright)
    extractor = Halves()
    real = distances.RealFeatures.of(extractor.features(test.float() / 255))
    sets = {"reconstruction": None, "mixture": None, "kde": None}
    scored = scores_of_images.score_images("cpu", extractor, real, train, test[:50], mean_grey(), 0, sets)
    of_reconstructions, *of_samples = (seen[:, 0] for seen in extractor.seen[1:])
    half_a_grey_value = 0.5 / 255 + 1e-6
    expected = test[:50].float().div(255).mean((1, 2, 3))
    np.testing.assert_allclose(of_reconstructions, expected, rtol=0, atol=half_a_grey_value)
    means = train.double().div(255).mean((1, 2, 3))
    for greys in of_samples:
        assert greys.mean() == pytest.approx(means.mean().item(), abs=5 * means.std().item() / len(greys) ** 0.5)
        assert len(greys) == 50
    assert set(scored.samples) == {"mixture", "kde"}
    assert {about["n_real"] for about in scored.about.values()} == {50}


def test_the_densest_mode_draws_and_rectified_normals_are_what_they_say_and_so_is_their_distance_to_noise():
    """One t of mean 0.2 with nearly all weight, one of few degrees of freedom with mean 0.8: that one is the densest."""
    config = trial_config(
        model="AE", likelihood="student-t", components=2, code="rectified", latent_dim=1, hidden_layers=0,
        decoder_output="linear",
    )  # fmt: skip
    model = AE([config], (1, 4, 4), 100).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        bias = model.decoder.layers[0].bias.view(-1)
        bias[:16], bias[16:32], bias[32], bias[34], bias[35] = 0.2, 0.8, 9, 20, -5
    test = torch.randint(0, 256, (200, 1, 4, 4), dtype=torch.uint8)
    extractor = Halves()
    real = distances.RealFeatures.of(extractor.features(test))
    noise = scores_of_images.noise_features(extractor, (1, 4, 4))
    sets = dict.fromkeys(("reconstruction", "densest_mode", "draws", "rectified"))
    scored = scores_of_images.score_images("cpu", extractor, real, test, test, model, 0, sets, noise)
    reconstructed, densest, drawn, rectified = extractor.seen[-4:]
    grey = pytest.approx(51 / 255, abs=1e-3)
    assert reconstructed.mean() == rectified.mean() == grey
    assert densest.mean() == pytest.approx(0.8, abs=1e-3)
    assert drawn.std() > 0.05  # each with a spread of its own, clipped to [0, 1]
    for name, seen in zip(sets, (reconstructed, densest, drawn, rectified), strict=True):
        to_noise = distances.frechet_distance(noise, distances.fit_gaussian(seen))
        assert scored.metrics[f"halves/{name}/frechet_to_noise"] == pytest.approx(to_noise)
        assert scored.about[name]["n_noise"] == 1000
    assert scored.metrics["halves/real_to_noise"] == pytest.approx(distances.frechet_distance(noise, real.gaussian))
    assert noise.mean == pytest.approx(0.5, abs=0.01)  # uniform


def test_a_run_has_the_sets_of_images_that_its_likelihood_and_code_allow():
    asked = ("reconstruction", "densest_mode", "draws", "rectified")
    told = {
        (): asked[:1],
        (("likelihood", "student-t"), ("components", 10)): asked[:3],
        (("components", 10),): ("reconstruction", "draws"),
        (("code", "rectified"),): ("reconstruction", "rectified"),
    }
    for values, sets in told.items():
        config = trial_config({"model": "AE", "decoder_output": "linear", **dict(values)})
        run = pd.Series({**config.to_dict(), "config": config})
        assert tuple(scores_of_images.image_sets_of(run, asked)) == sets


def test_every_run_has_the_scores_it_can_have(scored):
    runs = scored.runs
    assert runs["clusters/trace"].between(1, 10).all()
    of_two = (runs["latent_dim"] == 2) & (runs["model"] != "AE")
    assert (runs["ellipses/area"].notna() == of_two).all()
    assert runs["classifier/reconstruction/frechet"].notna().all()
    assert (runs["classifier/prior/frechet"].notna() == (runs["model"] != "AE")).all()


def test_a_second_call_starts_nothing(scored, monkeypatch):
    monkeypatch.setattr(tasks, "_start_ray", lambda gpus: pytest.fail("Ray was started"))
    assert ensure(scored, "k-means") == []
    assert ensure(scored, "ellipses") == []
    assert ensure(scored, "distances", features="classifier", images=SETS) == []


def test_what_a_task_logs_is_what_the_run_in_this_process_gives(scored):
    run = scored.pick("FisherNet", 5)
    means, labels = scored.latents(run)
    assert run["clusters/nmi"] == pytest.approx(clusters.cluster(means, labels, n_starts=clusters.N_STARTS).nmi)
    extractor = scores_of_images.sweep_classifier(scored, torch.device("cpu"))
    real = distances.RealFeatures.of(extractor.features(scored.images.test.float() / 255))
    for images, latents in (("reconstruction", means), ("mixture", latent_samples(scored, run, "mixture"))):
        n = len(scored.images.test)
        drawn = scores_of_images.grey_values(decode(scored.model(run), latents[:n], scored.images.image_shape))
        expected = distances.score(real, extractor.features(drawn), int(run["seed"])).values
        for score, value in expected.items():
            # float32: another number of threads sums in another order
            assert run[f"classifier/{images}/{score}"] == pytest.approx(value, rel=1e-3, abs=1e-4), (images, score)


def test_of_many_real_images_some_are_compared_the_same_ones_always(monkeypatch):
    """Nearest neighbours take time by the square of their number."""
    images = torch.arange(50, dtype=torch.uint8)[:, None, None, None].expand(50, 1, 2, 2)
    assert scores_of_images.some_real(images) is images
    monkeypatch.setattr(scores_of_images, "MOST_REAL", 20)
    some = scores_of_images.some_real(images)
    values = some[:, 0, 0, 0].tolist()
    assert len(values) == 20
    assert values == sorted(set(values))
    assert values != list(range(20))
    assert torch.equal(scores_of_images.some_real(images), some)


def test_too_many_classes_for_clusters_are_a_sentence(scored, monkeypatch):
    monkeypatch.setattr(clusters, "MOST_CLASSES", 9)
    with pytest.raises(AnalysisError, match="of 10 classes; clusters are compared with 9 at most"):
        clusters._latents(scored, scored.pick("VAE", 2))


def test_the_samples_of_a_fitted_density_are_stored_with_the_run(scored):
    run = scored.pick("VAE", 2)
    stored = sampling.find(scored, run, "mixture")
    assert stored is not None
    assert stored[0].shape == (10_000, 2)
    np.testing.assert_array_equal(latent_samples(scored, run, "mixture"), stored[0])
    assert sampling.find(scored, run, "kde") is None


def test_the_classifier_is_trained_once_and_stored_with_the_sweep(scored):
    again = scores_of_images.sweep_classifier(scored, torch.device("cpu"))
    made_with = {about["features"] for scores in scored.runs["scores"] for about in scores["classifier"].values()}
    assert made_with == {again.fingerprint}


def test_one_run_whose_weights_are_gone_is_said_and_leaves_the_others_their_scores(scored, tmp_path, monkeypatch):
    """In a store of its own, so that what others read stays as it is."""

    def fetch(stored, run, *asked):
        if run["seed"] == 0:
            if run["variant"] == "VAE":
                raise ZeroDivisionError("as nobody foresaw")
            raise AnalysisError("weights.safetensors of this run cannot be had")
        return whole(stored, run, *asked)

    whole = scores_of_images._sets
    monkeypatch.setattr(scores_of_images, "_sets", fetch)
    shutil.copy(sqlite_path(scored.sweep.uri), tmp_path / "copy.db")
    own = StoredSweep(find_sweep("trained", f"sqlite:///{tmp_path / 'copy.db'}"))
    said = ensure(own, "distances", features="classifier", images=("kde",), latent_dims=[2])
    foreseen, other = sorted(said)
    assert foreseen.startswith("classifier scores of 4 runs are missing: weights.safetensors of this run cannot be had")
    assert other.startswith("classifier scores of VAE d=2 seed=0 are missing: ZeroDivisionError: as nobody foresaw")
    assert own.failures.n == 1
    has_it = own.runs["classifier/kde/frechet"].notna()
    assert (has_it == ((own.runs["latent_dim"] == 2) & (own.runs["seed"] == 1))).all()


def test_runs_that_are_scored_as_one_stack_are_logged_each_and_fail_each(scored, tmp_path, monkeypatch):
    """As on two GPUs, here on a CPU; without the weights of one run its stack, of one seed, has no scores."""
    stacks_of, whole, made, said = likelihood.stacks_of, likelihood._arguments, {}, {}

    def fetch(stored, runs, *asked):
        if any(run["seed"] == 1 and run["latent_dim"] == 2 for run in runs):
            raise AnalysisError("weights.safetensors of this run cannot be had")
        return whole(stored, runs, *asked)

    for name, gpus in (("alone", 0), ("stacked", 2)):
        monkeypatch.setattr(likelihood, "stacks_of", lambda runs, _, gpus=gpus: stacks_of(runs, gpus))
        monkeypatch.setattr(likelihood, "_arguments", fetch if gpus else whole)
        shutil.copy(sqlite_path(scored.sweep.uri), tmp_path / f"{name}.db")
        own = StoredSweep(find_sweep("trained", f"sqlite:///{tmp_path / f'{name}.db'}"))
        said[name] = ensure(own, "likelihood", draws=5, nll_images=20, cache=None, gpus=0)
        made[name] = own.runs
    can_be = made["alone"]["likelihood/nll"].notna().to_numpy()
    made = {name: runs[can_be] for name, runs in made.items()}
    lost = (made["stacked"]["seed"] == 1).to_numpy()
    (sentence,) = set(said["stacked"]) - set(said["alone"])
    why = "are missing: weights.safetensors of this run"
    assert sentence.startswith(f"likelihood scores of {lost.sum()} runs {why}")
    assert made["stacked"]["likelihood/nll"].isna().tolist() == lost.tolist()
    names = [str(column) for column in made["alone"] if str(column).startswith("likelihood/")]
    alone, stacked = (made[name].loc[~lost, names].to_numpy(float) for name in ("alone", "stacked"))
    assert np.isfinite(alone).all()
    np.testing.assert_allclose(stacked, alone, rtol=1e-5)
    assert len(np.unique(alone[:, 0])) == (~lost).sum() > 1
    tags = [[of_run["likelihood"] for of_run in made[name].loc[~lost, "scores"]] for name in made]
    assert tags[0] == tags[1]


@pytest.mark.long
def test_scores_share_a_ray_unless_they_ask_for_other_gpus_and_none_is_left():
    with tasks.one_ray():
        ray = tasks._start_ray(0)
        node = ray.get_runtime_context().get_node_id()
        with tasks.one_ray():
            assert tasks._start_ray(0).get_runtime_context().get_node_id() == node
        assert ray.is_initialized()
        assert "GPU" not in ray.cluster_resources()
        assert tasks._start_ray(1).cluster_resources()["GPU"] == 1
    assert not ray.is_initialized()


def test_more_gpus_than_there_are_is_a_sentence(trained, capsys):
    from analysis.__main__ import main

    uri = ["--name", "trained", "--tracking-uri", trained.sweep.uri]
    assert main(["frechet", *uri, "--gpus", str(torch.cuda.device_count() + 1)]) == 2
    assert "--gpus" in capsys.readouterr().err


def test_sets_of_images_that_take_longer_are_scored_where_a_paper_or_a_flag_asks_for_them(trained, monkeypatch):
    def sets(**given):
        lacking = scores_of_images.tasks(trained, features="random", cache=None, gpus=0, **given)
        return {name for task in lacking.tasks for name in task.arguments.args[2]}

    monkeypatch.setattr("analysis.scores.densities.mkde_installed", lambda: True)
    assert sets() == {"reconstruction", "prior", "mixture", "kde"}
    assert sets(slow_images=("mkde",)) == {"reconstruction", "prior", "mixture", "kde", "mkde"}
    assert sets(images=("mkde",), slow_images=()) == {"mkde"}
    assert [paper.key for paper in PAPERS.values() if arguments(paper, "distances").get("slow_images")] == ["fishernet"]
    monkeypatch.setattr("analysis.scores.densities.mkde_installed", lambda: False)
    assert "mkde" not in sets(slow_images=("mkde",))
