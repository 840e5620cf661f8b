"""Whose a folder of checkpoints is: one launch's, until the last of its processes is gone, the killed ones, too.

A launcher takes the folder's lock for itself alone, writes a word of its own into it, and from then on shares it with its
ranks. They hold it as long as they live: the kernel frees it, at their end and not before. A rank that comes too late finds
another's word there, or the lock taken, and writes nothing. Where there are no locks nobody waits; the word is left, and
who commits a checkpoint looks for it. Standard library only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4

from distsim import locks
from distsim.interface import DistsimError

_NAME = ".lock"
_LOOK = 0.02  # seconds
_PATIENCE = 1.0
"""Seconds of waiting that nobody is told of."""


@contextmanager
def leased(folder: Path) -> Iterator[str]:
    """The folder is this launch's, and that of ranks that are told the word. Waits for the processes of others."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _NAME).open("a+") as lock:
        _take(lock, folder)
        lock.truncate(0)
        word = uuid4().hex
        lock.write(word)
        lock.flush()
        locks.take(lock, locks.SHARED)
        yield word


def join(folder: Path, word: str) -> IO[str]:
    """Hold the folder for a rank until what this gives is closed. Raises `DistsimError` if another launch has it."""
    lock = (folder / _NAME).open("r")
    try:
        locks.take(lock, locks.SHARED | locks.NOW)
        check(folder, word)
    except BlockingIOError:
        lock.close()
        raise _begun(folder) from None
    except DistsimError:
        lock.close()
        raise
    return lock


def check(folder: Path, word: str) -> None:
    """Raise `DistsimError` if another launch has the folder."""
    if (folder / _NAME).read_text() != word:
        raise _begun(folder)


def _begun(folder: Path) -> DistsimError:
    return DistsimError(f"another launch has begun in {folder}")


def _take(lock: IO[str], folder: Path) -> None:
    begun, told = time.monotonic(), False
    while True:
        try:
            return locks.take(lock, locks.ALONE | locks.NOW)
        except BlockingIOError:
            if not told and time.monotonic() - begun > _PATIENCE:
                told = True
                print(f"processes of another launch have not left {folder} yet: waiting for them", file=sys.stderr)
            time.sleep(_LOOK)
