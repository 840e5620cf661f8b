"""A workload whose blocks can be cut: y = x + W2 relu(W1 (s x) + b1) + b2, whose s and b2 every tensor shard holds.

Counted by hand for width n and h hidden units: 2 n + 2 n h + h parameters, of which 2 n are replicated. Autograd keeps x,
s x, relu(...) for the gradients of s, W1 and W2: 2 n scalars that every shard keeps, and h that are divided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from distsim.interface import Block, Model
from distsim.workloads.task import Data, Task


class TwoLayers(nn.Module):
    """One block or a shard of it."""

    dealt: ClassVar[dict[str, int]] = {"first": 0, "bias": 0, "second": 1}

    def __init__(self, values: dict[str, Tensor], index: int = 0) -> None:
        super().__init__()
        self.index = index
        for name in ("first", "bias", "scale", "second", "shift"):  # not the order of the flat vector
            setattr(self, name, nn.Parameter(values[name].clone()))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.linear(torch.relu(functional.linear(x * self.scale, self.first, self.bias)), self.second)
        return y if self.index else x + y + self.shift

    def shard(self, index: int, count: int) -> TwoLayers:
        values = {name: value.detach() for name, value in self.named_parameters()}
        dealt = {name: values[name].chunk(count, dim)[index] for name, dim in self.dealt.items()}
        return TwoLayers(values | dealt, index)


def flat(module: TwoLayers) -> Tensor:
    """The flat vector by hand: replicated parameters first, each kind in the module's order."""
    names = ("scale", "shift", "first", "bias", "second")
    return torch.cat([getattr(module, name).detach().reshape(-1) for name in names])


@dataclass(frozen=True)
class Chain:
    """Blocks of two layers in double precision, on random data."""

    name: ClassVar[str] = "chain"

    depth: int = 3
    width: int = 3
    hidden: int = 4
    batch: int = 2

    def model(self) -> Model:
        n, h = self.width, self.hidden
        blocks = (
            Block(
                i,
                "two",
                2 * n + 2 * n * h + h,
                n,
                2 * n + h,
                1.0,
                1.0,
                1.0,
                h,
                2 * n,
                2 * n,
                ((n,), (n,), (h, n), (h,), (n, h)),
            )
            for i in range(self.depth)
        )
        return Model(tuple(blocks), self.batch, n, itemsize=8)

    def task(self, seed: int) -> Task:
        n, h, generator = self.width, self.hidden, torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        shapes = {"first": (h, n), "bias": (h,), "scale": (n,), "second": (n, h), "shift": (n,)}
        blocks = [TwoLayers({name: draw(*shape) for name, shape in shapes.items()}) for _ in range(self.depth)]
        return Task(blocks, Data(draw(40, n), draw(40, n)), functional.mse_loss, seed, self.batch)
