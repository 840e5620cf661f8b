"""The C library's allocator in a rank: memory that was freed is kept for the next step, which asks for the same sizes.

Without this, tensors of some MB are given back to the kernel when they are freed, which clears every page of the next ones.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # see mallopt(3)


def keep_freed_memory() -> None:
    """From now on, in this process; nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)  # else what is larger than 32 MB always comes from the kernel
        mallopt(_TRIM_THRESHOLD, -1)
