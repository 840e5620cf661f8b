"""The optimizer's description. Its state lives on the rank that applies the update."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent as torch.optim.SGD: v = momentum v + g; w = w - learning_rate v."""

    learning_rate: float = 0.1
    momentum: float = 0.0
