"""What a backend gives back: how the run ended, and what every rank recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distsim.interface.trace import Trace


class Snapshot(NamedTuple):
    """Parameters of some blocks as published after update `number`. `values` maps block -> its flat parameters.

    The model of an update is the union of what all ranks published for it; what overlaps is averaged.
    """

    number: int
    samples: int
    time: float
    values: dict[int, Any]


@dataclass
class Outcome:
    """The end of one run. `status` is done, failed, diverged, deadlocked or timed out; `message` says why if not done."""

    status: str
    message: str
    seconds: float
    """On the run's clock, until the last update; the budget's clock."""
    traces: list[Trace] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    weights: list[dict[int, Any]] = field(default_factory=list)
    """By rank: block -> flat parameters at the end (empty where no values exist)."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the result must know: contention, approximations."""
