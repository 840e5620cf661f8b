"""The fluid network by hand: when flows end, and that no byte is lost."""

import math

import pytest

from distsim.backends.simulated import network
from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.network import Network

begin_anew = network._begin_anew


def ends(capacities, flows):
    """When each of the flows (start, path, bytes, latency[, limit]) is over, and the network's worst loss of bytes."""
    engine = Engine()
    network = Network(engine, capacities)
    done, losses = [None] * len(flows), []

    def over(i):
        done[i] = engine.now
        losses.append(abs(network.unaccounted()))

    def start(i, path, nbytes, latency, *limit):
        network.start(path, nbytes, latency, lambda: over(i), *limit)
        losses.append(abs(network.unaccounted()))

    for i, (begin, *flow) in enumerate(flows):
        engine.after(begin, lambda i=i, flow=flow: start(i, *flow))
    engine.env.run()
    losses.append(abs(network.unaccounted()))
    return done, max(losses)


@pytest.mark.parametrize(
    ("flows", "expected"),
    [
        ([(0.0, [0], 100.0, 0.0)], [10.0]),
        ([(0.0, [0], 100.0, 0.5)], [10.5]),
        ([(0.0, [0], 0.0, 0.5)], [0.5]),
        ([(0.0, [0], 0.0, 0.0)], [0.0]),
        ([(0.0, [0], 100.0, 0.0), (4.0, [0], 20.0, 0.0)], [12.0, 8.0]),
        ([(0.0, [0], 100.0, 0.0), (3.0, [0], 20.0, 1.0)], [12.0, 8.0]),  # latency takes no bandwidth
        ([(0.0, [0, 1], 10.0, 0.0), (0.0, [1], 10.0, 0.0), (0.0, [0], 90.0, 0.0)], [10.0, 10.0, 10.0]),
        ([(0.0, [0], 100.0, 0.0), (0.0, [1], 10.0, 0.0)], [10.0, 5.0]),
        # 2 and 8 until 5 s, when the link of 2 is free again: nothing changes for a flow that has 10 to itself
        ([(0.0, [0, 1], 10.0, 0.0), (0.0, [0], 90.0, 0.0)], [5.0, 10.0]),
        # the slow flow is slower still from 5 s, and leaves the fast one more: 8 x 5 + 9 x 10
        ([(0.0, [0, 1], 20.0, 0.0), (0.0, [0], 130.0, 0.0), (5.0, [1], 10.0, 0.0)], [15.0, 15.0, 15.0]),
        ([(0.0, [0], 100.0, 0.0), (0.0, [2], 7.0, 0.25)], [10.0, 0.25]),  # a link that is never full
        ([(0.0, [], 7.0, 0.25), (0.0, [2], 7.0, 0.0)], [0.25, 0.0]),
    ],
)
def test_flows_end_when_their_bytes_have_moved(flows, expected):
    done, lost = ends([10.0, 2.0, math.inf], flows)
    assert done == expected
    assert lost <= 1e-12


@pytest.mark.parametrize(
    ("flows", "expected"),
    [
        ([(0.0, [0], 100.0, 0.0, 4.0)], [25.0]),
        ([(0.0, [0], 100.0, 0.0, 40.0)], [10.0]),
        ([(0.0, [], 100.0, 1.0, 4.0), (0.0, [2], 8.0, 0.0, 4.0)], [26.0, 2.0]),
        ([(0.0, [0], 20.0, 0.0, 4.0), (0.0, [0], 30.0, 0.0)], [5.0, 5.0]),  # others have what is left
        # three have a third each until the one without a limit ends, at 3 s; then the others have 4
        ([(0.0, [0], 30.0, 0.0, 4.0)] * 2 + [(0.0, [0], 10.0, 0.0)], [8.0, 8.0, 3.0]),
        # 5 each; from 2 s a third with a limit of 1: 4.5 each; it ends at 4 s
        ([(0.0, [0], 100.0, 0.0, 9.0), (0.0, [0], 19.0, 0.0), (2.0, [0], 2.0, 0.0, 1.0)], [4.0 + 81.0 / 9.0, 4.0, 4.0]),
    ],
)
def test_no_flow_is_faster_than_its_limit(flows, expected):
    done, lost = ends([10.0, 2.0, math.inf], flows)
    assert done == pytest.approx(expected, rel=1e-14)
    assert lost <= 1e-12


