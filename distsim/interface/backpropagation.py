"""The gradient of all blocks placed on a rank: as one operation, or in buckets, so that sending overlaps computing.

Blocks between which nothing else can happen run as one: autograd then builds one graph of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

from distsim.interface.model import Model
from distsim.interface.numerics import Blocks
from distsim.interface.rank import Parts, Rank, Stop
from distsim.interface.values import ALL, Batch, Region, T
from distsim.interface.work import Work


def start_gradient(state: Rank[T], batch: Batch, unless: Work[Any] | None, microbatches: int) -> Work[T | None]:
    """Zero, forward, loss, backward and read, as one operation that may be cancelled between blocks."""
    blocks = state.placed
    pieces = _pieces(state, blocks) if unless is None else _each(blocks)

    def action(stop: Stop) -> T | None:
        state.numerics.zero(None)
        batches = batch.split(microbatches)
        _hold(state, batches)
        if not _run(state, batches, pieces, stop):
            for each in batches:
                state.numerics.forget(each)
            return None
        return state.numerics.accumulated(ALL)

    passes = 2 * len(pieces) * microbatches
    return state.start_compute("gradient", _whole(blocks), batch, action, unless, pieces=microbatches, passes=passes)


def _pieces(state: Rank[T], blocks: Blocks) -> list[Blocks]:
    """What runs as one of blocks that nothing interrupts: all, but where tasks want their turn with the parameters."""
    return _each(blocks) if state.has_tasks or not blocks else [blocks]


def _each(blocks: Blocks) -> list[Blocks]:
    return [(b,) for b in blocks]


def _run(state: Rank[T], batches: Sequence[Batch], pieces: Sequence[Blocks], stop: Stop) -> bool:
    """Forward and backward of all pieces on each of `batches`; False if it was stopped in between."""
    for batch in batches:
        x = _output(state, batch, pieces, stop)
        for blocks in reversed(pieces):
            if x is None or stop():
                return False
            x = _back(state, blocks, x, batch, is_last=blocks is pieces[-1])
    return True


def _hold(state: Rank[T], batches: Iterable[Batch]) -> None:
    """All blocks run with the parameters of this instant, whatever the rank's tasks change meanwhile."""
    if state.has_tasks:
        with state.lock:
            for batch in batches:
                state.numerics.hold(batch)


def _output(state: Rank[T], batch: Batch, pieces: Sequence[Blocks], stop: Stop) -> T | None:
    """Forward; None if it was stopped."""
    x = state.numerics.input(batch)
    for blocks in pieces:
        if stop():
            return None
        x = state.forward(blocks, x, batch)
    return x


def _back(state: Rank[T], blocks: Blocks, x: T, batch: Batch, is_last: bool) -> T:
    """Backward; `x` is the output of the last blocks, or the gradient of the output of others."""
    return state.backward_of_loss(blocks, x, batch) if is_last else state.backward(blocks, x, batch, "both")


def start_buckets(
    state: Rank[T], batch: Batch, bucket_bytes: float, microbatches: int, shards: int, scale: float
) -> Iterator[tuple[Region, Work[T]]]:
    """The same a bucket at a time, last blocks first: each starts when the iterator reaches it."""
    *before, last = batch.split(microbatches)
    passed: list[T] = []  # the model's output, then the gradient of the output of the block that is next
    closed = buckets(state.model, state.placed, bucket_bytes)
    pieces = [_pieces(state, bucket[::-1]) for bucket in closed]
    whole = _pieces(state, state.placed)
    forward = list(chain.from_iterable(reversed(pieces)))

    def begin() -> None:
        state.numerics.zero(ALL)  # what was accumulated for shards stays
        _hold(state, [*before, last])
        _run(state, before, whole, _never)
        y = _output(state, last, forward, _never)
        assert y is not None
        passed.append(y)

    for number, bucket in enumerate(closed):
        region = Region(bucket[::-1], shards)

        def action(stop: Stop, region: Region = region, number: int = number) -> T:
            if number == 0:
                begin()
            for blocks in reversed(pieces[number]):
                passed.append(_back(state, blocks, passed.pop(), last, is_last=blocks is forward[-1]))
            return state.numerics.accumulated(region, scale)

        parts, passes = _backward(bucket), len(pieces[number])
        if number == 0:
            parts = (*_whole(state.placed) * len(before), *_forward(state.placed), *parts)
            passes += 2 * len(whole) * len(before) + len(forward)
        name = f"gradient[{bucket[-1]}:{bucket[0] + 1}]"
        yield region, state.start_compute(name, parts, last, action, passes=passes)


def buckets(model: Model, blocks: Sequence[int], bucket_bytes: float) -> list[tuple[int, ...]]:
    """Cut the blocks, last first, into buckets that are closed once they hold `bucket_bytes`."""
    closed: list[tuple[int, ...]] = []
    bucket: tuple[int, ...] = ()
    for b in reversed(blocks):
        bucket = (*bucket, b)
        if model.nbytes(bucket) >= bucket_bytes:
            closed.append(bucket)
            bucket = ()
    return [*closed, bucket] if bucket else closed


def _never() -> bool:
    return False


@lru_cache
def _whole(blocks: tuple[int, ...]) -> Parts:
    return (*_forward(blocks), *_backward(blocks[::-1]))


@lru_cache
def _forward(blocks: tuple[int, ...]) -> Parts:
    return (*(("forward", b) for b in blocks), ("loss", -1))


@lru_cache
def _backward(blocks: tuple[int, ...]) -> Parts:
    return tuple(("backward", b) for b in blocks)
