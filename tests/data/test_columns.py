from __future__ import annotations

import json
from datetime import date

import pytest

from hycam.data.columns import ByColumns
from hycam.data.rows import Example, SourceRow, turn
from hycam.errors import HycamError


def made(fields: dict, **columns: str) -> Example:
    return ByColumns(columns)(SourceRow("a.jsonl", 1, fields))


@pytest.mark.parametrize(
    ("fields", "given"),
    [
        ({"instruction": "ask", "input": "in", "output": "say"}, "in"),
        ({"instruction": "ask", "context": "in", "output": "say"}, "in"),
        ({"instruction": "ask", "context": "in", "response": "say", "category": "qa"}, "in"),
        ({"instruction": "ask", "input": "in", "response": "say"}, "in"),
        ({"instruction": "ask", "response": "say"}, ""),
        ({"prompt": "ask", "completion": "say"}, ""),
        ({"question": "ask", "context": "in", "answer": "say"}, "in"),
        ({"instruction": "ask", "input": None, "output": "say"}, ""),
        ({"instruction": "ask", "input": None, "context": "in", "response": "say"}, "in"),
        ({"instruction": "ask", "input": "in", "output": "say", "prompt": "", "completion": None}, "in"),
        ({"instruction": "ask", "input": "in", "output": "say", "prompt": None, "context": None}, "in"),
    ],
)
def test_the_usual_names_are_understood(fields: dict, given: str) -> None:
    example = made(fields)
    assert (example.instruction, example.input, example.response) == ("ask", given, "say")


@pytest.mark.parametrize(
    ("value", "group"),
    [
        *((1, "1"), (1.0, "1"), ("1", "1"), (-3, "-3"), (0.5, "0.5"), (True, "True"), (date(2024, 1, 2), "2024-01-02")),
        *((None, "ask"), (float("nan"), "ask"), ("", "ask"), (" ", "ask")),  # rows without a group are not one group
    ],
)
def test_a_group_is_the_same_as_a_number_and_as_text(value: object, group: str) -> None:
    assert made({"prompt": "ask", "completion": "say", "doc": value}, group="doc").group == group
    assert made({"prompt": "ask", "completion": "say"}, group="doc").group == "ask"


def refusal(fields: object, columns: dict[str, str] | None = None, tags: dict[str, str] | None = None) -> str:
    with pytest.raises(HycamError) as caught:
        ByColumns(columns or {}, tags or {})(SourceRow("a.jsonl", 7, fields))  # type: ignore[arg-type]
    assert str(caught.value).startswith("a.jsonl:7: ")
    return str(caught.value)


def test_system_and_history_are_read_where_a_row_has_them() -> None:
    pair = {"instruction": "ask", "output": "say"}
    example = made({**pair, "system": "be brief", "history": [["a", None], ["c", "d"]]})
    assert (example.system, example.history) == ("be brief", [turn("a", ""), turn("c", "d")])
    assert example.group == "a"  # conversations that begin alike stay together
    for nothing in (
        {},
        {"system": None, "history": None},
        {"system": "", "history": []},
        {"system": "", "history": ""},
    ):
        example = made({**pair, **nothing})
        assert (example.system, example.history, example.group) == ("", [], "ask")


def test_the_columns_of_a_recipe_are_read_instead_of_the_usual_ones() -> None:
    row = {"q": "ask", "ctx": "in", "a": "say", "rules": "be brief", "before": [["x", "y"]], "page": "17"}
    row |= {"instruction": "not this", "output": "nor this", "system": "nor this"}
    columns = {"instruction": "q", "input": "ctx", "response": "a", "system": "rules", "history": "before"}
    example = made(row, **columns, group="page", part="page")
    assert example == Example("a.jsonl:1", "ask", "say", "in", "17", "be brief", [turn("x", "y")], "17")
    assert made({"q": "ask", "chosen": "say"}, instruction="q", response="chosen").response == "say"
    assert made(row, instruction="q", response="a").system == ""


