"""Conversations from lists of messages: OpenAI's (role, content), ShareGPT's (from, value), or as the tags say."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from hycam.data.conversation import THOUGHT, Message, calls_of, is_trained, tools_of
from hycam.data.rows import SourceRow, is_absent, kind_of, turn

TAGS = ("role", "content", "user", "assistant", "system", "tool", "call")
METADATA = (
    *("id", "message_id", "parent_id", "uuid", "turn", "turn_id", "turn_identifier", "index", "idx"),
    *("timestamp", "time", "created", "created_at", "date", "language", "lang", "model", "source"),
    *("country", "hashed_ip", "header", "state", "redacted", "toxic"),
)
"""Keys of a message that are ignored: they change neither its text nor its training."""

_KEYS = (("role", "content"), ("from", "value"))
_CALL = "call"  # ShareGPT's role for tool calls of the assistant, which are the content
BY_ASSISTANT = ("assistant", _CALL)
_ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), _CALL),
}
_SHOWN = ("user", "human", "assistant", "gpt", "system", "tool")
_WEIGHTS = ("weight", "train", "training", "loss")  # of OpenAI and axolotl, axolotl (two of them), ms-swift
REASONING = ("reasoning_content", "reasoning", "thinking")
_CALLS = ("tool_calls", "function_call")
_NAMES = ("name", "tool_call_id")
_PART = ("type", "text", "refusal", "cache_control")
_UNDERSTOOD = {*_WEIGHTS, *REASONING, *_CALLS, *_NAMES, "refusal", *METADATA}
_BEYOND_TURNS = ("reasoning_content", "tool_calls", "name", "weight")


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
) -> dict[str, Any]:
    """The conversation in ``column`` of ``row``, up to its last trained answer.

    Args:
        row: names the place of an error, as does ``column``.
        column: where the messages are.
        stated: the messages, objects with a role and a content; text in parts (``{"type": "text"}``) is joined. Null
            and an empty list are an empty conversation.
        tags: the file's own spelling of any of ``TAGS``.
        system: the system prompt, unless the messages have one.
        tools: name and value of the column with the tools that may be called.
        ignore: keys of messages to ignore.
        given: how many messages at the beginning are not trained.

    Returns:
        ``system``, ``history``, ``instruction`` and ``response`` of an ``Example``; the response is empty if no answer
        is trained. A turn is a question and the last answer before the next question. If turns cannot express the
        conversation, ``messages`` is JSON text: an object with all ``messages`` in OpenAI's form, up to the last
        trained answer, and the ``tools``, a list or null. An answer that is not trained has ``weight`` 0.

    Raises:
        HycamError: it is not such a list, a message is not understood, or user and assistant do not alternate from a
            first question to a last answer. The error has the number of the message.
    """
    if stated in (None, "", []):  # the empty text in CSV, where a cell cannot be null
        return _turns([], "")
    if not isinstance(stated, list):
        raise row.error(f'"{column}" is {kind_of(stated)}, a list of messages was expected')
    messages: list[Message] = []
    for number, one in enumerate(stated, 1):
        reader = _Reader(row, f'message {number} of "{column}"', tags, ignore)
        message = reader.message(one)
        _check_order(row, reader.who, message, messages)
        if number <= given and message["role"] == "assistant":
            message["weight"] = 0
        messages.append(message)
    if messages[-1]["role"] != "assistant":
        raise row.error(f'the last message of "{column}" was expected to be an answer of the assistant')
    if messages[0]["role"] == "system":
        system = messages.pop(0)["content"] or system
    trained = [number for number, message in enumerate(messages, 1) if is_trained(message)]
    if not trained:
        return _turns([{**messages[0]}], system)
    messages = messages[: trained[-1]]
    described = tools_of(row, *tools) if tools else []
    whole = {}
    if described or any(one["role"] == "tool" or not one.keys().isdisjoint(_BEYOND_TURNS) for one in messages):
        first: list[Message] = [{"role": "system", "content": system}] if system else []
        whole["messages"] = _written(row, column, {"messages": [*first, *messages], "tools": described or None})
    return {**_turns(messages, system), **whole}


def role_of(named: object, tags: Mapping[str, str]) -> str | None:
    """The role of that name, one of ``TAGS``; None if there is no such role."""
    return _roles(tags).get(named) if isinstance(named, str) else None


def keys_of(tags: Mapping[str, str]) -> list[tuple[str, str]]:
    """The pairs of keys under which a message may have its role and its content."""
    return [(tags.get("role", role), tags.get("content", content)) for role, content in _KEYS]


def _roles(tags: Mapping[str, str]) -> dict[str, str]:
    roles = {word: role for word, role in _ROLES.items() if role not in tags}
    return roles | {tags[role]: role for role in TAGS[2:] if role in tags}


def _check_order(row: SourceRow, who: str, message: Message, before: list[Message]) -> None:
    """Raises HycamError if a message cannot follow the ones before it."""
    role, last = message["role"], before[-1] if before else {"role": "system"}
    what = ""
    if role == "system" and before:
        what = "system, which may only speak first"
    elif role == "user" and last["role"] == "user":
        what = "user, like the one before it; the assistant's answer was expected"
    elif role == "user" and last["role"] == "tool":
        what = "user, after one by a tool; the assistant's answer was expected"
    elif role == "user" and last.get("tool_calls"):
        what = "user; the output of the tool that was called was expected"
    elif role == "assistant" and last["role"] not in ("user", "tool"):
        what = "assistant, without a question of the user before it"
    if what:
        raise row.error(f"{who} is by the {what}")
    if role != "tool":
        return
    if last["role"] not in ("assistant", "tool"):
        raise row.error(f"{who} is by a tool, without an answer of the assistant before it that calls the tool")
    caller = next(one for one in reversed(before) if one["role"] == "assistant")
    called = [call["id"] for call in caller.get("tool_calls", ()) if "id" in call]
    given = message.get("tool_call_id")
    if called and given is not None and given not in called:
        raise row.error(f'{who} is for the call "{given}", and the calls before it are {", ".join(called)}')


def _turns(messages: list[Message], system: str) -> dict[str, Any]:
    """Each question with the last answer to it, which may be tool calls; the last turn apart."""
    turns: list[list[str]] = []
    for message in messages:
        if message["role"] == "user":
            turns.append([message["content"], ""])
        elif message["role"] == "assistant":
            calls = [call["function"] for call in message.get("tool_calls", ())]
            turns[-1][1] = message["content"] or (json.dumps(calls, ensure_ascii=False) if calls else "")
    *history, (asked, answered) = turns or [["", ""]]
    earlier = [turn(*one) for one in history]
    return {"system": system, "history": earlier, "instruction": asked, "response": answered}


def _written(row: SourceRow, column: str, content: dict[str, Any]) -> str:
    try:
        return row.checked(f'"{column}"', json.dumps(content, ensure_ascii=False))
    except TypeError as error:  # a date or bytes from Parquet, in the arguments of a call
        raise row.error(f'"{column}" or its tools cannot be written as JSON ({error})') from None


class _Reader:
    """Reads one message, which errors call ``who``, into OpenAI's form."""

    def __init__(self, row: SourceRow, who: str, tags: Mapping[str, str], ignore: Collection[str]) -> None:
        self.row, self.who, self.tags, self.ignore = row, who, tags, ignore

    def message(self, stated: Any) -> Message:
        """Raises HycamError if it is not an object, a value is of the wrong kind, or a key is not understood."""
        row, who = self.row, self.who
        if not isinstance(stated, dict):
            raise row.error(f"{who} was expected to be an object with a role and a content")
        role_key, content_key = self._keys(stated)
        fields = {key: value for key, value in stated.items() if key not in self.ignore and not is_absent(value)}
        for key in fields:
            if key not in _UNDERSTOOD and key not in (role_key, content_key):
                raise row.error(
                    f'{who} has "{key}", whose meaning for training is unknown: remove it, or have the recipe '
                    f"ignore it (ignore: [{key}])"
                )
        role, content = self._role(stated[role_key]), stated.get(content_key)
        calls = [name for name in _CALLS if name in fields]
        if len(calls) > 1:
            raise row.error(f"{who} has both tool_calls and function_call: one of them was expected")
        if role == _CALL:
            role, calls, fields[_CALL], content = "assistant", [*calls, _CALL], self._joined(content), None
        message: Message = {"role": role, "content": self._content(content_key, content, fields)}
        reasoning = self._agreed(fields, REASONING)
        if reasoning is not None and row.checked(f"the reasoning of {who}", reasoning).strip():
            message["reasoning_content"] = reasoning
            if message["content"].lstrip().startswith(THOUGHT):
                raise row.error(f"{who} has a reasoning and a {THOUGHT} in its {content_key}: one of them was expected")
        if calls:
            message["tool_calls"] = calls_of(row, who, fields[calls[-1]])
        for name in _NAMES:
            if name in fields:
                message[name] = row.checked(f"the {name} of {who}", fields[name])
        if not self._weight(fields, role) and role == "assistant":
            message["weight"] = 0
        for key in ("reasoning_content", "tool_calls", "refusal"):
            if role != "assistant" and key in (message.keys() | fields.keys()):
                raise row.error(f"{who} has {key}, which only an answer of the assistant can have")
        return message

    def _keys(self, stated: dict[str, Any]) -> tuple[str, str]:
        """The keys of role and content in this message; of two pairs, the one whose role is not null."""
        pairs = keys_of(self.tags)
        needs_content = all(is_absent(stated.get(key)) for key in (*_CALLS, "refusal"))
        possible = [pair for pair in pairs if pair[0] in stated and (pair[1] in stated or not needs_content)]
        if not possible:
            known = ", ".join(map(str, stated)) or "nothing"
            raise self.row.error(
                f'{self.who} was expected to have "{pairs[0][0]}" and "{pairs[0][1]}" (or, in ShareGPT\'s form, from '
                f"and value); it has {known}"
            )
        return next((pair for pair in possible if stated[pair[0]] is not None), possible[0])

    def _role(self, named: object) -> str:
        role = role_of(named, self.tags)
        if role is None:
            by = f'"{named}"' if isinstance(named, str) else kind_of(named)
            shown = [word for word in _roles(self.tags) if word in _SHOWN or word not in _ROLES]
            raise self.row.error(f"{self.who} is by {by}: {', '.join(shown)} were expected")
        return role

    def _content(self, key: str, content: Any, fields: dict[str, Any]) -> str:
        """The content, empty if null; or the refusal, which an assistant may have in its place."""
        said = self._joined(content)
        text = "" if said is None else self.row.checked(f"the {key} of {self.who}", said)
        if "refusal" not in fields:
            return text
        if text:
            raise self.row.error(f"{self.who} has both a {key} and a refusal: one of them was expected")
        return self.row.checked(f"the refusal of {self.who}", fields["refusal"])

    def _joined(self, content: Any) -> Any:
        """The joined text of a content in parts; any other content as it is."""
        if not (isinstance(content, list) and all(isinstance(part, dict) for part in content)):
            return content
        texts = [part.get(part["type"]) if part.get("type") in ("text", "refusal") else None for part in content]
        if not all(isinstance(text, str) for text in texts):
            return content
        for number, part in enumerate(content, 1):
            for key, value in part.items():
                if key not in _PART and not is_absent(value):
                    what = f'part {number} of {self.who} has "{key}", whose meaning for training is unknown'
                    raise self.row.error(what)
        return "".join(map(str, texts))

    def _agreed(self, fields: dict[str, Any], names: tuple[str, ...]) -> Any:
        """The value of whichever key of ``names`` is there, or None; several must agree."""
        found = [name for name in names if name in fields]
        for other in found[1:]:
            if fields[other] != fields[found[0]]:
                raise self.row.error(f"{self.who} has {found[0]} and {other}, which differ: one of them was expected")
        return fields[found[0]] if found else None

    def _weight(self, fields: dict[str, Any], role: str) -> bool:
        """Whether a message is trained. Only answers are, so the weight of any other message can only be 0."""
        weight = self._agreed(fields, _WEIGHTS)
        if weight is None:
            return True
        name = next(name for name in _WEIGHTS if name in fields)
        if not isinstance(weight, bool | int | float) or weight not in (0, 1):
            raise self.row.error(f"the {name} of {self.who} is {kind_of(weight)}: 0 or 1 was expected")
        if role != "assistant" and weight:
            raise self.row.error(
                f"{self.who} is by the {role} and has {name} {weight}: only answers of the assistant are trained. "
                f"Remove it, or have the recipe ignore it (ignore: [{name}])"
            )
        return bool(weight)
