"""Carrying out a plan, transfer by transfer: who has come begins, and a rank goes on when its own transfers are over.

A transfer of a round starts when both its ends have come to that round. `move` says how it travels: as a flow among all
others, or for so many seconds. `Replay` carries a plan out on a clock of its own, up to an instant: what is under way then
goes on as flows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from distsim.backends.simulated.algorithms import Plan

Done = Callable[[], None]
Move = Callable[[int, int, Done], None]
"""Phase, transfer of it, and what to call when it is over."""


class Rounds:
    """One collective by its plan."""

    def __init__(self, plan: Plan, move: Move, finished: Callable[[int], None]) -> None:
        self.move = move
        self._plan = plan
        self._finished = finished
        self._part = [-1] * plan.size  # which of its parts a position is in; -1 before it has come
        self._time = [0] * plan.size  # which time it goes through that phase
        self._open = [0] * plan.size  # transfers of its round that are not over
        self._over: deque[tuple[int, int]] = deque()  # of each transfer that is, its two ends
        self._is_going_on = False

    def arrive(self, position: int) -> None:
        """A rank has come."""
        self._is_going_on = True
        self._next(position)
        self._is_going_on = False
        self._go_on()

    def _next(self, position: int) -> None:
        """Enter the next round; start its transfers whose other end has come to it."""
        plan, parts = self._plan, self._plan.parts[position]
        part = self._part[position]
        if part >= 0 and self._time[position] + 1 < plan.phases[parts[part][0]].times:
            self._time[position] += 1
        else:
            part = self._part[position] = part + 1
            self._time[position] = 0
            if part == len(parts):
                self._finished(position)
                return
        phase, mine = parts[part]
        transfers = plan.phases[phase].transfers
        self._open[position] = len(mine)
        for which in dict.fromkeys(mine):  # one to itself, where a rank stands for others, has both its ends here
            source, to, _ = transfers[which]
            if self._is_in(source + to - position, phase, self._time[position]):
                self._start(phase, which, source, to)

    def _is_in(self, position: int, phase: int, time: int) -> bool:
        part, parts = self._part[position], self._plan.parts[position]
        return 0 <= part < len(parts) and parts[part][0] == phase and self._time[position] == time

    def _start(self, phase: int, which: int, source: int, to: int) -> None:
        def over() -> None:
            self._over.append((source, to))
            self._go_on()

        self.move(phase, which, over)

    def _go_on(self) -> None:
        """Not by recursion: transfers that take no time are over within their start."""
        if self._is_going_on:
            return
        self._is_going_on = True
        while self._over:
            for position in self._over.popleft():
                self._open[position] -= 1
                if not self._open[position]:
                    self._next(position)
        self._is_going_on = False


class Underway(NamedTuple):
    """A transfer that has begun, and when."""

    phase: int
    which: int
    begun: float
    done: Done


class Replay:
    """A plan carried out on a clock of its own, where each transfer takes its time and none slows another down."""

    def __init__(self, plan: Plan, seconds: Callable[[int, int], float], finished: Callable[[int], None]) -> None:
        self.rounds = Rounds(plan, self._move, finished)
        self._seconds = seconds
        self._now = 0.0
        self._events: list[tuple[float, int, Underway]] = []
        self._number = 0

    def until(self, now: float, arrivals: Sequence[tuple[float, int]]) -> list[Underway]:
        """Carry it out up to `now` with these arrivals (when, position), in order of time; what is under way then."""
        for when, position in arrivals:
            self._run(when)
            self._now = when
            self.rounds.arrive(position)
        self._run(now)
        return [underway for _, _, underway in sorted(self._events)]

    def _run(self, now: float) -> None:
        while self._events and self._events[0][0] <= now:
            self._now, _, underway = heappop(self._events)
            underway.done()

    def _move(self, phase: int, which: int, done: Done) -> None:
        self._number += 1
        underway = Underway(phase, which, self._now, done)
        heappush(self._events, (self._now + self._seconds(phase, which), self._number, underway))
