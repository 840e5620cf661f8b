"""What a network says that it repeats: ways move on with their ends, by every multiple of the pattern, all round."""

from __future__ import annotations

from itertools import permutations

import pytest

from distsim.interface import Route, Switch, Topology
from distsim.topologies import FatTree, FullyConnected, Graph, HalfDuplex, Scaled, SwitchedNics, Torus, TwoLevel, ring
from distsim.topologies.graph import Link

EVEN: dict[str, tuple[Topology, int]] = {
    "switch": (Switch(1.0, 1.0), 5),
    "half duplex": (HalfDuplex(Switch(1.0, 1.0)), 5),
    "three cards": (SwitchedNics(1.0, 1.0, 3), 9),
    "two level": (TwoLevel(4, 2.0, 1.0, 2, 1.0, 1.0), 12),
    "two level, half duplex": (HalfDuplex(TwoLevel(3, 2.0, 1.0, 3, 1.0, 1.0)), 9),
    "fat tree": (FatTree(4, 2, 2.0, 1.0, 1.0), 12),
    "fat tree, uneven": (FatTree(4, 3, 2.0, 1.0, 1.0), 24),  # D-mod-3 repeats after three leaves of four
    "ring": (ring(7, 1.0, 1.0), 7),
    "torus": (Torus((4, 5), 1.0, 1.0), 20),
    "torus of three": (Torus((3, 4, 3), 1.0, 1.0), 36),
    "scaled": (Scaled(Switch(1.0, 1.0), (("all", 0.5),)), 5),
}


def moved(route: Route, by: int, links: int) -> Route:
    return route._replace(links=tuple((link + by) % links for link in route.links))


def breaks(topology: Topology, hosts: int) -> list[tuple[int, int]]:
    """Ways whose image is not the way between their ends' images."""
    pattern = topology.pattern()
    assert pattern is not None
    assert hosts % pattern.hosts == 0
    total = hosts // pattern.hosts * pattern.links
    assert len(topology.capacities(hosts)) == total
    found = []
    for source, to in permutations(range(hosts), 2):
        image = topology.route((source + pattern.hosts) % hosts, (to + pattern.hosts) % hosts)
        if image != moved(topology.route(source, to), pattern.links, total):
            found.append((source, to))
    return found


@pytest.mark.parametrize("name", EVEN)
def test_all_ways_move_on(name: str) -> None:
    topology, hosts = EVEN[name]
    pattern = topology.pattern()
    assert pattern is not None
    assert pattern.holds
    assert breaks(topology, hosts) == []


@pytest.mark.parametrize("shape", [(6,), (3, 4), (4, 4)])
def test_between_opposite_hosts_a_torus_may_go_either_way(shape: tuple[int, ...]) -> None:
    torus = Torus(shape, 1.0, 1.0)
    pattern = torus.pattern()
    assert pattern is not None
    assert not pattern.holds
    row, stride = shape[-1], torus.hosts // shape[-1]
    assert {(to // stride - source // stride) % row for source, to in breaks(torus, torus.hosts)} == {row // 2}


@pytest.mark.parametrize(
    "topology",
    [
        FullyConnected(4, 1.0, 1.0),
        Torus((2, 4), 1.0, 1.0),
        Graph(("a", "b"), (Link(("a", "b"), 1.0, 1.0),)),
        ring(2, 1.0, 1.0),
    ],
)
def test_what_repeats_nothing_says_so(topology: Topology) -> None:
    assert topology.pattern() is None
