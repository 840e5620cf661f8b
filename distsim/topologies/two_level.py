"""Nodes of several devices: a fast switch inside each, network cards and one switch between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distsim.interface import Pattern, Route
from distsim.topologies.wiring import both


@dataclass(frozen=True)
class TwoLevel:
    """Nodes of n devices, each a host: inside a node a non-blocking switch like NVSwitch, between nodes another.

    A way inside a node is the two devices' own links. A way to another node is two cards' links: it leaves by the card
    nearest to its source and arrives by the one nearest to its destination (device i of n is nearest to card i m div n of
    m), as collective libraries choose them. What lies between a device and its card is not modeled: it takes no time.
    """

    devices: int
    """Of a node; host h is device h mod n of node h div n."""
    inner_bandwidth: float
    """Bytes a second of a device's link inside its node, each direction."""
    inner_latency: float
    """Seconds of one such link; a way has two."""
    nics: int
    """Network cards a node, 1 to n."""
    bandwidth: float
    """Bytes a second of a card's link, each direction."""
    latency: float
    """Seconds of one such link; a way has two."""

    def capacities(self, hosts: int) -> Sequence[float]:
        node = [self.inner_bandwidth] * (2 * self.devices) + [self.bandwidth] * (2 * self.nics)
        return node * -(-hosts // self.devices)

    def route(self, source: int, to: int) -> Route:
        (here, i), (there, j) = divmod(source, self.devices), divmod(to, self.devices)
        out, into = here * (self.devices + self.nics), there * (self.devices + self.nics)
        if here == there:
            return Route((2 * (out + i), 2 * (into + j) + 1), 2.0 * self.inner_latency)
        out += self.devices + i * self.nics // self.devices
        into += self.devices + j * self.nics // self.devices
        return Route((2 * out, 2 * into + 1), 2.0 * self.latency)

    def cables(self, hosts: int) -> Sequence[str]:
        names = []
        for node in range(-(-hosts // self.devices)):
            names += [f"host{node * self.devices + device}" for device in range(self.devices)]
            names += [f"node{node}.nic{nic}" for nic in range(self.nics)]
        return both(names)

    def nearby(self) -> int:
        return self.devices

    def pattern(self) -> Pattern | None:
        return Pattern(self.devices, 2 * (self.devices + self.nics))
