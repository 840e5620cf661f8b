"""How one block runs: a chain of wrappers whose base is the worker itself.

A schedule says in which order micro-batches go through blocks and knows nothing of what a block's run takes; a runner
knows nothing of the order. Who communicates inside a block is the runner.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from distsim.interface import Batch, Part, T


class Runner(Protocol[T]):
    """Runs single blocks. A `Worker` is one; others wrap a runner and add what a block needs around it."""

    def forward(self, block: int, x: T, batch: Batch) -> Awaitable[T]:
        """The output of one block."""

    def backward(self, block: int, g: T, batch: Batch, part: Part = "both") -> Awaitable[T]:
        """Accumulate the gradient of one block; the gradient of its input. Parts as `Worker.backward`'s."""
