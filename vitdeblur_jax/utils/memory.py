"""How much memory is free."""

from pathlib import Path
from typing import Any

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: Any) -> int | None:
    """Returns the free memory of a JAX device; for a CPU, that of the machine or its container.

    Returns:
      Bytes, or None if it cannot be told.
    """
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    if device.platform != "cpu":
        return None
    found = [size for size in (_of_machine(), _of_container()) if size is not None]
    return min(found, default=None)


def _of_machine():
    try:
        lines = _MEMINFO.read_text().splitlines()
        return (
            next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
        )
    except (OSError, StopIteration):
        return None


def _of_container():
    try:
        limit, used, parts = (
            (_CGROUP / f"memory.{name}").read_text() for name in ("max", "current", "stat")
        )
        # The kernel counts files that were read as used, and drops them when memory runs short.
        files = dict(line.split() for line in parts.splitlines())["inactive_file"]
        return int(limit) - int(used) + int(files)
    except (OSError, ValueError, KeyError):  # no container, or "max"
        return None
