"""What an executor tells the runner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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


@dataclass(frozen=True)
class Finished:
    """A cell has ended: its state and the content of its result file."""

    cell: Cell
    state: str
    content: Mapping[str, Any]


Event = Started | Progressed | Finished


class Executor(Protocol):
    """Runs cells; closing the iterator early ends those that run, each of which continues from its checkpoint later."""

    def run(self, cells: Sequence[Cell]) -> Iterator[Event]: ...
