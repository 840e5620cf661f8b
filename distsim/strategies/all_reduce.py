"""Collective data parallelism."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from distsim.interface import Batch, Model, OnLoss, Problem, T, Worker
from distsim.strategies.divisors import uneven
from distsim.strategies.exchange import Compressed, Exchange


@dataclass(frozen=True)
class AllReduce(Compressed):
    """Every worker averages its gradient with all others before each update, a bucket at a time, during the backward pass.

    Staleness 0. With a ring and no overlap a step costs its slowest worker plus 2(P-1)a + 2(P-1)/P M/B. Compressed, M is
    2 bytes a scalar as fp16 and (rows + columns) r scalars a matrix as powersgd; top_k of k scalars gathers 2k(P-1). Li et
    al., "PyTorch Distributed", VLDB 2020, section 3.2.
    """

    bucket_bytes: float = 25e6
    """A bucket is reduced once it holds this many bytes of gradient; 0 reduces every block by itself."""
    microbatches: int = 1
    """Pieces of a worker's batch whose gradients accumulate, one after the other, to save the memory of activations."""

    def alike_every(self, workers: int) -> int:
        return 1

    async def run(self, worker: Worker[T]) -> None:
        exchange = Exchange(worker, self)
        for step in worker.steps():
            batch = Batch(step, worker.rank, worker.world_size)
            pending = [
                (region, await exchange.start(await bucket, region))
                for region, bucket in worker.gradients(
                    batch, self.bucket_bytes, microbatches=self.microbatches, scale=exchange.scale
                )
            ]
            for region, reduction in pending:  # they overlapped the rest of the backward pass
                await worker.apply(await reduction, region)
            if worker.rank == 0:  # all replicas are equal
                worker.publish()

    def on_loss(self, workers: int) -> tuple[OnLoss, ...]:
        return ("restart", "continue")  # every rank holds all that another needs

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from super().problems(workers, model)
        yield from uneven(self.microbatches, model.batch, "of a worker's batch")
