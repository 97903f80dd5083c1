"""One message of a conversation, brought into OpenAI's form from the ways in which others spell it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hycam.data.conversation import THOUGHT, Message
from hycam.data.source_row import SourceRow, kind_of
from hycam.data.tasks.tools import calls_of

TAGS = ("role", "content", "user", "assistant", "system", "tool", "call")
METADATA = (
    *("id", "message_id", "parent_id", "uuid", "turn", "turn_id", "turn_identifier", "index", "idx"),
    *("timestamp", "time", "created", "created_at", "date", "language", "lang", "model", "source"),
    *("country", "hashed_ip", "header", "state", "redacted", "toxic"),
)
"""Keys of a message that say nothing about its text or its training, and are passed over."""

USUAL = (("role", "content"), ("from", "value"))
"""The keys of a message with its role and its content."""
_CALL = "call"  # by the assistant, and its content is calls of tools, as ShareGPT has it
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
_REASONING = ("reasoning_content", "reasoning", "thinking")
_CALLS = ("tool_calls", "function_call")
_NAMES = ("name", "tool_call_id")
_PART = ("type", "text", "refusal", "cache_control")


def is_absent(value: object) -> bool:
    """Whether a value says nothing: null, as most files write what a row does not have, or empty."""
    return value is None or (isinstance(value, str | list | dict) and not value)


def message_of(row: SourceRow, who: str, stated: Any, tags: Mapping[str, str], ignore: Collection[str]) -> Message:
    """The message ``stated``, which an error calls ``who``.

    Args:
        row: names the place of an error.
        who: the same.
        stated: an object with who speaks and what is said.
        tags: how ``role``, ``content`` and the roles are spelt, where it is not the usual way.
        ignore: further keys that are passed over.

    Raises:
        HycamError: it is no such object, a value is not what belongs there, or there is a key that is not understood.
    """
    if not isinstance(stated, dict):
        raise row.error(f"{who} was expected to be an object with a role and a content")
    role_key, content_key = _keys(row, who, stated, tags)
    fields = {key: value for key, value in stated.items() if key not in ignore and not is_absent(value)}
    _check_keys(row, who, fields, (role_key, content_key))
    role, content = _role(row, who, stated[role_key], tags), stated.get(content_key)
    calls = [name for name in _CALLS if name in fields]
    if len(calls) > 1:
        raise row.error(f"{who} has both tool_calls and function_call: one of them was expected")
    if role == _CALL:
        role, calls, fields[_CALL], content = "assistant", [*calls, _CALL], _joined(row, who, content), None
    message: Message = {"role": role, "content": _content(row, who, content_key, content, fields)}
    reasoning = _agreed(row, who, fields, _REASONING)
    if reasoning is not None:
        text = row.checked(f"the reasoning of {who}", reasoning)
        if text.strip():
            message["reasoning_content"] = text
            if message["content"].lstrip().startswith(THOUGHT):
                raise row.error(f"{who} has a reasoning and a {THOUGHT} in its {content_key}: one of them was expected")
    if calls:
        message["tool_calls"] = calls_of(row, who, fields[calls[-1]])
    for name in _NAMES:
        if name in fields:
            message[name] = row.checked(f"the {name} of {who}", fields[name])
    if _weight(row, who, fields, role) == 0 and role == "assistant":
        message["weight"] = 0
    for key in ("reasoning_content", "tool_calls", "refusal"):
        if role != "assistant" and key in (message.keys() | fields.keys()):
            raise row.error(f"{who} has {key}, which only an answer of the assistant can have")
    return message


def _keys(row: SourceRow, who: str, stated: dict[str, Any], tags: Mapping[str, str]) -> tuple[str, str]:
    """Under which keys this message has its role and its content; of two pairs, the one whose role is stated."""
    pairs = [(tags.get("role", role), tags.get("content", content)) for role, content in USUAL]
    possible = [pair for pair in pairs if pair[0] in stated and (pair[1] in stated or _needs_no_content(stated))]
    if not possible:
        expected = f'"{pairs[0][0]}" and "{pairs[0][1]}"'
        known = ", ".join(map(str, stated)) or "nothing"
        raise row.error(
            f"{who} was expected to have {expected} (or, in ShareGPT's form, from and value); it has {known}"
        )
    return next((pair for pair in possible if stated[pair[0]] is not None), possible[0])


def _needs_no_content(stated: dict[str, Any]) -> bool:
    return any(not is_absent(stated.get(key)) for key in (*_CALLS, "refusal"))


def _check_keys(row: SourceRow, who: str, fields: dict[str, Any], own: tuple[str, str]) -> None:
    known = {*own, *_WEIGHTS, *_REASONING, *_CALLS, *_NAMES, "refusal", *METADATA}
    for key in fields:
        if key not in known:
            raise row.error(
                f'{who} has "{key}", and what it means for training is not known: remove it, or have the recipe pass '
                f"over it (ignore: [{key}])"
            )


def role_of(named: object, tags: Mapping[str, str]) -> str | None:
    """The role that is ``named``, one of ``TAGS``; None where there is no such role."""
    return _roles(tags).get(named) if isinstance(named, str) else None


def _roles(tags: Mapping[str, str]) -> dict[str, str]:
    roles = {word: role for word, role in _ROLES.items() if role not in tags}
    return roles | {tags[role]: role for role in TAGS[2:] if role in tags}


def _role(row: SourceRow, who: str, named: object, tags: Mapping[str, str]) -> str:
    role = role_of(named, tags)
    if role is None:
        by = f'"{named}"' if isinstance(named, str) else kind_of(named)
        shown = [word for word in _roles(tags) if word in _SHOWN or word not in _ROLES]
        raise row.error(f"{who} is by {by}: {', '.join(shown)} were expected")
    return role


def _content(row: SourceRow, who: str, key: str, content: Any, fields: dict[str, Any]) -> str:
    """What is said: null is read as empty. A refusal is what an assistant says in place of a content."""
    said = _joined(row, who, content)
    text = "" if said is None else row.checked(f"the {key} of {who}", said)
    if "refusal" not in fields:
        return text
    if text:
        raise row.error(f"{who} has both a {key} and a refusal: one of them was expected")
    return row.checked(f"the refusal of {who}", fields["refusal"])


def _joined(row: SourceRow, who: str, content: Any) -> Any:
    """The text of a message in parts; anything else as it is."""
    if not (isinstance(content, list) and all(isinstance(part, dict) for part in content)):
        return content
    texts = [part.get(part["type"]) if part.get("type") in ("text", "refusal") else None for part in content]
    found = [text for text in texts if isinstance(text, str)]
    if len(found) < len(texts):
        return content
    for number, part in enumerate(content, 1):
        for key, value in part.items():
            if key not in _PART and not is_absent(value):
                raise row.error(f'part {number} of {who} has "{key}", and what it means for training is not known')
    return "".join(found)


def _agreed(row: SourceRow, who: str, fields: dict[str, Any], names: tuple[str, ...]) -> Any:
    """What one of the keys ``names`` has; None where there is none of them."""
    found = [name for name in names if name in fields]
    for other in found[1:]:
        if fields[other] != fields[found[0]]:
            raise row.error(f"{who} has {found[0]} and {other}, which differ: one of them was expected")
    return fields[found[0]] if found else None


def _weight(row: SourceRow, who: str, fields: dict[str, Any], role: str) -> int:
    """1 for what is trained. Nothing but answers is, so of other messages a weight can only be 0."""
    weight = _agreed(row, who, fields, _WEIGHTS)
    if weight is None:
        return 1
    name = next(name for name in _WEIGHTS if name in fields)
    if not isinstance(weight, bool | int | float) or weight not in (0, 1):
        raise row.error(f"the {name} of {who} is {kind_of(weight)}: 0 or 1 was expected")
    if role != "assistant" and weight == 1:
        raise row.error(
            f"{who} is by the {role} and has {name} {weight}: only answers of the assistant are trained. Remove it, or "
            f"have the recipe pass over it (ignore: [{name}])"
        )
    return int(weight)
