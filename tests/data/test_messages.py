"""Conversations as OpenAI, ShareGPT and others spell them, and what is wrong with the others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.chats import turns_of
from hycam.data.messages import METADATA, conversation
from hycam.data.rows import SourceRow
from hycam.errors import HycamError

ROW = SourceRow("a.jsonl", 7, {})
QUESTION, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
FURTHER = [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
DEVELOPER = {"role": "developer", "content": "s"}
NOTES = dict.fromkeys(METADATA, "x")


def openai(*turns: tuple[str, Any]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in turns]


def refusal(messages: Any, tags: dict[str, str] | None = None) -> str:
    with pytest.raises(HycamError) as caught:
        conversation(ROW, "messages", messages, tags or {})
    assert str(caught.value).startswith("a.jsonl:7: ")
    return str(caught.value)


def turned(system: str, *turns: tuple[str, str]) -> dict[str, Any]:
    """What comes of a conversation that is questions and answers alone."""
    *history, (asked, answered) = turns
    earlier = [{"asked": asked, "answered": answered} for asked, answered in history]
    return {"system": system, "history": earlier, "instruction": asked, "response": answered}


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
        ([{"role": role, "content": text, "tool_calls": None, "id": "x"} for role, text in said], {}),
        ([{"who": own[role], "what": text} for role, text in said], tags),
    ]:
        assert conversation(ROW, "messages", messages, tagged) == turned(system or "", *turns)


@pytest.mark.parametrize(
    ("messages", "system", "turns"),
    [
        (None, "", [("", "")]),  # nothing was said: an empty row
        ([], "", [("", "")]),
        ("", "", [("", "")]),
        ([QUESTION | {"content": None}, ANSWER | {"content": None}, *FURTHER], "", [("", ""), ("c", "d")]),
        ([QUESTION, ANSWER | {"weight": 0}], "", [("a", "")]),  # nothing to learn from
        ([DEVELOPER, QUESTION, ANSWER | {"weight": 0}], "s", [("a", "")]),
        ([QUESTION | NOTES, ANSWER | NOTES], "", [("a", "b")]),
        ([QUESTION | {"weight": 0}, ANSWER, *FURTHER], "", [("a", "b"), ("c", "d")]),
        *(([QUESTION, ANSWER | one], "", [("a", "b")]) for one in ({"weight": None}, {"weight": 1.0}, {"train": True})),
        ([DEVELOPER, QUESTION, ANSWER | {"content": None, "refusal": "No."}], "s", [("a", "No.")]),
        ([QUESTION, ANSWER | {"content": [{"type": "refusal", "refusal": "No."}]}], "", [("a", "No.")]),
    ],
)
def test_what_questions_and_answers_can_say_is_turns(messages: Any, system: str, turns: list[tuple[str, str]]) -> None:
    assert conversation(ROW, "messages", messages, {}) == turned(system, *turns)


def test_a_role_without_a_tag_keeps_its_usual_spellings() -> None:
    messages = openai(("system", "brief"), ("user", "ask"), ("bot", "say"))
    assert conversation(ROW, "messages", messages, {"assistant": "bot"}) == turned("brief", ("ask", "say"))
    assert 'is by "assistant"' in refusal(openai(("user", "ask"), ("assistant", "say")), {"assistant": "bot"})


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("text", '"messages" is text'),
        ({"role": "user"}, '"messages" is an object'),
        ([None], 'message 1 of "messages" was expected to be an object'),
        (["hello"], 'message 1 of "messages" was expected to be an object'),
        (openai(("user", "a")), 'the last message of "messages" was expected to be an answer'),
        (openai(("system", "a")), "the last message"),
        (openai(("user", "a"), ("assistant", "b"), ("user", "c")), "the last message"),
        (openai(("assistant", "a"), ("user", "b")), 'message 1 of "messages" is by the assistant, without a question'),
        (openai(("user", "a"), ("user", "b")), 'message 2 of "messages" is by the user, like the one before'),
        (openai(("user", "a"), ("assistant", "b"), ("assistant", "c")), 'message 3 of "messages" is by the assistant'),
        (
            openai(("user", "a"), ("system", "b")),
            'message 2 of "messages" is by the system, which may only speak first',
        ),
        (openai(("user", 5), ("assistant", "b")), 'the content of message 1 of "messages" is a number (5)'),
        (openai(("user", "a"), ("assistant", "b\ud800")), "half of a character"),
        (openai(("user", [{"type": "image_url"}]), ("assistant", "b")), "is a list"),
        (openai(("user", [{"type": "text", "text": None}]), ("assistant", "b")), "is a list"),
        (openai(("user", ["a"]), ("assistant", "b")), "is a list"),
        (openai(("user", "a"), ("bot", "b")), 'is by "bot": user, human, assistant, gpt, system, tool were expected'),
        (
            openai(("user", "a"), ("tool", "b")),
            'message 2 of "messages" is by a tool, without an answer of the assistant',
        ),
        (
            openai(("tool", "b"), ("user", "a")),
            'message 1 of "messages" is by a tool, without an answer of the assistant',
        ),
        (openai(("user", "a"), ("assistant", "b"), ("tool", "c")), "the last message"),
        (
            openai(("user", "a"), ("assistant", "b"), ("tool", "c"), ("user", "d")),
            "is by the user, after one by a tool",
        ),
        (openai(("User", "a"), ("assistant", "b")), 'message 1 of "messages" is by "User": user,'),
        (openai((None, "a"), ("assistant", "b")), "is by null: user"),
        (openai((["user"], "a"), ("assistant", "b")), "is by a list (['user']): user"),
        ([{"role": "user", "value": "a"}], 'expected to have "role" and "content" (or, in ShareGPT\'s form'),
        ([{None: "user", 5: "a"}], "it has None, 5"),
        ([{}], "it has nothing"),
        (
            openai(("user", "a"), ("assistant", [{"type": "text", "text": "b", "train": False, "image_url": None}])),
            'part 1 of message 2 of "messages" has "train"',
        ),
        ([QUESTION, ANSWER | {"weight": 0.5}], 'the weight of message 2 of "messages" is a number (0.5): 0 or 1'),
        ([QUESTION, ANSWER | {"weight": "0"}], "the weight of message 2 of \"messages\" is text ('0'): 0 or 1"),
        ([QUESTION, ANSWER | {"weight": -1}], "is a number (-1)"),
        ([QUESTION, ANSWER | {"weight": 0, "train": True}], "has weight and train, which differ"),
        ([QUESTION | {"weight": 1}, ANSWER], "is by the user and has weight 1: only answers of the assistant"),
        ([QUESTION | {"train": True}, ANSWER], "ignore: [train]"),
    ],
)
def test_what_is_no_conversation_is_refused_with_the_number_of_the_message(messages: Any, said: str) -> None:
    assert said in refusal(messages)


def whole(messages: Any, **more: Any) -> dict[str, Any]:
    """What stands in the column ``messages``."""
    found: dict[str, Any] = json.loads(conversation(ROW, "messages", messages, {}, **more)["messages"])
    return found


@pytest.mark.parametrize(
    "untrained", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}, {"loss": False}]
)
def test_an_answer_of_weight_0_is_marked(untrained: dict) -> None:
    talk = conversation(ROW, "messages", [QUESTION, ANSWER | untrained, *FURTHER], {})
    assert turns_of(talk) == [("a", "b"), ("c", "d")]
    assert json.loads(talk["messages"]) == {"messages": [QUESTION, ANSWER | {"weight": 0}, *FURTHER], "tools": None}


def test_a_conversation_ends_at_its_last_trained_answer() -> None:
    untrained = [FURTHER[0], FURTHER[1] | {"weight": 0}]
    assert conversation(ROW, "messages", [QUESTION, ANSWER, *untrained], {}) == turned("", ("a", "b"))
    talk = conversation(ROW, "messages", [*untrained, QUESTION, ANSWER, *untrained], {})
    assert turns_of(talk) == [("c", "d"), ("a", "b")]
    assert [message["content"] for message in json.loads(talk["messages"])["messages"]] == ["c", "d", "a", "b"]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_the_reasoning_of_an_answer_is_kept_whatever_it_is_called(key: str) -> None:
    reasoned = ANSWER | {"reasoning_content": "thought"}
    assert whole([QUESTION, ANSWER | {key: "thought"}])["messages"] == [QUESTION, reasoned]
    assert whole([QUESTION, reasoned | {key: "thought"}])["messages"] == [QUESTION, reasoned]
    for nothing in (None, "", " "):
        assert conversation(ROW, "messages", [QUESTION, ANSWER | {key: nothing}], {}) == turned("", ("a", "b"))
    assert "only an answer of the assistant" in refusal([QUESTION | {key: "thought"}, ANSWER])
    assert "is a number (5)" in refusal([QUESTION, ANSWER | {key: 5}])
    twice = ANSWER | {key: "thought", "content": "<think>thought</think>No."}
    assert "has a reasoning and a <think> in its content" in refusal([QUESTION, twice])
    if key != "thinking":
        assert f"has {key} and thinking, which differ" in refusal([QUESTION, ANSWER | {key: "x", "thinking": "y"}])


def test_the_system_text_of_a_column_is_in_the_whole_conversation() -> None:
    said = [QUESTION | {"name": "Ann"}, ANSWER | {"reasoning": "thought"}]
    assert whole(said)["messages"][0] == QUESTION | {"name": "Ann"}
    assert whole(said, system="s")["messages"][0] == {"role": "system", "content": "s"}
    for own, used in (("own", "own"), ("", "s")):
        assert whole([{"role": "system", "content": own}, *said], system="s")["messages"][0]["content"] == used


def test_a_refusal_is_an_answer_and_nothing_else() -> None:
    assert "both a content and a refusal" in refusal([QUESTION, ANSWER | {"refusal": "No."}])
    assert "only an answer" in refusal([{"role": "user", "content": "", "refusal": "No."}, ANSWER])


@pytest.mark.parametrize(
    "key", ["weights", "mask", "reasoning_details", "audio", "prefix", "emotion", "tools", "chosen"]
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_key_that_is_not_understood_is_refused_by_name_unless_it_is_null_or_ignored(key: str, place: int) -> None:
    def with_key(value: object) -> list[dict]:
        return [one | {key: value} if number == place else one for number, one in enumerate([QUESTION, ANSWER])]

    assert f'message {place + 1} of "messages" has "{key}"' in refusal(with_key("x"))
    assert f"(ignore: [{key}])" in refusal(with_key(False))
    plain = turned("", ("a", "b"))
    for nothing in (None, "", [], {}):
        assert conversation(ROW, "messages", with_key(nothing), {}) == plain
    assert conversation(ROW, "messages", with_key("x"), {}, ignore=[key]) == plain
    untrained = [QUESTION, ANSWER | {"weight": 0, "reasoning_content": "thought"}]
    assert conversation(ROW, "messages", untrained, {}, ignore=("weight", "reasoning_content")) == plain


def test_of_two_spellings_in_one_table_the_one_that_is_filled_counts() -> None:
    openai_ = [one | {"from": None, "value": None} for one in (QUESTION, ANSWER)]
    shared = [
        {"role": None, "content": None, "from": who, "value": what} for who, what in (("human", "a"), ("gpt", "b"))
    ]
    for said in (openai_, shared):
        assert conversation(ROW, "messages", said, {}) == turned("", ("a", "b"))
    assert 'has "from"' in refusal([QUESTION | {"from": "human"}, ANSWER])
