"""The only writer to MLflow: a sweep is one experiment with a parent run and one child run per trial config.

After ``SweepTracking.open`` every record goes through one background thread, so that training never waits
for MLflow and nothing is lost while its server is away.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from fishernet.commands import hide_password
from fishernet.config import TrialConfig
from fishernet.plan import Json
from fishernet.provenance import commit, machine, versions
from fishernet.services import schema
from fishernet.services.mlflow_store import (
    DEFAULT_STORAGE,
    TrackingError,
    check_uri,
    children,
    client_of,
    default_artifact_root,
    failures,
    files_of,
    follow_files,
    forget_command,
    log_batch,
    log_images,
    parents,
    reason_of,
    restore_command,
    sentences,
    sqlite_path,
    sweeps,
)
from fishernet.spelling import did_you_mean
from sweeps.tracking_queue import Entry, Epoch, Log, Queue, Refused

if TYPE_CHECKING:
    from fishernet.services.mlflow_store import ArtifactRepository, MlflowClient, Run

PLURAL = {"sweep": "sweeps", "search": "searches"}  # kinds of experiments
Artifacts = Callable[[], Path | None] | Path | None


@dataclass(frozen=True)
class TrackedRun:
    """What MLflow holds of one trial config."""

    run_id: str
    config: TrialConfig
    status: str  # RUNNING, FINISHED, FAILED or KILLED
    last_epoch: int  # 0: none
    reason: str = ""  # why it FAILED or was KILLED
    parent_run_id: str = ""  # what it hangs on in MLflow's page


@dataclass
class _Child:
    """The run of one trial config as it will be once the queue is empty."""

    run_id: str = ""  # empty until the server has made it
    status: str = ""
    last_epoch: int = 0
    in_doubt: bool = False  # the server was asked to make it, and an answer was missing
    started: int = 0  # milliseconds since 1970, where this process makes it


class SweepTracking:
    """One sweep in MLflow; ``open`` makes it. All methods but ``runs`` and ``close`` return at once.

    ``say`` takes the few lines that are for the user; whoever draws on the terminal puts another in its place.
    """

    def __init__(self, name: str, uri: str, client: MlflowClient, parent: Run, log: Log) -> None:
        self.name, self.parent_run_id = name, parent.info.run_id
        self.begun_as = parent.data.tags.get(schema.SWEEP) or name  # another name where the experiment was renamed
        self.plan = _plan(parent, name)
        self._uri, self._client, self.experiment_id, self.say = uri, client, parent.info.experiment_id, log
        self._parent_status = parent.info.status
        # As they were when it was opened: of 10,000, reading them takes half a minute.
        found = self._all_runs()
        self.found = _most_advanced(found)
        self._elsewhere = [run for run in found if run.parent_run_id != self.parent_run_id]
        # A run found RUNNING may lack its params (its driver died): "" has ensure add them.
        self._children = {
            run.config: _Child(run.run_id, "" if run.status == "RUNNING" else run.status, run.last_epoch)
            for run in self.found.values()
        }
        self._queue = Queue(self._write_epochs, hide_password(uri), lambda line: self.say(line))
        self._closed: bool | None = None

    @classmethod
    def open(
        cls, name: str, uri: str, *, artifact_root: str | None, create: bool, log: Log = print, kind: str = "sweep"
    ) -> Self:
        """The sweep (or the search, by ``kind``) of that name, which ``create`` makes where it is missing.

        Raises TrackingError.
        """
        check_uri(uri)
        if path := sqlite_path(uri):
            uri = f"sqlite:///{path.as_posix()}"  # absolute: the current folder may change
            artifact_root = artifact_root or default_artifact_root(path.parent)
        storage = Path(artifact_root).parent if artifact_root else Path(DEFAULT_STORAGE).absolute()
        missing = f"there is no {kind} named {name} in {hide_password(uri)}"
        if path and not path.exists() and not create:
            raise TrackingError(f"{missing}; that store does not exist yet")
        with sentences(uri):
            client = client_of(uri)
            experiment = client.get_experiment_by_name(name)
            if experiment and experiment.lifecycle_stage == "deleted":
                raise TrackingError(
                    f"the {kind} {name} was deleted in {hide_password(uri)}, and MLflow keeps it and its name; restore it "
                    f"({restore_command(uri, experiment)}), choose another name, or have MLflow forget it and its runs for "
                    f"good ({forget_command(uri, name, storage)})"
                )
            if experiment and experiment.tags.get(schema.KIND) != kind:
                raise TrackingError(
                    f"{name} is an MLflow experiment in {hide_password(uri)}, but no {kind}; choose another name"
                )
            ids = [experiment.experiment_id] if experiment else []
            parent = next(iter(parents(client, ids)), None)
            if parent is None and not create and (deleted := parents(client, ids, deleted=True)):
                parent = deleted[0]
                client.restore_run(parent.info.run_id)
                log(f"the run that holds the plan of {name} was deleted in MLflow; it is restored")
                if n_deleted := sum(1 for _ in children(client, ids[0], deleted=True)):
                    log(
                        f"{n_deleted} runs of {name} were deleted, too; what is not restored in MLflow is trained again"
                    )
            if parent is None and not create:
                known = [known for known, _, _ in list_sweeps(uri, kind)]
                there = f"the {PLURAL[kind]} there: {', '.join(known) or 'none'}"
                raise TrackingError(f"{missing}; {there}{did_you_mean(name, known)}")
            if experiment and artifact_root and (said := follow_files(uri, client, experiment, artifact_root)):
                log(said)
            if not ids:
                place = None  # a server chooses it; without one, MLflow takes the current folder
                if artifact_root and not uri.startswith("http"):
                    place = (Path(artifact_root).absolute() / re.sub(r"[^\w.-]+", "-", name)).as_uri()
                tags = {schema.KIND: kind, **schema.EXPERIMENT}
                ids = [client.create_experiment(name, artifact_location=place, tags=tags)]
            if parent is None:
                tags = {schema.ROLE: "sweep", schema.SWEEP: name, **schema.SOURCE}
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
        return _most_advanced(self._all_runs())

    def _all_runs(self) -> list[TrackedRun]:
        """The most advanced last."""
        with sentences(self._uri):
            found = sorted(children(self._client, self.experiment_id), key=schema.progress)
        return [tracked for run in found if (tracked := _tracked(run))]

    def describe(
        self, plan: Json, params: Mapping[str, object], command: str, note: str,
        provenance: Mapping[str, str] | None = None, paper: str = "",
    ) -> None:  # fmt: skip
        """Write what the sweep is. Params that are there stay, as MLflow's cannot change; so does a user's description.

        provenance: tags that say where it was computed; otherwise this machine, its packages and its commit. ``paper``: the key
        of the one whose preset was asked for.
        """
        self.plan = plan
        tags = schema.plan_tags(plan) | {schema.COMMAND: command[: schema.TAG_LENGTH]}
        tags |= _provenance() if provenance is None else provenance
        tags |= {schema.PAPER: paper} if paper else {}
        texts = {key: str(value) for key, value in params.items()}
        self._put(None, lambda: self._write_description(tags, texts, note))
        if self._elsewhere:
            self._put(None, self._take_in)

    def ensure(self, config: TrialConfig, start: float | None = None) -> None:
        """Have a RUNNING run of this config, started ``start`` seconds after 1970; a FINISHED one stays."""
        child = self._children.setdefault(config, _Child())
        if child.status in ("RUNNING", "FINISHED"):
            return
        reopen, child.started = child.status != "", _milliseconds(start)
        child.status = "RUNNING"
        self._put(config, lambda: self._write_run(config, child, reopen))

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
        self._put(config, lambda: log_batch(self._client, child.run_id, tags=texts))

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

    def log_models(self, register: str | None = None) -> None:
        """Have the best run of each line as a model of MLflow's, and the best of all registered under that name; once flushed."""
        self._put(None, lambda: self._write_models(register))

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
                f"not yet written to {hide_password(self._uri)} ({self._queue.trouble}): {self._queue.contents()}; "
                f"resuming {self.name} writes them"
            )
        self._queue.stop()
        self._closed = done
        return done

    def _put(self, config: TrialConfig | None, record: Entry) -> None:
        if self._parent_status != "RUNNING":
            self._parent_status = "RUNNING"
            self._queue.put(None, lambda: self._client.update_run(self.parent_run_id, status="RUNNING"))
        self._queue.put(config, record)

    # What follows runs in the queue's thread, again after each failure: it may meet its own half-done work.

    def _write_description(self, tags: dict[str, str], params: dict[str, str], note: str) -> None:
        known = self._client.get_run(self.parent_run_id).data
        new = {key: value for key, value in params.items() if key not in known.params}
        tags = tags | schema.note_tags(known.tags, note)
        log_batch(self._client, self.parent_run_id, params=new, tags=tags)
        if self.plan and "dataset" in params:
            log_images(self._client, self.parent_run_id, params["dataset"], self.plan)

    def _take_in(self) -> None:
        """Hang the runs of parents that were deleted or followed by this one on this one; where a user put runs they stay."""
        ids = [self.experiment_id]
        other = {run.info.run_id for gone in (False, True) for run in parents(self._client, ids, deleted=gone)}
        for run in self._elsewhere:
            if run.parent_run_id in other - {self.parent_run_id}:
                self._client.set_tag(run.run_id, schema.PARENT, self.parent_run_id)

    def _write_run(self, config: TrialConfig, child: _Child, reopen: bool) -> None:
        if child.in_doubt and not child.run_id:
            child.run_id = next((run.info.run_id for run in self._made_of(config, child)), "")
        params, has_reason = {key: str(value) for key, value in config.to_dict().items()}, False
        if child.run_id:
            known = self._client.get_run(child.run_id).data
            params = {key: value for key, value in params.items() if key not in known.params}
            has_reason = schema.REASON in known.tags
        else:
            tags = schema.trial_tags(config, self.begun_as, self.parent_run_id)
            doubted, child.in_doubt = child.in_doubt, True
            made = self._client.create_run(self.experiment_id, child.started, tags, config.run_name)
            child.run_id, child.in_doubt = made.info.run_id, doubted
        log_batch(self._client, child.run_id, params=params)
        if self.plan:
            log_images(self._client, child.run_id, config.dataset, self.plan)
        if reopen:
            if has_reason:
                self._client.delete_tag(child.run_id, schema.REASON)
            self._client.update_run(child.run_id, status="RUNNING")

    def _made_of(self, config: TrialConfig, child: _Child) -> list[Run]:
        """The runs that this process made, or had made without seeing an answer."""
        described = json.dumps(config.to_dict())
        runs = children(self._client, self.experiment_id, f"attributes.start_time = {child.started}")
        return [run for run in runs if run.data.tags.get(schema.CONFIG) == described]

    def _write_epochs(self, config: TrialConfig, epochs: list[Epoch]) -> None:
        # Sending a batch again adds nothing: MLflow keeps one of equal (name, value, time, step).
        values = [
            (name, value, _milliseconds(epoch["time"]), epoch["epoch"])
            for epoch in epochs
            for name, value in epoch["metrics"].items()
        ]
        log_batch(self._client, self._children[config].run_id, values)

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
            for run in self._made_of(config, child):
                if run.info.run_id != child.run_id and not run.data.metrics:
                    self._client.delete_run(run.info.run_id)
        if reason:
            self._client.set_tag(child.run_id, schema.REASON, reason[: schema.TAG_LENGTH])
        self._client.set_terminated(child.run_id, status, ended)
        if then is not None:
            then()

    def _write_parent_metrics(self, metrics: list[tuple[str, float, int]], now: int) -> None:
        names = {name for name, _, _ in metrics}
        known = [m for name in names for m in self._client.get_metric_history(self.parent_run_id, name)]
        there = {(m.key, schema.number(m.value), m.step) for m in known}
        new = [(name, value, now, step) for name, value, step in metrics if (name, value, step) not in there]
        log_batch(self._client, self.parent_run_id, new)

    def _write_models(self, register: str | None) -> None:
        from fishernet.services.mlflow_models import log_models

        held_out = (self.plan or {}).get("held_out", "test")
        try:
            log_models(self._uri, self._client, self.experiment_id, self.parent_run_id, held_out, register)
        except failures():
            raise
        except Exception as error:  # the runs have their weights: a model of theirs is convenience
            raise Refused(f"the models of the best runs: {reason_of(error)}") from error

    def _upload(self, run_id: str, folder: Path) -> None:
        """Every file below folder; pictures.npz as the picture it holds, record.json not: it is the run."""
        if not folder.is_dir():
            raise Refused(f"the folder of its artifacts, {folder}, does not exist")
        files = files_of(self._uri, run_id)
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "record.json"):
            try:
                if path.name == "pictures.npz":
                    self._upload_picture(files, path)
                else:
                    place = path.relative_to(folder).parent.as_posix()
                    files.log_artifact(str(path), None if place == "." else place)
            except FileNotFoundError as error:
                if path.exists():  # it is the store's folder that is away, such as a mount: that may come back
                    raise
                raise Refused(f"its file {path} has gone") from error

    def _upload_picture(self, files: ArtifactRepository, pictures: Path) -> None:
        from sweeps.pictures import reconstruction_picture

        with tempfile.TemporaryDirectory() as scratch:
            picture = Path(scratch) / "reconstructions.png"
            try:
                reconstruction_picture(pictures, picture)
            except Exception as error:  # the run's weights are what it was trained for
                self.say(f"a run's picture of reconstructions is missing: {type(error).__name__}: {error}")
                return
            files.log_artifact(str(picture))


