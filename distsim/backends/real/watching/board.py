"""The board: what every rank is doing now and did last, in a file that all ranks of a run and their launcher map.

Each rank writes its own part, without locks or system calls (some 2 us an operation), and the launcher reads: how many
operations the rank has completed, when the last, how long the slowest took, its last update, and of each of its flows of
control the last operations. It is how a rank that can no longer speak (killed, stopped, blocked in gloo) is still reported
with its operation and line. Times are CLOCK_MONOTONIC, which all processes of a machine share.

A flow keeps its operations in a ring of its own, so that what one flow waits in is not overwritten by what another does: an
operation is written when it begins, then made the flow's current one, and its end is added when it is over. From then on
the flow runs its own code.
"""

from __future__ import annotations

import mmap
import struct
import threading
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from distsim import durable
from distsim.interface import Trace, Update

_HEAD = struct.Struct("<Qddd16sqqd")  # operations completed, time of the last, slowest, clock's zero, phase, last update
_PROGRESS = struct.Struct("<Qdd")  # the first of these
_UPDATE = struct.Struct("<qqd")  # the last
_UPDATE_AT = _HEAD.size - _UPDATE.size
_FLOW = struct.Struct("<cdQ")  # state, since when, operations begun
_ENDED = struct.Struct("<d")
_ENDED_AT = 9  # bytes into an operation
_pack_flow, _pack_ended, _pack_progress = _FLOW.pack_into, _ENDED.pack_into, _PROGRESS.pack_into
_FLOWS = 8
_KEPT = 32  # operations of a flow

