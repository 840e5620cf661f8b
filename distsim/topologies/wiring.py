"""What holds of any topology: cables that carry one direction at a time, and cables slower than the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distsim.interface import Pattern, Route, Topology, is_part


def both(names: Sequence[str]) -> list[str]:
    """The names of links, from those of cables of two links each."""
    return [name for name in names for _ in range(2)]


@dataclass(frozen=True)
class HalfDuplex:
    """Any topology whose cables carry both directions on one capacity: link c is cable c."""

    topology: Topology

    def capacities(self, hosts: int) -> Sequence[float]:
        return self.topology.capacities(hosts)[::2]

    def route(self, source: int, to: int) -> Route:
        links, latency, limit = self.topology.route(source, to)
        return Route(tuple(link // 2 for link in links), latency, limit)

    def cables(self, hosts: int) -> Sequence[str]:
        return self.topology.cables(hosts)[::2]

    def nearby(self) -> int:
        return self.topology.nearby()

    def pattern(self) -> Pattern | None:
        pattern = self.topology.pattern()
        return None if pattern is None else pattern._replace(links=pattern.links // 2)


@dataclass(frozen=True)
class Scaled:
    """Any topology of which some cables have only a share of their bandwidth.

    Slower cables, and background traffic: a constant share of a cable that is taken away and never yields. (Flows that run
    always would yield to others, max-min fairly; what traffic of strangers does is not known, and a share can be measured.)
    """

    topology: Topology
    shares: tuple[tuple[str, float], ...]
    """Of a cable, of every cable that ends there ("host3", "leaf0"), or of all; several that meet multiply."""

    def capacities(self, hosts: int) -> Sequence[float]:
        capacities = list(self.topology.capacities(hosts))
        names = self.topology.cables(hosts)
        for word, share in self.shares:
            for link, name in enumerate(names):
                if is_part(word, name):
                    capacities[link] *= share
        return capacities

    def route(self, source: int, to: int) -> Route:
        return self.topology.route(source, to)

    def cables(self, hosts: int) -> Sequence[str]:
        return self.topology.cables(hosts)

    def nearby(self) -> int:
        return self.topology.nearby()

    def pattern(self) -> Pattern | None:
        return self.topology.pattern()
