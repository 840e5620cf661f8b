"""Losses of ranks in a real run: the launcher kills the rank, and what follows is what follows when one dies by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from multiprocessing.process import BaseProcess
from pathlib import Path

from distsim.backends.real import values
from distsim.backends.real.options import RealOptions, device_of, gpus
from distsim.backends.real.saving.incarnations import Incarnations
from distsim.backends.real.saving.tally import pipe
from distsim.backends.real.transport.word import Word
from distsim.backends.real.watching.board import Board
from distsim.interface import BadInput, Failure, Interruption, Job, Outcome, Problem, Trace
from distsim.interface.failure import Loss


def works_on(job: Job, options: RealOptions) -> bool:
    """Whether the others work on when a worker is lost, by one cause or the other."""
    by_plan = job.failure.loses_ranks and job.on_loss == "continue"
    return by_plan or options.on_worker_loss == "continue"


def check(job: Job, options: RealOptions) -> None:
    """Raise `BadInput` if the job asks for what real ranks cannot do."""
    failure, strategy, size = job.failure, job.strategy, job.cluster.world_size
    can = "continue" in strategy.on_loss(job.cluster.workers)
    if failure.loses_ranks and job.on_loss == "continue" and not can:
        allowed = f"{type(strategy).__name__} cannot work on without a rank"
        raise BadInput([Problem("failure.on_loss", failure.on_loss, allowed, "take failure.on_loss=restart")])
    if options.on_worker_loss == "continue" and not can:
        allowed = f"{type(strategy).__name__} cannot work on without a worker"
        raise BadInput([Problem("backend.on_worker_loss", "continue", allowed, "take stop or restart")])
    if works_on(job, options) and strategy.hears_on is None and device_of(options, size) == "cuda" and gpus() >= size:
        allowed = "a group of ranks with GPUs of their own is not made smaller when one is lost"
        raise BadInput([Problem("backend.device", options.device, allowed, "take restart, or backend.device=cpu")])


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
        self._private = private
        self._is_group = job.strategy.hears_on is None  # the others go on as a smaller one
        # for reading, too, so that opening and writing wait for nobody
        hearing = _hearing(job) if runs.begin.works_on else ()
        self._pipes = {rank: os.open(pipe(private, rank), os.O_RDWR) for rank in hearing}

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
                goes_on = self._job.on_loss == "continue" and self._can_go_on_without(loss.rank)
                self._killed |= {loss.rank} if goes_on else set()
                self._processes[loss.rank].kill()
                killed = f"rank {loss.rank} was killed at {loss.at - left:.3g} s"
                self._runs.told.append(f"{killed}, for failure says that it is lost at {loss.at:g} s")
                self.struck = None if goes_on else loss
        return most

    def _can_go_on_without(self, rank: int) -> bool:
        """Whether others are left who could: servers, or at least one of a group."""
        gone = {rank, *self._killed, *self.absent}
        return len(gone) < self._job.cluster.world_size if self._is_group else rank < self._job.cluster.workers

    def forgives(self, rank: int) -> bool:
        """Whether the others work on without this rank, which has died; then its servers, or all others, are told.

        Of a rank whose program has ended nobody waits for anything: its records alone are lost, until they are written.
        """
        part = self._board.read(rank)
        ends = self.struck is not None and self.struck.rank == rank  # by plan, which says what follows
        wanted = rank in self._killed or (self._options.on_worker_loss == "continue" and not ends)
        begun = part.phase in ("run", "end", "done")
        if not (self._runs.begin.works_on and wanted and begun and self._can_go_on_without(rank)):
            return False
        if part.phase == "done":  # what it gives is there, and nobody needs it any more
            return True
        self.absent[rank] = at = time.monotonic() - part.origin
        line = f"{rank}\n"
        if self._is_group:
            os.close(self._pipes.pop(rank))
            line = Word(len(self.absent), at, rank, tuple(self._pipes)).line
        for hearing in self._pipes.values():
            os.write(hearing, line.encode())
        return True

    def close(self) -> None:
        """The incarnation is over."""
        for hearing in self._pipes.values():
            os.close(hearing)
        self._pipes.clear()

    def stand_in(self, results: Callable[[int], Path]) -> None:
        """Leave results in place of those that lost workers will not give."""
        for rank, at in self.absent.items():
            found = (values.loads(path.read_bytes()) for path in self._private.glob(f"shown/{rank}-*.snapshot"))
            left = sorted(found, key=lambda each: each.number)
            results(rank).write_bytes(values.dumps((Trace(rank, ended=at), left, {}, 0.0)))

    def account(self, outcome: Outcome, sent: Mapping[int, int], started: float) -> None:
        """Note in a run that ended well what lost workers had sent in vain, and what their absence took since this
        incarnation began."""
        size = self._job.cluster.world_size
        if self._is_group:
            self._account_for_group(outcome, started)
            return
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

    def _account_for_group(self, outcome: Outcome, started: float) -> None:
        """The same of ranks without which the others went on as a smaller group, and what they had to make anew."""
        size, seconds, until = self._job.cluster.world_size, 0.0, 0.0
        left = [trace for trace in outcome.traces if trace.rank not in self.absent]
        for count, (rank, at) in enumerate(self.absent.items(), 1):
            outcome.traces[rank].interruptions.append(Interruption(at, rank, inf, 0, 0))
            seconds += max(0.0, outcome.seconds - at)
            resumed = [each.resumed for trace in left for each in trace.interruptions if each.lost == rank]
            if resumed:  # else all had ended
                if at < until:  # while they met after the loss before
                    since = until
                else:
                    kept = [update.time for trace in left for update in trace.updates if update.time <= min(resumed)]
                    since = min(at, max([started, *kept]))  # what was before is counted with the restart
                until = max(resumed)
                seconds += (at - since) * (size - count + 1) + (until - at) * (size - count)
            others = "the other one" if count == size - 1 else f"the other {size - count}"
            outcome.notes.append(f"rank {rank} was lost at {at:.3g} s and stayed away: {others} went on")
        if outcome.losses is not None:
            failures, lost = outcome.losses.failures + len(self.absent), outcome.losses.lost_seconds + seconds / size
            outcome.losses = outcome.losses._replace(failures=failures, lost_seconds=lost)


def _hearing(job: Job) -> range:
    """Who hears of lost workers: servers, or all where there are none."""
    return range(job.cluster.workers if job.strategy.hears_on is not None else 0, job.cluster.world_size)


def make_pipes(job: Job, private: Path) -> None:
    """Make what ranks hear of lost workers by."""
    for rank in _hearing(job):
        os.mkfifo(pipe(private, rank))


def lost(job: Job, options: RealOptions, killer: Killer, died: int | None, origin: float) -> Loss | None:
    """The loss after which all ranks begin again, if an incarnation has ended with one."""
    if killer.struck is not None and died is not None:
        return None if job.on_loss == "abort" else killer.struck
    if died is None or options.on_worker_loss != "restart" or not origin:
        return None
    return Loss(time.monotonic() - origin, died)
