"""The simulator's clock and the one kind of event that ranks wait for.

Time is SimPy's. Every delay is checked finite and not negative: SimPy takes NaN, and time then runs backwards. Ties break
by (time, order of creation); nothing iterates over a set.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from heapq import heappop, heappush
from typing import Any, Generic, TypeVar

import simpy
from simpy.core import EmptySchedule
from simpy.events import NORMAL, PENDING, URGENT, Event, EventPriority

from distsim.interface import StrategyError
from distsim.interface.errors import foreign_await

R = TypeVar("R")
ENDS = (Exception, SystemExit)
"""What a strategy may raise: it ends the run, not this process."""
_WINDOW = 1e-12
"""Completions that lie this many seconds apart are one instant."""


class Clock(simpy.Environment):
    """SimPy's environment, which knows that most events are due at once: these come in order, and need no heap."""

    def __init__(self, begin: float) -> None:
        super().__init__(begin)
        self._due = deque[Event]()  # at this instant, after what the heap has for it
        self._last = deque[Event]()  # after those

    def schedule(self, event: Event, priority: EventPriority = NORMAL, delay: float = 0) -> None:
        now = self._now
        when = now + delay
        if when > now or priority < NORMAL:
            heappush(self._queue, (when, priority, next(self._eid), event))
        else:
            self._due.append(event)

    def peek(self) -> float:
        return self._now if self._due or self._last else super().peek()

    def step(self) -> None:
        self.work((None,))

    def work(self, turns: Iterable[object]) -> None:
        """Process an event each turn. Raises `EmptySchedule` where there is none."""
        queue, due, last = self._queue, self._due, self._last
        for _ in turns:
            if queue and queue[0][0] == self._now:
                event = heappop(queue)[3]
            elif due:
                event = due.popleft()
            elif last:
                event = last.popleft()
            elif queue:
                self._now, _, _, event = heappop(queue)
            else:
                raise EmptySchedule
            callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]
            for callback in callbacks:
                callback(event)


class Operation(Event, Generic[R]):
    """A started operation: a SimPy event that a strategy may await, any number of times."""

    env: Clock
    _ok = True
    begun = ended = math.nan

    def __init__(self, env: Clock) -> None:
        self.env = env  # as Event does, without the call
        self.callbacks = []

    def __await__(self) -> Generator[Any, Any, R]:
        if self.callbacks is not None:  # not processed yet
            yield self
        value: R = self._value
        return value

    def over(self) -> bool:
        """True once the result is here."""
        return self._value is not PENDING

    def detach(self) -> None:
        """It ends by itself."""

    def begin(self) -> None:
        """Note that it left its queue."""
        self.begun = self.env._now

    def finish(self, result: R) -> None:
        """The result is here; whoever waits goes on at this instant."""
        if self._value is not PENDING:
            raise RuntimeError(f"{self} is over already")
        env = self.env
        self.ended = now = env._now
        if self.begun != self.begun:  # NaN: it has not waited in a queue
            self.begun = now
        self._value = result
        env._due.append(self)  # as `schedule` does, without the call


class _Call(Event):
    """A callback at a time: less than a Timeout, for nobody waits for it."""

    __slots__ = ("callback",)
    _ok = True

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.callbacks = _CALL


def _call(event: Any) -> None:
    event.callback()


_CALL: list[Callable[[Event], None]] = [_call]  # SimPy only reads it


class Flow(Generic[R]):
    """A coroutine of a rank, which waits for one operation after the other."""

    __slots__ = ("_done", "_engine", "_send", "coroutine", "rank")

    def __init__(self, engine: Engine, rank: int, coroutine: Coroutine[Any, Any, R], done: Operation[R]) -> None:
        self.coroutine = coroutine
        self._send = coroutine.send
        self._engine = engine
        self.rank = rank
        self._done = done

    def cut(self) -> None:
        """End it where it is: what it waits for goes on without it."""
        self.coroutine.close()
        self._send = lambda _: self._engine.operation()
        self._engine.flows.pop(self, None)

    def go_on(self, event: Event | None = None) -> None:
        """Run it until it waits again; it may wait for operations alone."""
        try:
            awaited = self._send(None)
            if not isinstance(awaited, Operation):
                self.coroutine.close()
                raise StrategyError(foreign_await(awaited))
            awaited.callbacks.append(self.go_on)
        except StopIteration as end:
            self._engine.flows.pop(self, None)
            self._done.finish(end.value)
        except ENDS as error:
            self._engine.flows.pop(self, None)
            self._engine.failure = self.rank, error
            raise


