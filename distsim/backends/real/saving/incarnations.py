"""The incarnations of a real run: a lost rank ends one, and the next begins with all ranks from the last checkpoint.

All are on one clock. Where ranks were lost in a launch, it has run on: the next begins `failure.restart` seconds after
the loss, start-up included, or as soon as its ranks have started. Where the launcher was lost, too, it goes on from the
moment at which the checkpoint was complete: what was done after that, and the time until the run was asked for again,
counts nowhere. What ranks recorded after the checkpoint is gone with them.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from distsim.backends.real.saving import saved
from distsim.backends.real.saving.saved import Begin, Manifest
from distsim.backends.real.saving.tally import Tally
from distsim.interface import Job, Losses, Trace, Update
from distsim.interface.failure import Loss

_AHEAD = 3.0  # seconds before the end of an outage at which processes are started
_IN_VAIN = 100
"""Losses in a row that undo the same work, after which a run gives up."""


class Incarnations:
    """Begins each incarnation of a run, and keeps what outlives it."""

    def __init__(self, job: Job, folder: Path, works_on: bool, word: str = "") -> None:
        """`word`: that of the launch that has the folder, if it saves."""
        self._job = job
        self._folder = folder
        self._works_on = works_on
        self._word = word
        self._name = saved.fingerprint(job)
        self._losses = job.failure.losses(job.seed, job.cluster.world_size)
        self._next = next(self._losses, None)
        self._in_vain = 0
        self.told: list[str] = []
        """What the row says: what was gone on from, who was lost."""
        self.known: list[Trace] = []
        """What is known of the updates of the incarnation before; empty if there were none."""
        manifest = self._find()
        self.begin = Begin(folder, self._name, word, works_on=works_on)
        if manifest is not None:
            self.told.append(f"resumed at update {manifest.update}")
            self.begin = self._from(manifest, manifest.number + 1, manifest.seconds)
            self._skip(manifest.seconds)
            last = Update(manifest.update, manifest.samples, manifest.seconds)
            self.known = [Trace(rank, updates=[last]) for rank in range(job.cluster.world_size)]
        for line in self.told:  # now, too: the row is hours away
            print(line, file=sys.stderr)

    def _find(self) -> Manifest | None:
        manifest, passed = saved.find(self._folder, self._name)
        self.told += passed
        if passed and manifest is None:
            self.told.append("no checkpoint can be gone on from: the run begins anew")
        saved.clear(self._folder, manifest)
        return manifest

    def _from(self, manifest: Manifest, number: int, at: float) -> Begin:
        return Begin(
            self._folder,
            self._name,
            self._word,
            number,
            at,
            manifest=manifest,
            since=at,
            count=manifest.count,
            works_on=self._works_on,
            failures=manifest.failures,
            restarts=manifest.restarts,
            lost_seconds=manifest.lost_seconds,
        )

    # ---- losses that the run is to have

    @property
    def next(self) -> Loss | None:
        """The next."""
        return self._next

    def take(self) -> None:
        """It has come, or came too late."""
        self._next = next(self._losses, None)

    def _skip(self, until: float) -> None:
        """Take those that come until then."""
        while self._next is not None and self._next.at <= until:
            self.take()

    # ---- when a rank is lost

    def lose(self, loss: Loss, restart: float, origin: float, tally: Tally, absent: int, until: float | None) -> str:
        """An incarnation has ended with this loss, all its processes, too, after it had gone on without `absent` workers.
        Waits until the next is to be started, `restart` seconds after the loss, but not longer than `until`; or the reason
        why there is none."""
        begin = self.begin
        failures, ends = begin.failures + absent + 1, loss.at + restart
        while self._next is not None and self._next.at <= ends:  # those that come meanwhile start the wait again
            failures, ends = failures + 1, self._next.at + self._job.failure.restart
            self.take()
        manifest = self._find()
        is_new = manifest is not None and manifest.number == begin.number
        self._in_vain = 0 if is_new else self._in_vain + 1
        if self._in_vain > _IN_VAIN:
            return f"the {self._in_vain}th loss in a row that undoes the same updates: the run will hardly end"
        lost_seconds = begin.lost_seconds
        has_begun = tally.started > 0.0
        if begin.lost is not None and has_begun:
            lost_seconds += tally.started - begin.since
        self.begin = Begin(
            self._folder,
            self._name,
            self._word,
            begin.number + 1,
            ends,
            origin,
            manifest,
            since=manifest.seconds if manifest is not None and is_new else tally.started if has_begun else begin.since,
            lost=(loss.at, loss.rank),
            made=tally.updates,
            count=0 if manifest is None else manifest.count,
            works_on=self._works_on,
            failures=failures,
            restarts=begin.restarts + 1,
            lost_seconds=lost_seconds,
        )
        start = origin + ends - _AHEAD
        time.sleep(max(0.0, min(start, until or start) - time.monotonic()))
        return ""

    def result(self, started: float, killed: int) -> Losses | None:
        """What failures took from the run, whose last incarnation began at `started` and lost so many ranks for good; None
        where nothing could fail."""
        begin = self.begin
        if self._job.failure.is_off and not begin.number:
            return None
        lost = begin.lost_seconds + (started - begin.since if begin.lost is not None and started > 0.0 else 0.0)
        newest = saved.last(self._folder) if not self._job.failure.checkpoint.is_off else None
        count = begin.count if newest is None else newest.count
        return Losses(begin.failures + killed, begin.restarts, count, lost)
