"""Files that are whole at any instant, on the disk, or sure of their room there. Standard library only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

_PIECE = 8 << 20  # bytes


def write(path: Path, content: bytes, durable: bool = True, tell: Callable[[float], None] = lambda seconds: None) -> None:
    """Write a file so that at any instant it is absent, the old one or the new one, whole; if `durable`, what it says is on
    the disk. Its name is there once its folder is synced. `tell` is told how long each piece of it took."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            for begin in range(0, max(1, len(content)), _PIECE):
                begun = time.monotonic()
                file.write(content[begin : begin + _PIECE])
                if durable:  # each, so that what takes its time is seen to go on
                    file.flush()
                    os.fsync(file.fileno())
                tell(time.monotonic() - begun)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # as of a full disk
            error.filename = str(path)
        raise


def refusal(path: Path) -> str:
    """Why no file can be written at `path`, in a few words; empty if it can. Nothing is left there."""
    try:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if path.is_dir():
            return "it is a folder"
        TemporaryFile(dir=folder).close()  # nameless; os.access would let root write anywhere
    except OSError as error:
        return str(error.strerror)
    return ""


def reserve(descriptor: int, size: int, path: Path) -> None:
    """The open file at `path` has at least this many bytes, zero where nothing was written, and room for them: no process
    that writes into its map is killed because the disk is full. Raises OSError where there is no room."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def sync(path: Path) -> None:
    """What was written to a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
