"""The protocol of numerics: what is computed on. Synchronous and pure bookkeeping, one instance a rank.

The numerics never see a clock or a rank. `distsim.numerics.sizes` implements it with byte counts,
`distsim.numerics.tensors` with autograd over a list of blocks; modeled time equals cosimulated time because both give equal
`nbytes` for every value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

from distsim.interface.codec import Codec
from distsim.interface.fabric import Collective
from distsim.interface.memory import Memory
from distsim.interface.optimizer import Optimizer
from distsim.interface.values import Batch, Region, T

Part = Literal["both", "input", "weights"]
Blocks = tuple[int, ...]
"""Blocks that follow each other, in ascending order: what runs as one."""
Then = Callable[[], None]


def nothing() -> None:
    """What follows where nothing does."""


class Numerics(Protocol[T]):
    """Parameters, gradients and saved activations of the blocks placed on one rank."""

    has_values: bool
    """False if payloads are sizes alone, so that ranks that do alike hold alike."""

    def place(self, blocks: Sequence[int], shard: tuple[int, int]) -> None:
        """Keep only `blocks` (ascending), of each that can be cut the tensor shard `shard` (which, of how many).

        Called before the first step. Raises `StrategyError` if a block cannot be cut into so many."""

    # ---- running

    def input(self, batch: Batch) -> T:
        """The samples of `batch`."""

    def hold(self, batch: Batch) -> None:
        """The forward passes of `batch` will use the parameters of now, whatever is written meanwhile."""

    def forward(self, blocks: Blocks, x: T, batch: Batch, then: Then = nothing) -> T:
        """Run `blocks`, keep what their backward pass needs under (blocks, batch).

        `then` is called when the memory that it holds is accounted for, and may be more than before; of a backward pass
        after each block whose gradient is new."""

    def loss(self, y: T, batch: Batch) -> tuple[T, float]:
        """The gradient of the mean loss of `batch` times `batch.weight` with respect to the model's output `y`, and the
        mean loss (0.0 where no values exist). Raises `Diverged` if it is not finite."""

    def backward(self, blocks: Blocks, g: T, batch: Batch, part: Part, then: Then = nothing) -> T:
        """Accumulate the gradients of `blocks` with the weights that their forward used; give the gradient of their input.

        `part="input"` gives only the gradient of the input, and `"weights"`, called later with any `g`, does the rest.
        Raises `StrategyError` if the forward of just these blocks, together, has not run on `batch`."""

    def backward_of_loss(self, blocks: Blocks, y: T, batch: Batch, then: Then = nothing) -> tuple[T, float]:
        """`backward` of the gradient that `loss` gives of `y`, the output of `blocks`; and the mean loss."""

    def forget(self, batch: Batch) -> None:
        """Drop the activations saved for `batch`: its backward pass was cancelled."""

    # ---- parameters

    def read(self, region: Region) -> T:
        """A copy of the parameters of `region`, flat. Raises `StrategyError` where only a shard is here."""

    def load(self, region: Region, x: T) -> None:
        """Overwrite the parameters of `region`; what was released is whole again.

        Raises `StrategyError` on another size."""

    def release(self, region: Region) -> None:
        """Keep nothing of the blocks but the shard that `region` names: until the next `load` they cannot run.

        Raises `StrategyError` if `region` names no shard, or another than before."""

    def update(self, region: Region, gradient: T | None, optimizer: Optimizer | None, scale: float) -> None:
        """One step of the optimizer (None: the run's own), its rate times `scale`, by a gradient (None: `accumulated`).

        Its state is kept by (optimizer, region). An activation saved before the step keeps its old weights."""

    # ---- gradients

    def accumulated(self, region: Region, scale: float = 1.0) -> T:
        """A copy of what has accumulated for `region` since it was forgotten, times `scale`, flat.

        For a shard what `accumulate` was given for it; if nothing was, its piece of the gradient of whole blocks."""

    def accumulate(self, region: Region, g: T) -> None:
        """Add to the gradient of `region`; that of a shard is kept apart from that of whole blocks."""

    def zero(self, region: Region | None) -> None:
        """Forget the gradient of `region`; None: everything.

        Of a shard what `accumulate` was given for it, of whole blocks all but what was accumulated for shards."""

    # ---- payloads

    def nbytes(self, x: T) -> float:
        """Bytes of a payload."""

    def copy(self, x: T) -> T:
        """A payload of equal value that shares no memory with `x`."""

    def cut(self, x: T, pieces: int) -> list[T]:
        """Equal pieces of a flat payload, which is padded with zeros to divide."""

    def combine(self, collective: Collective, values: Sequence[T]) -> list[T]:
        """The results of a collective, in group order, from the values in group order."""

    def encode(self, codec: Codec, x: T, region: Region, received: Sequence[T]) -> T:
        """What `x`, a gradient of `region`, sends in round number `len(received)` of a codec; `received` are the results of
        the collectives of the rounds before."""

    def decode(self, codec: Codec, region: Region, received: Sequence[T], codes: int) -> T:
        """The gradient of `region` that the results of all rounds stand for.

        Of an all-gather that joined `codes` codes their mean is given."""

    # ---- checkpoints

    def save(self) -> Any:
        """A copy of the parameters held here and of the optimizers' state: what a checkpoint keeps. Nothing else is saved,
        neither gradients nor activations nor what codecs keep."""

    def restore(self, saved: Any) -> None:
        """Go on from what `save` gave; called once, first thing. What was saved after a `place` is taken over at that."""

    # ---- memory

    def memory(self) -> Memory:
        """What this rank holds now."""
