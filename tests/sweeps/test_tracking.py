"""MLflow for real: SQLite files, a server process, a second writer, a killed driver."""

import contextlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fishernet.commands import fishernet, typed_as
from fishernet.config import TrialConfig
from fishernet.families import trial_config
from fishernet.plan import SweepPlan
from fishernet.services.mlflow_store import TrackingError, check_uri, create_whole
from sweeps import import_records
from sweeps.lock import hold_lock
from sweeps.pictures import reconstruction_picture
from sweeps.tracking import SweepTracking, list_sweeps
from sweeps.tracking_queue import Queue
from tests.mlflow_server import Server, unused_port

ROOT = Path(__file__).resolve().parents[2]
CONFIG = trial_config(latent_dim=2, seed=0, epochs=5)
OTHER = trial_config(model="VAE", latent_dim=3, seed=1, epochs=5)
THIRD = trial_config(model="AE", latent_dim=4, seed=2, epochs=5)
PLAN = {**SweepPlan((CONFIG, OTHER)).to_dict(), "data_fingerprint": "f", "held_out": "test"}


def epoch(number: int, **metrics: float) -> dict[str, Any]:
    named = {f"test/{name}": value for name, value in metrics.items()} or {"test/mse": 1 / number, "train/loss": 1.0}
    return {"epoch": number, "time": 1_700_000_000.5 + number, "metrics": named}


EPOCHS = [epoch(number) for number in range(1, 6)]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as ``open`` makes it, in a folder that it makes too; seconds of migrations, so made once."""
    folder = tmp_path_factory.mktemp("store") / "results"
    with pytest.raises(TrackingError, match="does not exist yet"):
        SweepTracking.open("s", f"sqlite:///{folder}/mlflow.db", artifact_root=None, create=False)
    assert not folder.exists()
    SweepTracking.open("s", f"sqlite:///{folder}/mlflow.db", artifact_root=None, create=True).close("FINISHED")
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    made = client.get_experiment_by_name("s")
    assert made is not None
    assert made.artifact_location == (folder / "artifacts" / "s").as_uri()
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as store, store:
        for table in ("tags", "runs", "experiment_tags"):
            store.execute(f"delete from {table}")
        store.execute("delete from experiments where name = 's'")
    return folder / "mlflow.db"


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def sweep(uri: str, said: list[str]) -> Callable[..., SweepTracking]:
    """Opens the test's sweep, and again after a restart."""
    return lambda create=True: SweepTracking.open("s", uri, artifact_root=None, create=create, log=said.append)


def drained(tracking: SweepTracking) -> None:
    assert tracking.flush(60), f"{tracking.backlog} records still wait"


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def history(uri: str, run_id: str, name: str = "test/mse") -> list[tuple[int, float, int]]:
    found = client(uri).get_metric_history(run_id, name)
    return sorted((metric.step, metric.value, metric.timestamp) for metric in found)


WRITTEN = [(e["epoch"], e["metrics"]["test/mse"], round(e["time"] * 1000)) for e in EPOCHS]


def rows(uri: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as store:
        tables = ("experiments", "runs", "params", "tags", "metrics", "latest_metrics", "experiment_tags")
        return [row for table in tables for row in sorted(store.execute(f"select '{table}', * from {table}"), key=str)]


@contextlib.contextmanager
def locked(uri: str) -> Iterator[None]:
    """A second writer in the middle of its transaction."""
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"), isolation_level=None)) as store:
        store.execute("begin exclusive")
        try:
            yield
        finally:
            store.execute("rollback")


def a_folder_of_files(folder: Path) -> Path:
    (folder / "deeper").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"weights")
    (folder / "record.json").write_text("{}")
    (folder / "deeper" / "latents.npz").write_bytes(b"latents")
    images = np.zeros((3, 1, 8, 8), np.uint8)
    np.savez(folder / "pictures.npz", originals=images, reconstructions=images)
    return folder


def test_a_sweep_is_an_experiment_with_a_parent_run_and_a_child_run_per_config(
    sweep: Callable[..., SweepTracking], uri: str, tmp_path: Path
) -> None:
    tracking = sweep()
    tracking.describe(PLAN, {"epochs": 5}, "python sweeps/latent_sweep.py", "# two models")
    for config in (CONFIG, OTHER):
        tracking.ensure(config)
        tracking.log_epochs(config, EPOCHS)
    tracking.finish(CONFIG, "FINISHED", artifacts=lambda: a_folder_of_files(tmp_path / "files"))
    tracking.finish(OTHER, "FAILED", reason="out of memory")
    assert tracking.close("FINISHED")
    assert {config: (run.status, run.last_epoch) for config, run in tracking.runs().items()} == {
        CONFIG: ("FINISHED", 5),
        OTHER: ("FAILED", 5),
    }
    mlflow = client(uri)
    experiment = mlflow.get_experiment_by_name("s")
    assert experiment.tags["fishernet.kind"] == "sweep"
    child = mlflow.get_run(tracking.runs()[CONFIG].run_id)
    assert child.info.run_name == CONFIG.run_name
    assert {key: child.data.tags[key] for key in child.data.tags if key != "fishernet.config"} == {
        "mlflow.parentRunId": tracking.parent_run_id,
        "mlflow.runName": CONFIG.run_name,
        "mlflow.source.name": "fishernet",
        "mlflow.source.type": "LOCAL",
        "fishernet.role": "trial",
        "fishernet.variant": CONFIG.variant,
        "fishernet.sweep": "s",
    }
    assert child.data.params == {key: str(value) for key, value in CONFIG.to_dict().items()}
    assert child.data.metrics == {"test/mse": 1 / 5, "train/loss": 1.0}
    assert history(uri, child.info.run_id) == WRITTEN
    files = {file.path for file in mlflow.list_artifacts(child.info.run_id)}
    assert files == {"weights.safetensors", "deeper", "reconstructions.png"}
    assert [file.path for file in mlflow.list_artifacts(child.info.run_id, "deeper")] == ["deeper/latents.npz"]
    failed = mlflow.get_run(tracking.runs()[OTHER].run_id)
    assert failed.data.tags["fishernet.reason"] == tracking.runs()[OTHER].reason == "out of memory"
    parent = mlflow.get_run(tracking.parent_run_id)
    assert (parent.info.run_name, parent.info.status) == ("s", "FINISHED")
    assert parent.data.params == {"epochs": "5"}
    assert parent.data.tags["fishernet.role"] == "sweep"
    assert parent.data.tags["mlflow.note.content"] == "# two models"
    assert json.loads(parent.data.tags["fishernet.versions"])["mlflow"]
    assert json.loads(parent.data.tags["fishernet.machine"])["cores"] == os.cpu_count()
    assert [(name, status) for name, status, _ in list_sweeps(uri)] == [("s", "FINISHED")]


