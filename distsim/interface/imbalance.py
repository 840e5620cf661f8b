"""Why workers that should take equally long do not: the machines differ, or the work does."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from distsim.interface.draws import normal, uniform


@dataclass(frozen=True)
class Spread:
    """A persistent factor of each worker, drawn once by (seed, worker).

    kind: `lognormal` has median 1 and the `sigma` of its logarithm; `share` is `factor` with probability `share`, else 1.
    """

    kind: Literal["none", "lognormal", "share"] = "none"
    sigma: float = field(default=0.1, metadata={"at_least": 0.0, "at_most": 10.0})
    share: float = field(default=0.1, metadata={"at_least": 0.0, "at_most": 1.0})
    factor: float = field(default=2.0, metadata={"above": 0.0, "at_most": 1e6})

    @property
    def is_off(self) -> bool:
        """True if every factor is 1."""
        if self.kind == "lognormal":
            return self.sigma == 0.0
        return self.kind == "none" or self.share == 0.0 or self.factor == 1.0

    def draw(self, seed: int, worker: int) -> float:
        """The factor of `worker`."""
        if self.kind == "lognormal":
            return math.exp(self.sigma * normal(seed, "straggler spread", worker))
        if self.kind == "share":
            return self.factor if uniform(seed, "straggler spread", worker) < self.share else 1.0
        return 1.0


@dataclass(frozen=True)
class Lengths:
    """Work that follows the length of a worker's sequences, drawn for each (worker, step): lognormal around its mean.

    With x, the length over the mean length, the factor is (1 - a) x + a x^2: `attention` is the share a of the work on a
    sequence of mean length that grows with the square of the length. The mean factor is 1 - a + a exp(sigma^2).
    """

    sigma: float = field(default=0.0, metadata={"at_least": 0.0, "at_most": 3.0})
    """Of the logarithm of a length; 0: all are equally long."""
    attention: float = field(default=0.0, metadata={"at_least": 0.0, "at_most": 1.0})

    @property
    def is_off(self) -> bool:
        """True if every factor is 1."""
        return self.sigma == 0.0

    def draw(self, seed: int, worker: int, step: int) -> float:
        """The factor of `worker` at `step`."""
        if self.is_off:
            return 1.0
        x = math.exp(self.sigma * normal(seed, "straggler lengths", worker, step) - 0.5 * self.sigma**2)
        return x * (1.0 - self.attention + self.attention * x)


@dataclass(frozen=True)
class Experts:
    """Experts that are spread over `group` workers, ranks side by side: at each step one of them, drawn by (seed, group,
    step), has the hottest and gets `hottest` times the mean of tokens; the others share what is left.

    `share` is the share of a worker's computing that is its experts'.
    """

    hottest: float = field(default=1.0, metadata={"at_least": 1.0})
    """At most `group`: then all tokens go to one worker. 1: all get the same."""
    group: int = field(default=4, metadata={"at_least": 2})
    share: float = field(default=1.0, metadata={"at_least": 0.0, "at_most": 1.0})

    @property
    def is_off(self) -> bool:
        """True if every factor is 1."""
        return self.hottest == 1.0 or self.share == 0.0

    def draw(self, seed: int, worker: int, step: int) -> float:
        """The factor of `worker` at `step`."""
        if self.is_off:
            return 1.0
        group, place = divmod(worker, self.group)
        hot = int(uniform(seed, "straggler experts", group, step) * self.group)
        load = self.hottest if place == hot else (self.group - self.hottest) / (self.group - 1)
        return 1.0 - self.share + self.share * load
