"""Many runs at once: simulated ones in a pool of processes, real ones alone, one after the other.

A simulated run is a function of its configuration: how many go side by side, and in which order they end, changes nothing
of what is stored. A real run measures this machine, so it waits until the pool is gone.

A process of the pool is forked where the system allows it: it has at once all that was prepared, and starts for nothing. It
ends with its parent, in whatever way that ends. One that dies at a run (killed for its memory, say) costs that run alone,
which becomes a failed row, and another takes its place. An interrupt of the parent is handed on: the runs under way end as
rows of status `interrupted`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

from distsim import execution, signals
from distsim.configuration import checks
from distsim.execution import Prepared, Stopped
from distsim.interface.errors import DistsimError, full_disk
from distsim.results.store import Result

Ended = Callable[[int, Result | str], None]
"""Told of every run when it ends: its number among those given, and its row, or why none could be written."""

_PR_SET_PDEATHSIG = 1
_PATIENCE = 10.0  # seconds that interrupted runs have to store their rows


def run_all(
    prepared: Sequence[Prepared], jobs: int, ended: Ended, run: Callable[[Prepared], Result] = execution.run
) -> None:
    """Run everything, at most `jobs` at once; 1 runs all of them in this process, in the given order. `run` does what is
    run in this process. After a KeyboardInterrupt it raises one as soon as the runs under way have ended, with rows of
    their own."""
    simulated = [number for number, each in enumerate(prepared) if each.resolved.backend != "real"]
    jobs = min(jobs, len(simulated), _fitting([prepared[number] for number in simulated]))
    pooled = set(simulated) if jobs > 1 else set()
    if pooled:
        _side_by_side(prepared, simulated, jobs, ended)
    for number, each in enumerate(prepared):
        if number not in pooled:
            try:
                ended(number, attempt(each, run))
            except Stopped as stop:
                ended(number, stop.result)
                raise


def attempt(prepared: Prepared, run: Callable[[Prepared], Result] = execution.run) -> Result | str:
    """The row of a run, whatever becomes of it; why there is none if it cannot be written."""
    try:
        return run(prepared)
    except Exception as error:
        return _failed(prepared, full_disk(error) or f"{type(error).__name__}: {error}")


def _failed(prepared: Prepared, message: str) -> Result | str:
    try:
        return execution.fail(prepared, message)
    except Exception:  # a full disk, for one, takes no row either
        return message


def _fitting(prepared: Sequence[Prepared]) -> int:
    """How many of these runs fit this machine's memory at once, by the estimate that refuses what does not fit alone."""
    largest = max(
        (checks.needed(r.backend, p.job.cluster.world_size, r.model) for p in prepared if (r := p.resolved)), default=1.0
    )
    return max(1, int(checks.memory() / largest))


def _side_by_side(prepared: Sequence[Prepared], numbers: Sequence[int], jobs: int, ended: Ended) -> None:
    left = deque(numbers)
    pool: list[_Process] = []
    try:
        pool += [_Process(prepared) for _ in range(jobs)]
        for process in pool:
            process.begin(left.popleft())
        while busy := {process.connection: process for process in pool if process.run is not None}:
            for connection in wait(list(busy)):
                process = busy[connection]
                number, outcome = process.end()
                if process.exitcode is not None:
                    how = f"signal {-process.exitcode}" if process.exitcode < 0 else f"exit code {process.exitcode}"
                    outcome = _failed(prepared[number], f"the process that ran it ended with {how}")
                    pool.remove(process)
                    if left:
                        process = _Process(prepared)
                        pool.append(process)
                if left:
                    process.begin(left.popleft())
                ended(number, outcome)
    except KeyboardInterrupt:
        _interrupt(pool, ended)
        raise
    finally:
        for process in pool:
            process.kill()


def _interrupt(pool: Sequence[_Process], ended: Ended) -> None:
    """Let every run under way end with a row."""
    for process in pool:
        process.interrupt()
    until = time.monotonic() + _PATIENCE
    while busy := {process.connection: process for process in pool if process.run is not None}:
        ready = wait(list(busy), max(0.0, until - time.monotonic()))
        for connection in ready:
            number, outcome = busy[connection].end()
            if isinstance(outcome, Result):
                ended(number, outcome)
        if not ready:
            return


class _Process:
    """A process that runs one run after the other. `run` is the number of the one that it is at."""

    def __init__(self, prepared: Sequence[Prepared]) -> None:
        context: Any = get_context("fork" if sys.platform == "linux" else "spawn")
        self.connection, theirs = context.Pipe()
        self.run: int | None = None
        self.exitcode: int | None = None
        self._process = context.Process(target=_serve, args=(prepared, theirs, os.getpid()))
        with warnings.catch_warnings():  # Python 3.12 warns of threads; those that torch and numpy start wait for work
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        theirs.close()
        try:
            self.connection.recv()
        except EOFError:
            self.kill()
            raise DistsimError("a process for runs does not start; with jobs=1 they run in this one") from None

    def begin(self, number: int) -> None:
        """Start a run."""
        self.run = number
        with contextlib.suppress(OSError):  # it is gone: `end` finds that out
            self.connection.send(number)

    def end(self) -> tuple[int, Result | str]:
        """What became of its run; `exitcode` is set if the process did not survive it."""
        number, self.run = self.run, None
        assert number is not None
        try:
            return number, self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            self.exitcode = self._process.exitcode
            self.connection.close()
            return number, ""

    def interrupt(self) -> None:
        """Cut its run short, if it is at one."""
        if self.run is not None and self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it, in the middle of a run if it is at one: such a run leaves no row."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(prepared: Sequence[Prepared], orders: Connection, parent: int) -> None:
    """The life of a process of the pool."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel could know
            os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends the pool
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        signal.signal(signal.SIGTERM, _stop)
        orders.send(None)
        while True:
            number = orders.recv()
            try:
                outcome = attempt(prepared[number])
            except Stopped as stop:
                outcome = stop.result
            except KeyboardInterrupt:
                outcome = "interrupted"
            sys.stdout.flush()
            orders.send(outcome)
            signal.signal(signal.SIGTERM, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    """Interrupt the run that this process is at, once."""
    signal.signal(number, signal.SIG_IGN)
    signals.interrupt()
