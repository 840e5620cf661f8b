"""Two levels of switches: hosts on leaves, leaves on spines, with any oversubscription."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm

from distsim.interface import Pattern, Route
from distsim.topologies.wiring import both


@dataclass(frozen=True)
class FatTree:
    """k hosts a leaf switch and u links from every leaf up, one to each of u spine switches: oversubscribed k : u.

    A way to host d on another leaf goes up to spine d mod u, whatever its source, and down again (D-mod-k routing: Zahavi,
    Johnson, Kerbyson and Lang, "Optimized InfiniBand fat-tree routing for shift all-to-all communication patterns",
    Concurrency and Computation 22(2), 2010).
    """

    hosts_a_leaf: int
    uplinks: int
    """Of a leaf; also the number of spines."""
    bandwidth: float
    """Bytes a second of a host's link, each direction."""
    uplink_bandwidth: float
    """Bytes a second of a link between leaf and spine, each direction."""
    latency: float
    """Seconds of one link; a way has two inside a leaf, else four."""

    def capacities(self, hosts: int) -> Sequence[float]:
        leaf = [self.bandwidth] * (2 * self.hosts_a_leaf) + [self.uplink_bandwidth] * (2 * self.uplinks)
        return leaf * -(-hosts // self.hosts_a_leaf)

    def route(self, source: int, to: int) -> Route:
        k, leaf = self.hosts_a_leaf, self.hosts_a_leaf + self.uplinks
        (here, i), (there, j) = divmod(source, k), divmod(to, k)
        up, down = 2 * (here * leaf + i), 2 * (there * leaf + j) + 1
        if here == there:
            return Route((up, down), 2.0 * self.latency)
        spine = k + to % self.uplinks
        return Route((up, 2 * (here * leaf + spine), 2 * (there * leaf + spine) + 1, down), 4.0 * self.latency)

    def cables(self, hosts: int) -> Sequence[str]:
        names = []
        for leaf in range(-(-hosts // self.hosts_a_leaf)):
            names += [f"host{leaf * self.hosts_a_leaf + place}" for place in range(self.hosts_a_leaf)]
            names += [f"leaf{leaf}-spine{spine}" for spine in range(self.uplinks)]
        return both(names)

    def nearby(self) -> int:
        return self.hosts_a_leaf

    def pattern(self) -> Pattern | None:
        leaves = lcm(self.hosts_a_leaf, self.uplinks) // self.hosts_a_leaf  # after which destinations take the same spines
        return Pattern(leaves * self.hosts_a_leaf, 2 * leaves * (self.hosts_a_leaf + self.uplinks))
