"""The connections of a group of gloo's, to be cut when a member is lost.

Who waits for a lost rank itself is told by gloo; who waits for a rank that waits for it is not. Cutting its own connections
frees a rank from whatever it waits for, with the error that gloo gives for a lost peer, in every version of torch. gloo
closes connections of its own accord meanwhile, and their numbers go to other files: each is known by its inode as well.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

Wires = set[tuple[int, int]]
"""Descriptors of sockets, and their inodes."""


@contextlib.contextmanager
def noted(wires: Wires) -> Iterator[None]:
    """Add the sockets of this process that are made meanwhile."""
    before = _sockets()
    yield
    wires |= _sockets() - before


def cut(wires: Wires) -> None:
    """End the connections among them that are still there; who waits on one, at either end, is told."""
    for descriptor, inode in wires:
        with contextlib.suppress(OSError), os.fdopen(os.dup(descriptor), "rb", buffering=0) as held:  # stays what it is
            if _inode(held.fileno()) == inode:
                with socket.socket(fileno=os.dup(held.fileno())) as wire:
                    is_tcp = wire.family in (socket.AF_INET, socket.AF_INET6) and wire.type == socket.SOCK_STREAM
                    if is_tcp and not wire.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        wire.shutdown(socket.SHUT_RDWR)


def _inode(descriptor: int) -> int | None:
    status = os.fstat(descriptor)
    return status.st_ino if stat.S_ISSOCK(status.st_mode) else None


def _sockets() -> Wires:
    found = Wires()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own is closed by now
            if (inode := _inode(int(path.name))) is not None:
                found.add((int(path.name), inode))
    return found
