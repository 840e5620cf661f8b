"""Losses of ranks in a real run: the launcher kills the rank, and what follows is what follows when one dies by itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from multiprocessing.process import BaseProcess

from distsim.backends.real.board import Board
from distsim.backends.real.incarnations import Incarnations
from distsim.backends.real.options import RealOptions
from distsim.interface import BadInput, Failure, Job, Problem
from distsim.interface.failure import Loss


def check(job: Job) -> None:
    """Raise `BadInput` if the job asks for what real ranks cannot do."""
    failure = job.failure
    if failure.loses_ranks and job.on_loss == "continue":
        allowed = "backend=real can restart or abort: a group of real ranks is not made smaller"
        raise BadInput([Problem("failure.on_loss", failure.on_loss, allowed, "take failure.on_loss=restart")])


def no_restarts(failure: Failure, options: RealOptions, engine: str) -> Iterable[Problem]:
    """What a world of an engine's cannot do: its ranks end with their launchers."""
    remedy = f"start it without {engine}"
    if not failure.checkpoint.is_off:
        yield Problem("checkpoint.every", "...", f"ranks that {engine} starts write no checkpoints", remedy)
    if failure.loses_ranks and failure.on_loss != "abort":
        yield Problem("failure.on_loss", failure.on_loss, f"ranks that {engine} starts can only abort", remedy)
    if options.on_worker_loss != "stop":
        yield Problem("backend.on_worker_loss", options.on_worker_loss, f"ranks that {engine} starts can only stop", remedy)


class Killer:
    """Kills ranks when they are to be lost, by the run's clock."""

    def __init__(self, runs: Incarnations, processes: Sequence[BaseProcess], board: Board) -> None:
        self._runs = runs
        self._processes = processes
        self._board = board
        self.struck: Loss | None = None
        """Whose loss ends this incarnation."""

    def strike(self, most: float) -> float:
        """Kill who is due; how many seconds may pass until the next look, at most `most`."""
        while self.struck is None and (loss := self._runs.next) is not None:
            part = self._board.read(loss.rank)
            if part.phase not in ("run", "end", "done"):
                return min(most, 0.01)  # not under way yet
            left = part.origin + loss.at - time.monotonic()
            if left > 0.0:
                return min(most, left)
            self._runs.take()
            if part.phase == "run":
                self._processes[loss.rank].kill()
                killed = f"rank {loss.rank} was killed at {loss.at - left:.3g} s"
                self._runs.told.append(f"{killed}, for failure says that it is lost at {loss.at:g} s")
                self.struck = loss
        return most


def lost(job: Job, options: RealOptions, killer: Killer, died: int | None, origin: float) -> Loss | None:
    """The loss after which all ranks begin again, if an incarnation has ended with one."""
    if killer.struck is not None and died is not None:
        return killer.struck if job.on_loss == "restart" else None
    if died is None or options.on_worker_loss != "restart" or not origin:
        return None
    return Loss(time.monotonic() - origin, died)
