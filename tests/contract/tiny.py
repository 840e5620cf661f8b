"""The model of the contract tests: blocks that scale four numbers, all calculated by hand.

Block i multiplies by [4i+1, 4i+2, 4i+3, 4i+4]. Every sample is [1, 1, 1, 1] and the loss is the output's sum, so with two
blocks the gradient of one is the weights of the other, whatever the batch: [5, 6, 7, 8] and [1, 2, 3, 4]. The seed changes
nothing. `sleep` makes the forward pass of a block take that many seconds of a real clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from distsim.interface import Block, Curve, Measured, Model, Problem, Roofline

if TYPE_CHECKING:
    from distsim.workloads.task import Task

WIDTH = 4
BLOCK_BYTES = WIDTH * 8

DEVICE = Measured(
    {
        ("forward", "scale"): Curve(((0.0, 1.0),)),
        ("backward", "scale"): Curve(((0.0, 2.0),)),
        ("backward_input", "scale"): Curve(((0.0, 1.0),)),
        ("backward_weights", "scale"): Curve(((0.0, 1.0),)),
        ("loss", "scale"): Curve(((0.0, 0.0),)),
        ("apply", "scale"): Curve(((0.0, 0.25),)),
    },
    fallback=Roofline(1.0, BLOCK_BYTES),
)
"""A forward pass of a block takes 1 s, a backward pass 2 s, an update .25 s; a block's bytes go through `compute` in 1 s.
So the gradient of two blocks takes 6 s."""


@dataclass(frozen=True)
class Tiny:
    """A chain of scalings in float64."""

    name: ClassVar[str] = "tiny"

    batch: int = 4
    depth: int = 2
    sleep: float = 0.0

    def problems(self) -> Iterable[Problem]:
        return ()

    def model(self) -> Model:
        blocks = (Block(i, "scale", WIDTH, WIDTH, WIDTH, 4.0, 4.0 if i else 0.0, 4.0) for i in range(self.depth))
        return Model(tuple(blocks), self.batch, WIDTH, itemsize=8)

    def fingerprint(self) -> str:
        return ""

    def task(self, seed: int) -> Task:
        import torch
        from torch import nn

        from distsim.workloads.task import Data, Task

        class Scale(nn.Module):
            def __init__(self, first: int, sleep: float) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.arange(first, first + WIDTH, dtype=torch.float64))
                self.sleep = sleep

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                time.sleep(self.sleep)
                return x * self.weight

        data = Data(torch.ones(64, WIDTH, dtype=torch.float64), torch.zeros(64))
        blocks = [Scale(WIDTH * i + 1, self.sleep) for i in range(self.depth)]
        return Task(blocks, data, lambda y, target: y.sum(dim=1).mean(), seed, self.batch)
