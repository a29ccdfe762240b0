"""Labels may be any whole numbers, and many: forty classes 3, 6, …, 120, as a data set of one's own may have them."""

import json
import shutil

import numpy as np
import pytest

from analysis import frame
from analysis import reporting as report
from analysis.exhibits import Absent
from analysis.figures import clusters as cluster_table
from analysis.figures import latent_space
from analysis.frame import AnalysisError
from analysis.scores import clusters, ensure, tasks
from analysis.scores.clusters import cluster
from analysis.stored import StoredSweep
from fishernet.families import trial_config
from tests.analysis.conftest import exhibits_of

LABELS = list(range(3, 121, 3))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, empty_store):
    """One epoch of FisherNet and VAE, d = 2, on 8x8 images of those classes."""
    from fishernet.__main__ import main as train_plan
    from sweeps.import_records import main as import_records

    folder = tmp_path_factory.mktemp("labels")
    images = np.random.default_rng(0).integers(0, 256, (360, 8, 8)).astype(np.uint8)
    labels = np.resize(LABELS, 360)
    np.savez(
        folder / "own.npz", train=images[:240], test=images[240:], train_labels=labels[:240], test_labels=labels[240:]
    )
    plan = [
        trial_config(model=model, latent_dim=2, dataset=str(folder / "own.npz"), epochs=1, hidden_width=8).to_dict()
        for model in ("FisherNet", "VAE")
    ]
    (folder / "plan.json").write_text(json.dumps(plan))
    assert train_plan(["--plan", str(folder / "plan.json"), "--out", str(folder / "records"), "--device", "cpu"]) == 0
    uri = f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db').as_posix()}"
    arguments = ["--name", "labels", "--tracking-uri", uri, "--storage-path", str(folder)]
    assert import_records([str(folder / "records"), *arguments]) == 0
    return frame.find_sweep("labels", uri)


@pytest.fixture(scope="module")
def scored(sweep):
    """With cluster scores, logged as a worker's are."""
    stored = StoredSweep(sweep)
    for _, run in stored.runs.iterrows():
        found = clusters.score_clusters(*stored.latents(run))
        tasks.log(stored, tasks.ScoreTask(run, "clusters", clusters.score_clusters, tuple), found)
    stored.reload()
    return stored


def test_classes_are_the_labels_that_occur(sweep):
    stored = StoredSweep(sweep)
    assert stored.classes == tuple(LABELS)
    assert stored.class_names == tuple(map(str, LABELS))
    assert (np.array(LABELS)[stored.class_of] == stored.images.test_labels.numpy()).all()


def test_the_report_of_any_labels_is_whole(scored):
    exhibits = {exhibit.stem: exhibit for section in report.sections(scored) for exhibit in section.exhibits}
    assert not any(
        isinstance(exhibits[stem], Absent) for stem in ("latent_means", "uncertainty_of_classes", "cluster_overlap")
    )
    assert set(exhibits["uncertainty_of_classes"].data["class"]) == {"3", "6", "9"}
    (legend,) = exhibits["latent_means"].figure.legends
    assert [text.get_text() for text in legend.get_texts()][: len(LABELS)] == list(map(str, LABELS))
    assert exhibits["cluster_overlap"].data["label"].unique().tolist() == LABELS


def test_each_image_has_the_colour_of_its_class(sweep):
    stored = StoredSweep(sweep)
    figure = latent_space.latent_means(stored).figure
    colours = figure.axes[0].collections[0].get_facecolors()
    of_label = [{tuple(c) for c in colours[stored.images.test_labels.numpy() == label]} for label in LABELS]
    assert all(len(found) == 1 for found in of_label)
    assert len(set.union(*of_label)) == len(LABELS)


def test_the_overlap_of_many_classes_is_kept_whole_beside_the_tag(scored, monkeypatch):
    run = scored.pick("VAE", 2)
    assert "matrix" not in run["scores"]["clusters"]
    expected = cluster(*scored.latents(run), n_starts=clusters.N_STARTS)
    found = clusters.stored_clusters(scored, run)
    assert found.matrix.shape == (40, 40)
    assert np.abs(found.matrix - expected.matrix).max() <= 5.1e-5
    assert found.values() == expected.values()
    monkeypatch.setattr(tasks, "_start_ray", lambda gpus: pytest.fail("Ray was started"))
    assert ensure(scored, "k-means") == []


def test_an_overlap_in_the_tag_is_read_without_a_file(scored):
    run, expected = scored.pick("VAE", 2).copy(), clusters.stored_clusters(scored, scored.pick("VAE", 2))
    run["scores"] = {"clusters": expected.to_dict()}
    run["run_id"] = "none"
    np.testing.assert_array_equal(clusters.stored_clusters(scored, run).matrix, expected.matrix)


@pytest.mark.parametrize("text", ['{"matrix": [[0.1', "{}", "[1]"])
def test_a_damaged_overlap_is_a_sentence(scored, text, tmp_path):
    other, run = StoredSweep(scored.sweep), scored.pick("VAE", 2)
    (tmp_path / "clusters.json").write_text(text)
    other._files[run["run_id"], clusters.OVERLAP_ARTIFACT] = tmp_path / "clusters.json"
    with pytest.raises(AnalysisError, match=r"scores/clusters.json of run .* is damaged"):
        list(exhibits_of(cluster_table, other))
