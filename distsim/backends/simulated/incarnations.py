"""The incarnations of a run: a lost rank ends one, and the next begins with all ranks or without it.

All are on one clock. What an incarnation had under way when it ended is gone, computing and bytes alike; its records stay,
but for updates that are undone: those are made again.

restart     All begin again from the last checkpoint, after a while. Another loss meanwhile starts that while again, as in
            Daly's model of a restart.
continue    Where servers hold the model, they work on with the other workers (see membership); a lost server restarts
            all. Elsewhere the others begin again at once, from what they hold, as a smaller group. When the lost rank is
            back, an incarnation ends with some update and the next begins with it, on a copy of what another holds. If
            nobody is left, all restart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any

from simpy.core import EmptySchedule

from distsim.backends.simulated.checkpoints import Checkpoints, Copies, State, restore
from distsim.backends.simulated.fabric import SimulatedFabric, SimulatedOptions, Simulation
from distsim.backends.simulated.folding import Fold
from distsim.backends.simulated.membership import Membership
from distsim.backends.simulated.outages import Outages
from distsim.backends.simulated.programs import Programs
from distsim.interface import Interruption, Job, Loopback, Losses, Rank, Start
from distsim.interface.errors import DistsimError
from distsim.interface.failure import Loss
from distsim.interface.job import BEGINNING

_IN_VAIN = 1000
"""Losses in a row that undo the same work, after which a run gives up."""


def _outages(job: Job) -> Outages | None:
    cluster = job.cluster
    if not job.failure.links or isinstance(cluster.network, Loopback):
        return None
    hosts = 1 + max(cluster.host(rank) for rank in range(cluster.world_size))
    return Outages(job.failure.links, cluster.network.cables(hosts), job.seed)


class RankLost(Exception):  # a stop, not an error of anybody's
    """Ends an incarnation."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(f"rank {loss.rank} was lost at {loss.at:g} s")
        self.loss = loss


