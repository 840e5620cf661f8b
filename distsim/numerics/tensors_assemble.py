"""The whole model from what ranks published of it: blocks, pieces of regions, tensor shards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from distsim.interface.model import Model
from distsim.interface.outcome import Piece
from distsim.numerics.layout import lay_out
from distsim.workloads.shards import cut


def assemble(model: Model, modules: Sequence[nn.Module], pieces: Iterable[Piece]) -> dict[int, Tensor] | None:
    """The flat parameters of every block, on the CPU; None if `pieces` lack some. Scalars that several hold are averaged.

    `modules` are the blocks, whole: their values do not matter.
    """
    sums: dict[int, Tensor] = {}
    holders = {b: torch.zeros(block.parameters, dtype=torch.int32) for b, block in enumerate(model.blocks)}
    """How many pieces hold each scalar."""
    for region, (index, count), values in pieces:
        blocks = {b: model.blocks[b].sharded(count) for b in region.blocks or ()}
        flat, done = values.detach().cpu().reshape(-1), 0
        for b, start, stop in lay_out(region, blocks).spans:
            found = flat[done : done + stop - start]
            done += stop - start
            total = sums.setdefault(b, flat.new_zeros(model.blocks[b].parameters))
            places: Tensor | slice = slice(start, stop)
            if count > 1 and model.blocks[b].ways:
                places = cut(modules[b], torch.arange(len(total)), index, count)[start:stop]
            total[places] += found
            holders[b][places] += 1
    if not all(bool(n.all()) for n in holders.values()):
        return None
    return {b: sums[b] / n if b in sums else n for b, n in holders.items()}
