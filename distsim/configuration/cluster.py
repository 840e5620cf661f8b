"""The section `cluster`: how many workers, what computes, and the network between them.

`cluster.device` says what computes: `profile`, as measured; or `roofline`, by `flops`, of which it
reaches the share `efficiency`, and `memory_bandwidth`. A run of which a rank holds more than `cluster.memory` at once does
not fit, and says by how much.

`cluster.network` says how ranks are joined: `loopback`, all on one host, whose cores and messages a profile describes; else
a host each, with links between them, and `NETWORKS` says which keys describe them. What holds of any of these: `duplex`;
`slow`, a map from cables or hosts to how many times slower they are; `background`, the share of capacity that other traffic
takes, of all cables or by a map; `placement`, ranks in order (`block`) or one a node or leaf in turn (`cyclic`); and
`transport`, the corrections of `distsim.interface.Transport`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from math import inf
from typing import Any

from distsim.configuration import quantities
from distsim.configuration.graphs import read_graph
from distsim.configuration.quantities import Kind, Refused
from distsim.configuration.reader import FAILED, Reader
from distsim.interface import LV08, Strategy, Transport

NETWORKS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "loopback": ((), ()),
    "switch": (("bandwidth", "latency"), ("nics",)),
    "fully_connected": (("bandwidth", "latency"), ()),
    "ring": (("bandwidth", "latency"), ()),
    "two_level": (("bandwidth", "latency", "node_size", "node_bandwidth", "node_latency"), ("nics", "placement")),
    "fat_tree": (("bandwidth", "latency", "leaf_size", "uplinks"), ("uplink_bandwidth", "placement")),
    "torus": (("bandwidth", "latency", "shape"), ()),
    "graph": (("graph",), ()),
}
"""The keys that each network needs, and those that it may have; all but loopback may have `_OF_LINKS` too."""
_OF_LINKS = ("duplex", "slow", "background")
_OF_DEVICES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "profile": ((), ()),
    "roofline": (("flops", "memory_bandwidth"), ("efficiency", "overhead")),
}
PRESETS: Mapping[str, Transport] = {"none": Transport(), "lv08": LV08}
SLOWEST = 1e6
"""The largest factor of a slow cable."""


@dataclass(frozen=True)
class ClusterSection:
    """The keys of `cluster`, read; quantities in bytes, seconds and FLOPs. None where it does not apply."""

    name: str
    workers: int
    network: str
    bandwidth: float | None = None
    """Of a link, each direction; between nodes, of a network card."""
    latency: float | None = None
    """Of one link."""
    nics: int | None = None
    """Network cards a host, or a node."""
    node_size: int | None = None
    """Devices a node."""
    node_bandwidth: float | None = None
    """Of a device's link inside its node."""
    node_latency: float | None = None
    leaf_size: int | None = None
    """Hosts a leaf switch."""
    uplinks: int | None = None
    """Links from a leaf switch up, each to a spine of its own."""
    uplink_bandwidth: float | None = None
    shape: tuple[int, ...] | None = None
    """Hosts of a torus by dimension."""
    graph: Mapping[str, Any] | None = None
    """As distsim.configuration.graphs reads it."""
    duplex: str | None = None
    placement: str | None = None
    slow: Mapping[str, float] = field(default_factory=dict)
    background: Mapping[str, float] = field(default_factory=dict)
    transport: Transport = PRESETS["none"]
    device: str = "profile"
    flops: float | None = None
    efficiency: float | None = None
    """Share of `flops` that operations reach."""
    memory_bandwidth: float | None = None
    overhead: float | None = None
    memory: float | None = None
    profile: str = "auto"

    def ranks(self, strategy: Strategy) -> int:
        """Workers and servers."""
        return self.workers + strategy.server_count(self.workers)

    def hosts(self, strategy: Strategy) -> int:
        """What `ranks` live on: a server beside a worker needs none."""
        return self.workers if strategy.servers_beside() else self.ranks(strategy)

    def spelled(self) -> dict[str, object]:
        """The keys as a configuration writes them."""
        units = {"bandwidth": "bit/s", "node_bandwidth": "B/s", "uplink_bandwidth": "bit/s"}
        units |= {"flops": "flop/s", "memory_bandwidth": "B/s", "memory": "B"}
        values = dict(vars(self))
        for key, unit in units.items():
            if values[key] is not None:
                values[key] = quantities.spelled(values[key], unit)
        for key in ("latency", "node_latency", "overhead"):
            values[key] = quantities.spelled_seconds(values[key])
        values["shape"] = None if self.shape is None else list(self.shape)
        values["slow"], values["background"] = dict(self.slow), dict(self.background)
        values["transport"] = spelled_transport(self.transport)
        return values


