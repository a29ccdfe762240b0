"""How a driver ends: whoever reads its output has gone, the tracking server is away, the disk is full."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fishernet.config import TrialConfig
from fishernet.families import trial_config
from fishernet.plan import SweepPlan
from sweeps import driver, hyperparameter_search, latent_sweep, lock
from sweeps.driver import Driver
from sweeps.tracking_queue import Queue

ROOT = Path(__file__).resolve().parents[2]
# A driver that ends as its first word says; LOG is told what it has done.
ENDING = """
import argparse, atexit, sys
from pathlib import Path
from fishernet.surroundings import entry_point
from sweeps.driver import Driver

def log(line):
    with open(sys.argv[2], "a") as file:
        print(line, file=file)

class Tracking:
    backlog, refused = 3, 0
    def flush(self, patience):
        log("flush")
        return True
    def close(self, status, patience):
        log(f"close {status}")
        return True

class Ending(Driver):
    kind, script, installed = "sweep", Path("sweep.py"), "sweep"
    def asked(self): return 1
    cohorts = jobs = lambda self, *given: None
    def check_places(self, asked): pass
    def draw(self, name):
        print("a table")
        return False
    def run(self, asked):
        self.name = "s"
        if sys.argv[1] == "conclude":
            return self.conclude("s", 1, {}, Tracking(), interrupted=True)
        raise KeyboardInterrupt

