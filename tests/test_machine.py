"""The reported memory of this process."""

from __future__ import annotations

import subprocess
import sys

import torch

from hycam import machine

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
