"""Several operations in a row as one Work: what `Worker.start` gives. Knows no backend.

The coroutine runs to its first wait when it is started and goes on when it is awaited. So its first operation overlaps what
the strategy does meanwhile; what follows that operation does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from distsim.interface.errors import StrategyError, foreign_await

R = TypeVar("R")


class _Starting(threading.local):
    """Whether this thread runs the first part of a flow: then the first wait hands back instead of waiting."""

    flag = False


STARTING = _Starting()


class Flow(Generic[R]):
    """A coroutine that has run to its first wait. Implements `Handle`."""

    def __init__(self, coroutine: Coroutine[Any, Any, R], clock: Callable[[], float]) -> None:
        self._coroutine = coroutine
        self._clock = clock
        self._is_over = self._is_awaited = False
        self._error: BaseException | None = None
        self.begun = self.ended = clock()
        before, STARTING.flag = STARTING.flag, True
        try:
            foreign = coroutine.send(None)
            if STARTING.flag:  # Work would have taken it down
                coroutine.close()
                raise StrategyError(foreign_await(foreign))
        except StopIteration as end:
            self._finish(end.value)
        finally:
            STARTING.flag = before

    def __await__(self) -> Generator[Any, Any, R]:
        if self._error is not None:
            raise self._error
        if self._is_awaited and not self._is_over:
            raise StrategyError("what start gave is awaited by two flows of control at once; let one of them await it")
        self._is_awaited = True
        sent = None
        while not self._is_over:
            try:
                event = self._coroutine.send(sent)
            except StopIteration as end:
                self._finish(end.value)
            except BaseException as error:
                self._error = error
                raise
            else:
                sent = yield event
        return self._value

    def over(self) -> bool:
        """True once the coroutine has returned."""
        return self._is_over

    def detach(self) -> None:
        """A flow goes on only while it is awaited: nothing to do."""

    def _finish(self, value: R) -> None:
        self._is_over, self._value, self.ended = True, value, self._clock()
