"""All tests of this folder need Slurm; where it is missing they are skipped, with the reason."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.cluster import Slurm, missing


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    if why := missing():
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: that of a socket has 107 bytes
    with Slurm(folder) as cluster:
        yield cluster
    shutil.rmtree(folder)
