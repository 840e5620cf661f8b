"""Injected stragglers: an idle wait of (factor - 1) x the calibrated seconds of an operation."""

from __future__ import annotations

import json
import time

import pytest
from contract.kit import SWITCH, Program
from contract.tiny import DEVICE

from distsim.backends.real.fabric import Real, Sleeper
from distsim.backends.real.transport.devices import HostDevice
from distsim.backends.simulated.fabric import SimulatedFabric, SimulatedOptions, Simulation
from distsim.interface import Batch, Cluster, Cost, Curve, Episodes, Lengths, Loopback, Measured, Straggler
from real.faults import job, run

FAST = Measured({key: Curve(((0.0, curve(1.0) / 100.0),)) for key, curve in DEVICE.table.items()}, DEVICE.fallback)
"""The contract's device, 100 times faster: a gradient of two blocks takes .06 s."""


def ran(main, folder, straggler):
    """The traces of two ranks, and their notes."""
    made = job(Program(main, str(folder)), folder, cluster=Cluster(2, 0, FAST, SWITCH), straggler=straggler)
    outcome = run(made, folder)
    assert outcome.status == "done", outcome.message
    return outcome.traces, [dict(json.loads((folder / f"notes-{rank}.json").read_text())) for rank in (0, 1)]


async def one_gradient(worker, note):
    used = time.process_time()
    await worker.gradient(Batch(0, worker.rank, worker.world_size))
    note("cpu", time.process_time() - used)


def test_a_slow_worker_waits_idle_and_the_others_do_not(tmp_path):
    traces, notes = ran(one_gradient, tmp_path, Straggler(slow={1: 5.0, 0: 0.5}))
    spans = [trace.compute[0].ended - trace.compute[0].begun for trace in traces]
    assert spans[1] >= 4 * 0.06 > spans[0]
    assert notes[1]["cpu"] < 4 * 0.06


def test_a_slow_worker_that_burns_uses_the_cpu(tmp_path):
    """4 x .06 s more of it, whatever else the machine does; half a percent is what clocks may differ by."""
    _, notes = ran(one_gradient, tmp_path, Straggler(slow={1: 5.0}, burn=True))
    assert notes[1]["cpu"] >= 0.995 * 4 * 0.06 > notes[0]["cpu"]


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
    _, notes = ran(until_told, tmp_path, Straggler(slow={1: 67.0}))
    assert notes[1]["gradient"] is None
    assert notes[1]["took"] < 0.66 + 0.66 + 1.32


DISTURBED = Straggler(
    "shifted_exponential",
    scales_with_work=False,
    work_seconds=0.1,
    slow={0: 0.9, 1: 1.5},
    lengths=Lengths(0.5),
    episodes=Episodes(share=0.5, mean_seconds=0.3, factor=3.0),
)
"""Every part by step, by worker, by the clock, and delays."""
GRADIENT = Cost((("forward", 0), ("forward", 1), ("backward", 1), ("backward", 0)), 4.0)
"""The whole model's, .06 s on `FAST`."""
CREDIT = 0.1
"""Seconds that a rank may sleep less than it owes, once it has slept too long."""


async def four_steps_of_two_halves(worker, note):
    for step in range(4):
        for part in range(2):
            await worker.gradient(Batch(step, part, 2))


def test_ranks_wait_as_the_steps_the_workers_and_the_clock_say(tmp_path):
    traces, _ = ran(four_steps_of_two_halves, tmp_path, DISTURBED)
    for trace in traces:
        timeline = DISTURBED.episodes.timeline(0, trace.rank)
        spans = [record for record in trace.compute if record.name == "gradient"]
        assert [record.step for record in spans] == [0, 0, 1, 1, 2, 2, 3, 3]
        waits = [DISTURBED.delay(0, trace.rank, step) for step in range(4)]
        for record in spans:
            factor = DISTURBED.factor(0, trace.rank, record.step) * timeline.factor(record.begun)
            waits.append(max(0.0, factor - 1.0) * 0.06)
        assert sum(record.ended - record.begun for record in spans) >= sum(waits) - CREDIT > 0.1


class Desk:
    """A clock that stands still but for those who move it, and a board that nobody reads."""

    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time

    def pass_by(self, seconds):
        self.time += seconds

    def enter(self, *what):
        return self.time

    def turn(self, state):
        pass

    def leave(self, begun):
        return self.time


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_waits_exactly_as_long_as_a_simulated_one(rank, tmp_path):
    """On a clock on which computing takes what the device says and sleeping what was asked for; on one machine."""
    update = Cost((("apply", 0),))
    operations = []
    for step in range(40):
        operations += [(GRADIENT, Batch(step, 0, 2)), (GRADIENT, Batch(step, 1, 2)), (update, None)]
    host = Loopback(cores=Curve(((1.0, 1.0),)), message=Curve(((0.0, 0.0),)), all_reduce={})
    made = job(Program(one_gradient, ""), tmp_path, cluster=Cluster(2, 0, FAST, host), straggler=DISTURBED)
    desk = Desk()
    real = Real(rank, made, desk, HostDevice(), lambda error: None)
    real._sleeper = Sleeper(desk.pass_by, desk.now)
    found = []
    for cost, batch in operations:
        seconds = FAST.seconds(made.model, cost)
        found.append(real.compute(cost, lambda stop, seconds=seconds: desk.pass_by(seconds), batch, None))
    simulation = Simulation(made, SimulatedOptions())
    simulated = SimulatedFabric(simulation, rank)
    queued = [simulated.compute(cost, lambda stop: None, batch, None) for cost, batch in operations]
    simulation.engine.env.run()
    assert [handle.ended for handle in found] == pytest.approx([handle.ended for handle in queued], rel=1e-9)
    assert len({round(handle.ended - handle.begun, 6) for handle in found}) > 60


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
