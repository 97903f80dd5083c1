"""Conversations out of a list of messages: OpenAI's (role, content), ShareGPT's (from, value), or as the tags say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hycam.data.source_row import SourceRow, kind_of

TAGS = ("role", "content", "user", "assistant", "system")
_USUAL = (("role", "content"), ("from", "value"))
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
_CALLS = ("tool_calls", "function_call")
_TOOLS = ("tool", "function", "function_call", "observation", "ipython")


@dataclass(frozen=True)
class Conversation:
    """What was asked and answered, in turn; ``system`` is what the conversation begins with, or empty."""

    system: str
    turns: tuple[tuple[str, str], ...]


def conversation(row: SourceRow, column: str, messages: Any, tags: Mapping[str, str]) -> Conversation:
    """The conversation in ``messages``, which ``column`` of ``row`` holds.

    Args:
        row: names the place of an error.
        column: the same.
        messages: a list of objects, each with who speaks and what is said; text in parts (``{"type": "text"}``) is
            joined.
        tags: how ``role``, ``content``, ``user``, ``assistant`` and ``system`` are spelt, where it is not the usual
            way.

    Raises:
        HycamError: it is no such list, a turn is by a tool or has something other than text, or user and assistant do
            not alternate from a first question to a last answer. The message has the number of the turn.
    """
    if not isinstance(messages, list):
        raise row.error(f'"{column}" is {kind_of(messages)}, a list of messages was expected')
    system, asked, turns = "", None, []
    for number, message in enumerate(messages, 1):
        who = f'message {number} of "{column}"'
        role, text = _message(row, who, message, tags)
        if role == "system":
            if number > 1:
                raise row.error(f"{who} is by the system, which may speak first only")
            system = text
        elif role == "user":
            if asked is not None:
                raise row.error(f"{who} is by the user, as the one before it; the assistant's answer was expected")
            asked = text
        elif asked is None:
            raise row.error(f"{who} is by the assistant, and no question of the user stands before it")
        else:
            turns.append((asked, text))
            asked = None
    if asked is not None or not turns:
        raise row.error(f'the last message of "{column}" was expected to be an answer of the assistant')
    return Conversation(system, tuple(turns))


def _message(row: SourceRow, who: str, message: Any, tags: Mapping[str, str]) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise row.error(f"{who} was expected to be an object with a role and a content")
    for usual in _USUAL:
        role_key, content_key = tags.get("role", usual[0]), tags.get("content", usual[1])
        if role_key in message and content_key in message:
            break
    else:
        pairs = f'"{tags.get("role", "role")}" and "{tags.get("content", "content")}"'
        known = ", ".join(map(str, message)) or "nothing"
        raise row.error(f"{who} was expected to have {pairs} (or, in ShareGPT's form, from and value); it has {known}")
    if any(message.get(call) for call in _CALLS):
        raise row.error(f"{who} calls a tool; conversations with tools are not supported")
    named = message[role_key]
    roles = {word: role for word, role in _ROLES.items() if role not in tags}
    roles |= {tags[role]: role for role in ("user", "assistant", "system") if role in tags}
    role = roles.get(named) if isinstance(named, str) else None
    if role is None:
        by = f'"{named}"' if isinstance(named, str) else kind_of(named)
        hint = "; conversations with tools are not supported" if named in _TOOLS else ""
        raise row.error(f"{who} is by {by}: {', '.join(roles)} were expected{hint}")
    return role, row.checked(f"the {content_key} of {who}", _joined(message[content_key]))


def _joined(content: Any) -> Any:
    """The text of a message in parts; anything else as it is."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        texts = [part.get("text") for part in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(texts)
    return content
