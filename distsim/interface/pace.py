"""How slow one rank is: what its fabric asks before a compute operation. Real and simulated fabrics ask the same."""

from __future__ import annotations

from itertools import islice

from distsim.interface.straggler import Straggler

_KEPT = 4096
"""Steps whose factor is kept, at most; half of them are more than any strategy has under way on a rank."""


class Pace:
    """The straggler as one worker meets it; what is drawn for a step is drawn once."""

    def __init__(self, straggler: Straggler, seed: int, worker: int) -> None:
        self._straggler = straggler
        self._key = seed, worker
        self._persistent = straggler.factor(seed, worker, None), 0.0
        self._is_persistent = straggler.is_persistent
        self._is_delayed = not straggler.scales_with_work
        self._known: dict[int, float] = {}
        self._timeline = straggler.episodes.timeline(seed, worker)
        self.has_episodes = self._timeline is not None

    def take(self, step: int | None) -> tuple[float, float]:
        """The factor of the worker's next operation, but for its episodes, and the seconds that it comes late besides. The
        delay of a step is given to the first who asks, once; without a step, there is none."""
        if step is None or self._is_persistent:
            return self._persistent
        factor = self._known.get(step)
        if factor is not None:
            return factor, 0.0
        if len(self._known) >= _KEPT:
            self._known = dict(islice(self._known.items(), _KEPT // 2, None))
        seed, worker = self._key
        factor = self._known[step] = self._straggler.factor(seed, worker, step)
        return factor, self._straggler.delay(seed, worker, step) if self._is_delayed else 0.0

    def episode(self, now: float) -> float:
        """What an operation that starts at `now` is slower by on account of an episode."""
        return 1.0 if self._timeline is None else self._timeline.factor(now)
