"""The price of a collective: when each rank is over, from when each has come, without carrying out its transfers.

A transfer that has its links to itself takes latency + bytes / rate from when both ends have come to its round; a rank goes
on when its own are over. So times follow a recursion of maxima and sums (Baccelli, Cohen, Olsder and Quadrat,
"Synchronization and Linearity", 1992): exact, whoever comes when, if no two transfers that share a link can be under way at
once. That holds where some rank takes part in all transfers over a link, each in another round: `is_apart`. Of other plans
only lock step has a price: all start a round at once and share links by max-min, so that all end it at once.

In a ring of equal hops T[i] becomes max(T[i-1], T[i], T[i+1]) + d: after n >= P/2 rounds all are over at max(T) + n d.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from operator import add
from typing import NamedTuple

from distsim.backends.simulated.algorithms import Plan
from distsim.backends.simulated.routes import Routes

_EQUAL = 1e-12
"""Seconds within which ranks are in lock step."""
_KEPT = 64
"""Sizes whose price in lock step is kept."""


class Hop(NamedTuple):
    """A transfer's way: its latency, and the rate at which its share of the payload moves."""

    source: int
    to: int
    share: float
    latency: float
    rate: float

    def seconds(self, nbytes: float) -> float:
        """How long it takes."""
        return self.latency + self.share * nbytes / self.rate


class Course:
    """A plan, on the links between the ranks of a group."""

    def __init__(self, routes: Routes, ranks: Sequence[int], plan: Plan) -> None:
        """`ranks` of the whole group."""
        self.plan = plan
        self.users: dict[int, tuple[int, ...]] = {}
        """Of each link, the ranks (at most two) that take part in all transfers over it; () where transfers may meet."""
        self._capacity = routes.capacity
        ends = [[phase.ends(which) for which in range(len(phase.transfers))] for phase in plan.phases]
        pairs = [[(ranks[source], ranks[to]) for source, to in each] for each in ends]
        self._ways = [[routes.route(source, to) for source, to in each] for each in pairs]
        self._hops = [
            [
                Hop(*transfer, way.latency, min(way.limit, *map(routes.capacity, way.links), inf))
                for transfer, way in zip(phase.transfers, ways, strict=True)
            ]
            for phase, ways in zip(plan.phases, self._ways, strict=True)
        ]
        for each in pairs:
            self._note_users(routes, each)
        self.is_apart = all(self.users.values())
        """No two of its own transfers can meet on a link."""
        self._even = [self._is_even(hops) for hops in self._hops]
        self._shared: dict[int, list[Hop]] = {}
        self._in_step: dict[float, list[float] | None] = {}

    def _note_users(self, routes: Routes, pairs: Sequence[tuple[int, int]]) -> None:
        """Of the transfers of a phase."""
        seen = set[int]()
        for source, to in pairs:
            for link, ends in routes.users(source, to):
                users = self.users.get(link, ends)
                self.users[link] = () if link in seen else users if users == ends else tuple(r for r in users if r in ends)
                seen.add(link)

    @staticmethod
    def _is_even(hops: Sequence[Hop]) -> bool:
        """All take the same time."""
        return len({hop[2:] for hop in hops}) == 1

    def meets(self, other: Course) -> bool:
        """Whether the two share a link."""
        return not self.users.keys().isdisjoint(other.users)

    def takes_turns_with(self, other: Course) -> bool:
        """Whether some rank takes part in all transfers of both over each link that they share."""
        shared = self.users.keys() & other.users.keys()
        return all(not set(self.users[link]).isdisjoint(other.users[link]) for link in shared)

    def hop(self, phase: int, which: int) -> Hop:
        """A transfer's way, at the rate that it gets in lock step."""
        return (self._hops[phase] if self.is_apart else self._sharing(phase))[which]

    def in_step(self, nbytes: float) -> list[float] | None:
        """When each position is over after all have come at once; None if their transfers do not stay in lock step."""
        if nbytes not in self._in_step:
            if len(self._in_step) >= _KEPT:
                self._in_step.clear()
            alone = self.is_apart or not nbytes
            start = [0.0] * self.plan.size
            self._in_step[nbytes] = self._advance(start, nbytes) if alone else self._advance_together(start, nbytes)
        return self._in_step[nbytes]

    def ends(self, arrivals: Sequence[float], nbytes: float, window: float) -> list[float] | None:
        """When each position is over, from when each has come; None if that needs flows. Within `window` s is at once."""
        last = max(arrivals)
        if last - min(arrivals) <= window:
            offsets = self.in_step(nbytes)
        elif self.is_apart or not nbytes:
            offsets = self._advance([arrival - last for arrival in arrivals], nbytes)
        else:
            return None
        return None if offsets is None else [last + offset for offset in offsets]

    def _advance(self, times: list[float], nbytes: float) -> list[float]:
        for phase, hops, is_even in zip(self.plan.phases, self._hops, self._even, strict=True):
            if phase.rings:
                first = 0
                for ring in phase.rings:
                    mine = hops[first : first + len(ring)]
                    first += len(ring)
                    seconds = [mine[0].seconds(nbytes)] if is_even else [hop.seconds(nbytes) for hop in mine]
                    for position, time in zip(ring, _around([times[p] for p in ring], seconds, phase.times), strict=True):
                        times[position] = time
                continue
            for _ in range(phase.times):
                after = list(times)
                for hop in hops:
                    source, to = hop.source, hop.to
                    end = max(times[source], times[to]) + hop.seconds(nbytes)
                    after[source] = max(after[source], end)
                    after[to] = max(after[to], end)
                times = after
        return times

    def _advance_together(self, times: list[float], nbytes: float) -> list[float] | None:
        """All transfers of a phase start at once and end at once, or there is no price."""
        over = 0.0  # when the last of the phases so far is
        for number, phase in enumerate(self.plan.phases):
            hops = self._sharing(number)
            ends = [hop.seconds(nbytes) for hop in hops]
            members = {p for hop in hops for p in hop[:2]}
            starts = [times[p] for p in members]
            is_even = max(ends) - min(ends) <= _EQUAL and len({hop.latency for hop in hops}) == 1
            if not is_even or max(starts) - min(starts) > _EQUAL or min(starts) < over - _EQUAL:
                return None
            over = max(starts) + phase.times * max(ends)
            for position in members:
                times[position] = over
        return times

    def _sharing(self, number: int) -> list[Hop]:
        """The hops of a phase at the rates that they get when all are under way."""
        hops = self._shared.get(number)
        if hops is None:
            ways = [(way.links, way.limit) for way in self._ways[number]]
            rates = fair_rates(ways, self._capacity)
            hops = [hop._replace(rate=rate) for hop, rate in zip(self._hops[number], rates, strict=True)]
            self._shared[number] = hops
        return hops