NOTHING, RUNS, WAITS, COMPUTES, IDLES, SAVES = b"\0", b"r", b"w", b"c", b"i", b"s"
_VERBS = {
    RUNS: ("runs its own code after", "ran its own code after"),
    WAITS: ("waits for", "waited for"),
    COMPUTES: ("computes", "computed"),
    SAVES: ("saves", "saved"),
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


class Last(NamedTuple):
    """One of the last operations of a rank."""

    flow: int
    begun: float
    ended: float
    """0 while it is under way."""
    step: int
    """Of its batch or the last before it; without batches, the update under way."""
    number: int
    peers: tuple[int, ...]
    what: str
    is_wait: bool


class Part(NamedTuple):
    """What the board says about one rank."""

    completed: int
    progressed: float
    slowest: float
    origin: float
    """Zero of the run's clock, once the rank runs."""
    phase: str
    update: Update
    """The last that this rank has counted; number 0 before that."""
    flows: list[Flow]

    @property
    def doing(self) -> str:
        """The phase and, in the run, what every flow was in: the end of a sentence about what happened to the rank."""
        if self.phase != "run" or not self.flows:
            return f"in its phase {self.phase!r}"
        return "while it " + " and ".join(flow.says(past=True) for flow in self.flows)


class _Layout:
    """Where a rank's part, its flows and their operations lie; an operation can name every rank as its peer, and in its
    words. A part is a whole number of pages, so that a rank maps no other's."""

    def __init__(self, world_size: int) -> None:
        # state, begun, ended, step, number of the collective, number of peers, peers, what
        self.entry = struct.Struct(f"<cddqqH{2 * world_size}s{160 + 6 * world_size}s")
        self.flow = _FLOW.size + _KEPT * self.entry.size
        self.part = -(_HEAD.size + _FLOWS * self.flow) // mmap.ALLOCATIONGRANULARITY * -mmap.ALLOCATIONGRANULARITY

    def place(self, flow: int) -> int:
        """Where a flow begins in its part."""
        return _HEAD.size + flow * self.flow


Raw = list[tuple[int, bytes]]
"""Pieces of a rank's part, and where in it they lie."""


class Board:
    """The launcher's view of all ranks."""

    def __init__(self, path: Path, world_size: int) -> None:
        self._layout = _Layout(world_size)
        self._shifts: dict[int, float] = {}
        with path.open("w+b") as file:
            durable.reserve(file.fileno(), world_size * self._layout.part, path)
            self._map = mmap.mmap(file.fileno(), 0)

    def read(self, rank: int) -> Part:
        """What the rank has written last."""
        layout, part, shift = self._layout, rank * self._layout.part, self._shifts.get(rank, 0.0)
        completed, progressed, slowest, origin, phase, *update = _HEAD.unpack_from(self._map, part)
        flows = []
        for i in range(_FLOWS):
            place = part + layout.place(i)
            state, since, begun = _FLOW.unpack_from(self._map, place)
            if state in _VERBS:
                _, _, ended, _, number, peers, what = self._entry(place, (begun - 1) % _KEPT)
                if ended:
                    state, since = RUNS, ended
                flows.append(Flow(state, since + shift, number, peers, what))
        text = _text(phase) or "start"
        return Part(completed, progressed + shift, slowest, origin + shift, text, Update(*update), flows)

    def last(self, rank: int) -> list[Last]:
        """The rank's last operations, in the order in which they began."""
        found, shift = [], self._shifts.get(rank, 0.0)
        for i in range(_FLOWS):
            place = rank * self._layout.part + self._layout.place(i)
            _, _, count = _FLOW.unpack_from(self._map, place)
            for number in range(max(0, count - _KEPT), count):
                state, begun, ended, step, collective, peers, what = self._entry(place, number % _KEPT)
                if what:
                    ended = ended and ended + shift
                    found.append(Last(i, begun + shift, ended, step, collective, peers, what, state == WAITS))
        return sorted(found, key=lambda last: last.begun)

    def raw(self, rank: int, whole: bool) -> Raw:
        """The rank's part for another launcher's board: with all of its last operations, or with the current ones alone."""
        layout, part = self._layout, rank * self._layout.part
        if whole:
            return [(0, self._map[part : part + layout.place(_FLOWS)])]
        pieces = [(0, _HEAD.size)]
        for i in range(_FLOWS):
            begun = _FLOW.unpack_from(self._map, part + layout.place(i))[2]
            if begun:
                pieces.append((layout.place(i), _FLOW.size))
                pieces.append((layout.place(i) + _FLOW.size + (begun - 1) % _KEPT * layout.entry.size, layout.entry.size))
        return [(at, self._map[part + at : part + at + size]) for at, size in pieces]

    def put(self, rank: int, raw: Raw, shift: float) -> None:
        """Show the part of a rank of another launcher, whose clock is `shift` seconds behind ours."""
        self._shifts[rank] = shift
        for at, piece in raw:
            begin = rank * self._layout.part + at
            self._map[begin : begin + len(piece)] = piece

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()

    def _entry(self, flow: int, slot: int) -> tuple[bytes, float, float, int, int, tuple[int, ...], str]:
        place = flow + _FLOW.size + slot * self._layout.entry.size
        state, begun, ended, step, number, count, peers, what = self._layout.entry.unpack_from(self._map, place)
        return state, begun, ended, step, number, struct.unpack_from(f"<{count}H", peers), _text(what)


class _Place:
    """Where a flow writes."""

    __slots__ = ("begun", "entries", "entry", "flow")

    def __init__(self, flow: int, size: int) -> None:
        self.flow = flow
        self.begun = 0
        self.entries = cycle([flow + _FLOW.size + slot * size for slot in range(_KEPT)])
        self.entry = flow + _FLOW.size


class _Thread(threading.local):
    """Where the thread writes, if it is a flow that is shown."""

    place: _Place | None = None


class Desk:
    """A rank's own part of the board, and its clock. Flows of control are threads; the first 8 are shown."""

    def __init__(self, path: Path, rank: int, world_size: int) -> None:
        self._layout = _Layout(world_size)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), self._layout.part, offset=rank * self._layout.part)
        self._pack = self._layout.entry.pack_into
        self._completed = 0
        self._slowest = 0.0
        self._updates: Sequence[Update] = ()
        self._update: Update | None = None
        self._peers = dict[tuple[int, ...], bytes]()
        """As they are written."""
        self._free = [_Place(self._layout.place(flow), self._layout.entry.size) for flow in range(_FLOWS)]
        self._thread = _Thread()
        self._thread.place = self._free.pop(0)
        self.origin = time.monotonic()
        """When the run began: zero of the run's clock."""
        self.step: int | None = None
        """The batch's that is computed or was last, if there are any."""
        self.trace: Trace | None = None
        """What the rank records, once it runs."""

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.origin

    def follow(self, trace: Trace) -> None:
        """Show the updates that are recorded there from now on."""
        self.trace, self._updates = trace, trace.updates

    def phase(self, name: str) -> None:
        """Enter a phase: start, numerics, rendezvous, run, end or done."""
        self._completed += 1
        self._update = self._updates[-1] if self._updates else None
        head = self._completed, time.monotonic(), self._slowest, self.origin, name.encode(), *(self._update or (0, 0, 0.0))
        _HEAD.pack_into(self._map, 0, *head)

    def enter(self, state: bytes, what: str, peers: tuple[int, ...] = (), number: int = -1) -> float:
        """This flow is in operation `what` from now on, which is given in seconds since the run began."""
        now, place = time.monotonic(), self._thread.place
        if place is not None:
            step = self.step
            if step is None:
                step = 0 if self._update is None else self._update.number
            if peers not in self._peers:
                self._peers[peers] = struct.pack(f"<{len(peers)}H", *peers)
            place.entry = entry = next(place.entries)
            place.begun = begun = place.begun + 1
            self._pack(self._map, entry, state, now, 0.0, step, number, len(peers), self._peers[peers], what.encode())
            _pack_flow(self._map, place.flow, state, now, begun)
        return now - self.origin

    def turn(self, state: bytes) -> None:
        """This flow's operation goes on in another state."""
        place = self._thread.place
        if place is not None:
            _pack_ended(self._map, place.entry + _ENDED_AT, 0.0)
            _pack_flow(self._map, place.flow, state, time.monotonic(), place.begun)

    def leave(self, begun: float | None = None) -> float:
        """This flow's operation is over now, which is given. How long an operation takes here is judged by those that say
        when they began."""
        now, place = time.monotonic(), self._thread.place
        if place is not None:
            _pack_ended(self._map, place.entry + _ENDED_AT, now)
        since = now - self.origin
        if begun is not None and since - begun > self._slowest:
            self._slowest = since - begun
        self._completed = completed = self._completed + 1
        _pack_progress(self._map, 0, completed, now, self._slowest)
        updates = self._updates
        if updates and updates[-1] is not self._update:
            self._update = updates[-1]
            _UPDATE.pack_into(self._map, _UPDATE_AT, *self._update)
        return since

    def leave_part(self, seconds: float) -> None:
        """Part of this flow's operation is over, and counts as one; it took so long."""
        self._completed = completed = self._completed + 1
        self._slowest = max(self._slowest, seconds)
        _pack_progress(self._map, 0, completed, time.monotonic(), self._slowest)

    def open_flow(self) -> None:
        """The calling thread is a flow of control of the strategy."""
        try:
            self._thread.place = self._free.pop(0)
        except IndexError:  # of several threads that begin, one takes the last
            self._thread.place = None

    def close_flow(self) -> None:
        """The calling thread ends."""
        place = self._thread.place
        if place is not None:
            _FLOW.pack_into(self._map, place.flow, NOTHING, time.monotonic(), place.begun)
            self._free.append(place)


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
