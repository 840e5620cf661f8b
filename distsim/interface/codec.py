"""Descriptions of gradient compression: what travels in place of a gradient. The numerics carry them out.

A codec works in rounds, each an encoding and a collective of the codes; the last is followed by decoding:

    top-k     all-gather the largest scalars with their places (sums of sparse vectors are not as sparse)
    fp16      all-reduce the rounded gradient
    powersgd  all-reduce P = M Q, make P orthogonal, all-reduce Q = M^T P; the mean is P Q^T

`rounds` names the collectives. The error that a rank keeps is what its own code leaves out (`is_own`): its gradient minus
that code, decoded. With PowerSGD no rank has a code of its own, and it keeps its gradient minus the decoded *mean*, as the
published code does. Either way what was applied plus what is kept adds up to the sum of all gradients; with fp16 up to what
the sums of codes round, which belongs to no rank and is kept by none.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

from distsim.interface.model import Block

Round = Literal["all_reduce", "all_gather"]


@dataclass(frozen=True)
class TopK:
    """The share `density` of the scalars that is largest in absolute value, at least one.

    Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory", NeurIPS 2018.
    """

    density: float = 0.01

    rounds: ClassVar[tuple[Round, ...]] = ("all_gather",)
    is_own: ClassVar[bool] = True

    def kept(self, scalars: int) -> int:
        """How many of `scalars` scalars travel, each as its value and its place (as wide as a value)."""
        return min(scalars, max(1, ceil(self.density * scalars)))


@dataclass(frozen=True)
class Half:
    """Every scalar rounded to IEEE half precision, 2 bytes each; sums are taken in half precision, as torch's hook does."""

    rounds: ClassVar[tuple[Round, ...]] = ("all_reduce",)
    is_own: ClassVar[bool] = True


@dataclass(frozen=True)
class PowerSGD:
    """Every matrix of the gradient as a product of `rank` columns and rows where that is smaller; the rest as it is.

    Vogels, Karimireddy and Jaggi, "PowerSGD", NeurIPS 2019, algorithm 1, with warm start.
    """

    rank: int = 4

    rounds: ClassVar[tuple[Round, ...]] = ("all_reduce", "all_reduce")
    is_own: ClassVar[bool] = False

    def is_low_rank(self, shape: tuple[int, ...]) -> bool:
        """Whether a parameter of this shape, seen as a matrix with its first dimension as rows, is compressed."""
        rows, columns = matrix(shape)
        return len(shape) > 1 and (rows + columns) * min(self.rank, rows, columns) < rows * columns

    def scalars(self, block: Block) -> tuple[int, int]:
        """Scalars of `block` that travel in each of the two rounds; what is not low rank travels in the first."""
        first, second, left = 0, 0, block.parameters
        for shape in block.shapes:
            if self.is_low_rank(shape):
                rows, columns = matrix(shape)
                rank = min(self.rank, rows, columns)
                first, second, left = first + rows * rank, second + columns * rank, left - rows * columns
        return first + left, second


Codec = TopK | Half | PowerSGD


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a parameter seen as a matrix: its first dimension, and all others."""
    rows = shape[0] if shape else 1
    columns = 1
    for size in shape[1:]:
        columns *= size
    return rows, columns
