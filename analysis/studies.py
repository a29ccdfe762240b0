"""A search's studies in Optuna's storage."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from analysis.errors import AnalysisError
from analysis.frame import Sweep
from fishernet.services import mlflow_store


def load_studies(sweep: Sweep, optuna_url: str | None = None) -> dict[str, optuna.Study]:
    """The search's studies by name, in its order; raises AnalysisError where the storage is not to be had."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    planned = optuna_url or str(sweep.plan.get("optuna", ""))
    path, urls = Path(planned.removeprefix("sqlite:///")), [planned]
    if not optuna_url and (store := mlflow_store.sqlite_path(sweep.uri)):
        urls.insert(0, f"sqlite:///{store.with_name(path.name).as_posix()}")  # where both were moved or copied
    urls = [u for u in urls if not u.startswith("sqlite:///") or Path(u.removeprefix("sqlite:///")).is_file()]
    if not urls:  # Optuna would make one
        raise AnalysisError(
            f"The studies of the search {sweep.name} are in {path}, which is not there; --optuna names another place."
        )
    for url in urls:
        try:
            storage = optuna.storages.RDBStorage(url, skip_table_creation=True)
            names = [s.study_name for s in optuna.get_all_study_summaries(storage, include_best_trial=False)]
            ours = [name for name in names if name.startswith(f"{sweep.begun_as}/")]
            studies = {name.partition("/")[2]: optuna.load_study(study_name=name, storage=storage) for name in ours}
        except (SQLAlchemyError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise AnalysisError(f"Optuna's storage {url} cannot be read: {reason}.") from error
        if studies:
            return studies
    raise AnalysisError(f"Optuna's storage {urls[-1]} holds no study of the search {sweep.name}.")


def best_trial(study: optuna.Study) -> optuna.trial.FrozenTrial | None:
    """The completed trial with the lowest MSE, the earliest of equals.

    Of two objectives: on the Pareto front the one nearest to the front's ideal point, each axis in units of its extent.
    """
    if len(study.directions) == 1:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return min(complete, key=lambda trial: trial.values, default=None)
    front = study.best_trials
    columns = list(zip(*(trial.values for trial in front), strict=True))
    low = [min(column) for column in columns]
    extent = [max(column) - min(column) or 1.0 for column in columns]
    return min(
        front,
        key=lambda t: sum(((v - a) / e) ** 2 for v, a, e in zip(t.values, low, extent, strict=True)),
        default=None,
    )
