"""How the tests keep their processes small."""

import ctypes
import gc
import os
from pathlib import Path

from benchmarks.process_memory import memory

_LIBC = ctypes.CDLL(None) if os.name == "posix" else None
_M_ARENA_MAX = -8  # in glibc's malloc.h


def share_malloc_arenas() -> None:
    """Makes all threads share two of glibc's arenas, each of which keeps what is freed in it."""
    if hasattr(_LIBC, "mallopt"):
        _LIBC.mallopt(_M_ARENA_MAX, 2)


def release_memory() -> None:
    """Returns freed memory to the system, which glibc would keep."""
    gc.collect()
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


def resident_memory() -> float:
    """Returns the bytes of this process in memory; infinity where they cannot be read."""
    return memory("VmRSS") if Path("/proc/self/status").exists() else float("inf")
