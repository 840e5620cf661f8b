"""The flat vector of a block's parameters, and how tensor parallelism deals them out.

A block that can be cut is a `Dealt`, or any module that has its `ways`, `dealt` and `shard`. In the flat vector the
parameters that every shard holds come first, in the module's order, then the dealt ones: so what a tensor group sums is one
piece. A shard gives a partial sum: a block's output is the sum of its shards' outputs, and the gradients of its input and
of the parameters that every shard holds are the sums of theirs. What is added once (a residual, the bias of a row-cut
layer) is shard 0's to add. (Shoeybi et al., "Megatron-LM", arXiv 1909.08053, section 3.)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from distsim.interface.errors import StrategyError


class Slot(NamedTuple):
    """One parameter of a block."""

    name: str
    parameter: nn.Parameter
    places: tuple[tuple[nn.Module, str], ...]
    """The modules that hold it and under what name: several if the block ties weights."""
    dealt: int | None
    """The dimension along which shards share it; None: each has all of it."""


class Dealt(nn.Module):
    """A block that can be cut into tensor shards. A shard is of the same class, with its part of the parameters."""

    dealt: ClassVar[Mapping[str, int]] = {}
    """Parameter (`named_parameters`) -> the dimension that is dealt out."""
    ways: int = 0
    """Any number of shards that divides this is possible."""
    index: int = 0
    count: int = 1

    def shard(self, index: int, count: int) -> Self:
        """Shard `index` of `count`, its parameters copies of these values. Raises `StrategyError` if there is none."""
        if not self.ways or self.ways % count or not 0 <= index < count:
            raise StrategyError(f"a {type(self).__name__} has no shard {index} of {count}: they must divide {self.ways}")
        shard = copy.deepcopy(self)
        shard.index, shard.count, shard.ways = index, count, 0
        for slot in ordered(shard):
            if slot.dealt is not None:
                piece = slot.parameter.detach().chunk(count, slot.dealt)[index]
                parameter = nn.Parameter(piece.clone(memory_format=torch.contiguous_format))
                for owner, name in slot.places:
                    setattr(owner, name, parameter)
        return shard

    def placed(self, y: Tensor, dim: int = 1) -> Tensor:
        """The columns that this shard computed, among zeros where the other shards' are; all of `y` if it is whole."""
        if self.count == 1:
            return y
        width = y.shape[dim]
        before, after = self.index * width, (self.count - 1 - self.index) * width
        return functional.pad(y, [0, 0] * (y.dim() - 1 - dim) + [before, after])


def ordered(module: nn.Module) -> list[Slot]:
    """The trained parameters of a block in the order of its flat vector, each once."""
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    names: dict[nn.Parameter, str] = {}
    for prefix, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.requires_grad:
                names.setdefault(parameter, f"{prefix}.{name}" if prefix else name)
                places.setdefault(parameter, []).append((owner, name))
    dealt: Mapping[str, int] = getattr(module, "dealt", {})
    slots = [Slot(names[p], p, tuple(found), dealt.get(names[p])) for p, found in places.items()]
    return sorted(slots, key=lambda slot: slot.dealt is not None)


def replicated(module: nn.Module) -> int:
    """Scalars of the flat vector, its first, that every tensor shard holds. All of it if the block cannot be cut."""
    return sum(slot.parameter.numel() for slot in ordered(module) if slot.dealt is None)


def load(module: nn.Module, flat: Tensor) -> None:
    """Overwrite the parameters of a block by the values of a flat vector."""
    with torch.no_grad():
        for slot, piece in zip(ordered(module), _split(module, flat, 1), strict=True):
            slot.parameter.copy_(piece)


def merge(module: nn.Module, shards: Sequence[Tensor]) -> Tensor:
    """The flat vector of the whole block `module` from those of its shards, in order; what all hold is the first's."""
    split = [list(_split(module, flat, len(shards))) for flat in shards]
    pieces = [
        found[0] if slot.dealt is None else torch.cat(found, slot.dealt)
        for slot, *found in zip(ordered(module), *split, strict=True)
    ]
    return torch.cat([shards[0].new_empty(0), *(piece.reshape(-1) for piece in pieces)])


def cut(module: nn.Module, flat: Tensor, index: int, count: int) -> Tensor:
    """The flat vector of shard `index` of `count` from that of the whole block `module`."""
    pieces = [
        piece if slot.dealt is None else piece.chunk(count, slot.dealt)[index]
        for slot, piece in zip(ordered(module), _split(module, flat, 1), strict=True)
    ]
    return torch.cat([flat.new_empty(0), *(piece.reshape(-1) for piece in pieces)])


def _split(module: nn.Module, flat: Tensor, count: int) -> Iterator[Tensor]:
    """The parameters in a flat vector of one of `count` shards of `module`."""
    start = 0
    for slot in ordered(module):
        shape = list(slot.parameter.shape)
        if slot.dealt is not None:
            shape[slot.dealt] //= count
        size = torch.Size(shape).numel()
        yield flat[start : start + size].view(shape)
        start += size
