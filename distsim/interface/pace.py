"""How slow one rank is: what its fabric asks before a compute operation. Real and simulated fabrics ask the same."""

from __future__ import annotations

from distsim.interface.straggler import Straggler

_KEPT = 4096
"""Steps whose factor is kept: more than any strategy has under way on a rank."""


class Pace:
    """The straggler as one worker meets it; what is drawn for a step is drawn once."""

    def __init__(self, straggler: Straggler, seed: int, worker: int) -> None:
        self._straggler = straggler
        self._key = seed, worker
        self._persistent = straggler.factor(seed, worker, None)
        self._known: dict[int, float] = {}
        self._timeline = straggler.episodes.timeline(seed, worker)
        self.has_episodes = self._timeline is not None

    def take(self, step: int | None) -> tuple[float, float]:
        """The factor of the worker's next operation, but for its episodes, and the seconds that it comes late besides. The
        delay of a step is given to the first who asks, once; without a step, there is none."""
        if step is None:
            return self._persistent, 0.0
        factor = self._known.get(step)
        if factor is not None:
            return factor, 0.0
        if len(self._known) >= _KEPT:
            del self._known[next(iter(self._known))]
        factor = self._known[step] = self._straggler.factor(*self._key, step)
        return factor, self._straggler.delay(*self._key, step)

    def episode(self, now: float) -> float:
        """What an operation that starts at `now` is slower by on account of an episode."""
        return 1.0 if self._timeline is None else self._timeline.factor(now)