def _never() -> bool:
    return False


class Engine:
    """The clock of one run."""

    def __init__(self, begin: float = 0.0) -> None:
        self.env = Clock(begin)
        self.failure: tuple[int, BaseException] | None = None
        """What ended the run, and on which rank."""
        self.flows: dict[Flow[Any], None] = {}
        """Those that have not returned."""
        self.is_held_up = _never
        """Whether something waits for a link to be up again: a network says so, for nothing in the queue does."""

    @property
    def now(self) -> float:
        """Simulated seconds."""
        return self.env._now  # past SimPy's property: it is asked several times an operation

    @property
    def window(self) -> float:
        """Seconds within which completions are one instant: more than rounding loses, or late in a run none would end."""
        return self.window_at(self.env._now)

    @staticmethod
    def window_at(now: float) -> float:
        """The same at another time."""
        return max(_WINDOW, 4.0 * math.ulp(now))

    def operation(self) -> Operation[Any]:
        """A new operation on this clock."""
        return Operation(self.env)

    def after(self, delay: float, callback: Callable[[], None]) -> None:
        """Call back `delay` seconds from now."""
        if not 0.0 <= delay < math.inf:
            raise ValueError(f"a delay of {delay} s: delays are finite and not negative")
        env = self.env
        now = env._now
        when = now + delay
        if when > now:
            heappush(env._queue, (when, NORMAL, next(env._eid), _Call(callback)))
        else:
            env._due.append(_Call(callback))

    def at(self, time: float, callback: Callable[[], None]) -> None:
        """Call back at exactly `time`: now plus what is left of it may be another, by the last bit."""
        if not self.now <= time < math.inf:
            raise ValueError(f"{time} s is not ahead of {self.now} s")
        heappush(self.env._queue, (time, NORMAL, next(self.env._eid), _Call(callback)))

    def at_end_of_instant(self, callback: Callable[[], None]) -> None:
        """Call back after everything that is already due at this instant."""
        self.env._last.append(_Call(callback))

    @property
    def is_last(self) -> bool:
        """True if nothing more is due at this instant."""
        env = self.env
        return not (env._due or env._last) and not (env._queue and env._queue[0][0] == env._now)

    def has_only(self, events: int) -> bool:
        """True if nothing happens any more but these events that are to come."""
        return len(self.env._queue) == events and self.is_last and not self.is_held_up()

    def when(self, event: Event, callback: Callable[[], None]) -> None:
        """Call back when `event` is processed; at once if it has been."""
        if event.callbacks is None:
            callback()
        else:
            event.callbacks.append(lambda event: callback())

    def process(self, rank: int, coroutine: Coroutine[Any, Any, R]) -> Operation[R]:
        """Run a coroutine as a flow of control of `rank`; its operation is over when it returns."""
        done = self.operation()
        done.begin()
        flow = Flow(self, rank, coroutine, done)
        self.flows[flow] = None
        self.env.schedule(_Call(flow.go_on), URGENT)
        return done

    def cut(self, rank: int) -> None:
        """End all flows of control of a rank where they are."""
        for flow in [flow for flow in self.flows if flow.rank == rank]:
            flow.cut()

    def close(self) -> None:
        """End the flows of control that a failed run has left where they are; what they raise at that is of no interest."""
        for flow in list(self.flows):
            with contextlib.suppress(Exception):
                flow.coroutine.close()
        self.flows.clear()
        self.is_held_up = _never
