"""The digits classified by a residual convolutional network: few parameters and large activations, unlike the perceptron.

Blocks: `conv` (1 to `channels` channels), then depth - 2 times `residual_conv` (x + s conv(relu(norm(x))), s = sqrt(8 /
depth)), then `pool_linear` (norm, ReLU, the means of 2 x 2 pixels, a linear layer). Convolutions are 3 x 3 and keep the
8 x 8 pixels. All residual blocks are of one kind. Norms are group norms (Wu and He, arXiv 1803.08494): no sample's output
depends on another sample, so any split of a batch gives the same gradient. Loss: cross entropy.
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

GROUPS = 4
"""Of channels, each normalised on its own."""
POOLED = 16
"""Squares of the image, 2 x 2 pixels each: what the last block sees of a channel is their means."""
_KERNEL = 9
_ITEMSIZE = {"float32": 4, "float64": 8}


@dataclass(frozen=True)
class DigitsCNN(Workload):
    """A residual convolutional network on the digits."""

    name: ClassVar[str] = "digits_cnn"

    batch: int = 16
    """Samples a worker contributes to a step."""
    depth: int = 6
    """Number of blocks."""
    channels: int = 32
    dtype: str = "float32"

    def problems(self) -> Iterable[Problem]:
        """What is wrong with its fields."""
        limits = {"batch": (1, LARGEST_BATCH), "depth": (2, 10_000), "channels": (GROUPS, 10_000)}
        for key, (least, most) in limits.items():
            if not least <= getattr(self, key) <= most:
                yield Problem(f"workload.{key}", getattr(self, key), f"must be from {least} to {most}")
        if self.channels > GROUPS and self.channels % GROUPS:
            below = self.channels - self.channels % GROUPS
            yield Problem(
                "workload.channels",
                self.channels,
                f"must divide by the {GROUPS} groups of its norms",
                f"nearest: {below} or {below + GROUPS}",
            )
        if self.dtype not in _ITEMSIZE:
            yield Problem("workload.dtype", self.dtype, "must be float32 or float64")

    def model(self) -> Model:
        """The description that torch would count: see tests/workloads/test_description.py."""
        pixels, channels, dtype = digits.PIXELS, self.channels, self.dtype
        first = _conv(0, f"conv(1,{channels}) {dtype}", 1, channels)
        hidden = _conv(1, f"residual_conv({channels}) {dtype}", channels, channels)
        # The norm keeps the block's input with a mean and a deviation a group, the ReLU its output. Shards norm all of it.
        normed = 2 * pixels * channels + 2 * GROUPS
        hidden = replace(
            hidden,
            parameters=hidden.parameters + 2 * channels,
            saved=normed,
            replicated=2 * channels,
            replicated_saved=normed,
            shapes=((channels,), (channels,), *hidden.shapes),
        )
        last = _pool_linear(self.depth - 1, f"pool_linear({channels},{digits.CLASSES}) {dtype}", channels, normed)
        blocks = (first, *(replace(hidden, index=i) for i in range(1, self.depth - 1)), last)
        return Model(blocks, self.batch, pixels, _ITEMSIZE[dtype])

    def fingerprint(self) -> str:
        """The hash of the data's file. Raises `BadInput` if that is missing or torn."""
        digits.load()
        return digits.SHA256

    def task(self, seed: int) -> Task:
        """The blocks, initialised from `seed`, with the digits."""
        from distsim.workloads.digits_cnn_task import digits_cnn_task

        return digits_cnn_task(self, seed)


def _conv(index: int, kind: str, inputs: int, outputs: int) -> Block:
    """A convolution, cut by outputs: nine weights for a pair of channels at every pixel, at the border, too."""
    flops = 2.0 * _KERNEL * inputs * outputs * digits.PIXELS
    return Block(
        index=index,
        kind=kind,
        parameters=(_KERNEL * inputs + 1) * outputs,
        activation=outputs * digits.PIXELS,
        saved=inputs * digits.PIXELS,
        flops=flops,
        input_flops=flops if index else 0.0,
        weight_flops=flops,
        ways=outputs,
        replicated_saved=inputs * digits.PIXELS,
        shapes=((outputs, inputs, 3, 3), (outputs,)),
    )


def _pool_linear(index: int, kind: str, channels: int, normed: int) -> Block:
    """The last block, cut by the linear layer's inputs; only that has FLOPs that are counted."""
    classes, features = digits.CLASSES, channels * POOLED
    flops = 2.0 * features * classes
    return Block(
        index=index,
        kind=kind,
        parameters=2 * channels + (features + 1) * classes,
        activation=classes,
        saved=normed + features,
        flops=flops,
        input_flops=flops,
        weight_flops=flops,
        ways=features,
        replicated=2 * channels + classes,
        replicated_saved=normed,
        shapes=((classes,), (channels,), (channels,), (classes, features)),
    )
