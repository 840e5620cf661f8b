"""A fluid network: flows share links max-min fairly.

A flow first spends its path's latency, then its bytes move at the max-min fair rate, of which `sharing` says what it is.
This is SimGrid's model CM02 with all factors 1, for flows of equal latency: of others SimGrid gives each a share in inverse
proportion to its latency, which is not done here. All changes of one instant are taken together, at its end; flows that end
within the engine's window end at one instant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from heapq import heapify, heappop, heappush

from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.flows import Flow, Group, Link
from distsim.backends.simulated.sharing import Sharing

_LONG = 2.0**50
"""So many windows at a group's present rate, and the last bit of its virtual time is worth too much of one."""
_KEPT = 100_000
"""Paths whose links are kept; beyond, all are found anew."""


class Network:
    """Links by number, each with a capacity in bytes a second, and the flows on them."""

    def __init__(self, engine: Engine, capacities: Sequence[float]) -> None:
        self._engine = engine
        self._sharing = Sharing(capacities)
        self._paths: dict[tuple[int, ...], list[Link]] = {}  # the links of paths that have been used, but unlimited ones
        self._latent: dict[float, list[Flow]] = {}  # flows that spend their latency, by when it is over
        self._ends: list[tuple[float, int, Group]] = []  # when groups' first flows end, or earlier
        self._alarm = math.inf
        self._is_settling = False
        self._held: list[Flow] = []  # of no bytes, whose way is interrupted
        self._down: set[Link] = set()  # links that carry nothing; only membership is asked
        self._flows = 0
        self._accepted = 0.0  # bytes of all flows that were started
        self._waiting = 0.0  # bytes of flows that spend their latency
        self._ended = 0.0  # bytes that were left when flows ended: by rounding, or when they were dropped
        engine.is_held_up = self._is_held_up

    def start(
        self, path: Sequence[int], nbytes: float, latency: float, done: Callable[[], None], limit: float = math.inf
    ) -> None:
        """Move `nbytes` over the links of `path`, never faster than `limit` bytes a second, then call `done`."""
        if not (0.0 <= nbytes < math.inf and limit > 0.0):
            raise ValueError(
                f"{nbytes} bytes at up to {limit} a second: sizes are finite, not negative; limits are positive"
            )
        links = self._paths.get(path := tuple(path))
        if links is None:
            links = self._paths[path] = self._links(path)
        self._flows += 1
        flow = Flow(links, nbytes, limit, done, self._flows)
        self._accepted += nbytes
        self._waiting += nbytes
        if not latency:
            self._arrive(flow)
            self._settle_later()
            return
        over = self._engine.now + latency
        latent = self._latent.get(over)
        if latent is None:
            self._engine.after(latency, partial(self._arrive_together, over))
            self._latent[over] = [flow]
        else:
            latent.append(flow)

    def _links(self, path: Sequence[int]) -> list[Link]:
        """Those of a path that can be full."""
        if len(self._paths) >= _KEPT:
            self._paths.clear()
        return [link for link in map(self._sharing.links.__getitem__, path) if link.capacity < math.inf]

    def unaccounted(self) -> float:
        """Bytes started less those moved, under way and waiting, as a share of those started: 0 if bytes are conserved."""
        now, groups = self._engine.now, self._sharing.groups()
        for group in groups:
            group.advance(now)
        left = sum(end - group.virtual for group in groups for end, _, _ in group.flows) + self._sharing.waiting()
        moved = sum(group.moved for group in groups) + self._sharing.moved + self._ended
        lost = self._accepted - self._waiting - left - moved
        return lost / self._accepted if self._accepted else 0.0

    def _arrive_together(self, over: float) -> None:
        for flow in self._latent.pop(over):
            self._arrive(flow)
        self._settle_at_last()

    def _arrive(self, flow: Flow) -> None:
        """A flow has spent its latency."""
        self._waiting -= flow.left
        if flow.left and (flow.links or flow.limit < math.inf):
            self._sharing.join(flow)
        elif self._down and not self._down.isdisjoint(flow.links):
            self._held.append(flow)
        else:
            self._ended += flow.left
            flow.done()

    def change(self, capacities: Mapping[int, float]) -> None:
        """From now on these links have other capacities; at 0 what is on them, or comes to them, waits."""
        self._sharing.change(capacities)
        self._paths.clear()
        for number, capacity in capacities.items():
            link = self._sharing.links[number]
            self._down.discard(link) if capacity else self._down.add(link)
        held, self._held = self._held, []
        for flow in held:
            self._waiting += flow.left
            self._arrive(flow)
        self._settle_later()

    def _is_held_up(self) -> bool:
        """True if some flow waits for a link to be up again."""
        return bool(self._held) or any(group.flows and not group.rate for group in self._sharing.groups())

    def drop(self, done: Callable[[], None]) -> bool:
        """Take the flow that would call `done` off the network; False if it is not there."""
        for flows in self._latent.values():
            for flow in flows:
                if flow.done is done:
                    flows.remove(flow)
                    self._waiting -= flow.left
                    self._ended += flow.left
                    return True
        for flow in self._held:
            if flow.done is done:
                self._held.remove(flow)
                return True
        left = self._sharing.drop(done, self._engine.now)
        if left is None:
            return False
        self._ended += left
        self._settle_later()
        return True

    def _settle_later(self) -> None:
        if not self._is_settling:
            self._is_settling = True
            self._engine.at_end_of_instant(self._settle)

    def _settle_at_last(self) -> None:
        """Settle now, at the end of an event, if that is the end of the instant too."""
        if not self._is_settling:
            if self._engine.is_last:
                self._settle()
            else:
                self._settle_later()

    def _settle(self) -> None:
        self._is_settling = False
        engine, ends = self._engine, self._ends
        now = engine.now
        for group in self._sharing.settle(now):
            flows = group.flows
            if flows:
                rate = group.rate
                if not rate:
                    group.due = math.inf
                    continue
                if group.virtual * 1e12 > rate * _LONG and group.virtual > rate * engine.window * _LONG:
                    _begin_anew(group)
                    flows = group.flows
                group.due = due = now + (flows[0][0] - group.virtual) / rate
                if due < group.queued:  # when it has become later, that is seen once the time noted is here
                    group.queued = due
                    heappush(ends, (due, group.number, group))
        self._set_alarm(now)

    def _set_alarm(self, now: float) -> None:
        if self._ends and self._ends[0][0] < self._alarm:
            self._alarm = self._ends[0][0]
            self._engine.after(max(0.0, self._alarm - now), self._ring)

    def _ring(self) -> None:
        """End the flows that are due; there may be none, for alarms are not taken back."""
        now, ends = self._engine.now, self._ends
        window = self._engine.window_at(now)
        last = now + window
        if self._alarm <= last:
            self._alarm = math.inf
        ended: list[tuple[int, Flow]] = []
        while ends and ends[0][0] <= last:
            due, number, group = heappop(ends)
            if due != group.queued or not group.flows:
                continue
            if group.due > last:
                group.queued = group.due
                heappush(ends, (group.due, number, group))
                continue
            group.queued = math.inf
            group.advance(now)
            flows = group.flows
            until = max(flows[0][0], group.virtual + group.rate * window)
            while flows and flows[0][0] <= until:
                end, order, flow = heappop(flows)
                self._ended += end - group.virtual
                self._sharing.leave(flow)
                ended.append((order, flow))
        if ended:
            ended.sort()
            for _, flow in ended:
                flow.done()
            self._settle_at_last()
        else:
            self._set_alarm(now)


def _begin_anew(group: Group) -> None:
    """Let a group's virtual time begin at zero."""
    group.flows = [(end - group.virtual, order, flow) for end, order, flow in group.flows]
    heapify(group.flows)
    group.virtual = 0.0
