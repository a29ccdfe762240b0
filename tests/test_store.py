"""One MLflow store, whatever people do to it in MLflow's page or move it to: drivers and analyses read the same.

MLflow is the real one, on SQLite; the store is written once by the product's own tracker, and each test has a copy.
"""

import gzip
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import command, frame
from analysis.__main__ import main as analyse
from analysis.stored import StoredSweep
from analysis.studies import load_studies
from fishernet.config import TrialConfig
from fishernet.families import trial_config
from fishernet.plan import SweepPlan
from fishernet.services import mlflow_store, schema
from sweeps.latent_sweep import _parse
from sweeps.launch import JobList
from sweeps.planning import plan_from_flags
from sweeps.tracking import SweepTracking

BEFORE = Path(__file__).parent / "fixtures" / "before"

DONE, STOPPED, FAILED = (trial_config(model="VAE", latent_dim=d, epochs=3) for d in (2, 3, 4))
CONFIGS = (DONE, STOPPED, FAILED)
PLAN = {**SweepPlan(CONFIGS).to_dict(), "data_fingerprint": "f", "held_out": "test"}
NAME, FILE = "mine", "deeper/notes.txt"


def epochs(last: int) -> list[dict[str, Any]]:
    return [
        {
            "epoch": i,
            "time": 1_700_000_000.0 + i,
            "metrics": {"train/loss": 100.0 / i, "test/mse": 1 / i, "epoch_seconds": 0.5, "train_seconds": 0.4},
        }
        for i in range(1, last + 1)
    ]


def files(folder: Path) -> Path:
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text("kept")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one sweep: a run that finished, one stopped after two of three epochs, one that failed."""
    folder = tmp_path_factory.mktemp("made") / "results"
    tracking = opened(folder, create=True)
    tracking.describe(PLAN, {"epochs": 3}, "command", "what the plan says")
    tracking.log_parent_metrics([(schema.PCA, 0.05, 2)])
    tracking.log_parent_artifacts(files(folder / NAME / "figures"))
    tracking.log_epochs(DONE, epochs(3))
    tracking.finish(DONE, "FINISHED", artifacts=files(folder / NAME / "record"))
    tracking.log_epochs(STOPPED, epochs(2))
    tracking.finish(STOPPED, "KILLED", "interrupted")
    tracking.finish(FAILED, "FAILED", "out of memory")
    assert tracking.close("KILLED")
    return folder


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    """A copy of the database alone; its files stay where it was made."""
    (tmp_path / "results").mkdir()
    shutil.copy(made / "mlflow.db", tmp_path / "results")
    return tmp_path / "results"


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def opened(folder: Path, *, create: bool = False, name: str = NAME, log: Callable[[str], Any] = print) -> SweepTracking:
    root = mlflow_store.default_artifact_root(folder)
    return SweepTracking.open(name, uri_of(folder), artifact_root=root, create=create, log=log)


def client(folder: Path) -> Any:
    return mlflow_store.client_of(uri_of(folder))


def ids(folder: Path, name: str = NAME) -> tuple[str, str, dict[TrialConfig, str]]:
    """The ids of the experiment, of the parent and, by config, of the children."""
    mlflow = client(folder)
    experiment = mlflow.get_experiment_by_name(name).experiment_id
    runs = {schema.config_of(run): run.info.run_id for run in mlflow_store.children(mlflow, experiment)}
    return experiment, mlflow_store.parents(mlflow, [experiment])[0].info.run_id, runs


def seen(folder: Path, name: str = NAME) -> pd.DataFrame:
    """What analyses see, without what the test's stranger may add in columns of its own."""
    runs = frame.load_runs(frame.find_sweep(name, uri_of(folder)))
    names = ["config", "variant", "run_id", "status", "reason", "n_epochs", "n_runs", "scores", "test/mse"]
    return runs[[*frame.config_columns(runs), *names]]


def both_see(folder: Path, name: str = NAME) -> dict[TrialConfig, tuple[str, str, int]]:
    """Config -> run, status and last epoch, as the driver and the analyses see them, which is the same."""
    driver = {c: (r.run_id, r.status, r.last_epoch) for c, r in opened(folder, name=name).found.items()}
    rows = seen(folder, name).to_dict("records")
    analysis = {row["config"]: (row["run_id"], row["status"], row["n_epochs"]) for row in rows}
    assert driver == analysis
    return driver


