"""A network that fills all links from scratch at every change: slow, plain, and independent of the package's.

Progressive filling (Bertsekas and Gallager, "Data Networks", 1992, section 6.5.2): rates are raised together until a link
is full or a flow as fast as it may be; its flows are fixed, and the rest goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from distsim.backends.simulated.engine import Engine

EQUAL = 1.0 + 1e-12
"""Shares of links that differ by less than this factor saturate together."""


@dataclass(eq=False)
class Flow:
    path: Sequence[int]
    left: float
    done: Callable[[], None]
    limit: float = math.inf
    rate: float = 0.0


class ReferenceNetwork:
    """Links by number, each with a capacity in bytes a second, and the flows on them."""

    def __init__(self, engine: Engine, capacities: Sequence[float]) -> None:
        self._engine = engine
        self._capacities = list(capacities)
        self._flows: list[Flow] = []
        self._since = 0.0
        self._alarm = 0
        self._dirty = False

    def start(
        self, path: Sequence[int], nbytes: float, latency: float, done: Callable[[], None], limit: float = math.inf
    ) -> None:
        def flow() -> None:
            if nbytes:
                self._advance()
                self._flows.append(Flow(path, nbytes, done, limit))
                self._solve_later()
            else:
                done()

        if latency:
            self._engine.after(latency, flow)
        else:
            flow()

    def change(self, capacities: Mapping[int, float]) -> None:
        self._advance()
        for link, capacity in capacities.items():
            self._capacities[link] = capacity
        self._solve_later()

    def unaccounted(self) -> float:
        return 0.0

    def _advance(self) -> None:
        elapsed, self._since = self._engine.now - self._since, self._engine.now
        if elapsed > 0.0:
            for flow in self._flows:
                flow.left -= flow.rate * elapsed

    def _solve_later(self) -> None:
        if not self._dirty:
            self._dirty = True
            self._engine.at_end_of_instant(self._solve)

    def _solve(self) -> None:
        self._dirty = False
        self._alarm += 1
        if not self._flows:
            return
        fill(self._flows, self._capacities)
        alarm = self._alarm
        delay = min((flow.left / flow.rate for flow in self._flows if flow.rate), default=math.inf)
        if delay < math.inf:
            self._engine.after(max(0.0, delay), lambda: self._ring(alarm))

    def _ring(self, alarm: int) -> None:
        if alarm != self._alarm:
            return  # the flows have changed since it was set
        self._advance()
        window = self._engine.window
        finished = [flow for flow in self._flows if flow.left <= flow.rate * window]
        self._flows = [flow for flow in self._flows if flow.left > flow.rate * window]
        self._solve_later()
        for flow in finished:
            flow.done()


def fill(flows: Sequence[Flow], capacities: Sequence[float]) -> None:
    """Set the max-min fair rate of every flow. A flow's limit is the capacity of one more link, which is its alone."""
    links = list(capacities) + [flow.limit for flow in flows]
    on: dict[int, list[Flow]] = {}
    paths = {flow: [*flow.path, len(capacities) + i] for i, flow in enumerate(flows)}
    for flow in flows:
        flow.rate = 0.0
        for link in paths[flow]:
            if links[link] < math.inf:
                on.setdefault(link, []).append(flow)
    left = {link: links[link] for link in on}
    count = {link: len(members) for link, members in on.items()}
    fixed = set[Flow]()
    while count:
        share = min(left[link] / n for link, n in count.items())
        full = [link for link, n in count.items() if left[link] / n <= share * EQUAL]
        for link in full:
            for flow in on[link]:
                if flow in fixed:
                    continue
                fixed.add(flow)
                flow.rate = share
                for other in paths[flow]:
                    if other in left:
                        left[other] -= share
                        count[other] -= 1
        count = {link: n for link, n in count.items() if n}
    for flow in flows:
        flow.rate = flow.rate if flow in fixed else math.inf
