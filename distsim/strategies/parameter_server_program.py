"""The program of all parameter servers and their workers. Five rules tell one from another:

    admission   admit    who may have a model now
    collection  collect  how many gradients an update waits for; `waits`: whether their workers wait for it, too
    late        on_late  what becomes of a gradient whose model is no longer the newest: its worker is told to cancel, it is
                         dropped when it arrives, or it is applied like any other
    weight      weigh    what a gradient counts, by its staleness: its share in its update's mean, and of its update's rate
    combine     combine  how the gradients of an update become one

The protocol: **every model is answered exactly once**, with its gradient or, if that was cancelled, with a signal. The
server knows who owes it an answer. That one rule gives cancellation, termination and conservation. After an update that
cancels, each worker that computes gets one notice, a signal on the models' tag: its place among them tells which model it
means, and a worker skips a notice that crossed its answer. At the end: notices, the answers still owed, and a stop each.

Staleness counts from the moment the model was read at the server, not from when it arrived.

Several servers hold a shard of the parameters each, of equal bytes, and run this same program on it: a worker needs a model
from all of them, and answers all at once. Where every gradient counts and nobody waits for some others (or all wait for
all), servers need not know of each other: each applies what comes in its own order and counts its own versions, as in
Downpour SGD. Elsewhere they must agree: if three servers each wait for the first three of five workers, each can keep two
others waiting, until all five wait. So there the first server's order is everybody's: it names to the others the source of
each answer that it takes, and they take theirs from the same. Then all are in the same state after the same answers: the
first K at the first server are the first K at every server, its notices alone can cancel, and as one server alone never
stops for want of answers, several do not either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal

from distsim.interface import ALL, JOINED, LOST, Message, Model, OnLoss, Problem, Region, T, Work, Worker
from distsim.strategies.exchange import Compressed, Outbox, decoded

MOST_SERVERS = 1024
"""More is a slip: every worker talks to every server, and 10^5 of them fill a machine's memory."""

Late = Literal["cancel", "drop", "apply"]


