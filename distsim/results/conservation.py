"""What goes in comes out: checks that hold for every run that ended as planned, in every mode.

- Each message was recorded once by its sender and once by its receiver, each collective once by every member, with equal
  bytes: bytes sent = bytes delivered, channel by channel. A side may lack whose rank was interrupted after the transfer was
  called: then it was dropped.
- The gradients that a rank sent = those applied + those discarded + those dropped when it was interrupted.
- The operations of a rank's compute queue follow each other; times are finite and in order.

Every run is looked through quickly first, in the order in which its records lie; only where that finds a fault, or an order
that it does not know, are they sorted and matched one by one, and what is off is said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import inf, isfinite

from distsim.interface.errors import DistsimError
from distsim.interface.trace import Trace
from distsim.results.matching import Side, parties, sides

CLOCK = 1e-9
"""Seconds by which two readings of a clock may disagree before spans count as overlapping."""


class NotConserved(DistsimError):
    """A record contradicts itself: bytes, gradients or time got lost or appeared. A mistake of distsim, not of its user."""


def check_conservation(traces: Sequence[Trace]) -> None:
    """Raise `NotConserved` with everything that is off, one line each (at most 20), if the run's records contradict it."""
    off = list(_gradients(traces))
    if off or not (_is_in_time(traces) and _is_matched(traces)):
        off = [*_transfers(traces), *off, *_times(traces)]
    if off:
        more = [f"and {len(off) - 20} more"] if len(off) > 20 else []
        raise NotConserved("\n".join([*off[:20], *more]))


def _is_in_time(traces: Sequence[Trace]) -> bool:
    """True only if `_times` has nothing to say."""
    for trace in traces:
        free = 0.0
        for _, begun, ended, _, _ in trace.compute:
            if not free - CLOCK <= begun <= ended < inf:
                return False
            if ended > free:
                free = ended
        for _, _, _, _, posted, awaited, ended in trace.transfers:
            if not posted <= awaited <= ended < inf:
                return False
    return True


def _is_matched(traces: Sequence[Trace]) -> bool:
    """True only if `_transfers` has nothing to say."""
    found: defaultdict[str, dict[tuple[int, str], list[tuple[int, float]]]] = defaultdict(dict)
    for trace in traces:
        mine: defaultdict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
        for kind, channel, sequence, nbytes, _, _, _ in trace.transfers:
            mine[channel, kind].append((sequence, nbytes))
        for (channel, kind), records in mine.items():
            records.sort()
            if (trace.rank, kind) in found[channel]:
                return False  # two traces of one rank
            found[channel][trace.rank, kind] = records
    for channel, records_by in found.items():
        needed = parties(channel)
        if len(records_by) != len(needed) or any(party not in records_by for party in needed):
            return False
        first = records_by[needed[0]]
        if any(records != first for records in records_by.values()) or len(dict(first)) != len(first):
            return False
    return True


def _transfers(traces: Sequence[Trace]) -> Iterator[str]:
    cut_off = {trace.rank: trace.interruptions[-1].resumed for trace in traces if trace.interruptions}
    for (channel, number), found in sides(traces).items():
        needed, seen = parties(channel), [(side.rank, side.transfer.kind) for side in found]
        if sorted(seen) != sorted(needed):
            posted, lacking = min(side.transfer.posted for side in found), [party for party in needed if party not in seen]
            if len(seen) + len(lacking) == len(needed) and all(posted <= cut_off.get(rank, -1.0) for rank, _ in lacking):
                continue
            yield f"{channel}, number {number}: recorded by {_names(seen)}, not by {_names(needed)}"
        elif len({side.transfer.nbytes for side in found}) > 1:
            yield f"{channel}, number {number}: the bytes differ: {_bytes(found)}"


def _gradients(traces: Sequence[Trace]) -> Iterator[str]:
    decided: dict[int, int] = {}
    for trace in traces:
        for arrival in trace.arrivals:
            decided[arrival.source] = decided.get(arrival.source, 0) + 1
    for trace in traces:
        count, dropped = decided.pop(trace.rank, 0), sum(each.gradients for each in trace.interruptions)
        if count + dropped != trace.gradients:
            more = f", {dropped} dropped" if dropped else ""
            yield f"rank {trace.rank} sent {trace.gradients} gradients; {count} were applied or discarded{more}"
    for rank, count in decided.items():
        yield f"rank {rank} left no record; {count} of its gradients were applied or discarded"


def _times(traces: Sequence[Trace]) -> Iterator[str]:
    for trace in traces:
        free = 0.0
        for span in sorted(trace.compute, key=lambda span: (span.begun, span.ended)):
            name = f"rank {trace.rank}: {span.name} [{span.begun!r}, {span.ended!r}]"
            if not (isfinite(span.begun) and isfinite(span.ended) and span.begun <= span.ended):
                yield f"{name} ends before it begins"
            elif span.begun < free - CLOCK:
                yield f"{name} begins before the operation ahead of it ended at {free!r}"
            free = max(free, span.ended)
        for transfer in trace.transfers:
            if not transfer.posted <= transfer.awaited <= transfer.ended < float("inf"):
                yield f"rank {trace.rank}: {transfer.channel}, number {transfer.sequence}: times out of order: {transfer}"


def _names(records: list[tuple[int, str]]) -> str:
    return ", ".join(f"rank {rank} ({kind})" for rank, kind in records) or "nobody"


def _bytes(found: list[Side]) -> str:
    return ", ".join(f"{side.transfer.nbytes:g} at rank {side.rank}" for side in found)
