"""ORACLES T15: rings over one switch and over a 4:1 fat tree in which every hop leaves its leaf, against SimGrid (CM02)."""

from __future__ import annotations

import pytest

from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.hosts import RoutedHosts
from distsim.interface import Cluster, Roofline, Switch, Topology
from distsim.topologies import FatTree

BANDWIDTH, LATENCY = 1.25e9, 5e-6


def ring_seconds(topology: Topology, placement: tuple[int, ...], nbytes: float) -> float:
    """A ring all-reduce, 2 (n - 1) rounds of nbytes / n: a rank goes on when its own send and receive are over."""
    engine, size = Engine(), len(placement)
    hosts = RoutedHosts(engine, topology, placement)
    rounds, left = [0] * size, [0] * size

    def enter(rank: int) -> None:
        left[rank] = 2
        for sender in (rank, (rank - 1) % size):
            after = (sender + 1) % size
            if left[sender] and left[after] and rounds[sender] == rounds[after]:
                hosts.move(sender, after, nbytes / size, lambda ends=(sender, after): over(ends))  # type: ignore[misc]

    def over(ends: tuple[int, int]) -> None:
        for rank in ends:
            left[rank] -= 1
        for rank in ends:
            if not left[rank]:
                rounds[rank] += 1
                if rounds[rank] < 2 * (size - 1):
                    enter(rank)

    for rank in range(size):
        enter(rank)
    engine.env.run()
    assert rounds == [2 * (size - 1)] * size
    return engine.now


def strided(workers: int, size: int) -> tuple[int, ...]:
    """Rank r on leaf r mod L."""
    leaves = workers // size
    return tuple(rank % leaves * size + rank // leaves for rank in range(workers))


@pytest.mark.parametrize(("workers", "seconds"), [(8, 0.140140000), (64, 0.158760000)])
def test_over_one_switch(workers: int, seconds: float) -> None:
    switch = Switch(BANDWIDTH, LATENCY)
    assert ring_seconds(switch, tuple(range(workers)), 1e8) == pytest.approx(seconds, rel=1e-9)
    one_leaf = FatTree(workers, 1, BANDWIDTH, BANDWIDTH, LATENCY)
    assert ring_seconds(one_leaf, tuple(range(workers)), 1e8) == pytest.approx(seconds, rel=1e-9)


@pytest.mark.parametrize(("workers", "size", "uplinks", "seconds"), [(8, 4, 1, 0.560280000), (64, 16, 4, 0.632520000)])
def test_when_every_hop_leaves_its_leaf(workers: int, size: int, uplinks: int, seconds: float) -> None:
    tree = FatTree(size, uplinks, BANDWIDTH, BANDWIDTH, LATENCY)
    assert ring_seconds(tree, strided(workers, size), 1e8) == pytest.approx(seconds, rel=1e-9)


def test_ranks_live_where_they_are_placed() -> None:
    cluster = Cluster(4, 1, Roofline(1.0, 1.0), Switch(1.0, 0.0), placement=(0, 2, 1, 3, 4))
    assert [cluster.host(rank) for rank in range(5)] == [0, 2, 1, 3, 4]
    beside = Cluster(4, 2, Roofline(1.0, 1.0), Switch(1.0, 0.0), beside=True, placement=(0, 2, 1, 3))
    assert [beside.host(rank) for rank in range(6)] == [0, 2, 1, 3, 0, 2]
