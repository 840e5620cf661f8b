"""Local SGD: every worker trains a copy of the model by itself; now and then the copies' weights are averaged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from distsim.interface import Batch, Model, Problem, Strategy, T, Worker


@dataclass(frozen=True)
class LocalSGD(Strategy):
    """Every worker takes `every` steps on its own copy of the model, then all average their weights.

    Staleness 0, within each copy. H steps of n exponential workers take E max of n Gamma(H), and then one all-reduce of the
    weights: 1/H of the traffic. H=1 with plain SGD is all-reduce. Stich, "Local SGD Converges Fast and Communicates
    Little", ICLR 2019.
    """

    every: int = 8
    """H: steps from one average to the next. The optimizers' states stay local."""
    after: int = 0
    """Post-local SGD: each of the first so many updates ends with an average. Lin et al., "Don't Use Large Mini-batches,
    Use Local SGD", ICLR 2020."""

    def alike_every(self, workers: int) -> int:
        return 1

    async def run(self, worker: Worker[T]) -> None:
        for step in worker.steps():
            await worker.apply(await worker.gradient(Batch(step, worker.rank, worker.world_size)))
            if step < self.after or (step + 1 - self.after) % self.every == 0:
                worker.load(await worker.all_reduce(worker.read()))
            worker.publish()

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from at_least("every", self.every, 1, "steps from one average to the next")
        yield from at_least("after", self.after, 0, "updates before the first local ones")


def at_least(field: str, value: int, least: int, meaning: str) -> Iterable[Problem]:
    """The problem of a field that counts something and is too small."""
    if value < least:
        yield Problem(f"strategy.{field}", value, f"{meaning}: at least {least}", f"take {least}")
