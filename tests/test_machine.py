"""What is told of the machine and of this process."""

from __future__ import annotations

import subprocess
import sys

import torch

from hycam.machine import peak_memory_bytes


def test_the_peak_counts_what_was_held_and_is_free_again() -> None:
    before = peak_memory_bytes()
    held = torch.ones(before // 4 + 2**26)  # float32: 256 MiB more than the peak so far
    del held
    assert peak_memory_bytes() >= before + 2**27


def test_the_peak_of_a_process_is_not_that_of_the_one_that_started_it() -> None:
    held = torch.ones(2**29)  # 2 GiB
    command = "from hycam.machine import peak_memory_bytes; print(peak_memory_bytes())"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert int(done.stdout) < held.nbytes
