"""Marching: ranks that do alike, but not at the same times, are simulated as one whose times are those of all.

Where every worker does what worker 0 does (`Strategy.alike_every` is 1) and stragglers alone tell them apart, worker 0's
program is run once, and each of its times is a vector with a component for every rank. A computation takes each rank its
own time; a collective of all begins when the last rank comes, and is over at its price. These are the same sums and maxima
that the clock makes event by event, in the same order, so the records are equal to the last bit.

That needs a program whose course does not depend on times: operations on the compute queue one after the other, collectives
of all ranks whose price is exact. Whatever else is asked for raises `SetApart`, and the run begins again with every rank.
The last worker's program is run as well, and must come to the same times and hold as much: what pads an uneven cut is its.

In the records of the marching rank a time is the number of a moment, in the order of its program: see moments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np

from distsim.backends.simulated.calls import Call, Group
from distsim.backends.simulated.fabric import SimulatedOptions, Simulation
from distsim.backends.simulated.folding import SetApart
from distsim.backends.simulated.moments import Moments, OneRank, Times
from distsim.backends.simulated.prices import Course
from distsim.interface import (
    Batch,
    Collective,
    Cost,
    Job,
    Memory,
    Numerics,
    Outcome,
    Rank,
    Trace,
    Worker,
)
from distsim.interface.program import drive, finish

R = TypeVar("R")
_RECORDS = ("compute", "transfers", "updates", "losses")
_ZERO: Times = np.zeros(1)


class Paces:
    """What stragglers make of all ranks' operations."""

    def __init__(self, job: Job, least_factor: float) -> None:
        self._paces = [job.pace(rank) for rank in range(job.cluster.workers)]
        if any(pace.has_episodes for pace in self._paces):
            raise SetApart("a straggler that goes by the clock")
        self._least = least_factor
        self._known: dict[int | None, tuple[Times, Times]] = {}

    def take(self, step: int | None) -> tuple[Times, Times]:
        """The ranks' factors at a step, and their delays: those are for the first operation alone."""
        known = self._known.get(step)
        if known is None:
            factors, delays = zip(*(pace.take(step) for pace in self._paces), strict=True)
            known = np.maximum(self._least, factors), np.array(delays) if any(delays) else _ZERO
            self._known[step] = known
        return known


class Step(Generic[R]):
    """An operation of all ranks. Implements `Handle`."""

    def __init__(self, moments: Moments, begun: int, until: Times, value: R) -> None:
        self._moments = moments
        self._until = until
        self._value = value
        self.begun = float(begun)
        self.ended = math.nan

    def __await__(self) -> Generator[Any, Any, R]:
        if self.ended != self.ended:
            self._moments.wait(self._until)
            self.ended = float(self._moments.note(self._until))
        return self._value
        yield

    def over(self) -> bool:
        raise SetApart("what is over depends on the rank")

    def detach(self) -> None:
        raise SetApart("nobody waits")