def described(folder: Path, note: str = "what the plan says", **how: Any) -> SweepTracking:
    """What every call of a driver writes: the sweep is opened and described again."""
    tracking = opened(folder, **how)
    tracking.describe(PLAN, {"epochs": 3}, "command", note)
    assert tracking.close("KILLED")
    return tracking


# A parent, a child or an experiment that is deleted, restored, moved or renamed


def test_runs_whose_parent_was_deleted_are_found_by_everybody_and_hang_on_the_new_one(results: Path) -> None:
    before, (_, parent, runs) = both_see(results), ids(results)
    client(results).delete_run(parent)
    assert described(results, create=True).parent_run_id != parent
    assert both_see(results) == before
    for run in runs.values():
        assert client(results).get_run(run).data.tags[schema.PARENT] == ids(results)[1]
    sweep = frame.find_sweep(NAME, uri_of(results))
    assert set(frame.missing_cells(sweep, frame.load_runs(sweep))["latent_dim"]) == {3, 4}


def test_a_deleted_parent_is_restored_by_resume_and_until_then_named_by_analyses(results: Path) -> None:
    before, (_, parent, _) = both_see(results), ids(results)
    client(results).delete_run(parent)
    with pytest.raises(
        frame.AnalysisError, match=r"holds the plan of mine was deleted in MLflow; `.*--resume mine .*` restores"
    ):
        frame.find_sweep(NAME, uri_of(results))
    said: list[str] = []
    tracking = opened(results, log=said.append)
    assert (tracking.parent_run_id, tracking.plan) == (parent, PLAN)
    assert said == ["the run that holds the plan of mine was deleted in MLflow; it is restored"]
    assert both_see(results) == before


def test_a_sweep_deleted_with_its_runs_is_resumed_with_a_word_on_those(results: Path) -> None:
    """MLflow's page deletes a run with or without its children."""
    _, parent, runs = ids(results)
    for run in (parent, *runs.values()):
        client(results).delete_run(run)
    said: list[str] = []
    tracking = opened(results, log=said.append)
    assert (tracking.parent_run_id, tracking.found) == (parent, {})
    assert said[1:] == ["3 runs of mine were deleted, too; what is not restored in MLflow is trained again"]


def test_a_parent_without_a_plan_is_not_taken_where_another_has_one(results: Path) -> None:
    """As a driver leaves it that dies between making it and describing it."""
    before, (experiment, parent, _) = both_see(results), ids(results)
    client(results).create_run(experiment, tags={schema.ROLE: "sweep", schema.SWEEP: NAME})
    assert opened(results, create=True).parent_run_id == frame.find_sweep(NAME, uri_of(results)).parent_run_id == parent
    assert both_see(results) == before


def test_of_two_parents_everybody_takes_the_one_made_last(results: Path) -> None:
    before, (_, parent, _) = both_see(results), ids(results)
    client(results).delete_run(parent)
    second = described(results, create=True).parent_run_id
    client(results).restore_run(parent)
    assert opened(results).parent_run_id == frame.find_sweep(NAME, uri_of(results)).parent_run_id == second
    assert both_see(results) == before


def test_a_run_that_a_user_hung_elsewhere_stays_there_and_is_the_sweeps(results: Path) -> None:
    before, (experiment, _, runs) = both_see(results), ids(results)
    mlflow = client(results)
    group = mlflow.create_run(experiment, run_name="the good ones").info.run_id
    mlflow.set_tag(runs[DONE], schema.PARENT, group)
    mlflow.delete_tag(runs[STOPPED], schema.PARENT)
    described(results)
    assert both_see(results) == before
    assert mlflow.get_run(runs[DONE]).data.tags[schema.PARENT] == group
    assert schema.PARENT not in mlflow.get_run(runs[STOPPED]).data.tags


def test_a_deleted_run_is_trained_again_and_one_that_is_restored_beside_it_counts_once(results: Path) -> None:
    _, _, runs = ids(results)
    client(results).delete_run(runs[DONE])
    assert set(both_see(results)) == {STOPPED, FAILED}
    tracking = opened(results)
    tracking.log_epochs(DONE, epochs(1))
    assert tracking.close("KILLED")
    assert both_see(results)[DONE][1:] == ("RUNNING", 1)
    client(results).restore_run(runs[DONE])
    assert both_see(results)[DONE] == (runs[DONE], "FINISHED", 3)
    assert seen(results).set_index("latent_dim")["n_runs"].to_dict() == {2: 2, 3: 1, 4: 1}


