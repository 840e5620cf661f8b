"""Failures: which ranks are lost when, which links are down or slow when, and what a run does about it.

One description drives every fabric. When a rank that fails by rate fails for the k-th time is a pure function of (seed,
rank, k): the same ranks fail at the same times under every strategy, so comparisons are paired.

    restart    all ranks stop, `restart` seconds pass, and all go on from the last complete checkpoint (a failure meanwhile
               starts the wait again, as in Daly's model)
    continue   the others go on without it, and it comes back `restart` seconds later; in a real run never
    abort      the run ends, failed

Young, "A first order approximation to the optimum checkpoint interval", CACM 17(9), 1974; Daly, "A higher order estimate of
the optimum checkpoint interval for restart dumps", FGCS 22(3), 2006.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heapreplace
from typing import Literal, NamedTuple

from distsim.interface.draws import uniform

OnLoss = Literal["restart", "continue", "abort"]


LOST, JOINED = "lost", "joined"
"""Labels of the signals that tell servers of a worker."""


class Loss(NamedTuple):
    """A rank is lost at `at` seconds."""

    at: float
    rank: int


@dataclass(frozen=True)
class Outage:
    """A cable has only a `share` of its bandwidth, none by default, for so many `seconds`: from `at`, or by rate."""

    at: float | None
    seconds: float
    share: float = 0.0
    mtbf: float | None = None
    """In place of `at`: mean seconds that a cable is whole before each outage, exponentially distributed."""

    def spans(self, seed: int, cable: str) -> Iterator[tuple[float, float]]:
        """When the outages of a cable begin and end, in order; without end if they come by rate."""
        if self.at is not None:
            yield self.at, self.at + self.seconds
        if self.mtbf is not None:
            begin, k = 0.0, 0
            while True:
                begin -= self.mtbf * math.log(uniform(seed, f"outage of {cable}", k))
                yield begin, begin + self.seconds
                begin, k = begin + self.seconds, k + 1


@dataclass(frozen=True)
class Checkpoint:
    """When ranks save what they hold, every so many updates or seconds of work, and how long that takes; off by default."""

    updates: int | None = None
    seconds: float | None = None
    """From the end of one checkpoint to the update after which the next is due."""
    cost: float = 0.0
    """Seconds for which every rank that makes updates does not compute."""
    keep: bool = False
    """Leave what real ranks have saved when the run has finished, and nobody goes on from it any more."""

    @property
    def is_off(self) -> bool:
        """True if nothing is saved: then a restart begins with the first update."""
        return self.updates is None and self.seconds is None


@dataclass(frozen=True)
class Failure:
    """What fails, and what is done about it. By default nothing fails."""

    ranks: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    """Rank -> the times at which it is lost, in ascending order."""
    mtbf: float | None = None
    """Mean seconds between two failures of one rank, exponentially distributed; of N ranks one fails N times as often."""
    links: Mapping[str, tuple[Outage, ...]] = field(default_factory=dict)
    """Cable, or one of its ends -> its outages; the shares of several at one time multiply. Every cable fails by itself."""
    restart: float = 60.0
    """Seconds until a lost rank is there again."""
    on_loss: Literal["auto", "restart", "continue", "abort"] = "auto"
    """`auto`: what the strategy names first (see `Strategy.on_loss`)."""
    checkpoint: Checkpoint = field(default_factory=Checkpoint)

    @property
    def loses_ranks(self) -> bool:
        """True if some rank may be lost."""
        return self.mtbf is not None or any(self.ranks.values())

    @property
    def is_off(self) -> bool:
        """True if nothing fails and nothing is saved."""
        return not self.loses_ranks and not any(self.links.values()) and self.checkpoint.is_off

    def losses(self, seed: int, ranks: int) -> Iterator[Loss]:
        """Every loss of a rank, in order of time; without end if ranks fail by rate."""
        sources = [self._of(seed, rank) for rank in range(ranks)]
        queue = [(first, rank) for rank, source in enumerate(sources) if (first := next(source, None)) is not None]
        heapify(queue)
        while queue:
            at, rank = queue[0]
            yield Loss(at, rank)
            heapreplace(queue, (next(sources[rank], math.inf), rank))
            if queue[0][0] == math.inf:
                return

    def after(self, seconds: float) -> Iterator[str]:
        """What a reader must know of a run that ended after so many seconds: whom nobody lost any more."""
        for rank, times in sorted(self.ranks.items()):
            if late := [at for at in times if at > seconds]:
                yield f"the failure of rank {rank} at {late[0]:g} s comes after the end of the run at {seconds:g} s"

    def _of(self, seed: int, rank: int) -> Iterator[float]:
        """The losses of one rank: those given and those drawn, in order."""
        given = list(self.ranks.get(rank, ()))
        if self.mtbf is None:
            yield from given
            return
        at, k = 0.0, 0
        while True:
            at -= self.mtbf * math.log(uniform(seed, "failure", rank, k))
            k += 1
            while given and given[0] <= at:
                yield given.pop(0)
            yield at


def young(mtbf: float, cost: float) -> float:
    """Young's interval between checkpoints of `cost` seconds, in seconds of work, where a failure comes every `mtbf`."""
    return math.sqrt(2.0 * cost * mtbf)


def daly(mtbf: float, cost: float) -> float:
    """Daly's interval (2006, equation 37): Young's with two more terms, and `mtbf` where checkpoints take twice that."""
    if cost >= 2.0 * mtbf:
        return mtbf
    x = cost / (2.0 * mtbf)
    return young(mtbf, cost) * (1.0 + math.sqrt(x) / 3.0 + x / 9.0) - cost
