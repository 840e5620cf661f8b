"""What calibration measures: one class a probe. A probe does one thing, through the Worker, as often as it is told to."""

from __future__ import annotations

from dataclasses import dataclass

from distsim.interface.values import Batch, Region, T
from distsim.interface.worker import Worker


class Probe:
    """One thing to measure, by the first `size` ranks."""

    @property
    def slices(self) -> float:
        """How many slices of time it gets in a round."""
        return 1.0

    @property
    def name(self) -> str:
        """Names it in the trace, once among all probes."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        return 1

    async def run(self, worker: Worker[T], times: int) -> None:
        """Do it `times` times."""
        raise NotImplementedError


@dataclass(frozen=True)
class Nothing(Probe):
    """A compute operation that does nothing: what an operation costs beyond its blocks."""

    @property
    def name(self) -> str:
        return "nothing"

    async def run(self, worker: Worker[T], times: int) -> None:
        for _ in range(times):
            await worker.compute("nothing", nothing)


@dataclass(frozen=True)
class AfterMessage(Probe):
    """Rank 0 computes on one share of `parts`, each time after a message of all parameters from rank 1.

    As in a run: it slept until the message came, and its caches hold something else. The share is the same again and again,
    for a later one may begin an epoch, whose cost is not the blocks'.
    """

    parts: int
    blocks: tuple[int, ...]
    payload: int
    """The block whose parameters travel."""

    @property
    def size(self) -> int:
        return 2

    async def run(self, worker: Worker[T], times: int) -> None:
        batch, region = Batch(0, 0, self.parts), Region((self.payload,))
        for _ in range(times):
            if worker.rank == 1:
                await worker.send(worker.read(region), 0, "model")
            else:
                await worker.receive(1, "model")
                await self.step(worker, batch)

    async def step(self, worker: Worker[T], batch: Batch) -> None:
        """What is measured, from its first operation, the mark, on."""
        raise NotImplementedError


@dataclass(frozen=True)
class Chain(AfterMessage):
    """A step of training, operation by operation."""

    @property
    def name(self) -> str:
        return f"chain {self.parts}"

    async def step(self, worker: Worker[T], batch: Batch) -> None:
        worker.zero()
        x = worker.input(batch)
        await worker.compute("mark", nothing)
        for b in self.blocks:
            x = await worker.forward(b, x, batch)
        x = await worker.loss(x, batch)
        for b in reversed(self.blocks):
            x = await worker.backward(b, x, batch)


@dataclass(frozen=True)
class Whole(AfterMessage):
    """The whole gradient as one operation."""

    @property
    def name(self) -> str:
        return f"whole {self.parts}"

    async def step(self, worker: Worker[T], batch: Batch) -> None:
        await worker.compute("mark", nothing)
        await worker.gradient(batch)


@dataclass(frozen=True)
class Apply(Probe):
    """The optimizer, block by block and on all blocks at once. The gradient is 0: the weights stay as they are."""

    blocks: tuple[int, ...]

    @property
    def name(self) -> str:
        return "apply"

    async def run(self, worker: Worker[T], times: int) -> None:
        worker.zero()
        whole = worker.accumulated()
        pieces = [(Region((b,)), worker.accumulated(Region((b,)))) for b in self.blocks]
        for _ in range(times):
            await worker.compute("mark", nothing)
            for region, gradient in pieces:
                await worker.apply(gradient, region)
            await worker.apply(whole)


@dataclass(frozen=True)
class Gradients(Probe):
    """The whole gradient again and again, by `computing` ranks at once: how many cores' work they get done."""

    parts: int
    computing: int = 1

    @property
    def slices(self) -> float:
        return 3.0  # ranks beyond the cores take turns of some ms: many turns must fit

    @property
    def name(self) -> str:
        return f"gradients {self.parts} {self.computing}"

    @property
    def size(self) -> int:
        return self.computing

    async def run(self, worker: Worker[T], times: int) -> None:
        batch = Batch(0, worker.rank % self.parts, self.parts)
        for _ in range(times):
            await worker.gradient(batch)


@dataclass(frozen=True)
class PingPong(Probe):
    """A payload as large as the parameters of `block`, there and back between two ranks, while `computing` others compute.

    Each side reads what it sends and loads what it receives, as parameter servers and their workers do: the model gives
    these copies no time of their own.
    """

    block: int
    parts: int
    computing: int = 0

    @property
    def name(self) -> str:
        return f"message {self.block} {self.computing}"

    @property
    def slices(self) -> float:
        return 4.0 if self.computing else 1.0

    @property
    def size(self) -> int:
        return 2 + self.computing

    async def run(self, worker: Worker[T], times: int) -> None:
        region = Region((self.block,))
        if worker.rank > 1:
            batch = Batch(0, worker.rank % self.parts, self.parts)
            for _ in range(times):
                await worker.gradient(batch)
            return
        for _ in range(times):
            if worker.rank == 0:
                back = worker.receive(1, "ball")
                await worker.send(worker.read(region), 1, "ball")
                worker.load((await back).payload, region)
            else:
                worker.load((await worker.receive(0, "ball")).payload, region)
                await worker.send(worker.read(region), 0, "ball")


@dataclass(frozen=True)
class Reduce(Probe):
    """An all-reduce as large as the parameters of `block` by `members` ranks, each time after they computed a gradient.

    As in a step: caches hold something else, ranks do not come at the same instant, and means are sums (see Exchange)."""

    block: int
    members: int
    parts: int

    @property
    def slices(self) -> float:
        return 4.0

    @property
    def name(self) -> str:
        return f"all_reduce {self.members} {self.block}"

    @property
    def size(self) -> int:
        return self.members

    async def run(self, worker: Worker[T], times: int) -> None:
        group = worker.within(range(self.size))
        batch = Batch(0, worker.rank, self.parts)
        x = worker.read(Region((self.block,)))
        for _ in range(times):
            await worker.gradient(batch)
            await group.all_reduce(x, "sum", in_place=True)


@dataclass(frozen=True)
class Steps(Probe):
    """Whole synchronous steps of all workers: the measurement that is repeated for the noise floor."""

    parts: int
    workers: int

    @property
    def slices(self) -> float:
        return 5.0

    @property
    def name(self) -> str:
        return "steps"

    @property
    def size(self) -> int:
        return self.workers

    async def run(self, worker: Worker[T], times: int) -> None:
        group = worker.within(range(self.size))
        batch = Batch(0, worker.rank, self.parts)
        for _ in range(times):
            gradient = await worker.gradient(batch)
            await worker.apply(await group.all_reduce(gradient), scale=0.0)


@dataclass(frozen=True)
class Machine(Probe):
    """The forward pass of one of the blocks that exercise the bare machine: a matrix product, a copy."""

    block: int

    @property
    def name(self) -> str:
        return f"machine {self.block}"

    async def run(self, worker: Worker[T], times: int) -> None:
        batch = Batch(0)
        x = worker.read(Region((self.block,)))
        for _ in range(times):
            await worker.forward(self.block, x, batch)


def nothing() -> None:
    """The function of an operation that only marks the trace."""
