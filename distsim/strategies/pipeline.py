"""Model parallelism: the blocks are cut into stages, one a rank, and activations travel.

A step's samples are cut into micro-batches; `schedule` is the order of a stage's actions and `walk` executes it. A receive
is kept posted in each direction, and no send is awaited before the next action: then a hop's latency is paid as the
closed forms say, and 1F1B cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic

from distsim.interface import Batch, Block, Model, Problem, Strategy, T, Work, Worker
from distsim.strategies.divisors import uneven
from distsim.strategies.schedules import Schedule, cut, one_f_one_b


class Pipeline(Strategy):
    """The program of a stage; the members differ in their schedule and number of micro-batches."""

    microbatches: int
    schedule: Schedule = staticmethod(one_f_one_b)

    async def run(self, worker: Worker[T]) -> None:
        mine = stages(worker.blocks, worker.world_size)[worker.rank]
        worker.place(mine)
        for step in worker.steps():
            worker.zero()
            await walk(worker, mine, Batch(step).split(self.microbatches), self.schedule)
            await worker.apply(worker.accumulated())
            worker.publish()

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        blocks, samples = len(model.blocks), workers * model.batch
        if workers > blocks:
            yield Problem(
                "cluster.workers",
                workers,
                f"a pipeline needs a block a stage, and this model has {blocks}",
                f"take at most {blocks} workers or a deeper model",
            )
        yield from uneven(self.microbatches, samples, "of a step")


@dataclass(frozen=True)
class ModelParallel(Pipeline):
    """Layers on different ranks, one batch at a time: while one stage computes, the others wait.

    Staleness 0; (p-1)/p of all time is bubble. Nothing is gained but memory: the baseline of every pipeline.
    """

    microbatches = 1


@dataclass(frozen=True)
class OneFOneB(Pipeline):
    """A pipeline that alternates forward and backward, so that stage s holds at most min(m, p-s) micro-batches.

    Staleness 0; bubble (p-1)(F+B) a step, plus c(2(p-1)m/p + 2(p-2)) for a hop latency c. Narayanan et al., "PipeDream",
    SOSP 2019, and "Efficient Large-Scale Language Model Training", SC 2021, section 2.2.
    """

    microbatches: int = 8
    """m: pieces of a step's samples; the bubble's share is (p-1)/(m+p-1)."""


def stages(blocks: Sequence[Block], count: int) -> list[range]:
    """The blocks of each stage, balanced by FLOPs."""
    return cut([b.flops + b.input_flops + b.weight_flops for b in blocks], count)


class Ahead(Generic[T]):
    """Receives from one neighbour, each posted before the one in front of it is used."""

    def __init__(self, worker: Worker[T], source: int, tag: str, count: int) -> None:
        self._receives = (worker.receive(source, tag) for _ in range(count))
        self._next = next(self._receives, None)

    async def next(self) -> T:
        """The next payload."""
        assert self._next is not None, "more receives than were announced"
        message = await self._next
        self._next = next(self._receives, None)
        return message.payload


async def walk(pipe: Worker[T], blocks: range, batches: Sequence[Batch], schedule: Schedule) -> None:
    """Run one step of this stage: `blocks` on every micro-batch, in the schedule's order."""
    first, last = pipe.rank == 0, pipe.rank == pipe.world_size - 1
    activations = Ahead(pipe, pipe.rank - 1, "activation", 0 if first else len(batches))
    gradients = Ahead(pipe, pipe.rank + 1, "gradient", 0 if last else len(batches))
    sends = list[Work[None]]()
    outputs = dict[int, T]()
    for kind, i in schedule(pipe.rank, pipe.world_size, len(batches)):
        batch = batches[i]
        if kind == "F":
            x = pipe.input(batch) if first else await activations.next()
            for block in blocks:
                x = await pipe.forward(block, x, batch)
            if last:
                outputs[i] = x
            else:
                sends.append(pipe.send(x, pipe.rank + 1, "activation"))
        else:
            g = await pipe.loss(outputs.pop(i), batch) if last else await gradients.next()
            for block in reversed(blocks):
                g = await pipe.backward(block, g, batch)
            if not first:
                sends.append(pipe.send(g, pipe.rank - 1, "gradient"))
    for sent in sends:
        await sent
