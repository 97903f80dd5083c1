"""The machine: what a run ran on, the memory that is free and was used, and the cores to compute with."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

_log = logging.getLogger(__name__)

_CGROUP = Path("/sys/fs/cgroup")
_PACKAGES = (
    "hycam",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "sacrebleu",
    "rouge-score",
    "triton",
    "bitsandbytes",
    "liger-kernel",
    "deepspeed",
)


def describe() -> dict[str, Any]:
    """Versions, the commit of this package where it is a checkout, and the machine; for a run folder."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "commit": _commit(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def cores(cgroup: Path = _CGROUP) -> int:
    """The cores that this process may use: those it is bound to, and no more than its container has time for."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such control group, or one without a quota ("max")
        quota, period = map(int, (cgroup / "cpu.max").read_text().split())
        return _within(allowed, quota, period)
    with suppress(OSError, ValueError):
        quota, period = (int((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return _within(allowed, quota, period)
    return allowed


def _within(allowed: int, quota: int, period: int) -> int:
    # Rounded down: threads wait for each other, so one that the container has no time for delays all.
    return allowed if quota < 0 else max(1, min(allowed, quota // period))


def share_cores() -> None:
    """Computes with no more threads than there are cores for this process, and logs their number.

    PyTorch itself knows nothing of a container's quota. Whatever OMP_NUM_THREADS says stays.
    """
    if "OMP_NUM_THREADS" in os.environ:
        _log.info("CPU threads: %d, as OMP_NUM_THREADS says.", torch.get_num_threads())
        return
    found = cores()
    torch.set_num_threads(min(found, torch.get_num_threads()))
    _log.info("CPU threads: %d, of %d cores that this process may use.", torch.get_num_threads(), found)


def peak_memory_bytes() -> int:
    """This process's peak memory so far: on the GPU where one is in use, resident otherwise."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # On Linux getrusage never reports less than what the parent process held when it started this one.
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) * 1024


def available_bytes(device: torch.device, cgroup: Path = _CGROUP) -> int:
    """Bytes that a process may still allocate on a GPU, or on this machine within its container and its limits."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    limits = [psutil.virtual_memory().available]
    if (most := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:  # ulimit -v
        limits.append(most - psutil.Process().memory_info().vms)
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):  # no such control group, or one without a limit ("max")
            statistics = (cgroup / used).with_name("memory.stat").read_text().splitlines()
            given_back = int(dict(line.split() for line in statistics).get(cache, 0))
            limits.append(int((cgroup / limit).read_text()) - int((cgroup / used).read_text()) + given_back)
    return max(0, min(limits))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed, perhaps inside somebody else's checkout
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:  # no git on this machine
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
