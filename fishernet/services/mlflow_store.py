"""Where MLflow keeps its records: whether a tracking URI can work, the client, a sweep's runs, and where their files are."""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from fishernet.commands import fishernet, hide_password, python
from fishernet.services.schema import KIND, PLAN, ROLE
from fishernet.surroundings import pass_by_proxy, proxy_of, wrong_variable

if TYPE_CHECKING:
    from mlflow.entities import Experiment as Experiment
    from mlflow.entities import Run as Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository as ArtifactRepository
    from mlflow.tracking import MlflowClient as MlflowClient

DEFAULT_STORAGE = "fishernet-results"
# Of MLflow's client: what every process sets, and ahead of it what an analysis sets besides.
ALWAYS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a creation repeated because its answer was lost is a second run
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
READING = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own seven take some four minutes where a server is down
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "120",
}
# Answers that stay the same however often one asks. All others (timeouts, 5xx, 401, a full disk) may change.
REFUSALS = (
    "INVALID_PARAMETER_VALUE", "BAD_REQUEST", "NOT_FOUND", "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
)  # fmt: skip
TRIALS, PARENTS = f"tags.`{ROLE}` = 'trial'", f"tags.`{ROLE}` = 'sweep'"
SCRATCH = ".making-"  # how the folders begin in which databases are made
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class TrackingError(RuntimeError):
    """Why MLflow cannot be used, as a sentence for whoever typed the command."""


def default_tracking_uri(storage_path: str | Path = DEFAULT_STORAGE) -> str:
    """MLFLOW_TRACKING_URI where it is set, else an SQLite file below storage_path."""
    file = Path(os.path.realpath(storage_path)) / "mlflow.db"  # Path.resolve raises for links that go in circles
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{file.as_posix()}"


def uri_source(tracking_uri: str | None) -> str:
    """What names the tracking store, for an error: the flag --tracking-uri where it was given, else what stands in for it."""
    if tracking_uri:
        return "--tracking-uri"
    return "MLFLOW_TRACKING_URI" if os.environ.get("MLFLOW_TRACKING_URI") else "--storage-path"


def default_artifact_root(storage_path: str | Path) -> str:
    """Where a store without a server keeps its files; absolute, as MLflow writes it into the database."""
    return str(Path(os.path.realpath(storage_path)) / "artifacts")


def check_uri(uri: str, *, make: bool = True) -> None:
    """Raise TrackingError where no MLflow store can be had at uri; takes seconds at most.

    With ``make`` an SQLite file may be missing, and it must be writable.
    """
    try:
        parts = urlsplit(uri)
        scheme, host, port = parts.scheme.split("+")[0], parts.hostname, parts.port
    except ValueError as error:
        raise TrackingError(f"{hide_password(uri)} is not a tracking URI: {error}") from error
    if scheme == "sqlite":
        _check_sqlite(uri, make)
    elif scheme in ("", "file") or len(scheme) == 1:  # one letter: a drive
        raise TrackingError(
            f"the tracking URI {uri!r} is a plain folder, and MLflow 3.17 keeps no runs in folders; use a "
            f"file, such as sqlite:///{Path('mlflow.db').absolute().as_posix()}, or a server, such as http://localhost:5000"
        )
    elif scheme not in ("http", "https", *DATABASE_PORTS):
        known = ", ".join(("sqlite", "http", "https", *DATABASE_PORTS))
        raise TrackingError(f"the tracking URI {hide_password(uri)} starts with {scheme}, which is none of {known}")
    elif not host:
        raise TrackingError(f"the tracking URI {hide_password(uri)} names no host")
    elif scheme in DATABASE_PORTS:
        try:
            socket.create_connection((host, port or DATABASE_PORTS[scheme]), timeout=3).close()
        except OSError as error:
            raise TrackingError(f"no database answers at {hide_password(uri)}: {reason_of(error)}") from error
    else:
        _check_server(uri)


