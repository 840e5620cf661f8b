"""The records of ranks that march (see marching): a time is the number of a moment, and each rank reads its own from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast, overload

import numpy as np
import numpy.typing as npt

from distsim.interface import Compute, Loss, Trace, Transfer, Update

Row = TypeVar("Row", Compute, Transfer, Update, Loss)
Times = npt.NDArray[np.float64]
"""A time of each rank."""


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

    moments: Moments
    shifts: Mapping[tuple[int, int], int]
    """Of each batch (step, part), by how much its part is moved on from rank to rank."""
    ranks: int
    rank: int
    moved: int
    """By how many places it is moved on from the marching rank."""

    def time(self, moment: float) -> float:
        """A time of this rank."""
        return self.moments.of(self.rank)[int(moment)]

    def _part(self, step: int, part: int) -> int:
        return part + self.moved * self.shifts[step, part]

    def compute(self, row: Compute) -> Compute:
        name, begun, ended, step, part = row
        times = self.moments.of(self.rank)
        return Compute(name, times[int(begun)], times[int(ended)], step, self._part(step, part))

    def transfer(self, row: Transfer) -> Transfer:
        kind, channel, sequence, nbytes, posted, awaited, ended = row
        times = self.moments.of(self.rank)
        over = times[int(ended)]
        waited = min(times[int(awaited)], over)  # of some ranks it was over before
        return Transfer(kind, channel, sequence, nbytes, times[int(posted)], waited, over)

    def update(self, row: Update) -> Update:
        return row._replace(time=self.time(row.time))

    def loss(self, row: Loss) -> Loss:
        part = row.part + self.moved * (row.parts // self.ranks)
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