def test_a_deleted_experiment_is_named_with_what_restores_it_and_then_is_as_before(results: Path) -> None:
    before, (experiment, _, _) = both_see(results), ids(results)
    client(results).delete_experiment(experiment)
    restores = f"mlflow experiments restore --experiment-id {experiment}"
    with pytest.raises(mlflow_store.TrackingError, match=restores):
        opened(results, create=True)
    with pytest.raises(frame.AnalysisError, match=restores):
        frame.find_sweep(NAME, uri_of(results))
    client(results).restore_experiment(experiment)
    assert both_see(results) == before


def test_a_renamed_experiment_is_found_by_its_new_name_with_the_folder_of_the_old(results: Path) -> None:
    before, (experiment, _, _) = both_see(results), ids(results)
    client(results).rename_experiment(experiment, "better")
    assert both_see(results, "better") == before
    assert opened(results, name="better").begun_as == frame.find_sweep("better", uri_of(results)).begun_as == NAME
    with pytest.raises(frame.AnalysisError, match="there are: better"):
        frame.find_sweep(NAME, uri_of(results))
    with pytest.raises(mlflow_store.TrackingError, match="the sweeps there: better"):
        opened(results)


# What others write


def test_what_others_log_in_the_experiment_is_left_alone_and_never_taken_for_a_run_of_the_sweep(results: Path) -> None:
    from mlflow.entities import Param

    before, frame_before, (experiment, parent, runs) = both_see(results), seen(results), ids(results)
    mlflow = client(results)
    every_field = [Param(name, str(value)) for name, value in trial_config(latent_dim=9).to_dict().items()]
    autolog = mlflow.create_run(experiment, run_name=DONE.run_name).info.run_id
    nested = mlflow.create_run(experiment, tags={schema.PARENT: parent}).info.run_id
    below_a_child = mlflow.create_run(experiment, tags={schema.PARENT: runs[DONE], "fishernet.mine": "1"}).info.run_id
    pretender = mlflow.create_run(experiment, tags={schema.ROLE: "trial", schema.PARENT: parent}).info.run_id
    for run in (autolog, nested, below_a_child):
        mlflow.log_batch(run, params=every_field)
        mlflow.log_metric(run, "test/mse", 1e-9, step=3)
    for run in (pretender, parent, *runs.values()):
        mlflow.log_param(run, "reviewer", "me")
        mlflow.set_tag(run, "team", "blue")
        for name in ("seed", "status", "run_id", "model", "n_epochs", "scores", "my/score"):
            mlflow.log_metric(run, name, 7.0)
    mlflow.set_tag(runs[DONE], schema.SCORES + "clusters", "5")
    mlflow.set_tag(runs[DONE], schema.SCORES + "classifier", "not JSON")
    assert both_see(results) == before
    pd.testing.assert_frame_equal(seen(results), frame_before)
    described(results)
    for run in (autolog, nested, below_a_child):
        assert mlflow.get_run(run).info.status == "RUNNING"  # as its owner left it
    assert mlflow.get_run(runs[DONE]).data.params == {"reviewer": "me"} | {k: str(v) for k, v in DONE.to_dict().items()}


def test_a_run_with_parameters_of_strangers_goes_on(results: Path) -> None:
    """Also where one has a field's name: MLflow refuses another value for it."""
    import contextlib
    import sqlite3

    _, _, runs = ids(results)
    with contextlib.closing(sqlite3.connect(results / "mlflow.db")) as store, store:
        store.execute("delete from params where run_uuid = ?", [runs[STOPPED]])  # its driver died before it wrote them
    client(results).log_param(runs[STOPPED], "epochs", "many")
    tracking = opened(results)
    tracking.log_epochs(STOPPED, epochs(3))
    tracking.finish(STOPPED, "FINISHED")
    assert tracking.close("FINISHED")
    assert tracking.refused == 0
    assert both_see(results)[STOPPED] == (runs[STOPPED], "FINISHED", 3)
    assert client(results).get_run(runs[STOPPED]).data.params["latent_dim"] == "3"


