"""What the product writes into MLflow and reads back: names of tags, the plan, a run's config, its last epoch.

Everything else that stands there is somebody else's: it is left alone, and never read as the product's own. MLflow itself
is not imported: a ``run`` is its entity Run, ``tags`` are the tags of one.
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from fishernet.config import TrialConfig
from fishernet.families import UnknownModel, all_fields, trial_config
from fishernet.plan import Json

KIND = "fishernet.kind"  # of an experiment: sweep or search
ROLE = "fishernet.role"  # of a run: sweep (the parent run, which holds the plan) or trial
SWEEP = "fishernet.sweep"  # the name the sweep was begun under, which its folder and its studies keep
CONFIG, VARIANT, REASON = "fishernet.config", "fishernet.variant", "fishernet.reason"
PLAN, COMMAND, OWN_NOTE = "fishernet.plan", "fishernet.command", "fishernet.note"
VERSIONS, MACHINE = "fishernet.versions", "fishernet.machine"
PAPER = "fishernet.paper"  # of a parent run: the paper whose preset the sweep was begun with
SCORES = "fishernet.scores."  # and a group: what made that group's scores of a run
STUDY, TRIAL, STATE = "fishernet.search.study", "fishernet.search.trial", "fishernet.search.state"
# MLflow's own names.
PARENT, NOTE, COMMIT = "mlflow.parentRunId", "mlflow.note.content", "mlflow.source.git.commit"
SOURCE = {"mlflow.source.name": "fishernet", "mlflow.source.type": "LOCAL"}  # the UI's column Source
# The kind of the experiment: of trained models. MLflow 3.17 looks at it where no mode is chosen in the browser or the address.
EXPERIMENT = {"mlflow.experimentKind": "custom_model_development"}

TAG_LENGTH = 5000  # MLflow 3.17 keeps 8000 characters and drops the rest; older servers keep 5000
PCA = "pca/test_mse"  # of a parent run: by number of components
CLOCKS = ("epoch_seconds", "train_seconds")
EVERY_EPOCH = ("train/loss", *CLOCKS)  # metrics that no epoch goes without
BY_EPOCH = ("train/", "test/", "validation/", "stopping/")  # how the metrics of epochs begin
# Names of sweeps: what every file system takes as a folder, and nothing that stands in the storage path beside theirs.
# SQLite makes files of its own whose names begin as the database's.
NAME = re.compile(r"[\w][\w.+=,@ -]{0,98}[\w.+=@]|\w")
DATABASES, FOLDERS = ("mlflow.db", "optuna.db"), ("artifacts",)
FOLDER_BYTES = 255  # as long as file systems take a name

# Of mlflow.entities, which the store alone imports.
Run: TypeAlias = Any
Metric: TypeAlias = Any


class SchemaError(ValueError):
    """What stands in MLflow is of another version, or damaged; the message says which run and tag."""


class UnknownFamily(SchemaError):
    """A run of a model that is not installed here; ``model`` is its name."""

    def __init__(self, message: str, model: str) -> None:
        super().__init__(message)
        self.model = model


def plan_tags(plan: Json) -> dict[str, str]:
    """The plan as JSON in the tags fishernet.plan, fishernet.plan.1, ..., as MLflow limits a tag."""
    text = json.dumps(plan)
    pieces = [text[i : i + TAG_LENGTH] for i in range(0, len(text), TAG_LENGTH)]
    return {f"{PLAN}.{i}" if i else PLAN: piece for i, piece in enumerate(pieces)}


def plan_of(tags: Mapping[str, str]) -> Json | None:
    """The plan of ``plan_tags``, or None; raises SchemaError where it cannot be read."""
    text, i = tags.get(PLAN, ""), 1
    while more := tags.get(f"{PLAN}.{i}"):
        text, i = text + more, i + 1
    if not text:
        return None
    try:
        # A plan that was once longer leaves tags behind, so what follows the closing brace is none of it.
        plan = json.JSONDecoder().raw_decode(text)[0]
        if not isinstance(plan, dict):
            raise ValueError("it is no JSON object")
    except ValueError as error:
        raise SchemaError(f"no readable plan stands in the tag {PLAN}: {error}") from error
    return plan


def trial_tags(config: TrialConfig, sweep: str, parent_run_id: str) -> dict[str, str]:
    """The tags of a new child run. The config comes with the run, where parameters need a second call."""
    return {
        PARENT: parent_run_id, **SOURCE, ROLE: "trial", VARIANT: config.variant, SWEEP: sweep,
        CONFIG: json.dumps(config.to_dict()),
    }  # fmt: skip


def config_of(run: Run) -> TrialConfig | None:
    """The run's TrialConfig: its tag, else those of its parameters that are fields; None where it has neither.

    Raises SchemaError where they are of another version.
    """
    try:
        values = json.loads(run.data.tags.get(CONFIG, ""))
    except ValueError:
        values = None
    if not isinstance(values, dict):
        values = {name: value for name, value in run.data.params.items() if name in all_fields()}
    if not values:
        return None
    try:
        return trial_config(values)
    except UnknownModel as error:
        raise UnknownFamily(
            f"run {run.info.run_name} ({run.info.run_id}) is of another model: {error}", error.model
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise SchemaError(
            f"run {run.info.run_name} ({run.info.run_id}) holds no trial config of this version of fishernet "
            f"({error.args[0]})"
        ) from error


def last_epoch(run: Run) -> int:
    """The last epoch recorded, 0 for none: the last step of the metrics that every epoch has.

    Where somebody else wrote one of them at another step, the others tell.
    """
    # Steps are public only in the message form; RunData.metrics drops them.
    steps = [metric.step for metric in run.data.to_proto().metrics if metric.key in EVERY_EPOCH]
    return max(0, min(steps, default=0))


def misplaced(run: Run, config: TrialConfig) -> list[str]:
    """The metrics of epochs whose last value stands at a step that is no epoch of the run: somebody else wrote it."""
    metrics = [m for m in run.data.to_proto().metrics if m.key.startswith(BY_EPOCH) or m.key in EVERY_EPOCH]
    return [m.key for m in metrics if not 1 <= m.step <= config.epochs]


def by_step(history: Iterable[Metric], first: int = 1, last: float = math.inf) -> dict[int, float]:
    """Step -> value of a metric's history from ``first`` to ``last``; of a step recorded twice the later record."""
    ordered = sorted(history, key=lambda metric: (metric.step, metric.timestamp))
    return {m.step: number(m.value) for m in ordered if first <= m.step <= last}


