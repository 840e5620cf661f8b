"""A launcher that follows: it starts its rank, says how it is, and does what the leading one asks. It decides nothing.

What it writes lies in a private folder, for no folder need be shared but that of checkpoints: results and the log travel to
the leading launcher.
"""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from distsim.backends.real.options import RealOptions
from distsim.backends.real.parcel import pack
from distsim.backends.real.private import private_folder
from distsim.backends.real.process import Report, board_of
from distsim.backends.real.saving.tally import Tally, tally_of
from distsim.backends.real.starting import order, started
from distsim.backends.real.transport import ledger
from distsim.backends.real.watching.board import Board
from distsim.backends.real.watching.watch import process_state, tail
from distsim.backends.real.worlds.beginning import hear
from distsim.backends.real.worlds.meeting import Meeting
from distsim.backends.real.worlds.mirror import Seen
from distsim.interface import Job

_LOOK = 0.25  # seconds
_LOG = 1 << 20  # bytes of a log that travel


def follow(meeting: Meeting, job: Job, options: RealOptions, run: str) -> None:
    """Take part in a run until the leading launcher ends it. Raises `LauncherLost` if that is gone.

    No process of the rank is left when this returns or raises, nor when the calling process is killed.
    """
    begin = hear(meeting, run)
    if begin is None:
        return
    pickled = pack(job)
    rank, size = meeting.world.rank, job.cluster.world_size
    with private_folder() as private:
        mine = order(rank, size, pickled, options, private, private, begin, meeting, run)
        board = Board(board_of(private), size)
        Tally(tally_of(private), size, make=True).close()
        try:
            with started([mine]) as (processes, reports):
                status = _Follower(meeting, run, processes[0], reports[0], board, mine.log, private).until_the_end()
        finally:
            board.close()
        if status == "done":
            meeting.send(f"{run}/results/{rank}", mine.results.read_bytes(), 0)
        log = mine.log.read_bytes() if mine.log.exists() else b""
        meeting.send(f"{run}/log/{rank}", log[-_LOG:], 0)


class _Follower:
    """The eye of a following launcher on its rank."""

    def __init__(
        self,
        meeting: Meeting,
        run: str,
        process: ForkServerProcess,
        connection: Connection,
        board: Board,
        log: Path,
        private: Path,
    ) -> None:
        self._meeting = meeting
        self._run = run
        self._rank = meeting.world.rank
        self._process = process
        self._connection: Connection | None = connection
        self._board = board
        self._log = log
        self._private = private
        self._reports: list[Report] = []
        self._completed = -1
        self._shown = False

    def until_the_end(self) -> str:
        """How the leading launcher says that the run ended."""
        said = {name: f"{self._run}/{name}/{self._rank}" for name in ("kill", "stack")}
        while not self._meeting.has(f"{self._run}/end"):
            self._meeting.pulse.check(0)
            self._meeting.put(f"{self._run}/seen/{self._rank}", self._look())
            if self._meeting.has(said["kill"]):
                self._process.kill()
            if not self._shown and self._meeting.has(said["stack"]):
                self._shown = True
                os.kill(self._process.pid or 0, signal.SIGUSR1)
            self._wait()
        return str(self._meeting.get(f"{self._run}/end")[0])

    def _wait(self) -> None:
        watched = [self._connection] if self._connection else []
        if self._process.exitcode is None:
            watched.append(self._process.sentinel)  # type: ignore[arg-type]
        if self._connection not in wait(watched, _LOOK):
            if not watched:
                time.sleep(_LOOK)
            return
        assert self._connection is not None
        try:
            self._reports.append(self._connection.recv())
        except (EOFError, OSError):
            self._connection = None

    def _look(self) -> Seen:
        state, ticks = process_state(self._process.pid or 0)
        completed = self._board.read(self._rank).completed
        still, self._completed = completed == self._completed, completed
        wrong = self._shown or self._process.exitcode is not None
        return Seen(
            exitcode=self._process.exitcode,
            state=state,
            ticks=ticks,
            reports=self._reports,
            part=self._board.raw(self._rank, whole=still or wrong),
            now=time.monotonic(),
            log=tail(self._log) if wrong else "",
            ledgers=ledger.slices(self._private) if still else {},
        )
