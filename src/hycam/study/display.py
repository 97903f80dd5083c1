"""A study while it runs: a live table on a terminal, a line for each cell anywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hycam.study.cells import Cell
from hycam.study.executors.events import Event, Finished, Progressed, Started
from hycam.study.plan import Plan
from hycam.study.status import Estimate, spelled

_SECONDS_BETWEEN_LINES = 60.0


class Display:
    """Shows which cells run and how far they are, what is done, and how long the rest will take."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=2) if self._console.is_terminal else None
        self._running: dict[str, tuple[Cell, float, str]] = {}
        self._waiting: dict[str, Cell] = {}
        self._estimate = Estimate([])
        self._states: dict[str, int] = {}
        self._total = 0
        self._last_line = time.monotonic()

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, plan: Plan) -> None:
        """What is known before the cells run."""
        self._estimate = plan.status.estimate
        self._waiting = {cell.identity: cell for cell in plan.status.to_go}
        self._total = len(plan.cells)
        settled = self._total - len(self._waiting)
        self._states = {"done": len(plan.results.done)}
        if settled > len(plan.results.done):
            self._states["failed or left aside"] = settled - len(plan.results.done)
        self._say(self._summary())

    def tell(self, event: Event) -> None:
        """Something happened."""
        cell = event.cell
        if isinstance(event, Started):
            self._running[cell.identity] = (cell, time.monotonic(), "starts")
            self._say(f"{cell.name}: started")
        elif isinstance(event, Progressed):
            began = self._running[cell.identity][1]
            note = f"{event.what} {event.done}/{event.total}{f', {event.note}' if event.note else ''}"
            self._running[cell.identity] = (cell, began, note)
            if self._live is None and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
                for shown, _, doing in self._running.values():
                    self._say(f"{shown.name}: {doing}")
        else:
            self._finished(event)
        if self._live is not None:
            self._live.update(self._table())

    def _finished(self, event: Finished) -> None:
        _, began, _ = self._running.pop(event.cell.identity)
        self._waiting.pop(event.cell.identity, None)
        self._states[event.state] = self._states.get(event.state, 0) + 1
        took = spelled(time.monotonic() - began)
        if event.state == "done":
            perplexity = event.content["evaluation"]["macro"]["perplexity"]
            what = "perplexity " + ("no number" if perplexity is None else f"{perplexity:.4f}")
        else:
            what = event.content["failure"]["reason"]
        line = f"{event.cell.name}: {event.state} in {took}, {what}"
        if self._live is not None:
            self._live.console.print(line, highlight=False)
        else:
            self._say(f"{line}\n{self._summary()}")

    def _summary(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in self._states.items())
        left = self._estimate.total(self._waiting.values())
        time_left = "" if left is None or not self._waiting else f", about {spelled(left / self._workers)}"
        return f"{self._total} cells: {states}, {len(self._waiting)} to go{time_left}"

    def _say(self, line: str) -> None:
        if self._live is None:
            print(line, file=sys.stderr, flush=True)
            self._last_line = time.monotonic()

    def _table(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("running", "for", "doing"):
            table.add_column(name, no_wrap=True)
        for cell, began, note in self._running.values():
            table.add_row(cell.name, spelled(time.monotonic() - began), note)
        return Group(table, Text(self._summary()))
