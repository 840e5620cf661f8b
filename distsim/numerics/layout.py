"""Where a region lies: which scalars of which blocks, and how many zeros pad it. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from distsim.interface.model import Block
from distsim.interface.values import Region


class Span(NamedTuple):
    """The scalars `start` to `stop` of the flat vector of a block."""

    block: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A region, scalar by scalar."""

    region: Region
    """With its blocks named."""
    spans: tuple[Span, ...]
    """In the order of the region's vector; none is empty unless its block is."""
    scalars: int
    """In all spans."""
    size: int
    """Scalars of the region's vector: those of the spans, then the zeros that pad it."""
    is_whole: bool
    """Its blocks, from end to end."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks of the region."""
        return self.region.blocks or ()

    def __str__(self) -> str:
        region, blocks = self.region, f"blocks {list(self.blocks)}"
        if region.replicated:
            return f"the replicated parameters of {blocks}"
        if region.shards == 1:
            return blocks
        return f"shard{'s' if region.shard is None else f' {region.shard}'} of {region.shards} of {blocks}"


def lay_out(region: Region, blocks: Mapping[int, Block]) -> Layout:
    """The layout of `region`, whose blocks are named, on a rank that holds `blocks`."""
    named = [blocks[b] for b in region.blocks or ()]
    return _lay_out(region, tuple(block.replicated if region.replicated else block.parameters for block in named))


@lru_cache(4096)
def _lay_out(region: Region, sizes: tuple[int, ...]) -> Layout:
    """The same by the blocks' sizes: most ranks hold the same."""
    total = sum(sizes)
    size = -(-total // region.shards)
    first, last = (0, total) if region.shard is None else (region.shard * size, (region.shard + 1) * size)
    spans, offset = [], 0
    for block, parameters in zip(region.blocks or (), sizes, strict=True):
        start, stop = max(first - offset, 0), min(last - offset, parameters)
        if start < stop or region.shard is None:
            spans.append(Span(block, start, stop))
        offset += parameters
    return Layout(
        region=region,
        spans=tuple(spans),
        scalars=sum(span.stop - span.start for span in spans),
        size=size * region.shards if region.shard is None else size,
        is_whole=region.shard is None and not region.replicated,
    )
