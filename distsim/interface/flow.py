"""Several operations in a row as one Work: what `Worker.start` gives. Knows no backend.

The coroutine runs to its first wait when it is started and goes on when it is awaited. So its first operation overlaps what
the strategy does meanwhile; what follows that operation does not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

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
        self._is_over = False
        self.begun = self.ended = clock()
        before, STARTING.flag = STARTING.flag, True
        try:
            coroutine.send(None)
        except StopIteration as end:
            self._finish(end.value)
        finally:
            STARTING.flag = before

    def __await__(self) -> Generator[Any, Any, R]:
        sent = None
        while not self._is_over:
            try:
                event = self._coroutine.send(sent)
            except StopIteration as end:
                self._finish(end.value)
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
