"""Strategies of other packages: chosen by name like the built-in ones, once their entry point is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOFLINE = ["cluster=switch", "cluster.device=roofline", "cluster.flops=50Gflop/s", "cluster.memory_bandwidth=10GB/s"]
STRATEGY = '''
from dataclasses import dataclass
from distsim.interface import Batch, Strategy, T, Worker

@dataclass(frozen=True)
class Lonely(Strategy):
    """Nobody ever talks."""

    steps_between_bytes: float = 1e3

    async def run(self, worker: Worker[T]) -> None:
        for step in worker.steps():
            await worker.apply(await worker.gradient(Batch(step, worker.rank, worker.world_size)))
'''


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder that holds an installed package with a strategy."""
    (tmp_path / "elsewhere.py").write_text(STRATEGY)
    info = tmp_path / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[distsim.strategies]\nlonely = elsewhere:Lonely\n")
    return tmp_path


def distsim(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "distsim.cli", *words]
    return subprocess.run(command, cwd=installed, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)


def test_it_is_listed_run_swept_and_named_by_its_source(installed: Path) -> None:
    assert "\n\nlonely\n    Nobody ever talks.\n\n" in distsim(installed, "list", "strategies").stdout
    words = ["strategy=lonely", "strategy.steps_between_bytes=1kB", "budget.updates=2", *ROOFLINE]
    first = distsim(installed, "run", *words)
    assert (first.returncode, first.stderr) == (0, "")
    again = distsim(installed, "run", "-m", *words)
    assert (again.returncode, again.stderr) == (0, "1 runs, 1 of them stored before\n")
    (installed / "elsewhere.py").write_text(STRATEGY + "# changed\n")
    changed = distsim(installed, "run", *words)
    assert changed.returncode == 0
    assert changed.stdout.splitlines()[1] != first.stdout.splitlines()[1]


def test_it_is_suggested(installed: Path) -> None:
    refused = distsim(installed, "run", "strategy=lonly")
    assert refused.returncode == 2
    assert refused.stderr.endswith("lonely; did you mean lonely?\n")
