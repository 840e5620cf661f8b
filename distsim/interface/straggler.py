"""Stragglers: how much slower than planned a worker computes at a step. One description drives every fabric.

Every draw is a pure function of (seed, purpose, worker, step), never of a count of operations: the same straggler hits the
same worker at the same step under every strategy and in every mode, so comparisons are paired. The generator is keyed
BLAKE2b in counter mode (standard library, nothing to import), read as 53-bit uniforms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

Jitter = Literal["none", "exponential", "shifted_exponential", "lognormal", "pareto", "bernoulli"]


def uniform(seed: int, purpose: str, *counter: int) -> float:
    """A uniform draw in the open interval (0, 1), the same for the same arguments in every process."""
    digest = blake2b(repr((seed, purpose, counter)).encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "little") >> 11) + 0.5) * 2.0**-53


@dataclass(frozen=True)
class Straggler:
    """Factors on compute time: a persistent one a worker times a jitter drawn for each (worker, step).

    jitter: `none` is 1; `exponential` has mean 1; `shifted_exponential` is 1 + an exponential of mean `scale`; `lognormal`
    has median 1 and the `sigma` of its logarithm; `pareto` is at least 1 with the tail exponent `shape`; `bernoulli` is
    `multiple` with `probability`, else 1. Jitter falls on operations that belong to a batch, the persistent factor
    on every compute operation of its worker. On one shared machine, real or modeled (`network: loopback`), a factor below 1
    counts as 1: a run there can be made to wait, not to compute faster. Independent draws are what papers calculate with;
    real slow workers are mostly persistent (Lin et al., OSDI 2025).
    """

    jitter: Jitter = "none"
    scale: float = 1.0
    sigma: float = 0.2
    shape: float = 2.0
    probability: float = 0.05
    multiple: float = 10.0
    slow: Mapping[int, float] = field(default_factory=dict)
    """Worker -> persistent factor; workers not named have 1."""

    @property
    def is_off(self) -> bool:
        """True if every factor is 1."""
        return self.jitter == "none" and all(factor == 1.0 for factor in self.slow.values())

    def factor(self, seed: int, worker: int, step: int | None) -> float:
        """The factor of `worker` at `step`; without a step, the persistent one."""
        persistent = self.slow.get(worker, 1.0)
        if step is None or self.jitter == "none":
            return persistent
        draw = uniform(seed, "straggler", worker, step)
        if self.jitter == "exponential":
            return persistent * -math.log(draw)
        if self.jitter == "shifted_exponential":
            return persistent * (1.0 - self.scale * math.log(draw))
        if self.jitter == "pareto":
            return persistent * math.pow(draw, -1.0 / self.shape)
        if self.jitter == "bernoulli":
            return persistent * (self.multiple if draw < self.probability else 1.0)
        angle = uniform(seed, "straggler angle", worker, step)
        normal = math.sqrt(-2.0 * math.log(draw)) * math.cos(2.0 * math.pi * angle)
        return persistent * math.exp(self.sigma * normal)
