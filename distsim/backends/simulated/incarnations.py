"""The incarnations of a run: a lost rank ends one, and the next begins from the last checkpoint.

All are on one clock. What an incarnation had under way when it ended is gone, computing and bytes alike; its records stay,
but for updates that are undone: those are made again. While a run waits for its next incarnation another loss starts that
wait again, as in Daly's model of a restart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from typing import Any

from simpy.core import EmptySchedule

from distsim.backends.simulated.checkpoints import Checkpoints, restore
from distsim.backends.simulated.fabric import SimulatedFabric, SimulatedOptions, Simulation
from distsim.backends.simulated.outages import Outages
from distsim.interface import Interruption, Job, Loopback, Losses, Rank, Start
from distsim.interface.errors import DistsimError
from distsim.interface.failure import Loss, OnLoss
from distsim.interface.job import BEGINNING

_IN_VAIN = 1000
"""Losses in a row that undo the same work, after which a run gives up."""


def _outages(job: Job) -> Outages | None:
    cluster = job.cluster
    if not job.failure.links or isinstance(cluster.network, Loopback):
        return None
    hosts = 1 + max(cluster.host(rank) for rank in range(cluster.world_size))
    return Outages(job.failure.links, cluster.network.cables(hosts))


class RankLost(Exception):  # a stop, not an error of anybody's
    """Ends an incarnation."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(f"rank {loss.rank} was lost at {loss.at:g} s")
        self.loss = loss


class Incarnations:
    """Begins each incarnation of a run, and keeps what outlives it."""

    def __init__(self, job: Job, options: SimulatedOptions) -> None:
        self._job = job
        self._options = replace(options, collectives="flows") if job.failure.links else options
        self._outages = _outages(job)
        self._checkpoints = Checkpoints(job.failure.checkpoint, job.strategy)
        self._losses = job.failure.losses(job.seed, job.cluster.world_size)
        self._next = next(self._losses, None)
        self._now = 0.0
        self._number = self._failures = self._in_vain = 0
        self._lost_seconds = 0.0
        self._ranks: list[Rank[Any]] = []

    def begin(self) -> tuple[Simulation, list[Rank[Any]]]:
        """A simulation whose clock is where the run is, and its ranks, which have not begun."""
        job, state = self._job, self._checkpoints.last
        simulation = Simulation(job, self._options, self._now)
        fabrics = [SimulatedFabric(simulation, rank) for rank in range(job.cluster.world_size)]
        start = BEGINNING
        if self._number:
            start = Start(self._number, state.update, state.samples, {rank.rank: rank for rank in self._ranks})
            simulation.counted.update({"updates begun": state.update, "updates ended": state.update})
        ranks = [job.rank(fabric.rank, fabric, start) for fabric in fabrics]
        for fabric, rank in zip(fabrics, ranks, strict=True):
            fabric.numerics = rank.numerics
        restore(ranks, state.ranks)
        self._simulation, self._ranks = simulation, ranks
        self._checkpoints.watch(ranks, fabrics, self._now)
        if self._outages is not None:
            self._outages.begin(simulation.engine, simulation.hosts)
        if self._next is not None:
            simulation.engine.at(self._next.at, self._strike)
        return simulation, ranks

    def _strike(self) -> None:
        """A rank is lost, unless nothing of the run is left to lose."""
        assert self._next is not None
        if self._simulation.engine.env.peek() == inf:  # nothing will ever happen but losses: who waits waits in vain
            raise EmptySchedule
        making = [rank.progress for rank in self._ranks if rank.progress.makes_updates]
        if not making or not all(progress.is_over for progress in making):
            raise RankLost(self._next)

    def lose(self, lost: RankLost) -> None:
        """The incarnation has ended with this loss. Raises `DistsimError` if the run does, too."""
        if self._response() == "abort":
            self._failures += 1
            raise DistsimError(f"{lost} and failure.on_loss=abort")
        checkpoints, failure = self._checkpoints, self._job.failure
        before, ends = self._failures, lost.loss.at
        while self._next is not None and self._next.at <= ends:
            self._failures += 1
            ends = self._next.at + failure.restart
            self._next = next(self._losses, None)
        is_new = checkpoints.since > self._now  # some checkpoint of this incarnation is complete
        self._in_vain = (0 if is_new else self._in_vain) + self._failures - before
        if self._in_vain > _IN_VAIN:
            raise DistsimError(
                f"{lost}, the {self._in_vain}th loss in a row that undoes the updates after {checkpoints.last.update}: "
                "the run will hardly end; save more often (failure.checkpoint), or lose less"
            )
        self._lost_seconds += ends - checkpoints.since
        self._interrupt(lost.loss, ends)
        self._now = ends
        self._number += 1

    def _response(self) -> OnLoss:
        wanted = self._job.failure.on_loss
        return self._job.strategy.on_loss()[0] if wanted == "auto" else wanted

    def _interrupt(self, loss: Loss, resumed: float) -> None:
        """Note in the records what is undone and dropped."""
        update = self._checkpoints.last.update
        decided = Counter(arrival.source for rank in self._ranks for arrival in rank.trace.arrivals)
        for rank in self._ranks:
            trace, shown = rank.trace, rank.progress.snapshots
            kept = [each for each in trace.updates if each.number <= update]
            dropped = trace.gradients - decided[rank.rank] - sum(each.gradients for each in trace.interruptions)
            undone = len(trace.updates) - len(kept)
            trace.interruptions.append(Interruption(loss.at, loss.rank, resumed, undone, dropped))
            trace.updates[:] = kept
            shown[:] = [snapshot for snapshot in shown if snapshot.number <= update]

    def result(self) -> Losses | None:
        """What failures took from the run; None where nothing could fail."""
        if self._job.failure.is_off:
            return None
        return Losses(self._failures, self._number, self._checkpoints.count, self._lost_seconds)

    def after(self, seconds: float) -> Iterator[str]:
        """Notes on failures that were asked for and came after the end of the run."""
        for rank, times in sorted(self._job.failure.ranks.items()):
            if late := [at for at in times if at > seconds]:
                yield f"the failure of rank {rank} at {late[0]:g} s comes after the end of the run at {seconds:g} s"
