"""A table on the console."""

from __future__ import annotations

import rich.box
import rich.table
from rich.text import Text

from hycam.study.tables.table import Entry, Table

_MOST_COLUMNS = 6


def terminal(table: Table) -> rich.table.Table:
    """The table for a console: the best in bold, the second best underlined, the note below.

    One with many columns is turned, so that none is cut: each column becomes a line.
    """
    is_turned = len(table.columns) > _MOST_COLUMNS
    headings, rows = _turned(table) if is_turned else (table.headings, table.rows)
    numeric = [False, *([True] * (len(headings) - 1))] if is_turned else table.numeric
    shown = rich.table.Table(title=table.title, caption=table.note, title_justify="left", caption_justify="left",
                             box=rich.box.SIMPLE_HEAD, title_style="bold", padding=(0, 1))  # fmt: skip
    for heading, is_number in zip(headings, numeric, strict=True):
        shown.add_column(heading, justify="right" if is_number else "left")
    for row in rows:
        shown.add_row(*map(_styled, row))
    return shown


def _turned(table: Table) -> tuple[list[str], list[list[Entry]]]:
    headings = [table.headings[0], *(row[0].text for row in table.rows)]
    lines = [[Entry(name), *(row[at] for row in table.rows)] for at, name in enumerate(table.headings) if at > 0]
    return headings, lines


def _styled(entry: Entry) -> Text:
    style = "bold" if entry.best else "underline" if entry.second else "dim" if entry.muted else ""
    return Text(entry.text + ("*" if entry.star else ""), style=style)
