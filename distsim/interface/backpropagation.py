"""The gradient of all blocks placed on a rank: as one operation, or in buckets, so that sending overlaps computing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from distsim.interface.model import Model
from distsim.interface.rank import Parts, Rank, Stop
from distsim.interface.values import ALL, Batch, Region, T
from distsim.interface.work import Work


def start_gradient(state: Rank[T], batch: Batch, unless: Work[Any] | None, microbatches: int) -> Work[T | None]:
    """Zero, forward, loss, backward and read, as one operation that may be cancelled between blocks."""
    blocks = state.placed

    def action(stop: Stop) -> T | None:
        state.numerics.zero(None)
        if not _run(state, batch.split(microbatches), blocks, stop):
            return None
        return state.numerics.accumulated(ALL)

    return state.start_compute("gradient", _whole(blocks), batch, action, unless, pieces=microbatches)


def _run(state: Rank[T], batches: Sequence[Batch], blocks: Sequence[int], stop: Stop) -> bool:
    """Forward and backward of all blocks on each of `batches`; False if it was stopped in between."""
    _hold(state, batches)
    for batch in batches:
        if not _backpropagate(state, batch, blocks, stop):
            for each in batches:
                state.numerics.forget(each)
            return False
    return True


def _backpropagate(state: Rank[T], batch: Batch, blocks: Sequence[int], stop: Stop) -> bool:
    """The same on one batch."""
    g = _gradient_of_output(state, batch, blocks, stop)
    if g is None:
        return False
    for b in reversed(blocks):
        if stop():
            return False
        g = state.backward(b, g, batch, "both")
    return True


def _hold(state: Rank[T], batches: Iterable[Batch]) -> None:
    """All blocks run with the parameters of this instant, whatever the rank's tasks change meanwhile."""
    if state.has_tasks:
        with state.lock:
            for batch in batches:
                state.numerics.hold(batch)


def _gradient_of_output(state: Rank[T], batch: Batch, blocks: Sequence[int], stop: Stop) -> T | None:
    """Forward and loss; None if it was stopped."""
    x = state.numerics.input(batch)
    for b in blocks:
        if stop():
            return None
        x = state.forward(b, x, batch)
    return state.loss(x, batch)


def start_buckets(
    state: Rank[T], batch: Batch, bucket_bytes: float, microbatches: int, shards: int
) -> Iterator[tuple[Region, Work[T]]]:
    """The same a bucket at a time, last blocks first: each starts when the iterator reaches it."""
    *before, last = batch.split(microbatches)
    gradient: list[T] = []  # of the output of the block that is next in the backward pass

    def begin() -> None:
        state.numerics.zero(ALL)  # what was accumulated for shards stays
        _hold(state, [last])
        _run(state, before, state.placed, _never)
        g = _gradient_of_output(state, last, state.placed, _never)
        assert g is not None
        gradient.append(g)

    for bucket in buckets(state.model, state.placed, bucket_bytes):
        first = bucket[0] == state.placed[-1]
        region = Region(bucket[::-1], shards)

        def action(stop: Stop, region: Region = region, first: bool = first) -> T:
            if first:
                begin()
            for b in reversed(region.blocks or ()):
                gradient.append(state.backward(b, gradient.pop(), last, "both"))
            return state.numerics.accumulated(region)

        parts = _backward(bucket)
        if first:
            parts = (*_whole(state.placed) * len(before), *_forward(state.placed), *parts)
        yield region, state.start_compute(f"gradient[{bucket[-1]}:{bucket[0] + 1}]", parts, last, action)


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
