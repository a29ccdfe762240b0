"""Train models x latent dimensions x seeds as Ray Tune trials, recorded in MLflow: ``python sweeps/latent_sweep.py --gpus 4``."""

import argparse
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script, from any folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fishernet.config import TrialConfig
from fishernet.plan import PlanError, compact, expand
from sweeps.planning import (
    Devices,
    add_plan_flags,
    configs_from_flags,
    describe_plan,
    extended_plan,
    flagged,
    make_cohorts,
    plan_flags_given,
)
from sweeps.tracking_store import shown

DEFAULT_STORAGE = "fishernet-results"
RESERVED_NAMES = ("mlflow.db", "artifacts")  # files of the storage path


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 all runs finished, 1 some failed, 2 bad usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parse(arguments)
    sweep = _Sweep(args, arguments)
    try:
        # Torch, Ray and MLflow take seconds to import, so they come after the flags have been read.
        from fishernet.data import DataError
        from sweeps.tracking import TrackingError

        try:
            return sweep.run(None if args.resume else configs_from_flags(args))
        except (PlanError, DataError, TrackingError, UsageError) as error:
            print(f"error: {flagged(str(error))}", file=sys.stderr)
            return 2
    except KeyboardInterrupt:
        print(f"interrupted{sweep.how_to_go_on()}", file=sys.stderr)
        return 130


