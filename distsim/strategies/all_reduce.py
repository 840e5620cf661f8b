"""Collective data parallelism."""

from __future__ import annotations

from dataclasses import dataclass

from distsim.interface import Batch, Strategy, T, Worker


@dataclass(frozen=True)
class AllReduce(Strategy):
    """Every worker averages its gradient with all others before each update, a bucket at a time, during the backward pass.

    Staleness 0. With a ring and no overlap a step costs its slowest worker plus 2(P-1)a + 2(P-1)/P M/B. Li et al., "PyTorch
    Distributed", VLDB 2020, section 3.2.
    """

    bucket_bytes: float = 25e6
    """A bucket is reduced once it holds this many bytes of gradient; 0 reduces every block by itself."""

    async def run(self, worker: Worker[T]) -> None:
        for step in worker.steps():
            batch = Batch(step, worker.rank, worker.world_size)
            pending = [
                (region, worker.all_reduce(await bucket)) for region, bucket in worker.gradients(batch, self.bucket_bytes)
            ]
            for region, reduction in pending:  # they overlapped the rest of the backward pass
                await worker.apply(await reduction, region)
            if worker.rank == 0:  # all replicas are equal
                worker.publish()
