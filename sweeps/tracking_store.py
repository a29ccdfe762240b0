"""Where MLflow keeps its records: whether a tracking URI can work, and the client for it."""

import logging
import os
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fishernet.commands import hide_password as shown
from fishernet.surroundings import pass_by_proxy, proxy_of, wrong_variable

SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a creation repeated because its answer was lost is a second run
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
SCRATCH = ".making-"  # how the folders begin in which databases are made
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


class TrackingError(RuntimeError):
    """Why MLflow cannot be used, as a sentence for whoever typed the command."""


def default_tracking_uri(storage_path: str | Path) -> str:
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


def check_uri(uri: str) -> None:
    """Raise TrackingError where no MLflow store can be had at uri; takes seconds at most."""
    try:
        parts = urlsplit(uri)
        scheme, host, port = parts.scheme.split("+")[0], parts.hostname, parts.port
    except ValueError as error:
        raise TrackingError(f"{shown(uri)} is not a tracking URI: {error}") from error
    if scheme == "sqlite":
        _check_sqlite(uri)
    elif scheme in ("", "file") or len(scheme) == 1:  # one letter: a drive
        raise TrackingError(
            f"the tracking URI {uri!r} is a plain folder, and MLflow 3.17 keeps no runs in folders; use a "
            f"file, such as sqlite:///{Path('mlflow.db').absolute().as_posix()}, or a server, such as http://localhost:5000"
        )
    elif scheme not in ("http", "https", *DATABASE_PORTS):
        known = ", ".join(("sqlite", "http", "https", *DATABASE_PORTS))
        raise TrackingError(f"the tracking URI {shown(uri)} starts with {scheme}, which is none of {known}")
    elif not host:
        raise TrackingError(f"the tracking URI {shown(uri)} names no host")
    elif scheme in DATABASE_PORTS:
        try:
            socket.create_connection((host, port or DATABASE_PORTS[scheme]), timeout=3).close()
        except OSError as error:
            raise TrackingError(f"no database answers at {shown(uri)}: {reason_of(error)}") from error
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
        raise _no_server(uri, error) from error
    said = " ".join(answer.text.split())[:200]
    if answer.status_code == 401:
        raise TrackingError(
            f"the tracking server {shown(uri)} asks who you are; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if answer.status_code == 403 and not proxy_of(uri):
        raise TrackingError(
            f"the tracking server {shown(uri)} refuses this client ({said}); MLflow does so where it is "
            "reached by a name it was not started with: mlflow server --allowed-hosts"
        )
    if answer.status_code != 200 and "RESOURCE_DOES_NOT_EXIST" not in said:
        raise TrackingError(
            f"what answers at {shown(uri)} is no working MLflow server: HTTP {answer.status_code}, {said}{_by_proxy(uri)}"
        )


def _no_server(uri: str, error: Exception) -> TrackingError:
    if way := _by_proxy(uri):
        return TrackingError(f"no tracking server answers at {shown(uri)} ({reason_of(error)}){way}")
    return TrackingError(
        f"no tracking server answers at {shown(uri)} ({reason_of(error)}); start one (mlflow server "
        f"--port {urlsplit(uri).port or 5000}) or correct the tracking URI"
    )


def _by_proxy(uri: str) -> str:
    """What to do where a proxy may be the reason, as the rest of a sentence; empty where there is none."""
    if not (proxy := proxy_of(uri)):
        return ""
    return f"; it is asked by the proxy {shown(proxy)}: if it can be reached without, set no_proxy={urlsplit(uri).hostname}"


def _check_sqlite(uri: str) -> None:
    path = sqlite_path(uri)
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
        raise TrackingError(f"the tracking store {uri} cannot be written: {reason_of(error)}") from error
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


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of an SQLite store's file; None for other stores and for a database in memory."""
    scheme, _, rest = uri.partition(":///")
    file = rest.partition("?")[0]
    return Path(file).absolute() if scheme.split("+")[0] == "sqlite" and file not in ("", ":memory:") else None


@contextmanager
def sentences(uri: str) -> Iterator[None]:
    prepare_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise TrackingError(f"MLflow at {shown(uri)} fails: {reason_of(error)}") from error


def prepare_mlflow() -> None:
    """Settings that count from the first import on, and the silence of what the queue says in one line."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  (mlflow sets up its logging, which the next lines change)
        from mlflow import environment_variables
    except Exception as error:  # by a variable of MLflow's
        raise TrackingError(f"MLflow cannot be imported here: {reason_of(error)}") from error
    if problem := wrong_variable(vars(environment_variables).values()):
        raise TrackingError(problem)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback per locked attempt


def client_of(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    if (path := sqlite_path(uri)) and not path.exists():
        _create_store(path)
    return MlflowClient(tracking_uri=uri)


def _create_store(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    def create(draft: Path) -> None:
        SqlAlchemyStore(f"sqlite:///{draft.as_posix()}", default_artifact_root(path.parent)).engine.dispose()

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
    token = None
    while True:
        page = search(max_results=1000, page_token=token, **query)
        yield from page
        token = page.token
        if not token:
            return


def reason_of(error: BaseException) -> str:
    """The innermost cause in a line: what the network or the database said, without MLflow's wrapping."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:300]
