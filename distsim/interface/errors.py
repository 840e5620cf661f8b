"""What can go wrong, in the words of whoever has to act on it. Every error of distsim derives from `DistsimError`."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass


class DistsimError(Exception):
    """Base of all errors that distsim raises on purpose. `status` is what the run's row says."""

    status = "failed"


class StrategyError(DistsimError):
    """A strategy broke a rule of the interface; the message says which, where, and what to do instead."""


class Deadlock(DistsimError):
    """No rank can go on; the message says who waits for whom, on which line."""

    status = "deadlocked"


class Diverged(DistsimError):
    """A loss or gradient is no longer finite; the message names the step and the rank."""

    status = "diverged"


class RankFailed(DistsimError):
    """A rank died, raised or was stopped; the message names the rank, its phase and its traceback."""


class TimedOut(DistsimError):
    """The run did not end within its wall-clock limit."""

    status = "timed out"


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a configuration: the key, its value, what is allowed, and a suggestion."""

    key: str
    value: object
    allowed: str
    suggestion: str = ""

    def __str__(self) -> str:
        try:
            value = repr(self.value)
        except Exception:  # of a whole number of thousands of digits, or somebody's own object
            value = type(self.value).__name__
        value = value if len(value) <= 60 else value[:57] + "..."
        text = f"{self.key}={value}: {self.allowed}" + (f"; {self.suggestion}" if self.suggestion else "")
        return " ".join(filter(None, map(str.strip, text.splitlines())))  # what others raised may have several lines


class BadInput(DistsimError):
    """The configuration cannot run; holds every problem found, one line each. The command line exits with 2."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


def full_disk(error: BaseException) -> str:
    """What to do about an error that says that the disk is full; empty for any other."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    where = f" ({error.filename})" if error.filename else ""
    return f"the disk is full{where}: make room, then give the same command again; what is finished is kept"


def foreign_await(yielded: object) -> str:
    """The message for a strategy that awaited a foreign object."""
    return (
        f"a strategy may only await its worker's Work; it awaited something that yielded {yielded!r} "
        "(asyncio and other event loops do not run here)"
    )
