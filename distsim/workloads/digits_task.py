"""The torch side of `digits_mlp`: see distsim.workloads.digits_mlp for what its blocks are. Its data serve all the digits.

The tensor forms are exact: a shard of the first and of a residual block gives its own columns among zeros, one of the last
multiplies its own columns of the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from distsim.workloads import digits
from distsim.workloads.digits_mlp import DigitsMLP
from distsim.workloads.initial import draws, empty, fill
from distsim.workloads.shards import Dealt
from distsim.workloads.task import Data, Task


class LinearReLU(Dealt):
    """relu(W x + b), cut by outputs."""

    dealt: ClassVar[Mapping[str, int]] = {"linear.weight": 0, "linear.bias": 0}

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.ways = outputs
        self.linear = _linear(inputs, outputs, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (samples, inputs) -> (samples, outputs)."""
        return self.placed(torch.relu(self.linear(x)))


class Residual(Dealt):
    """x + scale (W relu(x) + b), cut by outputs."""

    dealt: ClassVar[Mapping[str, int]] = {"linear.weight": 0, "linear.bias": 0}

    def __init__(self, width: int, scale: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.ways = width
        self.scale = scale
        self.linear = _linear(width, width, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (samples, width), in and out."""
        y = self.placed(self.linear(torch.relu(x)))
        return y * self.scale if self.index else torch.add(x, y, alpha=self.scale)


class Classifier(Dealt):
    """W x + b, cut by inputs: ten classes would divide by few numbers of shards."""

    dealt: ClassVar[Mapping[str, int]] = {"weight": 1}

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.ways = inputs
        self.bias = nn.Parameter(torch.zeros(outputs, dtype=dtype))
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (samples, inputs) -> (samples, outputs)."""
        mine = self.weight.shape[1]
        x = x.narrow(1, self.index * mine, mine)
        return functional.linear(x, self.weight, None if self.index else self.bias)


def digits_task(workload: DigitsMLP, seed: int) -> Task:
    """The blocks of `workload`, initialised from (seed, block), with the digits."""
    dtype: torch.dtype = getattr(torch, workload.dtype)
    width, depth = workload.width, workload.depth
    first = LinearReLU(digits.PIXELS, width, dtype)
    hidden = [Residual(width, (8 / depth) ** 0.5, dtype) for _ in range(depth - 2)]
    last = Classifier(width, digits.CLASSES, dtype)
    # With these deviations and scales the same learning rates train 4 to 96 blocks: however many there are, the branches
    # start as a small part of the trunk and a step changes the function of the whole model by as much.
    fill(first.linear.weight, (3 * digits.PIXELS) ** -0.5, draws(seed, 0))
    for i, block in enumerate(hidden, start=1):
        fill(block.linear.weight, (2 / width) ** 0.5 / (8 * depth) ** 0.5, draws(seed, i))
    fill(last.weight, 0.1 * width**-0.5, draws(seed, depth - 1))
    return Task([first, *hidden, last], digits_data(workload.dtype), functional.cross_entropy, seed, workload.batch)


def _linear(inputs: int, outputs: int, dtype: torch.dtype) -> nn.Linear:
    """A linear layer with zero biases and no weights yet."""
    layer = empty(nn.Linear, inputs, outputs, dtype=dtype)
    nn.init.zeros_(layer.bias)
    return layer


@lru_cache(maxsize=2)
def digits_data(dtype: str) -> Data:
    """The digits, scaled to zero mean and unit deviation over all training pixels. Shared by all tasks of a process."""
    pixels, labels = digits.load()
    training, validation = digits.split(labels)
    x = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(digits.SAMPLES, digits.PIXELS).double()
    y = torch.frombuffer(bytearray(labels), dtype=torch.uint8).long()
    deviation, mean = torch.std_mean(x[training])
    x = ((x - mean) / deviation).to(getattr(torch, dtype))
    return Data(x[training], y[training], x[validation], y[validation])
