"""Codecs on tensors: what travels in place of a gradient, and the gradient that it stands for.

- Top-k: a code is the values, then their places bit-cast to the values' type. Such a payload may be copied, moved and
  joined; nothing may calculate with it (places as numbers are denormal, and some are not numbers at all).
- Sums over codes are taken in the order of the codes, in the precision of the gradient.
- PowerSGD: Q starts as noise, equal on all ranks, and then is the mean Q of the step before. P and Q are made orthogonal by
  a QR factorization. (torch's hook normalizes one or two columns by hand: the product P Q^T is the same, and a gradient of
  zeros or of less rank does no harm here.)
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor

from distsim.interface.codec import Codec, Half, PowerSGD, TopK
from distsim.interface.model import Block
from distsim.numerics import codecs_sizes
from distsim.numerics.codecs_sizes import Matrix, matrices

State = MutableMapping[str, Any]
"""What one codec keeps for one region on this rank between its rounds and steps; empty at first."""

_PLACES = {torch.float32: torch.int32, torch.float64: torch.int64}


def encode(codec: Codec, x: Tensor, blocks: Sequence[Block], received: Sequence[Tensor], state: State) -> Tensor:
    """What a flat gradient `x` sends in round number `len(received)`; a new tensor, flat.

    `blocks` are those of its region as they are placed here: the flat vector holds them one after the other, each as its
    `shapes` say (a tensor shard has none). `received` are the results of the rounds before. Raises `StrategyError` as
    `codecs_sizes.encode` does.
    """
    codecs_sizes.encode(codec, x.nbytes, blocks, [y.nbytes for y in received], x.element_size())
    if isinstance(codec, TopK):
        places = x.abs().topk(codec.kept(x.numel()), sorted=False).indices
        return torch.cat([x[places], places.to(_PLACES[x.dtype]).view(x.dtype)])
    if isinstance(codec, Half):
        return x.to(torch.float16)
    found = matrices(codec, x.numel(), blocks)
    seen = [x[m.start : m.start + m.rows * m.columns].view(m.rows, m.columns) for m in found]
    if received:
        columns = [_orthogonal(p) for p in _split(received[0], [(m.rows, m.rank) for m in found])]
        return _joined(x, [(matrix.T @ p).reshape(-1) for matrix, p in zip(seen, columns, strict=True)])
    before = _split(state["q"], [(m.columns, m.rank) for m in found]) if "q" in state else noise(x, found, blocks)
    columns = [matrix @ _orthogonal(q) for matrix, q in zip(seen, before, strict=True)]
    return _joined(x, [*(p.reshape(-1) for p in columns), *_rest(x, found)])


def decode(
    codec: Codec,
    scalars: int,
    blocks: Sequence[Block],
    received: Sequence[Tensor],
    codes: int,
    state: State,
    dtype: torch.dtype,
) -> Tensor:
    """The gradient of `scalars` scalars of type `dtype` that the results of all rounds stand for; a new tensor, flat.

    Of `codes` gathered codes their mean is given. Raises `StrategyError` as `codecs_sizes.decode` does.
    """
    codecs_sizes.decode(codec, scalars * dtype.itemsize, blocks, [y.nbytes for y in received], codes, dtype.itemsize)
    first = received[0]
    if isinstance(codec, PowerSGD):
        state["q"] = received[1].clone()
        return _product(matrices(codec, scalars, blocks), scalars, received)
    total = torch.zeros(scalars, dtype=dtype, device=first.device)
    for code in torch.split(first, [first.numel() // codes] * codes):
        if isinstance(codec, TopK):
            values, places = torch.split(code, [code.numel() // 2] * 2)
            total.index_add_(0, places.view(_PLACES[dtype]), values)
        else:
            total += code
    return total.div_(codes) if codes > 1 else total


def noise(x: Tensor, found: Sequence[Matrix], blocks: Sequence[Block]) -> list[Tensor]:
    """The first Q of each matrix, before it is made orthogonal; the same on every rank."""
    generator = torch.Generator().manual_seed(Random(repr(("powersgd", [block.index for block in blocks]))).getrandbits(63))
    return [torch.randn(m.columns, m.rank, generator=generator, dtype=x.dtype).to(x.device) for m in found]


def _product(found: Sequence[Matrix], scalars: int, received: Sequence[Tensor]) -> Tensor:
    """The gradient of which P, with what is not low rank behind it, and Q were received."""
    first, second = received
    ps, qs = _split(first, [(m.rows, m.rank) for m in found]), _split(second, [(m.columns, m.rank) for m in found])
    whole = first.new_empty(scalars)
    for m, p, q in zip(found, ps, qs, strict=True):
        torch.mm(_orthogonal(p), q.T, out=whole[m.start : m.start + m.rows * m.columns].view(m.rows, m.columns))
    start = sum(m.rows * m.rank for m in found)
    for piece in _rest(whole, found):
        piece.copy_(first[start : start + len(piece)])
        start += len(piece)
    return whole


def _orthogonal(x: Tensor) -> Tensor:
    """Orthonormal columns that span those of `x`."""
    columns: Tensor = torch.linalg.qr(x).Q
    return columns


def _rest(x: Tensor, found: Sequence[Matrix]) -> list[Tensor]:
    """Views of what lies between, before and behind the matrices."""
    ends = [0, *(m.start + m.rows * m.columns for m in found)]
    return [x[end:start] for end, start in zip(ends, [*(m.start for m in found), len(x)], strict=True)]


def _split(x: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The matrices at the beginning of a flat tensor."""
    sizes = [rows * columns for rows, columns in shapes]
    pieces = torch.split(x[: sum(sizes)], sizes)
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _joined(x: Tensor, pieces: Sequence[Tensor]) -> Tensor:
    """The pieces in one new tensor of the type of `x`."""
    return torch.cat([x.new_empty(0), *pieces])
