"""Stragglers: how much slower than planned a worker computes at a step. One description drives every fabric.

A straggler is made of parts, each off unless it is asked for. Factors multiply; the delays of a jitter that does not scale
with the work add. Every draw is a pure function of (seed, purpose, worker, step), for episodes of (seed, worker) and the
clock, never of a count of operations: the same straggler hits the same worker at the same step under every strategy and in
every mode, so comparisons are paired.

    part         drawn for              falls on
    slow         nothing: a map         every compute operation of a worker
    stages       nothing: a list        every compute operation of a worker, by its place
    spread       worker                 every compute operation of a worker
    episodes     worker, by the clock   every compute operation that starts in one
    jitter       worker and step        the operations of a batch; as a delay, the first of them
    lengths      worker and step        the operations of a batch
    experts      group and step         the operations of a batch
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Literal

from distsim.interface.draws import normal, uniform
from distsim.interface.episodes import Episodes
from distsim.interface.imbalance import Experts, Lengths, Spread

Jitter = Literal["none", "exponential", "shifted_exponential", "lognormal", "pareto", "bernoulli", "histogram"]


@dataclass(frozen=True)
class Straggler:
    """What makes workers slow.

    jitter: `none` is 1; `exponential` has mean 1; `shifted_exponential` is 1 + an exponential of mean `scale`; `lognormal`
    has median 1 and the `sigma` of its logarithm; `pareto` is at least 1 with the tail exponent `shape`; `bernoulli` is
    `multiple` with `probability`, else 1; `histogram` is a factor of `histogram`, as often as its weight says.

    On one shared machine, real or modeled (`network: loopback`), a factor below 1 counts as 1: a run there can be made to
    wait, not to compute faster. Independent draws are what papers calculate with; real slow workers are mostly persistent
    (Lin et al., OSDI 2025).
    """

    jitter: Jitter = "none"
    scale: float = 1.0
    sigma: float = 0.2
    shape: float = 2.0
    probability: float = 0.05
    multiple: float = 10.0
    slow: Mapping[int, float] = field(default_factory=dict)
    """Worker -> persistent factor; workers not named have 1."""
    histogram: Mapping[float, float] = field(default_factory=dict)
    """Factor -> weight, of steps that somebody has recorded."""
    scales_with_work: bool = True
    """If not, the jitter is a delay: what its factor would add to `work_seconds` of work, however much there is to do. A
    step is delayed once, after the work of the first compute operation of its batch on the worker."""
    work_seconds: float = 0.0
    stages: tuple[float, ...] = ()
    """Persistent factors of the stages of a pipeline: worker w is in stage (w // stage_width) % len(stages)."""
    stage_width: int = field(default=1, metadata={"at_least": 1})
    """Workers side by side that share a stage: those of a tensor-parallel group."""
    spread: Spread = field(default_factory=Spread)
    episodes: Episodes = field(default_factory=Episodes)
    lengths: Lengths = field(default_factory=Lengths)
    experts: Experts = field(default_factory=Experts)
    burn: bool = False
    """What a slow worker takes longer it computes instead of idling: on a shared machine that slows its neighbours."""

    @property
    def is_off(self) -> bool:
        """True if no operation of any worker can have a factor other than 1, or a delay."""
        return (
            self.is_persistent
            and all(factor == 1.0 for factor in (*self.slow.values(), *self.stages))
            and self.spread.is_off
            and self.episodes.is_off
        )

    @property
    def is_persistent(self) -> bool:
        """True if a worker is as slow at one step as at any other, but for its episodes."""
        return self._jitter_is_off and self._work_is_even

    @cached_property
    def _work_is_even(self) -> bool:
        return self.lengths.is_off and self.experts.is_off

    @property
    def _jitter_is_off(self) -> bool:
        if not self.scales_with_work and not self.work_seconds:
            return True
        least = 1.0 if self.scales_with_work else 0.0  # a delay below nothing is none
        return {
            "none": True,
            "shifted_exponential": self.scale == 0.0,
            "lognormal": self.sigma == 0.0,
            "bernoulli": self.probability == 0.0 or least <= self.multiple <= 1.0,
            "histogram": all(least <= factor <= 1.0 for factor, weight in self.histogram.items() if weight),
        }.get(self.jitter, False)

    def factor(self, seed: int, worker: int, step: int | None) -> float:
        """The factor of `worker` at `step`, but for its episodes; without a step, the persistent one."""
        factor = self.slow.get(worker, 1.0)
        if self.stages:
            factor *= self.stages[worker // self.stage_width % len(self.stages)]
        if self.spread.kind != "none":
            factor *= self.spread.draw(seed, worker)
        if step is None:
            return factor
        if self.jitter != "none" and self.scales_with_work:
            factor *= self._jitter(seed, worker, step)
        if self._work_is_even:
            return factor
        return factor * self.lengths.draw(seed, worker, step) * self.experts.draw(seed, worker, step)

    def delay(self, seed: int, worker: int, step: int) -> float:
        """Seconds that `worker` is late at `step`, whatever it computes; 0 if the jitter scales with the work."""
        if self.scales_with_work or self.jitter == "none":
            return 0.0
        return max(0.0, self._jitter(seed, worker, step) - 1.0) * self.work_seconds

    def _jitter(self, seed: int, worker: int, step: int) -> float:
        if self.jitter == "lognormal":
            return math.exp(self.sigma * normal(seed, "straggler", worker, step))
        draw = uniform(seed, "straggler", worker, step)
        if self.jitter == "exponential":
            return -math.log(draw)
        if self.jitter == "shifted_exponential":
            return 1.0 - self.scale * math.log(draw)
        if self.jitter == "pareto":
            return math.pow(draw, -1.0 / self.shape)
        if self.jitter == "bernoulli":
            return self.multiple if draw < self.probability else 1.0
        return self._recorded(draw)

    def _recorded(self, draw: float) -> float:
        """The histogram's factor at a share of its weight."""
        factors, shares = self._cumulated
        return factors[min(bisect_right(shares, draw), len(factors) - 1)]

    @cached_property
    def _cumulated(self) -> tuple[list[float], list[float]]:
        found = sorted((factor, weight) for factor, weight in self.histogram.items() if weight)
        total = math.fsum(weight for _, weight in found)
        return [factor for factor, _ in found], [sofar / total for sofar in accumulate(weight for _, weight in found)]
