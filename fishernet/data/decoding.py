"""Image files decoded by several processes into one file of pixels; ``python -m fishernet.data.decoding`` is one of these.

Processes and not threads, as half of the time is Python's own; programs of their own, so that a script that loads images needs
no guard round its main part.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from fishernet.data import DataError
from fishernet.data.fitting import Fit
from fishernet.data.folders import decode
from fishernet.provenance import usable_cpus

AT_ONCE = 500  # images in a process's memory
FEWEST = 2000  # images for a process of its own: below it would take longer to start than to decode
REFUSED = 3  # exit status of a process whose images cannot be used; the sentence is on standard output


def decode_into(target: Path, paths: Sequence[Path], fit: Fit, n_processes: int = 0) -> None:
    """Write the images as uint8 (n_images, channels, height, width) to an .npy file, whole or not at all.

    The bytes do not depend on ``n_processes``; 0 is one for each core and FEWEST images. Raises DataError, of several damaged
    images for the first, and where images differ in size or colour.
    """
    (first,), _ = decode([paths[0]], fit)
    n = n_processes or min(usable_cpus(), len(paths) // FEWEST) or 1
    with _partial(target) as partial:
        np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(paths), *first.shape)).flush()
        edges = [len(paths) * i // n for i in range(n + 1)]
        shares = [(start, paths[start:stop]) for start, stop in pairwise(edges) if start < stop]
        if len(shares) == 1:
            decode_share(partial, 0, paths, fit)
        else:
            _in_processes(partial, shares, fit)


def decode_share(file: Path, start: int, paths: Sequence[Path], fit: Fit) -> None:
    """Decode these images into the file's places from ``start`` on; raises DataError."""
    whole = np.load(file, mmap_mode="r+")
    for i in range(0, len(paths), AT_ONCE):
        own = paths[i : i + AT_ONCE]
        pixels, _ = decode(list(own), fit)
        if pixels.shape[1:] != whole.shape[1:]:
            raise DataError(
                f"{own[0]} and those after it have the shape {pixels.shape[1:]}, the first image {whole.shape[1:]} (channels, "
                "height, width); the images of a data set have one. Unpack them again."
            )
        whole[start + i : start + i + len(own)] = pixels
    whole.flush()


def _in_processes(file: Path, shares: Sequence[tuple[int, Sequence[Path]]], fit: Fit) -> None:
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))}
    command = [sys.executable, "-P", "-m", "fishernet.data.decoding"]
    started: list[subprocess.Popen[str]] = []
    try:
        for _ in shares:  # all of them first: a long list of paths waits until its reader has imported what it needs
            process = subprocess.Popen(  # the paths and nothing else, from ourselves
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            started.append(process)
        for process, (start, paths) in zip(started, shares, strict=True):
            job = {"file": str(file), "start": start, "paths": [str(path) for path in paths], "fit": list(fit)}
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it died; its status says so
                process.stdin.write(json.dumps(job))
                process.stdin.close()
        for process in started:
            assert process.stdout is not None
            assert process.stderr is not None
            said, trouble = process.stdout.read(), process.stderr.read()
            status = process.wait()
            if status == REFUSED:
                raise DataError(said.strip())
            if status:
                last = (trouble.strip().splitlines() or ["killed, perhaps for want of memory"])[-1]
                raise DataError(f"a process that decodes images ended with status {status}: {last}. Try again.")
    finally:
        for process in started:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(OSError, AttributeError):
                    stream.close()  # type: ignore[union-attr]


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """A file beside the target, which it becomes at the end of the block and is removed where that raises."""
    try:
        number, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=".npy")
    except OSError as error:
        raise DataError(
            f"{target.parent} is where decoded images are kept, and cannot be written to: {error}."
        ) from None
    os.close(number)
    try:
        yield Path(name)
        Path(name).replace(target)
    except OSError as error:
        raise DataError(f"{target}, where decoded images are kept, cannot be written: {error}.") from None
    finally:
        Path(name).unlink(missing_ok=True)


def main() -> int:
    """Decode the share that standard input describes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    job = json.load(sys.stdin)
    try:
        decode_share(Path(job["file"]), job["start"], [Path(path) for path in job["paths"]], Fit(*job["fit"]))
    except DataError as error:
        print(error)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
