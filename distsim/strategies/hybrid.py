"""Data x pipeline x tensor parallelism, composed: a schedule, a chain of runners, and what becomes of the gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from distsim.interface import Batch, Model, Problem, T, Worker
from distsim.strategies.exchange import Compressed
from distsim.strategies.pipeline import chunks_of, microbatch_problems, stage_problems
from distsim.strategies.runners import FullySharded, Replicated, TensorParallel
from distsim.strategies.schedules import Schedule, gpipe, interleaved, one_f_one_b, zb_h1, zb_h2, zb_v
from distsim.strategies.tensor_parallel import uncuttable
from distsim.strategies.walker import walk


@dataclass(frozen=True)
class Hybrid(Compressed):
    """Replicas of a pipeline whose stages are tensor groups; the replicas average their gradients, or shard the model.

    Staleness 0. A step is the pipeline's makespan, with the tensor group's all-reduces in F and B, (m+p-1)(F+B), plus what
    the last backward passes do not hide of the replicas' reduction, 2(d-1)/d M/(p t B). Narayanan et al., "Efficient
    Large-Scale Language Model Training", SC 2021, section 3.
    """

    tensor: int = 1
    """t, the shards of a block. The ranks of a tensor group are neighbours."""
    stages: int = 2
    """p, the ranks of a pipeline. There are d = P / (t p) replicas."""
    microbatches: int = 8
    """m, pieces of a replica's samples."""
    schedule: Literal["gpipe", "one_f_one_b", "interleaved", "zb_h1", "zb_h2", "zb_v"] = "one_f_one_b"
    """The order of a rank's actions in a step."""
    chunks: int = 2
    """v, stages a rank, if the schedule is `interleaved`."""
    sharded: bool = False
    """Cut parameters, gradients and optimizer state over the replicas, as ZeRO-3. The gradient of a block is whole until
    its last micro-batch, and then scattered once."""

    def alike_every(self, workers: int) -> int:
        return self.tensor * self.stages

    async def run(self, worker: Worker[T]) -> None:
        tensor, pipe, data = worker.grid(self.tensor, self.stages)
        schedule = self._schedule()
        blocks = [block.sharded(self.tensor) for block in worker.blocks]
        chunks = chunks_of(blocks, schedule, pipe.rank, pipe.world_size)
        mine = sorted(block for chunk in chunks for block in chunk)
        worker.place(mine, (tensor.rank, tensor.world_size))
        cut = TensorParallel(worker, tensor)
        outer = FullySharded(cut, data, mine) if self.sharded else Replicated(cut, data, self)
        shown = outer.shown([block for block in mine if tensor.rank == 0 or block in cut.blocks])

        async def ready(block: int) -> None:
            await cut.complete(block)
            await outer.reduce(block)

        for step in worker.steps():
            worker.zero()
            batches = Batch(step, data.rank, data.world_size).split(self.microbatches)
            await walk(pipe, outer, chunks, batches, schedule, ready)
            await outer.update()
            if shown:
                worker.publish(*shown)

    def _schedule(self) -> Schedule:
        return Schedule(interleaved, self.chunks) if self.schedule == "interleaved" else _SCHEDULES[self.schedule]

    def updates_whole(self, workers: int) -> bool:
        return False

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from super().problems(workers, model)
        if self.compression != "none" and self.sharded:
            allowed = "only replicas exchange whole gradients: sharded=true scatters them"
            yield Problem("strategy.compression", self.compression, allowed, "take strategy.sharded=false")
        if self.compression == "top_k" and self.tensor > 1:
            allowed = "each rank of a tensor group would choose others of the parameters that all of them hold"
            yield Problem("strategy.compression", self.compression, allowed, "take fp16 or powersgd")
        yield from uncuttable("strategy.tensor", self.tensor, model)
        if self.stages < 1:
            yield Problem("strategy.stages", self.stages, "must be at least 1")
        if self.stages < 1 or self.tensor < 1:
            return
        schedule, replica = self._schedule(), self.tensor * self.stages
        yield from stage_problems(self.stages, schedule, model, "strategy.stages")
        if workers % replica:
            allowed = f"must be a multiple of tensor x stages = {replica}"
            near = [n for n in (workers - workers % replica, workers - workers % replica + replica) if n]
            yield Problem("cluster.workers", workers, allowed, f"nearest: {' or '.join(map(str, near))}")
        else:
            yield from microbatch_problems(self.stages, schedule, self.microbatches, replica * model.batch)


_SCHEDULES: Mapping[str, Schedule] = {
    "gpipe": Schedule(gpipe),
    "one_f_one_b": Schedule(one_f_one_b),
    "zb_h1": Schedule(zb_h1),
    "zb_h2": Schedule(zb_h2),
    "zb_v": Schedule(zb_v, 2, is_folded=True),
}