_HOSTS = quantities.integer(1, 1_000_000)


def _shape(value: Any) -> tuple[int, ...]:
    """Two or three numbers of hosts."""
    if not isinstance(value, (list, tuple)) or len(value) not in (2, 3):
        raise Refused("two or three whole numbers, like [4,4] or [4,4,2]")
    return tuple(_HOSTS(size) for size in value)


CLUSTER: Mapping[str, Kind] = {
    "name": quantities.name,
    "workers": quantities.integer(1),
    "network": quantities.choice(*NETWORKS),
    "bandwidth": quantities.optional(quantities.bandwidth),
    "latency": quantities.optional(quantities.seconds(bare_at_most=1.0)),
    "nics": quantities.optional(quantities.integer(1, 1024)),
    "node_size": quantities.optional(_HOSTS),
    "node_bandwidth": quantities.optional(quantities.bandwidth),
    "node_latency": quantities.optional(quantities.seconds(bare_at_most=1.0)),
    "leaf_size": quantities.optional(_HOSTS),
    "uplinks": quantities.optional(_HOSTS),
    "uplink_bandwidth": quantities.optional(quantities.bandwidth),
    "shape": quantities.optional(_shape),
    "duplex": quantities.optional(quantities.choice("full", "half")),
    "placement": quantities.optional(quantities.choice("block", "cyclic")),
    "device": quantities.choice(*_OF_DEVICES),
    "flops": quantities.optional(quantities.flops),
    "efficiency": quantities.optional(quantities.number(above=0.0, at_most=1.0)),
    "memory_bandwidth": quantities.optional(quantities.bandwidth),
    "overhead": quantities.optional(quantities.seconds(bare_at_most=1.0)),
    "memory": quantities.optional(quantities.capacity),
    "profile": quantities.path,
}


def _window(value: Any) -> float:
    """Bytes, more than 0; a bare number counts bytes."""
    nbytes = quantities.size(value)
    if not nbytes:
        raise Refused("a size greater than 0 with its unit, like 4MiB")
    return nbytes


@dataclass(frozen=True)
class Corrections:
    """The keys of `cluster.transport`: what is not given is as the preset says."""

    preset: str = "none"
    bandwidth_factor: float | None = None
    latency_factor: float | None = None
    message_seconds: float | None = None
    window_bytes: float | None = None
    eager_bytes: float | None = None
    one_at_a_time: bool | None = None


_CORRECTION_KINDS: Mapping[str, Kind] = {
    "preset": quantities.choice(*PRESETS),
    "bandwidth_factor": quantities.optional(quantities.number(above=0.0, at_most=1.0)),
    "latency_factor": quantities.optional(quantities.number(at_least=0.0, at_most=1e6)),
    "message_seconds": quantities.optional(quantities.seconds(bare_at_most=1.0)),
    "window_bytes": quantities.optional(_window),
    "eager_bytes": quantities.optional(quantities.size),
    "one_at_a_time": quantities.optional(quantities.boolean),
}
_OF_MESSAGES = ("eager_bytes", "one_at_a_time")
"""Corrections that hold without links, too."""


def read_cluster(reader: Reader) -> ClusterSection | None:
    """The section `cluster`, its keys agreeing with each other."""
    maps = {"slow": quantities.number(above=0.0, at_most=SLOWEST), "background": quantities.number(at_least=0.0, below=1.0)}
    before = len(reader.problems)
    values = reader.section("cluster")
    read = {key: _by_cable(reader, key, kind, values.get(key)) for key, kind in maps.items()}
    graph = read_graph(reader, "cluster.graph", values.get("graph"))
    transport = _read_transport(reader)
    known = {**read, "graph": graph, "transport": transport}
    cluster = reader.fill("cluster", ClusterSection, {**CLUSTER, **{key: _as(value) for key, value in known.items()}})
    if cluster is None:
        return None
    _fits_choice(reader, cluster, "network", NETWORKS)
    _fits_choice(reader, cluster, "device", _OF_DEVICES)
    if cluster.network == "loopback":
        for key in _OF_LINKS:
            if getattr(cluster, key):
                reader.refuse(f"cluster.{key}", values[key], "only for a network of links", _TAKE_SWITCH)
        for key, value in vars(cluster.transport).items():
            if key not in _OF_MESSAGES and value != getattr(Transport(), key):
                allowed = "only for a network of links: loopback is as measured"
                reader.refuse(f"cluster.transport.{key}", _written(value), allowed, _TAKE_SWITCH)
    if len(reader.problems) > before:
        return None
    _sizes(reader, cluster)
    return _complete(cluster) if len(reader.problems) == before else None


_TAKE_SWITCH = "add cluster.network=switch or take cluster=switch"


