"""The optimizer's description, and how its rate changes in a run. Its state lives on the rank that applies the update.

The rate of update k is learning_rate x scaling x schedule(k) x whatever the strategy asks of `apply(scale=)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, inf, pi, sqrt
from typing import Literal

Scaling = Literal["none", "linear", "square_root"]


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent as torch.optim.SGD: g += weight_decay w; v = momentum v + g; w -= learning_rate v (with
    `nesterov`, learning_rate (g + momentum v))."""

    learning_rate: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def state_bytes(self, itemsize: int) -> int:
        """Bytes a parameter that it keeps: the velocity, and of half-precision parameters a copy in single precision."""
        return (max(4, itemsize) if self.momentum else 0) + (4 if itemsize < 4 else 0)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay as torch.optim.AdamW. Loshchilov and Hutter, ICLR 2019."""

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01

    def state_bytes(self, itemsize: int) -> int:
        """Bytes a parameter that it keeps: two moments, and of half-precision parameters a copy in single precision."""
        return 2 * max(4, itemsize) + (4 if itemsize < 4 else 0)


Optimizer = SGD | AdamW


@dataclass(frozen=True)
class Schedule:
    """The rate's course over a run: a linear warm-up over `warmup` updates, then `decay` down to the share `final`.

    `cosine` and `linear` end with the last update that the budget counts, so they need one that counts updates or samples.
    Cosine: Loshchilov and Hutter, "SGDR", ICLR 2017; warm-up: Goyal et al., arXiv:1706.02677, section 2.2.
    """

    warmup: int = 0
    decay: Literal["constant", "linear", "cosine"] = "constant"
    final: float = 0.0

    def factor(self, update: int, updates: float) -> float:
        """The share of the full rate at update `update` (from 0) of `updates`."""
        if update < self.warmup:
            return (update + 1) / self.warmup
        if self.decay == "constant" or updates == inf:
            return 1.0
        share = min(1.0, (update - self.warmup) / max(1.0, updates - self.warmup))
        left = 1.0 - share if self.decay == "linear" else (1.0 + cos(pi * share)) / 2.0
        return self.final + (1.0 - self.final) * left


def scaled(scaling: Scaling, gradients: int) -> float:
    """The factor on the rate where an update averages `gradients` workers' gradients.

    Linear: Goyal et al., arXiv:1706.02677, section 2.1; square root: Krizhevsky, arXiv:1404.5997, section 5.
    """
    return {"none": 1.0, "linear": float(gradients), "square_root": sqrt(gradients)}[scaling]
