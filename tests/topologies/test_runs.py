"""Whole runs: networks that are the same take the same times, whatever they are called; all end and conserve bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distsim.backends.simulated import simulate
from distsim.interface import (
    LV08,
    Budget,
    Cluster,
    Job,
    Outcome,
    Roofline,
    Straggler,
    Strategy,
    Switch,
    Topology,
    Transport,
)
from distsim.interface.model import Block, Model
from distsim.numerics.sizes import SizesFactory
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.parameter_server import AsyncPS, SyncPS
from distsim.strategies.pipeline import OneFOneB
from distsim.topologies import FatTree, FullyConnected, Graph, HalfDuplex, Link, Scaled, SwitchedNics, Torus, TwoLevel, ring

MODEL = Model(tuple(Block(i, "block", 500, 10, 10, 100.0, 100.0, 100.0) for i in range(4)), 4, 10, 4)
DEVICE = Roofline(1e3, 1e6)
B, L = 2e3, 0.01
STRATEGIES: list[Strategy] = [AllReduce(bucket_bytes=2e3), SyncPS(), AsyncPS(beside=True), OneFOneB(microbatches=4)]


def run(strategy: Strategy, network: Topology, **changes: object) -> Outcome:
    """Eight updates of four workers, one of them slow and all of them jittering."""
    servers = strategy.server_count(4)
    cluster = Cluster(4, servers, DEVICE, network, beside=strategy.servers_beside(), **changes)  # type: ignore[arg-type]
    straggler = Straggler(jitter="lognormal", slow={1: 1.5})
    outcome = simulate(Job(strategy, MODEL, cluster, Budget(updates=8), SizesFactory(MODEL, 4), straggler, 0))
    assert (outcome.status, outcome.message) == ("done", "")
    return outcome


STAR = Graph(tuple("abcde"), tuple(Link((host, "s"), B, L) for host in "abcde"))
IN_TWO = Graph(
    tuple("abcde"),
    tuple(link for host in "abcde" for link in (Link((host, f"{host}s"), B, L), Link((f"{host}s", "s"), B, 0.0))),
)
"""The same star, every cable in two pieces, of which one has no latency."""
SAME: list[tuple[str, Topology, Topology]] = [
    ("a star", Switch(B, L), STAR),
    ("cables in two pieces", Switch(B, L), IN_TWO),
    ("one leaf", Switch(B, L), FatTree(5, 2, B, B, L)),
    ("one node", Switch(B, L), TwoLevel(8, B, L, 1, 1.0, 9.0)),
    ("nodes of one device", Switch(B, L), TwoLevel(1, 1.0, 9.0, 1, B, L)),
    ("one card", Switch(B, L), SwitchedNics(B, L, 1)),
    ("leaves of one host", Switch(B, 2 * L), FatTree(1, 1, B, B, L)),
    ("a flat torus", ring(5, B, L), Torus((1, 5), B, L)),
    ("nothing taken away", Switch(B, L), Scaled(Switch(2 * B, L), (("all", 0.5),))),
]
OTHERS: dict[str, Topology] = {
    "fully connected": FullyConnected(5, B, L),
    "ring": ring(5, B, L),
    "torus": Torus((3, 2), B, L),
    "nodes": TwoLevel(2, 10 * B, L / 10, 1, B, L),
    "leaves": FatTree(2, 1, B, B, L),
    "cards": SwitchedNics(B, L, 2),
    "half duplex": HalfDuplex(FatTree(2, 1, B, B, L)),
    "a slow host": Scaled(Switch(B, L), (("host2", 0.25),)),
}


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
@pytest.mark.parametrize(("one", "other"), [pytest.param(*pair, id=name) for name, *pair in SAME])
def test_the_same_network_by_another_name(one: Topology, other: Topology, strategy: Strategy) -> None:
    assert run(strategy, other).seconds == pytest.approx(run(strategy, one).seconds, rel=1e-9)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
@pytest.mark.parametrize("name", OTHERS)
def test_every_network_carries_every_strategy(name: str, strategy: Strategy) -> None:
    run(strategy, OTHERS[name])


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_on_one_switch_it_does_not_matter_where_ranks_live(strategy: Strategy) -> None:
    servers = 0 if strategy.servers_beside() else strategy.server_count(4)
    elsewhere = (3, 1, 6, 0, 2)[: 4 + servers]
    assert run(strategy, Switch(B, L), placement=elsewhere).seconds == run(strategy, Switch(B, L)).seconds


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
@pytest.mark.parametrize(
    "transport", [LV08, replace(LV08, window_bytes=30.0), Transport(eager_bytes=1e9), Transport(one_at_a_time=True)]
)
def test_every_strategy_runs_over_every_transport(transport: Transport, strategy: Strategy) -> None:
    run(strategy, Switch(B, L), transport=transport)


def test_with_nobody_to_talk_to_no_network_matters() -> None:
    def alone(network: Topology) -> float:
        cluster = Cluster(1, 0, DEVICE, network)
        return simulate(Job(AllReduce(), MODEL, cluster, Budget(updates=3), SizesFactory(MODEL, 1))).seconds

    assert alone(Switch(1.0, 1.0)) == alone(ring(1, 1e9, 0.0)) == alone(FatTree(4, 1, 1.0, 1.0, 5.0)) > 0.0
