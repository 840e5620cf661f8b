"""Which links lie between two ranks, and what they carry: a topology, corrected as the transport says.

Where identical ranks are folded, links that are alike are one link, by the lowest of their numbers, and flows on it stand
for those on its images.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from distsim.backends.simulated.folding import APART, Fold, FoldedLinks, SetApart
from distsim.interface import Route, Topology, Transport

_WITHIN = Route((), 0.0)
"""The way between two ranks of one host."""
_KEPT = 300_000
"""Routes that are kept, at some 300 bytes each; beyond, all are found anew."""


class Routes:
    """The ways between ranks, each on a host of a topology."""

    def __init__(self, topology: Topology, hosts: Sequence[int], transport: Transport, fold: Fold = APART) -> None:
        """`hosts` of each rank; where ranks are folded, r is on host r. Raises `SetApart` if the network is not alike for
        them."""
        self._topology = topology
        self._hosts = hosts
        self._transport = transport
        self._fold = fold
        self._folded = None if fold is APART else FoldedLinks(topology, fold)
        capacities = self._folded.capacities if self._folded else topology.capacities(max(hosts) + 1)
        self.capacities = [capacity * transport.bandwidth_factor for capacity in capacities]
        """Bytes a second of each link."""
        self._known: dict[tuple[int, int], Route] = {}

    def route(self, source: int, to: int) -> Route:
        """The way of a message between two ranks; without links within a host."""
        route = self._known.get((source, to))
        if route is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            route = self._known[source, to] = self._find(self._hosts[source], self._hosts[to])
        return route

    def capacity(self, link: int) -> float:
        """Bytes a second of a link."""
        return self.capacities[link]

    def users(self, source: int, to: int) -> list[tuple[int, tuple[int, int]]]:
        """The links of a route, and its two ranks as seen from each: moved back as far as the link is when it is folded."""
        if self._folded is None:
            return [(link, (source, to)) for link in self.route(source, to).links]
        ranks, found = self._fold.ranks, []
        for each in self._topology.route(source, to).links:
            link, moved = self._folded.fold(each)
            found.append((link, ((source - moved) % ranks, (to - moved) % ranks)))
        return found

    def kind(self, source: int, to: int) -> tuple[Sequence[int], Route]:
        """Where ranks are folded, the links of the topology between two, and the route with each of them folded."""
        assert self._folded is not None
        route = self._topology.route(source, to)
        return route.links, route._replace(links=tuple(self._folded.fold(link)[0] for link in route.links))

    def image(self, link: int, step: int) -> int:
        """Where ranks are folded, the link of the topology that is to ranks moved on by `step` what this one is to them."""
        assert self._folded is not None
        return self._folded.image(link, step)

    def _find(self, here: int, there: int) -> Route:
        """The topology's route, corrected as the transport says."""
        if here == there:
            return _WITHIN
        links, latency, limit = self._topology.route(here, there)
        if self._folded is not None:
            self._folded.compare(self._topology, here, there)
            links = tuple(self._folded.fold(link)[0] for link in links)
            if len(set(links)) < len(links):
                raise SetApart("a way that meets its images")  # the same rates, but not to the last digit
        given = self._transport
        if given.window_bytes < inf and latency:
            limit = min(limit, given.window_bytes / (2.0 * latency))
        return Route(links, latency * given.latency_factor + given.message_seconds, limit * given.bandwidth_factor)
