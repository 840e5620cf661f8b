"""Being told to stop. Once: what runs is cut short, its row says how far it came, and the command ends. Twice: killed.

SIGINT (Ctrl-C) and SIGTERM (kill, a batch system's time limit) are the same but for the exit code, 130 and 143. The first
is raised as KeyboardInterrupt in the main thread, but not in what must be done as a whole. The same once more has its
default effect: the process dies, and with it, by the kernel, every process of its runs. One of each is once: torchrun sends
SIGTERM after the terminal has sent SIGINT. Two at a time are once, too: `timeout` signals its command and then their group.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_STOPS = (signal.SIGINT, signal.SIGTERM)
_AT_A_TIME = 0.05  # seconds


class _State:
    received: int | None = None
    seen: frozenset[int] = frozenset()
    depth = 0
    is_held = False
    is_due = False
    is_heeded = False


_state = _State()


@contextmanager
def heeded() -> Iterator[None]:
    """Take these signals as said above, in the main thread; one that is ignored stays so (as by nohup)."""
    if not _is_main():
        yield
        return
    before = {number: signal.getsignal(number) for number in _STOPS}
    _state.received, _state.seen = None, frozenset()
    _state.depth, _state.is_held, _state.is_due, _state.is_heeded = 0, False, False, True
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        yield
    finally:
        _state.is_heeded = False
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def delayed() -> Iterator[None]:
    """What is done inside is not interrupted, nor by a handler of the caller's; a signal that came meanwhile is raised at
    its end, if it is not held."""
    if not _is_main():  # in other threads Python raises nothing
        yield
        return
    theirs: dict[int, Any] = {}
    came: list[int] = []
    if not (_state.is_heeded or _state.depth):
        theirs = {number: handler for number in _STOPS if callable(handler := signal.getsignal(number))}
    _state.depth += 1
    try:
        for number in theirs:
            signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        _state.depth -= 1
        for number, handler in theirs.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)
        if _state.is_due and not (_state.depth or _state.is_held):
            _state.is_due = False
            raise KeyboardInterrupt


@contextmanager
def whole() -> Iterator[None]:
    """The same, and a signal that was held is raised at its end, too."""
    with delayed():
        try:
            yield
        finally:
            _state.is_held = False


def hold() -> None:
    """What runs has ended well, and is stored as a whole next: until then a signal waits."""
    _state.is_held = _state.is_heeded and _is_main()


def interrupt() -> None:
    """Raise KeyboardInterrupt, but not before what is done as a whole is over."""
    if _state.depth or _state.is_held:
        _state.is_due = True
    else:
        raise KeyboardInterrupt


def check() -> None:
    """Raise KeyboardInterrupt if one has come: a library that was being imported then may have swallowed it."""
    if _state.is_heeded and _state.received:
        interrupt()


def came() -> bool:
    """Whether one has come."""
    return _state.received is not None


def exit_code() -> int:
    """Of a command that was interrupted, which ends with it, whatever the KeyboardInterrupt has passed through."""
    import ctypes

    # Where an extension's C code was evaluating Python's, CPython would end by SIGINT, unless more is evaluated since.
    ctypes.pythonapi.PyRun_SimpleString(b"")
    return 128 + (_state.received or signal.SIGINT)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


def _stop(number: int, frame: FrameType | None) -> None:
    if number in _state.seen:  # at the same time as the one before
        return
    is_first = not _state.seen
    _state.seen |= {number}
    _state.received = _state.received or number
    time.sleep(_AT_A_TIME)  # not ignored meanwhile: CPython complains of a signal whose handler goes before it is called
    signal.signal(number, signal.SIG_DFL)  # once more kills
    if is_first:
        with suppress(OSError):  # who read it may have ended by the same Ctrl-C
            os.write(2, b"\nstopping, and writing down what is known; once more kills at once\n")
        interrupt()


def _in_child() -> None:
    """A process that others' code forks off, such as a pool's worker, ends by a SIGTERM as it always did."""
    for number in _STOPS:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_in_child)
