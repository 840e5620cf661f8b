"""Losses of ranks in a real run: the launcher kills the rank, and what follows is what follows when one dies by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from multiprocessing.process import BaseProcess
from pathlib import Path

from distsim.backends.real import values
from distsim.backends.real.options import RealOptions
from distsim.backends.real.saving.incarnations import Incarnations
from distsim.backends.real.saving.tally import pipe
from distsim.backends.real.watching.board import Board
from distsim.interface import BadInput, Failure, Interruption, Job, Outcome, Problem, Trace
from distsim.interface.failure import Loss


def works_on(job: Job, options: RealOptions) -> bool:
    """Whether servers work on when a worker is lost, by one cause or the other."""
    by_plan = job.failure.loses_ranks and job.on_loss == "continue"
    return job.strategy.hears_on is not None and (by_plan or options.on_worker_loss == "continue")


def check(job: Job, options: RealOptions) -> None:
    """Raise `BadInput` if the job asks for what real ranks cannot do."""
    failure, strategy = job.failure, job.strategy
    can = strategy.hears_on is not None and "continue" in strategy.on_loss(job.cluster.workers)
    if failure.loses_ranks and job.on_loss == "continue" and not can:
        allowed = "backend=real can restart or abort: a group of real ranks is not made smaller"
        raise BadInput([Problem("failure.on_loss", failure.on_loss, allowed, "take failure.on_loss=restart")])
    if options.on_worker_loss == "continue" and not can:
        allowed = f"{type(strategy).__name__} cannot work on without a worker"
        raise BadInput([Problem("backend.on_worker_loss", "continue", allowed, "take stop or restart")])


def no_restarts(failure: Failure, options: RealOptions, engine: str) -> Iterable[Problem]:
    """What a world of an engine's cannot do: its ranks end with their launchers, which only the engine starts again."""
    again = {"torchrun": "torchrun --max-restarts=3", "Slurm": "sbatch --requeue"}.get(engine, f"to start {engine} again")
    remedy = f"it is for {engine} to begin again: {again}, with checkpoint.every="
    if failure.loses_ranks and failure.on_loss != "abort":
        yield Problem("failure.on_loss", failure.on_loss, f"ranks that {engine} starts can only abort", remedy)
    if options.on_worker_loss != "stop":
        yield Problem("backend.on_worker_loss", options.on_worker_loss, f"ranks that {engine} starts can only stop", remedy)


class Killer:
    """Kills ranks when they are to be lost, by the run's clock, and says which losses a run outlives."""

    def __init__(
        self,
        job: Job,
        options: RealOptions,
        runs: Incarnations,
        processes: Sequence[BaseProcess],
        board: Board,
        private: Path,
    ) -> None:
        self._job = job
        self._options = options
        self._runs = runs
        self._processes = processes
        self._board = board
        self._killed: set[int] = set()  # whom others work on without, by plan; only membership is asked
        self.struck: Loss | None = None
        """Whose loss ends this incarnation."""
        self.absent: dict[int, float] = {}
        """Workers that the others work on without, and since when by the run's clock."""
        servers = range(job.cluster.workers, job.cluster.world_size) if runs.begin.works_on else ()
        # for reading, too, so that opening and writing wait for nobody
        self._pipes = [os.open(pipe(private, server), os.O_RDWR) for server in servers]

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
            if part.phase == "run" and loss.rank not in self.absent and loss.rank not in self._killed:
                goes_on = self._job.on_loss == "continue" and loss.rank < self._job.cluster.workers
                self._killed |= {loss.rank} if goes_on else set()
                self._processes[loss.rank].kill()
                killed = f"rank {loss.rank} was killed at {loss.at - left:.3g} s"
                self._runs.told.append(f"{killed}, for failure says that it is lost at {loss.at:g} s")
                self.struck = None if goes_on else loss
        return most

    def forgives(self, rank: int) -> bool:
        """Whether the others work on without this rank, which has died; then its servers are told."""
        cluster, part = self._job.cluster, self._board.read(rank)
        ends = self.struck is not None and self.struck.rank == rank  # by plan, which says what follows
        wanted = rank in self._killed or (self._options.on_worker_loss == "continue" and not ends)
        if not (self._runs.begin.works_on and wanted and rank < cluster.workers and part.phase == "run"):
            return False
        self.absent[rank] = time.monotonic() - part.origin
        for server in self._pipes:
            os.write(server, f"{rank}\n".encode())
        return True

    def close(self) -> None:
        """The incarnation is over."""
        for server in self._pipes:
            os.close(server)
        self._pipes.clear()

    def stand_in(self, results: Callable[[int], Path]) -> None:
        """Leave results in place of those that lost workers will not give."""
        for rank, at in self.absent.items():
            results(rank).write_bytes(values.dumps((Trace(rank, ended=at), [], {}, 0.0)))

    def account(self, outcome: Outcome, sent: Mapping[int, int]) -> None:
        """Note in a run that ended well what lost workers had sent in vain, and what their absence took."""
        size = self._job.cluster.world_size
        for rank, at in self.absent.items():
            arrivals = [arrival for trace in outcome.traces for arrival in trace.arrivals]
            dropped = sent[rank] - sum(arrival.source == rank for arrival in arrivals)
            trace = outcome.traces[rank]
            trace.gradients = sent[rank]
            trace.interruptions.append(Interruption(at, rank, inf, 0, dropped))
            gradients = "1 of its gradients was" if dropped == 1 else f"{dropped} of its gradients were"
            outcome.notes.append(f"rank {rank} was lost at {at:.3g} s and stayed away: {gradients} dropped")
            if outcome.losses is not None:
                lost = outcome.losses.lost_seconds + max(0.0, outcome.seconds - at) / size
                outcome.losses = outcome.losses._replace(failures=outcome.losses.failures + 1, lost_seconds=lost)


def make_pipes(job: Job, private: Path) -> None:
    """Make what servers hear of lost workers by."""
    for server in range(job.cluster.workers, job.cluster.world_size):
        os.mkfifo(pipe(private, server))


def lost(job: Job, options: RealOptions, killer: Killer, died: int | None, origin: float) -> Loss | None:
    """The loss after which all ranks begin again, if an incarnation has ended with one."""
    if killer.struck is not None and died is not None:
        return None if job.on_loss == "abort" else killer.struck
    if died is None or options.on_worker_loss != "restart" or not origin:
        return None
    return Loss(time.monotonic() - origin, died)
