"""What ranks have recorded so far: each writes it down when it is asked, on a thread, whatever its flows are blocked in.

A rank that cannot (it is dead, stopped, or not up yet) leaves the last update that the board has.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from collections.abc import Sequence
from copy import copy
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from distsim.backends.real.watching.board import Board, Desk
from distsim.interface import Trace

_PATIENCE = 2.0  # seconds for all ranks together


def answer(asked: Connection, desk: Desk, rank: int, private: Path) -> None:
    """Start to save the rank's records whenever its launcher asks."""

    def serve() -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                asked.recv()
                if desk.trace is not None:
                    _save(desk.trace, _path(private, rank))

    threading.Thread(target=serve, daemon=True).start()


def collect(
    processes: Sequence[BaseProcess], connections: Sequence[Connection], board: Board, size: int, private: Path
) -> list[Trace]:
    """The records of all ranks, as far as they can be had of these processes, the first ranks', within 2 s."""
    waiting = {}
    for rank, (process, connection) in enumerate(zip(processes, connections, strict=False)):
        with contextlib.suppress(OSError):
            connection.send("save")
            waiting[rank] = process
    until = time.monotonic() + _PATIENCE
    found: dict[int, Trace] = {}
    while waiting and time.monotonic() < until:
        for rank, process in list(waiting.items()):
            path = _path(private, rank)
            if path.exists():
                found[rank] = pickle.loads(path.read_bytes())  # written by our own rank just now
            if rank in found or not process.is_alive() or board.read(rank).phase in ("start", "numerics"):
                del waiting[rank]
        time.sleep(0.01)
    for rank in range(size):
        update = board.read(rank).update
        found.setdefault(rank, Trace(rank, updates=[update] if update.number else []))
    return [found[rank] for rank in sorted(found)]


def _save(trace: Trace, path: Path) -> None:
    copied = copy(trace)
    for name, value in vars(trace).items():
        if isinstance(value, list):
            setattr(copied, name, list(value))  # at once, while the rank goes on
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(pickle.dumps(copied))
    temporary.replace(path)


def _path(private: Path, rank: int) -> Path:
    return private / f"rank{rank}.partial"
