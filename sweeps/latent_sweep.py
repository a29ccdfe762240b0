"""Train models x latent dimensions x seeds as Ray Tune trials, recorded in MLflow: ``python sweeps/latent_sweep.py --gpus 4``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run as a script, from any folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from fishernet.interrupts import exit_at_once

    exit_at_once()

from analysis.papers import OWN_IMAGES, of_preset
from fishernet.config import TrialConfig
from fishernet.data import DataError
from fishernet.flags import Parser
from fishernet.plan import PlanError, SweepPlan, format_numbers
from fishernet.services import ray_cluster, schema
from fishernet.surroundings import entry_point
from sweeps.checkpoints import find_checkpoints
from sweeps.driver import Driver, duration
from sweeps.flags import EXIT_STATUS, UsageError, add_place_flags, add_record_flags, check_shared_flags
from sweeps.planning import (
    Devices,
    add_plan_flags,
    add_presets,
    import_models,
    make_cohorts,
    plan_from_flags,
    preset_of,
    suited,
)  # fmt: skip
from sweeps.tracking import SweepTracking

if TYPE_CHECKING:
    from fishernet.data.images import ImageData
    from sweeps.launch import JobList

ABOUT = "Train models x latent dimensions x seeds as Ray Tune trials, recorded in MLflow."


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 all runs finished, 1 some failed, 2 bad usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return LatentSweep(_parse(arguments), arguments).main(last=argv is None)


def make_parser(argv: Sequence[str] = ()) -> Parser:
    """Its flags, those of the models from outside that ``argv`` names among them."""
    usual = {
        *("--models", "--latent-dims", "--seeds", "--preset", "--dataset", "--image-size", "--epochs", "--likelihood"),
        *("--network", "--gpus", "--name", "--resume", "--storage-path", "--report", "--dry-run"),
    }
    parser = Parser(
        name="sweep",
        usual=usual,
        description=ABOUT,
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    try:
        import_models(argv)
    except PlanError as error:
        parser.error(str(error))
    add_plan_flags(parser)
    place = add_place_flags(parser)
    place.add_argument(
        "--cohort-size", default="auto", metavar="N",
        help="members trained in lockstep as one trial: auto fills GPUs evenly and on a CPU stacks small networks, 1 is a trial "
        "for each run (default: auto)",
    )  # fmt: skip
    record = add_record_flags(parser, "sweep", "what is missing")
    record.add_argument(
        "--report", action="store_true",
        help="afterwards all figures, tables and claims on one page: the folder report of the sweep, and in MLflow",
    )  # fmt: skip
    record.add_argument(
        "--register", metavar="MODEL",
        help="afterwards the model with the least error as the newest version of MODEL in MLflow's registry",
    )  # fmt: skip
    record.add_argument("--write-plan", type=Path, metavar="FILE", help="write the trial configs as JSON and stop")
    add_presets(parser)
    return parser


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser(argv)
    args = parser.parse_args(argv)
    check_shared_flags(parser, args, "sweep")
    if args.cohort_size != "auto" and not re.fullmatch(r"0*[1-9]\d{0,8}", args.cohort_size):
        parser.error(
            f"--cohort-size is auto or how many members train in lockstep, at least 1; got {args.cohort_size!r}"
        )
    if args.register is not None and (not args.register.strip(" .") or {*"/:"} & {*args.register}):
        parser.error(
            f"--register is the name of a model in MLflow's registry, which has no / and no : in it; got {args.register!r}"
        )
    return args


class LatentSweep(Driver[SweepPlan]):
    """A plan of trial configs, in cohorts."""

    kind, plan_class = "sweep", SweepPlan
    chosen = ""  # in words, what was chosen by the images

    @property
    def paper(self) -> str:
        return of_preset(self.args.preset)

    def asked(self) -> SweepPlan:
        return plan_from_flags(self.args)

    def suited(self, asked: SweepPlan, images: ImageData) -> SweepPlan:
        found, self.chosen = suited(self.args, images)
        return plan_from_flags(self.args, found) if found else asked

    def details(self, plan: SweepPlan) -> list[str]:
        return [f"defaults   {self.chosen}"] if self.chosen else []

    def cautions(self, plan: SweepPlan, images: ImageData) -> list[str]:
        n_pixels, said = images.train[0].numel(), super().cautions(plan, images)
        if large := [d for d in plan.latent_dims if d >= n_pixels]:
            said.append(
                f"d = {format_numbers(large)} is no fewer than the {n_pixels} numbers of an image: such runs compress nothing"
            )
        return said

    def run(self, asked: SweepPlan | None) -> int:
        if asked and self.args.write_plan:  # which goes without --resume
            return self._write_plan(asked)
        status = super().run(asked)
        return self._report() or status if self.args.report and self.name and status in (0, 1) else status

    def _report(self) -> int:
        """Write the report of the runs that have finished; returns its exit status."""
        from analysis.__main__ import run
        from analysis.reporting import report

        ray_cluster.stop()  # scores are computed by a private Ray of their own
        # --gpus counts those of the cluster, where there is one.
        gpus = None if self.args.address else self.args.gpus
        scores = {"distances": {"gpus": gpus}}
        place = self.name, self.uri, self.folder / "report"
        return run(lambda: report(*place, data_dir=self.args.data_dir, scores=scores).status)

    def _write_plan(self, plan: SweepPlan) -> int:
        if preset_of(self.args) == OWN_IMAGES and not self.args.plan:
            try:
                plan = self.suited(plan, self.images_of(plan))
            except DataError as error:
                raise UsageError(
                    f"--write-plan: without --preset, epochs and noise_start follow from the images. {error} Write the plan "
                    "where they are, or say --preset paper"
                ) from None
        try:
            plan.write(self.args.write_plan)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"--write-plan {str(self.args.write_plan)!r} cannot be written: {reason}") from None
        print(f"{plan.describe()}; written to {self.args.write_plan}")
        return 0

    def cohorts(self, plan: SweepPlan, devices: Devices, images: ImageData) -> list[list[TrialConfig]]:
        return make_cohorts(plan.configs, devices, self.args.cohort_size, images.image_shape)

    def say_time(self, plan: SweepPlan, seconds: float, images: ImageData) -> str:
        from fishernet.pca import pca_seconds

        seconds += pca_seconds(images.train, images.test, plan.latent_dims)
        idle = self.on_an_idle_machine()
        return f"about {duration(seconds)}{idle}, by a measured step of each model; evaluation, start and end included"

    def jobs(self, plan: SweepPlan, tracking: SweepTracking, images: ImageData) -> JobList:
        from sweeps.launch import JobList

        def in_cohorts(configs: Sequence[TrialConfig]) -> list[list[TrialConfig]]:
            return make_cohorts(configs, self.connect(), self.args.cohort_size, images.image_shape)

        return JobList(plan, tracking.found, find_checkpoints(self.folder), in_cohorts, self.job_fields)

    def note_images(self, plan: SweepPlan, tracking: SweepTracking, images: ImageData) -> None:
        from fishernet.pca import pca_test_mse

        floors = pca_test_mse(images.train, images.test, [0, *plan.latent_dims])  # 0: the mean image
        tracking.log_parent_metrics([(schema.PCA, mse, d) for d, mse in floors.items()])

    def note_best(self, tracking: SweepTracking) -> None:
        tracking.log_models(self.args.register)

    def draw(self, name: str) -> None:
        """Print table and figures of what is finished."""
        from analysis import command

        print()
        self.parts.n += command.draw("mse-curves", name, self.uri, self.folder / "figures").n
        print()


if __name__ == "__main__":
    sys.exit(main())
