"""Several processes that train together, forked from the test's own, which has paid for the imports already."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def processes(number: int, work: Callable[[int], Any], seconds: float = 240.0) -> list[Any]:
    """What ``work(rank)`` gives in each of so many processes, which find one another as under a launcher.

    Raises:
        AssertionError: one did not end well (then the others are ended), or not in time; with what each did.
    """
    results, statuses = _run(number, work, seconds)
    assert all(status == 0 for status in statuses), f"the processes ended with {statuses}"
    return results


def statuses(number: int, work: Callable[[int], Any], seconds: float = 240.0) -> list[int | None]:
    """How each process ended, as ``waitpid`` says; None for one that was ended here because another had failed."""
    return _run(number, work, seconds)[1]


def _run(number: int, work: Callable[[int], Any], seconds: float) -> tuple[list[Any], list[int | None]]:
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        running = {_fork(rank, number, port, work, Path(folder)): rank for rank in range(number)}
        ended: list[int | None] = [None] * number
        end = time.monotonic() + seconds
        try:
            while running and time.monotonic() < end and not any(ended):
                for pid in list(running):
                    done, status = os.waitpid(pid, os.WNOHANG)
                    if done:
                        ended[running.pop(pid)] = status
                time.sleep(0.01)
        finally:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        assert not running or any(ended), f"processes {sorted(running.values())} hang"
        found = [Path(folder, str(rank)) for rank in range(number)]
        return [pickle.loads(file.read_bytes()) if file.exists() else None for file in found], ended


def _fork(rank: int, number: int, port: int, work: Callable[[int], Any], folder: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        # PyTorch makes its pool of threads anew after a fork, and not safely where several threads ask for it at once.
        torch.set_num_threads(1)
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(number),
            "LOCAL_WORLD_SIZE": str(number),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        (folder / str(rank)).write_bytes(pickle.dumps(work(rank)))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # neither pytest nor anything that its process has open is ended here


def _free_port() -> int:
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        return there.getsockname()[1]
