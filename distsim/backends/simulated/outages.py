"""Links that are down or slow for a while: their capacity changes at the instant, and what is on them goes on at that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf, prod

from distsim.backends.simulated.hosts import Hosts
from distsim.interface import Outage, is_part

At = Callable[[float, Callable[[], None]], None]
"""Calls back at a time."""


class Outages:
    """The outages of all links of one run; each incarnation begins with the links as they are then."""

    def __init__(self, links: Mapping[str, Sequence[Outage]], cables: Sequence[str], seed: int) -> None:
        self._of: dict[int, list[_Course]] = {}
        """By the number of a link."""
        for word, outages in links.items():
            for which, outage in enumerate(outages):
                for link, cable in enumerate(cables):  # both directions of a cable have its name, and so its outages
                    if is_part(word, cable):
                        spans = outage.spans(seed, f"{cable} by {word} {which}")
                        self._of.setdefault(link, []).append(_Course(spans, outage.share))

    def begin(self, at: At, now: float, hosts: Hosts) -> None:
        """An incarnation begins."""
        self._at, self._hosts = at, hosts
        self._shares: dict[int, float] = {}
        if self._of:
            self._change(now)

    def _change(self, now: float) -> None:
        shares = {link: prod(course.share(now) for course in courses) for link, courses in self._of.items()}
        self._hosts.limit({link: share for link, share in shares.items() if self._shares.get(link) != share})
        self._shares = shares
        later = min(course.later for courses in self._of.values() for course in courses)
        if later < inf:
            self._at(later, lambda: self._change(later))


class _Course:
    """One outage of a link, again and again if it comes by rate."""

    def __init__(self, spans: Iterator[tuple[float, float]], share: float) -> None:
        self._spans = spans
        self._share = share
        self._span = next(spans, None)
        self.later = inf
        """When the share is another."""

    def share(self, now: float) -> float:
        """The share of the link's capacity; to be asked for later and later times."""
        while self._span is not None and self._span[1] <= now:
            self._span = next(self._spans, None)
        if self._span is None:
            self.later = inf
            return 1.0
        begin, end = self._span
        self.later = end if begin <= now else begin
        return self._share if begin <= now else 1.0
