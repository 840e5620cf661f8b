"""From settings to topologies: what each network's keys mean, round trips, and what they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distsim.composition import compose
from distsim.configuration import Resolved, resolve
from distsim.configuration.networks import placement, topology
from distsim.interface import LV08, Switch, Transport
from distsim.results.naming import Places
from distsim.topologies import FatTree, FullyConnected, Graph, HalfDuplex, Link, Scaled, SwitchedNics, Torus, TwoLevel, ring

GRAPH = """
hosts: [a, b, c, d]
switches: [s]
links:
- {between: [a, s], bandwidth: 10Gbit/s, latency: 5us}
- {between: [b, s], bandwidth: 10Gbit/s, latency: 5us}
- {between: [s, c], bandwidth: 1GB/s, latency: 1ms, name: far}
- {between: [c, d], bandwidth: 1GB/s, latency: 0}
- {between: [a, d], bandwidth: 1GB/s, latency: 1s}
routes:
- {from: a, to: d, links: [a-d]}
"""


def resolved(*settings: tuple[str, Any]) -> Resolved:
    found, problems = resolve(compose(settings)[0])
    assert problems == []
    assert found is not None
    again, problems = resolve(found.config)
    assert problems == []
    assert again == found
    assert again.config == found.config
    return found


def on(network: str, **keys: Any) -> Resolved:
    """A run on this network, of links of 10 Gbit/s and 5 us."""
    given = [(f"cluster.{key}", value) for key, value in keys.items()]
    return resolved(("cluster", "switch"), ("cluster.network", network), *given)


def test_times_of_more_than_a_second_keep_their_unit() -> None:
    """Without it they are refused, and a resolved configuration can be resolved again."""
    found = on("two_level", node_size=2, node_bandwidth="1GB/s", node_latency="2s", latency="1.5s")
    assert [found.config["cluster"][key] for key in ("latency", "node_latency", "overhead")] == ["1.5s", "2.0s", None]
    assert on("switch", **{"transport.message_seconds": "3s"}).cluster.transport.message_seconds == 3.0
    links = [{"between": ["a", end], "bandwidth": "1GB/s", "latency": "2s"} for end in ("b", "c", "d")]
    graph = resolved(("cluster", "dumbbell"), ("cluster.graph", {"hosts": ["a", "b", "c", "d"], "links": links}))
    assert topology(graph.cluster, 4).route(1, 2).latency == 4.0


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (on("switch"), Switch(1.25e9, 5e-6)),
        (on("switch", nics=2), SwitchedNics(1.25e9, 5e-6, 2)),
        (on("fully_connected"), FullyConnected(4, 1.25e9, 5e-6)),
        (on("ring"), ring(4, 1.25e9, 5e-6)),
        (on("torus", shape=[2, 2]), Torus((2, 2), 1.25e9, 5e-6)),
        (on("torus", shape=[2, 3, 4]), Torus((2, 3, 4), 1.25e9, 5e-6)),
        (
            on("two_level", node_size=2, node_bandwidth="300GB/s", node_latency="1us", nics=2),
            TwoLevel(2, 300e9, 1e-6, 2, 1.25e9, 5e-6),
        ),
        (on("fat_tree", leaf_size=2, uplinks=1), FatTree(2, 1, 1.25e9, 1.25e9, 5e-6)),
        (
            on("fat_tree", leaf_size=2, uplinks=1, uplink_bandwidth="40Gbit/s", duplex="half"),
            HalfDuplex(FatTree(2, 1, 1.25e9, 5e9, 5e-6)),
        ),
        (
            on("switch", slow={"host3": 2}, background=0.25),
            Scaled(Switch(1.25e9, 5e-6), (("host3", 0.5), ("all", 0.75))),
        ),
        (
            on("switch", nics=2, **{"slow.host3.nic1": 4, "duplex": "half"}),
            HalfDuplex(Scaled(SwitchedNics(1.25e9, 5e-6, 2), (("host3.nic1", 0.25),))),
        ),
        (on("fat_tree", leaf_size=2, uplinks=1, background={"leaf0-spine0": 0.5}),
         Scaled(FatTree(2, 1, 1.25e9, 1.25e9, 5e-6), (("leaf0-spine0", 0.5),))),
    ],
)  # fmt: skip
def test_what_keys_mean(run: Resolved, expected: Any) -> None:
    assert topology(run.cluster, 4) == expected


def test_equal_networks_have_equal_configurations() -> None:
    assert on("switch").config == on("switch", nics=1, bandwidth="1.25GB/s", duplex="full", slow={}, background={}).config
    plain = on("fat_tree", leaf_size=2, uplinks=1)
    assert plain.config == on("fat_tree", leaf_size=2, uplinks=1, uplink_bandwidth="1.25GB/s", placement="block").config


def test_a_graph_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(GRAPH)
    none = {"bandwidth": None, "latency": None}
    run = on("graph", graph=str(tmp_path / "g.yaml"), **none)
    links = (
        Link(("a", "s"), 1.25e9, 5e-6, "a-s"),
        Link(("b", "s"), 1.25e9, 5e-6, "b-s"),
        Link(("s", "c"), 1e9, 1e-3, "far"),
        Link(("c", "d"), 1e9, 0.0, "c-d"),
        Link(("a", "d"), 1e9, 1.0, "a-d"),
    )
    found = topology(run.cluster, 4)
    assert found == Graph(("a", "b", "c", "d"), links, given=((0, 3, (4,)),))
    assert found.route(0, 3).latency == 1.0
    assert found.route(3, 1).links == (7, 5, 3)
    inline = run.config["cluster"]["graph"]
    assert on("graph", graph=inline, **none).config == run.config


@pytest.mark.parametrize("routing", ["tree", "given"])
def test_routing_of_a_graph(routing: str) -> None:
    wires = [{"between": [host, "s"], "bandwidth": "1GB/s", "latency": 0} for host in "abcd"]
    pairs = [(x, y) for x in "abcd" for y in "abcd" if x < y]
    routes = [{"from": x, "to": y, "links": [f"{x}-s", f"{y}-s"]} for x, y in pairs] if routing == "given" else []
    graph = {"hosts": list("abcd"), "switches": ["s"], "links": wires, "routes": routes, "routing": routing}
    found = topology(on("graph", graph=graph, bandwidth=None, latency=None).cluster, 4)
    assert found.route(1, 0).links == (2, 1)


def test_placement_one_a_leaf_in_turn() -> None:
    run = on("fat_tree", leaf_size=4, uplinks=1, placement="cyclic", workers=8)
    assert placement(run.cluster, 9) == (0, 4, 1, 5, 2, 6, 3, 7, 8)
    assert placement(on("fat_tree", leaf_size=4, uplinks=1, workers=8).cluster, 9) == ()


def test_corrections() -> None:
    lv08 = on("switch", transport={"preset": "lv08"})
    assert lv08.cluster.transport == LV08
    spelled = {"bandwidth_factor": 0.97, "latency_factor": 13.01, "window_bytes": "4MiB"}
    assert on("switch", transport=spelled).config == lv08.config
    assert lv08.config["cluster"]["transport"]["preset"] == "lv08"
    mixed = on("switch", transport={"preset": "lv08", "bandwidth_factor": 0.9, "eager_bytes": "64kB"})
    assert mixed.cluster.transport == Transport(0.9, 13.01, 0.0, 4194304.0, 64e3)
    assert mixed.config["cluster"]["transport"]["preset"] == "none"
    local = resolved(("cluster.transport", {"one_at_a_time": True, "eager_bytes": "1kB"}))
    assert local.cluster.transport == Transport(eager_bytes=1e3, one_at_a_time=True)


def test_a_roofline_reaches_a_share_of_its_peak() -> None:
    config = resolved(("cluster", "dgx_h100")).config["cluster"]
    assert (config["flops"], config["efficiency"], config["node_bandwidth"]) == ("989Tflop/s", 0.4, "450GB/s")


@pytest.mark.parametrize(
    ("runs", "names"),
    [
        ([on("switch"), on("ring")], ["switch 10Gbit/s, network switch, nics 1", "switch, network ring"]),
        (
            [on("switch"), on("switch", transport={"preset": "lv08"}), on("switch", transport={"eager_bytes": "64kB"})],
            [f"switch 10Gbit/s, transport {words}" for words in ("none", "lv08", "eager 64 kB")],
        ),
        (
            [on("switch"), on("switch", slow={"host3": 2.0}), on("switch", background=0.25)],
            ["switch 10Gbit/s", "switch 10Gbit/s, slow host3 2x", "switch 10Gbit/s, background all 25%"],
        ),
        (
            [on("fat_tree", leaf_size=2, uplinks=up, placement=place) for up, place in ((1, "block"), (2, "cyclic"))],
            ["switch, uplinks 1, placement block", "switch, uplinks 2, placement cyclic"],
        ),
        (
            [on("torus", shape=shape) for shape in ([2, 2], [4, 4])],
            ["switch, shape 2,2", "switch, shape 4,4"],
        ),
    ],
)  # fmt: skip
def test_clusters_are_told_apart(runs: list[Resolved], names: list[str]) -> None:
    places = Places([run.config for run in runs])
    assert [places.cluster(run.config) for run in runs] == names