atexit.register(log, "atexit")
flags = {"storage_path": sys.argv[2] + ".results", "tracking_uri": "sqlite:////s.db", "data_dir": None, "resume": None}
entry_point(lambda argv: Ending(argparse.Namespace(**flags), []).main(last=True))()
"""


def without_readers() -> dict[str, Any]:
    """Output as it is after Ctrl-C in ``command 2>&1 | tee log``."""
    reader, writer = os.pipe()
    os.close(reader)
    return {"stdout": writer, "stderr": writer, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "timeout": 200}


@pytest.mark.parametrize(("how", "done"), [("conclude", "flush close KILLED atexit"), ("interrupt", "atexit")])
def test_a_driver_whose_reader_has_gone_closes_its_books_and_keeps_its_exit_status(how, done, tmp_path):
    log = tmp_path / "log"
    ended = subprocess.run([sys.executable, "-c", ENDING, how, log], **without_readers(), check=False)
    assert ended.returncode == 130
    assert log.read_text().split() == done.split()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_before_there_is_anything_to_close_ends_the_program_also_without_a_reader(number, tmp_path):
    program = (
        "import os, sys; from fishernet import interrupts\n"
        "interrupts.exit_at_once(lambda: open(sys.argv[1], 'a').write('ended'))\n"
        "try:\n"
        "    os.kill(os.getpid(), int(sys.argv[2]))\n"
        "except Exception:\n"
        "    open(sys.argv[1], 'a').write('tried again')\n"  # as what starts Ray would
    )
    argv = [sys.executable, "-c", program, tmp_path / "log", str(int(number))]
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # whatever started the tests
    try:
        ended = subprocess.run(argv, **without_readers(), check=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (ended.returncode, (tmp_path / "log").read_text()) == (130, "ended")


class Ended(Driver[Any]):
    """What of a driver is needed once all is trained."""

    kind, script, installed = "sweep", Path("sweep.py"), "sweep"
    drawing: Callable[[], bool]
    asked = cohorts = jobs = lambda self, *given: None  # type: ignore[assignment]

    def draw(self, name: str) -> bool:
        return self.drawing()


def ended(folder: Path, drawing: Callable[[], bool]) -> Ended:
    flags = {"storage_path": str(folder), "tracking_uri": "sqlite:////s.db", "data_dir": None, "resume": None}
    made = Ended(argparse.Namespace(**flags), [])
    made.drawing, made.folder = drawing, folder / "s"
    return made


def test_driver_and_trial_see_the_images_that_the_config_says(tmp_path):
    """Whichever field says something of them."""
    from fishernet.data.loading import images_of
    from sweeps.trial import _images_of

    pixels = np.random.default_rng(0).integers(0, 255, (40, 9, 9), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    said = {"dataset": str(tmp_path / "x.npy"), "crop": 7, "image_size": 4, "train_size": 12, "validation_size": 5,
            "binarisation": "threshold", "stopping_size": 6}  # fmt: skip
    assert set(said) == set(TrialConfig.names("data"))
    images = _images_of(trial_config(**said), None)
    assert (images.train.shape, images.test.shape) == ((12, 1, 4, 4), (5, 1, 4, 4))
    for name in said:
        if name != "dataset":
            value = "none" if name == "binarisation" else said[name] - 1
            other = trial_config(**{**said, name: value})
            again, seen = images_of(other), _images_of(other, None)
            assert torch.equal(seen.train, again.train)
            assert torch.equal(seen.test, again.test)
            sets = [(getattr(seen, s), getattr(images, s)) for s in ("train", "stopping", "test")]
            assert not all(torch.equal(one, another) for one, another in sets), name


@pytest.mark.parametrize("command", [latent_sweep, hyperparameter_search], ids=["sweep", "search"])
@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["training", "dry-run"])
@pytest.mark.parametrize(
    ("size", "model", "said"),
    [
        (
            (4, 4), "AE:network=fisherae-28",
            "--network fisherae-28 takes images of 28 x 28 pixels; these have 4 x 4. --image-size 28 makes them so",
        ),
        ((4, 4), "AE:network=pooled-cnn", "--latent-dims (number of latent dimensions d) of --network pooled-cnn"),
        ((12, 12), "FisherNet:likelihood=gaussian,scale=full", "--information-about all-outputs: with --scale full"),
        ((1, 20), "AE:likelihood=matrix-normal", "--likelihood matrix-normal has a scale of rows times one of columns"),
    ],
    ids=lambda value: value if ":" in str(value) else "",
)  # fmt: skip
def test_what_does_not_go_with_the_images_is_refused_before_anything_is_written(
    command, more, size, model, said, tmp_path, capsys
):
    np.save(tmp_path / "x.npy", np.full((60, *size), 200, dtype=np.uint8))
    place = [f"--dataset={tmp_path / 'x.npy'}", f"--storage-path={tmp_path / 'results'}", "--gpus=0"]
    assert command.main(["--models", model, "--latent-dims=2", *place, *more]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def a_tracking(write: Callable[..., None], name: str = "s") -> Any:
    """A tracking with the real queue."""
    from sweeps.tracking import SweepTracking

    tracking = SweepTracking.__new__(SweepTracking)
    tracking.name, tracking._uri, tracking._parent_status, tracking._closed = name, "http://x", "RUNNING", None
    tracking.say, tracking._queue = print, Queue(write, "http://x", print)
    tracking._client, tracking.parent_run_id = argparse.Namespace(set_terminated=lambda *given: None), "p"
    return tracking


def test_a_server_that_stays_away_is_waited_for_once(tmp_path, monkeypatch, capsys):
    import sweeps.launch  # noqa: F401  (its import is not timed)

    def away(*given: Any) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(driver, "PATIENCE_INTERRUPTED_SECONDS", 8)
    tracking = a_tracking(away)
    tracking._queue.put(trial_config(), {"epoch": 1, "time": 0.0, "metrics": {}})
    start = time.monotonic()
    status = ended(tmp_path, lambda: True).conclude("s", 1, {}, tracking, interrupted=True)
    assert 8 <= time.monotonic() - start < 16
    assert status == 130
    assert "not yet written to http://x (away): 1 epochs" in capsys.readouterr().out


def test_what_cannot_be_drawn_is_a_sentence_and_the_command_that_draws_it_later(tmp_path, capsys):
    def drawing() -> bool:
        Path("/dev/full").write_text("x")
        return True

    if not Path("/dev/full").exists():
        pytest.skip("no disk that is always full")
    tracking = a_tracking(lambda *given: None)
    assert ended(tmp_path, drawing).conclude("s", 1, {}, tracking, interrupted=False) == 1
    out, err = capsys.readouterr()
    assert "the table and the figures cannot be made: [Errno 28] No space left on device" in err
    assert "resume with: " in out
    assert tracking._closed


def test_what_fails_at_the_end_as_nobody_foresaw_is_a_sentence_and_the_books_are_closed(tmp_path, capsys):
    def drawing() -> bool:
        raise ZeroDivisionError("division by zero")

    tracking = a_tracking(lambda *given: None)
    (tmp_path / "s" / "ray").mkdir(parents=True)
    assert ended(tmp_path, drawing).conclude("s", 1, {}, tracking, interrupted=False) == 1
    path = tmp_path / "s" / "figures" / "traceback-figures.txt"
    out = capsys.readouterr().out
    assert f"no figure: ZeroDivisionError: division by zero; the traceback is in {path}." in out
    assert "resume with: " not in out  # all runs are finished and stored
    assert not (tmp_path / "s" / "ray").exists()
    assert "in drawing\n" in path.read_text()
    assert tracking._closed


def test_the_best_plan_is_never_half_written(tmp_path, monkeypatch):
    """Not even where it was there before and the disk is full."""
    from sweeps import hyperparameter_search
    from sweeps.hyperparameter_search import HyperparameterSearch, _parse

    monkeypatch.setattr(hyperparameter_search, "best_plan", lambda *given: SweepPlan((trial_config(),)))
    argv = [f"--storage-path={tmp_path}", "--tracking-uri=sqlite:////s.db"]
    search = HyperparameterSearch(_parse(argv), argv)
    search.opened, search.plan, search.folder = [], None, tmp_path / "s"
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "best.json").write_text("the one before")
    (tmp_path / "s" / "best.json.writing").mkdir()  # what is written beside it cannot be
    with pytest.raises(OSError, match="directory"):
        search.draw("s")
    assert (tmp_path / "s" / "best.json").read_text() == "the one before"


def test_a_file_system_without_locks_is_said_in_a_sentence(tmp_path, monkeypatch):
    def flock(*given: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with (
        pytest.raises(lock.PlanError, match=r"cannot be locked \(Function not implemented\).*another --storage-path"),
        lock.hold_lock(tmp_path / "s", "s"),
    ):
        pass


def test_a_full_disk_has_a_lock_without_its_holders_number(tmp_path):
    program = (
        "import resource, sys; from pathlib import Path; from sweeps.lock import hold_lock\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"  # no file may hold a byte
        "with hold_lock(Path(sys.argv[1]), 's'):\n"
        "    print('held')\n"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "s")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("held\n", "")
