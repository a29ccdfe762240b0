"""Samples by SVGD stand beside exact ones with how wide they are; a prior that is no density has them with a warning."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.exhibits import Absent
from analysis.figures import frechet, samples
from analysis.scores import images, sampling
from analysis.scores.distances import RealFeatures
from analysis.scores.sampling import draw_by_svgd, prior_samples, say_spread, spread
from tests.analysis.made_sweep import SHAPE, made_model, made_sweep
from tests.analysis.scores.test_sampling import N, Pixels

EXPONENTIAL = {"model": "VAE", "prior": "exponential"}
FEW = sampling.Stein(60, 100)
IMPROPER = {"model": "FisherAE", "prior": "exponential", "prior_order": 5, "prior_top": "free"}


@pytest.fixture(autouse=True)
def few_particles(monkeypatch):
    for module in (sampling, images):
        monkeypatch.setattr(module, "USUAL", FEW)


def test_spread_is_the_variance_beside_exact_draws():
    _, model = made_model(**EXPONENTIAL)
    z = prior_samples(model, 0)
    assert spread(model, z, 0) == pytest.approx(1)
    assert spread(model, 0.5 * z, 0) == pytest.approx(0.25)
    assert spread(made_model(**IMPROPER)[1], z, 0) is None
    assert "0.25 times the variance" in say_spread(0.25)
    assert "no density" in say_spread(None)
    model = made_model(**(IMPROPER | {"prior_order": 4}))[1]
    with torch.no_grad():  # one of three rises without bound
        model.prior.eta[0, :, -1] = torch.tensor([-1.0, 1.0, -1.0])
    assert sampling.improper_dims(model) == 1
    assert "no density in 1 dimension, so" in say_spread(None, sampling.improper_dims(model))


def test_svgd_reports_its_collapse_and_the_tempered_prior_is_as_narrow():
    """In many dimensions one kernel for all lets the particles collapse."""
    _, wide = made_model(model="VAE", latent_dim=40)
    z, settings = draw_by_svgd(wide, "svgd", 0, 60)
    assert z.shape == (60, 40)
    assert settings["spread"] < 0.3
    tempered, of = draw_by_svgd(wide, "tempered", 0, 5000)
    assert tempered.shape == (5000, 40)
    assert tempered.var() == pytest.approx(z.var(0, ddof=1).mean(), rel=5 * math.sqrt(2 / tempered.size))
    assert of["spread"] == pytest.approx(settings["spread"], rel=0.05)
    _, narrow = made_model(model="VAE", latent_dim=1)
    assert draw_by_svgd(narrow, "svgd", 0, 60)[1]["spread"] == pytest.approx(1, abs=0.2)


def test_particles_follow_the_learned_prior():
    _, model = made_model(**EXPONENTIAL, latent_dim=1)
    with torch.no_grad():  # a Gaussian about 2 of variance 1/2
        model.prior.eta[0, :, 0], model.prior.eta[0, :, 1], model.prior.tau[0] = 4.0, -1.0, -20.0
    z, _ = draw_by_svgd(model, "svgd", 3, 100)
    assert len(z) == 120  # two clouds
    assert z.mean() == pytest.approx(2, abs=0.15)
    assert z.var() == pytest.approx(0.5, rel=0.25)


def test_of_which_runs_each_set_is():
    runs = made_sweep({"model": "VAE"}, EXPONENTIAL, {"model": "AE"}, {"model": "PixelVAE"}, seeds=(0,)).runs
    asked = ("prior", "svgd", "tempered")
    found = {run["variant"]: images.image_sets_of(run, asked) for _, run in runs.iterrows()}
    assert found == {
        "VAE": ["prior", "tempered"], "VAE exponential": ["prior", "svgd"], "AE": [], "PixelVAE": [],
    }  # fmt: skip


class AllPixels(Pixels):
    n_features = 64


def test_distances_by_svgd_are_scored_with_their_spread_which_the_tables_caption_says():
    test = torch.randint(0, 256, (N, *SHAPE), dtype=torch.uint8)
    extractor, rows = AllPixels(), []
    real = RealFeatures.of(extractor.features(test.float() / 255))
    for values, sets in ((EXPONENTIAL, ("svgd",)), (IMPROPER, ("svgd",)), ({"model": "VAE"}, ("tempered",))):
        config, model = made_model(**values)
        made = images.score_images("cpu", extractor, real, test, test, model, 0, dict.fromkeys(sets), how=FEW)
        assert made.about[sets[0]]["n_images"] == N
        assert set(made.samples) == set(sets)
        rows.append({
            "variant": config.variant, "model": config.model, "latent_dim": 3, "seed": 0, "scores": {"pixels": made.about}
        } | made.metrics)  # fmt: skip
    first, second = frechet.say_spreads(pd.DataFrame(rows), "pixels")
    value = rows[0]["scores"]["pixels"]["svgd"]["spread"]
    assert "Samples (prior by SVGD; 100 steps of 0.05, 60 particles): VAE" in first
    assert f"VAE exponential, d = 3, of {value:.2f} times the variance of exact draws" in first
    assert "FisherAE exponential free order=5, d = 3, of a prior that is no density in 3 dimensions, so" in first
    assert "VAE, d = 3, of 0." in second
    scores = frechet.tidy(pd.DataFrame(rows), "pixels")
    table = frechet.frechet_table(scores, "random", None).data.set_index("variant")
    assert table.loc["VAE exponential", "variance"] == pytest.approx(value)
    assert math.isnan(table.loc["FisherAE exponential free order=5", "variance"])
    assert set(frechet.other_scores_table(scores, "random").data["score"]) <= set(frechet.OTHERS)


def test_samples_by_svgd_are_shown_beside_exact_ones(monkeypatch):
    stored = made_sweep({"model": "VAE"}, EXPONENTIAL, {"model": "FisherAE"}, IMPROPER, seeds=(0,))
    stored.variants, stored.seed, kept = list(stored.lines), None, {}
    monkeypatch.setattr(sampling, "find", lambda stored, run, density, n: kept.get((run["run_id"], density)))
    monkeypatch.setattr(
        sampling, "keep", lambda stored, run, density, *made: kept.update({(run["run_id"], density): made})
    )
    picture = samples.density_samples(stored, 3, "svgd", ["VAE", "FisherAE"])
    assert set(picture.data["variant"]) == {"VAE exponential", "FisherAE exponential free order=5"}
    improper = picture.data[picture.data["variant"] == "FisherAE exponential free order=5"]
    assert set(improper["density"]) == {"svgd"}
    assert "Those of VAE exponential are of " in picture.caption
    assert "no density" in picture.caption
    assert "left out" not in picture.caption
    assert "fitted" not in picture.caption
    z = kept[stored.pick("VAE exponential", 3)["run_id"], "svgd"][0]
    np.testing.assert_allclose(picture.data.query("density == 'svgd'")["z1"].iloc[:5], z[:5, 0])
    assert isinstance(samples.density_samples(made_of_one(), 3, "svgd", ["VAE"]), Absent)
    stored = made_sweep({"model": "VAE"}, {"model": "FisherAE", "prior": "exponential"}, seeds=(0,))
    stored.variants, stored.seed = list(stored.lines), None
    of_any = samples.density_samples(stored, 3, "svgd")  # whichever model has it, not the first alone
    assert set(of_any.data["variant"]) == {"FisherAE exponential"}


def test_samples_are_drawn_again_where_svgd_is_asked_for_otherwise(monkeypatch):
    """The distances' flags: what a run has by other settings counts as lacking, and without a flag as had."""
    stored, extractor = made_sweep({"model": "VAE"}, EXPONENTIAL, seeds=(0,)), AllPixels()
    for about, run in zip(stored.runs["scores"], stored.runs["variant"], strict=True):
        name = "svgd" if "exponential" in run else "tempered"
        about["random"] = {
            name: {"features": extractor.fingerprint, "how": images.HOW, "by": {**FEW._asdict(), "steps": 7}}
        }
    monkeypatch.setattr(images, "_extractor_at_hand", lambda *_: extractor)
    monkeypatch.setattr(images, "real_features", lambda *_, **__: None)
    drawn = []
    monkeypatch.setattr(images, "find", lambda stored, run, density, n, how: drawn.append(how))

    def lacking(**how):
        made = images.tasks(stored, features="random", images=["svgd", "tempered"], gpus=0, **how).tasks
        return [task.arguments()[-1] for task in made]

    assert lacking() == lacking(svgd_steps=7) == lacking(svgd_steps=7, svgd_particles=60) == []
    assert lacking(svgd_steps=9) == [FEW._replace(steps=9)] * 2
    assert lacking(svgd_step_size=0.5) == [FEW._replace(step_size=0.5)] * 2
    assert drawn == [{"steps": 9}] * 2 + [{"step_size": 0.5}] * 2


def made_of_one():
    stored = made_sweep({"model": "VAE"}, seeds=(0,))
    stored.variants, stored.seed = list(stored.lines), None
    return stored
