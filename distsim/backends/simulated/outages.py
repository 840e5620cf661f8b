"""Links that are down or slow for a while: their capacity changes at the instant, and what is on them goes on at that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.hosts import Hosts
from distsim.interface import Outage, is_part


class Outages:
    """The outages of all links of one run; each incarnation begins with the links as they are then."""

    def __init__(self, links: Mapping[str, Sequence[Outage]], cables: Sequence[str]) -> None:
        self._of: dict[int, list[Outage]] = {}
        """By the number of a link."""
        for word, outages in links.items():
            for link, cable in enumerate(cables):
                if is_part(word, cable):
                    self._of.setdefault(link, []).extend(outages)
        every = [outage for outages in self._of.values() for outage in outages]
        self._times = sorted({time for outage in every for time in (outage.at, outage.at + outage.seconds)})

    def begin(self, engine: Engine, hosts: Hosts) -> None:
        """An incarnation begins."""
        self._engine, self._hosts = engine, hosts
        if self._of:
            self._change()

    def _change(self) -> None:
        now = self._engine.now
        self._hosts.limit({link: self._share(outages, now) for link, outages in self._of.items()})
        later = next((time for time in self._times if time > now), None)
        if later is not None:
            self._engine.at(later, self._change)

    @staticmethod
    def _share(outages: Sequence[Outage], now: float) -> float:
        return prod(outage.share for outage in outages if outage.at <= now < outage.at + outage.seconds)