def list_sweeps(uri: str, kind: str = "sweep") -> list[tuple[str, str, int]]:
    """(name, status of the parent run, milliseconds since 1970 when made) of every experiment of that kind, oldest first."""
    check_uri(uri)
    if (path := sqlite_path(uri)) and not path.exists():
        return []
    with sentences(uri):
        found = sweeps(client_of(uri), kind)
    made = ((experiment.name, parent.info.status, experiment.creation_time or 0) for experiment, parent in found)
    return sorted(made, key=lambda sweep: sweep[2])


def _most_advanced(runs: list[TrackedRun]) -> dict[TrialConfig, TrackedRun]:
    return {run.config: run for run in runs}  # of equal keys the last stays


def _tracked(run: Run) -> TrackedRun | None:
    try:
        config = schema.config_of(run)
    except schema.SchemaError as error:
        raise TrackingError(
            f"{error}; go on with the version that wrote it, or choose another name for the sweep"
        ) from error
    if config is None:
        return None
    tags = run.data.tags
    return TrackedRun(
        run.info.run_id, config, run.info.status, schema.last_epoch(run), tags.get(schema.REASON, ""),
        tags.get(schema.PARENT, ""),
    )  # fmt: skip


def _plan(parent: Run, name: str) -> Json | None:
    try:
        return schema.plan_of(parent.data.tags)
    except schema.SchemaError as error:
        raise TrackingError(
            f"in the run of {name} itself, {parent.info.run_id}, {error}; mend that tag in MLflow, or choose another name"
        ) from error


def _milliseconds(seconds: float | None = None) -> int:
    return round((time.time() if seconds is None else seconds) * 1000)


def _provenance() -> dict[str, str]:
    tags = {schema.VERSIONS: json.dumps(versions()), schema.MACHINE: json.dumps(machine())}
    return {**tags, schema.COMMIT: head} if (head := commit()) else tags
