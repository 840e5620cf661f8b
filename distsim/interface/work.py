"""Work: an operation that has already started.

A Worker method is a plain `def` that starts its operation and returns `Work`; `await` waits for the result, and a second
`await` gives the same result at once. (An `async def` would start only when awaited, and overlap would be lost without a
word.) Work that is never awaited is an error in every backend; a receive left unmatched at the end counts as such.

Waiting is measured here, once, for all backends: when a Work is over, its record goes to the rank's trace.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from pathlib import PurePath
from types import CodeType
from typing import Any, Generic, TypeVar

from distsim.interface.fabric import Handle
from distsim.interface.flow import STARTING

R = TypeVar("R")

_HERE = str(PurePath(__file__).parent)


class Work(Generic[R]):
    """An operation under way. Only the Worker makes one."""

    __slots__ = ("_clock", "_code", "_line", "_open", "_record", "_result", "_state", "_then", "handle", "name", "peers")

    def __init__(
        self,
        handle: Handle[Any],
        name: str,
        open_work: dict[Work[Any], None],
        clock: Callable[[], float],
        record: Callable[[Handle[Any], float, Any], None],
        then: Callable[[Any], R] | None = None,
        peers: tuple[int, ...] = (),
    ) -> None:
        self.handle = handle
        self.name = name
        self.peers = peers
        """The ranks without which it cannot end, where they are known."""
        self._open = open_work
        self._clock = clock
        self._record = record
        self._then = then
        self._state = "started"
        self._code, self._line = _caller()
        open_work[self] = None

    def __await__(self) -> Generator[Any, Any, R]:
        if self._state != "over":
            if STARTING.flag:  # the first wait of a flow: hand back, and wait when the flow is awaited
                STARTING.flag = False
                yield
            self._state = "awaited"
            awaited = self._clock()
            value = yield from self.handle.__await__()
            if self._state != "over":  # a second flow of this rank may have awaited it meanwhile
                self._record(self.handle, awaited, value)
                self._result: R = value if self._then is None else self._then(value)
                self._state = "over"
                self._open.pop(self, None)
        return self._result

    def collect(self) -> bool:
        """True if it is over; then it is recorded, though nobody has waited for it."""
        if self.handle.over():
            try:
                self.__await__().send(None)
            except StopIteration:
                return True
        return False  # of the same instant, and its event still to come

    @property
    def is_awaited(self) -> bool:
        """True once somebody waits or has waited for it."""
        return self._state != "started"

    @property
    def line(self) -> str:
        """Where the strategy started it, as `file.py:12`."""
        return f"{PurePath(self._code.co_filename).name}:{self._line}"

    def __repr__(self) -> str:
        return f"{self.name} ({self.line})"


def _caller() -> tuple[CodeType, int]:
    """The innermost frame outside of this package: the strategy's line."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename.startswith(_HERE) and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code, frame.f_lineno
