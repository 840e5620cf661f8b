"""A strategy in which one rank kills itself before an update, once."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from distsim import durable
from distsim.interface import Model, OnLoss, Problem, Strategy, Worker
from distsim.strategies.parameter_server import AsyncPS


@dataclass(frozen=True)
class Mortal(Strategy):
    """`inner`, but `victim` dies before update `at`, after it has saved, unless it has left a mark in `folder` that it did,
    with what it had open and locked; a victim that makes no updates dies with its gradient number `at`."""

    inner: Strategy
    folder: str
    victim: int
    at: int

    @property
    def hears_on(self) -> str | None:  # type: ignore[override]
        return self.inner.hears_on

    async def run(self, worker: Worker[Any]) -> None:
        mark = Path(self.folder) / f"died-{self.victim}-{self.at}"
        state = worker._state
        arrive, backward = state.progress.arrive, state.numerics.backward_of_loss
        count = 0

        def die(now: int) -> None:
            if now == self.at and not mark.exists():
                held = "".join(info.read_text() for info in Path("/proc/self/fdinfo").iterdir() if info.exists())
                mark.write_text(held)
                os.kill(os.getpid(), signal.SIGKILL)

        def arriving(update: int) -> bool:
            goes_on = arrive is None or arrive(update)
            die(update)
            return goes_on

        def losing(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            die(count)
            return backward(*arguments)

        if worker.rank == self.victim:
            is_maker = not self.inner.server_count(worker.workers) or worker.rank >= worker.workers
            if is_maker:
                state.progress.arrive = arriving
            else:
                state.numerics.backward_of_loss = losing
        await self.inner.run(worker)

    def server_count(self, workers: int) -> int:
        return self.inner.server_count(workers)

    def gradients_an_update(self, workers: int) -> int:
        return self.inner.gradients_an_update(workers)

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        return self.inner.problems(workers, model)

    def on_loss(self, workers: int) -> tuple[OnLoss, ...]:
        return self.inner.on_loss(workers)

    def can_resume(self, step: int) -> bool:
        return self.inner.can_resume(step)


@dataclass(frozen=True, kw_only=True)
class Obstructed(AsyncPS):
    """There is a folder where worker 0 would save its state."""

    place: str

    async def run(self, worker: Worker[Any]) -> None:
        if worker.rank == 0:
            Path(self.place).mkdir(parents=True)
        await super().run(worker)


@dataclass(frozen=True, kw_only=True)
class SlowDisk(AsyncPS):
    """What worker 0 saves takes so many seconds for every 64 bytes, asleep, as on a disk behind a network."""

    seconds: float

    async def run(self, worker: Worker[Any]) -> None:
        if worker.rank == 0:
            slow = {**vars(os), "fsync": lambda descriptor: time.sleep(self.seconds)}
            vars(durable).update(_PIECE=64, os=SimpleNamespace(**slow))
        await super().run(worker)


@dataclass(frozen=True, kw_only=True)
class FullDisk(AsyncPS):
    """Worker 0 finds no room for what it saves."""

    async def run(self, worker: Worker[Any]) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        if worker.rank == 0:
            vars(durable).update(os=SimpleNamespace(**{**vars(os), "fsync": full}))
        await super().run(worker)
