"""Records on their way to MLflow: one thread writes them in order and waits out a server that is away."""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypedDict

from fishernet.config import TrialConfig
from fishernet.services.mlflow_store import is_refusal, reason_of

METRICS_PER_CALL = 1000  # MLflow's limit
# A call costs MLflow as much as 70 values, so epochs wait for the next ones of their run: as long as keeps their writing to this
# share of the time, and at most so many seconds, as MLflow's page looks for new ones every 30.
SHARE, LINGER = 0.05, 10.0
LONGEST_WAIT = 15.0  # seconds between two attempts to reach a server that is away


class Epoch(TypedDict):
    """What is recorded of an epoch; ``time`` is in seconds since 1970."""

    epoch: int
    time: float
    metrics: dict[str, float]


Entry = Epoch | Callable[[], object]  # an epoch, or a function that writes something else
Log = Callable[[str], object]


class Refused(Exception):
    """A record that cannot be written, however often one tries."""


class Queue:
    """Records, in order within each run, written by one thread that waits out a server that is away."""

    def __init__(
        self,
        write_epochs: Callable[[TrialConfig, list[Epoch]], None],
        server: str,
        log: Log,
        linger: float = LINGER,
    ) -> None:
        self._write_epochs, self._server, self._log, self._linger = write_epochs, server, log, linger
        self._lines: dict[TrialConfig | None, deque[Entry]] = {}  # None: the sweep's own run
        self._due: dict[TrialConfig | None, float] = {}  # when each line is to be written; never before its elders
        self._rest_until = 0.0  # what has been written until now is its share of the time until then
        self._hurry = 0  # how many wait for the queue to be empty: then nothing lingers
        self._in_hand: list[Entry] = []
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._complained: set[TrialConfig | None] = set()
        self._last_written = time.monotonic()
        self.refused, self.trouble = 0, ""
        threading.Thread(target=self._work, name="mlflow-writer", daemon=True).start()

    def put(self, key: TrialConfig | None, record: Entry) -> None:
        with self._changed:
            self._lines.setdefault(key, deque()).append(record)
            now = time.monotonic()
            due = now if callable(record) else min(max(now, self._rest_until), now + self._linger)
            self._due[key] = min(due, self._due.get(key, due))
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
            self._hurry += 1
            self._changed.notify_all()
            try:
                while self._in_hand or self._lines:
                    left = self._last_written + patience_seconds - time.monotonic()
                    if left <= 0:
                        return False
                    self._changed.wait(left)
            finally:
                self._hurry -= 1
        return True

    def drop(self) -> None:
        """Forget what waits; what is in hand is still written."""
        with self._changed:
            self._lines.clear()
            self._due.clear()
            self._changed.notify_all()

    def stop(self) -> None:
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def _wait_for_due(self) -> TrialConfig | None:
        """The line that is to be written next, once it is time; where the queue has stopped, any."""
        while not self._stopped.is_set():
            key = min(self._due, key=self._due.__getitem__, default=None)
            wait = self._due[key] - time.monotonic() if self._due else None
            if wait is not None and (wait <= 0 or self._hurry):
                return key
            self._changed.wait(wait)
        return None

    def _take(self, key: TrialConfig | None) -> list[Entry]:
        """The first record of the line, with the epochs that follow it as far as one call goes."""
        line = self._lines[key]
        first = line.popleft()
        records = [first]
        if not callable(first):
            room = METRICS_PER_CALL - len(first["metrics"])
            while line and not callable(following := line[0]) and len(following["metrics"]) <= room:
                records.append(line.popleft())
                room -= len(following["metrics"])
        if not line:
            del self._lines[key], self._due[key]
        return records

    def _work(self) -> None:
        failures = 0
        while True:
            with self._changed:
                key = self._wait_for_due()
                if self._stopped.is_set():
                    return
                self._in_hand = records = self._take(key)
            started = time.monotonic()
            try:
                self._write(key, records)
            except Exception as error:  # whatever it is, this thread lives on: nobody else writes
                if not _will_stay(error):
                    failures += 1
                    self._put_back(key, records)
                    self.trouble = reason_of(error)
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
                now = time.monotonic()
                self._in_hand, self._last_written = [], now
                if not callable(records[0]):
                    self._rest_until = max(self._rest_until, started) + (now - started) / SHARE
                self._changed.notify_all()

    def _write(self, key: TrialConfig | None, records: list[Entry]) -> None:
        if callable(records[0]):
            records[0]()
        elif key is not None:  # the sweep's own run has no epochs
            self._write_epochs(key, [record for record in records if not callable(record)])

    def _put_back(self, key: TrialConfig | None, records: list[Entry]) -> None:
        """Back to the head of its line, the line behind all that are due: what chokes the server holds up one run."""
        with self._changed:
            self._lines.setdefault(key, deque()).extendleft(reversed(records))
            self._due[key] = time.monotonic()
            self._in_hand = []

    def _refuse(self, key: TrialConfig | None, records: list[Entry], error: Exception) -> None:
        self.refused += len(records)
        if key not in self._complained:
            self._complained.add(key)
            name = key.run_name if key else "the sweep itself"
            self._say(f"MLflow refuses a record of {name} ({reason_of(error)}); it is dropped, others go on")

    def _say(self, line: str) -> None:
        with suppress(Exception):  # a terminal that was closed must not end this thread
            self._log(line)


def _will_stay(error: Exception) -> bool:
    # The four say that the record is wrong, not the server.
    return is_refusal(error) or isinstance(error, Refused | TypeError | KeyError | AttributeError)
