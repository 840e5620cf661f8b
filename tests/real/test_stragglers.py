"""Injected stragglers: an idle wait of (factor - 1) x the calibrated seconds of an operation."""

from __future__ import annotations

import json
import time

from contract.kit import SWITCH, Program
from contract.tiny import DEVICE

from distsim.backends.real.fabric import Sleeper
from distsim.interface import Batch, Cluster, Curve, Measured, Straggler
from real.faults import job, run

FAST = Measured({key: Curve(((0.0, curve(1.0) / 100.0),)) for key, curve in DEVICE.table.items()}, DEVICE.fallback)
"""The contract's device, 100 times faster: a gradient of two blocks takes .06 s."""


def ran(main, folder, slow):
    """The traces of two ranks, and their notes."""
    made = job(Program(main, str(folder)), folder, cluster=Cluster(2, 0, FAST, SWITCH), straggler=Straggler(slow=slow))
    outcome = run(made, folder)
    assert outcome.status == "done", outcome.message
    return outcome.traces, [dict(json.loads((folder / f"notes-{rank}.json").read_text())) for rank in (0, 1)]


async def one_gradient(worker, note):
    used = time.process_time()
    await worker.gradient(Batch(0, worker.rank, worker.world_size))
    note("cpu", time.process_time() - used)


def test_a_slow_worker_waits_idle_and_the_others_do_not(tmp_path):
    traces, notes = ran(one_gradient, tmp_path, slow={1: 5.0, 0: 0.5})
    spans = [trace.compute[0].ended - trace.compute[0].begun for trace in traces]
    assert spans[1] >= 4 * 0.06 > spans[0]
    assert notes[1]["cpu"] < 4 * 0.06


async def until_told(worker, note):
    if worker.rank == 0:
        await worker.receive(1, "started")
        await worker.send(None, 1, "notice")
    else:
        notice = worker.receive(0, "notice")
        await worker.send(None, 0, "started")
        begun = worker.now
        note("gradient", await worker.gradient(Batch(0), unless=notice))
        note("took", worker.now - begun)
        await notice


def test_the_wait_is_cut_short_between_blocks(tmp_path):
    """Of waits of .66, .66, 1.32 and 1.32 s at least the last is saved."""
    _, notes = ran(until_told, tmp_path, slow={1: 67.0})
    assert notes[1]["gradient"] is None
    assert notes[1]["took"] < 0.66 + 0.66 + 1.32


def test_what_a_sleep_took_too_long_is_a_credit():
    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(round(seconds, 6))
        now[0] += seconds + late

    late = 0.001
    sleeper = Sleeper(sleep, lambda: now[0])
    sleeper.owe(0.0001)
    assert slept == []  # saved up
    sleeper.owe(0.0001)
    assert slept == [0.0002]
    sleeper.owe(0.01)
    sleeper.owe(0.01)
    assert slept == [0.0002, 0.009, 0.009]
    late = 5.0  # suspended
    sleeper.owe(0.01)
    late = 0.0
    sleeper.owe(0.15)
    assert slept[-2:] == [0.009, 0.05]
