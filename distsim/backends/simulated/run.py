"""Simulate a run: from a Job to an Outcome. A run ends when its ranks end, never silently: an event queue that runs dry
before that is a deadlock, and its report says who waits for whom, on which line."""

from __future__ import annotations

import atexit
import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import repeat, takewhile
from pathlib import PurePath
from typing import Any

from simpy.core import EmptySchedule

from distsim.backends.simulated.engine import ENDS
from distsim.backends.simulated.fabric import SimulatedOptions, Simulation
from distsim.backends.simulated.folding import APART, Fold, SetApart, find_fold, may_march, name_transfers
from distsim.backends.simulated.incarnations import Incarnations, RankLost
from distsim.backends.simulated.programs import Programs
from distsim.interface import Deadlock, DistsimError, Interrupted, Job, Outcome, Rank, interrupted
from distsim.interface.deadlock import SAID, find_cycle, listed

_MACHINERY = tuple(
    str(PurePath(__file__).parents[2] / folder) for folder in ("backends", "interface", "numerics", "testing")
)
_UNACCOUNTED = 1e-9
"""Share of the bytes sent that rounding may lose."""
atexit.register(gc.freeze)  # what runs leave ends with the process, which need not look through it for cycles first


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Reference counts free all that a run makes; collecting cycles costs two thirds of its time. What is left of it counts
    as old, so that the next collection need not look at all of it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()


@_no_garbage_collection()
def simulate(job: Job, options: SimulatedOptions | None = None) -> Outcome:
    """Run `job` under the simulated clock. Whatever goes wrong is in the outcome's status and message. A KeyboardInterrupt
    becomes `Interrupted`, with what the ranks had recorded."""
    options = options or SimulatedOptions()
    fold = find_fold(job, options.fold_ranks)
    if fold is not APART:
        with suppress(SetApart):
            return _simulate(job, options, fold)
    elif options.collectives == "auto" and may_march(job, options.fold_ranks):
        from distsim.backends.simulated.marching import march  # it needs numpy

        try:
            return march(job, options)
        except SetApart:
            pass
        except ENDS as error:  # of the program's: told of the ranks on which it happens
            return _blamed(_simulate(job, options, APART), error)
    return _simulate(job, options, APART)


def _blamed(outcome: Outcome, raised: BaseException) -> Outcome:
    """The outcome of all ranks; failed if what marching `raised` was a mistake of ours, which happened to none of them."""
    frames = [f.filename for f in traceback.extract_tb(raised.__traceback__) if "numpy" not in PurePath(f.filename).parts]
    if outcome.status == "done" and frames[-1].startswith(_MACHINERY):
        outcome.status = "failed"
        outcome.message = f"ranks that march: {type(raised).__name__}: {raised}: a bug of distsim, please report it"
    return outcome


def _simulate(job: Job, options: SimulatedOptions, fold: Fold) -> Outcome:
    """Raises `SetApart` if ranks that were folded turn out not to be alike."""
    incarnations, unaccounted = Incarnations(job, options, fold), 0.0
    status, message, is_over = "done", "", False
    while not is_over:
        simulation, ranks = incarnations.begin()
        is_over = True
        try:
            _run(simulation, ranks, incarnations.programs)
            is_over = not incarnations.regroup()
        except RankLost as lost:
            try:
                incarnations.lose(lost)
                is_over = False
            except DistsimError as error:
                status, message = error.status, str(error)
        except SetApart:
            simulation.engine.close()
            raise
        except ENDS as error:
            if fold is not APART:
                simulation.engine.close()
                raise SetApart("the report names ranks: of all that there are") from error
            status, message = _failure(simulation, error)
        except KeyboardInterrupt:
            simulation.engine.close()
            raise Interrupted(interrupted([rank.trace for rank in ranks])) from None
        simulation.engine.close()
        unaccounted = max(unaccounted, abs(simulation.hosts.unaccounted()))
    outcome = _outcome(simulation, incarnations, unaccounted, status, message)
    outcome.losses = incarnations.result()
    if status == "done":
        outcome.notes += job.failure.after(outcome.seconds)
    return outcome


