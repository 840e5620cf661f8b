"""Processor sharing: jobs on one host's cores, all at the same rate.

k jobs together do `cores(k)` seconds of work a second, none more than one. All jobs share one rate, so one virtual time
suffices: V grows by the rate, and a job of work w that joins at V ends at V + w. Joining and leaving are heap operations,
and no other job is touched.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from distsim.backends.simulated.engine import Engine


class Processors:
    """The cores of one host."""

    def __init__(self, engine: Engine, cores: Callable[[float], float]) -> None:
        self._engine = engine
        self._cores = cores
        self._jobs: list[tuple[float, int, Callable[[], None]]] = []
        self._virtual = 0.0
        self._since = 0.0
        self._created = 0
        self._alarm = 0

    def run(self, work: float, done: Callable[[], None]) -> Callable[[], bool]:
        """Do `work` seconds of uncontended work, then call `done`; calling the result stops it, if it is not over, and says
        whether it did."""
        self._advance()
        self._created += 1
        job = (self._virtual + work, self._created, done)
        heapq.heappush(self._jobs, job)
        self._set_alarm()
        return lambda: self._stop(job)

    def _stop(self, job: tuple[float, int, Callable[[], None]]) -> bool:
        if job not in self._jobs:
            return False
        self._advance()
        self._jobs.remove(job)
        heapq.heapify(self._jobs)
        self._set_alarm()
        return True

    def _rate(self) -> float:
        jobs = len(self._jobs)
        return min(1.0, self._cores(jobs) / jobs)

    def _advance(self) -> None:
        now = self._engine.now
        if self._jobs:
            self._virtual += (now - self._since) * self._rate()
        self._since = now

    def _set_alarm(self) -> None:
        self._alarm += 1
        if self._jobs:
            alarm = self._alarm
            delay = max(0.0, (self._jobs[0][0] - self._virtual) / self._rate())
            self._engine.after(delay, lambda: self._ring(alarm))

    def _ring(self, alarm: int) -> None:
        if alarm != self._alarm:
            return  # the jobs have changed since it was set
        self._advance()
        due = self._virtual + self._engine.window
        finished = []
        while self._jobs and self._jobs[0][0] <= due:
            finished.append(heapq.heappop(self._jobs)[2])
        self._set_alarm()
        for done in finished:
            done()