def test_params_are_written_in_the_order_of_the_fields(sweep: Callable[..., SweepTracking], uri: str) -> None:
    tracking = sweep()
    tracking.ensure(CONFIG)
    drained(tracking)
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as store:
        keys = [key for (key,) in store.execute("select key from params order by rowid")]
    assert keys[:3] == ["model", "latent_dim", "seed"]
    assert keys == list(CONFIG.to_dict())


def test_doing_everything_again_changes_nothing(sweep: Callable[..., SweepTracking], uri: str) -> None:
    def write(tracking: SweepTracking, hours: float) -> None:
        epochs = [e | {"time": e["time"] + 3600 * hours} for e in EPOCHS]
        for _ in range(2):
            tracking.ensure(CONFIG)
            tracking.log_epochs(CONFIG, epochs[:3])
            tracking.log_epochs(CONFIG, epochs[2:])
            tracking.log_parent_metrics([("pca/test_mse", 0.05, 2), ("pca/test_mse", 0.04, 3)])
        tracking.finish(CONFIG, "FINISHED")
        tracking.finish(CONFIG, "FINISHED")
        drained(tracking)

    write(first := sweep(), hours=0)
    before = rows(uri)
    write(first, hours=1)
    write(sweep(), hours=2)  # trained again, and logged at other times
    assert rows(uri) == before
    assert history(uri, first.runs()[CONFIG].run_id) == WRITTEN
    pca = history(uri, first.parent_run_id, "pca/test_mse")
    assert [(d, mse) for d, mse, _ in pca] == [(2, 0.05), (3, 0.04)]


DRIVER = """
import sys
from tests.sweeps.test_tracking import CONFIG, OTHER, EPOCHS, SweepTracking
from fishernet.families import trial_config
tracking = SweepTracking.open("s", sys.argv[1], artifact_root=None, create=True)
for seed in range(200):
    config = trial_config(seed=seed, epochs=5)
    tracking.ensure(config)
    tracking.log_epochs(config, EPOCHS)
print("going", flush=True)
tracking.close("FINISHED")
"""


def test_a_killed_driver_is_continued_without_a_second_run_or_epoch(
    sweep: Callable[..., SweepTracking], uri: str
) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, uri], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "going\n"
    while len(sweep(create=False).runs()) < 5:
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    tracking = sweep(create=False)
    survived = len(tracking.runs())
    assert 0 < survived < 200  # killed in the middle
    configs = [trial_config(seed=seed, epochs=5) for seed in range(survived + 3)]
    for config in configs:
        tracking.ensure(config)
        tracking.log_epochs(config, EPOCHS)
        tracking.finish(config, "FINISHED")
    assert tracking.close("FINISHED")
    found = client(uri).search_runs([client(uri).get_experiment_by_name("s").experiment_id])
    assert len(found) == len(configs) + 1
    assert tracking.runs().keys() == set(configs)
    assert all(history(uri, run.run_id) == WRITTEN for run in tracking.runs().values())


def test_a_run_that_lacks_its_params_is_found_and_completed(sweep: Callable[..., SweepTracking], uri: str) -> None:
    """As a driver leaves it that dies between the two calls that make a run."""
    tracking = sweep()
    tracking.ensure(CONFIG)
    drained(tracking)
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as store, store:
        store.execute("delete from params")
    tracking = sweep()
    assert tracking.runs()[CONFIG].status == "RUNNING"
    tracking.ensure(CONFIG)
    drained(tracking)
    (run,) = tracking.runs().values()
    assert client(uri).get_run(run.run_id).data.params["latent_dim"] == "2"


