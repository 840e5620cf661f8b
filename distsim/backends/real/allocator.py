"""The C library's allocator in a rank, where that is glibc: freed memory is kept, and what is large lies in huge pages.

Without the first, tensors of some MB are given back to the kernel when they are freed, which clears every page of the next
ones; without the second, a product of matrices on a CPU walks the page table for every 4 KiB. experiments/07_overhead says
what they save.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # see mallopt(3)
_TUNABLES, _HUGE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def keep_freed_memory() -> None:
    """From now on, in this process; nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)  # else what is larger than 32 MB always comes from the kernel
        mallopt(_TRIM_THRESHOLD, -1)


@contextlib.contextmanager
def huge_pages() -> Iterator[None]:
    """Programs that are started in here ask for huge pages, unless the user has said whether they are to; nothing before
    glibc 2.35, and where the system gives none to who asks."""
    before = os.environ.get(_TUNABLES)
    if _HUGE not in (before or ""):
        os.environ[_TUNABLES] = f"{before}:{_HUGE}=1" if before else f"{_HUGE}=1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_TUNABLES, None)
        else:
            os.environ[_TUNABLES] = before
