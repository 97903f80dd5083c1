"""What a table is, whatever file or page it goes to, and which of its numbers are marked as the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Entry:
    """One cell of a table.

    Attributes:
        text: as it is printed.
        value: the number behind it, in full; None where there is none, or where it is made of fewer cells of the study
            than the table says, so that nothing takes it for the whole.
        best: whether it is the best of its column.
        second: whether it is the second best.
        star: whether it is significantly better than every PEFT baseline.
        muted: whether it stands beside what the table is about: a published figure, a cell that was not run.
    """

    text: str
    value: float | None = None
    best: bool = False
    second: bool = False
    star: bool = False
    muted: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: of its files.
        title: what stands above it.
        note: what stands below it: definitions, and what to be careful about.
        columns: their headings.
        rows: each as long as ``columns``.
        groups: headings over several columns, as (text, number of columns); together all of them. None where empty.
    """

    name: str
    title: str
    note: str
    columns: list[str]
    rows: list[list[Entry]]
    groups: list[tuple[str, int]] = field(default_factory=list)

    @property
    def headings(self) -> list[str]:
        """The columns' headings with those over them, for where one line has to do."""
        over = [text for text, number in self.groups for _ in range(number)] or [""] * len(self.columns)
        return [f"{above} {column}".strip() for above, column in zip(over, self.columns, strict=True)]

    @property
    def numeric(self) -> list[bool]:
        """Of each column, whether it has numbers, which are set to the right."""
        return [any(row[at].value is not None for row in self.rows) for at in range(len(self.columns))]


class NotRun(Exception):
    """The cells that a table or a figure needs are not there.

    Args:
        reason: which, and what would bring them.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def marked(block: Sequence[Sequence[Entry]], lower: Sequence[bool | None]) -> list[list[Entry]]:
    """Rows with the best and the second best of each column marked; what prints alike shares a mark.

    Args:
        block: the rows that compete with one another. A marked column prints its numbers first.
        lower: of each column, whether the lowest is the best, the highest is, or (None) nothing is marked.

    Returns:
        the rows. Muted entries and those without a value do not compete, and where all print alike none is marked.
    """
    columns = [
        list(column) if down is None else _marked(column, down)
        for column, down in zip(zip(*block, strict=True), lower, strict=True)
    ]
    return [list(row) for row in zip(*columns, strict=True)]


def _marked(column: Sequence[Entry], lower: bool) -> list[Entry]:
    printed = {at: float(entry.text.split()[0].replace(",", "")) for at, entry in enumerate(column)
               if entry.value is not None and not entry.muted}  # fmt: skip
    order = sorted(set(printed.values()), reverse=not lower)
    if len(order) < 2:
        return list(column)
    return [
        replace(entry, best=printed.get(at) == order[0], second=printed.get(at) == order[1])
        for at, entry in enumerate(column)
    ]
