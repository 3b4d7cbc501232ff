"""What the C library does with the memory that a step on a CPU frees."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_OF_HEAP = 32 << 20  # bytes: glibc takes no larger M_MMAP_THRESHOLD
KEPT = 2**31 - 1  # bytes, of an `int`


@functools.cache
def keep_freed_memory() -> None:
    """Have this process keep up to 2 GiB of what it frees, for the next step.

    glibc gives the free end of its heap back to the system, and at every step takes it anew, page by page, each of them
    filled with zeros: 2,000 to 6,000 pages a step of WRN-16-2 (batch 64), 4 to 12 ms of it. Without glibc, or where the
    environment says how it is to be (MALLOC_...), nothing changes.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(OSError, AttributeError):  # another system or C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_OF_HEAP)
        mallopt(M_TRIM_THRESHOLD, KEPT)
