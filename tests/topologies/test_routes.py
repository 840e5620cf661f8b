"""Each topology by hand: which links lie between two hosts, what they carry and what they are called."""

from __future__ import annotations

from math import inf

import pytest

from distsim.interface import Switch, Topology, is_part
from distsim.topologies import (
    FatTree,
    FullyConnected,
    Graph,
    HalfDuplex,
    Link,
    Scaled,
    SwitchedNics,
    Torus,
    TwoLevel,
    ring,
)

NODES = TwoLevel(devices=4, inner_bandwidth=100.0, inner_latency=0.25, nics=2, bandwidth=10.0, latency=1.0)
LEAVES = FatTree(hosts_a_leaf=3, uplinks=2, bandwidth=10.0, uplink_bandwidth=40.0, latency=1.0)
TREE = Graph(
    ("a", "b", "c"),
    (
        Link(("a", "s"), 10.0, 1.0),
        Link(("s", "b"), 20.0, 2.0),
        Link(("t", "c"), 5.0, 4.0),
        Link(("s", "t"), 8.0, 0.5, "trunk"),
    ),
)
SQUARE = Graph(
    ("a", "b", "c", "d"),
    (Link(("a", "b"), 1.0, 1.0), Link(("b", "c"), 1.0, 1.0), Link(("c", "d"), 1.0, 1.0), Link(("d", "a"), 1.0, 1.0)),
    given=((0, 2, (3, 2)),),  # not over b, whose links come first
)
TORUS = Torus(
    (3, 2), 10.0, 1.0
)  # 0 1 2 / 3 4 5; cables in the order of (host, dimension), of columns only from the first row
ALL: dict[str, tuple[Topology, int]] = {
    "switch": (Switch(10.0, 1.0), 5),
    "nics": (SwitchedNics(10.0, 1.0, 3), 5),
    "fully connected": (FullyConnected(5, 10.0, 1.0), 5),
    "ring": (ring(5, 10.0, 1.0), 5),
    "even ring": (ring(6, 10.0, 1.0), 6),
    "two": (ring(2, 10.0, 1.0), 2),
    "torus": (Torus((3, 2, 4), 10.0, 1.0), 24),
    "flat torus": (Torus((4, 1), 10.0, 1.0), 4),
    "nodes": (NODES, 10),
    "leaves": (LEAVES, 8),
    "tree": (TREE, 3),
    "square": (SQUARE, 4),
    "half": (HalfDuplex(TORUS), 6),
    "slowed": (Scaled(LEAVES, (("leaf1", 0.5),)), 8),
}


@pytest.mark.parametrize(
    ("topology", "pair", "links", "latency"),
    [
        (Switch(10.0, 1.0), (0, 3), (0, 7), 2.0),
        (SwitchedNics(10.0, 1.0, 2), (0, 3), (2, 13), 2.0),  # leaves 0 by card 1, arrives at 3 by card 0, cable 6
        (SwitchedNics(10.0, 1.0, 2), (3, 0), (12, 3), 2.0),  # the same two cables back
        (FullyConnected(4, 10.0, 1.0), (0, 1), (0,), 1.0),
        (FullyConnected(4, 10.0, 1.0), (3, 1), (9,), 1.0),  # cables 01 02 03 12 13 23
        (FullyConnected(4, 10.0, 1.0), (2, 3), (10,), 1.0),
        (ring(5, 10.0, 1.0), (0, 2), (0, 2), 2.0),
        (ring(5, 10.0, 1.0), (1, 4), (1, 9), 2.0),  # down over 0
        (ring(6, 10.0, 1.0), (4, 1), (8, 10, 0), 3.0),  # both ways are equal: upwards
        (ring(6, 10.0, 1.0), (3, 0), (5, 3, 1), 3.0),  # but not from the middle
        (ring(2, 10.0, 1.0), (0, 1), (0,), 1.0),
        (ring(2, 10.0, 1.0), (1, 0), (1,), 1.0),
        (TORUS, (0, 5), (3 * 2 + 1 + 2, 2 * 5), 2.0),
        (NODES, (1, 2), (2, 5), 0.5),
        (
            NODES,
            (1, 6),
            (8, 23),
            2.0,
        ),  # a node is cables 0-3 and cards 4, 5; device 1 leaves by card 4, device 2 arrives by 11
        (NODES, (7, 0), (22, 9), 2.0),
        (LEAVES, (0, 2), (0, 5), 2.0),
        (LEAVES, (1, 5), (2, 8, 19, 15), 4.0),  # a leaf is cables 0-2 and uplinks 3, 4; host 5 by spine 1
        (LEAVES, (1, 4), (2, 6, 17, 13), 4.0),  # host 4 by spine 0
        (TREE, (0, 1), (0, 2), 3.0),
        (TREE, (2, 0), (5, 7, 1), 5.5),
        (SQUARE, (0, 2), (7, 5), 2.0),
        (SQUARE, (2, 0), (4, 6), 2.0),
        (SQUARE, (1, 3), (2, 4), 2.0),  # two ways of equal latency: b-c-d, whose last link was given before that of b-a-d
        (HalfDuplex(LEAVES), (1, 5), (1, 4, 9, 7), 4.0),
        (Scaled(LEAVES, (("leaf0", 0.5),)), (0, 2), (0, 5), 2.0),
    ],
)
def test_the_way_between_two_hosts(
    topology: Topology, pair: tuple[int, int], links: tuple[int, ...], latency: float
) -> None:
    assert topology.route(*pair) == (links, latency, inf)


