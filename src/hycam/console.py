"""Progress: a bar with the remaining time on a terminal, plain lines elsewhere."""

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

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 20.0


def quiet_libraries(informative: bool = True) -> None:
    """Keeps the libraries' own notes and bars off the console, and shows this package's messages there.

    Args:
        informative: whether to show plain information too, such as the counts of the data.
    """
    import datasets
    import torch
    import transformers

    for library in (transformers.logging, datasets.logging):
        library.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, if installed, announces its choice
    datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", category=FutureWarning)  # transformers announces its own next release
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("hycam").setLevel(logging.INFO if informative else logging.WARNING)


def plain_console(stderr: bool = False) -> Console:
    """A console without markup, since names of tasks and files may look like it."""
    return Console(stderr=stderr, markup=False, emoji=False)


def counted(update: Callable[[str, int, int], object], what: str, total: int) -> Callable[[int], None]:
    """A function that adds up finished pieces and tells ``update`` how many of ``total`` are done."""
    done = 0

    def add(pieces: int) -> None:
        nonlocal done
        done += pieces
        update(what, done, total)

    return add


class Reports(Protocol):
    """Whatever shows progress, such as a :class:`Reporter`."""

    def update(self, what: str, done: int, total: int, note: str = "") -> None: ...


class Silence:
    """Shows nothing: only the main process shows progress."""

    def update(self, what: str, done: int, total: int, note: str = "") -> None:
        pass


class Reporter:
    """Shows the progress of long work; several kinds of work may follow one another.

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
        self._started: dict[str, tuple[float, int]] = {}  # when a kind of work began, and what was done by then
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
        begins = done < self._done.get(what, 0)  # the same work again, such as another validation
        self._done[what] = done
        if self._bar is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(described, total=total, note=note)
            if begins:
                self._bar.reset(self._tasks[what], total=total)
            self._bar.update(self._tasks[what], completed=done, total=total, note=note)
            return
        now = time.monotonic()
        if begins or what not in self._started:
            self._started[what] = (now, done)
        if done >= total or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = self._time_left(what, now, done, total)
            print(f"{described} {done}/{total}{f', {note}' if note else ''}{left}", file=sys.stderr, flush=True)

    def _time_left(self, what: str, now: float, done: int, total: int) -> str:
        started, done_before = self._started[what]
        if now <= started or not done_before < done < total:
            return ""
        seconds = (now - started) / (done - done_before) * (total - done)
        return f", {int(seconds // 60)}:{int(seconds % 60):02d} to go"


@contextmanager
def each_message_once() -> Iterator[None]:
    """Suppresses repeated log messages: a study prepares the same data for each fold."""
    filters = [(handler, _first_time()) for handler in logging.getLogger().handlers]
    for handler, first_time in filters:
        handler.addFilter(first_time)
    try:
        yield
    finally:
        for handler, first_time in filters:
            handler.removeFilter(first_time)


def _first_time() -> Callable[[logging.LogRecord], bool]:
    shown: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message, before = record.getMessage(), len(shown)
        shown.add(message)
        return len(shown) > before

    return is_new