def test_a_run_that_failed_runs_again_and_loses_its_reason(sweep: Callable[..., SweepTracking], uri: str) -> None:
    tracking = sweep()
    tracking.log_epochs(CONFIG, EPOCHS[:2])
    tracking.finish(CONFIG, "KILLED", reason="interrupted")
    tracking.close("KILLED")
    again = sweep()
    assert again.runs()[CONFIG].status == "KILLED"
    again.ensure(CONFIG)
    drained(again)
    assert again.runs()[CONFIG].status == "RUNNING"
    assert client(uri).get_run(again.parent_run_id).info.status == "RUNNING"
    again.log_epochs(CONFIG, EPOCHS)
    again.finish(CONFIG, "FINISHED")
    again.close("FINISHED")
    run = again.runs()[CONFIG]
    assert (run.status, run.last_epoch) == ("FINISHED", 5)
    assert "fishernet.reason" not in client(uri).get_run(run.run_id).data.tags
    assert history(uri, run.run_id) == WRITTEN


def test_a_second_writer_delays_records_and_loses_none(
    sweep: Callable[..., SweepTracking], uri: str, said: list[str]
) -> None:
    tracking = sweep()
    with locked(uri):
        start = time.monotonic()
        tracking.ensure(CONFIG)
        tracking.log_epochs(CONFIG, EPOCHS)
        assert time.monotonic() - start < 5  # training does not wait; MLflow does, for 20 s
        time.sleep(2)
        assert tracking.backlog == 6
    tracking.finish(CONFIG, "FINISHED")
    assert tracking.close("FINISHED")
    assert history(uri, tracking.runs()[CONFIG].run_id) == WRITTEN
    assert said == []


def test_closing_gives_up_on_a_store_that_stays_away_and_says_what_is_missing(
    sweep: Callable[..., SweepTracking], uri: str, said: list[str]
) -> None:
    tracking = sweep()
    with locked(uri):
        tracking.log_epochs(CONFIG, EPOCHS)
        assert not tracking.close("FINISHED", patience_seconds=1)
    assert len(said) == 1
    assert "5 epochs and 1 other records" in said[0]
    assert "resuming s writes them" in said[0]


@pytest.mark.long
def test_a_store_locked_for_long_is_reported_once_and_loses_nothing(
    sweep: Callable[..., SweepTracking], uri: str, said: list[str]
) -> None:
    tracking = sweep()
    with locked(uri):
        tracking.log_epochs(CONFIG, EPOCHS)
        with pytest.raises(TrackingError, match=r"MLflow at .* fails: database is locked"):
            SweepTracking.open("s", uri.replace("sqlite:", "sqlite+pysqlite:"), artifact_root=None, create=True)
        time.sleep(45)  # MLflow itself waits for 20 s
    assert tracking.close("FINISHED")
    assert history(uri, tracking.runs()[CONFIG].run_id) == WRITTEN
    assert [line for line in said if "does not answer (database is locked)" in line] == said[:1]
    assert ["answers again" in line for line in said] == [False, True]


def test_nan_and_infinity_are_recorded(sweep: Callable[..., SweepTracking], uri: str) -> None:
    """MLflow keeps infinity as the largest float: SQL has none."""
    tracking = sweep()
    tracking.log_epochs(CONFIG, [epoch(1, mse=math.nan, elbo=-math.inf), epoch(2, mse=math.nan, elbo=1.0)])
    drained(tracking)
    run_id = tracking.runs()[CONFIG].run_id
    assert all(math.isnan(value) for _, value, _ in history(uri, run_id))
    assert [value for _, value, _ in history(uri, run_id, "test/elbo")] == [-sys.float_info.max, 1.0]


def test_what_mlflow_refuses_is_dropped_once_and_the_others_go_on(
    sweep: Callable[..., SweepTracking], uri: str, said: list[str]
) -> None:
    tracking = sweep()
    tracking.log_epochs(CONFIG, EPOCHS[:1])
    drained(tracking)
    client(uri).delete_run(tracking.runs()[CONFIG].run_id)
    for number in range(2, 6):
        tracking.log_epochs(CONFIG, [epoch(number)])
        drained(tracking)
    tracking.log_epochs(OTHER, EPOCHS)
    tracking.finish(OTHER, "FINISHED")
    assert tracking.close("FINISHED")
    assert len(said) == 1
    assert said[0].startswith(f"MLflow refuses a record of {CONFIG.run_name}")
    assert tracking.refused == 4
    assert tracking.runs()[OTHER].status == "FINISHED"


def test_a_number_for_which_the_database_has_no_room_is_refused_not_sent_for_ever(
    sweep: Callable[..., SweepTracking], uri: str, said: list[str]
) -> None:
    """MLflow calls this an internal error, as it calls an outage."""
    tracking = sweep()
    tracking.log_epochs(CONFIG, [epoch(2**63)])
    tracking.log_epochs(OTHER, EPOCHS)
    tracking.finish(OTHER, "FINISHED")
    assert tracking.close("FINISHED")
    assert tracking.refused == 1
    assert [line.partition(" (")[0] for line in said] == [f"MLflow refuses a record of {CONFIG.run_name}"]
    assert tracking.runs()[OTHER].status == "FINISHED"


@pytest.mark.parametrize("artifacts", [Path("/proc/nowhere/at/all"), lambda: 1 / 0])
def test_a_run_whose_artifacts_are_missing_is_not_finished(
    artifacts: Any, sweep: Callable[..., SweepTracking], said: list[str]
) -> None:
    """And keeps the checkpoints that hold them: ``then`` removes those."""
    tracking, called = sweep(), []
    tracking.log_epochs(CONFIG, EPOCHS)
    tracking.finish(CONFIG, "FINISHED", artifacts=artifacts, then=lambda: called.append("then"))
    tracking.finish(OTHER, "FINISHED", then=lambda: called.append("then of the other"))
    assert tracking.close("FINISHED")
    assert called == ["then of the other"]
    assert "does not exist" in said[0] or "division by zero" in said[0]
    assert tracking.runs()[CONFIG].status == "RUNNING"


