"""Ranks of one process compute with one thread: on busy cores torch's threads wait for each other ten times longer."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