@pytest.mark.parametrize("damage", ["", "not JSON", "[1, 2]"])
def test_a_run_whose_tag_was_emptied_is_known_by_its_parameters(damage: str, results: Path) -> None:
    before, (_, _, runs) = both_see(results), ids(results)
    client(results).set_tag(runs[DONE], schema.CONFIG, damage)
    client(results).log_param(runs[DONE], "reviewer", "me")
    assert both_see(results) == before


@pytest.mark.parametrize("text", ["{", "[]", "5"])
def test_a_plan_that_was_edited_is_named_by_both(text: str, results: Path) -> None:
    client(results).set_tag(ids(results)[1], schema.PLAN, text)
    with pytest.raises(mlflow_store.TrackingError, match="no readable plan"):
        opened(results)
    with pytest.raises(frame.AnalysisError, match="no readable plan"):
        frame.find_sweep(NAME, uri_of(results))


STRAY_STEPS = [
    ("my/score", [1000]), ("train/loss", [1000]), ("train/loss", [-1, 2**40]), ("test/mse", [1000]), ("test/mse", [-1, 0]),
    ("epoch_seconds", [1000, -5]), ("test/mse", [7, 7, 8]),
]  # fmt: skip


@pytest.mark.parametrize(("metric", "steps"), STRAY_STEPS)
def test_values_at_steps_that_are_no_epochs_neither_hide_epochs_nor_enter_a_figure(
    metric: str, steps: list[int], results: Path
) -> None:
    _, _, runs = ids(results)
    for run in (runs[DONE], runs[STOPPED]):
        for step in steps:
            for value in (1e-9, math.nan):
                client(results).log_metric(run, metric, value, step=step)
    assert both_see(results)[STOPPED][1:] == ("KILLED", 2)
    assert seen(results).set_index("latent_dim")["test/mse"].to_dict()[3] == 1 / 2
    tracking = opened(results)
    tracking.log_epochs(STOPPED, epochs(3))
    tracking.finish(STOPPED, "FINISHED")
    assert tracking.close("FINISHED")
    sweep = frame.find_sweep(NAME, uri_of(results))
    usable = frame.usable(frame.load_runs(sweep))
    assert usable.set_index("latent_dim")["test/mse"].to_dict() == {2: 1 / 3, 3: 1 / 3}
    curves = frame.load_epochs(sweep, usable, ["test/mse", "train/loss"])
    for (_, name), curve in curves.groupby(["run_id", "metric"]):
        expected = [(e["epoch"], e["metrics"][name]) for e in epochs(3)]
        assert list(zip(curve["epoch"], curve["value"], strict=True)) == expected


def test_an_infinite_metric_is_infinite_when_it_is_read(results: Path) -> None:
    tracking = opened(results)
    worse = {**epochs(3)[2], "metrics": {"train/loss": math.inf, "test/mse": math.inf, "test/elbo": -math.inf}}
    tracking.log_epochs(STOPPED, [worse])
    tracking.log_parent_metrics([(schema.PCA, math.inf, 3)])
    tracking.finish(STOPPED, "FINISHED")
    assert tracking.close("FINISHED")
    sweep = frame.find_sweep(NAME, uri_of(results))
    runs = frame.load_runs(sweep)
    assert runs.set_index("latent_dim").loc[3, ["test/mse", "test/elbo"]].tolist() == [math.inf, -math.inf]
    assert frame.usable(runs)["latent_dim"].tolist() == [2]
    last = frame.load_epochs(sweep, runs, ["test/mse"]).query("latent_dim == 3")["value"].tolist()[-1]
    assert (last, sweep.pca) == (math.inf, {2: 0.05, 3: math.inf})
    again = opened(results)
    again.log_parent_metrics([(schema.PCA, math.inf, 3)])
    assert again.close("FINISHED")
    assert len(client(results).get_metric_history(sweep.parent_run_id, schema.PCA)) == 2


# What a user writes in MLflow's page


def test_a_description_is_the_plans_until_somebody_writes_another(results: Path) -> None:
    def note() -> str:
        return str(client(results).get_run(parent).data.tags.get(schema.NOTE, ""))

    parent = ids(results)[1]
    assert note() == "what the plan says"
    described(results, "what a longer plan says")
    assert note() == "what a longer plan says"
    for words in ("seed 3 looked odd", "what a longer plan says, but seed 3 looked odd"):
        client(results).set_tag(parent, schema.NOTE, words)
        described(results, "a plan again")
        assert note() == words
    client(results).set_tag(parent, schema.NOTE, " ")  # emptied
    described(results, "a plan again")
    assert note() == "a plan again"


