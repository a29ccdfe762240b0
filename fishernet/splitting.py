"""A cohort that the device's memory does not hold trains in parts, one after the other; seen from outside it stays one cohort."""

import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from fishernet.cohort import Cohort
from fishernet.config import TrialConfig
from fishernet.data.images import ImageData
from fishernet.records import write_failure, write_records
from fishernet.state import CohortState, Record
from fishernet.training import give_freed_memory_back, set_arithmetic, train

# What libraries say that do not raise torch.OutOfMemoryError: torch on a CPU, and CUDA's own.
# The last is cuDNN's, after none of its ways to compute a convolution had the memory it needs.
OUT_OF_MEMORY = (
    "DefaultCPUAllocator", "out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED", "unable to find an engine",
)  # fmt: skip


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether the error, or one it arose from, says that memory was asked for and not had."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


class FittedCohort:
    """The configs as one cohort for as long as it fits, and else as parts of half the members, a quarter, ... down to one.

    One part stays on the device between epochs. Several take turns, each from the CPU and back; a turn lasts ``turn``
    epochs, best those between two checkpoints. What was done in vain is gone back on to ``saved()``, the newest state that
    was kept: an epoch depends on that state and its own number alone, so done again it gives the same numbers. A member
    that does not fit alone fails, and ``remedy`` says what could be done.
    """

    def __init__(
        self, configs: Sequence[TrialConfig], data: ImageData, device: str | torch.device, *, turn: int, remedy: str,
        saved: Callable[[], CohortState], say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.configs, self.config = list(configs), configs[0]
        self._data, self._device, self._turn, self._remedy = data, torch.device(device), turn, remedy
        self._saved, self._say = saved, say
        self._parts = [saved()]  # on the CPU
        self._live: Cohort | None = None  # the only part, on the device
        self._training: Iterator[object] = iter(())  # its epochs
        self._n_told = self.epoch
        self._remarked: set[TrialConfig] = set()

    @property
    def epoch(self) -> int:
        return self._live.epoch if self._live else max(part.epoch for part in self._parts)

    @property
    def history(self) -> list[list[Record]]:
        """Each member's records."""
        return [records for part in self._current for records in part.history]

    @property
    def failures(self) -> dict[str, str]:
        """run_name -> why it failed."""
        return {part.configs[i].run_name: why for part in self._current for i, why in part.failures.items()}

    @property
    def ended(self) -> bool:
        return self.epoch == self.config.epochs or len(self.failures) + len(self.stopped) == len(self.configs)

    @property
    def stopped(self) -> dict[str, int]:
        """run_name -> the epoch after which it stopped early."""
        return {part.configs[i].run_name: epoch for part in self._current for i, epoch in part.stopped.items()}

    @property
    def _current(self) -> Sequence[Cohort | CohortState]:
        return [self._live] if self._live else self._parts

    def save(self, path: Path) -> None:
        """Write the state of all members as one cohort's, whatever its parts: another device may hold it whole."""
        (self._live.state() if self._live else CohortState.joined(self._parts)).save(path)

    def train(self) -> Iterator[dict[str, list[Record]]]:
        """Train to the last epoch; yield after each epoch, or turn, each member's new records by run_name.

        Between two yields the cohort is at rest and may be saved.
        """
        while not self.ended:
            until = self.epoch + self._turn - self.epoch % self._turn
            self._each_part(functools.partial(self._advance, until))
            # What is done again was told before.
            new = {
                config.run_name: [record for record in records if record["epoch"] > self._n_told]
                for config, records in zip(self.configs, self.history, strict=True)
            }
            if self.ended or self.epoch > self._n_told:
                self._n_told = self.epoch
                self._remark(new)
                yield {name: records for name, records in new.items() if records}

    def _remark(self, new: dict[str, list[Record]]) -> None:
        """Say what is to be said of the members' numbers: of each once, and of several at a time in one line."""
        found = [
            (config, record["epoch"], words)
            for config in self.configs
            if config not in self._remarked
            for record in new[config.run_name]
            if (words := config.remark(record["metrics"]))
        ]
        if found:
            config, epoch, words = found[0]
            runs = {config for config, _, _ in found}
            others = f" and {len(runs) - 1} other runs of its cohort" if len(runs) > 1 else ""
            self._say(f"{config.run_name}{others}, epoch {epoch}: {words}")
            self._remarked |= runs

    def write_records(self, folder: Path) -> None:
        """One record folder per member below ``folder``; a member that did not fit leaves its epochs and its reason."""
        self._training = iter(())  # it holds the step's memory
        if self._live:
            try:
                write_records(folder, self._live, self._data)
                return
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._parts, self._live = [self._live.state()], None
            self._release()
        self._each_part(lambda part: self._write(part, folder))

    def _advance(self, until: int, part: CohortState) -> CohortState:
        if part.ended:
            return part
        if len(self._parts) == 1:
            if self._live is None:
                self._live = self._on_device(part)
                self._training = train(self._live, self._data)
            next(self._training)
            return CohortState(part.configs)  # the live cohort knows the rest
        cohort = self._on_device(part)
        for _ in train(cohort, self._data):
            if cohort.epoch >= until:
                break
        return cohort.state()

    def _write(self, part: CohortState, folder: Path) -> CohortState:
        if len(part.failures) == len(part.configs):
            for i, config in enumerate(part.configs):
                write_failure(folder, config, part.history[i], part.failures[i])
        else:
            write_records(folder, self._on_device(part), self._data)
        return part

    def _on_device(self, part: CohortState) -> Cohort:
        cohort = Cohort(part.configs, self._data.image_shape, len(self._data.train), self._device)
        cohort.restore(part)
        # Records are computed as training is, also where no epoch is left to train.
        set_arithmetic(self.config.precision)
        return cohort

    def _each_part(self, do: Callable[[CohortState], CohortState]) -> None:
        """Put what ``do`` makes of each part in its place; a part that does not fit is halved."""
        i = 0
        while i < len(self._parts):
            try:
                self._parts[i] = do(self._parts[i])
                i += 1
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            # Not in the handler: the error's frames hold the tensors that left no room.
            was_live = self._live is not None
            self._live, self._training = None, iter(())
            self._release()
            if was_live:
                self._parts = [self._saved()]
            self._parts[i : i + 1] = self._halves(self._parts[i])

    def _halves(self, part: CohortState) -> list[CohortState]:
        place = "the GPU's memory" if self._device.type == "cuda" else "the memory of this process"
        first, n = part.configs[0].run_name, len(part.configs)
        if n == 1:
            part.failures[0] = f"{first} does not fit {place} even alone; {self._remedy}"
            return [part]
        half = (n + 1) // 2
        self._say(
            f"the cohort of {n}, {first} to {part.configs[-1].run_name}, does not fit {place}: "
            f"split into cohorts of {half} and {n - half}"
        )
        return [part.part(0, half), part.part(half, n)]

    def _release(self) -> None:
        gc.collect()
        give_freed_memory_back()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
