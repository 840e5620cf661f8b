"""Ranks of other launchers, as the leading launcher sees them: like processes of its own.

A thread reads what their launchers write four times a second, and shows it where the watch looks: reports come on
connections, parts of the board lie on the board, a death closes the sentinel. So every decision about a run is the watch's,
in one place, and the other launchers decide nothing.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from distsim.backends.real.process import Report
from distsim.backends.real.transport import ledger
from distsim.backends.real.watching.board import Board, Raw
from distsim.backends.real.worlds.pulse import SILENT, LauncherLost

if TYPE_CHECKING:
    from distsim.backends.real.worlds.meeting import Meeting

_LOOK = 0.25  # seconds
_STACK = 1.5  # seconds until a stack that was asked for has come


class Seen(NamedTuple):
    """What a launcher says about its rank."""

    exitcode: int | None
    state: str
    """Of the process, as /proc says it."""
    ticks: int
    """Of CPU that it has used."""
    reports: list[Report]
    part: Raw
    """Of the board."""
    now: float
    """Its clock when it said so."""
    log: str
    """The end of it, if something is wrong."""
    ledgers: dict[str, dict[int, bytes]]
    """If nothing goes on."""


class Mirror:
    """A process of another launcher."""

    def __init__(self, meeting: Meeting, run: str, rank: int) -> None:
        self.rank = rank
        self.exitcode: int | None = None
        self.pid: int | None = None
        self.state = ("S", 0)
        """Of the process, and the CPU that it has used."""
        self.is_interrupted = False
        """Its launcher was told to stop."""
        self.reports, self._say = Pipe(duplex=False)
        self._gone, self._closes = os.pipe()
        self.sentinel = self._gone
        self._said = 0
        self._meeting = meeting
        self._run = run

    def kill(self) -> None:
        """Have its launcher kill it."""
        self._meeting.put(f"{self._run}/kill/{self.rank}", True)

    def show_stack(self) -> None:
        """Have it write where it is to its log, the end of which then comes here."""
        self._meeting.put(f"{self._run}/stack/{self.rank}", True)
        time.sleep(_STACK)

    def update(self, seen: Seen) -> None:
        """Show what its launcher says."""
        self.state = (seen.state, seen.ticks)
        for report in seen.reports[self._said :]:
            self._say.send(report)
        self._said = len(seen.reports)
        if seen.exitcode is not None and self.exitcode is None:
            self.exitcode = seen.exitcode
            os.close(self._closes)

    def lose(self, why: str) -> None:
        """Its launcher is gone, and it with it."""
        self._say.send(Report("failed", why))

    def close(self) -> None:
        """Forget it."""
        self._say.close()
        self.reports.close()
        os.close(self._gone)
        if self.exitcode is None:
            os.close(self._closes)


class Mirrors:
    """The ranks of all other launchers, kept up to date while it is entered; then their launchers end the run. Nobody if
    there is no meeting."""

    def __init__(self, meeting: Meeting | None, run: str, board: Board, private: Path, logs: Sequence[Path]) -> None:
        self.processes = [Mirror(meeting, run, rank) for rank in range(1, meeting.world.size)] if meeting else []
        self.reports = [mirror.reports for mirror in self.processes]
        self.said = "interrupted"
        """How the run ended, for the other launchers."""
        self._run = run
        self._board = board
        self._private = private
        self._logs = logs
        self._ends = threading.Event()
        self._meeting = meeting

    def __enter__(self) -> Self:
        if self._meeting is not None:
            self._thread = threading.Thread(target=self._follow, args=(self._meeting,), name="distsim mirrors", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._meeting is None:
            return
        self._ends.set()
        self._thread.join()
        with contextlib.suppress(LauncherLost):
            self._meeting.put(f"{self._run}/end", self.said)
        for mirror in self.processes:
            mirror.close()

    def _follow(self, meeting: Meeting) -> None:
        living = list(self.processes)
        with contextlib.suppress(OSError):
            while living and not self._ends.wait(_LOOK):
                try:
                    living = [mirror for mirror in living if self._is_there(meeting, mirror)]
                except LauncherLost as error:
                    for mirror in living:
                        mirror.lose(str(error))
                    return

    def _is_there(self, meeting: Meeting, mirror: Mirror) -> bool:
        """Bring it up to date; False once its launcher is gone."""
        if meeting.has(key := f"{self._run}/seen/{mirror.rank}"):
            seen: Seen = meeting.get(key)[0]
            self._board.put(mirror.rank, seen.part, self._shift(meeting, mirror.rank, seen))
            ledger.merge(self._private, seen.ledgers)
            if seen.log:
                self._logs[mirror.rank].write_text(seen.log)
            mirror.update(seen)
        if meeting.has(f"interrupt/{mirror.rank}"):
            mirror.is_interrupted = True
            return False
        host = meeting.hellos[mirror.rank].host
        if meeting.has(key := f"failed/{mirror.rank}"):
            mirror.lose(f"its launcher on {host} failed: {meeting.get(key)[0]}")
            return False
        if meeting.pulse.is_silent(mirror.rank):
            mirror.lose(f"its launcher on {host} was not heard of for {SILENT:g} s: killed, stopped, or cut off")
            return False
        return True

    def _shift(self, meeting: Meeting, rank: int, seen: Seen) -> float:
        """Seconds by which the clock of a rank's machine is behind ours: exact once the run has one origin."""
        hellos = meeting.hellos
        if hellos[rank].machine == hellos[0].machine:
            return 0.0
        self._board.put(rank, seen.part, 0.0)
        ours, theirs = self._board.read(0), self._board.read(rank)
        if not {ours.phase, theirs.phase} <= {"run", "end", "done"}:
            return time.monotonic() - seen.now
        return ours.origin - theirs.origin
