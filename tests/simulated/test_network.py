"""The fluid network by hand: fair rates, and when flows end."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.network import Network, _Flow, fill


def rates(paths, capacities):
    flows = [_Flow(path, 1.0, lambda: None) for path in paths]
    fill(flows, capacities)
    return [flow.rate for flow in flows]


@pytest.mark.parametrize(
    ("paths", "capacities", "expected"),
    [
        ([[0]], [10.0], [10.0]),
        ([[0], [0]], [10.0], [5.0, 5.0]),
        ([[0, 1], [0]], [10.0, 2.0], [2.0, 8.0]),
        ([[0], [0, 1], [1]], [10.0, 4.0], [8.0, 2.0, 2.0]),
        ([[0, 1, 2], [0], [1], [2]], [1.0, 2.0, 3.0], [0.5, 0.5, 1.5, 2.5]),  # a parking lot
        ([[0, 1], [0, 1], [0], [1]], [6.0, 3.0], [1.0, 1.0, 4.0, 1.0]),  # a bottleneck that two share
        ([[0, 1], [1, 2], [2, 0]], [2.0, 2.0, 2.0], [1.0, 1.0, 1.0]),
        ([[0], [0], [0]], [1.0], [1.0 / 3.0] * 3),
        ([[0], [1]], [math.inf, 5.0], [math.inf, 5.0]),
        ([], [1.0], []),
    ],
)
def test_rates_are_max_min_fair(paths, capacities, expected):
    assert rates(paths, capacities) == expected


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_link_is_over_capacity_and_every_flow_has_a_bottleneck(data):
    capacities = data.draw(st.lists(st.floats(0.1, 1e9), min_size=1, max_size=6))
    links = st.lists(st.integers(0, len(capacities) - 1), min_size=1, max_size=4, unique=True)
    paths = data.draw(st.lists(links, min_size=1, max_size=10))
    found = rates(paths, capacities)
    on = {link: [rate for rate, path in zip(found, paths, strict=True) if link in path] for link in range(len(capacities))}
    for link, members in on.items():
        assert sum(members) <= capacities[link] * (1.0 + 1e-9)
    for rate, path in zip(found, paths, strict=True):
        assert rate > 0.0
        assert any(  # a saturated link on which nobody is faster
            sum(on[link]) >= capacities[link] * (1.0 - 1e-9) and rate >= max(on[link]) * (1.0 - 1e-9) for link in path
        )


def ends(capacities, flows):
    """When each of the flows (start, path, bytes, latency) is over, and the network's worst loss of bytes on the way."""
    engine = Engine()
    network = Network(engine, capacities)
    done, losses = [None] * len(flows), []

    def over(i):
        done[i] = engine.now
        losses.append(abs(network.unaccounted()))

    for i, (begin, *flow) in enumerate(flows):
        engine.after(begin, lambda i=i, flow=flow: network.start(*flow, lambda: over(i)))
    engine.env.run()
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
    ],
)
def test_flows_end_when_their_bytes_have_moved(flows, expected):
    done, lost = ends([10.0, 2.0], flows)
    assert done == expected
    assert lost <= 1e-12


@pytest.mark.parametrize("late", [1e4, 1e6, 1e9])
def test_late_in_a_long_run_time_goes_on(late):
    flows = [(late, [0], 0.001, 0.0), (late + 0.3, [0], 1.0, 0.0), (late + 0.3, [0, 1], 0.7, 0.0)]
    done, lost = ends([10.0, 2.0], flows)
    assert done == pytest.approx([late + 1e-4, late + 0.425, late + 0.65], rel=1e-15)
    assert lost <= 1e-7
