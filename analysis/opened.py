"""``fishernet.open_sweep``: a sweep's runs, its best models and its figures, in Python."""

from __future__ import annotations

from numbers import Integral

import pandas as pd

from analysis import figures, frame
from analysis.command import of_paper
from analysis.errors import AnalysisError
from analysis.exhibits import Exhibit, Exhibits
from analysis.figures import FIGURES
from analysis.flags import PICTURES
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
        if line is not None and not isinstance(line, str):
            raise AnalysisError(f"line is the name of one, such as {self._stored.variants[0]!r}; got {line!r}.")
        if line is not None:
            exact, model = (found[column].str.lower() == line.lower() for column in ("variant", "model"))
            found = found[exact if exact.any() else model]
        if latent_dim is not None:
            whole = isinstance(latent_dim, Integral) and not isinstance(latent_dim, bool)
            if not whole:
                raise AnalysisError(f"latent_dim is a whole number; got {latent_dim!r}.")
            found = found[found["latent_dim"] == latent_dim]
        if found.empty:
            asked = " at ".join([line or "any model", *([f"d = {latent_dim}"] if latent_dim else [])])
            raise AnalysisError(
                f"No run of {asked} has finished in {self.name}; it has {', '.join(self._stored.variants)} at d = "
                f"{', '.join(map(str, sorted(self.runs['latent_dim'].unique())))}"
                + (did_you_mean(line or "", [*self._stored.variants, *self.runs["model"]]) or ".")
            )
        run = found.sort_values(self._stored.sweep.score("mse")).iloc[0]
        return TrainedModel(self._stored.model(run), self._stored.images.image_shape)

    def figure(self, name: str, **arguments: object) -> Exhibits:
        """The pictures and tables of a command of ``fishernet figures``, such as mse-curves; a notebook shows them.

        ``arguments`` are that command's flags, as ``latent_dim=2`` or, where it takes several, ``latent_dims=[2, 5]``. Raises
        AnalysisError for others, and for what cannot be drawn.
        """
        if name not in FIGURES:
            raise AnalysisError(
                f"There is no figure {name}; there are {', '.join(FIGURES)}{did_you_mean(str(name), FIGURES) or '.'}"
            )
        flags = {flag.keyword: flag for flag in FIGURES[name].flags if flag not in PICTURES}
        for argument in arguments:
            if argument not in flags:
                takes = f"takes {', '.join(flags)}" if flags else "takes none"
                raise AnalysisError(
                    f"{argument} is no argument of {name}, which {takes}{did_you_mean(argument, flags) or '.'}"
                )
        checked = {argument: flags[argument].checked(value) for argument, value in arguments.items()}
        made: list[Exhibit] = []
        for item in figures.parts(self._stored, name, **checked):
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
