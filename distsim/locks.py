"""Locks on files, which end with the process that holds them, in whatever way it ends. Standard library only.

Some file systems that clusters share have none: Lustre mounted without `flock`, NFS without its lock daemon. There all goes
on without, and it is said that nothing keeps two commands apart.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from functools import cache
from pathlib import Path
from typing import IO

ALONE, SHARED, NOW = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_NB
_NONE = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


def take(file: IO[str], how: int) -> None:
    """Lock an open file as `fcntl.flock` does, where its file system can. Raises `BlockingIOError` if another process has
    it and `how` has NOW."""
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno not in _NONE:
            raise
        _tell(Path(file.name).parent, error.errno)


@cache
def _tell(folder: Path, code: int) -> None:
    print(
        f"the file system of {folder} has no locks ({os.strerror(code)}): all goes on without, "
        "but see that no two commands make the same run at once",
        file=sys.stderr,
    )
