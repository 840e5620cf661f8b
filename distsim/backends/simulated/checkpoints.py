"""What a run can begin again with: its checkpoints, and what its ranks hold between two updates.

Checkpoints: a rank saves between two updates. What it holds is copied when its compute queue comes to it, and the queue is
busy for the cost. A checkpoint counts once all ranks that make updates have saved. What the others hold (the workers of a
parameter server) is copied, at no cost, when the first of these begins. In a strategy whose workers take turns there is no
update between which all of them are, and nothing is saved.

Copies: a run that goes on without a lost rank goes back to the last update that all others have completed. For that every
rank's state between updates is kept, which costs nothing: it is what the survivors hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

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

    def watch(self, ranks: Sequence[Rank[Any]], first: int, now: float) -> None:
        """An incarnation begins with these ranks, before update `first`."""
        self.ranks, self._first = {rank.rank: rank for rank in ranks}, first
        self._due: dict[int, bool] = {}
        self._next = self._after(first)
        self._making: set[int] = set()  # ranks that make updates; only membership and number are asked
        self._open: dict[int, State] = {}
        self._saved: dict[int, int] = {}  # by update, how many ranks have
        self.since = now

    def _after(self, update: int) -> float:
        every = self._rule.updates
        return float("inf") if every is None else (update // every + 1) * every

    def arrive(self, rank: Rank[Any], update: int) -> None:
        """A rank is about to make an update."""
        self._making.add(rank.rank)
        if update > self._first and self._is_due(update, rank.fabric.now()):
            self._save(rank, update)

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
            state.ranks = {other.rank: other.save() for other in self.ranks.values() if other.rank not in self._making}
        fabric = cast("SimulatedFabric", rank.fabric)

        def copy(stop: object) -> None:
            state.ranks[rank.rank] = rank.save()

        operation: Operation[None] = fabric.stream.submit([self._rule.cost], 1.0, copy, None)
        fabric.simulation.engine.when(operation, partial(self._over, rank, state, operation))

    def _over(self, rank: Rank[Any], state: State, operation: Operation[None]) -> None:
        """A rank has saved."""
        rank.trace.compute.append(Compute("checkpoint", operation.begun, operation.ended, -1, -1))
        self._saved[state.update] = self._saved.get(state.update, 0) + 1
        if self._saved[state.update] == len(self._making):
            del self._open[state.update]
            self.last, self.since = state, operation.ended
            self.count += 1


class Copies:
    """What ranks that hold full copies of the model held before their last updates."""

    def __init__(self) -> None:
        self._of: dict[int, dict[int, tuple[float, int, Saved]]] = {}

    def arrive(self, rank: Rank[Any], update: int) -> None:
        """A rank is about to make an update. It may be one ahead of others: two are kept."""
        mine = self._of.setdefault(rank.rank, {})
        mine[update] = rank.fabric.now(), rank.progress.course.samples(update), rank.save()
        mine.pop(update - 2, None)

    def last(self, ranks: Iterable[int]) -> tuple[float, State] | None:
        """The state before the last update that all these ranks have come to, and when they had; None: not to any."""
        found = [self._of.get(rank, {}) for rank in ranks]
        if not all(found):
            return None
        update = min(max(mine) for mine in found)
        held = {rank: mine[update] for rank, mine in zip(ranks, found, strict=True)}
        samples = next(iter(held.values()))[1]
        since = max(at for at, _, _ in held.values())
        return since, State(update, samples, {rank: saved for rank, (_, _, saved) in held.items()})


def restore(ranks: Iterable[Rank[Any]], saved: Mapping[int, Saved]) -> None:
    """Let ranks go on from what was saved of them; who was not there has a copy of what another held."""
    if saved:
        copy = next(iter(saved.values()))
        for rank in ranks:
            rank.restore(saved.get(rank.rank, copy))
