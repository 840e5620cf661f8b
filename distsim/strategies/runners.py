"""How one block runs: a chain of wrappers whose base is the worker itself.

A schedule says in which order micro-batches go through blocks and knows nothing of what a block's run takes; a runner
knows nothing of the order. Who communicates inside a block is the runner.

When the gradient of a block is final the chain is told so, from the inside out: `TensorParallel.complete`, then `reduce` of
`Replicated` or `FullySharded`, which takes the gradient over the ranks that hold the same block. A step ends with `update`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Generic, Protocol

from distsim.interface import Batch, Block, Part, Region, T, Work, Worker
from distsim.strategies.exchange import Compressed, Exchange


class Runner(Protocol[T]):
    """Runs single blocks. A `Worker` is one; others wrap a runner and add what a block needs around it."""

    def forward(self, block: int, x: T, batch: Batch) -> Awaitable[T]:
        """The output of one block."""

    def backward(self, block: int, g: T, batch: Batch, part: Part = "both") -> Awaitable[T]:
        """Accumulate the gradient of one block; the gradient of its input. Parts as `Worker.backward`'s."""


class TensorParallel(Generic[T]):
    """Blocks cut into tensor shards over `group`: their outputs and input gradients are partial sums, which it sums.

    A block that cannot be cut runs whole on every rank, without communication. Shoeybi et al., arXiv:1909.08053, section 3.
    """

    def __init__(self, inner: Runner[T], group: Worker[T]) -> None:
        self._inner = inner
        self._group = group
        self.blocks = frozenset(cut_blocks(group.blocks)) if group.world_size > 1 else frozenset[int]()
        """The blocks that are cut."""

    async def forward(self, block: int, x: T, batch: Batch) -> T:
        """The output of one block."""
        y = await self._inner.forward(block, x, batch)
        return await self._group.all_reduce(y, "sum") if block in self.blocks else y

    async def backward(self, block: int, g: T, batch: Batch, part: Part = "both") -> T:
        """The gradient of the block's input; the first block's has none, nor has `part="weights"`."""
        g = await self._inner.backward(block, g, batch, part)
        is_partial = block in self.blocks and block > 0 and part != "weights"
        return await self._group.all_reduce(g, "sum") if is_partial else g

    async def complete(self, block: int) -> None:
        """Sum the final gradient of the parameters that all shards of the block hold."""
        if block in self.blocks and self._group.blocks[block].replicated:
            region = Region((block,), replicated=True)
            total = await self._group.all_reduce(self._group.accumulated(region), "sum")
            self._group.zero(region)
            self._group.accumulate(total, region)


class Replicated(Generic[T]):
    """Blocks that every rank of `group` holds alike: their gradients are averaged during the rest of the backward pass."""

    def __init__(self, inner: Runner[T], group: Worker[T], compressed: Compressed) -> None:
        self._inner = inner
        self._group = group
        self._exchange = Exchange(group, compressed)
        self._pending: list[tuple[Region, Work[T]]] = []

    def forward(self, block: int, x: T, batch: Batch) -> Awaitable[T]:
        """The output of one block."""
        return self._inner.forward(block, x, batch)

    def backward(self, block: int, g: T, batch: Batch, part: Part = "both") -> Awaitable[T]:
        """The gradient of the block's input."""
        return self._inner.backward(block, g, batch, part)

    async def reduce(self, block: int) -> None:
        """Start to average the final gradient of a block."""
        region = Region((block,))
        gradient = self._group.accumulated(region, self._exchange.scale)
        self._pending.append((region, await self._exchange.start(gradient, region)))

    async def update(self) -> None:
        """One step of the optimizer on every block whose gradient was reduced."""
        for region, reduction in self._pending:
            await self._group.apply(await reduction, region)
        self._pending.clear()

    def shown(self, blocks: Collection[int]) -> list[Region]:
        """What this rank publishes of `blocks`: everything, if it is the first of those that hold the same."""
        return [Region(tuple(blocks))] if blocks and self._group.rank == 0 else []


