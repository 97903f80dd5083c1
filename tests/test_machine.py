"""The memory of this process, and its cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hycam import machine
from hycam.machine import available_bytes, cores, share_cores

# The module alone: the whole package would take seconds to import, and more memory than is held here.
CHILD = f"""
import importlib.util, torch
spec = importlib.util.spec_from_file_location("machine", {machine.__file__!r})
machine = importlib.util.module_from_spec(spec)
spec.loader.exec_module(machine)
before = machine.peak_memory_bytes()
held = torch.ones(before // 4 + 2**25)  # float32: 128 MiB more than the peak so far
del held
print(before, machine.peak_memory_bytes())
"""


def test_the_peak_is_the_processs_own_and_counts_what_was_held_and_is_free_again() -> None:
    held = torch.ones(2**28)  # 1 GiB, of which the child must not be told
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < held.nbytes
    assert after >= before + 2**26


def test_a_container_may_leave_less_than_the_machine_has(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    of_machine = available_bytes(cpu, tmp_path / "none")
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        (tmp_path / "memory").mkdir(exist_ok=True)
        (tmp_path / limit).write_text("30000000\n")
        (tmp_path / used).write_text("20000000\n")
        (tmp_path / used).with_name("memory.stat").write_text(f"anon 1\n{cache} 5000000\n")
        assert available_bytes(cpu, tmp_path) == 15_000_000
        (tmp_path / limit).unlink()
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(cpu, tmp_path) == pytest.approx(of_machine, rel=0.2)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "300000 100000"}, 3),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "3200000 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ],
)
def test_the_cores_are_those_of_the_affinity_within_the_containers_quota(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(f"{content}\n")
    assert cores(tmp_path) == expected


def test_there_are_no_more_threads_than_cores_unless_somebody_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        for threads, available, expected in ((4, 2, 2), (1, 2, 1)):
            torch.set_num_threads(threads)
            monkeypatch.setattr(machine, "cores", lambda available=available: available)
            share_cores()
            assert torch.get_num_threads() == expected
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        torch.set_num_threads(4)
        share_cores()
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
