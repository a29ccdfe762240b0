"""``fishernet list`` and ``fishernet delete``, on a real SQLite store and, in the long tests, a real server."""

import contextlib
import io
import os
import time
from pathlib import Path

import optuna
import pytest

from fishernet.__main__ import main
from fishernet.families import trial_config
from fishernet.plan import SweepPlan
from fishernet.services import mlflow_deletion, schema
from sweeps.listing import in_words
from sweeps.lock import hold_lock
from sweeps.studies import open_storage
from sweeps.tracking import SweepTracking
from tests.mlflow_server import Server

CONFIGS = [trial_config(model=model, dataset="digits", latent_dim=2, epochs=1) for model in ("VAE", "AE", "FisherNet")]


def record(name, uri, storage, *, kind="sweep", status="FINISHED", end="FINISHED"):
    """A sweep of three trial configs as a driver leaves it: one finished with a file, one as ``status``, one not begun."""
    folder = storage / name
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "mse.csv").write_text("x" * 5000)
    files = storage / "a-run"
    files.mkdir(exist_ok=True)
    (files / "weights.safetensors").write_bytes(bytes(20_000))
    tracking = SweepTracking.open(name, uri, artifact_root=str(storage / "artifacts"), create=True, kind=kind, log=str)
    plan = SweepPlan(tuple(CONFIGS)).to_dict() | {
        "data_fingerprint": "0",
        "held_out": "test",
        "storage_path": str(storage),
    }
    tracking.describe(plan, {}, "command", "note", {})
    tracking.finish(CONFIGS[0], "FINISHED", artifacts=files)
    if status == "FAILED":
        tracking.finish(CONFIGS[1], "FAILED", "it diverged")
    assert tracking.close(end)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    storage = Path(os.path.realpath(tmp_path_factory.mktemp("results")))
    uri = f"sqlite:///{storage}/mlflow.db"
    record("kept", uri, storage, status="FAILED", end="FAILED")
    return storage, uri


