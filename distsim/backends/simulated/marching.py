"""Marching: ranks that do alike, but not at the same times, are simulated as one whose times are those of all.

Where every worker does what worker 0 does (`Strategy.alike_every` is 1) and stragglers alone tell them apart, worker 0's
program is run once, and each of its times is a vector with a component for every rank. A computation takes each rank its
own time; a collective of all begins when the last rank comes, and is over at its price. These are the same sums and maxima
that the clock makes event by event, in the same order, so the records are equal to the last bit.

That needs a program whose course does not depend on times: operations on the compute queue one after the other, collectives
of all ranks whose price is exact. Whatever else is asked for raises `SetApart`, and the run begins again with every rank.
The last worker's program is run as well, and must come to the same times and hold as much: what pads an uneven cut is its.

In the records of the marching rank a time is the number of a `Moment`, in order of its program; `Column` reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NoReturn, TypeVar, cast, overload

import numpy as np
import numpy.typing as npt

from distsim.backends.simulated.calls import Call, Group
from distsim.backends.simulated.fabric import SimulatedOptions, Simulation
from distsim.backends.simulated.folding import SetApart
from distsim.backends.simulated.prices import Course
from distsim.interface import (
    Batch,
    Collective,
    Compute,
    Cost,
    Job,
    Loss,
    Memory,
    Numerics,
    Outcome,
    Rank,
    Trace,
    Transfer,
    Update,
    Worker,
)
from distsim.interface.program import drive, finish

R = TypeVar("R")
_RECORDS = ("compute", "transfers", "updates", "losses")
Row = TypeVar("Row", Compute, Transfer, Update, Loss)
Times = npt.NDArray[np.float64]
"""A time of each rank."""
_ZERO: Times = np.zeros(1)


class Moments:
    """The times at which things happen in a program, numbered."""

    def __init__(self, ranks: int) -> None:
        self._times: list[Times] = [np.zeros(ranks)]
        self.now = 0
        """The number of the present."""
        self._rank = -1
        self._of_rank: list[float] = []

    def __getitem__(self, number: float) -> Times:
        return self._times[int(number)]

    def of(self, rank: int) -> list[float]:
        """A rank's times by number, once there are no more to come; kept of the rank that was asked for last."""
        if rank != self._rank:
            self._rank, self._of_rank = rank, [times.item(rank) for times in self._times]
        return self._of_rank

    def note(self, times: Times) -> int:
        """The number of a moment: higher than all that have been given."""
        self._times.append(times)
        return len(self._times) - 1

    def wait(self, until: Times) -> None:
        """The present is not before `until` any more, on any rank."""
        now = self[self.now]
        late = until > now
        if late.all():
            self.now = self.note(until)
        elif late.any():
            self.now = self.note(np.maximum(now, until))


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
        """Of each batch (step, part), by how much its part is moved on from rank to rank."""
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
        call = Call(self._group, 0, collective, nbytes, numerics.combine)
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

    def decide(self, key: str, proposal: bool) -> NoReturn:
        raise SetApart("what is decided at some time")

    def count(self, key: str) -> NoReturn:
        raise SetApart("what ranks count together")


class Column(Sequence[Row]):
    """One kind of records of a rank, which are made when they are read."""

    def __init__(self, rows: Sequence[Row], read: Callable[[Row], Row]) -> None:
        self._rows: Sequence[Row] = rows
        self._read: Callable[[Row], Row] = read

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return map(self._read, self._rows)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> list[Row]: ...
    def __getitem__(self, at: int | slice) -> Row | list[Row]:
        if isinstance(at, slice):
            return [self._read(row) for row in self._rows[at]]
        return self._read(self._rows[at])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list | Column) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list's


@dataclass(frozen=True)
class OneRank:
    """Reads the records of the marching rank as those of another."""

    fabric: MarchingFabric
    rank: int

    @property
    def _moved(self) -> int:
        return self.rank - self.fabric.rank

    def time(self, moment: float) -> float:
        """A time of this rank."""
        return self.fabric.moments.of(self.rank)[int(moment)]

    def _part(self, step: int, part: int) -> int:
        return part + self._moved * self.fabric.shifts[step, part]

    def compute(self, row: Compute) -> Compute:
        name, begun, ended, step, part = row
        times = self.fabric.moments.of(self.rank)
        return Compute(name, times[int(begun)], times[int(ended)], step, self._part(step, part))

    def transfer(self, row: Transfer) -> Transfer:
        kind, channel, sequence, nbytes, posted, awaited, ended = row
        times = self.fabric.moments.of(self.rank)
        over = times[int(ended)]
        waited = min(times[int(awaited)], over)  # of some ranks it was over before
        return Transfer(kind, channel, sequence, nbytes, times[int(posted)], waited, over)

    def update(self, row: Update) -> Update:
        return row._replace(time=self.time(row.time))

    def loss(self, row: Loss) -> Loss:
        part = row.part + self._moved * (row.parts // len(self.fabric.everyone))
        return row._replace(part=part, time=self.time(row.time))

    def trace(self, marching: Trace) -> Trace:
        """The records of this rank. They are made when they are read: of all ranks together they would fill the memory."""
        return replace(
            marching,
            rank=self.rank,
            compute=cast("list[Compute]", Column(marching.compute, self.compute)),
            transfers=cast("list[Transfer]", Column(marching.transfers, self.transfer)),
            updates=cast("list[Update]", Column(marching.updates, self.update)),
            losses=cast("list[Loss]", Column(marching.losses, self.loss)),
            ended=self.time(marching.ended),
        )


def march(job: Job, options: SimulatedOptions) -> Outcome:
    """Simulate all ranks as one. Raises `SetApart` if theirs is no such program, and whatever it raises."""
    simulation = Simulation(job, options)
    paces, priced = Paces(job, simulation.hosts.least_factor), list[tuple[Times, Times]]()
    fabric, rank = _run(simulation, 0, paces, priced)
    traces = [OneRank(fabric, number).trace(rank.trace) for number in fabric.everyone]
    own_fabric, last = _run(simulation, len(traces) - 1, paces, priced)
    own = OneRank(own_fabric, last.rank).trace(last.trace)
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
