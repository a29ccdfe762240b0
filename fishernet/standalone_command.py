"""Train a plan on one device without Ray or MLflow: ``python -m fishernet --plan plan.json --out records``."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError

from fishernet.data import DataError
from fishernet.flags import Parser, checkpoint_interval
from fishernet.plan import PlanError, SweepPlan
from fishernet.surroundings import entry_point


def make_parser() -> Parser:
    """Of ``fishernet train``."""
    parser = Parser(
        name="train",
        description="Train every trial config of a plan on one device, with torch and numpy alone. Writes one record folder "
        "per run; the same command again continues where it stopped. `fishernet import` takes the records into MLflow.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--plan",
        type=Path,
        required=True,
        help="JSON: a list of trial configs (fishernet sweep --write-plan)",
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
    return parser


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 all runs finished, 1 some failed, 2 bad usage, 130 interrupted."""
    parser = make_parser()
    args = parser.parse_args(argv)
    for flag in ("cohort_size", "threads"):
        if getattr(args, flag) < 0:
            parser.error(f"--{flag.replace('_', '-')} is a count; got {getattr(args, flag)}")
    try:
        plan = SweepPlan.read(args.plan)
        from fishernet.standalone import train_plan  # here, as torch takes seconds to import

        return train_plan(
            plan, args.out, data_dir=args.data_dir, device=args.device, threads=args.threads, cohort_size=args.cohort_size,
            checkpoint_every=args.checkpoint_every,
            command=shlex.join(["python", "-m", "fishernet", *(sys.argv[1:] if argv is None else argv)]),
        )  # fmt: skip
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
