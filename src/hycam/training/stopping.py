"""SIGTERM and Ctrl-C: training ends after the step with a checkpoint; a second signal ends the process at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import torch

from hycam import processes
from hycam.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it


class Stop:
    """Whether this process was asked to end.

    Outside of :meth:`held` the first signal raises :class:`Interrupted` at once. Within, :meth:`check` raises it where
    training can be left. A second signal ends the process without cleaning up: a file that is half written then is
    recognised as such later.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._own: int | None = None  # the signal that this process got
        self._is_held = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles both signals, except one that is ignored, such as Ctrl-C for a job in the background."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        taken = [number for number in SIGNALS if before[number] != signal.SIG_IGN]
        for number in taken:
            signal.signal(number, self._asked)
        try:
            yield
        finally:
            for number in taken:
                signal.signal(number, before[number])

    @contextmanager
    def held(self) -> Iterator[None]:
        """While training, when there is something to save first."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    def agree(self, device: torch.device | str = "cpu") -> None:
        """Shares a signal with all processes, each of which must call this, so that they stop after the same step."""
        if processes.world_size() > 1:
            asked = processes.all_reduce(torch.tensor(-(self._own or 0)), device, minimum=True)
            self.number = int(-asked) or None

    def check(self, outcome: str = "") -> None:
        """Raises :class:`Interrupted` with ``outcome`` if the process was asked to end."""
        if self.number is not None:
            raise Interrupted(self.number, outcome)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self._own is not None:
            leave_at_once(number)
        self._own = number
        if processes.world_size() == 1 or not self._is_held:
            self.number = number
        if not self._is_held:
            raise Interrupted(number)
        # Not print: the signal may have come in the middle of one.
        if os.environ.get("RANK", "0") == "0":
            os.write(2, b"\nStopping after this step, with a checkpoint. Once more to leave at once.\n")


def leave_at_once(number: int) -> NoReturn:
    """Ends the process with the exit status of this signal."""
    if sys.stderr.isatty():
        os.write(2, _SHOW_CURSOR.encode())
    os._exit(128 + number)