def test_a_recipe_may_name_some_columns_and_leave_the_others_to_be_recognised() -> None:
    example = made(
        {"prompt": "ask", "completion": "say", "doc": "d1", "rules": "be brief"}, group="doc", system="rules"
    )
    assert (example.instruction, example.response, example.group, example.system) == ("ask", "say", "d1", "be brief")


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
        ({"instruction": "x", "label": "y"}, {}, "instruction and output, "),
        ({"instruction": "x", "label": "y"}, {}, "columns are: instruction, label"),
        ({"messages": "hello"}, {}, '"messages" is text'),
        ({"messages": {"role": ["user"]}}, {}, '"messages" is an object'),
        ({"chat": 5}, {"messages": "chat"}, '"chat" is a number (5)'),
        ({"talk": TALK}, {"messages": "chat"}, 'no column "chat". Columns: talk'),
        (
            {"messages": TALK, "q": "x"},
            {"history": "q"},
            '"messages" has the whole conversation, so no column can have history',
        ),
        (
            {"chat": TALK, "q": "x"},
            {"messages": "chat", "instruction": "q", "response": "q"},
            '"chat" has the whole conversation, so no column can have instruction, response too',
        ),
        (
            {"q": "x", "answr": "y"},
            {"instruction": "q", "response": "answer"},
            'no column "answer". Did you mean "answr"?',
        ),
        ({"instruction": 5.5, "output": "x"}, {}, '"instruction" is a number (5.5)'),
        ({"instruction": "x", "output": float("inf")}, {}, '"output" is a number (inf)'),
        ({"instruction": "x", "output": "a\ud800"}, {}, '"output" holds half of a character'),
        ({"instruction": "x", "output": "y", "input": ["z"]}, {}, '"input" is a list'),
        ({"instruction": "x", "output": "y", "system": True}, {}, '"system" is true or false'),
        ({"instruction": "x", "output": "y", "history": "z"}, {}, '"history" was expected to be a list'),
        (
            {"instruction": "x", "output": "y", "history": [["a"]]},
            {},
            'turn 1 of "history" was expected to be a list of two',
        ),
        ({"instruction": "x", "output": "y", "history": [["a", "b"], None]}, {}, 'turn 2 of "history" was expected'),
        ({"instruction": "x", "output": "y", "history": [["a", 5]]}, {}, 'turn 1 of "history" is a number'),
        ({"instruction": "x", "output": "y", "history": [["a", "\udc00"]]}, {}, "half of a character"),
        ({"prompt": TALK[:1], "completion": "say"}, {}, '"completion" was expected to be a list of messages'),
        ({"prompt": "ask", "completion": TALK[1:]}, {}, '"completion" is a list'),
        ({"prompt": TALK, "completion": TALK[1:]}, {}, 'message 3 of "prompt and completion" is by the assistant'),
        ({"instruction": "x", "output": "y", "doc": [5]}, {"group": "doc"}, '"doc" is a list ([5]), text or a number'),
    ],
)
def test_a_row_of_another_shape_is_refused(fields: dict, columns: dict, said: str) -> None:
    assert said in refusal(fields, columns)


def test_names_that_are_no_text_do_not_stop_the_message() -> None:
    assert "The columns are: 5, None" in refusal({5: "x", None: "y"})
    assert 'no column "q"' in refusal({5: "x"}, {"instruction": "q", "response": "r"})


FILLED = {
    ("messages",): {"messages": TALK},
    ("conversations",): {"conversations": [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "say"}]},
    ("instruction", "output"): {"instruction": "ask", "input": "", "output": "say"},
    ("instruction", "response"): {"instruction": "ask", "response": "say"},
    ("prompt", "completion"): {"prompt": "ask", "completion": "say"},
    ("question", "answer"): {"question": "ask", "answer": "say", "context": ""},
}


@pytest.mark.parametrize("shape", FILLED)
@pytest.mark.parametrize("nothing", [None, ""])
def test_of_two_schemas_in_one_file_each_row_has_the_one_that_is_filled(shape: tuple, nothing: object) -> None:
    every = dict.fromkeys(name for fields in FILLED.values() for name in (*fields, "system", "history", "tools"))
    filled = FILLED[shape]
    for fields in (
        {**dict.fromkeys(every, nothing), **filled},
        {**filled, **dict.fromkeys(every - filled.keys(), nothing)},
    ):
        example = made(fields)
        assert (example.system, example.history, example.messages) == ("", [], "")
        assert (example.instruction, example.input, example.response) == ("ask", "", "say")


