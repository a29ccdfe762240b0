"""The only writer to MLflow: a sweep is one experiment with a parent run and one child run per trial config.

After ``SweepTracking.open`` every record goes through one background thread, so that training never waits
for MLflow and nothing is lost while its server is away.
"""

import json
import logging
import os
import platform
import re
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from fishernet.config import TrialConfig

SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a creation repeated because its answer was lost is a second run
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
METRICS_PER_CALL = 1000  # MLflow's limit
TAG_LENGTH = 5000  # MLflow 3.17 keeps 8000 characters and drops the rest; older servers keep 5000
LONGEST_WAIT = 15.0  # seconds between two attempts to reach a server that is away
# Answers that stay the same however often one asks. All others (timeouts, 5xx, 401, a full disk) may change.
REFUSALS = (
    "INVALID_PARAMETER_VALUE", "BAD_REQUEST", "NOT_FOUND", "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
)  # fmt: skip
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
TRIALS, PARENTS = "tags.`fishernet.role` = 'trial'", "tags.`fishernet.role` = 'sweep'"

Epoch = dict[str, Any]  # {"epoch": int, "time": seconds since 1970, "metrics": {name: float}}
Record = Any  # an Epoch, or a function that writes something else
Artifacts = Callable[[], Path | None] | Path | None
Log = Callable[[str], Any]


class TrackingError(RuntimeError):
    """Why MLflow cannot be used, as a sentence for whoever typed the command."""


class _Refused(Exception):
    """A record that cannot be written, however often one tries."""


@dataclass(frozen=True)
class TrackedRun:
    """What MLflow holds of one trial config."""

    run_id: str
    config: TrialConfig
    status: str  # RUNNING, FINISHED, FAILED or KILLED
    last_epoch: int  # 0: none
    reason: str = ""  # why it FAILED or was KILLED


@dataclass
class _Child:
    """The run of one trial config as it will be once the queue is empty."""

    run_id: str = ""  # empty until the server has made it
    status: str = ""
    last_epoch: int = 0
    in_doubt: bool = False  # the server was asked to make it, and an answer was missing


def default_tracking_uri(storage_path: str | Path) -> str:
    """MLFLOW_TRACKING_URI where it is set, else an SQLite file below storage_path."""
    file = Path(storage_path).resolve() / "mlflow.db"
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{file.as_posix()}"


def default_artifact_root(storage_path: str | Path) -> str:
    """Where a store without a server keeps its files; absolute, as MLflow writes it into the database."""
    return str(Path(storage_path).resolve() / "artifacts")