class UsageError(ValueError):
    """A flag that cannot be followed; the message names it."""


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="latent_sweep.py",
        description=__doc__,
        allow_abbrev=False,
        epilog="exit status: 0 all runs finished, 1 some failed, 2 bad usage, 130 interrupted",
    )
    add_plan_flags(parser)
    place = parser.add_argument_group("where it runs")
    place.add_argument("--gpus", type=int, metavar="N", help="GPUs to use; 0 is the CPU (default: all there are)")
    place.add_argument(
        "--gpus-per-trial", type=float, default=1.0, metavar="F", help="1, or 1/k for k trials a GPU (default: 1)"
    )
    place.add_argument("--cpus-per-trial", type=int, default=1, metavar="N", help="CPU cores of a trial (default: 1)")
    place.add_argument(
        "--cohort-size", default="auto", metavar="N",
        help="members trained in lockstep as one trial: auto fills the devices evenly, 1 is one trial per run (default: auto)",
    )  # fmt: skip
    place.add_argument(
        "--address",
        metavar="ADDRESS",
        help="an existing Ray cluster: auto, HOST:PORT or ray://HOST:PORT (default: a private Ray)",
    )
    record = parser.add_argument_group("what is recorded, and where")
    record.add_argument(
        "--name", help="the sweep's name; an existing one is extended by what is missing (default: DATASET-DATE)"
    )
    record.add_argument("--resume", metavar="NAME", help="finish the sweep of that name as it was planned")
    record.add_argument(
        "--storage-path", type=Path, default=Path(DEFAULT_STORAGE), metavar="FOLDER",
        help=f"checkpoints and, without a server, MLflow's files; on a cluster a folder that every node sees "
        f"(default: {DEFAULT_STORAGE})",
    )  # fmt: skip
    record.add_argument(
        "--tracking-uri", metavar="URI",
        help="MLflow: http://HOST:PORT or sqlite:////PATH (default: $MLFLOW_TRACKING_URI, else mlflow.db in the storage path)",
    )  # fmt: skip
    record.add_argument(
        "--data-dir",
        metavar="FOLDER",
        help="where the data sets are (default: $FISHERNET_DATA_DIR, else ~/.cache/fishernet)",
    )
    record.add_argument(
        "--checkpoint-every", type=int, default=1, metavar="N", help="epochs between checkpoints (default: 1)"
    )
    record.add_argument(
        "--dry-run", action="store_true", help="print the plan and an estimate of its time; start nothing"
    )
    record.add_argument("--write-plan", type=Path, metavar="FILE", help="write the trial configs as JSON and stop")
    args = parser.parse_args(argv)
    if args.resume and args.name:
        parser.error("--resume NAME already names the sweep; leave --name out")
    if args.resume and (args.dry_run or args.write_plan):
        parser.error(
            f"--{'dry-run' if args.dry_run else 'write-plan'} is about what flags ask for, so it goes without --resume"
        )
    if args.resume and (given := plan_flags_given(args)):
        parser.error(
            f"--resume finishes a sweep as it was planned, so {', '.join(given)} cannot change it; "
            f"to extend it, use --name {args.resume} instead"
        )
    if args.gpus is not None and args.gpus < 0:
        parser.error(f"--gpus is how many GPUs to use, 0 for the CPU; got {args.gpus}")
    share = args.gpus_per_trial
    if not 1e-3 <= share <= 1 or abs(1 / share - round(1 / share)) > 1e-6:
        parser.error(
            f"--gpus-per-trial is the share of a GPU one trial takes: 1, or 1/k such as 0.5 or 0.25; got {args.gpus_per_trial}"
        )
    for flag, meaning in (
        ("cpus_per_trial", "CPU cores of one trial"),
        ("checkpoint_every", "epochs between checkpoints"),
    ):
        if getattr(args, flag) < 1:
            parser.error(f"--{flag.replace('_', '-')} is a number of {meaning}, at least 1; got {getattr(args, flag)}")
    if args.cohort_size != "auto" and not re.fullmatch(r"0*[1-9]\d{0,8}", args.cohort_size):
        parser.error(
            f"--cohort-size is auto or how many members train in lockstep, at least 1; got {args.cohort_size!r}"
        )
    for flag in ("name", "resume"):
        name = getattr(args, flag)
        if name is not None and (name in RESERVED_NAMES or not re.fullmatch(r"[\w][\w.+=,@ -]{0,98}[\w.+=@]|\w", name)):
            parser.error(
                f"--{flag} is the sweep's name in MLflow and the name of its folder: up to 100 letters, digits and ._-+=,@ "
                f"beginning with a letter or digit, and none of {', '.join(RESERVED_NAMES)}; got {name!r}"
            )
    if set("#%?") & set(str(args.storage_path)):
        parser.error(
            f"--storage-path becomes part of a database URL, so it goes without # % ?; got {str(args.storage_path)!r}"
        )
    if args.address and args.address.startswith("ray://"):
        parser.error(
            f"--address {args.address}: through Ray Client the driver would run in a process of the cluster, without this "
            "machine's records; run the command on a node of the cluster with --address auto, or send it with `ray job submit`"
        )
    if re.match(r"\w{2,}:/", str(args.storage_path)):  # Path has made one slash of two
        parser.error(
            f"--storage-path is a folder that every node sees, such as a shared mount; got the URL {args.storage_path}"
        )
    return args