def number(value: float) -> float:
    """A metric's value. MLflow keeps infinity as the largest float, since SQL has none."""
    return math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value


def progress(run: Run) -> tuple[bool, int, int]:
    """Largest for the most advanced of several runs of one config: a finished one, then most epochs, then the latest."""
    return run.info.status == "FINISHED", last_epoch(run), run.info.start_time or 0


def scores_of(tags: Mapping[str, str]) -> dict[str, Json]:
    """Group -> what its tag says of the run's scores; a tag that is no JSON object counts as none."""
    groups = (name.removeprefix(SCORES) for name in tags if name.startswith(SCORES))
    return {group: about for group in groups if (about := json_tag(tags, SCORES + group))}


def json_tag(tags: Mapping[str, str], name: str) -> Json:
    """A tag that holds a JSON object; empty where it is missing or something else."""
    try:
        value = json.loads(tags.get(name, ""))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def note_tags(tags: Mapping[str, str], note: str) -> dict[str, str]:
    """Tags that make ``note`` the run's description, unless ``tags``, those it has, hold one that somebody else wrote."""
    there, note = tags.get(NOTE, ""), note[:TAG_LENGTH]
    if there.strip() and tags.get(OWN_NOTE) != _digest(there):
        return {}
    return {NOTE: note, OWN_NOTE: _digest(note)}


def folder_name(name: str) -> str:
    """The name of a sweep's folder: its name, where a driver takes it as one, else what a file system takes, and a digest.

    Whoever can write to a shared MLflow names experiments.
    """
    if is_name(name):
        return name
    kept = re.sub(r"[^\w+=,@-]+", "-", name)[:60].strip("+=,@-")
    return f"{kept or 'sweep'}-{_digest(name)[:8]}"


def is_name(name: str) -> bool:
    """Whether a driver takes this as a sweep's name."""
    taken = name.casefold() in FOLDERS or any(begins_as(name, file) for file in DATABASES)
    return not taken and NAME.fullmatch(name) is not None and len(name.encode()) <= FOLDER_BYTES


def begins_as(name: str, file: str) -> bool:
    """Whether a folder of that name could stand where the database ``file``, or what SQLite makes beside it, does."""
    return name.casefold().startswith(file.casefold())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]
