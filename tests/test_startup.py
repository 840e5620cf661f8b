"""What starting costs, in CPU time of a process of its own. Limits are those promised, with room for a slow machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOFLINE = ["cluster=switch", "cluster.device=roofline", "cluster.flops=50Gflop/s", "cluster.memory_bandwidth=10GB/s"]
HEAVY = ("torch", "numpy", "pandas", "plotly")

SCRIPT = """
import json, resource, sys
from distsim.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([code, used.ru_utime + used.ru_stime, sorted(m for m in sys.modules if "." not in m)]))
"""


def start(words: list[str], folder: Path) -> tuple[int, float, list[str]]:
    """Exit code, CPU seconds and top-level modules of `distsim words`, interpreter included."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], cwd=folder, capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    code, seconds, modules = json.loads(done.stdout.splitlines()[-1])
    return code, seconds, modules


def test_help_is_cheap(tmp_path: Path) -> None:
    code, seconds, modules = start(["--help"], tmp_path)
    assert code == 0
    assert not {"hydra", "omegaconf", "simpy", *HEAVY} & set(modules)
    assert seconds < 2 * 0.15


def test_a_modeled_run_loads_nothing_heavy(tmp_path: Path) -> None:
    code, seconds, modules = start(["run", "strategy=async_ps", "budget.updates=1", *ROOFLINE], tmp_path)
    assert code == 0
    assert not set(HEAVY) & set(modules)
    assert seconds < 2 * 0.6


@pytest.mark.parametrize("what", ["strategies", "workloads", "clusters"])
def test_a_list_loads_nothing_heavy(what: str, tmp_path: Path) -> None:
    code, seconds, modules = start(["list", what], tmp_path)
    assert code == 0
    assert not {"simpy", *HEAVY} & set(modules)
    assert seconds < 2 * 0.3


def test_a_drawn_strategy_loads_nothing_heavy(tmp_path: Path) -> None:
    code, seconds, modules = start(["explain", "sync_ps"], tmp_path)
    assert code == 0
    assert not set(HEAVY) & set(modules)
    assert seconds < 2 * 0.6


def test_importing_distsim_is_free(tmp_path: Path) -> None:
    script = "import sys, distsim; print([m for m in sys.modules if m.startswith('distsim')])"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['distsim']"
