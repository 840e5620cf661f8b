"""What real transports do to transfers beyond sharing links: corrections of the fluid model, all of them off by default."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Transport:
    """Corrections of what the links promise, for every transfer between two hosts.

    A transfer of s bytes, alone on a path of latency L whose narrowest link has bandwidth B, takes
    message_seconds + latency_factor L + s / min(bandwidth_factor B, bandwidth_factor window_bytes / (2 L)).
    """

    bandwidth_factor: float = 1.0
    """Share of a link's bandwidth that payload gets: the rest are headers and acknowledgements."""
    latency_factor: float = 1.0
    """How many latencies a transfer takes before its bytes flow: slow start and the transport's own messages."""
    message_seconds: float = 0.0
    """Seconds that each message costs before its bytes flow; not hidden behind the message before it, as latency is."""
    window_bytes: float = inf
    """Bytes that may be under way unacknowledged: a transfer's rate is at most window / (2 L), L without its factor."""
    eager_bytes: float = 0.0
    """A message of fewer bytes travels, and its send is over, before its receive is posted; 0: every one is awaited."""
    one_at_a_time: bool = False
    """Messages of a rank to the same peer follow each other whatever their tag, as on gloo's one connection a pair."""


LV08 = Transport(bandwidth_factor=0.97, latency_factor=13.01, window_bytes=4194304.0)
"""SimGrid's LV08, fitted to packet-level TCP: Velho and Legrand, "Accuracy study and improvement of network simulation in
the SimGrid framework", SIMUTools 2009. Left out: sharing by round-trip time (weight-S 20537), under which flows of unequal
paths get unequal shares, and cross-traffic (acknowledgements that take 5 % of the way back). A transfer alone, or transfers
over equal paths in one direction, take SimGrid's times.
"""
NO_CORRECTIONS = Transport()
"""What the links promise."""
