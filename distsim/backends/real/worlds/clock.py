"""One clock for ranks on several machines: each machine's offset from rank 0's, by round trips.

Of 20 round trips the fastest counts. Rank 0's clock was read some time within it, so the offset is off by half of it at
most (Cristian, Probabilistic clock synchronization, 1989). How clocks drift apart during the run is not corrected.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist

_TRIPS = 20


class Clock(NamedTuple):
    """How a machine's clock stands to rank 0's."""

    behind: float
    """Seconds to add to a time of this machine."""
    uncertainty: float
    """By how many seconds that can be wrong; of all machines, the most."""


def align(rank: int, machines: Sequence[int]) -> Clock:
    """Measure; all ranks call it, once they have met. `machines` is the number of every rank's."""
    known = sorted(set(machines))
    found = torch.zeros(len(known), 2, dtype=torch.float64)
    for row, machine in enumerate(known):
        first = machines.index(machine)  # measures for all ranks of its machine, so that they share a clock still
        if machine == machines[0]:
            continue
        if rank == first:
            found[row] = torch.tensor(_measure(), dtype=torch.float64)
        elif rank == 0:
            _answer(first)
    dist.all_reduce(found)
    return Clock(float(found[known.index(machines[rank]), 0]), float(found[:, 1].max()))


def estimate(trips: Sequence[tuple[float, float, float]]) -> Clock:
    """From round trips: when each was sent, what the other's clock said, when the answer came."""
    sent, said, came = min(trips, key=lambda trip: trip[2] - trip[0])
    return Clock(said - (sent + came) / 2, (came - sent) / 2)


def _measure() -> Clock:
    trips = []
    said = torch.zeros(1, dtype=torch.float64)
    for _ in range(_TRIPS):
        sent = time.monotonic()
        dist.send(said, 0)
        dist.recv(said, 0)
        trips.append((sent, float(said), time.monotonic()))
    return estimate(trips)


def _answer(rank: int) -> None:
    asked = torch.zeros(1, dtype=torch.float64)
    for _ in range(_TRIPS):
        dist.recv(asked, rank)
        dist.send(torch.tensor([time.monotonic()], dtype=torch.float64), rank)
