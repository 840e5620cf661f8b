"""Whether other launchers live.

Every launcher has a pulse, a number in the store that a thread of its raises every half second. A launcher whose pulse has
not been seen to move for 5 s is gone: killed, stopped, or its host cut off. Time in which the watching process itself was
suspended does not count.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from distsim.interface import DistsimError

if TYPE_CHECKING:
    from distsim.backends.real.worlds.meeting import Meeting

SILENT = 5.0
"""Seconds without a pulse after which a launcher is gone."""
_BEAT = 0.5


class LauncherLost(DistsimError):
    """Another launcher, or the place where all meet, is gone."""


class Pulse:
    """Raises this launcher's pulse and watches that of others, in a thread."""

    def __init__(self, meeting: Meeting) -> None:
        self._meeting = meeting
        self._key = f"pulse/{meeting.world.rank}"
        self._moved: dict[int, tuple[int, float]] = {}
        self._watched: list[int] = []
        self._lost: LauncherLost | None = None
        self._ends = threading.Event()

    def start(self, watched: Iterable[int]) -> None:
        """Begin; those watched have begun, or will before they are checked."""
        self._watched = list(watched)
        self._meeting.put(self._key, 0)
        self._thread = threading.Thread(target=self._run, name="distsim pulse", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End: a thread that is in the store when Python ends would abort the process."""
        self._ends.set()
        self._thread.join()

    def check(self, rank: int) -> None:
        """Raise `LauncherLost` if the launcher of this rank is gone."""
        if self._lost is not None:
            raise self._lost
        if self.is_silent(rank):
            host = self._meeting.hellos[rank].host if self._meeting.hellos else self._meeting.address
            raise LauncherLost(f"the launcher of rank {rank} on {host} is gone: not heard of for {SILENT:g} s")

    def is_silent(self, rank: int) -> bool:
        """The launcher of this rank is gone."""
        seen = self._moved.get(rank)
        return self._lost is not None or (seen is not None and time.monotonic() - seen[1] > SILENT)

    def _run(self) -> None:
        beats, looked = 0, time.monotonic()
        try:
            while not self._ends.is_set():
                beats += 1
                self._meeting.put(self._key, beats)
                self._look(time.monotonic() - looked > 2.0)
                looked = time.monotonic()
                self._ends.wait(_BEAT)
        except LauncherLost as error:
            self._lost = error

    def _look(self, forgive: bool) -> None:
        there = [rank for rank in self._watched if rank in self._moved or self._meeting.has(f"pulse/{rank}")]
        if not there:
            return
        beats = self._meeting.get(*(f"pulse/{rank}" for rank in there))
        now = time.monotonic()
        for rank, beat in zip(there, beats, strict=True):
            if forgive or rank not in self._moved or self._moved[rank][0] != beat:
                self._moved[rank] = (beat, now)
