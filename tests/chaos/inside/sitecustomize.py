"""Put on PYTHONPATH, this changes training inside a sweep's own processes, as the environment asks.

CHAOS_PAUSE: seconds by which each epoch is drawn out, so that faults fall between epochs and cost no CPU.
CHAOS_FULL: from a random epoch on, drawn from this seed, more than two members are out of memory at an epoch's end.
CHAOS_DIVERGE: at a random epoch one member of each cohort has its weights replaced by NaN.
"""

import os
import sys
import time


class _Training:
    def find_spec(self, name, path=None, target=None):
        if name != "fishernet.training":
            return None
        import importlib.util

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.train_epoch = _disturbed(module.train_epoch, module.torch)

        spec.loader.exec_module = exec_module
        return spec


def _disturbed(train_epoch, torch):
    import random

    pause, full, diverge = (os.environ.get(f"CHAOS_{word}") for word in ("PAUSE", "FULL", "DIVERGE"))

    def disturbed(cohort, *arguments):
        drawn = random.Random(f"{full or diverge}/{cohort.configs[0].run_name}")  # same in every process
        epoch, member = drawn.randint(2, cohort.config.epochs - 1), drawn.randrange(len(cohort))
        if diverge and cohort.epoch + 1 == epoch:
            with torch.no_grad():
                for parameter in cohort.model.parameters():
                    parameter[member].fill_(float("nan"))
        losses = train_epoch(cohort, *arguments)
        time.sleep(float(pause or 0))
        if full and len(cohort) > 2 and cohort.epoch >= epoch:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return losses

    return disturbed


def _sleep(seconds):
    import select

    select.select([], [], [], seconds)


if "FAKETIME_TIMESTAMP_FILE" in os.environ:
    time.sleep = _sleep  # Python's own sleeps until a time of the monotonic clock, which libfaketime refuses (EINVAL)
if any(name.startswith("CHAOS_") for name in os.environ):
    sys.meta_path.insert(0, _Training())