def test_a_row_that_is_empty_in_every_schema_is_empty() -> None:
    for fields in (
        {"messages": None, "instruction": None, "output": None},
        {"messages": [], "prompt": "ask", "completion": None},
        {"prompt": TALK[:1], "completion": None},
        {"prompt": TALK[:1], "completion": []},
        {"messages": None},
        {"conversations": None, "messages": []},
    ):
        assert made(fields).is_empty
    assert '"messages" is text' in refusal({"messages": "[]", "instruction": "", "output": ""})


def test_a_whole_number_in_a_column_is_its_digits_as_in_csv() -> None:
    example = made({"question": 5, "context": 0, "answer": -42, "system": 10**20})
    assert (example.instruction, example.input, example.response) == ("5", "0", "-42")
    assert example.system == "100000000000000000000"
    for value in (True, 4.0):
        assert '"answer" is' in refusal({"question": "x", "answer": value})


TRAINING_KEYS = {
    "weight": 0,
    "sample_weight": 0.5,
    "train": False,
    "label": False,
    "labels": [-100, 5],
    "loss_mask": [0, 1],
    "rejected": "worse",
    "chosen": [{"role": "assistant", "content": "better"}],
    "kto_tag": True,
    "images": ["a.png"],
    "tools": [{"name": "look"}],
    "chat_template_kwargs": {"enable_thinking": False},
    "reasoning_content": "thought",
}


@pytest.mark.parametrize("key", TRAINING_KEYS)
@pytest.mark.parametrize("fields", [{"instruction": "ask", "output": "say"}, {"messages": TALK}])
def test_a_column_that_changes_what_is_trained_is_refused_by_name_unless_it_is_ignored(key: str, fields: dict) -> None:
    row = {**fields, key: TRAINING_KEYS[key]}
    if key == "tools" and "messages" in fields:
        assert json.loads(made(row).messages)["tools"] == [{"type": "function", "function": {"name": "look"}}]
        named = {"messages": "messages"}
    else:
        named = (
            {"messages": "messages"} if "messages" in fields else {"instruction": "instruction", "response": "output"}
        )
        assert f'"{key}" changes what a row trains' in refusal(row)
    assert f"(ignore: [{key}])" in refusal(row, named)
    plain = made(fields)
    assert ByColumns(ignore=(key,))(SourceRow("a.jsonl", 1, row)) == plain
    for nothing in (None, "", []):
        assert made({**fields, key: nothing}) == plain


def test_columns_that_are_notes_or_say_what_holds_anyway_are_ignored() -> None:
    notes = {"id": 5, "timestamp": 1.5, "category": "qa", "label": "joke", "labels": ["a"], "weight": 1, "train": True}
    notes["loss_weight"] = "1.0"  # as pandas writes a column of CSV
    notes |= {"reasoning": "off", "thinking": True}  # whether there is a thought, and not what was thought
    notes |= {"score": 0.5, "source": "x", "metadata": {"a": 1}, "parallel_tool_calls": False}
    for fields in ({"instruction": "ask", "output": "say"}, {"messages": TALK}):
        assert made({**fields, **notes}) == made(fields)


def test_tools_are_read_beside_messages_under_any_name() -> None:
    tools = [{"type": "function", "function": {"name": "look"}}]
    for stated in (tools, json.dumps(tools)):
        assert json.loads(made({"messages": TALK, "tools": stated}).messages) == {"messages": TALK, "tools": tools}
        assert json.loads(made({"messages": TALK, "functions": stated}).messages)["tools"] == tools
        example = made({"talk": TALK, "may": stated}, messages="talk", tools="may")
        assert json.loads(example.messages)["tools"] == tools
        parts = {"prompt": TALK[:1], "completion": TALK[1:], "tools": stated}
        assert json.loads(made(parts).messages)["tools"] == tools


def test_of_trls_prompt_and_completion_the_completion_alone_is_trained() -> None:
    further = [{"role": "user", "content": "and"}, {"role": "assistant", "content": "so"}]
    example = made({"prompt": [*TALK, further[0]], "completion": further[1:]})
    assert (example.history, example.instruction, example.response) == ([turn("ask", "say")], "and", "so")
    assert json.loads(example.messages)["messages"] == [TALK[0], TALK[1] | {"weight": 0}, *further]