def _fits_choice(
    reader: Reader, cluster: ClusterSection, choice: str, options: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
) -> None:
    """Refuse keys that the chosen network or device has no use for, and what it lacks."""
    chosen = getattr(cluster, choice)
    for key in dict.fromkeys(key for needed, more in options.values() for key in (*needed, *more)):
        owners = [name for name, (needed, more) in options.items() if key in (*needed, *more)]
        value = getattr(cluster, key)
        if key in options[chosen][0] and value is None:
            reader.refuse(f"cluster.{key}", None, f"must be given with cluster.{choice}={chosen}")
        elif chosen not in owners and value is not None:
            given = reader.section("cluster")[key]
            given = given if key != "graph" else "..."
            remedy = f"add cluster.{choice}={owners[0]}" if len(owners) == 1 else ""
            remedy = _TAKE_SWITCH if "switch" in owners and chosen == "loopback" else remedy
            reader.refuse(f"cluster.{key}", given, f"only for cluster.{choice}={_or(owners)}", remedy)


def _sizes(reader: Reader, cluster: ClusterSection) -> None:
    """Nodes divide the workers, and cards their devices."""
    node, size = ("node", cluster.node_size) if cluster.network == "two_level" else ("leaf", cluster.leaf_size)
    if size and cluster.workers % size and (node == "node" or cluster.placement == "cyclic") and cluster.workers > size:
        low = cluster.workers - cluster.workers % size
        what = "devices of a node" if node == "node" else "hosts of a leaf, to place them in turn"
        reader.refuse(
            "cluster.workers", cluster.workers, f"must divide by the {size} {what}", f"nearest: {low} or {low + size}"
        )
    if cluster.node_size and cluster.nics and cluster.nics > cluster.node_size:
        reader.refuse("cluster.nics", cluster.nics, f"at most one for each of the {cluster.node_size} devices of a node")


def _complete(cluster: ClusterSection) -> ClusterSection:
    """What is meant by what was left out."""
    changes: dict[str, Any] = {}
    if cluster.network != "loopback":
        changes["duplex"] = cluster.duplex or "full"
    if cluster.network in ("switch", "two_level"):
        changes["nics"] = cluster.nics or 1
    if cluster.network in ("two_level", "fat_tree"):
        changes["placement"] = cluster.placement or "block"
    if cluster.network == "fat_tree":
        changes["uplink_bandwidth"] = cluster.uplink_bandwidth or cluster.bandwidth
    if cluster.device == "roofline":
        changes["efficiency"] = cluster.efficiency or 1.0
    return replace(cluster, **changes)


def _by_cable(reader: Reader, key: str, kind: Kind, value: Any) -> Any:
    """A map from names of cables and hosts to numbers; FAILED after a problem. A number is of all cables."""
    if value is None or value == {}:
        return {}
    if not isinstance(value, Mapping):
        if key == "slow":
            reader.refuse("cluster.slow", value, "a map from cables or hosts to factors", "like cluster.slow={host3: 2}")
            return FAILED
        value = {"all": value}
    found: dict[str, Any] = {}
    for name, entry in sorted(_flat(value).items()):
        found[name] = reader.value(f"cluster.{key}.{name}", kind, entry)
    return FAILED if FAILED in found.values() else found


def _flat(values: Mapping[Any, Any]) -> dict[str, Any]:
    """`node0.nic1=2`, which a dotted key makes a map in a map, under one name again."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = _flat(value) if isinstance(value, Mapping) else {"": value}
        found |= {".".join(filter(None, (str(key), name))): entry for name, entry in inner.items()}
    return found


def _read_transport(reader: Reader) -> Any:
    """The corrections, those of the preset where nothing else is said; FAILED after a problem."""
    read = reader.fill("cluster.transport", Corrections, _CORRECTION_KINDS)
    if read is None:
        return FAILED
    given = {key: value for key, value in vars(read).items() if key != "preset" and value is not None}
    return replace(PRESETS[read.preset], **given)


def spelled_transport(transport: Transport) -> dict[str, object]:
    """Corrections as a configuration writes them, with the preset that they are."""
    preset = next((name for name in ("lv08", "none") if _like(transport, PRESETS[name])), "none")
    written = {key: _written(value) for key, value in asdict(transport).items()}
    return {"preset": preset, **written, "message_seconds": quantities.spelled_seconds(transport.message_seconds)}


def _like(transport: Transport, preset: Transport) -> bool:
    """True if it corrects links as the preset does."""
    keys = [field.name for field in fields(Transport) if field.name not in _OF_MESSAGES]
    return all(getattr(transport, key) == getattr(preset, key) for key in keys)


def _written(value: Any) -> Any:
    return None if value == inf else value


def _as(value: Any) -> Kind:
    return lambda _: value


def _or(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
