"""Codecs on byte counts: how much travels in each round, and what both kinds of numerics refuse. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from distsim.interface.codec import Codec, Half, PowerSGD, TopK, matrix
from distsim.interface.errors import StrategyError
from distsim.interface.model import Block

_HALF = 2  # bytes of a scalar in half precision


class Matrix(NamedTuple):
    """A parameter that travels as a product of two matrices of `rank` columns; `start` is its place in the flat vector."""

    start: int
    rows: int
    columns: int
    rank: int


def matrices(codec: PowerSGD, scalars: int, blocks: Sequence[Block]) -> list[Matrix]:
    """The parameters of `blocks` that are compressed, in the order of the flat vector of `scalars` scalars.

    None in a piece of that vector, such as a shard: it cuts through matrices.
    """
    found, start = list[Matrix](), 0
    if scalars < sum(block.parameters for block in blocks):
        return found
    for block in blocks:
        place = start
        for shape in block.shapes:
            rows, columns = matrix(shape)
            if codec.is_low_rank(shape):
                found.append(Matrix(place, rows, columns, min(codec.rank, rows, columns)))
            place += rows * columns
        start += block.parameters
    return found


def encode(codec: Codec, nbytes: int, blocks: Sequence[Block], received: Sequence[int], itemsize: int) -> int:
    """Bytes that a gradient of `nbytes` bytes sends in round number `len(received)`.

    `blocks` are those of its region as they are placed here (a tensor shard of each that is cut), `received` the bytes of
    the results of the rounds before, `itemsize` the bytes of a scalar. (`nbytes` is less than the blocks' for a shard.)
    Raises `StrategyError` on a round that the codec does not have and on results of another size.
    """
    rounds = _rounds(codec, nbytes // itemsize, blocks, itemsize)
    if len(received) >= len(rounds):
        raise StrategyError(f"encode: {_name(codec)} has {len(rounds)} rounds, and {len(received)} of them have results")
    _check("encode", codec, received, rounds[: len(received)])
    return rounds[len(received)]


def decode(codec: Codec, nbytes: int, blocks: Sequence[Block], received: Sequence[int], codes: int, itemsize: int) -> int:
    """Bytes of the gradient that the results of all rounds stand for: `nbytes`, after checking those of `received`.

    Raises `StrategyError` on results of another number or size.
    """
    rounds = _rounds(codec, nbytes // itemsize, blocks, itemsize)
    if len(received) != len(rounds):
        raise StrategyError(f"decode: {_name(codec)} has {len(rounds)} rounds, and {len(received)} of them have results")
    if codes != 1 and (isinstance(codec, PowerSGD) or codes < 1):
        raise StrategyError(f"decode: {_name(codec)} cannot decode {codes} codes at once")
    _check("decode", codec, received, [codes * size for size in rounds])
    return nbytes


def _rounds(codec: Codec, scalars: int, blocks: Sequence[Block], itemsize: int) -> list[int]:
    """Bytes of one code in each round."""
    if isinstance(codec, TopK):
        return [2 * codec.kept(scalars) * itemsize]
    if isinstance(codec, Half):
        return [_HALF * scalars]
    found = matrices(codec, scalars, blocks)
    left = scalars - sum(m.rows * m.columns for m in found)
    return [(sum(m.rows * m.rank for m in found) + left) * itemsize, sum(m.columns * m.rank for m in found) * itemsize]


def _check(what: str, codec: Codec, received: Sequence[int], expected: Sequence[int]) -> None:
    if list(received) != list(expected):
        raise StrategyError(f"{what}: the results of {_name(codec)} have {list(expected)} bytes, these {list(received)}")


def _name(codec: Codec) -> str:
    return type(codec).__name__
