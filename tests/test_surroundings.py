"""Whatever stands in the environment, the streams and the current folder: a command does its work or refuses in a sentence."""

import contextlib
import getpass
import json
import os
import random
import shlex
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from analysis import __main__ as analyses
from analysis.flags import parser
from analysis.frame import Sweep
from fishernet import surroundings
from fishernet.commands import absolute_uri, fishernet, hide_password
from fishernet.progress import Progress
from fishernet.services import ray_cluster
from fishernet.services.mlflow_store import TrackingError, check_uri, prepare_mlflow
from fishernet.services.ray_cluster import settle_private_ray, socket_problem, start_error
from fishernet.services.schema import DATABASES, folder_name
from sweeps import latent_sweep
from sweeps.flags import name_problem
from sweeps.latent_sweep import LatentSweep, _parse

ROOT = Path(__file__).resolve().parents[1]
LONG = "/tmp/" + "x" * 90
FOLDERS = [LONG, "/nonexistent/x", "/proc/nowhere", "relative", "/dev/null", ""]
WORDS = ["", "abc", "-1", "0", "1", "9" * 30, "ö", "a b", "true", "{}"]
PROXIES = ["http://127.0.0.1:1", "garbage", "socks5://127.0.0.1:1", "http://user:secret@127.0.0.1:1", ""]
# What libraries and Python read. What ends Python itself before our first line is left out: PYTHONIOENCODING=nonsense, and
# PYTHONWARNINGS=nonsense where standard error is full.
VARIABLES = {
    "MPLBACKEND": ["module://matplotlib_inline.backend_inline", "qtagg", *WORDS],
    "MPLCONFIGDIR": FOLDERS, "MATPLOTLIBRC": [*FOLDERS, "/dev/full", "."], "XDG_CACHE_HOME": FOLDERS, "XDG_CONFIG_HOME": FOLDERS,
    "HOME": [*FOLDERS, "/"], "USER": WORDS, "LOGNAME": WORDS, "TMPDIR": FOLDERS, "RAY_TMPDIR": FOLDERS,
    "PYTHONIOENCODING": ["ascii", "latin-1", "ascii:strict", "cp1252", "utf-16"], "PYTHONUTF8": ["0", "1"],
    "PYTHONWARNINGS": ["error", "error::DeprecationWarning", "default", "ignore"], "PYTHONOPTIMIZE": ["1", "2"],
    "PYTHONDEVMODE": ["1"], "PYTHONSAFEPATH": ["1"], "PYTHONUNBUFFERED": ["1"], "PYTHONCOERCECLOCALE": ["0", "warn"],
    "LANG": ["C", "de_DE.ISO-8859-1", "xx_YY"], "LC_ALL": ["C", "POSIX", "tr_TR.UTF-8", "xx_YY", ""],
    "http_proxy": PROXIES, "https_proxy": PROXIES, "HTTP_PROXY": PROXIES, "ALL_PROXY": PROXIES, "no_proxy": ["*", ".x", ""],
    "MLFLOW_RUN_ID": WORDS, "MLFLOW_EXPERIMENT_NAME": WORDS, "MLFLOW_EXPERIMENT_ID": WORDS, "MLFLOW_ARTIFACT_URI": WORDS,
    "MLFLOW_ENABLE_ASYNC_LOGGING": ["true", "1"], "MLFLOW_TRACKING_USERNAME": WORDS, "MLFLOW_CONFIGURE_LOGGING": ["0", "1"],
    "RAY_ADDRESS": ["1.2.3.4:6379", "auto", "ray://x:1"], "RAY_JOB_ID": WORDS, "RAY_NAMESPACE": WORDS,
    "RAY_JOB_CONFIG_JSON_ENV_VAR": WORDS, "RAY_RUNTIME_ENV_HOOK": ["no.such"], "RAY_gcs_server_request_timeout_seconds": WORDS,
    "RAY_AUTH_MODE": WORDS, "TUNE_MAX_PENDING_TRIALS_PG": WORDS, "TUNE_RESULT_DIR": FOLDERS, "OMP_NUM_THREADS": WORDS,
    "MKL_NUM_THREADS": WORDS, "CUDA_VISIBLE_DEVICES": WORDS, "COLUMNS": WORDS, "LINES": WORDS, "TERM": ["dumb", "", "abc"],
    "TZ": ["Nowhere/Atall", "", "UTC+99"], "GIT_DIR": FOLDERS, "NO_COLOR": ["1"], "FORCE_COLOR": ["1"],
}  # fmt: skip
STREAMS = ["", ">&-", "2>&-", "<&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>/dev/full", "| true"]
LIMITS = ["", "umask 0777", "umask 077", "ulimit -n 32", "nice"]
# In the current folder; those with a reason are refused, with it in the sentence.
PLACES = {
    "empty": "", "modules of our names": "", "another matplotlibrc": "", "another setup.cfg": "",
    "no matplotlibrc that can be read": "matplotlibrc", "gone": "the current folder is gone",
}  # fmt: skip


