"""Memory of this process, from /proc: Linux only."""

import re
from pathlib import Path


def begin_high_water_mark() -> None:
    """Resets the high-water mark of the memory."""
    Path("/proc/self/clear_refs").write_text("5")


def memory(key: str) -> int:
    """Returns a size in bytes: "VmRSS" is the current size, "VmHWM" the high-water mark."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) * 1024
