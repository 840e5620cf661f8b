"""From the section `cluster` to the topology it describes, and whether the run's ranks have a place there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distsim.configuration import quantities
from distsim.configuration.cluster import ClusterSection
from distsim.configuration.reader import Reader
from distsim.interface import Strategy, Switch, Topology, is_part
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

MOST_CONNECTED = 2048
"""Hosts of a fully connected network: a cable between every two is some two million."""


def topology(section: ClusterSection, hosts: int) -> Topology:
    """The network between so many hosts; not for loopback."""
    found = _plain(section, hosts)
    shares = tuple((name, 1.0 / factor) for name, factor in section.slow.items())
    shares += tuple((name, 1.0 - share) for name, share in section.background.items())
    found = Scaled(found, shares) if shares else found
    return HalfDuplex(found) if section.duplex == "half" else found


def _plain(section: ClusterSection, hosts: int) -> Topology:
    bandwidth, latency, nics = section.bandwidth or 0.0, section.latency or 0.0, section.nics or 1
    match section.network:
        case "switch":
            return Switch(bandwidth, latency) if nics == 1 else SwitchedNics(bandwidth, latency, nics)
        case "fully_connected":
            return FullyConnected(hosts, bandwidth, latency)
        case "ring":
            return ring(hosts, bandwidth, latency)
        case "torus":
            return Torus(section.shape or (), bandwidth, latency)
        case "two_level":
            inner = section.node_bandwidth or 0.0, section.node_latency or 0.0
            return TwoLevel(section.node_size or 1, *inner, nics, bandwidth, latency)
        case "fat_tree":
            up = section.uplink_bandwidth or bandwidth
            return FatTree(section.leaf_size or 1, section.uplinks or 1, bandwidth, up, latency)
    assert section.graph is not None
    return _graph(section.graph)


def _graph(plain: Any) -> Graph:
    links = tuple(
        Link((first, second), quantities.bandwidth(link["bandwidth"]), quantities.seconds()(link["latency"]), link["name"])
        for link in plain["links"]
        for first, second in [link["between"]]
    )
    number = {host: i for i, host in enumerate(plain["hosts"])}
    cable = {link.name: i for i, link in enumerate(links)}
    given = tuple(
        (number[route["from"]], number[route["to"]], tuple(cable[name] for name in route["links"]))
        for route in plain["routes"]
    )
    return Graph(tuple(plain["hosts"]), links, given)


def placement(section: ClusterSection, hosts: int) -> tuple[int, ...]:
    """The host of each rank that has one of its own: workers one a node or leaf in turn, others after; empty: in order.

    Rank r of L groups of k workers lives on host (r mod L) k + r div L, so every hop of a ring leaves its group.
    """
    size = section.node_size or section.leaf_size or 1
    groups = section.workers // size
    if section.placement != "cyclic" or groups < 2:
        return ()
    return (*(r % groups * size + r // groups for r in range(section.workers)), *range(section.workers, hosts))


def check_network(reader: Reader, strategy: Strategy, cluster: ClusterSection) -> None:
    """Every rank has a host, and what is said of single cables is said of some that are there."""
    if cluster.network == "loopback":
        return
    hosts = cluster.hosts(strategy)
    servers = hosts - cluster.workers
    needs = f"the run needs {hosts} hosts" + (f", {servers} of them for parameter servers" if servers else "")
    there = {"torus": Torus(cluster.shape or (1,), 1.0, 0.0).hosts, "fully_connected": MOST_CONNECTED}.get(cluster.network)
    if cluster.network == "torus" and there is not None and there < hosts:
        reader.refuse("cluster.shape", list(cluster.shape or ()), f"{needs}, and it has {there}")
    elif cluster.network == "fully_connected" and hosts > MOST_CONNECTED:
        allowed = f"at most {MOST_CONNECTED} hosts: a cable lies between every two"
        reader.refuse("cluster.workers", cluster.workers, allowed, "take cluster.network=switch")
    elif cluster.graph is not None and len(cluster.graph["hosts"]) < hosts:
        reader.refuse("cluster.graph.hosts", len(cluster.graph["hosts"]), needs)
    elif cluster.slow or cluster.background:
        for key in ("slow", "background"):
            check_cables(reader, cluster, hosts, f"cluster.{key}", getattr(cluster, key))


def check_cables(reader: Reader, cluster: ClusterSection, hosts: int, key: str, said: Mapping[str, Any]) -> None:
    """What is said by the name of a cable, or of one of its ends, is said of some that are there."""
    names = list(dict.fromkeys(topology(cluster, hosts).cables(hosts))) if said else []
    for word, value in said.items():
        if not any(is_part(word, name) for name in names):
            some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            allowed = f"the name of a cable ({some}) or of one of its ends"
            reader.refuse(f"{key}.{word}", value, allowed, quantities.near(word, names))