def _check_server(uri: str) -> None:
    parts = urlsplit(uri)
    pass_by_proxy(uri)
    try:
        # MLflow takes seconds to import, so first whether anything listens; a proxy may reach what this machine cannot.
        if not proxy_of(uri):
            address = (str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80))
            socket.create_connection(address, timeout=5).close()
    except OSError as error:
        raise _no_server(uri, error) from error
    prepare_mlflow()
    utils = imported_mlflow().utils
    try:
        # Not /health: it answers even where the server refuses this host's name.
        answer = utils.rest_utils.http_request(
            utils.credentials.get_default_host_creds(uri), "/api/2.0/mlflow/experiments/get-by-name", "GET",
            params={"experiment_name": "Default"}, max_retries=0, timeout=5, raise_on_status=False,
        )  # fmt: skip
    except imported_mlflow().exceptions.MlflowException as error:
        raise _no_server(uri, error) from error
    said = " ".join(answer.text.split())[:200]
    if answer.status_code == 401:
        raise TrackingError(
            f"the tracking server {hide_password(uri)} asks who you are; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if answer.status_code == 403 and not proxy_of(uri):
        raise TrackingError(
            f"the tracking server {hide_password(uri)} refuses this client ({said}); MLflow does so where it is "
            "reached by a name it was not started with: mlflow server --allowed-hosts"
        )
    if answer.status_code != 200 and "RESOURCE_DOES_NOT_EXIST" not in said:
        raise TrackingError(
            f"what answers at {hide_password(uri)} is no working MLflow server: HTTP {answer.status_code}, {said}{_by_proxy(uri)}"
        )


def _no_server(uri: str, error: Exception) -> TrackingError:
    if way := _by_proxy(uri):
        return TrackingError(f"no tracking server answers at {hide_password(uri)} ({reason_of(error)}){way}")
    return TrackingError(
        f"no tracking server answers at {hide_password(uri)} ({reason_of(error)}); start one (mlflow server "
        f"--port {urlsplit(uri).port or 5000}) or correct the tracking URI"
    )


def _by_proxy(uri: str) -> str:
    """What to do where a proxy may be the reason, as the rest of a sentence; empty where there is none."""
    if not (proxy := proxy_of(uri)):
        return ""
    host = urlsplit(uri).hostname
    return f"; it is asked by the proxy {hide_password(proxy)}: if it can be reached without, set no_proxy={host}"


def _check_sqlite(uri: str, make: bool) -> None:
    path = sqlite_path(uri)
    if path is None or path.is_dir():
        raise TrackingError(f"{uri} names no file; write sqlite:////absolute/path/mlflow.db (four slashes)")
    if make:
        _check_writable(uri, path)
    if not path.exists():
        if make:
            return
        raise TrackingError(
            f"there is no MLflow store at {uri.partition(':///')[2]}; "
            f"a sweep makes {DEFAULT_STORAGE}/mlflow.db where it is started"
        )
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode={'rw' if make else 'ro'}", uri=True, timeout=1)) as store:
            tables = {name for (name,) in store.execute("select name from sqlite_master")}
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname == "SQLITE_BUSY":  # another writer is at it: MLflow will wait for it
            return
        raise TrackingError(f"{path} cannot be opened as a tracking store: {error}") from error
    if "experiments" not in tables and (tables or not make):
        raise TrackingError(f"{path} is a database, but not MLflow's; name another file as the tracking store")


def _check_writable(uri: str, path: Path) -> None:
    folder = path.parent if path.parent.exists() else path.parent.parent
    if not folder.is_dir():
        raise TrackingError(f"the folder of the tracking store {uri} does not exist; create {path.parent}")
    try:
        tempfile.TemporaryFile(dir=folder).close()
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(f"no permission to write {path}")
    except OSError as error:
        raise TrackingError(f"the tracking store {uri} cannot be written: {reason_of(error)}") from error


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of an SQLite store's file; None for other stores and for a database in memory."""
    scheme, _, rest = uri.partition(":///")
    file = rest.partition("?")[0]
    return Path(file).absolute() if scheme.split("+")[0] == "sqlite" and file not in ("", ":memory:") else None


@contextmanager
def sentences(uri: str) -> Iterator[None]:
    """What goes wrong with the store becomes a TrackingError."""
    prepare_mlflow()
    try:
        yield
    except failures() as error:
        raise TrackingError(hide_password(f"MLflow at {uri} fails: {reason_of(error)}")) from error


def failures() -> tuple[type[Exception], ...]:
    """What MLflow raises where a store or its files cannot be had."""
    from sqlalchemy.exc import SQLAlchemyError

    return imported_mlflow().exceptions.MlflowException, SQLAlchemyError, OSError


def is_refusal(error: Exception) -> bool:
    """Whether MLflow will never take what it answered so, however often it is sent."""
    from requests import HTTPError
    from sqlalchemy.exc import DataError

    # MLflow calls it an internal error where the database has no room for a value.
    if any(isinstance(cause, OverflowError | UnicodeError | DataError) for cause in _causes(error)):
        return True
    if isinstance(error, HTTPError) and error.response is not None:  # from the upload of a file
        return error.response.status_code in (400, 404, 413)
    return isinstance(error, imported_mlflow().exceptions.MlflowException) and error.error_code in REFUSALS


def set_environment(settings: Mapping[str, str]) -> None:
    """MLflow's settings, where the user has set none; they count from its first import on."""
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def prepare_mlflow() -> None:
    """Settings that count from the first import on, and the silence of what the queue says in one line."""
    set_environment(ALWAYS)
    try:
        mlflow = imported_mlflow()  # which sets up its logging, which the next lines change
    except Exception as error:  # by a variable of MLflow's
        raise TrackingError(f"MLflow cannot be imported here: {reason_of(error)}") from error
    if problem := wrong_variable(vars(mlflow.environment_variables).values()):
        raise TrackingError(problem)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback per locked attempt


def imported_mlflow() -> ModuleType:
    """MLflow with the parts that are used here; the first call takes seconds."""
    import mlflow.store.tracking.sqlalchemy_store

    return mlflow


def client_of(uri: str) -> MlflowClient:
    """MLflow's client; an SQLite file is made where it is missing."""
    prepare_mlflow()
    if (path := sqlite_path(uri)) and not path.exists():
        _create_store(path)
    client: MlflowClient = imported_mlflow().MlflowClient(tracking_uri=uri)
    return client


def _create_store(path: Path) -> None:
    def create(draft: Path) -> None:
        store = imported_mlflow().store.tracking.sqlalchemy_store.SqlAlchemyStore
        store(f"sqlite:///{draft.as_posix()}", default_artifact_root(path.parent)).engine.dispose()

    create_whole(path, create)


def create_whole(path: Path, create: Callable[[Path], None]) -> None:
    """A whole database or none: tables made halfway, or by two processes at once, leave a useless file.

    ``create`` makes it at the path it is given; where another process is first, its file stays.
    """
    path.parent.mkdir(exist_ok=True)
    with _one_at_a_time(path.parent) as alone:
        if alone:
            for left in path.parent.glob(f"{SCRATCH}*"):  # by processes that were killed
                shutil.rmtree(left, ignore_errors=True)
        if path.exists():
            return
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=path.parent) as scratch:
            draft = Path(scratch) / path.name
            create(draft)
            try:
                path.hardlink_to(draft)  # unlike a rename it fails where another process was first
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links
                draft.replace(path)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[bool]:
    """Wait for whoever is in here with the same folder; false where the file system cannot lock folders, as NFS."""
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # Windows
        yield False
        return
    try:
        alone = False
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            alone = True
        yield alone
    finally:
        os.close(descriptor)


