"""A sweep with what its runs stored: weights as models, latent means, and the images they were trained on.

Without torch until one of its models or images is asked for.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.frame import AnalysisError, Sweep, load_epochs, load_runs, missing_cells, say_missing, usable
from analysis.papers import PAPERS, Paper, of_sweep, published
from analysis.parts import Failures
from analysis.which_dimension import Answer, Cell, active_units, at_mean_image, still_falling, which_dimension
from fishernet.config import Fields, TrialConfig
from fishernet.data import DATASETS, DataError
from fishernet.families import FAMILIES, family, trial_config
from fishernet.services import mlflow_store
from fishernet.services.schema import PAPER

if TYPE_CHECKING:
    from fishernet.data.images import ImageData
    from fishernet.models.base import Autoencoder

Array = npt.NDArray[np.float32]

SHOE_CLASSES = ("Sandal", "Sneaker", "Ankle boot")  # of Fashion-MNIST: classes that models confuse
# What np.load makes of a damaged .npz; the last three are zipfile's, of damage to different parts of the file.
DAMAGED = (KeyError, ValueError, OSError, EOFError, RuntimeError, BadZipFile, zlib.error)


class StoredSweep:
    """A sweep's finished runs; whatever is costly is fetched when first asked for, and then kept.

    ``seed`` chooses the run that pictures show where several seeds were trained; without it the lowest. ``paper`` is the key of
    the one that the sweep is held against, or none; without it the one that the sweep is about.
    """

    failures: Failures  # of what is made of it; a page has its own

    def __init__(
        self, sweep: Sweep, *, data_dir: str | None = None, seed: int | None = None, paper: str | None = None
    ) -> None:
        self.failures = Failures()
        self._paper = paper
        self.reasons: dict[str, str] = {}  # group of scores -> why the runs have none, where that is known
        self.sweep, self.data_dir, self.seed = sweep, data_dir, seed
        self._models: dict[str, Autoencoder] = {}
        self._files: dict[tuple[str, str], Path] = {}
        self._downloads = Path(tempfile.mkdtemp(prefix="fishernet-"))
        # TemporaryDirectory would warn when it goes with the sweep, which is what it is to do.
        weakref.finalize(self, shutil.rmtree, self._downloads, ignore_errors=True)

    @cached_property
    def all_runs(self) -> pd.DataFrame:
        """Every run that was started, as ``frame.load_runs`` gives them."""
        return load_runs(self.sweep)

    @cached_property
    def paper(self) -> Paper | None:
        """The paper that the sweep is held against, if any."""
        if self._paper is not None:
            return PAPERS.get(self._paper)
        configs = self.sweep.configs
        return of_sweep(self.sweep.tags.get(PAPER, ""), configs[0].dataset, {config.model for config in configs})

    @cached_property
    def published(self) -> dict[str, pd.DataFrame]:
        """Stem of an exhibit -> the numbers that the paper publishes on the sweep's images."""
        return published.tables(self.paper, self.sweep.configs[0].dataset)

    def reload(self) -> None:
        """Read the runs again, after scores were logged to them."""
        for name in ("all_runs", "runs", "mse_by_epoch", "learned_nothing", "dimensions"):
            self.__dict__.pop(name, None)

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The finished runs with a finite MSE; raises AnalysisError when there are none."""
        finished = usable(self.all_runs, self.sweep.score("mse"))
        if finished.empty:
            missing = say_missing(self.sweep, missing_cells(self.sweep, self.all_runs))
            raise AnalysisError(
                f"Sweep {self.sweep.name} has no finished run with a {self.sweep.score('mse')} to draw. {missing}".strip()
            )
        return finished

    @cached_property
    def mse_by_epoch(self) -> pd.DataFrame:
        """The history of the runs' MSE, as ``frame.load_epochs`` gives it."""
        return load_epochs(self.sweep, self.runs, [self.sweep.score("mse")])

    @cached_property
    def learned_nothing(self) -> dict[Cell, str]:
        """The lines and latent dimensions that have learned nothing, with why: the one judgement of it.

        The error beside the mean image's decides. A store of before lacks that; there it is that a model with a posterior has no
        latent in use. Else that says nothing, as a decoder may work with latents that hardly vary.
        """
        if self.sweep.mean_image is not None:
            return at_mean_image(self.runs, self.sweep.score("mse"), self.sweep.mean_image)
        found: dict[Cell, str] = {}
        for _, runs in self.runs.groupby(["variant", "latent_dim"], sort=False):
            run = runs.iloc[0]
            if family(run["model"]).posterior:
                with suppress(AnalysisError):  # no latents, no evidence
                    if not active_units(self.latents(self.pick(run["variant"], run["latent_dim"]))[0]):
                        found[str(run["variant"]), int(run["latent_dim"])] = "none of {its} latents is in use"
        return found

    @cached_property
    def dimensions(self) -> list[Answer]:
        """Which latent dimension each line needs; nothing where there is one alone."""
        if self.runs["latent_dim"].nunique() == 1:
            return []
        falling = still_falling(self.mse_by_epoch)
        return which_dimension(self.runs, self.sweep.score("mse"), self.learned_nothing, falling)

    @property
    def needed_dims(self) -> dict[str, int]:
        """The latent dimension that each line needs, of those of which that is decided."""
        return {answer.variant: answer.dim for answer in self.dimensions if answer.dim is not None}

    @property
    def variants(self) -> list[str]:
        """The labels of the finished runs' lines, in the order of figures."""
        return list(self.runs["variant"].unique())

    @cached_property
    def images(self) -> ImageData:
        """The images the sweep was trained and scored on; raises AnalysisError when they are not to be had.

        Training images that were drawn black and white anew in every epoch are drawn once, with a stream of their own.
        """
        import torch  # which a sweep's numbers do without

        from fishernet.data.binarised import drawn_once
        from fishernet.data.loading import images_of

        config = self.sweep.configs[0]
        try:
            data = images_of(config, self.data_dir)
        except DataError as error:
            raise AnalysisError(f"Scores and pictures need the images of sweep {self.sweep.name}. {error}") from error
        if data.fingerprint != self.sweep.plan.get("data_fingerprint", data.fingerprint):
            raise AnalysisError(
                f"Sweep {self.sweep.name} was trained on images with fingerprint {self.sweep.plan['data_fingerprint']}; "
                f"{config.dataset} has {data.fingerprint} here. Name the images it was trained on with --data-dir."
            )
        if config.binarisation == "dynamic":
            data = replace(data, train=torch.from_numpy(drawn_once(data.name, {"train": data.train.numpy()})["train"]))
        return data

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """The labels that occur among the test images, ascending; raises AnalysisError where the images have none."""
        labels = self.images.test_labels
        if labels is None:
            raise AnalysisError(f"The images of sweep {self.sweep.name} have no labels, which this figure needs.")
        return tuple(labels.unique().tolist())  # sorted by torch

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name for each of ``classes``; raises as it does."""
        names = DATASETS[self.images.name].classes if self.images.name in DATASETS else ()
        return tuple(names[label] if names else str(label) for label in self.classes)

    @property
    def class_of(self) -> npt.NDArray[np.int64]:
        """Which of ``classes`` each test image is of, from 0: labels may begin anywhere and leave numbers out."""
        return np.searchsorted(self.classes, np.asarray(self.images.test_labels))

    def pick(self, variant: str, latent_dim: int) -> pd.Series:
        """The run of that variant and latent_dim that pictures show; raises AnalysisError naming what to train."""
        found = self.runs[(self.runs["variant"] == variant) & (self.runs["latent_dim"] == latent_dim)]
        if found.empty:
            raise AnalysisError(
                f"No run of {variant} at d = {latent_dim} has finished; {self.command_for([variant], [latent_dim])}"
            )
        if self.seed is None:
            return found.sort_values("seed").iloc[0]
        chosen = found[found["seed"] == self.seed]
        if chosen.empty:
            raise AnalysisError(
                f"--seed {self.seed} chooses the run that pictures show, and of {variant} at d = {latent_dim} only "
                f"seeds {', '.join(str(s) for s in sorted(found['seed']))} have finished."
            )
        return chosen.iloc[0]

    @cached_property
    def lines(self) -> dict[str, TrialConfig]:
        """A config of each line by its label, of those planned and those trained."""
        trained = self.all_runs.drop_duplicates("variant")
        return {c.variant: c for c in self.sweep.configs} | dict(
            zip(trained["variant"], trained["config"], strict=True)
        )

    def command_for(self, variants: Sequence[str], dims: Sequence[int], also: Iterable[TrialConfig] = ()) -> str:
        """The sentence that says which command trains these; ``also``: lines that the sweep may not have.

        Any line may be a model's usual form. One that nobody knows has settings that only a plan file lists.
        """
        usual = {config.variant: config for config in map(usual_form, FAMILIES)}
        known = usual | {config.variant: config for config in also} | self.lines
        apart = dict(zip(self.all_runs["variant"], self.all_runs["choices"], strict=True))
        flags = (model_flag(known[v], apart.get(v)) for v in variants if v in known)
        models = list(dict.fromkeys(filter(None, flags)))
        listed = ",".join(str(d) for d in dims)
        if not models:
            command = self.sweep.driver_command("--name", "--plan", "FILE")
            return f"`{command}`, the file with these settings at d = {listed}, trains what is missing."
        command = self.sweep.driver_command("--name", "--models", *models, "--latent-dims", listed)
        return f"`{command}`, with the sweep's other settings, trains what is missing."

    def artifact(self, run: pd.Series, name: str) -> Path:
        """A local copy of a file stored with the run; raises AnalysisError when the run has none of that name."""
        return self.download(str(run["run_id"]), name, f"{run['variant']} d={run['latent_dim']} seed={run['seed']}")

    def download(self, run_id: str, name: str, what: str) -> Path:
        """A local copy of an artifact of any run of this store; ``what`` names the run to the user."""
        if (run_id, name) not in self._files:
            folder = self._downloads / run_id / Path(name).parent
            folder.mkdir(parents=True, exist_ok=True)
            try:
                path = mlflow_store.files_of(self.sweep.uri, run_id).download_artifacts(name, str(folder))
            except mlflow_store.failures() as error:
                reason = str(error).partition("\n")[0]
                raise AnalysisError(
                    f"{name} of {what} cannot be had from MLflow ({reason}). If the artifact folder was moved, move it back; if "
                    "it was deleted, --resume does not make it again, and training the run under another --name does."
                ) from error
            self._files[run_id, name] = Path(path)
        return self._files[run_id, name]

    def model(self, run: pd.Series) -> Autoencoder:
        """The run's trained model, a stack of one, on the CPU; raises AnalysisError for weights missing or of another shape."""
        from fishernet.trained import ModelError, load_weights  # torch

        run_id = str(run["run_id"])
        if run_id not in self._models:
            path = self.artifact(run, "weights.safetensors")
            try:
                self._models[run_id], _ = load_weights(path, config_of(run))
            except ModelError as error:
                raise AnalysisError(f"{error}.") from error
        return self._models[run_id]

    def latents(self, run: pd.Series) -> tuple[Array, npt.NDArray[np.int64] | None]:
        """Posterior means of the held-out images, (n, d), and their labels or None."""
        path = self.artifact(run, "latents.npz")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                means, labels = arrays["means"], arrays.get("labels")
        except DAMAGED as error:
            raise AnalysisError(f"latents.npz of run {run['run_id']} is damaged: {error}.") from error
        if means.ndim != 2 or means.shape[1] != run["latent_dim"]:
            raise AnalysisError(
                f"latents.npz of run {run['run_id']} has the shape {means.shape}; its latent_dim is {run['latent_dim']}."
            )
        return means, labels


def usual_form(model: str) -> TrialConfig:
    """A config of the model's usual form."""
    return trial_config(model=model)


def model_flag(config: TrialConfig, choices: Fields | None = None) -> str:
    """A line as --models takes it, by default of the config's own choices: ``VAE:likelihood=gaussian-learned``.

    Empty for a named setting, whose values only a plan file lists.
    """
    if config.setting:
        return ""
    chosen = config.choices if choices is None else choices
    pairs = (
        f"{name}={value:.12g}" if isinstance(value, float) else f"{name}={value}" for name, value in chosen.items()
    )
    return ":".join(filter(None, [config.model, ",".join(pairs)]))


def config_of(run: pd.Series) -> TrialConfig:
    """The TrialConfig of a row of runs."""
    config: TrialConfig = run["config"]
    return config
