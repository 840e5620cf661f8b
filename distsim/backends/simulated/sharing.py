"""Who shares what: the max-min fair rates of flows on links, kept while flows come and go.

A flow's bottleneck is a full link on which no flow is faster; rates are max-min fair just when every flow has one or is as
fast as its own limit. The flows of one bottleneck are a `Group`. All changes of an instant are taken together by `settle`,
in three steps, each only for what the one before could not do:

1. A flow that came joins the group of the link that has the least to share.
2. A group gets what others leave it of its link: all, if it is there alone. If it goes over other groups' bottlenecks,
   these change with it, the slower first (Ros-Giralt et al., "On the bottleneck structure of congestion-controlled
   networks", SIGMETRICS 2020).
3. Where that makes another the fastest on a group's link, or puts a link over capacity or a flow over its limit,
   bottlenecks have moved: these groups are taken apart and filled anew beside the others, and so is every group that this
   changes.

What comes out is max-min fair by the condition above: a group's link is full, no group on it is faster, and no other link
is over capacity; each is checked wherever a rate or a count has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from math import fsum

from distsim.backends.simulated.filling import Filled, fill, remainders
from distsim.backends.simulated.flows import EQUAL, Flow, Group, Link

Groups = dict[Group, None]
"""A set in a fixed order."""


class Sharing:
    """All links, and the rates of the flows on them."""

    def __init__(self, capacities: Sequence[float]) -> None:
        self.links = [Link(capacity) for capacity in capacities]
        self.moved = 0.0
        """Bytes moved by groups that are no more."""
        self._limited: dict[float, Group] = {}  # groups by their limit
        self._came: list[Flow] = []
        self._changed: Groups = {}
        self._is_new = False  # capacities have changed
        self._numbers = 0

    def join(self, flow: Flow) -> None:
        """A flow begins to move bytes."""
        for link in flow.links:
            link.count += 1
        self._came.append(flow)

    def leave(self, flow: Flow) -> None:
        """A flow, just taken off its group's heap, has moved its bytes."""
        group, changed = flow.group, self._changed
        assert group is not None
        group.leave(flow)
        changed[group] = None
        for link in flow.links:
            link.count -= 1
            if link.own is not None:
                changed[link.own] = None

    def drop(self, done: Callable[[], None], now: float) -> float | None:
        """Take a flow away that has bytes left; how many, or None if it is not here."""
        for flow in self._came:
            if flow.done is done:
                self._came.remove(flow)
                for link in flow.links:
                    link.count -= 1
                return flow.left
        for group in self.groups():
            for entry in group.flows:
                if entry[2].done is done:
                    group.advance(now)
                    group.flows.remove(entry)
                    heapify(group.flows)
                    self.leave(entry[2])
                    return entry[0] - group.virtual
        return None

    def change(self, capacities: Mapping[int, float]) -> None:
        """Links, by number, have other capacities. All rates are found anew at the next `settle`: that is rare."""
        for link, capacity in capacities.items():
            self.links[link].capacity = capacity
        self._is_new = True

    def settle(self, now: float) -> Iterable[Group]:
        """Make all rates fair again; the result are the groups whose rate or flows have changed."""
        changed, self._changed = self._changed, {}
        homeless: list[Flow] = []
        if self._is_new:
            self._is_new = False
            homeless, self._came = self._came, []
            self._refill(now, dict.fromkeys(self.groups()), homeless, changed)
            return changed
        if self._came:
            came, self._came = self._came, []
            homeless = self._place(now, came, changed)
            _bound(came, changed)
        wrong = self._propagate(now, changed)
        if wrong or homeless:
            self._refill(now, wrong, homeless, changed)
        return changed

    def groups(self) -> list[Group]:
        """The groups that there are."""
        return [link.own for link in self.links if link.own is not None] + list(self._limited.values())

    def waiting(self) -> float:
        """Bytes of flows that have come since `settle`."""
        return sum(flow.left for flow in self._came)

    # ---- step 1

    def _place(self, now: float, came: list[Flow], changed: Groups) -> list[Flow]:
        """Put flows into groups; the result are those that find a link full of flows that have another bottleneck.

        They come in no order: where they belong is looked for before any of them is there.
        """
        homeless = []
        placed: list[tuple[Flow, Link | None, float]] = []
        for flow in came:
            least, at = flow.limit, None
            for link in flow.links:
                share = link.capacity / link.count
                if share < least or (share == least and at is not None and link.fills > at.fills):
                    least, at = share, link
            if at is not None and at.own is None and at.groups:
                homeless.append(flow)
            else:
                placed.append((flow, at, least))
        for flow, at, least in placed:
            group = at.own if at is not None else self._limited.get(least)
            if group is None:
                group = self._new(at, least, now)
            else:
                group.advance(now)
            group.enter(flow)
            changed[group] = None
        return homeless

    def _new(self, link: Link | None, rate: float, now: float) -> Group:
        self._numbers += 1
        group = Group(link, self._numbers, now)
        if link is None:
            group.rate = rate
            self._limited[rate] = group
        else:
            if link.is_tight:
                link.loosen()
            link.own = group
            for other in link.groups:
                other.crossed[link] = None
        return group

    def _end(self, group: Group) -> None:
        """A group has no flows any more."""
        self.moved += group.moved
        group.moved = 0.0
        link = group.link
        if link is None:
            self._limited.pop(group.rate, None)
        elif link.own is group:
            link.own = None
            if link.groups:
                for other in link.groups:
                    del other.crossed[link]
                link.tighten()

    # ---- step 2

    def _propagate(self, now: float, changed: Groups) -> Groups:
        """Set the rates of changed groups and of those that these change; the result are groups that cannot have one."""
        wrong: Groups = {}
        last: list[Group] = []  # on these no other group depends
        queue: list[tuple[float, int, Group]] = []
        for group in changed:
            if not group.flows:
                self._end(group)
            elif group.crossed:
                heappush(queue, (group.rate, group.number, group))
            else:
                last.append(group)
        done: Groups = {}
        while queue:
            group = heappop(queue)[2]
            if group in done:
                continue
            done[group] = None
            before = group.rate
            if not _set(group, now):
                wrong[group] = None
            elif group.rate != before:
                for link in group.crossed:
                    other = link.own
                    assert other is not None
                    if other in done:
                        wrong[other] = None
                    elif other not in changed:
                        changed[other] = None
                        if other.crossed:
                            heappush(queue, (other.rate, other.number, other))
                        else:
                            last.append(other)
        for group in last:
            if not _set(group, now):
                wrong[group] = None
        for group in changed:
            if (group.rate > group.bound or group.tight) and group.flows and not group.fits():
                wrong[group] = None
        return wrong

    # ---- step 3

    def _refill(self, now: float, wrong: Groups, homeless: list[Flow], changed: Groups) -> None:
        """Take these groups apart, and every group whose rate theirs decides, and find their flows' bottlenecks."""
        free: Groups = {}
        flows = list(homeless)
        affected = [*wrong, *(link.own for flow in homeless for link in flow.links if link.own is not None)]
        while True:
            while affected:
                group = affected.pop()
                if group not in free:
                    free[group] = None
                    group.advance(now)
                    for end, _, flow in group.flows:
                        flow.left = end - group.virtual
                        flows.append(flow)
                    affected += [link.own for link in group.crossed if link.own is not None]
            filled = fill(flows, remainders(flows, free))
            affected = [
                group
                for link, share, _ in filled
                if link is not None
                for group in link.groups
                if group not in free and group.rate > share * EQUAL
            ]
            if not affected:
                self._regroup(now, filled, free, changed)
                return

    def _regroup(self, now: float, filled: list[Filled], free: Groups, changed: Groups) -> None:
        """Move the flows that have another bottleneck than before, and set the rates of their groups."""
        groups = [self._limited.get(rate) if link is None else link.own for link, rate, _ in filled]
        moving = []
        for found, (_, _, flows) in zip(groups, filled, strict=True):
            moves = [flow for flow in flows if flow.group is None or flow.group is not found]
            moving.append(moves)
            for flow in moves:
                if flow.group is not None:
                    flow.group.leave(flow)
                    flow.group = None
        kept = {found: None for found in groups if found is not None}
        for group in free:
            group.flows = [entry for entry in group.flows if entry[2].group is group]
            heapify(group.flows)
            if not group.flows and group not in kept:
                self._end(group)
        for (link, rate, _), moves in zip(filled, moving, strict=True):
            group = self._at(link, rate, now)
            group.rate = rate
            group.bound = 0.0  # not known before all rates are
            for flow in moves:
                group.enter(flow)
            kept[group] = changed[group] = None
        for group in kept:
            group.fits()

    def _at(self, link: Link | None, rate: float, now: float) -> Group:
        """The group of a bottleneck, a new one if there is none."""
        group = self._limited.get(rate) if link is None else link.own
        if group is None:
            group = self._new(link, rate, now)
            if link is not None:
                link.fills += 1
        else:
            group.advance(now)
        return group


def _bound(came: list[Flow], changed: Groups) -> None:
    """Note what more flows on a link change: its group, or how fast groups can be at most that have another bottleneck."""
    seen: dict[Link, None] = {}
    for flow in came:
        for link in flow.links:
            if link in seen:
                continue
            seen[link] = None
            if link.own is not None:
                changed[link.own] = None
            elif not link.is_tight:
                share = link.capacity / link.count
                for group in link.groups:
                    if share < group.bound:
                        group.bound = share
                    if share < group.rate:
                        changed[group] = None


def _set(group: Group, now: float) -> bool:
    """Give a group what others leave it of its link; False, and nothing done, if one of these would be faster."""
    group.advance(now)
    link = group.link
    if link is None:
        return True
    groups = link.groups
    if len(groups) == 1:
        group.rate = link.capacity / groups[group]
        return True
    others, fastest = [link.capacity], 0.0
    for other, n in groups.items():
        if other is not group:
            others.append(-n * other.rate)
            if other.rate > fastest:
                fastest = other.rate
    rate = fsum(others) / groups[group]
    if rate * EQUAL < fastest:
        return False
    group.rate = rate
    return True