class Incarnations:
    """Begins each incarnation of a run, and keeps what outlives it."""

    def __init__(self, job: Job, options: SimulatedOptions, fold: Fold) -> None:
        self._job = job
        self._fold = fold
        # a price is made of the rates that links have at first
        self._options = replace(options, collectives="flows") if job.failure.links else options
        self._response = job.on_loss
        self._regroups = job.on_loss == "continue" and job.strategy.hears_on is None
        self._outages = _outages(job)
        self._checkpoints = Checkpoints(job.failure.checkpoint, job.strategy)
        self._losses = job.failure.losses(job.seed, job.cluster.world_size)
        self._next = next(self._losses, None)
        self._now = 0.0
        self._number = self._failures = self._restarts = self._in_vain = self._made = 0
        self._lost_seconds = 0.0
        self._state = State()
        self._ranks: dict[int, Rank[Any]] = {}
        self.here = tuple(range(job.cluster.world_size))
        """The ranks that the run goes on with, in order."""
        self._absent: dict[int, float] = {}
        """Ranks that the run goes on without, and since when."""

    def begin(self) -> tuple[Simulation, list[Rank[Any]]]:
        """A simulation whose clock is where the run is, and its ranks, which have not begun."""
        job, state = self._resized(), self._state
        self._simulation = simulation = Simulation(self._job, self._options, self._now, self._fold)
        start = Start(self._number, state.update, state.samples, before=self._ranks) if self._number else BEGINNING
        simulation.counted.update({"updates begun": state.update, "updates ended": state.update})
        ranks = []
        for number in self.here[: self._fold.period]:
            fabric = SimulatedFabric(simulation, number)
            rank = job.rank(number, fabric, start)
            fabric.numerics = rank.numerics
            ranks.append(rank)
        restore(ranks, state.ranks)
        self._ranks |= {rank.rank: rank for rank in ranks}
        self._checkpoints.watch(ranks, state.update, self._now)
        self._copies = Copies()
        self._is_regrouping = False
        self.programs = Programs(simulation, self.here)
        self._membership: Membership | None = None
        if job.on_loss == "continue" and job.strategy.hears_on is not None:
            self._membership = Membership(simulation, job, start, self._ranks, job.strategy.hears_on)
        if self._regroups or not job.failure.checkpoint.is_off:
            for rank in ranks:
                rank.progress.arrive = partial(self._arrive, rank)
        self._to_come = 0
        if self._outages is not None:
            self._outages.begin(self._fail_at, self._now, simulation.hosts)
        self._await_loss()
        return simulation, ranks

    def _resized(self) -> Job:
        """The job of those who are here."""
        return self._job.resized(len(self.here) - self._job.cluster.servers)

    def ranks(self) -> list[Rank[Any]]:
        """Every rank of the run as it was when it was here last."""
        return [self._ranks[rank] for rank in sorted(self._ranks)]

    def is_here(self, rank: int) -> bool:
        """Whether the run ended with this rank."""
        return rank in self.here

    # ---- between updates

    def _arrive(self, rank: Rank[Any], update: int) -> bool:
        """A rank is about to make an update; False ends the incarnation for it, as for all others before this update."""
        if self._regroups:
            self._copies.arrive(rank, update)
            back = min(self._absent.values(), default=inf) + self._job.failure.restart
            if self._simulation.decided.setdefault(f"regroup before update {update}", rank.fabric.now() >= back):
                self._is_regrouping = rank.progress.is_cut = True
                return False
        self._checkpoints.arrive(rank, update)
        return True

    def regroup(self) -> bool:
        """All ranks have ended: True if the run goes on with others that are back."""
        if self._membership is not None:
            self._membership.close()
        if not self._is_regrouping:
            return False
        self._now = self._simulation.engine.now
        found = self._copies.last(self.here)
        assert found is not None
        self._state = found[1]
        restart = self._job.failure.restart
        for rank in [rank for rank, since in self._absent.items() if since + restart <= self._now]:
            self._join(rank, self._now, self._now)
        self._number += 1
        return True

    def _join(self, rank: int, now: float, counted: float) -> None:
        """A rank is there again; its absence up to `counted` is lost time."""
        self._lost_seconds += max(0.0, counted - self._absent.pop(rank)) / self._job.cluster.world_size
        past = self._ranks[rank].trace.interruptions
        past[-1] = past[-1]._replace(resumed=now)
        self.here = tuple(sorted((*self.here, rank)))

    # ---- when a rank is lost

    def _await_loss(self) -> None:
        if self._next is not None:
            self._fail_at(self._next.at, self._strike)

    def _fail_at(self, time: float, fail: Callable[[], None]) -> None:
        """Call back at a time, unless nothing will ever happen but failures: who waits then waits in vain."""
        engine = self._simulation.engine
        self._to_come += 1

        def strike() -> None:
            self._to_come -= 1
            if engine.has_only(self._to_come):
                raise EmptySchedule
            fail()

        engine.at(time, strike)

    def _strike(self) -> None:
        """A rank is lost, unless nothing of the run is left to lose."""
        assert self._next is not None
        here = self.here[: self._fold.period]  # those that are simulated
        if self._next.rank in self._absent:  # who is not there cannot be lost
            self._next = next(self._losses, None)
            self._await_loss()
            return
        making = [self._ranks[rank].progress for rank in here if self._ranks[rank].progress.makes_updates]
        if making and all(progress.is_over for progress in making):
            return
        if self._membership is None or self._next.rank >= self._job.cluster.workers:
            raise RankLost(self._next)
        self._work_on_without(self._next, self._membership)

    def _work_on_without(self, loss: Loss, membership: Membership) -> None:
        """Servers do."""
        try:
            self._count_loss(loss)
        except DistsimError as error:
            self._simulation.engine.failure = loss.rank, error
            raise
        self._next = next(self._losses, None)
        self.here = tuple(rank for rank in self.here if rank != loss.rank)
        self._absent[loss.rank] = loss.at
        membership.lose(loss.rank)
        self.programs.drop(loss.rank)
        self._simulation.engine.at(loss.at + self._job.failure.restart, partial(self._come_back, loss.rank, membership))
        self._await_loss()

    def _count_loss(self, loss: Loss) -> None:
        """A loss that others work on after. Raises `DistsimError` if none gets anywhere for too long."""
        made = max(rank.progress.updates for rank in self._ranks.values())
        self._failures += 1
        self._in_vain = 0 if made > self._made else self._in_vain + 1
        self._made = max(made, self._made)
        if self._in_vain > _IN_VAIN:
            raise DistsimError(
                f"rank {loss.rank} was lost at {loss.at:g} s, the {self._in_vain}th loss in a row without an update after "
                f"number {made}: the run will hardly end; lose less"
            )

    def _come_back(self, rank: int, membership: Membership) -> None:
        if membership.join(rank, partial(self.programs.begin, is_late=True)):
            self._checkpoints.ranks[rank] = self._ranks[rank]
            now = self._simulation.engine.now
            self._join(rank, now, now)

    def lose(self, lost: RankLost) -> None:
        """The incarnation has ended with this loss. Raises `DistsimError` if the run does, too."""
        if self._response == "abort":
            self._failures += 1
            raise DistsimError(f"{lost} and failure.on_loss=abort")
        if self._membership is not None:
            self._membership.close()
        if self._regroups and len(self.here) > 1:
            self._go_on_without(lost.loss)
        else:
            self._restart(lost)
        self._number += 1

    def _restart(self, lost: RankLost) -> None:
        """All begin again from the last checkpoint."""
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
                "the run will hardly end; save more often (checkpoint.every), or lose less"
            )
        self._restarts += 1
        self._lost_seconds += ends - checkpoints.since
        self._state, self._now = checkpoints.last, ends
        self._interrupt(lost.loss, dict.fromkeys(self.here, ends))
        for rank in list(self._absent):
            self._join(rank, ends, checkpoints.since)

    def _go_on_without(self, loss: Loss) -> None:
        """The others begin again at once, before the last update that all of them have come to."""
        self._count_loss(loss)
        self._next = next(self._losses, None)
        share = len(self.here) / self._job.cluster.world_size
        self.here = tuple(rank for rank in self.here if rank != loss.rank)
        since, self._state = self._copies.last(self.here) or (self._now, self._state)
        self._lost_seconds += (loss.at - since) * share
        self._now = self._absent[loss.rank] = loss.at
        self._interrupt(loss, {**dict.fromkeys(self.here, loss.at), loss.rank: inf})

    def _interrupt(self, loss: Loss, resumed: Mapping[int, float]) -> None:
        """Note in the records what is undone and dropped, and when ranks go on."""
        update = self._state.update
        decided = Counter(arrival.source for rank in self._ranks.values() for arrival in rank.trace.arrivals)
        for number, rank in self._ranks.items():
            trace, shown = rank.trace, rank.progress.snapshots
            kept = [each for each in trace.updates if each.number <= update]
            if number in resumed:
                dropped = trace.gradients - decided[number] - sum(each.gradients for each in trace.interruptions)
                undone = len(trace.updates) - len(kept)
                trace.interruptions.append(Interruption(loss.at, loss.rank, resumed[number], undone, dropped))
            trace.updates[:] = kept
            shown[:] = [snapshot for snapshot in shown if snapshot.number <= update]

    # ---- at the end

    def result(self) -> Losses | None:
        """What failures took from the run; None where nothing could fail."""
        if self._job.failure.is_off:
            return None
        now, size = self._simulation.engine.now, self._job.cluster.world_size
        absence = sum(now - since for since in self._absent.values()) / size
        return Losses(self._failures, self._restarts, self._checkpoints.count, self._lost_seconds + absence)
