"""The same command again, after kill -9 of everything; and real losses against those of the modeled run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from distsim import api

ROOT = Path(__file__).parent.parent.parent
SETTINGS = {
    "backend": "real",
    "backend.device": "cpu",
    "cluster.workers": 2,
    "workload.width": 32,
    "optimizer.momentum": 0.9,
    "budget.updates": 200,
    "checkpoint.every": 10,
    "evaluation.samples": 3200,
}


def command(folder: Path, settings: dict[str, Any]) -> list[str]:
    words = [f"{key}={value}" for key, value in settings.items()]
    return [sys.executable, "-m", "distsim.cli", "run", f"runs={folder}", *words]


def children(pid: int) -> list[int]:
    """Of a process, theirs, too."""
    try:
        own = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*own, *(grandchild for child in own for grandchild in children(child))]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["all_reduce", "sync_ps"])
def test_the_same_command_after_kill_9_of_everything(strategy: str, tmp_path: Path) -> None:
    settings = {"strategy": strategy, **SETTINGS}
    whole = api.run(runs=str(tmp_path / "whole"), **settings)
    assert whole.status == "done"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = command(tmp_path / "cut", settings)
    started = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 240
    while not list((tmp_path / "cut").glob("*/checkpoints/*20/manifest.json")):
        assert started.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    for pid in [started.pid, *children(started.pid)]:
        os.kill(pid, signal.SIGKILL)
    started.wait()
    assert not list((tmp_path / "cut").glob("*/summary.json"))
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    (folder,) = (path.parent for path in (tmp_path / "cut").glob("*/summary.json"))
    resumed = api.load(folder)
    (note,) = [note for note in resumed.summary["notes"] if note.startswith("resumed at update ")]
    assert int(note.removeprefix("resumed at update ")) >= 20
    assert note in ended.stderr.splitlines()
    for key in ("updates", "samples", "final_loss", "final_accuracy"):
        assert resumed.summary[key] == whole.summary[key]
    assert [(point["update"], point["loss"]) for point in resumed.summary["curve"]] == [
        (point["update"], point["loss"]) for point in whole.summary["curve"]
    ]
    for path in sorted(whole.folder.glob("checkpoints/*/*.state")):  # of the last two: to the last bit
        ours = torch.load(folder / path.relative_to(whole.folder), weights_only=True)
        assert equal(torch.load(path, weights_only=True), ours)


def equal(expected: Any, found: Any) -> bool:
    if isinstance(expected, torch.Tensor):
        return torch.equal(expected, found)
    if isinstance(expected, dict):
        return expected.keys() == found.keys() and all(equal(expected[key], found[key]) for key in expected)
    if isinstance(expected, (list, tuple)):
        return len(expected) == len(found) and all(map(equal, expected, found))
    return bool(expected == found)


DELAYS = {
    "straggler": "exponential",
    "straggler.scales_with_work": False,
    "straggler.work_seconds": "20ms",
    "budget.updates": 60,
    "failure.ranks": {1: [0.3]},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ("all_reduce", {"failure.restart": 0.2, "failure.on_loss": "restart", "checkpoint.every": 5}),
        ("sync_ps", {"failure.restart": 0.2, "checkpoint.every": 5}),
        ("async_ps", {"failure.restart": 1000, "cluster.workers": 3, "budget.updates": 200}),
    ],
)
def test_a_real_run_loses_what_the_modeled_one_said(strategy: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """A delay of 20 ms a step makes both longer than the 0.3 s after which rank 1 is lost. Counts, not times."""
    found = []
    for backend in ("modeled", "real"):
        choice = {"strategy": strategy, **SETTINGS, "checkpoint.every": None, **DELAYS, **settings, "backend": backend}
        if backend == "modeled":
            del choice["backend.device"]
        result = api.run(runs=str(tmp_path), **choice)
        assert result.status == "done", result.summary["message"]
        traces, losses = result.trace(), result.summary["losses"]
        undone = max(each.updates for trace in traces for each in trace.interruptions)
        assert undone <= 5 + 1  # of a rank that has ended the update that another has not
        counts = {key: losses[key] for key in ("failures", "restarts", "checkpoints")}
        away = [[each.resumed == float("inf") for each in trace.interruptions] for trace in traces]
        found.append((counts, away, [[update.number for update in trace.updates] for trace in traces]))
    assert found[0] == found[1]
