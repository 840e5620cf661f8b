"""One collective of one group, and how far each rank of the group is in its collectives."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from distsim.backends.simulated.algorithms import Algorithm, Plan
from distsim.backends.simulated.engine import Operation
from distsim.backends.simulated.folding import Fold, members
from distsim.backends.simulated.prices import Course
from distsim.backends.simulated.rounds import Rounds
from distsim.interface import Collective

Ranks = tuple[int, ...]
Combine = Callable[[Collective, Sequence[Any]], list[Any]]


class Call:
    """One collective of one group."""

    def __init__(self, group: Group, collective: Collective, nbytes: float, combine: Combine) -> None:
        size = len(group.simulated)
        self.group = group
        self.collective = collective
        self.nbytes = nbytes
        self.combine = combine
        self.payloads: list[Any] = [None] * size
        self.operations: list[Operation[Any] | None] = [None] * size
        self.called = 0
        self.arrivals = [math.nan] * size
        self.come = 0
        self.begun = math.nan  # when the last came
        self.is_over = [False] * size
        self.over = 0
        self.results: list[Any] | None = None
        self.plan: Plan | None = None
        self.course: Course | None = None
        self.rounds: Rounds | None = None  # as flows; else at a price
        self.alarms = 0  # changes when what was to happen at a price no longer does
        self.is_priced = False
        self.is_disturbed = False
        self.is_watched = False  # for what else may use its links
        self.is_in_doubt = False  # something else may use its links now
        self.rivals: list[Call] = []  # that are watched, and may use some of them

    def is_busy(self, rank: int) -> bool:
        """This rank, or the one that stands for it, has come, and is not over."""
        position = self.group.position_of(rank)
        return position is not None and self.arrivals[position] >= 0.0 and not self.is_over[position]

    def is_using(self, link: int) -> bool:
        """A transfer may be on this link now."""
        assert self.course is not None
        users = self.course.users.get(link)
        return users is not None and all(map(self.is_busy, users))

    def meets(self, other: Call) -> bool:
        """Both may be using some link now."""
        assert self.course is not None
        return any(self.is_using(link) and other.is_using(link) for link in self.course.users)


class Group:
    """The collectives of one group, in call order, and how far each simulated member is; positions are among these."""

    def __init__(self, ranks: Ranks, fold: Fold) -> None:
        """Raises `SetApart` if the simulated members cannot stand for the others."""
        self.members = members(ranks, fold)
        self.simulated = self.members.simulated
        self._position = {rank: position for position, rank in enumerate(self.simulated)}
        self._fold = fold
        self.calls: deque[Call] = deque()  # not all of whose ranks are over
        self.first = 0  # the number of the first of them
        self.called = [0] * len(self.simulated)  # by each rank
        self.turn = [0] * len(self.simulated)  # the number of the call that each rank takes part in next
        self.plans: dict[tuple[Algorithm, str, int], tuple[Plan, Course | None]] = {}
        self.hop: tuple[float, float] | None = None  # latency and bandwidth of its slowest neighbours

    def position_of(self, rank: int) -> int | None:
        """Of a rank, or of the one that stands for it, among the simulated members."""
        return self._position.get(self._fold.standing_for(rank))

    def combine(self, call: Call) -> list[Any]:
        """The results of a call that all have called, those of the simulated members. What it raises is a caller's."""
        if self.members.is_whole:
            return call.combine(call.collective, call.payloads)
        results = call.combine(call.collective, [call.payloads[place] for place in self.members.place])
        first = dict(zip(reversed(self.members.place), reversed(results), strict=True))
        return [first[place] for place in range(len(self.simulated))]

    def call(self, number: int) -> Call | None:
        """A call that is not over."""
        place = number - self.first
        return self.calls[place] if place < len(self.calls) else None