def pages(search: Callable[..., Any], **query: Any) -> Iterator[Any]:
    """Everything a paged search finds."""
    token = None
    while True:
        page = search(max_results=1000, page_token=token, **query)
        yield from page
        token = page.token
        if not token:
            return


def sweeps(client: MlflowClient, kind: str) -> list[tuple[Experiment, Run]]:
    """(experiment, parent run) of every sweep (or search, by ``kind``), the one begun last first."""
    found = pages(client.search_experiments, filter_string=f"tags.`{KIND}` = '{kind}'")
    experiments = {experiment.experiment_id: experiment for experiment in found}
    newest: dict[str, Run] = {}
    for run in parents(client, list(experiments)):
        newest.setdefault(run.info.experiment_id, run)
    return [(experiments[i], run) for i, run in newest.items()]


def parents(client: MlflowClient, experiment_ids: Sequence[str], *, deleted: bool = False) -> list[Run]:
    """The runs that hold these experiments' plans, or held them until they were deleted; the latest first: it counts."""
    if not experiment_ids:
        return []  # MLflow would look in all
    query = {"experiment_ids": experiment_ids, "filter_string": PARENTS, "run_view_type": _view(deleted)}
    found = pages(client.search_runs, **query)
    return sorted(
        found, key=lambda run: (PLAN in run.data.tags, run.info.start_time or 0, run.info.run_id), reverse=True
    )


