"""Small jobs whose results can be calculated by hand: equal blocks, a device of literal times, an ideal network.

Every block holds `SAVED` scalars a sample for its backward pass and costs the same, so n blocks on n stages are one each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distsim.backends.simulated import SimulatedOptions, simulate
from distsim.interface import Block, Budget, Cluster, Cost, Job, Loopback, Model, Outcome, Straggler, Strategy, Switch
from distsim.numerics.sizes import SizesFactory

IDEAL = Switch(math.inf, 0.0)
SAVED = 10
ITEMSIZE = 4


@dataclass(frozen=True)
class Times:
    """A device of literal seconds: of each primitive operation on a block, and of a byte of plain work."""

    forward: float = 0.0
    backward: float = 0.0
    apply: float = 0.0
    byte: float = 0.0
    factors: tuple[float, ...] = ()
    """Of each block; empty: all 1."""
    halves: tuple[float, float] = (0.0, 0.0)
    """Of the backward pass: for the input, for the weights."""

    def seconds(self, model: Model, cost: Cost) -> float:
        """Seconds of the parts; the loss is free."""
        times = {"forward": self.forward, "backward": self.backward, "apply": self.apply, "loss": 0.0}
        times["backward_input"], times["backward_weights"] = self.halves
        factor: Callable[[int], float] = self.factors.__getitem__ if self.factors else lambda block: 1.0
        parts = sum(times[operation] * factor(block) for operation, block in cost.parts)
        return cost.share * parts + self.byte * cost.nbytes


def chain(blocks: int = 1, batch: int = 1, parameters: int = 250, activation: int = 10) -> Model:
    """A model of equal blocks of `parameters` scalars each."""
    return Model(
        tuple(Block(i, "block", parameters, activation, SAVED, 1.0, 1.0, 1.0) for i in range(blocks)),
        batch,
        activation,
        ITEMSIZE,
    )


def job(
    strategy: Strategy,
    workers: int,
    updates: int,
    device: Any,
    network: Switch | Loopback = IDEAL,
    model: Model | None = None,
    straggler: Straggler | None = None,
    seed: int = 0,
) -> Job:
    """A modeled job."""
    model = model or chain()
    cluster = Cluster(workers, strategy.server_count(workers), device, network, beside=strategy.servers_beside())
    return Job(
        strategy, model, cluster, Budget(updates=updates), SizesFactory(model, workers), straggler or Straggler(), seed
    )


def done(job: Job, options: SimulatedOptions | None = None) -> Outcome:
    """The outcome of a run that must end well; collectives are rings unless `options` say otherwise."""
    outcome = simulate(job, options or SimulatedOptions(algorithm="ring"))
    assert (outcome.status, outcome.message) == ("done", "")
    return outcome


def harmonic(n: int, power: int = 1) -> float:
    """1 + 1/2^power + ... + 1/n^power."""
    return sum(1.0 / k**power for k in range(1, n + 1))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean of independent draws and its standard error."""
    n = len(values)
    mean = sum(values) / n
    return mean, math.sqrt(sum((x - mean) ** 2 for x in values) / (n - 1) / n)
