"""Run a job: start a rank a process, watch them, gather what they give, leave none.

Alone, a launcher starts all ranks. In a world of an engine's each launcher starts its one; this is what the one of rank 0
does, and `follow` what the others do. The job travels pickled. Linux only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsim import signals
from distsim.backends.real.gather import gather, results_of
from distsim.backends.real.options import RealOptions, check, cores, device_of, gpus, no_shared_memory
from distsim.backends.real.parcel import pack
from distsim.backends.real.private import private_folder
from distsim.backends.real.process import board_of, how_messages_travel
from distsim.backends.real.saving.incarnations import Incarnations
from distsim.backends.real.saving.lease import leased
from distsim.backends.real.saving.tally import Tally, tally_of
from distsim.backends.real.starting import order, started
from distsim.backends.real.watching import failures
from distsim.backends.real.watching.board import Board
from distsim.backends.real.watching.failures import Killer, lost, make_pipes, works_on
from distsim.backends.real.watching.operations import explained
from distsim.backends.real.watching.partial import collect
from distsim.backends.real.watching.watch import LOST, End, Watch
from distsim.backends.real.worlds.beginning import tell
from distsim.backends.real.worlds.mirror import Mirrors
from distsim.backends.real.worlds.pulse import SILENT
from distsim.interface import BadInput, Interrupted, Job, Outcome, interrupted

if TYPE_CHECKING:
    from distsim.backends.real.worlds.meeting import Meeting


def launch(
    job: Job,
    options: RealOptions,
    folder: Path,
    meeting: Meeting | None = None,
    run: str = "",
    checkpoints: Path | None = None,
) -> Outcome:
    """Run `job` with one process a rank; a log a rank goes to `folder` (`rank0.log`, ...; `rank0.1.log` is that
    of the first incarnation, and so on). With a meeting, only rank 0 is
    started here, the others by the launchers that follow, for the run of this name.

    It goes on from the last checkpoint in the folder `checkpoints`, and saves there; all hosts of a meeting share that.
    Whatever goes wrong in the run is the outcome's status and message. Raises `BadInput` for what cannot run here at all.
    No process of a rank is left when this returns or raises, nor when the calling process is killed. A KeyboardInterrupt
    (of Ctrl-C, or raised by a handler of the caller's) becomes `Interrupted`, with what the ranks had recorded.
    """
    check(options)
    failures.check(job, options)
    if refused := list(no_shared_memory(options, works_on(job, options), meeting.world.engine if meeting else "")):
        raise BadInput(refused)
    pickled = pack(job)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    until = None if options.limit_seconds is None else time.monotonic() + options.limit_seconds
    where = (checkpoints or folder / "checkpoints").absolute()
    saves = not job.failure.checkpoint.is_off or where.is_dir()
    with leased(where) if saves else nullcontext("") as word:
        runs = Incarnations(job, where, works_on(job, options), word)
        if meeting is not None:
            tell(meeting, run, runs.begin)
        outcome = None
        try:
            while outcome is None:
                outcome = _incarnation(job, options, folder, pickled, runs, until, meeting, run)
        except KeyboardInterrupt as stop:
            for path in folder.glob("rank*.results"):  # of ranks that had ended
                path.unlink(missing_ok=True)
            known = stop.outcome if isinstance(stop, Interrupted) else interrupted([])
            if not any(trace.updates for trace in known.traces) and runs.known:  # it had not begun again yet
                known = interrupted(runs.known, known.notes)
            _annotate(known, runs)
            raise Interrupted(known) from None
    _annotate(outcome, runs)
    if outcome.status == "done":
        outcome.notes += job.failure.after(outcome.seconds)
    return outcome


def _annotate(outcome: Outcome, runs: Incarnations) -> None:
    """Say what the run's past was, and whether its times are those of too few cores."""
    outcome.notes += runs.told
    outcome.contended = any(note.startswith("contended: ") for note in outcome.notes)


def _incarnation(
    job: Job,
    options: RealOptions,
    folder: Path,
    pickled: bytes,
    runs: Incarnations,
    until: float | None,
    meeting: Meeting | None,
    run: str,
) -> Outcome | None:
    """Run all ranks until they end, or until that time; None if they are to begin again."""
    size = job.cluster.world_size
    with private_folder() as private:
        began = range(1 if meeting else size)
        orders = [order(r, size, pickled, options, folder, private, runs.begin, meeting, run) for r in began]
        logs = [folder / f"rank{r}.log" for r in range(size)]
        _keep(logs, runs.begin.number)
        board, tally = Board(board_of(private), size), Tally(tally_of(private), size, make=True)
        make_pipes(job, private)
        try:
            with started(orders) as (processes, reports), Mirrors(meeting, run, board, private, logs) as others:
                everyone: list[Any] = [*processes, *others.processes]
                killer = Killer(job, options, runs, everyone, board, private)
                said = [*reports, *others.reports]
                patience = SILENT + 1.5 if meeting else LOST
                device = orders[0].device
                watch = Watch(everyone, said, board, options, logs, private, killer, patience, until, device)
                try:
                    end = watch.run()
                except KeyboardInterrupt:
                    notes = _notes(options, size, meeting, private)
                    known = interrupted(collect(processes, reports, board, size, private), notes)
                    explained(End(known.status, known.message), board, size, private, folder)
                    raise Interrupted(known) from None
                finally:
                    killer.close()
                others.said = end.status
                if end.status == "done":
                    signals.hold()  # it would be lost, and what is under way here left half done
                else:
                    end = explained(end, board, size, private, folder)
            part = board.read(0)  # whose origin is the run's once it runs
            origin = part.origin if part.phase in ("run", "end", "done") else runs.begin.origin or 0.0
            if (loss := lost(job, options, killer, watch.died, origin)) is not None:
                seen = collect((), (), board, size, private)
                runs.known = seen if any(trace.updates for trace in seen) else runs.known
                wait = job.failure.restart if loss is killer.struck else 0.0  # else nobody has said how long
                if not (reason := runs.lose(loss, wait, origin, tally, len(killer.absent), until)):
                    return None
                end = end._replace(message=f"{end.message}; {reason}")
            started_at = tally.started
            losses = runs.result(started_at, int(killer.struck is not None and loss is None))
            sent = {rank: tally.read(rank)[1] for rank in killer.absent}
            killer.stand_in(lambda rank: orders[rank].results)
        finally:
            board.close()
            tally.close()
        results = list(results_of(end, orders, logs, meeting, run))
        notes = _notes(options, size, meeting, private)
    outcome = gather(end, results, notes)
    outcome.losses = losses
    if outcome.status == "done":
        killer.account(outcome, sent, started_at)
    return outcome


def _keep(logs: Sequence[Path], incarnation: int) -> None:
    """Give the logs of the incarnation before names of their own: rank0.1.log is the first of rank 0, and so on. The first
    incarnation finds none."""
    for log in logs:
        earlier = sorted(log.parent.glob(f"{log.stem}.*.log"))
        if not incarnation:
            for path in (log, *earlier):
                path.unlink(missing_ok=True)
        elif log.exists():
            log.rename(log.with_suffix(f".{len(earlier) + 1}.log"))


def _notes(options: RealOptions, size: int, meeting: Meeting | None, private: Path) -> list[str]:
    notes = []
    if meeting is not None:
        notes.append(f"started by {meeting.world.engine} on {meeting.places()}")
    available = cores()
    here = size if meeting is None else meeting.machines.count(0)
    if here * options.threads > available:
        threads = f" of {options.threads} threads" if options.threads > 1 else ""
        notes.append(f"contended: {here} ranks{threads} share {available} cores, so times hold for this machine only")
    if device_of(options, here) == "cuda":
        found = gpus()
        shared = f"contended: {here} ranks on {found} GPUs, collectives through host memory" if found < here else ""
        notes += [shared] if shared else []
    told = how_messages_travel(private)
    return notes + (told.read_text().splitlines() if told.exists() else [])
