from __future__ import annotations

import pytest

from hycam.data.source_row import SourceRow
from hycam.data.tasks.base import Example
from hycam.data.tasks.columns import ByColumns, by_column_names
from hycam.errors import HycamError


@pytest.mark.parametrize(
    ("fields", "given"),
    [
        ({"instruction": "ask", "input": "in", "output": "say"}, "in"),
        ({"instruction": "ask", "output": "say"}, ""),
        ({"instruction": "ask", "context": "in", "response": "say", "category": "qa"}, "in"),
        ({"instruction": "ask", "input": "in", "response": "say"}, "in"),
        ({"instruction": "ask", "response": "say"}, ""),
        ({"prompt": "ask", "completion": "say"}, ""),
        ({"question": "ask", "answer": "say"}, ""),
        ({"question": "ask", "context": "in", "answer": "say"}, "in"),
        ({"instruction": "ask", "input": None, "output": "say"}, ""),
    ],
)
def test_the_usual_names_are_understood(fields: dict, given: str) -> None:
    example = by_column_names(SourceRow("a.jsonl", 1, fields))
    assert (example.instruction, example.input, example.response) == ("ask", given, "say")


def test_other_columns_are_refused_with_what_was_expected_and_what_is_there() -> None:
    row = SourceRow("a.csv", 2, {"instruction": "x", "label": "y"})
    with pytest.raises(HycamError, match=r"a.csv:2: .*instruction and output, .*columns are: instruction, label"):
        by_column_names(row)


def made(fields: dict, **columns: str) -> Example:
    return ByColumns(columns)(SourceRow("a.jsonl", 1, fields))


def refusal(fields: object, columns: dict[str, str] | None = None, tags: dict[str, str] | None = None) -> str:
    with pytest.raises(HycamError) as caught:
        ByColumns(columns or {}, tags or {})(SourceRow("a.jsonl", 7, fields))  # type: ignore[arg-type]
    assert str(caught.value).startswith("a.jsonl:7: ")
    return str(caught.value)


def test_system_and_history_are_read_where_a_row_has_them() -> None:
    pair = {"instruction": "ask", "output": "say"}
    example = made({**pair, "system": "be brief", "history": [["a", "b"], ["c", "d"]]})
    assert (example.system, example.history) == ("be brief", (("a", "b"), ("c", "d")))
    assert example.group == "a"  # conversations that begin alike stay together
    for nothing in (
        {},
        {"system": None, "history": None},
        {"system": "", "history": []},
        {"system": "", "history": ""},
    ):
        example = made({**pair, **nothing})
        assert (example.system, example.history, example.group) == ("", (), "ask")


def test_the_columns_of_a_recipe_are_read_instead_of_the_usual_ones() -> None:
    row = {"q": "ask", "ctx": "in", "a": "say", "rules": "be brief", "before": [["x", "y"]], "page": "17"}
    row |= {"instruction": "not this", "output": "nor this", "system": "nor this"}
    columns = {"instruction": "q", "input": "ctx", "response": "a", "system": "rules", "history": "before"}
    example = made(row, **columns, group="page", part="page")
    assert example == Example("a.jsonl:1", "17", "ask", "in", "say", "be brief", (("x", "y"),), "17")
    assert made(row, instruction="q", response="a").system == ""


def test_a_recipe_may_name_some_columns_and_leave_the_others_to_be_recognised() -> None:
    example = made(
        {"prompt": "ask", "completion": "say", "doc": "d1", "rules": "be brief"}, group="doc", system="rules"
    )
    assert (example.instruction, example.response, example.group, example.system) == ("ask", "say", "d1", "be brief")


@pytest.mark.parametrize("group", [{}, {"doc": None}, {"doc": ""}, {"doc": " "}])
def test_rows_without_a_group_are_not_one_group(group: dict) -> None:
    assert made({"prompt": "ask", "completion": "say", **group}, group="doc").group == "ask"


