"""The ledger of a group: what each of its members has called last, in a file that all of them map.

Whoever comes last to a collective sees what the others have called and raises if it is different, at no cost to the
transport; otherwise different kinds would hang, and different sizes be aborted by gloo.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import get_args

from distsim import durable
from distsim.interface import Collective, StrategyError
from distsim.interface.fabric import Kind

_ENTRY = struct.Struct("<q16sqq")  # number + 1, dtype, scalars, kind and reduction and root
_NAME = re.compile("group-[0-9a-f]{24}")  # as group_file makes them
_KINDS = get_args(Kind)
_OPS = ("", "mean", "sum")
_DEPTH = 256  # collectives that a member may be ahead of another and still be compared


class Ledger:
    """What each member of a group has called last; its collectives are numbered from `first`."""

    def __init__(self, folder: Path, ranks: Sequence[int], rank: int, first: int = 0) -> None:
        self._ranks = ranks
        self._mine = ranks.index(rank)
        self._called = self._first = first
        path, size = group_file(folder, ranks), len(ranks) * _DEPTH * _ENTRY.size
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            durable.reserve(file.fileno(), size, path)
            self._map = mmap.mmap(file.fileno(), size)

    def check(self, collective: Collective, dtype: str, scalars: int) -> int:
        """Write down this rank's next collective; its number. Raises `StrategyError` if another member's is different."""
        number = self._called
        self._called += 1
        code = _KINDS.index(collective.kind) + 8 * _OPS.index(collective.op) + 32 * collective.root
        call = (dtype.encode(), scalars, code)
        place = _place(self._mine, number)
        _ENTRY.pack_into(self._map, place, 0, *call)
        struct.pack_into("<q", self._map, place, number + 1)
        for position, other in enumerate(self._ranks):
            sequence, *theirs = _ENTRY.unpack_from(self._map, _place(position, number))
            found = (theirs[0].rstrip(b"\0"), theirs[1], theirs[2])
            if sequence == number + 1 and found != call:
                group, since = ",".join(map(str, self._ranks)), number - self._first
                raise StrategyError(
                    f"collective {since} of ranks {group} must be the same on all of them, but "
                    f"rank {self._ranks[self._mine]} calls {_words(*call)} and rank {other} called {_words(*found)}"
                )
        return number


def not_joined(folder: Path, ranks: Sequence[int], number: int) -> list[int]:
    """The members of a group that have not called its collective of this number."""
    file = group_file(folder, ranks)
    if not file.exists():  # a group of other launchers' ranks, which have not told of it
        return []
    whole = len(ranks) * _DEPTH * _ENTRY.size  # what other launchers have told of may end before
    data = file.read_bytes().ljust(whole, b"\0")
    return [rank for i, rank in enumerate(ranks) if _ENTRY.unpack_from(data, _place(i, number))[0] < number + 1]


def slices(folder: Path) -> dict[str, dict[int, bytes]]:
    """What members of this launcher's have called, by the file of the group and their place in it."""
    size = _DEPTH * _ENTRY.size
    found: dict[str, dict[int, bytes]] = {}
    for file in folder.glob("group-*"):
        if not file.suffix:
            data = file.read_bytes()
            parts = {i: data[i : i + size] for i in range(0, len(data), size)}
            found[file.name] = {place: part for place, part in parts.items() if any(part)}
    return found


def merge(folder: Path, found: dict[str, dict[int, bytes]]) -> None:
    """Enter what members of another launcher's have called. What is no group's name is passed over."""
    for name, parts in found.items():
        if not _NAME.fullmatch(name):
            continue
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        for place, part in parts.items():
            os.pwrite(descriptor, part, place)
        os.close(descriptor)


def group_file(folder: Path, ranks: Sequence[int]) -> Path:
    """Where the ledger of a group lies; a name for it."""
    return folder / f"group-{blake2b(repr(tuple(ranks)).encode(), digest_size=12).hexdigest()}"


def _place(position: int, number: int) -> int:
    return (position * _DEPTH + number % _DEPTH) * _ENTRY.size


def _words(dtype: bytes, scalars: int, code: int) -> str:
    kind, op, root = _KINDS[code % 8], _OPS[code // 8 % 4], code // 32
    how = f" ({op})" if op else ""
    how += {"broadcast": f" from position {root}", "reduce": f" to position {root}"}.get(kind, "")
    return f"{kind}{how} of {scalars} {dtype.decode()}"
