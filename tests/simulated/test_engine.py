"""The clock: delays that SimPy would take and must not."""

import math

import pytest
from contract.kit import MODELED, Bench, block

from distsim.backends.simulated.engine import Engine
from distsim.interface import Batch, Roofline


@pytest.mark.parametrize("delay", [math.nan, math.inf, -1.0, -1e-300])
def test_delays_are_finite_and_not_negative(delay):
    with pytest.raises(ValueError, match="delays are finite and not negative"):
        Engine().after(delay, lambda: None)


def test_ties_break_by_order_of_creation():
    engine, order = Engine(), []
    for name in "abc":
        engine.after(1.0, lambda name=name: order.append((name, engine.now)))
    engine.after(0.5, lambda: order.append(("first", engine.now)))
    engine.env.run()
    assert order == [("first", 0.5), ("a", 1.0), ("b", 1.0), ("c", 1.0)]


def test_the_end_of_an_instant_comes_after_all_that_is_due_at_it():
    engine, order = Engine(), []

    def now() -> None:
        engine.at_end_of_instant(lambda: order.append("end"))
        engine.after(0.0, lambda: order.append("due"))

    engine.after(1.0, now)
    engine.after(1.0, lambda: order.append("also due"))
    engine.env.run()
    assert order == ["also due", "due", "end"]


async def first_fails(worker, note):
    if worker.rank == 0:
        raise OSError("at once")
    try:
        await worker.receive(0)
    finally:
        note("ended", worker.rank)


async def last_fails(worker, note):
    try:
        await worker.receive(0) if worker.rank else await worker.compute("wait", lambda x: x, block(worker))
        raise TwoArguments("one", "two")
    finally:
        note("ended", worker.rank)


class TwoArguments(Exception):
    """An exception that cannot be made again from its `args`, as SimPy does."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def test_a_run_that_fails_leaves_no_flow_of_control_behind(tmp_path):
    ran = Bench(MODELED, tmp_path).run(first_fails, ranks=3, status="failed")
    assert ran.outcome.message.startswith("OSError: at once (rank 0, test_engine.py:")
    ran = Bench(MODELED, tmp_path).run(last_fails, ranks=3, status="failed")
    assert ran.outcome.message.startswith("TwoArguments: one and two (rank 0, test_engine.py:")
    assert ran.all("ended") == [[0], [1], [2]]


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1e9])
def test_a_device_of_impossible_times_fails_the_run(tmp_path, seconds):
    device = Roofline(1.0, 1.0, overhead=seconds)
    ran = Bench(MODELED, tmp_path).run(forward, ranks=1, device=device, status="failed")
    assert "delays are finite and not negative" in ran.outcome.message


async def forward(worker, note):
    await worker.forward(0, worker.input(Batch(0)), Batch(0))
