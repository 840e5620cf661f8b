"""The compute queue of a rank: one operation at a time, in call order.

An operation reads its values when it starts on the queue; its result is there when its modeled time is over. A straggler's
factor f >= 1 adds an idle wait of (f - 1) x the uncontended time, which uses no core, as in a real run; a factor below 1
makes the work itself shorter. Its delay is an idle wait after the first piece. A straggler that burns works instead of
idling.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from distsim.backends.simulated.engine import ENDS, Engine, Operation

Action = Callable[[Callable[[], bool]], Any]
Preemption = Literal["instant", "block"]


def _nothing() -> None:
    pass


@dataclass(eq=False, slots=True)
class _Job:
    pieces: list[float]
    factor: float
    action: Action
    unless: Operation[Any] | None
    operation: Operation[Any]
    delay: float
    stop: Callable[[], None] = _nothing
    """Takes the piece under way off the cores."""
    is_started: bool = False
    next: int = 0
    """Which piece comes next."""
    result: Any = None


class Stream:
    """One rank's compute queue; `work` does a piece of uncontended work, calls back, and can be stopped.

    `at_start` is asked for the factor of an operation once more when it starts, where it depends on the clock. `burns`:
    what a straggler adds is work, too.
    """

    def __init__(
        self,
        engine: Engine,
        rank: int,
        work: Callable[[float, Callable[[], None]], Callable[[], None]],
        at_start: Callable[[float], float] | None = None,
        burns: bool = False,
    ) -> None:
        self._engine = engine
        self._rank = rank
        self._work = work
        self._at_start = at_start
        self._burns = burns
        self._starting = False
        self._queue: deque[_Job] = deque()

    def submit(
        self, pieces: list[float], factor: float, action: Action, unless: Operation[Any] | None, delay: float = 0.0
    ) -> Operation[Any]:
        """Queue an operation of these pieces of seconds; between pieces it can be cancelled, within one only instantly."""
        job = _Job(pieces, factor, action, unless, self._engine.operation(), delay)
        self._queue.append(job)
        if len(self._queue) == 1:
            self._start(job)
        return job.operation

    def drop(self) -> None:
        """End all that is on the queue; nobody hears of it."""
        for job in self._queue:
            job.stop()
            job.operation._value = None  # over, without an event
        self._queue.clear()

    def _start(self, job: _Job) -> None:
        job.is_started = True
        if self._at_start is not None:
            job.factor = self._at_start(job.factor)
        job.operation.begin()
        unless = job.unless
        if unless is not None and unless.over():
            self._end(job, None)
            return
        try:
            job.result = job.action(_never)
        except ENDS:
            self._queue.popleft()
            raise
        if unless is not None and len(job.pieces) == 1:
            self._engine.when(unless, lambda: self._end(job, None))
        self._go_on(job)

    def _go_on(self, job: _Job) -> None:
        """Do its next piece."""
        if job.next == len(job.pieces):
            self._end(job, job.result)
        elif job.unless is not None and job.unless.over():
            self._end(job, None)
        elif not job.operation.over():
            seconds, factor = job.pieces[job.next], job.factor
            idle = max(0.0, factor - 1.0) * seconds + (0.0 if job.next else job.delay)
            job.next += 1
            if seconds:
                job.stop = self._work(seconds * min(factor, 1.0), partial(self._idle, job, idle))
            else:
                self._idle(job, idle)

    def _idle(self, job: _Job, seconds: float) -> None:
        """A piece is done but for what a straggler waits."""
        if not seconds:
            self._go_on(job)
        elif self._burns:
            job.stop = self._work(seconds, partial(self._go_on, job))
        else:
            self._engine.after(seconds, partial(self._go_on, job))

    def _end(self, job: _Job, result: Any) -> None:
        if job.operation.over():
            return  # it was cancelled, or it ended before its cancellation
        job.stop()
        job.stop, job.result = _nothing, None  # the first may refer to the job: a cycle, which would keep tensors
        job.operation.finish(result)
        self._queue.popleft()
        if self._queue and not self._starting:
            self._start_waiting()

    def _start_waiting(self) -> None:
        """Start what has waited, and what follows if that takes no time; nobody is there to catch what it raises."""
        self._starting = True
        try:
            while self._queue and not self._queue[0].is_started:
                self._start(self._queue[0])
        except ENDS as error:
            self._engine.failure = self._rank, error
            raise
        finally:
            self._starting = False


def _never() -> bool:
    return False