def furnish(folder: Path, place: str) -> None:
    if place == "modules of our names":
        for name in ("fishernet", "analysis", "sweeps", "mlflow", "ray"):
            (folder / f"{name}.py").write_text("raise SystemExit('not that one')")
    elif place == "another matplotlibrc":
        (folder / "matplotlibrc").write_text("text.usetex: True\nbackend: qtagg\nno.such: thing\n")
    elif place == "no matplotlibrc that can be read":
        (folder / "matplotlibrc").write_bytes(b"font.size: 9\n\xff\xfe")
    elif place == "another setup.cfg":
        (folder / "setup.cfg").write_text("[mlflow")
        (folder / "pyproject.toml").write_text("= nonsense")
        (folder / ".env").write_text("MLFLOW_TRACKING_URI=nonsense://")


def clean() -> dict[str, str]:
    ours = ("MLFLOW_", "RAY_", "TUNE_", "FISHERNET_COMMAND")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours) and not k.lower().endswith("_proxy")}


def drawn(rng: random.Random) -> dict[str, str]:
    """An environment with a quarter of the variables set."""
    return {name: rng.choice(values) for name, values in VARIABLES.items() if rng.random() < 0.25}


# Of every command what imports nothing slow; those that import all are the next tests'.
ANALYSES = sorted(
    path
    for path in (ROOT / "analysis").glob("*.py")
    if "__main__" in path.read_text() and path.name not in ("script.py", "__main__.py")
)
SCRIPT = {name: ROOT / "sweeps" / f"{name}.py" for name in ("latent_sweep", "hyperparameter_search", "import_records")}
PLAN = "--write-plan=../{}.json"
COMMANDS = [
    *[([SCRIPT["latent_sweep"], "--preset=quick", PLAN], 0, "")] * 12,
    ([SCRIPT["latent_sweep"], "--resume=größe", "--storage-path=ö"], 2, "there is no sweep named gr"),
    ([SCRIPT["hyperparameter_search"], "--resume=größe"], 2, "there is no search named gr"),
    ([SCRIPT["import_records"], "ö", "--name=x"], 2, "does not exist"),
    (["-P", "-m", "fishernet", "--plan=ö", "--out=o"], 2, "cannot be read: No such file"),
    *[([path, "--help"], 0, "") for path in ANALYSES],
    *[([path, "--größe"], 2, "unrecognized arguments: --gr") for path in ANALYSES],
]  # fmt: skip


