"""Conversations out of a list of messages: OpenAI's (role, content), ShareGPT's (from, value), or as the tags say."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hycam.data.conversation import Message, is_trained
from hycam.data.source_row import SourceRow, kind_of
from hycam.data.tasks.messages import message_of
from hycam.data.tasks.tools import tools_of

_BEYOND_TURNS = ("reasoning_content", "tool_calls", "name", "weight")


@dataclass(frozen=True)
class Conversation:
    """What was asked and answered, in turn; ``system`` is what the conversation begins with, or empty.

    ``messages`` is empty where that is all. Else it is JSON text: an object with all ``messages`` in OpenAI's form,
    the last of them an answer that is trained, and the ``tools``, a list or null. An answer that is not trained has
    ``weight`` 0. A turn then goes from a question to the last answer before the next question.
    """

    system: str
    turns: tuple[tuple[str, str], ...]
    messages: str = ""


def conversation(
    row: SourceRow,
    column: str,
    stated: Any,
    tags: Mapping[str, str],
    *,
    system: str = "",
    tools: tuple[str, Any] | None = None,
    ignore: Collection[str] = (),
    given: int = 0,
) -> Conversation:
    """The conversation that ``column`` of ``row`` holds, up to its last answer that is trained.

    Without such an answer, its one turn has an empty one.

    Args:
        row: names the place of an error.
        column: the same.
        stated: a list of objects, each with who speaks and what is said; text in parts (``{"type": "text"}``) is
            joined. Null and an empty list are a conversation in which nothing was said.
        tags: how the words of ``TAGS`` are spelt, where it is not the usual way.
        system: what stands before it where it does not say so itself.
        tools: the name and the value of the column with the tools that may be called.
        ignore: keys of messages that are passed over.
        given: so many messages at the beginning are not trained.

    Raises:
        HycamError: it is no such list, a message is not understood, or user and assistant do not alternate from a first
            question to a last answer. The message has the number of the turn.
    """
    if stated in (None, "", []):  # the text in CSV, where a cell cannot be null
        return Conversation("", (("", ""),))
    if not isinstance(stated, list):
        raise row.error(f'"{column}" is {kind_of(stated)}, a list of messages was expected')
    messages: list[Message] = []
    for number, one in enumerate(stated, 1):
        who = f'message {number} of "{column}"'
        message = message_of(row, who, one, tags, ignore)
        _check_order(row, who, message, messages)
        if number <= given and message["role"] == "assistant":
            message["weight"] = 0
        messages.append(message)
    if messages[-1]["role"] != "assistant":
        raise row.error(f'the last message of "{column}" was expected to be an answer of the assistant')
    if messages[0]["role"] == "system":
        system = messages.pop(0)["content"] or system
    trained = [number for number, message in enumerate(messages, 1) if is_trained(message)]
    if not trained:
        return Conversation(system, ((messages[0]["content"], ""),))
    messages = messages[: trained[-1]]
    described = tools_of(row, *tools) if tools else []
    is_more = described or any(message["role"] == "tool" for message in messages)
    is_more = is_more or any(key in message for message in messages for key in _BEYOND_TURNS)
    text = ""
    if is_more:
        first: list[Message] = [{"role": "system", "content": system}] if system else []
        text = _written(row, column, {"messages": [*first, *messages], "tools": described or None})
    return Conversation(system, _turns(messages), text)


def _check_order(row: SourceRow, who: str, message: Message, before: list[Message]) -> None:
    """Raises HycamError where a message cannot follow the ones before it."""
    role, last = message["role"], before[-1] if before else {"role": "system"}
    if role == "system":
        if before:
            raise row.error(f"{who} is by the system, which may speak first only")
    elif role == "user":
        if last["role"] == "user":
            raise row.error(f"{who} is by the user, as the one before it; the assistant's answer was expected")
        if last["role"] == "tool":
            raise row.error(f"{who} is by the user, the one before it by a tool; the assistant's answer was expected")
        if last.get("tool_calls"):
            raise row.error(f"{who} is by the user; what the tool gave that was called before was expected")
    elif role == "assistant":
        if last["role"] not in ("user", "tool"):
            raise row.error(f"{who} is by the assistant, and no question of the user stands before it")
    elif last["role"] not in ("assistant", "tool"):
        raise row.error(f"{who} is by a tool, and no answer of the assistant that calls it stands before it")
    else:
        _check_output(row, who, message, before)


def _check_output(row: SourceRow, who: str, message: Message, before: list[Message]) -> None:
    caller = next(one for one in reversed(before) if one["role"] == "assistant")
    called = [call["id"] for call in caller.get("tool_calls", ()) if "id" in call]
    given = message.get("tool_call_id")
    if called and given is not None and given not in called:
        raise row.error(f'{who} is for the call "{given}", and the calls before it are {", ".join(called)}')


def _turns(messages: list[Message]) -> tuple[tuple[str, str], ...]:
    """Each question with the last answer to it, for which calls of tools may stand."""
    turns: list[tuple[str, str]] = []
    asked = ""
    for number, message in enumerate(messages, 1):
        if message["role"] == "user":
            asked = message["content"]
        is_last = number == len(messages) or messages[number]["role"] == "user"
        if message["role"] == "assistant" and is_last:
            calls = [call["function"] for call in message.get("tool_calls", ())]
            turns.append((asked, message["content"] or (json.dumps(calls, ensure_ascii=False) if calls else "")))
    return tuple(turns)


def _written(row: SourceRow, column: str, content: dict[str, Any]) -> str:
    try:
        return row.checked(f'"{column}"', json.dumps(content, ensure_ascii=False))
    except TypeError as error:  # a date or bytes of a Parquet file, in the arguments of a call
        raise row.error(f'"{column}" or its tools cannot be written as JSON ({error})') from None
