"""A row as messages in OpenAI's form, as a chat template takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

Message = dict[str, Any]
"""``role`` (system, user, assistant or tool), ``content``, and optionally ``reasoning_content``, ``tool_calls``,
``tool_call_id``, ``name``, and ``weight`` 0 for an answer that is not trained."""

THOUGHT, THOUGHT_END = "<think>", "</think>"


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
    messages = [_message("system", row["system"])] if row.get("system") else []
    for turn in row.get("history") or ():
        messages += [_message("user", turn["asked"]), _message("assistant", turn["answered"])]
    given = f"\n\n{row['input']}" if row["input"].strip() else ""
    messages.append(_message("user", row["instruction"] + given))
    if "response" in row:
        messages.append(_message("assistant", row["response"]))
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


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
