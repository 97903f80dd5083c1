"""How much memory there is for a run: of the machine, of its container, or of the GPU."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")


def available(device: torch.device, cgroup: Path = _CGROUP) -> int:
    """Bytes that a process may still take on the device, beside what this process holds.

    On a CPU that is what the system would give without swapping, or the limit of the container where that is less.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [psutil.virtual_memory().available]
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        left = _left(cgroup / limit, cgroup / used, cgroup / Path(used).parent / "memory.stat", cache)
        if left is not None:
            limits.append(left)
    return max(0, min(limits))


def _left(limit: Path, used: Path, statistics: Path, cache: str) -> int | None:
    """What a control group may still take; None where it has no limit. The pages of files it can give back at once."""
    try:
        most = limit.read_text().strip()
        if most == "max":
            return None
        values = dict(line.split() for line in statistics.read_text().splitlines())
        return int(most) - int(used.read_text()) + int(values.get(cache, 0))
    except (OSError, ValueError):
        return None


def resident() -> int:
    """Bytes of physical memory that this process holds."""
    return psutil.Process(os.getpid()).memory_info().rss