class SweepTracking:
    """One sweep in MLflow; ``open`` makes it. All methods but ``runs`` and ``close`` return at once.

    ``say`` takes the few lines that are for the user; whoever draws on the terminal puts another in its place.
    """

    def __init__(self, name: str, uri: str, client: Any, parent: Any, log: Log) -> None:
        self.name, self.parent_run_id = name, parent.info.run_id
        self.plan = _read_plan(parent.data.tags)
        self._uri, self._client, self._experiment_id, self.say = uri, client, parent.info.experiment_id, log
        self._parent_status = parent.info.status
        # A run found RUNNING may lack its params (its driver died): "" has ensure add them.
        self._children = {
            run.config: _Child(run.run_id, "" if run.status == "RUNNING" else run.status, run.last_epoch)
            for run in self.runs().values()
        }
        self._queue = _Queue(self._write_epochs, _shown(uri), lambda line: self.say(line))
        self._closed: bool | None = None

    @classmethod
    def open(cls, name: str, uri: str, *, artifact_root: str | None, create: bool, log: Log = print) -> "SweepTracking":
        """The sweep of that name, which ``create`` makes where it is missing; raises TrackingError."""
        check_uri(uri)
        if path := _sqlite_path(uri):
            uri = f"sqlite:///{path.as_posix()}"  # absolute: the current folder may change
            artifact_root = artifact_root or default_artifact_root(path.parent)
        missing = f"there is no sweep named {name} in {_shown(uri)}"
        if path and not path.exists() and not create:
            raise TrackingError(f"{missing}; that store does not exist yet")
        with _sentences(uri):
            client = _client(uri)
            experiment = client.get_experiment_by_name(name)
            if experiment and experiment.lifecycle_stage == "deleted":
                raise TrackingError(
                    f"the sweep {name} was deleted in {_shown(uri)}, and MLflow keeps its name; choose "
                    "another name, or have MLflow forget it: mlflow gc "
                    f"--experiment-ids {experiment.experiment_id} "
                    "--backend-store-uri <the server's store>"
                )
            if experiment and experiment.tags.get("fishernet.kind") != "sweep":
                raise TrackingError(
                    f"{name} is an MLflow experiment in {_shown(uri)}, but no sweep; choose another name"
                )
            ids = [experiment.experiment_id] if experiment else []
            parents = _pages(client.search_runs, experiment_ids=ids, filter_string=PARENTS)
            parent = next(parents, None) if ids else None
            if parent is None and not create:
                names = ", ".join(sweep for sweep, _, _ in list_sweeps(uri)) or "none"
                raise TrackingError(f"{missing}; the sweeps there: {names}")
            if not ids:
                place = None  # a server chooses it; without one, MLflow takes the current folder
                if artifact_root and not uri.startswith("http"):
                    place = (Path(artifact_root).absolute() / re.sub(r"[^\w.-]+", "-", name)).as_uri()
                kind = {"fishernet.kind": "sweep"}
                ids = [client.create_experiment(name, artifact_location=place, tags=kind)]
            if parent is None:
                tags = {"fishernet.role": "sweep", "fishernet.sweep": name}
                parent = client.create_run(ids[0], run_name=name, tags=tags)
        return cls(name, uri, client, parent, log)

    @property
    def backlog(self) -> int:
        """How many records wait: epochs, new runs, statuses."""
        return self._queue.waiting()

    @property
    def refused(self) -> int:
        """How many records MLflow will never take; each run's first one was logged."""
        return self._queue.refused

    def runs(self) -> dict[TrialConfig, TrackedRun]:
        """Every trial config's run as MLflow holds it now, the most advanced where there are several."""
        with _sentences(self._uri):
            found = _pages(
                self._client.search_runs,
                experiment_ids=[self._experiment_id],
                filter_string=TRIALS,
                order_by=["attributes.start_time ASC"],  # a run made meanwhile comes last and shifts no page
            )
            tracked = sorted(map(_tracked, found), key=lambda run: (run.status == "FINISHED", run.last_epoch))
        return {run.config: run for run in tracked}

    def describe(
        self, plan: dict[str, Any], params: Mapping[str, Any], command: str, note: str,
        provenance: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Write what the sweep is; params that are there stay as they are, since MLflow's cannot change.

        provenance: tags that say where it was computed; otherwise this machine, its packages and its commit.
        """
        self.plan = plan
        text = json.dumps(plan)
        chunks = [text[i : i + TAG_LENGTH] for i in range(0, len(text), TAG_LENGTH)]
        tags = {f"fishernet.plan.{i}" if i else "fishernet.plan": chunk for i, chunk in enumerate(chunks)}
        tags |= {"fishernet.command": command[:TAG_LENGTH], "mlflow.note.content": note[:TAG_LENGTH]}
        tags |= provenance_tags() if provenance is None else provenance
        texts = {key: str(value) for key, value in params.items()}
        self._put(None, lambda: self._write_description(tags, texts))

    def ensure(self, config: TrialConfig, start: float | None = None) -> None:
        """Have a RUNNING run of this config, started ``start`` seconds after 1970; a FINISHED one stays."""
        child = self._children.setdefault(config, _Child())
        if child.status in ("RUNNING", "FINISHED"):
            return
        reopen, started = child.status != "", _milliseconds(start)
        child.status = "RUNNING"
        self._put(config, lambda: self._write_run(config, child, started, reopen))

    def log_epochs(self, config: TrialConfig, epochs: list[Epoch]) -> None:
        """Add epochs to a run; those up to the run's last one are there already and are skipped."""
        self.ensure(config)
        child = self._children[config]
        for epoch in sorted(epochs, key=lambda epoch: int(epoch["epoch"])):
            if epoch["epoch"] > child.last_epoch:
                child.last_epoch = epoch["epoch"]
                self._put(config, epoch)

    def finish(
        self, config: TrialConfig, status: str, reason: str | None = None,
        artifacts: Artifacts = None, end: float | None = None,
    ) -> None:  # fmt: skip
        """Upload the files of the folder ``artifacts``, then set the status: what is FINISHED is whole."""
        if status not in ("FINISHED", "FAILED", "KILLED"):
            raise ValueError(f"status is how a run ended: FINISHED, FAILED or KILLED; got {status!r}")
        self.ensure(config)
        child = self._children[config]
        if child.status == "RUNNING":
            child.status = status
            ended = _milliseconds(end)
            self._put(config, lambda: self._write_end(config, status, reason, artifacts, ended))

    def log_parent_metrics(self, metrics: list[tuple[str, float, int]]) -> None:
        """Add (name, value, step) to the sweep's own run; what is there already is skipped."""
        now = _milliseconds()
        self._put(None, lambda: self._write_parent_metrics(metrics, now))

    def log_parent_artifacts(self, folder: Path) -> None:
        self._put(None, lambda: self._upload(self.parent_run_id, folder))

    def close(self, status: str, patience_seconds: float = 600) -> bool:
        """Wait for the queue, then set the sweep's status; false once MLflow stayed away for that long."""
        if self._closed is not None:
            return self._closed
        done = self._queue.drain(patience_seconds)
        if done and self._parent_status != status:  # equal: nothing was written since open
            ended = _milliseconds()
            self._put(None, lambda: self._client.set_terminated(self.parent_run_id, status, ended))
            done = self._queue.drain(patience_seconds)
        if not done:
            self.say(
                f"not yet written to {_shown(self._uri)} ({self._queue.trouble}): {self._queue.contents()}; "
                f"resuming the sweep {self.name} writes them"
            )
        self._queue.stop()
        self._closed = done
        return done

    def _put(self, config: TrialConfig | None, record: Record) -> None:
        if self._parent_status != "RUNNING":
            self._parent_status = "RUNNING"
            self._queue.put(None, lambda: self._client.update_run(self.parent_run_id, status="RUNNING"))
        self._queue.put(config, record)

    # What follows runs in the queue's thread, again after each failure: it may meet its own half-done work.

    def _write_description(self, tags: dict[str, str], params: dict[str, str]) -> None:
        known = self._client.get_run(self.parent_run_id).data.params
        new = {key: value for key, value in params.items() if key not in known}
        self._batch(self.parent_run_id, params=new, tags=tags)

    def _write_run(self, config: TrialConfig, child: _Child, started: int, reopen: bool) -> None:
        if child.in_doubt and not child.run_id:
            child.run_id = next((run.info.run_id for run in self._runs_of(config)), "")
        if not child.run_id:
            tags = {
                "mlflow.parentRunId": self.parent_run_id,
                "fishernet.role": "trial",
                "fishernet.variant": config.variant,
                "fishernet.sweep": self.name,
                # It comes with the run, where params need a second call.
                "fishernet.config": json.dumps(config.to_dict()),
            }
            doubted, child.in_doubt = child.in_doubt, True
            made = self._client.create_run(self._experiment_id, started, tags, config.run_name)
            child.run_id, child.in_doubt = made.info.run_id, doubted
        self._batch(child.run_id, params={key: str(value) for key, value in config.to_dict().items()})
        if reopen:
            if "fishernet.reason" in self._client.get_run(child.run_id).data.tags:
                self._client.delete_tag(child.run_id, "fishernet.reason")
            self._client.update_run(child.run_id, status="RUNNING")

    def _runs_of(self, config: TrialConfig) -> list[Any]:
        described = json.dumps(config.to_dict())
        same_name = f"{TRIALS} and attributes.run_name = '{config.run_name}'"
        runs = _pages(self._client.search_runs, experiment_ids=[self._experiment_id], filter_string=same_name)
        return [run for run in runs if run.data.tags.get("fishernet.config") == described]

    def _write_epochs(self, config: TrialConfig, epochs: list[Epoch]) -> None:
        # Sending a batch again adds nothing: MLflow keeps one of equal (name, value, time, step).
        values = [
            (name, value, _milliseconds(epoch["time"]), epoch["epoch"])
            for epoch in epochs
            for name, value in epoch["metrics"].items()
        ]
        self._batch(self._children[config].run_id, metrics=values)

    def _write_end(
        self, config: TrialConfig, status: str, reason: str | None, artifacts: Artifacts, ended: int
    ) -> None:
        child = self._children[config]
        try:
            folder = artifacts() if callable(artifacts) else artifacts
        except Exception as error:  # the launcher's code: whatever it raises, this thread lives on
            raise _Refused(f"its artifacts cannot be had: {_reason(error)}") from error
        if folder is not None:
            self._upload(child.run_id, folder)
        if child.in_doubt:  # a server that was slow rather than away has made the doubted run after all
            for run in self._runs_of(config):
                if run.info.run_id != child.run_id and not run.data.metrics:
                    self._client.delete_run(run.info.run_id)
        if reason:
            self._client.set_tag(child.run_id, "fishernet.reason", reason[:TAG_LENGTH])
        self._client.set_terminated(child.run_id, status, ended)

    def _write_parent_metrics(self, metrics: list[tuple[str, float, int]], now: int) -> None:
        names = {name for name, _, _ in metrics}
        known = [m for name in names for m in self._client.get_metric_history(self.parent_run_id, name)]
        there = {(m.key, m.value, m.step) for m in known}
        new = [(name, value, now, step) for name, value, step in metrics if (name, value, step) not in there]
        self._batch(self.parent_run_id, metrics=new)

    def _batch(
        self, run_id: str, metrics: Sequence[tuple[str, float, int, int]] = (),
        params: Mapping[str, str] = MappingProxyType({}), tags: Mapping[str, str] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_batch(
            run_id,
            metrics=[Metric(name, float(value), time, step) for name, value, time, step in metrics],
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
            synchronous=True,
        )

    def _upload(self, run_id: str, folder: Path) -> None:
        """Every file below folder; pictures.npz as the picture it holds, record.json not: it is the run."""
        if not folder.is_dir():
            raise _Refused(f"the folder of its artifacts, {folder}, does not exist")
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "record.json"):
            if path.name == "pictures.npz":
                self._upload_picture(run_id, path)
            else:
                place = path.relative_to(folder).parent.as_posix()
                self._client.log_artifact(run_id, str(path), None if place == "." else place)

    def _upload_picture(self, run_id: str, pictures: Path) -> None:
        from sweeps.pictures import reconstruction_picture

        with tempfile.TemporaryDirectory() as scratch:
            picture = Path(scratch) / "reconstructions.png"
            try:
                reconstruction_picture(pictures, picture)
            except ValueError as error:
                raise _Refused(str(error)) from error
            self._client.log_artifact(run_id, str(picture))


class _Queue:
    """Records, in order within each run, written by one thread that waits out a server that is away."""

    def __init__(self, write_epochs: Callable[[Any, list[Epoch]], None], server: str, log: Log) -> None:
        self._write_epochs, self._server, self._log = write_epochs, server, log
        self._lines: dict[TrialConfig | None, deque[Record]] = {}  # None: the sweep's own run
        self._in_hand: list[Record] = []
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._complained: set[TrialConfig | None] = set()
        self._last_written = time.monotonic()
        self.refused, self.trouble = 0, ""
        threading.Thread(target=self._work, name="mlflow-writer", daemon=True).start()

    def put(self, key: TrialConfig | None, record: Record) -> None:
        with self._changed:
            self._lines.setdefault(key, deque()).append(record)
            self._changed.notify_all()

    def waiting(self) -> int:
        with self._changed:
            return len(self._in_hand) + sum(map(len, self._lines.values()))

    def contents(self) -> str:
        with self._changed:
            records = [*self._in_hand, *(record for line in self._lines.values() for record in line)]
        epochs = sum(not callable(record) for record in records)
        return f"{epochs} epochs and {len(records) - epochs} other records"

    def drain(self, patience_seconds: float) -> bool:
        """Wait until nothing waits; false once nothing could be written for patience_seconds."""
        with self._changed:
            self._last_written = time.monotonic()
            while self._in_hand or self._lines:
                left = self._last_written + patience_seconds - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def stop(self) -> None:
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def _take(self) -> tuple[TrialConfig | None, list[Record]]:
        """The first record of the first line, with the epochs that follow it as far as one call goes."""
        key, line = next(iter(self._lines.items()))
        records = [line.popleft()]
        if not callable(records[0]):
            room = METRICS_PER_CALL - len(records[0]["metrics"])
            while line and not callable(line[0]) and len(line[0]["metrics"]) <= room:
                records.append(line.popleft())
                room -= len(records[-1]["metrics"])
        if not line:
            del self._lines[key]
        return key, records

    def _work(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._stopped.is_set())
                if self._stopped.is_set():
                    return
                key, records = self._take()
                self._in_hand = records
            try:
                records[0]() if callable(records[0]) else self._write_epochs(key, records)
            except Exception as error:  # whatever it is, this thread lives on: nobody else writes
                if not _is_refusal(error):
                    failures += 1
                    self._put_back(key, records)
                    self.trouble = _reason(error)
                    if failures == 2:  # one alone may be a connection that the server closed while idle
                        self._say(
                            f"tracking server {self._server} does not answer ({self.trouble}); "
                            f"training goes on, {self.waiting()} records wait"
                        )
                    self._stopped.wait(min(2.0 ** min(failures - 1, 10), LONGEST_WAIT))
                    continue
                self._refuse(key, records, error)
            if failures >= 2:
                self._say(f"tracking server {self._server} answers again; writing {self.waiting()} records")
            failures = 0
            with self._changed:
                self._in_hand, self._last_written = [], time.monotonic()
                self._changed.notify_all()

    def _put_back(self, key: TrialConfig | None, records: list[Record]) -> None:
        """Back to the head of its line, the line to the end: what chokes the server holds up one run."""
        with self._changed:
            line = self._lines.pop(key, deque())
            line.extendleft(reversed(records))
            self._lines[key] = line
            self._in_hand = []

    def _refuse(self, key: TrialConfig | None, records: list[Record], error: Exception) -> None:
        self.refused += len(records)
        if key not in self._complained:
            self._complained.add(key)
            name = key.run_name if key else "the sweep itself"
            self._say(f"MLflow refuses a record of {name} ({_reason(error)}); it is dropped, others go on")

    def _say(self, line: str) -> None:
        with suppress(Exception):  # a terminal that was closed must not end this thread
            self._log(line)


def _is_refusal(error: Exception) -> bool:
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    if isinstance(error, HTTPError) and error.response is not None:  # from the upload of a file
        return error.response.status_code in (400, 404, 413)
    code = error.error_code if isinstance(error, MlflowException) else None
    # The last four say that the record is wrong, not the server.
    return code in REFUSALS or isinstance(error, _Refused | FileNotFoundError | TypeError | KeyError | AttributeError)


def _reason(error: BaseException) -> str:
    """The innermost cause in a line: what the network or the database said, without MLflow's wrapping."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:300]


def _milliseconds(seconds: float | None = None) -> int:
    return round((time.time() if seconds is None else seconds) * 1000)


def _tracked(run: Any) -> TrackedRun:
    try:
        # A driver that died while it made the run wrote the tag and not the params.
        config = TrialConfig.from_dict(run.data.params or json.loads(run.data.tags["fishernet.config"]))
    except (KeyError, ValueError) as error:
        raise TrackingError(
            f"run {run.info.run_name} ({run.info.run_id}) holds no trial config of this version of fishernet "
            f"({error.args[0]}); choose another name for the sweep, or delete that run in MLflow"
        ) from error
    last_epoch = max((metric.step for metric in run.data.to_proto().metrics), default=0)
    reason = run.data.tags.get("fishernet.reason", "")
    return TrackedRun(run.info.run_id, config, run.info.status, last_epoch, reason)


def _read_plan(tags: Mapping[str, str]) -> dict[str, Any] | None:
    """The plan from its tag and the tags that continue it; what a longer plan left behind is not read."""
    text, i = tags.get("fishernet.plan", ""), 1
    while more := tags.get(f"fishernet.plan.{i}"):
        text, i = text + more, i + 1
    plan: dict[str, Any] | None = json.JSONDecoder().raw_decode(text)[0] if text else None
    return plan


def _pages(search: Callable[..., Any], **query: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(max_results=1000, page_token=token, **query)
        yield from page
        token = page.token
        if not token:
            return


def list_sweeps(uri: str) -> list[tuple[str, str, int]]:
    """(name, status of the parent run, milliseconds since 1970 when made) of every sweep, oldest first."""
    check_uri(uri)
    if (path := _sqlite_path(uri)) and not path.exists():
        return []
    with _sentences(uri):
        client = _client(uri)
        found = _pages(client.search_experiments, filter_string="tags.`fishernet.kind` = 'sweep'")
        sweeps = {experiment.experiment_id: experiment for experiment in found}
        parents = _pages(client.search_runs, experiment_ids=list(sweeps), filter_string=PARENTS)
        status = {run.info.experiment_id: run.info.status for run in (parents if sweeps else ())}
    made = ((sweeps[i].name, status[i], sweeps[i].creation_time) for i in status)
    return sorted(made, key=lambda sweep: sweep[2])


@contextmanager
def _sentences(uri: str) -> Iterator[None]:
    _prepare_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise TrackingError(f"MLflow at {_shown(uri)} fails: {_reason(error)}") from error


def _prepare_mlflow() -> None:
    """Settings that count from the first import on, and the silence of what the queue says in one line."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401  (sets up its logging, which the next lines change)

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback per locked attempt


def _client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    if (path := _sqlite_path(uri)) and not path.exists():
        _create_store(path)
    return MlflowClient(tracking_uri=uri)


def _create_store(path: Path) -> None:
    """A whole store or none: migrations interrupted, or run by two processes, leave a useless file."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as scratch:
        draft, root = Path(scratch) / path.name, default_artifact_root(path.parent)
        SqlAlchemyStore(f"sqlite:///{draft.as_posix()}", root).engine.dispose()
        try:
            path.hardlink_to(draft)  # unlike a rename it fails where another process was first
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            draft.replace(path)


def check_uri(uri: str) -> None:
    """Raise TrackingError where no MLflow store can be had at uri; takes seconds at most."""
    try:
        parts = urlsplit(uri)
        scheme, host, port = parts.scheme.split("+")[0], parts.hostname, parts.port
    except ValueError as error:
        raise TrackingError(f"{_shown(uri)} is not a tracking URI: {error}") from error
    if scheme == "sqlite":
        _check_sqlite(uri)
    elif scheme in ("", "file") or len(scheme) == 1:  # one letter: a drive
        raise TrackingError(
            f"the tracking URI {uri!r} is a plain folder, and MLflow 3.17 keeps no runs in folders; use a "
            f"file, such as sqlite:///{Path('mlflow.db').absolute().as_posix()}, or a server, such as http://localhost:5000"
        )
    elif scheme not in ("http", "https", *DATABASE_PORTS):
        known = ", ".join(("sqlite", "http", "https", *DATABASE_PORTS))
        raise TrackingError(f"the tracking URI {_shown(uri)} starts with {scheme}, which is none of {known}")
    elif not host:
        raise TrackingError(f"the tracking URI {_shown(uri)} names no host")
    elif scheme in DATABASE_PORTS:
        try:
            socket.create_connection((host, port or DATABASE_PORTS[scheme]), timeout=3).close()
        except OSError as error:
            raise TrackingError(f"no database answers at {_shown(uri)}: {_reason(error)}") from error
    else:
        _check_server(uri)


def _check_server(uri: str) -> None:
    _prepare_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    try:
        # Not /health: it answers even where the server refuses this host's name.
        answer = http_request(
            get_default_host_creds(uri), "/api/2.0/mlflow/experiments/get-by-name", "GET",
            params={"experiment_name": "Default"}, max_retries=0, timeout=5, raise_on_status=False,
        )  # fmt: skip
    except MlflowException as error:
        raise TrackingError(
            f"no tracking server answers at {_shown(uri)} ({_reason(error)}); start one (mlflow server "
            f"--port {urlsplit(uri).port or 5000}) or correct the tracking URI"
        ) from error
    said = " ".join(answer.text.split())[:200]
    if answer.status_code == 401:
        raise TrackingError(
            f"the tracking server {_shown(uri)} asks who you are; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if answer.status_code == 403:
        raise TrackingError(
            f"the tracking server {_shown(uri)} refuses this client ({said}); MLflow does so where it is "
            "reached by a name it was not started with: mlflow server --allowed-hosts"
        )
    if answer.status_code != 200 and "RESOURCE_DOES_NOT_EXIST" not in said:
        raise TrackingError(
            f"what answers at {_shown(uri)} is no working MLflow server: HTTP {answer.status_code}, {said}"
        )


def _check_sqlite(uri: str) -> None:
    path = _sqlite_path(uri)
    if path is None or path.is_dir():
        raise TrackingError(f"{uri} names no file; write sqlite:////absolute/path/mlflow.db (four slashes)")
    folder = path.parent if path.parent.exists() else path.parent.parent
    if not folder.is_dir():
        raise TrackingError(f"the folder of the tracking store {uri} does not exist; create {path.parent}")
    try:
        tempfile.TemporaryFile(dir=folder).close()
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(f"no permission to write {path}")
    except OSError as error:
        raise TrackingError(f"the tracking store {uri} cannot be written: {_reason(error)}") from error
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=1)) as store:
            tables = {name for (name,) in store.execute("select name from sqlite_master")}
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname == "SQLITE_BUSY":  # another writer is at it: MLflow will wait for it
            return
        raise TrackingError(f"{path} cannot be opened as a tracking store: {error}") from error
    if tables and "experiments" not in tables:
        raise TrackingError(f"{path} is a database, but not MLflow's; name another file as the tracking store")


def _sqlite_path(uri: str) -> Path | None:
    """The absolute path of an SQLite store's file; None for other stores and for a database in memory."""
    scheme, _, rest = uri.partition(":///")
    file = rest.partition("?")[0]
    return Path(file).absolute() if scheme.split("+")[0] == "sqlite" and file not in ("", ":memory:") else None


def _shown(uri: str) -> str:
    """The URI without a password."""
    return re.sub(r"//[^/@]*@", "//", uri)


def provenance_tags() -> dict[str, str]:
    """Where and with what this process computes, as tags."""
    tags = {"fishernet.versions": json.dumps(_versions()), "fishernet.machine": json.dumps(_machine())}
    checkout = Path(__file__).resolve().parents[1]
    # Without .git it is installed, perhaps below some other repository, whose commit would be the wrong one.
    if (checkout / ".git").exists() and (commit := _output("git", "-C", str(checkout), "rev-parse", "HEAD")):
        tags["mlflow.source.git.commit"] = commit
    return tags


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("fishernet", "torch", "ray", "mlflow", "optuna", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() is empty on Linux
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")  # torch would take memory there
    return {
        "hostname": platform.node(),
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpus": gpus.splitlines(),
        "system": platform.platform(),
    }


def _output(*command: str) -> str:
    """What the command prints; empty where it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
