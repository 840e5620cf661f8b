"""Numerics of byte counts: every payload is its size, so a modeled run needs no values. No torch here.

- A size is a whole number of bytes and equals that of the tensor which a cosimulated run would hold: modeled time equals
  cosimulated time only because of this. Both refuse the same misuse with the same words (see distsim.numerics.checks).
- Arithmetic between payloads needs equal sizes and gives that size; a payload's value cannot be asked for.
- The gradient of the first block's input is not computed; it is a payload of 0 bytes. So is what `part="weights"` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from distsim.interface.errors import StrategyError
from distsim.interface.fabric import Collective
from distsim.interface.model import Model
from distsim.interface.numerics import Numerics, Part
from distsim.interface.values import Batch, Region
from distsim.numerics.checks import Ledger, check_collective


@dataclass(frozen=True, slots=True)
class Size:
    """A payload of which only the bytes are known."""

    nbytes: int

    def _with(self, other: Size | float, /) -> Size:
        """Raises `StrategyError` if `other` is a payload of another size."""
        if isinstance(other, Size) and other.nbytes != self.nbytes:
            raise StrategyError(
                f"arithmetic needs payloads of equal size, these have {self.nbytes} and {other.nbytes} bytes"
            )
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _with

    def __pow__(self, exponent: float, /) -> Size:
        return self

    def __neg__(self) -> Size:
        return self

    def __abs__(self) -> Size:
        return self

    def _no_value(self) -> NoReturn:
        """Raises `StrategyError`: a strategy that branched on a value could not be modeled."""
        raise StrategyError(
            f"a payload of a modeled run has a size ({self.nbytes} bytes) and no value: "
            "branch on counts, versions and arrivals instead"
        )

    def __bool__(self) -> bool:
        self._no_value()

    def __float__(self) -> float:
        self._no_value()

    def __int__(self) -> int:
        self._no_value()


NOTHING = Size(0)


class Sizes:
    """The byte counts of one rank. Implements `Numerics[Size]`."""

    def __init__(self, model: Model, workers: int) -> None:
        self._ledger = Ledger(model, workers)
        self._itemsize = model.itemsize
        self._regions: dict[Region, Size] = {}

    def place(self, blocks: Sequence[int]) -> None:
        """Keep only `blocks` (ascending)."""
        self._ledger.place(blocks)
        self._regions.clear()

    def input(self, batch: Batch) -> Size:
        """The samples of `batch`."""
        return Size(self._ledger.input_bytes(0, batch))

    def forward(self, block: int, x: Size, batch: Batch) -> Size:
        """The output of `block`. Raises `StrategyError` on an input of another size."""
        self._ledger.forward(block, x.nbytes, batch)
        return Size(self._ledger.output_bytes(block, batch))

    def loss(self, y: Size, batch: Batch) -> tuple[Size, float]:
        """The gradient of the output, and 0.0. Raises `StrategyError` on an output of another size."""
        self._ledger.loss(y.nbytes, batch)
        return y, 0.0

    def backward(self, block: int, g: Size, batch: Batch, part: Part) -> Size:
        """The gradient of the input of `block`. Raises `StrategyError` before its forward and on another size."""
        self._ledger.backward(block, g.nbytes, batch, part)
        if block == 0 or part == "weights":
            return NOTHING
        return Size(self._ledger.input_bytes(block, batch))

    def read(self, region: Region) -> Size:
        """The parameters of `region`."""
        size = self._regions.get(region)
        if size is None:
            size = self._regions[region] = Size(self._ledger.region_bytes(region))
        return size

    def load(self, region: Region, x: Size) -> None:
        """Check the size: nothing else is known of parameters."""
        self._check("load", region, x)

    def accumulated(self, region: Region) -> Size:
        """The gradient of `region`."""
        return self.read(region)

    def zero(self) -> None:
        """Nothing to forget: gradients are as large as their block, whatever was accumulated."""

    def forget(self, batch: Batch) -> None:
        """Drop the activations saved for `batch`."""
        self._ledger.forget(batch)

    def update(self, region: Region, gradient: Size, scale: float) -> None:
        """Check the size of the gradient."""
        self._check("update", region, gradient)

    def nbytes(self, x: Size) -> float:
        """Bytes of a payload."""
        return x.nbytes

    def copy(self, x: Size) -> Size:
        """The same size: it cannot change."""
        return x

    def combine(self, collective: Collective, values: Sequence[Size]) -> list[Size]:
        """The sizes of the results. Raises `StrategyError` on unequal sizes and on one that does not divide."""
        nbytes = check_collective(collective, [x.nbytes for x in values], self._itemsize)
        n = len(values)
        if collective.kind == "all_gather":
            return [Size(nbytes * n)] * n
        if collective.kind == "reduce_scatter":
            return [Size(nbytes // n)] * n
        return list(values)

    def _check(self, name: str, region: Region, x: Size) -> None:
        """`Ledger.check_region` with the region's size looked up, as this is called at every update."""
        if x.nbytes != self.read(region).nbytes:
            self._ledger.check_region(name, region, x.nbytes)


@dataclass(frozen=True)
class SizesFactory:
    """Rank -> its byte counts; all ranks count alike. `Job.numerics` of modeled runs."""

    model: Model
    workers: int

    def __call__(self, rank: int) -> Numerics[Size]:
        return Sizes(self.model, self.workers)
