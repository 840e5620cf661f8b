"""Sharded data parallelism: what every worker holds alike is cut into pieces, a worker each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from distsim.interface import Batch, Model, Problem, Region, Strategy, T, Worker
from distsim.strategies.divisors import uneven
from distsim.strategies.runners import FullySharded, Scatter, backpropagate


@dataclass(frozen=True)
class Zero(Strategy):
    """Every worker updates one of P pieces of the model; stage 1 cuts the optimizer's state, 2 gradients too, 3 parameters.

    Staleness 0. Volume 2, 2, 3 x the parameters, each (P-1)/P M/B (all-reduce: 2). If computing hides the rest, exposed are
    the last bucket's scatter and all gathers, of stage 3 two gathers and a scatter of one block. Bytes a parameter with
    AdamW in half precision 4+12/P, 2+14/P, 16/P (all-reduce: 16), in single 8+8/P, 4+12/P, 16/P. Rajbhandari et al., "ZeRO:
    Memory Optimizations Toward Training Trillion Parameter Models", SC 2020, sections 5 and 7.
    """

    stage: int = 3
    """What is cut: 1 the optimizer's state; 2 and the gradients; 3 and the parameters (fully sharded data parallel)."""
    bucket_bytes: float = 25e6
    """Of stages 1 and 2: gradients are scattered once they hold this many bytes; 0 scatters every block by itself."""
    microbatches: int = 1
    """Pieces of a worker's samples, one after the other. Stage 1 scatters the sum of their gradients, 2 and 3 each."""

    def alike_every(self, workers: int) -> int:
        return 1

    async def run(self, worker: Worker[T]) -> None:
        if self.stage == 3:
            await fully_sharded(worker, worker, None, self.microbatches)
            return
        n = worker.world_size
        for step in worker.steps():
            batch = Batch(step, worker.rank, n)
            gathers = []
            async for region, gradient in (self._summed if self.stage == 1 else self._scattered)(worker, batch):
                mine = region.cut(n)[worker.rank]
                await worker.apply(gradient, mine)
                worker.zero(mine)
                gathers.append((region, worker.all_gather(worker.read(mine))))
            for region, gather in gathers:
                worker.load(await gather, region)
            if worker.rank == 0:  # all replicas are equal
                worker.publish()

    async def _summed(self, worker: Worker[T], batch: Batch) -> AsyncIterator[tuple[Region, T]]:
        """Stage 1: every bucket and this rank's piece of its gradient; the whole stays until the next step."""
        buckets = worker.gradients(batch, self.bucket_bytes, microbatches=self.microbatches, shards=worker.world_size)
        pending = [(region, worker.reduce_scatter(await bucket)) for region, bucket in buckets]
        for region, scattering in pending:  # they overlapped the rest of the backward pass
            yield region, await scattering

    async def _scattered(self, worker: Worker[T], batch: Batch) -> AsyncIterator[tuple[Region, T]]:
        """Stage 2: the same, and a bucket's gradient is freed as soon as it is scattered."""
        scatter = Scatter(worker)
        shards = dict[Region, Region]()
        for piece in batch.split(self.microbatches):
            for region, bucket in worker.gradients(piece, self.bucket_bytes, shards=worker.world_size):
                shards[region] = region.cut(worker.world_size)[worker.rank]
                await scatter.put(shards[region], await bucket)
        await scatter.finish()
        for region, mine in shards.items():
            yield region, worker.accumulated(mine)

    def updates_whole(self, workers: int) -> bool:
        return False

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        if self.stage not in (1, 2, 3):
            yield Problem("strategy.stage", self.stage, "must be 1, 2 or 3", "1 cuts least, 3 everything")
        if not self.bucket_bytes >= 0:
            yield Problem("strategy.bucket_bytes", self.bucket_bytes, "must be at least 0")
        yield from uneven(self.microbatches, model.batch, "of a worker's share")


@dataclass(frozen=True)
class HSDP(Strategy):
    """Groups of workers hold the model cut into pieces as in ZeRO-3; the groups average the gradients of the pieces.

    Staleness 0. With groups of n, volume 3 x the parameters in a group and 2/n x across, while others are computed; 16/n
    bytes a parameter with AdamW. Zhao et al., "PyTorch FSDP", VLDB 2023, section 3.2.2.
    """

    shards: int = 2
    """Workers of a group, n: the pieces of the model. They should be near each other."""
    microbatches: int = 1
    """Pieces of a worker's samples, one after the other; the gradients of each are scattered and averaged."""

    def alike_every(self, workers: int) -> int:
        return self.shards

    async def run(self, worker: Worker[T]) -> None:
        group, across = worker.grid(self.shards)
        await fully_sharded(worker, group, across, self.microbatches)

    def updates_whole(self, workers: int) -> bool:
        return False

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        if self.shards < 1 or workers % self.shards:
            divisors = [n for n in range(1, workers + 1) if workers % n == 0]
            near = sorted(sorted(divisors, key=lambda n: abs(n - self.shards))[:2])
            yield Problem(
                "strategy.shards",
                self.shards,
                f"must divide the {workers} workers",
                f"nearest: {' or '.join(map(str, near))}",
            )
        yield from uneven(self.microbatches, model.batch, "of a worker's share")


async def fully_sharded(worker: Worker[T], group: Worker[T], across: Worker[T] | None, microbatches: int) -> None:
    """Train with every block cut over `group`, whose replicas meet `across`."""
    blocks = [block.index for block in worker.blocks]
    run = FullySharded(worker, group, blocks, across)
    for step in worker.steps():
        for batch in Batch(step, worker.rank, worker.world_size).split(microbatches):
            await backpropagate(worker, run, batch, run.reduce)
        await run.update()
        if shown := run.shown(blocks):
            worker.publish(*shown)
