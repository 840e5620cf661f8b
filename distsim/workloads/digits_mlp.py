"""The digits classified by a residual multilayer perceptron: small enough for a laptop, deep enough for stages.

Blocks: `linear_relu` (64 to `width`), then depth - 2 times `residual` (x + s (W relu(x) + b), s = sqrt(8 / depth)), then
`linear` (`width` to 10). All residual blocks are of one kind and cost the same. Branches start small, and their scale makes
the useful learning rates of plain SGD the same for any depth: .03 to .2 at 64 samples a step. Loss: cross entropy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from distsim.interface.errors import Problem
from distsim.interface.model import Block, Model
from distsim.workloads import digits
from distsim.workloads.workload import LARGEST_BATCH, Workload

if TYPE_CHECKING:
    from distsim.workloads.task import Task

_ITEMSIZE = {"float32": 4, "float64": 8}


@dataclass(frozen=True)
class DigitsMLP(Workload):
    """A residual perceptron on the digits."""

    name: ClassVar[str] = "digits_mlp"

    batch: int = 16
    """Samples a worker contributes to a step."""
    depth: int = 8
    """Number of blocks."""
    width: int = 256
    dtype: str = "float32"

    def problems(self) -> Iterable[Problem]:
        """What is wrong with its fields."""
        limits = {"batch": (1, LARGEST_BATCH), "depth": (2, 10_000), "width": (1, 100_000)}
        for key, (least, most) in limits.items():
            if not least <= getattr(self, key) <= most:
                yield Problem(f"workload.{key}", getattr(self, key), f"must be from {least} to {most}")
        if self.dtype not in _ITEMSIZE:
            yield Problem("workload.dtype", self.dtype, "must be float32 or float64")

    def model(self) -> Model:
        """The description that torch would count: see tests/workloads/test_description.py."""
        pixels, width, classes, dtype = digits.PIXELS, self.width, digits.CLASSES, self.dtype
        first = _linear(0, f"linear_relu({pixels},{width}) {dtype}", pixels, width)
        # Autograd keeps the layer's input, and a ReLU's output where it is not that input.
        first = replace(first, saved=pixels + width, replicated_saved=pixels)
        hidden = _linear(1, f"residual({width}) {dtype}", width, width)
        last = _linear(self.depth - 1, f"linear({width},{classes}) {dtype}", width, classes)
        last = replace(last, ways=width, replicated=classes, replicated_saved=0, shapes=((classes,), (classes, width)))
        blocks = (first, *(replace(hidden, index=i) for i in range(1, self.depth - 1)), last)
        return Model(blocks, self.batch, pixels, _ITEMSIZE[dtype])

    def fingerprint(self) -> str:
        """The hash of the data's file. Raises `BadInput` if that is missing or torn."""
        digits.load()
        return digits.SHA256

    def task(self, seed: int) -> Task:
        """The blocks, initialised from `seed`, with the digits."""
        from distsim.workloads.digits_task import digits_task

        return digits_task(self, seed)


def _linear(index: int, kind: str, inputs: int, outputs: int) -> Block:
    """A block of one linear layer, cut by outputs: its FLOPs are the matrix products', and it keeps the layer's input."""
    flops = 2.0 * inputs * outputs
    return Block(
        index=index,
        kind=kind,
        parameters=(inputs + 1) * outputs,
        activation=outputs,
        saved=inputs,
        flops=flops,
        input_flops=flops if index else 0.0,
        weight_flops=flops,
        ways=outputs,
        replicated_saved=inputs,
        shapes=((outputs, inputs), (outputs,)),
    )
