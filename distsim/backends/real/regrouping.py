"""A rank whose run goes on as a smaller group when another is lost, by the rules of the simulated fabric.

Before each update it keeps a copy of what it holds, that one and the one before. When a rank is lost, all who are left go
back to the last update that all of them have come to, and make it anew as a group of one less: their programs run from
there, each on its share of the samples of so many workers, the mean over so many. Updates that only some had made are
undone, in their records, too. What the strategy kept besides, residuals of compression for one, begins anew.

Different from the simulated fabric:

- A lost rank stays away: a process cannot join a group of gloo's that there is. Its records are gone with it, but for what
  it has shown to the evaluation: that is written to the launch's private folder, update by update.
- The others hear of a loss while they run: what they do until then is undone or not by the update that they have come to,
  not by the time of the loss. They go on once all have met again, not at once.
- Nothing is saved after a loss, as without a worker of servers: a checkpoint holds all ranks.
- There are no messages after a loss, and no tasks at all: only collectives and what runs between them can be cut off.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from distsim.backends.real import values
from distsim.backends.real.fabric import Real
from distsim.backends.real.saving.saved import Begin, shown
from distsim.backends.real.saving.tally import Tally
from distsim.backends.real.transport.collectives import Collectives, Everyone
from distsim.backends.real.transport.survivors import Regrouped, Survivors
from distsim.backends.real.transport.word import Word
from distsim.backends.real.watching.board import WAITS, Desk
from distsim.interface import (
    ALL,
    DistsimError,
    Interruption,
    Job,
    Rank,
    Saved,
    Snapshot,
    Start,
    StrategyError,
    Worker,
    drive,
    finish,
)


class Regrouping:
    """One rank, to its end. `collectives` makes those of a group after a loss."""

    def __init__(
        self,
        job: Job,
        rank: Rank[Any],
        fabric: Real,
        desk: Desk,
        survivors: Survivors,
        collectives: partial[Collectives],
        begin: Begin,
        private: Path,
        tally: Tally,
    ) -> None:
        self._job = job
        self._rank = rank
        self._fabric = fabric
        self._desk = desk
        self._survivors = survivors
        self._collectives = collectives
        self._begin = begin
        self._private = private
        self._tally = tally
        self._first = rank.progress.arrive
        self._last = rank.progress.course.first
        self._copies: dict[int, tuple[int, Saved]] = {}
        self._shown = 0
        self._show()  # what it goes on from, before anybody goes on without it

    def run(self) -> Rank[Any]:
        """Run the strategy with all who are there, until all of them have ended; this rank's state then."""
        self._keep(self._last)
        self._rank.progress.arrive = self._arrive
        while True:
            try:
                drive(finish(self._job.strategy, Worker(self._rank, self._survivors.here)))
                self._show()
                self._wait("the end of all ranks", self._survivors.end)
                return self._rank
            except Regrouped:
                words: list[Word] = []
                self._wait("the others, a rank is lost", partial(self._regroup, words))

    def _wait(self, what: str, action: Any) -> None:
        """Do what takes as long as the others do."""
        self._desk.enter(WAITS, what)
        try:
            action()
        finally:
            self._desk.leave()  # no operation of the strategy's: a hang is not judged by how long it took

    def _arrive(self, update: int) -> bool:
        """This rank is about to make an update."""
        self._survivors.check()
        self._show()
        self._keep(update)
        if self._survivors.epoch == 0:
            return self._first is None or self._first(update)
        self._tally.write(self._rank.rank, update, self._rank.trace.gradients)
        return True

    def _keep(self, update: int) -> None:
        """Another rank may be one update behind: two copies are enough."""
        self._copies[update] = self._rank.progress.course.samples(update), self._rank.save()
        self._copies.pop(update - 2, None)
        self._last = update

    def _show(self) -> None:
        """Write down what this rank has shown since the last time: should it be lost, that is not."""
        for snapshot in self._rank.progress.snapshots[self._shown :]:
            path = shown(self._private, self._rank.rank, snapshot.number)
            path.parent.mkdir(exist_ok=True)
            pieces = [piece._replace(values=piece.values.detach().cpu()) for piece in snapshot.pieces]
            part = path.with_suffix(".part")
            part.write_bytes(values.dumps(snapshot._replace(time=float(snapshot.time), pieces=pieces)))
            part.replace(path)
            self._shown += 1

    # ---- after a loss

    def _regroup(self, words: list[Word]) -> None:
        """Meet the others, as often as another is lost meanwhile."""
        survivors = self._survivors
        while True:
            words += survivors.heed()
            if (update := survivors.agree(self._last)) is None:
                continue
            if update not in self._copies:
                raise DistsimError(f"the others have come to update {update}, which this rank keeps no copy of")
            self._copies, self._last = {update: self._copies[update]}, update
            for path in self._private.glob("shown/*-*.snapshot"):  # of whomever: it is undone
                if int(path.stem.partition("-")[2]) > update:
                    path.unlink(missing_ok=True)
            if (made := survivors.connect()) is None:
                continue
            everyone = Everyone(survivors.here, *made, survivors.epoch)
            collectives = self._collectives(everyone=everyone)
            survivors.use(collectives)
            self._fabric.regroup(collectives)
            self._renew(words, update)
            return

    def _renew(self, words: list[Word], update: int) -> None:
        """Make the rank anew, as one of so many, before this update."""
        before, workers = self._rank, len(self._survivors.here)
        if before.has_tasks:
            raise StrategyError("a real rank's tasks cannot be cut off, so none of its others can go on as a smaller group")
        samples, saved = self._copies[update]
        job, number = self._job.resized(workers), self._begin.number + self._survivors.epoch
        start = Start(number, update, samples, before={before.rank: before})
        trace, undone = before.trace, [each for each in before.trace.updates if each.number > update]
        trace.updates[:] = trace.updates[: len(trace.updates) - len(undone)]
        kept: list[Snapshot] = [each for each in before.progress.snapshots if each.number <= update]
        before.progress.snapshots[:] = kept
        self._shown = len(kept)
        self._rank = rank = job.rank(before.rank, self._fabric, start)
        rank.restore(saved)
        rank.progress.arrive = self._arrive
        self._make_up(before.progress.course.publish_every, update)
        now = self._fabric.now()
        for i, word in enumerate(words):
            trace.interruptions.append(Interruption(min(word.at, now), word.lost, now, 0 if i else len(undone), 0))

    def _make_up(self, every: int, update: int) -> None:
        """Show the model after this update, which all have made, if who was to do so is lost."""
        rank, is_due = self._rank, bool(every and update and update % every == 0)
        if is_due and rank.rank == self._survivors.here[0] and not any(self._private.glob(f"shown/*-{update}.snapshot")):
            samples, at = self._copies[update][0], rank.trace.updates[-1].time
            rank.progress.snapshots.append(Snapshot(update, samples, at, rank.pieces((ALL,))))
