"""Rows that hold instruction and response under their usual names, whoever wrote the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hycam.data.formats import SourceRow
from hycam.data.tasks.base import Example

_NAMES = (  # instruction, response, input; a file need not have an input
    ("instruction", "output", "input"),
    ("instruction", "response", "input"),
    ("instruction", "response", "context"),
    ("prompt", "completion", "input"),
    ("question", "answer", "context"),
)


def by_column_names(rows: Iterable[SourceRow]) -> Iterator[Example]:
    """Examples out of rows with instruction and output (or response), prompt and completion, or question and answer.

    The input is the column ``input`` or ``context``, where there is one.

    Raises:
        HycamError: a row has none of these pairs, or something other than text in them.
    """
    for row in rows:
        yield _example(row)


def _example(row: SourceRow) -> Example:
    possible = [names for names in _NAMES if names[0] in row.fields and names[1] in row.fields]
    if not possible:
        pairs = ", ".join(f"{asked} and {answered}" for asked, answered in dict.fromkeys(n[:2] for n in _NAMES))
        known = ", ".join(row.fields) or "none"
        raise row.error(f"one of these pairs of columns was expected: {pairs}. The columns are: {known}")
    asked, answered, given = next((names for names in possible if names[2] in row.fields), possible[0])
    return Example.of(
        row,
        instruction=row.text(asked),
        input=row.text(given) if given in row.fields else "",
        response=row.text(answered),
    )
