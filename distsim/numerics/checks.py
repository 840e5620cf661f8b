"""What both kinds of numerics refuse, in the same words: a strategy wrong in one mode is wrong in all. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from distsim.interface.errors import StrategyError
from distsim.interface.fabric import Collective
from distsim.interface.model import Model
from distsim.interface.numerics import Blocks, Part
from distsim.interface.precision import FLOAT32, PARTS, Precision
from distsim.interface.values import Batch, Region
from distsim.numerics.layout import Layout, Span, lay_out


@dataclass(slots=True, eq=False)
class _Version:
    """Parameters of a block between two writes."""

    users: int = 0
    """Forward passes that used them and await their backward pass."""
    is_old: bool = False


@dataclass(slots=True)
class Held:
    """Scalars that a rank holds."""

    parameters: int = 0
    activations: int = 0
    versions: int = 0


class Ledger:
    """The blocks placed on a rank, what of each is here, the forward passes that await a backward pass, and all sizes."""

    def __init__(self, model: Model, workers: int, precision: Precision = FLOAT32) -> None:
        self._is_scaled = precision.is_scaled
        self.itemsize = itemsize = model.itemsize
        self._model = model
        self._samples_a_step = model.batch * workers
        self._samples: dict[int, int] = {}
        """By number of parts."""
        self._outputs = [block.activation * itemsize for block in model.blocks]
        self.inputs = [model.input * itemsize, *self._outputs[:-1]]
        """Bytes of a sample's input, by block."""
        self.placed: tuple[int, ...] = ()
        self._settle(tuple(range(len(model.blocks))), 1)

    def place(self, blocks: Sequence[int], shard: tuple[int, int]) -> None:
        """Keep only `blocks`, and of each that can be cut a tensor shard.

        Raises `StrategyError` unless they are ascending blocks placed here, whole, and there is such a shard of each.
        """
        index, count = shard
        last = len(self._outputs) - 1
        if any(not 0 <= b <= last for b in blocks) or list(blocks) != sorted(set(blocks)):
            raise StrategyError(f"place takes blocks of 0 to {last} in ascending order, each once, not {list(blocks)}")
        if not 0 <= index < count:
            raise StrategyError(f"place takes a tensor shard (which, of how many), not {shard}")
        if self._is_scaled and (count > 1 or len(blocks) <= last):
            raise StrategyError(PARTS)
        self._check_here_whole(blocks)
        if self._count > 1:
            raise StrategyError(
                f"the blocks placed here are cut into {self._count} tensor shards: place was called already"
            )
        self._settle(tuple(blocks), count)

    def _settle(self, placed: tuple[int, ...], count: int) -> None:
        self.blocks = {b: self._model.blocks[b].sharded(count) for b in placed}
        self.placed, self._count = placed, count
        self.held = Held(sum(block.parameters for block in self.blocks.values()))
        self._layouts: dict[Region, Layout] = {}
        self._saved: dict[tuple[int, Batch], tuple[Blocks, _Version, int]] = {}
        """Forward passes that await their backward pass: what ran as one with each, what it used, the scalars it keeps."""
        self._halved: set[tuple[Blocks, Batch]] = set()
        """Whose gradients of the input have been taken already."""
        self._versions = {b: _Version() for b in placed}
        self._released: dict[int, Span] = {}
        self._ready: set[Blocks] = set()
        """What can run as one, until a block of it is released."""
        self._homes: dict[int, Region] = {}
        """Block -> the shard of it that was left when it was released first."""

    # ---- sizes

    def samples(self, batch: Batch) -> int:
        """Samples in `batch`. Raises `StrategyError` if a global step does not cut into so many equal parts."""
        samples = self._samples.get(batch.parts)
        if samples is None:
            whole, parts = self._samples_a_step, batch.parts
            if whole % parts:
                raise StrategyError(f"the {whole} samples of a step do not cut into {parts} equal parts")
            samples = self._samples[parts] = whole // parts
        return samples

    def input_bytes(self, block: int, batch: Batch) -> int:
        """Bytes of the input of `block`."""
        return self.inputs[block] * self.samples(batch)

    def output_bytes(self, block: int, batch: Batch) -> int:
        """Bytes of the output of `block`."""
        return self._outputs[block] * self.samples(batch)

    def layout(self, region: Region) -> Layout:
        """Where `region` lies. Raises `StrategyError` if a block of it is not placed here."""
        layout = self._layouts.get(region)
        if layout is None:
            blocks = self.placed if region.blocks is None else region.blocks
            for block in blocks:
                self._check_placed(block)
            named = Region(blocks, region.shards, region.shard, region.replicated)
            layout = self._layouts[region] = lay_out(named, self.blocks)
        return layout

    # ---- parameters

    def read(self, region: Region) -> Layout:
        """Raises `StrategyError` unless all of `region` is here."""
        layout = self.layout(region)
        if self._released:
            self._check_here("read", layout)
        return layout

    def load(self, region: Region, nbytes: int) -> Layout:
        """Note a write to `region`, and that its blocks are whole again if it is all of them.

        Raises `StrategyError` on another size, and where not all of `region` is here.
        """
        layout = self.fitting("load", region, nbytes)
        if self._released and layout.is_whole:
            for block in layout.blocks:
                span = self._released.pop(block, None)
                if span is None:
                    self._write(block)
                else:
                    self.held.parameters += self.blocks[block].parameters - (span.stop - span.start)
        else:
            self._change("load", layout)
        return layout

    def update(self, region: Region, nbytes: int | None) -> Layout:
        """Note a write to `region`. Raises `StrategyError` on another size, and where not all of `region` is here."""
        self.whole(region)
        layout = self.layout(region) if nbytes is None else self.fitting("update", region, nbytes)
        self._change("update", layout)
        return layout

    def whole(self, region: Region) -> None:
        """Raises `StrategyError` if `region` is a shard and updates must be whole."""
        if self._is_scaled and region.shard is not None:
            raise StrategyError(PARTS)

    def release(self, region: Region) -> Layout:
        """Note that only this shard of the blocks is left. Raises `StrategyError` on none, and on another than before."""
        layout = self.layout(region)
        if region.shard is None:
            raise StrategyError(f"release of {layout} must name the shard that stays")
        for block in layout.blocks:
            home = self._homes.get(block, layout.region)
            if home != layout.region:
                kept = self.layout(home)
                raise StrategyError(
                    f"release of {layout}: block {block} was released before to {kept}, which stays its own"
                )
        spans = {span.block: span for span in layout.spans}
        self._ready.clear()
        for block in layout.blocks:
            self._homes[block] = layout.region
            if block not in self._released:
                span = self._released[block] = spans.get(block, Span(block, 0, 0))
                self.held.parameters -= self.blocks[block].parameters - (span.stop - span.start)
        return layout

    def fitting(self, name: str, region: Region, nbytes: int) -> Layout:
        """The layout of `region`. Raises `StrategyError` unless a payload of `nbytes` bytes fits it."""
        layout = self.layout(region)
        if nbytes != layout.size * self.itemsize:
            raise StrategyError(f"{name} of {layout} takes {layout.size * self.itemsize} bytes, it was given {nbytes}")
        return layout

    def _change(self, name: str, layout: Layout) -> None:
        """Note a write. A block that is released cannot be copied for the sake of a backward pass still to come."""
        if self._released:
            self._check_here(name, layout)
            for block, _, _ in layout.spans:
                if block in self._released and self._versions[block].users:
                    raise StrategyError(
                        f"{name} of {layout}: block {block} was released before the backward pass of a batch, "
                        "which needs its old parameters; run that first"
                    )
        if self._saved:
            for block, _, _ in layout.spans:
                self._write(block)

    def _write(self, block: int) -> None:
        """Copy on write: passes that used the parameters keep them."""
        version = self._versions[block]
        if version.users:
            version.is_old = True
            self.held.versions += self.blocks[block].parameters
            self._versions[block] = _Version()

    # ---- running

    def forward(self, blocks: Blocks, batch: Batch) -> int:
        """Note a forward pass of `blocks`, which run as one; its samples.

        Raises `StrategyError` on a released block, and if `blocks` do not follow each other.
        """
        if blocks not in self._ready:
            self._check_ready(blocks)
        samples, described, saved, held = self.samples(batch), self.blocks, self._saved, 0
        for block in blocks:
            key = block, batch
            if key in saved:
                self._check_together("forward", block, batch, blocks)
                self.end((block,), batch)
            version = self._versions[block]
            version.users += 1
            scalars = described[block].saved * samples
            held += scalars
            saved[key] = blocks, version, scalars
        self.held.activations += held
        return samples

    def check_input(self, block: int, nbytes: int, batch: Batch) -> None:
        """Raises `StrategyError` on an input of another size."""
        if nbytes != (expected := self.input_bytes(block, batch)):
            self._refuse_size("forward", block, batch, expected, nbytes)

    def loss(self, nbytes: int, batch: Batch) -> None:
        """Raises `StrategyError` on an output of another size."""
        if nbytes != (expected := self.output_bytes(-1, batch)):
            self._refuse_size("loss", -1, batch, expected, nbytes)

    def backward(self, blocks: Blocks, nbytes: int, batch: Batch, part: Part) -> None:
        """Note the first half of a backward pass; the end of a whole one tells `end`.

        Raises `StrategyError` if it is not its turn, on another size, and on a released block.
        """
        if blocks not in self._ready:
            self._check_ready(blocks)
        for block in blocks:
            noted = self._saved.get((block, batch))
            if noted is None:
                raise StrategyError(f"backward of block {block}, {batch}, before its forward")
            if noted[0] != blocks:
                self._check_together("backward", block, batch, blocks)
        is_halved, block = (blocks, batch) in self._halved, blocks[0]
        if part == "weights":
            if not is_halved:
                raise StrategyError(f"backward of block {block}, {batch}: part='weights' before part='input'")
            return
        if is_halved:
            raise StrategyError(f"backward of block {block}, {batch}: part={part!r} after part='input'")
        if nbytes != (expected := self.output_bytes(blocks[-1], batch)):
            self._refuse_size("backward", blocks[-1], batch, expected, nbytes)
        if part == "input":
            self._halved.add((blocks, batch))

    def end(self, blocks: Blocks, batch: Batch) -> None:
        """The backward pass of blocks is over, or will not come."""
        saved, held = self._saved, self.held
        for block in blocks:
            together, version, scalars = saved.pop((block, batch))
            held.activations -= scalars
            version.users -= 1
            if version.is_old and not version.users:
                held.versions -= self.blocks[block].parameters
        if self._halved:
            self._halved.discard((together, batch))

    def forget(self, batch: Batch) -> None:
        """Forget the forward passes of `batch`."""
        for block, other in list(self._saved):
            if other == batch:
                self.end((block,), batch)

    # ---- rules

    def _check_ready(self, blocks: Blocks) -> None:
        """They can run, as one."""
        self._check_here_whole(blocks)
        if len(blocks) > 1 and blocks != tuple(range(blocks[0], blocks[0] + len(blocks))):
            raise StrategyError(f"blocks that run as one follow each other, and {list(blocks)} do not")
        self._ready.add(blocks)

    def _check_here_whole(self, blocks: Sequence[int]) -> None:
        for block in blocks:
            self._check_placed(block)
            if block in self._released:
                raise StrategyError(f"block {block} is released and cannot run until the next load")

    def _check_together(self, name: str, block: int, batch: Batch, blocks: Blocks) -> None:
        """Blocks whose forward passes ran as one stay together until their backward pass."""
        before = self._saved[block, batch][0]
        if before != blocks:
            raise StrategyError(f"{name} of block {block}, {batch}, {_as_one(blocks)}: its forward ran {_as_one(before)}")

    def _check_placed(self, block: int) -> None:
        if block not in self.blocks:
            raise StrategyError(f"block {block} is not placed on this rank, which holds {list(self.placed)}")

    def _check_here(self, name: str, layout: Layout) -> None:
        for block, start, stop in layout.spans:
            here = self._released.get(block)
            if here is not None and start < stop and not (here.start <= start and stop <= here.stop):
                kept = self.layout(self._homes[block])
                raise StrategyError(
                    f"{name} of {layout}: block {block} is released, only {kept} is here until the next load"
                )

    @staticmethod
    def _refuse_size(name: str, block: int, batch: Batch, expected: int, nbytes: int) -> NoReturn:
        where = "" if block < 0 else f" of block {block}"
        raise StrategyError(f"{name}{where}, {batch}, takes {expected} bytes, it was given {nbytes}")


def _as_one(blocks: Blocks) -> str:
    return f"as one with those of blocks {list(blocks)}" if len(blocks) > 1 else "by itself"


def check_collective(collective: Collective, sizes: Sequence[int], itemsize: int) -> int:
    """The common size of the group's payloads, in bytes.

    Raises `StrategyError` if they differ, or if a reduce-scatter's or all-to-all's does not divide by the group.
    """
    if len(set(sizes)) != 1:
        raise StrategyError(f"{collective.kind} of payloads of different sizes, in group order: {list(sizes)} bytes")
    kind, scalars = collective.kind, sizes[0] // itemsize
    if kind in ("reduce_scatter", "all_to_all") and scalars % len(sizes):
        raise StrategyError(f"{kind} of {scalars} scalars does not divide by a group of {len(sizes)}")
    return sizes[0]
