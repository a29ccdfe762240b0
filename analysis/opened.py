"""``fishernet.open_sweep``: a sweep's runs, its best models and its figures, in Python."""

from __future__ import annotations

import pandas as pd

from analysis import figures, frame
from analysis.command import of_paper
from analysis.errors import AnalysisError
from analysis.exhibits import Exhibit, Exhibits
from analysis.figures import FIGURES
from analysis.parts import Part
from analysis.stored import StoredSweep
from fishernet.services.mlflow_store import default_tracking_uri
from fishernet.spelling import did_you_mean
from fishernet.trained import TrainedModel


class OpenSweep:
    """A sweep as its records tell it.

    ``runs``: a row per finished run with its settings and last metrics; ``all_runs`` those that failed or are under way, too.
    """

    def __init__(self, stored: StoredSweep) -> None:
        self._stored = stored
        self.name = stored.sweep.name

    @property
    def runs(self) -> pd.DataFrame:
        """The finished runs; raises AnalysisError where there are none."""
        return self._stored.runs

    @property
    def all_runs(self) -> pd.DataFrame:
        """Every run that was started, whatever became of it."""
        return self._stored.all_runs

    def best(self, line: str | None = None, latent_dim: int | None = None) -> TrainedModel:
        """The model with the least error of a line such as ``VAE gaussian-learned`` and a latent_dim; of all without these.

        Where no line is named so, of the lines of that model.

        Raises AnalysisError where no such run has finished.
        """
        found = self.runs
        if line is not None:
            exact, model = (found[column].str.lower() == line.lower() for column in ("variant", "model"))
            found = found[exact if exact.any() else model]
        if latent_dim is not None:
            found = found[found["latent_dim"] == latent_dim]
        if found.empty:
            asked = " at ".join([line or "any model", *([f"d = {latent_dim}"] if latent_dim else [])])
            raise AnalysisError(
                f"No run of {asked} has finished in {self.name}; it has {', '.join(self._stored.variants)} at d = "
                f"{', '.join(map(str, sorted(self.runs['latent_dim'].unique())))}"
                + (did_you_mean(line or "", self._stored.variants) or ".")
            )
        run = found.sort_values(self._stored.sweep.score("mse")).iloc[0]
        return TrainedModel(self._stored.model(run), self._stored.images.image_shape)

    def figure(self, name: str, **arguments: object) -> Exhibits:
        """The pictures and tables of a command of ``python -m analysis``, such as mse-curves; a notebook shows them."""
        if name not in FIGURES:
            raise AnalysisError(
                f"There is no figure {name}; there are {', '.join(FIGURES)}{did_you_mean(name, FIGURES) or '.'}"
            )
        made: list[Exhibit] = []
        for item in figures.parts(self._stored, name, **arguments):
            made += self._stored.failures.exhibits(*item) if isinstance(item, Part) else [item]
        return Exhibits(of_paper(self._stored.paper, made))

    def __repr__(self) -> str:
        finished = frame.usable(self.all_runs, self._stored.sweep.score("mse"))
        return f"<sweep {self.name}: {len(finished)} of {len(self._stored.sweep.configs)} runs finished>"


def open_sweep(name: str | None = None, *, tracking_uri: str | None = None, data_dir: str | None = None) -> OpenSweep:
    """The sweep of that name, or the one started last; raises AnalysisError where there is none.

    ``tracking_uri`` is by default MLFLOW_TRACKING_URI, else the drivers' own fishernet-results/mlflow.db.
    """
    return OpenSweep(StoredSweep(frame.find_sweep(name, tracking_uri or default_tracking_uri()), data_dir=data_dir))