@pytest.mark.parametrize("late", [1e4, 1e6, 1e9])
def test_late_in_a_long_run_time_goes_on(late):
    flows = [(late, [0], 0.001, 0.0), (late + 0.3, [0], 1.0, 0.0), (late + 0.3, [0, 1], 0.7, 0.0)]
    done, lost = ends([10.0, 2.0], flows)
    assert done == pytest.approx([late + 1e-4, late + 0.425, late + 0.65], rel=1e-15)
    assert lost <= 1e-7


def test_a_link_that_is_never_idle_still_tells_instants_apart():
    # 1e9 bytes/s for 9,990 s, then 3,997 flows: the last bit of 1e13 bytes moved, 2e-3, would take one 8e-9 s
    flows = [(0.0, [0], 1e13, 0.0)]
    flows += [(9990.0, [0], 1e6, 0.0) for _ in range(3996)]
    flows += [(9990.5, [0], 1e5 / 3.0, 0.0) for _ in range(3)]
    done, lost = ends([1e9], flows)
    assert done[-3:] == pytest.approx([9990.5 + 1e5 / 3.0 / 2.5e5] * 3, rel=0.0, abs=2e-11)
    assert lost <= 1e-12


@pytest.mark.parametrize(("begin", "nbytes", "times"), [(0.0, 1e12, 0), (0.0, 1e13, 1), (4100.0, 1e13, 0)])
def test_virtual_time_begins_anew_where_its_last_bit_is_worth_too_much_and_only_there(monkeypatch, begin, nbytes, times):
    # 1e9 bytes/s; when a tenth has moved, a second flow halves the rate: 2^50 windows of 1e-12 s at it are 5.6e11 bytes.
    # From 4,096 s on the window is four last bits of the time, 3.6e-12 s.
    begun = []
    monkeypatch.setattr(network, "_begin_anew", lambda group: begun.append(group.virtual) or begin_anew(group))
    done, lost = ends([1e9], [(begin, [0], nbytes, 0.0), (begin + nbytes / 1e10, [0], 1e6, 0.0)])
    assert done == pytest.approx([begin + nbytes / 1e9 + 1e-3, begin + nbytes / 1e10 + 2e-3], rel=1e-12)
    assert begun == [pytest.approx(nbytes / 10)] * times
    assert lost <= 1e-12


def test_equal_flows_end_in_the_order_in_which_they_began():
    engine, order = Engine(), []
    network = Network(engine, [1.0, 3.0, 3.0])
    for i, link in enumerate([1, 2, 1, 2, 2, 1]):
        network.start([link], 1.0, 0.5, lambda i=i: order.append((engine.now, i)))
    engine.env.run()
    assert order == [(1.5, i) for i in range(6)]


@pytest.mark.parametrize(
    ("flows", "expected"),
    [
        ([(0.0, [0], 1.0, 0.0), (0.0, [1], 1.0 + 5e-13, 0.0)], [1.0, 1.0]),  # on two links
        ([(0.0, [0], 1.0, 0.0), (0.0, [0], 1.0 + 5e-13, 0.0)], [2.0, 2.0]),  # on one
        ([(0.0, [0], 1.0, 0.0), (0.0, [1], 1.0 + 4e-12, 0.0)], [1.0, 1.0 + 4e-12]),
        ([(0.0, [0], 1.0, 0.0), (0.0, [0], 1.0 + 4e-12, 0.0)], [2.0, 2.0 + 4e-12]),
    ],
)
def test_flows_that_end_within_the_window_end_together(flows, expected):
    done, lost = ends([1.0, 1.0], flows)
    assert done == pytest.approx(expected, rel=0.0, abs=1e-15)
    assert lost <= 1e-12


