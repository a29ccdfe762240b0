"""Train a plan on one device without Ray or MLflow: ``python -m fishernet --plan plan.json --out records``."""

if __name__ == "__main__":  # ahead of the imports, in which Ctrl-C would be a traceback
    from fishernet.interrupts import exit_at_once

    exit_at_once()

import argparse
import functools
import json
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fishernet import interrupts
from fishernet.config import TrialConfig
from fishernet.data import DataError
from fishernet.flags import Parser, checkpoint_interval
from fishernet.plan import PlanError, read_plan, stackable
from fishernet.surroundings import entry_point


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 all runs finished, 1 some failed, 2 bad usage, 130 interrupted."""
    parser = Parser(
        prog="python -m fishernet",
        description="Train every trial config of a plan on one device, with torch and numpy alone. Writes one record folder "
        "per run; the same command again continues where it stopped. sweeps/import_records.py takes the records into MLflow.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--plan",
        type=Path,
        required=True,
        help="JSON: a list of trial configs (latent_sweep.py --write-plan)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the records")
    parser.add_argument(
        "--data-dir", type=os.path.expanduser, default=None, help="where the data sets are; else FISHERNET_DATA_DIR"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; auto takes the GPU when there is one")
    parser.add_argument(
        "--cohort-size", type=int, default=0, help="members trained in lockstep; 0: all on a GPU, 1 on a CPU"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice")
    parser.add_argument(
        "--checkpoint-every", type=checkpoint_interval, default="auto", metavar="N",
        help="epochs between checkpoints; auto writes them as often as takes 2%% of the time",
    )  # fmt: skip
    args = parser.parse_args(argv)
    for flag in ("cohort_size", "threads"):
        if getattr(args, flag) < 0:
            parser.error(f"--{flag.replace('_', '-')} is a count; got {getattr(args, flag)}")
    try:
        return run_plan(args, ["python", "-m", "fishernet", *(sys.argv[1:] if argv is None else argv)])
    except (PlanError, DataError) as error:
        where = f"--plan {args.plan}: " if isinstance(error, DataError) else ""
        print(f"error: {where}{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    except (OSError, SafetensorError) as error:  # a full disk, above all
        reason = getattr(error, "strerror", None) or error
        print(f"error: --out {args.out} cannot be written ({reason}); the same command continues", file=sys.stderr)
        return 1


def run_plan(args: argparse.Namespace, command: list[str]) -> int:
    configs = read_plan(args.plan)
    # Torch takes seconds to import, so it comes after what can be wrong without it.
    import torch

    from fishernet.data.loading import images_of
    from fishernet.pca import pca_test_mse
    from fishernet.plan import write_json
    from fishernet.provenance import machine, versions
    from fishernet.splitting import FittedCohort
    from fishernet.state import Pace

    device = _device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    first = configs[0]
    data = images_of(first, args.data_dir)
    interrupts.raise_keyboard_interrupt()
    try:
        (args.out / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlanError(f"--out {args.out} cannot be made a folder: {error.strerror}") from None
    plan: dict[str, Any] = {
        "configs": [c.to_dict() for c in configs],
        "pca_test_mse": pca_test_mse(data.train, data.test, sorted({c.latent_dim for c in configs})),
        "data_fingerprint": data.fingerprint,
        "held_out": data.held_out,
        "command": shlex.join(command),
        "versions": versions(),
        "machine": machine(),
    }
    recorded = {c: record for c in configs if (record := _recorded(args.out / c.run_name / "record.json"))}
    for config, record in recorded.items():
        if record["config"] != config.to_dict():
            differing = [k for k, v in config.to_dict().items() if record["config"].get(k) != v]
            raise PlanError(
                f"--out {args.out} holds {config.run_name} of another plan, which differs in {', '.join(differing)}; "
                "choose another folder"
            )
    _check_data(args.out, data.fingerprint)
    write_json(args.out / "plan.json", plan)
    size = args.cohort_size or (1 if device.type == "cpu" else len(configs))
    print(f"{len(configs)} runs, {len(recorded)} already recorded, on {device}; records in {args.out}")
    failures = sum(record["status"] == "failed" for record in recorded.values())
    for group in stackable(configs):
        for start in range(0, len(group), size):
            members = group[start : start + size]
            if all(c in recorded for c in members):
                continue
            # A cohort that was stopped amid writing its records goes on whole; else what is recorded is not trained again.
            if not (checkpoint := _checkpoint(args.out, members)).exists():
                members = [c for c in members if c not in recorded]
                checkpoint = _checkpoint(args.out, members)
            pace = Pace(args.checkpoint_every)
            cohort = FittedCohort(
                members, data, device, turn=args.checkpoint_every or 1, remedy="use a smaller batch_size in the plan",
                saved=functools.partial(_saved, members, checkpoint),
                say=lambda line: print(line, flush=True),
            )  # fmt: skip
            for records in cohort.train():
                if pace.due(cohort.epoch):
                    with pace:
                        cohort.save(checkpoint)
                for name, epochs in records.items():
                    for record in epochs:
                        mse = record["metrics"].get(f"{data.held_out}/mse", float("nan"))
                        print(
                            f"{name} epoch {record['epoch']}/{cohort.config.epochs} mse {mse:.5f} "
                            f"{record['metrics']['epoch_seconds']:.2f} s",
                            flush=True,
                        )
            for name, reason in cohort.failures.items():
                print(f"{name} failed: {reason}", file=sys.stderr)
            failures += len(cohort.failures)
            cohort.write_records(args.out)
            checkpoint.unlink(missing_ok=True)
    return 1 if failures else 0


def _device(asked: str) -> Any:
    """The torch.device asked for; raises PlanError where it is none that this machine has."""
    import torch

    try:
        device = torch.device(asked if asked != "auto" else "cuda" if torch.cuda.is_available() else "cpu")
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise PlanError(f"--device is cpu, cuda, cuda:N or auto; got {asked!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise PlanError(f"--device {asked}: torch finds no GPU; leave --device out to train on the CPU")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PlanError(f"--device {asked}: the GPUs here are cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    return device


def _check_data(out: Path, fingerprint: str) -> None:
    """Raises PlanError where the folder's records are of other images: the data set of that name has changed."""
    before = fingerprint
    with suppress(OSError, ValueError, KeyError, TypeError):  # none yet, or a damaged one, which is written anew
        before = json.loads((out / "plan.json").read_text(encoding="utf-8"))["data_fingerprint"]
    if before != fingerprint:
        raise PlanError(
            f"--out {out} was begun on other images: their fingerprint was {before}, and is {fingerprint} now; "
            "bring the old data back, or choose another folder"
        )


def _checkpoint(out: Path, members: Sequence[TrialConfig]) -> Path:
    return out / "checkpoints" / f"{members[0].run_name}-to-{members[-1].run_name}.safetensors"


def _recorded(path: Path) -> dict[str, Any] | None:
    """The record in the file, or where it is missing or damaged none."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record if record["config"] and record["status"] else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{path} is damaged ({error}); that run starts again")
        return None


def _saved(members: Sequence[TrialConfig], checkpoint: Path) -> Any:
    """The state in the file, or where it is missing or damaged the start."""
    from fishernet.state import CheckpointError, CohortState

    if checkpoint.exists():
        try:
            return CohortState.load(checkpoint, members)
        except CheckpointError as error:
            print(f"{error}; these runs start again")
    return CohortState(list(members))


if __name__ == "__main__":
    sys.exit(main())
