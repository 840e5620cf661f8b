"""Files that are whole at any instant, on the disk, or sure of their room there. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, content: bytes, durable: bool = True) -> None:
    """Write a file so that at any instant it is absent, the old one or the new one, whole; if `durable`, what it says is on
    the disk. Its name is there once its folder is synced."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