def test_names_notes_tags_and_models_that_a_user_gives_stay(results: Path) -> None:
    experiment, parent, runs = ids(results)
    mlflow = client(results)
    mlflow.set_experiment_tag(experiment, schema.NOTE, "of the whole experiment")
    written = {schema.NOTE: "mine", "team": "blue", "mlflow.user": "somebody"}
    for i, run in enumerate((parent, *runs.values())):
        mlflow.update_run(run, name=f"renamed {i}")
        for tag, value in written.items():
            mlflow.set_tag(run, tag, value)
    mlflow.create_registered_model("the best", tags={"of": "mine"}, description="VAE")
    mlflow.create_model_version("the best", source=f"runs:/{runs[DONE]}/weights", run_id=runs[DONE])
    mlflow.set_registered_model_alias("the best", "champion", "1")
    tracking = opened(results)
    tracking.describe(PLAN, {"epochs": 3}, "command", "what the plan says")
    tracking.log_epochs(STOPPED, epochs(3))
    tracking.finish(STOPPED, "FINISHED", "a reason")
    assert tracking.close("FINISHED")
    assert both_see(results)[STOPPED] == (runs[STOPPED], "FINISHED", 3)
    for i, run in enumerate((parent, *runs.values())):
        found = mlflow.get_run(run)
        assert found.info.run_name == f"renamed {i}"
        assert {tag: found.data.tags[tag] for tag in written} == written
    assert mlflow.get_experiment(experiment).tags[schema.NOTE] == "of the whole experiment"
    assert mlflow.get_model_version_by_alias("the best", "champion").run_id == runs[DONE]


# Names of experiments as folders and in commands