class _Sweep:
    """One call of the command, from the checked flags to the exit status."""

    def __init__(self, args: argparse.Namespace, argv: Sequence[str]) -> None:
        from sweeps.tracking import default_tracking_uri

        self.args, self.argv = args, argv
        self.storage = args.storage_path.resolve()
        self.uri = args.tracking_uri or default_tracking_uri(self.storage)
        self.name = ""  # once the sweep has begun to be recorded
        self.args.data_dir = args.data_dir and str(Path(args.data_dir).resolve())  # workers may run elsewhere

    def run(self, asked: list[TrialConfig] | None) -> int:
        if self.args.write_plan:
            return self._write_plan(asked)
        if asked is None:
            return self._train(self.args.resume, None)
        stem = re.sub(r"[^\w-]+", "-", Path(asked[0].dataset).stem).strip("-")[:60] or "images"
        name = self.args.name or f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
        if self.args.dry_run:
            return self._dry_run(name, asked)
        return self._train(name, asked)

    def _write_plan(self, asked: list[TrialConfig] | None) -> int:
        from fishernet.records import write_json

        assert asked is not None  # _parse refuses --write-plan beside --resume
        try:
            write_json(self.args.write_plan, [c.to_dict() for c in asked])
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"--write-plan {str(self.args.write_plan)!r} cannot be written: {reason}") from None
        print(f"{describe_plan(asked)}; written to {self.args.write_plan}")
        return 0

    def _load_data(self, config: TrialConfig) -> Any:
        from fishernet.data import load_data

        return load_data(
            config.dataset, self.args.data_dir, train_size=config.train_size, validation_size=config.validation_size
        )

    def _devices(self, resources: dict[str, float] | None = None) -> Devices:
        """What the trials get: of this machine, or of the cluster whose resources are given; raises UsageError."""
        if resources is None:
            import torch

            resources = {"CPU": _usable_cpus(), "GPU": torch.cuda.device_count()}
        there, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        where = "the cluster" if self.args.address else "this machine"
        gpus = there if self.args.gpus is None else self.args.gpus
        if gpus > there:
            hint = f"--gpus {there}" if there else "--gpus 0 to train on the CPU"
            raise UsageError(f"--gpus {gpus} asks for {gpus} GPUs, but {where} has {there or 'none'}; try {hint}")
        devices = Devices(gpus, self.args.gpus_per_trial, cpus, self.args.cpus_per_trial)
        if not devices.slots:
            raise UsageError(
                f"--cpus-per-trial {self.args.cpus_per_trial} is more than the {cpus} CPU cores that {where} has"
            )
        return devices

    def _connect(self) -> Devices:
        from sweeps import launch

        try:
            gpus = 0 if self.args.address else self._devices().gpus
            return launch.connect(self.args.address, self._devices, gpus=gpus)
        except launch.LaunchError as error:
            raise UsageError(str(error)) from None

    def _dry_run(self, name: str, configs: list[TrialConfig]) -> int:
        from sweeps.estimate import estimate_seconds
        from sweeps.tracking import check_uri

        check_uri(self.uri)
        data, devices = self._load_data(configs[0]), self._connect() if self.args.address else self._devices()
        cohorts = make_cohorts(configs, devices, self.args.cohort_size, data.train[0].numel())
        self._print_plan(name, configs, cohorts, devices, data)
        seconds = estimate_seconds(cohorts, devices, data)
        print(f"time       about {_duration(seconds)} by a measured step of each model, evaluation included")
        print("nothing was started or written (--dry-run)")
        return 0

    def _print_plan(
        self, name: str, configs: list[TrialConfig], cohorts: list[list[TrialConfig]], devices: Devices, data: Any
    ) -> None:
        print(f"sweep      {name}: {describe_plan(configs)}")
        print(
            f"images     {len(data.train)} to train, {len(data.test)} for {data.held_out}, {_shape(data.image_shape)}"
        )
        sizes = sorted({len(c) for c in cohorts})
        sizes_text = f"of {sizes[0]}" if len(sizes) == 1 else f"of {sizes[0]} to {sizes[-1]}"
        print(f"trials     {len(cohorts)} cohorts {sizes_text} members, on {devices}")
        print(f"tracking   {shown(self.uri)}")
        print(f"storage    {self.storage / name}")

    def _train(self, name: str, asked: list[TrialConfig] | None) -> int:
        from sweeps.lock import hold_lock
        from sweeps.tracking import SweepTracking, check_uri, default_artifact_root

        # More GPUs than exist is said before anything is made. A private Ray takes longer to start, so it comes last.
        devices = self._connect() if self.args.address else None
        if devices is None:
            self._devices()
        data = None if asked is None else self._load_data(asked[0])
        check_storage(self.storage)
        check_uri(self.uri)
        folder = self.storage / name
        if asked is None and not folder.exists():  # no folder is made for a name that is not there
            SweepTracking.open(name, self.uri, artifact_root=None, create=False).close("KILLED", patience_seconds=0)
        with hold_lock(folder, name):
            artifact_root = default_artifact_root(self.storage)
            tracking = SweepTracking.open(name, self.uri, artifact_root=artifact_root, create=asked is not None)
            before = tracking.status if tracking.plan else "FAILED"
            self.name = name
            try:
                stored = tracking.plan
                if stored is None and asked is None:
                    raise UsageError(
                        f"--resume {name}: that sweep holds no plan; start it again with --name {name} and its flags"
                    )
                configs = asked or []
                if stored is not None:
                    configs = expand(stored) if asked is None else extended_plan(stored, asked, name)
                data = data or self._load_data(configs[0])
                if stored is not None and stored.get("data_fingerprint") != data.fingerprint:
                    raise UsageError(
                        f"the sweep {name} was trained on other images under the same name {configs[0].dataset} "
                        f"(fingerprint {stored.get('data_fingerprint')}, now {data.fingerprint}); choose another --name"
                    )
                return self._launch(name, configs, tracking, folder, data, devices)
            except BaseException as error:
                stopped = isinstance(error, KeyboardInterrupt)
                tracking.close("KILLED" if stopped else before, patience_seconds=5)
                raise

    def _launch(
        self, name: str, configs: list[TrialConfig], tracking: Any, folder: Path, data: Any, devices: Devices | None
    ) -> int:
        from fishernet.training import DIVERGED
        from sweeps import launch
        from sweeps.progress import Progress
        from sweeps.trial import find_checkpoints

        runs = tracking.runs()
        finished = {c for c in configs if c in runs and runs[c].status == "FINISHED"}
        diverged = {c: r.reason for c, r in runs.items() if r.status == "FAILED" and r.reason.startswith(DIVERGED)}
        missing = [c for c in configs if c not in finished and c not in diverged]
        if not missing:
            ended = f"{len(finished)} runs are finished" + (f" and {len(diverged)} diverged" if diverged else "")
            print(f"sweep      {name}: all {ended}; nothing to train")
            self._describe(name, configs, tracking, data)
            return self._conclude(name, configs, diverged, tracking, interrupted=False)
        checkpoints = find_checkpoints(folder / "ray")
        devices = devices or self._connect()
        jobs = _jobs(missing, checkpoints, devices, self.args.cohort_size, data.train[0].numel())
        self._print_plan(name, configs, [list(job.members) for job in jobs], devices, data)
        if not devices.gpus:
            print("device     training on the CPU" + ("" if self.args.gpus == 0 else ", as no GPU was found"))
        if finished or diverged or any(job.checkpoints for job in jobs):
            ended = f"{len(finished)} runs are finished" + (f", {len(diverged)} diverged" if diverged else "")
            n_continued = sum(bool(job.checkpoints) for job in jobs)
            print(f"resuming   {ended}; {len(missing)} to train, {n_continued} cohorts from checkpoints")
        self._describe(name, configs, tracking, data)
        n_epochs = sum(c.epochs for job in jobs for c in job.members)
        with Progress(sum(len(job.members) for job in jobs), n_epochs, data.held_out) as progress:
            tracking.say = progress.say
            outcome = launch.launch(
                jobs, devices=devices, tracking=tracking, folder=folder, data_dir=self.args.data_dir,
                checkpoint_every=self.args.checkpoint_every, progress=progress, finished=finished,
            )  # fmt: skip
        if outcome.error:
            print(f"Ray stopped: {outcome.error}", file=sys.stderr)
        failures = {**diverged, **outcome.failed}
        ended_all = not outcome.error and not any(not r.startswith(DIVERGED) for r in outcome.failed.values())
        status = self._conclude(
            name, configs, failures, tracking, interrupted=outcome.interrupted, resumable=not ended_all
        )
        if status in (0, 1) and ended_all and not tracking.backlog and not tracking.refused:
            launch.remove_checkpoints(folder)
        return status

    def _describe(self, name: str, configs: list[TrialConfig], tracking: Any, data: Any) -> None:
        from fishernet.evaluation import pca_test_mse

        plan = {**compact(configs), "data_fingerprint": data.fingerprint, "held_out": data.held_out}
        command = shlex.join([*_program(), *(shown(word) for word in self.argv)])
        note = f"{describe_plan(configs)}\n\n    {command}\n"
        tracking.describe(plan, plan["base"], command, note)
        floors = pca_test_mse(data.train, data.test, sorted({c.latent_dim for c in configs}))
        tracking.log_parent_metrics([("pca/test_mse", mse, d) for d, mse in floors.items()])

    def _conclude(
        self, name: str, configs: list[TrialConfig], failures: dict[TrialConfig, str], tracking: Any, *,
        interrupted: bool, resumable: bool = False,
    ) -> int:  # fmt: skip
        """Close the books, print table, failures, how to look and how to go on; returns the exit status."""
        if tracking.backlog:
            print(f"writing {tracking.backlog} records to MLflow", file=sys.stderr)
        patience = 60 if interrupted else 600  # seconds for a tracking server that is away
        if tracking.flush(patience) and self._draw(name):
            tracking.log_parent_artifacts(self.storage / name / "figures")  # seen in MLflow without a chart to set up
        written = tracking.close(
            "KILLED" if interrupted else "FAILED" if failures or resumable else "FINISHED", patience
        )
        written = written and not tracking.refused
        if failures:
            print(f"{len(failures)} of {len(configs)} runs failed:")
            for config, reason in failures.items():
                print(f"  {config.run_name}: {reason}")
        print(f"look at the runs: {self._ui_command()}")
        if interrupted or resumable or not written:
            print(f"{'interrupted; ' if interrupted else ''}resume with: {self._resume_command(name)}")
        return 130 if interrupted else int(bool(failures) or resumable or not written)

    def _draw(self, name: str) -> bool:
        """Print table and figures of what is finished; false where nothing is."""
        from analysis.frame import AnalysisError
        from analysis.mse_curves import report

        print()
        try:
            report(name, self.uri, self.storage / name / "figures")
        except AnalysisError as error:
            print(f"no figure: {error}\n")
            return False
        print()
        return True

    def _ui_command(self) -> str:
        if self.uri.startswith("http"):
            return f"{shown(self.uri)} in a browser"
        words = [_python(), "-m", "mlflow", "ui", "--backend-store-uri", shown(self.uri)]
        return f"http://127.0.0.1:5000 in a browser, after\n  {shlex.join(words)}"

    def how_to_go_on(self) -> str:
        return f"; resume with: {self._resume_command(self.name)}" if self.name else " before anything was started"

    def _resume_command(self, name: str) -> str:
        words = [*_program(), "--resume", name]
        if self.storage != Path(DEFAULT_STORAGE).resolve():
            words += ["--storage-path", str(self.storage)]
        for flag, default in (
            ("tracking_uri", None), ("gpus", None), ("gpus_per_trial", 1.0), ("cpus_per_trial", 1), ("cohort_size", "auto"),
            ("address", None), ("data_dir", None), ("checkpoint_every", 1),
        ):  # fmt: skip
            if (value := getattr(self.args, flag)) != default:
                words += [f"--{flag.replace('_', '-')}", shown(str(value))]
        return shlex.join(words)


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


def check_storage(storage: Path) -> None:
    """Raises UsageError where --storage-path is no folder that can be made and written to."""
    try:
        storage.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--storage-path {storage} cannot be made a folder: {error.strerror}") from None
    if not os.access(storage, os.W_OK):
        raise UsageError(f"--storage-path {storage} cannot be written to")


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _python() -> str:
    """The running Python as one would type it here."""
    return _typed(Path(sys.executable))


def _program() -> list[str]:
    """The command itself as one would type it here."""
    if Path(sys.argv[0]).name == "fishernet-sweep":
        return [_typed(Path(sys.argv[0]).absolute())]
    return [_python(), _typed(Path(__file__).resolve())]


def _typed(path: Path) -> str:
    """Relative where it is below the current folder."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _shape(shape: tuple[int, int, int]) -> str:
    return f"{shape[1]}x{shape[2]} {'grey' if shape[0] == 1 else 'colour'}"


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes:.0f} minutes" if minutes < 120 else f"{hours:.1f} hours"


if __name__ == "__main__":
    sys.exit(main())
