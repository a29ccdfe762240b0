"""The only writer to MLflow: a sweep is one experiment with a parent run and one child run per trial config.

After ``SweepTracking.open`` every record goes through one background thread, so that training never waits
for MLflow and nothing is lost while its server is away.
"""

import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fishernet.config import TrialConfig
from fishernet.provenance import commit, machine, versions
from sweeps.tracking_queue import Epoch, Log, Queue, Record, Refused
from sweeps.tracking_store import (
    TrackingError,
    check_uri,
    client_of,
    default_artifact_root,
    default_tracking_uri,
    pages,
    reason_of,
    sentences,
    shown,
    sqlite_path,
)

__all__ = [
    "SweepTracking",
    "TrackedRun",
    "TrackingError",
    "check_uri",
    "default_artifact_root",
    "default_tracking_uri",
    "list_sweeps",
]

TAG_LENGTH = 5000  # MLflow 3.17 keeps 8000 characters and drops the rest; older servers keep 5000
PLURAL = {"sweep": "sweeps", "search": "searches"}  # kinds of experiments, in the tag fishernet.kind
TRIALS, PARENTS = "tags.`fishernet.role` = 'trial'", "tags.`fishernet.role` = 'sweep'"
# What the UI shows in its column Source.
SOURCE = {"mlflow.source.name": "fishernet", "mlflow.source.type": "LOCAL"}
Artifacts = Callable[[], Path | None] | Path | None


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


