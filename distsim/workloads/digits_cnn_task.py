"""The torch side of `digits_cnn`: see distsim.workloads.digits_cnn for what its blocks are.

The tensor forms are exact: a shard of a convolution gives its own channels among zeros, one of the last block multiplies
its own part of the features. Norms are every shard's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from distsim.workloads import digits
from distsim.workloads.digits_cnn import GROUPS, POOLED, DigitsCNN
from distsim.workloads.digits_task import digits_data
from distsim.workloads.initial import draws, empty, fill
from distsim.workloads.shards import Dealt
from distsim.workloads.task import Data, Task


class Conv(Dealt):
    """A convolution of the image, cut by outputs."""

    dealt: ClassVar[Mapping[str, int]] = {"conv.weight": 0, "conv.bias": 0}

    def __init__(self, channels: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.ways = channels
        self.conv = _convolution(1, channels, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (samples, 1, 8, 8) -> (samples, channels, 8, 8)."""
        return self.placed(self.conv(x))


class ResidualConv(Dealt):
    """x + scale conv(relu(norm(x))), cut by outputs."""

    dealt: ClassVar[Mapping[str, int]] = {"conv.weight": 0, "conv.bias": 0}

    def __init__(self, channels: int, scale: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.ways = channels
        self.scale = scale
        self.norm = nn.GroupNorm(GROUPS, channels, dtype=dtype)
        self.conv = _convolution(channels, channels, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (samples, channels, 8, 8), in and out."""
        y = self.placed(self.conv(torch.relu(self.norm(x))))
        return y * self.scale if self.index else torch.add(x, y, alpha=self.scale)


class PoolLinear(Dealt):
    """The classifier, cut by the linear layer's inputs."""

    dealt: ClassVar[Mapping[str, int]] = {"linear.weight": 1}

    def __init__(self, channels: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.ways = channels * POOLED
        self.bias = nn.Parameter(torch.zeros(digits.CLASSES, dtype=dtype))
        self.norm = nn.GroupNorm(GROUPS, channels, dtype=dtype)
        self.linear = empty(nn.Linear, channels * POOLED, digits.CLASSES, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (samples, channels, 8, 8) -> (samples, classes)."""
        features = functional.avg_pool2d(torch.relu(self.norm(x)), 2).flatten(1)
        mine = self.linear.weight.shape[1]
        features = features.narrow(1, self.index * mine, mine)
        return functional.linear(features, self.linear.weight, None if self.index else self.bias)


def digits_cnn_task(workload: DigitsCNN, seed: int) -> Task:
    """The blocks of `workload`, initialised from (seed, block), with the digits."""
    dtype: torch.dtype = getattr(torch, workload.dtype)
    channels, depth = workload.channels, workload.depth
    first = Conv(channels, dtype)
    hidden = [ResidualConv(channels, (8 / depth) ** 0.5, dtype) for _ in range(depth - 2)]
    last = PoolLinear(channels, dtype)
    # As in digits_mlp: branches start as a small part of the trunk, whatever the depth.
    fill(first.conv.weight, 9**-0.5, draws(seed, 0))
    for i, block in enumerate(hidden, start=1):
        fill(block.conv.weight, (2 / (9 * channels)) ** 0.5 / (8 * depth) ** 0.5, draws(seed, i))
    fill(last.linear.weight, 0.1 * (channels * POOLED) ** -0.5, draws(seed, depth - 1))
    return Task([first, *hidden, last], _images(workload.dtype), functional.cross_entropy, seed, workload.batch)


def _convolution(inputs: int, outputs: int, dtype: torch.dtype) -> nn.Conv2d:
    """A convolution with zero biases and no weights yet."""
    layer = empty(nn.Conv2d, inputs, outputs, 3, padding=1, dtype=dtype)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


@lru_cache(maxsize=2)
def _images(dtype: str) -> Data:
    """The digits as images of one channel."""
    x, y, validation_x, validation_y = digits_data(dtype)
    assert validation_x is not None
    return Data(x.view(-1, 1, 8, 8), y, validation_x.view(-1, 1, 8, 8), validation_y)