def children(client: MlflowClient, experiment_id: str, also: str = "", *, deleted: bool = False) -> Iterator[Run]:
    """The runs of trials in an experiment, whichever parent they hang on: that may be deleted, and another one made."""
    return pages(
        client.search_runs,
        experiment_ids=[experiment_id],
        filter_string=f"{TRIALS} and {also}" if also else TRIALS,
        run_view_type=_view(deleted),
        order_by=["attributes.start_time ASC"],  # a run made meanwhile comes last and shifts no page
    )


def _view(deleted: bool) -> int:
    view = imported_mlflow().entities.ViewType
    return int(view.DELETED_ONLY if deleted else view.ACTIVE_ONLY)


def log_batch(
    client: MlflowClient, run_id: str, metrics: Iterable[tuple[str, float, int, int]] = (),
    params: Mapping[str, str] = MappingProxyType({}), tags: Mapping[str, str] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Write (name, value, milliseconds since 1970, step), parameters and tags to a run in one call."""
    entities = imported_mlflow().entities
    client.log_batch(
        run_id,
        metrics=[entities.Metric(name, float(value), time, step) for name, value, time, step in metrics],
        params=[entities.Param(key, value) for key, value in params.items()],
        tags=[entities.RunTag(key, value) for key, value in tags.items()],
        synchronous=True,
    )


def log_images(client: MlflowClient, run_id: str, dataset: str, plan: Mapping[str, Any]) -> None:
    """The images of the sweep's plan as inputs of a run: those that train, and those that it is scored on.

    MLflow knows a data set by its name and digest; the digest is the fingerprint of all of it. Logged again they are the same.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name, held_out = Path(dataset).name, plan["held_out"]
    source = json.dumps({"uri": dataset} if name != dataset else {"tags": {"name": dataset}})
    inputs = []
    for context, named in (("training", name), (held_out, f"{name} ({held_out})")):
        shape = plan.get("images", {}).get(context)
        about: dict[str, str] = {}
        if shape:
            tensor = [{"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": [-1, *shape[1:]]}}]
            about["schema"] = json.dumps({"mlflow_tensorspec": {"features": json.dumps(tensor), "targets": None}})
            about["profile"] = json.dumps({"features_shape": shape, "features_size": math.prod(shape)})
        kind = "local" if name != dataset else "code"
        images = Dataset(named[:500], plan["data_fingerprint"], kind, source, **about)
        inputs.append(DatasetInput(images, [InputTag("mlflow.data.context", context)]))
    client.log_inputs(run_id, datasets=inputs)


def files_of(uri: str, run_id: str) -> ArtifactRepository:
    """The files of a run: MLflow's artifact repository, which lists, logs and downloads them.

    MLflow keeps absolute paths. Where an SQLite file was moved or copied with its results, the files are beside it.
    """
    place = client_of(uri).get_run(run_id).info.artifact_uri
    beside = _beside(uri, place, 3)  # EXPERIMENT/RUN/artifacts
    registry = imported_mlflow().store.artifact.artifact_repository_registry
    files: ArtifactRepository = registry.get_artifact_repository(beside.as_uri() if beside else place, tracking_uri=uri)
    return files


@contextmanager
def run_file(run_id: str, name: str, uri: str | None = None) -> Iterator[Path]:
    """A local copy of a run's file while it is needed; raises TrackingError."""
    uri = uri or default_tracking_uri()
    check_uri(uri, make=False)
    with tempfile.TemporaryDirectory(prefix="fishernet-") as folder:
        with sentences(uri):
            path = files_of(uri, run_id).download_artifacts(name, folder)
        yield Path(path)


def files_folder(uri: str, experiment: Experiment) -> Path | None:
    """Where an experiment's files are on this machine; None where a server keeps them."""
    place = experiment.artifact_location
    return _beside(uri, place, 1) or _local(place)


def restore_command(uri: str, experiment: Experiment) -> str:
    """The command that takes an experiment out of MLflow's trash."""
    words = ["-m", "mlflow", "experiments", "restore", "--experiment-id", experiment.experiment_id]
    return f"MLFLOW_TRACKING_URI={shlex.quote(hide_password(uri))} {python(*words)}"


