"""Machines and their processes: names, addresses, and whether a process has ended."""

import contextlib
import functools
import hashlib
import ipaddress
import os
import socket
from pathlib import Path


def is_loopback(host: str) -> bool:
    """Returns whether a host name or IP address is always this machine's."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@functools.cache
def this_host() -> str:
    """Returns a short text that differs between machines and between containers."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))  # containers count their own processes
    with contextlib.suppress(OSError):
        parts.append(Path("/etc/machine-id").read_text())  # host names may be equal
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:8]


def has_ended(pid: int) -> bool:
    """Returns whether no process of this host has the id `pid`."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
