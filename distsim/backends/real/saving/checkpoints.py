"""One rank's part in checkpoints: it saves between two updates, all at the same, and goes on from what was saved.

Ranks that make updates (the servers, or all where there are none) save when they come to an update before which a
checkpoint is due; the first of them to ask decides for all. A rank's compute queue is busy while it does. The last of
them asks the others, the workers of servers, to save what they hold meanwhile, and once they have it commits. So a
worker is never saved before a server has: every gradient that a server has decided about was sent by what its worker
saved. Ranks may be on several hosts that share the folder: who commits looks only for files that it knows to be there.

On a GPU what is saved of records has the host's times: what the device did when is known at the end of a run only.
"""

from __future__ import annotations

import io
import json
import threading
from collections import Counter
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch._C._distributed_c10d import Store

from distsim.backends.real.fabric import Real
from distsim.backends.real.saving import lease, saved
from distsim.backends.real.saving.asking import Asking
from distsim.backends.real.saving.plain import plain, restored
from distsim.backends.real.saving.saved import Begin, Manifest
from distsim.backends.real.saving.tally import Tally
from distsim.interface import (
    RECORDS,
    Compute,
    Interruption,
    Job,
    Memory,
    Piece,
    Rank,
    Saved,
    Snapshot,
    Start,
    Trace,
)


def start(begin: Begin) -> Start:
    """Where the rank's updates begin."""
    manifest = begin.manifest
    return Start(begin.number, *((manifest.update, manifest.samples) if manifest else (0, 0)))


