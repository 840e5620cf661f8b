"""Corrections against hand calculation, and what topologies and hosts make of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.hosts import RoutedHosts
from distsim.interface import LV08, Route, Switch, Topology, Transport
from distsim.topologies import FatTree, Graph, HalfDuplex, Link, Scaled, Torus, TwoLevel


def ends(topology: Topology, moves: list[tuple[int, int, float]], transport: Transport | None = None) -> list[float]:
    """When messages (source, to, bytes) that all start at once have arrived; one rank a host."""
    engine = Engine()
    hosts = RoutedHosts(engine, topology, range(1 + max(max(move[:2]) for move in moves)), transport)
    found = [0.0] * len(moves)

    def note(i: int) -> None:
        found[i] = engine.now

    for i, (source, to, nbytes) in enumerate(moves):
        hosts.move(source, to, nbytes, lambda i=i: note(i))  # type: ignore[misc]
    engine.env.run()
    assert abs(hosts.unaccounted()) < 1e-12
    return found


@pytest.mark.parametrize(
    ("transport", "expected"),
    [
        (Transport(), 2.0 + 10.0),
        (Transport(bandwidth_factor=0.5), 2.0 + 20.0),
        (Transport(latency_factor=3.0), 6.0 + 10.0),
        (Transport(message_seconds=0.25), 0.25 + 2.0 + 10.0),
        (Transport(window_bytes=20.0), 2.0 + 20.0),  # 20 bytes a round trip of 4 s: 5 a second
        (Transport(window_bytes=20.0, latency_factor=3.0), 6.0 + 20.0),  # the window sees the wire's own latency
        (Transport(window_bytes=20.0, bandwidth_factor=0.5), 2.0 + 40.0),
        (Transport(window_bytes=1e9), 2.0 + 10.0),
    ],
)
def test_a_transfer_alone(transport: Transport, expected: float) -> None:
    assert ends(Switch(10.0, 1.0), [(0, 1, 100.0)], transport) == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("bandwidth", "latency", "nbytes", "expected"),
    [  # 13.01 L + s / min(0.97 B, 0.97 x 4194304 / 2L) with L two links; equal to SimGrid 3.32's default model
        (1.25e9, 5e-6, 1e8, 0.0826043268041237),
        (1.25e9, 2.5e-3, 1e8, 0.3108423495892397),  # the window binds
        (1.25e9, 5e-6, 1e3, 0.00013092474226804126),
    ],
)
def test_the_preset_lv08(bandwidth: float, latency: float, nbytes: float, expected: float) -> None:
    by_hand = 13.01 * 2 * latency + nbytes / min(0.97 * bandwidth, 0.97 * 4194304 / (4 * latency))
    assert by_hand == pytest.approx(expected, rel=1e-12)
    assert ends(Switch(bandwidth, latency), [(0, 1, nbytes)], LV08) == [pytest.approx(expected, rel=1e-12)]


def test_a_window_leaves_bandwidth_to_others() -> None:
    """Of 10 bytes a second the far flow may have 2; the near one, in its host, is bound by nothing else."""
    line = Graph(("a", "b", "c"), (Link(("a", "b"), 10.0, 0.5), Link(("b", "c"), 100.0, 1.5)))
    transport = Transport(window_bytes=8.0)  # a-b: 8 a second; a-c: 2
    assert ends(line, [(0, 1, 80.0), (0, 2, 80.0)], transport) == [pytest.approx(10.5), pytest.approx(42.0)]
    assert ends(line, [(0, 1, 80.0), (0, 2, 80.0)], replace(transport, window_bytes=1e9)) == [
        pytest.approx(0.5 + 1.5 + (80.0 - 15.0) / 5.0),  # alone for 1.5 s, then half of the link
        pytest.approx(2.0 + 13.0 + 1.5),  # the near one is gone at 15 s
    ]


def test_within_a_host_nothing_takes_time() -> None:
    engine = Engine()
    hosts = RoutedHosts(engine, Switch(10.0, 1.0), [0, 1, 0], Transport(message_seconds=1.0))
    assert hosts.route(0, 2) == Route((), 0.0)
    assert hosts.route(2, 1) == Route((0, 3), 3.0)
    found = []
    hosts.move(0, 2, 100.0, lambda: found.append(engine.now))
    engine.env.run()
    assert found == [0.0]


def test_half_duplex_halves_what_goes_both_ways() -> None:
    both_ways = [(0, 1, 100.0), (1, 0, 100.0)]
    assert ends(Switch(10.0, 0.0), both_ways) == [10.0, 10.0]
    assert ends(HalfDuplex(Switch(10.0, 0.0)), both_ways) == [20.0, 20.0]
    assert ends(HalfDuplex(Switch(10.0, 0.0)), both_ways[:1]) == [10.0]


def test_background_and_slow_cables_take_their_share() -> None:
    moves = [(0, 1, 100.0), (2, 3, 100.0)]
    assert ends(Scaled(Switch(10.0, 0.0), (("all", 0.5),)), moves) == [20.0, 20.0]
    assert ends(Scaled(Switch(10.0, 0.0), (("host3", 0.25),)), moves) == [10.0, 40.0]
    assert ends(Scaled(Switch(10.0, 0.0), (("host3", 0.25), ("all", 0.5))), moves) == [20.0, 80.0]


def test_two_levels_by_hand() -> None:
    """Two nodes of two devices: 100 a second inside, one card of 10 a node between."""
    nodes = TwoLevel(2, 100.0, 0.25, 1, 10.0, 1.0)
    assert ends(nodes, [(0, 1, 100.0)]) == [1.5]
    assert ends(nodes, [(0, 2, 100.0), (1, 3, 100.0)]) == [22.0, 22.0]  # one card
    assert ends(replace(nodes, nics=2), [(0, 2, 100.0), (1, 3, 100.0)]) == [12.0, 12.0]


def test_an_oversubscribed_fat_tree_by_hand() -> None:
    """Two hosts of a leaf send to two of another: to hosts 4 and 6 over one uplink of two, to 4 and 5 over both."""
    tree = FatTree(4, 2, 10.0, 10.0, 0.5)
    assert ends(tree, [(0, 4, 100.0), (1, 6, 100.0)]) == [22.0, 22.0]
    assert ends(tree, [(0, 4, 100.0), (1, 5, 100.0)]) == [12.0, 12.0]
    assert ends(replace(tree, uplink_bandwidth=20.0), [(0, 4, 100.0), (1, 6, 100.0)]) == [12.0, 12.0]


@pytest.mark.parametrize("moves", [[(0, 1, 70.0), (1, 2, 30.0), (0, 2, 50.0)], [(0, 2, 10.0), (2, 0, 30.0), (1, 0, 5.0)]])
def test_splitting_a_link_into_two_in_series_changes_nothing(moves: list[tuple[int, int, float]]) -> None:
    whole = Graph(("a", "b", "c"), (Link(("a", "b"), 10.0, 1.0), Link(("b", "c"), 5.0, 0.5)))
    split = Graph(("a", "b", "c"), (Link(("a", "s"), 10.0, 1.0), Link(("s", "b"), 10.0, 0.0), Link(("b", "c"), 5.0, 0.5)))
    assert ends(whole, moves) == ends(split, moves)


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_all_times_and_sizes_scale_together(scale: float) -> None:
    moves = [(0, 5, 70.0), (1, 5, 30.0), (3, 2, 50.0), (4, 0, 10.0)]
    base, scaled = Torus((3, 2), 8.0, 0.5), Torus((3, 2), 8.0 / scale, 0.5 * scale)
    assert ends(scaled, moves) == pytest.approx([scale * end for end in ends(base, moves)])


def test_a_star_is_a_switch() -> None:
    star = Graph(tuple("abcd"), tuple(Link((host, "s"), 10.0, 1.0) for host in "abcd"))
    moves = [(0, 1, 70.0), (2, 1, 30.0), (1, 3, 50.0), (0, 3, 20.0)]
    assert ends(star, moves) == ends(Switch(10.0, 1.0), moves)
    one_leaf = FatTree(4, 1, 10.0, 10.0, 1.0)
    assert ends(one_leaf, moves) == ends(Switch(10.0, 1.0), moves)
