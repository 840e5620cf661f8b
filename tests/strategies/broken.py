"""Strategies that each break one rule, for the checks of `distsim.testing` to find."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from distsim.interface import Batch, Model, OnLoss, Problem, Region, Strategy, T, Worker


@dataclass(frozen=True)
class Good(Strategy):
    """Every worker averages its gradient with all others before each update."""

    async def run(self, worker: Worker[T]) -> None:
        for step in worker.steps():
            await self.update(worker, step)
            worker.publish()

    async def update(self, worker: Worker[T], step: int) -> None:
        await worker.apply(await worker.all_reduce(await self.gradient(worker, step)))

    async def gradient(self, worker: Worker[T], step: int) -> T:
        return await worker.gradient(Batch(step, worker.rank, worker.world_size))


# ---- what it is


class NoDataclass(Good):
    """A class."""


@dataclass
class Thawed(Strategy):
    """Its fields can be set."""

    k: int = 1
    run = Good.run
    update = Good.update
    gradient = Good.gradient


@dataclass(frozen=True, eq=False)
class Unequal(Strategy):
    """No two are equal."""

    run = Good.run
    update = Good.update
    gradient = Good.gradient


@dataclass(frozen=True)
class NeedsK(Good):
    """Has a field without a default."""

    k: int


@dataclass(frozen=True)
class Undocumented(Good):
    __doc__ = None


@dataclass(frozen=True)
class NoFullStop(Good):
    """nothing much"""


@dataclass(frozen=True)
class HoldsFunction(Good):
    """A field is a function without a name."""

    rate: Callable[[int], float] = lambda step: 1.0


# ---- what it says


@dataclass(frozen=True)
class Divides(Good):
    """Asks how many others there are."""

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        if 12 % (workers - 1):
            yield Problem("cluster.workers", workers, "one more than a divisor of 12")


@dataclass(frozen=True)
class Complains(Good):
    """Says what is wrong in a text."""

    def problems(self, workers: int, model: Model) -> Iterable[Any]:
        if workers > 8:
            yield "too many"


@dataclass(frozen=True)
class NamesAttribute(Good):
    """Names a key that is none."""

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        if workers > 8:
            yield Problem("workers", workers, "at most 8")


@dataclass(frozen=True)
class RefusesAll(Good):
    """Runs nowhere."""

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield Problem("cluster.workers", workers, "at least 100")


@dataclass(frozen=True)
class NoGradients(Good):
    """Updates for nothing."""

    def gradients_an_update(self, workers: int) -> int:
        return workers // 4


# ---- how it ends


@dataclass(frozen=True)
class OddDeadlock(Good):
    """Pairs meet at every step; the last of an odd number waits for one that is not there."""

    async def update(self, worker: Worker[T], step: int) -> None:
        await super().update(worker, step)
        if worker.world_size % 2 and worker.rank == worker.world_size - 1 > 0:
            await worker.receive(0)


@dataclass(frozen=True)
class Endless(Good):
    """Never asks for the budget."""

    async def run(self, worker: Worker[T]) -> None:
        step = 0
        while True:
            await self.update(worker, step)
            step += 1


@dataclass(frozen=True)
class LooksAtValues(Good):
    """Branches on a norm."""

    async def update(self, worker: Worker[T], step: int) -> None:
        gradient = await self.gradient(worker, step)
        if float(gradient):  # type: ignore[arg-type]
            await worker.apply(gradient)


@dataclass(frozen=True)
class UsesTorch(Good):
    """Applies the sign of the gradient."""

    async def gradient(self, worker: Worker[T], step: int) -> T:
        return torch.sign(await super().gradient(worker, step))  # type: ignore[call-overload, no-any-return]


@dataclass(frozen=True)
class AsksForNorm(Good):
    """Clips the gradient."""

    async def gradient(self, worker: Worker[T], step: int) -> T:
        gradient = await super().gradient(worker, step)
        return gradient / gradient.norm()  # type: ignore[attr-defined, no-any-return]


@dataclass(frozen=True)
class ForgetsAwait(Good):
    """Applies the gradient that it has asked for."""

    async def update(self, worker: Worker[T], step: int) -> None:
        await worker.apply(worker.gradient(Batch(step, worker.rank, worker.world_size)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class NoCoroutine(Good):
    """Forgets that its program waits."""

    def run(self, worker: Worker[T]) -> None:  # type: ignore[override]
        worker.publish()


@dataclass(frozen=True)
class CountsItself(Good):
    """Makes three steps, whatever the budget."""

    async def run(self, worker: Worker[T]) -> None:
        for step in range(3):
            await self.update(worker, step)
            worker.publish()


# ---- what it leaves


@dataclass(frozen=True)
class Remembers(Good):
    """Counts its steps over all runs."""

    steps: ClassVar[list[int]] = []

    async def update(self, worker: Worker[T], step: int) -> None:
        await super().update(worker, step)
        self.steps.append(step)
        if len(self.steps) % 7 == 0:
            await worker.compute("more", lambda x: x, worker.read())


@dataclass(frozen=True)
class DrawsItself(Good):
    """Scales gradients by numbers of its own drawing."""

    async def gradient(self, worker: Worker[T], step: int) -> T:
        return (await super().gradient(worker, step)) * random.random()


@dataclass(frozen=True)
class LosesGradients(Good):
    """The last worker sends its gradient to the first, which counts it and does nothing with it."""

    async def update(self, worker: Worker[T], step: int) -> None:
        gradient = await self.gradient(worker, step)
        if worker.world_size > 1 and worker.rank == worker.world_size - 1:
            await worker.send(gradient, 0, label="gradient")
        if worker.world_size > 1 and worker.rank == 0:
            await worker.receive(worker.world_size - 1)
        await worker.apply(await worker.all_reduce(gradient))


@dataclass(frozen=True)
class WritesRecords(Good):
    """Says that it sent a gradient, and sends none."""

    async def update(self, worker: Worker[T], step: int) -> None:
        await super().update(worker, step)
        worker._state.trace.gradients += 1


@dataclass(frozen=True)
class AsksForTensors(Good):
    """Takes another way where there are values."""

    async def update(self, worker: Worker[T], step: int) -> None:
        await super().update(worker, step)
        if hasattr(worker.read(), "tolist"):
            await worker.barrier()


@dataclass(frozen=True)
class SendsNumbers(Good):
    """Calls what only a byte count has."""

    async def update(self, worker: Worker[T], step: int) -> None:
        await super().update(worker, step)
        worker.load(type(worker.read())(worker.read().nbytes))  # type: ignore[attr-defined,call-arg]


@dataclass(frozen=True)
class FirstWorksMore(Good):
    """Says that all do alike; the first does more."""

    def alike_every(self, workers: int) -> int:
        return 1

    async def run(self, worker: Worker[T]) -> None:
        for step in worker.steps():
            await self.update(worker, step)
            if worker.rank == 0:
                await worker.compute("more", lambda x: x, worker.read())
            worker.publish()


@dataclass(frozen=True)
class Silent(Good):
    """Publishes nothing."""

    async def run(self, worker: Worker[T]) -> None:
        for step in worker.steps():
            await self.update(worker, step)


@dataclass(frozen=True)
class HalfPublished(Good):
    """Publishes the first block."""

    async def run(self, worker: Worker[T]) -> None:
        for step in worker.steps():
            await self.update(worker, step)
            worker.publish(Region((0,)))


# ---- how it loses a worker


@dataclass(frozen=True)
class FixedPartners(Good):
    """Says that it goes on without a worker, whom it sends to all the same."""

    def on_loss(self, workers: int) -> tuple[OnLoss, ...]:
        return ("continue",)

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        if workers != 3:
            yield Problem("cluster.workers", workers, "3")

    async def update(self, worker: Worker[T], step: int) -> None:
        sent = worker.send(worker.read(), (worker.rank + 1) % 3)
        await worker.receive((worker.rank + 2) % 3)
        await sent
        await super().update(worker, step)


@dataclass(frozen=True)
class ForgetsItsModel(Good):
    """Leaves, at the end of a run that has begun again, what is no number."""

    async def run(self, worker: Worker[T]) -> None:
        begun = -1
        for step in worker.steps():
            begun = step if begun < 0 else begun
            await self.update(worker, step)
            if begun and step == 7:
                worker.load(worker.read() * float("nan"))
            worker.publish()


@dataclass(frozen=True)
class CountsRestarts(Good):
    """Computes more in every other run that begins again."""

    begun: ClassVar[list[int]] = []

    async def run(self, worker: Worker[T]) -> None:
        is_first = True
        for step in worker.steps():
            if is_first and step and worker.rank == 0:
                self.begun.append(step)
            if worker.rank == 0 and len(self.begun) % 2:
                await worker.compute("more", lambda x: x, worker.read())
            is_first = False
            await self.update(worker, step)
            worker.publish()


# ---- what it computes


@dataclass(frozen=True)
class Sums(Good):
    """Adds gradients up where they should be averaged."""

    async def update(self, worker: Worker[T], step: int) -> None:
        await worker.apply(await worker.all_reduce(await self.gradient(worker, step), "sum"))


@dataclass(frozen=True)
class LeavesNothing(Good):
    """Overwrites the model with what is no number, last of all."""

    async def update(self, worker: Worker[T], step: int) -> None:
        await super().update(worker, step)
        if step == 7:
            worker.load(worker.read() * float("nan"))


@dataclass(frozen=True)
class SharesMemory(Good):
    """Ranks meet in a variable of the class."""

    seen: ClassVar[dict[int, int]] = {}

    async def run(self, worker: Worker[T]) -> None:
        self.seen[worker.rank] = worker.rank
        await worker.barrier()
        for step in worker.steps():
            await self.update(worker, step)
            worker.publish()
        assert len(self.seen) >= worker.world_size, "the others are not here"


@dataclass(frozen=True)
class KnowsItsProcess(Good):
    """Trains twice as fast in a process that another has started."""

    async def update(self, worker: Worker[T], step: int) -> None:
        mean = await worker.all_reduce(await self.gradient(worker, step))
        await worker.apply(mean, scale=2.0 if multiprocessing.parent_process() else 1.0)
