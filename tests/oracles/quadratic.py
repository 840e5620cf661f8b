"""One parameter x on the loss h x^2 / 2 with additive gradient noise: what learning theory calculates with, as a numerics.

A payload is a float. The gradient of a batch is h x + sigma z(batch), with x as its forward pass saw it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from distsim.interface import (
    Batch,
    Block,
    Budget,
    Cluster,
    Collective,
    Job,
    Memory,
    Model,
    Optimizer,
    Part,
    Region,
    Straggler,
    Strategy,
)
from distsim.interface.numerics import Blocks, Then, nothing

from .jobs import IDEAL, Times, done

MODEL = Model((Block(0, "quadratic", 1, 1, 1, 1.0, 0.0, 1.0),), batch=1, input=1, itemsize=8)


@dataclass(frozen=True)
class Loss:
    """The loss, its noise, and where and how SGD starts on it."""

    curvature: float = 1.0
    rate: float = 0.1
    sigma: float = 0.0
    start: float = 1.0
    seed: int = 0

    def noise(self, batch: Batch) -> float:
        """sigma times a standard normal, a function of (seed, step, part)."""
        return Random(repr((self.seed, batch.step, batch.part))).gauss(0.0, self.sigma) if self.sigma else 0.0


class Quadratic:
    """One rank's x. Implements `Numerics[float]`."""

    def __init__(self, loss: Loss) -> None:
        self.spec = loss
        self.path = [loss.start]
        self.gradient = 0.0
        self.saved: dict[Batch, float] = {}

    def place(self, blocks: Sequence[int], shard: tuple[int, int]) -> None: ...

    def input(self, batch: Batch) -> float:
        return self.spec.noise(batch)

    def forward(self, blocks: Blocks, x: float, batch: Batch, then: Then = nothing) -> float:
        self.saved[batch] = self.spec.curvature * self.path[-1] + x
        return self.saved[batch]

    def loss(self, y: float, batch: Batch) -> tuple[float, float]:
        return batch.weight, 0.0

    def backward(self, blocks: Blocks, g: float, batch: Batch, part: Part, then: Then = nothing) -> float:
        self.gradient += g * self.saved.pop(batch)
        return 0.0

    def backward_of_loss(self, blocks: Blocks, y: float, batch: Batch, then: Then = nothing) -> tuple[float, float]:
        return self.backward(blocks, batch.weight, batch, "both"), 0.0

    def read(self, region: Region) -> float:
        return self.path[-1]

    def load(self, region: Region, x: float) -> None:
        self.path[-1] = x

    def accumulated(self, region: Region, scale: float = 1.0) -> float:
        return self.gradient * scale

    def zero(self, region: Region | None) -> None:
        self.gradient = 0.0

    def hold(self, batch: Batch) -> None:
        """A step is one operation here."""

    def forget(self, batch: Batch) -> None:
        del self.saved[batch]

    def update(self, region: Region, gradient: float | None, optimizer: Optimizer | None, scale: float) -> None:
        rate = self.spec.rate if optimizer is None else optimizer.learning_rate
        self.path.append(self.path[-1] - rate * scale * (self.gradient if gradient is None else gradient))

    def memory(self) -> Memory:
        return Memory()

    def nbytes(self, x: float) -> float:
        return 8.0

    def copy(self, x: float) -> float:
        return x

    def combine(self, collective: Collective, values: Sequence[float]) -> list[float]:
        total = sum(values)
        return [total / len(values) if collective.op == "mean" else total] * len(values)


def path(
    strategy: Strategy,
    workers: int,
    updates: int,
    loss: Loss,
    straggler: Straggler | None = None,
) -> list[float]:
    """x at the start and after each update, as the server or rank 0 has it, under the simulated clock."""
    made: dict[int, Quadratic] = {}

    def numerics(rank: int) -> Quadratic:
        return made.setdefault(rank, Quadratic(loss))

    cluster = Cluster(workers, strategy.server_count(workers), Times(forward=1.0), IDEAL)
    done(Job(strategy, MODEL, cluster, Budget(updates=updates), numerics, straggler or Straggler(), loss.seed))
    return made[workers if strategy.server_count(workers) else 0].path
