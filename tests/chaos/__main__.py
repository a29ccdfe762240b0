"""Faults of sweeps on one machine, with real processes and real kills: ``python -m tests.chaos --repetitions 10``.

Trains one sweep undisturbed, and then the same runs once more under each fault, at random moments. Afterwards every run must be
FINISHED and there once, with the undisturbed sweep's numbers in every epoch and its weights, bit for bit, and no process,
checkpoint or temporary file may be left. Prints a table; exit status 1 where something was not so. Needs root for the full
disk (a tmpfs is mounted) and the package libfaketime for the clock; what cannot be had is said and left out.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

from tests.chaos.faults import ALONE, FAULTS
from tests.chaos.place import Place, Unavailable
from tests.chaos.sweep import Alone, Sweep, processes_of


def main() -> NoReturn:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10, metavar="N", help="of each fault (default: 10)")
    parser.add_argument("--only", default="", metavar="REGEX", help="faults whose name this is found in (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and choices (default: 0)")
    parser.add_argument("--jobs", type=int, default=3, metavar="N", help="faults tried at the same time (default: 3)")
    parser.add_argument(
        "--undisturbed", type=Path, metavar="FOLDER",
        help="where the undisturbed sweeps are kept for later calls; made where it is missing",
    )  # fmt: skip
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & has the sweeps ignore it otherwise
    chosen = {name: fault for name, fault in FAULTS.items() if re.search(args.only, name)}
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    outcomes: dict[str, list[str]] = {}
    seconds: dict[type[Sweep], float] = {}
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    def tried(number: int, name: str, fault: Callable[[Place, int], None]) -> None:
        of = outcomes[name] = []
        kind = Alone if name.startswith(ALONE) else Sweep
        place = Place(folder / str(number), undisturbed, seconds[kind], random.Random(f"{args.seed}/{name}"), of, kind)
        place.folder.mkdir()
        say(f"{name}: begins")
        try:
            fault(place, args.repetitions)
        except Unavailable as error:
            say(f"{name}: left out, as {error}")
        except Exception:
            of.append(traceback.format_exc())
        for problem in dict.fromkeys(filter(None, of)):
            say(f"{name}: {of.count(problem)} failed: {problem}")
        say(f"{name}: {of.count('')} of {len(of)} as undisturbed")
        if not any(of):
            shutil.rmtree(place.folder, ignore_errors=True)

    try:
        kept = (args.undisturbed or folder / "undisturbed").absolute()
        usual, timed = Sweep(kept / "usual"), kept / "seconds"
        undisturbed = Sweep(kept / "all", seeds=max(8, 3 * -(-args.repetitions // 2)), pause=0)
        if not timed.exists():
            usual.finish()
            timed.write_text(str(time.monotonic() - began))
        if not undisturbed.planned():
            undisturbed.finish()
        seconds[Sweep] = float(timed.read_text())
        started = time.monotonic()
        alone = Alone(folder / "alone")
        alone.finish()
        seconds[Alone] = time.monotonic() - started
        for sweep in (usual, alone, undisturbed):
            sweep.check(undisturbed)
        say(
            f"undisturbed: {len(undisturbed.runs())} runs; a sweep of {len(usual.runs())} took {seconds[Sweep]:.0f} s, "
            f"and without Ray {seconds[Alone]:.0f} s"
        )
        list(ThreadPoolExecutor(args.jobs).map(lambda item: tried(item[0], *item[1]), enumerate(chosen.items())))
    except BaseException:
        traceback.print_exc()
        outcomes.setdefault("not all was tried", []).append("see above")
    for pid in processes_of(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    failed = any(any(of) for of in outcomes.values())
    if failed:
        print(f"what failed is kept in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n| fault | repetitions | as undisturbed |\n|---|---|---|")
    for name, of in outcomes.items():
        print(f"| {name} | {len(of)} | {of.count('')} |")
    sys.stdout.flush()
    os._exit(failed)  # not waiting for what still goes on


if __name__ == "__main__":
    main()
