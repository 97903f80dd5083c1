"""Rows of the usual shapes, recognised by their columns, or read from the columns that a recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hycam.data.source_row import SourceRow
from hycam.data.tasks.base import Example
from hycam.data.tasks.conversations import conversation

COLUMNS = ("instruction", "input", "response", "system", "history", "messages", "group", "part")
"""What a column may hold, as a recipe names it. ``part`` is set by a split by column."""

PAIRS = (  # instruction, response, input; a file need not have an input
    ("instruction", "output", "input"),
    ("instruction", "response", "input"),
    ("instruction", "response", "context"),
    ("prompt", "completion", "input"),
    ("question", "answer", "context"),
)
CONVERSATIONS = ("messages", "conversations", "conversation")


@dataclass(frozen=True)
class ByColumns:
    """Examples out of rows that have their texts in columns.

    Without ``columns`` the shape is recognised: a conversation (``messages``, ``conversations``), or a question and its
    answer under one of the usual pairs of names, with the input in ``input`` or ``context`` and, where there are any,
    ``system`` and ``history`` (a list of earlier questions and answers).

    Args:
        columns: what to read from where, by the words of ``COLUMNS``.
        tags: how a conversation is spelt, see :func:`hycam.data.tasks.conversations.conversation`.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def expected(self) -> frozenset[str]:
        """The columns that at least one row has to have; one that none has is misspelt."""
        return frozenset(self.columns.values())

    def __call__(self, row: SourceRow) -> Example:
        """The example of one row.

        Raises:
            HycamError: the row has no known shape, lacks a column, or has something other than text in it.
        """
        named = self._named(row)
        extra = {
            name: row.text(named[name]) for name in ("group", "part") if name in named and named[name] in row.fields
        }
        if not extra.get("group", "").strip():
            extra.pop("group", None)  # rows without a group are none
        system = _optional(row, named.get("system"))
        if "messages" in named:
            column = named["messages"]
            unread = sorted(self.columns.keys() & {"instruction", "input", "response", "history"})
            if unread:
                raise row.error(
                    f'"{column}" has the whole conversation, so no column has {", ".join(unread)} beside it'
                )
            talk = conversation(row, column, row.value(column), self.tags)
            return _of_turns(row, talk.system or system, talk.turns, extra)
        if isinstance(row.fields.get(named["instruction"]), list):
            return self._trl(row, named, system, extra)
        return Example.of(
            row,
            instruction=row.text(named["instruction"]),
            input=_optional(row, named.get("input")),
            response=row.text(named["response"]),
            system=system,
            history=_history(row, named.get("history")),
            **extra,
        )

    def _named(self, row: SourceRow) -> Mapping[str, str]:
        """Where everything is, for this row."""
        if {"instruction", "response"} <= self.columns.keys() or "messages" in self.columns:
            return self.columns
        for column in CONVERSATIONS:
            if isinstance(row.fields.get(column), list):
                return {"messages": column, "system": "system", **self.columns}
        possible = [names for names in PAIRS if names[0] in row.fields and names[1] in row.fields]
        if not possible:
            for column in CONVERSATIONS:
                if column in row.fields:
                    return {"messages": column}  # which is no list, as will be said
            pairs = ", ".join(f"{asked} and {answered}" for asked, answered in dict.fromkeys(n[:2] for n in PAIRS))
            known = ", ".join(map(str, row.fields)) or "none"
            raise row.error(
                f"one of these pairs of columns was expected: {pairs}; or a list of messages in {CONVERSATIONS[0]} or "
                f"{CONVERSATIONS[1]}. The columns are: {known}. A recipe names others under columns"
            )
        asked, answered, given = next((names for names in possible if names[2] in row.fields), possible[0])
        usual = {"instruction": asked, "input": given, "response": answered, "system": "system", "history": "history"}
        return {**usual, **self.columns}

    def _trl(self, row: SourceRow, named: Mapping[str, str], system: str, extra: Mapping[str, str]) -> Example:
        """TRL's conversational form: a prompt and a completion that are lists of messages."""
        both = [row.value(named[name]) for name in ("instruction", "response")]
        if not all(isinstance(part, list) for part in both):
            raise row.error(
                f'"{named["response"]}" was expected to be a list of messages, as "{named["instruction"]}" is'
            )
        talk = conversation(row, f"{named['instruction']} and {named['response']}", both[0] + both[1], self.tags)
        return _of_turns(row, talk.system or system, talk.turns, extra)


by_column_names = ByColumns()


def _of_turns(row: SourceRow, system: str, turns: tuple[tuple[str, str], ...], extra: Mapping[str, str]) -> Example:
    *history, (asked, answered) = turns
    return Example.of(row, instruction=asked, response=answered, system=system, history=tuple(history), **extra)


def _optional(row: SourceRow, column: str | None) -> str:
    return row.text(column) if column in row.fields else ""


def _history(row: SourceRow, column: str | None) -> tuple[tuple[str, str], ...]:
    earlier: Any = row.fields.get(column) if column else None
    if earlier is None or earlier == "":  # the latter in CSV, where a cell cannot be null
        return ()
    if not isinstance(earlier, list):
        raise row.error(f'"{column}" was expected to be a list of earlier questions and answers')
    turns = []
    for number, turn in enumerate(earlier, 1):
        what = f'turn {number} of "{column}"'
        if not (isinstance(turn, list) and len(turn) == 2):
            raise row.error(f"{what} was expected to be a list of two texts, question and answer")
        turns.append((row.checked(what, turn[0]), row.checked(what, turn[1])))
    return tuple(turns)
