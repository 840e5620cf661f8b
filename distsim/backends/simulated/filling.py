"""Progressive filling: rates are raised together until a link is full or a flow as fast as it may be; its flows are fixed,
and the rest goes on (Bertsekas and Gallager, "Data Networks", 1992, section 6.5.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from distsim.backends.simulated.flows import Flow, Group, Link

Filled = tuple[Link | None, float, list[Flow]]
"""A bottleneck, a link or None for flows' own limit; the rate there; whose bottleneck it is."""


def fill(flows: Sequence[Flow], left: dict[Link, float]) -> list[Filled]:
    """The bottlenecks of `flows`, the slowest first, on links that have so much capacity left for them."""
    on: dict[Link, list[Flow]] = {link: [] for link in left}
    queue: list[tuple[float, bool, int, int, Link | Flow]] = []
    for number, flow in enumerate(flows):
        for link in flow.links:
            on[link].append(flow)
        if flow.limit < math.inf:
            queue.append((flow.limit, True, 0, -1 - number, flow))
    count = {link: len(members) for link, members in on.items()}
    for number, (link, n) in enumerate(count.items()):  # of equal ones first those that are bottlenecks already
        queue.append((left[link] / n, link.own is None, -n, number, link))
    heapify(queue)
    filled: list[Filled] = []
    fixed: set[Flow] = set()  # only membership is asked
    while queue:
        share, is_new, order, number, full = heappop(queue)
        if isinstance(full, Flow):
            members, bottleneck = [full], None
        else:
            n = count[full]
            if not n:
                continue
            if left[full] / n > share:  # flows have been fixed since it was queued
                heappush(queue, (left[full] / n, is_new, order, number, full))
                continue
            members, bottleneck = on[full], full
        here = []
        for flow in members:
            if flow not in fixed:
                fixed.add(flow)
                here.append(flow)
                for link in flow.links:
                    left[link] -= share
                    count[link] -= 1
        if here:
            filled.append((bottleneck, share, here))
    return filled


def remainders(flows: Sequence[Flow], free: dict[Group, None]) -> dict[Link, float]:
    """The capacity that all groups but the free ones leave on these flows' links."""
    left: dict[Link, float] = {}
    for flow in flows:
        for link in flow.links:
            if link not in left:
                rest = link.capacity
                for group, n in link.groups.items():
                    if group not in free:
                        rest -= n * group.rate
                left[link] = rest
    return left
