"""Links, the flows on them, and groups of flows that have one bottleneck and so one rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from heapq import heappush

EQUAL = 1.0 + 1e-12
"""Rates that differ by less than this factor are equal."""


class Link:
    """A link and the groups whose flows go over it. `own` is the group whose bottleneck it is, if it is one.

    A link that is none may not be over capacity, which is seen in one of two ways. Usually every group's `bound` is at most
    an equal share of it. If a group is faster than that while others are slower, the link is tight: it is in the `tight` of
    all its groups, and its load is added up whenever one of them changes.
    """

    __slots__ = ("capacity", "count", "fills", "groups", "is_tight", "own")

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.count = 0
        """Flows that go over it, with those that have no group yet."""
        self.groups: dict[Group, int] = {}
        """How many flows of each group go over it."""
        self.own: Group | None = None
        self.is_tight = False
        self.fills = 0
        """How often it has become the bottleneck of flows that had another: of two equal links the likelier one."""

    def tighten(self) -> None:
        """Its load must be looked at."""
        self.is_tight = True
        for group in self.groups:
            group.tight[self] = None

    def loosen(self) -> None:
        """Its load need not be looked at: it has become a bottleneck, or no group is faster than an equal share."""
        self.is_tight = False
        share = self.capacity / self.count
        for group in self.groups:
            del group.tight[self]
            if share < group.bound:
                group.bound = share

    def fits(self) -> bool:
        """True if a tight link is not over capacity; it may find that it is not tight."""
        load = fastest = 0.0
        for group, n in self.groups.items():
            load += n * group.rate
            if group.rate > fastest:
                fastest = group.rate
        if load > self.capacity * EQUAL:
            return False
        if fastest * self.count <= self.capacity:
            self.loosen()
        return True


class Flow:
    """So many bytes on their way over some links, never faster than `limit`."""

    __slots__ = ("done", "group", "left", "limit", "links", "order")

    def __init__(self, links: Sequence[Link], nbytes: float, limit: float, done: Callable[[], None], order: int) -> None:
        self.links = links
        self.left = nbytes
        """Bytes, as of when it joined its group."""
        self.limit = limit
        self.done = done
        self.order = order
        self.group: Group | None = None


class Group:
    """The flows of one bottleneck: a link or, with `link` None, a limit that they all have.

    They have one rate, so one virtual time does: it grows by the rate, and a flow that joins with n bytes ends when it has
    grown by n. Joining and leaving are heap operations, and no other flow is touched.
    """

    __slots__ = (
        "bound",
        "crossed",
        "due",
        "flows",
        "link",
        "moved",
        "number",
        "queued",
        "rate",
        "since",
        "tight",
        "virtual",
    )

    def __init__(self, link: Link | None, number: int, now: float) -> None:
        self.link = link
        self.number = number
        self.rate = 0.0
        self.flows: list[tuple[float, int, Flow]] = []
        """A heap by the virtual time at which they end."""
        self.virtual = 0.0
        self.since = now
        self.moved = 0.0
        """Bytes that its flows have moved."""
        self.bound = math.inf
        """No flow's limit and no equal share of a link that is neither tight nor a bottleneck is below it."""
        self.crossed: dict[Link, None] = {}
        """Other groups' bottlenecks that its flows go over."""
        self.tight: dict[Link, None] = {}
        self.due = self.queued = math.inf  # the network's: when its first flow ends, and for when that is noted

    def advance(self, now: float) -> None:
        """Move bytes until now."""
        elapsed = now - self.since
        if elapsed > 0.0:
            step = self.rate * elapsed
            self.since = now
            self.virtual += step
            self.moved += step * len(self.flows)

    def enter(self, flow: Flow) -> None:
        """Take a flow that has `left` bytes left. The bound is not lowered for the links."""
        flow.group = self
        heappush(self.flows, (self.virtual + flow.left, flow.order, flow))
        if flow.limit < self.bound:
            self.bound = flow.limit
        for link in flow.links:
            groups = link.groups
            if self in groups:
                groups[self] += 1
                continue
            groups[self] = 1
            own = link.own
            if own is None:
                if link.is_tight:
                    self.tight[link] = None
            elif own is not self:
                self.crossed[link] = None

    def leave(self, flow: Flow) -> None:
        """Take a flow that is no more in `flows` off the links."""
        for link in flow.links:
            groups = link.groups
            left = groups[self] - 1
            if left:
                groups[self] = left
                continue
            del groups[self]
            if link.is_tight:
                del self.tight[link]
            elif link in self.crossed:
                del self.crossed[link]

    def fits(self) -> bool:
        """True if, of all links but bottlenecks, none is over capacity, and no flow over its limit."""
        for link in list(self.tight):
            if not link.fits():
                return False
        if self.rate <= self.bound:
            return True
        bound, most = math.inf, self.rate / EQUAL
        for _, _, flow in self.flows:
            if flow.limit < bound:
                if flow.limit < most:
                    return False
                bound = flow.limit
            for link in flow.links:
                if link.own is not None or link.is_tight:
                    continue
                share = link.capacity / link.count
                if share < most:
                    link.tighten()
                    if not link.fits():
                        return False
                elif share < bound:
                    bound = share
        self.bound = bound
        return True
