"""What the faults of ``python -m tests.chaos`` are done to: sweeps as a user starts them, each below a folder of its own."""

import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "sweeps" / "latent_sweep.py")
EPOCHS = 12
MODELS = ["FisherNet", "VAE"]
FIELDS = {
    "dataset": "digits", "epochs": EPOCHS, "hidden_width": 8, "hidden_layers": 1, "batch_size": 64, "learning_rate": 1e-3,
}  # fmt: skip
NOT_STARTED, STARTS = "Ray did not start on this machine", 4
TIMES = ("epoch_seconds", "train_seconds")
Numbers = dict[str, dict[tuple[str, int], float]]  # run name -> (metric, epoch) -> value


@dataclass
class Sweep:
    """One sweep: its command, its processes, and what its tracking store holds of it."""

    folder: Path
    name: str = "sweep"
    seeds: int = 3
    pause: float = 0.5  # seconds by which an epoch is drawn out
    flags: tuple[str, ...] = ("--cohort-size=1",)
    environment: dict[str, str] = field(default_factory=dict)
    storage: Path = Path()
    store: Path = Path()
    uri: str = ""
    outputs: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").mkdir(exist_ok=True)
        if self.storage == Path():
            self.storage = self.folder / "results"
        if self.store == Path():
            self.store = self.storage / "mlflow.db"

    def words(self) -> list[str]:
        """The command: --resume where the plan is recorded, else as it was first typed."""
        words = [SCRIPT, "--gpus=0", f"--storage-path={self.storage}", *self.flags]
        words += [f"--tracking-uri={self.uri}"] if self.uri else []
        if self.planned():
            return [*words, f"--resume={self.name}"]
        words += [f"--name={self.name}", "--latent-dims=2", f"--seeds={self.seeds}", "--models", *MODELS]
        return words + [f"--{name.replace('_', '-')}={value}" for name, value in FIELDS.items()]

    def start(self) -> subprocess.Popen[bytes]:
        """The command in a session of its own."""
        self.outputs.append(self.folder / f"{self.name}-output-{len(self.outputs)}")
        with self.outputs[-1].open("wb") as output:
            return subprocess.Popen(
                [sys.executable, *self.words()], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
                env=environment(self.folder) | {"CHAOS_PAUSE": str(self.pause)} | self.environment,
            )  # fmt: skip

    def begin(self) -> subprocess.Popen[bytes]:
        """Start it and wait for its first epoch."""
        for attempt in range(STARTS):
            process = self.start()
            try:
                self.wait_for(process, lambda: self.n_epochs() > 0)
            except AssertionError:
                if NOT_STARTED not in self.said() or attempt == STARTS - 1:
                    raise
            else:
                break
        return process

    def said(self) -> str:
        """The output of its latest command."""
        return self.outputs[-1].read_text(errors="replace") if self.outputs else ""

    def finish(self, process: subprocess.Popen[bytes] | None = None, seconds: float = 1800) -> None:
        """Let it train to its end, which must be exit status 0; started again where a busy machine has no Ray in its 30 s."""
        for _ in range(STARTS):
            if self.ends(process or self.start(), {0, 2}, seconds) == 0:
                return
            if NOT_STARTED not in self.said():
                break
            process = None
        raise AssertionError(f"exit status 2; it said: {self.said()[-1500:]}")

    def ends(self, process: subprocess.Popen[bytes], statuses: Iterable[int], seconds: float = 1200) -> int:
        """Wait for the command; raises AssertionError for another exit status, a traceback, or none in time."""
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end after {seconds:.0f} s; it said: {self.said()[-1500:]}") from None
        if status not in statuses:
            raise AssertionError(f"exit status {status}; it said: {self.said()[-1500:]}")
        if "Traceback" in self.said():
            raise AssertionError(f"a traceback: {self.said()[-3000:]}")
        return status

    def query(self, sql: str, *values: object) -> list[tuple]:
        """Rows of the tracking store; none while it is missing or being made."""
        try:
            with contextlib.closing(sqlite3.connect(f"{self.store.as_uri()}?mode=ro", uri=True, timeout=60)) as store:
                return store.execute(sql, values).fetchall()
        except sqlite3.OperationalError:
            return []

    def planned(self) -> bool:
        return bool(self.query(
            "select 1 from tags join runs using (run_uuid) join experiments using (experiment_id) "
            "where key = 'fishernet.plan' and experiments.name = ?", self.name,
        ))  # fmt: skip

    def runs(self) -> list[tuple[str, str, str]]:
        """(id, name, status) of every run that is not deleted."""
        return self.query(
            "select runs.run_uuid, runs.name, status from runs join experiments using (experiment_id) join tags using (run_uuid) "
            "where experiments.name = ? and runs.lifecycle_stage = 'active' and key = 'fishernet.role' and value = 'trial'",
            self.name,
        )  # fmt: skip

    def n_epochs(self) -> int:
        return self.query(
            "select count(*) from metrics join runs using (run_uuid) join experiments using (experiment_id) "
            "where experiments.name = ? and key = 'test/mse'", self.name,
        )[0:1][0][0] if self.store.exists() and self.runs() else 0  # fmt: skip

    def wait_for(self, process: subprocess.Popen[bytes], condition: Callable[[], bool], seconds: float = 1200) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if process.poll() is not None:
                raise AssertionError(f"it ended too early, with {process.returncode}: {self.said()[-1500:]}")
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing happened in {seconds:.0f} s; it said: {self.said()[-1500:]}")
            time.sleep(0.3)

    def numbers(self) -> Numbers:
        """All that was logged by epoch but the times; raises AssertionError where a run or an epoch is there twice."""
        found: Numbers = {}
        for run, name, _ in self.runs():
            rows = self.query("select key, step, value from metrics where run_uuid = ?", run)
            values = {(key, step): value for key, step, value in rows}
            if name in found or len(values) != len(rows):
                raise AssertionError(f"{name}, or an epoch of it, is there twice")
            found[name] = {at: value for at, value in values.items() if at[0] not in TIMES}
        return found

    def weights(self) -> dict[str, str]:
        """Run name -> checksum of its stored weights."""
        return {
            name: checksum_of(path)
            for run, name, _ in self.runs()
            for path in self.folder.glob(f"**/{run}/artifacts/weights.safetensors")
        }

    def check(self, undisturbed: "Sweep", *, processes: bool = True) -> None:
        """Raises AssertionError where the sweep is not what it would have been, or has left something behind."""
        n_runs = len(MODELS) * self.seeds
        statuses = {name: status for _, name, status in self.runs()}
        if len(statuses) != n_runs or set(statuses.values()) != {"FINISHED"}:
            raise AssertionError(f"not all {n_runs} runs are finished: {statuses}")
        expected, weights = undisturbed.numbers(), undisturbed.weights()
        for name, numbers in self.numbers().items():
            if numbers != expected[name]:
                differing = sorted(at for at in expected[name] | numbers if numbers.get(at) != expected[name].get(at))
                raise AssertionError(f"{name} has other numbers than undisturbed, or lacks some: {differing[:5]}")
        if differing := [name for name in statuses if self.weights().get(name) != weights[name]]:
            raise AssertionError(f"other weights than undisturbed: {differing}")
        self.check_nothing_is_left(processes=processes)

    def check_nothing_is_left(self, *, processes: bool = True) -> None:
        left = {path.name for path in (self.storage / self.name).iterdir()} - {"figures", "lock"}
        left |= {path.name for path in self.storage.glob("*.db-*")} if processes else set()
        if left:
            raise AssertionError(f"left in the storage path: {sorted(left)}")
        if processes:
            self.check_no_process_is_left()
            if files := [str(p) for p in (self.folder / "tmp").rglob("*") if p.is_file()]:
                raise AssertionError(f"temporary files are left: {files[:5]}")

    def check_no_process_is_left(self, seconds: float = 150) -> None:
        """After a driver's kill -9 two of Ray's agents take a minute, on a busy machine, to see that they are alone."""
        deadline = time.monotonic() + seconds
        while left := processes_of(self.folder):
            if time.monotonic() > deadline:
                raise AssertionError(f"processes are left: {left}")
            time.sleep(1)

    def newest_checkpoints(self) -> list[Path]:
        """Of every run that is not finished."""
        unfinished = [name for _, name, status in self.runs() if status == "RUNNING"]
        found = (self.storage / self.name / "ray").glob("*/*/checkpoint_*/state.safetensors")
        newest = {path.parts[-3]: path for path in sorted(found, key=lambda path: path.stat().st_mtime)}
        return [path for job, path in newest.items() if any(job.startswith(name) for name in unfinished)]

    def workers(self) -> list[int]:
        """The processes that train."""
        return [pid for pid, title in processes_of(self.folder).items() if title.startswith("ray::ImplicitFunc")]

    def stop(self) -> None:
        """End whatever of it still runs."""
        for pid in processes_of(self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Alone(Sweep):
    """The same runs by ``python -m fishernet``, without Ray and MLflow."""

    def words(self) -> list[str]:
        plan = [FIELDS | {"model": m, "latent_dim": 2, "seed": s} for m in MODELS for s in range(self.seeds)]
        (self.folder / "plan.json").write_text(json.dumps(plan))
        flags = [flag for flag in self.flags if flag != "--cohort-size=1"]
        return ["-m", "fishernet", "--plan=plan.json", f"--out={self.storage}", "--device=cpu", "--threads=1", *flags]

    def runs(self) -> list[tuple[str, str, str]]:
        found = [(path.parent.name, json.loads(path.read_text())["status"]) for path in self._records()]
        return [(name, name, status.upper()) for name, status in found]

    def _records(self) -> list[Path]:
        return sorted(self.storage.glob("*/record.json"))

    def numbers(self) -> Numbers:
        found: Numbers = {}
        for path in self._records():
            epochs = json.loads(path.read_text())["epochs"]
            if len({epoch["epoch"] for epoch in epochs}) != len(epochs):
                raise AssertionError(f"an epoch of {path.parent.name} is there twice")
            found[path.parent.name] = {
                (key, epoch["epoch"]): value
                for epoch in epochs
                for key, value in epoch["metrics"].items()
                if key not in TIMES
            }
        return found

    def weights(self) -> dict[str, str]:
        return {path.parent.name: checksum_of(path) for path in self.storage.glob("*/weights.safetensors")}

    def newest_checkpoints(self) -> list[Path]:
        return list(self.storage.glob("checkpoints/*.safetensors"))

    def check_nothing_is_left(self, *, processes: bool = True) -> None:
        if left := [*self.storage.rglob("*.writing"), *self.newest_checkpoints()]:
            raise AssertionError(f"left in the records: {left}")
        self.check_no_process_is_left()


def checksum_of(path: Path) -> str:
    """Of the tensors in the file, as a file's header comes in any order."""
    text = repr(sorted((key, tensor.tobytes()) for key, tensor in load_file(path).items()))
    return hashlib.sha256(text.encode()).hexdigest()


def environment(folder: Path) -> dict[str, str]:
    """A user's environment, in which every process and temporary file can be told to be of ``folder``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_", "TUNE_", "CHAOS_"))}
    return kept | {
        "TMPDIR": str(folder / "tmp"), "RAY_TMPDIR": str(folder / "ray"),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "inside"), str(ROOT)]),
    }  # fmt: skip


def processes_of(folder: Path) -> dict[int, str]:
    """Process id -> command line of every living process started from ``folder`` (setproctitle overwrites an environment)."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                int(process.name) == os.getpid()
                or process.joinpath("stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
            ):
                continue
            line = process.joinpath("cmdline").read_bytes()
            place = f"{folder}/".encode()
            if (
                f"{process.joinpath('cwd').readlink()}/".startswith(f"{folder}/")
                or place in line + b"/"
                or place in process.joinpath("environ").read_bytes()
            ):
                found[int(process.name)] = line.replace(b"\0", b" ").decode(errors="replace").strip()
    return found