@pytest.mark.skipif(
    not Path("/proc").is_dir(), reason="no folder can be made in Linux's /proc, as in a mount that is away"
)
def test_a_run_whose_files_have_no_place_at_present_waits_for_it(uri: str, tmp_path: Path, said: list[str]) -> None:
    called: list[str] = []
    tracking = SweepTracking.open("s", uri, artifact_root="/proc/away", create=True, log=said.append)
    tracking.finish(
        CONFIG, "FINISHED", artifacts=a_folder_of_files(tmp_path / "run"), then=lambda: called.append("then")
    )
    assert not tracking.close("FINISHED", patience_seconds=3)
    assert (tracking.refused, called) == (0, [])
    assert "resuming s writes them" in said[-1]


def test_epochs_that_pile_up_share_calls_of_at_most_a_thousand_metrics() -> None:
    calls: list[tuple[Any, list[int]]] = []
    first, go_on = threading.Event(), threading.Event()

    def write(key: Any, epochs: list[dict[str, Any]]) -> None:
        calls.append((key, [epoch["epoch"] for epoch in epochs]))
        first.set()
        go_on.wait(10)
        if len(calls) <= 2:
            raise ConnectionError("nobody there")

    said: list[str] = []
    queue = Queue(write, "http://here", said.append, linger=0)
    queue.put(CONFIG, epoch(1))
    assert first.wait(10)
    for number in range(2, 302):
        queue.put(CONFIG, epoch(number, a=1.0, b=2.0, c=3.0, d=4.0))
        queue.put(OTHER, epoch(number, a=1.0))
    go_on.set()
    assert queue.drain(60)
    assert calls == [
        (CONFIG, [1]),  # fails, and goes to the end of the line
        (OTHER, list(range(2, 302))),  # fails
        (CONFIG, list(range(1, 251))),  # 1 + 249 * 4 metrics
        (CONFIG, list(range(251, 302))),
        (OTHER, list(range(2, 302))),
    ]
    assert said == [
        "tracking server http://here does not answer (nobody there); training goes on, 601 records wait",
        "tracking server http://here answers again; writing 601 records",
    ]


def slow_queue(linger: float) -> tuple[Queue, list[tuple[float, list[int]]]]:
    """A queue that writes one epoch at once and is then to rest for ten seconds, and what it writes when."""
    calls: list[tuple[float, list[int]]] = []

    def write(key: Any, epochs: list[dict[str, Any]]) -> None:
        calls.append((time.monotonic(), [epoch["epoch"] for epoch in epochs]))
        time.sleep(0.5)  # a twentieth of ten seconds

    queue = Queue(write, "", print, linger=linger)
    queue.put(CONFIG, epoch(1))
    while queue.waiting():
        time.sleep(0.01)
    for number in (2, 3, 4):
        queue.put(CONFIG, epoch(number))
    return queue, calls


def test_where_writing_takes_more_than_its_share_epochs_wait_for_the_next_ones_of_their_run() -> None:
    queue, calls = slow_queue(linger=1)
    while queue.waiting():
        time.sleep(0.01)
    assert [epochs for _, epochs in calls] == [[1], [2, 3, 4]]
    assert 1.4 < calls[1][0] - calls[0][0] < 9  # and no longer than the queue is to linger


def test_nothing_waits_for_epochs_to_come_once_a_run_has_ended_or_somebody_waits() -> None:
    queue, calls = slow_queue(linger=60)
    ended = threading.Event()
    queue.put(CONFIG, ended.set)
    assert ended.wait(5)
    queue.put(OTHER, epoch(1))
    assert queue.drain(5)
    assert [epochs for _, epochs in calls] == [[1], [2, 3, 4], [1]]


def test_the_paper_of_a_preset_stays_with_the_sweep(sweep: Callable[..., SweepTracking]) -> None:
    tracking = sweep()
    tracking.describe(PLAN, {}, "first", "note", paper="fishernet")
    drained(tracking)
    again = sweep(create=False)
    again.describe(PLAN, {}, "--resume, which has no preset", "note")
    drained(again)
    assert again._client.get_run(again.parent_run_id).data.tags["fishernet.paper"] == "fishernet"


def test_plans_longer_than_a_tag_are_read_back(sweep: Callable[..., SweepTracking]) -> None:
    configs = [trial_config(seed=seed).to_dict() for seed in range(60)]
    assert len(json.dumps(configs)) > 8000  # what MLflow keeps of a tag
    tracking = sweep()
    tracking.describe({"configs": configs}, {"epochs": 5}, "first", "note")
    drained(tracking)
    again = sweep(create=False)
    assert again.plan == {"configs": configs}
    again.describe({"configs": configs[:2]}, {"epochs": 6, "noise": "learned"}, "second", "note")
    drained(again)
    assert sweep().plan == {"configs": configs[:2]}
    parent = again._client.get_run(again.parent_run_id)
    assert parent.data.params == {"epochs": "5", "noise": "learned"}  # a param cannot change
    assert parent.data.tags["fishernet.command"] == "second"


