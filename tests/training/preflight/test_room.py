"""How much memory there is."""

from __future__ import annotations

import mmap
from pathlib import Path

import psutil
import pytest
import torch

from hycam.training.preflight.room import available, resident

CPU = torch.device("cpu")


def test_without_a_limit_it_is_the_machines(tmp_path: Path) -> None:
    assert available(CPU, tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.2)
    (tmp_path / "memory.max").write_text("max\n")
    assert available(CPU, tmp_path) == pytest.approx(psutil.virtual_memory().available, rel=0.2)


@pytest.mark.parametrize(
    ("limit", "used", "statistics", "cache"),
    [
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ],
)
def test_a_containers_limit_counts_less_what_it_uses(
    tmp_path: Path, limit: str, used: str, statistics: str, cache: str
) -> None:
    (tmp_path / limit).parent.mkdir(exist_ok=True)
    (tmp_path / limit).write_text("50000000\n")
    (tmp_path / used).write_text("30000000\n")
    (tmp_path / statistics).write_text(f"anon 1\n{cache} 10000000\n")
    assert available(CPU, tmp_path) == 30_000_000
    (tmp_path / used).write_text("70000000\n")
    assert available(CPU, tmp_path) == 0


def test_what_this_process_holds_grows_with_what_it_holds() -> None:
    before = resident()
    with mmap.mmap(-1, 80_000_000) as held:  # from the system; a tensor may get what this process has already
        held.write(b"1" * 80_000_000)
        assert resident() - before > 60_000_000
