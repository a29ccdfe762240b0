"""NMI after t-SNE is of its images, levels and seed; its picture and curve show what was stored."""

import math

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from analysis.exhibits import Absent, Picture
from analysis.figures import tsne as figure
from analysis.frame import AnalysisError
from analysis.scores import tsne
from analysis.scores.robustness import corrupted, nmi
from tests.analysis.conftest import exhibits_of
from tests.analysis.made_sweep import made_sweep

LEVELS = (0.0, 0.2)


def computed(stored, tmp_path):
    """The same with the scores that its runs lack, and their files as artifacts."""
    import json

    asked = tsne.tasks(stored, LEVELS)
    for task in asked.tasks:
        found = task.function(*asked.shared, *task.arguments())
        at = stored.runs.index[stored.runs["run_id"] == task.run["run_id"]][0]
        for name, value in found.metrics.items():
            stored.runs.loc[at, name] = value
        stored.runs.at[at, "scores"] = {task.group: found.about}
        path = tmp_path / f"{task.run['run_id']}.json"
        path.write_text(json.dumps(found.files[tsne.ARTIFACT]))
    stored.artifact = lambda run, name: tmp_path / f"{run['run_id']}.json"
    stored.class_of, stored.class_names, stored.reasons = np.arange(60) % 3, ("0", "1", "2"), {}
    return stored


def test_groups_that_are_apart_stay_apart_and_a_seed_decides_the_picture():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    z = (rng.normal(size=(120, 5)) + 20 * np.eye(5)[labels]).astype(np.float32)
    at = tsne.embedded(z, 1)
    assert at.shape == (120, 2)
    assert nmi(at, labels, 1) == pytest.approx(1)
    np.testing.assert_array_equal(at, tsne.embedded(z, 1))
    assert np.isnan(tsne.embedded(np.zeros((30, 3), np.float32), 0)).all()
    assert math.isnan(nmi(tsne.embedded(np.full((30, 3), np.inf, np.float32), 0), labels[:30], 0))


def test_scores_are_of_the_same_noisy_images_and_are_not_computed_twice(tmp_path):
    lines = ({"model": "VAE"}, {"model": "VAE", "latent_dim": 1}, {"model": "PixelVAE"})
    stored = made_sweep(*lines, seeds=(4,))
    assert [task.run["variant"] for task in tsne.tasks(stored, LEVELS).tasks] == ["VAE"]
    stored = computed(stored, tmp_path)
    run, labels = stored.runs.iloc[0], np.arange(60) % 3
    z = tsne.means(stored.model(run), corrupted(stored.images.test, "gaussian", 0.2, 4))
    assert run["tsne/gaussian/0.2/latents_nmi"] == pytest.approx(nmi(z, labels, 4))
    assert run["tsne/gaussian/0.2/nmi"] == pytest.approx(nmi(tsne.embedded(z, 4), labels, 4))
    assert tsne.tasks(stored, LEVELS).tasks == []
    assert len(tsne.tasks(stored).tasks) == 1


def test_images_without_labels_or_too_few_are_a_sentence():
    assert "need labels" in tsne.tasks(made_sweep({"model": "VAE"}, labels=False)).said[0]
    assert "20 images or more" in tsne.tasks(made_sweep({"model": "VAE"}, n=12)).said[0]


def test_curve_and_panels_show_what_is_stored_and_say_what_tsne_does(tmp_path):
    stored = made_sweep({"model": "VAE"}, {"model": "WAE"}, seeds=(0, 1))
    (absent,) = exhibits_of(figure, stored_without(stored))
    assert isinstance(absent, Absent)
    assert "`figures t-sne` computes them" in absent.why
    curves, panels = exhibits_of(figure, computed(stored, tmp_path))
    assert isinstance(curves, Picture)
    of_vae = stored.runs[stored.runs["variant"] == "VAE"]
    means = curves.data.set_index(["variant", "kind", "level"])["mean"]
    assert means["VAE", "nmi", 0.2] == pytest.approx(of_vae["tsne/gaussian/0.2/nmi"].mean())
    assert means["VAE", "latents_nmi", 0.0] == pytest.approx(of_vae["tsne/gaussian/0/latents_nmi"].mean())
    for picture in (curves, panels):
        assert "keeps neighbours and no distances" in picture.caption
        assert "the first 60 test images" in picture.caption
    assert set(panels.data["level"]) == set(LEVELS)
    assert len(panels.data) == 2 * len(LEVELS) * 60
    first, second = panels.figure.axes[:2]
    assert first.get_xlabel() == f"NMI {of_vae.iloc[0]['tsne/gaussian/0/nmi']:.2f}"
    assert (first.get_title(), second.get_title()) == ("clean", "variance 0.2")
    with pytest.raises(AnalysisError, match=r"--latent-dim 7 .* d = 3"):
        exhibits_of(figure, stored, 7)


def stored_without(stored):
    stored.reasons = {}
    return stored


def test_nmi_is_scikit_learns():
    one, other = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 2, 2, 2])
    joint = np.array([[2, 0, 0], [0, 1, 1], [0, 0, 2]]) / 6
    p, q = joint.sum(1), joint.sum(0)
    there = joint > 0
    information = (joint[there] * np.log(joint[there] / np.outer(p, q)[there])).sum()
    by_hand = 2 * information / (-(p * np.log(p)).sum() - (q * np.log(q)).sum())
    assert normalized_mutual_info_score(one, other) == pytest.approx(by_hand)
