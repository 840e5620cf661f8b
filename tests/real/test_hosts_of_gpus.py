"""A host that waits for its GPU uses its CPU, as CUDA does by default, wherever a program is; a deadlock uses none."""

from __future__ import annotations

import time
from functools import partial
from importlib import import_module

import pytest
from contract.kit import REAL, Bench, block

from distsim.backends.real.watching.watch import Watch

start = import_module("distsim.backends.real.launch")  # its function has the same name
QUICK = {"hang_seconds": 1.0}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Ranks of which the launcher believes that they compute on GPUs."""
    monkeypatch.setattr(start, "Watch", lambda *given: Watch(*given[:-1], "cuda"))
    return Bench(REAL, tmp_path)


def working(seconds, then, *arguments):
    """What a copy does behind so much work of the GPU's."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    return then(*arguments)


async def sends_what_is_computed_for_long(worker, note):
    if worker.rank == 0:
        messages = worker._state.fabric._messages
        messages._pack = partial(working, 3.0, messages._pack)
        await worker.send(block(worker), 1)
    else:
        note("got", (await worker.receive(0)).payload)


def test_a_payload_that_takes_its_gpu_long_is_no_deadlock(bench):
    assert bench.run(sends_what_is_computed_for_long, options=QUICK).notes[1]["got"] == [[1.0, 2.0, 3.0, 4.0]]


async def both_receive(worker, note):
    await worker.receive(1 - worker.rank)


def test_a_deadlock_is_one(bench):
    ran = bench.run(both_receive, status="deadlocked", options=QUICK)
    assert ran.outcome.message.startswith("deadlock: nothing completed for")
