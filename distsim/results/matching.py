"""Brings the two ends of every transfer together.

Each rank records its own side only. A message has two sides, a collective one a member; they share a channel and a number
within it. A transfer begins when its last side has posted it (rendez-vous), so when it began is known only here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from distsim.interface.trace import Trace, Transfer

Key = tuple[str, int]
"""Channel and number within it: what both sides of one transfer share."""


class Side(NamedTuple):
    """One rank's record of a transfer."""

    rank: int
    transfer: Transfer


def sides(traces: Iterable[Trace]) -> dict[Key, list[Side]]:
    """All records of all ranks, by the transfer they belong to."""
    found: dict[Key, list[Side]] = {}
    for trace in traces:
        for transfer in trace.transfers:
            found.setdefault((transfer.channel, transfer.sequence), []).append(Side(trace.rank, transfer))
    return found


def parties(channel: str) -> list[tuple[int, str]]:
    """The (rank, kind) records that a transfer on `channel` needs, by the channel's name (see interface/trace.py)."""
    kind, ranks, *_ = channel.split(" ", 2)
    if kind == "message":
        source, destination = ranks.split(">")
        return [(int(source), "send"), (int(destination), "receive")]
    return [(int(rank), kind) for rank in ranks.split(",")]


def begins(traces: Iterable[Trace]) -> Mapping[Key, float]:
    """When each transfer began: its latest post. Infinite where a side is missing, as after a failure."""
    latest: dict[Key, float] = {}
    count: dict[Key, int] = {}
    for trace in traces:
        for _, channel, sequence, _, posted, _, _ in trace.transfers:
            key = channel, sequence
            if key not in latest:
                latest[key], count[key] = posted, 1
            else:
                count[key] += 1
                if posted > latest[key]:
                    latest[key] = posted
    needed = {channel: len(parties(channel)) for channel in dict.fromkeys(channel for channel, _ in latest)}
    return {key: posted if count[key] == needed[key[0]] else float("inf") for key, posted in latest.items()}
