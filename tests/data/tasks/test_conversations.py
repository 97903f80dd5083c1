"""Conversations as OpenAI, ShareGPT and others spell them, and what is wrong with the others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hycam.data.source_row import SourceRow
from hycam.data.tasks.conversations import Conversation, conversation
from hycam.errors import HycamError

ROW = SourceRow("a.jsonl", 7, {})


def openai(*turns: tuple[str, Any]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in turns]


def refusal(messages: Any, tags: dict[str, str] | None = None) -> str:
    with pytest.raises(HycamError) as caught:
        conversation(ROW, "messages", messages, tags or {})
    assert str(caught.value).startswith("a.jsonl:7: ")
    return str(caught.value)


texts = st.text(max_size=5)


@given(st.none() | texts, st.lists(st.tuples(texts, texts), min_size=1, max_size=4))
def test_every_spelling_gives_the_turns_that_were_written(system: str | None, turns: list[tuple[str, str]]) -> None:
    said = [("system", system)] if system is not None else []
    for asked, answered in turns:
        said += [("user", asked), ("assistant", answered)]
    other = {"user": "human", "assistant": "gpt", "system": "system"}
    own = {"user": "guest", "assistant": "clerk", "system": "house"}
    parts = [(role, [{"type": "text", "text": text[:2]}, {"type": "text", "text": text[2:]}]) for role, text in said]
    tags = {"role": "who", "content": "what", **own}
    for messages, tagged in [
        (openai(*said), {}),
        (openai(*parts), {}),
        ([{"from": other[role], "value": text} for role, text in said], {}),
        ([{"role": role, "content": text, "tool_calls": None, "name": "x"} for role, text in said], {}),
        ([{"who": own[role], "what": text} for role, text in said], tags),
    ]:
        assert conversation(ROW, "messages", messages, tagged) == Conversation(system or "", tuple(turns))


def test_a_role_without_a_tag_keeps_its_usual_spellings() -> None:
    messages = openai(("system", "brief"), ("user", "ask"), ("bot", "say"))
    assert conversation(ROW, "messages", messages, {"assistant": "bot"}) == Conversation("brief", (("ask", "say"),))
    assert 'is by "assistant"' in refusal(openai(("user", "ask"), ("assistant", "say")), {"assistant": "bot"})


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (None, '"messages" is null, a list of messages was expected'),
        ("text", '"messages" is text'),
        ({"role": "user"}, '"messages" is an object'),
        ([], 'the last message of "messages" was expected to be an answer'),
        ([None], 'message 1 of "messages" was expected to be an object'),
        (["hello"], 'message 1 of "messages" was expected to be an object'),
        (openai(("user", "a")), 'the last message of "messages" was expected to be an answer'),
        (openai(("system", "a")), "the last message"),
        (openai(("user", "a"), ("assistant", "b"), ("user", "c")), "the last message"),
        (openai(("assistant", "a"), ("user", "b")), 'message 1 of "messages" is by the assistant, and no question'),
        (openai(("user", "a"), ("user", "b")), 'message 2 of "messages" is by the user, as the one before'),
        (openai(("user", "a"), ("assistant", "b"), ("assistant", "c")), 'message 3 of "messages" is by the assistant'),
        (
            openai(("user", "a"), ("system", "b")),
            'message 2 of "messages" is by the system, which may speak first only',
        ),
        (openai(("user", None), ("assistant", "b")), 'the content of message 1 of "messages" is null'),
        (openai(("user", 5), ("assistant", "b")), 'the content of message 1 of "messages" is a number (5)'),
        (openai(("user", "a"), ("assistant", "b\ud800")), "half of a character"),
        (openai(("user", [{"type": "image_url"}]), ("assistant", "b")), "is a list"),
        (openai(("user", [{"type": "text", "text": None}]), ("assistant", "b")), "is a list"),
        (openai(("user", ["a"]), ("assistant", "b")), "is a list"),
        (openai(("user", "a"), ("tool", "b")), 'is by "tool": user, human, assistant, gpt, system were expected; conv'),
        (openai(("User", "a"), ("assistant", "b")), 'message 1 of "messages" is by "User": user,'),
        (openai((None, "a"), ("assistant", "b")), "is by null: user"),
        (openai((["user"], "a"), ("assistant", "b")), "is by a list (['user']): user"),
        ([{"role": "user", "value": "a"}], 'expected to have "role" and "content" (or, in ShareGPT\'s form'),
        ([{None: "user", 5: "a"}], "it has None, 5"),
        ([{}], "it has nothing"),
    ],
)
def test_what_is_no_conversation_is_refused_with_the_number_of_the_message(messages: Any, said: str) -> None:
    assert said in refusal(messages)


def test_a_call_of_a_tool_is_refused_whatever_else_is_said() -> None:
    call = {"role": "assistant", "content": "Let me see.", "tool_calls": [{"function": {"name": "look"}}]}
    row = SourceRow("a.jsonl", 3, {"messages": [{"role": "user", "content": "Look."}, call]})
    for content in ("Let me see.", None):
        call["content"] = content
        with pytest.raises(HycamError, match=r'a\.jsonl:3: message 2 of "messages" calls a tool'):
            conversation(row, "messages", row.fields["messages"], {})
    call.update(content="Let me see.", tool_calls=None)
    assert conversation(row, "messages", row.fields["messages"], {}).turns == (("Look.", "Let me see."),)
