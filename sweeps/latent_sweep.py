"""Train models x latent dimensions x seeds as Ray Tune trials, recorded in MLflow: ``python sweeps/latent_sweep.py --gpus 4``."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script, from any folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from fishernet.interrupts import exit_at_once

    exit_at_once()

from fishernet.commands import hide_password
from fishernet.config import TrialConfig
from fishernet.flags import Parser
from fishernet.plan import PlanError, compact, expand
from fishernet.services import ray_cluster, schema
from fishernet.surroundings import entry_point
from sweeps.driver import (
    EXIT_STATUS,
    Driver,
    UsageError,
    add_place_flags,
    add_record_flags,
    check_shared_flags,
    duration,
    import_drawing,
)
from sweeps.planning import (
    Devices,
    add_plan_flags,
    configs_from_flags,
    describe_plan,
    extended_plan,
    import_models,
    make_cohorts,
)


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 all runs finished, 1 some failed, 2 bad usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return LatentSweep(_parse(arguments), arguments).main(last=argv is None)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="latent_sweep.py", description=__doc__, epilog=EXIT_STATUS)
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
    record.add_argument("--write-plan", type=Path, metavar="FILE", help="write the trial configs as JSON and stop")
    args = parser.parse_args(argv)
    check_shared_flags(parser, args, "sweep")
    if args.cohort_size != "auto" and not re.fullmatch(r"0*[1-9]\d{0,8}", args.cohort_size):
        parser.error(
            f"--cohort-size is auto or how many members train in lockstep, at least 1; got {args.cohort_size!r}"
        )
    return args


class LatentSweep(Driver):
    """A plan of trial configs, in cohorts."""

    kind, installed = "sweep", "fishernet-sweep"

    def asked(self) -> list[TrialConfig]:
        return configs_from_flags(self.args)

    def stored(self, plan: dict[str, Any]) -> list[TrialConfig]:
        return expand(plan)

    def extended(self, plan: dict[str, Any], asked: list[TrialConfig], name: str) -> list[TrialConfig]:
        return extended_plan(plan, asked, name)

    def example(self, plan: list[TrialConfig]) -> TrialConfig:
        return plan[0]

    def run(self, asked: list[TrialConfig] | None) -> int:
        if self.args.write_plan:
            return self._write_plan(asked)
        status = super().run(asked)
        return self._report() or status if self.args.report and self.name and status in (0, 1) else status

    def _report(self) -> int:
        """Write the report of the runs that have finished; returns its exit status."""
        from analysis import report

        ray_cluster.stop()  # scores are computed by a private Ray of their own
        words = ["--name", self.name, "--tracking-uri", self.uri, "--out", str(self.folder / "report")]
        # --gpus counts those of the cluster, where there is one.
        for flag in ("data_dir",) if self.args.address else ("data_dir", "gpus"):
            if (value := getattr(self.args, flag)) is not None:
                words += [f"--{flag.replace('_', '-')}", str(value)]
        return report.main(words)

    def _write_plan(self, asked: list[TrialConfig] | None) -> int:
        from fishernet.plan import write_json

        assert asked is not None  # _parse refuses --write-plan beside --resume
        try:
            write_json(self.args.write_plan, [c.to_dict() for c in asked])
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"--write-plan {str(self.args.write_plan)!r} cannot be written: {reason}") from None
        print(f"{describe_plan(asked)}; written to {self.args.write_plan}")
        return 0

    def dry_run(self, name: str, configs: list[TrialConfig]) -> int:
        from fishernet.pca import pca_seconds

        data, devices = self.load_data(configs[0]), self.connect() if self.args.address else self.devices()
        cohorts = make_cohorts(configs, devices, self.args.cohort_size, data.train[0].numel())
        self._print_plan(name, configs, cohorts, devices, data)
        if (seconds := self.estimate(cohorts, devices, data)) is not None:
            seconds += pca_seconds(data.train, data.test, sorted({c.latent_dim for c in configs}))
            print(f"time       about {duration(seconds)} by a measured step of each model, evaluation included")
        print("nothing was started or written (--dry-run)")
        return 0

    def _print_plan(
        self, name: str, configs: list[TrialConfig], cohorts: list[list[TrialConfig]], devices: Devices, data: Any
    ) -> None:
        print(f"sweep      {name}: {describe_plan(configs)}")
        print(f"images     {data}")
        sizes = sorted({len(c) for c in cohorts})
        sizes_text = f"of {sizes[0]}" if len(sizes) == 1 else f"of {sizes[0]} to {sizes[-1]}"
        members = f"{sizes_text} member{'s' * (sizes[-1] > 1)}"
        print(f"trials     {len(cohorts)} cohort{'s' * (len(cohorts) > 1)} {members}, on {devices}")
        print(f"tracking   {hide_password(self.uri)}")
        print(f"storage    {self.folder}")

    def launch(
        self, name: str, configs: list[TrialConfig], tracking: Any, folder: Path, data: Any, devices: Devices | None
    ) -> int:
        from fishernet.training import DIVERGED
        from sweeps import launch
        from sweeps.progress import Progress
        from sweeps.trial import find_checkpoints

        runs = tracking.found
        finished = {c for c in configs if c in runs and runs[c].status == "FINISHED"}
        diverged = {c: r.reason for c, r in runs.items() if r.status == "FAILED" and r.reason.startswith(DIVERGED)}
        missing = [c for c in configs if c not in finished and c not in diverged]
        if not missing:
            ended = f"{len(finished)} runs are finished" + (f" and {len(diverged)} diverged" if diverged else "")
            print(f"sweep      {name}: all {ended}; nothing to train")
            self._describe(configs, tracking, data)
            return self.conclude(name, len(configs), diverged, tracking, interrupted=False)
        checkpoints = find_checkpoints(folder / "ray")
        devices = devices or self.connect()
        jobs = _jobs(missing, checkpoints, devices, self.args.cohort_size, data.train[0].numel())
        self._print_plan(name, configs, [list(job.members) for job in jobs], devices, data)
        if not devices.gpus:
            print("device     training on the CPU" + ("" if self.args.gpus == 0 else ", as no GPU was found"))
        if finished or diverged or any(job.checkpoints for job in jobs):
            ended = f"{len(finished)} runs are finished" + (f", {len(diverged)} diverged" if diverged else "")
            n_continued = sum(bool(job.checkpoints) for job in jobs)
            print(f"resuming   {ended}; {len(missing)} to train, {n_continued} cohorts from checkpoints")
        self._describe(configs, tracking, data)
        n_epochs = sum(c.epochs for job in jobs for c in job.members)
        with Progress(sum(len(job.members) for job in jobs), n_epochs, data.held_out) as progress:
            tracking.say = progress.say
            outcome = launch.launch(
                launch.JobList(
                    jobs, lambda job: job.to_dict(devices, self.args.data_dir, self.args.checkpoint_every, folder)
                ),
                devices=devices, tracking=tracking, folder=folder, progress=progress, beside=import_drawing, finished=finished,
            )  # fmt: skip
        if outcome.error:
            print(f"Ray stopped: {outcome.error}", file=sys.stderr)
        failures = {**diverged, **outcome.failed}
        ended_all = not outcome.error and not any(not r.startswith(DIVERGED) for r in outcome.failed.values())
        return self.conclude(
            name, len(configs), failures, tracking, interrupted=outcome.interrupted, resumable=not ended_all
        )

    def _describe(self, configs: list[TrialConfig], tracking: Any, data: Any) -> None:
        from fishernet.pca import pca_test_mse

        plan = compact(configs)
        self.describe(tracking, plan, plan["base"], describe_plan(configs), data)
        floors = pca_test_mse(data.train, data.test, sorted({c.latent_dim for c in configs}))
        tracking.log_parent_metrics([(schema.PCA, mse, d) for d, mse in floors.items()])

    def draw(self, name: str) -> None:
        """Print table and figures of what is finished."""
        from analysis.mse_curves import report

        print()
        self.parts.n += report(name, self.uri, self.folder / "figures").n
        print()


def _jobs(
    missing: list[TrialConfig],
    checkpoints: dict[tuple[Any, ...], list[str]],
    devices: Devices,
    size: str,
    n_pixels: int,
) -> list[Any]:
    """The missing configs as jobs: cohorts that were interrupted as they were, to continue bit for bit; the rest anew."""
    from sweeps.launch import Job

    left, jobs = set(missing), []
    for members, paths in checkpoints.items():
        # A member that is finished already trains along: without it the cohort would be another.
        if left & set(members):
            jobs.append(Job(members, tuple(paths)))
            left -= set(members)
    cohorts = make_cohorts([c for c in missing if c in left], devices, size, n_pixels) if left else []
    return [*jobs, *(Job(tuple(cohort)) for cohort in cohorts)]


if __name__ == "__main__":
    sys.exit(main())
