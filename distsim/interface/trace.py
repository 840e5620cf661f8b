"""What one rank did: the record that every number of a report is derived from. Times are seconds since the run began.

A rank's time divides into computing (the union of its `Compute` spans), communication (it awaits a transfer that both sides
have posted), waiting (it awaits one that the other side has not posted yet) and the rest. Where a transfer began is known
only once both ends' records are together: see distsim.results.breakdown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from distsim.interface.memory import Memory

_PASS = re.compile(r"[FBIW]\d+(-\d+)?")


class Compute(NamedTuple):
    """An operation on the compute queue; `step` and `part` are -1 where no batch is concerned."""

    name: str
    """Of a pass of a block or of several as one its letter and these: `F2`, `B0-3`, and the halves `I` and `W` of a `B`."""
    begun: float
    ended: float
    step: int
    part: int

    @property
    def letter(self) -> str:
        """F, B, I or W of a pass of blocks that are named, else nothing."""
        return self.name[0] if _PASS.fullmatch(self.name) else ""


class Transfer(NamedTuple):
    """One rank's side of a message or a collective.

    `channel` names what must match on both sides: "message SOURCE>DESTINATION TAG" or "KIND RANK,RANK,...", and `sequence`
    counts within it. The rank called at `posted`, began to await at `awaited` (equal to `ended` if nobody waited) and the
    transfer was over at `ended`.
    """

    kind: str
    channel: str
    sequence: int
    nbytes: float
    posted: float
    awaited: float
    ended: float


class Update(NamedTuple):
    """An update of the model was complete: the `number`-th, after `samples` samples of all workers together."""

    number: int
    samples: int
    time: float


class Loss(NamedTuple):
    """The mean training loss of one batch share, as computed before its update."""

    step: int
    part: int
    parts: int
    value: float
    time: float


class Arrival(NamedTuple):
    """A gradient that reached a server: its worker, the version it was computed on, its staleness when it was applied
    (or discarded), and which of the two happened. In order of that decision."""

    source: int
    version: int
    staleness: int
    applied: bool
    time: float


class Interruption(NamedTuple):
    """A rank's program was cut off at `at` seconds, by the loss of rank `lost`; what it had under way was dropped.

    It ran again at `resumed` (infinite: never), from a state of which `updates` fewer updates were made. Of the gradients
    that it had sent, `gradients` were neither applied nor discarded.
    """

    at: float
    lost: int
    resumed: float
    updates: int
    gradients: int


@dataclass
class Trace:
    """All records of one rank, in the order in which they were awaited."""

    rank: int
    compute: list[Compute] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    interruptions: list[Interruption] = field(default_factory=list)
    ended: float = 0.0
    """When the rank's program returned."""
    gradients: int = 0
    """Gradients that this rank sent away (label `gradient`)."""
    peak: Memory = field(default_factory=Memory)
    """What the rank held when it held most."""
    peak_activations: float = 0.0
    """Most bytes of activations held at once."""


RECORDS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "compute": Compute,
        "transfers": Transfer,
        "updates": Update,
        "losses": Loss,
        "arrivals": Arrival,
        "interruptions": Interruption,
    }
)
"""The lists of a trace, and what they hold."""
