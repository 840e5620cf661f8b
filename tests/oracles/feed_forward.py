"""A small network for tensor shards: two blocks that cannot be cut around two-layer blocks that can, with norms.

Every shard of a two-layer block holds the norm and the last bias, so the gradients of these are partial sums. The data are
drawn at random; the description is what torch counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from distsim.interface import Model, Problem
from distsim.workloads.describe import describe
from distsim.workloads.shards import Dealt
from distsim.workloads.task import Data, Task

INPUTS, WIDTH, HIDDEN, CLASSES, SAMPLES = 7, 5, 12, 3, 1000


@dataclass(frozen=True)
class FeedForward:
    """`depth` residual blocks between an embedding and a classifier."""

    name: ClassVar[str] = "feed_forward"

    batch: int = 12
    depth: int = 4
    dtype: str = "float64"

    def problems(self) -> Iterable[Problem]:
        return ()

    def model(self) -> Model:
        return _model(self)

    def fingerprint(self) -> str:
        return ""

    def task(self, seed: int) -> Task:
        dtype = getattr(torch, self.dtype)
        draw = torch.Generator().manual_seed(seed)
        blocks = [nn.Linear(INPUTS, WIDTH), *(TwoLayers() for _ in range(self.depth)), nn.Linear(WIDTH, CLASSES)]
        with torch.no_grad():
            for block in blocks:
                for parameter in block.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * 0.4)
        inputs = torch.randn(SAMPLES, INPUTS, generator=draw, dtype=torch.float64)
        targets = torch.randint(CLASSES, (SAMPLES,), generator=draw)
        data = Data(inputs.to(dtype), targets, inputs[:50].to(dtype), targets[:50])
        return Task([block.to(dtype) for block in blocks], data, functional.cross_entropy, seed, self.batch)


class TwoLayers(Dealt):
    """x + W2 tanh(W1 norm(x) + b1) + b2, the hidden units dealt out."""

    dealt: ClassVar[Mapping[str, int]] = {"up.weight": 0, "up.bias": 0, "down.weight": 1}
    ways = HIDDEN

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.up(self.norm(x)))
        if self.index:
            return functional.linear(y, self.down.weight)
        return x + self.down(y)


@lru_cache
def _model(workload: FeedForward) -> Model:
    task = workload.task(0)
    return describe(task.blocks, task.data.inputs[: workload.batch], workload.batch)
