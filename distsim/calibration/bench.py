"""The model on the bench: a workload's blocks, behind blocks that are payloads of a size or exercise the bare machine.

A strategy can only send what its numerics give it. So the sizes to measure are blocks of that many parameters, a matrix
product and a copy are blocks with a forward pass, and `BenchNumerics` passes everything else on to the workload's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

from distsim.calibration.probes import Apply, Chain, Gradients, Machine, Nothing, PingPong, Probe, Reduce, Steps, Whole
from distsim.interface.codec import Codec
from distsim.interface.fabric import Collective
from distsim.interface.memory import Memory
from distsim.interface.model import Block, Model
from distsim.interface.numerics import Blocks, Numerics, Part, Then, nothing
from distsim.interface.optimizer import Optimizer
from distsim.interface.values import Batch, Region, T

MATMUL = 384
"""Rows and columns of the square matrix product: large enough to reach the core's rate, small enough for its caches."""
COPY = 4_000_000
"""Scalars copied: more than the caches of a core hold."""


@dataclass(frozen=True)
class Bench:
    """Which block of the extended model is what, and which probes run on it."""

    model: Model
    workers: int
    first: int
    """The workload's blocks start here."""
    share: int
    """Shares of a step that make one worker's usual batch."""
    shares: tuple[int, ...]
    """Shares of a step to measure blocks at."""
    groups: tuple[int, ...]

    @property
    def blocks(self) -> tuple[int, ...]:
        """The workload's blocks."""
        return tuple(range(self.first, len(self.model.blocks)))

    @property
    def payloads(self) -> tuple[int, ...]:
        """The blocks that are a payload of a size."""
        return tuple(b.index for b in self.model.blocks if b.kind == "payload")

    @property
    def machine(self) -> tuple[int, int]:
        """The blocks of the matrix product and of the copy."""
        kinds = [b.kind for b in self.model.blocks]
        return kinds.index("matmul"), kinds.index("copy")

    def samples(self, parts: int) -> float:
        """Samples in one of `parts` shares of a step."""
        return self.model.batch * self.workers / parts

    def probes(self) -> tuple[Probe, ...]:
        """Everything that is measured."""
        alone: list[Probe] = [Nothing(), Apply(self.blocks)]
        alone += [kind(parts, self.blocks, self.payloads[-1]) for kind in (Chain, Whole) for parts in self.shares]
        together: list[Probe] = [Gradients(self.share, n) for n in range(1, self.workers + 2)]
        if self.workers > 1:
            others = self.workers - 1  # the server's rank computes, too
            together += [PingPong(block, self.share, n) for block in self.payloads for n in (0, others)]
        together += [Reduce(block, n, self.share) for n in self.groups for block in self.payloads]
        together += [Steps(self.share, self.workers), *map(Machine, self.machine)]
        return (*alone, *together)