def _around(times: list[float], seconds: list[float], rounds: int) -> list[float]:
    """`rounds` rounds of one ring, in which position i's transfer to the next takes seconds[i], or all take seconds[0]."""
    slowest = max(seconds)
    if 2 * rounds >= len(times) and min(seconds) == slowest:
        return [max(times) + rounds * slowest] * len(times)
    if len(seconds) == 1:
        seconds = seconds * len(times)
    for left in range(rounds, 0, -1):
        ends = list(map(add, map(max, times, times[1:] + times[:1]), seconds))
        after = list(map(max, ends, ends[-1:] + ends[:-1]))
        is_steady = all(abs(b - a - slowest) <= 1e-15 * abs(b) for a, b in zip(times, after, strict=True))
        times = after
        if is_steady:  # then every round is like this one
            return [time + (left - 1) * slowest for time in times]
    return times


def fair_rates(ways: Sequence[tuple[Sequence[int], float]], capacity: Callable[[int], float]) -> list[float]:
    """The max-min fair rates of flows over these links, each with a limit of its own: progressive filling."""
    flows = [[*links, -1 - i] for i, (links, _) in enumerate(ways)]  # a limit is a link that nobody shares
    left: dict[int, float] = {-1 - i: limit for i, (_, limit) in enumerate(ways)}
    on: dict[int, list[int]] = {}
    for i, links in enumerate(flows):
        for link in links:
            on.setdefault(link, []).append(i)
            left.setdefault(link, inf if link < 0 else capacity(link))
    count = {link: len(members) for link, members in on.items()}
    rates = [inf] * len(flows)
    open_ = set(range(len(flows)))
    while open_:
        share = min(left[link] / n for link, n in count.items())
        if share == inf:
            break
        full = [link for link, n in count.items() if left[link] / n <= share * (1.0 + 1e-12)]
        for i in _in_order(i for link in full for i in on[link]):
            if i not in open_:
                continue
            open_.discard(i)
            rates[i] = share
            for link in flows[i]:
                left[link] -= share
                count[link] -= 1
        count = {link: n for link, n in count.items() if n}
    return rates


def _in_order(members: Iterable[int]) -> Iterable[int]:
    return dict.fromkeys(members)
