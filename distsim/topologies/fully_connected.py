"""A cable between every two hosts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from distsim.interface import Pattern, Route
from distsim.topologies.wiring import both


@dataclass(frozen=True)
class FullyConnected:
    """Hosts with a full-duplex cable of its own between every two: P (P - 1) / 2 of them, and a way is one link."""

    hosts: int
    bandwidth: float
    """Bytes a second of one cable, each direction."""
    latency: float

    def capacities(self, hosts: int) -> Sequence[float]:
        return [self.bandwidth] * (self.hosts * (self.hosts - 1))

    def route(self, source: int, to: int) -> Route:
        low, high = (source, to) if source < to else (to, source)
        cable = low * (2 * self.hosts - low - 1) // 2 + high - low - 1
        return Route((2 * cable + (source > to),), self.latency)

    def cables(self, hosts: int) -> Sequence[str]:
        return both([f"host{low}-host{high}" for low, high in combinations(range(self.hosts), 2)])

    def nearby(self) -> int:
        return 1

    def pattern(self) -> Pattern | None:
        return None  # the cables' numbers do not follow the hosts'
