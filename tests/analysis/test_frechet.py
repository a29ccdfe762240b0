"""Tables and claims take scores by one network's weights only, and say of which images."""

import numpy as np
import pandas as pd
import pytest

from analysis.errors import AnalysisError
from analysis.figures import claims, frechet
from analysis.scores import ensure, tasks
from analysis.scores.features import Classifier, train_classifier
from analysis.scores.images import HOW
from analysis.stored import StoredSweep
from tests.analysis.conftest import exhibits_of

VALUE = {"old": 1.0, "new": 100.0}


def scores_by(
    weights: dict[tuple[str, int], str], features: str = "classifier", d: int = 2, n_real: int = 50
) -> pd.DataFrame:
    """Runs (variant, seed), each with a distance of two sets of images that says which weights made it."""
    sets = ("reconstruction", "prior")
    rows = [
        {
            "run_id": f"{variant}{seed}", "variant": variant, "model": variant, "latent_dim": d, "seed": seed,
            **{f"{features}/{images}/{score}": VALUE[made_with] for images in sets for score in ("frechet", "kid")},
            "scores": {
                features: {
                    images: {"features": made_with, "how": HOW, "n_images": 70, "n_real": n_real} for images in sets
                }
            },
        }
        for (variant, seed), made_with in weights.items()
    ]  # fmt: skip
    return pd.DataFrame(rows)


def command(*words):
    """In the place of ``Sweep.command``."""
    return " ".join(words)


@pytest.mark.parametrize(("features", "flag"), [("inception", "--inception-weights FILE "), ("classifier", "")])
def test_scores_by_other_weights_than_most_are_left_out_and_the_command_is_said(features, flag):
    runs = scores_by({("VAE", 0): "new", ("VAE", 1): "old", ("VAE", 2): "new"}, features)
    kept, said = frechet.of_one_network(runs, features, command)
    assert frechet.tidy(kept, features)["value"].unique().tolist() == [100.0]
    assert len(frechet.tidy(kept, features)) == 2 * 2 * 2
    assert said == [
        f"Left out are scores of 1 run, as other weights of the {features} network made them; "
        f"`figures frechet --features {features} {flag}--latent-dims 2` scores all runs with the same."
    ]
    assert runs[f"{features}/prior/frechet"].tolist() == [100.0, 1.0, 100.0]  # the argument is as it was


def test_scores_by_one_network_are_all_kept_and_equal_numbers_are_decided_alike():
    runs = scores_by({("VAE", 0): "new", ("VAE", 1): "new"})
    assert frechet.of_one_network(runs, "classifier", command) == (runs, [])
    tied = [scores_by(dict(pairs)) for pairs in ([(("VAE", 0), "new"), (("VAE", 1), "old")],
                                              [(("VAE", 1), "old"), (("VAE", 0), "new")])]  # fmt: skip
    kept = [frechet.tidy(frechet.of_one_network(runs, "classifier", command)[0], "classifier") for runs in tied]
    assert [found["value"].unique().tolist() for found in kept] == [[100.0]] * 2


def test_one_run_may_have_sets_by_two_networks():
    runs = scores_by({("VAE", 0): "new", ("VAE", 1): "new"})
    runs.loc[0, ["classifier/prior/frechet", "classifier/prior/kid"]] = 1.0
    runs.loc[0, "scores"]["classifier"]["prior"]["features"] = "old"
    kept, said = frechet.of_one_network(runs, "classifier", command)
    assert kept["classifier/reconstruction/frechet"].tolist() == [100.0, 100.0]
    assert np.isnan(kept["classifier/prior/frechet"][0])
    assert "of 1 run," in said[0]


def test_the_numbers_of_images_and_which_they_are_is_said():
    runs = scores_by({("VAE", 0): "new"}, n_real=1500)
    (said,) = frechet.say_images(runs, "classifier", "validation")
    assert said.startswith("1,500 validation images are compared with 70 samples or 70 reconstructions of these;")
    table = frechet.frechet_table(frechet.tidy(runs, "classifier"), "classifier", None, [said], "validation")
    assert "against the validation images" in table.caption
    assert "test images" not in table.caption
    assert frechet.say_images(runs.assign(scores=[{}]), "classifier") == []