def forget_command(uri: str, name: str, storage: Path) -> str:
    """The command that deletes a sweep for good, from MLflow's trash too."""
    words = ["delete", name, "--storage-path", str(storage), "--tracking-uri", hide_password(uri)]
    return shlex.join(fishernet(*words))


def moved_here(uri: str, experiment: Experiment) -> str:
    """A sentence where an SQLite file is found beside its files and MLflow has them elsewhere; else empty."""
    beside = _beside(uri, experiment.artifact_location, 1)
    return (
        f"The results folder was moved: files are read from {beside}, not {experiment.artifact_location}."
        if beside
        else ""
    )


def _beside(uri: str, recorded: str, depth: int) -> Path | None:
    """Where files are instead of at ``recorded``, whose last ``depth`` names are below the root of all files."""
    store, place = sqlite_path(uri), _local(recorded)
    if store is None or place is None:
        return None
    here = Path(default_artifact_root(store.parent)).joinpath(*place.parts[-depth:])
    known = here.parents[depth - 2] if depth > 1 else here
    return here if known.is_dir() and _is_moved(place, here) else None


def follow_files(uri: str, client: MlflowClient, experiment: Experiment, artifact_root: str) -> str:
    """Have MLflow find an experiment's files below ``artifact_root`` where they were moved or copied there.

    Returns a sentence that says so, or nothing. Only for the sweep's one writer; a server keeps its files itself.
    """
    from sqlalchemy import create_engine, text

    recorded = _local(experiment.artifact_location)
    if uri.startswith("http") or recorded is None:
        return ""
    here = Path(os.path.realpath(artifact_root)) / recorded.name
    if not _is_moved(recorded, here):
        return ""
    everything = imported_mlflow().entities.ViewType.ALL
    runs = list(pages(client.search_runs, experiment_ids=[experiment.experiment_id], run_view_type=everything))
    if not here.exists() and any(run.info.status == "FINISHED" for run in runs):
        return ""  # its files are somewhere, maybe on a mount that is away
    places = []
    for run in runs:
        old = _local(run.info.artifact_uri)
        if old and _is_moved(old, new := here.joinpath(*old.parts[-2:])):  # RUN/artifacts
            places.append({"id": run.info.run_id, "place": new.as_uri()})
    engine, models = create_engine(uri), pages(client.search_logged_models, experiment_ids=[experiment.experiment_id])
    moved = []
    for model in models:
        old = _local(model.artifact_location)
        if old and _is_moved(old, new := here.joinpath(*old.parts[-3:])):  # models/MODEL/artifacts
            moved.append({"id": model.model_id, "place": new.as_uri()})
    try:
        with engine.begin() as database:
            whole = {"id": int(experiment.experiment_id), "place": here.as_uri()}
            database.execute(text("update experiments set artifact_location = :place where experiment_id = :id"), whole)
            if places:
                database.execute(text("update runs set artifact_uri = :place where run_uuid = :id"), places)
            if moved:
                database.execute(
                    text("update logged_models set artifact_location = :place where model_id = :id"), moved
                )
    finally:
        engine.dispose()
    return f"the results folder was moved: MLflow now finds the files of {experiment.name} in {here}, no longer in {recorded}"


def _local(place: str) -> Path | None:
    """The folder that an artifact location names; None where it is none of this machine."""
    parts = urlsplit(place)
    path = Path(url2pathname(parts.path)) if parts.scheme == "file" else Path(place)
    return path if parts.scheme in ("file", "") and path.is_absolute() else None


def _is_moved(recorded: Path, here: Path) -> bool:
    """Whether what MLflow has at ``recorded`` is ``here``, another folder: it was moved, or copied, or nothing of it is left."""
    if os.path.realpath(recorded) == os.path.realpath(here):
        return False
    return os.path.exists(here) or not os.path.exists(recorded)  # noqa: PTH110 (Path raises where a folder may not be looked into)


def reason_of(error: BaseException) -> str:
    """The innermost cause in a line: what the network or the database said, without MLflow's wrapping."""
    *_, error = _causes(error)
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:300]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what caused it, and so on inwards."""
    while error:
        yield error
        error = error.__cause__ or error.__context__
