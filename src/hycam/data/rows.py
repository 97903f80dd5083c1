"""The two forms of a row before it becomes tokens: as its source has it, and as a question and its answer."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hycam.errors import HycamError, nearest

_KINDS = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}

Bad = Callable[[HycamError], None]
"""Handles the error of a malformed row: raises it, or counts it so that reading goes on."""


def refuse(error: HycamError) -> None:
    """The default ``Bad``: a malformed row is an error."""
    raise error


@dataclass(frozen=True)
class SourceRow:
    """One row as its source has it.

    Attributes:
        path: the file, or the hub repository.
        line: the line on which the row begins, counted from 1; in Parquet and on the hub the number of the row.
        fields: the values by column.
        label: the file's name in the row's identity; by default its name without folders.
        number: counts the rows that begin on the same line, as items of a JSON list may.
    """

    path: str
    line: int
    fields: dict[str, Any]
    label: str = ""
    number: int = 1

    @property
    def identity(self) -> str:
        """``file.jsonl:17``, or ``file.json:17:2`` for the second row on that line.

        It is the same on every machine, and whether or not the file is gzipped.
        """
        further = f":{self.number}" if self.number > 1 else ""
        return f"{self.label or label_of(Path(self.path).name)}:{self.line}{further}"

    def error(self, what: str) -> HycamError:
        """An error that names this row's place."""
        return HycamError(f"{self.path}:{self.line}: {what}.")

    def value(self, column: str) -> Any:
        """The value of ``column``; raises HycamError if there is no such column."""
        if column not in self.fields:
            known = ", ".join(map(str, self.fields)) or "none"
            raise self.error(f'there is no column "{column}".{nearest(column, map(str, self.fields))} Columns: {known}')
        return self.fields[column]

    def text(self, column: str) -> str:
        """The text in ``column``. Null is empty; an integer becomes its digits, as in CSV.

        Raises:
            HycamError: there is no such column, or it holds something other than text.
        """
        value = self.value(column)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return "" if value is None else self.checked(f'"{column}"', value)

    def optional(self, column: str | None) -> str:
        """The text in ``column``; empty if there is no such column."""
        return self.text(column) if column is not None and column in self.fields else ""

    def key(self, column: str) -> str:
        """The value of ``column`` as text, the same for equal values: 1, 1.0 and "1" are one; null is empty.

        Raises:
            HycamError: there is no such column, or it holds a list, an object or bytes.
        """
        value = self.value(column)
        if value is None or (isinstance(value, float) and math.isnan(value)):  # as pandas writes a missing value
            return ""
        if isinstance(value, list | dict | bytes):
            raise self.error(f'"{column}" is {kind_of(value)}, text or a number was expected')
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return self.checked(f'"{column}"', str(value))

    def numeric(self, column: str) -> int | float:
        """The number in ``column``; raises HycamError if it holds none."""
        value = self.value(column)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f'"{column}" is {kind_of(value)}, a number was expected')
        return value

    def first(self, column: str) -> str:
        """The first text of the list in ``column``; raises HycamError if there is none."""
        value = self.value(column)
        if not (isinstance(value, list) and value):
            raise self.error(f'"{column}" was expected to hold a list of texts')
        return self.checked(f'the first of "{column}"', value[0])

    def inside(self, column: str) -> SourceRow:
        """The object in ``column`` as a row of its own; raises HycamError if there is none."""
        found = self.fields.get(column)
        if not isinstance(found, dict):
            raise self.error(f'"{column}" was expected to hold an object')
        return replace(self, fields=found)

    def checked(self, what: str, value: Any) -> str:
        """``value`` if it is text; else raises HycamError, which calls it ``what``."""
        if not isinstance(value, str):
            raise self.error(f"{what} is {kind_of(value)}, text in quotes was expected")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise self.error(f"{what} holds half of a character (\\u{ord(value[error.start]):04x})") from None
        return value


@dataclass
class Example:
    """One instruction and its response: a row of :func:`hycam.data.load.load_task`, field by field.

    Attributes:
        row: where it came from (``file.jsonl:17``).
        instruction: the question.
        response: the answer to train.
        input: the text that the instruction refers to, or empty.
        group: rows of one group stay on the same side of every split. By default the input if there is one, else the
            first question.
        system: the system prompt, or empty.
        history: the turns before the instruction, each ``asked`` and ``answered``.
        part: the row's own name for its part of the split, or empty.
        messages: JSON text of the whole conversation if the other fields cannot express it, see
            :func:`hycam.data.messages.conversation`; else empty.
    """

    row: str
    instruction: str
    response: str
    input: str = ""
    group: str = ""
    system: str = ""
    history: list[dict[str, str]] = field(default_factory=list)
    part: str = ""
    messages: str = ""

    def __post_init__(self) -> None:
        if not self.group:
            begin = self.history[0]["asked"] if self.history else self.instruction
            self.group = self.input if self.input.strip() else begin

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to learn: no response, or no question."""
        return not (self.response.strip() and (self.instruction + self.input).strip())


def turn(asked: str, answered: str) -> dict[str, str]:
    """A turn of ``Example.history``."""
    return {"asked": asked, "answered": answered}


def is_absent(value: object) -> bool:
    """Whether a value is null or empty, as most files write what a row does not have."""
    return value is None or (isinstance(value, str | list | dict) and not value)


def kind_of(value: object) -> str:
    """The kind of a value and its beginning, for messages."""
    if value is None:
        return "null"
    return f"{_KINDS.get(type(value), f'of type {type(value).__name__}')} ({reprlib.repr(value)})"


def label_of(name: str) -> str:
    """A file's name in the identity of its rows: gzipped or not, it is the same."""
    return name[: -len(".gz")] if name.lower().endswith(".gz") else name