def test_the_distance_to_noise_of_every_set_has_a_table_beside_that_to_images():
    runs = scores_by({("VAE", 0): "new", ("VAE", 1): "new", ("AE", 0): "new"})
    scores = frechet.tidy(runs, "classifier")
    assert frechet.TO_NOISE not in set(scores["score"])
    for images, values in {"reconstruction": [500.0, 510.0, 300.0], "prior": [400.0, 420.0, np.nan]}.items():
        runs[f"classifier/{images}/frechet_to_noise"] = values
    runs["classifier/real_to_noise"] = 480.0
    table = frechet.noise_table(frechet.tidy(runs, "classifier"), "classifier", 480.0, "validation")
    rows = table.shown.set_index(["model", "images"])
    assert rows["to noise"].to_dict() == {
        ("VAE", "reconstruction"): "505.0 ± 7.1", ("VAE", "sample: prior"): "410.0 ± 14.1", ("AE", "reconstruction"): "300.0",
    }  # fmt: skip
    assert set(rows["to validation images"]) == {"100.0 ± 0.0", "100.0"}
    assert "validation images themselves have 480" in table.caption
    distances = frechet.frechet_table(frechet.tidy(runs, "classifier"), "classifier", None)
    assert set(distances.data["mean"]) == {100.0}  # the distance to noise is in no column of distances to images


def test_scores_to_noise_bring_their_table(scored):
    noisy = scored.runs.assign(
        **{"classifier/reconstruction/frechet_to_noise": 500.0, "classifier/real_to_noise": 480.0}
    )
    stored = StoredSweep(scored.sweep)
    stored.__dict__["runs"] = noisy
    *_, table = exhibits_of(frechet, stored, "classifier")
    assert table.stem == "to_noise_classifier"
    assert set(table.shown["images"]) == {"reconstruction"}
    assert "themselves have 480" in table.caption


def test_another_classifier_of_the_sweep_scores_all_runs_anew(scored, monkeypatch):
    monkeypatch.setattr("analysis.scores.features.LEAST_STEPS", 40)
    other = train_classifier(scored.images, seed=1)
    asked = []
    monkeypatch.setattr(Classifier, "load", lambda path, device: other)
    monkeypatch.setattr(tasks, "run_tasks", lambda stored, lacking: asked.extend(lacking.tasks) or [])
    assert ensure(scored, "distances", features="classifier", images=("reconstruction",)) == []
    assert len(asked) == len(scored.runs)
    asked.clear()
    assert ensure(scored, "distances", features="classifier", images=("reconstruction",), latent_dims=[2]) == []
    assert {job.run["latent_dim"] for job in asked} == {2}


def test_a_report_with_scores_of_two_classifiers_says_so_in_tables_and_claims(scored):
    def other_weights(run):
        if (run["variant"], run["seed"]) != ("VAE", 1):
            return run["scores"]
        about = {images: {**of, "features": "other"} for images, of in run["scores"]["classifier"].items()}
        return {**run["scores"], "classifier": about}

    stored = StoredSweep(scored.sweep)
    stored.__dict__["runs"] = scored.runs.assign(scores=scored.runs.apply(other_weights, axis=1))
    sentence = "Left out are scores of 2 runs, as other weights of the classifier network made them"
    table, others = exhibits_of(frechet, stored, "classifier")
    stored._paper = "fishernet"
    (verdicts,) = claims.parts(stored)
    for exhibit in (table, others, verdicts):
        assert sentence in exhibit.caption
        assert "--features classifier --latent-dims 2,5`" in exhibit.caption
        assert "fishernet figures frechet --name trained --tracking-uri " in exhibit.caption
    counts = table.data[table.data["images"] == "reconstruction"].set_index(["variant", "latent_dim"])["n_seeds"]
    assert counts["VAE"].tolist() == [1, 1]
    assert counts["FisherNet"].tolist() == [2, 2]


def test_a_damaged_classifier_matters_only_where_scores_are_missing(scored, monkeypatch):
    def damaged(path, device):
        raise AnalysisError("classifier.safetensors is no classifier that can be read")

    monkeypatch.setattr(Classifier, "load", damaged)
    monkeypatch.setattr(tasks, "_start_ray", lambda gpus: pytest.fail("Ray was started"))
    assert ensure(scored, "distances", features="classifier", images=("reconstruction",)) == []
    with pytest.raises(AnalysisError, match="no classifier that can be read"):
        ensure(scored, "distances", features="classifier", images=("kde",))