@dataclass(frozen=True, kw_only=True)
class ParameterServer(Compressed):
    """Workers compute gradients on models that servers hand out; the servers are the last ranks."""

    servers: int = 1
    """S, how many servers share the parameters, by bytes."""
    beside: bool = False
    """Server i lives on the host of worker i mod P and shares its link; `servers`=P is a server beside each worker."""

    hears_on: ClassVar[str | None] = "gradient"
    waits: ClassVar[bool] = True
    """Whether a worker waits for the update that its gradient joins; else it gets the newest model at once, and one update
    may hold several gradients of one worker."""

    def updates_whole(self, workers: int) -> bool:
        return super().updates_whole(workers) and self.servers == 1

    # ---- the rules

    def admit(self, ahead: int) -> bool:
        """Whether a worker may have a model that has answered so many more than the slowest worker."""
        return True

    def collect(self, workers: int) -> int:
        """How many gradients an update waits for."""
        raise NotImplementedError

    def on_late(self) -> Late:
        """What becomes of a gradient of another version than the newest."""
        return "apply"

    def weigh(self, staleness: int, workers: int) -> float:
        """What a gradient of this staleness counts. An update's rate is multiplied by what its gradients count on average:
        scaled gradients would mean nothing to AdamW, and decay weights in full."""
        return 1.0

    async def combine(self, server: Worker[T], batch: Sequence[tuple[Message[T], T]]) -> T:
        """One gradient out of several, each with the message that it came with: their weighted mean, which costs time."""
        if len(batch) == 1:
            return batch[0][1]
        weights = self.weights(server, batch)
        mean = sum(weights) / len(weights)
        weighted = [g if w == mean else g * (w / mean) for (_, g), w in zip(batch, weights, strict=True)]
        return await server.compute("average", _average, *weighted)

    # ---- what follows from them

    def server_count(self, workers: int) -> int:
        return self.servers

    def servers_beside(self) -> bool:
        return self.beside

    def gradients_an_update(self, workers: int) -> int:
        return self.collect(workers)

    def on_loss(self, workers: int) -> tuple[OnLoss, ...]:
        """Go on, unless every update needs everybody or, of a lost worker's gradient, one server may have what another
        lacks: that one could wait forever for its last update."""
        needs_all = self.waits and self.collect(workers) == workers
        return ("restart",) if needs_all or self.servers > 1 else ("continue", "restart")

    def takes_one_order(self, workers: int) -> bool:
        """Whether several servers must take answers in the order of the first."""
        collect = self.collect(workers)
        if self.waits and collect == workers:
            return False  # of everybody one
        return self.on_late() != "apply" or (self.waits and collect > 1)

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from super().problems(workers, model)
        if self.compression == "powersgd":
            allowed = "its two rounds are all-reduces, and a server takes one code of each worker"
            yield Problem("strategy.compression", self.compression, allowed, "take top_k, fp16 or strategy=all_reduce")
        scalars = sum(block.parameters for block in model.blocks)
        why = f"this model has {scalars} parameters to share, and a run at most {MOST_SERVERS} servers"
        yield from outside("servers", self.servers, 1, min(scalars, MOST_SERVERS), why)

    def regions(self) -> list[Region]:
        """What each server holds."""
        return ALL.cut(self.servers) if self.servers > 1 else [ALL]

    # ---- the program

    def run(self, worker: Worker[T]) -> Coroutine[Any, Any, None]:
        return self.train(worker) if worker.rank < worker.workers else self.serve(worker)

    async def train(self, worker: Worker[T]) -> None:
        """A worker: answer each model with its gradient, until told to stop."""
        servers, outbox = range(worker.workers, worker.world_size), Outbox(worker, self)
        news = [worker.receive(server, "model") for server in servers]
        models = [await self.welcome(worker, each) for each in news]
        stop = _addressed("stop", worker.life)
        while not any(model.label == stop for model in models):
            news = [worker.receive(server, "model") for server in servers]  # before computing: a notice, a model, the end
            if not models[0].is_signal:  # else a notice that crossed our answer
                await self.answer(worker, models, news[0], outbox)
            models = [await each for each in news]
        for server, model in zip(servers, models, strict=True):
            if not model.is_signal:  # all gradients that this server needs to end, too, are under way
                last = worker.receive(server, "model")
                await worker.send(None, server, "gradient")
                await last

    async def welcome(self, worker: Worker[T], news: Work[Message[T]]) -> Message[T]:
        """The first message of a server that is not for a former life of this worker: a model, or a stop."""
        own = [_addressed(word, worker.life) for word in ("", "stop")]
        message = await news
        while message.label not in own:
            message = await worker.receive(message.source, "model")
        return message

    async def answer(
        self, worker: Worker[T], models: Sequence[Message[T]], notice: Work[Message[T]], outbox: Outbox[T]
    ) -> None:
        """Compute a gradient on the servers' models, and send each its piece."""
        regions = self.regions()
        for region, model in zip(regions, models, strict=True):
            worker.load(model.payload, region)
        batch = worker.draw(worker.rank, worker.workers)
        may_be_cancelled = self.on_late() == "cancel"
        gradient = await (worker.gradient(batch, unless=notice) if may_be_cancelled else worker.gradient(batch))
        pieces: Sequence[T | None] = [None] * len(models)
        if gradient is not None:
            cut = worker.cut(gradient, len(models)) if len(models) > 1 else [gradient]
            pieces = [await outbox.encode(piece, region) for piece, region in zip(cut, regions, strict=True)]
        sends = [
            worker.send(piece, worker.workers + i, "gradient", model.version, "gradient")
            for i, (piece, model) in enumerate(zip(pieces, models, strict=True))
        ]
        await outbox.keep()
        for send in sends:
            await send

    async def serve(self, server: Worker[T]) -> None:
        """A server: hand out models, take answers, update."""
        desk = self.desk(server)
        for _ in server.steps():
            batch: list[tuple[Message[T], T]] = []
            while len(batch) < self.collect(server.workers):
                desk.hand_out(self.admit)
                answer = await desk.answer()
                if answer is None:
                    continue
                message, model = answer
                is_late = self.on_late() != "apply" and message.version < server.version
                if is_late or message.is_signal:
                    desk.reject(message)
                    continue
                batch.append((message, await desk.gradient(message, model)))
                desk.count(message.source, self.waits)
            batch.sort(key=lambda pair: pair[0].source)  # sums do not depend on who was first
            of = [message for message, _ in batch]
            scale = sum(self.weights(server, batch)) / len(batch)
            await server.apply(await self.combine(server, batch), desk.region, scale, of)
            server.publish(desk.region)
            desk.release()
            if self.on_late() == "cancel":
                desk.notify()
        await desk.close()

    def weights(self, server: Worker[T], batch: Sequence[tuple[Message[T], T]]) -> list[float]:
        """What each gradient of the update under way counts."""
        return [self.weigh(server.version - message.version, server.workers) for message, _ in batch]

    def desk(self, server: Worker[T]) -> Desk[T]:
        """What one server keeps during a run."""
        return Desk(server, self)


