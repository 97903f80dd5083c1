"""OpenAI's form of a conversation, as a chat template takes it: messages, tools, and calls of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from hycam.data.rows import SourceRow, is_absent, kind_of

Message = dict[str, Any]
"""``role`` (system, user, assistant or tool), ``content``, and optionally ``reasoning_content``, ``tool_calls``,
``tool_call_id``, ``name``, and ``weight`` 0 for an answer that is not trained."""

THOUGHT, THOUGHT_END = "<think>", "</think>"
_BESIDE = ("id", "index", "type", "function")  # keys of a call beside its function
_CALL = (*_BESIDE, "name", "arguments")


class Chat(NamedTuple):
    """Messages and the tools that they may call: the column ``messages`` of ``load_task``, parsed."""

    messages: list[Message]
    tools: list[Any] | None = None

    def up_to(self, number: int, *further: Message) -> Chat:
        """The messages before ``number``, followed by ``further`` ones."""
        return Chat([*self.messages[:number], *further], self.tools)

    def trained(self) -> list[int]:
        """The numbers of the trained answers."""
        return [number for number, message in enumerate(self.messages) if is_trained(message)]


def conversation_of(row: Mapping[str, Any]) -> Chat:
    """A row of ``load_task`` as a chat, with its answer if it has one."""
    if row.get("messages"):
        return Chat(**json.loads(row["messages"]))
    messages = [said("system", row["system"])] if row.get("system") else []
    for turn in row.get("history") or ():
        messages += [said("user", turn["asked"]), said("assistant", turn["answered"])]
    given = f"\n\n{row['input']}" if row["input"].strip() else ""
    messages.append(said("user", row["instruction"] + given))
    if "response" in row:
        messages.append(said("assistant", row["response"]))
    return Chat(messages)


def has_thought(row: Mapping[str, Any]) -> bool:
    """Whether the last trained answer contains a thought."""
    if not row.get("messages"):
        return THOUGHT_END in row["response"]
    conversation = conversation_of(row)
    return any(is_thoughtful(conversation.messages[number]) for number in conversation.trained()[-1:])


def is_trained(message: Message) -> bool:
    """Whether a message is an answer that contributes to the loss."""
    return message["role"] == "assistant" and message.get("weight") != 0


def is_thoughtful(message: Message) -> bool:
    """Whether an answer contains a thought, in its own field or in its text."""
    return bool(message.get("reasoning_content")) or THOUGHT_END in message["content"]


def said(role: str, content: str) -> Message:
    """A plain message."""
    return {"role": role, "content": content}


def tools_of(row: SourceRow, column: str, stated: Any) -> list[dict[str, Any]]:
    """The tools described in ``column``: a list, or its JSON text; null and empty mean none.

    Raises:
        HycamError: it is not such a list, or a tool has no name.
    """
    tools = _parsed(row, f'"{column}"', stated)
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise row.error(f'"{column}" is {kind_of(tools)}, a list of tools was expected')
    found = []
    for number, tool in enumerate(tools, 1):
        what = f'tool {number} of "{column}"'
        if not isinstance(tool, dict):
            raise row.error(f"{what} is {kind_of(tool)}, an object with a name and parameters was expected")
        function = tool.get("function") or {key: value for key, value in tool.items() if key != "type"}
        if tool.get("type") not in (None, "function") or not isinstance(function, dict):
            raise row.error(f"{what} is {kind_of(tool)}: only functions are supported, as in chat templates")
        _name(row, what, function)
        found.append({"type": "function", "function": _without_nulls(function)})
    return found


def calls_of(row: SourceRow, who: str, stated: Any) -> list[dict[str, Any]]:
    """The calls in a message: one, a list of them, or the JSON text of either.

    A call has a name and arguments, or a ``function`` that has them. Arguments may be an object or its JSON text.

    Raises:
        HycamError: there is no call, or it is not understood.
    """
    calls = _parsed(row, f"the call of {who}", stated)
    calls = calls if isinstance(calls, list) else [calls]
    if not calls:
        raise row.error(f"{who} was expected to call a tool")
    found = []
    for number, call in enumerate(calls, 1):
        what = f"call {number} of {who}"
        if not isinstance(call, dict):
            raise row.error(f"{what} is {kind_of(call)}, an object with a name and arguments was expected")
        function = call.get("function") or call
        if call.get("type") not in (None, "function") or not isinstance(function, dict):
            raise row.error(f"{what} is {kind_of(call)}: a call of a function was expected")
        _check_keys(row, what, call, _BESIDE if function is not call else _CALL)
        _check_keys(row, what, function, _CALL)
        name, arguments = _name(row, what, function), function.get("arguments")
        parsed = _parsed(row, f"the arguments of {what}", arguments)
        if parsed is None:
            parsed = {}
        if not isinstance(parsed, dict):
            raise row.error(f"the arguments of {what} are {kind_of(parsed)}, an object was expected")
        made = {"name": name, "arguments": parsed if isinstance(arguments, str) else _without_nulls(parsed)}
        identity = {} if call.get("id") is None else {"id": row.checked(f"the id of {what}", call["id"])}
        found.append({**identity, "type": "function", "function": made})
    return found


def _check_keys(row: SourceRow, what: str, stated: dict[str, Any], known: tuple[str, ...]) -> None:
    """Raises HycamError if a call has a key that would be lost, such as arguments under another name."""
    for key, value in stated.items():
        if key not in known and not is_absent(value):
            raise row.error(f'{what} has "{key}", which is not understood: a name and arguments were expected')


def _parsed(row: SourceRow, what: str, stated: Any) -> Any:
    """The value of JSON text; any other value as it is. Blank text is None."""
    if not isinstance(stated, str):
        return stated
    if not stated.strip():
        return None
    try:
        return json.loads(stated)
    except (ValueError, RecursionError) as error:
        raise row.error(f"{what} cannot be read as JSON ({error})") from None


def _name(row: SourceRow, what: str, function: dict[str, Any]) -> str:
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        known = ", ".join(map(str, function)) or "nothing"
        has = f"it has {known}" if name is None else f"it is {kind_of(name)}"
        raise row.error(f'{what} was expected to have a "name"; {has}')
    return name


def _without_nulls(value: Any) -> Any:
    """Drops null fields: in a table all calls have the fields of any one, and null for what they lack."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