def test_a_conversational_prompt_and_completion_are_one_conversation() -> None:
    prompt = [{"role": "system", "content": "brief"}, {"role": "user", "content": "ask"}]
    example = made({"prompt": prompt, "completion": [{"role": "assistant", "content": "say"}]})
    assert (example.system, example.instruction, example.response) == ("brief", "ask", "say")
    row = {"prompt": prompt[1:], "completion": [{"role": "assistant", "content": "say"}], "system": "column"}
    assert made(row).system == "column"
    assert made({**row, "prompt": prompt}).system == "brief"


def test_a_conversation_is_read_with_a_group_of_its_own() -> None:
    talk = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "say"}]
    for column in ("messages", "conversations", "conversation"):
        example = made({column: talk, "doc": "d1", "prompt": "not this", "completion": "nor this"}, group="doc")
        assert (example.instruction, example.response, example.group) == ("ask", "say", "d1")
    assert made({"chat": talk}, messages="chat").response == "say"


TALK = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": "say"}]


@pytest.mark.parametrize(
    ("fields", "columns", "said"),
    [
        ({}, {}, "The columns are: none"),
        ({"messages": None}, {}, '"messages" is null, a list of messages was expected'),
        ({"messages": "hello"}, {}, '"messages" is text'),
        ({"messages": {"role": ["user"]}}, {}, '"messages" is an object'),
        ({"chat": None}, {"messages": "chat"}, '"chat" is null, a list of messages was expected'),
        ({"chat": 5}, {"messages": "chat"}, '"chat" is a number (5)'),
        ({"talk": TALK}, {"messages": "chat"}, 'no column "chat". Columns: talk'),
        (
            {"messages": TALK, "q": "x"},
            {"history": "q"},
            '"messages" has the whole conversation, so no column has history',
        ),
        (
            {"chat": TALK, "q": "x"},
            {"messages": "chat", "instruction": "q", "response": "q"},
            '"chat" has the whole conversation, so no column has instruction, response beside it',
        ),
        (
            {"q": "x", "answr": "y"},
            {"instruction": "q", "response": "answer"},
            'no column "answer". Did you mean "answr"?',
        ),
        ({"instruction": 5, "output": "x"}, {}, '"instruction" is a number (5)'),
        ({"instruction": "x", "output": float("inf")}, {}, '"output" is a number (inf)'),
        ({"instruction": "x", "output": "a\ud800"}, {}, '"output" holds half of a character'),
        ({"instruction": "x", "output": "y", "input": ["z"]}, {}, '"input" is a list'),
        ({"instruction": "x", "output": "y", "system": 1}, {}, '"system" is a number'),
        ({"instruction": "x", "output": "y", "history": "z"}, {}, '"history" was expected to be a list'),
        (
            {"instruction": "x", "output": "y", "history": [["a"]]},
            {},
            'turn 1 of "history" was expected to be a list of two',
        ),
        ({"instruction": "x", "output": "y", "history": [["a", "b"], None]}, {}, 'turn 2 of "history" was expected'),
        ({"instruction": "x", "output": "y", "history": [["a", None]]}, {}, 'turn 1 of "history" is null'),
        ({"instruction": "x", "output": "y", "history": [["a", "\udc00"]]}, {}, "half of a character"),
        ({"prompt": TALK[:1], "completion": "say"}, {}, '"completion" was expected to be a list of messages'),
        ({"prompt": "ask", "completion": TALK[1:]}, {}, '"completion" is a list'),
        ({"prompt": TALK, "completion": TALK[1:]}, {}, 'message 3 of "prompt and completion" is by the assistant'),
        ({"instruction": "x", "output": "y", "doc": 5}, {"group": "doc"}, '"doc" is a number (5)'),
    ],
)
def test_a_row_of_another_shape_is_refused(fields: dict, columns: dict, said: str) -> None:
    assert said in refusal(fields, columns)


def test_names_that_are_no_text_do_not_stop_the_message() -> None:
    assert "The columns are: 5, None" in refusal({5: "x", None: "y"})
    assert 'no column "q"' in refusal({5: "x"}, {"instruction": "q", "response": "r"})
