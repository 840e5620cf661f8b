"""Gossip: every worker averages with its neighbours only, at every step, and nobody waits for anybody else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from distsim.interface import Batch, Model, Problem, Strategy, T, Worker


@dataclass(frozen=True)
class Gossip(Strategy):
    """Every worker mixes its weights with its neighbours' in equal shares while it computes a gradient, then applies that.

    Staleness 0, as a gradient is of the weights before they are mixed. A worker waits for its neighbours only: it begins
    the next step at the latest of its t + X and every neighbour's max(t, t_j) + c. Without gradients disagreement shrinks
    by the mixing matrix's second eigenvalue a step: for a ring of P > 2, 1/3 + 2/3 cos(2 pi/P). Lian et al., "Can
    Decentralized Algorithms Outperform Centralized Algorithms?", NIPS 2017 (D-PSGD).
    """

    topology: Literal["ring", "exponential", "complete"] = "ring"
    """Whose weights are mixed: of the two next to a worker, of those 1, 2, 4, ... places to either side, or of all."""

    def alike_every(self, workers: int) -> int:
        return 1

    async def run(self, worker: Worker[T]) -> None:
        n = worker.world_size
        peers = sorted(neighbours(self.topology, worker.rank, n), key=lambda peer: (peer - worker.rank) % n)
        for step in worker.steps():
            own = worker.read()
            receives = [worker.receive(peer, "model") for peer in peers]
            sends = [worker.send(own, peer, "model") for peer in peers]
            gradient = await worker.gradient(Batch(step, worker.rank, n))
            models = [(await receive).payload for receive in receives]
            worker.load(await worker.compute("mix", _mean, own, *models))
            await worker.apply(gradient)
            for sent in sends:
                await sent
            worker.publish()

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from needs_two(workers)


def neighbours(topology: Literal["ring", "exponential", "complete"], rank: int, size: int) -> list[int]:
    """The ranks that `rank` mixes with. Each is a neighbour of its neighbours, and all have as many."""
    hops = {"ring": [1], "exponential": [2**k for k in range(size.bit_length() - 1)], "complete": range(1, size)}
    return sorted({(rank + sign * hop) % size for hop in hops[topology] for sign in (-1, 1)} - {rank})


def needs_two(workers: int) -> Iterable[Problem]:
    """The problem of a worker that has no neighbour."""
    if workers < 2:
        yield Problem("cluster.workers", workers, "averaging with a neighbour needs at least 2 workers", "take 2 or more")


def _mean(*models: T) -> T:
    total = models[0]
    for model in models[1:]:
        total = total + model
    return total / len(models)
