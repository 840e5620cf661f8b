"""The clock: delays that SimPy would take and must not."""

import math

import pytest

from distsim.backends.simulated.engine import Engine
from distsim.interface import Job, Roofline

from contract.kit import MODELED, Bench, block


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
