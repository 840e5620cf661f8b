"""Start ranks' processes and end them.

They are forked from a fork server that has imported torch and done nothing else (0.1 s a launch after the first), so that
they inherit nothing of what the calling process has computed.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterable, Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING

from distsim import signals
from distsim.backends.real.allocator import huge_pages
from distsim.backends.real.options import RealOptions, device_of
from distsim.backends.real.parcel import main_module
from distsim.backends.real.process import Elsewhere, Order, enter
from distsim.backends.real.saving.saved import Begin
from distsim.interface import DistsimError

if TYPE_CHECKING:
    from distsim.backends.real.worlds.meeting import Meeting

_PRELOAD = ["torch", "torch.distributed", "torch.fx.experimental.symbolic_shapes", "distsim.backends.real.rank"]
_NAME = "distsim rank"


def order(
    rank: int,
    size: int,
    job: bytes,
    options: RealOptions,
    folder: Path,
    private: Path,
    begin: Begin,
    meeting: Meeting | None = None,
    run: str = "",
) -> Order:
    """What a rank is started with; of a world, if there is a meeting."""
    here, local_rank, elsewhere = size, rank, None
    messages = options.messages
    if meeting is not None or begin.works_on or size == 1 or (messages == "auto" and device_of(options, size) == "cpu"):
        messages = "gloo"
    if meeting is not None:
        here, local_rank = meeting.world.local_size, meeting.world.local_rank
        elsewhere = Elsewhere(meeting.address, meeting.port, f"{meeting.prefix}/{run}", meeting.machines)
    return Order(
        rank=rank,
        world_size=size,
        job=job,
        folder=folder,
        private=private,
        device=device_of(options, here),
        threads=options.threads,
        deterministic=options.deterministic,
        messages=messages,
        interface=options.interface or "lo",
        local_rank=local_rank,
        local_size=here,
        begin=begin,
        elsewhere=elsewhere,
    )


@contextlib.contextmanager
def started(orders: Iterable[Order]) -> Iterator[tuple[list[ForkServerProcess], list[Connection]]]:
    """The processes of ranks, and where they report; none is left afterwards."""
    processes: list[ForkServerProcess] = []
    reports: list[Connection] = []
    try:
        for order in orders:
            with main_module(order.job):
                _start(order, processes, reports)
        yield processes, reports
    finally:
        with signals.delayed():
            begun = [process for process in processes if process.pid is not None]
            for process in begun:
                process.kill()
            for process in begun:
                process.join()
                process.close()
            for connection in reports:
                connection.close()


def _start(order: Order, processes: list[ForkServerProcess], reports: list[Connection]) -> None:
    """Start a rank, which is among them before it starts: a Ctrl-C meanwhile hides none. If it has no number yet then, it
    ends by itself, without the launch's folder."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    ours, theirs = context.Pipe()
    reports.append(ours)
    process = context.Process(target=enter, args=(order, theirs), name=f"{_NAME} {order.rank}", daemon=True)
    processes.append(process)
    with theirs, _one_thread():
        with _deaf(), _short_enough(), huge_pages():
            forkserver.ensure_running()
        process.start()


@atexit.register  # later than that of multiprocessing, so before it, which waits for them
def _end() -> None:
    """End ranks whose end was cut short."""
    for process in multiprocessing.active_children():
        if process.name.startswith(_NAME):
            process.kill()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """A Ctrl-C or SIGTERM waits for the end of this. What is started here, and all that it starts, never sees those of a
    terminal or a batch system to all, not even while it imports: both are for the launcher."""
    with signals.delayed():  # another thread may take what this one blocks
        resource_tracker.ensure_running()  # with the first process, which would leave them unblocked
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _short_enough() -> Iterator[None]:
    """Multiprocessing puts sockets into a folder of its own in the temporary one; the kernel takes paths of 107 bytes."""
    try:
        yield
    except OSError as error:
        if "too long" not in str(error):
            raise
        why = f"the path of {tempfile.gettempdir()} is too long for the sockets of ranks: set TMPDIR to a shorter one"
        raise DistsimError(why) from None


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let the fork server import numpy without threads: a process with threads must not fork."""
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