@dataclass
class MarchingFabric:
    """All ranks' access to time and transport, as one worker asks for it. Implements `Fabric`."""

    simulation: Simulation
    rank: int
    paces: Paces
    priced: list[tuple[Times, Times]]
    """Of each collective so far, here or on the worker before: when ranks came, and when they were over."""
    numerics: Numerics[Any] = field(init=False)

    def __post_init__(self) -> None:
        ranks = self.simulation.job.cluster.workers
        self.moments = Moments(ranks)
        self.shifts: dict[tuple[int, int], int] = {(-1, -1): 0}
        """See `OneRank`."""
        self.everyone = tuple(range(ranks))
        self._group = Group(self.everyone, self.simulation.fold)
        self._free = np.zeros(ranks)  # when the compute queue is
        self._over = np.zeros(ranks)  # when the last collective is
        self._called = 0  # collectives
        self._course: Course | None = None  # of the last collective: some ranks may still be in it
        self._delayed = set[int]()  # steps whose delay has been given

    def now(self) -> float:
        return float(self.moments.now)

    def compute(
        self, cost: Cost, action: Callable[[Callable[[], bool]], R], batch: Batch | None, unless: Any
    ) -> Step[R | None]:
        now = self.moments[self.moments.now]
        if unless is not None or (self._free > now).any():
            raise SetApart("what is queued")
        step = None if batch is None else batch.step
        factor, delay = self.paces.take(step)
        if batch is not None:
            self._note_part(batch)
            if batch.step in self._delayed:
                delay = _ZERO
            self._delayed.add(batch.step)
        seconds = self.simulation.seconds(cost)
        idle = np.maximum(0.0, factor - 1.0) * seconds + delay
        self._free = now + seconds * np.minimum(factor, 1.0) + idle
        return Step(self.moments, self.moments.now, self._free, action(_never))

    def _note_part(self, batch: Batch) -> None:
        shift, rest = divmod(batch.parts, len(self.everyone))
        if (batch.parts > 1 and rest) or self.shifts.setdefault((batch.step, batch.part), shift) != shift:
            raise SetApart("batches")

    def collective(self, group: tuple[int, ...], collective: Collective, payload: Any) -> Step[Any]:
        if group is not self.everyone and group != self.everyone:
            raise SetApart("groups")
        ranks, engine, numerics = len(group), self.simulation.engine, self.numerics
        nbytes = 0.0 if payload is None else numerics.nbytes(payload)
        call = Call(self._group, collective, nbytes, numerics.combine)
        plan, course = self.simulation.collectives.find_plan(call)
        if plan.is_rooted or course is None or not course.is_apart:
            raise SetApart("a collective that has no price")
        before, self._course = self._course, course
        if before is not None and before is not course and not course.takes_turns_with(before):
            raise SetApart("collectives that may meet")
        arrivals = np.maximum(self.moments[self.moments.now], self._over)
        self._called += 1
        if self._called > len(self.priced):
            now = float(arrivals.max())  # when the clock prices it
            window = engine.window_at(now)
            ends = course.ends(arrivals.tolist(), nbytes, window)
            if ends is None:
                raise SetApart("a collective that has no price")
            self.priced.append((arrivals, _over(now, ends, window)))
        came, self._over = self.priced[self._called - 1]
        if not np.array_equal(came, arrivals):
            raise SetApart("the last worker")
        value = None if payload is None else numerics.combine(collective, [payload] * ranks)[0]
        return Step(self.moments, self.moments.now, self._over, value)

    def send(self, to: int, tag: str, envelope: Any) -> NoReturn:
        raise SetApart("messages")

    def receive(self, source: int | None, tag: str) -> NoReturn:
        raise SetApart("messages")

    def task(self, coroutine: Coroutine[Any, Any, R]) -> NoReturn:
        coroutine.close()
        raise SetApart("tasks")

    def read(self, marching: Trace, rank: int) -> Trace:
        """The records of a rank, from those of the marching one."""
        return OneRank(self.moments, self.shifts, len(self.everyone), rank, rank - self.rank).trace(marching)

    def decide(self, key: str, proposal: bool) -> NoReturn:
        raise SetApart("what is decided at some time")

    def count(self, key: str) -> NoReturn:
        raise SetApart("what ranks count together")


def march(job: Job, options: SimulatedOptions) -> Outcome:
    """Simulate all ranks as one. Raises `SetApart` if theirs is no such program, and whatever it raises."""
    simulation = Simulation(job, options)
    paces, priced = Paces(job, simulation.hosts.least_factor), list[tuple[Times, Times]]()
    fabric, rank = _run(simulation, 0, paces, priced)
    traces = [fabric.read(rank.trace, number) for number in fabric.everyone]
    own_fabric, last = _run(simulation, len(traces) - 1, paces, priced)
    own = own_fabric.read(last.trace, last.rank)
    if any(list(getattr(own, kind)) != list(getattr(traces[-1], kind)) for kind in _RECORDS) or _held(own) != _held(
        rank.trace
    ):
        raise SetApart("the last worker")
    end = rank.trace.updates[-1].time if rank.trace.updates else rank.trace.ended
    return Outcome(
        status="done",
        message="",
        seconds=float(fabric.moments[end].max()),
        traces=traces,
        weights=[rank.weights()] * len(traces),
    )


def _run(
    simulation: Simulation, worker: int, paces: Paces, priced: list[tuple[Times, Times]]
) -> tuple[MarchingFabric, Rank[Any]]:
    """Run one worker's program for all."""
    job, fabric = simulation.job, MarchingFabric(simulation, worker, paces, priced)
    rank = job.rank(worker, fabric)
    fabric.numerics = rank.numerics
    drive(finish(job.strategy, Worker(rank, fabric.everyone)))
    return fabric, rank


def _held(trace: Trace) -> tuple[Memory, float]:
    return trace.peak, trace.peak_activations


def _over(now: float, ends: list[float], window: float) -> Times:
    """When the clock lets each rank be over: those that end within its window of each other together, with the last."""
    last = max(ends)
    if last - min(ends) <= window:
        return np.broadcast_to(np.float64(now + max(0.0, last - now)), len(ends))
    over, together = np.empty(len(ends)), list[int]()
    order = sorted(range(len(ends)), key=ends.__getitem__)
    for position, after in zip(order, (*order[1:], -1), strict=True):
        together.append(position)
        if after < 0 or ends[after] - ends[position] > window:
            over[together] = now + max(0.0, ends[position] - now)
            together.clear()
    return over


def _never() -> bool:
    return False