@pytest.mark.parametrize("numbers", [range(20), pytest.param(range(20, 240), marks=pytest.mark.long)], ids=str)
def test_a_command_in_any_surroundings_does_its_work_or_refuses_in_a_sentence(numbers, tmp_path):
    def check(number: int) -> None:
        rng, folder = random.Random(number), tmp_path / str(number)
        environment, streams, limit = drawn(rng), rng.choice(STREAMS), rng.choice(LIMITS)
        place = rng.choice(list(PLACES))
        command, status, reason = rng.choice(COMMANDS)
        folder.mkdir()
        furnish(folder, place)
        words = [str(word).format(number) for word in command]
        words = [sys.executable, *rng.choice([[], ["-W", "error"], ["-OO"]]), *words]
        gone = f"rmdir {shlex.quote(str(folder))}; " if place == "gone" else ""
        line = f"{gone}{limit or ':'}; {'nice ' if limit == 'nice' else ''}{shlex.join(words)} {streams}"
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"], cwd=folder, env=clean() | environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        said = done.stderr.replace(b"\0", b"").decode(errors="replace")  # UTF-16 as well
        case = (number, words, environment, streams, limit, place, said)
        assert "Traceback" not in said, case
        assert "Exception ignored" not in said, case
        if PLACES[place]:
            status, reason = 2, PLACES[place]
        assert done.returncode == status, case
        assert reason in said or "2>" in streams, case
        if status == 0 and PLAN in command:
            plan = tmp_path / f"{number}.json"
            assert len(json.loads(plan.read_text())) == 24, case
            assert stat.S_IMODE(plan.stat().st_mode) & 0o600 == 0o600, case

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(check, numbers))


IMPORTING = """
import sys, os
from fishernet.services import ray_cluster
from fishernet.surroundings import settle
settle()
ray_cluster.prepare(private=True)
import torch, pandas, optuna, sklearn.datasets
from fishernet.services.mlflow_store import prepare_mlflow
prepare_mlflow()
from sweeps import launch
from analysis import style
from pathlib import Path
with style.new_figure() as (figure, axes):
    axes.plot([1, 2])
    axes.set_xlabel("d ± $\\\\beta$")
print(style.save(figure, Path(sys.argv[1])), "±", torch.ones(2).sum().item())
"""


@pytest.mark.long
def test_libraries_are_imported_and_a_figure_is_drawn_the_same_in_any_surroundings(tmp_path):
    def check(number: int) -> bytes:
        rng, folder = random.Random(1000 + number), tmp_path / str(number)
        folder.mkdir()
        furnish(folder, "another matplotlibrc" if number % 2 else "empty")
        program = [
            sys.executable,
            *(["-W", "error"] if number % 3 == 0 else []),
            "-c",
            IMPORTING,
            str(tmp_path / f"{number}"),
        ]
        environment = drawn(rng) if number else {}
        done = subprocess.run(
            program, cwd=folder, env=clean() | environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, (environment, done.stderr.decode(errors="replace")[-3000:])
        return (tmp_path / f"{number}.png").read_bytes()

    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(check, range(3)))) == 1


FORKING = """
import contextlib, io, json, os, random, sys
from pathlib import Path
import sklearn.datasets, torch
from fishernet import __main__ as solo, surroundings
from fishernet.data.loading import load_data
from sweeps import latent_sweep
from fishernet.services.mlflow_store import prepare_mlflow
from tests.test_surroundings import drawn, furnish

prepare_mlflow()
load_data("digits")
tiny = {"model": "VAE", "dataset": "digits", "train_size": 40, "epochs": 1, "hidden_width": 4, "hidden_layers": 1}
Path("plan.json").write_text(json.dumps([tiny]))
root = Path.cwd()
for number in range(24):
    if not os.fork():
        folder = root / str(number)
        folder.mkdir()
        os.chdir(folder)
        furnish(folder, ["empty", "modules of our names", "another matplotlibrc"][number % 3])
        for stream in (1, 2):
            os.dup2(os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        os.environ.update(drawn(random.Random(2000 + number)))
        for closed in [(), (0,), (1,), (0, 1)][number % 4]:
            os.close(closed)
        os.umask([0o022, 0o777][number % 2])
        surroundings.settle()
        status = solo.main([f"--plan={root}/plan.json", "--out=out", "--device=cpu", "--threads=1"])
        status = status or latent_sweep.main(["--preset=quick", "--models=AE", "--dry-run", "--gpus=0"])
        os._exit(status)
    _, ended = os.wait()
    print(number, os.waitstatus_to_exitcode(ended), flush=True)
"""


