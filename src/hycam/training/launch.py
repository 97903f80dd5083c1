"""Starts several processes on this machine that train together, through PyTorch's elastic launcher.

``accelerate launch`` starts the same one, but prints its traceback where a process fails, and reads settings of the
user's own that may contradict the recipe.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from hycam.errors import HycamError
from hycam.machine import cores

_SECONDS_TO_LEAVE = 120  # after a signal, for the last checkpoint


class Failed(HycamError):
    """A process failed or was killed.

    Args:
        message: why; empty if the process has reported it.
        status: the exit status of the launcher.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def launch(verb: str, words: Sequence[str], number: int) -> None:
    """Runs ``hycam VERB WORDS`` as so many processes and waits for them; if one fails, the others end too.

    All their output is shown. A signal to this process reaches all of them.

    Raises:
        Failed: one of them failed, or this process was asked to end.
    """
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # it would repeat every message
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // number)))
    with tempfile.TemporaryDirectory(prefix="hycam-launch-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=number,
            run_id="hycam",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            shutdown_timeout=_SECONDS_TO_LEAVE,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "hycam.cli.main", verb, *words)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode > 0:
                raise Failed("", failure.exitcode) from error
            name = signal.Signals(-failure.exitcode).name
            raise Failed(
                f"Process {rank} of {number} was ended by {name}"
                f"{' (as the system does when memory runs out)' if name == 'SIGKILL' else ''}, and the others with it. "
                "The same command continues from the last checkpoint.",
                1,
            ) from error
        except SignalException as error:
            raise Failed("", 128 + error.sigval) from error


def end_with_launcher() -> None:
    """Ends this process soon after its launcher, even if that was killed."""
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
