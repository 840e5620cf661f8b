"""Asynchronous gossip: workers average in pairs, whenever one of them asks, and train without waiting for one another.

Workers of even rank are active: they ask. Those of odd rank are passive: they answer, in a second flow of control, while
they compute. So whoever waits for an answer waits for someone who waits for nobody; in a graph with an odd cycle three
workers that ask each other would deadlock.

An update is one gradient of one worker; a fast worker makes more of them, and all together make as many as the budget says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from distsim.interface import Message, Model, Problem, Strategy, T, Worker
from distsim.strategies.gossip import needs_two, neighbours


@dataclass(frozen=True)
class ADPSGD(Strategy):
    """Every other worker averages its weights with a random neighbour while it computes; each then applies its gradient.

    Mean staleness P-1, for any delays, in updates by others from when a gradient reads its model until it is applied.
    Nobody waits for a slow worker: E[X]/P an update, or more where the exchange takes longer than X. Lian et al.,
    "Asynchronous Decentralized Parallel Stochastic Gradient Descent", ICML 2018.
    """

    topology: Literal["ring", "complete"] = "ring"
    """Whom a worker of even rank may ask: the odd ranks next to it, or any odd rank."""

    def gradients_an_update(self, workers: int) -> int:
        return 1

    async def run(self, worker: Worker[T]) -> None:
        await (self.ask(worker) if worker.rank % 2 == 0 else self.answer(worker))

    async def ask(self, worker: Worker[T]) -> None:
        """An active worker."""
        peers = self.partners(worker.rank, worker.world_size)
        for _ in worker.turns():
            batch = worker.draw(worker.rank, worker.world_size)
            peer = worker.random(batch.step).choice(peers)
            reply = worker.receive(peer, "reply")
            sent = worker.send(worker.read(), peer, "ask")
            gradient = await worker.gradient(batch)
            await sent
            worker.load((await reply).payload)
            await worker.apply(gradient)
            worker.publish()
        for peer in peers:
            worker.post(None, peer, "ask", label="done")

    async def answer(self, worker: Worker[T]) -> None:
        """A passive worker."""
        serving = worker.task(self.serve(worker))
        for _ in worker.turns():
            await worker.apply(await worker.gradient(worker.draw(worker.rank, worker.world_size)))
            worker.publish()
        await serving

    async def serve(self, worker: Worker[T]) -> None:
        """Average with whoever asks, until all who may ask are done."""
        inbox = deque(worker.receive_any("ask") for _ in self.partners(worker.rank, worker.world_size))
        while inbox:
            ask = await inbox.popleft()
            if not ask.is_signal:
                inbox.append(worker.receive_any("ask"))  # everyone not done will send once more
                worker.post(self.averaged(worker, ask), ask.source, "reply")

    def averaged(self, worker: Worker[T], ask: Message[T]) -> T:
        """The mean of this worker's weights and those of the message, which are this worker's from now on."""
        return worker.change(lambda own: (own + ask.payload) / 2.0)

    def partners(self, rank: int, size: int) -> list[int]:
        """Those that `rank` averages with, all of the other kind."""
        return [peer for peer in neighbours(self.topology, rank, size) if (peer - rank) % 2]

    def can_resume(self, step: int) -> bool:
        return step == 0  # no update is everybody's

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from needs_two(workers)
