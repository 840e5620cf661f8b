"""How ranks of one run speak about checkpoints: by a store that all of them reach, on whatever host they are.

Who commits a checkpoint asks the ranks that make no updates, one question after the other, and sees which have saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch._C._distributed_c10d import Store

from distsim.backends.real.transport.gloo import FOREVER


class Asking:
    """One thread's access to the store."""

    def __init__(self, store: Store) -> None:
        store.set_timeout(FOREVER)
        self._store = store

    def ask(self, update: int) -> None:
        """Have them save what they hold before this update. One rank asks at a time."""
        number = self._store.add("asked", 0)
        self._store.set(f"ask {number}", str(update))
        self._store.add("asked", 1)

    def questions(self) -> Iterator[int]:
        """The updates before which this rank is to save, as they are asked; without end."""
        number = 0
        while True:
            yield int(self._store.get(f"ask {number}"))
            number += 1

    def answer(self, update: int, rank: int) -> None:
        """This rank has saved."""
        self._store.set(f"saved {update} {rank}", "")

    def have_saved(self, update: int, ranks: Iterable[int]) -> bool:
        """All of these have."""
        keys = [f"saved {update} {rank}" for rank in ranks]
        return not keys or bool(self._store.check(keys))

    def committed(self) -> int:
        """The update of the last checkpoint of this incarnation; 0 if there is none."""
        return self._store.add("committed", 0)

    def commit(self, update: int) -> None:
        """There is a newer one, complete."""
        self._store.add("committed", update - self.committed())
