"""What both kinds of numerics refuse, in the same words: a strategy wrong in one mode is wrong in all. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

from distsim.interface.errors import StrategyError
from distsim.interface.fabric import Collective
from distsim.interface.model import Model
from distsim.interface.numerics import Part
from distsim.interface.values import Batch, Region


class Ledger:
    """The blocks placed on a rank, the forward passes that await their backward pass, and the size of it all."""

    def __init__(self, model: Model, workers: int) -> None:
        itemsize = model.itemsize
        self._samples_a_step = model.batch * workers
        self._parameters = [block.parameters * itemsize for block in model.blocks]
        self._outputs = [block.activation * itemsize for block in model.blocks]
        self._inputs = [model.input * itemsize, *self._outputs[:-1]]
        self._saved: dict[tuple[int, Batch], bool] = {}
        """(block, batch) -> whether the gradient of its input has been taken already."""
        self.placed: tuple[int, ...] = tuple(range(len(model.blocks)))
        self._here = frozenset(self.placed)

    def place(self, blocks: Sequence[int]) -> None:
        """Keep only `blocks`. Raises `StrategyError` unless they are ascending blocks of the model."""
        unknown = [b for b in blocks if not 0 <= b < len(self._parameters)]
        if unknown or list(blocks) != sorted(set(blocks)):
            raise StrategyError(
                f"place takes blocks of 0 to {len(self._parameters) - 1} in ascending order, each once, not {list(blocks)}"
            )
        self.placed = tuple(blocks)
        self._here = frozenset(self.placed)
        self._saved.clear()

    # ---- sizes in bytes

    def samples(self, batch: Batch) -> int:
        """Samples in `batch`. Raises `StrategyError` if a global step does not cut into so many equal parts."""
        samples, rest = divmod(self._samples_a_step, batch.parts)
        if rest:
            raise StrategyError(f"the {self._samples_a_step} samples of a step do not cut into {batch.parts} equal parts")
        return samples

    def input_bytes(self, block: int, batch: Batch) -> int:
        """Bytes of the input of `block`."""
        return self._inputs[block] * self.samples(batch)

    def output_bytes(self, block: int, batch: Batch) -> int:
        """Bytes of the output of `block`."""
        return self._outputs[block] * self.samples(batch)

    def blocks_of(self, region: Region) -> tuple[int, ...]:
        """The blocks of `region`. Raises `StrategyError` if one is not placed here."""
        if region.blocks is None:
            return self.placed
        for block in region.blocks:
            self._check_placed(block)
        return region.blocks

    def region_bytes(self, region: Region) -> int:
        """Bytes of the parameters (and of the gradient) of `region`."""
        return sum(self._parameters[b] for b in self.blocks_of(region))

    # ---- rules

    def check_region(self, name: str, region: Region, nbytes: int) -> None:
        """Raises `StrategyError` unless a payload of `nbytes` bytes fits `region`."""
        expected = self.region_bytes(region)
        if nbytes != expected:
            blocks = list(self.blocks_of(region))
            raise StrategyError(f"{name} of blocks {blocks} takes {expected} bytes, it was given {nbytes}")

    def forward(self, block: int, nbytes: int, batch: Batch) -> None:
        """Note a forward pass. Raises `StrategyError` on an input of another size."""
        self._check_placed(block)
        self._check_size("forward", block, batch, self.input_bytes(block, batch), nbytes)
        self._saved[block, batch] = False

    def loss(self, nbytes: int, batch: Batch) -> None:
        """Raises `StrategyError` on an output of another size."""
        self._check_size("loss", -1, batch, self.output_bytes(-1, batch), nbytes)

    def backward(self, block: int, nbytes: int, batch: Batch, part: Part) -> None:
        """Note a backward pass or a half of it. Raises `StrategyError` if it is not its turn, or on another size."""
        self._check_placed(block)
        halved = self._saved.get((block, batch))
        if halved is None:
            raise StrategyError(f"backward of block {block}, {batch}, before its forward")
        if part == "weights":
            if not halved:
                raise StrategyError(f"backward of block {block}, {batch}: part='weights' before part='input'")
        else:
            if halved:
                raise StrategyError(f"backward of block {block}, {batch}: part={part!r} after part='input'")
            self._check_size("backward", block, batch, self.output_bytes(block, batch), nbytes)
        if part == "input":
            self._saved[block, batch] = True
        else:
            del self._saved[block, batch]

    def forget(self, batch: Batch) -> None:
        """Forget the forward passes of `batch`."""
        for key in [key for key in self._saved if key[1] == batch]:
            del self._saved[key]

    def _check_placed(self, block: int) -> None:
        if block not in self._here:
            raise StrategyError(f"block {block} is not placed on this rank, which holds {list(self.placed)}")

    @staticmethod
    def _check_size(name: str, block: int, batch: Batch, expected: int, nbytes: int) -> None:
        if nbytes != expected:
            where = "" if block < 0 else f" of block {block}"
            raise StrategyError(f"{name}{where}, {batch}, takes {expected} bytes, it was given {nbytes}")


def check_collective(collective: Collective, sizes: Sequence[int], itemsize: int) -> int:
    """The common size of the group's payloads, in bytes.

    Raises `StrategyError` if they differ, or if a reduce-scatter's does not divide by the group.
    """
    if len(set(sizes)) != 1:
        raise StrategyError(f"{collective.kind} of payloads of different sizes, in group order: {list(sizes)} bytes")
    if collective.kind == "reduce_scatter" and sizes[0] // itemsize % len(sizes):
        raise StrategyError(f"reduce_scatter of {sizes[0] // itemsize} scalars does not divide by a group of {len(sizes)}")
    return sizes[0]
