"""Model parallelism: the blocks are cut into stages by their cost, and activations travel.

A step's samples are cut into micro-batches. The strategies here differ in their schedule (see schedules.py), which says in
which order a rank's stages run; walker.py runs it. Every one of them gives the weights of one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from distsim.interface import Batch, Block, Model, Problem, Strategy, T, Worker
from distsim.strategies.divisors import uneven
from distsim.strategies.schedules import Schedule, cut, gpipe, interleaved, one_f_one_b, zb_h1, zb_h2, zb_v
from distsim.strategies.walker import walk


class Pipeline(Strategy):
    """The program of a rank; the members differ in their schedule and number of micro-batches."""

    microbatches: int

    @property
    def schedule(self) -> Schedule:
        """The order of a step."""
        raise NotImplementedError

    async def run(self, worker: Worker[T]) -> None:
        schedule = self.schedule
        chunks = chunks_of(worker.blocks, schedule, worker.rank, worker.world_size)
        worker.place([block for chunk in chunks for block in chunk])
        for step in worker.steps():
            worker.zero()
            await walk(worker, worker, chunks, Batch(step).split(self.microbatches), schedule)
            await worker.apply()
            worker.publish()

    def updates_whole(self, workers: int) -> bool:
        return False

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from stage_problems(workers, self.schedule, model, "cluster.workers")
        yield from microbatch_problems(workers, self.schedule, self.microbatches, workers * model.batch)

    def warnings(self, workers: int, model: Model) -> Iterable[str]:
        if self.microbatches < workers:
            bubble = (workers - 1) / (self.microbatches + workers - 1)
            yield f"{self.microbatches} micro-batches are fewer than {workers} stages: {bubble:.0%} of all time is bubble"


@dataclass(frozen=True)
class ModelParallel(Pipeline):
    """Layers on different ranks, one batch at a time: while one stage computes, the others wait.

    Staleness 0; (p-1)/p of all time is bubble. Nothing is gained but memory: the baseline of every pipeline. Huang et al.,
    "GPipe", NeurIPS 2019, figure 2b.
    """

    microbatches = 1
    schedule = Schedule(one_f_one_b)

    def warnings(self, workers: int, model: Model) -> Iterable[str]:
        return ()


@dataclass(frozen=True)
class GPipe(Pipeline):
    """A pipeline that runs the forward passes of all m micro-batches of a step and then their backward passes.

    Staleness 0; bubble (p-1)(F+B) a step, plus 2(p-1)c for a hop latency c; every stage holds m micro-batches. Huang et
    al., "GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism", NeurIPS 2019.
    """

    microbatches: int = 8
    """m: pieces of a step's samples; the bubble's share is (p-1)/(m+p-1)."""
    schedule = Schedule(gpipe)


@dataclass(frozen=True)
class OneFOneB(Pipeline):
    """A pipeline that alternates forward and backward, so that stage s holds at most min(m, p-s) micro-batches.

    Staleness 0; bubble (p-1)(F+B) a step, plus c(2(p-1)m/p + 2(p-2)) for a hop latency c. Narayanan et al., "PipeDream",
    SOSP 2019, and "Efficient Large-Scale Language Model Training", SC 2021, section 2.2.
    """

    microbatches: int = 8
    """m: pieces of a step's samples; the bubble's share is (p-1)/(m+p-1)."""
    schedule = Schedule(one_f_one_b)


@dataclass(frozen=True)
class Interleaved(Pipeline):
    """1F1B where each rank holds v chunks from all over the model, so that a micro-batch passes every rank v times.

    Staleness 0; bubble (p-1)(F+B)/v a step, where F and B are the times of all a rank's chunks; v times the messages.
    Narayanan et al., "Efficient Large-Scale Language Model Training", SC 2021, section 2.2.
    """

    microbatches: int = 8
    """m: pieces of a step's samples, a multiple of the p ranks."""
    chunks: int = 2
    """v: stages a rank; 1 is `one_f_one_b`."""

    @property
    def schedule(self) -> Schedule:
        return Schedule(interleaved, self.chunks)


@dataclass(frozen=True)
class ZeroBubble(Pipeline):
    """A pipeline whose backward pass is split, so that gradients of the weights are computed where others wait.

    Staleness 0; with B the gradient of the input and W that of the weights, no longer than F and B, the bubble is
    (p-1)(F+B-W) a step for h1; in a long run it is (p-1)(F+B-2W) for h2, and 0 at F=B=W for v. At most p, 2p-1 and p
    micro-batches are held. Qi et al., "Zero Bubble Pipeline Parallelism", ICLR 2024.
    """

    microbatches: int = 8
    """m: pieces of a step's samples; h2 and v reach their bubble from m = 2p-1 on."""
    variant: Literal["h1", "h2", "v"] = "h1"
    """`h1` takes the memory of 1F1B, `h2` almost twice that; `v` holds two chunks a rank, folded, in the memory of 1F1B."""

    @property
    def schedule(self) -> Schedule:
        return {"h1": Schedule(zb_h1), "h2": Schedule(zb_h2), "v": Schedule(zb_v, 2, is_folded=True)}[self.variant]

    def warnings(self, workers: int, model: Model) -> Iterable[str]:
        least = workers if self.variant == "h1" else 2 * workers - 1
        if self.microbatches < least:
            yield f"{self.microbatches} micro-batches are fewer than {least}: the bubble is longer than by its closed form"


# ---- cuts, and what cannot be cut


def stages(blocks: Sequence[Block], count: int) -> list[range]:
    """The blocks of each stage of a chain, balanced by FLOPs."""
    return cut([b.flops + b.input_flops + b.weight_flops for b in blocks], count)


def chunks_of(blocks: Sequence[Block], schedule: Schedule, rank: int, ranks: int) -> list[range]:
    """The blocks of each chunk that `rank` of `ranks` holds, in ascending order."""
    chain = stages(blocks, ranks * schedule.chunks)
    return [chain[schedule.stage(rank, chunk, ranks)] for chunk in range(schedule.chunks)]


def stage_problems(ranks: int, schedule: Schedule, model: Model, key: str) -> Iterable[Problem]:
    """What makes so many stages impossible; `key` sets the ranks of a pipeline."""
    blocks, chunks = len(model.blocks), schedule.chunks
    if chunks < 1:
        yield Problem("strategy.chunks", chunks, "must be at least 1", "1 is one_f_one_b")
    elif ranks > blocks or (schedule.is_folded and ranks * chunks > blocks):
        needs = "a block a stage" if chunks == 1 else f"{chunks} blocks a rank" if schedule.is_folded else "a block a rank"
        most = blocks // chunks if schedule.is_folded else blocks
        suggestion = f"take at most {most} {key.rpartition('.')[2]} or a deeper model" if most else "take a deeper model"
        yield Problem(key, ranks, f"a pipeline needs {needs}, and this model has {blocks}", suggestion)
    elif ranks * chunks > blocks:
        allowed = f"{ranks} ranks of {chunks} chunks need {ranks * chunks} blocks, and this model has {blocks}"
        yield Problem("strategy.chunks", chunks, allowed, f"take at most {blocks // ranks} or a deeper model")


def microbatch_problems(ranks: int, schedule: Schedule, microbatches: int, samples: int) -> Iterable[Problem]:
    """What makes so many micro-batches of `samples` samples impossible."""
    return uneven(microbatches, samples, "of a step", ranks if schedule.needs_rounds else 1)