class SweepTracking:
    """One sweep in MLflow; ``open`` makes it. All methods but ``runs`` and ``close`` return at once.

    ``say`` takes the few lines that are for the user; whoever draws on the terminal puts another in its place.
    """

    def __init__(self, name: str, uri: str, client: Any, parent: Any, log: Log) -> None:
        self.name, self.parent_run_id = name, parent.info.run_id
        self.plan = _read_plan(parent.data.tags)
        self._uri, self._client, self._experiment_id, self.say = uri, client, parent.info.experiment_id, log
        self._parent_status = parent.info.status
        self.found = self.runs()  # as they were when it was opened: of 10,000, reading them takes half a minute
        # A run found RUNNING may lack its params (its driver died): "" has ensure add them.
        self._children = {
            run.config: _Child(run.run_id, "" if run.status == "RUNNING" else run.status, run.last_epoch)
            for run in self.found.values()
        }
        self._queue = Queue(self._write_epochs, shown(uri), lambda line: self.say(line))
        self._closed: bool | None = None

    @classmethod
    def open(
        cls, name: str, uri: str, *, artifact_root: str | None, create: bool, log: Log = print, kind: str = "sweep"
    ) -> "SweepTracking":
        """The sweep (or the search, by ``kind``) of that name, which ``create`` makes where it is missing.

        Raises TrackingError.
        """
        check_uri(uri)
        if path := sqlite_path(uri):
            uri = f"sqlite:///{path.as_posix()}"  # absolute: the current folder may change
            artifact_root = artifact_root or default_artifact_root(path.parent)
        missing = f"there is no {kind} named {name} in {shown(uri)}"
        if path and not path.exists() and not create:
            raise TrackingError(f"{missing}; that store does not exist yet")
        with sentences(uri):
            client = client_of(uri)
            experiment = client.get_experiment_by_name(name)
            if experiment and experiment.lifecycle_stage == "deleted":
                raise TrackingError(
                    f"the {kind} {name} was deleted in {shown(uri)}, and MLflow keeps its name; choose "
                    "another name, or have MLflow forget it: mlflow gc "
                    f"--experiment-ids {experiment.experiment_id} "
                    "--backend-store-uri <the server's store>"
                )
            if experiment and experiment.tags.get("fishernet.kind") != kind:
                raise TrackingError(
                    f"{name} is an MLflow experiment in {shown(uri)}, but no {kind}; choose another name"
                )
            ids = [experiment.experiment_id] if experiment else []
            parents = pages(client.search_runs, experiment_ids=ids, filter_string=PARENTS)
            parent = next(parents, None) if ids else None
            if parent is None and not create:
                names = ", ".join(known for known, _, _ in list_sweeps(uri, kind)) or "none"
                raise TrackingError(f"{missing}; the {PLURAL[kind]} there: {names}")
            if not ids:
                place = None  # a server chooses it; without one, MLflow takes the current folder
                if artifact_root and not uri.startswith("http"):
                    place = (Path(artifact_root).absolute() / re.sub(r"[^\w.-]+", "-", name)).as_uri()
                # The second tag opens the experiment in the UI as training runs; it would take it for language models.
                kinds = {"fishernet.kind": kind, "mlflow.experimentKind": "custom_model_development"}
                ids = [client.create_experiment(name, artifact_location=place, tags=kinds)]
            if parent is None:
                tags = {"fishernet.role": "sweep", "fishernet.sweep": name, **SOURCE}
                parent = client.create_run(ids[0], run_name=name, tags=tags)
        return cls(name, uri, client, parent, log)

    @property
    def status(self) -> str:
        """The sweep's own status as MLflow holds it or soon will."""
        return str(self._parent_status)

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
        with sentences(self._uri):
            found = pages(
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
        tags |= _provenance() if provenance is None else provenance
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

    def tag(self, config: TrialConfig, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        self.ensure(config)
        child, texts = self._children[config], dict(tags)
        self._put(config, lambda: self._batch(child.run_id, tags=texts))

    def finish(
        self, config: TrialConfig, status: str, reason: str | None = None,
        artifacts: Artifacts = None, end: float | None = None, then: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """Upload the files of the folder ``artifacts``, then set the status: what is FINISHED is whole.

        ``then`` is called once all of it is written, in the writer's thread; never where MLflow refuses it.
        """
        if status not in ("FINISHED", "FAILED", "KILLED"):
            raise ValueError(f"status is how a run ended: FINISHED, FAILED or KILLED; got {status!r}")
        self.ensure(config)
        child = self._children[config]
        if child.status == "RUNNING":
            child.status = status
            ended = _milliseconds(end)
            self._put(config, lambda: self._write_end(config, status, reason, artifacts, ended, then))

    def log_parent_metrics(self, metrics: list[tuple[str, float, int]]) -> None:
        """Add (name, value, step) to the sweep's own run; what is there already is skipped."""
        now = _milliseconds()
        self._put(None, lambda: self._write_parent_metrics(metrics, now))

    def log_parent_artifacts(self, folder: Path) -> None:
        self._put(None, lambda: self._upload(self.parent_run_id, folder))

    def flush(self, patience_seconds: float = 600) -> bool:
        """Wait until all is written; false once MLflow stayed away for that long."""
        return self._queue.drain(patience_seconds)

    def drop(self) -> None:
        """Write nothing of what waits; whoever drops it has it still."""
        self._queue.drop()

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
                f"not yet written to {shown(self._uri)} ({self._queue.trouble}): {self._queue.contents()}; "
                f"resuming {self.name} writes them"
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
                **SOURCE,
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
        runs = pages(self._client.search_runs, experiment_ids=[self._experiment_id], filter_string=same_name)
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
        self, config: TrialConfig, status: str, reason: str | None, artifacts: Artifacts, ended: int,
        then: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        child = self._children[config]
        try:
            folder = artifacts() if callable(artifacts) else artifacts
        except Exception as error:  # the launcher's code: whatever it raises, this thread lives on
            raise Refused(f"its artifacts cannot be had: {reason_of(error)}") from error
        if folder is not None:
            self._upload(child.run_id, folder)
        if child.in_doubt:  # a server that was slow rather than away has made the doubted run after all
            for run in self._runs_of(config):
                if run.info.run_id != child.run_id and not run.data.metrics:
                    self._client.delete_run(run.info.run_id)
        if reason:
            self._client.set_tag(child.run_id, "fishernet.reason", reason[:TAG_LENGTH])
        self._client.set_terminated(child.run_id, status, ended)
        if then is not None:
            then()

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
            raise Refused(f"the folder of its artifacts, {folder}, does not exist")
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "record.json"):
            try:
                if path.name == "pictures.npz":
                    self._upload_picture(run_id, path)
                else:
                    place = path.relative_to(folder).parent.as_posix()
                    self._client.log_artifact(run_id, str(path), None if place == "." else place)
            except FileNotFoundError as error:
                if path.exists():  # it is the store's folder that is away, such as a mount: that may come back
                    raise
                raise Refused(f"its file {path} has gone") from error

    def _upload_picture(self, run_id: str, pictures: Path) -> None:
        from sweeps.pictures import reconstruction_picture

        with tempfile.TemporaryDirectory() as scratch:
            picture = Path(scratch) / "reconstructions.png"
            try:
                reconstruction_picture(pictures, picture)
            except Exception as error:  # the run's weights are what it was trained for
                self.say(f"a run's picture of reconstructions is missing: {type(error).__name__}: {error}")
                return
            self._client.log_artifact(run_id, str(picture))


def list_sweeps(uri: str, kind: str = "sweep") -> list[tuple[str, str, int]]:
    """(name, status of the parent run, milliseconds since 1970 when made) of every experiment of that kind, oldest first."""
    check_uri(uri)
    if (path := sqlite_path(uri)) and not path.exists():
        return []
    with sentences(uri):
        client = client_of(uri)
        found = pages(client.search_experiments, filter_string=f"tags.`fishernet.kind` = '{kind}'")
        sweeps = {experiment.experiment_id: experiment for experiment in found}
        parents = pages(client.search_runs, experiment_ids=list(sweeps), filter_string=PARENTS)
        status = {run.info.experiment_id: run.info.status for run in (parents if sweeps else ())}
    made = ((sweeps[i].name, status[i], sweeps[i].creation_time) for i in status)
    return sorted(made, key=lambda sweep: sweep[2])


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


def _milliseconds(seconds: float | None = None) -> int:
    return round((time.time() if seconds is None else seconds) * 1000)


def _provenance() -> dict[str, str]:
    tags = {"fishernet.versions": json.dumps(versions()), "fishernet.machine": json.dumps(machine())}
    return {**tags, "mlflow.source.git.commit": head} if (head := commit()) else tags
