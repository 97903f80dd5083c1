"""SIGTERM and Ctrl-C: training ends after its step with a checkpoint; a second one ends the process at once."""

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

    Outside of :meth:`held` the first signal raises :class:`Interrupted` where it finds the process. Within, it is
    remembered, and :meth:`check` raises at the places where training can be left. The second leaves at once, without
    any clearing up: whatever is being written then is not believed later.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._own: int | None = None  # the signal to this process
        self._is_held = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the two signals over. One that is ignored, as Ctrl-C is for a job in the background, stays so."""
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
        """Training: there is something to save first."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    def agree(self, device: torch.device | str = "cpu") -> None:
        """Shares a signal with all processes that train together, so that they stop after the same step.

        Every process has to call this. A signal to this one alone has no effect until then.
        """
        if processes.world_size() > 1:
            asked = processes.all_reduce(torch.tensor(-(self._own or 0)), device, minimum=True)
            self.number = int(-asked) or None

    def check(self, outcome: str = "") -> None:
        """Raises :class:`Interrupted`, with what is said of the outcome, if the process was asked to end."""
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
    """Ends the process with the status that a shell shows for this signal."""
    if sys.stderr.isatty():
        os.write(2, _SHOW_CURSOR.encode())
    os._exit(128 + number)
