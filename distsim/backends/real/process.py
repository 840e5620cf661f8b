"""The outside of a rank's process: it dies with its launcher, logs to its own file, and reports how it ended.

Standard library only, so that the launcher can name `enter` without importing torch. A rank never leaves by itself: once it
has reported (done, or what it raised) it waits to be killed, so that no other rank meets a closed connection first and the
cause of a failure is never in doubt. It is killed by the launcher or, if that dies in whatever way, by the kernel: the
fork server ends with the launcher, and every rank has asked to be killed when the fork server ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from distsim.backends.real.saving.saved import Begin
from distsim.backends.real.watching.board import Desk
from distsim.backends.real.watching.partial import answer
from distsim.interface.errors import full_disk

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Elsewhere:
    """What a rank needs to meet ranks of other launchers."""

    address: str
    """Of the store where all meet."""
    port: int
    prefix: str
    """Of this run's keys in it."""
    machines: tuple[int, ...]
    """Of every rank; those on one machine share a clock."""


@dataclass(frozen=True)
class Order:
    """What a rank is started with."""

    rank: int
    world_size: int
    job: bytes
    """The pickled job."""
    folder: Path
    """Of the run: logs and results."""
    private: Path
    """Of the launch: store, board, ledgers; gone afterwards."""
    device: str
    threads: int
    deterministic: bool
    messages: str
    """How large payloads travel: `gloo`, `shared`, or `auto`, which is shared if that works."""
    interface: str
    """What it listens on."""
    local_rank: int
    """Among the ranks of this host."""
    local_size: int
    begin: Begin
    """Where the ranks begin together."""
    elsewhere: Elsewhere | None = None
    """None if one launcher has all ranks."""

    @property
    def log(self) -> Path:
        """What the rank prints, and its tracebacks."""
        return self.folder / f"rank{self.rank}.log"

    @property
    def results(self) -> Path:
        """What the rank gives back."""
        return self.folder / f"rank{self.rank}.results"


class Report(NamedTuple):
    """How a rank ended. `lost`: it only lost another rank, which is the cause."""

    status: str
    message: str = ""
    traceback: str = ""
    lost: bool = False


def board_of(private: Path) -> Path:
    """Where the board of a launch lies."""
    return private / "board"


def how_messages_travel(private: Path) -> Path:
    """Where rank 0 says it, if it is worth a note of the run."""
    return private / "messages"


def enter(order: Order, reports: Connection) -> None:
    """Run a rank in this process; never returns. It says in `reports` how it ended, and is asked for its records there."""
    _die_with_launcher()
    for number in (signal.SIGINT, signal.SIGTERM):  # the launcher is told, too, and ends the ranks
        signal.signal(number, signal.SIG_IGN)
    reporting = threading.Lock()

    def report(error: BaseException) -> None:
        with reporting, contextlib.suppress(OSError):
            reports.send(_report(error))

    try:
        _log_to(order.log)
    except OSError as error:  # a full disk, or the folder is gone
        report(error)
        _stay()
    desk = Desk(board_of(order.private), order.rank, order.world_size)
    desk.phase("start")
    answer(reports, desk, order.rank, order.private)
    try:
        from distsim.backends.real.rank import run

        run(order, desk, report)
        sys.stdout.flush()
        desk.phase("done")
        reports.send(Report("done"))
    except BaseException as error:
        with contextlib.suppress(OSError):  # the disk is full
            traceback.print_exc()
        report(error)
    _stay()


def _stay() -> NoReturn:
    """Until it is killed."""
    while True:
        signal.pause()


def _report(error: BaseException) -> Report:
    from distsim.backends.real.transport.handle import PeerLost

    if full := full_disk(error):  # where in the code says nothing more
        return Report("failed", full)
    ran_out = type(error).__name__ in ("OutOfMemoryError", "MemoryError")  # torch's by its name: it may not be there yet
    status = "out of memory" if ran_out else getattr(error, "status", "failed")
    text = "".join(traceback.format_exception(error))
    return Report(status, f"{type(error).__name__}: {error}", text, isinstance(error, PeerLost))


def _die_with_launcher() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Every process started by the fork server keeps it alive with this descriptor; then it would outlive the launcher.
    server: Any = multiprocessing.forkserver._forkserver
    if server._forkserver_alive_fd is not None:
        os.close(server._forkserver_alive_fd)
        server._forkserver_alive_fd = None
    launcher = multiprocessing.parent_process()
    if launcher is None:
        return
    if not launcher.is_alive():  # it died before the fork server could know
        os._exit(1)

    def guard() -> None:  # should the fork server live on after all (other processes of the user's hold it)
        wait([launcher.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=guard, daemon=True).start()


def _log_to(path: Path) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)
    faulthandler.enable(file=2, all_threads=True)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