@pytest.mark.parametrize("nbytes", [math.nan, math.inf, -1.0])
def test_a_size_is_finite_and_not_negative(nbytes):
    with pytest.raises(ValueError, match="sizes are finite"):
        Network(Engine(), [1.0]).start([0], nbytes, 0.0, lambda: None)


@pytest.mark.parametrize("limit", [math.nan, 0.0, -1.0])
def test_a_limit_is_positive(limit):
    with pytest.raises(ValueError, match="limits are positive"):
        Network(Engine(), [1.0]).start([0], 1.0, 0.0, lambda: None, limit)


@pytest.mark.parametrize(
    ("latency", "at", "expected"),
    [
        (0.0, 0.0, 10.0),  # at the instant at which it begins
        (0.0, 4.0, 12.0),  # both have moved 20 bytes
        (5.0, 3.0, 10.0),  # before its first byte
        (5.0, 5.0, 10.0),
        (5.0, 7.0, 11.0),  # 50 bytes alone and 10 of each; the other 40 alone
    ],
)
def test_a_flow_that_is_dropped_leaves_its_share_to_others(latency: float, at: float, expected: float) -> None:
    engine = Engine()
    network = Network(engine, [10.0])
    done: list[float] = []

    def dropped() -> None:
        raise AssertionError("it was dropped")

    network.start([0], 100.0, 0.0, lambda: done.append(engine.now))
    network.start([0], 100.0, latency, dropped)
    engine.after(at, lambda: done.append(-1.0) if not network.drop(dropped) else None)
    engine.env.run()
    assert done == [expected]
    assert not network.drop(dropped)
    assert abs(network.unaccounted()) <= 1e-12


def test_a_flow_of_no_bytes_that_waits_for_a_link_can_be_dropped() -> None:
    engine = Engine()
    network = Network(engine, [10.0])
    done: list[str] = []

    def first() -> None:
        done.append("first")

    network.change({0: 0.0})
    network.start([0], 0.0, 0.0, first)
    network.start([0], 0.0, 0.0, lambda: done.append("second"))
    engine.after(1.0, lambda: done.append("dropped" if network.drop(first) else "not there"))
    engine.after(2.0, lambda: network.change({0: 10.0}))
    engine.env.run()
    assert done == ["dropped", "second"]


def test_a_link_that_is_never_full_can_go_down_and_come_back() -> None:
    # Two paths are known to need no look at it; from 2 s to 5 s they do.
    engine = Engine()
    network = Network(engine, [math.inf, 10.0])
    done: list[float] = []

    def start() -> None:
        for path in ([0], [0, 1]):
            network.start(path, 20.0, 0.0, lambda: done.append(engine.now))

    start()
    assert done == [0.0]  # at once: nothing holds it
    engine.after(2.0, lambda: network.change({0: 0.0}))
    engine.after(3.0, start)
    engine.after(5.0, lambda: network.change({0: math.inf}))
    engine.after(8.0, start)
    engine.env.run()
    assert done == [0.0, 2.0, 5.0, 7.0, 8.0, 10.0]
    assert abs(network.unaccounted()) <= 1e-12


def test_a_flow_is_held_up_while_a_link_of_its_is_down() -> None:
    engine = Engine()
    network = Network(engine, [10.0])
    network.start([0], 30.0, 0.0, lambda: None)
    seen: list[bool] = []
    for time in (1.0, 3.0, 5.0):
        engine.after(time, lambda: seen.append(engine.is_held_up()))
    engine.after(2.0, lambda: network.change({0: 0.0}))
    engine.after(4.0, lambda: network.change({0: 10.0}))
    engine.env.run()
    assert seen == [False, True, False]
