"""Ranks that go on as a smaller group when one is lost: how they hear of it, and how they meet again.

The launcher numbers the losses and writes each to a pipe of every rank that is left (word.py). A thread of the rank's cuts
the connections of its group, so that whatever its program waits for ends; the program is cut off by `Regrouped` there, or
where it next calls a collective or comes to an update. Who loses a connection before it has heard why waits for the word.
Then all who are left say to which update they have come, in files of the launch's private folder, agree on the first of
these, and make a group in a store of its own. Another loss meanwhile, of whomever and wherever it is, starts that again:
nothing that a lost rank may have left half done is read.

Programs that have ended wait for each other: a run has ended when all have, and until then each may have to go back.
Whether it had ended before a loss is decided by whoever comes first, once.

Of gloo alone: a communicator of NCCL's is not made smaller.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from torch._C._distributed_c10d import FileStore

from distsim.backends.real.saving.tally import pipe
from distsim.backends.real.transport import gloo
from distsim.backends.real.transport.collectives import Collectives
from distsim.backends.real.transport.handle import PeerLost
from distsim.backends.real.transport.wires import Wires, noted
from distsim.backends.real.transport.word import Word

_PATIENCE = 5.0  # seconds from a lost connection to the word of why
_POLL = 0.002  # seconds between looks for what others have written


class Regrouped(BaseException):  # nothing of the strategy's shall take it for an error
    """Cuts a program off: a rank is lost, and the others go on as a smaller group."""


class Survivors:
    """One rank's view of who is left."""

    def __init__(self, private: Path, rank: int, world_size: int) -> None:
        self._private = private
        self._rank = rank
        self._changed = threading.Condition()
        self._words: list[Word] = []
        self._collectives: Collectives | None = None
        self.epoch = 0
        """Losses that this rank has gone on after."""
        self.here = tuple(range(world_size))
        """The ranks that it goes on with."""
        threading.Thread(target=self._listen, name="distsim losses", daemon=True).start()

    def use(self, collectives: Collectives) -> None:
        """Cut these when a rank is lost from now on."""
        with self._changed:
            self._collectives = collectives
            if self._is_told:
                collectives.cut()

    def _listen(self) -> None:
        path = pipe(self._private, self._rank)
        with os.fdopen(os.open(path, os.O_RDWR)) as lines:  # for writing, too: so it never ends
            for line in lines:
                with self._changed:
                    self._words.append(Word.read(line))
                    if self._collectives is not None:
                        self._collectives.cut()
                    self._changed.notify_all()

    @property
    def _is_told(self) -> bool:
        return bool(self._words) and self._words[-1].epoch > self.epoch

    # ---- in the program

    def check(self) -> None:
        """Raises `Regrouped` if a rank is lost."""
        if self._is_told:
            raise Regrouped

    def explain(self, error: PeerLost) -> None:
        """A connection is lost: wait for the word. Raises `Regrouped`, or the error if none comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_told, _PATIENCE)
        self.check()
        raise error

    # ---- between programs

    def heed(self) -> list[Word]:
        """The losses that this rank had not gone on after; now it does."""
        with self._changed:
            new = [word for word in self._words if word.epoch > self.epoch]
            if new:
                self.epoch, self.here = new[-1].epoch, new[-1].here
            return new

    def agree(self, update: int) -> int | None:
        """The first update among those that all who are left have come to; this one has come to `update`. None if another
        is lost meanwhile."""
        self._write(self._said(self._rank), str(update))
        if not self._await(lambda: all(self._said(rank).exists() for rank in self.here)):
            return None
        return min(int(self._said(rank).read_text()) for rank in self.here)

    def connect(self) -> tuple[gloo.Group | None, Wires] | None:
        """A group of those who are left, and its connections; no group for one alone. None if another is lost meanwhile."""
        size, wires = len(self.here), Wires()
        if size == 1:
            return None, wires
        name, position = str(self._private / f"regroup{self.epoch}.store"), self.here.index(self._rank)
        made: list[gloo.Group | PeerLost] = []

        def make() -> None:  # by itself: it waits for all, also for those who are lost meanwhile
            try:
                with noted(wires):
                    made.append(gloo.make_group(FileStore(name, size), position, size, nccl=False))
            except Exception as error:
                made.append(PeerLost(str(error)))

        threading.Thread(target=make, daemon=True).start()
        if not self._await(lambda: bool(made)):
            return None
        if isinstance(made[0], PeerLost):
            try:
                self.explain(made[0])
            except Regrouped:
                return None
        assert not isinstance(made[0], PeerLost)
        return made[0], wires

    def end(self) -> None:
        """Its program has ended: wait until those of all have. Raises `Regrouped` if a rank was lost before that."""
        self._write(self._over(self._rank), "")
        self._await(lambda: all(self._over(rank).exists() for rank in self.here))
        if not self._has_ended(not self._is_told):
            self.explain(PeerLost("another rank has heard of a loss, this one has not"))

    # ---- what all read

    def _await(self, holds: Callable[[], bool]) -> bool:
        """Wait until something holds; False if a rank is lost before."""
        while not holds():
            with self._changed:
                if self._is_told or self._changed.wait_for(lambda: self._is_told, _POLL):
                    return False
        return True

    def _has_ended(self, proposal: bool) -> bool:
        """Whether all had ended before anybody heard of the next loss: as the first to ask proposes."""
        path = self._private / f"regroup{self.epoch}-ended"
        mine = path.with_suffix(f".{self._rank}")
        mine.write_text("yes" if proposal else "no")
        try:
            os.link(mine, path)  # whole, or not at all
        except FileExistsError:
            return path.read_text() == "yes"
        return proposal

    def _said(self, rank: int) -> Path:
        return self._private / f"regroup{self.epoch}-rank{rank}"

    def _over(self, rank: int) -> Path:
        return self._private / f"regroup{self.epoch}-over{rank}"

    def _write(self, path: Path, text: str) -> None:
        part = path.with_suffix(".part")
        part.write_text(text)
        part.replace(path)
