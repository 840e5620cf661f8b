"""The simulator's clock and the one kind of event that ranks wait for.

Time is SimPy's. Every delay is checked finite and not negative: SimPy takes NaN, and time then runs backwards. Ties break
by (time, order of creation); nothing iterates over a set.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar, cast

import simpy
from simpy.events import NORMAL, PENDING, Event, EventPriority

from distsim.interface import StrategyError
from distsim.interface.errors import foreign_await

R = TypeVar("R")
ENDS = (Exception, SystemExit)
"""What a strategy may raise: it ends the run, not this process."""
_LAST = EventPriority(NORMAL + 1)
_WINDOW = 1e-12
"""Completions that lie this many seconds apart are one instant."""


class Operation(Event, Generic[R]):
    """A started operation: a SimPy event that a strategy may await, any number of times."""

    def __init__(self, env: simpy.Environment) -> None:
        self.env = env  # as Event does, without the call
        self.callbacks = []
        self.begun = self.ended = math.nan

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
        self.ended = self.env._now
        if self.begun != self.begun:  # NaN: it has not waited in a queue
            self.begun = self.ended
        self._ok, self._value = True, result
        self.env.schedule(self)


class _Call(Event):
    """A callback at a time: less than a Timeout, for nobody waits for it."""

    __slots__ = ("callback",)
    _ok = True

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.callbacks = _CALL


def _call(event: Event) -> None:
    cast("_Call", event).callback()


_CALL: list[Callable[[Event], None]] = [_call]  # SimPy only reads it


class Engine:
    """The clock of one run."""

    def __init__(self) -> None:
        self.env = simpy.Environment()
        self.failure: tuple[int, BaseException] | None = None
        """What ended the run, and on which rank: SimPy raises copies."""
        self._flows: dict[Coroutine[Any, Any, Any], None] = {}  # that have not returned

    @property
    def now(self) -> float:
        """Simulated seconds."""
        return self.env._now  # past SimPy's property: it is asked several times an operation

    @property
    def window(self) -> float:
        """Seconds within which completions are one instant: more than rounding loses, or late in a run none would end."""
        return max(_WINDOW, 4.0 * math.ulp(self.env.now))

    def operation(self) -> Operation[Any]:
        """A new operation on this clock."""
        return Operation(self.env)

    def after(self, delay: float, callback: Callable[[], None]) -> None:
        """Call back `delay` seconds from now."""
        if not 0.0 <= delay < math.inf:
            raise ValueError(f"a delay of {delay} s: delays are finite and not negative")
        self.env.schedule(_Call(callback), delay=delay)

    def at_end_of_instant(self, callback: Callable[[], None]) -> None:
        """Call back after everything that is already due at this instant."""
        self.env.schedule(_Call(callback), _LAST)

    @property
    def is_last(self) -> bool:
        """True if nothing more is due at this instant."""
        return self.env.peek() > self.env.now

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
        self._flows[coroutine] = None
        process = self.env.process(self._watched(rank, coroutine))
        process.callbacks.append(lambda event: done.finish(event.value) if event.ok else None)
        return done

    def _watched(self, rank: int, coroutine: Coroutine[Any, Any, R]) -> Generator[Operation[Any], None, R]:
        """Pass a coroutine's operations on to SimPy; refuse anything else it awaits."""
        send = coroutine.send
        try:
            while True:
                awaited = send(None)
                if not isinstance(awaited, Operation):
                    coroutine.close()
                    raise StrategyError(foreign_await(awaited))
                yield awaited
        except StopIteration as end:
            result: R = end.value
            return result
        except ENDS as error:
            self.failure = rank, error
            raise
        finally:
            self._flows.pop(coroutine, None)

    def close(self) -> None:
        """End the flows of control that a failed run has left where they are; what they raise at that is of no interest."""
        for coroutine in list(self._flows):
            with contextlib.suppress(Exception):
                coroutine.close()
        self._flows.clear()
