"""The launcher's eye on the ranks: every way in which a run can end badly, and the one message that says so.

| what happened      | seen by                                              | within            | status              |
|--------------------|------------------------------------------------------|-------------------|---------------------|
| a rank raised      | its report                                           | 0.2 s             | the error's, failed |
| a rank died        | its exit code; its last operation is on the board    | 0.2 s             | failed              |
| a rank was stopped | its state in /proc, for 2 s on end                   | 2.5 s             | failed              |
| nothing completes  | the board                                            | the hang limit    | deadlocked          |
| a rank is asleep   | the board, and the CPU that it does not use          | the hang limit    | deadlocked          |
| a rank is not up   | its phase                                            | the start limit   | failed              |
| it takes too long  | the wall clock                                       | the run's limit   | timed out           |

The hang limit is max(hang_seconds, 20 x the slowest operation so far); of a checkpoint each piece of a file (8 MiB) that is
on the disk counts as one. A rank that is in a compute operation and uses CPU, or is slowed down on purpose, is not hung
before 300 s, nor one that saves, with CPU or the disk; nor one with a GPU that uses CPU wherever it is: so its host waits
for it, in whatever needs a value. A rank that only lost its connection to another is never the cause:
the launcher waits 2 s for the cause to show, or 6.5 s where that may be the loss of another launcher. Ranks of other
launchers are watched like its own (mirror.py).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from distsim import signals
from distsim.backends.real.options import RealOptions
from distsim.backends.real.process import Report
from distsim.backends.real.watching.board import COMPUTES, IDLES, RUNS, SAVES, WAITS, Board, Part
from distsim.backends.real.watching.deadlock import describe
from distsim.backends.real.watching.failures import Killer
from distsim.backends.real.worlds.mirror import Mirror

_LOOK = 0.25  # seconds between looks at process states and at the board
_STOPPED = 2.0  # seconds that a rank must be seen stopped: a terminal's Ctrl-Z stops the launcher, too
LOST = 2.0
"""Seconds that the cause of a lost connection is waited for."""
_SETTLE = 0.1  # seconds to collect what fails at the same time
_BUSY = 300.0  # seconds of a single compute operation
_SLOW = 20.0  # times the slowest operation so far
_IDLE = 0.02  # of a core: what the transport's threads use while nothing goes on
_TICKS = os.sysconf("SC_CLK_TCK")


class End(NamedTuple):
    """How a run ended."""

    status: str
    message: str = ""


class Watch:
    """Watches the processes of one launch until they are all done or one thing has gone wrong."""

    def __init__(
        self,
        processes: Sequence[BaseProcess | Mirror],
        reports: Sequence[Connection],
        board: Board,
        options: RealOptions,
        logs: Sequence[Path],
        private: Path,
        killer: Killer,
        patience: float,
        until: float | None,
        device: str,
    ) -> None:
        """`until`: when `options.limit_seconds` are over, which may have begun before; `device`: what ranks compute on."""
        self._processes = processes
        self._connections = {connection: rank for rank, connection in enumerate(reports)}
        self._board = board
        self._options = options
        self._logs = logs
        self._private = private
        self._killer = killer
        self._patience = patience
        self._until = until
        self._works = (COMPUTES, SAVES, RUNS, WAITS) if device == "cuda" else (COMPUTES, SAVES)
        self._reports: dict[int, Report] = {}
        self._dead: dict[int, int] = {}
        self._absent: set[int] = set()  # the run goes on without these; only membership and number are asked
        self._lost_since: float | None = None
        self._stopped_since: dict[int, float] = {}
        self._cpu: dict[int, tuple[int, float]] = {}
        self._began = self._looked = self._quiet_since = time.monotonic()

    def run(self) -> End:
        """Wait for the end of the run. Raises KeyboardInterrupt if this launcher or another was told to stop."""
        while True:
            signals.check()
            if any(isinstance(process, Mirror) and process.is_interrupted for process in self._processes):
                raise KeyboardInterrupt
            self._collect(self._killer.strike(_LOOK))
            if self._failed() is not None:
                self._collect_all(_SETTLE)
                return self._failed() or End("failed")
            if len({*self._reports, *self._absent}) == len(self._processes) and not self._lost_since:
                return End("done")
            end = self._look() if time.monotonic() - self._looked >= _LOOK else None
            if end is not None:
                return end

    @property
    def died(self) -> int | None:
        """The first rank known to have died by itself, if no rank has raised."""
        raised = any(report.status != "done" and not report.lost for report in self._reports.values())
        return None if raised else next((rank for rank in self._dead if rank not in self._absent), None)

    # ---- what the ranks say, and whether they live

    def _collect(self, timeout: float) -> None:
        sentinels = {p.sentinel: r for r, p in enumerate(self._processes) if r not in self._dead}
        for ready in wait([*self._connections, *sentinels], timeout):
            if isinstance(ready, Connection):
                self._receive(ready)
        for sentinel in sentinels:
            rank = sentinels[sentinel]
            code = self._processes[rank].exitcode
            if code is not None:
                self._dead[rank] = code
                if self._killer.forgives(rank):
                    self._absent.add(rank)

    def _collect_all(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._collect(left)

    def _receive(self, connection: Connection) -> None:
        rank = self._connections[connection]
        try:
            report: Report = connection.recv()
        except (EOFError, OSError):
            del self._connections[connection]
            return
        if report.lost and self._lost_since is None:
            self._lost_since = time.monotonic()
        if rank not in self._reports or self._reports[rank].status == "done":
            self._reports[rank] = report

    def _failed(self) -> End | None:
        """The cause, if one is known: what a rank raised, then a rank that died, then a lost connection."""
        for rank, report in self._reports.items():
            if report.status != "done" and not report.lost:
                return End(report.status, self._raised(rank, report))
        for rank, code in self._dead.items():
            if rank in self._absent:
                continue
            return End("failed", self._died(rank, code))
        if self._lost_since is not None and time.monotonic() - self._lost_since > self._patience:
            rank, report = next((r, x) for r, x in self._reports.items() if x.lost)
            return End("failed", self._raised(rank, report))
        return None

    def _raised(self, rank: int, report: Report) -> str:
        part = self._board.read(rank)
        return f"rank {rank} failed {part.doing}: {report.message}\n{report.traceback}".rstrip()

    def _died(self, rank: int, code: int) -> str:
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended by itself with exit code {code}"
        text = f"rank {rank} {how} {self._board.read(rank).doing}; its log is {self._logs[rank]}"
        last = tail(self._logs[rank])
        return f"{text}\n{last}" if last and code != -signal.SIGKILL else text

    # ---- what can only be seen by looking

    def _look(self) -> End | None:
        now = time.monotonic()
        if now - self._looked > 20 * _LOOK:  # this launcher itself was suspended: what it remembers is void
            self._quiet_since = now
            self._stopped_since.clear()
        self._looked = now
        parts = [self._board.read(rank) for rank in range(len(self._processes))]
        for rank in self._absent:
            parts[rank] = parts[rank]._replace(phase="done", flows=[])
        busy = False
        for rank, part in enumerate(parts):
            state, cpu = _state(self._processes[rank])
            if state == "T":
                if now - self._stopped_since.setdefault(rank, now) >= _STOPPED:
                    return End("failed", f"rank {rank} was stopped (SIGSTOP) {part.doing}; its log is {self._logs[rank]}")
            else:
                self._stopped_since.pop(rank, None)
            ticks, since = self._cpu.setdefault(rank, (cpu, now))
            if state in "DR" or cpu - ticks > _IDLE * _TICKS * (now - since):  # at work: on the disk, or with the CPU
                self._cpu[rank] = (cpu, now)
            at_work = now - self._cpu[rank][1] < self._options.hang_seconds
            busy = busy or self._is_busy(part, at_work, now)
        limit = self._options.limit_seconds
        if limit is not None and self._until is not None and now > self._until:
            return End("timed out", f"the run did not end within {limit:g} s:\n{describe(parts, self._private, now)}")
        return None if self._stopped_since else self._hung(parts, busy, now)

    def _is_busy(self, part: Part, at_work: bool, now: float) -> bool:
        if part.phase == "end":
            return at_work and now - part.progressed < _BUSY
        busy = [f for f in part.flows if f.state == IDLES or (f.state in self._works and at_work)]
        return any(now - flow.since < max(_BUSY, _SLOW * part.slowest) for flow in busy)

    def _hung(self, parts: Sequence[Part], busy: bool, now: float) -> End | None:
        late = [rank for rank, part in enumerate(parts) if part.phase in ("start", "numerics", "rendezvous")]
        if late:
            if now - max(self._began, self._quiet_since) <= self._options.start_seconds:
                return None
            text = "; ".join(f"rank {rank} is in its phase {parts[rank].phase!r}" for rank in late)
            return End("failed", f"the ranks did not meet within {self._options.start_seconds:g} s: {text}")
        limit = max(self._options.hang_seconds, _SLOW * max(part.slowest for part in parts))
        for rank, part in enumerate(parts):
            asleep = now - max(self._quiet_since, part.progressed, self._cpu[rank][1])
            if (
                part.phase in ("run", "end")
                and asleep > limit
                and any(flow.state in (RUNS, COMPUTES, SAVES) and now - flow.since > limit for flow in part.flows)
            ):
                text = f"{describe(parts, self._private, now)}{self._stacks([rank])}"
                what = f"hung: nothing completed for {asleep:.1f} s on rank {rank}, which used no CPU"
                return End("deadlocked", f"{what}, {part.doing}:\n{text}")
        quiet = now - max(self._quiet_since, *(part.progressed for part in parts))
        if busy or quiet <= limit:
            return None
        alone = [rank for rank, part in enumerate(parts) if not _waits(part)]
        what = "hung" if alone else "deadlock"
        who = "".join(f", rank {rank} {parts[rank].doing}" for rank in alone[:3])
        text = describe(parts, self._private, now)
        return End("deadlocked", f"{what}: nothing completed for {quiet:.1f} s{who}:\n{text}{self._stacks(alone)}")

    def _stacks(self, ranks: Sequence[int]) -> str:
        """Where these ranks are, from their fault handlers."""
        text = ""
        for rank in ranks:
            _show_stack(self._processes[rank])
            text += f"\nrank {rank}:\n{tail(self._logs[rank])}"
        return text


def _waits(part: Part) -> bool:
    return part.phase == "done" or (part.phase == "run" and all(flow.state == WAITS for flow in part.flows))


def _state(process: BaseProcess | Mirror) -> tuple[str, int]:
    return process.state if isinstance(process, Mirror) else process_state(process.pid or 0)


def _show_stack(process: BaseProcess | Mirror) -> None:
    if isinstance(process, Mirror):
        process.show_stack()
    else:
        os.kill(process.pid or 0, signal.SIGUSR1)
        time.sleep(0.2)


def process_state(pid: int) -> tuple[str, int]:
    """The state letter of a process and the clock ticks it has used; see proc(5)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return fields[0], int(fields[11]) + int(fields[12])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def tail(log: Path) -> str:
    """The last lines of a log."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-30:])
    except OSError:
        return ""
