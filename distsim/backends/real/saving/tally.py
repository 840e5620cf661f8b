"""What a launcher must know of ranks that are killed: when they began, and by rank updates made and gradients sent.

A file that all of them map, as the board is; each rank writes its own numbers.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_STARTED = struct.Struct("<d")
_RANK = struct.Struct("<qq")  # updates made, gradients sent


class Tally:
    """The numbers of all ranks of one incarnation; `make` for the launcher, who is there first."""

    def __init__(self, path: Path, world_size: int, make: bool = False) -> None:
        if make:
            path.write_bytes(bytes(_STARTED.size + world_size * _RANK.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._size = world_size

    def start(self, seconds: float) -> None:
        """The ranks begin now, by the run's clock."""
        _STARTED.pack_into(self._map, 0, seconds)

    @property
    def started(self) -> float:
        """When they began; 0.0 before that."""
        return float(_STARTED.unpack_from(self._map, 0)[0])

    def write(self, rank: int, updates: int, gradients: int) -> None:
        """So many so far."""
        _RANK.pack_into(self._map, _STARTED.size + rank * _RANK.size, updates, gradients)

    def read(self, rank: int) -> tuple[int, int]:
        """Updates made and gradients sent."""
        updates, gradients = _RANK.unpack_from(self._map, _STARTED.size + rank * _RANK.size)
        return updates, gradients

    @property
    def updates(self) -> tuple[int, ...]:
        """Made, by rank."""
        return tuple(self.read(rank)[0] for rank in range(self._size))

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()


def tally_of(private: Path) -> Path:
    """Where the tally of a launch lies."""
    return private / "tally"


def pipe(private: Path, rank: int) -> Path:
    """Where a server, or a rank of a group, hears of ranks that are lost."""
    return private / f"lost{rank}"