class Desk(Generic[T]):
    """One server's side of the protocol: who computes on which model, who waits for one, whose answers are to come."""

    def __init__(self, server: Worker[T], strategy: ParameterServer) -> None:
        number = server.rank - server.workers
        self.server = server
        self._compressed = strategy
        self.region = strategy.regions()[number]
        self.idle = list(range(server.workers))
        """Who waits for a model."""
        self._clock = [0] * server.workers  # answers of each worker
        self._given: dict[int, tuple[T, Work[None]]] = {}  # the model under way to, or in use by, each worker
        self._told: set[int] = set()  # of them, who has had a notice; only membership is asked
        self._taken: list[int] = []  # who waits for the update that its gradient joins
        self._lives = [0] * server.workers  # how often each worker has joined again
        self._away: set[int] = set()  # workers that are lost; only membership is asked
        self._model: tuple[int, T] | None = None  # a copy of the newest version that was handed out, and its number
        self._may_cancel = strategy.on_late() == "cancel"
        in_order = strategy.takes_one_order(server.workers)
        first = server.workers
        self._followers = range(first + 1, server.world_size) if in_order and number == 0 else range(0)
        self._leader = first if in_order and number else None
        self._inbox = deque[Work[Message[T]]]()  # for each model handed out a receive from any, or of the leader's order
        self._answers = dict[int, Work[Message[T]]]()  # where a leader orders, a receive from each
        if len(strategy.regions()) > 1:
            server.release(self.region)

    def hand_out(self, admit: Callable[[int], bool]) -> None:
        """Send the newest model to every idle worker that is admitted."""
        if not self.idle:
            return  # asked before each answer; the slowest is looked for among all workers
        slowest, waiting = self._slowest(), self.idle
        self.idle = []
        for w in waiting:
            if admit(self._clock[w] - slowest):
                model = self._newest()
                self._given[w] = model, self.server.send(model, w, "model", self.server.version, self._label("", w))
                self.expect(w)
            else:
                self.idle.append(w)

    def _slowest(self) -> int:
        """Answers of the worker that has given least, of those who are there."""
        clocks = self._clock
        return min(clock for w, clock in enumerate(clocks) if w not in self._away) if self._away else min(clocks)

    def _newest(self) -> T:
        """A copy of the newest model, the same for all that get it."""
        if self._model is None or self._model[0] != self.server.version:
            self._model = self.server.version, self.server.read(self.region)
        return self._model[1]

    def expect(self, worker: int) -> None:
        """Post the receive of an answer."""
        if self._leader is None:
            self._inbox.append(self.server.receive_any("gradient"))
        else:
            self._inbox.append(self.server.receive(self._leader, "order"))
            self._answers[worker] = self.server.receive(worker, "gradient")

    async def take(self) -> Message[T]:
        """The next answer: the first to arrive, or of the worker that the leader names."""
        if not self._inbox:  # every worker is lost: the next to join is heard here
            self._inbox.append(self.server.receive_any("gradient"))
        message = await self._inbox.popleft()
        if self._leader is not None:
            return await self._answers.pop(message.version)
        for follower in self._followers:
            self.server.post(None, follower, "order", message.source)
        return message

    async def answer(self) -> tuple[Message[T], T] | None:
        """The next answer, and the model it answers: its worker has that, so the send is over. None: a worker has gone or
        come."""
        message = await self.take()
        if message.label in (LOST, JOINED):
            await self._change(message.source, message.label == JOINED)
            return None
        model, send = self._given.pop(message.source)
        await send
        self._told.discard(message.source)
        self._clock[message.source] += 1
        return message, model

    async def _change(self, worker: int, is_there: bool) -> None:
        """A worker is lost, and what it owes with it; or it has joined, and waits for a model as the slowest does."""
        if is_there:
            self._away.discard(worker)
            self._lives[worker] += 1
            others = [clock for w, clock in enumerate(self._clock) if w != worker and w not in self._away]
            self._clock[worker] = max([self._clock[worker], *([min(others)] if others else [])])
            if worker not in self._taken:
                self.idle.append(worker)
        else:
            self._away.add(worker)
            self._told.discard(worker)
            if worker in self.idle:
                self.idle.remove(worker)
            if worker in self._given:
                _, send = self._given.pop(worker)
                await send
        while len(self._inbox) < len(self._given):  # the signal was heard in place of an answer
            self._inbox.append(self.server.receive_any("gradient"))

    def count(self, worker: int, waits: bool) -> None:
        """A worker's gradient is in the update under way, for which it may wait."""
        (self._taken if waits else self.idle).append(worker)

    def release(self) -> None:
        """The update is made: nobody waits for it any more."""
        self.idle += sorted(worker for worker in self._taken if worker not in self._away)
        self._taken.clear()

    async def gradient(self, message: Message[T], model: T) -> T:
        """The gradient that a message brings; `model` is what it was computed on."""
        return await decoded(self.server, self._compressed, message.payload, self.region)

    def reject(self, message: Message[T]) -> None:
        """Discard a late gradient, or take note of a signal: its worker was cancelled, or has left for good because
        another server has made all its updates."""
        if not message.is_signal:
            self.server.discard(message)
        if self._may_cancel or not message.is_signal:
            self.idle.append(message.source)
        else:
            self._stop(message.source)

    def notify(self) -> None:
        """Tell every worker that computes, once, that its gradient comes too late."""
        for w in self._given:
            if w not in self._told:
                self._told.add(w)
                self.server.post(None, w, "model", self.server.version, self._label("notice", w))

    async def close(self) -> None:
        """Take the answers still owed, and stop each worker that owes none."""
        self._dismiss()
        while self._given:
            answer = await self.answer()
            if answer is None:
                self._dismiss()
                continue
            message, _ = answer
            if not message.is_signal:
                self.server.discard(message)
            self._stop(message.source)

    def _dismiss(self) -> None:
        for w in self.idle:
            self._stop(w)
        self.idle.clear()

    def _stop(self, worker: int) -> None:
        self.server.post(None, worker, "model", label=self._label("stop", worker))

    def _label(self, word: str, worker: int) -> str:
        return _addressed(word, self._lives[worker])


def outside(key: str, value: int, low: int, high: int, why: str) -> Iterable[Problem]:
    """The problem of a number that is not in low..high."""
    if not low <= value <= high:
        nearest = f"take strategy.{key}={min(max(value, low), high)}"
        yield Problem(f"strategy.{key}", value, f"must be {low} to {high}: {why}", nearest)


def _addressed(word: str, life: int) -> str:
    """The label of a model (no word), a notice or a stop for a worker in this life, and no other."""
    return f"{word} life {life}" if life else word


def _average(*payloads: T) -> T:
    total = payloads[0]
    for payload in payloads[1:]:
        total = total + payload
    return total / len(payloads)