def bench(model: Model, workers: int, largest: int, sizes: Sequence[int]) -> Bench:
    """Put `model` on the bench of `workers` ranks: shares of 1 to `largest` samples or more, payloads of `sizes` bytes."""
    scale = 1
    while model.batch * workers * scale < largest:
        scale *= 2
    share, batch = workers * scale, model.batch * scale
    shares = {p for p in _powers(batch * workers)[::2] if batch * workers % p == 0} | {1, scale, share}
    extra = [
        Block(0, "copy", 2 * COPY, 0, 0, 0.0, 0.0, 0.0),
        Block(0, "matmul", MATMUL**2, MATMUL**2, 0, 2.0 * MATMUL**3 / (batch * workers), 0.0, 0.0),
        *(Block(0, "payload", max(1, size // model.itemsize), 0, 0, 0.0, 0.0, 0.0) for size in sizes),
    ]
    blocks = tuple(replace(b, index=i) for i, b in enumerate((*extra, *model.blocks)))
    groups = sorted({n for n in _powers(workers) if n > 1} | {workers} - {1})
    return Bench(
        model=replace(model, blocks=blocks, batch=batch),
        workers=workers,
        first=len(extra),
        share=share,
        shares=tuple(sorted(shares)),
        groups=tuple(groups),
    )


def _powers(limit: int) -> list[int]:
    return [2**k for k in range(limit.bit_length()) if 2**k <= limit]


class BenchNumerics(Generic[T]):
    """Implements `Numerics`: the workload's own, its blocks shifted by `first`; the blocks before are made by `make`."""

    def __init__(self, inner: Numerics[T], first: int, make: Callable[[int], T], work: Callable[[int, T], T]) -> None:
        self.has_values = inner.has_values
        self._inner = inner
        self._first = first
        self._make = make
        self._work = work
        self._payloads: dict[int, T] = {}

    def _shift(self, region: Region) -> Region:
        return region if region.blocks is None else replace(region, blocks=self._shifted(region.blocks))

    def _shifted(self, blocks: Sequence[int]) -> Blocks:
        return tuple(b - self._first for b in blocks)

    def place(self, blocks: Sequence[int], shard: tuple[int, int]) -> None:
        self._inner.place(self._shifted(blocks), shard)

    def input(self, batch: Batch) -> T:
        return self._inner.input(batch)

    def hold(self, batch: Batch) -> None:
        self._inner.hold(batch)

    def forward(self, blocks: Blocks, x: T, batch: Batch, then: Then = nothing) -> T:
        if blocks[0] < self._first:
            return self._work(blocks[0], x)
        return self._inner.forward(self._shifted(blocks), x, batch, then)

    def loss(self, y: T, batch: Batch) -> tuple[T, float]:
        return self._inner.loss(y, batch)

    def backward(self, blocks: Blocks, g: T, batch: Batch, part: Part, then: Then = nothing) -> T:
        return self._inner.backward(self._shifted(blocks), g, batch, part, then)

    def backward_of_loss(self, blocks: Blocks, y: T, batch: Batch, then: Then = nothing) -> tuple[T, float]:
        return self._inner.backward_of_loss(self._shifted(blocks), y, batch, then)

    def read(self, region: Region) -> T:
        if region.blocks is None or region.blocks[0] >= self._first:
            return self._inner.read(self._shift(region))
        (block,) = region.blocks
        if block not in self._payloads:
            self._payloads[block] = self._make(block)
        return self._inner.copy(self._payloads[block])

    def load(self, region: Region, x: T) -> None:
        if region.blocks is None or region.blocks[0] >= self._first:
            self._inner.load(self._shift(region), x)
        else:
            self._payloads[region.blocks[0]] = self._inner.copy(x)

    def release(self, region: Region) -> None:
        self._inner.release(self._shift(region))

    def update(self, region: Region, gradient: T | None, optimizer: Optimizer | None, scale: float) -> None:
        self._inner.update(self._shift(region), gradient, optimizer, scale)

    def accumulated(self, region: Region, scale: float = 1.0) -> T:
        return self._inner.accumulated(self._shift(region), scale)

    def accumulate(self, region: Region, g: T) -> None:
        self._inner.accumulate(self._shift(region), g)

    def zero(self, region: Region | None) -> None:
        self._inner.zero(None if region is None else self._shift(region))

    def forget(self, batch: Batch) -> None:
        self._inner.forget(batch)

    def nbytes(self, x: T) -> float:
        return self._inner.nbytes(x)

    def copy(self, x: T) -> T:
        return self._inner.copy(x)

    def cut(self, x: T, pieces: int) -> list[T]:
        return self._inner.cut(x, pieces)

    def combine(self, collective: Collective, values: Sequence[T]) -> list[T]:
        return self._inner.combine(collective, values)

    def encode(self, codec: Codec, x: T, region: Region, received: Sequence[T]) -> T:
        return self._inner.encode(codec, x, self._shift(region), received)

    def decode(self, codec: Codec, region: Region, received: Sequence[T], codes: int) -> T:
        return self._inner.decode(codec, self._shift(region), received, codes)

    def save(self) -> Any:
        return self._inner.save()

    def restore(self, saved: Any) -> None:
        self._inner.restore(saved)

    def memory(self) -> Memory:
        return self._inner.memory()


@dataclass(frozen=True)
class BenchFactory:
    """Rank -> its numerics on the bench. `make` gives the payload of a block of the bench, `work` is its forward pass."""

    inner: Callable[[int], Numerics[Any]]
    first: int
    make: Callable[[int], Any]
    work: Callable[[int, Any], Any]

    def __call__(self, rank: int) -> BenchNumerics[Any]:
        return BenchNumerics(self.inner(rank), self.first, self.make, self.work)
