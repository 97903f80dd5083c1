"""Exceptions with messages for the user, and the search for the nearest known name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_ROWS_SHOWN = 6


class HycamError(ValueError):
    """A failure that the user can fix. Its message says what is wrong, where, and what to do.

    The command line prints the message without a traceback and exits with status 1.
    """

    def __init__(self, message: str) -> None:
        super().__init__(encodable(message))


class UsageError(HycamError):
    """The command line itself is wrong; the exit status is 2."""


class LostProcess(HycamError):
    """One of the processes that train together no longer responds."""


class Diverged(HycamError):
    """Training has diverged: the loss, the gradient or the weights are not finite or far too large.

    Args:
        step: the optimizer step where it happened; the first of several in a row.
        what: what happened, as a clause.
        rows: the identities of that step's rows, each with its task in front.
        checkpoint: the last checkpoint before that step, if there is one.
    """

    def __init__(self, step: int, what: str, rows: Sequence[str] = (), checkpoint: str | None = None) -> None:
        message = f"Training diverged: {what}."
        if rows:
            more = f" and {len(rows) - _ROWS_SHOWN:,} more" if len(rows) > _ROWS_SHOWN else ""
            message += f" Rows of that step: {', '.join(rows[:_ROWS_SHOWN])}{more}."
        if checkpoint is None:
            message += " There is no checkpoint from before that step (training.save_every keeps some)."
        else:
            message += (
                f" The last good checkpoint is {checkpoint}: the same command with training.on_divergence set to skip "
                "resumes there and skips such steps."
            )
        super().__init__(
            f"{message} Or start again with a lower learning rate (training.learning_rate), or with a warm-up "
            "(training.warmup_ratio)."
        )
        self.step, self.what, self.rows, self.checkpoint = step, what, list(rows), checkpoint


class Interrupted(KeyboardInterrupt):
    """The process was told to stop, by SIGTERM or Ctrl-C, and has saved its work.

    Args:
        number: the signal's number.
        outcome: what was saved, as a sentence.
    """

    def __init__(self, number: int, outcome: str = "") -> None:
        super().__init__(outcome)
        self.number = number


def encodable(text: str) -> str:
    """``text`` with lone surrogates, which JSON may contain and UTF-8 cannot encode, written as ``\\ud800``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def first_line(error: BaseException) -> str:
    """The first line of an error of another library, without its full stop; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def nearest(name: str, known: Iterable[str]) -> str:
    """``' Did you mean "x"?'`` for the known name closest to ``name``, or an empty string where none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f' Did you mean "{matches[0]}"?' if matches else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> HycamError:
    """The error for a misspelt ``kind`` (task, method, backbone ...): names it, the nearest one, and all there are."""
    names = sorted(known)
    return HycamError(f'There is no {kind} called "{name}".{nearest(name, names)} Known: {", ".join(names)}.')
