"""Handles of the real fabric: `await` waits in place and never suspends."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from distsim.backends.real.watching.board import WAITS, Desk
from distsim.interface import DistsimError

R = TypeVar("R")

_OURS = (str(Path(__file__).parents[1]), str(Path(__file__).parents[3] / "interface"))


class PeerLost(DistsimError):
    """The transport lost another rank: never the cause of a failure, always the consequence of one elsewhere."""


def named(name: str, calls: int = 1) -> str:
    """The operation with the line of the strategy that starts it, at least so many calls away, as `name (file.py:12)`."""
    frame = sys._getframe(calls)
    while frame.f_back is not None and _is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{name} ({frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno})"


@cache
def _is_ours(file: str) -> bool:  # a text keeps its hash; that of code is made anew from all its instructions
    return file.startswith(_OURS)


class Ready(Generic[R]):
    """An operation that is over when it is called."""

    __slots__ = ("begun", "ended", "value")

    def __init__(self, value: R, begun: float, ended: float) -> None:
        self.value = value
        self.begun = begun
        self.ended = ended

    def __await__(self) -> Generator[Any, Any, R]:
        return self.value
        yield

    def over(self) -> bool:
        """Always."""
        return True

    def detach(self) -> None:
        """It has ended."""


class Pending(Generic[R]):
    """An operation under way. `finish` waits for it and gives its result; it runs once, on whichever flow comes first."""

    def __init__(
        self, what: str, desk: Desk, finish: Callable[[], R], peers: tuple[int, ...] = (), number: int = -1
    ) -> None:
        self.what = what
        self.peers = peers
        self.number = number
        self.begun = self.ended = desk.now()
        self._desk = desk
        self._finish: Callable[[], R] | None = finish
        self._lock = threading.Lock()
        self.is_over = False
        """True once the result is here."""
        self._watched = False
        self._error: BaseException | None = None
        self._value: R

    def __await__(self) -> Generator[Any, Any, R]:
        if not self.is_over:
            begun = self._desk.enter(WAITS, self.what, self.peers, self.number)
            self.complete()
            self._desk.leave(begun)
        if self._error is not None:
            raise self._error
        return self._value
        yield

    def complete(self) -> None:
        """Wait until the operation is over, whatever came out."""
        with self._lock:
            self.run()

    def run(self) -> None:
        """Wait and keep what comes out; for one caller at a time."""
        if self._finish is None:
            return
        try:
            self._value = self._finish()
        except BaseException as error:
            self._error = error
        self._finish = None  # what it holds (buffers, requests) may go
        self.ended = self.moment()
        self.is_over = True

    def moment(self) -> float:
        """When it has ended, which it has just done."""
        return self._desk.now()

    def over(self) -> bool:
        """As `is_over`, and have a thread wait from the first time on: a receive of gloo that is polled never completes."""
        if not self._watched and not self.is_over:
            self._watched = True
            watching = threading.Thread(target=self.complete, daemon=True)
            watching.start()
            watching.join(2e-4)  # what is here already should be seen at the first look
        return self.is_over

    def detach(self) -> None:
        """Have a thread wait for it, one for each peer."""
        self._watched = True
        with _draining:
            waiting = _drains.get(self.peers)
            if waiting is None:
                waiting = _drains[self.peers] = SimpleQueue()
                threading.Thread(target=_drain, args=(waiting,), daemon=True).start()
        waiting.put(self)


_drains: dict[tuple[int, ...], SimpleQueue[Pending[Any]]] = {}
_draining = threading.Lock()


def _drain(waiting: SimpleQueue[Pending[Any]]) -> None:
    while True:
        waiting.get().complete()
