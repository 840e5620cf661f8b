"""Links that are down or slow for a while: flows stall and go on, and shares stay max-min fair at every change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise, takewhile
from random import Random
from typing import Any

import pytest
from oracles.jobs import Times, chain, done, job, mean_and_error

from distsim.backends.simulated import SimulatedOptions, simulate
from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.network import Network
from distsim.interface import Checkpoint, Failure, Outage, Strategy, Switch, T, Worker
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


# ---- by rate

BY_RATE = Outage(None, 3.0, mtbf=10.0)


@dataclass(frozen=True)
class OneMessage(Strategy):
    """Rank 0 sends its parameters to rank 1; or nobody sends, and both wait."""

    is_sent: bool = True

    async def run(self, worker: Worker[T]) -> None:
        for _ in worker.steps():
            if self.is_sent and worker.rank == 0:
                await worker.send(worker.read(), 1)
            else:
                await worker.receive(1 - worker.rank)


def test_how_long_a_cable_is_whole_before_an_outage() -> None:
    spans = list(islice(BY_RATE.spans(7, "host1"), 4000))
    whole = [begin - before for (_, before), (begin, _) in zip([(0.0, 0.0), *spans], spans, strict=False)]
    mean, _ = mean_and_error(whole)
    assert abs(mean - 10.0) <= 3.0 * 10.0 / math.sqrt(4000)  # exponential: the deviation is the mean
    assert {round(end - begin, 6) for begin, end in spans} == {3.0}
    assert spans[:9] == list(islice(BY_RATE.spans(7, "host1"), 9))
    assert spans[0] != next(BY_RATE.spans(7, "host2")) != next(BY_RATE.spans(8, "host2"))


def test_a_transfer_is_late_by_the_outages_of_the_time_that_it_takes() -> None:
    """50,000 bytes at 1,000 a second: 50 s, in which a cable that is whole for 10 s on average fails a Poisson number of
    times of mean 5, and is down for 3 s each."""
    sent = job(OneMessage(), 2, 1, Times(), NETWORK, chain(50))
    assert done(sent).seconds == pytest.approx(50.0)
    late = []
    for seed in range(300):
        spans = BY_RATE.spans(seed, "host1 by host1 0")
        seconds = 50.0
        for begin, end in spans:
            if begin >= seconds:
                break
            seconds += end - begin
        found = done(replace(sent, seed=seed, failure=Failure(links={"host1": (BY_RATE,)}))).seconds
        assert found == pytest.approx(seconds, rel=1e-12)
        late.append(found - 50.0)
    mean, _ = mean_and_error(late)
    assert abs(mean - 5 * 3.0) <= 3.0 * 3.0 * math.sqrt(5 / 300)


def test_each_cable_fails_by_itself_and_both_of_its_directions_at_once() -> None:
    """Rank 0's and rank 1's cables both carry the message: it stands still while either is down."""
    sent = job(OneMessage(), 2, 1, Times(), NETWORK, chain(50))
    downs = [list(takewhile(lambda span: span[0] < 500.0, BY_RATE.spans(5, f"host{h} by all 0"))) for h in (0, 1)]
    edges = sorted({0.0, *(time for spans in downs for span in spans for time in span)})
    left, expected = 50.0, math.nan
    for begin, end in pairwise(edges):
        if not any(down <= begin < up for spans in downs for down, up in spans):
            if end - begin >= left:
                expected = begin + left
                break
            left -= end - begin
    outcome = done(replace(sent, seed=5, failure=Failure(links={"all": (BY_RATE,)})))
    assert outcome.seconds == pytest.approx(expected, rel=1e-12)
    check_conservation(outcome.traces)


@pytest.mark.parametrize(
    "more", [{}, {"mtbf": 40.0, "restart": 1.0}, {"mtbf": 40.0, "on_loss": "continue", "restart": 1.0}]
)
def test_who_waits_in_vain_is_found_although_links_fail_for_ever(more: dict[str, Any]) -> None:
    strategy: Strategy = OneMessage(is_sent=False) if more.get("on_loss") != "continue" else Silent()
    waits = job(strategy, 2, 1, Times(), NETWORK)
    links = {"all": (BY_RATE, Outage(None, 50.0, mtbf=1.0)), "host0": (Outage(2.0, 30.0),)}
    outcome = simulate(replace(waits, failure=Failure(links=links, **more)))
    assert outcome.status == "deadlocked"
    assert "rank 0 waits for" in outcome.message


class Silent(AllReduce):
    """Nobody sends."""

    async def run(self, worker: Worker[T]) -> None:
        for _ in worker.steps():
            await worker.receive(1 - worker.rank)


def test_what_is_held_up_is_no_deadlock() -> None:
    """The message stands still for 60 s in which nothing else happens but failures of links, and goes on."""
    sent = job(OneMessage(), 2, 1, Times(), NETWORK, chain(2))
    links = {"host1": (Outage(1.0, 60.0),), "host0": (Outage(None, 1.0, 0.5, mtbf=2.0),)}
    assert done(replace(sent, failure=Failure(links=links))).seconds > 61.0
