"""Curves, table and pictures of robustness say what the scores are; learned priors are drawn and sampled as what they are."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import reporting
from analysis.exhibits import Absent, Picture
from analysis.figures import FIGURES, prior_densities, robustness, samples
from analysis.frame import AnalysisError
from analysis.papers import PAPERS
from analysis.scores import SCORES, images
from analysis.scores import robustness as scores
from analysis.scores.sampling import ImproperPrior, fit_and_draw, latent_samples, prior_samples
from fishernet.families import family, trial_config
from tests.analysis.conftest import exhibits_of
from tests.analysis.made_sweep import made_model, made_sweep, scored
from tests.analysis.scores.test_sampling import N, Pixels, RealFeatures

LINES = ({"model": "VAE"}, {"model": "FisherAE"}, {"model": "WAE"})
EXPONENTIAL = {"model": "VAE", "prior": "exponential"}
IMPROPER = {"model": "FisherAE", "prior": "exponential", "prior_order": 5, "prior_top": "free"}
LEVELS = {"gaussian": (0.0, 0.2, 0.5), "mask": (0.0, 0.8)}


@pytest.fixture(scope="module")
def made():
    return scored(made_sweep(*LINES), LEVELS)


def test_a_run_is_scored_once_and_again_where_other_levels_are_asked_for(made):
    assert scores.tasks(made, LEVELS).tasks == []
    assert len(scores.tasks(made).tasks) == len(made.runs) == 9
    assert made.runs["robustness/gaussian/0.2/bce"].notna().all()
    assert made.runs["scores"][0]["robustness"] == {
        "levels": {"gaussian": [0.0, 0.2, 0.5], "mask": [0.0, 0.8]}, "n_images": 60, "statistics": "running",
    }  # fmt: skip


def test_a_decoder_that_sees_the_image_and_images_without_labels_are_scored_as_far_as_they_can_be():
    stored = scored(made_sweep({"model": "VAE"}, {"model": "PixelVAE"}, seeds=(0,), labels=False), LEVELS)
    assert stored.runs["robustness/mask/0.8/mse"].notna().tolist() == [True, False]
    assert not any("nmi" in str(name) for name in stored.runs)


def test_a_report_computes_the_scores_where_the_paper_asks_for_them(monkeypatch, made):
    asked = []
    monkeypatch.setattr(reporting.scores, "ensure", lambda stored, name, **given: asked.append(name) or [])
    made.failures, made.reasons = reporting.Failures(), {}
    for paper, there in ((None, False), (PAPERS["fishernet"], False), (PAPERS["fisher-ae"], True)):
        made.paper = paper
        asked.clear()
        reporting.compute(made, {})
        assert set(asked) == {name for name, row in SCORES.items() if row.usual} | (
            {"corruptions", "t-sne-clusters"} if there else set()
        )
    made.paper = None


def test_without_scores_a_sentence_stands_there_on_a_page_only_where_the_paper_asks_for_them(monkeypatch):
    bare = made_sweep({"model": "VAE"}, seeds=(0,))
    (absent,) = exhibits_of(robustness, bare)
    assert isinstance(absent, Absent)
    assert "`figures robustness` computes them" in absent.why
    monkeypatch.setattr(reporting, "FIGURES", {name: FIGURES[name] for name in ("robustness", "prior-densities")})
    bare.failures = reporting.Failures()
    bare.runs["setting"] = ""
    assert reporting.sections(bare) == []
    bare.paper = PAPERS["fisher-ae"]
    stems = [exhibit.stem for section in reporting.sections(bare) for exhibit in section.exhibits]
    assert stems == ["robustness_curves", "prior_densities"]


def test_curves_table_and_pictures_are_of_the_runs_scores(made):
    curves, table, nmi, pictures = exhibits_of(robustness, made)
    assert [e.stem for e in (curves, table, nmi, pictures)] == [
        "robustness_curves", "robustness", "nmi_curves", "noisy_reconstructions",
    ]  # fmt: skip
    of_vae = made.runs[made.runs["variant"] == "VAE"]
    row = curves.data.set_index(["variant", "kind", "level"]).loc[("VAE", "gaussian", 0.2)]
    assert row["mean"] == pytest.approx(of_vae["robustness/gaussian/0.2/bce"].mean())
    assert row["sd"] == pytest.approx(of_vae["robustness/gaussian/0.2/bce"].std())
    mean = made.images.train.flatten(1).double().mean(0) / 255
    x = made.images.test.flatten(1).double() / 255
    bce = -(x * mean.log() + (1 - x) * (1 - mean).log()).mean()
    assert row["mean_image"] == pytest.approx(bce.item(), rel=1e-5)
    *_, right = torch.linalg.svd(made.images.train.flatten(1) / 255 - mean)
    for kind, level in (
        ("gaussian", 0.5),
        ("mask", 0.8),
    ):  # the lines' own damage, projected on the training images' span
        damaged = scores.corrupted(made.images.test, kind, level, 0).flatten(1).double()
        f = (mean + (damaged - mean) @ right[:3].T @ right[:3]).clamp(1 / 512, 1 - 1 / 512)
        expected = -(x * f.log() + (1 - x) * (1 - f).log()).mean()
        found = curves.data.set_index(["variant", "kind", "level"]).loc[("VAE", kind, level)]["pca"]
        assert found == pytest.approx(expected.item(), rel=1e-4)
    numbers = table.data.set_index(["variant", "kind", "number"])["mean"]
    rise = of_vae["robustness/mask/0.8/bce"] - of_vae["robustness/mask/0/bce"]
    assert numbers["VAE", "mask", "rise"] == pytest.approx(rise.mean())
    assert numbers["VAE", "gaussian", "clean"] == numbers["VAE", "mask", "clean"]
    assert len(table.shown) == 6
    assert nmi.data["mean"].between(0, 1).all()
    run = made.pick("WAE-GAN", 3)
    noisy = scores.corrupted(made.images.test[:10], "gaussian", 0.2, 0).flatten(1)
    with torch.no_grad():
        shown = made.model(run).reconstruct(made.model(run).posterior_mean(noisy[None]))[0]
    mse = (shown - x[:10]).square().mean(1)
    found = pictures.data[(pictures.data["variant"] == "WAE-GAN") & (pictures.data["kind"] == "gaussian")]
    np.testing.assert_allclose(found["mse"], mse, rtol=1e-4)


def test_pictures_of_images_in_minus_one_to_one_have_the_papers_noise_of_2_which_is_half_here():
    symmetric = {"model": "AE", "likelihood": "gaussian", "pixel_range": "symmetric"}
    stored = scored(made_sweep(symmetric, seeds=(0,)), LEVELS)
    *_, pictures = exhibits_of(robustness, stored)
    assert set(zip(pictures.data["kind"], pictures.data["level"], strict=True)) == {("gaussian", 0.5), ("mask", 0.8)}
    assert robustness.shown_of(made_sweep(symmetric, {"model": "VAE"}, seeds=(0,)))["gaussian"] == 0.2


def test_an_error_that_never_doubles_and_one_seed_are_said(made):
    runs = made.runs[["variant", "model", "latent_dim", "seed"]][:1].assign(
        **{"robustness/mask/0/mse": 1.0, "robustness/mask/0.5/mse": 1.5, "robustness/mask/0.8/mse": 1.6}
    )
    data = robustness.levels_of(runs)
    assert robustness.error_of(data) == "mse"
    shown = robustness.table(data, "mse")
    assert shown.shown["doubles at"].tolist() == ["above 0.8"]
    assert shown.shown["rise"].tolist() == ["0.6000"]
    assert math.isinf(shown.data.set_index("number")["mean"]["doubled_at"])
    steep = robustness.table(robustness.levels_of(runs.assign(**{"robustness/mask/0.5/mse": 3.0})), "mse")
    assert steep.shown["doubles at"].tolist() == ["0.2500"]


def test_batch_normalisation_goes_by_running_statistics_or_by_a_damaged_batchs_own_and_leaves_no_trace():
    """As released: in training mode, batches of 128 are normalised by themselves."""
    config = trial_config(model="AE", network="fae-28", latent_dim=2)
    model = family("AE").load()([config], (1, 28, 28), 10).eval()
    images = torch.randint(0, 256, (150, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    levels = {"gaussian": [0.0, 0.5]}
    own, running, again = (
        scores.score_robustness(images, None, levels, of, model, 0) for of in ("batch", "running", "running")
    )
    assert own.about["statistics"] == "batch"
    assert running.metrics == again.metrics
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    model.train()
    x, total = images.float().flatten(1)[None] / 255, 0.0
    damaged = scores.corrupted(images, "gaussian", 0.5, 0).flatten(1)[None]
    with torch.no_grad():
        for clean, part in zip(x.split(128, 1), damaged.split(128, 1), strict=True):
            total += (clean - model.likelihood.mean(model.decode(model.posterior_mean(part)))).square().sum().item()
    assert own.metrics["robustness/gaussian/0.5/mse"] == pytest.approx(total / x.numel(), rel=1e-5)
    assert abs(own.metrics["robustness/gaussian/0.5/mse"] / running.metrics["robustness/gaussian/0.5/mse"] - 1) > 1e-3
    assert scores.statistics_of(trial_config(model="AE"), "batch") == "running"  # dense layers have none
    assert (
        scores.statistics_of(trial_config(model="AE", network="fae-28", normalisation="unnormalised"), "batch")
        == "running"
    )


def test_a_dimension_without_scores_is_refused(made):
    with pytest.raises(AnalysisError, match=r"--latent-dim 7 has no run with these scores; there are d = 3"):
        exhibits_of(robustness, made, 7)
    with pytest.raises(AnalysisError, match=r"--latent-dim 7 .* d = 3"):
        exhibits_of(prior_densities, made_sweep(EXPONENTIAL, seeds=(0,)), 7)


def test_a_learned_prior_is_drawn_as_a_density_over_the_codes_and_an_improper_one_is_a_sentence():
    stored = made_sweep(EXPONENTIAL, IMPROPER, {"model": "VAE"}, seeds=(0,))
    (picture,) = exhibits_of(prior_densities, stored)
    assert isinstance(picture, Picture)
    assert set(picture.data["variant"]) == {"VAE exponential"}
    assert (
        "FisherAE exponential free order=5 is left out: the prior is no density in 3 of 3 dimensions" in picture.caption
    )
    # K = 4 with an eta_4 of -0.001 is close to N(0, 1) where that has its mass.
    at = np.linspace(-2, 2, 9)
    of_normal = np.exp(-(at**2) / 2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(prior_densities.densities(made_model(**EXPONENTIAL)[1], at)[:, 1], of_normal, rtol=0.02)
    wide = np.linspace(-9, 9, 2001)
    p = prior_densities.densities(made_model(**EXPONENTIAL)[1], wide)
    np.testing.assert_allclose(p.sum(0) * (wide[1] - wide[0]), 1, rtol=1e-6)
    (none,) = exhibits_of(prior_densities, made_sweep({"model": "VAE"}, seeds=(0,)))
    assert isinstance(none, Absent)
    (absent,) = exhibits_of(prior_densities, made_sweep(IMPROPER, seeds=(0,)))
    assert isinstance(absent, Absent)


def test_codes_are_draws_of_the_posterior():
    _, model = made_model(**EXPONENTIAL)
    one = torch.zeros(20_000, 1, 8, 8, dtype=torch.uint8)
    z = prior_densities.codes(model, one, 0)
    q = model.posterior(torch.zeros(1, 1, 64))
    sd = (0.5 * q.log_variance[0, 0]).exp().detach().numpy()
    np.testing.assert_allclose(z.mean(0), q.mean[0, 0].detach(), atol=5 * sd.max() / math.sqrt(20_000))
    np.testing.assert_allclose(z.std(0), sd, rtol=5 / math.sqrt(2 * 20_000))


def test_samples_of_the_prior_are_the_runs_own_and_those_of_n01_what_they_were():
    stored = made_sweep({"model": "VAE"}, EXPONENTIAL, seeds=(4,))
    vae, exponential = (stored.pick(variant, 3) for variant in ("VAE", "VAE exponential"))
    before = np.random.default_rng(4).standard_normal((10_000, 3), dtype=np.float32)
    np.testing.assert_array_equal(latent_samples(stored, vae, "prior"), before)
    np.testing.assert_array_equal(fit_and_draw("prior", np.zeros((1, 3)), 4)[0], before)
    model = stored.model(exponential)
    with torch.no_grad():  # a Gaussian about 2, and flatter
        model.prior.eta[0, :, 0], model.prior.tau[0] = 1.0, -7.0
        model.prior.eta[0, :, 1] = -0.25
    z = latent_samples(stored, exponential, "prior")
    wide = np.linspace(-12, 12, 4001)
    p = prior_densities.densities(model, wide)[:, 0] * (wide[1] - wide[0])
    mean, sd = (wide * p).sum(), math.sqrt((wide**2 * p).sum() - (wide * p).sum() ** 2)
    assert mean > 1.5
    np.testing.assert_allclose(z.mean(0), mean, atol=5 * sd / math.sqrt(len(z)))
    np.testing.assert_allclose(z.std(0), sd, rtol=5 / math.sqrt(len(z)))
    np.testing.assert_array_equal(z, latent_samples(stored, exponential, "prior"))
    assert len(prior_samples(model, 0, 10_005)) == 10_005


def test_a_run_with_an_improper_prior_takes_no_others_along():
    stored = made_sweep({"model": "VAE"}, EXPONENTIAL, IMPROPER, seeds=(0,))
    with pytest.raises(ImproperPrior, match="no density in 3 of 3 dimensions"):
        latent_samples(stored, stored.pick("FisherAE exponential free order=5", 3), "prior")
    drawn, said = samples.samples_of(stored, [run for _, run in stored.runs.iterrows()], "prior")
    assert [run["variant"] for run, _ in drawn] == ["VAE", "VAE exponential"]
    (sentence,) = said
    assert sentence.startswith(
        "FisherAE exponential free order=5 at d = 3 is left out: the prior is no density in 3 of 3"
    )
    stored.variants, stored.seed = list(stored.lines), None
    picture = samples.prior_samples(stored, 3, ["VAE"])
    assert set(picture.data["variant"]) == {"VAE", "VAE exponential"}
    assert sentence in picture.caption
    assert (
        "N(0, 1) with the same latents for all that have it; of VAE exponential they are exact draws" in picture.caption
    )


class AllPixels(Pixels):
    n_features = 64


def test_distances_of_a_run_with_an_improper_prior_lack_that_set_alone_and_are_not_tried_again():
    _, model = made_model(**IMPROPER)
    test = torch.randint(0, 256, (N, 1, 8, 8), dtype=torch.uint8)
    extractor = AllPixels()
    real = RealFeatures.of(extractor.features(test.float() / 255))
    made = images.score_images("cpu", extractor, real, test, test, model, 0, {"prior": None, "reconstruction": None})
    assert "pixels/reconstruction/frechet" in made.metrics
    assert not any(name.startswith("pixels/prior/") for name in made.metrics)
    assert made.about["prior"]["n_images"] == 0
    assert "no density in 3 of 3 dimensions" in made.about["prior"]["remarks"][0]
    run = pd.Series({"scores": {"pixels": made.about}})
    assert images._has(run, "pixels", "prior", extractor, 0, {})
