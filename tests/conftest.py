"""One thread a process: pytest-xdist runs as many processes as there are cores, and OpenMP's threads wait by spinning."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; processes that tests start inherit it

TOGETHER = "tests/analysis/test_"  # files that share a trained and scored sweep, which is made once in a process
FIRST = ("tests/sweeps/test_latent_sweep.py", TOGETHER, "tests/sweeps/", "tests/fishernet/test_contract.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, lest one process waits for the other at the end."""
    items.sort(key=lambda item: [not item.nodeid.startswith(first) for first in FIRST])


def pytest_xdist_make_scheduler(config, log):
    """A file stays in one process, as its tests share a store; so do those that share more."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return TOGETHER if nodeid.startswith(TOGETHER) else nodeid.partition("::")[0]

    return ByFile(config, log)