def test_thousands_of_runs_are_read_page_by_page(sweep: Callable[..., SweepTracking], uri: str) -> None:
    tracking = sweep()
    tracking.log_epochs(CONFIG, EPOCHS)
    drained(tracking)
    with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as store, store:
        one = tracking.runs()[CONFIG].run_id
        for table in ("runs", "tags", "params", "latest_metrics"):
            columns = [name for _, name, *_ in store.execute(f"pragma table_info({table})")]
            values = ["run_uuid || '-' || n" if name == "run_uuid" else name for name in columns]
            seeds = {
                "params": "iif(key = 'seed', n, value)",
                "tags": """iif(key = 'fishernet.config', replace(value, '"seed": 0', '"seed": ' || n), value)""",
            }
            values = [
                seeds.get(table, value) if name == "value" else value
                for name, value in zip(columns, values, strict=True)
            ]
            store.execute(
                "with recursive count(n) as (select 1 union all select n + 1 from count where n < 1500) "
                f"insert into {table} ({', '.join(columns)}) select {', '.join(values)} from {table}, count "
                "where run_uuid = ?",
                [one],
            )
    runs = tracking.runs()
    assert {config.seed for config in runs} == set(range(1501))
    assert {run.last_epoch for run in runs.values()} == {5}


def test_of_two_runs_of_one_config_the_more_advanced_is_kept(sweep: Callable[..., SweepTracking], uri: str) -> None:
    tracking = sweep()
    tracking.log_epochs(CONFIG, EPOCHS)
    drained(tracking)
    run = client(uri).get_run(tracking.runs()[CONFIG].run_id)
    second = client(uri).create_run(run.info.experiment_id, tags=dict(run.data.tags))
    assert tracking.runs()[CONFIG].run_id == run.info.run_id
    client(uri).set_terminated(second.info.run_id, "FINISHED")
    assert tracking.runs()[CONFIG].run_id == second.info.run_id


def test_a_missing_sweep_is_answered_with_those_there_are(sweep: Callable[..., SweepTracking], uri: str) -> None:
    with pytest.raises(TrackingError, match=r"no sweep named s in .*; the sweeps there: none"):
        sweep(create=False)
    sweep()
    with pytest.raises(TrackingError, match=r"no sweep named t in .*; the sweeps there: s$"):
        SweepTracking.open("t", uri, artifact_root=None, create=False)
    with pytest.raises(TrackingError, match=r"the sweeps there: s\. Did you mean s\?$"):
        SweepTracking.open("sx", uri, artifact_root=None, create=False)


def test_names_that_mlflow_has_given_away_are_refused(sweep: Callable[..., SweepTracking], uri: str) -> None:
    with pytest.raises(TrackingError, match=r"Default is an MLflow experiment in .*, but no sweep"):
        SweepTracking.open("Default", uri, artifact_root=None, create=True)
    sweep()
    client(uri).delete_experiment(client(uri).get_experiment_by_name("s").experiment_id)
    with pytest.raises(TrackingError, match=r"the sweep s was deleted .* choose another name, .* delete s "):
        sweep()
    assert list_sweeps(uri) == []


