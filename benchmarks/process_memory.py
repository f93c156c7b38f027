"""What this process has in memory, from /proc: Linux only."""

import re
from pathlib import Path


def begin_high_water_mark() -> None:
    """Forgets the largest size so far."""
    Path("/proc/self/clear_refs").write_text("5")


def memory(key: str) -> int:
    """Returns a size in bytes: "VmRSS" is that of now, "VmHWM" the largest."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) * 1024
