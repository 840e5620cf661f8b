"""Losses of ranks in a real run: the launcher kills the rank, and the run ends as it does when one dies by itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess

from distsim.backends.real.board import Board
from distsim.interface import BadInput, Job, Losses, Problem


def check(job: Job) -> None:
    """Raise `BadInput` if the job asks for more than an end: to go on, ranks would need checkpoints on disk."""
    failure = job.failure
    if failure.loses_ranks and job.on_loss != "abort":
        allowed = "backend=real can only abort: it writes no checkpoints yet"
        raise BadInput([Problem("failure.on_loss", failure.on_loss, allowed, "take failure.on_loss=abort")])


class Killer:
    """Kills ranks when they are to be lost, by the run's clock."""

    def __init__(self, job: Job, processes: Sequence[BaseProcess], board: Board) -> None:
        self._losses = job.failure.losses(job.seed, job.cluster.world_size)
        self._next = next(self._losses, None)
        self._processes = processes
        self._board = board
        self._is_off = job.failure.is_off
        self.killed: list[str] = []
        """Whom, and when, in words."""

    def strike(self, most: float) -> float:
        """Kill who is due; how many seconds may pass until the next look, at most `most`."""
        while self._next is not None:
            at, rank = self._next
            part = self._board.read(rank)
            if part.phase not in ("run", "end", "done"):
                return min(most, 0.01)  # not under way yet
            left = part.origin + at - time.monotonic()
            if left > 0.0:
                return min(most, left)
            self._next = next(self._losses, None)
            if part.phase == "run":
                self._processes[rank].kill()
                killed = f"rank {rank} was killed at {at - left:.3g} s"
                self.killed.append(f"{killed}, for failure says that it is lost at {at:g} s")
                self._next = None  # the run ends with it
        return most

    def losses(self) -> Losses | None:
        """What failures took from the run; None where nothing could fail."""
        return None if self._is_off else Losses(len(self.killed), 0, 0, 0.0)
