"""AD-PSGD with a record of what happened in which order on each rank, and one process that replays such a record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from distsim.interface import Batch, Message, Numerics, Optimizer, Outcome, Region, T, Worker
from distsim.interface.numerics import Blocks, Then, nothing
from distsim.numerics.tensors import Tensors, TensorsFactory
from distsim.strategies.ad_psgd import ADPSGD

from .replicas import Replica, replicas


class Noting(Tensors):
    """Notes when a gradient reads the parameters and when an update writes them: both with the rank's lock held."""

    note: Callable[[str], None]
    holding: Batch | None = None

    def hold(self, batch: Batch) -> None:
        self.note("read")
        self.holding = batch
        super().hold(batch)

    def forward(self, blocks: Blocks, x: Tensor, batch: Batch, then: Then = nothing) -> Tensor:
        if blocks[0] == 0 and batch != self.holding:  # else another flow may have averaged since
            self.note("read")
        return super().forward(blocks, x, batch, then)

    def update(self, region: Region, gradient: Tensor | None, optimizer: Optimizer | None, scale: float) -> None:
        self.note("update")
        super().update(region, gradient, optimizer, scale)


@dataclass(frozen=True)
class NotingFactory(TensorsFactory):
    """Rank -> tensors that note into a file of `folder`."""

    folder: str = ""

    def __call__(self, rank: int) -> Numerics[Tensor]:
        made = Noting(self.workload, self.workers, self.optimizer, self.seed, self.device, rank)
        made.note = lambda event: append(self.folder, rank, event)
        return made


@dataclass(frozen=True)
class Noted(ADPSGD):
    """Notes whom a passive worker averages with, with the rank's lock held."""

    folder: str = ""

    def averaged(self, worker: Worker[T], ask: Message[T]) -> T:
        def average(own: T) -> T:
            append(self.folder, worker.rank, f"average {ask.source}")
            return (own + ask.payload) / 2.0

        return worker.change(average)


def append(folder: str, rank: int, event: str) -> None:
    with (Path(folder) / f"events-{rank}").open("a") as file:
        file.write(event + "\n")


def replay(folder: Path, outcome: Outcome, workers: int, optimizer: Optimizer) -> list[Replica]:
    """The replicas after all that was noted. An active worker's step: gradient, mean with a partner, update."""
    copies = replicas(workers, optimizer)
    active = range(0, workers, 2)
    events = {rank: (folder / f"events-{rank}").read_text().splitlines() for rank in range(workers)}
    for rank in active:
        assert events[rank] == ["read", "update"] * len(outcome.traces[rank].updates)
    partners = {rank: iter(asked(outcome, rank)) for rank in active}
    waits_for = {rank: next(partners[rank], None) for rank in active}
    steps = dict.fromkeys(range(workers), 0)
    for rank in active:
        copies[rank].backward(0)

    def happens(rank: int, event: str) -> bool:
        """Let a passive worker's event happen, if it can by now."""
        copy = copies[rank]
        if event == "read":
            copy.backward(steps[rank])
            steps[rank] += 1
        elif event == "update":
            copy.optimizer.step()
        else:
            other = int(event.split()[1])
            if waits_for[other] != rank:
                return False
            copy.weights = average = (copy.weights + copies[other].weights) / 2
            copies[other].weights = average
            copies[other].optimizer.step()
            steps[other] += 1
            waits_for[other] = next(partners[other], None)
            if waits_for[other] is not None:
                copies[other].backward(steps[other])
        return True

    left = {rank: events[rank] for rank in range(1, workers, 2)}
    while any(left.values()):
        before = sum(map(len, left.values()))
        for rank, rest in left.items():
            while rest and happens(rank, rest[0]):
                del rest[0]
        assert sum(map(len, left.values())) < before, "no order explains this record"
    assert set(waits_for.values()) == {None}
    return copies


def asked(outcome: Outcome, rank: int) -> list[int]:
    """The ranks that an active worker averaged with, in order."""
    transfers = outcome.traces[rank].transfers
    sent = sorted((t.posted, t.channel) for t in transfers if t.kind == "send" and t.channel.endswith(" ask") and t.nbytes)
    return [int(channel.split(">")[1].split()[0]) for _, channel in sent]
