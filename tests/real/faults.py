"""Ranks that go wrong on purpose: before and in the rendezvous, in an all-reduce, as a server and as its client."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed
from contract.kit import SWITCH, numerics
from contract.tiny import DEVICE, Tiny

from distsim.backends.real import RealOptions, launch
from distsim.interface import Budget, Cluster, Job, Outcome, Strategy, Worker

VICTIM = 1
RANKS = 3


def note_pid(folder: str, rank: int) -> None:
    """Leave this process's id for the test."""
    (Path(folder) / f"pid-{rank}").write_text(str(os.getpid()))


def go_wrong(folder: str, fault: str) -> None:
    """Do it now, after writing down when."""
    (Path(folder) / "fault").write_text(str(time.monotonic()))
    if fault == "raised":
        raise ValueError("the victim's own words")
    if fault == "full":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    os.kill(os.getpid(), signal.SIGKILL if fault == "killed" else signal.SIGSTOP)


@dataclass(frozen=True)
class Numerics:
    """A factory whose victim goes wrong in `at`: here, or when it calls that function of torch.distributed afterwards."""

    inner: Callable[[int], Any]
    folder: str
    fault: str = ""
    at: str = "numerics"

    def __call__(self, rank: int) -> Any:
        note_pid(self.folder, rank)
        if rank == VICTIM and self.fault:
            if self.at == "numerics":
                self.go_wrong()
            setattr(torch.distributed, self.at, self.go_wrong)
        return self.inner(rank)

    def go_wrong(self, *arguments: Any, **named: Any) -> None:
        """In place of what the other ranks are in by now."""
        time.sleep(0.3)
        go_wrong(self.folder, self.fault)


@dataclass(frozen=True)
class Reducing(Strategy):
    """All-reduce without end; the victim goes wrong in one, or instead of one if it raises."""

    folder: str
    fault: str

    async def run(self, worker: Worker[Any]) -> None:
        for step in range(1_000_000):
            if worker.rank == VICTIM and step == 20:
                if self.fault == "raised":
                    time.sleep(0.3)  # the others are in the all-reduce by now
                    go_wrong(self.folder, self.fault)
                threading.Timer(0.3, go_wrong, (self.folder, self.fault)).start()
            if worker.rank == 2 and step == 20:
                time.sleep(60.0)
            await worker.all_reduce(worker.read())


@dataclass(frozen=True)
class Serving(Strategy):
    """The last rank receives from any; the victim goes wrong after its first gradient, the other worker goes on."""

    folder: str
    fault: str

    async def run(self, worker: Worker[Any]) -> None:
        if worker.rank == RANKS - 1:
            while True:
                message = await worker.receive_any("gradient")
                worker.post(None, message.source, "answer")
        while True:
            await worker.send(worker.read(), RANKS - 1, "gradient")
            await worker.receive(RANKS - 1, "answer")
            if worker.rank == VICTIM:
                time.sleep(0.3)
                go_wrong(self.folder, self.fault)
            time.sleep(0.02)


@dataclass(frozen=True)
class Served(Strategy):
    """The server itself goes wrong, inside its receive from any; the workers wait for its answer."""

    folder: str
    fault: str

    async def run(self, worker: Worker[Any]) -> None:
        if worker.rank == RANKS - 1:
            worker.task(self.later())
            await worker.receive_any("gradient")
        await worker.receive(RANKS - 1, "answer")

    async def later(self) -> None:
        """A second flow of the server's."""
        time.sleep(0.3)
        go_wrong(self.folder, self.fault)


@dataclass(frozen=True)
class Endless(Strategy):
    """All-reduce until the end of time."""

    async def run(self, worker: Worker[Any]) -> None:
        while True:
            await worker.all_reduce(worker.read())


def job(strategy: Strategy, folder: Path, ranks: int = RANKS, fault: str = "", at: str = "numerics", **changes: Any) -> Job:
    """A job whose ranks leave their process ids in `folder`."""
    made = Job(
        strategy=strategy,
        model=Tiny().model(),
        cluster=Cluster(ranks, 0, DEVICE, SWITCH),
        budget=Budget(updates=1),
        numerics=Numerics(numerics(True, Tiny(), ranks), str(folder), fault, at),
    )
    return replace(made, **changes)


def run(made: Job, folder: Path, **options: Any) -> Outcome:
    """Launch on the CPU, and leave no process."""
    outcome = launch(made, RealOptions(device="cpu", **options), folder)
    assert living(folder) == []
    return outcome


def living(folder: Path) -> list[int]:
    """Ranks whose process still exists (as more than a zombie)."""
    ranks = []
    for path in sorted(folder.glob("pid-*")):
        try:
            state = Path(f"/proc/{path.read_text()}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            ranks.append(int(path.name.removeprefix("pid-")))
    return ranks