def _run(simulation: Simulation, ranks: list[Rank[Any]], programs: Programs) -> None:
    for rank in ranks:
        programs.begin(rank)
    try:
        simulation.engine.env.work(takewhile(bool, repeat(programs.left)))
    except EmptySchedule:
        if not programs.is_over:
            raise Deadlock(_deadlock(simulation, list(programs.left.values()))) from None


def _failure(simulation: Simulation, raised: BaseException) -> tuple[str, str]:
    """Status and message of a run that an exception ended: the rank, what was raised, and the strategy's line."""
    if isinstance(raised, Deadlock):
        return raised.status, str(raised)
    if simulation.engine.failure is None:
        return "failed", f"{type(raised).__name__}: {raised}: a bug of distsim, please report it"
    rank, error = simulation.engine.failure
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{PurePath(f.filename).name}:{f.lineno}" for f in frames if not f.filename.startswith(_MACHINERY)]
    where = f"rank {rank}, {lines[-1]}" if lines else f"rank {rank}"
    if isinstance(error, DistsimError):
        return error.status, f"{error} ({where})"
    return "failed", f"{type(error).__name__}: {error} ({where})"


def _deadlock(simulation: Simulation, alive: list[Rank[Any]]) -> str:
    """Who waits for whom, and a cycle if there is one; of many ranks some, those of the cycle first."""
    lines, edges = dict[int, str](), dict[int, list[int]]()
    for rank in alive:
        waiting = [work for work in rank.open_work if work.is_awaited and not work.handle.over()]
        line = f"rank {rank.rank} waits for " + (" and ".join(map(repr, waiting)) or "nothing")
        edges[rank.rank] = [peer for work in waiting for peer in work.peers]
        for group, missing in simulation.collectives.missing(rank.rank):
            edges[rank.rank] += missing
            line += f"; ranks {listed(missing, ', ')} have not joined that of ({listed(group, ', ')})"
        lines[rank.rank] = line
    cycle = find_cycle(edges)
    said = list(dict.fromkeys([*cycle, *lines]))[:SAID] if len(lines) > SAID else list(lines)
    words = [lines[rank] for rank in said]
    if len(lines) > len(said):
        words.append(f"{len(lines) - len(said)} more ranks wait")
    return "deadlock: " + "; ".join([*words, *([f"cycle: {listed(cycle, ' -> ')}"] if cycle else [])])


def _outcome(simulation: Simulation, incarnations: Incarnations, lost: float, status: str, message: str) -> Outcome:
    ranks, notes = incarnations.ranks(), []
    if simulation.collectives.inexact:
        notes.append(
            f"{simulation.collectives.inexact} collectives were priced while other transfers used the network: "
            "their times are approximate, backend.collectives=flows is exact"
        )
    if lost > _UNACCOUNTED and status == "done":
        status, message = "failed", f"the simulator lost {lost:.3g} of the bytes sent: a bug of distsim, please report it"
    fold = simulation.fold
    if fold is not APART:
        notes.append(
            f"of {fold.ranks} ranks {fold.period} were simulated, each for {fold.copies} that do alike: "
            "backend.fold_ranks=0 simulates all, with the same times"
        )
        for rank in ranks:
            name_transfers(rank.trace, fold)
    updates = [rank.trace.updates[-1].time for rank in ranks if rank.trace.updates]
    return Outcome(
        status=status,
        message=message,
        seconds=max(updates, default=simulation.engine.now),
        traces=[rank.trace for rank in ranks],
        snapshots=[snapshot for rank in ranks for snapshot in rank.progress.snapshots],
        weights=[rank.weights() if incarnations.is_here(rank.rank) else {} for rank in ranks],
        copies=fold.copies,
        notes=notes,
    )
