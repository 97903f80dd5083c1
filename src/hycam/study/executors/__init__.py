"""What runs the cells of a study: processes of this machine or tasks of a Ray cluster, and the events they report."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hycam.machine import describe
from hycam.study.cells import Cell


@dataclass(frozen=True)
class Started:
    """A cell has started, or restarted after its worker was lost."""

    cell: Cell


@dataclass(frozen=True)
class Progressed:
    """``done`` of ``total`` units of the work ``what`` (such as training steps) of a running cell."""

    cell: Cell
    what: str
    done: int
    total: int
    note: str = ""

    @property
    def text(self) -> str:
        return f"{self.what} {self.done}/{self.total}" + (f", {self.note}" if self.note else "")


@dataclass(frozen=True)
class Finished:
    """A cell has ended, with this state and content of its result file."""

    cell: Cell
    state: str
    content: Mapping[str, Any]


Event = Started | Progressed | Finished


class Executor(Protocol):
    """Runs cells; closing the iterator early stops the running ones, which resume from their checkpoints next time."""

    def run(self, cells: Sequence[Cell]) -> Generator[Event, None, None]: ...


def startable(waiting: Sequence[Cell], running: Iterable[Cell]) -> list[Cell]:
    """The waiting cells whose run folder is used by no running cell and no earlier waiting one."""
    taken = {cell.recipe.output for cell in running}
    found = []
    for cell in waiting:
        if cell.recipe.output not in taken:
            taken.add(cell.recipe.output)
            found.append(cell)
    return found


def lost(cell: Cell, reason: str) -> Finished:
    """The event for a cell whose process ended without a result."""
    failure = {"reason": reason, "step": None}
    return Finished(cell, "failed", {"environment": describe(), "failure": failure, "curve": [], "seconds": None})
