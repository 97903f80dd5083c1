"""What an executor tells the runner."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hycam.machine import describe
from hycam.study.cells import Cell


@dataclass(frozen=True)
class Started:
    """A cell runs; told again where it had to begin again (its worker was lost)."""

    cell: Cell


@dataclass(frozen=True)
class Progressed:
    """``done`` of ``total`` pieces of the work ``what`` (such as training steps) of a running cell."""

    cell: Cell
    what: str
    done: int
    total: int
    note: str = ""

    @property
    def text(self) -> str:
        """All of it on one line, for a reader."""
        return f"{self.what} {self.done}/{self.total}" + (f", {self.note}" if self.note else "")


@dataclass(frozen=True)
class Finished:
    """A cell has ended: its state and the content of its result file."""

    cell: Cell
    state: str
    content: Mapping[str, Any]


Event = Started | Progressed | Finished


class Executor(Protocol):
    """Runs cells; closing the iterator early ends those that run, each of which continues from its checkpoint later."""

    def run(self, cells: Sequence[Cell]) -> Generator[Event, None, None]: ...


def startable(waiting: Sequence[Cell], running: Iterable[Cell]) -> list[Cell]:
    """The waiting cells whose run folder no running cell uses and none before them; the others wait for those."""
    taken = {cell.recipe.output for cell in running}
    found = []
    for cell in waiting:
        if cell.recipe.output not in taken:
            taken.add(cell.recipe.output)
            found.append(cell)
    return found


def lost(cell: Cell, reason: str) -> Finished:
    """A cell whose process ended without telling a result."""
    failure = {"reason": reason, "step": None}
    return Finished(cell, "failed", {"environment": describe(), "failure": failure, "curve": [], "seconds": None})
