"""Progressive filling: rates are raised together until a link is full or a flow as fast as it may be; its flows are fixed,
and the rest goes on (Bertsekas and Gallager, "Data Networks", 1992, section 6.5.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush

from distsim.backends.simulated.flows import Flow, Group, Link

Filled = tuple[Link | None, float, list[Flow]]
"""A bottleneck, a link or None for flows' own limit; the rate there; whose bottleneck it is."""


def fill(flows: Sequence[Flow], left: dict[Link, float]) -> list[Filled]:
    """The bottlenecks of `flows`, the slowest first, on links that have so much capacity left for them.

    Whose bottleneck is which does not depend on the order of flows and links that are alike (see folding).
    """
    on: dict[Link, list[Flow]] = {link: [] for link in left}
    queue: list[tuple[float, int, Link | Flow]] = []
    for flow in flows:
        for link in flow.links:
            on[link].append(flow)
        if flow.limit < math.inf:
            queue.append((flow.limit, len(queue), flow))
    count = {link: len(members) for link, members in on.items()}
    for link, n in count.items():
        queue.append((left[link] / n, len(queue), link))
    heapify(queue)
    filled: list[Filled] = []
    fixed: set[Flow] = set()  # only membership is asked
    while queue:
        share = queue[0][0]
        full: dict[Link, None] = {}
        slow: list[Flow] = []  # as fast as they may be
        while True:
            _, number, one = heappop(queue)
            if isinstance(one, Flow):
                slow.append(one)
            elif n := count[one]:
                if left[one] / n > share:  # flows have been fixed since it was queued
                    heappush(queue, (left[one] / n, number, one))
                else:
                    full[one] = None
            if not queue or queue[0][0] != share:
                break
        here: dict[Link | None, list[Flow]] = {}
        for bottleneck in full:
            for flow in on[bottleneck]:
                if flow not in fixed:
                    fixed.add(flow)
                    here.setdefault(_likeliest(flow, full, on), []).append(flow)
        for flow in slow:
            if flow not in fixed:
                fixed.add(flow)
                here.setdefault(None, []).append(flow)
        for at, members in here.items():
            filled.append((at, share, members))
            for flow in members:
                for link in flow.links:
                    left[link] -= share
                    count[link] -= 1
    return filled


def _likeliest(flow: Flow, full: dict[Link, None], on: Mapping[Link, Sequence[Flow]]) -> Link:
    """Of the links of a flow that are full at once its bottleneck: one that is so already, one of many flows, the first."""
    return min((link for link in flow.links if link in full), key=lambda link: (link.own is None, -len(on[link])))


def remainders(flows: Sequence[Flow], free: dict[Group, None]) -> dict[Link, float]:
    """The capacity that all groups but the free ones leave on these flows' links."""
    left: dict[Link, float] = {}
    for flow in flows:
        for link in flow.links:
            if link not in left:
                taken = [-n * group.rate for group, n in link.groups.items() if group not in free]
                left[link] = math.fsum([link.capacity, *taken])
    return left
