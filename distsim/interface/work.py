"""Work: an operation that has already started.

A Worker method is a plain `def` that starts its operation and returns `Work`; `await` waits for the result, and a second
`await` gives the same result at once. (An `async def` would start only when awaited, and overlap would be lost without a
word.) Work that is never awaited is an error in every backend; a receive left unmatched at the end counts as such.

Waiting is measured here, once, for all backends: when a Work is over, its record goes to the rank's trace.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from distsim.interface.fabric import Handle
from distsim.interface.flow import STARTING

if TYPE_CHECKING:
    from distsim.interface.rank import Rank

R = TypeVar("R")

_HERE = str(PurePath(__file__).parent)
_BETWEEN = 4
"""A Work's own constructor, the Rank's method, the Worker's: the strategy's line is at least so many calls away."""


class Work(Generic[R]):
    """An operation under way. Only a Rank makes one, of the kinds in operations: they say what is recorded of it."""

    __slots__ = ("_code", "_instruction", "_rank", "_result", "_state", "handle")

    def __init__(self, rank: Rank[Any], handle: Handle[Any]) -> None:
        self.handle = handle
        self._rank = rank
        self._state = "started"
        frame = sys._getframe(_BETWEEN)
        while _is_ours(frame.f_code.co_filename) and frame.f_back is not None:
            frame = frame.f_back
        self._code, self._instruction = frame.f_code, frame.f_lasti  # the line is only asked for where something is wrong
        rank.open_work[self] = None

    def __await__(self) -> Generator[Any, Any, R]:
        if self._state != "over":
            if STARTING.flag:  # the first wait of a flow: hand back, and wait when the flow is awaited
                STARTING.flag = False
                yield
            self._state, rank = "awaited", self._rank
            awaited = rank.now()
            value = yield from self.handle.__await__()
            if rank.has_tasks:
                with rank.lock:
                    if self in rank.open_work:  # else a second flow of this rank has awaited it meanwhile
                        self._finish(awaited, value)
                    self._state = "over"
            else:
                self._finish(awaited, value)
        return self._result

    def _finish(self, awaited: float, value: Any) -> None:
        """Record what is over, once."""
        self._result: R = self._end(awaited, value)
        self._state = "over"
        self._rank.open_work.pop(self, None)

    def _end(self, awaited: float, value: Any) -> R:
        """Record what is over; what this Work gives for the handle's `value`."""
        result: R = value
        return result

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
    def name(self) -> str:
        """What it does, for a message."""
        raise NotImplementedError

    @property
    def peers(self) -> tuple[int, ...]:
        """The ranks without which it cannot end, where they are known."""
        return ()

    @property
    def line(self) -> str:
        """Where the strategy started it, as `file.py:12`."""
        lines = [line for start, stop, line in self._code.co_lines() if start <= self._instruction < stop]
        return f"{PurePath(self._code.co_filename).name}:{lines[-1]}"

    def __repr__(self) -> str:
        return f"{self.name} ({self.line})"

    if not TYPE_CHECKING:  # for it, a Work has what it has

        def __getattr__(self, name: str) -> Any:
            """Raises `AttributeError`: whoever asks for what a Work lacks takes it for its result."""
            if name.startswith("_"):
                raise AttributeError(name)
            raise AttributeError(f"{self!r} has no {name}: it is an operation under way, `await` gives its result")


@cache
def _is_ours(file: str) -> bool:
    return file.startswith(_HERE)
