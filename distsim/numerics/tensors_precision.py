"""Blocks under autocast, and the loss scale of fp16 with the updates that wait for their whole gradient.

The operations are those of torch.amp, in its order: see distsim.interface.precision for the rules. A scale that is a power
of two, as all of them are from the default on, changes no bit of what does not overflow or underflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from distsim.interface.errors import StrategyError
from distsim.interface.precision import CHANGED, PARTS, Precision
from distsim.numerics.layout import Layout

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def lower_type(precision: Precision) -> torch.dtype | None:
    """What autocast computes in; None where nothing is cast."""
    return _TYPES.get(precision.name)


class Autocast:
    """Calls a function as torch.autocast does; what comes out is float32."""

    def __init__(self, function: Callable[..., Tensor], device: str, low: torch.dtype) -> None:
        self._function = function
        self._device = device
        self._low = low

    def __call__(self, *inputs: Tensor) -> Tensor:
        with torch.autocast(self._device, self._low):
            y = self._function(*inputs)
        return y.float()


def cast(function: Callable[..., Tensor], device: str, low: torch.dtype | None) -> Callable[..., Tensor]:
    """`function` under autocast, or as it is."""
    return function if low is None else Autocast(function, device, low)


class Piece(NamedTuple):
    """A part of an update."""

    layout: Layout
    gradient: Tensor
    """Of the strategy, and not copied while it waits for those of other blocks."""
    rate: float
    version: int
    """Of the gradient: torch counts whatever changes it."""


class LossScale:
    """One rank's scale, its batches under way and the pieces of the update that is next."""

    def __init__(self, precision: Precision) -> None:
        self._precision = precision
        self.value = precision.first_scale
        self._good = 0
        """Updates since one was skipped or the scale grew."""
        self._used: dict[object, float] = {}
        """By batch, what its loss was multiplied by."""
        self._pieces: list[Piece] = []
        self._seen = self._overflowed = self._updated = False
        """Since the gradient was forgotten last: it was read, it was not finite, an update was made or skipped."""

    # ---- a batch

    def scale(self, g: Tensor, batch: object) -> Tensor:
        """The gradient of the output of `batch`, scaled."""
        self._used[batch] = self.value
        return g * self.value

    def inverse(self, batch: object, is_last: bool) -> float:
        """What gradients of parameters are multiplied by; `is_last` if no block of `batch` is to follow."""
        return 1.0 / (self._used.pop(batch) if is_last else self._used[batch])

    def forget(self, batch: object) -> None:
        """Its backward pass will not come."""
        self._used.pop(batch, None)

    # ---- gradients

    def read(self, gradient: Tensor) -> None:
        """Note a gradient that leaves."""
        self._seen = True
        self._overflowed = self._overflowed or not is_finite(gradient)

    def begin(self) -> None:
        """A new gradient is to come. Whoever sent the last one away, and updated nothing by it, goes by that."""
        if self._seen and not self._updated:
            self._step(not self._overflowed)
        self._seen = self._overflowed = self._updated = False

    def take(self, piece: Piece, placed: Iterable[int]) -> list[Piece]:
        """The pieces to apply now: none until the gradients of all placed blocks are here, nor if one is not finite.

        Raises `StrategyError` for a block that comes twice before others came, and for a gradient changed meanwhile.
        """
        waiting = {block for each in self._pieces for block in each.layout.blocks}
        if waiting.intersection(piece.layout.blocks):
            raise StrategyError(PARTS)
        self._pieces.append(piece)
        if not waiting.union(piece.layout.blocks).issuperset(placed):
            return []
        pieces, self._pieces = self._pieces, []
        if any(each.gradient._version != each.version for each in pieces):
            raise StrategyError(CHANGED)
        finite = all(is_finite(each.gradient) for each in pieces)
        self._step(finite)
        self._updated = True
        return pieces if finite else []

    def _step(self, finite: bool) -> None:
        """As torch.amp.GradScaler.update does."""
        if not finite:
            self.value *= self._precision.backoff
            self._good = 0
            return
        self._good += 1
        if self._good == self._precision.growth_updates:
            self.value *= self._precision.growth
            self._good = 0

    # ---- checkpoints

    def save(self) -> tuple[float, int]:
        """Where it stands."""
        return self.value, self._good

    def restore(self, saved: tuple[float, int]) -> None:
        """Go on from there."""
        self.value, self._good = saved


def is_finite(x: Tensor) -> bool:
    """Whether no value overflowed."""
    return bool(torch.isfinite(x).all())
