"""Where the time of a run went. Every instant of a rank in [0, T] belongs to exactly one of four kinds:

    compute        an operation runs on its compute queue
    communication  otherwise, it awaits a transfer that every side has posted: communication that nothing hides
    waiting        otherwise, it awaits a transfer that another side has not posted yet
    other          otherwise: its program runs, or nothing does

The order decides where kinds overlap (several flows of control may await at once). T is when the last update was complete;
what happens later is clipped away. The four fractions of T add up to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distsim.interface.trace import Trace
from distsim.results.intervals import Interval, length, union, without
from distsim.results.matching import Key, begins

KINDS = ("compute", "communication", "waiting", "other")

ROUNDING = 1e-9
"""By which the parts may exceed the whole."""

_WORDS = {
    "compute": "computing",
    "communication": "communication that no computing hides",
    "waiting": "waiting for other ranks",
    "other": "time outside of computing and communication",
}


@dataclass(frozen=True)
class Division:
    """One rank's time, divided: sorted, disjoint intervals of each kind but `other`, which is what is left of [0, T]."""

    rank: int
    compute: list[Interval]
    communication: list[Interval]
    waiting: list[Interval]

    def fractions(self, seconds: float) -> dict[str, float]:
        """The four shares of `seconds`; they add up to 1. A run of no length is all `other`."""
        if seconds <= 0.0:
            return {"compute": 0.0, "communication": 0.0, "waiting": 0.0, "other": 1.0}
        shares = [length(spans) / seconds for spans in (self.compute, self.communication, self.waiting)]
        other = 1.0 - sum(shares)
        assert other > -ROUNDING, f"rank {self.rank}: {dict(zip(KINDS, shares, strict=False))} are more than all its time"
        return dict(zip(KINDS, [*shares, max(0.0, other)], strict=True))


def divide(traces: Sequence[Trace], seconds: float) -> list[Division]:
    """Divide the time of every rank in [0, seconds]. `traces` must hold all ranks: only then is it known who was late."""
    begun = begins(traces)
    return [_divide(trace, begun, seconds) for trace in traces]


def _divide(trace: Trace, begun: Mapping[Key, float], seconds: float) -> Division:
    moving: list[Interval] = []
    late: list[Interval] = []
    for transfer in trace.transfers:
        both = min(max(begun[transfer.channel, transfer.sequence], transfer.awaited), transfer.ended)
        late.append((transfer.awaited, both))
        moving.append((both, transfer.ended))
    compute = union(((span.begun, span.ended) for span in trace.compute), 0.0, seconds)
    communication = without(union(moving, 0.0, seconds), compute)
    waiting = without(without(union(late, 0.0, seconds), compute), communication)
    return Division(trace.rank, compute, communication, waiting)


def by_rank(traces: Sequence[Trace], seconds: float) -> dict[int, dict[str, float]]:
    """The four fractions of [0, seconds] for every rank, servers included."""
    return {division.rank: division.fractions(seconds) for division in divide(traces, seconds)}


def breakdown(traces: Sequence[Trace], workers: int, seconds: float) -> dict[str, float]:
    """The four fractions as means over the workers (ranks below `workers`); servers do not count."""
    shares = [fractions for rank, fractions in by_rank(traces, seconds).items() if rank < workers]
    if not shares:
        return {"compute": 0.0, "communication": 0.0, "waiting": 0.0, "other": 1.0}
    return {kind: sum(fractions[kind] for fractions in shares) / len(shares) for kind in KINDS}


def dominating(fractions: Mapping[str, float]) -> str:
    """The kind with the largest fraction; the first named in `KINDS` on a tie."""
    return max(KINDS, key=lambda kind: fractions[kind])


def in_words(kind: str) -> str:
    """What a kind of time is called in a sentence."""
    return _WORDS[kind]
