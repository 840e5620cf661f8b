"""Numerics of byte counts: every payload is its size, so a modeled run needs no values. No torch here.

- A size is a whole number of bytes and equals that of the tensor which a cosimulated run would hold: modeled time equals
  cosimulated time only because of this. Both refuse the same misuse with the same words (see distsim.numerics.checks).
- Arithmetic between payloads needs equal sizes and gives that size; a payload's value cannot be asked for.
- The gradient of the first block's input is not computed; it is a payload of 0 bytes. So is what `part="weights"` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from distsim.interface.codec import Codec
from distsim.interface.errors import StrategyError
from distsim.interface.fabric import Collective
from distsim.interface.memory import Memory
from distsim.interface.model import Model
from distsim.interface.numerics import Blocks, Numerics, Part, Then, nothing
from distsim.interface.optimizer import SGD, Optimizer
from distsim.interface.precision import FLOAT32, Precision
from distsim.interface.values import Batch, Region
from distsim.numerics import codecs_sizes
from distsim.numerics.checks import Ledger, check_collective
from distsim.numerics.layout import Span

_NO_TENSOR = (
    "a payload of a modeled run is no tensor and knows no {}: the arithmetic of all modes is + - * / ** abs(), and codecs"
)


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

    @classmethod
    def __torch_function__(cls, function: Any, *_: Any) -> NoReturn:
        """Raises `StrategyError`: torch was given it in place of a tensor."""
        raise StrategyError(_NO_TENSOR.format(getattr(function, "__name__", function)))

    if not TYPE_CHECKING:  # for it, a payload has what it has

        def __getattr__(self, name: str) -> Any:
            """Raises `AttributeError`: whoever asks for what it lacks takes it for a tensor."""
            if name.startswith("_"):
                raise AttributeError(name)
            raise AttributeError(_NO_TENSOR.format(name))


NOTHING = Size(0)
_sized, _weighed = lru_cache(4096)(Size), lru_cache(4096)(Memory)
"""One object of all that are equal: they cannot change, and most are asked for over and over."""


class Sizes:
    """The byte counts of one rank. Implements `Numerics[Size]`."""

    has_values = False

    def __init__(self, model: Model, workers: int, optimizer: Optimizer, precision: Precision = FLOAT32) -> None:
        self._ledger = Ledger(model, workers, precision)
        self._itemsize = model.itemsize
        self._optimizer = optimizer
        self._saved: tuple[Any, ...] | None = None
        self._forget_all()

    def _forget_all(self) -> None:
        self._regions: dict[Region, Size] = {}
        self._gradients: set[int] = set()
        """Blocks that hold a gradient."""
        self._shards: dict[Region, int] = {}
        """Shards that hold a gradient of their own, and its scalars."""
        self._states: set[tuple[Optimizer | None, Span]] = set()
        self._updated: set[tuple[Optimizer | None, Region]] = set()
        self._gradient_scalars = 0
        self._state_bytes = 0

    def place(self, blocks: Sequence[int], shard: tuple[int, int]) -> None:
        """Keep only `blocks` (ascending), or a tensor shard of each that can be cut."""
        self._ledger.place(blocks, shard)
        self._forget_all()
        self._take_over()

    # ---- running

    def input(self, batch: Batch) -> Size:
        """The samples of `batch`."""
        return _sized(self._ledger.input_bytes(0, batch))

    def hold(self, batch: Batch) -> None:
        """Nothing to hold: parameters have no values here."""

    def forward(self, blocks: Blocks, x: Size, batch: Batch, then: Then = nothing) -> Size:
        """The output of `blocks`. Raises `StrategyError` on an input of another size."""
        self._ledger.forward(blocks, batch)
        self._ledger.check_input(blocks[0], x.nbytes, batch)
        then()
        return _sized(self._ledger.output_bytes(blocks[-1], batch))

    def loss(self, y: Size, batch: Batch) -> tuple[Size, float]:
        """The gradient of the output, and 0.0. Raises `StrategyError` on an output of another size."""
        self._ledger.loss(y.nbytes, batch)
        return y, 0.0

    def backward(self, blocks: Blocks, g: Size, batch: Batch, part: Part, then: Then = nothing) -> Size:
        """The gradient of the input of `blocks`. Raises `StrategyError` before their forward and on another size."""
        self._ledger.backward(blocks, g.nbytes, batch, part)
        if part != "input":
            for block in reversed(blocks):
                self._ledger.end((block,), batch)
                if self._hold(block):
                    then()
        if blocks[0] == 0 or part == "weights":
            return NOTHING
        return _sized(self._ledger.input_bytes(blocks[0], batch))

    def backward_of_loss(self, blocks: Blocks, y: Size, batch: Batch, then: Then = nothing) -> tuple[Size, float]:
        """The gradient of the input of `blocks`, and 0.0. Raises as `loss` and `backward`."""
        self._ledger.loss(y.nbytes, batch)
        return self.backward(blocks, y, batch, "both", then), 0.0

    def forget(self, batch: Batch) -> None:
        """Drop the activations saved for `batch`."""
        self._ledger.forget(batch)

    # ---- parameters

    def read(self, region: Region) -> Size:
        """The parameters of `region`. Raises `StrategyError` where only a shard is here."""
        self._ledger.read(region)
        return self._size(region)

    def load(self, region: Region, x: Size) -> None:
        """Note the write. Raises `StrategyError` on another size."""
        self._ledger.load(region, x.nbytes)

    def release(self, region: Region) -> None:
        """Keep only the shard that `region` names. Raises `StrategyError` if it names none, or another than before."""
        self._ledger.release(region)

    def update(self, region: Region, gradient: Size | None, optimizer: Optimizer | None, scale: float) -> None:
        """Note the write and the optimizer's state. Raises `StrategyError` on a gradient of another size."""
        layout = self._ledger.update(region, None if gradient is None else gradient.nbytes)
        if (optimizer, region) in self._updated:
            return
        self._updated.add((optimizer, region))
        a_scalar = (self._optimizer if optimizer is None else optimizer).state_bytes(self._itemsize)
        for span in layout.spans:
            if (optimizer, span) not in self._states:
                self._states.add((optimizer, span))
                self._state_bytes += (span.stop - span.start) * a_scalar

    # ---- gradients

    def accumulated(self, region: Region, scale: float = 1.0) -> Size:
        """The gradient of `region`: as large as that, whatever was accumulated."""
        return self._size(region)

    def accumulate(self, region: Region, g: Size) -> None:
        """Note what is held. Raises `StrategyError` on another size."""
        layout = self._ledger.fitting("accumulate", region, g.nbytes)
        if region.shard is None:
            for block, start, stop in layout.spans:
                if start < stop:
                    self._hold(block)
        elif layout.region not in self._shards:
            self._shards[layout.region] = layout.size
            self._gradient_scalars += layout.size

    def zero(self, region: Region | None) -> None:
        """Forget the gradient of `region`; None: everything."""
        if region is None:
            self._gradients.clear()
            self._shards.clear()
            self._gradient_scalars = 0
            return
        layout = self._ledger.layout(region)
        if region.shard is not None:
            self._gradient_scalars -= self._shards.pop(layout.region, 0)
        elif layout.is_whole:
            for block in self._gradients.intersection(layout.blocks):
                self._gradients.remove(block)
                self._gradient_scalars -= self._ledger.blocks[block].parameters

    def _hold(self, block: int) -> bool:
        """Note that the block holds a gradient; whether that is new."""
        if block in self._gradients:
            return False
        self._gradients.add(block)
        self._gradient_scalars += self._ledger.blocks[block].parameters
        return True

    # ---- payloads

    def nbytes(self, x: Size) -> float:
        """Bytes of a payload."""
        return x.nbytes

    def copy(self, x: Size) -> Size:
        """The same size: it cannot change."""
        return x

    def cut(self, x: Size, pieces: int) -> list[Size]:
        """Equal pieces of whole scalars."""
        return [Size(-(-x.nbytes // (self._itemsize * pieces)) * self._itemsize)] * pieces

    def combine(self, collective: Collective, values: Sequence[Size]) -> list[Size]:
        """The sizes of the results. Raises `StrategyError` on unequal sizes and on one that does not divide."""
        nbytes = check_collective(collective, [x.nbytes for x in values], self._itemsize)
        n = len(values)
        if collective.kind == "all_gather":
            return [Size(nbytes * n)] * n
        if collective.kind == "reduce_scatter":
            return [Size(nbytes // n)] * n
        if collective.kind == "reduce":
            return [value if i == collective.root else Size(0) for i, value in enumerate(values)]
        return list(values)

    def encode(self, codec: Codec, x: Size, region: Region, received: Sequence[Size]) -> Size:
        """What `x` sends in the next round. Raises `StrategyError` on another size."""
        layout = self._ledger.fitting("encode", region, x.nbytes)
        blocks = [self._ledger.blocks[b] for b in layout.blocks]
        return Size(codecs_sizes.encode(codec, x.nbytes, blocks, [y.nbytes for y in received], self._itemsize))

    def decode(self, codec: Codec, region: Region, received: Sequence[Size], codes: int) -> Size:
        """The gradient of `region` that the results stand for."""
        blocks = [self._ledger.blocks[b] for b in self._ledger.layout(region).blocks]
        nbytes = self._size(region).nbytes
        return Size(codecs_sizes.decode(codec, nbytes, blocks, [y.nbytes for y in received], codes, self._itemsize))

    # ---- checkpoints

    def save(self) -> tuple[Any, ...]:
        """For what the optimizers have a state."""
        return frozenset(self._states), frozenset(self._updated), self._state_bytes, self._ledger.placed

    def restore(self, saved: tuple[Any, ...]) -> None:
        """Take the state over, once the same blocks are placed."""
        self._saved = saved
        self._take_over()

    def _take_over(self) -> None:
        if self._saved is not None and self._saved[3] == self._ledger.placed:
            states, updated, self._state_bytes, _ = self._saved
            self._states, self._updated = set(states), set(updated)

    # ---- memory

    def memory(self) -> Memory:
        """What this rank holds, by formula."""
        held, itemsize = self._ledger.held, self._itemsize
        return _weighed(
            held.parameters * itemsize,
            self._gradient_scalars * itemsize,
            self._state_bytes,
            held.activations * itemsize,
            held.versions * itemsize,
        )

    def _size(self, region: Region) -> Size:
        size = self._regions.get(region)
        if size is None:
            size = self._regions[region] = Size(self._ledger.layout(region).size * self._itemsize)
        return size


@dataclass(frozen=True)
class SizesFactory:
    """Rank -> its byte counts; all ranks count alike. `Job.numerics` of modeled runs."""

    model: Model
    workers: int
    optimizer: Optimizer = field(default_factory=SGD)
    precision: Precision = FLOAT32

    def __call__(self, rank: int) -> Numerics[Size]:
        return Sizes(self.model, self.workers, self.optimizer, self.precision)
