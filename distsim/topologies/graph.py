"""Hosts and switches joined at will: ways as given, or the shortest."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import fsum

from distsim.interface import Pattern, Route
from distsim.topologies.wiring import both


@dataclass(frozen=True)
class Link:
    """A full-duplex cable between two nodes of a graph."""

    ends: tuple[str, str]
    bandwidth: float
    latency: float
    name: str = ""
    """Empty: its ends with a hyphen between them."""


@dataclass(frozen=True)
class Graph:
    """Named hosts, named switches, and links between any two of them.

    A way is the given one, in either direction, else the one of least latency; of those the one with fewest links, and of
    those, seen from the host of lower number, the one whose last link was given first. Switches never block; hosts pass on
    what is not for them.
    """

    hosts: tuple[str, ...]
    """In the order of their numbers."""
    links: tuple[Link, ...]
    given: tuple[tuple[int, int, tuple[int, ...]], ...] = ()
    """Ways that are not the shortest: from a host, to a host, the numbers of the links between them in order."""
    _trees: dict[int, dict[str, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def capacities(self, hosts: int) -> Sequence[float]:
        return [link.bandwidth for link in self.links for _ in range(2)]

    def cables(self, hosts: int) -> Sequence[str]:
        return both([link.name or "-".join(link.ends) for link in self.links])

    def nearby(self) -> int:
        return 1

    def pattern(self) -> Pattern | None:
        return None

    def route(self, source: int, to: int) -> Route:
        known = self._given.get((source, to))
        return self._walk(source, known if known is not None else self._shortest(source, to))

    def _walk(self, source: int, cables: Sequence[int]) -> Route:
        """The links of cables that follow each other from a host, each in the direction of travel."""
        at, links = self.hosts[source], []
        for cable in cables:
            first, second = self.links[cable].ends
            links.append(2 * cable + (at != first))
            at = second if at == first else first
        return Route(tuple(links), fsum(self.links[cable].latency for cable in cables))

    @cached_property
    def _given(self) -> dict[tuple[int, int], tuple[int, ...]]:
        ways = {(to, source): cables[::-1] for source, to, cables in self.given}
        return ways | {(source, to): cables for source, to, cables in self.given}

    @cached_property
    def _around(self) -> dict[str, list[tuple[int, str]]]:
        """The cables at each node, and where they lead."""
        found: dict[str, list[tuple[int, str]]] = {}
        for cable, link in enumerate(self.links):
            first, second = link.ends
            found.setdefault(first, []).append((cable, second))
            found.setdefault(second, []).append((cable, first))
        return found

    def _shortest(self, source: int, to: int) -> list[int]:
        """The cables of the shortest way; that back is the same."""
        root, end = min(source, to), max(source, to)
        if root not in self._trees:
            self._trees[root] = self._tree(self.hosts[root])
        tree, at, cables = self._trees[root], self.hosts[end], []
        while at != self.hosts[root]:
            cables.append(tree[at])
            first, second = self.links[tree[at]].ends
            at = first if at == second else second
        return cables if source == end else cables[::-1]

    def _tree(self, root: str) -> dict[str, int]:
        """The last cable of the shortest way to every node that can be reached (Dijkstra, Numer. Math. 1, 1959)."""
        last: dict[str, int] = {}
        queue: list[tuple[float, int, int, str]] = [(0.0, 0, -1, root)]
        while queue:
            latency, hops, cable, node = heapq.heappop(queue)
            if node in last:
                continue
            last[node] = cable
            for following, there in self._around.get(node, ()):
                if there not in last:
                    heapq.heappush(queue, (latency + self.links[following].latency, hops + 1, following, there))
        return last
