"""The private folder of a launch, where its ranks meet: gone afterwards, that of a killed launcher at the next launch.

Its launcher holds a lock on it, which ends with the process in whatever way: a folder that can be locked is nobody's.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distsim import locks

_PREFIX = "distsim-"


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder of this launch's own."""
    _sweep()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        with (folder / ".owner").open("w") as owner:
            locks.take(owner, locks.ALONE)
            (folder / ".owner").rename(folder / "owner")  # locked before anyone else can find it
            yield folder


def _sweep() -> None:
    """Remove the folders of launchers that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/owner"):
        try:
            with path.open("r+") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:  # its launcher lives, there are no locks, it is another user's, or it is gone by now
            continue
