"""Elastic averaging: workers with models of their own, and a center at a server that they draw and that draws them.

An update is one exchange of one worker with the center. Workers take turns as long as the budget leaves them one; a push
without a payload says that none was left, a pull without one that the run is over.

A worker takes its next gradient where the exchange has left it; in the paper's algorithm 1 that one gradient a period is of
where it was before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from distsim.interface import SGD, Model, Problem, Strategy, T, Worker


@dataclass(frozen=True)
class EASGD(Strategy):
    """Every worker trains a model of its own; every `period` steps it and a center each move by alpha of their distance.

    Staleness 0, as a gradient meets the very weights it is of. An exchange takes tau E[X]/P if nobody waits, and moves 2M
    bytes at the center. alpha=0 is independent workers. Zhang, Choromanska and LeCun, "Deep Learning with Elastic
    Averaging SGD", NIPS 2015 (asynchronous EASGD; with momentum in the run's optimizer, EAMSGD).
    """

    alpha: float = 0.2
    """d = alpha (x - center); x -= d; center += d. The paper has 0.9/P."""
    period: int = 10
    """tau: steps of a worker between two exchanges."""

    def server_count(self, workers: int) -> int:
        return 1

    def gradients_an_update(self, workers: int) -> int:
        return self.period

    async def run(self, worker: Worker[T]) -> None:
        await (self.train(worker) if worker.rank < worker.workers else self.serve(worker))

    async def train(self, worker: Worker[T]) -> None:
        """A worker: `period` steps by itself, then an exchange."""
        center = worker.workers
        for _ in worker.turns():
            for _ in range(self.period):
                await worker.apply(await worker.gradient(worker.draw(worker.rank, worker.workers)))
            pull = worker.receive(center, "pull")
            await worker.send(worker.read(), center, "push")
            if (answer := await pull).is_signal:
                return
            worker.load(worker.read() - answer.payload)
        await worker.send(None, center, "push")

    async def serve(self, server: Worker[T]) -> None:
        """The server: move the center towards each model that is pushed, and answer with the move."""
        pushes = deque(server.receive_any("push") for _ in range(server.workers))  # of whoever has not left
        for _ in server.steps():
            while (push := await pushes.popleft()).is_signal:
                pass
            pushes.append(server.receive_any("push"))
            move = await server.compute("elastic", self._move, push.payload, server.read())
            server.post(move, push.source, "pull")
            await server.apply(move * -1.0, optimizer=SGD(1.0))
            server.publish()
        for awaited in pushes:
            if not (push := await awaited).is_signal:
                server.post(None, push.source, "pull")

    def _move(self, x: T, center: T) -> T:
        return (x - center) * self.alpha

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        if not 0.0 <= self.alpha <= 1.0:
            yield Problem("strategy.alpha", self.alpha, "must be 0 to 1", f"the paper takes {0.9 / workers:.3g} here")
        if self.period < 1:
            yield Problem("strategy.period", self.period, "must be at least 1", "for example strategy.period=10")
