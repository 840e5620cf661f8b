"""Data parallelism over a parameter server.

One program; a rule tells its members apart: how many gradients an update waits for (`collect`), and what a stale gradient
weighs (`weigh`). Every model that the server hands out is answered exactly once, by a gradient. That rule alone gives
termination (the server takes the answers it is still owed, then says stop) and conservation.

Staleness counts from the moment the model was read at the server, not from when it arrived.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from distsim.interface import Message, Strategy, T, Work, Worker


class ParameterServer(Strategy):
    """The program of the workers and of the one server, which is the last rank."""

    def server_count(self, workers: int) -> int:
        return 1

    def collect(self, workers: int) -> int:
        """How many gradients an update waits for."""
        raise NotImplementedError

    def weigh(self, staleness: int) -> float:
        """What a gradient of this staleness counts in its update's mean."""
        return 1.0

    async def run(self, worker: Worker[T]) -> None:
        await (self.train(worker) if worker.rank < worker.workers else self.serve(worker))

    async def train(self, worker: Worker[T]) -> None:
        """A worker: load the model, answer with a gradient, until told to stop."""
        server = worker.workers
        news = worker.receive(server, "model")
        while (model := await news).label != "stop":
            news = worker.receive(server, "model")  # posted before computing: the next model meets it
            worker.load(model.payload)
            gradient = await worker.gradient(worker.draw(worker.rank, worker.workers))
            await worker.send(gradient, server, "gradient", model.version, "gradient")

    async def serve(self, server: Worker[T]) -> None:
        """The server: hand out models, collect gradients, update."""
        idle = list(range(server.workers))
        sends = dict[int, Work[None]]()  # the model under way to, or in use by, each worker
        inbox = deque[Work[Message[T]]]()  # one receive posted for each model handed out
        for _ in server.steps():
            model = server.read()
            for w in idle:
                sends[w] = server.send(model, w, "model", server.version)
                inbox.append(server.receive_any("gradient"))
            batch = [await self.answer(inbox, sends) for _ in range(self.collect(server.workers))]
            batch.sort(key=lambda message: message.source)  # sums do not depend on who was first
            await server.apply(await self.mean(server, batch), of=batch)
            server.publish()
            idle = [message.source for message in batch]
        while inbox:
            server.discard(await self.answer(inbox, sends))
        for w in range(server.workers):
            server.post(None, w, "model", label="stop")

    async def answer(self, inbox: deque[Work[Message[T]]], sends: dict[int, Work[None]]) -> Message[T]:
        """The next gradient; its worker has its model, so that send is over."""
        message = await inbox.popleft()
        await sends.pop(message.source)
        return message

    async def mean(self, server: Worker[T], batch: list[Message[T]]) -> T:
        """The weighted mean of the gradients; averaging several costs time."""
        weights = [self.weigh(server.version - message.version) for message in batch]
        payloads = [m.payload if w == 1.0 else m.payload * w for m, w in zip(batch, weights, strict=True)]
        return payloads[0] if len(payloads) == 1 else await server.compute("average", _average, *payloads)


def _average(*payloads: T) -> T:
    total = payloads[0]
    for payload in payloads[1:]:
        total = total + payload
    return total / len(payloads)


@dataclass(frozen=True)
class SyncPS(ParameterServer):
    """The server waits for one gradient of the current model from each worker, then updates once with their mean.

    Staleness 0. n exponential workers of mean 1/mu take H_n/mu a step; P gradients of M bytes enter and leave one link in
    P M/B each way. Li et al., "Scaling Distributed Machine Learning with the Parameter Server", OSDI 2014.
    """

    def collect(self, workers: int) -> int:
        return workers


@dataclass(frozen=True)
class AsyncPS(ParameterServer):
    """The server updates with every gradient at once, however old the model it was computed on; nobody waits.

    Mean staleness P-1, for any delays; E[X]/P an update. Every comparison needs the control: the same at rate/P. Dean et
    al., "Large Scale Distributed Deep Networks", NIPS 2012 (Downpour SGD).
    """

    weight: Literal["constant", "inverse"] = "constant"
    """`inverse` scales the rate by 1/max(1, staleness). Zhang et al., "Staleness-aware async-SGD", IJCAI 2016."""

    def gradients_an_update(self, workers: int) -> int:
        return 1

    def collect(self, workers: int) -> int:
        return 1

    def weigh(self, staleness: int) -> float:
        return 1.0 if self.weight == "constant" else 1.0 / max(1, staleness)
