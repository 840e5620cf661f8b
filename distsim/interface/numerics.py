"""The protocol of numerics: what is computed on. Synchronous and pure bookkeeping, one instance a rank.

The numerics never see a clock or a rank. `distsim.numerics.sizes` implements it with byte counts,
`distsim.numerics.tensors` with autograd over a list of blocks; modeled time equals cosimulated time because both give equal
`nbytes` for every value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from distsim.interface.fabric import Collective
from distsim.interface.values import Batch, Region, T

Part = Literal["both", "input", "weights"]


class Numerics(Protocol[T]):
    """Parameters, gradients and saved activations of the blocks placed on one rank."""

    def place(self, blocks: Sequence[int]) -> None:
        """Keep only `blocks` (ascending); called before the first step."""

    def input(self, batch: Batch) -> T:
        """The samples of `batch`."""

    def forward(self, block: int, x: T, batch: Batch) -> T:
        """Run `block`, keep what its backward pass needs under (block, batch)."""

    def loss(self, y: T, batch: Batch) -> tuple[T, float]:
        """The gradient of the mean loss of `batch` times `batch.weight` with respect to the model's output `y`, and the
        mean loss (0.0 where no values exist). Raises `Diverged` if it is not finite."""

    def backward(self, block: int, g: T, batch: Batch, part: Part) -> T:
        """Accumulate the gradient of `block` with the weights that its forward used; give the gradient of its input.

        `part="input"` gives only the gradient of the input, and `"weights"`, called later with any `g`, does the rest.
        Raises `StrategyError` if the forward of (block, batch) has not run."""

    def read(self, region: Region) -> T:
        """A copy of the parameters of `region`, flat."""

    def load(self, region: Region, x: T) -> None:
        """Overwrite the parameters of `region`. Raises `StrategyError` on another size."""

    def accumulated(self, region: Region) -> T:
        """A copy of the gradient accumulated since `zero`, flat."""

    def zero(self) -> None:
        """Forget the accumulated gradient."""

    def forget(self, batch: Batch) -> None:
        """Drop the activations saved for `batch`: its backward pass was cancelled."""

    def update(self, region: Region, gradient: T, scale: float) -> None:
        """One step of the optimizer, its rate times `scale`. An activation saved before it keeps its old weights."""

    def nbytes(self, x: T) -> float:
        """Bytes of a payload."""

    def copy(self, x: T) -> T:
        """A payload of equal value that shares no memory with `x`."""

    def combine(self, collective: Collective, values: Sequence[T]) -> list[T]:
        """The results of a collective, in group order, from the values in group order."""