def test_commands_for_a_deleted_sweep_restore_it_and_forget_it(
    sweep: Callable[..., SweepTracking], uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import cli

    from fishernet.__main__ import main

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sweep().close("FINISHED", 5)
    for command in ("restore", "delete"):
        client(uri).delete_experiment(client(uri).get_experiment_by_name("s").experiment_id)
        with pytest.raises(TrackingError) as error:
            sweep()
        (printed,) = re.findall(rf"\(((?:MLFLOW|/|fishernet)[^()]* {command} [^()]*)\)", str(error.value))
        if command == "delete":
            start = len(fishernet())
            words = shlex.split(printed)[start:]
            assert shlex.split(printed)[:start] == fishernet()
            assert main([*words, "--yes"]) == 0
        else:
            variables, words = printed.split(f"{shlex.quote(sys.executable)} -m mlflow ")
            name, _, value = shlex.split(variables)[0].partition("=")
            monkeypatch.setenv(name, value)
            cli.cli(shlex.split(words), standalone_mode=False)
            monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        found = client(uri).get_experiment_by_name("s")
        assert (found and found.lifecycle_stage) == ("active" if command == "restore" else None)


def test_a_run_of_another_version_is_named(sweep: Callable[..., SweepTracking], uri: str) -> None:
    tracking = sweep()
    tracking.ensure(CONFIG)
    drained(tracking)
    newer = json.dumps({**CONFIG.to_dict(), "latent_dims": 2})
    client(uri).set_tag(tracking.runs()[CONFIG].run_id, "fishernet.config", newer)
    with pytest.raises(TrackingError, match=r"run FisherNet-d02-s0 .*latent_dims"):
        sweep()


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("./mlruns", "is a plain folder.*sqlite:///"),
        ("file:///tmp/mlruns", "is a plain folder.*sqlite:///"),
        ("ftp://somewhere", "starts with ftp, which is none of sqlite, http"),
        ("http://", "names no host"),
        ("http://[", "is not a tracking URI"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///{tmp}", "names no file"),
        ("sqlite:///{tmp}/a/b/mlflow.db", "the folder of .* does not exist; create .*/a/b"),
        ("sqlite:///{tmp}/text/mlflow.db", "cannot be written|does not exist"),
        ("sqlite:////proc/fishernet/mlflow.db", "cannot be written"),
        ("sqlite:///{tmp}/text", "file is not a database"),
        ("sqlite:///{tmp}/other.db", "is a database, but not MLflow's"),
        ("http://127.0.0.1:{port}", "no tracking server answers at .*Connection refused.*mlflow server"),
        ("postgresql://me:secret@127.0.0.1:{port}/db", "no database answers at postgresql://127.*refused"),
    ],
)
def test_a_tracking_uri_that_cannot_work_is_answered_with_a_sentence(uri: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database " * 100)
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("create table studies (id)")
    with pytest.raises(TrackingError, match=sentence) as raised:
        check_uri(uri.format(tmp=tmp_path, port=unused_port()))
    assert "secret" not in str(raised.value)


def test_a_good_store_passes_also_while_another_writes(uri: str) -> None:
    check_uri(uri)
    with locked(uri):
        check_uri(uri)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", None),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nlost", "is no working MLflow server: HTTP 404, lost"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 12\r\n\r\nInvalid Host", "Invalid Host.*--allowed-hosts"),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "set MLFLOW_TRACKING_USERNAME"),
        (b"", "no tracking server answers .*timed out"),
    ],
)
def test_what_else_may_listen_at_a_port_is_told_apart(answer: bytes, sentence: str | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            asked = b""
            while not asked:  # the first connection only looks whether anything listens
                connection, _ = listener.accept()
                with connection:
                    if asked := connection.recv(10_000):
                        connection.sendall(answer)
                        if not answer:
                            time.sleep(7)  # it listens and says nothing

        threading.Thread(target=serve, daemon=True).start()
        expected = pytest.raises(TrackingError, match=sentence) if sentence else contextlib.nullcontext()
        with expected:
            check_uri(f"http://127.0.0.1:{listener.getsockname()[1]}")


def test_importing_the_module_loads_neither_mlflow_nor_torch() -> None:
    code = "import sys, sweeps.tracking; print({'mlflow', 'torch', 'numpy', 'PIL', 'requests'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_server_that_hangs_and_dies_loses_and_doubles_nothing(uri: str, tmp_path: Path, said: list[str]) -> None:
    with Server(uri, tmp_path / "served") as server:
        tracking = SweepTracking.open("s", server.uri, artifact_root="/unused", create=True, log=said.append)
        tracking.describe(PLAN, {}, "command", "note")
        tracking.log_epochs(CONFIG, [epoch(1, mse=1.0, nan=math.nan, inf=math.inf)])
        drained(tracking)
        server.signal(signal.SIGSTOP)
        start = time.monotonic()
        tracking.log_epochs(OTHER, EPOCHS[:3])
        tracking.log_epochs(CONFIG, EPOCHS[:3])
        assert time.monotonic() - start < 5  # a call to the server would wait for 15
        time.sleep(40)
        server.signal(signal.SIGCONT)
        drained(tracking)
        with locked(uri):  # the server is slow: it makes the run after its client has stopped waiting
            tracking.log_epochs(THIRD, EPOCHS[:3])
            time.sleep(17)
        drained(tracking)
        server.signal(signal.SIGKILL)
        for config in (CONFIG, OTHER, THIRD):
            tracking.log_epochs(config, EPOCHS)
            tracking.finish(config, "FINISHED", artifacts=a_folder_of_files(tmp_path / config.model))
        time.sleep(5)
        server.start()
        assert tracking.close("FINISHED")
        assert SweepTracking.open("s", server.uri, artifact_root=None, create=False).plan == PLAN
        trials = client(server.uri).search_runs([tracking.experiment_id], "tags.`fishernet.role` = 'trial'")
        assert len(trials) == 3
        runs = tracking.runs()
        assert {(run.status, run.last_epoch) for run in runs.values()} == {("FINISHED", 5)}
        assert history(server.uri, runs[OTHER].run_id) == history(server.uri, runs[THIRD].run_id) == WRITTEN
        assert history(server.uri, runs[CONFIG].run_id) == [(1, 1.0, WRITTEN[0][2]), *WRITTEN[1:]]
        assert math.isnan(history(server.uri, runs[CONFIG].run_id, "test/nan")[0][1])
        assert history(server.uri, runs[CONFIG].run_id, "test/inf")[0][1] == sys.float_info.max
        files = {file.path for file in client(server.uri).list_artifacts(runs[OTHER].run_id)}
        assert files == {"weights.safetensors", "deeper", "reconstructions.png"}
        assert ["does not answer" in line for line in said] == [True, False, True, False]
        assert ["answers again" in line for line in said] == [False, True, False, True]


@pytest.mark.long
def test_drivers_that_start_at_once_make_one_store(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/results/mlflow.db"
    code = (
        "import sys; from sweeps.tracking import SweepTracking\n"
        "print(SweepTracking.open(sys.argv[1], sys.argv[2], artifact_root=None, create=True).close('FINISHED'))"
    )
    drivers = [
        subprocess.Popen([sys.executable, "-c", code, name, store], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for name in ("a", "b", "c")
    ]
    assert [driver.communicate()[0] for driver in drivers] == ["True\n"] * 3
    assert {name for name, _, _ in list_sweeps(store)} == {"a", "b", "c"}
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["mlflow.db"]


def test_a_store_that_a_killed_driver_was_making_is_cleared_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from fishernet.services.mlflow_store import create_whole\n"
        "create_whole(pathlib.Path(sys.argv[1]), lambda draft: draft.touch() or os._exit(9))"
    )
    store = tmp_path / "results" / "mlflow.db"
    subprocess.run([sys.executable, "-c", code, store], cwd=ROOT, check=False)
    assert len(list(store.parent.iterdir())) == 1
    create_whole(store, lambda draft: draft.write_bytes(b"whole") and None)
    assert [path.name for path in store.parent.iterdir()] == ["mlflow.db"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What ``python -m fishernet`` writes: one run finished, one still running."""
    folder = tmp_path / "records"
    a_folder_of_files(folder / "first")
    write_record(folder / "first", CONFIG, "finished", EPOCHS)
    write_record(folder / "second", OTHER, "running", EPOCHS[:2])
    plan = {
        "configs": [CONFIG.to_dict(), OTHER.to_dict()],
        "pca_test_mse": {"2": 0.046, "3": 0.04},
        "data_fingerprint": "f",
        "held_out": "test",
        "command": "python -m fishernet",
        "versions": {"torch": "2.15"},
        "machine": {"hostname": "node-7"},
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


def write_record(folder: Path, config: TrialConfig, status: str, epochs: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    record = {"config": config.to_dict(), "status": status, "reason": None, "epochs": epochs}
    (folder / "record.json").write_text(json.dumps(record))


def test_records_are_imported_once_and_later_ones_are_added(
    folder: Path, uri: str, tmp_path: Path, sweep: Callable[..., SweepTracking], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(folder), "--name", "s", "--tracking-uri", uri, "--storage-path", str(tmp_path)]
    assert import_records.main(arguments) == 0
    assert capsys.readouterr().out == "2 of 2 records are new to the sweep s, which is now KILLED\n"
    runs = sweep(create=False).runs()
    assert {config: (run.status, run.last_epoch) for config, run in runs.items()} == {
        CONFIG: ("FINISHED", 5),
        OTHER: ("KILLED", 2),
    }
    first = client(uri).get_run(runs[CONFIG].run_id)
    assert (first.info.start_time, first.info.end_time) == (WRITTEN[0][2], WRITTEN[-1][2])
    assert (tmp_path / "artifacts" / "s" / first.info.run_id / "artifacts" / "reconstructions.png").exists()
    parent = client(uri).get_run(sweep(create=False).parent_run_id)
    assert json.loads(parent.data.tags["fishernet.machine"]) == {"hostname": "node-7"}
    assert "mlflow.source.git.commit" not in parent.data.tags  # this checkout did not train them
    pca = history(uri, parent.info.run_id, "pca/test_mse")
    assert [(d, mse) for d, mse, _ in pca] == [(2, 0.046), (3, 0.04)]

    before = rows(uri)
    assert import_records.main(arguments) == 0
    assert rows(uri) == before

    write_record(folder / "second", OTHER, "finished", EPOCHS)
    assert import_records.main(arguments) == 0
    runs = sweep(create=False).runs()
    assert {(run.status, run.last_epoch) for run in runs.values()} == {("FINISHED", 5)}
    assert history(uri, runs[OTHER].run_id) == WRITTEN
    assert client(uri).get_run(parent.info.run_id).info.status == "FINISHED"


def test_records_of_a_second_machine_extend_the_plan_and_other_data_is_refused(
    folder: Path, uri: str, tmp_path: Path, sweep: Callable[..., SweepTracking], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(folder), "--name", "s", "--tracking-uri", uri, "--storage-path", str(tmp_path)]
    assert import_records.main(arguments) == 0
    third = trial_config(model="AE", epochs=5)
    plan = json.loads((folder / "plan.json").read_text()) | {"configs": [third.to_dict()]}
    (folder / "plan.json").write_text(json.dumps(plan))
    shutil.rmtree(folder / "second")
    write_record(folder / "first", third, "failed", EPOCHS)
    assert import_records.main(arguments) == 0
    held = sweep(create=False).plan
    assert held is not None
    assert set(SweepPlan.from_dict(held).configs) == {CONFIG, OTHER, third}
    (folder / "plan.json").write_text(json.dumps(plan | {"data_fingerprint": "g"}))
    before = rows(uri)
    assert import_records.main(arguments) == 2
    assert "data with fingerprint f, these records on data with g" in capsys.readouterr().err
    assert rows(uri) == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"epoch": 2**63}, "its epochs must count from 1 to the 5 of its config"),
        ({"epoch": 6}, "its epochs must count from 1 to the 5 of its config"),
        ({"time": 1e300}, "the time of its epochs must be in seconds since 1970"),
        ({"time": math.nan}, "the time of its epochs must be in seconds since 1970"),
    ],
)
def test_a_record_with_numbers_that_no_training_writes_is_refused_before_the_first_is_written(
    change: dict[str, Any], sentence: str, folder: Path, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_record(folder / "second", OTHER, "finished", [*EPOCHS[:-1], EPOCHS[-1] | change])
    before = rows(uri)
    arguments = [str(folder), "--name", "s", "--tracking-uri", uri, "--storage-path", str(tmp_path)]
    assert import_records.main(arguments) == 2
    assert (
        f"{folder / 'second' / 'record.json'} is damaged or of another version: {sentence}" in capsys.readouterr().err
    )
    assert rows(uri) == before


def test_records_are_not_imported_into_a_sweep_that_is_being_trained(
    folder: Path, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows(uri)
    with hold_lock(tmp_path / "s", "s"):
        arguments = [str(folder), "--name", "s", "--tracking-uri", uri, "--storage-path", str(tmp_path)]
        assert import_records.main(arguments) == 2
    assert "the sweep s is being trained or imported already (process" in capsys.readouterr().err
    assert rows(uri) == before


def test_an_interrupted_import_is_finished_by_the_same_command(
    folder: Path, uri: str, tmp_path: Path, sweep: Callable[..., SweepTracking]
) -> None:
    configs = [trial_config(seed=seed, epochs=5) for seed in range(100)]
    plan = json.loads((folder / "plan.json").read_text()) | {"configs": [config.to_dict() for config in configs]}
    (folder / "plan.json").write_text(json.dumps(plan))
    shutil.rmtree(folder / "second")
    for config in configs[1:]:
        write_record(folder / config.run_name, config, "finished", EPOCHS)
    write_record(folder / "first", configs[0], "finished", EPOCHS)
    script = str(ROOT / "sweeps" / "import_records.py")
    command = [sys.executable, script, str(folder), "--name=s", f"--tracking-uri={uri}", f"--storage-path={tmp_path}"]
    started = subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whatever started the tests
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not (list_sweeps(uri) and "FINISHED" in {run.status for run in sweep(create=False).runs().values()}):
        assert time.monotonic() < deadline
        assert started.poll() is None, started.communicate()
        time.sleep(0.1)
    started.terminate()  # which is answered as Ctrl-C
    out, err = started.communicate(timeout=100)
    assert (started.returncode, out) == (130, ""), err
    assert err.endswith("interrupted; the same command imports the rest\n")
    assert "Traceback" not in err
    found = sweep(create=False)
    assert 0 < sum(run.status == "FINISHED" for run in found.runs().values()) < len(configs)
    assert found.status == "KILLED"
    assert import_records.main(command[2:]) == 0
    runs = sweep(create=False).runs()
    assert {config: (run.status, run.last_epoch) for config, run in runs.items()} == dict.fromkeys(
        configs, ("FINISHED", 5)
    )


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("second/record.json", '{"config": {"mod', "second/record.json is damaged"),
        ("second/record.json", "[]", "second/record.json is damaged"),
        (
            "second/record.json",
            '{"status": "done", "config": {}, "epochs": []}',
            "must be one of finished, failed, running",
        ),
        ("second/record.json", '{"status": "failed", "reason": null, "config": {"dim": 2}, "epochs": []}', "dim"),
        ("second/record.json", '{"status": "failed", "epochs": [{"epoch": 1, "time": 1}]}', "metrics"),
        ("plan.json", "{}", "plan.json is damaged or of another version: configs"),
        ("plan.json", None, "plan.json does not exist"),
        ("third/record.json", "first/record.json", "hold the same trial config"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_imported(
    file: str, content: str | None, sentence: str, folder: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = rows(uri)
    (folder / file).parent.mkdir(exist_ok=True)
    if content is None:
        (folder / file).unlink()
    else:
        copied = folder / content if content.endswith("json") else None
        (folder / file).write_text(copied.read_text() if copied else content)
    assert import_records.main([str(folder), "--name", "s", "--tracking-uri", uri]) == 2
    assert sentence in capsys.readouterr().err
    assert rows(uri) == before


def test_the_script_runs_from_any_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "plan.json").unlink()
    script = [sys.executable, str(ROOT / "sweeps" / "import_records.py"), str(folder), "--name", "s"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"{typed_as('import')}: error: {folder / 'plan.json'} does not exist; `fishernet train` writes it\n"
    )
    assert not (tmp_path / "fishernet-results").exists()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_originals_stand_above_reconstructions_enlarged_by_a_whole_factor(
    channels: int, mode: str, tmp_path: Path
) -> None:
    originals = np.random.default_rng(0).integers(0, 256, (5, channels, 28, 28), np.uint8)
    np.savez(tmp_path / "pictures.npz", originals=originals, reconstructions=255 - originals)
    reconstruction_picture(tmp_path / "pictures.npz", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.mode == mode
        pixels = np.asarray(picture).reshape(2 * 56 + 4, 5 * 56 + 4 * 4, channels)
    fourth = slice(3 * 60, 3 * 60 + 56)
    for shown, images in ((pixels[:56, fourth], originals), (pixels[60:, fourth], 255 - originals)):
        assert (shown[::2, ::2] == images[3].transpose(1, 2, 0)).all()
        assert (shown[1::2, 1::2] == images[3].transpose(1, 2, 0)).all()


def test_a_picture_does_not_grow_with_the_pixels_of_large_images(tmp_path: Path) -> None:
    originals = np.full((2, 1, 1000, 500), 200, np.uint8)
    originals[1] = 0
    np.savez(tmp_path / "pictures.npz", originals=originals, reconstructions=originals)
    reconstruction_picture(tmp_path / "pictures.npz", tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (2 * 112 + 4, 2 * 224 + 4)
        assert [picture.getpixel((x, 300)) for x in (50, 160)] == [200, 0]


def test_a_file_without_pictures_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "pictures.npz", originals=np.zeros((2, 1, 4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"pictures\.npz does not hold originals and reconstructions"):
        reconstruction_picture(tmp_path / "pictures.npz", tmp_path / "out.png")
