"""A fluid network: flows share links max-min fairly.

A flow first spends its path's latency, then its bytes move at a rate: rates are raised together until a link is full, the
flows through it are fixed, and the rest goes on (progressive filling; Bertsekas and Gallager, "Data Networks", 1992,
section 6.5.2). This is SimGrid's model CM02 with all factors 1. All changes of one instant are solved once, at its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distsim.backends.simulated.engine import Engine

_EQUAL = 1.0 + 1e-12
"""Shares of links that differ by less than this factor saturate together."""


@dataclass(eq=False)
class _Flow:
    path: Sequence[int]
    left: float
    done: Callable[[], None]
    rate: float = 0.0


class Network:
    """Links by number, each with a capacity in bytes a second, and the flows on them."""

    def __init__(self, engine: Engine, capacities: Sequence[float]) -> None:
        self._engine = engine
        self._capacities = list(capacities)
        self._flows: list[_Flow] = []
        self._since = 0.0
        self._alarm = 0
        self._dirty = False
        self._accepted = 0.0  # bytes of all flows that were started
        self._waiting = 0.0  # bytes of flows that still spend their latency
        self._moved = 0.0  # the integral of all rates

    def start(
        self, path: Sequence[int], nbytes: float, latency: float, done: Callable[[], None], limit: float = math.inf
    ) -> None:
        """Move `nbytes` over the links of `path`, at `limit` bytes a second at most, then call `done`."""
        if limit < math.inf:
            self._capacities.append(limit)  # a link of its own
            path = (*path, len(self._capacities) - 1)
        self._accepted += nbytes
        self._waiting += nbytes

        def flow() -> None:
            self._waiting -= nbytes
            if nbytes:
                self._advance()
                self._flows.append(_Flow(path, nbytes, done))
                self._solve_later()
            else:
                done()

        if latency:
            self._engine.after(latency, flow)
        else:
            flow()

    def unaccounted(self) -> float:
        """Bytes started less those moved, under way and waiting, as a share of those started: 0 if bytes are conserved."""
        self._advance()
        lost = self._accepted - self._moved - self._waiting - sum(flow.left for flow in self._flows)
        return lost / self._accepted if self._accepted else 0.0

    def _advance(self) -> None:
        elapsed, self._since = self._engine.now - self._since, self._engine.now
        if elapsed > 0.0:
            for flow in self._flows:
                moved = flow.rate * elapsed
                flow.left -= moved
                self._moved += moved

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
        delay = min(flow.left / flow.rate for flow in self._flows)
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
            self._moved += flow.left  # at most what a window moves
            flow.done()


def fill(flows: Sequence[_Flow], capacities: Sequence[float]) -> None:
    """Set the max-min fair rate of every flow."""
    on: dict[int, list[_Flow]] = {}
    for flow in flows:
        flow.rate = 0.0
        for link in flow.path:
            if capacities[link] < math.inf:
                on.setdefault(link, []).append(flow)
    left = {link: capacities[link] for link in on}
    count = {link: len(members) for link, members in on.items()}
    while count:
        share = min(left[link] / n for link, n in count.items())
        full = [link for link, n in count.items() if left[link] / n <= share * _EQUAL]
        for link in full:
            for flow in on[link]:
                if flow.rate:
                    continue
                flow.rate = share
                for other in flow.path:
                    if other in left:
                        left[other] -= share
                        count[other] -= 1
        count = {link: n for link, n in count.items() if n}
    for flow in flows:
        flow.rate = flow.rate or math.inf
