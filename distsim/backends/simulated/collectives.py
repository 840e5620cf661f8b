"""Collectives: who has joined, what comes out, and when.

A group's collectives run in call order, one at a time. Each runs as `flows` (a ring, chunk by chunk, over the same links
as everything else) or at a `price` (its closed form from the last arrival, exact when nothing else uses its links). `auto`
takes the price when no message and no collective of these ranks is under way, and notes it if one starts meanwhile: then it
was not exact.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from distsim.backends.simulated.engine import Engine, Operation
from distsim.backends.simulated.hosts import Hosts, ring_rounds
from distsim.backends.simulated.messages import Messages
from distsim.interface import Collective, StrategyError

Mode = Literal["auto", "flows", "price"]
Group = tuple[int, ...]
Combine = Callable[[Collective, Sequence[Any]], list[Any]]


@dataclass(eq=False)
class _Round:
    """One collective of one group."""

    collective: Collective
    nbytes: float
    is_alone: bool = True
    """Nothing else has used its links since it began."""
    payloads: dict[int, Any] = field(default_factory=dict)
    operations: dict[int, Operation[Any]] = field(default_factory=dict)


class Collectives:
    """All collectives of a run."""

    def __init__(self, engine: Engine, hosts: Hosts, messages: Messages, mode: Mode) -> None:
        self._engine = engine
        self._hosts = hosts
        self._messages = messages
        self._mode = mode
        self._calls: defaultdict[tuple[Group, int], int] = defaultdict(int)
        self._rounds: dict[tuple[Group, int], _Round] = {}
        self._ready: defaultdict[Group, deque[tuple[_Round, Combine]]] = defaultdict(deque)
        self._under_way: list[_Round] = []
        self.inexact = 0
        """Priced collectives during which something else used the network."""

    def join(
        self, rank: int, group: Group, collective: Collective, payload: Any, nbytes: float, combine: Combine
    ) -> Operation[Any]:
        """A rank calls its next collective of `group`."""
        number = self._calls[group, rank]
        self._calls[group, rank] += 1
        round_ = self._rounds.setdefault((group, number), _Round(collective, nbytes))
        if (collective, nbytes) != (round_.collective, round_.nbytes):
            first = next(iter(round_.payloads))
            raise StrategyError(
                f"collective {number} of ranks {group}: rank {first} called {_say(round_.collective, round_.nbytes)}, "
                f"rank {rank} {_say(collective, nbytes)}; a group calls the same collectives in the same order"
            )
        round_.payloads[rank] = payload
        operation = round_.operations[rank] = self._engine.operation()
        if len(round_.payloads) == len(group):
            del self._rounds[group, number]
            self._ready[group].append((round_, combine))
            if len(self._ready[group]) == 1:
                self._run(group)
        return operation

    def missing(self, rank: int) -> list[tuple[Group, list[int]]]:
        """The groups in which this rank waits, and the members that have not joined: for the report of a deadlock."""
        return [
            (group, [r for r in group if r not in round_.payloads])
            for (group, _), round_ in self._rounds.items()
            if rank in round_.payloads
        ]

    def _run(self, group: Group) -> None:
        round_, combine = self._ready[group][0]
        values = [round_.payloads[r] for r in group]
        results = values if round_.collective.kind == "barrier" else combine(round_.collective, values)
        for operation in round_.operations.values():
            operation.begin()
        left = len(group)

        def finished(position: int) -> None:
            nonlocal left
            round_.operations[group[position]].finish(results[position])
            left -= 1
            if not left:
                self._ready[group].popleft()
                if self._ready[group]:
                    self._run(group)

        if len(group) == 1:
            finished(0)
            return
        rivals = [other for other in self._under_way if not other.payloads.keys().isdisjoint(group)]
        if not self._hosts.price_contends:
            round_.is_alone = not (rivals or self._messages.under_way)
            for other in rivals:
                other.is_alone = False
        self._under_way.append(round_)
        if not self._price(group, round_, finished):
            self._flow(group, round_, finished)

    def _price(self, group: Group, round_: _Round, finished: Callable[[int], None]) -> bool:
        """Carry the collective at its price, unless the mode or what else is under way asks for flows."""
        if self._mode == "flows" or (self._mode == "auto" and not round_.is_alone):
            return False
        messages = self._messages.started

        def over() -> None:
            self._under_way.remove(round_)
            if not round_.is_alone or (self._messages.started > messages and not self._hosts.price_contends):
                self.inexact += 1
            for position in range(len(group)):
                finished(position)

        return self._hosts.price(group, round_.collective, round_.nbytes, over)

    def _flow(self, group: Group, round_: _Round, finished: Callable[[int], None]) -> None:
        """Carry the collective as flows."""
        left = len(group)

        def over(position: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                self._under_way.remove(round_)
            finished(position)

        _Ring(self._hosts, group, round_.collective, round_.nbytes, over).start()


class _Ring:
    """A ring collective as flows between neighbours: a rank goes on once its own send and receive of a round are over."""

    def __init__(
        self, hosts: Hosts, group: Group, collective: Collective, nbytes: float, finished: Callable[[int], None]
    ) -> None:
        self._hosts = hosts
        self._group = group
        self._rounds, self._chunk = ring_rounds(collective, len(group), nbytes)
        self._finished = finished
        self._round = [0] * len(group)
        self._open = [0] * len(group)  # transfers of a rank's current round that are not over

    def start(self) -> None:
        """All ranks begin their first round."""
        for position in range(len(self._group)):
            self._open[position] = 2
        for position in range(len(self._group)):
            self._transfer(position)

    def _transfer(self, position: int) -> None:
        """Send from `position` to its neighbour: both are in the same round."""
        after = (position + 1) % len(self._group)

        def over() -> None:
            for p in (position, after):
                self._open[p] -= 1
                if not self._open[p]:
                    self._next(p)

        self._hosts.move(self._group[position], self._group[after], self._chunk, over)

    def _next(self, position: int) -> None:
        size = len(self._group)
        self._round[position] += 1
        if self._round[position] == self._rounds:
            self._finished(position)
            return
        self._open[position] = 2
        for sender in (position, (position - 1) % size):
            if self._round[sender] == self._round[(sender + 1) % size]:
                self._transfer(sender)


def _say(collective: Collective, nbytes: float) -> str:
    return f"{collective.kind} {collective.op}".strip() + f" of {nbytes:g} bytes"
