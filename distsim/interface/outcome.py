"""What a backend gives back: how the run ended, and what every rank recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distsim.interface.trace import Trace
from distsim.interface.values import Region


class Piece(NamedTuple):
    """Published parameters: those of `region` (its blocks named) on a rank that holds tensor shard `shard` of how many."""

    region: Region
    shard: tuple[int, int]
    values: Any


class Snapshot(NamedTuple):
    """What one rank published after update `number`.

    The model of an update is the union of what all ranks published for it; what overlaps is averaged.
    """

    number: int
    samples: int
    time: float
    pieces: list[Piece]


class Losses(NamedTuple):
    """What failures took from a run."""

    failures: int
    """Ranks that were lost, those lost during a restart included."""
    restarts: int
    """How often all ranks began again."""
    checkpoints: int
    """That were complete."""
    lost_seconds: float
    """Of the run's clock: work that was undone, and until work went on; of ranks that were away while others worked, with
    their share of all ranks."""


@dataclass
class Outcome:
    """The end of one run. `status` is done, failed, diverged, deadlocked, timed out, out of memory or interrupted;
    `message` says why if not done."""

    status: str
    message: str
    seconds: float
    """On the run's clock, until the last update; the budget's clock."""
    traces: list[Trace] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    weights: list[dict[int, Any]] = field(default_factory=list)
    """By rank: block -> flat parameters at the end, of blocks that are whole there; of a cut one its tensor shard."""
    losses: Losses | None = None
    """None where nothing can fail."""
    copies: int = 1
    """Ranks that each trace stands for: identical ones may have been simulated as one."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the result must know: contention, approximations."""
    contended: bool = False
    """Ranks shared cores or GPUs: times hold for the machine they were measured on alone."""


class Interrupted(KeyboardInterrupt):
    """Somebody ended the run from outside; `outcome` is what is known of it."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


def interrupted(traces: list[Trace], notes: list[str] | None = None) -> Outcome:
    """The outcome of a run that was interrupted, with what its ranks had recorded."""
    last = max((trace.updates[-1] for trace in traces if trace.updates), default=None)
    updates, seconds = (0, 0.0) if last is None else (last.number, last.time)
    message = f"interrupted after {updates} updates: run it again to have all of them"
    return Outcome("interrupted", message, seconds, traces=traces, notes=notes or [])
