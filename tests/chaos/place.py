"""Where one fault is tried, and what strikes again and again: what the faults of ``tests.chaos.faults`` are made with."""

import contextlib
import random
import socket
import subprocess
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.sweep import NOT_STARTED, Sweep

Process = subprocess.Popen[bytes]


class Unavailable(Exception):
    """What a fault needs and this machine has not."""


@dataclass
class Place:
    """Where one fault is tried: a folder, what its sweeps are compared with, and its own random numbers."""

    folder: Path
    undisturbed: Sweep
    seconds: float  # that the undisturbed sweep of a place took
    random: random.Random
    outcomes: list[str]  # one for each repetition that is over: what failed, or nothing

    kind: type[Sweep] = Sweep

    def sweep(self, **settings: object) -> Sweep:
        number = sum(path.is_dir() for path in self.folder.iterdir())
        return self.kind(self.folder / str(number), **settings)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def outcome(self, sweep: Sweep, count: Callable[[], int]) -> Iterator[None]:
        """Note how the body ended, ``count()`` times."""
        problem = ""
        try:
            yield
        except AssertionError as error:
            problem = str(error) or traceback.format_exc()
        sweep.stop()
        self.outcomes += [problem] * count()


def again_and_again(
    place: Place, n: int, strike: Callable[[Sweep, Process], None], *, moments: tuple[float, ...] = (),
    make: Callable[[], Sweep] | None = None, finished: Callable[[Sweep], None] = lambda sweep: None,
) -> None:  # fmt: skip
    """Strike a sweep's command at a random moment, start it again, strike again; once it finishes, compare and take a new one."""
    drawn = [*moments[:n], *(place.random.uniform(0, place.seconds) for _ in range(n - len(moments)))]
    place.random.shuffle(drawn)
    while drawn:
        sweep, struck = (make or place.sweep)(), 0
        with place.outcome(sweep, lambda: struck):  # noqa: B023 (called before the next round)
            while drawn:
                process = sweep.start()
                try:
                    process.wait(drawn[-1])
                except subprocess.TimeoutExpired:
                    drawn.pop()
                    struck += 1
                    strike(sweep, process)
                else:  # before the moment came: an earlier one, lest it never comes
                    drawn[-1] *= place.random.random()
                    if sweep.ends(process, {0, 2}) == 2:
                        if NOT_STARTED not in sweep.said():
                            raise AssertionError(f"exit status 2; it said: {sweep.said()[-1500:]}")
                        continue
                    break
            else:
                sweep.finish()
            sweep.check(place.undisturbed)
            finished(sweep)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