HOSTILE = [
    "../../../evil", "..", ".", "/etc/evil", "a/b", "a\\b", "~", "nul\0byte", "x" * 500, "ö" * 130, "..\n", " ", "-rf",
    "mlflow.db", "artifacts", "a\u202eb", "con:", "$(touch evil)", "; touch evil", "*", "-",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_any_name_becomes_one_folder_below_the_results(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = command.output_folder(None, name, "report")
    assert folder.name == "report"
    assert folder.resolve().parent.parent == tmp_path / "fishernet-results"
    assert [path.name for path in (tmp_path / "fishernet-results").iterdir()] == [folder.parent.name]
    assert folder.parent.name.casefold() not in schema.FOLDERS
    assert not any(schema.begins_as(folder.parent.name, file) for file in schema.DATABASES)
    assert schema.folder_name(name + "x") != folder.parent.name


def test_a_name_that_a_driver_takes_is_the_folders_name() -> None:
    for name in ("figure-2", "a b", "größe", "v1.0+x=3,@y", "x" * 100):
        assert schema.folder_name(name) == name


def test_an_experiment_renamed_to_a_path_is_drawn_below_the_results_and_quoted_in_commands(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "../../../evil; touch evil"
    client(results).rename_experiment(ids(results)[0], hostile)
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b" / "c")
    assert analyse(["mse-curves", "--tracking-uri", uri_of(results)]) == 0
    assert f"--resume '{hostile}'" in capsys.readouterr().out
    written = set(tmp_path.rglob("*.png"))
    assert len(written) == 2
    assert all(path.is_relative_to(Path.cwd() / "fishernet-results") for path in written)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "results"]


# A results folder that was moved, copied, or is reached by another path


def whole(made: Path, place: Path) -> Path:
    """A copy of the results folder that knows of no other place."""
    shutil.copytree(made, place)
    described(place)
    return place


def stored_files(folder: Path, uri: str | None = None) -> list[str]:
    """Reads a file of each run that has one, as analyses do."""
    stored = StoredSweep(frame.find_sweep(NAME, uri or uri_of(folder)))
    run = stored.runs.iloc[0]
    return [stored.artifact(run, FILE).read_text(), stored.download(stored.sweep.parent_run_id, FILE, "").read_text()]


def recorded(folder: Path) -> set[Path]:
    """The folders in which MLflow has the files of the sweep's runs."""
    experiment, parent, runs = ids(folder)
    locations = [client(folder).get_experiment(experiment).artifact_location]
    locations += [client(folder).get_run(run).info.artifact_uri for run in (parent, *runs.values())]
    root = folder / "artifacts" / NAME
    places = {Path(location.removeprefix("file://")) for location in locations}
    return {root if place.is_relative_to(root) else place for place in places}


def test_files_of_a_moved_folder_are_found_before_any_driver_has_run(made: Path, tmp_path: Path) -> None:
    old = whole(made, tmp_path / "old")
    assert frame.find_sweep(NAME, uri_of(old)).moved == ""
    new = old.rename(tmp_path / "new")
    assert stored_files(new) == ["kept", "kept"]
    assert str(new / "artifacts" / NAME) in frame.find_sweep(NAME, uri_of(new)).moved
    stored = StoredSweep(frame.find_sweep(NAME, uri_of(new)))
    mlflow_store.files_of(uri_of(new), stored.sweep.parent_run_id).log_artifact(str(tmp_path / "new" / "mlflow.db"))
    for run in ids(new)[2].values():  # also of a run that has no files yet
        mlflow_store.files_of(uri_of(new), run).log_artifact(str(tmp_path / "new" / NAME / "record" / FILE))
    assert not old.exists()


def test_a_driver_writes_below_the_moved_folder_and_has_mlflow_know_it(made: Path, tmp_path: Path) -> None:
    old = whole(made, tmp_path / "old")
    assert recorded(old) == {old / "artifacts" / NAME}
    new = old.rename(tmp_path / "new")
    said: list[str] = []
    tracking = opened(new, create=True, log=said.append)
    assert said == [
        f"the results folder was moved: MLflow now finds the files of {NAME} in {new}/artifacts/{NAME}, no longer in "
        f"{old}/artifacts/{NAME}"
    ]
    fresh = trial_config(model="VAE", latent_dim=5, epochs=3)
    for config in (STOPPED, fresh):  # one made before the move, one after it
        tracking.log_epochs(config, epochs(3))
        tracking.finish(config, "FINISHED", artifacts=files(tmp_path / "record"))
    assert tracking.close("FINISHED")
    assert not old.exists()
    assert recorded(new) == {new / "artifacts" / NAME}
    assert stored_files(new) == ["kept", "kept"]
    runs = ids(new)[2]
    for config in (DONE, STOPPED, fresh):
        assert [file.path for file in client(new).list_artifacts(runs[config], "deeper")] == [FILE]  # MLflow's page
        assert (new / "artifacts" / NAME / runs[config] / "artifacts" / FILE).exists()
    opened(new, log=said.append)
    assert len(said) == 1


def test_a_copy_uses_its_own_files_and_leaves_the_original_alone(made: Path, tmp_path: Path) -> None:
    old = whole(made, tmp_path / "old")
    shutil.copytree(old, tmp_path / "copy")
    before = sorted(old.rglob("*")), (old / "mlflow.db").read_bytes()
    copy, runs = tmp_path / "copy", ids(old)[2]
    (copy / "artifacts" / NAME / runs[DONE] / "artifacts" / FILE).write_text("of the copy")
    assert stored_files(copy) == ["of the copy", "kept"]
    described(copy)
    assert recorded(copy) == {copy / "artifacts" / NAME}
    assert stored_files(copy) == ["of the copy", "kept"]
    assert (sorted(old.rglob("*")), (old / "mlflow.db").read_bytes()) == before
    assert stored_files(old) == ["kept", "kept"]


def test_another_path_to_the_same_folder_is_no_move(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = whole(made, tmp_path / "old")
    (tmp_path / "link").symlink_to(old)
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    opened(tmp_path / "link", log=said.append)
    for uri in (uri_of(tmp_path / "link"), "sqlite:///old/mlflow.db", "sqlite:///link/mlflow.db"):
        assert frame.find_sweep(NAME, uri).moved == ""
        assert stored_files(old, uri) == ["kept", "kept"]
    assert said == []
    # The link leads elsewhere once the folder it leads to is moved: that is a move.
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to(old.rename(tmp_path / "mounted elsewhere"))
    assert stored_files(tmp_path / "link") == ["kept", "kept"]
    opened(tmp_path / "link", log=said.append)
    assert len(said) == 1
    assert not old.exists()


def test_files_that_are_away_keep_their_place(made: Path, tmp_path: Path) -> None:
    """Artifacts on a mount of their own, which is not there now: nothing beside the database says that they moved."""
    old, place = whole(made, tmp_path / "old"), tmp_path / "mount"
    shutil.copytree(old / "artifacts", place)
    shutil.rmtree(old / "artifacts")
    tracking = SweepTracking.open(NAME, uri_of(old), artifact_root=str(place), create=False)
    runs = ids(old)[2]
    assert stored_files(old) == ["kept", "kept"]
    place.rename(tmp_path / "away")
    opened(old)  # with another storage path than before
    (tmp_path / "away").rename(place)
    assert client(old).get_run(runs[DONE]).info.artifact_uri == (place / NAME / runs[DONE] / "artifacts").as_uri()
    assert stored_files(old) == ["kept", "kept"]
    assert tracking.found[DONE].status == "FINISHED"


def test_studies_are_found_beside_a_moved_store(tmp_path: Path, results: Path) -> None:
    import optuna

    storage = f"sqlite:///{results}/optuna.db"
    optuna.create_study(study_name=f"{NAME}/VAE-d2", storage=optuna.storages.RDBStorage(storage))
    plan = {"optuna": storage}
    new = results.rename(tmp_path / "new")
    sweep = frame.Sweep("renamed", "1", "1", plan, {}, uri_of(new), {schema.SWEEP: NAME})
    assert list(load_studies(sweep)) == ["VAE-d2"]
    os.rename(new / "optuna.db", tmp_path / "optuna.db")  # noqa: PTH104
    with pytest.raises(frame.AnalysisError, match="which is not there; --optuna names another place"):
        load_studies(sweep)
    assert json.loads(json.dumps(plan)) == {"optuna": storage}


# A store that an earlier version wrote


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The results folder of a sweep of format 4: five lines at one latent dimension, one seed each, all finished."""
    folder = tmp_path / "results"
    shutil.copytree(BEFORE / "artifacts", folder / "artifacts")
    (folder / "mlflow.db").write_bytes(gzip.decompress((BEFORE / "mlflow.db.gz").read_bytes()))
    return folder


def test_a_sweep_of_before_is_extended_by_one_seed_more_of_each_of_its_lines(before: Path) -> None:
    flags = "--dataset digits --models FisherNet VAE VAE:likelihood=gaussian-learned CVAE AE --latent-dims 2 --seeds 2"
    sizes = "--epochs 2 --hidden-width 8 --hidden-layers 1 --batch-size 64 --train-size 200 --name before"
    asked = plan_from_flags(_parse([*flags.split(), *sizes.split()]))
    tracking = opened(before, name="before")
    assert tracking.plan is not None
    whole = SweepPlan.from_dict(tracking.plan).extended(asked, "before")
    jobs = JobList(whole, tracking.found, {}, lambda configs: [[config] for config in configs], lambda job: {})
    new = [config for job in jobs.by_id.values() for config in job.members]
    assert jobs.ended == "5 runs are finished"
    assert [config.seed for config in new] == [1] * 5
    assert {config.variant for config in new} == {config.variant for config in jobs.finished}
    tracking.describe(tracking.plan | whole.to_dict(), whole.shared, "command", "note")
    for config in new:
        tracking.log_epochs(config, epochs(2))
        tracking.finish(config, "FINISHED")
    assert tracking.close("FINISHED")
    assert set(both_see(before, "before")) == set(whole.configs)
    sweep = frame.find_sweep("before", uri_of(before))
    assert set(sweep.configs) == set(whole.configs)
    assert frame.missing_cells(sweep, frame.load_runs(sweep)).empty


def test_a_file_is_read_from_the_store_without_a_bar_in_whoever_reads_it(made, tmp_path, monkeypatch, capfd):
    """A driver too, which sets nothing of an analysis's own."""
    for name in {**mlflow_store.ALWAYS, **mlflow_store.READING}:
        monkeypatch.delenv(name, raising=False)
    _, _, runs = ids(made)
    mlflow_store.prepare_mlflow()
    path = mlflow_store.files_of(uri_of(made), runs[DONE]).download_artifacts(FILE, str(tmp_path))
    assert Path(path).read_text() == "kept"
    assert capfd.readouterr().err == ""
