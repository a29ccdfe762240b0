"""What a log file is told while something trains."""

import io
import re
import threading
import time

from fishernet.progress import Progress, repeating


class Written(io.StringIO):
    """A file that says when so many lines are in it."""

    def __init__(self, n):
        super().__init__()
        self.n, self.there = n, threading.Event()

    def write(self, text):
        super().write(text)
        if self.getvalue().count("\n") >= self.n:
            self.there.set()
        return len(text)


def test_a_file_gets_a_plain_line_again_and_again_with_runs_epochs_best_and_what_is_left():
    file = Written(3)
    with Progress(4, 40, "test", file, seconds=0.01) as progress:
        progress.advance("VAE", 1, 0.5)
        progress._first = (time.monotonic() - 10, 1)  # ten seconds ago
        progress.advance("VAE", 9, 0.25)
        progress._first = (progress._first[0], 1)  # those nine were trained since
        progress.runs_done = 1
        assert file.there.wait(60)
    said = file.getvalue()
    assert re.fullmatch(
        r"\d\d:\d\d  1/4 runs  10/40 epochs  0\.\d+ epochs/s  0:00:3\d left  best test MSE VAE 0\.250",
        said.splitlines()[-1],
    )
    assert not re.search(r"[\r\x1b]", said)
    time.sleep(0.05)
    assert file.getvalue() == said  # it ends with the block


def test_what_is_repeated_is_so_in_the_block_alone():
    calls, twice = [], threading.Event()

    def do():
        calls.append(0)
        if len(calls) == 2:
            twice.set()

    with repeating(do, 0.001):
        assert twice.wait(60)
    n = len(calls)
    time.sleep(0.02)
    assert len(calls) == n


def test_a_file_is_told_at_once_what_is_waited_for_and_when_the_first_epoch_is_done():
    file = io.StringIO()
    with Progress(2, 20, "test", file, seconds=3600, note="starting workers") as progress:
        assert re.fullmatch(r"\d\d:\d\d  0/2 runs  0/20 epochs  starting workers\n", file.getvalue())
        for _ in range(3):
            progress.advance("VAE", 1, 0.5)
    assert [line[7:] for line in file.getvalue().splitlines()[1:]] == ["0/2 runs  1/20 epochs  best test MSE VAE 0.500"]