def run(*words):
    """Exit status and all that is printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = main(list(words))
    return status, out.getvalue()


def listed(storage, *words):
    status, text = run("list", "--storage-path", str(storage), *words)
    assert status == 0, text
    return {line.split()[0]: line for line in text.splitlines()[1:]}


def delete(name, storage, *words):
    return run("delete", name, "--storage-path", str(storage), *words)


def left(uri, name):
    """Whether anything of that name is in the store."""
    from mlflow import MlflowClient

    return MlflowClient(uri).get_experiment_by_name(name)


def test_a_list_says_of_each_sweep_its_runs_size_data_set_and_date(store):
    storage, _ = store
    line = listed(storage)["kept"]
    assert line.split()[1:3] == ["sweep", "digits"]
    assert "1 of 3 finished, 1 failed" in line
    assert "25 kB" in line  # the file of the run and the figure
    assert time.strftime("%Y-%m-%d") in line
    status, said = run("list", "--storage-path", str(storage / "nowhere"))
    assert (status, "there is no MLflow store" in said) == (2, True)


def test_sizes_have_three_digits_and_no_exponent():
    sizes = {
        0: "0 B",
        999: "999 B",
        1000: "1 kB",
        999_499: "999 kB",
        999_500: "1 MB",
        3_140_000: "3.14 MB",
        2 * 10**12: "2 TB",
    }
    assert {size: in_words(size) for size in sizes} == sizes


def test_a_deleted_sweep_is_nowhere_and_its_neighbours_are_as_they_were(store):
    storage, uri = store
    before = listed(storage)
    record("gone", uri, storage)
    (storage / "gone" / "link").symlink_to(storage / "kept")
    assert {*listed(storage)} == {"gone", "kept"}
    status, said = delete("gone", storage, "--yes")
    assert (status, said) == (0, "gone is deleted\n")
    assert left(uri, "gone") is None
    assert not (storage / "gone").exists()
    assert not (storage / "artifacts" / "gone").exists()
    assert listed(storage) == before
    assert (storage / "kept" / "figures" / "mse.csv").exists()
    record("gone", uri, storage)  # the name is free
    assert delete("gone", storage, "--yes")[0] == 0


def test_nothing_is_deleted_without_a_yes(store, monkeypatch):
    storage, uri = store
    before = listed(storage)
    status, said = delete("kept", storage)
    assert status == 2
    assert "no terminal" in said
    assert "--yes" in said
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    status, said = delete("kept", storage)
    assert status == 1
    assert "nothing was deleted" in said
    assert "2 runs" in said
    assert f"{storage / 'kept'} (5" in said
    assert listed(storage) == before
    status, said = delete("kpet", storage, "--yes")
    assert status == 2
    assert "Did you mean kept?" in said
    assert not (storage / "kpet").exists()
    record("asked", uri, storage)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert delete("asked", storage)[0] == 0
    assert listed(storage) == before


def test_what_runs_is_not_deleted(store):
    storage, uri = store
    record("busy", uri, storage, end="KILLED")
    from mlflow import MlflowClient

    experiment = left(uri, "busy")
    with hold_lock(storage / "busy", "busy"):
        status, said = delete("busy", storage, "--yes")
        assert status == 2
        assert "is being trained or imported already" in said
    client = MlflowClient(uri)
    (parent,) = [run for run in mlflow_deletion.own_runs(client, experiment) if run.data.tags[schema.ROLE] == "sweep"]
    client.update_run(parent.info.run_id, status="RUNNING")
    other = storage.parent / "another-storage"
    status, said = run("delete", "busy", "--yes", "--storage-path", str(other), "--tracking-uri", uri)
    assert status == 2
    assert "as running" in said
    assert str(storage) in said
    assert not (other / "busy").exists()
    assert (storage / "busy" / "figures").exists()
    assert len(mlflow_deletion.own_runs(client, experiment)) == 2
    assert delete("busy", storage, "--yes")[0] == 0  # here no lock is held: its driver was killed


def test_a_folder_of_the_same_name_of_another_store_stays(store, tmp_path):
    storage, uri = store
    record("namesake", uri, storage)
    mine = tmp_path / "namesake" / "figures.pdf"
    mine.parent.mkdir()
    mine.touch()
    status, said = run("delete", "namesake", "--yes", "--storage-path", str(tmp_path), "--tracking-uri", uri)
    assert status == 2
    assert f"the files of namesake are in {storage}" in said
    assert mine.exists()
    assert left(uri, "namesake") is not None
    assert delete("namesake", storage, "--yes")[0] == 0


@pytest.mark.parametrize("cut_at", ["_delete_files", "_remove_empty", "check_registered"])
def test_a_deletion_that_is_cut_short_is_finished_by_the_same_command(store, cut_at, monkeypatch):
    storage, uri = store
    before = listed(storage)
    record("cut", uri, storage)

    def cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_deletion, cut_at, cut)
        status, said = delete("cut", storage, "--yes")
        assert status == 130
        assert "the same command deletes the rest" in said
    status, said = delete("cut", storage, "--yes")
    if cut_at == "_remove_empty":  # all records were gone
        assert status == 2
        assert "there is no sweep" in said
    else:
        assert status == 0, said
    assert left(uri, "cut") is None
    assert listed(storage) == before


def test_what_is_somebody_elses_in_the_experiment_stays(store):
    from mlflow import MlflowClient

    storage, uri = store
    record("shared", uri, storage)
    client, experiment = MlflowClient(uri), left(uri, "shared")
    foreign = client.create_run(experiment.experiment_id, run_name="mine").info.run_id
    trashed = client.create_run("0").info.run_id  # of another experiment, in the trash
    client.delete_run(trashed)
    client.log_text(foreign, "text", "note.txt")
    status, said = delete("shared", storage, "--yes")
    assert status == 0
    assert "1 runs that are not its own" in said
    assert [run.info.run_id for run in client.search_runs([experiment.experiment_id])] == [foreign]
    assert client.list_artifacts(foreign)[0].path == "note.txt"
    assert client.get_run(trashed).info.lifecycle_stage == "deleted"
    assert "shared" not in listed(storage)


@pytest.mark.parametrize("trashed", [False, True])
def test_a_copy_is_deleted_without_the_original(store, tmp_path, trashed):
    import shutil

    from mlflow import MlflowClient

    storage, uri = store
    record("twice", uri, storage)
    if trashed:
        MlflowClient(uri).delete_experiment(left(uri, "twice").experiment_id)
    copy = tmp_path / "copy"
    shutil.copytree(storage, copy)
    assert delete("twice", copy, "--yes")[0] == 0
    assert "twice" not in listed(copy)
    assert not (copy / "artifacts" / "twice").exists()
    assert len(list((storage / "artifacts" / "twice").rglob("weights.safetensors"))) == 1
    assert delete("twice", storage, "--yes")[0] == 0


def test_a_search_goes_with_its_studies_and_leaves_those_of_others(store):
    storage, uri = store
    record("tuning", uri, storage, kind="search")
    database = open_storage(storage)
    for name in ("tuning/VAE-d2", "tuning/AE-d2", "other/VAE-d2"):
        optuna.create_study(study_name=name, storage=database)
    assert listed(storage)["tuning"].split()[1] == "search"
    assert delete("tuning", storage, "--yes")[0] == 0
    assert optuna.get_all_study_names(database) == ["other/VAE-d2"]


def test_a_model_that_is_registered_keeps_its_sweep(store):
    from mlflow import MlflowClient

    storage, uri = store
    record("registered", uri, storage)
    client = MlflowClient(uri)
    run_id = mlflow_deletion.own_runs(client, left(uri, "registered"))[0].info.run_id
    client.create_registered_model("digits")
    version = client.create_model_version("digits", f"{storage}/artifacts", run_id)
    status, said = delete("registered", storage, "--yes")
    assert status == 2
    assert "digits version 1" in said
    assert (storage / "registered" / "figures" / "mse.csv").exists()  # a refusal deletes nothing
    client.delete_model_version("digits", version.version)
    assert delete("registered", storage, "--yes")[0] == 0


@pytest.mark.long
def test_on_a_server_files_go_and_the_name_is_free(tmp_path):
    with Server(f"sqlite:///{tmp_path}/server.db", tmp_path / "served") as server:
        uri, storage = server.uri, tmp_path / "results"
        for _ in range(2):
            record("served", uri, storage)
            assert list((tmp_path / "served").rglob("weights.safetensors"))
            assert "1 of 3 finished" in listed(storage, "--tracking-uri", uri)["served"]
            status, said = delete("served", storage, "--yes", "--tracking-uri", uri)
            assert status == 0, said
            assert "trash" in said
            assert not list((tmp_path / "served").rglob("weights.safetensors"))
            assert not (storage / "served").exists()
            assert left(uri, "served") is None
