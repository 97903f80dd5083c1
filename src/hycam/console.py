"""Progress on a terminal as a bar with a time to go, and as plain lines anywhere else."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol

import datasets
import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 20.0


def quiet_libraries(informative: bool = True) -> None:
    """Keeps the libraries' own notes and bars off the console, and shows this package's messages there.

    Args:
        informative: whether to show what is for information only, such as the counts of the data.
    """
    for library in (transformers.logging, datasets.logging):
        library.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, where it is installed, says that it found that
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning)  # of transformers, about its own next version
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("hycam").setLevel(logging.INFO if informative else logging.WARNING)


def plain_console(stderr: bool = False) -> Console:
    """A console that shows texts as they are: names of tasks and files may hold what rich would read as markup."""
    return Console(stderr=stderr, markup=False, emoji=False)


def counted(update: Callable[[str, int, int], object], what: str, total: int) -> Callable[[int], None]:
    """Adds up pieces of work: each call with the number of new ones tells ``update`` what is done of ``total``."""
    done = 0

    def add(pieces: int) -> None:
        nonlocal done
        done += pieces
        update(what, done, total)

    return add


class Reports(Protocol):
    """Who is told how far long work has come, such as a :class:`Reporter`."""

    def update(self, what: str, done: int, total: int, note: str = "") -> None: ...


class Silence:
    """Shows nothing: one of the processes that train together is enough."""

    def update(self, what: str, done: int, total: int, note: str = "") -> None:
        pass


class Reporter:
    """Shows how far long work has come; several kinds of work may follow one another.

    ``update(what, done, total, note)`` may be called as often as there is something new. Everything goes to standard
    error, so that results on standard output stay clean.
    """

    def __init__(self, label: str = "") -> None:
        self.label = label
        self._console = plain_console(stderr=True)
        self._bar: Progress | None = None
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                       TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False))  # fmt: skip
            self._bar = Progress(*columns, console=self._console)
        self._tasks: dict[str, TaskID] = {}
        self._done: dict[str, int] = {}
        self._started: dict[str, tuple[float, int]] = {}
        self._last_line = 0.0

    def __enter__(self) -> Reporter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, what: str, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` pieces of the work ``what``; ``note`` is shown beside it."""
        described = f"{self.label}: {what}" if self.label else what
        if self._bar is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(described, total=total, note=note)
            if done < self._done.get(what, 0):  # the same work begins again, such as another validation
                self._bar.reset(self._tasks[what], total=total)
            self._bar.update(self._tasks[what], completed=done, total=total, note=note)
            self._done[what] = done
            return
        now = time.monotonic()
        if what not in self._started or done < self._done[what]:
            self._started[what] = (now, done)
        self._done[what] = done
        begun, at_begin = self._started[what]
        if done >= total or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = ""
            if begun < now and at_begin < done < total:
                seconds = (now - begun) / (done - at_begin) * (total - done)
                left = f", {int(seconds // 60)}:{int(seconds % 60):02d} to go"
            print(f"{described} {done}/{total}{f', {note}' if note else ''}{left}", file=sys.stderr, flush=True)


@contextmanager
def each_message_once() -> Iterator[None]:
    """Lets every message through one time: a study prepares the same data for each of its folds."""
    filters = [(handler, _Unsaid()) for handler in logging.getLogger().handlers]
    for handler, unsaid in filters:
        handler.addFilter(unsaid)
    try:
        yield
    finally:
        for handler, unsaid in filters:
            handler.removeFilter(unsaid)


class _Unsaid(logging.Filter):
    """Holds back a message that was let through before."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in self._said
        self._said.add(message)
        return is_new
