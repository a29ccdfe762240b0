"""One thread a process: pytest-xdist runs as many processes as there are cores, and OpenMP's threads wait by spinning."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; processes that tests start inherit it
