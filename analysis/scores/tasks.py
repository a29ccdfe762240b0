"""Scores of runs computed as Ray tasks, each logged back to its run as soon as it is there.

A score belongs to a group (``classifier``, ``clusters``, …). What a run has of a group stands in its metrics GROUP/… and,
with the settings that made it, in its tag fishernet.scores.GROUP: what is there is not computed again.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from analysis.errors import AnalysisError
from analysis.scores.density import Settings
from analysis.scores.sampling import keep
from analysis.stored import StoredSweep
from fishernet.plan import Json
from fishernet.progress import LINE_SECONDS, repeating
from fishernet.provenance import count_gpus
from fishernet.services import mlflow_store, ray_cluster
from fishernet.services.schema import SCORES
from fishernet.wording import grouped


@dataclass
class Scored:
    """What a task gives back: metrics by full name; what made them, for the group's tag; latent samples by density; and by the
    artifact's name what is JSON and too long for a tag.
    """

    metrics: dict[str, float]
    about: Json
    samples: dict[str, tuple[npt.NDArray[np.float32], Settings]] = field(default_factory=dict)
    files: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreTask:
    """One group's scores of one run. ``arguments`` is called when a worker is free: it may fetch the run's artifacts.

    ``stack`` are further runs that are computed along; the function then gives a Scored of each in a tuple, the run's first.
    """

    run: pd.Series
    group: str
    function: Callable[..., Scored | tuple[Scored, ...]]
    arguments: Callable[[], tuple[object, ...]]
    stack: Sequence[pd.Series] = ()

    @property
    def runs(self) -> list[pd.Series]:
        return [self.run, *self.stack]

    @property
    def names(self) -> list[str]:
        return [f"{run['variant']} d={run['latent_dim']} seed={run['seed']}" for run in self.runs]


@dataclass(frozen=True)
class Tasks:
    """What runs lack of a score. ``shared`` are large arguments put before each task's own, sent to the workers once; ``said``
    are sentences on what could not be had beforehand.
    """

    tasks: Sequence[ScoreTask]
    shared: Sequence[object] = ()
    gpus: int = 0
    said: Sequence[str] = ()


def gpus_of_flag(asked: int | None) -> int:
    """How many GPUs --gpus asks for, None for all there are; raises AnalysisError where there are fewer."""
    try:
        there = 0 if asked == 0 else count_gpus()
    except RuntimeError as error:
        raise AnalysisError(f"{error}, or say --gpus 0.") from None
    gpus = there if asked is None else asked
    if not 0 <= gpus <= there:
        raise AnalysisError(f"--gpus {gpus} asks for {gpus} GPUs, and this machine has {there or 'none'}.")
    return gpus


def run_tasks(stored: StoredSweep, asked: Tasks, seconds: float = LINE_SECONDS) -> list[str]:
    """Run them on this machine's cores, or on GPUs, and log each; a sentence per reason for which tasks failed, whatever it was.

    The others go on. Where stderr is no terminal, a line every ``seconds`` says there how far they are. Raises AnalysisError
    when Ray cannot start, has fewer GPUs than asked for, or MLflow does not take the scores.
    """
    tasks, gpus = asked.tasks, asked.gpus
    if not tasks:
        return []
    ray, whole = _start_ray(gpus), False
    try:
        references = [ray.put(argument) for argument in asked.shared]
        slots = gpus or int(ray.cluster_resources().get("CPU", 1))
        remote = {
            function: ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=1)(function)
            for function in {task.function for task in tasks}
        }
        failures: list[tuple[str, str]] = []

        def part(task: ScoreTask, how: str, *passing: type[Exception]) -> AbstractContextManager[None]:
            stem = f"{task.group}-{task.run['run_id']}"
            return stored.failures.part(
                stem, lambda why: failures.extend((what, f"{how}: {why}") for what in task.names), passing=passing
            )

        waiting = list(reversed(tasks))
        running: dict[object, ScoreTask] = {}
        stem, n_runs = f"scores: {tasks[0].group}", sum(len(task.runs) for task in tasks)

        def say() -> None:
            n_done = n_runs - sum(len(task.runs) for task in [*waiting, *running.values()])
            print(f"{time.strftime('%H:%M')}  {stem}: {n_done}/{n_runs} runs", file=sys.stderr, flush=True)

        with ExitStack() as stack:
            bar = stack.enter_context(tqdm(total=n_runs, desc=stem, unit="run", disable=None))
            if bar.disable:  # no terminal
                stack.enter_context(repeating(say, seconds))
            while waiting or running:
                while waiting and len(running) < slots:
                    task, n = waiting.pop(), len(failures)
                    with part(task, "are missing"):  # this run's artifacts; the others may be whole
                        running[remote[task.function].remote(*references, *task.arguments())] = task
                    bar.update(len(task.runs) if len(failures) > n else 0)
                if running:
                    done, _ = ray.wait(list(running), num_returns=1)
                    task = running.pop(done[0])
                    scored: list[Scored] = []
                    with part(task, "failed"):
                        result = ray.get(done[0])
                        scored += result if isinstance(result, tuple) else (result,)
                    for run, of_run in zip(task.runs, scored, strict=bool(scored)):
                        alone = replace(task, run=run, stack=())
                        with part(alone, "failed", AnalysisError):  # a store that takes none of them
                            log(stored, alone, of_run)
                    bar.update(len(task.runs))
        whole = not failures
        return [f"{tasks[0].group} scores of {what} {why}" for what, why in grouped(failures)]
    finally:
        if not (_shared and whole):  # what made a task fail may be Ray's, and the next scores begin with another
            _stop_ray()
        stored.reload()


def log(stored: StoredSweep, task: ScoreTask, scored: Scored) -> None:
    """Write scores to their run; files and metrics before the tag, so that it never promises what is not there."""
    run_id, now = str(task.run["run_id"]), int(time.time() * 1000)
    about = task.run["scores"].get(task.group, {}) | scored.about
    for density, (samples, settings) in scored.samples.items():
        keep(stored, task.run, density, samples, settings)
    try:
        for name, content in scored.files.items():
            _log_json(stored.sweep.uri, run_id, Path(name), content)
        client = mlflow_store.client_of(stored.sweep.uri)
        metrics = [(name, value, now, int(task.run["epochs"])) for name, value in scored.metrics.items()]
        mlflow_store.log_batch(client, run_id, metrics)
        client.set_tag(run_id, SCORES + task.group, json.dumps(about))
    except mlflow_store.failures() as error:
        raise AnalysisError(f"The scores of {task.names[0]} cannot be logged to its run: {error}.") from error


def _log_json(uri: str, run_id: str, name: Path, content: Json) -> None:
    with tempfile.TemporaryDirectory(prefix="fishernet-") as folder:
        path = Path(folder) / name.name
        path.write_text(json.dumps(content), encoding="utf-8")
        mlflow_store.files_of(uri, run_id).log_artifact(str(path), name.parent.as_posix())


_shared = False  # whether the Ray of one score stays for the next
_gpus: int | None = None  # of the Ray that runs


@contextmanager
def one_ray() -> Iterator[None]:
    """Scores computed inside share one Ray, whose start takes longer than many of them; it ends with this."""
    global _shared
    outer, _shared = _shared, True
    try:
        yield
    finally:
        _shared = outer
        if not outer:
            _stop_ray()


def _start_ray(gpus: int) -> ModuleType:
    global _gpus
    if _gpus is not None and _gpus != gpus:
        _stop_ray()
    if _gpus is None:
        try:
            ray_cluster.start(gpus=gpus, cpus=gpus or None)
        except ray_cluster.ClusterError as error:
            raise AnalysisError(f"{error}.") from None
        _gpus = gpus
    import ray  # here, as what it reads must be set before

    return ray


def _stop_ray() -> None:
    global _gpus
    if _gpus is not None:
        ray_cluster.stop()
        _gpus = None
