"""The strategy `leader`, by an entry point of the group `distsim.strategies` (see pyproject.toml)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from distsim.interface import Batch, Model, Problem, Strategy, T, Worker


@dataclass(frozen=True)
class Leader(Strategy):
    """One worker collects the mean of all gradients, updates, and sends the new model to the others.

    Staleness 0; X_(P) for the slowest of P workers, then a reduction and a broadcast of M bytes.
    """

    leader: int = 0
    """Which worker."""

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        """It must be one of them."""
        if not 0 <= self.leader < workers:
            yield Problem("strategy.leader", self.leader, f"must be 0 to {workers - 1}: it is one of {workers} workers")

    async def run(self, worker: Worker[T]) -> None:
        for step in worker.steps():
            gradient = await worker.gradient(Batch(step, worker.rank, worker.world_size))
            mean = await worker.reduce(gradient, self.leader)
            if worker.rank == self.leader:
                await worker.apply(mean)
            worker.load(await worker.broadcast(worker.read(), self.leader))
            worker.publish()
