"""Conversations with tools, as OpenAI, ShareGPT and LLaMA-Factory write them."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest

from data.chats import turns_of
from hycam.data.conversation import tools_of
from hycam.data.messages import conversation
from hycam.data.rows import SourceRow
from hycam.errors import HycamError

ROW = SourceRow("a.jsonl", 7, {})

FUNCTION = {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
ASKED = {"role": "user", "content": "Where?"}
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky", "far": 3}}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", **CALL}]}
FOUND = {"role": "tool", "content": "blue", "tool_call_id": "c1"}
ANSWERED = {"role": "assistant", "content": "There."}
TALK = [ASKED, CALLED, FOUND, ANSWERED]


def whole(messages: Any, tools: Any = None) -> dict[str, Any]:
    talk = conversation(ROW, "messages", messages, {}, tools=("tools", tools))
    found: dict[str, Any] = json.loads(talk["messages"])
    return found


def refusal(messages: Any, tools: Any = None) -> str:
    with pytest.raises(HycamError) as caught:
        whole(messages, tools)
    assert str(caught.value).startswith("a.jsonl:7: ")
    return str(caught.value)


def without_id(message: dict) -> dict:
    """As it is where the data name no call."""
    calls = {"tool_calls": [CALL]} if "tool_calls" in message else {}
    return {key: value for key, value in message.items() if key != "tool_call_id"} | calls


def called(**changes: Any) -> list[dict]:
    return [ASKED, CALLED | {"tool_calls": [changes]}]


@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {}])
@pytest.mark.parametrize("arguments", [CALL["function"]["arguments"], json.dumps(CALL["function"]["arguments"])])
@pytest.mark.parametrize("as_text", [False, True])
def test_arguments_are_the_same_as_text_and_as_an_object(content: dict, arguments: Any, as_text: bool) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": arguments}}]
    said = {"role": "assistant", **content, "tool_calls": json.dumps(calls) if as_text else calls}
    assert whole([ASKED, said, FOUND, ANSWERED], TOOLS) == {"messages": TALK, "tools": TOOLS}


def test_the_older_form_of_a_call_is_read() -> None:
    call = {
        "role": "assistant",
        "content": None,
        "function_call": {"name": "look", "arguments": '{"at": "sky", "far": 3}'},
    }
    said = [ASKED, call, {"role": "function", "name": "look", "content": "blue"}, ANSWERED]
    expected = [ASKED, without_id(CALLED), {"role": "tool", "content": "blue", "name": "look"}, ANSWERED]
    assert whole(said, [FUNCTION]) == {"messages": expected, "tools": TOOLS}


@pytest.mark.parametrize(("caller", "output"), [("function_call", "observation"), ("tool_call", "tool_response")])
@pytest.mark.parametrize("several", [False, True])
def test_sharegpt_and_llama_factory_write_calls_as_the_text_of_a_message(
    caller: str, output: str, several: bool
) -> None:
    call = CALL["function"]
    said = [
        {"from": "human", "value": "Where?"},
        {"from": caller, "value": json.dumps([call, call] if several else call)},
        {"from": output, "value": "blue"},
        {"from": "gpt", "value": "There."},
    ]
    expected = [ASKED, CALLED | {"tool_calls": [CALL, CALL] if several else [CALL]}, without_id(FOUND), ANSWERED]
    assert whole(said, json.dumps([FUNCTION])) == {"messages": expected, "tools": TOOLS}


def test_the_last_answer_may_be_a_call_which_then_is_the_response() -> None:
    talk = conversation(ROW, "messages", TALK[:2], {}, tools=("tools", TOOLS))
    assert turns_of(talk) == [("Where?", json.dumps([CALL["function"]]))]
    assert turns_of(conversation(ROW, "messages", TALK, {})) == [("Where?", "There.")]


def test_several_outputs_follow_several_calls_and_questions_go_on() -> None:
    calls = CALLED | {"tool_calls": [{"id": "c1", **CALL}, {"id": "c2", **CALL}]}
    said = [ASKED, calls, FOUND, FOUND | {"tool_call_id": "c2"}, ANSWERED, ASKED, ANSWERED]
    assert whole(said) == {"messages": said, "tools": None}
    untrained = [ASKED, CALLED | {"weight": 0}, FOUND, ANSWERED]
    assert whole(untrained)["messages"] == untrained
    assert turns_of(conversation(ROW, "messages", said, {})) == [("Where?", "There.")] * 2


def test_tools_that_are_not_called_are_kept() -> None:
    assert whole([ASKED, ANSWERED], TOOLS) == {"messages": [ASKED, ANSWERED], "tools": TOOLS}
    for nothing in (None, [], "", " ", "[]", "null"):
        assert "messages" not in conversation(ROW, "messages", [ASKED, ANSWERED], {}, tools=("tools", nothing))


@pytest.mark.parametrize(
    "stated",
    [
        TOOLS,
        [FUNCTION],
        json.dumps(TOOLS),
        json.dumps([FUNCTION]),
        [{"type": "function", **FUNCTION}],
        [{**TOOLS[0], "name": None}],
    ],
)
def test_descriptions_of_tools_come_out_in_one_form(stated: Any) -> None:
    assert tools_of(ROW, "tools", stated) == TOOLS


def test_fields_that_a_table_filled_up_with_null_are_none() -> None:
    filled = [
        {
            "type": "function",
            "function": {**FUNCTION, "strict": None, "parameters": {"type": "object", "properties": {"x": None}}},
        }
    ]
    assert tools_of(ROW, "tools", filled) == TOOLS
    (_, message) = whole(called(function={"name": "look", "arguments": {"at": "sky", "far": 3, "other": None}}))[
        "messages"
    ]
    assert message == without_id(CALLED)
    (_, message) = whole(called(function={"name": "look", "arguments": '{"at": null}'}))["messages"]
    assert message["tool_calls"][0]["function"]["arguments"] == {"at": None}  # written on purpose


@pytest.mark.parametrize("nothing", [None, "", [], {}])
def test_the_index_of_a_call_and_nulls_in_it_are_ignored(nothing: Any) -> None:
    (_, message) = whole(called(index=0, name=None, parameters=nothing, **CALL))["messages"]
    assert message == without_id(CALLED)


@pytest.mark.parametrize("nothing", [None, "", "{}", {}])
def test_a_call_without_arguments_has_none(nothing: Any) -> None:
    (_, message) = whole(called(name="look", arguments=nothing))["messages"]
    assert message["tool_calls"][0]["function"] == {"name": "look", "arguments": {}}


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (
            called(name="look", arguments="{"),
            'the arguments of call 1 of message 2 of "messages" cannot be read as JSON',
        ),
        (called(name="look", arguments="[1]"), 'the arguments of call 1 of message 2 of "messages" are a list'),
        (called(name="look", arguments=5), "are a number (5), an object was expected"),
        (called(name=" "), 'call 1 of message 2 of "messages" was expected to have a "name"'),
        (called(arguments={}), 'was expected to have a "name"; it has arguments'),
        (called(name=5), 'was expected to have a "name"; it is a number (5)'),
        (called(name="look", parameters={"at": "sky"}), 'call 1 of message 2 of "messages" has "parameters", which is'),
        (called(function={"name": "look", "parameters": {"at": "sky"}}), 'has "parameters", which is not understood'),
        (called(function={"name": "look"}, arguments={"at": "sky"}), 'has "arguments", which is not understood'),
        (called(type="custom", name="look"), "a call of a function was expected"),
        (called(function="look"), "a call of a function was expected"),
        (called(name="look", id=5), "the id of call 1"),
        (called(name="look", arguments={"at": "\ud800"}), "half of a character"),
        (called(name="look", arguments={"at": date(2024, 1, 1)}), "cannot be written as JSON"),
        ([ASKED, CALLED | {"tool_calls": [5]}], 'call 1 of message 2 of "messages" is a number (5)'),
        ([ASKED, CALLED | {"tool_calls": "look"}], "cannot be read as JSON"),
        ([ASKED, CALLED | {"tool_calls": "[]"}], "was expected to call a tool"),
        ([ASKED, CALLED | {"function_call": {"name": "look"}}], "both tool_calls and function_call"),
        ([ASKED, {"from": "function_call", "value": "Let me see."}], "cannot be read as JSON"),
        ([ASKED, {"from": "function_call", "value": None}], "is null, an object with a name"),
        ([ASKED | {"tool_calls": CALLED["tool_calls"]}, ANSWERED], "has tool_calls, which only an answer"),
        ([ASKED, CALLED, FOUND | {"tool_call_id": "c2"}, ANSWERED], 'message 3 of "messages" is for the call "c2"'),
        ([ASKED, CALLED, ASKED, ANSWERED], "the output of the tool that was called was expected"),
        (
            [ASKED, CALLED, FOUND | {"content": {"sky": "blue"}}, ANSWERED],
            'the content of message 3 of "messages" is an o',
        ),
    ],
)
def test_a_call_that_is_not_understood_is_refused_with_its_number(messages: list, said: str) -> None:
    assert said in refusal(messages)


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ("look", '"tools" cannot be read as JSON'),
        ({"name": "look"}, '"tools" is an object'),
        ("{}", '"tools" is an object'),
        ([5], 'tool 1 of "tools" is a number (5)'),
        ([FUNCTION, {"type": "function", "function": {}}], 'tool 2 of "tools" was expected to have a "name"'),
        ([{"type": "web_search"}], "only functions are supported"),
    ],
)
def test_what_describes_no_tool_is_refused(tools: Any, said: str) -> None:
    assert said in refusal([ASKED, ANSWERED], tools)
