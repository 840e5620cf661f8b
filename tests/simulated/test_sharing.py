"""Rates are max-min fair: by hand, by the condition for it at any moment, and as filled from scratch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from heapq import heapify

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsim.backends.simulated import filling, sharing
from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.flows import Flow
from distsim.backends.simulated.network import Network
from distsim.backends.simulated.sharing import Sharing

from . import reference_network as reference
from .reference_network import ReferenceNetwork

CLOSE = 1e-9
INF = math.inf


class Shared:
    """Flows on links, by number, and a sharing that is told of them."""

    def __init__(self, capacities: Sequence[float]) -> None:
        self.capacities = capacities
        self.sharing = Sharing(capacities)
        self.flows: dict[int, Flow] = {}
        self.paths: dict[int, tuple[Sequence[int], float]] = {}
        self.started = 0

    def join(self, path: Sequence[int], limit: float = INF) -> None:
        flow = Flow([self.sharing.links[i] for i in path], 1.0, limit, lambda: None, self.started)
        self.flows[self.started], self.paths[self.started] = flow, (path, limit)
        self.sharing.join(flow)
        self.started += 1

    def leave(self, number: int) -> None:
        flow = self.flows.pop(number)
        del self.paths[number]
        group = flow.group
        group.flows = [entry for entry in group.flows if entry[2] is not flow]
        heapify(group.flows)
        self.sharing.leave(flow)

    def rates(self) -> list[float]:
        self.sharing.settle(0.0)
        return [flow.group.rate for flow in self.flows.values()]

    def check(self) -> None:
        """The condition for max-min fairness, from the rates alone."""
        rates = dict(zip(self.flows, self.rates(), strict=True))
        on: list[list[float]] = [[] for _ in self.capacities]
        for number, (path, _) in self.paths.items():
            for link in path:
                on[link].append(rates[number])
        for capacity, here in zip(self.capacities, on, strict=True):
            assert sum(here) <= capacity * (1.0 + CLOSE)
        for number, (path, limit) in self.paths.items():
            rate = rates[number]
            assert 0.0 < rate <= limit * (1.0 + CLOSE)
            assert rate >= limit * (1.0 - CLOSE) or any(
                sum(on[link]) >= self.capacities[link] * (1.0 - CLOSE) and rate >= max(on[link]) * (1.0 - CLOSE)
                for link in path
            )

    def check_what_is_kept(self) -> None:
        """What links and groups say of themselves, from the flows alone."""
        for number, link in enumerate(self.sharing.links):
            here = [self.flows[i].group for i, (path, _) in self.paths.items() for at in path if at == number]
            assert link.groups == Counter(here)
            assert link.count == len(here)
            for group in link.groups:
                assert (link in group.crossed) == (link.own is not None and link.own is not group)
                assert (link in group.tight) == link.is_tight
                assert link.own is not None or link.is_tight or group.bound <= link.capacity / link.count
        assert set(self.sharing.groups()) == {flow.group for flow in self.flows.values()}

    def compare(self) -> None:
        """The same rates from scratch."""
        filled = [reference.Flow(path, 1.0, lambda: None, limit) for path, limit in self.paths.values()]
        reference.fill(filled, self.capacities)
        assert self.rates() == pytest.approx([flow.rate for flow in filled], rel=CLOSE, abs=0.0)


HAND = [
    ([[0]], [10.0], [10.0]),
    ([[0], [0]], [10.0], [5.0, 5.0]),
    ([[0, 1], [0]], [10.0, 2.0], [2.0, 8.0]),
    ([[0], [0, 1], [1]], [10.0, 4.0], [8.0, 2.0, 2.0]),
    ([[0, 1, 2], [0], [1], [2]], [1.0, 2.0, 3.0], [0.5, 0.5, 1.5, 2.5]),  # a parking lot
    ([[0, 1], [0, 1], [0], [1]], [6.0, 3.0], [1.0, 1.0, 4.0, 1.0]),  # a bottleneck that two share
    ([[0, 1], [1, 2], [2, 0]], [2.0, 2.0, 2.0], [1.0, 1.0, 1.0]),
    ([[0], [0], [0]], [1.0], [1.0 / 3.0] * 3),
    ([[0, 0], [0]], [3.0], [1.0, 1.0]),  # a way that takes a link twice
    ([], [1.0], []),
]


@pytest.mark.parametrize(("paths", "capacities", "expected"), HAND)
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("backwards", [True, False])
def test_rates_are_max_min_fair(paths, capacities, expected, together, backwards):
    shared = Shared(capacities)
    for path in reversed(paths) if backwards else paths:
        shared.join(path)
        if not together:
            shared.rates()
    assert shared.rates() == pytest.approx(expected[::-1] if backwards else expected, rel=1e-15)


@pytest.mark.parametrize(
    ("flows", "capacities", "expected"),
    [
        ([([0], 3.0)], [10.0], [3.0]),
        ([([0], 30.0)], [10.0], [10.0]),
        ([([0], 3.0), ([0], INF)], [10.0], [3.0, 7.0]),
        ([([0], 3.0), ([0], 3.0), ([0], INF)], [10.0], [3.0, 3.0, 4.0]),
        ([([0], 3.0), ([0], 4.0), ([0], 5.0)], [9.0], [3.0, 3.0, 3.0]),
        ([([0], 2.0), ([0], 4.0), ([0], 5.0)], [9.0], [2.0, 3.5, 3.5]),
        ([([0, 1], 1.0), ([1], INF), ([0], INF)], [10.0, 3.0], [1.0, 2.0, 9.0]),
    ],
)
def test_a_limit_is_a_link_of_its_own(flows, capacities, expected):
    shared = Shared(capacities)
    for path, limit in flows:
        shared.join(path, limit)
        shared.check()
    assert shared.rates() == expected


def test_who_leaves_gives_way():
    # all by hand: links of 12, 6 and 2
    shared = Shared([12.0, 6.0, 2.0])
    shared.join([0])
    assert shared.rates() == [12.0]
    shared.join([0, 1])
    assert shared.rates() == [6.0, 6.0]
    shared.join([0, 1])
    assert shared.rates() == [6.0, 3.0, 3.0]
    shared.join([1, 2])
    assert shared.rates() == [8.0, 2.0, 2.0, 2.0]
    shared.join([2])
    assert shared.rates() == [7.0, 2.5, 2.5, 1.0, 1.0]
    shared.leave(0)
    assert shared.rates() == [2.5, 2.5, 1.0, 1.0]
    shared.leave(1)
    assert shared.rates() == [5.0, 1.0, 1.0]
    shared.leave(4)
    assert shared.rates() == [4.0, 2.0]
    shared.leave(2)
    assert shared.rates() == [2.0]
    shared.leave(3)
    assert shared.rates() == []
    assert not shared.sharing.groups()


def test_a_flow_that_is_dropped_before_it_has_a_rate_is_not_counted():
    shared = Shared([10.0, 6.0])
    shared.join([0])
    shared.join([0, 1])
    assert shared.sharing.drop(shared.flows.pop(1).done, 0.0) == 1.0
    del shared.paths[1]
    assert shared.rates() == [10.0]
    shared.check_what_is_kept()


ROUND = st.sampled_from([1.0, 2.0, 3.0, 4.0, 6.0, 12.0])
"""Capacities and limits that make many links full at once."""


@st.composite
def changes(draw):
    """Capacities, and batches of flows (path, limit) that come and, as numbers between 0 and 1, that go."""
    capacity = draw(st.sampled_from([ROUND, st.floats(0.5, 50.0)]))
    capacities = draw(st.lists(capacity, min_size=1, max_size=8))
    path = st.lists(st.integers(0, len(capacities) - 1), min_size=1, max_size=4, unique=True)
    limit = st.just(INF) if draw(st.booleans()) else st.one_of(st.just(INF), ROUND, st.floats(0.05, 10.0))
    batch = st.lists(st.one_of(st.tuples(path, limit), st.floats(0.0, 1.0, exclude_max=True)), max_size=8)
    return capacities, draw(st.lists(batch, min_size=1, max_size=12))


@settings(max_examples=250, deadline=None)
@given(changes())
def test_after_any_change_rates_are_max_min_fair_and_those_from_scratch(drawn):
    capacities, batches = drawn
    shared = Shared(capacities)
    for batch in batches:
        old = list(shared.flows)
        for change in batch:
            if isinstance(change, float):
                if old:
                    shared.leave(old.pop(int(change * len(old))))
            else:
                shared.join(*change)
        shared.check()
        shared.check_what_is_kept()
        shared.compare()


# ---- only what is affected


@pytest.fixture
def filled(monkeypatch):
    """The flows, by order of start, of each time that bottlenecks were looked for flow by flow."""
    calls: list[list[int]] = []

    def spy(flows, left):
        calls.append(sorted(flow.order for flow in flows))
        return filling.fill(flows, left)

    monkeypatch.setattr(sharing, "fill", spy)
    return calls


def test_into_one_link_flows_come_and_go_without_a_look_at_others(filled):
    shared = Shared([10.0] * 100 + [8.0])
    for sender in range(100):
        shared.join([sender, 100])
        assert shared.rates() == pytest.approx([8.0 / (sender + 1)] * (sender + 1))
    for sender in range(0, 99, 2):
        shared.leave(sender)
        shared.join([sender, 100])
        assert shared.rates() == pytest.approx([0.08] * 100)
    for left in range(99, 0, -1):
        shared.leave(next(iter(shared.flows)))
        assert shared.rates() == pytest.approx([8.0 / left] * left)
    assert not filled


@pytest.mark.parametrize("first", [0, 1])
def test_of_links_that_are_alike_one_is_taken_that_has_been_a_bottleneck_before(filled, first):
    # A flow alone on its sender's link and on the server's may have its bottleneck on either. A second one tells.
    shared = Shared([1.0] * 5)
    for sender in range(2):
        shared.join([sender, 4])
        shared.rates()
    shared.leave(0)
    shared.leave(1)
    del filled[:]
    for sender in range(4):
        shared.join([4, sender] if sender % 2 == first else [sender, 4])
        assert shared.rates() == pytest.approx([1.0 / (sender + 1)] * (sender + 1))
    assert not filled


def test_a_slow_link_of_its_own_and_limits_stay_out_of_it(filled):
    shared = Shared([10.0] * 9 + [0.5, 10.0])
    shared.join([9, 10])
    shared.join([8, 10], 1.0)
    for sender in range(8):
        shared.join([sender, 10])
        others = sender + 1
        if others > 1:
            assert shared.rates() == pytest.approx([0.5, min(1.0, 9.5 / (others + 1))] + [8.5 / others] * others)
    del filled[:]
    shared.leave(0)
    assert shared.rates() == pytest.approx([1.0] + [9.0 / 8] * 8)
    shared.leave(5)
    assert shared.rates() == pytest.approx([1.0] + [9.0 / 7] * 7)
    assert not filled


def test_a_slower_group_changes_those_whose_bottleneck_it_goes_over(filled):
    # a leaf's up-link of 3 for flows 0 to 2, of which 0 goes on to the link of 20 that flows 3 to 5 fill
    shared = Shared([3.0, 20.0, 50.0])
    for path in [[0, 1], [0, 2], [0, 2], [1, 2], [1], [1]]:
        shared.join(path)
    assert shared.rates() == pytest.approx([1.0, 1.0, 1.0, 19 / 3, 19 / 3, 19 / 3])
    del filled[:]
    shared.leave(1)
    assert shared.rates() == pytest.approx([1.5, 1.5, 18.5 / 3, 18.5 / 3, 18.5 / 3])
    shared.join([0])
    assert shared.rates() == pytest.approx([1.0, 1.0, 19 / 3, 19 / 3, 19 / 3, 1.0])
    assert not filled


def test_where_bottlenecks_move_only_what_is_affected_is_filled(filled):
    shared = Shared([10.0, 4.0, 10.0, 9.0])
    shared.join([0])
    shared.join([2])
    shared.join([2, 3])
    shared.join([3])
    assert shared.rates() == pytest.approx([10.0, 5.5, 4.5, 4.5])
    del filled[:]
    shared.join([0, 1])
    assert shared.rates() == pytest.approx([6.0, 5.5, 4.5, 4.5, 4.0])
    shared.join([1])
    assert shared.rates() == pytest.approx([8.0, 5.5, 4.5, 4.5, 2.0, 2.0])
    assert {flow for call in filled for flow in call} <= {0, 4, 5}
    del filled[:]
    shared.leave(3)
    assert shared.rates() == pytest.approx([8.0, 5.0, 5.0, 2.0, 2.0])
    assert {flow for call in filled for flow in call} <= {1, 2}


def test_a_bound_from_before_is_looked_at_again_and_nothing_else(filled):
    # Two flows on a link of 10; one goes on over a link of 12, of which for a while an equal share is 6.
    shared = Shared([10.0, 12.0, 1.0])
    shared.join([0, 1])
    shared.join([0])
    assert shared.rates() == pytest.approx([5.0, 5.0])
    shared.join([1, 2])
    assert shared.rates() == pytest.approx([5.0, 5.0, 1.0])
    shared.leave(2)
    assert shared.rates() == pytest.approx([5.0, 5.0])
    shared.leave(1)
    assert shared.rates() == pytest.approx([10.0])
    assert not filled


def test_a_link_that_is_nearly_full_is_only_looked_at(filled):
    # 20 and 1 on a link of 24: one is faster than an equal share of it, and it is not full.
    shared = Shared([20.0, 24.0, 1.0])
    shared.join([0, 1])
    assert shared.rates() == [20.0]
    shared.join([1, 2])
    assert shared.rates() == pytest.approx([20.0, 1.0])
    shared.join([0], 1.0)
    assert shared.rates() == pytest.approx([19.0, 1.0, 1.0])
    shared.join([0])
    assert shared.rates() == pytest.approx([9.5, 1.0, 1.0, 9.5])
    shared.leave(3)
    assert shared.rates() == pytest.approx([19.0, 1.0, 1.0])
    assert not filled


@pytest.mark.parametrize("unit", [1.0, 2.0**-10])
def test_a_group_may_be_as_fast_as_its_link_gets(filled, unit):
    # The flow over both links has 2 of the first, and leaves 2 of the second: equal is not faster.
    shared = Shared([4.0 * unit, 4.0 * unit])
    for path in ([0], [0, 1], [1]):
        shared.join(path)
    assert shared.rates() == pytest.approx([2.0 * unit, 2.0 * unit, 2.0 * unit])
    shared.join([0])
    assert shared.rates() == pytest.approx([4 / 3 * unit, 4 / 3 * unit, 8 / 3 * unit, 4 / 3 * unit])
    del filled[:]
    shared.leave(3)
    assert shared.rates() == pytest.approx([2.0 * unit, 2.0 * unit, 2.0 * unit])
    assert not filled


# ---- in time


def ends(network_class, capacities, flows):
    """When the flows (start, path, bytes, latency, limit) end."""
    engine = Engine()
    network = network_class(engine, capacities)
    done = [math.nan] * len(flows)

    def start(i, path, nbytes, latency, limit):
        network.start(path, nbytes, latency, lambda: done.__setitem__(i, engine.now), limit)

    for i, (begin, *flow) in enumerate(flows):
        engine.after(begin, lambda i=i, flow=flow: start(i, *flow))
    engine.env.run()
    assert abs(network.unaccounted()) <= 1e-12
    return done


def same(expected):
    """As these, if all are some 0.01 s or later: what is 1e-12 s apart is one instant, again and again."""
    return pytest.approx(expected, rel=CLOSE, abs=0.0)


@st.composite
def scenarios(draw):
    """Capacities and flows; times and sizes such that nothing ends before 0.01 s."""
    capacities = draw(st.lists(st.sampled_from([1.0, 2.0, 5.0, 7.3, 11.9]), min_size=1, max_size=6))
    path = st.lists(st.integers(0, len(capacities) - 1), min_size=1, max_size=4, unique=True).map(tuple)
    start = draw(st.sampled_from([st.just(0.0), st.integers(0, 4).map(float), st.floats(0.0, 5.0)]))
    nbytes = draw(st.sampled_from([st.just(2.0), st.integers(1, 5).map(float), st.floats(0.5, 20.0)]))
    latency = st.sampled_from([0.0, 0.25, 1.0])
    limit = st.sampled_from([INF, INF, 0.4, 3.0])
    return capacities, draw(st.lists(st.tuples(start, path, nbytes, latency, limit), min_size=1, max_size=25))


@settings(max_examples=150, deadline=None)
@given(scenarios())
def test_flows_end_when_they_would_if_all_were_filled_at_every_change(drawn):
    assert ends(Network, *drawn) == same(ends(ReferenceNetwork, *drawn))


@settings(max_examples=60, deadline=None)
@given(scenarios(), st.sampled_from([0.125, 3.0, 1e4]))
def test_all_times_and_sizes_times_c_end_c_times_as_late(drawn, c):
    capacities, flows = drawn
    scaled = [(c * start, path, c * nbytes, c * latency, limit) for start, path, nbytes, latency, limit in flows]
    assert ends(Network, capacities, scaled) == same([c * end for end in ends(Network, capacities, flows)])


@settings(max_examples=60, deadline=None)
@given(scenarios(), st.sampled_from([0.125, 3.0, 1e4]))
def test_all_rates_and_sizes_times_c_change_nothing(drawn, c):
    capacities, flows = drawn
    scaled = [(start, path, c * nbytes, latency, c * limit) for start, path, nbytes, latency, limit in flows]
    assert ends(Network, [c * capacity for capacity in capacities], scaled) == same(ends(Network, capacities, flows))


@settings(max_examples=100, deadline=None)
@given(scenarios(), st.randoms(use_true_random=False))
def test_neither_the_order_of_flows_nor_the_numbers_of_links_matter(drawn, random):
    capacities, flows = drawn
    links, order = list(range(len(capacities))), list(range(len(flows)))
    random.shuffle(links)
    random.shuffle(order)
    renumbered = [0.0] * len(links)
    for old, new in enumerate(links):
        renumbered[new] = capacities[old]
    shuffled = []
    for i in order:
        start, path, nbytes, latency, limit = flows[i]
        way = [links[link] for link in path]
        random.shuffle(way)
        shuffled.append((start, way, nbytes, latency, limit))
    expected = ends(Network, capacities, flows)
    assert ends(Network, renumbered, shuffled) == same([expected[i] for i in order])


@settings(max_examples=60, deadline=None)
@given(scenarios())
def test_two_links_in_series_are_one(drawn):
    capacities, flows = drawn
    doubled = [
        (start, [link + half for link in path for half in (0, len(capacities))], nbytes, latency, limit)
        for start, path, nbytes, latency, limit in flows
    ]
    assert ends(Network, capacities * 2, doubled) == same(ends(Network, capacities, flows))


@settings(max_examples=60, deadline=None)
@given(scenarios())
def test_a_limit_is_as_good_as_a_link_of_its_own(drawn):
    capacities, flows = drawn
    linked = [
        (start, [*path, len(capacities) + i], nbytes, latency, INF)
        for i, (start, path, nbytes, latency, _) in enumerate(flows)
    ]
    own = [min(limit, 1e3) for _, _, _, _, limit in flows]
    assert ends(Network, capacities + own, linked) == same(ends(Network, capacities, flows))
