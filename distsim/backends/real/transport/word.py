"""What the launcher tells ranks that go on as a smaller group. It numbers the losses, so all hear of them in one order."""

from __future__ import annotations

from typing import NamedTuple


class Word(NamedTuple):
    """A rank is lost."""

    epoch: int
    """How many are, with it."""
    at: float
    """By the run's clock."""
    lost: int
    here: tuple[int, ...]
    """Who is left."""

    @property
    def line(self) -> str:
        """For a pipe."""
        return f"{self.epoch} {self.at!r} {self.lost} {','.join(map(str, self.here))}\n"

    @classmethod
    def read(cls, line: str) -> Word:
        """What a line says."""
        epoch, at, lost, here = line.split()
        return cls(int(epoch), float(at), int(lost), tuple(map(int, here.split(","))))