def test_a_torus_row_by_row() -> None:
    names = TORUS.cables(6)[::2]
    assert names == [
        "host0-host1", "host0-host3", "host1-host2", "host1-host4", "host2-host0", "host2-host5",
        "host3-host4", "host4-host5", "host5-host3",
    ]  # fmt: skip
    assert [names[link // 2] for link in TORUS.route(0, 5).links] == ["host2-host0", "host2-host5"]
    deep = Torus((4, 4, 4), 1.0, 1.0)
    names = deep.cables(64)[::2]
    assert len(names) == 3 * 64
    assert [names[link // 2] for link in deep.route(0, 3 + 4 * 2 + 16 * 1).links] == [
        "host3-host0", "host3-host7", "host7-host11", "host11-host27",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("topology", "hosts", "capacities"),
    [
        (Switch(10.0, 1.0), 3, [10.0] * 6),
        (SwitchedNics(10.0, 1.0, 2), 3, [10.0] * 12),
        (FullyConnected(4, 10.0, 1.0), 3, [10.0] * 12),
        (ring(5, 10.0, 1.0), 5, [10.0] * 10),
        (ring(2, 10.0, 1.0), 2, [10.0] * 2),
        (TORUS, 6, [10.0] * 18),
        (NODES, 5, ([100.0] * 8 + [10.0] * 4) * 2),
        (LEAVES, 3, [10.0] * 6 + [40.0] * 4),
        (TREE, 3, [10.0, 10.0, 20.0, 20.0, 5.0, 5.0, 8.0, 8.0]),
        (HalfDuplex(TREE), 3, [10.0, 20.0, 5.0, 8.0]),
        (Scaled(TREE, (("s", 0.5), ("trunk", 0.25))), 3, [5.0, 5.0, 10.0, 10.0, 5.0, 5.0, 2.0, 2.0]),
        (HalfDuplex(Scaled(TREE, (("c", 0.5),))), 3, [10.0, 20.0, 2.5, 8.0]),
    ],
)
def test_what_links_carry(topology: Topology, hosts: int, capacities: list[float]) -> None:
    assert list(topology.capacities(hosts)) == capacities


@pytest.mark.parametrize("name", ALL)
def test_every_pair_has_a_way_of_known_links_and_as_long_back(name: str) -> None:
    topology, hosts = ALL[name]
    capacities, names = topology.capacities(hosts), topology.cables(hosts)
    assert len(capacities) == len(names)
    for source in range(hosts):
        for to in range(hosts):
            if source != to:
                links, latency, _ = topology.route(source, to)
                assert links
                assert all(0 <= link < len(capacities) for link in links)
                assert len(set(links)) == len(links)
                assert latency == pytest.approx(topology.route(to, source).latency)


@pytest.mark.parametrize("name", [name for name in ALL if name != "half"])
def test_the_two_directions_of_a_cable_do_not_meet(name: str) -> None:
    """A full-duplex way follows its cables: each link begins where the one before ends, so back and forth share none."""
    topology, hosts = ALL[name]
    for source in range(hosts):
        for to in range(source):
            assert not set(topology.route(source, to).links) & set(topology.route(to, source).links)


@pytest.mark.parametrize(
    ("word", "cable", "expected"),
    [
        ("host1", "host1", True),
        ("host1", "host12", False),
        ("host1", "host1-host2", True),
        ("node0", "node0.nic3", True),
        ("nic3", "node0.nic3", True),
        ("node0.nic3", "node0.nic3", True),
        ("spine1", "leaf0-spine1", True),
        ("leaf0-spine1", "leaf0-spine10", False),
    ],
)
def test_words_for_cables(word: str, cable: str, expected: bool) -> None:
    assert is_part(word, cable) is expected
