"""What calibration runs: a strategy like any other, so that what it measures is what a run pays, Python included.

Theory of operation. Rank 0 walks the list of probes in a random order, once a round; it tells the ranks that a probe needs
to go and how often to repeat, and everybody else waits in a receive, which costs no CPU. So every probe runs alone on the
machine, and all of them are interleaved over the whole time: what disturbs the machine disturbs all of them alike. Two
marks in the trace enclose every probe; `analysis` reads nothing but the trace. The same strategy runs on the simulated
fabric and must find there what the simulator was given: a test holds it to that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from distsim.calibration.probes import Probe, nothing
from distsim.interface.strategy import Strategy
from distsim.interface.values import T
from distsim.interface.worker import Worker


@dataclass(frozen=True)
class Calibration(Strategy):
    """Round after round, runs every probe once for about `slice_seconds`, in a random order."""

    probes: tuple[Probe, ...]
    blocks: tuple[int, ...]
    """Those of the workload; the other blocks of the model are payloads of a size and probes of the machine."""
    slice_seconds: float = 0.02
    others: Callable[[], float] | None = None
    """The share of the machine's CPU that other processes used since it was last asked."""

    def server_count(self, workers: int) -> int:
        return 1

    def gradients_an_update(self, workers: int) -> int:
        return 1

    async def run(self, worker: Worker[T]) -> None:
        worker.place(self.blocks)
        if worker.rank == 0:
            await self._lead(worker)
        else:
            await self._follow(worker)

    async def _lead(self, worker: Worker[T]) -> None:
        meter = self.others or _nobody
        meter()
        pace: dict[str, float] = {}
        for round_ in worker.steps():
            for index in Random(round_).sample(range(len(self.probes)), len(self.probes)):
                probe = self.probes[index]
                times = self._times(probe, pace.get(probe.name))
                for rank in range(1, probe.size):
                    await worker.send(None, rank, "go", version=times, label=str(index))
                begun = worker.now
                await _enclosed(worker, probe, round_, times)
                pace[probe.name] = (worker.now - begun) / times
                for rank in range(1, probe.size):
                    await worker.receive(rank, "done")
            await worker.compute(f"others {meter():.4f}", nothing)
            for rank in range(1, worker.world_size):
                await worker.send(None, rank, "go", label="end")

    def _times(self, probe: Probe, seconds: float | None) -> int:
        """How often to repeat a probe that took `seconds` a time in the round before."""
        if seconds is None:
            return 1
        return max(1, min(1000, round(probe.slices * self.slice_seconds / max(seconds, 1e-6))))

    async def _follow(self, worker: Worker[T]) -> None:
        for round_ in worker.steps():
            while (order := await worker.receive(0, "go")).label != "end":
                await _enclosed(worker, self.probes[int(order.label)], round_, order.version)
                await worker.send(None, 0, "done")


async def _enclosed(worker: Worker[T], probe: Probe, round_: int, times: int) -> None:
    await worker.compute(f"begin {round_} {probe.name}", nothing)
    await probe.run(worker, times)
    await worker.compute("end", nothing)


def _nobody() -> float:
    return 0.0
