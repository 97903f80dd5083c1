"""A table of a report, independent of its file format, and the marks of its best numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One cell of a table.

    Attributes:
        text: as printed.
        value: the number at full precision; None if there is none, or if some cells of the study are missing, so that
            nothing mistakes it for the whole.
        best, second: whether it is the best or second best of its column.
        star: whether it is significantly better than every PEFT baseline.
        muted: whether it is secondary: a published figure, or a cell that was not run.
    """

    text: str
    value: float | None = None
    best: bool = False
    second: bool = False
    star: bool = False
    muted: bool = False


NONE = Entry("–", muted=True)
"""For a figure that does not exist."""

BLANK = Entry("")
"""For a place that stays empty."""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: of its files.
        title, note: the texts above and below it; the note has definitions and caveats.
        columns: their headings.
        rows: each as long as ``columns``.
        groups: headings over several columns, as (text, number of columns), which cover all columns; or none.
    """

    name: str
    title: str
    note: str
    columns: list[str]
    rows: list[list[Entry]]
    groups: list[tuple[str, int]] = field(default_factory=list)

    @property
    def headings(self) -> list[str]:
        """The headings prefixed by their groups', for formats with a single header line."""
        over = [text for text, number in self.groups for _ in range(number)] or [""] * len(self.columns)
        return [f"{above} {column}".strip() for above, column in zip(over, self.columns, strict=True)]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column has numbers, which are right-aligned."""
        return [any(row[at].value is not None for row in self.rows) for at in range(len(self.columns))]


class NotRun(Exception):
    """A table or a figure lacks the cells that it needs; the message says which, and what would provide them."""


def need(condition: Any, reason: str) -> None:
    """Raises NotRun unless the condition holds."""
    if not condition:
        raise NotRun(reason)


def marked(block: Sequence[Sequence[Entry]], lower: Sequence[bool | None]) -> list[list[Entry]]:
    """Marks the best and second best of each column; entries that print alike share a mark.

    Muted entries and those without a value do not compete; if all print alike, none is marked.

    Args:
        block: the competing rows; in a marked column the number comes first in the text.
        lower: for each column, whether the lowest is best (True), the highest is (False), or nothing is marked (None).
    """
    columns = [
        list(column) if down is None else _marked(column, down)
        for column, down in zip(zip(*block, strict=True), lower, strict=True)
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def _marked(column: Sequence[Entry], lower: bool) -> list[Entry]:
    printed = {
        at: float(entry.text.split()[0].replace(",", ""))
        for at, entry in enumerate(column)
        if entry.value is not None and not entry.muted
    }
    order = sorted(set(printed.values()), reverse=not lower)
    if len(order) < 2:
        return list(column)
    return [
        replace(entry, best=printed.get(at) == order[0], second=printed.get(at) == order[1])
        for at, entry in enumerate(column)
    ]
