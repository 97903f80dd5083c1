"""The exceptions that a user is meant to read, and the helper that names the nearest known word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HycamError(ValueError):
    """A failure that the user can mend. Its message says what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with status 1.
    """


class UsageError(HycamError):
    """The command line itself is wrong; the exit status is 2."""


class Diverged(HycamError):
    """Training whose loss is no finite number any more.

    Args:
        step: the first optimizer step with such a loss.
    """

    def __init__(self, step: int) -> None:
        super().__init__(
            f"Training diverged: the loss of step {step} is no finite number. Lower the learning rate "
            "(training.learning_rate), or give it a warm-up (training.warmup_ratio)."
        )
        self.step = step


class Interrupted(KeyboardInterrupt):
    """The process was asked to end, by SIGTERM or Ctrl-C, and what there was to save is saved.

    Args:
        number: of the signal.
        outcome: what became of the work, as a sentence.
    """

    def __init__(self, number: int, outcome: str = "") -> None:
        super().__init__(outcome)
        self.number = number


def nearest(name: str, known: Iterable[str]) -> str:
    """``' Did you mean "x"?'`` for the known name closest to ``name``, or an empty string when none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f' Did you mean "{matches[0]}"?' if matches else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> HycamError:
    """The error for a misspelt ``kind`` (task, method, backbone ...): names it, the nearest one, and all there are."""
    names = sorted(known)
    return HycamError(f'There is no {kind} called "{name}".{nearest(name, names)} Known: {", ".join(names)}.')
