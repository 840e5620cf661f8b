"""The programs of a comparison side by side: ours as it always runs, the hand-written ones as processes of their own.

Each waits at its gate (overhead_gate.py) until it is given a block of steps; only one runs at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsim.bench.fabric import BenchError
from distsim.bench.overhead_blocks import Block, used
from distsim.bench.overhead_gate import Door, Paced, Program
from distsim.interface import Budget, Cluster, Job, Outcome, Roofline, Strategy, Switch
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.pipeline import GPipe, OneFOneB
from distsim.strategies.zero import Zero

if TYPE_CHECKING:
    from distsim.bench.overhead_reference import Setting

_START = 180.0
"""Seconds within which all ranks of a program must be ready."""
_SLACK = 120.0
"""Seconds within which a block must be over, whatever others do on this machine."""
_FOREVER = 10**9


def strategy(name: str, microbatches: int) -> Strategy:
    """One of ours, as the benchmark runs it."""
    if name == "all_reduce":
        return AllReduce()
    if name == "zero":
        return Zero(stage=3)
    return GPipe(microbatches) if name == "gpipe" else OneFOneB(microbatches)


def job(setting: Setting, given: Strategy, updates: int, snapshots: bool = False) -> Job:
    """A run of one of ours, with a snapshot an update if asked for; what devices and networks it names is all the same."""
    from distsim.numerics.tensors import TensorsFactory

    model, ranks = setting.workload.model(), setting.ranks
    cluster = Cluster(ranks, 0, Roofline(1e9, 1e9, 0.0), Switch(1e9, 0.0))
    numerics = TensorsFactory(setting.workload, ranks, setting.optimizer, setting.seed)
    return Job(
        given,
        model,
        cluster,
        Budget(updates=updates),
        numerics,
        seed=setting.seed,
        samples_between_snapshots=int(snapshots),
    )


class Stage:
    """All programs of a comparison, up and waiting. No process is left when it is closed."""

    def __init__(self, setting: Setting, arm: str, references: Sequence[str]) -> None:
        self._setting = setting
        self._arm = arm
        self._references = references
        self._programs: dict[str, Program] = {}
        self._processes: list[Any] = []
        self._outcome: Outcome | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Stage:
        self._temporary = tempfile.TemporaryDirectory(prefix="distsim-bench-")
        self._folder = Path(self._temporary.name)
        self._door = Door(self._folder / "door")
        self._ours = threading.Thread(target=self._launch, daemon=True)
        try:
            self._ours.start()
            self._admit(self._arm, self._check_ours)  # and the fork server is up
            for name in self._references:
                self._start(name)
            for name in self._references:
                self._admit(name, self._check_references)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def block(self, name: str, steps: int, cores: int) -> Block:
        """Run a block of one program, while the others wait."""
        program = self._programs[name]
        pids = [os.getpid(), *(pid for each in self._programs.values() for pid in each.pids)]
        before = used(pids)
        try:
            passed = program.run(steps, time.monotonic() + _SLACK)
        except BenchError as error:
            self._ours.join(10.0)  # its watch knows more
            self._check_ours()
            raise error
        others = used(pids).others(before, cores)
        seconds = max(each.ended for each in passed) - min(each.begun for each in passed)
        return Block(name, seconds / steps, sum(each.cpu for each in passed) / steps, others)

    def end(self) -> Outcome:
        """Let our program end; what it did."""
        self._programs[self._arm].end()
        self._ours.join(_SLACK)
        self._check_ours()
        if self._outcome is None:
            raise BenchError(f"{self._arm} did not end")
        return self._outcome

    def _admit(self, name: str, check: Callable[[], None]) -> None:
        self._programs[name] = self._door.admit(name, self._setting.ranks, time.monotonic() + _START, check)

    def _launch(self) -> None:
        from distsim.backends.real import RealOptions, launch

        try:
            given = strategy(self._arm, self._setting.microbatches)
            paced = Paced(given, self._folder / "door", self._arm)
            options = RealOptions(device="cpu", hang_seconds=float(_FOREVER))
            self._outcome = launch(job(self._setting, paced, _FOREVER), options, self._folder / "ours")
        except BaseException as error:
            self._error = error

    def _check_ours(self) -> None:
        if self._error is not None:
            raise BenchError(f"{self._arm}: {self._error}") from self._error
        if self._outcome is not None and self._outcome.status != "done":
            raise BenchError(f"{self._arm}: {self._outcome.message}")

    def _start(self, name: str) -> None:
        from distsim.backends.real.parcel import main_module
        from distsim.bench.overhead_reference import enter

        context = multiprocessing.get_context("forkserver")
        with main_module(b""):
            for rank in range(self._setting.ranks):
                store = self._folder / f"{name}.store"
                arguments = (self._setting, name, rank, store, self._folder / "door")
                process = context.Process(target=enter, args=arguments, name=f"{name} {rank}", daemon=True)
                process.start()
                self._processes.append(process)

    def _check_references(self) -> None:
        for process in self._processes:
            if process.exitcode is not None:
                raise BenchError(f"{process.name} ended with {process.exitcode}; what it said is above")

    def _close(self) -> None:
        for program in self._programs.values():
            with suppress(OSError):
                program.end()
        self._door.close()
        for process in self._processes:
            process.join(10.0)
            process.kill()
            process.join()
            process.close()
        self._ours.join(_SLACK)
        self._temporary.cleanup()
