"""A torch-free description of a model: what its blocks hold, send and cost.

A block is the unit that is placed, run and sent between. `parameters` counts scalars; bytes follow from `itemsize`.
Costs a sample are forward FLOPs (multiply and add are two, as torch's FlopCounterMode counts) and those of the two halves
of the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

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

    def activation_bytes(self, block: int, samples: float) -> float:
        """Bytes of the output of `block` for `samples` samples."""
        return self.blocks[block].activation * self.itemsize * samples

    def saved_bytes(self, block: int, samples: float) -> float:
        """Bytes that `block` keeps between forward and backward for `samples` samples."""
        return self.blocks[block].saved * self.itemsize * samples


class Cost(NamedTuple):
    """What a compute operation asks of a device: primitive operations on blocks for a number of samples, or plain bytes.

    The fabric alone turns it into seconds. `parts` holds (operation, block index); the loss has block -1.
    """

    parts: tuple[tuple[Operation, int], ...]
    samples: float = 0.0
    nbytes: float = 0.0
