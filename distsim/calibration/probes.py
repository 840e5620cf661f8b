"""What calibration runs: a strategy like any other, so that what it measures is what a run pays, Python included.

Theory of operation. Rank 0 walks the list of probes in a random order, once a round; it tells the ranks that a probe needs
to go and how often to repeat, and everybody else waits in a receive, which costs no CPU. So every probe runs alone on the
machine, and all of them are interleaved over the whole time: what disturbs the machine disturbs all of them alike. Two
marks in the trace enclose every probe; `analysis` reads nothing but the trace. The same strategy runs on the simulated
fabric and must find there what the simulator was given: a test holds it to that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from distsim.interface.strategy import Strategy
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
            await worker.compute("nothing", _nothing)


@dataclass(frozen=True)
class Chain(Probe):
    """A step of training, operation by operation, on one share of `parts`."""

    parts: int
    blocks: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"chain {self.parts}"

    async def run(self, worker: Worker[T], times: int) -> None:
        batch = Batch(0, 0, self.parts)  # the same again: a later one may begin an epoch, whose cost is not the blocks'
        for _ in range(times):
            worker.zero()
            x = worker.input(batch)
            await worker.compute("mark", _nothing)
            for b in self.blocks:
                x = await worker.forward(b, x, batch)
            x = await worker.loss(x, batch)
            for b in reversed(self.blocks):
                x = await worker.backward(b, x, batch)


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
            await worker.compute("mark", _nothing)
            for region, gradient in pieces:
                await worker.apply(gradient, region)
            await worker.apply(whole)


@dataclass(frozen=True)
class Gradients(Probe):
    """The whole gradient as one operation, by `computing` ranks at once."""

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

    As in a step: caches hold something else, and the ranks do not come at the same instant."""

    block: int
    members: int
    parts: int

    @property
    def slices(self) -> float:
        return 2.0

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
            await group.all_reduce(x)


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


@dataclass(frozen=True)
class Calibration(Strategy):
    """Round after round, runs every probe once for about `slice_seconds`, in a random order."""

    servers: ClassVar[int] = 1
    gradients_an_update: ClassVar[int | None] = 1
    probes: tuple[Probe, ...]
    blocks: tuple[int, ...]
    """Those of the workload; the other blocks of the model are payloads of a size and probes of the machine."""
    slice_seconds: float = 0.02
    others: Callable[[], float] | None = None
    """The share of the machine's CPU that other processes used since it was last asked."""

    async def run(self, worker: Worker[T]) -> None:
        worker.place(self.blocks)
        if worker.rank == 0:
            await self._lead(worker)
        else:
            await self._follow(worker)

    async def _lead(self, worker: Worker[T]) -> None:
        meter = self.others or _nobody
        meter()
        pace: dict[str, float] = {}
        for round_ in worker.steps():
            for index in Random(round_).sample(range(len(self.probes)), len(self.probes)):
                probe = self.probes[index]
                times = self._times(probe, pace.get(probe.name))
                for rank in range(1, probe.size):
                    await worker.send(None, rank, "go", version=times, label=str(index))
                begun = worker.now
                await _enclosed(worker, probe, round_, times)
                pace[probe.name] = (worker.now - begun) / times
                for rank in range(1, probe.size):
                    await worker.receive(rank, "done")
            await worker.compute(f"others {meter():.4f}", _nothing)
            for rank in range(1, worker.world_size):
                await worker.send(None, rank, "go", label="end")

    def _times(self, probe: Probe, seconds: float | None) -> int:
        """How often to repeat a probe that took `seconds` a time in the round before."""
        if seconds is None:
            return 1
        return max(1, min(1000, round(probe.slices * self.slice_seconds / max(seconds, 1e-6))))

    async def _follow(self, worker: Worker[T]) -> None:
        for round_ in worker.steps():
            while (order := await worker.receive(0, "go")).label != "end":
                await _enclosed(worker, self.probes[int(order.label)], round_, order.version)
                await worker.send(None, 0, "done")


async def _enclosed(worker: Worker[T], probe: Probe, round_: int, times: int) -> None:
    await worker.compute(f"begin {round_} {probe.name}", _nothing)
    await probe.run(worker, times)
    await worker.compute("end", _nothing)


def _nothing() -> None:
    pass


def _nobody() -> float:
    return 0.0
