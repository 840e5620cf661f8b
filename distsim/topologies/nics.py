"""One non-blocking switch to which every host has several links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distsim.interface import Pattern, Route
from distsim.topologies.wiring import both


@dataclass(frozen=True)
class SwitchedNics:
    """Hosts on one non-blocking switch with several network cards each, every one with a full-duplex link of its own.

    A message to host d leaves by card d mod n; one from host s arrives by card s mod n: what a hash of addresses does, made
    regular. One pair of hosts never has more than one card.
    """

    bandwidth: float
    """Bytes a second of one card, each direction."""
    latency: float
    """Seconds of one link; a way has two."""
    nics: int
    """Cards a host."""

    def capacities(self, hosts: int) -> Sequence[float]:
        return [self.bandwidth] * (2 * self.nics * hosts)

    def route(self, source: int, to: int) -> Route:
        out, into = source * self.nics + to % self.nics, to * self.nics + source % self.nics
        return Route((2 * out, 2 * into + 1), 2.0 * self.latency)

    def cables(self, hosts: int) -> Sequence[str]:
        return both([f"host{host}.nic{nic}" for host in range(hosts) for nic in range(self.nics)])

    def nearby(self) -> int:
        return 1

    def pattern(self) -> Pattern | None:
        return Pattern(self.nics, 2 * self.nics * self.nics)
