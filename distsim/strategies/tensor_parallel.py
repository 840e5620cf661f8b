"""Tensor parallelism over all workers: each holds a shard of every block that can be cut, and all see the whole batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from distsim.interface import Batch, Model, Problem, Region, Strategy, T, Worker
from distsim.strategies import runners


@dataclass(frozen=True)
class TensorParallel(Strategy):
    """Every worker holds a shard of each block; the shards' outputs and input gradients are summed, block by block.

    Staleness 0. All see the samples of all, Pb. Two all-reduces a block, of A bytes of activations each, cost a ring
    4(P-1)a + 4(P-1)/P A/B, which no computing hides; a transformer layer is two blocks. Shoeybi et al., "Megatron-LM",
    arXiv:1909.08053, section 3.
    """

    def alike_every(self, workers: int) -> int:
        return 1

    async def run(self, worker: Worker[T]) -> None:
        blocks = range(len(worker.blocks))
        worker.place(blocks, (worker.rank, worker.world_size))
        runner = runners.TensorParallel(worker, worker)
        mine = tuple(block for block in blocks if worker.rank == 0 or block in runner.blocks)
        for step in worker.steps():
            worker.zero()
            await runners.backpropagate(worker, runner, Batch(step), runner.complete)
            await worker.apply()
            worker.publish(Region(mine))

    def updates_whole(self, workers: int) -> bool:
        return False

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        return uncuttable("cluster.workers", workers, model)


def uncuttable(key: str, size: int, model: Model) -> Iterator[Problem]:
    """What is wrong with `size` tensor shards of each block that can be cut."""
    ways = [model.blocks[block].ways for block in runners.cut_blocks(model.blocks)]
    if size < 1:
        yield Problem(key, size, "must be at least 1")
    elif size > 1 and not ways:
        yield Problem(key, size, "no block of this model can be cut into tensor shards", "take a workload with such blocks")
    elif wrong := [block for block in model.blocks if block.ways % size]:
        block = wrong[0]
        more = len(wrong) - 1
        others = f" and of {more} other{'s' if more > 1 else ''}" if more else ""
        good = [n for n in range(1, min(ways) + 1) if all(way % n == 0 for way in ways)]
        near = sorted(sorted(good, key=lambda n: abs(n - size))[:2])
        yield Problem(
            key,
            size,
            f"tensor shards must divide the {block.ways} ways of block {block.index} ({block.kind}){others}",
            f"nearest: {' or '.join(map(str, near))}",
        )