class Scatter(Generic[T]):
    """Gradients on their way to shards: reduce-scattered in `group`, then averaged over `across`, if there is one.

    Each leg runs while the next gradient is computed: a whole gradient is freed when the one after it is put in, a shard
    averaged over `across` is there one later. So at most two whole gradients are held.
    """

    def __init__(self, group: Worker[T], across: Worker[T] | None = None) -> None:
        self._group = group
        self._across = across
        self._scattering: tuple[Region, Work[T]] | None = None
        self._averaging: tuple[Region, Work[T]] | None = None

    async def put(self, shard: Region, gradient: T) -> None:
        """Scatter the whole gradient, of which `shard` is this rank's; what is under way goes on."""
        started = self._group.reduce_scatter(gradient)
        await self._advance()
        self._scattering = shard, started

    async def finish(self) -> None:
        """Wait until everything is accumulated in the shards."""
        while self._scattering or self._averaging:
            await self._advance()

    async def _advance(self) -> None:
        averaging, self._averaging = self._averaging, None
        if self._scattering is not None:
            (shard, scattering), self._scattering = self._scattering, None
            mine = await scattering
            self._group.zero(Region(shard.blocks))  # the whole gradient has served
            if self._across is None:
                self._group.accumulate(mine, shard)
            else:
                self._averaging = shard, self._across.all_reduce(mine)
        if averaging is not None:
            shard, mean = averaging
            self._group.accumulate(await mean, shard)


class FullySharded(Generic[T]):
    """Each rank of `group` keeps an equal piece of every block; a block is gathered, one ahead, for as long as it runs.

    Gradients are scattered to the pieces, whose ranks alone update them; replicas of the group average them `across`.
    Rajbhandari et al., "ZeRO", SC 2020, section 5.3; Zhao et al., "PyTorch FSDP", VLDB 2023, section 3.
    """

    def __init__(self, inner: Runner[T], group: Worker[T], blocks: Iterable[int], across: Worker[T] | None = None) -> None:
        self._inner = inner
        self._group = group
        self._is_shown = across is None or across.rank == 0
        self._shards = {block: Region((block,), group.world_size, group.rank) for block in blocks}
        self._ahead: dict[int, Work[T]] = {}
        self._scatter = Scatter(group, across)
        for shard in self._shards.values():
            group.release(shard)

    async def forward(self, block: int, x: T, batch: Batch) -> T:
        """The output of one block."""
        await self._gather(block, block + 1)
        y = await self._inner.forward(block, x, batch)
        self._group.release(self._shards[block])
        return y

    async def backward(self, block: int, g: T, batch: Batch, part: Part = "both") -> T:
        """The gradient of the block's input."""
        await self._gather(block, block - 1)
        g = await self._inner.backward(block, g, batch, part)
        self._group.release(self._shards[block])
        return g

    async def reduce(self, block: int) -> None:
        """Start to scatter what has accumulated of the gradient of a block."""
        shard = self._shards[block]
        await self._scatter.put(shard, self._group.accumulated(shard.joined))

    async def update(self) -> None:
        """One step of the optimizer on this rank's shards."""
        assert not self._ahead, "a block gathered ahead that nobody ran would be old in the next step"
        await self._scatter.finish()
        for shard in self._shards.values():
            await self._group.apply(region=shard)
            self._group.zero(shard)

    def shown(self, blocks: Collection[int]) -> list[Region]:
        """What this rank publishes of `blocks`: its shards."""
        return [self._shards[block] for block in blocks] if self._is_shown else []

    async def _gather(self, block: int, following: int) -> None:
        """Make `block` whole; the block that follows is under way then."""
        here = self._ahead.pop(block, None) or self._start(block)
        if following in self._shards and following not in self._ahead:
            self._ahead[following] = self._start(following)
        self._group.load(await here, self._shards[block].joined)

    def _start(self, block: int) -> Work[T]:
        return self._group.all_gather(self._group.read(self._shards[block]))


async def backpropagate(
    worker: Worker[T], runner: Runner[T], batch: Batch, ready: Callable[[int], Awaitable[None]]
) -> None:
    """Run the whole model on `batch`, forth and back; `ready(block)` is awaited after the backward pass of each block."""
    blocks = range(len(worker.blocks))
    x = worker.input(batch)
    for block in blocks:
        x = await runner.forward(block, x, batch)
    g = await worker.loss(x, batch)
    for block in reversed(blocks):
        g = await runner.backward(block, g, batch)
        await ready(block)


def cut_blocks(blocks: Sequence[Block]) -> list[int]:
    """The blocks that can be cut into tensor shards."""
    return [block.index for block in blocks if block.ways]
