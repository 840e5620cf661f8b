"""Checkpoints of a run: when one is due, what it holds, and when it is complete.

A rank saves between two updates: what it holds is copied when its compute queue comes to it, and the queue is busy for the
cost. A checkpoint counts once all ranks that make updates have saved. What the others hold (the workers of a parameter
server) is copied, at no cost, when the first of these begins. In a strategy whose workers take turns there is no update
between which all of them are, and nothing is saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from distsim.backends.simulated.engine import Operation
from distsim.backends.simulated.fabric import SimulatedFabric
from distsim.interface import Checkpoint, Compute, Rank, Saved, Strategy


@dataclass
class State:
    """What a run can begin again with: the update that comes next, the samples before it, and what each rank holds."""

    update: int = 0
    samples: int = 0
    ranks: dict[int, Saved] = field(default_factory=dict)
    """Empty: as the run began."""


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, rule: Checkpoint, strategy: Strategy) -> None:
        self._rule = rule
        self._strategy = strategy
        self.last = State()
        self.count = 0
        self.since = 0.0
        """When work began that no checkpoint holds yet."""

    def watch(self, ranks: Sequence[Rank[Any]], fabrics: Sequence[SimulatedFabric], now: float) -> None:
        """An incarnation begins with these ranks, from `last`."""
        self._ranks, self._fabrics = ranks, fabrics
        self._due: dict[int, bool] = {}
        self._next = self._after(self.last.update)
        self._making: set[int] = set()  # ranks that make updates; only membership and number are asked
        self._open: dict[int, State] = {}
        self._saved: dict[int, int] = {}  # by update, how many ranks have
        self.since = now
        if not self._rule.is_off:
            for rank in ranks:
                rank.progress.arrive = partial(self._arrive, rank)

    def _after(self, update: int) -> float:
        every = self._rule.updates
        return float("inf") if every is None else (update // every + 1) * every

    def _arrive(self, rank: Rank[Any], update: int) -> bool:
        """A rank is about to make an update."""
        self._making.add(rank.rank)
        if update > self.last.update and self._is_due(update, rank.fabric.now()):
            self._save(rank, update)
        return True

    def _is_due(self, update: int, now: float) -> bool:
        """The first rank to ask decides for all."""
        due = self._due.get(update)
        if due is None:
            rule = self._rule
            by_time = rule.seconds is not None and not self._open and now - self.since >= rule.seconds
            due = self._due[update] = (by_time or update >= self._next) and self._strategy.can_resume(update)
            if due:
                self._next = self._after(update)
        return due

    def _save(self, rank: Rank[Any], update: int) -> None:
        state = self._open.get(update)
        if state is None:
            state = self._open[update] = State(update, rank.progress.course.samples(update))
            state.ranks = {other.rank: other.save() for other in self._ranks if other.rank not in self._making}
        stream, engine = self._fabrics[rank.rank].stream, rank.fabric.simulation.engine  # type: ignore[attr-defined]

        def copy(stop: object) -> None:
            state.ranks[rank.rank] = rank.save()

        operation: Operation[None] = stream.submit([self._rule.cost], 1.0, copy, None)
        engine.when(operation, partial(self._over, rank, state, operation))

    def _over(self, rank: Rank[Any], state: State, operation: Operation[None]) -> None:
        """A rank has saved."""
        rank.trace.compute.append(Compute("checkpoint", operation.begun, operation.ended, -1, -1))
        self._saved[state.update] = self._saved.get(state.update, 0) + 1
        if self._saved[state.update] == len(self._making):
            del self._open[state.update]
            self.last, self.since = state, operation.ended
            self.count += 1


def restore(ranks: Sequence[Rank[Any]], saved: Mapping[int, Saved]) -> None:
    """Let ranks go on from what was saved of them."""
    for rank in ranks:
        if rank.rank in saved:
            rank.restore(saved[rank.rank])
