"""Rows of the usual shapes, recognised by their columns or read from the columns that a recipe names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from hycam.data.messages import REASONING, conversation
from hycam.data.rows import Example, SourceRow, is_absent, turn
from hycam.errors import HycamError

COLUMNS = ("instruction", "input", "response", "system", "history", "messages", "tools", "group", "part")
"""What a recipe can say that a column holds. A split by column sets ``part``."""

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

# Columns that change what a row trains:
_WEIGHTS = ("weight", "weights", "sample_weight", "loss_weight", "train", "training")  # other than 1
_LABELS = ("label", "labels")  # a rating of the answer, or tokens; text is a note
_OTHERS = (
    *("mask", "loss_mask", "train_mask", "completion_mask", "assistant_masks"),
    *("chosen", "rejected", "rejected_response", "kto_tag"),
    *("image", "images", "video", "videos", "audio", "audios"),
    *(*_TOOLS, "chat_template_kwargs", *REASONING),
)


@dataclass(frozen=True)
class ByColumns:
    """Turns rows that have their texts in columns into examples.

    Without ``columns`` the shape of each row is recognised by the columns that are filled: a conversation
    (``messages``, ``conversations``) with its ``tools``, or a question and its answer under one of the usual pairs of
    names, with the input in ``input`` or ``context``, and optionally ``system`` and ``history`` (a list of earlier
    questions and answers).

    Args:
        columns: which column holds each of ``COLUMNS``.
        tags: the keys and roles of messages, see :func:`hycam.data.messages.conversation`.
        ignore: columns, and keys of messages, to ignore although they may change what is trained.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()

    @property
    def expected(self) -> frozenset[str]:
        """The columns that at least one row must have; if no row has one, it is misspelt."""
        return frozenset(self.columns.values())

    def __call__(self, row: SourceRow) -> Example:
        """The example of one row.

        Raises:
            HycamError: the row has no known shape, lacks a column, has something other than text in it, or has a
                column that changes what is trained and that nothing reads.
        """
        named = self._named(row)
        is_talk = "messages" in named or isinstance(row.fields.get(named["instruction"]), list)
        read = {column for what, column in named.items() if is_talk or what != "tools"}
        _check_training_keys(row, read, self.ignore)
        system = row.optional(named.get("system"))
        about: dict[str, Any] = {"part": row.optional(named.get("part"))}
        if named.get("group") in row.fields and (group := row.key(named["group"])).strip():
            about["group"] = group  # rows without a group are not one group
        if is_talk:
            return Example(row.identity, **about, **self._conversation(row, named, system))
        return Example(
            row.identity,
            instruction=row.text(named["instruction"]),
            input=row.optional(named.get("input")),
            response=row.text(named["response"]),
            history=_history(row, named.get("history")),
            system=system,
            **about,
        )

    def _named(self, row: SourceRow) -> Mapping[str, str]:
        """Which column holds what in this row: of several shapes, the first that is filled."""
        if {"instruction", "response"} <= self.columns.keys() or "messages" in self.columns:
            return self.columns
        fields = row.fields
        usual = {"system": "system", "tools": next((name for name in _TOOLS if fields.get(name)), "tools")}
        talks = [column for column in CONVERSATIONS if column in fields]
        stated = [column for column in talks if not is_absent(fields[column])]
        lists = [column for column in stated if isinstance(fields[column], list)]
        pairs = [names for names in PAIRS if names[0] in fields and names[1] in fields]
        pair = min(pairs, key=lambda names: _emptiness(fields, names), default=None)
        if lists or pair is None or (stated and _is_blank(fields, pair[0]) and _is_blank(fields, pair[1])):
            if not talks:
                raise _unknown(row)
            return {"messages": next(iter(lists or stated or talks)), **usual, **self.columns}
        asked, answered, given = pair
        columns = {"instruction": asked, "input": given, "response": answered, "history": "history"}
        return {**columns, **usual, **self.columns}

    def _conversation(self, row: SourceRow, named: Mapping[str, str], system: str) -> dict[str, Any]:
        """The texts of a conversation in one column, or in TRL's prompt and completion as lists of messages.

        Of the latter only the completion is trained, as in TRL.
        """
        given = 0
        if "messages" in named:
            column = named["messages"]
            unread = sorted(self.columns.keys() & {"instruction", "input", "response", "history"})
            if unread:
                what = f'"{column}" has the whole conversation, so no column can have {", ".join(unread)} too'
                raise row.error(what)
            stated = row.value(column)
        else:
            asked, answered = named["instruction"], named["response"]
            prompt, completion = ([] if is_absent(row.value(one)) else row.value(one) for one in (asked, answered))
            if not isinstance(completion, list):
                raise row.error(f'"{answered}" was expected to be a list of messages, as "{asked}" is')
            column, given = f"{asked} and {answered}", len(prompt)
            stated = prompt + completion if prompt and completion else []  # else it is an empty row
        tools = named.get("tools")
        described = (tools, row.fields[tools]) if tools in row.fields and tools not in self.ignore else None
        return conversation(
            row, column, stated, self.tags, system=system, tools=described, ignore=self.ignore, given=given
        )


