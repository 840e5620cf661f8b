"""Episodes: a worker is slow for a while, then as fast as before. The one part of a straggler that goes by the clock."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field

from distsim.interface.draws import uniform

_PURPOSE = "straggler episodes"


@dataclass(frozen=True)
class Episodes:
    """A worker is slow or not, by turns, and stays so for exponential times (a Markov chain of two states).

    An operation that starts in an episode takes `factor` times as long, whatever the clock says when it ends. The turns of
    a worker are a function of (seed, worker), and begin in the long run: at any time it is in an episode with probability
    `share`. On the real backend the clock is the run's own wall clock.
    """

    share: float = field(default=0.0, metadata={"at_least": 0.0, "at_most": 1.0})
    """Of the time that a worker spends in episodes; 0: there are none."""
    mean_seconds: float = 600.0
    """Mean length of an episode; between two lie `mean_seconds (1 - share) / share` on average."""
    factor: float = field(default=2.0, metadata={"at_least": 1.0, "at_most": 1e6})
    who: tuple[int, ...] = field(default=(), metadata={"at_least": 0})
    """The workers that have episodes; empty: all of them, each at times of its own."""

    @property
    def is_off(self) -> bool:
        """True if nobody is ever slow."""
        return self.share == 0.0 or self.factor == 1.0

    def timeline(self, seed: int, worker: int) -> Timeline | None:
        """When `worker` is slow; None for never."""
        return None if self.is_off or (self.who and worker not in self.who) else Timeline(self, seed, worker)


class Timeline:
    """The turns of one worker, drawn as far as somebody has asked; the answer to one question depends on no other."""

    def __init__(self, episodes: Episodes, seed: int, worker: int) -> None:
        self._key = seed, worker
        self._factor = episodes.factor
        self._begins_slow = uniform(seed, _PURPOSE, worker) < episodes.share
        between = episodes.mean_seconds * (1.0 - episodes.share) / episodes.share
        means = between, episodes.mean_seconds
        self._means = means[self._begins_slow], means[not self._begins_slow]
        self._ends: list[float] = []
        self._until = 0.0

    def factor(self, now: float) -> float:
        """The factor of an operation that starts at `now`, in seconds since the run began."""
        while self._until <= now:
            self._draw()
        return self._factor if self._begins_slow ^ (bisect_right(self._ends, now) & 1) else 1.0

    def _draw(self) -> None:
        """The next turn. What is left of the first is as long as a whole one: exponential times have no memory."""
        seed, worker = self._key
        turn = len(self._ends)
        self._until -= math.log(uniform(seed, _PURPOSE, worker, turn)) * self._means[turn & 1]
        self._ends.append(self._until)
