"""Links that are down or slow for a while: flows stall and go on, and shares stay max-min fair at every change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from oracles.jobs import Times, chain, done, job

from distsim.backends.simulated import SimulatedOptions
from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.network import Network
from distsim.interface import Checkpoint, Failure, Outage, Switch
from distsim.results.conservation import check_conservation
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.parameter_server import SyncPS

from .reference_network import ReferenceNetwork


def ends(network_of: Any, capacities: Sequence[float], flows: Any, changes: Any) -> list[float]:
    """When each of the flows (start, path, bytes, latency) is over, where (time, {link: capacity}) are changes."""
    engine = Engine()
    network = network_of(engine, capacities)
    over = [math.nan] * len(flows)

    def start(i: int, path: Sequence[int], nbytes: float, latency: float) -> None:
        network.start(path, nbytes, latency, lambda: over.__setitem__(i, engine.now))

    for i, (begin, *flow) in enumerate(flows):
        engine.after(begin, lambda i=i, flow=flow: start(i, *flow))
    for time, change in changes:
        engine.after(time, lambda change=change: network.change(change))
    engine.env.run()
    assert abs(network.unaccounted()) <= 1e-12
    return over


@pytest.mark.parametrize(
    ("flows", "changes", "expected"),
    [
        ([(0.0, [0], 100.0, 0.0)], [(4.0, {0: 0.0}), (7.0, {0: 10.0})], [13.0]),  # down for 3 s
        ([(0.0, [0], 100.0, 0.0)], [(4.0, {0: 5.0}), (8.0, {0: 10.0})], [12.0]),  # at half for 4 s
        ([(0.0, [0], 100.0, 0.0)], [(4.0, {0: 30.0})], [6.0]),
        ([(5.0, [0], 100.0, 1.0)], [(4.0, {0: 0.0}), (7.0, {0: 10.0})], [17.0]),  # its latency is over before
        (
            [(5.0, [0], 0.0, 1.0), (8.0, [0], 0.0, 0.0)],
            [(4.0, {0: 0.0}), (7.0, {0: 10.0})],
            [7.0, 8.0],
        ),  # signals wait, too
        # while link 1 is down its flow takes nothing of link 0: the other has 10 instead of 5 for 3 s
        ([(0.0, [0, 1], 50.0, 0.0), (0.0, [0], 50.0, 0.0)], [(2.0, {1: 0.0}), (5.0, {1: 10.0})], [10.0, 7.0]),
        # at 1 on link 1 the flow is bottlenecked there, and leaves 9 of link 0
        ([(0.0, [0, 1], 20.0, 0.0), (0.0, [0], 100.0, 0.0)], [(2.0, {1: 1.0})], [12.0, 12.0]),
        ([(0.0, [0], 10.0, 0.0)], [(1.0, {0: 0.0})], [1.0]),  # it has just arrived
    ],
)
def test_by_hand(flows: Any, changes: Any, expected: list[float]) -> None:
    assert ends(Network, [10.0, 10.0], flows, changes) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("seed", range(60))
def test_like_filling_from_scratch(seed: int) -> None:
    random = Random(seed)
    links = random.randint(2, 7)
    capacities = [random.choice([1.0, 2.0, 5.0, 10.0]) for _ in range(links)]
    flows = [
        (random.uniform(0, 20), random.sample(range(links), random.randint(1, min(3, links))), random.uniform(1, 40), 0.25)
        for _ in range(random.randint(2, 30))
    ]
    changes = []
    for _ in range(random.randint(1, 6)):
        link, time = random.randrange(links), random.uniform(0, 30)
        share = random.choice([0.0, 0.0, 0.1, 0.5])
        changes += [(time, {link: capacities[link] * share}), (time + random.uniform(0.5, 9), {link: capacities[link]})]
    changes.append((40.0, dict(enumerate(capacities))))  # every link is up in the end
    found, expected = (ends(of, capacities, flows, changes) for of in (Network, ReferenceNetwork))
    assert found == pytest.approx(expected, rel=1e-9)


# ---- runs

NETWORK = Switch(1000.0, 0.0)  # 250 parameters of 4 bytes: a second from one host to another


def test_an_all_reduce_waits_for_a_link_that_is_down() -> None:
    """Two ranks, compute 1 s, then a ring of two rounds of 500 bytes: 0.5 s each. Down from 1.25 s for 3 s: 2 + 3."""
    a_run = job(AllReduce(), 2, 1, Times(forward=1.0), NETWORK)
    assert done(a_run).seconds == pytest.approx(2.0)
    for cable in ("host0", "all"):
        failure = Failure(links={cable: (Outage(1.25, 3.0),)})
        assert done(replace(a_run, failure=failure)).seconds == pytest.approx(5.0)
    half = Failure(links={"host1": (Outage(0.0, 100.0, 0.5),)})
    assert done(replace(a_run, failure=half)).seconds == pytest.approx(3.0)
    twice = Failure(links={"host1": (Outage(0.0, 100.0, 0.5),), "all": (Outage(0.5, 9.0, 0.5),)})  # shares multiply
    assert done(replace(a_run, failure=twice)).seconds == pytest.approx(5.0)


def test_an_outage_goes_on_in_the_next_incarnation() -> None:
    """Rank 1 is lost at 1.5 s, half a second into the ring; at 2.5 s all begin anew, computing until 3.5 s. The link is
    down from 1 s to 6 s, so the ring ends at 7 s."""
    a_run = job(AllReduce(), 2, 1, Times(forward=1.0), NETWORK)
    failure = Failure(ranks={1: (1.5,)}, restart=1.0, links={"host0": (Outage(1.0, 5.0),)})
    outcome = done(replace(a_run, failure=failure))
    assert outcome.seconds == pytest.approx(7.0)
    check_conservation(outcome.traces)


def test_bytes_are_conserved_through_outages_and_losses() -> None:
    """Not that it takes longer: of transfers that share a link some end sooner while one waits (Graham's anomalies)."""
    for strategy in (AllReduce(), SyncPS()):
        a_run = job(strategy, 3, 4, Times(1.0, 1.0), NETWORK, chain(2))
        for at in (0.0, 2.1, 5.0):
            links = {"host1": (Outage(at, 2.0), Outage(at + 1.0, 4.0, 0.3)), "all": (Outage(9.0, 1.0),)}
            outcome = done(replace(a_run, failure=Failure(ranks={0: (7.7,)}, restart=1.0, links=links)))
            check_conservation(outcome.traces)


def test_no_outage_is_none() -> None:
    a_run = job(AllReduce(), 3, 4, Times(1.0, 1.0), NETWORK, chain(2))
    undisturbed = done(a_run, SimulatedOptions(algorithm="ring", collectives="flows"))
    late = replace(a_run, failure=Failure(links={"host1": (Outage(1e6, 2.0),)}, checkpoint=Checkpoint()))
    assert done(late).seconds == undisturbed.seconds
