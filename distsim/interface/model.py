"""A torch-free description of a model: what its blocks hold, send and cost.

A block is the unit that is placed, run and sent between. `parameters` counts scalars; bytes follow from `itemsize`.
Costs a sample are forward FLOPs (multiply and add are two, as torch's FlopCounterMode counts) and those of the two halves
of the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

from distsim.interface.errors import StrategyError

Operation = Literal["forward", "backward", "backward_input", "backward_weights", "loss", "apply"]


@dataclass(frozen=True)
class Block:
    """One block: a function with one tensor in and one out.

    Blocks of equal `kind` cost the same on the same device: calibration measures a kind once.
    """

    index: int
    kind: str
    """For instance `linear_relu(64, 256)`; the key of measured times."""
    parameters: int
    """Number of scalar parameters; the gradient has as many."""
    activation: int
    """Scalars in the output, a sample: what travels to the next stage."""
    saved: int
    """Scalars kept for the backward pass, a sample."""
    flops: float
    """Forward FLOPs a sample."""
    input_flops: float
    """FLOPs a sample of the gradient with respect to the input; 0 for the first block."""
    weight_flops: float
    """FLOPs a sample of the gradient with respect to the parameters."""
    ways: int = 0
    """Tensor parallelism cuts the block into any number of shards that divides this (heads, hidden units); their outputs
    and input gradients are partial sums. 0: it cannot be cut, and every rank of a tensor group runs all of it."""
    replicated: int = 0
    """Scalar parameters that every tensor shard holds, such as norms; they come first in the flat vector."""
    replicated_saved: int = 0
    """Of `saved`, what every tensor shard keeps, such as its input."""
    shapes: tuple[tuple[int, ...], ...] = ()
    """Shapes of the parameters in the order of the flat vector: low-rank compression needs them, and sends what has none as
    it is."""

    def sharded(self, count: int) -> Block:
        """One of `count` tensor shards. Raises `StrategyError` if `count` does not divide `ways`."""
        if count == 1 or not self.ways:
            return self
        if self.ways % count:
            raise StrategyError(
                f"block {self.index} ({self.kind}) cannot be cut into {count} tensor shards: they must divide {self.ways}"
            )
        return replace(
            self,
            kind=f"{self.kind} / {count}",
            parameters=self.replicated + (self.parameters - self.replicated) // count,
            saved=self.replicated_saved + -(-(self.saved - self.replicated_saved) // count),
            flops=self.flops / count,
            input_flops=self.input_flops / count,
            weight_flops=self.weight_flops / count,
            shapes=(),
        )


@dataclass(frozen=True)
class Model:
    """The description of a whole model and of one worker's share of its data.

    `batch` is b, the samples that one worker contributes to a step: a global step of P workers holds P x b samples.
    """

    blocks: tuple[Block, ...]
    batch: int
    input: int
    """Scalars of input a sample."""
    itemsize: int = 4
    """Bytes a scalar."""

    def nbytes(self, blocks: Iterable[int]) -> int:
        """Bytes of the parameters (and of the gradient) of `blocks`."""
        return sum(self.blocks[b].parameters for b in blocks) * self.itemsize

    @cached_property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters: M in the formulas."""
        return self.nbytes(range(len(self.blocks)))

    def sharded(self, count: int) -> Model:
        """The model of one of `count` tensor-parallel ranks. Raises `StrategyError` if a block cannot be cut so."""
        return self if count == 1 else replace(self, blocks=tuple(block.sharded(count) for block in self.blocks))


class Cost(NamedTuple):
    """What a compute operation asks of a device: primitive operations on blocks for a number of samples, and plain bytes.

    The fabric alone turns it into seconds. `parts` holds (operation, block index); the loss has block -1. The blocks are
    one of `shards` tensor shards. A `share` of the work is done: who updates a piece of a block does a piece of it. Forward
    and backward passes make `passes` of them, each of one block or of several that run as one.
    """

    parts: tuple[tuple[Operation, int], ...]
    samples: float = 0.0
    nbytes: float = 0.0
    shards: int = 1
    share: float = 1.0
    passes: int = 0
