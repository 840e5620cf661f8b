"""The board: what every rank is doing now, in a file that all ranks of a run and their launcher map.

Each rank writes its own part, without locks or system calls (some 2 us an operation), and the launcher reads: how many
operations the rank has completed, when the last, how long the slowest took, and what each of its flows of control is in.
It is how a rank that can no longer speak (killed, stopped, blocked in gloo) is still reported with its operation and line.
Times are CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time
from pathlib import Path
from typing import NamedTuple

_HEAD = struct.Struct("<Qddd16s")  # operations completed, time of the last, slowest, the clock's zero, phase
_FLOWS = 8

NOTHING, RUNS, WAITS, COMPUTES, IDLES = b"\0", b"r", b"w", b"c", b"i"
_VERBS = {
    RUNS: ("runs its own code after", "ran its own code after"),
    WAITS: ("waits for", "waited for"),
    COMPUTES: ("computes", "computed"),
    IDLES: ("is slowed down in", "was slowed down in"),
}


class Flow(NamedTuple):
    """One flow of control of a rank: its state, since when, and the operation it is in (or was in last, if it runs)."""

    state: bytes
    since: float
    number: int
    """Of the collective in its group; -1 for anything else."""
    peers: tuple[int, ...]
    """The rank at the other end of a message (none if it is any), or the collective's group."""
    what: str

    def says(self, past: bool = False) -> str:
        """The state and the operation in words."""
        verb = _VERBS[self.state][past]
        return f"{verb} {self.what}" if self.what else verb.removesuffix(" after")


class Part(NamedTuple):
    """What the board says about one rank."""

    completed: int
    progressed: float
    slowest: float
    origin: float
    """Zero of the run's clock, once the rank runs."""
    phase: str
    flows: list[Flow]

    @property
    def doing(self) -> str:
        """The phase and, in the run, what every flow was in: the end of a sentence about what happened to the rank."""
        if self.phase != "run" or not self.flows:
            return f"in its phase {self.phase!r}"
        return "while it " + " and ".join(flow.says(past=True) for flow in self.flows)


class _Layout:
    """Where a rank's part and its flows lie; a flow can name every rank as its peer, and in its words."""

    def __init__(self, world_size: int) -> None:
        # state, since, number of the collective, number of peers, peers, what
        self.flow = struct.Struct(f"<cdqH{2 * world_size}s{160 + 6 * world_size}s")
        self.part = _HEAD.size + _FLOWS * self.flow.size

    def place(self, rank: int, flow: int) -> int:
        """Where a flow begins."""
        return rank * self.part + _HEAD.size + flow * self.flow.size


class Board:
    """The launcher's view of all ranks."""

    def __init__(self, path: Path, world_size: int) -> None:
        self._layout = _Layout(world_size)
        path.write_bytes(bytes(world_size * self._layout.part))
        self._shifts: dict[int, float] = {}
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def read(self, rank: int) -> Part:
        """What the rank has written last."""
        layout, shift = self._layout, self._shifts.get(rank, 0.0)
        completed, progressed, slowest, origin, phase = _HEAD.unpack_from(self._map, rank * layout.part)
        flows = []
        for i in range(_FLOWS):
            state, since, number, count, peers, what = layout.flow.unpack_from(self._map, layout.place(rank, i))
            if state in _VERBS:
                ranks = struct.unpack_from(f"<{count}H", peers)
                flows.append(Flow(state, since + shift, number, ranks, _text(what)))
        return Part(completed, progressed + shift, slowest, origin + shift, _text(phase) or "start", flows)

    def raw(self, rank: int) -> bytes:
        """The rank's part as it lies there, for another launcher's board."""
        return self._map[rank * self._layout.part : (rank + 1) * self._layout.part]

    def put(self, rank: int, raw: bytes, shift: float) -> None:
        """Show the part of a rank of another launcher, whose clock is `shift` seconds behind ours."""
        self._shifts[rank] = shift
        self._map[rank * self._layout.part : (rank + 1) * self._layout.part] = raw

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()


class Desk:
    """A rank's own part of the board, and its clock. Flows of control are threads; the first 8 are shown."""

    def __init__(self, path: Path, rank: int, world_size: int) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._layout = _Layout(world_size)
        self._rank = rank
        self._completed = 0
        self._slowest = 0.0
        self._phase = b""
        self._free = list(range(1, _FLOWS))
        self._local = threading.local()
        self._local.place = self._place(0)
        self.origin = time.monotonic()
        """When the run began: zero of the run's clock."""

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.origin

    def phase(self, name: str) -> None:
        """Enter a phase: start, numerics, rendezvous, run, end or done."""
        self._phase = name.encode()
        self._progress(0.0)

    def enter(self, state: bytes, what: str, peers: tuple[int, ...] = (), number: int = -1) -> None:
        """This flow is in operation `what` from now on."""
        place = getattr(self._local, "place", None)
        if place is not None:
            ranks = struct.pack(f"<{len(peers)}H", *peers)
            self._layout.flow.pack_into(self._map, place, state, time.monotonic(), number, len(peers), ranks, what.encode())

    def leave(self, seconds: float) -> None:
        """This flow's operation is over; it took so long."""
        place = getattr(self._local, "place", None)
        if place is not None:
            struct.pack_into("<cd", self._map, place, RUNS, time.monotonic())
        self._progress(seconds)

    def open_flow(self) -> None:
        """The calling thread is a flow of control of the strategy."""
        self._local.place = self._place(self._free.pop(0)) if self._free else None

    def close_flow(self) -> None:
        """The calling thread ends."""
        if self._local.place is not None:
            struct.pack_into("<c", self._map, self._local.place, NOTHING)
            self._free.append((self._local.place - self._place(0)) // self._layout.flow.size)

    def _place(self, flow: int) -> int:
        return self._layout.place(self._rank, flow)

    def _progress(self, seconds: float) -> None:
        self._completed += 1
        self._slowest = max(self._slowest, seconds)
        place, now = self._rank * self._layout.part, time.monotonic()
        _HEAD.pack_into(self._map, place, self._completed, now, self._slowest, self.origin, self._phase)


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