@pytest.mark.long
def test_training_and_a_dry_run_are_the_same_in_any_surroundings(tmp_path):
    """What is read after the imports: forks of one process, each in surroundings of its own."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING], cwd=tmp_path, env=clean() | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    ended = dict(line.split() for line in done.stdout.splitlines())
    assert len(ended) == 24, done.stderr
    said = {
        number: (tmp_path / number / "said").read_text(errors="replace")
        for number, status in ended.items()
        if status != "0"
    }
    assert not said
    records = [json.loads((tmp_path / number / "out" / "VAE-d02-s0" / "record.json").read_text()) for number in ended]
    assert len({record["epochs"][0]["metrics"]["test/mse"] for record in records}) == 1


WRITING = """
import contextlib, os, sys
from fishernet.surroundings import entry_point
@entry_point
def main(argv):
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    print("± ö ਅ \\udcff")
    print("± ö ਅ \\udcff", file=sys.stderr)
    with contextlib.suppress(OSError):
        os.write(2, b"of a library")
    open("ended", "w").write(f"{min(held)} {sys.stdin.read()!r}")
    return 3
main()
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("streams", STREAMS)
def test_a_stream_that_is_closed_narrow_or_full_changes_nothing_but_what_is_seen(streams, encoding, tmp_path):
    line = f"set -o pipefail; {shlex.join([sys.executable, '-c', WRITING])} {streams}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=clean() | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    held, read = (tmp_path / "ended").read_text().split()
    assert int(held) > 2, "a file has the number of a standard stream"
    assert read == "''"
    if not streams:
        shown = {"ascii": r"\xb1 \xf6 \u0a05 \udcff", "latin-1": r"± ö \u0a05 \udcff", "utf-8": r"± ö ਅ \udcff"}
        assert done.stdout.decode(encoding) == shown[encoding] + "\n"
        assert done.stderr.decode(encoding) == shown[encoding] + "\nof a library"


