"""What a strategy is: a frozen dataclass with one coroutine.

    @dataclass(frozen=True)
    class MyStrategy(Strategy):
        '''One sentence that says the rule.'''

        async def run(self, worker: Worker[T]) -> None:
            for step in worker.steps():
                gradient = await worker.gradient(Batch(step, worker.rank, worker.world_size))
                await worker.apply(await worker.all_reduce(gradient))
                worker.publish()

Its fields are its configuration (`strategy.bucket_bytes=1MB`). It imports `distsim.interface` only: time is the worker's
clock, randomness the worker's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from distsim.interface.errors import Problem
from distsim.interface.model import Model
from distsim.interface.values import T

if TYPE_CHECKING:
    from distsim.interface.worker import Worker


class Strategy:
    """Base of all strategies: what the rest of distsim may ask of one."""

    servers: ClassVar[int] = 0
    """Parameter servers it needs; they are the last ranks, after the P workers."""
    gradients_an_update: ClassVar[int | None] = None
    """Worker gradients of b samples that one update consumes; None: one of each of the P workers."""

    async def run(self, worker: Worker[T]) -> None:
        """The program of one rank."""
        raise NotImplementedError(f"{type(self).__name__} has no run()")

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        """What makes this strategy impossible for P `workers` and `model`; nothing if it can run."""
        return ()
