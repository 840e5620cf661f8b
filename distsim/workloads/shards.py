"""Blocks that tensor parallelism can cut, and the flat vectors of their shards.

A shard gives a partial sum: a block's output is the sum of its shards' outputs, and the gradients of its input and of the
parameters that every shard holds are the sums of theirs. What is added once (a residual, the bias of a row-cut layer) is
shard 0's to add. (Shoeybi et al., "Megatron-LM", arXiv 1909.08053, section 3.)

A user's module may have the form, too: `ways`, `dealt` and `shard` are all that is asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from distsim.interface.errors import StrategyError
from distsim.workloads import parameters


class Dealt(nn.Module):
    """A block that can be cut. A shard is of the same class, with its part of the parameters.

    Classes declare what every shard holds before what is dealt out: then the flat vector has the module's own order.
    """

    dealt: ClassVar[Mapping[str, int]] = {}
    """Parameter -> the dimension that is dealt out."""
    ways: int = 0
    """Any number of shards that divides this is possible."""
    index: int = 0
    count: int = 1

    def shard(self, index: int, count: int) -> Self:
        """Shard `index` of `count`, its parameters copies of these values. Raises `StrategyError` if there is none."""
        if not self.ways or self.ways % count or not 0 <= index < count:
            raise StrategyError(f"{type(self).__name__} has no shard {index} of {count}: they must divide {self.ways}")
        shard = copy.deepcopy(self)
        shard.index, shard.count, shard.ways = index, count, 0
        for path, dimension in self.dealt.items():
            owner, _, name = path.rpartition(".")
            piece = shard.get_parameter(path).detach().chunk(count, dimension)[index]
            parameter = nn.Parameter(piece.clone(memory_format=torch.contiguous_format))
            setattr(shard.get_submodule(owner), name, parameter)
        return shard

    def placed(self, y: Tensor, dim: int = 1) -> Tensor:
        """The columns that this shard computed, among zeros where the other shards' are; all of `y` if it is whole."""
        if self.count == 1:
            return y
        width = y.shape[dim]
        before, after = self.index * width, (self.count - 1 - self.index) * width
        return functional.pad(y, [0, 0] * (y.dim() - 1 - dim) + [before, after])


def replicated(module: nn.Module) -> int:
    """Scalars of the flat vector, its first, that every tensor shard holds. All of it if the block cannot be cut."""
    dealt = parameters.dealt(module)
    return sum(p.numel() for name, p in parameters.ordered(module).items() if name not in dealt)


def load(module: nn.Module, flat: Tensor) -> None:
    """Overwrite the parameters of a block by the values of a flat vector."""
    with torch.no_grad():
        for parameter, (_, _, piece) in zip(parameters.ordered(module).values(), _split(module, flat), strict=True):
            parameter.copy_(piece)


def merge(module: nn.Module, flats: Sequence[Tensor]) -> Tensor:
    """The flat vector of the whole block `module` from those of its shards, in order; what all hold is the first's."""
    split = [list(_split(module, flat, len(flats))) for flat in flats]
    pieces = []
    for same in zip(*split, strict=True):
        _, dimension, first = same[0]
        pieces.append(first if dimension is None else torch.cat([piece for _, _, piece in same], dimension))
    return _flat(pieces, flats[0])


def cut(module: nn.Module, flat: Tensor, index: int, count: int) -> Tensor:
    """The flat vector of shard `index` of `count` from that of the whole block `module`."""
    pieces = [
        piece if dimension is None else piece.chunk(count, dimension)[index] for _, dimension, piece in _split(module, flat)
    ]
    return _flat(pieces, flat)


def _split(module: nn.Module, flat: Tensor, count: int = 1) -> Iterator[tuple[str, int | None, Tensor]]:
    """(name, dimension dealt out, value) of the parameters in a flat vector of one of `count` shards of `module`."""
    start, dealt = 0, parameters.dealt(module)
    for name, parameter in parameters.ordered(module).items():
        shape, dimension = list(parameter.shape), dealt.get(name)
        if dimension is not None:
            shape[dimension] //= count
        stop = start + torch.Size(shape).numel()
        yield name, dimension, flat[start:stop].view(shape)
        start = stop


def _flat(pieces: Sequence[Tensor], like: Tensor) -> Tensor:
    return torch.cat([like.new_empty(0), *(piece.reshape(-1) for piece in pieces)])
