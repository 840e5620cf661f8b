"""Whose a folder of checkpoints is: one launch's, until the last of its processes is gone, the killed ones, too.

A launcher takes the folder's lock for itself alone, writes a word of its own into it, and from then on shares it with its
ranks. They hold it as long as they live: the kernel frees it, at their end and not before. A rank that comes too late finds
another's word there, or the lock taken, and writes nothing. Standard library only.
"""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4

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
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield word


def join(folder: Path, word: str) -> IO[str]:
    """Hold the folder for a rank until what this gives is closed. Raises `DistsimError` if another launch has it."""
    lock = (folder / _NAME).open("r")
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        is_ours = lock.read() == word
    except BlockingIOError:
        is_ours = False
    if not is_ours:
        lock.close()
        raise DistsimError(f"another launch has begun in {folder}")
    return lock


def _take(lock: IO[str], folder: Path) -> None:
    begun, told = time.monotonic(), False
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told and time.monotonic() - begun > _PATIENCE:
                told = True
                print(f"processes of another launch have not left {folder} yet: waiting for them", file=sys.stderr)
            time.sleep(_LOOK)
