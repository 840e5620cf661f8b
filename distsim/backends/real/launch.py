"""Run a job on local processes: start a rank a process, watch them, gather what they give, leave none.

Ranks are forked from a fork server that has imported torch and done nothing else (0.1 s a launch after the first), so that
they inherit nothing of what the calling process has computed. The job travels pickled. Linux only.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from distsim.backends.real import failures
from distsim.backends.real.board import Board
from distsim.backends.real.failures import Killer
from distsim.backends.real.options import RealOptions, check, cores, device_of, gpus
from distsim.backends.real.parcel import main_module, pack
from distsim.backends.real.private import private_folder
from distsim.backends.real.process import Order, board_of, enter
from distsim.backends.real.watch import End, Watch
from distsim.interface import Job, Outcome

_PRELOAD = ["torch", "torch.distributed", "torch.fx.experimental.symbolic_shapes", "distsim.backends.real.rank"]


def launch(job: Job, options: RealOptions, folder: Path) -> Outcome:
    """Run `job` with one process a rank; a log a rank goes to `folder` (`rank0.log`, ...).

    Whatever goes wrong in the run is the outcome's status and message. Raises `BadInput` for what cannot run here at all.
    No process of a rank is left when this returns or raises, nor when the calling process is killed.
    """
    check(options)
    failures.check(job)
    pickled = pack(job)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    size = job.cluster.world_size
    device = device_of(options, size)
    with private_folder() as private:
        orders = [
            Order(r, size, pickled, folder, private, device, options.threads, options.deterministic) for r in range(size)
        ]
        board = Board(board_of(private), size)
        processes: list[ForkServerProcess] = []
        reports: list[Connection] = []
        try:
            with main_module(pickled):
                for order in orders:
                    process, connection = _start(order)
                    processes.append(process)
                    reports.append(connection)
            killer = Killer(job, processes, board)
            end = Watch(processes, reports, board, options, [order.log for order in orders], private, killer).run()
        finally:
            _end(processes, reports)
            board.close()
        outcome = _gather(end, orders, [*_notes(options, device, size), *killer.killed])
        outcome.losses = killer.losses()
        if outcome.status == "done":
            outcome.notes += job.failure.after(outcome.seconds)
        return outcome


def _start(order: Order) -> tuple[ForkServerProcess, Connection]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=enter, args=(order, theirs), name=f"distsim rank {order.rank}", daemon=True)
    with theirs, _one_thread():
        process.start()
    return process, ours


def _end(processes: list[ForkServerProcess], reports: list[Connection]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
        process.close()
    for connection in reports:
        connection.close()


def _gather(end: End, orders: list[Order], notes: list[str]) -> Outcome:
    outcome = Outcome(end.status, end.message, 0.0, notes=notes)
    if end.status == "done":
        import torch

        for order in orders:
            trace, snapshots, weights = torch.load(order.results, weights_only=False)  # written by our own rank just now
            outcome.traces.append(trace)
            outcome.snapshots += snapshots
            outcome.weights.append(weights)
        updates = [update.time for trace in outcome.traces for update in trace.updates]
        outcome.seconds = max(updates or [trace.ended for trace in outcome.traces])
    for order in orders:
        order.results.unlink(missing_ok=True)
    return outcome


def _notes(options: RealOptions, device: str, size: int) -> list[str]:
    notes = []
    available = cores()
    if size * options.threads > available:
        threads = f" of {options.threads} threads" if options.threads > 1 else ""
        notes.append(f"contended: {size} ranks{threads} share {available} cores, so times hold for this machine only")
    if device == "cuda":
        found = gpus()
        shared = f"contended: {size} ranks on {found} GPUs, collectives through host memory" if found < size else ""
        notes += [note for note in (shared, "messages travel through host memory") if note]
    return notes


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