@pytest.mark.parametrize("locale", ["C", "nowhere", "C.UTF-8"])
def test_words_are_utf8_in_any_locale_and_what_is_printed_keeps_its_encoding(locale, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        WRITING.replace("± ö ਅ \\udcff", "ö {sys.argv[1]}").replace('print("', 'print(f"'), encoding="utf-8"
    )
    environment = {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": locale}
    done = subprocess.run(
        [sys.executable, program, "größe"], cwd=tmp_path, env=clean() | environment, stdin=subprocess.DEVNULL,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert done.stdout.decode() == ("ö größe\n" if locale == "C.UTF-8" else "\\xf6 gr\\xf6\\xdfe\n")


def test_the_surroundings_of_a_user_without_name_or_home_are_made_up(monkeypatch, tmp_path):
    """As in a container that runs as some number; getpass and Path.home raise there, and with them MLflow."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    with pytest.raises(RuntimeError):
        Path.home()
    for name in surroundings.VARIABLES:
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("fishernet.interrupts.outlive_readers", lambda: None)  # of pytest's own streams
    for name in ("LOGNAME", "HOME"):  # which are then as before after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    before = os.umask(0o777)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("error")
            surroundings.settle()
            warnings.warn("of one library about another", UserWarning, stacklevel=1)
        assert len(warned) == 1
        assert os.umask(before) == 0o077
    finally:
        os.umask(before)
    assert getpass.getuser()
    assert Path.home() == tmp_path / "fishernet-results"


@pytest.mark.parametrize(
    ("set_to", "kept"),
    [("120", True), ("0.5", True), ("true", True), ("abc", False), ("{}", False), ("9" * 30, False), ("", False)],
)
def test_settings_of_another_cluster_do_not_reach_a_private_ray(set_to, kept, monkeypatch):
    """RAY_gcs_server_request_timeout_seconds=abc ends this process with a segmentation fault."""
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.setenv("RAY_gcs_server_request_timeout_seconds", set_to)
    monkeypatch.setenv("RAY_ADDRESS", "1.2.3.4:6379")
    monkeypatch.setenv("TUNE_MAX_PENDING_TRIALS_PG", set_to)
    settle_private_ray()
    assert ("RAY_gcs_server_request_timeout_seconds" in os.environ) == kept
    assert ("TUNE_MAX_PENDING_TRIALS_PG" in os.environ) == kept
    assert "RAY_ADDRESS" not in os.environ


def test_rays_files_go_where_they_fit_and_that_is_said(monkeypatch, capsys):
    from ray._private.utils import validate_socket_filepath

    monkeypatch.setenv("RAY_TMPDIR", "")  # which is then as before after the test
    for folder in (LONG, "/proc/nowhere", "/dev/null", "/tmp/" + "ö" * 20):
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        settle_private_ray()
        assert os.environ["RAY_TMPDIR"] == "/tmp"
        assert f"the temporary folder {folder} " in capsys.readouterr().err
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    settle_private_ray()
    assert capsys.readouterr().err == ""
    # To the byte: Ray's own check takes the longest folder that ours takes, and not one byte more.
    room = ray_cluster.LONGEST_SOCKET - len(ray_cluster.SOCKET)
    assert "too long" in socket_problem("/tmp/" + "x" * (room - 4))
    validate_socket_filepath("/tmp/" + "x" * (room - 5) + ray_cluster.SOCKET)
    with pytest.raises(OSError, match="AF_UNIX path length"):
        validate_socket_filepath("/tmp/" + "x" * (room - 4) + ray_cluster.SOCKET)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (Exception("The current node timed out during startup. This could happen because"), "is it very busy"),
        (RuntimeError("Failed to start GCS. Last connection error: x"), "is it very busy"),
        (OSError(24, "Too many open files"), "ulimit -n"),
        (OSError(28, "No space left on device"), "make room there"),
        (PermissionError(13, "Permission denied", "/tmp/ray/session"), "set RAY_TMPDIR"),
        (PermissionError(13, "Permission denied", "/usr/bin/python"), ""),
        (RuntimeError("can't start new thread"), "ulimit -a"),
        (ValueError("Expecting value: line 1 column 1 (char 0)"), ""),
        (AttributeError("'NoneType' object has no attribute 'x'"), ""),
    ],
)
def test_the_advice_is_for_the_reason(error, advice, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    said = start_error(error)
    assert str(error) in said
    assert advice in said
    assert ("busy" in said) == ("busy" in advice)
    assert bool(advice) == (";" in said)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:///me@lab.db", "sqlite:///me@lab.db"),
        ("sqlite:////home/me@lab/mlflow.db", "sqlite:////home/me@lab/mlflow.db"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("images/me@lab//x@y.npz", "images/me@lab//x@y.npz"),
        ("http://user:secret@host:5000", "http://host:5000"),
        ("https://secret@host", "https://host"),
        ("http://:secret@host/x", "http://host/x"),
        ("postgresql://user:se/cret@host/db", "postgresql://host/db"),
        ("postgresql+psycopg://user:se@cret@host:1/db", "postgresql+psycopg://host:1/db"),
        ("mysql://host/db?user=u&password=secret&x=1", "mysql://host/db?user=u&password=...&x=1"),
        (
            "no answer at http://u:secret@host/x; ask https://v:secret@other",
            "no answer at http://host/x; ask https://other",
        ),
    ],
)
def test_a_password_is_hidden_and_a_file_is_shown_as_it_is(uri, shown):
    assert hide_password(uri) == shown
    assert "secret" not in hide_password(uri)


@contextlib.contextmanager
def serving(status: int, answer: bytes) -> Iterator[str]:
    """The address of a server that gives the same answer to every question."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *given: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_is_passed_by_for_this_machine_and_named_for_others(variable, monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("no_proxy", "")  # which is then as before after the test
    with serving(404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}') as mlflow, serving(403, b"not by me") as proxy:
        for by in (proxy, "http://me:secret@127.0.0.1:1", "garbage", "socks5://127.0.0.1:1"):
            monkeypatch.setenv(variable, by)
            check_uri(mlflow)
            monkeypatch.setenv("no_proxy", "")
            with pytest.raises(TrackingError, match=r"asked by the proxy .* set no_proxy=mlflow\.example") as caught:
                check_uri("http://mlflow.example.invalid:5000")
            assert "secret" not in str(caught.value)
            assert "start one" not in str(caught.value)
            assert "--allowed-hosts" not in str(caught.value)


@pytest.mark.parametrize("name", ["MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_TRACKING_INSECURE_TLS"])
def test_a_variable_that_mlflow_cannot_take_is_named_before_anything_starts(name, monkeypatch, capsys):
    monkeypatch.setenv(name, "abc")
    with pytest.raises(TrackingError, match=f"the variable {name} holds what MLflow cannot take"):
        prepare_mlflow()
    assert analyses.run(lambda: None) == 2
    assert f"the variable {name} holds" in capsys.readouterr().err


@pytest.mark.parametrize("file", [*DATABASES, "artifacts", "lab.db"])
def test_no_name_is_that_of_a_file_of_the_storage_path_or_of_what_sqlite_writes_beside_it(file, tmp_path, capsys):
    endings = [""] if file == "artifacts" else ["", "-journal", "-wal", "-shm", "-mj0123ABCD", ".bak"]
    for name in [f"{file}{ending}" for ending in endings] + [file.upper()]:
        flags = [f"--name={name}", f"--storage-path={tmp_path}", f"--tracking-uri=sqlite:///{tmp_path}/lab.db"]
        with pytest.raises(SystemExit):
            _parse(flags)
        assert "error: --name" in capsys.readouterr().err
    assert _parse([f"--name=my-{file}", *flags[1:]]).name == f"my-{file}"
    assert _parse(["--name=lab.db-x", flags[1], "--tracking-uri=sqlite:////elsewhere/lab.db"])


@pytest.mark.parametrize("name", ["a/b", "../../up", "..", ".", "ö b?", "x" * 300, "mlflow.db", "artifacts"])
def test_a_sweep_that_was_renamed_in_mlflow_has_a_folder_in_the_storage_path(name):
    folder = folder_name(name)
    assert not name_problem("--name", "sweep", folder), folder
    assert folder_name(folder) == folder
    assert folder != folder_name(f"{name}/")
    assert folder_name("mine") == "mine"


@pytest.mark.parametrize("installed", [False, True])
def test_the_command_that_resumes_works_in_another_folder_and_shell(installed, tmp_path, monkeypatch):
    here, there = tmp_path / "he re", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    if installed:
        monkeypatch.setenv("PATH", str(Path(sys.executable).parent))  # in which the other shell need not find it
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///me@lab.db")
    for flags in ([], ["--storage-path=s t", "--data-dir=d"], ["--tracking-uri=sqlite+pysqlite:///x.db?timeout=9"]):
        monkeypatch.chdir(here)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///me@lab.db")
        sweep = LatentSweep(_parse(flags), flags)
        command = shlex.split(sweep.resume_command("my sweep"))
        assert all(Path(word).is_absolute() for word in command[: command.index("sweep")])
        assert command.index("--resume") == command.index("sweep") + 1
        monkeypatch.chdir(there)
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        argv = command[command.index("--resume") :]
        again = LatentSweep(_parse(argv), argv)
        assert again.args.resume == "my sweep"
        assert (again.storage, again.uri, again.args.data_dir) == (sweep.storage, sweep.uri, sweep.args.data_dir)
        assert sweep.uri in shlex.split(sweep.ui_command().partition("\n")[2])


def test_a_password_in_a_variable_stays_there(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@host:5000")
    sweep = LatentSweep(_parse([]), [])
    said = f"{sweep.resume_command('x')} {sweep.ui_command()}"
    assert "secret" not in said
    assert "--tracking-uri" not in said  # without the password it would not do


@pytest.mark.parametrize("uri", ["sqlite:///s/mlflow.db", "sqlite:///me@lab.db", "http://host:5000"])
def test_commands_of_an_analysis_name_the_store_and_the_storage_path(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FISHERNET_COMMAND", raising=False)
    sweep = Sweep("my sweep", "1", "r", {"storage_path": "/kept here"}, {}, uri)
    start = fishernet("figures", "frechet")
    words = shlex.split(sweep.command("figures frechet", "--features", "inception"))
    assert words[: len(start)] == start
    words = words[len(start) :]
    options = parser("x", "", "", (), "figures").parse_known_args(words)[0]
    assert (options.name, options.tracking_uri) == ("my sweep", absolute_uri(uri))
    start, words = fishernet("sweep"), shlex.split(sweep.driver_command("--resume"))
    assert words[: len(start)] == start
    words = words[len(start) :]
    again = LatentSweep(_parse(words), words)
    assert again.uri == absolute_uri(uri)
    assert again.storage == (tmp_path / "s" if "mlflow.db" in uri else Path("/kept here"))


def test_a_home_is_a_home_after_an_equals_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.npz").touch()
    sweep = LatentSweep(args := _parse(["--dataset=~/x.npz", "--storage-path=~/s", "--data-dir=~/d"]), [])
    assert sweep.asked().example.dataset == str(tmp_path / "x.npz")
    assert (sweep.storage, args.data_dir) == (tmp_path / "s", str(tmp_path / "d"))


@pytest.mark.parametrize("flag", ["--epochs", "--learning-rate", "--gpus", "--gpus-per-trial", "--cpus-per-trial"])
def test_a_number_has_no_underscores(flag, capsys):
    with pytest.raises(SystemExit) as end:
        sys.exit(latent_sweep.main(["--preset=quick", "--dry-run", f"{flag}=1_0"]))
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert flag in said
    assert "'1_0'" in said


@pytest.mark.parametrize(("term", "escapes"), [("xterm", True), ("dumb", False), (None, False)])
def test_a_terminal_that_cannot_clear_a_line_is_sent_no_escapes(term, escapes, monkeypatch):
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    if term is None:
        monkeypatch.delenv("TERM", raising=False)
    else:
        monkeypatch.setenv("TERM", term)
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as stream, Progress(1, 1, "test", stream) as progress:
        progress.say("a line")
        time.sleep(0.6)
    assert (b"\x1b" in os.read(master, 4096)) == escapes
    with contextlib.suppress(OSError):
        os.close(master)


# All at once in each: a sweep that ends well in them ends well in each alone.
SWEEPS = {
    "as Jupyter, SLURM and another Ray leave it, to a full disk": ("umask 0777;", ">/dev/full", {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "error",
        "RAY_TMPDIR": LONG, "RAY_ADDRESS": "1.2.3.4:6379", "RAY_JOB_CONFIG_JSON_ENV_VAR": "none",
        "RAY_gcs_server_request_timeout_seconds": "abc", "TUNE_MAX_PENDING_TRIALS_PG": "abc", "OMP_NUM_THREADS": "abc",
        "MLFLOW_RUN_ID": "abc", "MLFLOW_ENABLE_ASYNC_LOGGING": "true", "CUDA_VISIBLE_DEVICES": "abc", "http_proxy": "garbage",
        "MLFLOW_TRACKING_URI": "sqlite:///me@lab.db",
    }),
    "as a daemon without a home": ("", "<&- >&- 2>&-", {
        "HOME": "/nonexistent", "XDG_CACHE_HOME": "/proc/x", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
        "TMPDIR": "/proc/nowhere/at/all", "PYTHONOPTIMIZE": "1",
    }),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_in_hostile_surroundings_ends_with_its_runs_finished(name, tmp_path):
    limit, streams, environment = SWEEPS[name]
    for place in PLACES:
        if not PLACES[place]:
            furnish(tmp_path, place)
    words = [
        sys.executable,
        str(ROOT / "sweeps" / "latent_sweep.py"),
        "--preset=quick",
        "--models=VAE",
        "--latent-dims=2",
    ]
    words += ["--seeds=1", "--epochs=1", "--hidden-width=8", "--gpus=0", "--name=s"]
    done = subprocess.run(
        ["bash", "-c", f"{limit} {shlex.join(words)} {streams}"],
        cwd=tmp_path, env=clean() | environment, capture_output=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    store = tmp_path / ("me@lab.db" if "MLFLOW_TRACKING_URI" in environment else "fishernet-results/mlflow.db")
    with contextlib.closing(sqlite3.connect(store)) as records:
        assert records.execute("select name, status from runs order by name").fetchall() == [
            ("VAE-d02-s0", "FINISHED"),
            ("s", "FINISHED"),
        ]
    assert (tmp_path / "fishernet-results" / "s" / "figures" / "mse_curves.png").stat().st_size > 0
