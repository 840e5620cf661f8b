"""Pipelines that never drain: a stage goes on with the next batches while older ones are under way.

A backward pass uses the weights that its forward pass used, whatever was applied in between, so nothing here keeps weights:
the numerics do (and count them as `versions`), and each stage's order of forward passes and updates says how old they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, takewhile

from distsim.interface import Batch, Model, Problem, Strategy, T, Worker
from distsim.strategies.divisors import uneven
from distsim.strategies.pipeline import chunks_of, stage_problems
from distsim.strategies.schedules import Schedule, one_f_one_b
from distsim.strategies.walker import Stage, Wires

CHAIN = Schedule(one_f_one_b)
"""One stage a rank. The order of a step is not used."""


@dataclass(frozen=True)
class PipeDream(Strategy):
    """A pipeline whose stages update after every backward pass while batches that follow are already under way.

    Staleness p-1-s at stage s, whose gradients are of the weights from so many updates before. Once the pipeline is full
    there is no bubble: an update takes as long as its slowest stage. Stage s keeps p-s versions of its weights. Narayanan
    et al., "PipeDream: Generalized Pipeline Parallelism for DNN Training", SOSP 2019.
    """

    async def run(self, worker: Worker[T]) -> None:
        stage, wires = chain(worker)
        warmup = worker.world_size - 1 - worker.rank
        stage.expect(steps(worker), warmup)
        forwards = steps(worker)
        for step in worker.steps():
            for ahead in forwards:
                await stage.forward(Batch(ahead))
                if ahead == step + warmup:
                    break
            worker.zero()
            await stage.backward(Batch(step))
            await worker.apply()
            worker.publish()
            await wires.settle(but=worker.world_size)
        await wires.settle()

    def updates_whole(self, workers: int) -> bool:
        return False

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        return stage_problems(workers, CHAIN, model, "cluster.workers")


@dataclass(frozen=True)
class PipeDream2BW(Strategy):
    """PipeDream with two versions of the weights: a step's update waits until the next step's forward passes are over.

    Staleness 1 at every stage. Once the pipeline is full there is no bubble: an update takes as long as its slowest stage.
    Narayanan et al., "Memory-Efficient Pipeline-Parallel DNN Training", ICML 2021.
    """

    microbatches: int = 8
    """m: pieces of a step's samples, at least the p stages."""

    async def run(self, worker: Worker[T]) -> None:
        stage, wires = chain(worker)
        warmup = worker.world_size - 1 - worker.rank
        stage.expect(self.pieces(worker), warmup)
        forwards, backwards = self.pieces(worker), self.pieces(worker)
        gradients = deque[T]()  # of whole steps, whose update is to come

        async def backward() -> None:
            batch = next(backwards)
            await stage.backward(batch)
            if self.is_last(batch):
                gradients.append(worker.accumulated())
                worker.zero()
            await wires.settle(but=worker.world_size)

        under_way = 0
        for step in worker.steps():
            for batch in forwards:
                await stage.forward(batch)
                if under_way < warmup:
                    under_way += 1
                else:
                    await backward()
                if batch.step > step and self.is_last(batch):
                    break
            else:  # there is no next step
                for _ in range(under_way):
                    await backward()
            await worker.apply(gradients.popleft())
            worker.publish()
        await wires.settle()

    def pieces(self, worker: Worker[T]) -> Iterator[Batch]:
        """All micro-batches of the run."""
        return (batch for step in steps(worker) for batch in Batch(step).split(self.microbatches))

    def is_last(self, batch: Batch) -> bool:
        """Whether it is the last of its step."""
        return batch.part == self.microbatches - 1

    def updates_whole(self, workers: int) -> bool:
        return False

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from stage_problems(workers, CHAIN, model, "cluster.workers")
        samples = workers * model.batch
        wrong = list(uneven(self.microbatches, samples, "of a step"))
        yield from wrong
        if not wrong and self.microbatches < workers:
            allowed = f"must be at least the {workers} stages, or a step would need weights that are still to come"
            least = next(m for m in range(workers, samples + 1) if samples % m == 0)
            yield Problem("strategy.microbatches", self.microbatches, allowed, f"nearest: {least}")


def chain(worker: Worker[T]) -> tuple[Stage[T], Wires[T]]:
    """This rank's stage of a pipeline over all workers, its blocks placed, and what joins it to its neighbours."""
    (blocks,) = chunks_of(worker.blocks, CHAIN, worker.rank, worker.world_size)
    worker.place(blocks)
    wires = Wires(worker)
    return Stage(worker, worker, wires, CHAIN, 0, blocks, as_one=True), wires


def steps(worker: Worker[T]) -> Iterator[int]:
    """The steps that `worker.steps` will go through, for those who look ahead."""
    return takewhile(worker.continues, count(worker.first))
