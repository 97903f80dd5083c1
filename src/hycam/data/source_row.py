"""One row as it stands in a file, and what is done about one that is malformed."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hycam.errors import HycamError, nearest

_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}

Bad = Callable[[HycamError], None]
"""What is done about a malformed row: it raises the error, or counts it so that reading goes on."""


def refuse(error: HycamError) -> None:
    """The usual ``Bad``: no malformed row is passed over."""
    raise error


@dataclass(frozen=True)
class SourceRow:
    """One row as it stands in a file.

    ``path`` is the file (or the hub repository), ``line`` the line on which the row begins, counted from 1 (in Parquet
    and on the hub, which have no lines, the number of the row), ``fields`` the values by column name, and ``label``
    what the file is called in the row's identity: by default its name without folders. ``number`` counts the rows that
    begin on one line, as the items of a JSON list may.
    """

    path: str
    line: int
    fields: dict[str, Any]
    label: str = ""
    number: int = 1

    @property
    def identity(self) -> str:
        """``file.jsonl:17``: the same on every machine, and whether or not the file is gzipped.

        The second row that begins on a line is ``file.json:17:2``.
        """
        further = f":{self.number}" if self.number > 1 else ""
        return f"{self.label or label_of(Path(self.path).name)}:{self.line}{further}"

    def inside(self, column: str) -> SourceRow:
        """The object in ``column``, at the same place.

        Raises:
            HycamError: there is no such column, or it holds no object.
        """
        found = self.fields.get(column)
        if not isinstance(found, dict):
            raise self.error(f'"{column}" was expected to hold an object')
        return replace(self, fields=found)

    def value(self, column: str) -> Any:
        """Whatever is in ``column``; raises HycamError where there is no such column."""
        if column not in self.fields:
            known = ", ".join(map(str, self.fields)) or "none"
            raise self.error(f'there is no column "{column}".{nearest(column, map(str, self.fields))} Columns: {known}')
        return self.fields[column]

    def text(self, column: str) -> str:
        """The text in ``column``; null is read as empty, as most writers of Parquet and JSON mean it.

        A whole number is read as its digits, as it stands in CSV.

        Raises:
            HycamError: there is no such column, or it holds something other than text.
        """
        value = self.value(column)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return "" if value is None else self.checked(f'"{column}"', value)

    def key(self, column: str) -> str:
        """What is in ``column`` as text that is the same for the same value: 1, 1.0 and "1" are one; null is empty.

        Raises:
            HycamError: there is no such column, or it holds a list, an object or bytes.
        """
        value = self.value(column)
        if value is None or (isinstance(value, float) and math.isnan(value)):  # how pandas writes what is missing
            return ""
        if isinstance(value, list | dict | bytes):
            raise self.error(f'"{column}" is {kind_of(value)}, text or a number was expected')
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return self.checked(f'"{column}"', str(value))

    def numeric(self, column: str) -> int | float:
        """The number in ``column``; raises HycamError where there is none."""
        value = self.value(column)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f'"{column}" is {kind_of(value)}, a number was expected')
        return value

    def first(self, column: str) -> str:
        """The first text of the list in ``column``; raises HycamError where there is none."""
        value = self.value(column)
        if not (isinstance(value, list) and value):
            raise self.error(f'"{column}" was expected to hold a list of texts')
        return self.checked(f'the first of "{column}"', value[0])

    def checked(self, what: str, value: Any) -> str:
        """``value``, which has to be text; raises HycamError that calls it ``what`` where it is not."""
        if not isinstance(value, str):
            raise self.error(f"{what} is {kind_of(value)}, text in quotes was expected")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.error(f"{what} holds half of a character (\\u{ord(value[error.start]):04x})") from None
        return value

    def error(self, what: str) -> HycamError:
        """The error that names this row's place."""
        return HycamError(f"{self.path}:{self.line}: {what}.")


def kind_of(value: object) -> str:
    """What a value is, and the beginning of it."""
    if value is None:
        return "null"
    return f"{_KINDS.get(type(value), f'of type {type(value).__name__}')} ({reprlib.repr(value)})"


def label_of(name: str) -> str:
    """A file's name in the identity of its rows: whether it is gzipped makes no difference."""
    return name[: -len(".gz")] if name.lower().endswith(".gz") else name
