"""Rows of the usual shapes, recognised by their columns, or read from the columns that a recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hycam.data.source_row import SourceRow
from hycam.data.tasks.base import Example
from hycam.data.tasks.conversations import conversation
from hycam.data.tasks.messages import is_absent
from hycam.data.tasks.training_keys import check_training_keys
from hycam.errors import HycamError

COLUMNS = ("instruction", "input", "response", "system", "history", "messages", "tools", "group", "part")
"""What a column may hold, as a recipe names it. ``part`` is set by a split by column."""

PAIRS = (  # instruction, response, input; a file need not have an input
    ("instruction", "output", "input"),
    ("instruction", "output", "context"),
    ("instruction", "response", "input"),
    ("instruction", "response", "context"),
    ("prompt", "completion", "input"),
    ("question", "answer", "context"),
)
CONVERSATIONS = ("messages", "conversations", "conversation")


_TOOLS = ("tools", "functions")


@dataclass(frozen=True)
class ByColumns:
    """Examples out of rows that have their texts in columns.

    Without ``columns`` the shape is recognised, row by row and by what is in them: a conversation (``messages``,
    ``conversations``) with its ``tools``, or a question and its answer under one of the usual pairs of names, with the
    input in ``input`` or ``context`` and, where there are any, ``system`` and ``history`` (a list of earlier questions
    and answers).

    Args:
        columns: what to read from where, by the words of ``COLUMNS``.
        tags: how a conversation is spelt, see :func:`hycam.data.tasks.conversations.conversation`.
        ignore: columns, and keys of messages, that are passed over although they may change what is trained.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()

    @property
    def expected(self) -> frozenset[str]:
        """The columns that at least one row has to have; one that none has is misspelt."""
        return frozenset(self.columns.values())

    def __call__(self, row: SourceRow) -> Example:
        """The example of one row.

        Raises:
            HycamError: the row has no known shape, lacks a column, has something other than text in it, or a column
                that changes what it trains and that nothing reads.
        """
        named = self._named(row)
        is_talk = "messages" in named or isinstance(row.fields.get(named["instruction"]), list)
        read = set(named.values()) if is_talk else {column for what, column in named.items() if what != "tools"}
        check_training_keys(row, read, self.ignore)
        extra = {"system": _optional(row, named.get("system"))}
        if named.get("part") in row.fields:
            extra["part"] = row.text(named["part"])
        if named.get("group") in row.fields and (group := row.key(named["group"])).strip():
            extra["group"] = group  # rows without a group are none
        if "messages" in named:
            column = named["messages"]
            unread = sorted(self.columns.keys() & {"instruction", "input", "response", "history"})
            if unread:
                raise row.error(
                    f'"{column}" has the whole conversation, so no column has {", ".join(unread)} beside it'
                )
            return self._talk(row, named, column, row.value(column), extra)
        if is_talk:
            return self._trl(row, named, extra)
        return Example.of(
            row,
            instruction=row.text(named["instruction"]),
            input=_optional(row, named.get("input")),
            response=row.text(named["response"]),
            history=_history(row, named.get("history")),
            **extra,
        )

    def _named(self, row: SourceRow) -> Mapping[str, str]:
        """Where everything is, for this row: of several shapes the first that has something in it."""
        if {"instruction", "response"} <= self.columns.keys() or "messages" in self.columns:
            return self.columns
        usual = {"system": "system", "tools": next((name for name in _TOOLS if row.fields.get(name)), "tools")}
        talks = [column for column in CONVERSATIONS if column in row.fields]
        stated = [column for column in talks if not is_absent(row.fields[column])]
        pairs = [names for names in PAIRS if names[0] in row.fields and names[1] in row.fields]
        pair = min(pairs, key=lambda names: _emptiness(row, names), default=None)
        lists = [column for column in stated if isinstance(row.fields[column], list)]
        if lists or pair is None or (stated and _is_blank(row.fields, pair[0]) and _is_blank(row.fields, pair[1])):
            if not talks:
                raise self._unknown(row)
            return {"messages": next(iter(lists or stated or talks)), **usual, **self.columns}
        asked, answered, given = pair
        columns = {"instruction": asked, "input": given, "response": answered, "history": "history"}
        return {**columns, **usual, **self.columns}

    def _unknown(self, row: SourceRow) -> HycamError:
        pairs = ", ".join(f"{asked} and {answered}" for asked, answered in dict.fromkeys(n[:2] for n in PAIRS))
        known = ", ".join(map(str, row.fields)) or "none"
        return row.error(
            f"one of these pairs of columns was expected: {pairs}; or a list of messages in {CONVERSATIONS[0]} or "
            f"{CONVERSATIONS[1]}. The columns are: {known}. A recipe names others under columns"
        )

    def _trl(self, row: SourceRow, named: Mapping[str, str], extra: Mapping[str, str]) -> Example:
        """TRL's conversational form: a prompt and a completion that are lists of messages.

        Only the completion is trained, as there.
        """
        stated = (row.value(named[name]) for name in ("instruction", "response"))
        both = [[] if is_absent(part) else part for part in stated]
        if not all(isinstance(part, list) for part in both):
            raise row.error(
                f'"{named["response"]}" was expected to be a list of messages, as "{named["instruction"]}" is'
            )
        column = f"{named['instruction']} and {named['response']}"
        said = both[0] + both[1] if all(both) else []  # without a question or an answer it is an empty row
        return self._talk(row, named, column, said, extra, given=len(both[0]))

    def _talk(
        self,
        row: SourceRow,
        named: Mapping[str, str],
        column: str,
        stated: Any,
        extra: Mapping[str, str],
        given: int = 0,
    ) -> Example:
        tools = named.get("tools")
        described = (tools, row.fields[tools]) if tools in row.fields and tools not in self.ignore else None
        talk = conversation(
            row,
            column,
            stated,
            self.tags,
            system=extra["system"],
            tools=described,
            ignore=self.ignore,
            given=given,
        )
        *history, (asked, answered) = talk.turns
        said = {**extra, "system": talk.system, "messages": talk.messages}
        return Example.of(row, instruction=asked, response=answered, history=tuple(history), **said)


by_column_names = ByColumns()


def pair_to_ask(fields: Mapping[str, Any]) -> tuple[str, str]:
    """The columns of the question and of its answer in a row that may lack the latter; empty where there are none."""

    def emptiness(names: tuple[str, str, str]) -> tuple[bool, ...]:
        asked, answered, given = names
        return _is_blank(fields, asked), answered not in fields, given not in fields

    return min((names for names in PAIRS if names[0] in fields), key=emptiness, default=("", "", ""))[:2]


def _emptiness(row: SourceRow, names: tuple[str, str, str]) -> tuple[bool, ...]:
    """Orders the pairs of columns that a row has: what is whole goes first, then what has anything, then an input."""
    asked, answered, given = (not _is_blank(row.fields, name) for name in names)
    return not ((asked or given) and answered), not (asked or answered), not given, names[2] not in row.fields


def _is_blank(fields: Mapping[str, Any], column: str) -> bool:
    value = fields.get(column)
    return is_absent(value) or (isinstance(value, str) and not value.strip())


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
        asked, answered = ("" if text is None else row.checked(what, text) for text in turn)
        turns.append((asked, answered))
    return tuple(turns)