by_column_names = ByColumns()


def pair_to_ask(fields: Mapping[str, Any]) -> tuple[str, str]:
    """The columns of question and answer in a row that may lack the answer; empty if there are none."""

    def emptiness(names: tuple[str, str, str]) -> tuple[bool, ...]:
        asked, answered, given = names
        return _is_blank(fields, asked), answered not in fields, given not in fields

    return min((names for names in PAIRS if names[0] in fields), key=emptiness, default=("", "", ""))[:2]


def _unknown(row: SourceRow) -> HycamError:
    pairs = ", ".join(f"{asked} and {answered}" for asked, answered in dict.fromkeys(names[:2] for names in PAIRS))
    known = ", ".join(map(str, row.fields)) or "none"
    return row.error(
        f"one of these pairs of columns was expected: {pairs}; or a list of messages in {CONVERSATIONS[0]} or "
        f"{CONVERSATIONS[1]}. The columns are: {known}. A recipe names others under columns"
    )


def _emptiness(fields: Mapping[str, Any], names: tuple[str, str, str]) -> tuple[bool, ...]:
    """A sort key of pairs of columns: complete pairs first, then pairs with any text, then pairs with an input."""
    asked, answered, given = (not _is_blank(fields, name) for name in names)
    return not ((asked or given) and answered), not (asked or answered), not given, names[2] not in fields


def _is_blank(fields: Mapping[str, Any], column: str) -> bool:
    value = fields.get(column)
    return is_absent(value) or (isinstance(value, str) and not value.strip())


def _history(row: SourceRow, column: str | None) -> list[dict[str, str]]:
    earlier: Any = row.fields.get(column) if column else None
    if earlier is None or earlier == "":  # the latter in CSV, where a cell cannot be null
        return []
    if not isinstance(earlier, list):
        raise row.error(f'"{column}" was expected to be a list of earlier questions and answers')
    turns = []
    for number, one in enumerate(earlier, 1):
        what = f'turn {number} of "{column}"'
        if not (isinstance(one, list) and len(one) == 2):
            raise row.error(f"{what} was expected to be a list of two texts, question and answer")
        turns.append(turn(*("" if text is None else row.checked(what, text) for text in one)))
    return turns


def _check_training_keys(row: SourceRow, read: Collection[str], ignore: Collection[str]) -> None:
    """Raises HycamError if a column that is neither ``read`` nor ignored changes what the row trains."""
    for column, value in row.fields.items():
        if column in read or column in ignore or is_absent(value) or not _changes_training(column, value):
            continue
        named = f"name it together with messages (columns: {{tools: {column}}}), " if column in _TOOLS else ""
        raise row.error(
            f'"{column}" changes what a row trains, and nothing reads it: {named}remove it, or have the recipe ignore '
            f"it (ignore: [{column}])"
        )


def _changes_training(column: str, value: Any) -> bool:
    if column in _WEIGHTS:
        return value not in (1, "1", "1.0", "true", "True")
    if column in _LABELS:
        return isinstance(value, bool) or (isinstance(value, list) and isinstance(value[0], int))
    if column in REASONING and (isinstance(value, bool) or value in ("on", "off")):
        return False  # it only says whether there is a thought
    return column in _OTHERS
