"""Shows a running study: a live table on a terminal, otherwise a line per cell; and a file for ``--status``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hycam.console import plain_console
from hycam.study.cells import Cell, names_of
from hycam.study.executors import Event, Finished, Progressed, Started
from hycam.study.plan import Plan
from hycam.study.results import Result
from hycam.study.status import Doing, Estimate, cell_states, counted, note, spelled

_SECONDS_BETWEEN_LINES = 60.0
_SECONDS_BETWEEN_NOTES = 5.0


class Display:
    """Shows which cells run, their progress, what is done, and how long the rest will take.

    Args:
        at_once: how many cells run at once, as far as that is known beforehand.
    """

    def __init__(self, at_once: int) -> None:
        self._console = plain_console(stderr=True)
        self._at_once = at_once
        self._names = names_of([])
        self._running: dict[str, Doing] = {}
        self._waiting: dict[str, Cell] = {}
        self._measured: list[Result] = []
        self._states: dict[str, int] = {}
        self._folder = Path()
        self._bottom = ""
        self._last_line = self._last_note = 0.0
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._table, console=self._console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, what: str, done: int, total: int) -> None:
        """Shows the progress of preparing the data."""
        self._bottom = f"{what} {done:,}/{total:,}"
        if self._is_time():
            self._line(self._bottom)

    def begin(self, plan: Plan) -> None:
        """Shows the cells of a plan; called again when a sweep was extended."""
        self._folder = Path(plan.study.output)
        self._names = names_of(plan.cells)
        self._waiting = {cell.identity: cell for cell in plan.to_go}
        self._measured = list(plan.results.done)
        states = counted(cell_states(plan))
        self._states = {name: states[name] for name in ("done", "diverged", "unusable")}
        self._bottom = self._summary()
        if self._names.common:
            self._print(f"All cells: {self._names.common}")
        self._print(self._bottom)

    def tell(self, event: Event) -> None:
        """Shows an event of a cell."""
        identity = event.cell.identity
        name = self._names.short[identity]
        if isinstance(event, Started):
            self._running[identity] = Doing(time.time(), "starts")
            self._at_once = max(self._at_once, len(self._running))
            self._line(f"{name}: started")
        elif isinstance(event, Progressed):
            self._running[identity] = Doing(self._running[identity].since, event.text)
            if self._is_time():
                for other, doing in self._running.items():
                    self._line(f"{self._names.short[other]}: {doing.what}")
        else:
            self._finished(event, name)
        if not isinstance(event, Progressed) or time.monotonic() >= self._last_note + _SECONDS_BETWEEN_NOTES:
            self._last_note = time.monotonic()
            note(self._folder, self._running)

    def end(self) -> None:
        """No cell is running any more."""
        self._running.clear()
        note(self._folder, {})

    def _finished(self, event: Finished, name: str) -> None:
        took = spelled(self._running.pop(event.cell.identity).seconds)
        del self._waiting[event.cell.identity]
        self._states[event.state] = self._states.get(event.state, 0) + 1
        if event.state == "done":
            self._measured.append(Result({**event.content, "cell": event.cell.labels}))
            perplexity = event.content["evaluation"]["macro"]["perplexity"]
            what = "perplexity " + ("not finite" if perplexity is None else f"{perplexity:.4f}")
        else:
            what = event.content["failure"]["reason"]
        self._bottom = self._summary()
        self._print(f"{name}: {event.state} in {took}, {what}")
        self._line(self._bottom)

    def _summary(self) -> str:
        states = "".join(f"{count} {state}, " for state, count in self._states.items() if count)
        spent = {identity: doing.seconds for identity, doing in self._running.items()}
        left = Estimate(self._measured).left(self._waiting.values(), spent)
        tail = f", about {spelled(left / self._at_once)}" if left else ""
        return f"{len(self._names.short)} cells: {states}{len(self._waiting)} to go{tail}"

    def _is_time(self) -> bool:
        """Whether the next line of progress is due; a live table needs none."""
        return self._live is None and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES

    def _line(self, line: str) -> None:
        """Prints a line unless there is a live table, which shows the same."""
        if self._live is None:
            print(line, file=sys.stderr, flush=True)
            self._last_line = time.monotonic()

    def _print(self, line: str) -> None:
        """Prints a line, above the live table if there is one."""
        if self._live is not None:
            self._console.print(Text(line))
        self._line(line)

    def _table(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("running", "for", "doing"):
            table.add_column(name, no_wrap=True)
        for identity, doing in list(self._running.items()):  # a copy: another thread draws the table
            table.add_row(Text(self._names.short[identity]), spelled(doing.seconds), Text(doing.what))
        return Group(*([table] if table.rows else []), Text(self._bottom))