class Checkpoints:
    """Saves one rank, and what it goes on from."""

    def __init__(self, job: Job, rank: Rank[Any], fabric: Real, begin: Begin, tally: Tally) -> None:
        self._job = job
        self._rank = rank
        self._fabric = fabric
        self._device = torch.device(fabric.device.name)
        self._begin = begin
        self._tally = tally
        self._rule = job.failure.checkpoint
        self._written: dict[str, int] = dict.fromkeys((*RECORDS, "snapshots"), 0)
        self._first = 0 if begin.manifest is None else begin.manifest.update
        self._next = self._after(self._first)
        self._since = 0.0
        workers, size = job.cluster.workers, job.cluster.world_size
        self._makers = range(workers, size) if job.cluster.servers else range(size)
        self._asking: Asking
        self.is_broken = False
        """A rank is gone for good: nothing is saved any more, as it could not go on."""
        self._lease = lease.join(begin.folder, begin.word) if begin.word else None  # as long as this process lives
        if begin.manifest is not None:
            self._restore(begin.manifest)

    def begin(self, connect: Callable[[], Store]) -> None:
        """All ranks have met and the run's clock runs: be ready to save. `connect` opens the store for one thread."""
        self._since = now = self._fabric.now()
        rank = self._rank
        if self._begin.number:
            self._interrupt(now)
        rank.progress.arrive = self._arrive
        if self._begin.works_on and rank.rank not in self._makers:
            self._fabric.count_gradient = lambda: self._tally.write(rank.rank, 0, rank.trace.gradients)
        if not self._rule.is_off:
            self._asking = Asking(connect())
            if rank.rank not in self._makers:
                threading.Thread(target=self._listen, daemon=True).start()

    def lose(self, rank: int) -> None:
        """A worker is lost, and the others work on."""
        self.is_broken = True
        self._fabric.lose(rank)

    # ---- saving

    def _arrive(self, update: int) -> bool:
        """This rank is about to make an update."""
        self._tally.write(self._rank.rank, update, self._rank.trace.gradients)
        if update > self._first and not (self._rule.is_off or self.is_broken) and self._is_due(update):
            self._fabric.aside(_words(update), lambda begun: self._save(update, begun))
        return True

    def _after(self, update: int) -> float:
        every = self._rule.updates
        return inf if every is None else (update // every + 1) * every

    def _is_due(self, update: int) -> bool:
        rule, strategy = self._rule, self._job.strategy
        if rule.seconds is None:  # the same on every rank, with no need to ask
            due = update >= self._next and strategy.can_resume(update)
        else:
            is_late = self._fabric.now() - self._since >= rule.seconds
            due = self._fabric.decide(f"checkpoint before update {update}", is_late and strategy.can_resume(update))
        if due:
            self._next = self._after(update)
        return due

    def _save(self, update: int, begun: float) -> None:
        """Save a rank that makes updates; the last of them commits."""
        spans, place = self._rank.trace.compute, len(self._rank.trace.compute)
        self._write(update)
        spans.insert(place, Compute("checkpoint", begun, self._fabric.now(), -1, -1))
        self._write_records(update)
        if self._fabric.count(f"saved before update {update}") == len(self._makers) - 1:
            self._commit(update)
        self._since = self._fabric.now()
        spans[place] = spans[place]._replace(ended=self._since)

    def _commit(self, update: int) -> None:
        begin, others = self._begin, [r for r in range(self._job.cluster.world_size) if r not in self._makers]
        folder = begin.folder
        if others:
            self._asking.ask(update)
            what = f"rank {', '.join(map(str, others))} to save before update {update}"
            self._fabric.wait_until(lambda: self.is_broken or self._asking.have_saved(update, others), what)
            if self.is_broken:
                return
        last = self._asking.committed()
        before = saved.read(folder, last) if last else begin.manifest
        files = {} if before is None else {k: v for k, v in before.files.items() if k.startswith("records/")}
        sent, decided = Counter[int](), Counter[int]()
        for rank in range(self._job.cluster.world_size):
            beside = json.loads(self._beside(update, rank).read_text())
            files |= beside["files"]
            sent[rank] = beside["gradients"]
            decided.update({int(source): count for source, count in beside["decided"].items()})
        count = begin.count if before is None else before.count
        is_restart = begin.lost is not None
        manifest = Manifest(
            job=begin.job,
            number=begin.number,
            update=update,
            samples=self._rank.progress.course.samples(update),
            seconds=self._fabric.now(),
            count=count + 1,
            failures=begin.failures,
            restarts=begin.restarts,
            lost_seconds=begin.lost_seconds + (self._tally.started - begin.since if is_restart else 0.0),
            pending={str(rank): sent[rank] - decided[rank] for rank in sent},
            files=files,
        )
        if begin.word:
            lease.check(folder, begin.word)
        saved.commit(folder, manifest)
        self._asking.commit(update)

    def _listen(self) -> None:
        """Save this rank, which makes no updates, whenever one that does asks for it."""
        self._fabric.device.enter()
        try:
            for update in self._asking.questions():
                with self._fabric.saves(_words(update)):
                    self._write(update)
                    self._write_records(update)
                self._asking.answer(update, self._rank.rank)
        except BaseException as error:  # a full disk, say: those that wait for this rank would never know
            self._fabric.fail(error)

    def _write(self, update: int) -> None:
        numerics, version, drawn = self._rank.save()
        state = {"numerics": plain(numerics), "version": version, "drawn": drawn}
        name = f"{saved.place(update)}/rank{self._rank.rank}.state"
        self._files = {name: saved.write(self._begin.folder / name, _packed(state), self._fabric.progress)}

    def _write_records(self, update: int) -> None:
        """What was recorded since the last time, then what makes this rank's part complete."""
        rank, trace, since = self._rank, self._rank.trace, self._written
        lists = {key: getattr(trace, key)[since[key] :] for key in RECORDS}
        shown = rank.progress.snapshots[since["snapshots"] :]
        totals: dict[str, Any] = {
            "gradients": trace.gradients,
            "peak": trace.peak,
            "peak_activations": trace.peak_activations,
        }
        content = {
            "records": json.dumps({**lists, **totals}),
            "snapshots": plain([(*s[:3], [tuple(piece) for piece in s.pieces]) for s in shown]),
        }
        name = f"records/{saved.place(update)}-rank{rank.rank}"
        self._files[name] = saved.write(self._begin.folder / name, _packed(content), self._fabric.progress)
        since["snapshots"] += len(shown)
        for key, entries in lists.items():
            since[key] += len(entries)
        decided = Counter(arrival.source for arrival in trace.arrivals)
        dropped = sum(each.gradients for each in trace.interruptions)
        beside = {"files": self._files, "gradients": totals["gradients"] - dropped, "decided": decided}
        saved.write(self._beside(update, rank.rank), json.dumps(beside).encode(), self._fabric.progress)

    def _beside(self, update: int, rank: int) -> Path:
        return self._begin.folder / saved.place(update) / f"rank{rank}.json"

    # ---- going on

    def _restore(self, manifest: Manifest) -> None:
        rank, folder = self._rank, self._begin.folder
        state = _unpacked(folder / saved.place(manifest.update) / f"rank{rank.rank}.state")
        rank.restore(Saved(restored(state["numerics"], self._device), state["version"], state["drawn"]))
        ending = f"-rank{rank.rank}"
        snapshots = list[Snapshot]()
        trace = Trace(rank.rank)
        for name in sorted(name for name in manifest.files if name.startswith("records/") and name.endswith(ending)):
            content = _unpacked(folder / name)
            said = json.loads(content["records"])
            for key, cls in RECORDS.items():
                getattr(trace, key).extend(cls(*entry) for entry in said[key])
            trace.gradients, trace.peak = said["gradients"], Memory(*said["peak"])
            trace.peak_activations = said["peak_activations"]
            for number, samples, at, pieces in restored(content["snapshots"], torch.device("cpu")):
                snapshots.append(Snapshot(number, samples, at, [Piece(*piece) for piece in pieces]))
        rank.recall(trace, snapshots)
        self._written = {key: len(getattr(trace, key)) for key in RECORDS} | {"snapshots": len(snapshots)}

    def _interrupt(self, now: float) -> None:
        """Note that the rank's program was cut off, and what was undone and dropped."""
        begin, manifest, rank = self._begin, self._begin.manifest, self._rank.rank
        made = begin.made[rank] if begin.made else self._first
        pending = 0 if manifest is None else manifest.pending.get(str(rank), 0)
        at, lost = begin.lost or (now, rank)
        undone = max(0, made - self._first)
        self._rank.trace.interruptions.append(Interruption(min(at, now), lost, now, undone, pending))


def _words(update: int) -> str:
    return f"a checkpoint before update {update}"


def _packed(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _unpacked(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def count_on(fabric: Real, begin: Begin) -> None:
    """Count updates on from where the run is; one rank does, before all begin."""
    if begin.manifest is not None:
        fabric.count_from("updates begun", begin.manifest.update)
        fabric.count_from("updates ended", begin.manifest.update)
