"""How much memory there is: for this process, and for a Redis node."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIMITS = "sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"
"""Where a control group tells its limit, in version 2 and in version 1."""


def limit(root: Path = Path("/")) -> int:
    """Bytes that this process may use: the limit of its control group, where that is below the memory of the machine;
    0 where neither is told."""
    total = 0
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                total = int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    for place in LIMITS:
        try:
            found = int((root / place).read_text())  # "max": no limit
        except (OSError, ValueError):
            continue
        return min(found, total) if total else found
    return total


def fullest(nodes: list[Mapping[str, Any]]) -> tuple[int, int]:
    """Of Redis nodes, each by its ``INFO memory``, the one nearest to its limit: bytes used, and its limit (0: it
    does not tell)."""
    found = []
    for node in nodes:
        most = int(node.get("maxmemory", 0)) or int(node.get("total_system_memory", 0))
        used = int(node.get("used_memory", 0))
        found.append((used / most if most else 0.0, used, most))
    _, used, most = max(found, default=(0.0, 0, 0))
    return used, most
